/*
 * local_sink.h: writing a batch into a local table, inside a transaction and as the table's owner.
 *
 * Both writers do the same: rows to remove first, then the others in the order of their last message; updates where
 * the key is there, inserts where it is not.  batch->run->current names the message at fault on ERROR, if it is known.
 */
#ifndef KS_LOCAL_SINK_H
#define KS_LOCAL_SINK_H

#include "apply/batch.h"
#include "apply/row_group.h"
#include "compat/pg_compat.h"

/* Below SQL: heap and index access, for plain tables; needs target->direct. In direct_sink.c. */
extern void ks_direct_apply(KsBatch *batch);
/*
 * By SQL, set by set: for partitioned tables, BEFORE and statement triggers; names: the target, or what it is called where
 * the statements are executed. In sql_sink.c.
 */
extern void ks_sql_write(KsBatch *batch, KsTargetTable *names, KsRowsExecute execute);

/* Empties a table by TRUNCATE. */
extern void ks_truncate_table(KsTargetTable *target);

/* ERROR: a row misses an unchanged value, and the table has no earlier one. */
pg_noreturn extern void ks_missing_value(const KsTargetTable *target, const KsBatchRow *row);

#endif							/* KS_LOCAL_SINK_H */
