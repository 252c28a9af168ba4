/*
 * local_sink.c: writing a batch into a local table.
 */
#include "postgres.h"

#include "access/table.h"
#include "apply/conflict_batch.h"
#include "apply/local_sink.h"
#include "apply/sink.h"
#include "executor/spi.h"
#include "utils/builtins.h"

/* See local_sink.h. */
void
ks_missing_value(const KsTargetTable *target, const KsBatchRow *row)
{
	const char *column = "";

	for (int i = 0; i < target->natts; i++)
		if (row->cells[i] == KS_CELL_KEEP)
			column = target->columns[i].name;
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 strcmp(target->target->mode, "upsert") == 0 ?
			 errmsg("column \"%s\": the message leaves the value out as unchanged, and the target has no such row", column) :
			 errmsg("column \"%s\": the message leaves the value out as unchanged", column),
			 errhint("Set REPLICA IDENTITY FULL on the source table, and publish its rows again.")));
}

/* See local_sink.h.  The table must not be open meanwhile; the lock stays. */
void
ks_truncate_table(KsTargetTable *t)
{
	ks_target_close(t);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(psprintf("TRUNCATE TABLE %s", t->qualified), false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not truncate %s", t->qualified);
	SPI_finish();
	t->rel = table_open(t->relid, NoLock);
}

/* KsSinkOps.apply */
static void
apply(KsBatch *b)
{
	if (b->truncate)
		ks_truncate_table(b->target);
	if (b->nrows == 0)
		return;
	if (b->conflict)
		ks_conflict_write(b);
	else if (b->target->direct)
		ks_direct_apply(b);
	else
		ks_sql_write(b, b->target, ks_rows_execute);
}

/* KsSinkOps.merge */
static void
merge(KsQueryWriter *w)
{
	ks_merge_write(w, &ks_local_merge);
}

const KsSinkOps ks_local_sink = {
	.apply = apply,
	.existing_keys = ks_local_existing_keys,
	.merge = merge,
};
