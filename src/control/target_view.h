/*
 * target_view.h: the query of a target as a view in schema kafka.  A view binds names once, follows renames, keeps what it
 * uses from being dropped in silence, reads with the rights of its owner, the subscription's, and goes with pg_dump.
 */
#ifndef KS_TARGET_VIEW_H
#define KS_TARGET_VIEW_H

#include "postgres.h"

#include "control/catalog.h"
#include "nodes/parsenodes.h"

/*
 * The query of a target, bound as the current user with the current search_path; "batch" is kafka.batch.  ERROR, with
 * the place in the text: it is not exactly one SELECT, changes or locks rows, uses temporary tables, or says what
 * PostgreSQL does not understand.
 */
extern Query *ks_target_query_parse(const char *text);

/* Makes the view of a query; returns its Oid. */
extern Oid	ks_target_view_create(Query *query, Oid owner, int64 subscription_id);

/* ERROR, as PostgreSQL says it, unless the owner may read all that the view reads.  "name": the target, for messages. */
extern void ks_target_view_check(Oid view, Oid owner, const char *name);

/* ERROR if the view of a target was dropped, with something that it used. */
extern void ks_target_view_require(const KsTarget *target, const char *subscription);

/* Gives the views of a subscription's targets to its new owner, who must have the rights. */
extern void ks_target_views_set_owner(const KsSubscription *subscription, Oid owner);

/*
 * Drops the view of a target whose row is gone from the catalog (InvalidOid, or one that is gone: nothing).  ERROR if
 * something of the user's depends on it.
 */
extern void ks_target_view_drop(Oid view);

#endif							/* KS_TARGET_VIEW_H */
