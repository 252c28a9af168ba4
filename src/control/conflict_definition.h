/*
 * conflict_definition.h: option "conflict" of a subscription: what it can be set to, and the triggers that go with it.
 */
#ifndef KS_CONFLICT_DEFINITION_H
#define KS_CONFLICT_DEFINITION_H

#include "postgres.h"

#include "control/catalog.h"

/* ERROR if "conflict" and the options that go with it do not suit a subscription of this format. */
extern void ks_conflict_check(const char *format, const KsOptions *options);

/*
 * ERROR if it does not suit a target: it is not a plain table that takes rows as they come by its key, something would
 * change rows on their way into it, or the column of newer is none that changes can be ordered by.  key: text[], names of columns.
 */
extern void ks_conflict_check_target(const KsOptions *options, Oid relid, const char *mode, bool has_query, Datum key);

/* Sets or drops the triggers of a table, as the subscriptions say that it is a target of now. */
extern void ks_conflict_settle(Oid relid);

/* ERROR if a subscription's targets hold what was written here, too, which its topics do not have. */
extern void ks_conflict_check_rebuild(const KsSubscription *subscription);

#endif							/* KS_CONFLICT_DEFINITION_H */
