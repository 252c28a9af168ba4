/*
 * feed.c: consume, apply, release.
 *
 *   consumer (messages in order, per partition) -> apply (rows and offsets in one transaction) -> release
 */
#include "postgres.h"

#include "apply/conflict_batch.h"
#include "compat/pg_compat.h"
#include "consume/feed.h"
#include "consume/problems.h"
#include "control/worker.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#define BATCH_BYTES (8 * 1024 * 1024)
#define RETRY_WAIT_MS 200
#define OUTAGE_WAIT_MS 5000		/* at most, between attempts to reach the other side of a foreign target */

/* KsPositions: was a message applied before? */
static bool
repeated(void *arg, int number)
{
	KsFeed	   *f = arg;
	KsConsumer *c = f->consumer;

	return ks_producers_repeated(c->owners[number]->producers, &c->messages[number],
								 f->subscription->options->text_value[KS_OPT_DEDUPE_HEADER]);
}

/* KsPositions: what a transaction covers. */
static void
stage(void *arg, int from, int count, bool all)
{
	KsFeed	   *f = arg;

	for (int i = from; i < from + count; i++)
		ks_offsets_stage(f->consumer->owners[i], &f->consumer->messages[i]);
	if (all)
		for (int i = 0; i < f->offsets->count; i++)
			ks_offsets_stage_step(f->offsets->items[i], f->offsets->items[i]->read);
}

static bool
write_positions(void *arg)
{
	KsFeed	   *f = arg;

	return !ks_offsets_staged(f->offsets) || ks_offsets_write(f->offsets);
}

static void
finish(void *arg, bool committed)
{
	KsFeed	   *f = arg;

	ks_offsets_finish(f->offsets, committed);
}

/* KsPositions: the number that a partition's row has had since it began anew. */
static int64
generation(void *arg, int number)
{
	return ((KsFeed *) arg)->consumer->owners[number]->generation;
}

/* See feed.h. */
KsFeed *
ks_feed_create(const KsSubscription *subscription, const KsServer *server, KsOffsets *offsets, TimestampTz *pace)
{
	KsFeed	   *f = palloc0(sizeof(KsFeed));

	f->subscription = subscription;
	f->offsets = offsets;
	f->pace = pace;
	f->consumer = ks_consumer_create(subscription, server, offsets);
	return f;
}

/* See feed.h. */
void
ks_feed_start(KsFeed *f, const KsApplyTarget *targets, int ntargets)
{
	KsPositions positions = {f, repeated, stage, write_positions, finish, generation};

	f->apply = ks_apply_create(f->subscription, targets, ntargets, positions);
	f->apply->run.rebuilding = f->consumer->rebuild;
	f->max_rows = ks_apply_limit(f->apply, (int) f->subscription->options->int_value[KS_OPT_MAX_BATCH_ROWS]);
	f->forgets = ks_my_worker->ordinal == 0 && !f->consumer->rebuild &&
		strncmp(f->subscription->options->text_value[KS_OPT_CONFLICT], "newer:", 6) == 0;
	f->retry_due = f->retries;	/* letters that were left when the worker ended */
}

/* Messages per second that this worker may apply, 0 = any number: those that have partitions share the subscription's. */
static int64
rate_limit(const KsFeed *f)
{
	int64		rate = f->subscription->options->int_value[KS_OPT_MAX_ROWS_PER_SECOND];

	return rate == 0 ? 0 : Max(rate / f->consumer->busy_workers, 1);
}

/* Counters and problems after a commit. */
static void
account(KsFeed *f, int messages, Size bytes)
{
	int64		rate = rate_limit(f);
	TimestampTz now = GetCurrentTimestamp();

	f->commits++;
	pg_atomic_fetch_add_u64(&ks_my_worker->rows, messages);
	pg_atomic_fetch_add_u64(&ks_my_worker->bytes, bytes);
	pg_atomic_write_u64(&ks_my_worker->last_commit_time, (uint64) now);
	if (f->apply->skipped_truncates > f->skipped_truncates)
	{
		char		text[KS_DETAIL_SIZE];
		uint64		count = pg_atomic_add_fetch_u64(&ks_my_worker->skipped_truncates,
													f->apply->skipped_truncates - f->skipped_truncates);

		f->skipped_truncates = f->apply->skipped_truncates;
		snprintf(text, sizeof(text), "%llu truncate events were not applied: they have no place among the rows of "
				 "several partitions; empty the target by hand", (unsigned long long) count);
		ks_worker_set_problem(KS_PROBLEM_TRUNCATE, text);
	}
	if (f->apply->dropped > f->dropped)
	{
		char		text[KS_DETAIL_SIZE];

		f->dropped = f->apply->dropped;
		snprintf(text, sizeof(text), "%llu late events were dropped since the worker started: their windows were closed",
				 (unsigned long long) f->dropped);
		ks_worker_set_problem(KS_PROBLEM_LATE, text);
	}
	if (pg_atomic_read_u64(&ks_my_worker->conflicts[KS_CONFLICTS_STALE]) > 0)
	{
		char		text[KS_DETAIL_SIZE];

		snprintf(text, sizeof(text), "%llu updates older than \"tombstone_retention\" met no row and were inserted: rows "
				 "that were deleted here may have come back",
				 (unsigned long long) pg_atomic_read_u64(&ks_my_worker->conflicts[KS_CONFLICTS_STALE]));
		ks_worker_set_problem(KS_PROBLEM_CONFLICT, text);
	}
	if (rate > 0 && messages > 0)
		*f->pace = Max(*f->pace, now - USECS_PER_SEC / 10) + (TimestampTz) (messages * 1000000.0 / rate);
	ks_worker_progress();
}

/* Has some partition been stepped over without a message? */
static bool
stepped(const KsFeed *f)
{
	for (int i = 0; i < f->offsets->count; i++)
		if (f->offsets->items[i]->read > f->offsets->items[i]->stored)
			return true;
	return false;
}

/* Is it time to apply what has been collected? */
static bool
ripe(const KsFeed *f, bool more)
{
	int64		wait = f->subscription->options->int_value[KS_OPT_MAX_BATCH_WAIT];

	if (f->consumer->count == 0)
		return stepped(f);
	if (more || wait == 0 || f->holding)
		return true;
	return TimestampDifferenceExceeds(f->batch_since, GetCurrentTimestamp(), wait);
}

/* How long to wait before the next attempt: longer and longer while the other side of a target is away. */
static int
retry_wait(const KsFeed *f)
{
	return f->apply->outages == 0 ? RETRY_WAIT_MS : Min(RETRY_WAIT_MS << Min(f->apply->outages, 10), OUTAGE_WAIT_MS);
}

/* Applies what has been collected. False: the positions were moved by somebody else. */
static bool
apply_collected(KsFeed *f)
{
	KsConsumer *c = f->consumer;
	Size		before = c->bytes;
	int			done;
	KsApplyResult result;

	f->apply->run.partitions = c->partitions;
	result = ks_apply(f->apply, c->messages, c->count, &done);
	ks_consumer_release(c, done);
	if (result == KS_APPLY_MOVED)
		return false;
	f->holding = result == KS_APPLY_WAIT;
	if (done > 0 || result == KS_APPLY_DONE)
		account(f, done, before - c->bytes);
	if (f->holding)
		f->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), retry_wait(f));
	f->batch_since = c->count > 0 ? GetCurrentTimestamp() : 0;
	return true;
}

/* Forgets deletes that two databases need not know of any more, now and then. */
static void
forget_deletes(KsFeed *f, TimestampTz now)
{
	int64		retention = ks_tombstone_retention(f->subscription->options);

	if (now < f->next_forget)
		return;
	f->next_forget = now;
	if (!ks_conflict_forget(f->subscription))
		f->next_forget += Max(Min(retention / 4, 60 * USECS_PER_SEC), USECS_PER_SEC);
}

/* Retries dead letters, if somebody asked for it. */
static void
retry_letters(KsFeed *f)
{
	uint64		requests = pg_atomic_read_u64(&ks_my_worker->retry_requests);
	TimestampTz now = GetCurrentTimestamp();

	if (requests != f->retry_requests)
		f->retry_due = true;
	f->retry_requests = requests;
	if (!f->retry_due || now < f->retry_not_before)
		return;
	f->apply->run.partitions = f->consumer->partitions;
	switch (ks_apply_retry(f->apply))
	{
		case KS_RETRY_DONE:
			f->retry_due = false;
			break;
		case KS_RETRY_MORE:
			break;
		case KS_RETRY_WAIT:
			f->retry_not_before = TimestampTzPlusMilliseconds(now, RETRY_WAIT_MS);
			break;
	}
}

/* Until when nothing is to be applied. */
static TimestampTz
pause_end(const KsFeed *f)
{
	return Max(f->not_before, *f->pace);
}

/* See feed.h. */
bool
ks_feed_pass(KsFeed *f, bool *more)
{
	KsConsumer *c = f->consumer;
	TimestampTz now = GetCurrentTimestamp();

	*more = false;
	ks_client_drain_log(c->client);
	ks_client_drain_log(c->asker);
	if (now >= c->next_assign)
		(void) ks_consumer_assign(c);

	/* while the rate limit holds us back, the log and librdkafka's bounded queue hold what comes */
	if (now >= pause_end(f) || f->holding)
	{
		int			had = c->count;
		int64		rate = rate_limit(f);

		/* a tenth of a second's share at a time, so that the rate is even */
		*more = ks_consumer_poll(c, rate > 0 ? (int) Min(f->max_rows, Max(rate / 10, 1)) : f->max_rows, BATCH_BYTES);
		if (had == 0 && c->count > 0)
			f->batch_since = GetCurrentTimestamp();
	}
	if (now >= pause_end(f) && ripe(f, *more))
	{
		if (!apply_collected(f))
			return false;
	}
	else
		*more = false;
	if (f->apply->trouble[0] && !f->holding && c->count == 0 && now >= pause_end(f))
	{
		/* nothing to write: is it there again? */
		ks_apply_probe(f->apply);
		if (f->apply->trouble[0])
			f->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), retry_wait(f));
	}
	if (f->retries)
		retry_letters(f);
	if (f->forgets)
		forget_deletes(f, now);
	if (c->stale)
		c->next_assign = Min(c->next_assign, TimestampTzPlusMilliseconds(now, RETRY_WAIT_MS));
	return true;
}

/* See feed.h. */
long
ks_feed_idle_ms(const KsFeed *f, long ms)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		wait = f->subscription->options->int_value[KS_OPT_MAX_BATCH_WAIT];

	if (pause_end(f) > now)
		ms = Min(ms, TimestampDifferenceMilliseconds(now, pause_end(f)) + 1);
	else if (f->consumer->count > 0)
		ms = Min(ms, TimestampDifferenceMilliseconds(now, TimestampTzPlusMilliseconds(f->batch_since, wait)) + 1);
	if (f->retry_due)
		ms = Min(ms, TimestampDifferenceMilliseconds(now, f->retry_not_before) + 1);
	if (f->forgets)
		ms = Min(ms, TimestampDifferenceMilliseconds(now, f->next_forget) + 1);
	ms = Min(ms, TimestampDifferenceMilliseconds(now, f->consumer->next_assign) + 1);
	return Max(ms, 1);
}

/* See feed.h. */
void
ks_feed_wait(KsFeed *f, long ms)
{
	if (pause_end(f) > GetCurrentTimestamp())
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
						 ks_wait_event(f->holding ? "KafkaApplyRetry" : "KafkaRateLimit"));
	else
		ks_client_wait(f->consumer->client, ms, "KafkaConsume");
	ResetLatch(MyLatch);
}

/* See feed.h. */
bool
ks_feed_trouble(const KsFeed *f, char *text)
{
	const KsConsumer *c = f->consumer;

	if (!c->connected)
		snprintf(text, KS_DETAIL_SIZE, "cannot read from Kafka: %s",
				 c->client->last_error[0] ? c->client->last_error : "no broker is connected");
	else if (c->missing[0])
		snprintf(text, KS_DETAIL_SIZE, "topic \"%s\" does not exist", c->missing);
	else if (f->apply && f->apply->trouble[0])
		strlcpy(text, f->apply->trouble, KS_DETAIL_SIZE);
	else if (f->holding)
		snprintf(text, KS_DETAIL_SIZE, "a message waits for a row that it refers to, or for a lock");
	else
		return false;
	return true;
}
