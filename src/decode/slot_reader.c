/*
 * slot_reader.c: reads a publisher's slot; see slot_reader.h.
 *
 * Decoding runs outside any transaction, as in a walsender: the reorder buffer makes its own.  While the slot is held
 * the process is flagged as decoding, its xmin is ignored, and rows it wrote could vanish: it never writes.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlogreader.h"
#include "compat/decode_compat.h"
#include "decode/output_libraries.h"
#include "decode/slot_reader.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

struct KsSlotReader
{
	LogicalDecodingContext *ctx;
	MemoryContext context;		/* current while reading and decoding; what the WAL reader allocates stays in use */
	ResourceOwner owner;
	XLogRecPtr	confirmed;
	XLogRecPtr	saved;			/* confirmed position that is on disk */
};

/* Raises the ERROR for a slot that is not there or lost what it needs; returns if it is fine. */
static void
check_slot(const char *slot_name, const char *publisher)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(slot_name, true);
	bool		lost = false;

	if (slot != NULL)
	{
		SpinLockAcquire(&slot->mutex);
		lost = ks_slot_is_invalidated(slot) || XLogRecPtrIsInvalid(slot->data.restart_lsn);
		SpinLockRelease(&slot->mutex);
	}
	if (slot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("replication slot \"%s\" of publisher \"%s\" does not exist", slot_name, publisher),
				 errdetail("Changes since it was lost cannot be published."),
				 errhint("Drop the publisher and create it again with a snapshot.")));
	if (lost)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replication slot \"%s\" of publisher \"%s\" was invalidated", slot_name, publisher),
				 errdetail("The server has removed WAL or catalog rows that it needs; changes are missing."),
				 errhint("Drop the publisher and create it again with a snapshot; raise max_slot_wal_keep_size.")));
}

KsSlotReader *
ks_slot_reader_open(const char *slot_name, const char *publisher, const KsPipeline *pipeline,
					KsWalWait wait, void *wait_arg)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "slot reader", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	KsSlotReader *reader = palloc0(sizeof(KsSlotReader));

	Assert(!IsTransactionState());
	reader->context = context;
	reader->owner = ResourceOwnerCreate(NULL, "pg_kafka_sync slot reader");
	CurrentResourceOwner = reader->owner;

	CheckLogicalDecodingRequirements();
	ks_allow_output_plugin(true);
	check_slot(slot_name, publisher);
	ks_slot_acquire(slot_name);
	ks_pipeline_attach(pipeline);
	ks_wal_set_wait(wait, wait_arg);
	reader->ctx = CreateDecodingContext(InvalidXLogRecPtr, NIL, false, ks_wal_routine(), NULL, NULL, NULL);
	reader->confirmed = reader->saved = MyReplicationSlot->data.confirmed_flush;
	XLogBeginRead(reader->ctx->reader, MyReplicationSlot->data.restart_lsn);
	/* what the caches hold came from ordinary snapshots */
	InvalidateSystemCaches();
	MemoryContextSwitchTo(old);
	return reader;
}

XLogRecPtr
ks_slot_reader_next(KsSlotReader *reader)
{
	char	   *error = NULL;
	XLogRecord *record;

	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	/* the reorder buffer's transactions leave other ones behind */
	CurrentResourceOwner = reader->owner;
	MemoryContextSwitchTo(reader->context);
	record = XLogReadRecord(reader->ctx->reader, &error);
	if (error)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not read WAL at %X/%X: %s", LSN_FORMAT_ARGS(reader->ctx->reader->EndRecPtr), error)));
	if (record == NULL)
		elog(ERROR, "no WAL record at %X/%X", LSN_FORMAT_ARGS(reader->ctx->reader->EndRecPtr));
	LogicalDecodingProcessRecord(reader->ctx, reader->ctx->reader);
	return reader->ctx->reader->EndRecPtr;
}

void
ks_slot_reader_confirm(KsSlotReader *reader, XLogRecPtr lsn, bool save)
{
	if (lsn > reader->confirmed)
	{
		LogicalConfirmReceivedLocation(lsn);
		reader->confirmed = lsn;
	}
	if (save && reader->confirmed > reader->saved)
	{
		ReplicationSlotMarkDirty();
		ReplicationSlotSave();
		reader->saved = reader->confirmed;
	}
}

XLogRecPtr
ks_slot_reader_confirmed(const KsSlotReader *reader)
{
	return reader->confirmed;
}
