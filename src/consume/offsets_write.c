/*
 * offsets_write.c: positions into their table, below SQL: a transaction of few rows would spend a quarter of its time on
 * the statement otherwise.
 *
 * Each row is looked up in the primary key, under the transaction's snapshot, and updated only if it says what we stored
 * there.  Who changed it since the snapshot was taken has the update fail, as a comparison that finds another value does:
 * then the transaction is not ours to commit.  No indexed column changes, so updates stay on their page (fillfactor 50)
 * and need no index entries, unless it is full.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "compat/executor_compat.h"
#include "consume/offsets.h"
#include "control/catalog.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Attribute numbers of both tables of positions, in the order of sql/install. */
enum
{
	POS_SUBSCRIPTION_ID = 1, POS_TOPIC, POS_PARTITION, POS_NEXT_OFFSET, POS_START_OFFSET, POS_LAST_OFFSET,
	POS_LAST_TIMESTAMP, POS_LAST_CHECKSUM, POS_APPLIED_AT, POS_PRODUCERS,
	POS_READ_AT,				/* from here on the subscription's own only */
	POS_TOPIC_ID, POS_GENERATION, POS_ANCHOR_OFFSET, POS_ANCHOR_TIMESTAMP, POS_ANCHOR_CHECKSUM
};

#define POS_KEYS 3				/* columns of the primary key, the first ones */

typedef struct Writer
{
	Relation	rel;
	bool		live;			/* the subscription's own positions */
	Relation	index;
	IndexScanDesc scan;
	ScanKeyData keys[POS_KEYS];
	TupleTableSlot *found;
	TupleTableSlot *changed;
} Writer;

/* See offsets.h. */
TimestampTz
ks_timestamp_of_ms(int64 ms)
{
	return ms * 1000 - ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * USECS_PER_DAY;
}

/* Opens the table and its primary key. */
static void
begin(Writer *w, const KsOffsets *offsets)
{
	Oid			index;

	w->live = strcmp(offsets->table, KS_LIVE_POSITIONS) == 0;
	w->rel = table_open(ks_catalog_relid(offsets->table), RowExclusiveLock);
	index = ks_primary_key_index(w->rel);
	if (!OidIsValid(index))
		elog(ERROR, "kafka.%s has no primary key", offsets->table);
	w->index = index_open(index, AccessShareLock);
	w->scan = ks_index_beginscan(w->rel, w->index, GetActiveSnapshot(), POS_KEYS);
	ScanKeyInit(&w->keys[0], POS_SUBSCRIPTION_ID, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(offsets->subscription_id));
	ScanKeyInit(&w->keys[1], POS_TOPIC, BTEqualStrategyNumber, F_TEXTEQ, (Datum) 0);
	w->keys[1].sk_collation = TupleDescAttr(RelationGetDescr(w->rel), POS_TOPIC - 1)->attcollation;
	ScanKeyInit(&w->keys[2], POS_PARTITION, BTEqualStrategyNumber, F_INT4EQ, (Datum) 0);
	w->found = table_slot_create(w->rel, NULL);
	w->changed = table_slot_create(w->rel, NULL);
}

/* Closes them; locks stay until the end of the transaction. */
static void
finish(Writer *w)
{
	ExecDropSingleTupleTableSlot(w->found);
	ExecDropSingleTupleTableSlot(w->changed);
	index_endscan(w->scan);
	index_close(w->index, NoLock);
	table_close(w->rel, NoLock);
}

/* Sets a column of the new row version. */
static void
set(Writer *w, int column, Datum value)
{
	w->changed->tts_values[column - 1] = value;
	w->changed->tts_isnull[column - 1] = false;
}

/* Makes the index entries of a row version that found no room beside the former one. */
static void
insert_index_entries(Writer *w, bool only_summarizing)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *rri = makeNode(ResultRelInfo);

	ks_init_range_table(estate, w->rel, bms_make_singleton(POS_NEXT_OFFSET - FirstLowInvalidHeapAttributeNumber));
	InitResultRelInfo(rri, w->rel, 1, NULL, 0);
	ExecOpenIndices(rri, false);
	(void) ks_insert_index_tuples(rri, w->changed, estate, true, only_summarizing);
	ExecCloseIndices(rri);
	FreeExecutorState(estate);
}

/* Writes one position. False: the table says something else than we do. */
static bool
write_one(Writer *w, const KsOffset *o)
{
	const KsMessage *m = o->staged_message;
	int			natts = RelationGetDescr(w->rel)->natts;
	ItemPointerData tid;
	TM_FailureData failure;
	TM_Result	result;
	bool		update_indexes = false;
	bool		only_summarizing = false;

	w->keys[1].sk_argument = CStringGetTextDatum(o->topic);
	w->keys[2].sk_argument = Int32GetDatum(o->partition);
	index_rescan(w->scan, w->keys, POS_KEYS, NULL, 0);
	if (!index_getnext_slot(w->scan, ForwardScanDirection, w->found))
		return false;
	slot_getallattrs(w->found);
	if (DatumGetInt64(w->found->tts_values[POS_NEXT_OFFSET - 1]) != o->stored)
		return false;

	tid = w->found->tts_tid;
	ExecClearTuple(w->changed);
	memcpy(w->changed->tts_values, w->found->tts_values, sizeof(Datum) * natts);
	memcpy(w->changed->tts_isnull, w->found->tts_isnull, sizeof(bool) * natts);
	set(w, POS_NEXT_OFFSET, Int64GetDatum(o->staged_next));
	if (m)
	{
		set(w, POS_LAST_OFFSET, Int64GetDatum(m->offset));
		set(w, POS_LAST_CHECKSUM,
			Int64GetDatum((int64) ks_message_checksum(m->key, m->key_size, m->value, m->value_size)));
		set(w, POS_LAST_TIMESTAMP, TimestampTzGetDatum(ks_timestamp_of_ms(m->timestamp_ms)));
		w->changed->tts_isnull[POS_LAST_TIMESTAMP - 1] = m->timestamp_ms < 0;
		set(w, POS_APPLIED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
	}
	if (w->live && ks_offset_read_at(o, o->staged_next) != 0)
		set(w, POS_READ_AT, TimestampTzGetDatum(ks_offset_read_at(o, o->staged_next)));
	if (w->live && o->anchor_offset >= 0 && (m || o->last_offset >= 0))
	{
		set(w, POS_ANCHOR_OFFSET, Int64GetDatum(o->anchor_offset));
		set(w, POS_ANCHOR_CHECKSUM, Int64GetDatum((int64) o->anchor_checksum));
		set(w, POS_ANCHOR_TIMESTAMP, TimestampTzGetDatum(ks_timestamp_of_ms(o->anchor_timestamp_ms)));
		w->changed->tts_isnull[POS_ANCHOR_TIMESTAMP - 1] = o->anchor_timestamp_ms < 0;
	}
	if (ks_producers_changed(o->producers))
		set(w, POS_PRODUCERS, JsonbPGetDatum(ks_producers_write(o->producers)));
	ExecStoreVirtualTuple(w->changed);
	w->changed->tts_tableOid = RelationGetRelid(w->rel);

	result = ks_table_tuple_update(w->rel, &tid, w->changed, GetCurrentCommandId(true), GetActiveSnapshot(), &failure,
								   &update_indexes, &only_summarizing);
	switch (result)
	{
		case TM_Ok:
			break;
		case TM_Updated:
		case TM_Deleted:
		case TM_BeingModified:
			return false;
		default:
			elog(ERROR, "unexpected result %d of writing a position", (int) result);
	}
	if (update_indexes)
		insert_index_entries(w, only_summarizing);
	return true;
}

/* See offsets.h. */
bool
ks_offsets_write(KsOffsets *offsets)
{
	Writer		w;
	bool		ours = true;

	begin(&w, offsets);
	for (int i = 0; i < offsets->count && ours; i++)
		if (offsets->items[i]->staged)
			ours = write_one(&w, offsets->items[i]);
	finish(&w);
	CommandCounterIncrement();
	return ours;
}
