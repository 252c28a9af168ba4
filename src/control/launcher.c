/*
 * launcher.c: the one process per server that keeps every enabled publisher and subscription of every database running.
 *
 * It knows only shared catalogs.  What is to run in a database it learns from a short-lived scan worker (scan.c), which
 * is started for every database at server start, when a transaction that changed a definition commits, when one of its
 * workers was dropped, and now and then for what came without notice (a restored database).
 *
 * A worker's life:  wanted -> launched (registered with the postmaster) -> attached (pid set) -> ended (pid 0 again).
 * Only the launcher starts workers; to end one it clears "wanted" and sends SIGTERM.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "common/pg_prng.h"
#include "compat/pg_compat.h"
#include "control/shmem.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define SCAN_ALL_EVERY_MS (5 * 60 * 1000)
#define SCAN_RETRY_MS 10000		/* after a scan that failed */
#define LAUNCH_TIMEOUT_MS 30000 /* a registered worker that has not attached by then is given up */
#define BACKOFF_FIRST_MS 500
#define AFTER_CRASH_MS 3000		/* workers wait so long when the server came back from a crash: one may be its cause */
#define YOUNG_SERVER_MS 10000
#define BACKOFF_CAP_MS 30000
#define NO_WORKER_RETRY_MS 1000
#define SCAN_PATIENCE_MS 1500	/* others' workers may be gone by then */

#define NO_WORKER "no free background worker: raise max_worker_processes"
/* the status views look for these first words */
#define NO_ROOM "no room: raise pg_kafka_sync.max_workers"

PGDLLEXPORT void ks_launcher_main(Datum arg);

/* What this launcher process knows of a place in the workers array. */
typedef struct Launch
{
	BackgroundWorkerHandle *handle; /* NULL: nothing launched */
	TimestampTz at;
} Launch;

static Launch *launches;		/* nworkers + 1 */
static List *scan_queue = NIL;	/* of database Oids */
static TimestampTz next_scan_all = 0;
static TimestampTz scan_waits_since = 0;	/* for a free background worker; 0 = does not */
static MemoryContext launcher_context;

static const char *const main_functions[] = {
	[KS_WORKER_SCAN] = "ks_scan_main",
	[KS_WORKER_PUBLISHER] = "ks_publisher_main",
	[KS_WORKER_SUBSCRIPTION] = "ks_subscription_main"
};

/* Registers the launcher; it starts when recovery has ended, so nothing runs on a standby before its promotion. */
void
ks_launcher_register(void)
{
	BackgroundWorker worker;

	if (IsBinaryUpgrade)
		return;					/* pg_upgrade wants the databases to itself */
	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "pg_kafka_sync", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "ks_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "pg_kafka_sync launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pg_kafka_sync launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

static void
launcher_exit(int code, Datum arg)
{
	LWLockReleaseAll();
	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	ks_shared->launcher_pid = 0;
	ks_shared->launcher_latch = NULL;
	LWLockRelease(ks_shared->lock);
}

/* Stores why workers cannot be started (NULL = they can) for the status views. */
static void
set_message(const char *message)
{
	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	strlcpy(ks_shared->message, message ? message : "", sizeof(ks_shared->message));
	LWLockRelease(ks_shared->lock);
}

/*
 * Returns in launcher_context the databases that take connections and are no templates.  A template that a worker is
 * connected to could not be copied.
 */
static List *
list_databases(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	List	   *result = NIL;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database db = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!db->datallowconn || db->datistemplate)
			continue;
		old = MemoryContextSwitchTo(launcher_context);
		result = lappend_oid(result, db->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(launcher_context);
	return result;
}

/* Marks the places of databases that are gone, so that they are freed. */
static void
forget_dropped_databases(List *databases)
{
	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ks_shared->nworkers; i++)
	{
		KsWorker   *w = &ks_workers[i];

		if (w->kind != KS_WORKER_NONE && !list_member_oid(databases, w->database))
		{
			w->dropped = true;
			w->wanted = false;
		}
	}
	LWLockRelease(ks_shared->lock);
}

/* Takes over the scan requests of other processes. */
static void
collect_scan_requests(bool *all)
{
	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	if (ks_shared->rescan_all)
		*all = true;
	for (int i = 0; i < ks_shared->nrescans; i++)
		scan_queue = list_append_unique_oid(scan_queue, ks_shared->rescans[i]);
	ks_shared->nrescans = 0;
	ks_shared->rescan_all = false;
	LWLockRelease(ks_shared->lock);
}

/*
 * Registers the worker of a place with the postmaster.  False when there is no room for it in max_worker_processes.
 */
static bool
launch(int index)
{
	KsWorker   *w = &ks_workers[index];
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "pg_kafka_sync", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, main_functions[w->kind], BGW_MAXLEN);
	if (w->kind == KS_WORKER_SCAN)
		snprintf(worker.bgw_name, BGW_MAXLEN, "pg_kafka_sync scan of database %u", w->database);
	else
		snprintf(worker.bgw_name, BGW_MAXLEN, w->ordinal > 0 ? "pg_kafka_sync %s %s/%d" : "pg_kafka_sync %s %s",
				 w->kind == KS_WORKER_PUBLISHER ? "publisher" : "subscription", NameStr(w->name), w->ordinal);
	snprintf(worker.bgw_type, BGW_MAXLEN, "pg_kafka_sync %s",
			 w->kind == KS_WORKER_SCAN ? "scan" : w->kind == KS_WORKER_PUBLISHER ? "publisher" : "subscription");
	worker.bgw_main_arg = Int32GetDatum(index);
	worker.bgw_notify_pid = MyProcPid;

	if (!RegisterDynamicBackgroundWorker(&worker, &launches[index].handle))
	{
		launches[index].handle = NULL;
		return false;
	}
	launches[index].at = GetCurrentTimestamp();
	return true;
}

/* Milliseconds until a worker that failed "failures" times in a row is started again: doubled, capped, jittered. */
static long
backoff_ms(uint32 failures)
{
	double		ms = BACKOFF_FIRST_MS;

	for (uint32 i = 1; i < failures && ms < BACKOFF_CAP_MS; i++)
		ms *= 2;
	ms = Min(ms, BACKOFF_CAP_MS);
	return (long) (ms * (0.75 + 0.5 * pg_prng_double(&pg_global_prng_state)));
}

/* Looks at what the postmaster did with a launched worker, and at workers that have ended. */
static void
reap(int index)
{
	KsWorker   *w = &ks_workers[index];
	Launch	   *l = &launches[index];
	bool		ended = false;

	if (l->handle != NULL)
	{
		pid_t		pid;
		BgwHandleStatus status = GetBackgroundWorkerPid(l->handle, &pid);

		if (status == BGWH_STOPPED)
			ended = true;
		else if (status == BGWH_NOT_YET_STARTED &&
				 TimestampDifferenceExceeds(l->at, GetCurrentTimestamp(), LAUNCH_TIMEOUT_MS))
			TerminateBackgroundWorker(l->handle);
	}
	if (!ended)
		return;

	pfree(l->handle);
	l->handle = NULL;
	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	if (w->kind == KS_WORKER_SCAN)
	{
		if (w->state != KS_STATE_FINISHED)
			next_scan_all = Min(next_scan_all, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SCAN_RETRY_MS));
		w->kind = KS_WORKER_NONE;
	}
	else if (!w->dropped)
	{
		w->restarts++;
		if (w->restart_now || !w->wanted)
			w->next_start = 0;
		else if (w->state == KS_STATE_ERROR)
			w->next_start = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), backoff_ms(w->failures));
		else if (w->state != KS_STATE_FINISHED)
			w->next_start = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BACKOFF_FIRST_MS);
	}
	LWLockRelease(ks_shared->lock);
}

/*
 * Starts or ends the worker of one place, as wanted.  Returns the milliseconds after which it wants another look
 * (-1 = none).  *full is set when there is no free background worker.
 */
static long
steer(int index, bool *full)
{
	KsWorker   *w = &ks_workers[index];
	Launch	   *l = &launches[index];
	bool		start = false;
	bool		rescan = false;
	Oid			database = w->database;
	long		again = -1;
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	if (w->kind == KS_WORKER_PUBLISHER || w->kind == KS_WORKER_SUBSCRIPTION)
	{
		bool		wanted = w->wanted && ks_guc_enabled && !ks_database_is_blocked(w->database);

		if (w->pid != 0)
		{
			if (!wanted || w->version != w->wanted_version)
			{
				kill(w->pid, SIGTERM);
				again = 1000;	/* in case it was not listening yet */
			}
		}
		else if (l->handle != NULL)
			again = 1000;		/* launched, not attached yet or just ended: the postmaster tells */
		else if (w->dropped)
		{
			w->kind = KS_WORKER_NONE;
			rescan = true;		/* its slot or origin can go now */
			if (ks_shared->no_room)
				database = InvalidOid;	/* somebody else waits for the place */
			ks_shared->no_room = false;
		}
		else if (!wanted)
		{
			if (w->state != KS_STATE_FINISHED && w->state != KS_STATE_PAUSED)
			{
				w->state = KS_STATE_PAUSED;
				w->detail[0] = '\0';
			}
		}
		else if (w->state == KS_STATE_FINISHED && w->version == w->wanted_version)
			;					/* nothing left to do */
		else if (w->next_start <= now)
			start = true;
		else
			again = TimestampDifferenceMilliseconds(now, w->next_start) + 1;
		if (start && w->state != KS_STATE_ERROR)
			w->state = KS_STATE_STARTING;
	}
	LWLockRelease(ks_shared->lock);

	if (rescan)
		ks_rescan_now(database);
	if (start && !launch(index))
	{
		*full = true;
		LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
		w->state = KS_STATE_WAITING;
		strlcpy(w->detail, NO_WORKER, sizeof(w->detail));
		LWLockRelease(ks_shared->lock);
		again = NO_WORKER_RETRY_MS;
	}
	return again;
}

/*
 * Ends the worker that was started last, so that a scan can run: without one, nobody would learn that a definition was
 * paused or dropped, and no background worker might ever become free.  It is started again when there is room.
 */
static void
make_room_for_scan(void)
{
	KsWorker   *last = NULL;

	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ks_shared->nworkers; i++)
	{
		KsWorker   *w = &ks_workers[i];

		if (w->kind != KS_WORKER_NONE && w->pid != 0 && (last == NULL || w->started_at > last->started_at))
			last = w;
	}
	if (last)
		kill(last->pid, SIGTERM);
	LWLockRelease(ks_shared->lock);
}

/* Starts the next scan if none runs.  Returns the milliseconds after which to look again (-1 = none). */
static long
next_scan(bool *full)
{
	int			index = ks_shared->nworkers;
	KsWorker   *w = &ks_workers[index];

	while (scan_queue != NIL && launches[index].handle == NULL)
	{
		Oid			database = linitial_oid(scan_queue);
		bool		blocked;
		List	   *databases = list_databases();
		bool		exists = list_member_oid(databases, database);

		if (!exists)
		{
			forget_dropped_databases(databases);
			/* any other one can drop what is left of it */
			if (databases != NIL)
				scan_queue = list_append_unique_oid(scan_queue, linitial_oid(databases));
		}
		list_free(databases);
		if (!exists)
		{
			scan_queue = list_delete_first(scan_queue);
			continue;
		}

		LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
		blocked = ks_database_is_blocked(database);
		if (!blocked)
		{
			w->kind = KS_WORKER_SCAN;
			w->database = database;
			w->object_id = 0;
			w->wanted = true;
			w->dropped = false;
			w->failures = 0;
			w->state = KS_STATE_STARTING;
		}
		LWLockRelease(ks_shared->lock);
		if (blocked)
		{
			scan_queue = list_delete_first(scan_queue);	/* asked for again when it is unblocked */
			continue;
		}
		if (!launch(index))
		{
			TimestampTz now = GetCurrentTimestamp();

			*full = true;
			if (scan_waits_since == 0)
				scan_waits_since = now;
			else if (TimestampDifferenceExceeds(scan_waits_since, now, SCAN_PATIENCE_MS))
			{
				make_room_for_scan();
				scan_waits_since = now;
			}
			return NO_WORKER_RETRY_MS;
		}
		scan_waits_since = 0;
		scan_queue = list_delete_first(scan_queue);
	}
	return -1;
}

/* Unblocks databases whose blocker has gone without doing so. */
static void
drop_dead_blockers(void)
{
	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ks_shared->nblocked; i++)
	{
		if (kill(ks_shared->blocker[i], 0) == 0)
			continue;
		ks_shared->nblocked--;
		ks_shared->blocked[i] = ks_shared->blocked[ks_shared->nblocked];
		ks_shared->blocker[i] = ks_shared->blocker[ks_shared->nblocked];
		ks_shared->rescan_all = true;
		i--;
	}
	LWLockRelease(ks_shared->lock);
}

/* Returns the earlier of two waits in ms, of which -1 means none. */
static long
earlier(long a, long b)
{
	if (a < 0)
		return b;
	if (b < 0)
		return a;
	return Min(a, b);
}

/*
 * Waits a while if the server has just come back from a crash (shared memory is new, the postmaster is not): a worker
 * that crashes every time must not keep everybody else from working in between.
 */
static void
wait_after_crash(void)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), AFTER_CRASH_MS);
	bool		fresh;

	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	fresh = !ks_shared->launcher_ran;
	ks_shared->launcher_ran = true;
	LWLockRelease(ks_shared->lock);
	if (!fresh || !TimestampDifferenceExceeds(PgStartTime, GetCurrentTimestamp(), YOUNG_SERVER_MS))
		return;
	set_message("the server came back from a crash: workers start in a moment");
	while (GetCurrentTimestamp() < until)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until) + 1,
						 ks_wait_event("KafkaLauncherMain"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Main function of the launcher. */
void
ks_launcher_main(Datum arg)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	ks_shared->launcher_pid = MyProcPid;
	ks_shared->launcher_latch = &MyProc->procLatch;
	ks_shared->rescan_all = true;
	LWLockRelease(ks_shared->lock);
	on_shmem_exit(launcher_exit, (Datum) 0);

	launcher_context = AllocSetContextCreate(TopMemoryContext, "pg_kafka_sync launcher", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(launcher_context);
	launches = palloc0(sizeof(Launch) * (ks_shared->nworkers + 1));
	SetConfigOption("application_name", "pg_kafka_sync launcher", PGC_USERSET, PGC_S_SESSION);
	pgstat_report_activity(STATE_IDLE, "launcher: watching publishers and subscriptions");
	wait_after_crash();

	for (;;)
	{
		long		timeout;
		bool		full = false;
		bool		all = false;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		drop_dead_blockers();
		collect_scan_requests(&all);
		for (int i = 0; i <= ks_shared->nworkers; i++)
			reap(i);
		if (all || next_scan_all <= GetCurrentTimestamp())
		{
			list_free(scan_queue);
			scan_queue = list_databases();
			forget_dropped_databases(scan_queue);
			next_scan_all = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SCAN_ALL_EVERY_MS);
		}
		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next_scan_all) + 1;
		timeout = earlier(timeout, next_scan(&full));
		for (int i = 0; i < ks_shared->nworkers; i++)
			timeout = earlier(timeout, steer(i, &full));
		set_message(full ? NO_WORKER : ks_shared->no_room ? NO_ROOM : NULL);

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout,
						 ks_wait_event("KafkaLauncherMain"));
		ResetLatch(MyLatch);
	}
}
