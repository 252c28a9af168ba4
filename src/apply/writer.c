/*
 * writer.c: which writer a target needs.
 */
#include "postgres.h"

#include "apply/batch.h"
#include "apply/query_target.h"

/* See writer.h. */
KsWriter *
ks_writer_create(KsRun *run, const KsTarget *target, Oid relid)
{
	KsTargetTable *table = ks_target_create(run->subscription, target, relid);

	return target->query ? ks_query_writer_create(run, table) : &ks_batch_create(run, table)->writer;
}
