/*
 * writer.c: which writer a target needs, and what writers share.
 */
#include "postgres.h"

#include "apply/batch.h"
#include "apply/query_target.h"
#include "utils/guc.h"

/* See writer.h. */
KsWriter *
ks_writer_create(KsRun *run, const KsTarget *target, Oid relid)
{
	KsTargetTable *table = ks_target_create(run->subscription, target, relid);

	return target->query ? ks_query_writer_create(run, table) : &ks_batch_create(run, table)->writer;
}

/* See writer.h. */
void
ks_run_settle(KsRun *run)
{
	AtEOXact_GUC(false, run->nest_level);
	run->nest_level = NewGUCNestLevel();
}
