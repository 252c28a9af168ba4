/*
 * guc.c: configuration parameters, prefix pg_kafka_sync.
 */
#include "postgres.h"

#include "control/shmem.h"
#include "miscadmin.h"
#include "utils/guc.h"

bool		ks_guc_enabled = true;
int			ks_guc_max_workers = 64;
int			ks_guc_max_partitions = 2048;
int			ks_guc_rebuild_wait = 30;

/* Defines the parameters; called from _PG_init. */
void
ks_guc_init(void)
{
	DefineCustomBoolVariable("pg_kafka_sync.enabled",
							 "Runs publishers and subscriptions.",
							 "Off stops every worker of this server, without changing a definition.",
							 &ks_guc_enabled, true, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_kafka_sync.rebuild_wait",
							"How long a rebuild waits for a moment in which it can exchange the files of two tables.",
							"After that it changes the rows that differ, one by one.",
							&ks_guc_rebuild_wait, 30, 0, 86400, PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	if (process_shared_preload_libraries_in_progress)
	{
		DefineCustomIntVariable("pg_kafka_sync.max_workers",
								"Number of publishers and subscriptions that this server can hold in all databases.",
								"Paused ones count; each that runs also needs one of max_worker_processes.",
								&ks_guc_max_workers, 64, 1, 10000, PGC_POSTMASTER, 0, NULL, NULL, NULL);
		DefineCustomIntVariable("pg_kafka_sync.max_partitions",
								"Number of topic partitions whose log ends kafka.subscription_offsets can show.",
								NULL,
								&ks_guc_max_partitions, 2048, 16, 1000000, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	}
	MarkGUCPrefixReserved("pg_kafka_sync");
}
