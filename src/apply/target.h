/*
 * target.h: a target table as the subscription writes it: its columns, its key and the index behind it, its owner.
 *
 * The description is rebuilt, at the begin of a transaction, when the table's definition has changed.
 */
#ifndef KS_TARGET_H
#define KS_TARGET_H

#include "postgres.h"

#include "access/skey.h"
#include "apply/convert.h"
#include "control/catalog.h"
#include "utils/rel.h"

typedef struct KsTargetColumn
{
	char	   *name;
	char	   *quoted;
	bool		writable;		/* neither dropped nor generated */
	bool		key;
	bool		always_identity;
	bool		toastable;
	bool		metadata;		/* filled with what Kafka knows of the message, whatever the message says */
} KsTargetColumn;

typedef struct KsKeyColumn
{
	int			index;			/* attnum - 1 */
	Oid			collation;
	char	   *equal_operator; /* qualified, for SQL */
	FmgrInfo	equal;
	FmgrInfo	hash;			/* fn_oid InvalidOid: hash the value's bytes */
	int16		typlen;
	bool		typbyval;
} KsKeyColumn;

typedef struct KsSinkOps KsSinkOps;
typedef struct KsProgress KsProgress;

typedef struct KsTargetTable
{
	/* fixed */
	Oid			relid;
	Oid			subscription_owner;
	int64		subscription_id;
	const char *subscription;
	const KsTarget *target;
	const char *format;
	const char *column_types;
	bool		shares_types;	/* column_types may name columns of other targets, or those to come */
	const char *metadata_columns;
	MemoryContext parent;
	void	   *sink_state;		/* the sink's own, which outlives descriptions */
	KsProgress *progress;		/* what the other side remembers; NULL: it does not */

	/* the description, in "context" */
	bool		valid;
	uint32		version;		/* grows whenever it is made anew */
	MemoryContext context;
	char	   *qualified;		/* quoted, with schema */
	Oid			owner;
	int			natts;
	KsTargetColumn *columns;
	Bitmapset  *written;		/* attnums of writable columns, offset by FirstLowInvalidHeapAttributeNumber */
	int			nkeys;
	KsKeyColumn *keys;			/* in the order of the index, or as they were given */
	const KsSinkOps *sink;		/* that writes it */
	void	   *sink_description;	/* the sink's own */
	Oid			key_index;		/* InvalidOid: a foreign table */
	ScanKeyData *scan_keys;		/* sk_argument to be filled in */
	bool		direct;			/* rows can be written below SQL, see direct_sink.c */
	bool		runs_code;		/* making values of its columns may run code of users: constraints of domains */
	bool		has_identity;
	KsConverter *converter;
	List	   *metadata;		/* KsMetadataColumn */
	bool		own_rows;		/* the key is metadata alone: each message has a row of its own */
	int			nordered;		/* columns that fields without names go to, in order: neither metadata nor generated */
	int		   *ordered;
	int			value_column;	/* that takes the value of a message as a whole, -1 if it cannot be told */

	Relation	rel;			/* open during a transaction */
} KsTargetTable;

/* Makes an empty description of the table relid, written as "target" says; lives in CurrentMemoryContext. */
extern KsTargetTable *ks_target_create(const KsSubscription *subscription, const KsTarget *target, Oid relid);

/*
 * Opens the table for writing in the current transaction, rebuilding the description if need be.  ERROR, with hint: the
 * table is gone, is no table, has no unique index over the key, belongs to a role that the subscription's owner may not
 * become, or has row security that would filter.
 */
extern void ks_target_open(KsTargetTable *target);
/* Closes it; its lock is held until the transaction ends. */
extern void ks_target_close(KsTargetTable *target);

/* The transaction was rolled back, or is to be: forgets what was open in it, and has the sink do so. */
extern void ks_target_abandon(KsTargetTable *target);

/* Hash of a key's values and equality of two, both indexed by attribute. */
extern uint32 ks_target_hash_key(KsTargetTable *target, const Datum *values);
extern bool ks_target_same_key(KsTargetTable *target, const Datum *a, const Datum *b);

/* May making a value of a type run code of users? */
extern bool ks_may_run_code(Oid type);

#endif							/* KS_TARGET_H */
