/*
 * topic_row.h: from a message to the columns of a topic's table.
 */
#ifndef KS_TOPIC_ROW_H
#define KS_TOPIC_ROW_H

#include "fdw/topic_table.h"
#include "nodes/bitmapset.h"

typedef struct KsTopicRow KsTopicRow;

/*
 * Makes what turns messages into rows, in a child of CurrentMemoryContext.  "wanted": the attribute indexes that are
 * needed; the others will be null, and what only they need is not even looked at.
 */
extern KsTopicRow *ks_topic_row_create(const KsTopicTable *table, TupleDesc desc, const Bitmapset *wanted);

/*
 * Fills values and nulls (of all attributes) from a message of a topic reader; Datums are in CurrentMemoryContext.  ERROR, naming topic, partition, offset and column: the message cannot be read as the table
 * says; with on_error null such a message has null in its fields and the cause in its error column.
 */
extern void ks_topic_row_read(KsTopicRow *row, const KsMessage *message, Datum *values, bool *nulls);

/* The same for a sample, outside of parallel queries: NULL, or why the message cannot be read (where on_error null does not hold). */
extern const char *ks_topic_row_try(KsTopicRow *row, const KsMessage *message, Datum *values, bool *nulls);

/* Has the message read last another row (a line of format csv)?  Then ks_topic_row_read of the same message reads it. */
extern bool ks_topic_row_has_more(const KsTopicRow *row);
/* Forgets that it has. */
extern void ks_topic_row_forget(KsTopicRow *row);

#endif							/* KS_TOPIC_ROW_H */
