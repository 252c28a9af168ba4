/*
 * xact.c: what happens at the end of any transaction: publishers of the database are woken after a commit (nothing else
 * wakes a background worker on WAL flush), and the launcher looks at definitions that the transaction changed.
 */
#include "postgres.h"

#include <signal.h>

#include "access/transam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "control/shmem.h"
#include "control/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

static bool rescan_wanted = false;
static bool rescan_all_wanted = false;

/* Workers to begin anew; in TopTransactionContext. */
typedef struct Restart
{
	KsWorkerKind kind;
	int64		object_id;
} Restart;

static List *restarts = NIL;

/* Ids of subscriptions with dead letters to be retried; in TopTransactionContext. */
static List *retries = NIL;

/* Ends the workers that are to begin anew; the launcher starts them again. */
static void
end_workers(void)
{
	ListCell   *lc;

	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	foreach(lc, restarts)
	{
		Restart    *r = lfirst(lc);

		for (int i = 0; i < ks_shared->nworkers; i++)
		{
			KsWorker   *w = &ks_workers[i];

			if (w->kind == r->kind && w->database == MyDatabaseId && w->object_id == r->object_id && w->pid != 0)
				kill(w->pid, SIGTERM);
		}
	}
	LWLockRelease(ks_shared->lock);
}

/* Tells workers of dead letters to be retried. */
static void
wake_for_retries(void)
{
	ListCell   *lc;

	LWLockAcquire(ks_shared->lock, LW_SHARED);
	foreach(lc, retries)
		for (int i = 0; i < ks_shared->nworkers; i++)
		{
			KsWorker   *w = &ks_workers[i];

			if (w->kind != KS_WORKER_SUBSCRIPTION || w->database != MyDatabaseId || w->object_id != *(int64 *) lfirst(lc))
				continue;
			pg_atomic_fetch_add_u64(&w->retry_requests, 1);
			if (w->latch)
				SetLatch(w->latch);
		}
	LWLockRelease(ks_shared->lock);
}

/*
 * Sets the latches of all publishers of this database.  No lock: a latch lives in shared memory for ever, and waking
 * the wrong process is harmless.
 */
void
ks_wake_publishers(void)
{
	if (pg_atomic_read_u32(&ks_shared->npublishers) == 0)
		return;
	for (int i = 0; i < ks_shared->nworkers; i++)
	{
		volatile KsWorker *w = &ks_workers[i];
		Latch	   *latch = w->latch;

		if (w->kind == KS_WORKER_PUBLISHER && w->database == MyDatabaseId && latch != NULL)
			SetLatch(latch);
	}
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (ks_shared == NULL)
				return;
			ks_databases_unblock();
			if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
				ks_wake_publishers();
			if (restarts != NIL)
				end_workers();
			restarts = NIL;
			if (retries != NIL)
				wake_for_retries();
			retries = NIL;
			if (rescan_wanted || rescan_all_wanted)
				ks_rescan_now(rescan_all_wanted ? InvalidOid : MyDatabaseId);
			rescan_wanted = rescan_all_wanted = false;
			break;
		case XACT_EVENT_PRE_PREPARE:
			/* whoever commits it later would not know that there is something to tell the launcher */
			if (rescan_wanted || retries != NIL)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has changed publishers or subscriptions")));
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			if (ks_shared != NULL)
				ks_databases_unblock();
			rescan_wanted = rescan_all_wanted = false;
			restarts = NIL;
			retries = NIL;
			break;
		default:
			break;
	}
}

/* Asks the launcher, when the current transaction commits, to look at all databases again. */
void
ks_rescan_all_at_commit(void)
{
	rescan_all_wanted = true;
}

/* Asks the launcher, when the current transaction commits, to look at this database's definitions again. */
void
ks_rescan_at_commit(void)
{
	rescan_wanted = true;
}

PG_FUNCTION_INFO_V1(ks_definitions_changed);

/* kafka.definitions_changed(): statement trigger of the definitions' tables. */
Datum
ks_definitions_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("kafka.definitions_changed() is a trigger function")));
	ks_rescan_at_commit();
	return PointerGetDatum(NULL);
}

/* Asks that the worker of an object begins anew when the current transaction commits: what it uses is gone. */
void
ks_restart_at_commit(KsWorkerKind kind, int64 object_id)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	Restart    *r = palloc(sizeof(Restart));

	r->kind = kind;
	r->object_id = object_id;
	restarts = lappend(restarts, r);
	MemoryContextSwitchTo(old);
}

/* Has a subscription's worker look, when the current transaction commits, for dead letters to be retried. */
void
ks_retry_at_commit(int64 subscription_id)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	int64	   *id = palloc(sizeof(int64));

	*id = subscription_id;
	retries = lappend(retries, id);
	MemoryContextSwitchTo(old);
}

/* Registers the callback; called from _PG_init while preloading, so every backend inherits it. */
void
ks_xact_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}
