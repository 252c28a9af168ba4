/*
 * merge_window.c: windows of a merge target: which are closed, and which are too old to be kept.
 *
 * The newest window of the table rules: a window that begins more than "grace" before it is closed, and one that begins
 * more than "retain" before it is deleted.  A window that was deleted must not come back half filled, so it is closed by
 * then in any case.
 *
 * An event is late if a row of it belongs to a window that was closed before the event: by the table, or by events
 * before it in the run.  Only where some row of a run may be late, its events are looked at one by one.
 */
#include "postgres.h"

#include "apply/dead_letter.h"
#include "apply/query_target.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
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
newest_window(KsQueryWriter *w)
{
	KsTargetTable *t = w->writer.table;
	Timestamp	result = DT_NOBEGIN;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(psprintf("SELECT pg_catalog.max(%s) FROM %s", t->columns[w->window].quoted, t->qualified), true, 1) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not read %s", t->qualified);
	if (SPI_processed == 1)
	{
		bool		isnull;
		Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

		if (!isnull)
			result = begin_of(w, value);
	}
	SPI_finish();
	return result;
}

/* Deletes the windows that begin before a time. */
static void
delete_windows(KsQueryWriter *w, Timestamp before)
{
	KsTargetTable *t = w->writer.table;
	Oid			types[1];
	Datum		values[1];

	types[0] = getBaseType(TupleDescAttr(RelationGetDescr(t->rel), w->window)->atttypid);
	if (types[0] == DATEOID)
	{
		/* a date is before a time if it is before the first date that is not */
		DateADT		date = DatumGetDateADT(DirectFunctionCall1(timestamp_date, TimestampGetDatum(before)));

		if (DatumGetTimestamp(DirectFunctionCall1(date_timestamp, DateADTGetDatum(date))) < before)
			date++;
		values[0] = DateADTGetDatum(date);
	}
	else
		values[0] = TimestampGetDatum(before);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(psprintf("DELETE FROM %s WHERE %s OPERATOR(pg_catalog.<) $1", t->qualified,
									   t->columns[w->window].quoted), 1, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete from %s", t->qualified);
	SPI_finish();
}

/* The oldest and the newest window among the rows of the batch from "first" on; false: there are none. */
static bool
windows_of(KsQueryWriter *w, int first, Timestamp *oldest, Timestamp *newest)
{
	KsBatch    *b = w->batch;

	*oldest = DT_NOEND;
	*newest = DT_NOBEGIN;
	for (int i = first; i < b->nrows; i++)
	{
		Timestamp	begin = begin_of(w, b->rows[i].values[w->window]);

		*oldest = Min(*oldest, begin);
		*newest = Max(*newest, begin);
	}
	return b->nrows > first;
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

/* Looks at the events of the run one by one; returns those that are not late, *count of them. */
static int *
sort_out_late(KsQueryWriter *w, Timestamp newest, Interval *grace, Interval *retain, int *count)
{
	KsBatchRelation *r = w->relation;
	int		   *kept = MemoryContextAlloc(w->batch->context, sizeof(int) * Max(r->count, 1));

	*count = 0;
	for (int i = 0; i < r->count; i++)
	{
		KsBatchEvent *e = &r->events[i];
		int			first = w->batch->nrows;
		Timestamp	oldest;
		Timestamp	youngest;

		if (!ks_batch_relation_sees(e, w->view))
			continue;
		r->run->current = e->message;
		ks_query_compute(w, ks_batch_relation_choose(r, &i, 1), 1);
		if (windows_of(w, first, &oldest, &youngest) && oldest < closed_before(newest, grace, retain))
		{
			set_aside(w, e, oldest, closed_before(newest, grace, retain));
			continue;
		}
		newest = Max(newest, youngest);
		kept[(*count)++] = i;
		CHECK_FOR_INTERRUPTS();
	}
	r->run->current = -1;
	return kept;
}

/* See query_target.h. */
void
ks_merge_write(KsQueryWriter *w)
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
	Tuplestorestate *rows = ks_batch_relation_rows(r, w->view, &count);

	ks_query_compute(w, rows, count);
	if (windowed && windows_of(w, 0, &oldest, &newest))
	{
		before = newest_window(w);
		newest = Max(newest, before);
		if (oldest < closed_before(newest, grace, retain))
		{
			int		   *kept = sort_out_late(w, before, grace, retain, &count);

			b->nrows = 0;
			ks_query_compute(w, ks_batch_relation_choose(r, kept, count), count);
			(void) windows_of(w, 0, &oldest, &newest);
			newest = Max(newest, before);
		}
	}
	if (b->nrows > 0)
		ks_merge_apply(w);
	if (windowed && b->nrows > 0 && retain && newest > before)
		delete_windows(w, minus(newest, retain));
	MemoryContextSwitchTo(old);
}
