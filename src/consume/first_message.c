/*
 * first_message.c: see first_message.h.
 */
#include "postgres.h"

#include "apply/new_table.h"
#include "compat/pg_compat.h"
#include "consume/first_message.h"
#include "control/worker.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define MAX_MESSAGES 1000
#define MAX_BYTES (8 * 1024 * 1024)
#define IDLE_WAIT_MS 1000

/* Sets the state that status views show. */
static void
show_state(const KsFeed *f)
{
	char		detail[KS_DETAIL_SIZE];

	if (ks_feed_trouble(f, detail))
		ks_worker_set_state(KS_STATE_RETRYING, detail);
	else
		ks_worker_set_state(KS_STATE_WAITING, "the first message is waited for, to create the target");
}

/* See first_message.h. */
void
ks_first_message(KsFeed *f)
{
	KsConsumer *c = f->consumer;
	MemoryContext loop_context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync first message",
													   ALLOCSET_DEFAULT_SIZES);

	MemoryContextSwitchTo(loop_context);
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		bool		more;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		MemoryContextReset(loop_context);
		ks_client_drain_log(c->client);
		ks_client_drain_log(c->asker);
		if (now >= c->next_assign)
			(void) ks_consumer_assign(c);
		more = ks_consumer_poll(c, MAX_MESSAGES, MAX_BYTES);
		if (c->count > 0)
		{
			if (ks_new_table_make(f->subscription, c->messages, c->count) != KS_TABLE_NONE)
				return;
			/* they are read again when there is a table */
			ks_consumer_release(c, c->count);
		}
		show_state(f);
		if (!more)
		{
			ks_client_wait(c->client, Min(IDLE_WAIT_MS, Max(TimestampDifferenceMilliseconds(now, c->next_assign), 1)),
						   "KafkaConsume");
			ResetLatch(MyLatch);
		}
	}
}
