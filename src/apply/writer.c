/*
 * writer.c: which writer a target needs.
 */
#include "postgres.h"

#include "apply/batch.h"

/* See writer.h. */
KsWriter *
ks_writer_create(KsRun *run, const KsTarget *target, Oid relid)
{
	if (target->query || strcmp(target->mode, "upsert") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("targets with a query, and mode %s, cannot be applied", target->mode)));
	return &ks_batch_create(run, ks_target_create(run->subscription, target, relid))->writer;
}
