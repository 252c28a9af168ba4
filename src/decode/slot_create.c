/*
 * slot_create.c: making and dropping a publisher's slot; see slot_create.h.
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xact.h"
#include "access/xlogreader.h"
#include "compat/decode_compat.h"
#include "control/hooks.h"
#include "decode/decode.h"
#include "decode/output_libraries.h"
#include "decode/slot_create.h"
#include "decode/wal_page.h"
#include "miscadmin.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/snapbuild.h"
#include "storage/standbydefs.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

/* A slot of this transaction that an abort must drop. */
typedef struct PendingSlot
{
	NameData	name;
	SubTransactionId subid;
} PendingSlot;

static List *pending_slots = NIL;	/* in TopMemoryContext */

bool
ks_slot_exists(const char *name)
{
	return SearchNamedReplicationSlot(name, true) != NULL;
}

XLogRecPtr
ks_slot_confirmed(const char *name)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(name, true);
	XLogRecPtr	confirmed;

	if (slot == NULL)
		return InvalidXLogRecPtr;
	SpinLockAcquire(&slot->mutex);
	confirmed = slot->data.confirmed_flush;
	SpinLockRelease(&slot->mutex);
	return confirmed;
}

void
ks_slot_drop(const char *name, bool missing_ok)
{
	if (missing_ok && !ks_slot_exists(name))
		return;
	ReplicationSlotDrop(name, true);
}

/* Drops a pending slot during an abort: nothing may be raised there, a slot that stays is only worth a warning. */
static void
drop_pending(PendingSlot *slot)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		if (MyReplicationSlot != NULL)
			ReplicationSlotRelease();
		ks_slot_drop(NameStr(slot->name), true);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		FlushErrorState();
		ereport(WARNING, (errmsg("could not drop replication slot \"%s\"", NameStr(slot->name))));
	}
	PG_END_TRY();
}

/* Forgets pending slots of level subid and below (0 = all), dropping them first if that is asked. */
static void
end_pending(SubTransactionId subid, bool drop)
{
	ListCell   *lc;

	foreach(lc, pending_slots)
	{
		PendingSlot *slot = lfirst(lc);

		if (subid != InvalidSubTransactionId && slot->subid < subid)
			continue;
		if (drop)
			drop_pending(slot);
		pending_slots = foreach_delete_current(pending_slots, lc);
		pfree(slot);
	}
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (pending_slots == NIL)
		return;
	if (event == XACT_EVENT_ABORT)
		end_pending(InvalidSubTransactionId, true);
	else if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE)
		end_pending(InvalidSubTransactionId, false);
}

static void
subxact_callback(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	ListCell   *lc;

	if (pending_slots == NIL)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		end_pending(mine, true);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		foreach(lc, pending_slots)
		{
			PendingSlot *slot = lfirst(lc);

			if (slot->subid >= mine)
				slot->subid = parent;
		}
}

/* Notes that an abort must drop the slot. */
static void
register_pending(const char *name)
{
	static bool registered = false;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	PendingSlot *slot = palloc(sizeof(PendingSlot));

	namestrcpy(&slot->name, name);
	slot->subid = GetCurrentSubTransactionId();
	pending_slots = lappend(pending_slots, slot);
	MemoryContextSwitchTo(old);
	if (!registered)
	{
		RegisterXactCallback(xact_callback, NULL);
		RegisterSubXactCallback(subxact_callback, NULL);
		registered = true;
	}
}

void
ks_slot_create(const char *name)
{
	LogicalDecodingContext *ctx;
	int			nest_level;

	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a replication slot cannot be made in a transaction that has written"),
				 errhint("Call it in a transaction of its own.")));
	CheckLogicalDecodingRequirements();
	nest_level = NewGUCNestLevel();
	ks_allow_output_plugin(false);
	ks_slot_make_ephemeral(name);
	PG_TRY();
	{
		ctx = CreateInitDecodingContext(KS_OUTPUT_PLUGIN, NIL, false, InvalidXLogRecPtr, ks_wal_routine(),
										NULL, NULL, NULL);
		DecodingContextFindStartpoint(ctx);
		FreeDecodingContext(ctx);
	}
	PG_CATCH();
	{
		/* a caller may catch the ERROR and go on: the slot goes now */
		ReplicationSlotRelease();
		PG_RE_THROW();
	}
	PG_END_TRY();
	register_pending(name);
	ReplicationSlotPersist();
	ReplicationSlotRelease();
	AtEOXact_GUC(true, nest_level);
}

/*
 * Waits for the transactions that a record of running ones names, so that the snapshot builder, which would wait for
 * them itself without telling anyone, need not.
 */
static void
wait_for_running(XLogReaderState *reader, void (*wait_for) (const TransactionId *xids, int count))
{
	xl_running_xacts *running;

	if (XLogRecGetRmid(reader) != RM_STANDBY_ID ||
		(XLogRecGetInfo(reader) & ~XLR_INFO_MASK) != XLOG_RUNNING_XACTS)
		return;
	running = (xl_running_xacts *) XLogRecGetData(reader);
	if (running->xcnt > 0)
		wait_for(running->xids, running->xcnt);
}

void
ks_slot_create_in_worker(const char *name, void (*wait_for) (const TransactionId *xids, int count))
{
	LogicalDecodingContext *ctx;
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "slot creation", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	Assert(!IsTransactionState());
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "pg_kafka_sync slot creation");
	CheckLogicalDecodingRequirements();
	ks_allow_output_plugin(true);
	ks_slot_make_ephemeral(name);
	ctx = CreateInitDecodingContext(KS_OUTPUT_PLUGIN, NIL, false, InvalidXLogRecPtr, ks_wal_routine(),
									NULL, NULL, NULL);
	XLogBeginRead(ctx->reader, ctx->slot->data.restart_lsn);
	while (!DecodingContextReady(ctx))
	{
		char	   *error = NULL;
		XLogRecord *record = XLogReadRecord(ctx->reader, &error);

		if (error)
			ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("could not read WAL: %s", error)));
		if (record == NULL)
			elog(ERROR, "no WAL record while looking for a start of decoding");
		wait_for_running(ctx->reader, wait_for);
		LogicalDecodingProcessRecord(ctx, ctx->reader);
		MemoryContextSwitchTo(context);
		CHECK_FOR_INTERRUPTS();
	}
	SpinLockAcquire(&ctx->slot->mutex);
	ctx->slot->data.confirmed_flush = ctx->reader->EndRecPtr;
	SpinLockRelease(&ctx->slot->mutex);
	FreeDecodingContext(ctx);
	ReplicationSlotPersist();
	ReplicationSlotRelease();
	InvalidateSystemCaches();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

void
ks_decode_init(void)
{
	ks_slot_create_hook = ks_slot_create;
	ks_slot_drop_hook = ks_slot_drop;
}
