/*
 * snapshot_wait.c: making the slot of an initial snapshot, and waiting for older transactions; see snapshot.h.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "compat/pg_compat.h"
#include "control/worker.h"
#include "decode/slot_create.h"
#include "miscadmin.h"
#include "produce/publisher_catalog.h"
#include "produce/snapshot.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "utils/snapmgr.h"

#define POLL_FIRST_MS 10
#define POLL_CAP_MS 500

/* Shows which transactions are waited for, by the pids of their processes. */
static void
show_waiting(const TransactionId *xids, int count)
{
	StringInfoData text;
	int			shown = 0;

	initStringInfo(&text);
	appendStringInfo(&text, "waiting for %d transaction%s to end: ", count, count == 1 ? "" : "s");
	for (int i = 0; i < count && shown < 20; i++)
	{
		int			pid = BackendXidGetPid(xids[i]);

		if (pid != 0)
			appendStringInfo(&text, "%spid %d", shown++ ? ", " : "", pid);
		else
			appendStringInfo(&text, "%sprepared transaction %u", shown++ ? ", " : "", xids[i]);
	}
	if (shown < count)
		appendStringInfoString(&text, ", ...");
	ks_worker_set_state(KS_STATE_WAITING, text.data);
	pfree(text.data);
}

/* Sleeps between two looks, a little longer each time. */
static void
pause_between(long *ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, *ms,
					 ks_wait_event("KafkaSnapshotWait"));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	*ms = Min(*ms * 2, POLL_CAP_MS);
}

/* Waits until all of these transactions have ended. */
static void
wait_for_xids(const TransactionId *xids, int count)
{
	TransactionId *left = palloc(sizeof(TransactionId) * count);
	int			nleft = count;
	long		ms = POLL_FIRST_MS;

	memcpy(left, xids, sizeof(TransactionId) * count);
	for (;;)
	{
		int			n = 0;

		for (int i = 0; i < nleft; i++)
			if (TransactionIdIsInProgress(left[i]))
				left[n++] = left[i];
		nleft = n;
		if (nleft == 0)
			break;
		show_waiting(left, nleft);
		pause_between(&ms);
	}
	pfree(left);
}

/* Waits until no transaction older than the floor is running, in any database. */
static void
wait_below_floor(uint64 floor)
{
	long		ms = POLL_FIRST_MS;

	for (;;)
	{
		MemoryContext context = CurrentMemoryContext;
		FullTransactionId next;
		Snapshot	snapshot;
		TransactionId *older;
		int			count = 0;

		StartTransactionCommand();
		snapshot = GetTransactionSnapshot();
		next = ReadNextFullTransactionId();
		older = MemoryContextAlloc(context, sizeof(TransactionId) * Max(snapshot->xcnt, 1));
		for (uint32 i = 0; i < snapshot->xcnt; i++)
		{
			TransactionId xid = snapshot->xip[i];
			uint64		full = U64FromFullTransactionId(FullTransactionIdFromEpochAndXid
														(EpochFromFullTransactionId(next) -
														 (xid > XidFromFullTransactionId(next) ? 1 : 0), xid));

			if (full < floor)
				older[count++] = xid;
		}
		CommitTransactionCommand();
		MemoryContextSwitchTo(context);
		if (count > 0)
		{
			show_waiting(older, count);
			pause_between(&ms);
		}
		pfree(older);
		if (count == 0)
			return;
	}
}

void
ks_snapshot_prepare(KsPublisher *publisher)
{
	const char *slot = NameStr(publisher->slot_name);

	if (publisher->snapshot_floor == 0)
	{
		/* one that is there was made by an attempt that could not store its floor */
		ks_slot_drop(slot, true);
		ks_worker_set_state(KS_STATE_WAITING, "making the replication slot");
		ks_slot_create_in_worker(slot, wait_for_xids);
		publisher->snapshot_floor = (int64) U64FromFullTransactionId(ReadNextFullTransactionId());
		ks_store_floor(publisher->id, (uint64) publisher->snapshot_floor);
	}
	wait_below_floor((uint64) publisher->snapshot_floor);
}
