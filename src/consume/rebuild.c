/*
 * rebuild.c: what is to be read again, and the stages of it; the last one is in rebuild_join.c.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/dead_letter.h"
#include "apply/shadow.h"
#include "catalog/pg_type.h"
#include "consume/log_ends.h"
#include "consume/rebuild.h"
#include "consume/rebuild_internal.h"
#include "control/definitions.h"
#include "control/rebuild_sql.h"
#include "control/worker.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* So few messages are read to the end while the ordinary feed waits. */
#define SHORT_ROUND 20000
#define MAX_ROUNDS 10
#define HELD_FOR_MS 3000		/* the other targets may wait for a row that long before more is read */

/* The subscription's target with this Oid. */
static const KsTarget *
target_of(const KsSubscription *s, Oid relid)
{
	ListCell   *lc;

	foreach(lc, s->targets)
		if (((KsTarget *) lfirst(lc))->relid == relid)
			return lfirst(lc);
	elog(ERROR, "table %u is no target", relid);
	return NULL;
}

/* Reads the requests.  *stale: of those under way, the shadow is gone or does not fit its target any more. */
static void
read_requests(KsRebuild *r, bool **stale)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(r->subscription->id)};

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT id, target::pg_catalog.oid, kind = 'hydrate', state = 'running', force, definition, started_at "
							  "FROM kafka.subscription_rebuild WHERE subscription_id = $1 ORDER BY requested_at, id",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kafka.subscription_rebuild");
	r->ntargets = (int) SPI_processed;
	r->targets = MemoryContextAllocZero(TopMemoryContext, sizeof(KsRebuildTarget) * (r->ntargets + 1));
	*stale = MemoryContextAllocZero(TopMemoryContext, sizeof(bool) * (r->ntargets + 1));
	for (int i = 0; i < r->ntargets; i++)
	{
		KsRebuildTarget *t = &r->targets[i];
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		char	   *definition = SPI_getvalue(tuple, desc, 6);
		char	   *now;
		bool		null;
		Oid			relid = DatumGetObjectId(SPI_getbinval(tuple, desc, 2, &null));

		t->id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &null));
		t->target = target_of(r->subscription, relid);
		t->hydrate = DatumGetBool(SPI_getbinval(tuple, desc, 3, &null));
		t->running = DatumGetBool(SPI_getbinval(tuple, desc, 4, &null));
		if (DatumGetBool(SPI_getbinval(tuple, desc, 5, &null)))
			r->lenient = true;
		if (!t->running)
			continue;
		r->started_at = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 7, &null));
		if (t->hydrate)
		{
			t->shadow = relid;
			continue;
		}
		t->shadow = ks_shadow_find(relid, t->id);
		now = ks_shadow_definition(relid);
		(*stale)[i] = !OidIsValid(t->shadow) || definition == NULL || now == NULL || strcmp(definition, now) != 0;
	}
	SPI_finish();
}

/* Runs a command about one request. */
static void
update_request(int64 id, const char *sql, const char *definition)
{
	Oid			types[2] = {INT8OID, TEXTOID};
	Datum		values[2] = {Int64GetDatum(id), definition ? CStringGetTextDatum(definition) : (Datum) 0};
	char		nulls[2] = {' ', definition ? ' ' : 'n'};

	(void) ks_catalog_execute(sql, 2, types, values, nulls);
}

/* Puts a request that was under way back among those that wait: it begins anew. */
void
ks_rebuild_put_back(int64 id)
{
	update_request(id, "UPDATE kafka.subscription_rebuild SET state = 'pending', started_at = NULL, definition = $2 "
				   "WHERE id = $1", NULL);
}

/* Begins with all that waits: shadows are made, positions set to where the subscription began. */
static void
begin_job(KsRebuild *r)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(r->subscription->id)};

	r->started_at = GetCurrentTimestamp();
	for (int i = 0; i < r->ntargets; i++)
	{
		KsRebuildTarget *t = &r->targets[i];
		char	   *definition = NULL;

		if (t->hydrate)
		{
			ks_shadow_drop(t->id);
			t->shadow = t->target->relid;
		}
		else
		{
			KsTargetTable *table = ks_target_create(r->subscription, t->target, t->target->relid);

			ks_target_open(table);
			definition = ks_shadow_definition(t->target->relid);
			t->shadow = ks_shadow_create(table, t->id);
			ks_target_close(table);
		}
		update_request(t->id, "UPDATE kafka.subscription_rebuild SET state = 'running', definition = $2, "
					   "started_at = pg_catalog.clock_timestamp() WHERE id = $1", definition);
		t->running = true;
	}
	ks_dead_letters_begin_rebuild(r->subscription);
	ks_forget_partitions(r->subscription->id, r->subscription->options->text_value[KS_OPT_PARTITIONS]);
	(void) ks_catalog_execute("DELETE FROM kafka.rebuild_position WHERE subscription_id = $1", 1, types, values, NULL);
	(void) ks_catalog_execute("INSERT INTO kafka.rebuild_position (subscription_id, topic, partition, next_offset, start_offset) "
							  "SELECT subscription_id, topic, partition, start_offset, start_offset "
							  "FROM kafka.subscription_position WHERE subscription_id = $1", 1, types, values, NULL);
}

/* See rebuild.h. */
KsRebuild *
ks_rebuild_load(const KsSubscription *subscription, bool begin)
{
	KsRebuild  *r = MemoryContextAllocZero(TopMemoryContext, sizeof(KsRebuild));
	MemoryContext old = CurrentMemoryContext;
	int			running = 0;
	bool	   *stale;

	r->subscription = subscription;
	r->nholders = -1;
	r->detail = "the log is read";
	StartTransactionCommand();
	ks_subscription_lock(subscription->id, begin);
	PushActiveSnapshot(GetTransactionSnapshot());
	read_requests(r, &stale);
	for (int i = 0; begin && i < r->ntargets; i++)
	{
		KsRebuildTarget *t = &r->targets[i];

		if (t->running && stale[i])
		{
			ks_rebuild_put_back(t->id);
			t->running = false;
		}
		running += t->running;
	}
	if (begin && running == 0 && r->ntargets > 0)
	{
		MemoryContextSwitchTo(TopMemoryContext);
		begin_job(r);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	return r->ntargets > 0 ? r : NULL;
}

/* See rebuild.h. */
bool
ks_rebuild_covers(const KsRebuild *r, Oid relid)
{
	for (int i = 0; i < r->ntargets; i++)
		if (r->targets[i].target->relid == relid)
			return true;
	return false;
}

/* See rebuild.h. */
void
ks_rebuild_create_feed(KsRebuild *r, const KsServer *server, TimestampTz *pace)
{
	KsOffsets  *offsets = ks_offsets_load(r->subscription->id, KS_REBUILD_POSITIONS, 0, 1);

	r->feed = ks_feed_create(r->subscription, server, offsets, pace);
	/* deletes from before it began cannot be missed, later ones can, see gaps.c */
	for (int i = 0; i < offsets->count; i++)
		offsets->items[i]->read_at = r->started_at;
	r->feed->consumer->rebuild = true;
	r->feed->consumer->lenient = r->lenient;
}

/* See rebuild.h. */
void
ks_rebuild_start(KsRebuild *r, KsFeed *live, KsOffsets *live_offsets)
{
	KsApplyTarget *targets = palloc(sizeof(KsApplyTarget) * r->ntargets);
	int			n = 0;

	r->live = live;
	r->live_offsets = live_offsets;
	for (int i = 0; i < r->ntargets; i++)
		if (r->targets[i].running)
		{
			targets[n].target = r->targets[i].target;
			targets[n++].relid = r->targets[i].shadow;
		}
	ks_feed_start(r->feed, targets, n);
}

/* See rebuild.h. */
bool
ks_rebuild_live_may_run(const KsRebuild *r)
{
	return r->stage != KS_REBUILD_FINISH && r->stage != KS_REBUILD_JOIN;
}

/* Writes where the log ended, for the status. */
static void
store_ends(KsRebuild *r)
{
	Oid			types[4] = {INT8OID, TEXTOID, INT4OID, INT8OID};
	Datum		values[4];

	StartTransactionCommand();
	ks_subscription_lock(r->subscription->id, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	values[0] = Int64GetDatum(r->subscription->id);
	for (int i = 0; i < r->feed->offsets->count; i++)
	{
		KsOffset   *o = r->feed->offsets->items[i];

		values[1] = CStringGetTextDatum(o->topic);
		values[2] = Int32GetDatum(o->partition);
		values[3] = Int64GetDatum(o->goal);
		(void) ks_catalog_execute("UPDATE kafka.rebuild_position SET end_offset = $4 "
								  "WHERE subscription_id = $1 AND topic = $2 AND partition = $3", 4, types, values, NULL);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Takes the log's ends as they are known now for the goals of a round. False: one is not known. */
static bool
set_goals(KsRebuild *r)
{
	KsOffsets  *offsets = r->feed->offsets;

	for (int i = 0; i < offsets->count; i++)
		if (!ks_rebuild_gone(offsets->items[i]) && (!offsets->items[i]->assigned || offsets->items[i]->high < 0))
			return false;
	if (!r->feed->consumer->connected)
		return false;
	r->last_round = 0;
	for (int i = 0; i < offsets->count; i++)
	{
		KsOffset   *o = offsets->items[i];

		o->goal = Max(o->high, o->stored);
		r->last_round += o->goal - o->stored;
	}
	store_ends(r);
	r->goals = true;
	return true;
}

/* Is everything read up to the goals, or to the end before them, where a transaction is open? */
static bool
reached_goals(const KsRebuild *r)
{
	for (int i = 0; i < r->feed->offsets->count; i++)
	{
		KsOffset   *o = r->feed->offsets->items[i];

		if (o->stored < o->goal && o->stored != o->eof && !ks_rebuild_gone(o))
			return false;
	}
	return true;
}

/* Messages that are still to be read now. */
static uint64
remaining(const KsRebuild *r)
{
	uint64		lag = ks_log_ends_lag(r->feed->offsets);

	return lag == PG_UINT64_MAX ? 0 : lag;
}

/* Builds one index that a shadow needs before it can take its target's place. False: none is missing. */
static bool
build_index(KsRebuild *r)
{
	bool		built = false;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	for (int i = 0; i < r->ntargets && !built; i++)
	{
		KsRebuildTarget *t = &r->targets[i];

		if (!t->running || t->hydrate || ks_shadow_obstacle(t->target->relid) != NULL)
			continue;
		built = ks_shadow_add_index(t->target->relid, t->id);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	return built;
}

/* One more round, or the last stretch? */
static void
next_round(KsRebuild *r)
{
	uint64		last = r->last_round;
	uint64		left = remaining(r);

	if (r->live == NULL || left <= SHORT_ROUND || left > last / 2 || ++r->rounds > MAX_ROUNDS || !set_goals(r))
	{
		r->stage = KS_REBUILD_FINISH;
		r->detail = "the end of the log is read";
	}
}

/* Ends the reading of each partition where its log ends. True: all are there. */
static bool
stop_at_ends(KsRebuild *r)
{
	KsOffsets  *offsets = r->feed->offsets;
	bool		all = true;

	for (int i = 0; i < offsets->count; i++)
	{
		KsOffset   *o = offsets->items[i];
		KsOffset   *live = r->live ? ks_offsets_find(r->live_offsets, o->topic, o->partition) : NULL;

		if (o->stop == PG_INT64_MAX && ks_rebuild_gone(o))
			o->stop = live ? live->read : o->read;
		if (o->stop == PG_INT64_MAX && o->assigned && o->eof == o->read && o->stored == o->read &&
			(live == NULL || live->read <= o->read))	/* it may hold messages that it has not applied yet */
			o->stop = o->read;
		all = all && o->stop != PG_INT64_MAX;
	}
	/* partitions that only the other feed has found yet */
	for (int i = 0; r->live && i < r->live_offsets->count; i++)
		if (ks_offsets_find(offsets, r->live_offsets->items[i]->topic, r->live_offsets->items[i]->partition) == NULL)
			all = false;
	return all;
}

/* Has the ordinary feed stop at the same places. True: it is there. */
static bool
drained(KsRebuild *r)
{
	bool		all = true;

	for (int i = 0; i < r->feed->offsets->count; i++)
	{
		KsOffset   *o = r->feed->offsets->items[i];
		KsOffset   *live = ks_offsets_find(r->live_offsets, o->topic, o->partition);

		if (o->stop == PG_INT64_MAX)
			r->stage = KS_REBUILD_FINISH;	/* a partition found since */
		if (live == NULL || o->stop == PG_INT64_MAX)
		{
			all = false;
			continue;
		}
		live->stop = o->stop;
		if (ks_rebuild_gone(o) || ks_rebuild_gone(live))	/* only the latter looks now */
			all = ks_rebuild_leave(r, o, live) && all;
		else
			all = all && live->stored == o->stop;
	}
	if (!stop_at_ends(r))
	{
		r->stage = KS_REBUILD_FINISH;
		all = false;
	}
	return all;
}

/* Is the ordinary feed ahead of where a partition was stopped?  That cannot be joined any more. */
static bool
passed_by(const KsRebuild *r)
{
	for (int i = 0; i < r->feed->offsets->count; i++)
	{
		KsOffset   *o = r->feed->offsets->items[i];
		KsOffset   *live = ks_offsets_find(r->live_offsets, o->topic, o->partition);

		if (live != NULL && live->stored > o->stop && !ks_rebuild_gone(o))
			return true;
	}
	return false;
}

/*
 * Has the ordinary feed waited for long, for a row that may come from beyond where a partition was stopped?  Partitions are
 * stopped one after the other: one message may be in, and one that it refers to not.  It has to be read on then.
 */
static bool
waits_for_more(KsRebuild *r)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!r->live->holding)
		r->held_since = 0;
	else if (r->held_since == 0)
		r->held_since = now;
	if (r->held_since == 0 || !TimestampDifferenceExceeds(r->held_since, now, HELD_FOR_MS))
		return false;
	for (int i = 0; i < r->live_offsets->count; i++)
		if (r->live_offsets->items[i]->high > r->live_offsets->items[i]->stop)
			return true;
	return false;
}

/*
 * Tells the ordinary feed how long the log is at least: while it waits for something it fetches nothing, so does not learn
 * of messages that are new, and would take a topic that goes then for one that it has read to its end.
 */
static void
tell_live(const KsRebuild *r)
{
	for (int i = 0; r->live && i < r->feed->offsets->count; i++)
	{
		const KsOffset *o = r->feed->offsets->items[i];
		KsOffset   *live = ks_offsets_find(r->live_offsets, o->topic, o->partition);

		if (live)
			live->elsewhere = o->stored;
	}
}

/* See rebuild.h. */
bool
ks_rebuild_pass(KsRebuild *r, bool *more)
{
	*more = false;
	tell_live(r);
	switch (r->stage)
	{
		case KS_REBUILD_LOAD:
			if (!ks_feed_pass(r->feed, more))
				return false;
			if (!ks_rebuild_complete(r) || (!r->goals && !set_goals(r)))
				return true;
			if (reached_goals(r))
			{
				r->stage = KS_REBUILD_INDEX;
				r->detail = "indexes are built";
				*more = true;
			}
			return true;
		case KS_REBUILD_INDEX:
			*more = true;
			if (!build_index(r))
			{
				r->stage = KS_REBUILD_CATCH_UP;
				r->detail = "the log is read";
				next_round(r);
			}
			return true;
		case KS_REBUILD_CATCH_UP:
			if (!ks_feed_pass(r->feed, more))
				return false;
			if (ks_rebuild_complete(r) && reached_goals(r))
				next_round(r);
			return true;
		case KS_REBUILD_FINISH:
			if (!ks_feed_pass(r->feed, more))
				return false;
			if (!ks_rebuild_complete(r))
				return r->incomplete[0] == '\0';	/* the others are not to wait: begin anew */
			if (!stop_at_ends(r))
				return true;
			*more = true;
			r->stage = KS_REBUILD_JOIN;
			if (r->live == NULL)
				return true;
			r->stage = KS_REBUILD_DRAIN;
			r->detail = "the other targets catch up";
			/* at once: live must not run a single time without its bounds */
			/* FALLTHROUGH */
		case KS_REBUILD_DRAIN:
			if (passed_by(r) || !ks_rebuild_complete(r) || waits_for_more(r))
				return false;
			if (drained(r))
			{
				r->stage = KS_REBUILD_JOIN;
				*more = true;
			}
			return true;
		case KS_REBUILD_JOIN:
			return !ks_rebuild_join(r);
	}
	return true;
}
