/*
 * batch.h: a run of messages as typed rows, one per key: what the target must look like after the last of them.
 */
#ifndef KS_BATCH_H
#define KS_BATCH_H

#include "postgres.h"

#include "apply/target.h"
#include "event/parser.h"

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
	bool		complete;		/* every writable column has a value */
	bool		keeps;			/* some cell is KS_CELL_KEEP */
	Datum	   *values;			/* by attribute */
	bool	   *nulls;
	uint8	   *cells;			/* KsCell */
} KsBatchRow;

typedef struct KsBatch
{
	KsTargetTable *target;
	const KsParserOps *parser_ops;
	KsParser   *parser;
	KsParsed	parsed;
	bool		ignore_unknown;
	bool		json;
	bool		full_before;	/* "before" is the whole old row, says the subscription's owner */
	int			partitions;		/* that the subscription reads */

	MemoryContext context;		/* rows and values; reset per batch */
	int			nrows;
	KsBatchRow *rows;
	int			rows_capacity;
	int		   *buckets;		/* open addressing: row number + 1 */
	uint32		bucket_mask;

	bool		truncate;		/* empty the table before anything else */
	int			skipped_truncates;
	int			current;		/* message that is being worked on, or is to blame for an error; -1 = not known */

	/* of the message that is being read; the values of its key columns before it, where it moves the key */
	Datum	   *values;
	bool	   *nulls;
	uint8	   *cells;
	int			natts;
	const KsField **before_keys;
} KsBatch;

/* Makes an empty batch for a target; lives in CurrentMemoryContext. */
extern KsBatch *ks_batch_create(KsTargetTable *target, const KsSubscription *subscription);

/*
 * Reads messages into rows, in a transaction and as the table's owner.  ERROR for what cannot be read, with
 * batch->current the message at fault.
 */
extern void ks_batch_build(KsBatch *batch, const KsMessage *messages, int count);

/* How many messages a batch of this target may have at most, to keep memory bounded. */
extern int	ks_batch_limit(const KsTargetTable *target, int wanted);

#endif							/* KS_BATCH_H */
