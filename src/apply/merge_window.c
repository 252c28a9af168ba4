/*
 * merge_window.c: windows of a merge target: which are closed, and which are too old to be kept.
 *
 * The newest window of the table rules: a window that begins more than "grace" before it is closed, and one that begins
 * more than "retain" before it is deleted.  A window that was deleted must not come back half filled, so it is closed by
 * then in any case.
 *
 * An event is late if a row of it belongs to a window that was closed before the event: by the table, or by events
 * before it in the run.  Only where some row of a run may be late, the late events are looked for, by halves.
 */
#include "postgres.h"

#include "apply/dead_letter.h"
#include "apply/query_target.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Begin of a window in microseconds, whatever the column's type. */
static Timestamp
begin_of(KsQueryWriter *w, Datum value)
{
	Oid			type = getBaseType(TupleDescAttr(RelationGetDescr(w->writer.table->rel), w->window)->atttypid);

	/* timestamp and timestamptz look alike: the session's time zone is UTC */
	return type == DATEOID ? DatumGetTimestamp(DirectFunctionCall1(date_timestamp, value)) : DatumGetTimestamp(value);
}

/* An interval given as an option, NULL if it is not. */
static Interval *
interval_option(KsQueryWriter *w, KsOptionId id)
{
	const char *text = w->target->options->text_value[id];

	if (text == NULL)
		return NULL;
	return DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid),
												 Int32GetDatum(-1)));
}

/* "before" an interval; the begin of time where there is no interval, or nothing to count from. */
static Timestamp
minus(Timestamp before, Interval *interval)
{
	if (interval == NULL || TIMESTAMP_NOT_FINITE(before))
		return DT_NOBEGIN;
	return DatumGetTimestamp(DirectFunctionCall2(timestamp_mi_interval, TimestampGetDatum(before),
												 IntervalPGetDatum(interval)));
}

/* The time before which windows are closed, "newest" being the newest one. */
static Timestamp
closed_before(Timestamp newest, Interval *grace, Interval *retain)
{
	return Max(minus(newest, grace), minus(newest, retain));
}

/* The newest window of the table; the begin of time if it has none. */
static Timestamp
newest_window(KsQueryWriter *w, const KsMergeOps *ops)
{
	Datum		window;

	return ops->newest_window(w, &window) ? begin_of(w, window) : DT_NOBEGIN;
}

/* Deletes the windows that begin before a time. */
static void
delete_windows(KsQueryWriter *w, const KsMergeOps *ops, Timestamp before)
{
	Oid			type = getBaseType(TupleDescAttr(RelationGetDescr(w->writer.table->rel), w->window)->atttypid);

	if (type == DATEOID)
	{
		/* a date is before a time if it is before the first date that is not */
		DateADT		date = DatumGetDateADT(DirectFunctionCall1(timestamp_date, TimestampGetDatum(before)));

		if (DatumGetTimestamp(DirectFunctionCall1(date_timestamp, DateADTGetDatum(date))) < before)
			date++;
		ops->delete_windows(w, DateADTGetDatum(date));
	}
	else
		ops->delete_windows(w, TimestampGetDatum(before));
}

/* The oldest and the newest window among the rows of the batch; false: there are none. */
static bool
windows_of(KsQueryWriter *w, Timestamp *oldest, Timestamp *newest)
{
	KsBatch    *b = w->batch;

	*oldest = DT_NOEND;
	*newest = DT_NOBEGIN;
	for (int i = 0; i < b->nrows; i++)
	{
		Timestamp	begin = begin_of(w, b->rows[i].values[w->window]);

		*oldest = Min(*oldest, begin);
		*newest = Max(*newest, begin);
	}
	return b->nrows > 0;
}

/* A time as text. */
static const char *
time_text(Timestamp time)
{
	return DatumGetCString(DirectFunctionCall1(timestamp_out, TimestampGetDatum(time)));
}

/* Drops a late event, or puts it among the dead letters, as the target's option says. */
static void
set_aside(KsQueryWriter *w, const KsBatchEvent *e, Timestamp window, Timestamp closed)
{
	KsTargetTable *t = w->writer.table;
	KsLetterTargets targets = {w->target->relid, 1, &w->target->relid, w->batch->run->rebuilding};

	if (strcmp(w->target->options->text_value[KS_OPT_LATE], "drop") == 0)
	{
		w->batch->run->dropped++;
		return;
	}
	ks_dead_letter_add(w->batch->run->subscription, &w->relation->messages[e->message], e->op, &targets, "late",
					   ERRCODE_DATA_EXCEPTION,
					   psprintf("late for target %s: its window begins at %s, and those before %s are closed", t->qualified,
								time_text(window), time_text(closed)), NULL, false);
}

/* The search for late events in a run. */
typedef struct Search
{
	KsQueryWriter *w;
	Interval   *grace;
	Interval   *retain;
	Timestamp	newest;			/* window of the table, and of the events before */
	MemoryContext plan_context;
	PlannedStmt *plans[32];		/* by how often the run was halved */
	MemoryContext probe_context;	/* reset for each run of the query */
	int		   *kept;
	int			nkept;
} Search;

/* Takes the windows of rows, and no more. */
typedef struct WindowReceiver
{
	DestReceiver pub;
	KsQueryWriter *w;
	int			sink;			/* with the begin of the window */
	Timestamp	oldest;
	Timestamp	newest;
} WindowReceiver;

/* Takes a row; one without a window is an error later, when the rows are computed that are to be kept. */
static bool
receive_window(TupleTableSlot *slot, DestReceiver *self)
{
	WindowReceiver *r = (WindowReceiver *) self;
	bool		isnull;
	Datum		value = slot_getattr(slot, r->sink + 1, &isnull);

	if (!isnull)
	{
		Timestamp	begin = begin_of(r->w, value);

		r->oldest = Min(r->oldest, begin);
		r->newest = Max(r->newest, begin);
	}
	return true;
}

static void
receive_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
receive_end(DestReceiver *self)
{
}

static const DestReceiver window_receiver = {receive_window, receive_startup, receive_end, receive_end, DestNone};

/* The windows of the rows that events make: the end and the begin of time if they make none. */
static WindowReceiver
windows_of_events(Search *s, const int *events, int count, int depth)
{
	KsQueryWriter *w = s->w;
	WindowReceiver r = {window_receiver, w, 0, DT_NOEND, DT_NOBEGIN};
	MemoryContext old;
	Tuplestorestate *rows;

	while (w->attributes[r.sink] != w->window)
		r.sink++;
	if (s->plans[depth] == NULL)
	{
		old = MemoryContextSwitchTo(s->plan_context);
		s->plans[depth] = ks_query_plan_rows(w, count);
		MemoryContextSwitchTo(old);
	}
	MemoryContextReset(s->probe_context);
	old = MemoryContextSwitchTo(s->probe_context);
	rows = ks_batch_relation_choose(w->relation, events, count);
	ks_query_run_rows(w, s->plans[depth], rows, count, &r.pub);
	tuplestore_end(rows);
	MemoryContextSwitchTo(old);
	return r;
}

/*
 * Puts those of the events that are not late into "kept", in their order.  Where no window of theirs is closed by the
 * newest of all of them, none is late; else the halves are looked at.  So few late events cost few runs of the query.
 */
static void
sort_out(Search *s, const int *events, int count, int depth)
{
	KsBatchRelation *r = s->w->relation;
	WindowReceiver found;
	Timestamp	newest;

	CHECK_FOR_INTERRUPTS();
	r->run->current = count == 1 ? r->events[events[0]].message : -1;
	found = windows_of_events(s, events, count, depth);
	newest = Max(s->newest, found.newest);
	if (found.oldest < closed_before(newest, s->grace, s->retain))
	{
		Timestamp	closed = closed_before(s->newest, s->grace, s->retain);

		if (count > 1)
		{
			sort_out(s, events, count / 2, depth + 1);
			sort_out(s, events + count / 2, count - count / 2, depth + 1);
			return;
		}
		/* what an event itself closes does not make it late */
		if (found.oldest < closed)
		{
			set_aside(s->w, &r->events[events[0]], found.oldest, closed);
			return;
		}
	}
	s->newest = newest;
	memcpy(s->kept + s->nkept, events, sizeof(int) * count);
	s->nkept += count;
}

/* Looks for late events in the run; returns those that are not, *count of them. */
static int *
sort_out_late(KsQueryWriter *w, Timestamp newest, Interval *grace, Interval *retain, int *count)
{
	KsBatchRelation *r = w->relation;
	MemoryContext context = w->batch->context;
	int		   *seen = MemoryContextAllocHuge(context, sizeof(int) * Max(r->count, 1));
	int			nseen = 0;
	Search		s = {w, grace, retain, newest};

	s.kept = MemoryContextAllocHuge(context, sizeof(int) * Max(r->count, 1));
	s.plan_context = AllocSetContextCreate(context, "pg_kafka_sync plans for late events", ALLOCSET_DEFAULT_SIZES);
	s.probe_context = AllocSetContextCreate(context, "pg_kafka_sync late events", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < r->count; i++)
		if (ks_query_sees(w, &r->events[i]))
			seen[nseen++] = i;
	sort_out(&s, seen, nseen, 0);
	r->run->current = -1;
	MemoryContextDelete(s.probe_context);
	MemoryContextDelete(s.plan_context);
	*count = s.nkept;
	return s.kept;
}

/* See query_target.h. */
void
ks_merge_write(KsQueryWriter *w, const KsMergeOps *ops)
{
	KsBatch    *b = w->batch;
	KsBatchRelation *r = w->relation;
	MemoryContext old = MemoryContextSwitchTo(b->context);
	Interval   *retain = interval_option(w, KS_OPT_RETAIN);
	Interval   *grace = interval_option(w, KS_OPT_GRACE);
	bool		windowed = w->window >= 0 && (retain || grace) && !b->run->retrying;
	Timestamp	before = DT_NOBEGIN;
	Timestamp	oldest;
	Timestamp	newest;
	int			count;
	Tuplestorestate *rows = ks_batch_relation_rows(r, w->view, ks_query_topic(w), &count);

	ks_query_compute(w, rows, count);
	if (windowed && windows_of(w, &oldest, &newest))
	{
		before = newest_window(w, ops);
		newest = Max(newest, before);
		if (oldest < closed_before(newest, grace, retain))
		{
			int		   *kept = sort_out_late(w, before, grace, retain, &count);

			b->nrows = 0;
			ks_query_compute(w, ks_batch_relation_choose(r, kept, count), count);
			(void) windows_of(w, &oldest, &newest);
			newest = Max(newest, before);
		}
	}
	if (b->nrows > 0)
		ops->fold(w);
	if (windowed && b->nrows > 0 && retain && newest > before)
		delete_windows(w, ops, minus(newest, retain));
	MemoryContextSwitchTo(old);
}
