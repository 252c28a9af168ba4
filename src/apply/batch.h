/*
 * batch.h: a run of messages as typed rows, one per key: what the target must look like after the last of them.
 */
#ifndef KS_BATCH_H
#define KS_BATCH_H

#include "postgres.h"

#include "apply/writer.h"

/* What a batch knows of one column of one row. */
typedef enum KsCell
{
	KS_CELL_ABSENT = 0,			/* not in the message: left as it is, or the column's default in a new row */
	KS_CELL_VALUE,				/* in values[] and nulls[] */
	KS_CELL_KEEP				/* an unchanged TOAST value that the message does not carry: the row must be there */
} KsCell;

typedef struct KsBatchRow
{
	uint32		hash;
	int			message;		/* the last one that touched the row */
	bool		remove;			/* delete what is there, first */
	bool		upsert;			/* then write this */
	bool		found;			/* the table is known to have it, as of the begin of the transaction */
	bool		absent;			/* it is known not to: no need to look */
	bool		complete;		/* every writable column has a value */
	bool		keeps;			/* some cell is KS_CELL_KEEP */
	Datum	   *values;			/* by attribute */
	bool	   *nulls;
	uint8	   *cells;			/* KsCell */
	struct KsRowOrder *order;	/* where two databases write the rows: see conflict_batch.h; else NULL */
} KsBatchRow;

typedef struct KsBatch
{
	KsWriter	writer;
	KsTargetTable *target;
	KsRun	   *run;
	const KsMessage *message;	/* that is being read */
	const KsParsed *parsed;
	bool		ignore_unknown;
	bool		debezium;		/* events tell of changes, not of states */
	bool		list;			/* rows are kept as they come, and not by key: modes append and merge */
	bool		full_before;	/* "before" is the whole old row, says the subscription's owner */
	struct KsConflictBatch *conflict;	/* NULL: what comes overwrites what is there */

	MemoryContext context;		/* rows and values; reset per batch */
	int			nrows;
	KsBatchRow *rows;
	int			rows_capacity;
	int		   *buckets;		/* open addressing: row number + 1 */
	uint32		bucket_mask;

	bool		truncate;		/* empty the table before anything else */

	KsParser   *key_parser;		/* of keys in headers, made when first needed */
	KsParsed   *key_parsed;

	/* of the message that is being read; the values of its key columns before it, where it moves the key */
	Datum	   *values;
	bool	   *nulls;
	uint8	   *cells;
	int			natts;
	const KsField **before_keys;
} KsBatch;

/* Makes an empty batch, which is the writer of a plain target; lives in CurrentMemoryContext. */
extern KsBatch *ks_batch_create(KsRun *run, KsTargetTable *target);

/*
 * For writers that have rows of another origin: empties the batch; folds the row in values[], nulls[], cells[] into it
 * (values in the batch's context), returns false if its key was written by this batch already; and removes the row of the
 * key in values[], unless the batch writes it.
 */
extern void ks_batch_begin(KsBatch *b, int count);
extern bool ks_batch_put(KsBatch *b, int message);
extern void ks_batch_leave(KsBatch *b, int message);
/* Does the message key hold all of the target's key columns?  Then Kafka keeps the order of what concerns a row. */
extern bool ks_batch_key_is_whole(KsBatch *b, const KsMessage *message);
/* ERROR unless all key columns in values[], cells[] have a value that is not null. */
extern void ks_batch_check_keys(KsBatch *b);

/* moved_key.c */

/*
 * Is the delete that is being read, of the target's key "key", what an update of the message key is told by, which leaves the
 * target's key as it is?  Then it deletes nothing: the row that it has become comes by itself.  ERROR: its header is malformed.
 */
extern bool ks_key_stays(KsBatch *b, const Datum *key);
/* ERROR if so, and its order among the row's changes is not known. */
extern void ks_check_moved_key(KsBatch *b, const Datum *key);

#endif							/* KS_BATCH_H */
