/*
 * batch_column.h: the columns of relation kafka.batch.
 */
#ifndef KS_BATCH_COLUMN_H
#define KS_BATCH_COLUMN_H

/* By attribute number. */
typedef enum KsBatchColumn
{
	KS_BATCH_TOPIC = 1,
	KS_BATCH_PARTITION,
	KS_BATCH_OFFSET,
	KS_BATCH_TS,
	KS_BATCH_KEY,
	KS_BATCH_OP,
	KS_BATCH_BEFORE,
	KS_BATCH_AFTER,
	KS_BATCH_HEADERS,
	KS_BATCH_COLUMNS = KS_BATCH_HEADERS
} KsBatchColumn;

#endif							/* KS_BATCH_COLUMN_H */
