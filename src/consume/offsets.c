/*
 * offsets.c: kafka.subscription_position in memory, read at start. How it is written with the rows is in offsets_write.c.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "consume/offsets.h"
#include "control/definitions.h"
#include "executor/spi.h"
#include "port/pg_crc32c.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* A timestamptz as milliseconds since the Unix epoch. */
static int64
ms_of_timestamp(TimestampTz t)
{
	return (t + ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * USECS_PER_DAY) / 1000;
}

/* See offsets.h. */
uint32
ks_message_checksum(const char *key, Size key_size, const char *value, Size value_size)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	if (key)
		COMP_CRC32C(crc, key, key_size);
	if (value)
		COMP_CRC32C(crc, value, value_size);
	FIN_CRC32C(crc);
	return crc;
}

/* Makes an entry in memory. */
static KsOffset *
add_entry(KsOffsets *offsets, const char *topic, int32 partition, int64 start)
{
	MemoryContext old = MemoryContextSwitchTo(offsets->context);
	KsOffset   *o = palloc0(sizeof(KsOffset));

	o->topic = pstrdup(topic);
	o->partition = partition;
	o->stored = o->read = start;
	o->last_offset = -1;
	o->last_timestamp_ms = -1;
	o->anchor_offset = -1;
	o->low = o->high = o->stable = o->eof = o->asked_high = o->asked_end = -1;
	o->stop = PG_INT64_MAX;
	o->producers = ks_producers_read(NULL);
	o->reported = o->reported_stable = o->reported_high = -2;
	if (offsets->count == offsets->capacity)
	{
		offsets->capacity = Max(16, offsets->capacity * 2);
		offsets->items = offsets->items ?
			repalloc(offsets->items, sizeof(KsOffset *) * offsets->capacity) :
			palloc(sizeof(KsOffset *) * offsets->capacity);
	}
	offsets->items[offsets->count++] = o;
	MemoryContextSwitchTo(old);
	return o;
}

/* See offsets.h. */
int32
ks_partition_worker(const char *topic, int32 partition, int32 workers)
{
	/* topics begin at different workers, so that many topics of one partition are divided, too */
	return (int32) (((uint64) ks_message_checksum(topic, strlen(topic), NULL, 0) + (uint64) partition) % workers);
}

/* Are the positions those of the subscription itself? */
static bool
is_live(const KsOffsets *offsets)
{
	return strcmp(offsets->table, KS_LIVE_POSITIONS) == 0;
}

/* Reads what a record is known by from three columns, the first of them "number"; *offset stays -1 if they have none. */
static void
read_record(HeapTuple tuple, TupleDesc desc, int number, int64 *offset, int64 *timestamp_ms, uint32 *checksum)
{
	bool		null;
	Datum		d = SPI_getbinval(tuple, desc, number, &null);

	if (null)
		return;
	*offset = DatumGetInt64(d);
	d = SPI_getbinval(tuple, desc, number + 1, &null);
	*timestamp_ms = null ? -1 : ms_of_timestamp(DatumGetTimestampTz(d));
	d = SPI_getbinval(tuple, desc, number + 2, &null);
	if (null)
		*offset = -1;
	else
		*checksum = (uint32) DatumGetInt64(d);
}

/*
 * Adds entries for what the table says: all partitions of this worker, or (topic not NULL) one.  Returns the last.
 */
static KsOffset *
read_positions(KsOffsets *offsets, const char *only_topic, int32 only_partition)
{
	KsOffset   *added = NULL;
	Oid			types[3] = {INT8OID, TEXTOID, INT4OID};
	Datum		values[3];
	char		nulls[3] = {' ', only_topic ? ' ' : 'n', ' '};

	values[0] = Int64GetDatum(offsets->subscription_id);
	values[1] = only_topic ? CStringGetTextDatum(only_topic) : (Datum) 0;
	values[2] = Int32GetDatum(only_partition);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(psprintf("SELECT topic, partition, next_offset, last_offset, last_timestamp, last_checksum, "
									   "producers%s FROM kafka.%s WHERE subscription_id = $1 "
									   "AND ($2 IS NULL OR topic = $2 AND partition = $3) ORDER BY topic, partition",
									   is_live(offsets) ? ", read_at, topic_id, generation, anchor_offset, anchor_timestamp, "
									   "anchor_checksum" : "", offsets->table),
							  3, types, values, nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kafka.%s", offsets->table);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		null;
		Datum		topic = SPI_getbinval(tuple, desc, 1, &null);
		int32		partition = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &null));
		int64		next = DatumGetInt64(SPI_getbinval(tuple, desc, 3, &null));
		char	   *name = TextDatumGetCString(topic);
		KsOffset   *o;
		Datum		d;

		if (ks_partition_worker(name, partition, offsets->workers) != offsets->ordinal)
			continue;
		o = added = add_entry(offsets, name, partition, next);
		d = SPI_getbinval(tuple, desc, 7, &null);
		if (!null)
		{
			MemoryContext old = MemoryContextSwitchTo(offsets->context);

			o->producers = ks_producers_read(DatumGetJsonbP(d));
			MemoryContextSwitchTo(old);
		}
		if (is_live(offsets))
		{
			d = SPI_getbinval(tuple, desc, 8, &null);
			if (!null)
				o->read_at = o->read_at_noted = DatumGetTimestampTz(d);
			d = SPI_getbinval(tuple, desc, 9, &null);
			if (!null)
				strlcpy(o->topic_id, TextDatumGetCString(d), sizeof(o->topic_id));
			o->generation = DatumGetInt64(SPI_getbinval(tuple, desc, 10, &null));
			read_record(tuple, desc, 11, &o->anchor_offset, &o->anchor_timestamp_ms, &o->anchor_checksum);
		}
		read_record(tuple, desc, 4, &o->last_offset, &o->last_timestamp_ms, &o->last_checksum);
	}
	SPI_finish();
	return added;
}

/* See offsets.h. */
KsOffsets *
ks_offsets_load(int64 subscription_id, const char *table, int32 ordinal, int32 workers)
{
	KsOffsets  *offsets = palloc0(sizeof(KsOffsets));

	offsets->subscription_id = subscription_id;
	offsets->table = table;
	offsets->ordinal = ordinal;
	offsets->workers = workers;
	offsets->context = CurrentMemoryContext;
	(void) read_positions(offsets, NULL, 0);
	return offsets;
}

/* See offsets.h. */
KsOffset *
ks_offsets_find(KsOffsets *offsets, const char *topic, int32 partition)
{
	KsOffset   *o = offsets->latest;

	if (o && o->partition == partition && strcmp(o->topic, topic) == 0)
		return o;
	for (int i = 0; i < offsets->count; i++)
	{
		o = offsets->items[i];
		if (o->partition == partition && strcmp(o->topic, topic) == 0)
			return offsets->latest = o;
	}
	return NULL;
}

/* See offsets.h. */
KsOffset *
ks_offsets_add(KsOffsets *offsets, const char *topic, int32 partition, int64 start)
{
	Oid			types[4] = {INT8OID, TEXTOID, INT4OID, INT8OID};
	Datum		values[4];
	MemoryContext old = CurrentMemoryContext;
	KsOffset   *added;

	StartTransactionCommand();
	ks_subscription_lock(offsets->subscription_id, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	values[0] = Int64GetDatum(offsets->subscription_id);
	values[1] = CStringGetTextDatum(topic);
	values[2] = Int32GetDatum(partition);
	values[3] = Int64GetDatum(start);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(psprintf("INSERT INTO kafka.%s "
									   "(subscription_id, topic, partition, next_offset, start_offset) "
									   "VALUES ($1, $2, $3, $4, $4) ON CONFLICT DO NOTHING", offsets->table),
							  4, types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write kafka.%s", offsets->table);
	SPI_finish();
	added = read_positions(offsets, topic, partition);
	PopActiveSnapshot();
	/* where foreign targets remember offsets of a generation, ours must not be lost */
	ForceSyncCommit();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	if (added == NULL)
		elog(ERROR, "could not read kafka.%s", offsets->table);
	return added;
}

/* See offsets.h. */
void
ks_offsets_move(KsOffsets *offsets, KsOffset *o, int64 start)
{
	Oid			types[4] = {INT8OID, TEXTOID, INT4OID, INT8OID};
	Datum		values[4];
	MemoryContext old = CurrentMemoryContext;

	Assert(o->stored == o->read);
	StartTransactionCommand();
	ks_subscription_lock(offsets->subscription_id, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	values[0] = Int64GetDatum(offsets->subscription_id);
	values[1] = CStringGetTextDatum(o->topic);
	values[2] = Int32GetDatum(o->partition);
	values[3] = Int64GetDatum(start);
	(void) ks_catalog_execute(psprintf("UPDATE kafka.%s SET next_offset = $4, start_offset = $4 "
									   "WHERE subscription_id = $1 AND topic = $2 AND partition = $3", offsets->table),
							  4, types, values, NULL);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	o->stored = o->read = start;
}

/* See offsets.h. */
void
ks_offsets_stage(KsOffset *offset, const KsMessage *message)
{
	offset->staged = true;
	offset->staged_next = message->offset + 1;
	offset->staged_message = message;
}

/* See offsets.h. */
void
ks_offsets_stage_step(KsOffset *offset, int64 next)
{
	if (!offset->staged)
	{
		if (next <= offset->stored)
			return;
		offset->staged = true;
		offset->staged_next = next;
		offset->staged_message = NULL;
	}
	else if (next > offset->staged_next)
		offset->staged_next = next;
}

/* See offsets.h. */
bool
ks_offsets_staged(const KsOffsets *offsets)
{
	for (int i = 0; i < offsets->count; i++)
		if (offsets->items[i]->staged)
			return true;
	return false;
}

/* See offsets.h. */
void
ks_offsets_finish(KsOffsets *offsets, bool committed)
{
	for (int i = 0; i < offsets->count; i++)
	{
		KsOffset   *o = offsets->items[i];
		const KsMessage *m = o->staged_message;

		if (o->staged && committed)
		{
			o->read_at = ks_offset_read_at(o, o->staged_next);
			if (o->read_at > o->read_at_noted)
				o->read_at_noted = o->read_at;
			o->stored = o->staged_next;
			if (m)
			{
				o->last_offset = m->offset;
				o->last_timestamp_ms = m->timestamp_ms;
				o->last_checksum = ks_message_checksum(m->key, m->key_size, m->value, m->value_size);
				if (o->anchor_offset < 0)
					ks_offset_anchor(o);
			}
		}
		ks_producers_finish(o->producers, committed);
		o->staged = false;
		o->staged_message = NULL;
	}
}

/* See offsets.h. */
TimestampTz
ks_offset_read_at(const KsOffset *o, int64 position)
{
	return o->asked_end >= 0 && position >= o->asked_end ? Max(o->asked_at, o->read_at) : o->read_at;
}

/* See offsets.h. */
void
ks_offset_anchor(KsOffset *o)
{
	o->anchor_offset = o->last_offset;
	o->anchor_timestamp_ms = o->last_timestamp_ms;
	o->anchor_checksum = o->last_checksum;
}

/* See offsets.h. */
void
ks_offset_note_answer(KsOffset *o, int64 high, TimestampTz asked_at)
{
	o->asked_at = asked_at;
	o->asked_high = o->asked_end = high;
	o->read_at = ks_offset_read_at(o, o->stored);
}

/* See offsets.h. */
void
ks_offset_note_ends(KsOffset *o, int64 high, int64 stable)
{
	o->high = high;
	o->stable = stable;
	/* a log that is as long as the answer said is no older: what it holds behind open transactions is not compacted */
	if (o->asked_high >= 0 && high >= o->asked_high)
		o->asked_end = Min(o->asked_end, stable);
	o->read_at = ks_offset_read_at(o, o->stored);
}

/* See offsets.h. */
void
ks_offsets_note(KsOffsets *offsets)
{
	Oid			types[8] = {INT8OID, TEXTOID, INT4OID, TIMESTAMPTZOID, TEXTOID, INT8OID, TIMESTAMPTZOID, INT8OID};
	MemoryContext old = CurrentMemoryContext;

	StartTransactionCommand();
	ks_subscription_lock(offsets->subscription_id, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	for (int i = 0; i < offsets->count; i++)
	{
		KsOffset   *o = offsets->items[i];
		Datum		values[8];
		char		nulls[9] = "        ";

		if (!o->note)
			continue;
		values[0] = Int64GetDatum(offsets->subscription_id);
		values[1] = CStringGetTextDatum(o->topic);
		values[2] = Int32GetDatum(o->partition);
		values[3] = TimestampTzGetDatum(o->read_at);
		nulls[3] = o->read_at == 0 ? 'n' : ' ';
		values[4] = CStringGetTextDatum(o->topic_id);
		nulls[4] = o->topic_id[0] == '\0' ? 'n' : ' ';
		values[5] = Int64GetDatum(o->last_offset);
		values[6] = TimestampTzGetDatum(ks_timestamp_of_ms(o->last_timestamp_ms));
		values[7] = Int64GetDatum((int64) o->last_checksum);
		if (o->last_offset < 0)
			nulls[5] = nulls[6] = nulls[7] = 'n';
		if (o->last_timestamp_ms < 0)
			nulls[6] = 'n';
		/* who sought elsewhere meanwhile knows better */
		(void) ks_catalog_execute(psprintf("UPDATE kafka.%s SET read_at = $4, topic_id = $5, last_offset = $6, "
										   "last_timestamp = $7, last_checksum = $8 "
										   "WHERE subscription_id = $1 AND topic = $2 AND partition = $3 "
										   "AND next_offset = " INT64_FORMAT, offsets->table, o->stored),
								  8, types, values, nulls);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	for (int i = 0; i < offsets->count; i++)
		if (offsets->items[i]->note)
		{
			offsets->items[i]->note = false;
			offsets->items[i]->read_at_noted = offsets->items[i]->read_at;
		}
}
