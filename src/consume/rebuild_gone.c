/*
 * rebuild_gone.c: partitions that are to be read again, but do not exist any more.
 *
 * A topic that was deleted keeps its position, so that another one of its name is noticed.  Nothing is ever read from it
 * again: a rebuild must neither wait for that without a word, nor lose its rows unless it was told to ("force").
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "consume/rebuild_internal.h"
#include "control/definitions.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

/* See rebuild_internal.h. */
bool
ks_rebuild_gone(const KsOffset *o)
{
	return o->gone && !o->assigned;
}

/* Runs a command about one partition, in a transaction of its own; $4 is a position. Returns the number of rows. */
static uint64
change(const KsRebuild *r, const KsOffset *o, const char *sql, int64 position)
{
	Oid			types[4] = {INT8OID, TEXTOID, INT4OID, INT8OID};
	Datum		values[4];
	MemoryContext old = CurrentMemoryContext;
	uint64		rows;

	StartTransactionCommand();
	ks_subscription_lock(r->subscription->id, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	values[0] = Int64GetDatum(r->subscription->id);
	values[1] = CStringGetTextDatum(o->topic);
	values[2] = Int32GetDatum(o->partition);
	values[3] = Int64GetDatum(position);
	rows = ks_catalog_execute(sql, 4, types, values, NULL);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	return rows;
}

/* Removes a position, in memory too; that of which something was read stays, unless "read" is true, too. */
static void
remove_position(KsRebuild *r, int i, bool read)
{
	KsOffsets  *offsets = r->feed->offsets;
	KsOffset   *o = offsets->items[i];

	if (change(r, o, "DELETE FROM kafka.rebuild_position WHERE subscription_id = $1 AND topic = $2 AND partition = $3 "
			   "AND start_offset >= $4", read ? 0 : o->stored) == 0)
		return;
	offsets->count--;
	memmove(offsets->items + i, offsets->items + i + 1, sizeof(KsOffset *) * (offsets->count - i));
	offsets->latest = NULL;
}

/* See rebuild_internal.h. */
bool
ks_rebuild_complete(KsRebuild *r)
{
	KsOffsets  *offsets = r->feed->offsets;
	bool		complete = true;

	r->incomplete[0] = '\0';
	for (int i = offsets->count - 1; i >= 0; i--)
	{
		KsOffset   *o = offsets->items[i];
		KsOffset   *live = ks_offsets_find(r->live_offsets, o->topic, o->partition);

		if (!ks_rebuild_gone(o))
			continue;
		if (o->read != o->stored)
			complete = false;	/* the last of it is still to be applied */
		else if (live == NULL && r->live)
			remove_position(r, i, true);	/* the others have never heard of it */
		else if (live == NULL || o->stored >= live->read)
			continue;			/* all that was ever read from it */
		else if (!r->lenient)
		{
			complete = false;
			snprintf(r->incomplete, sizeof(r->incomplete),
					 "partition %d of topic \"%.100s\" does not exist any more; a rebuild with force goes on without it",
					 o->partition, o->topic);
		}
		else if (r->live == NULL)
			remove_position(r, i, false);
	}
	return complete;
}

/* See rebuild_internal.h. */
bool
ks_rebuild_leave(KsRebuild *r, KsOffset *o, const KsOffset *live)
{
	if (live->stored != live->read)
		return false;
	if (o->stored == live->stored)
		return true;
	/* of what was not read, no dead letters are removed: hence the start */
	if (change(r, o, "UPDATE kafka.rebuild_position r SET next_offset = p.next_offset, "
			   "start_offset = CASE WHEN r.next_offset < p.next_offset THEN p.next_offset ELSE r.start_offset END, "
			   "last_offset = p.last_offset, last_timestamp = p.last_timestamp, last_checksum = p.last_checksum, "
			   "producers = p.producers FROM kafka.subscription_position p "
			   "WHERE r.subscription_id = $1 AND r.topic = $2 AND r.partition = $3 AND p.subscription_id = $1 "
			   "AND p.topic = $2 AND p.partition = $3 AND p.next_offset = $4", live->stored) == 0)
		return false;
	o->stored = o->read = live->stored;
	return true;
}
