/*
 * subscriber_main.c: the worker of a subscription: a feed (feed.c) into its targets, and another one beside it while
 * some of them are read again (rebuild.c).
 *
 * The loop has each do a little in turn, so that neither keeps the other waiting for long, and waits on its latch and the
 * consumer's queue when there is nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat/pg_compat.h"
#include "consume/feed.h"
#include "consume/first_message.h"
#include "consume/log_ends.h"
#include "consume/rebuild.h"
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

#define IDLE_WAIT_MS 1000
#define BESIDE_WAIT_MS 10		/* with two feeds, of which only one can be waited for */
#define REPORT_EVERY_MS 100

PGDLLEXPORT void ks_subscription_main(Datum main_arg);

typedef struct Subscriber
{
	KsSubscription *subscription;
	KsOffsets  *offsets;
	KsFeed	   *feed;			/* NULL: there is no target that it could write now */
	KsRebuild  *rebuild;		/* NULL: nothing is read again */
	TimestampTz pace;
	TimestampTz next_report;
	uint64		reported_commits;
} Subscriber;

static Subscriber *self;

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

/* Reads the definition, and what is to be read again. False: it is gone, or not to run. */
static bool
load_definition(Subscriber *s)
{
	MemoryContext old = CurrentMemoryContext;
	ListCell   *lc;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(TopMemoryContext);
	s->subscription = ks_subscription_by_id(ks_my_worker->object_id);
	if (s->subscription && (!s->subscription->enabled || ks_my_worker->ordinal >= s->subscription->workers))
		s->subscription = NULL; /* it is paused, or has fewer workers by now */
	if (s->subscription)
		foreach(lc, s->subscription->targets)
			ks_target_view_require(lfirst(lc), NameStr(s->subscription->name));
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	if (s->subscription)
		s->rebuild = ks_rebuild_load(s->subscription, ks_my_worker->ordinal == 0);
	return s->subscription != NULL;
}

/* Targets that are written in the ordinary way: all that are not read again. */
static int
live_targets(const Subscriber *s, KsApplyTarget *targets)
{
	int			n = 0;
	ListCell   *lc;

	foreach(lc, s->subscription->targets)
	{
		const KsTarget *t = lfirst(lc);

		if (s->rebuild && ks_rebuild_covers(s->rebuild, t->relid))
			continue;
		targets[n].target = t;
		targets[n++].relid = t->relid;
	}
	return n;
}

/* Reads the positions and makes the feeds. */
static void
create_feeds(Subscriber *s, int nlive)
{
	MemoryContext old = CurrentMemoryContext;
	const KsServer *server;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(TopMemoryContext);
	server = ks_server_open(NameStr(s->subscription->server), s->subscription->owner);
	/* while something is read again, or there is no target yet, the first worker does the work of all */
	s->offsets = ks_offsets_load(s->subscription->id, KS_LIVE_POSITIONS, ks_my_worker->ordinal,
								 s->rebuild || s->subscription->targets == NIL ? 1 : s->subscription->workers);
	if (nlive > 0)
	{
		s->feed = ks_feed_create(s->subscription, server, s->offsets, &s->pace);
		s->feed->retries = ks_my_worker->ordinal == 0;	/* one worker does it for all */
	}
	if (s->rebuild)
		ks_rebuild_create_feed(s->rebuild, server, &s->pace);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
}

/* Waits for nothing but the end: the launcher starts a worker anew when the definition changes. */
static void
wait_for_end(KsWorkerState state, const char *why)
{
	ks_worker_set_state(state, why);
	for (;;)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1,
						 ks_wait_event("KafkaNoTarget"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Publishes the position and the ends of a partition. */
static void
report_partition(KsOffset *o, int64 stored)
{
	int64		stable = o->stable < 0 ? -1 : Max(o->stable, stored);
	int64		high = o->high < 0 ? -1 : Max(o->high, stored);

	if (o->reported == stored && o->reported_stable == stable && o->reported_high == high)
		return;
	ks_partition_report(o->topic, o->partition, stored, high, stable);
	o->reported = stored;
	o->reported_stable = stable;
	o->reported_high = high;
}

/* Publishes positions and log ends, now and then.  Returns milliseconds until it is to be called again, at most "ms". */
static long
report(Subscriber *s, long ms)
{
	TimestampTz now = GetCurrentTimestamp();
	KsFeed	   *f = s->feed ? s->feed : s->rebuild->feed;
	uint64		commits = f->commits;
	uint64		lag;

	if (f->consumer->fresh_ends)
	{
		f->consumer->fresh_ends = false;
		pg_atomic_write_u64(&ks_my_worker->fetched_at, (uint64) now);
		s->reported_commits = PG_UINT64_MAX;
	}
	if (f->consumer->first_end)
		s->reported_commits = PG_UINT64_MAX;
	f->consumer->first_end = false;
	if (s->reported_commits == commits)
		return ms;
	if (now < s->next_report)
		return Min(ms, TimestampDifferenceMilliseconds(now, s->next_report) + 1);
	s->reported_commits = commits;
	s->next_report = TimestampTzPlusMilliseconds(now, REPORT_EVERY_MS);
	for (int i = 0; i < f->offsets->count; i++)
	{
		KsOffset   *o = f->offsets->items[i];
		KsOffset   *live = s->feed ? o : ks_offsets_find(s->offsets, o->topic, o->partition);

		report_partition(o, live ? live->stored : 0);
	}
	lag = ks_log_ends_lag(f->offsets);
	pg_atomic_write_u64(&ks_my_worker->lag_messages, lag);
	/* nothing left to do: whatever went wrong before is over */
	if (ks_my_worker->failures > 0 && lag == 0 && s->rebuild == NULL)
		ks_worker_progress();
	return ms;
}

/* Sets the state that status views show. */
static void
show_state(const Subscriber *s)
{
	char		detail[KS_DETAIL_SIZE];

	if ((s->feed && ks_feed_trouble(s->feed, detail)) ||
		(s->rebuild && ks_feed_trouble(s->rebuild->feed, detail)))
		ks_worker_set_state(KS_STATE_RETRYING, detail);
	else if (s->rebuild)
		ks_worker_set_state(KS_STATE_REBUILDING, s->rebuild->incomplete[0] ? s->rebuild->incomplete : s->rebuild->detail);
	else
		ks_worker_set_state(KS_STATE_STREAMING, NULL);
}

/* Waits for messages of the feed that reads now, the latch, or so long. */
static void
wait(Subscriber *s, long ms)
{
	if (s->rebuild && s->rebuild->stage == KS_REBUILD_JOIN)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, ks_wait_event("KafkaRebuildJoin"));
		ResetLatch(MyLatch);
	}
	else if (s->rebuild && s->rebuild->stage != KS_REBUILD_DRAIN)
		ks_feed_wait(s->rebuild->feed, ms);
	else
		ks_feed_wait(s->feed, ms);
}

/* One pass. False: begin anew. */
static bool
pass(Subscriber *s)
{
	bool		more = false;
	bool		rebuild_more = false;
	long		ms = IDLE_WAIT_MS;

	pg_atomic_fetch_add_u64(&ks_my_worker->loops, 1);
	if (s->feed && (s->rebuild == NULL || ks_rebuild_live_may_run(s->rebuild)))
	{
		if (!ks_feed_pass(s->feed, &more))
			return false;
		ks_consumer_commit_group(s->feed->consumer);
		ms = ks_feed_idle_ms(s->feed, ms);
	}
	if (s->rebuild)
	{
		if (!ks_rebuild_pass(s->rebuild, &rebuild_more))
			return false;
		ms = Min(ks_feed_idle_ms(s->rebuild->feed, ms), s->feed ? BESIDE_WAIT_MS : 50);
	}
	show_state(s);
	ms = report(s, ms);
	if (!more && !rebuild_more)
		wait(s, ms);
	return true;
}

/* What the worker does until it is told to end. */
static void
subscription_body(void)
{
	Subscriber *s = self;
	MemoryContext loop_context;
	KsApplyTarget *targets;
	int			ntargets;

	ks_partition_forget();
	pg_atomic_write_u64(&ks_my_worker->lag_messages, PG_UINT64_MAX);
	if (!load_definition(s))
		return;					/* dropped meanwhile */
	if (s->subscription->targets == NIL && !s->subscription->options->bool_value[KS_OPT_CREATE_TARGET])
		wait_for_end(KS_STATE_WAITING, "it has no target");
	if (s->subscription->targets == NIL && ks_my_worker->ordinal > 0)
		wait_for_end(KS_STATE_WAITING, "the first worker creates the target");
	if (s->rebuild && ks_my_worker->ordinal > 0)
	{
		pg_atomic_write_u64(&ks_my_worker->lag_messages, 0);
		wait_for_end(KS_STATE_REBUILDING, NULL);	/* the first worker does it all */
	}
	set_session(s->subscription);
	ks_apply_setup_origin(s->subscription);
	if (s->subscription->targets == NIL)
	{
		create_feeds(s, 1);
		ks_first_message(s->feed);
		ks_my_worker->restart_now = true;
		return;
	}
	targets = palloc(sizeof(KsApplyTarget) * list_length(s->subscription->targets));
	ntargets = live_targets(s, targets);
	create_feeds(s, ntargets);
	if (s->feed)
		ks_feed_start(s->feed, targets, ntargets);
	if (s->rebuild)
		ks_rebuild_start(s->rebuild, s->feed, s->offsets);

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
			/* sought elsewhere, rebuilt, or dropped: the launcher starts us again if there is still something to do */
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
