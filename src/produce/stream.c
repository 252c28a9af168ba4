/*
 * stream.c: the main loop of a publisher; see stream.h.
 *
 * The slot is told only what is safe: the end of the newest transaction that is acknowledged together with all before
 * it; with nothing under way, the end of the last record that was read, so that WAL nobody publishes is not kept.
 */
#include "postgres.h"

#include "control/worker.h"
#include "decode/slot_reader.h"
#include "miscadmin.h"
#include "produce/problems.h"
#include "produce/stream.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#define SERVE_EVERY 256			/* records between two looks at reports */
#define SAVE_IDLE_MS 1000		/* the slot goes to disk so long after it moved, when there is nothing else to do */
#define SAVE_BUSY_MS 5000
#define LAST_FLUSH_MS 5000
#define EXIT_FLUSH_MS 500

typedef struct Stream
{
	KsSlotReader *reader;
	KsProducer *producer;
	XLogRecPtr	read;			/* end of the last record read */
	XLogRecPtr	acked;			/* last shown */
	TimestampTz saved_at;
	bool		unsaved;
	bool		ending;
} Stream;

static Stream stream;

/* Everything that ends at or before this LSN is acknowledged. */
static XLogRecPtr
safe_lsn(void)
{
	KsLedger   *ledger = ks_producer_ledger(stream.producer);

	return ks_ledger_is_empty(ledger) ? Max(stream.read, ledger->safe_lsn) : ledger->safe_lsn;
}

/*
 * Confirms and shows what is safe.  "flushed" is Invalid, or how far WAL has been flushed when all of that has been
 * read: then waiters for that position need not wait, though the slot is only told of whole records.
 */
static void
report(XLogRecPtr flushed, bool idle)
{
	KsLedger   *ledger = ks_producer_ledger(stream.producer);
	XLogRecPtr	safe = safe_lsn();
	XLogRecPtr	shown = safe;
	TimestampTz now = GetCurrentTimestamp();

	if (!XLogRecPtrIsInvalid(flushed) && ks_ledger_is_empty(ledger))
		shown = Max(safe, flushed);
	if (safe > ks_slot_reader_confirmed(stream.reader))
	{
		if (!stream.unsaved)
			stream.saved_at = now;
		stream.unsaved = true;
		ks_slot_reader_confirm(stream.reader, safe, false);
	}
	if (stream.unsaved && TimestampDifferenceExceeds(stream.saved_at, now, idle ? SAVE_IDLE_MS : SAVE_BUSY_MS))
	{
		ks_slot_reader_confirm(stream.reader, safe, true);
		stream.saved_at = now;
		stream.unsaved = false;
	}
	pg_atomic_write_u64(&ks_my_worker->read_lsn, Max(stream.read, flushed));
	pg_atomic_write_u64(&ks_my_worker->confirmed_lsn, ks_slot_reader_confirmed(stream.reader));
	if (shown > stream.acked)
	{
		stream.acked = shown;
		if (ledger->safe_time != 0)
			pg_atomic_write_u64(&ks_my_worker->last_commit_time, (uint64) ledger->safe_time);
		pg_atomic_write_u64(&ks_my_worker->acked_lsn, shown);
		ks_worker_progress();
	}
	/* nothing left to do: whatever went wrong before is over */
	else if (!XLogRecPtrIsInvalid(flushed) && ks_my_worker->failures > 0 && ks_ledger_is_empty(ledger))
		ks_worker_progress();
}

/* WAL is read up to its end: waits for more, or for acknowledgements. */
static void
wait_for_wal(void *arg, XLogRecPtr flushed, long timeout_ms)
{
	(void) arg;
	ks_producer_serve(stream.producer);
	report(flushed, true);
	ks_producer_wait(stream.producer, stream.unsaved ? Min(timeout_ms, SAVE_IDLE_MS) : timeout_ms);
	report(InvalidXLogRecPtr, true);
}

/* Waits a while for what is under way, confirms what is safe, and has the launcher start the worker again at once. */
static void
end_for_restart(bool flush)
{
	if (stream.reader != NULL)
	{
		if (flush)
			ks_producer_settle(stream.producer, LAST_FLUSH_MS);
		report(InvalidXLogRecPtr, false);
		ks_slot_reader_confirm(stream.reader, safe_lsn(), true);
		stream.ending = true;
	}
	ks_my_worker->restart_now = true;
	proc_exit(0);
}

/*
 * The stream met a topic that was not prepared.  It must be made and pinned by a process that does not hold the slot:
 * the next one of this worker.
 */
static void
unknown_topic(void *arg, const KsRelation *rel)
{
	(void) arg;
	strlcpy(ks_my_worker->wanted_topic, rel->topic, sizeof(ks_my_worker->wanted_topic));
	ks_my_worker->wanted_relation = rel->relid;
	ks_my_worker->wanted_keyed = rel->nkeys > 0;
	ereport(LOG, (errmsg("publisher \"%s\" prepares topic \"%s\"", NameStr(ks_my_worker->name), rel->topic), errhidecontext(true)));
	end_for_restart(true);
}

/* A broker refused the commit time of a change as a record's timestamp: everything is sent with the present time. */
static void
refused_timestamp(void *arg, const char *topic)
{
	(void) arg;
	if (ks_my_worker->wall_clock)
		return;
	ks_my_worker->wall_clock = true;
	ereport(LOG,
			(errmsg("the broker refuses timestamps of topic \"%s\"; publisher \"%s\" sends the present time", topic,
					NameStr(ks_my_worker->name))));
	end_for_restart(false);
}

KsProducerOwner
ks_stream_owner(void)
{
	KsProducerOwner owner = {unknown_topic, refused_timestamp, NULL};

	return owner;
}

/* The process ends, on request or by an ERROR: what is acknowledged is not to be sent again. */
static void
confirm_at_exit(int code, Datum arg)
{
	(void) code;
	(void) arg;
	if (stream.ending)
		return;
	stream.ending = true;		/* an ERROR in here comes back to here */
	ks_producer_settle(stream.producer, EXIT_FLUSH_MS);
	ks_slot_reader_confirm(stream.reader, safe_lsn(), true);
}

void
ks_stream(const KsPublisher *publisher, KsSource *source, KsProducer *producer)
{
	KsPipeline	pipeline;
	uint32		records = 0;

	pipeline.source = source;
	pipeline.sink = ks_producer_sink(producer);
	stream.producer = producer;
	stream.reader = ks_slot_reader_open(NameStr(publisher->slot_name), NameStr(publisher->name), &pipeline,
										wait_for_wal, NULL);
	stream.read = ks_slot_reader_confirmed(stream.reader);
	stream.acked = stream.read;
	pg_atomic_write_u64(&ks_my_worker->acked_lsn, stream.acked);
	ks_producer_ledger(producer)->safe_lsn = stream.read;
	before_shmem_exit(confirm_at_exit, (Datum) 0);
	ks_producer_set_state(producer, KS_STATE_STREAMING, NULL);
	report(InvalidXLogRecPtr, false);

	for (;;)
	{
		XLogRecPtr	end = ks_slot_reader_next(stream.reader);

		/* reading begins before what is confirmed: transactions that were open then */
		stream.read = Max(stream.read, end);
		if (++records % SERVE_EVERY == 0)
		{
			pg_atomic_fetch_add_u64(&ks_my_worker->loops, 1);
			ks_producer_serve(producer);
			report(InvalidXLogRecPtr, false);
		}
	}
}
