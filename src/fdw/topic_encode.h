/*
 * topic_encode.h: from a row of a topic's table to a message.
 */
#ifndef KS_TOPIC_ENCODE_H
#define KS_TOPIC_ENCODE_H

#include "executor/tuptable.h"
#include "fdw/topic_outbox.h"
#include "fdw/topic_table.h"

typedef struct KsTopicEncoder KsTopicEncoder;

/* ERROR where rows of such a table cannot be messages: its format, or where its paths lead. */
extern void ks_topic_encoder_check(const KsTopicTable *table);

/* Makes an encoder in CurrentMemoryContext. ERROR as ks_topic_encoder_check. */
extern KsTopicEncoder *ks_topic_encoder_create(const KsTopicTable *table, TupleDesc desc);

/*
 * Fills in all of *message but its target; what it points to is valid until the next call.  ERROR, naming the column: a
 * value for one that cannot be written, a key that is null.
 */
extern void ks_topic_encode(KsTopicEncoder *encoder, TupleTableSlot *slot, KsOutgoing *message);

/*
 * The same of a row in arrays by attribute.  Columns that are left out have null there and are no member of the value;
 * those of them that are unchanged, since the reader's last message of the key, are named in a header.
 */
extern void ks_topic_encode_row(KsTopicEncoder *encoder, Datum *values, bool *nulls, bool *left_out, const bool *unchanged,
								KsOutgoing *message);
/* A message without a value, of a row's key. */
extern void ks_topic_encode_tombstone(KsTopicEncoder *encoder, Datum *values, bool *nulls, KsOutgoing *message);

#endif							/* KS_TOPIC_ENCODE_H */
