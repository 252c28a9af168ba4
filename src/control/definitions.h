/*
 * definitions.h: what the SQL functions that define publishers and subscriptions share.
 */
#ifndef KS_DEFINITIONS_H
#define KS_DEFINITIONS_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "control/catalog.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/jsonb.h"

/* Saved identity of ks_become_superuser(). */
typedef struct KsIdentity
{
	Oid			userid;
	int			context;
} KsIdentity;

/* Runs what follows as the bootstrap superuser (our own tables), until ks_become_caller(); an ERROR restores it too. */
extern void ks_become_superuser(KsIdentity *saved);
extern void ks_become_caller(const KsIdentity *saved);

/*
 * Runs one SQL command on our own tables as the bootstrap superuser through SPI.  Arguments as SPI_execute_with_args.
 * Returns the number of rows processed; a result's first row, first column goes to *result / *isnull if not NULL
 * (by-reference values in the caller's context are not copied: use it for by-value ones).
 */
extern uint64 ks_catalog_execute(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls);

/* ERROR unless the current user is the owner or a superuser. */
extern void ks_check_owner(Oid owner, const char *kind, const char *name);

/* The publisher or subscription of this name, that the current user may change; ERROR otherwise. */
extern KsPublisher *ks_own_publisher(const char *name);
extern KsSubscription *ks_own_subscription(const char *name);

/* ERROR unless word is in the NULL-terminated list; "later" words are named as not supported. */
extern void ks_check_word(const char *what, const char *word, const char *const *allowed);

/* Argument helpers: the value, or ERROR "... must not be null". */
extern char *ks_name_arg(FunctionCallInfo fcinfo, int arg, const char *what);
extern char *ks_text_arg(FunctionCallInfo fcinfo, int arg, const char *what);

/* Elements of a text[] argument; ERROR for nulls, an empty array, or an element that comes twice. */
extern char **ks_text_list(ArrayType *array, const char *what, int *count);
/* The same as a list. */
extern List *ks_text_names(ArrayType *array, const char *what);

/*
 * Merges "changes" into "old": a null value removes a key.  The values of the NULL-terminated special keys go to
 * special_values (NULL where not given) instead of the result.
 */
extern Jsonb *ks_merge_options(Jsonb *old, Jsonb *changes, const char *const *special, Jsonb **special_values);

/* The text of a JSON string given for option "key"; ERROR for anything else. */
extern char *ks_special_name(Jsonb *value, const char *key);

/* A random positive 63-bit identifier. */
extern int64 ks_random_id(void);

/*
 * Takes the lock that a subscription's worker holds shared during each transaction that applies rows; after taking it
 * exclusively nothing moves the positions until this transaction ends.
 */
extern void ks_subscription_lock(int64 id, bool exclusive);
/* Does somebody wait for a subscription's lock, which the current transaction holds shared? */
extern bool ks_subscription_lock_wanted(int64 id);
/*
 * The lock that a statement holds which does nothing but wait for a subscription: a rebuild need not wait for its snapshot
 * to go, and would wait for itself.
 */
extern void ks_subscription_waiter_tag(LOCKTAG *tag, int64 id);
/* Keeps other functions that change this publisher waiting until the end of the transaction; takes no xid. */
extern void ks_publisher_lock(int64 id);

/*
 * Reserves a name in one of our tables until the end of the transaction: who wants it too waits here, and then sees what
 * became of it.  Takes no xid.
 */
extern void ks_name_lock(const char *table, const char *name);

/* End of the WAL that has been inserted so far, flushed before return. */
extern XLogRecPtr ks_wal_end(void);

/*
 * Deletes a subscription's dead letters for one target, or (InvalidOid) all of them, with a NOTICE that says how many.
 * In dead_letter_sql.c.
 */
extern void ks_drop_dead_letters(const KsSubscription *s, Oid target);

/* Milliseconds of an interval argument (NULL = default_ms); ERROR when negative. */
extern int64 ks_timeout_arg(FunctionCallInfo fcinfo, int arg, int64 default_ms);

#endif							/* KS_DEFINITIONS_H */
