/*
 * shmem.c: shared memory of the launcher and its workers: one lock, one array of workers, one of partitions.
 */
#include "postgres.h"

#include "control/shmem.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "compat/pg_compat.h"

KsShared   *ks_shared = NULL;
KsWorker   *ks_workers = NULL;
KsPartition *ks_partitions = NULL;

static bool blocking = false;	/* this process keeps workers out of a database */
static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* Makes a place fresh. */
static void
init_place(KsWorker *w)
{
	/* not its condition variable: somebody may still wait for the former user of the place */
	memset(w, 0, offsetof(KsWorker, progress));
	pg_atomic_init_u64(&w->rows, 0);
	pg_atomic_init_u64(&w->bytes, 0);
	pg_atomic_init_u64(&w->acked_lsn, 0);
	pg_atomic_init_u64(&w->confirmed_lsn, 0);
	pg_atomic_init_u64(&w->read_lsn, 0);
	pg_atomic_init_u64(&w->last_commit_time, 0);
	pg_atomic_init_u64(&w->lag_messages, UINT64_MAX);
	pg_atomic_init_u64(&w->skipped_truncates, 0);
	pg_atomic_init_u64(&w->columns_added, 0);
	for (int i = 0; i < KS_CONFLICT_COUNTS; i++)
		pg_atomic_init_u64(&w->conflicts[i], 0);
	pg_atomic_init_u64(&w->retry_requests, 0);
	pg_atomic_init_u64(&w->loops, 0);
	pg_atomic_init_u64(&w->fetched_at, 0);
}

/* Returns the bytes of shared memory that the extension needs. */
static Size
shared_size(void)
{
	Size		size = MAXALIGN(sizeof(KsShared));

	size = add_size(size, MAXALIGN(mul_size(ks_guc_max_workers + 1, sizeof(KsWorker))));
	size = add_size(size, MAXALIGN(mul_size(ks_guc_max_partitions, sizeof(KsPartition))));
	return size;
}

static void
request_hook(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("pg_kafka_sync", 1);
}

static void
startup_hook(void)
{
	bool		found;
	char	   *place;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	place = ShmemInitStruct("pg_kafka_sync", shared_size(), &found);
	ks_shared = (KsShared *) place;
	place += MAXALIGN(sizeof(KsShared));
	ks_workers = (KsWorker *) place;
	place += MAXALIGN((ks_guc_max_workers + 1) * sizeof(KsWorker));
	ks_partitions = (KsPartition *) place;

	if (!found)
	{
		memset(ks_shared, 0, shared_size());
		ks_shared->lock = &(GetNamedLWLockTranche("pg_kafka_sync"))->lock;
		ks_shared->nworkers = ks_guc_max_workers;
		ks_shared->npartitions = ks_guc_max_partitions;
		ks_shared->rescan_all = true;
		pg_atomic_init_u32(&ks_shared->npublishers, 0);
		for (int i = 0; i <= ks_shared->nworkers; i++)
		{
			init_place(&ks_workers[i]);
			ConditionVariableInit(&ks_workers[i].progress);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Installs the two shared-memory hooks; called from _PG_init while preloading. */
void
ks_shmem_request(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_hook;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_hook;
}

/* ERROR with the way out when the library was not preloaded. */
void
ks_shmem_require(void)
{
	if (ks_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_kafka_sync must be loaded when the server starts"),
				 errhint("Add pg_kafka_sync to shared_preload_libraries and restart the server.")));
}

/* Returns the place of an object's worker, or NULL.  Caller holds the lock. */
KsWorker *
ks_worker_find(Oid database, KsWorkerKind kind, int64 object_id, int32 ordinal)
{
	for (int i = 0; i < ks_shared->nworkers; i++)
	{
		KsWorker   *w = &ks_workers[i];

		if (w->kind == kind && w->database == database && w->object_id == object_id && w->ordinal == ordinal)
			return w;
	}
	return NULL;
}

/*
 * Returns the place of an object's worker, a free one if it has none yet, or NULL when all are taken.  Caller holds the lock
 * exclusively.
 */
KsWorker *
ks_worker_take(Oid database, KsWorkerKind kind, int64 object_id, int32 ordinal)
{
	KsWorker   *w = ks_worker_find(database, kind, object_id, ordinal);

	for (int i = 0; w == NULL && i < ks_shared->nworkers; i++)
	{
		if (ks_workers[i].kind != KS_WORKER_NONE)
			continue;
		w = &ks_workers[i];
		init_place(w);
		w->kind = kind;
		w->database = database;
		w->object_id = object_id;
		w->ordinal = ordinal;
		w->state = KS_STATE_STARTING;
	}
	return w;
}

/* Wakes the launcher. */
void
ks_launcher_wake(void)
{
	Latch	   *latch;

	LWLockAcquire(ks_shared->lock, LW_SHARED);
	latch = ks_shared->launcher_latch;
	LWLockRelease(ks_shared->lock);
	if (latch)
		SetLatch(latch);
}

/* Asks for a scan of a database (InvalidOid = all) now. */
void
ks_rescan_now(Oid database)
{
	bool		known = false;

	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ks_shared->nrescans && !known; i++)
		known = ks_shared->rescans[i] == database;
	if (!known)
	{
		if (!OidIsValid(database) || ks_shared->nrescans == KS_RESCANS)
			ks_shared->rescan_all = true;
		else
			ks_shared->rescans[ks_shared->nrescans++] = database;
	}
	LWLockRelease(ks_shared->lock);
	ks_launcher_wake();
}

/* Is a database closed to workers?  Caller holds the lock. */
bool
ks_database_is_blocked(Oid database)
{
	for (int i = 0; i < ks_shared->nblocked; i++)
		if (ks_shared->blocked[i] == database)
			return true;
	return false;
}

/* Keeps all workers out of a database; see shmem.h. */
void
ks_database_block(Oid database)
{
	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	if (ks_shared->nblocked == KS_BLOCKED)
	{
		LWLockRelease(ks_shared->lock);
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases are being dropped, renamed or copied at once"),
				 errhint("Try again when the other commands have ended.")));
	}
	ks_shared->blocked[ks_shared->nblocked] = database;
	ks_shared->blocker[ks_shared->nblocked++] = MyProcPid;
	blocking = true;
	LWLockRelease(ks_shared->lock);
	ks_launcher_wake();

	for (;;)
	{
		bool		running = false;

		LWLockAcquire(ks_shared->lock, LW_SHARED);
		for (int i = 0; i < ks_shared->nworkers; i++)
			if (ks_workers[i].kind != KS_WORKER_NONE && ks_workers[i].database == database && ks_workers[i].pid != 0)
				running = true;
		if (ks_shared->launcher_pid == 0)
			running = false;	/* nothing that could run, nobody who would report it */
		LWLockRelease(ks_shared->lock);
		if (!running)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 20,
						 ks_wait_event("KafkaDatabaseWorkersStop"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Lets workers into the databases that this transaction kept them out of, and has those scanned.  Not before its end:
 * until then a dropped database is still there for others.
 */
void
ks_databases_unblock(void)
{
	Oid			freed[KS_BLOCKED];
	int			nfreed = 0;

	if (!blocking)
		return;
	blocking = false;
	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ks_shared->nblocked; i++)
	{
		if (ks_shared->blocker[i] != MyProcPid)
			continue;
		freed[nfreed++] = ks_shared->blocked[i];
		ks_shared->nblocked--;
		ks_shared->blocked[i] = ks_shared->blocked[ks_shared->nblocked];
		ks_shared->blocker[i] = ks_shared->blocker[ks_shared->nblocked];
		i--;
	}
	LWLockRelease(ks_shared->lock);
	for (int i = 0; i < nfreed; i++)
		ks_rescan_now(freed[i]);
}
