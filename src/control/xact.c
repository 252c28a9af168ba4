/*
 * xact.c: what happens at the end of any transaction: publishers of the database are woken after a commit (nothing else
 * wakes a background worker on WAL flush), and the launcher looks at definitions that the transaction changed.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "control/shmem.h"
#include "control/xact.h"
#include "miscadmin.h"

static bool rescan_wanted = false;

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
			if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
				ks_wake_publishers();
			if (rescan_wanted)
			{
				rescan_wanted = false;
				ks_rescan_now(MyDatabaseId);
			}
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			rescan_wanted = false;
			break;
		default:
			break;
	}
}

/* Asks the launcher, when the current transaction commits, to look at this database's definitions again. */
void
ks_rescan_at_commit(void)
{
	rescan_wanted = true;
}

/* Registers the callback; called from _PG_init while preloading, so every backend inherits it. */
void
ks_xact_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}
