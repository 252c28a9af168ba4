/*
 * subscriber_main.c: the worker of a subscription: consume, parse, apply.
 *
 *   consumer (messages in order, per partition) -> apply (rows and offsets in one transaction) -> release
 *
 * The loop takes what has arrived, applies it, and waits on its latch and the consumer's queue when there is nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply.h"
#include "compat/pg_compat.h"
#include "consume/consumer.h"
#include "consume/log_ends.h"
#include "consume/offsets.h"
#include "consume/problems.h"
#include "control/catalog.h"
#include "control/target_view.h"
#include "control/worker.h"
#include "kafka/properties.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define BATCH_BYTES (8 * 1024 * 1024)
#define IDLE_WAIT_MS 1000
#define RETRY_WAIT_MS 200
#define REPORT_EVERY_MS 100

PGDLLEXPORT void ks_subscription_main(Datum main_arg);

typedef struct Subscriber
{
	KsSubscription *subscription;
	KsOffsets  *offsets;
	KsConsumer *consumer;
	KsApply    *apply;
	int			max_rows;
	TimestampTz batch_since;	/* when the oldest message that waits came in; 0 = none */
	TimestampTz not_before;		/* pause: rate limit, or something that is waited for */
	bool		holding;		/* messages wait for others' rows */
	TimestampTz next_report;
	bool		report_due;
	uint64		skipped_truncates;
	uint64		dropped;		/* late events */
	uint64		retry_requests; /* that were looked after */
	bool		retry_due;		/* dead letters may wait to be retried */
	TimestampTz retry_not_before;
} Subscriber;

static Subscriber *self;

/* KsPositions: was a message applied before? */
static bool
repeated(void *arg, int number)
{
	Subscriber *s = arg;
	KsConsumer *c = s->consumer;

	return ks_producers_repeated(c->owners[number]->producers, &c->messages[number],
								 s->subscription->options->text_value[KS_OPT_DEDUPE_HEADER]);
}

/* KsPositions: what a transaction covers. */
static void
stage(void *arg, int from, int count, bool all)
{
	Subscriber *s = arg;

	for (int i = from; i < from + count; i++)
		ks_offsets_stage(s->consumer->owners[i], &s->consumer->messages[i]);
	if (all)
		for (int i = 0; i < s->offsets->count; i++)
			ks_offsets_stage_step(s->offsets->items[i], s->offsets->items[i]->read);
}

static bool
write_positions(void *arg)
{
	Subscriber *s = arg;

	return !ks_offsets_staged(s->offsets) || ks_offsets_write(s->offsets);
}

static void
finish(void *arg, bool committed)
{
	Subscriber *s = arg;

	ks_offsets_finish(s->offsets, committed);
}

/* Settings of the session that come with the subscription, and those that make its transactions cheap. */
static void
set_session(const KsSubscription *s)
{
	/*
	 * Rows and offsets are lost together or not at all: what a crash takes back is read again.  So nobody has to wait
	 * for the disk, as with PostgreSQL's own subscriptions.
	 */
	SetConfigOption("synchronous_commit", "off", PGC_SUSET, PGC_S_OVERRIDE);
	if (strcmp(s->options->text_value[KS_OPT_REPLICATION_ROLE], "replica") == 0)
		SetConfigOption("session_replication_role", "replica", PGC_SUSET, PGC_S_OVERRIDE);
	ks_converter_fix_settings();
}

/* Reads the definition and the positions. False: it is gone, or has no target to move for. */
static bool
load(Subscriber *s)
{
	MemoryContext old = CurrentMemoryContext;
	ListCell   *lc;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(TopMemoryContext);
	s->subscription = ks_subscription_by_id(ks_my_worker->object_id);
	if (s->subscription && ks_my_worker->ordinal >= s->subscription->workers)
		s->subscription = NULL; /* it has fewer workers by now */
	if (s->subscription)
	{
		const KsServer *server = ks_server_open(NameStr(s->subscription->server), s->subscription->owner);

		foreach(lc, s->subscription->targets)
			ks_target_view_require(lfirst(lc), NameStr(s->subscription->name));
		s->offsets = ks_offsets_load(s->subscription->id, KS_LIVE_POSITIONS, ks_my_worker->ordinal,
									 s->subscription->workers);
		if (s->subscription->targets != NIL)
			s->consumer = ks_consumer_create(s->subscription, server, s->offsets);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	return s->subscription != NULL;
}

/* Waits for nothing but the end: the launcher starts a worker anew when the definition changes. */
static void
wait_for_end(const char *why)
{
	ks_worker_set_state(KS_STATE_WAITING, why);
	for (;;)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1,
						 ks_wait_event("KafkaNoTarget"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Publishes positions and log ends, now and then. */
static void
report(Subscriber *s)
{
	TimestampTz now = GetCurrentTimestamp();

	if (s->consumer->fresh_ends)
	{
		s->consumer->fresh_ends = false;
		pg_atomic_write_u64(&ks_my_worker->fetched_at, (uint64) now);
		s->report_due = true;
	}
	if (s->consumer->first_end)
		s->report_due = true;
	s->consumer->first_end = false;
	if (!s->report_due || now < s->next_report)
		return;
	s->report_due = false;
	s->next_report = TimestampTzPlusMilliseconds(now, REPORT_EVERY_MS);
	for (int i = 0; i < s->offsets->count; i++)
	{
		KsOffset   *o = s->offsets->items[i];
		int64		stable = o->stable < 0 ? -1 : Max(o->stable, o->stored);
		int64		high = o->high < 0 ? -1 : Max(o->high, o->stored);

		if (o->reported == o->stored && o->reported_stable == stable && o->reported_high == high)
			continue;
		ks_partition_report(o->topic, o->partition, o->stored, high, stable);
		o->reported = o->stored;
		o->reported_stable = stable;
		o->reported_high = high;
	}
	pg_atomic_write_u64(&ks_my_worker->lag_messages, ks_log_ends_lag(s->offsets));
	/* nothing left to do: whatever went wrong before is over */
	if (ks_my_worker->failures > 0 && pg_atomic_read_u64(&ks_my_worker->lag_messages) == 0)
		ks_worker_progress();
}

/* Sets the state that status views show. */
static void
show_state(Subscriber *s)
{
	KsConsumer *c = s->consumer;
	char		detail[KS_DETAIL_SIZE];

	if (!c->connected)
	{
		snprintf(detail, sizeof(detail), "cannot read from Kafka: %s",
				 c->client->last_error[0] ? c->client->last_error : "no broker is connected");
		ks_worker_set_state(KS_STATE_RETRYING, detail);
	}
	else if (c->missing[0])
	{
		snprintf(detail, sizeof(detail), "topic \"%s\" does not exist", c->missing);
		ks_worker_set_state(KS_STATE_RETRYING, detail);
	}
	else if (s->holding)
		ks_worker_set_state(KS_STATE_RETRYING, "a message waits for a row that it refers to, or for a lock");
	else
		ks_worker_set_state(KS_STATE_STREAMING, NULL);
}

/* Messages per second that this worker may apply, 0 = any number: those that have partitions share the subscription's. */
static int64
rate_limit(const Subscriber *s)
{
	int64		rate = s->subscription->options->int_value[KS_OPT_MAX_ROWS_PER_SECOND];

	return rate == 0 ? 0 : Max(rate / s->consumer->busy_workers, 1);
}

/* Counters and problems after a commit. */
static void
account(Subscriber *s, int messages, Size bytes)
{
	int64		rate = rate_limit(s);

	pg_atomic_fetch_add_u64(&ks_my_worker->rows, messages);
	pg_atomic_fetch_add_u64(&ks_my_worker->bytes, bytes);
	pg_atomic_write_u64(&ks_my_worker->last_commit_time, (uint64) GetCurrentTimestamp());
	if (s->apply->skipped_truncates > s->skipped_truncates)
	{
		char		text[KS_DETAIL_SIZE];

		s->skipped_truncates = s->apply->skipped_truncates;
		pg_atomic_write_u64(&ks_my_worker->skipped_truncates, s->skipped_truncates);
		snprintf(text, sizeof(text), "%llu truncate events were not applied: they have no place among the rows of "
				 "several partitions; empty the target by hand", (unsigned long long) s->skipped_truncates);
		ks_worker_set_problem(KS_PROBLEM_TRUNCATE, text);
	}
	if (s->apply->dropped > s->dropped)
	{
		char		text[KS_DETAIL_SIZE];

		s->dropped = s->apply->dropped;
		snprintf(text, sizeof(text), "%llu late events were dropped since the worker started: their windows were closed",
				 (unsigned long long) s->dropped);
		ks_worker_set_problem(1, text);
	}
	if (rate > 0 && messages > 0)
	{
		TimestampTz now = GetCurrentTimestamp();

		s->not_before = Max(s->not_before, now - USECS_PER_SEC / 10) + (TimestampTz) (messages * 1000000.0 / rate);
	}
	s->report_due = true;
	ks_worker_progress();
}

/* Has some partition been stepped over without a message? */
static bool
stepped(Subscriber *s)
{
	for (int i = 0; i < s->offsets->count; i++)
		if (s->offsets->items[i]->read > s->offsets->items[i]->stored)
			return true;
	return false;
}

/* Is it time to apply what has been collected? */
static bool
ripe(Subscriber *s, bool more)
{
	KsConsumer *c = s->consumer;
	int64		wait = s->subscription->options->int_value[KS_OPT_MAX_BATCH_WAIT];

	if (c->count == 0)
		return stepped(s);
	if (more || wait == 0 || s->holding)
		return true;
	return TimestampDifferenceExceeds(s->batch_since, GetCurrentTimestamp(), wait);
}

/* Applies what has been collected. False: the positions were moved by somebody else. */
static bool
apply_collected(Subscriber *s)
{
	KsConsumer *c = s->consumer;
	Size		before = c->bytes;
	int			done;
	KsApplyResult result;

	s->apply->run.partitions = c->partitions;
	result = ks_apply(s->apply, c->messages, c->count, &done);
	ks_consumer_release(c, done);
	if (result == KS_APPLY_MOVED)
		return false;
	s->holding = result == KS_APPLY_WAIT;
	if (done > 0 || result == KS_APPLY_DONE)
		account(s, done, before - c->bytes);
	if (s->holding)
		s->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETRY_WAIT_MS);
	s->batch_since = c->count > 0 ? GetCurrentTimestamp() : 0;
	return true;
}

/* Retries dead letters, if somebody asked for it. */
static void
retry_letters(Subscriber *s)
{
	uint64		requests = pg_atomic_read_u64(&ks_my_worker->retry_requests);
	TimestampTz now = GetCurrentTimestamp();

	/* one worker does it for all */
	if (ks_my_worker->ordinal != 0)
		return;
	if (requests != s->retry_requests)
		s->retry_due = true;
	s->retry_requests = requests;
	if (!s->retry_due || now < s->retry_not_before)
		return;
	s->apply->run.partitions = s->consumer->partitions;
	switch (ks_apply_retry(s->apply))
	{
		case KS_RETRY_DONE:
			s->retry_due = false;
			break;
		case KS_RETRY_MORE:
			break;
		case KS_RETRY_WAIT:
			s->retry_not_before = TimestampTzPlusMilliseconds(now, RETRY_WAIT_MS);
			break;
	}
}

/* Milliseconds to wait for something to happen, now that there is nothing to do. */
static long
idle_ms(Subscriber *s)
{
	TimestampTz now = GetCurrentTimestamp();
	long		ms = IDLE_WAIT_MS;
	int64		wait = s->subscription->options->int_value[KS_OPT_MAX_BATCH_WAIT];

	if (s->not_before > now)
		ms = Min(ms, TimestampDifferenceMilliseconds(now, s->not_before) + 1);
	else if (s->consumer->count > 0)
		ms = Min(ms, TimestampDifferenceMilliseconds(now, TimestampTzPlusMilliseconds(s->batch_since, wait)) + 1);
	if (s->report_due)
		ms = Min(ms, TimestampDifferenceMilliseconds(now, s->next_report) + 1);
	if (s->retry_due)
		ms = Min(ms, TimestampDifferenceMilliseconds(now, s->retry_not_before) + 1);
	return Max(ms, 1);
}

/* One pass. False: begin anew. */
static bool
pass(Subscriber *s)
{
	KsConsumer *c = s->consumer;
	TimestampTz now = GetCurrentTimestamp();
	bool		more = false;

	pg_atomic_fetch_add_u64(&ks_my_worker->loops, 1);
	ks_client_drain_log(c->client);
	ks_client_drain_log(c->asker);
	if (now >= c->next_assign)
		(void) ks_consumer_assign(c);

	/* while the rate limit holds us back, the log and librdkafka's bounded queue hold what comes */
	if (now >= s->not_before || s->holding)
	{
		int			had = c->count;
		int64		rate = rate_limit(s);

		/* a tenth of a second's share at a time, so that the rate is even */
		more = ks_consumer_poll(c, rate > 0 ? (int) Min(s->max_rows, Max(rate / 10, 1)) : s->max_rows, BATCH_BYTES);
		if (had == 0 && c->count > 0)
			s->batch_since = GetCurrentTimestamp();
	}
	if (now >= s->not_before && ripe(s, more))
	{
		if (!apply_collected(s))
			return false;
	}
	else
		more = false;
	retry_letters(s);
	if (c->stale)
		c->next_assign = Min(c->next_assign, TimestampTzPlusMilliseconds(now, RETRY_WAIT_MS));
	ks_consumer_commit_group(c);
	show_state(s);
	report(s);
	if (!more)
	{
		long		ms = idle_ms(s);

		if (c->next_assign > now)
			ms = Min(ms, TimestampDifferenceMilliseconds(now, c->next_assign) + 1);
		if (s->not_before > now)
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
							 ks_wait_event(s->holding ? "KafkaApplyRetry" : "KafkaRateLimit"));
		else
			ks_client_wait(c->client, ms, "KafkaConsume");
		ResetLatch(MyLatch);
	}
	return true;
}

/* Makes the applier of all targets. */
static KsApply *
create_apply(const KsSubscription *s, KsPositions positions)
{
	KsApplyTarget *targets = palloc(sizeof(KsApplyTarget) * list_length(s->targets));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, s->targets)
	{
		targets[n].target = lfirst(lc);
		targets[n++].relid = ((KsTarget *) lfirst(lc))->relid;
	}
	return ks_apply_create(s, targets, n, positions);
}

/* What the worker does until it is told to end. */
static void
subscription_body(void)
{
	Subscriber *s = self;
	MemoryContext loop_context;
	KsPositions positions = {s, repeated, stage, write_positions, finish};

	ks_partition_forget();
	pg_atomic_write_u64(&ks_my_worker->lag_messages, PG_UINT64_MAX);
	if (!load(s))
		return;					/* dropped meanwhile */
	if (s->consumer == NULL)
		wait_for_end("it has no target");
	set_session(s->subscription);
	ks_apply_setup_origin(s->subscription);
	s->apply = create_apply(s->subscription, positions);
	s->retry_due = ks_my_worker->ordinal == 0;	/* letters that were left when the worker ended */
	s->max_rows = ks_apply_limit(s->apply, (int) s->subscription->options->int_value[KS_OPT_MAX_BATCH_ROWS]);

	loop_context = AllocSetContextCreate(TopMemoryContext, "pg_kafka_sync subscriber loop", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(loop_context);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		MemoryContextReset(loop_context);
		if (!pass(s))
		{
			/* sought elsewhere, or dropped: the launcher starts us again if there is still something to do */
			ks_my_worker->restart_now = true;
			return;
		}
		MemoryContextSwitchTo(loop_context);
	}
}

/* Main function of a subscription's worker. */
void
ks_subscription_main(Datum main_arg)
{
	ks_worker_attach(main_arg, KS_WORKER_SUBSCRIPTION);
	self = MemoryContextAllocZero(TopMemoryContext, sizeof(Subscriber));
	ks_worker_run(subscription_body);
	proc_exit(0);
}
