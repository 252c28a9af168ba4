/*
 * conflict.h: two databases that change the same rows: what option "conflict" says, the order that changes of a row are
 * put in, and the deletes that are remembered for it.
 *
 * With "newer:<column>" the changes of a key, of both databases, are totally ordered: by the column's value, null being
 * the oldest; a delete after all rows of its value; rows of one value by the names of the databases.  docs/design.md has
 * the argument that both sides then end with the same rows.
 */
#ifndef KS_CONFLICT_H
#define KS_CONFLICT_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "control/options.h"
#include "fmgr.h"
#include "storage/lock.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"

typedef enum KsConflict
{
	KS_CONFLICT_APPLY,			/* what comes overwrites what is there */
	KS_CONFLICT_NEWER,			/* the later one by a column wins */
	KS_CONFLICT_KEEP			/* what is there wins, if it is not what the change was made from */
} KsConflict;

/* Counters of one kind each: see kafka.subscription_status. */
typedef enum KsConflictCount
{
	KS_CONFLICTS_APPLIED,
	KS_CONFLICTS_KEPT,
	KS_CONFLICTS_TIES,
	KS_CONFLICTS_STALE,			/* changes older than deletes are remembered that met no row */
	KS_CONFLICT_COUNTS
} KsConflictCount;

/* Parses a value of option "conflict"; *column: that of newer, in CurrentMemoryContext.  ERROR if it is none. */
extern KsConflict ks_conflict_parse(const char *value, char **column);

/* Option "tombstone_retention" in microseconds; ERROR if it is no interval above zero.  In control/conflict_definition.c. */
extern int64 ks_tombstone_retention(const KsOptions *options);

/*
 * The row trigger that orders what is written here, and that which refuses TRUNCATE, the last of all by their names; and the
 * one that looks again when a new key is in the table.
 */
#define KS_GUARD_TRIGGER "zz_pg_kafka_sync_conflict"
#define KS_GUARD_TRUNCATE "zz_pg_kafka_sync_truncate"
#define KS_GUARD_AFTER "aa_pg_kafka_sync_conflict"
extern bool ks_guard_is_set(Relation rel);
/* Takes the last one out of a copy of a table's triggers, for who needs no second look. */
extern void ks_guard_leave_out(TriggerDesc *triggers);

/*
 * The name of a trigger that would see or change rows before they are written, or as a whole, in a session of that
 * replication role; NULL if there is none.
 */
extern const char *ks_interfering_trigger(Relation rel, bool replica);
/* The name of a trigger that might change rows after the guard has put them in order; NULL if there is none. */
extern const char *ks_trigger_after_guard(Relation rel);

/* How values of the column of "newer" are compared, and what is the next one. */
typedef struct KsOrdering
{
	Oid			type;			/* without domains */
	int32		typmod;
	Oid			collation;
	int16		typlen;
	bool		typbyval;
	Oid			input;
	Oid			input_param;
	FmgrInfo	compare;
	FmgrInfo	output;
	bool		is_time;		/* timestamptz, timestamp or date: there is a clock for it */
} KsOrdering;

/* Fills in an ordering; its functions live in "context".  ERROR if the column's type has no default order. */
extern void ks_ordering_init(KsOrdering *o, Form_pg_attribute att, MemoryContext context);
extern int	ks_ordering_compare(KsOrdering *o, Datum a, bool a_null, Datum b, bool b_null);
/*
 * The value for a row that is written here after one with "old": what the clock says, if the type has one and that is
 * newer, else the next value above old.  False: the type has no next value.  exact: as old, if the clock is not ahead.
 */
extern bool ks_ordering_next(KsOrdering *o, Datum old, bool old_null, bool exact, Datum *next);
/* The value of a moment for a type that is_time, in the session's time zone. */
extern Datum ks_ordering_moment(KsOrdering *o, TimestampTz moment);
/* Text of a value, the same in every session, and back; NULL is null. */
extern char *ks_ordering_text(KsOrdering *o, Datum value, bool isnull);
extern Datum ks_ordering_value(KsOrdering *o, const char *text, bool *isnull);

/* What the key columns of a target are, as deletes are remembered by them. */
typedef struct KsKeyText
{
	int			nkeys;
	AttrNumber *attnums;
	FmgrInfo   *output;
	bool	   *trim;			/* numeric: equal values have several texts */
} KsKeyText;

/* ERROR: a key column is missing, or its type has equal values with different texts. */
extern void ks_key_text_init(KsKeyText *k, Relation rel, int nkeys, char **names, MemoryContext context);
/* A text[] of the key of a row, values by attribute. */
extern Datum ks_key_text(KsKeyText *k, const Datum *values);

/*
 * Deletes that are remembered (kafka.deleted_row), by target and key.  As committed now, whatever snapshot is active.
 * stamp: text of the value that the delete is ordered by, NULL for null; in CurrentMemoryContext.
 */
extern bool ks_deleted_row_find(Oid target, Datum key, char **stamp);
extern void ks_deleted_row_put(Oid target, Datum key, const char *stamp);
/* Forgets at most "limit" deletes that are older than so many microseconds; returns how many. */
extern int	ks_deleted_rows_clean(Oid target, int64 age, int limit);

/*
 * Keys that are not there have no row that could be locked.  Who writes a new row here holds this lock shared until his
 * transaction ends, before he looks for a remembered delete; who remembers the delete of a key without a row holds it
 * exclusively: so one of the two sees the other.  False: "wait" is not set, and somebody is in the way.
 */
extern bool ks_absent_key_lock(Oid target, Datum key, bool exclusive, bool wait);
/* Gives back a shared one. */
extern void ks_absent_key_unlock(Oid target, Datum key);

#endif							/* KS_CONFLICT_H */
