/*
 * writer.c: which writer a target needs.
 */
#include "postgres.h"

#include "apply/batch.h"

/* See writer.h. */
KsWriter *
ks_writer_create(KsRun *run, const KsTarget *target, Oid relid)
{
	return &ks_batch_create(run, ks_target_create(run->subscription, target, relid))->writer;
}
