/*
 * wal_page.c: the page_read callback; see wal_page.h.
 *
 * Like a walsender, and unlike the server's own local reader, it waits on the latch instead of polling.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlogutils.h"
#include "compat/pg_compat.h"
#include "decode/wal_page.h"
#include "miscadmin.h"
#include "storage/latch.h"

/*
 * Nothing announces a WAL flush.  After a commit the backend sets our latch, flushed already; only what is inserted
 * but not flushed (asynchronous commits, unfinished transactions) makes it worth to look again soon.
 */
#define UNFLUSHED_WAIT_MS 50
#define IDLE_WAIT_MS 10000

static KsWalWait wait_function = NULL;
static void *wait_arg = NULL;

void
ks_wal_set_wait(KsWalWait wait, void *arg)
{
	wait_function = wait;
	wait_arg = arg;
}

/* Waits for the latch alone. */
static void
wait_latch(long timeout_ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms,
					 ks_wait_event("KafkaDecodeWait"));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static int
read_page(XLogReaderState *state, XLogRecPtr page, int want, XLogRecPtr record, char *buffer)
{
	XLogRecPtr	upto;
	TimeLineID	current;
	TimeLineID	timeline;
	WALReadError error;
	int			count;

	for (;;)
	{
		upto = GetFlushRecPtr(&current);
		XLogReadDetermineTimeline(state, page, want, current);
		timeline = current;
		if (state->currTLI != current)
		{
			/* WAL of before a promotion: ends where the next timeline begins */
			upto = state->currTLIValidUntil;
			timeline = state->currTLI;
			break;
		}
		if (page + want <= upto)
			break;
		if (wait_function)
			wait_function(wait_arg, upto, GetXLogInsertRecPtr() > upto ? UNFLUSHED_WAIT_MS : IDLE_WAIT_MS);
		else
			wait_latch(UNFLUSHED_WAIT_MS);
	}
	if (page + XLOG_BLCKSZ <= upto)
		count = XLOG_BLCKSZ;
	else if (page + want > upto)
		return -1;
	else
		count = (int) (upto - page);
	/* the rest of the page is zeros */
	if (!WALRead(state, buffer, page, XLOG_BLCKSZ, timeline, &error))
		WALReadRaiseError(&error);
	return count;
}

XLogReaderRoutine *
ks_wal_routine(void)
{
	static XLogReaderRoutine routine;

	routine.page_read = read_page;
	routine.segment_open = wal_segment_open;
	routine.segment_close = wal_segment_close;
	return &routine;
}
