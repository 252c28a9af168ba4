/*
 * target_definition.h: what makes a table a target of a subscription: the checks of what add_target and
 * create_subscription are asked for, and the row that is stored.
 */
#ifndef KS_TARGET_DEFINITION_H
#define KS_TARGET_DEFINITION_H

#include "postgres.h"

#include "control/catalog.h"
#include "nodes/parsenodes.h"
#include "utils/jsonb.h"

/* A target as a user asks for it. */
typedef struct KsTargetRequest
{
	Oid			relid;
	const char *query_text;		/* NULL = plain */
	Query	   *query;			/* of query_text, as bound; see target_view.h */
	const char *mode;
	List	   *key;			/* names; NIL = not given */
	Jsonb	   *merge;			/* NULL = not given */
	Jsonb	   *options;
} KsTargetRequest;

/*
 * ERROR unless the request makes a target that the subscription's owner "owner" may have the extension write: the table,
 * its rights, mode, key, the query's columns, merge functions, options.  Returns the parsed options; *key becomes the key
 * columns to be stored, a text[] Datum (empty for append).  NOTICE: another subscription writes the table, too.
 */
extern KsOptions *ks_target_check(const KsTargetRequest *request, Oid owner, Datum *key);

/* The part of it that concerns mode and the arguments that go with it. */
extern void ks_target_check_mode(const KsTargetRequest *request);

/* Stores a target, and makes its view if it has a query.  The caller is the one who may change the subscription. */
extern void ks_target_store(const KsTargetRequest *request, int64 subscription_id, Datum key);

/* "sum" for KS_MERGE_SUM, and so on. */
extern const char *ks_merge_word(KsMergeFunction function);

#endif							/* KS_TARGET_DEFINITION_H */
