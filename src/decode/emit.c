/*
 * emit.c: records of a change; see emit.h.
 *
 * Runs in the caller's per-row memory context; its own buffers live as long as the emitter.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "control/worker.h"
#include "decode/emit.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/timestamp.h"

struct KsEmitter
{
	KsSource   *source;
	KsSink	   *sink;
	KsEmitOrigin origin;
	bool		begun;			/* the sink knows of the transaction */
	uint64		ordinal;
	int64		timestamp_ms;
	XLogRecPtr	prev_commit_lsn;
	char		position[64];	/* "<publisher>/<lsn>/" and room for the ordinal */
	int			position_prefix;
	const StringInfoData *delete_stamp;
	StringInfoData key;
	StringInfoData other_key;
	StringInfoData value;
};

KsEmitter *
ks_emitter_create(KsSource *source, KsSink *sink)
{
	MemoryContext old = MemoryContextSwitchTo(source->context);
	KsEmitter  *emitter = palloc0(sizeof(KsEmitter));

	emitter->source = source;
	emitter->sink = sink;
	initStringInfo(&emitter->key);
	initStringInfo(&emitter->other_key);
	initStringInfo(&emitter->value);
	MemoryContextSwitchTo(old);
	return emitter;
}

/* Milliseconds since the Unix epoch of a record that belongs to "at". */
static int64
record_time(TimestampTz at)
{
	if (ks_my_worker != NULL && ks_my_worker->wall_clock)
		at = GetCurrentTimestamp();
	return (at + ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * USECS_PER_DAY) / 1000;
}

void
ks_emit_begin(KsEmitter *emitter, const KsEmitOrigin *origin)
{
	emitter->origin = *origin;
	emitter->begun = false;
	emitter->ordinal = origin->first_ordinal;
	emitter->timestamp_ms = record_time(origin->commit_time);
	emitter->position_prefix = -1;	/* made with the first event */
}

void
ks_emit_mark(KsEmitter *emitter, const char *snapshot, TimestampTz read_at)
{
	emitter->origin.snapshot = snapshot;
	if (read_at != emitter->origin.commit_time)
	{
		emitter->origin.commit_time = read_at;
		emitter->timestamp_ms = record_time(read_at);
	}
}

/* Fills what every change has. */
static void
init_change(KsEmitter *emitter, KsChange *change, const KsRelation *rel, KsOp op, XLogRecPtr lsn)
{
	memset(change, 0, sizeof(*change));
	change->rel = rel;
	change->op = op;
	change->xid = emitter->origin.xid;
	change->lsn = lsn;
	change->commit_lsn = emitter->origin.commit_lsn;
	change->prev_commit_lsn = emitter->prev_commit_lsn;
	change->commit_time = emitter->origin.commit_time;
	change->snapshot = emitter->origin.snapshot;
	change->origin = emitter->origin.origin;
	change->origin_lsn = emitter->origin.origin_lsn;
}

/* Writes a number in hex digits, at least "width" of them; returns how many. */
static int
put_hex(char *dst, uint64 number, int width, const char *digits)
{
	int			count = 1;

	while (count < 16 && number >> (4 * count) != 0)
		count++;
	count = Max(count, width);
	for (int i = count - 1; i >= 0; i--, number >>= 4)
		dst[i] = digits[number & 15];
	return count;
}

/* Writes "<publisher>/<lsn>/": once per transaction, so without printf. */
static void
make_position_prefix(KsEmitter *emitter)
{
	char	   *at = emitter->position;

	at += put_hex(at, (uint64) emitter->source->publisher_id, 16, "0123456789abcdef");
	*at++ = '/';
	at += put_hex(at, emitter->origin.position_lsn, 1, "0123456789ABCDEF");
	*at++ = '/';
	emitter->position_prefix = (int) (at - emitter->position);
}

#define SAME_PARTITION 1000		/* messages without a key in a row that may go to one partition */

/*
 * The partition of a message without a key: any, but the same whenever it is sent again, since repeats are known by
 * positions that grow within a partition.
 */
static int32
any_partition(const KsEmitter *emitter, const KsRelation *rel)
{
	uint32		place = murmurhash32((uint32) (emitter->origin.position_lsn ^ (emitter->origin.position_lsn >> 32)));

	return rel->partitions > 0 ? (int32) ((place + emitter->ordinal / SAME_PARTITION) % rel->partitions) : -1;
}

/* Fills what every record has, the position header among it, and counts it. */
static void
init_record(KsEmitter *emitter, KsRecord *record, const KsRelation *rel, const StringInfoData *key)
{
	int			digits;

	if (!emitter->begun)
	{
		emitter->sink->begin(emitter->sink, emitter->origin.xid);
		emitter->begun = true;
	}
	if (emitter->position_prefix < 0)
		make_position_prefix(emitter);
	record->partition = rel->nkeys == 0 ? any_partition(emitter, rel) : -1;
	digits = pg_ulltoa_n(emitter->ordinal++, emitter->position + emitter->position_prefix);

	record->rel = rel;
	record->topic = rel->topic;
	record->partitions = rel->partitions;
	record->key = key ? key->data : NULL;
	record->key_size = key ? key->len : 0;
	record->value = NULL;
	record->value_size = 0;
	record->timestamp_ms = emitter->timestamp_ms;
	record->headers[0].name = KS_HEADER_POS;
	record->headers[0].value = emitter->position;
	record->headers[0].size = emitter->position_prefix + digits;
	record->nheaders = 1;
	for (int i = 0; i < rel->nheaders; i++)
		record->headers[record->nheaders++] = rel->headers[i];
}

/* Appends a header. */
static void
add_header(KsRecord *record, const char *name, const StringInfoData *value)
{
	record->headers[record->nheaders].name = name;
	record->headers[record->nheaders].value = value->data;
	record->headers[record->nheaders].size = value->len;
	record->nheaders++;
}

/* Encodes the message key of a row; NULL for an unkeyed relation. */
static const StringInfoData *
encode_key(KsEmitter *emitter, const KsRelation *rel, const KsRow *row, StringInfo out)
{
	KsEncoder  *encoder = emitter->source->encoder;

	if (rel->nkeys == 0)
		return NULL;
	resetStringInfo(out);
	encoder->ops->encode_key(encoder, rel, row, out);
	return out;
}

/* Encodes the value into the record; a format without a value for this op makes a tombstone. True if it has a value. */
static bool
encode_value(KsEmitter *emitter, KsChange *change, KsRecord *record)
{
	KsEncoder  *encoder = emitter->source->encoder;
	int			nheaders = 0;

	change->ordinal = emitter->ordinal - 1;
	resetStringInfo(&emitter->value);
	if (!encoder->ops->encode_value(encoder, change, &emitter->value, record->headers + record->nheaders, &nheaders))
		return false;
	record->nheaders += nheaders;
	record->value = emitter->value.data;
	record->value_size = emitter->value.len;
	return true;
}

void
ks_emit_insert(KsEmitter *emitter, const KsRelation *rel, KsOp op, const KsRow *after, XLogRecPtr lsn)
{
	KsChange	change;
	KsRecord	record;

	init_change(emitter, &change, rel, op, lsn);
	change.after = after;
	init_record(emitter, &record, rel, encode_key(emitter, rel, after, &emitter->key));
	(void) encode_value(emitter, &change, &record);
	emitter->sink->emit(emitter->sink, &record);
}

void
ks_emit_delete_stamp(KsEmitter *emitter, const StringInfoData *stamp)
{
	emitter->delete_stamp = stamp;
}

/* A delete and its tombstone; newkey (or NULL) is what the row's key has become. */
static void
emit_delete(KsEmitter *emitter, const KsRelation *rel, const KsRow *before, bool before_is_key,
			const StringInfoData *key, const StringInfoData *newkey, XLogRecPtr lsn)
{
	KsChange	change;
	KsRecord	record;
	bool		has_value;

	init_change(emitter, &change, rel, KS_OP_DELETE, lsn);
	change.before = before;
	change.before_is_key = before_is_key;
	init_record(emitter, &record, rel, key);
	has_value = encode_value(emitter, &change, &record);
	if (newkey)
		add_header(&record, "__debezium.newkey", newkey);
	if (emitter->delete_stamp)
		add_header(&record, KS_HEADER_DELETED, emitter->delete_stamp);
	emitter->sink->emit(emitter->sink, &record);
	if (has_value && emitter->source->encoder->ops->delete_then_tombstone)
	{
		init_record(emitter, &record, rel, key);
		/* compaction may leave this one alone */
		if (emitter->delete_stamp)
			add_header(&record, KS_HEADER_DELETED, emitter->delete_stamp);
		emitter->sink->emit(emitter->sink, &record);
	}
}

/* Do two rows differ in any of these columns, byte by byte? */
static bool
differ(const KsRelation *rel, int column, const KsRow *a, const KsRow *b)
{
	Form_pg_attribute att = TupleDescAttr(rel->desc, column);

	if (a->unchanged[column] || b->unchanged[column])
		return false;
	if (a->nulls[column] || b->nulls[column])
		return a->nulls[column] != b->nulls[column];
	return !datum_image_eq(a->values[column], b->values[column], att->attbyval, att->attlen);
}

void
ks_emit_update(KsEmitter *emitter, const KsRelation *rel, const KsRow *before, bool before_is_key,
			   const KsRow *after, XLogRecPtr lsn)
{
	KsChange	change;
	KsRecord	record;
	bool		key_changed = false;
	bool		identity_changed = false;

	if (before != NULL)
	{
		for (int i = 0; i < rel->nkeys && !key_changed; i++)
			key_changed = differ(rel, rel->keys[i], before, after);
		if (before_is_key && !key_changed)
		{
			int			column = -1;

			while (!identity_changed && (column = bms_next_member(rel->identity, column)) >= 0)
				identity_changed = differ(rel, column, before, after);
		}
	}
	if (key_changed)
	{
		bool		rekey_headers = emitter->source->encoder->ops->rekey_headers;
		const StringInfoData *old_key = encode_key(emitter, rel, before, &emitter->other_key);
		const StringInfoData *new_key = encode_key(emitter, rel, after, &emitter->key);

		emit_delete(emitter, rel, before, before_is_key, old_key, rekey_headers ? new_key : NULL, lsn);
		init_change(emitter, &change, rel, KS_OP_CREATE, lsn);
		change.after = after;
		init_record(emitter, &record, rel, new_key);
		(void) encode_value(emitter, &change, &record);
		if (rekey_headers)
			add_header(&record, "__debezium.oldkey", old_key);
		emitter->sink->emit(emitter->sink, &record);
		return;
	}
	init_change(emitter, &change, rel, KS_OP_UPDATE, lsn);
	/* the old key alone is shown only where it tells something */
	if (before != NULL && (!before_is_key || identity_changed))
	{
		change.before = before;
		change.before_is_key = before_is_key;
	}
	change.after = after;
	init_record(emitter, &record, rel, encode_key(emitter, rel, after, &emitter->key));
	(void) encode_value(emitter, &change, &record);
	emitter->sink->emit(emitter->sink, &record);
}

void
ks_emit_delete(KsEmitter *emitter, const KsRelation *rel, const KsRow *before, bool before_is_key, XLogRecPtr lsn)
{
	emit_delete(emitter, rel, before, before_is_key, encode_key(emitter, rel, before, &emitter->key), NULL, lsn);
}

void
ks_emit_truncate(KsEmitter *emitter, const KsRelation *rel, XLogRecPtr lsn)
{
	KsChange	change;
	KsRecord	record;

	init_change(emitter, &change, rel, KS_OP_TRUNCATE, lsn);
	for (int32 partition = 0; partition < Max(rel->partitions, 1); partition++)
	{
		init_record(emitter, &record, rel, NULL);
		if (rel->nkeys > 0)
		{
			/* a compacted topic takes no message without a key */
			record.key = "{}";
			record.key_size = 2;
		}
		record.partition = partition;
		if (!encode_value(emitter, &change, &record))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("the publisher's format has no event for the truncate of table \"%s.%s\"", rel->schema,
							rel->table),
					 errhint("Set option \"truncate\" to \"skip\" or \"error\".")));
		emitter->sink->emit(emitter->sink, &record);
	}
}

bool
ks_emit_commit(KsEmitter *emitter, XLogRecPtr end_lsn)
{
	if (!emitter->begun)
		return false;
	emitter->sink->commit(emitter->sink, emitter->origin.commit_lsn, end_lsn, emitter->origin.commit_time);
	emitter->prev_commit_lsn = emitter->origin.commit_lsn;
	emitter->begun = false;
	return true;
}
