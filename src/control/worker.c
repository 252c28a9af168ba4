/*
 * worker.c: what every background worker uses: attaching to its place in shared memory, state, counters, end.
 */
#include "postgres.h"

#include <inttypes.h>

#include "access/xact.h"
#include "compat/pg_compat.h"
#include "control/shmem.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

KsWorker   *ks_my_worker = NULL;
static KsWorker *first_worker = NULL;	/* of the same object; waiters sleep on its condition variable */

static const char *const state_names[] = {
	[KS_STATE_STARTING] = "starting",
	[KS_STATE_WAITING] = "waiting",
	[KS_STATE_SNAPSHOT] = "snapshot",
	[KS_STATE_STREAMING] = "streaming",
	[KS_STATE_REBUILDING] = "rebuilding",
	[KS_STATE_PAUSED] = "paused",
	[KS_STATE_RETRYING] = "retrying",
	[KS_STATE_ERROR] = "error",
	[KS_STATE_FINISHED] = "finished"
};

/* Returns the word that status views show for a state. */
const char *
ks_state_name(KsWorkerState state)
{
	return state_names[state];
}

/* Returns the word for a kind of worker, as in pg_stat_activity. */
static const char *
kind_name(KsWorkerKind kind)
{
	switch (kind)
	{
		case KS_WORKER_PUBLISHER:
			return "publisher";
		case KS_WORKER_SUBSCRIPTION:
			return "subscription";
		default:
			return "scan";
	}
}

/* What tells a further worker of a subscription from the first, in names: "/1". */
static const char *
ordinal_text(const KsWorker *w)
{
	static char text[16];

	text[0] = '\0';
	if (w->ordinal > 0)
		snprintf(text, sizeof(text), "/%d", w->ordinal);
	return text;
}

/* Wakes who waits for progress of this worker's object. A place that has got another user wakes somebody in vain. */
static void
broadcast(KsWorker *w)
{
	ConditionVariableBroadcast(&w->progress);
	if (first_worker != NULL && first_worker != w)
		ConditionVariableBroadcast(&first_worker->progress);
}

/* Leaves the place in shared memory when the process ends, however it ends. */
static void
worker_exit(int code, Datum arg)
{
	KsWorker   *w = ks_my_worker;

	if (w == NULL)
		return;
	LWLockReleaseAll();
	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	if (w->kind == KS_WORKER_PUBLISHER)
		pg_atomic_fetch_sub_u32(&ks_shared->npublishers, 1);
	w->latch = NULL;
	w->pid = 0;
	if (w->state != KS_STATE_ERROR && w->state != KS_STATE_FINISHED)
		w->state = KS_STATE_STARTING;
	w->detail[0] = '\0';
	LWLockRelease(ks_shared->lock);
	ks_my_worker = NULL;
	broadcast(w);
	ks_launcher_wake();
}

/* Settings of our sessions that must not follow postgresql.conf, ALTER DATABASE or ALTER ROLE. */
static void
fix_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"},
		{"row_security", "off"},
		{"check_function_bodies", "off"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	/* binary forms of text are in it */
	SetConfigOption("client_encoding", GetDatabaseEncodingName(), PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * First call of every worker's main function; see worker.h.  Returns the worker's place.
 */
KsWorker *
ks_worker_attach(Datum main_arg, KsWorkerKind kind)
{
	KsWorker   *w = &ks_workers[DatumGetInt32(main_arg)];
	bool		mine;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();

	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	mine = w->kind == kind && w->pid == 0 && w->wanted;
	if (mine)
	{
		w->pid = MyProcPid;
		w->latch = &MyProc->procLatch;
		if (w->failures == 0)
			w->state = KS_STATE_STARTING;
		w->detail[0] = '\0';
		memset(w->problems, 0, sizeof(w->problems));
		w->started_at = GetCurrentTimestamp();
		w->version = w->wanted_version;
		w->restart_now = false;
		if (kind == KS_WORKER_PUBLISHER)
			pg_atomic_fetch_add_u32(&ks_shared->npublishers, 1);
	}
	first_worker = ks_worker_find(w->database, kind, w->object_id, 0);
	LWLockRelease(ks_shared->lock);
	if (!mine)
		proc_exit(0);			/* paused or dropped between launch and now */

	ks_my_worker = w;
	/* on_, not before_shmem_exit: the slot and the origin are released by then, so a successor can take them */
	on_shmem_exit(worker_exit, (Datum) 0);
	BackgroundWorkerInitializeConnectionByOid(w->database, InvalidOid, 0);
	fix_settings();
	if (kind != KS_WORKER_SCAN)
	{
		char		name[NAMEDATALEN + 64];

		snprintf(name, sizeof(name), "pg_kafka_sync %s %s%s", kind_name(kind), NameStr(w->name), ordinal_text(w));
		SetConfigOption("application_name", name, PGC_USERSET, PGC_S_SESSION);
		ks_worker_set_state(KS_STATE_STARTING, NULL);
	}
	return w;
}

/* Copies an error into last_error, message first, then detail and hint. */
static void
store_error(const char *message, const char *detail, const char *hint, bool final)
{
	KsWorker   *w = ks_my_worker;
	char		text[KS_ERROR_SIZE];
	int			size;

	snprintf(text, sizeof(text), "%s%s%s%s%s%s", message ? message : "unknown error",
			 detail ? " (" : "", detail ? detail : "", detail ? ")" : "",
			 hint ? " Hint: " : "", hint ? hint : "");
	size = pg_mbcliplen(text, strlen(text), sizeof(text) - 1);
	text[size] = '\0';

	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	strlcpy(w->last_error, text, sizeof(w->last_error));
	w->last_error_at = GetCurrentTimestamp();
	if (final)
	{
		w->state = KS_STATE_ERROR;
		w->failures++;
	}
	LWLockRelease(ks_shared->lock);
}

/* Runs body(); an ERROR becomes state "error" and the end of the process.  See worker.h. */
void
ks_worker_run(void (*body) (void))
{
	PG_TRY();
	{
		body();
	}
	PG_CATCH();
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		ErrorData  *edata = CopyErrorData();

		HOLD_INTERRUPTS();
		LWLockReleaseAll();
		store_error(edata->message, edata->detail, edata->hint, true);
		MemoryContextSwitchTo(old);
		PG_RE_THROW();			/* the background worker's own handler logs it and ends the process */
	}
	PG_END_TRY();
}

/* What the worker last said of itself, while "error" is still shown. */
static KsWorkerState said_state;
static char said_detail[KS_DETAIL_SIZE];

/* Sets state, detail and the pg_stat_activity text; cheap when nothing changed. */
void
ks_worker_set_state(KsWorkerState state, const char *detail)
{
	KsWorker   *w = ks_my_worker;
	char		activity[KS_DETAIL_SIZE + NAMEDATALEN + 96];
	bool		changed;

	if (detail == NULL)
		detail = "";
	said_state = state;
	strlcpy(said_detail, detail, sizeof(said_detail));
	/* a worker that only begins again after an error has not got over it yet: that takes progress */
	if (w->failures > 0 && (state == KS_STATE_STARTING || state == KS_STATE_STREAMING))
	{
		state = KS_STATE_ERROR;
		detail = "trying again";
	}
	/* only this process writes them */
	changed = w->state != state || strncmp(w->detail, detail, sizeof(w->detail) - 1) != 0;
	if (changed)
	{
		LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
		w->state = state;
		strlcpy(w->detail, detail, sizeof(w->detail));
		LWLockRelease(ks_shared->lock);
	}
	if (changed || state == KS_STATE_STARTING)
	{
		snprintf(activity, sizeof(activity), "%s %s%s: %s%s%s", kind_name(w->kind), NameStr(w->name),
				 ordinal_text(w), ks_state_name(state), detail[0] ? ", " : "", detail);
		pgstat_report_activity(STATE_RUNNING, activity);
	}
}

/* Stores an error text of a worker that goes on. */
void
ks_worker_note_error(const char *message)
{
	/* only this process writes it: the comparison needs no lock; a repeated error only moves the time on */
	store_error(message, NULL, NULL, false);
}

/* Sets (or with NULL clears) one of this worker's lines in kafka.problems. */
void
ks_worker_set_problem(int slot, const char *message)
{
	KsWorker   *w = ks_my_worker;

	Assert(slot >= 0 && slot < KS_PROBLEMS);
	if (strncmp(w->problems[slot], message ? message : "", KS_DETAIL_SIZE - 1) == 0)
		return;
	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	strlcpy(w->problems[slot], message ? message : "", KS_DETAIL_SIZE);
	LWLockRelease(ks_shared->lock);
}

/* Streaming moved: the back-off starts anew, and waiters look again. */
void
ks_worker_progress(void)
{
	KsWorker   *w = ks_my_worker;

	if (w->failures != 0)
	{
		LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
		w->failures = 0;
		LWLockRelease(ks_shared->lock);
		if (w->state == KS_STATE_ERROR)
		{
			char		detail[KS_DETAIL_SIZE];

			strlcpy(detail, said_detail, sizeof(detail));
			ks_worker_set_state(said_state, detail);
		}
	}
	broadcast(w);
}

/* Publishes the log ends of a partition, for kafka.subscription_offsets; silently does without when there is no room. */
void
ks_partition_report(const char *topic, int32 partition, int64 next_offset, int64 high, int64 stable)
{
	KsPartition *place = NULL;

	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ks_shared->npartitions; i++)
	{
		KsPartition *p = &ks_partitions[i];

		if (!OidIsValid(p->database))
		{
			if (place == NULL)
				place = p;
			continue;
		}
		if (p->partition == partition && p->subscription_id == ks_my_worker->object_id &&
			p->database == MyDatabaseId && strcmp(p->topic, topic) == 0)
		{
			place = p;
			break;
		}
	}
	if (place)
	{
		place->database = MyDatabaseId;
		place->subscription_id = ks_my_worker->object_id;
		place->ordinal = ks_my_worker->ordinal;
		strlcpy(place->topic, topic, sizeof(place->topic));
		place->partition = partition;
		place->next_offset = next_offset;
		place->high_watermark = high;
		place->last_stable_offset = stable;
	}
	LWLockRelease(ks_shared->lock);
}

/* Forgets all partitions that this worker's place reported. */
void
ks_partition_forget(void)
{
	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ks_shared->npartitions; i++)
		if (ks_partitions[i].database == MyDatabaseId && ks_partitions[i].subscription_id == ks_my_worker->object_id &&
			ks_partitions[i].ordinal == ks_my_worker->ordinal)
			ks_partitions[i].database = InvalidOid;
	LWLockRelease(ks_shared->lock);
}

/* Writes the name of a replication origin to dst (NAMEDATALEN bytes): each worker of a subscription has its own. */
void
ks_origin_name(char *dst, Oid database, int64 subscription_id, int32 ordinal)
{
	char		suffix[16] = "";

	if (ordinal > 0)
		snprintf(suffix, sizeof(suffix), "_%d", ordinal);
	snprintf(dst, NAMEDATALEN, KS_ORIGIN_PREFIX "%u_%016" PRIx64 "%s", database, (uint64) subscription_id, suffix);
}

/* Writes the name of a publisher's slot to dst (NAMEDATALEN bytes). */
void
ks_slot_name(char *dst, Oid database, int64 publisher_id)
{
	snprintf(dst, NAMEDATALEN, "pg_kafka_sync_%u_%016" PRIx64, database, (uint64) publisher_id);
}
