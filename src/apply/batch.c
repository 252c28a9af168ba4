/*
 * batch.c: from messages to rows.
 *
 * Events of one key are folded into one row as they come, so that the target is touched once per key and statement
 * order does not matter.  Only what a key's last events leave behind is kept: a delete forgets what was before it, a
 * partial row is laid over the former one.
 */
#include "postgres.h"

#include "apply/batch.h"
#include "apply/conflict_batch.h"
#include "apply/evolve.h"
#include "apply/metadata.h"
#include "apply/sink.h"
#include "catalog/pg_class.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define ROW_MEMORY (32 * 1024 * 1024)

/* KsWriterOps.limit */
static int
limit(const KsWriter *w, int wanted)
{
	Size		row = sizeof(KsBatchRow) + w->table->natts * (sizeof(Datum) + 2);

	return Max(1, Min(wanted, (int) (ROW_MEMORY / row)));
}

/* Empties the batch for "count" messages. */
static void
reset(KsBatch *b, int count)
{
	int			buckets = 64;
	int			natts = b->target->natts;

	MemoryContextReset(b->context);
	while (buckets < count * 3)
		buckets *= 2;
	b->nrows = 0;
	/* a message that moves a key makes two rows */
	b->rows_capacity = count + 16;
	b->rows = MemoryContextAlloc(b->context, sizeof(KsBatchRow) * b->rows_capacity);
	b->buckets = MemoryContextAllocExtended(b->context, sizeof(int) * buckets, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	b->bucket_mask = buckets - 1;
	b->truncate = false;
	b->natts = natts;
	b->values = MemoryContextAlloc(b->context, sizeof(Datum) * natts);
	b->nulls = MemoryContextAlloc(b->context, sizeof(bool) * natts);
	b->cells = MemoryContextAlloc(b->context, sizeof(uint8) * natts);
	b->before_keys = MemoryContextAlloc(b->context, sizeof(KsField *) * natts);
}

/* Makes a row: neither remove nor upsert, no column known. */
static KsBatchRow *
new_row(KsBatch *b)
{
	KsBatchRow *row;
	char	   *memory;

	if (b->nrows == b->rows_capacity)
	{
		b->rows_capacity *= 2;
		b->rows = repalloc_huge(b->rows, sizeof(KsBatchRow) * b->rows_capacity);
	}
	row = &b->rows[b->nrows++];
	memory = palloc(b->natts * (sizeof(Datum) + 2));
	row->hash = 0;
	row->remove = row->upsert = row->found = row->absent = row->complete = row->keeps = false;
	row->values = (Datum *) memory;
	row->nulls = (bool *) (memory + b->natts * sizeof(Datum));
	row->cells = (uint8 *) (row->nulls + b->natts);
	memset(row->cells, KS_CELL_ABSENT, b->natts);
	memset(row->nulls, true, b->natts);
	row->order = NULL;
	return row;
}

/* Gives a row the key in values[]. */
static void
set_key(KsBatch *b, KsBatchRow *row, const Datum *values)
{
	KsTargetTable *t = b->target;

	for (int i = 0; i < t->nkeys; i++)
	{
		int			k = t->keys[i].index;

		row->values[k] = values[k];
		row->nulls[k] = false;
		row->cells[k] = KS_CELL_VALUE;
	}
}

/* Makes room in the hash: a message may have many rows. */
static void
grow_buckets(KsBatch *b)
{
	uint32		buckets = (b->bucket_mask + 1) * 2;

	pfree(b->buckets);
	b->buckets = MemoryContextAllocExtended(b->context, sizeof(int) * (Size) buckets, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	b->bucket_mask = buckets - 1;
	for (int i = 0; i < b->nrows; i++)
	{
		uint32		at = b->rows[i].hash & b->bucket_mask;

		while (b->buckets[at] != 0)
			at = (at + 1) & b->bucket_mask;
		b->buckets[at] = i + 1;
	}
}

/* Returns the row with the key in values[], made if need be (neither remove nor upsert then). */
static KsBatchRow *
row_of_key(KsBatch *b, const Datum *values)
{
	KsTargetTable *t = b->target;
	uint32		hash = ks_target_hash_key(t, values);
	uint32		at;
	KsBatchRow *row;

	if (b->nrows > b->bucket_mask / 2)
		grow_buckets(b);
	for (at = hash & b->bucket_mask; b->buckets[at] != 0; at = (at + 1) & b->bucket_mask)
	{
		row = &b->rows[b->buckets[at] - 1];
		if (row->hash == hash && ks_target_same_key(t, row->values, values))
			return row;
	}
	row = new_row(b);
	b->buckets[at] = b->nrows;
	row->hash = hash;
	set_key(b, row, values);
	return row;
}

/* ERROR: a message cannot be read; cause is a parser's or our own words. */
static void
bad_message(const char *cause)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("%s", cause)));
}

/* Converts a field into the cell of its column. */
static void
read_cell(KsBatch *b, KsColumnConverter *column, int index, const KsField *field)
{
	bool		keep = false;

	ks_convert_field(column, field, &b->values[index], &b->nulls[index], &keep);
	b->cells[index] = keep ? KS_CELL_KEEP : KS_CELL_VALUE;
}

/* Converts the fields of a list that are key columns and not known yet. */
static void
read_keys(KsBatch *b, const KsFieldList *list, const char *schema, size_t schema_size)
{
	KsTargetTable *t = b->target;

	if (!list->present)
		return;
	ks_converter_use_schema(t->converter, schema, schema_size);
	for (int i = 0; i < list->count; i++)
	{
		KsColumnConverter *column = ks_converter_find(t->converter, &list->fields[i], i);
		int			index;

		if (column == NULL)
			continue;
		index = ks_column_index(column);
		if (t->columns[index].key && b->cells[index] == KS_CELL_ABSENT)
			read_cell(b, column, index, &list->fields[i]);
	}
}

/* Forgets what is known of a row, but for what Kafka knows of the message. */
static void
clear_cells(KsBatch *b, const KsMessage *message)
{
	ListCell   *lc;

	memset(b->cells, KS_CELL_ABSENT, b->natts);
	foreach(lc, b->target->metadata)
	{
		KsMetadataColumn *m = lfirst(lc);
		int			index = ks_column_index(m->column);

		ks_metadata_value(m, message, &b->values[index], &b->nulls[index]);
		b->cells[index] = KS_CELL_VALUE;
	}
}

/* Have all key columns a value? */
static bool
keys_complete(KsBatch *b)
{
	KsTargetTable *t = b->target;

	for (int i = 0; i < t->nkeys; i++)
		if (b->cells[t->keys[i].index] != KS_CELL_VALUE)
			return false;
	return true;
}

/* See batch.h. */
void
ks_batch_check_keys(KsBatch *b)
{
	KsTargetTable *t = b->target;

	for (int i = 0; i < t->nkeys; i++)
	{
		int			index = t->keys[i].index;

		if (b->cells[index] != KS_CELL_VALUE || b->nulls[index])
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg(b->cells[index] == KS_CELL_VALUE ?
							"the value of key column \"%s\" is null" : "the message has no value for key column \"%s\"",
							t->columns[index].name)));
	}
}

/* Has each event a row of its own, not folded with others of its key? */
static bool
has_own_row(const KsBatch *b)
{
	return b->list || (b->conflict && ks_conflict_event_by_event(b->conflict));
}

/* Folds a delete of the key in values[] into the batch. */
static void
fold_delete(KsBatch *b)
{
	KsBatchRow *row = has_own_row(b) ? new_row(b) : row_of_key(b, b->values);

	if (b->conflict)
	{
		set_key(b, row, b->values);
		if (!ks_conflict_take(b, row, true))
			return;
	}
	row->remove = true;
	row->upsert = false;
	row->message = b->run->current;
}

/* Folds the row in values[] into the batch. */
static void
fold_upsert(KsBatch *b)
{
	KsTargetTable *t = b->target;
	KsBatchRow *row = has_own_row(b) ? new_row(b) : row_of_key(b, b->values);
	bool		fresh = !row->upsert;

	if (b->conflict && !ks_conflict_take(b, row, false))
		return;
	row->message = b->run->current;
	row->upsert = true;
	row->complete = true;
	row->keeps = false;
	for (int i = 0; i < b->natts; i++)
	{
		if (!t->columns[i].writable)
			continue;
		if (b->cells[i] == KS_CELL_VALUE)
		{
			row->values[i] = b->values[i];
			row->nulls[i] = b->nulls[i];
			row->cells[i] = KS_CELL_VALUE;
		}
		else if (fresh || row->cells[i] == KS_CELL_ABSENT)
			row->cells[i] = b->cells[i];
		if (row->cells[i] != KS_CELL_VALUE)
		{
			row->nulls[i] = true;
			row->complete = false;
			row->keeps = row->keeps || row->cells[i] == KS_CELL_KEEP;
		}
	}
}

/* Notes the key fields of "before", to be held against those of "after". */
static void
find_before_keys(KsBatch *b)
{
	KsTargetTable *t = b->target;
	const KsFieldList *before = &b->parsed->before;

	memset(b->before_keys, 0, sizeof(KsField *) * b->natts);
	for (int i = 0; i < before->count; i++)
	{
		KsColumnConverter *column = ks_converter_find(t->converter, &before->fields[i], i);

		if (column && t->columns[ks_column_index(column)].key && !t->columns[ks_column_index(column)].metadata)
			b->before_keys[ks_column_index(column)] = &before->fields[i];
	}
}

/* See batch.h. */
bool
ks_batch_key_is_whole(KsBatch *b, const KsMessage *message)
{
	KsTargetTable *t = b->target;
	const KsFieldList *key = &b->parsed->key;

	clear_cells(b, message);
	for (int i = 0; key->present && i < key->count; i++)
	{
		KsColumnConverter *column = ks_converter_find(t->converter, &key->fields[i], i);

		if (column)
			b->cells[ks_column_index(column)] = KS_CELL_VALUE;
	}
	return keys_complete(b);
}

/* Names of the target's key columns, for messages. */
static char *
key_names(KsBatch *b)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < b->target->nkeys; i++)
		appendStringInfo(&names, "%s\"%s\"", i ? ", " : "", b->target->columns[b->target->keys[i].index].name);
	return names.data;
}

/* ERROR: what a delete or update leaves behind cannot be told; why ends the sentence. */
static void
cannot_tell_old_key(KsBatch *b, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the message key does not hold the target's key columns %s, and %s", key_names(b), why),
			 errhint("Set REPLICA IDENTITY FULL on the source table and then option \"full_before\" of the subscription, "
					 "or publish the table with the target's key as message key (kafka.set_topic(key)).")));
}

/*
 * ERROR unless "before" may be asked for the target's key, which the message key does not hold.
 *
 * Without REPLICA IDENTITY FULL only the identity's columns have their values in there, and the others look like values
 * too: null, or the default where they are NOT NULL.  So somebody has to say that it is the whole row.  Tables without
 * any key need no such word, since PostgreSQL demands FULL of them.  And where messages of one row come by several
 * partitions, a delete might come after the row that has taken its place.
 */
static void
check_before_is_usable(KsBatch *b, const KsMessage *message)
{
	if (b->run->partitions > 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the message key does not hold the target's key columns %s, and several partitions are read: "
						"the order of a row's changes is not known", key_names(b)),
				 errhint("Publish the table to a topic of one partition, or with the target's key as message key "
						 "(kafka.set_topic(key)).")));
	if (message->key != NULL && !b->full_before)
		cannot_tell_old_key(b, "it is not known whether the old row is whole");
}

/* Reads the key columns that are not known yet from "before".  ERROR unless all of them have a value then. */
static void
read_before_keys(KsBatch *b)
{
	KsTargetTable *t = b->target;

	read_keys(b, &b->parsed->before, b->parsed->schema, b->parsed->schema_size);
	for (int i = 0; i < t->nkeys; i++)
	{
		int			index = t->keys[i].index;

		if (b->cells[index] != KS_CELL_VALUE || b->nulls[index])
			cannot_tell_old_key(b, psprintf("the old row has no value for column \"%s\"", t->columns[index].name));
	}
}

/*
 * An update whose old row had another key: that one is deleted.  (Debezium itself sends a change of the message key as
 * delete and create, but the target's key need not be the source's.)
 */
static void
leave_old_key(KsBatch *b, const KsMessage *message)
{
	KsTargetTable *t = b->target;
	const KsFieldList *after = &b->parsed->after;
	bool		moved = false;
	int			known = 0;

	for (int i = 0; i < t->nkeys; i++)
		known += t->columns[t->keys[i].index].metadata;
	find_before_keys(b);
	for (int i = 0; b->parsed->before.present && i < after->count; i++)
	{
		const KsField *new = &after->fields[i];
		KsColumnConverter *column = ks_converter_find(t->converter, new, i);
		const KsField *old;

		if (column == NULL || (old = b->before_keys[ks_column_index(column)]) == NULL)
			continue;
		known++;
		if (old->kind != new->kind || old->size != new->size ||
			(old->size > 0 && memcmp(old->data, new->data, old->size) != 0))
			moved = true;
	}
	if (!moved && known == t->nkeys)
		return;
	if (ks_batch_key_is_whole(b, message))
	{
		if (known < t->nkeys)
			return;
	}
	else if (b->parsed->before.present)
		check_before_is_usable(b, message);
	else if (message->key != NULL)
		cannot_tell_old_key(b, "the update has no old row");
	else
		return;
	clear_cells(b, message);
	read_before_keys(b);
	fold_delete(b);
}

/* ERROR: the target has no such column, and gets none. */
static void
unknown_column(KsBatch *b, const KsField *field)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("column \"%s\" does not exist in table %s",
					pg_any_to_server(pnstrdup(field->name, field->name_size), field->name_size, PG_UTF8),
					b->target->qualified),
			 errhint("Add the column, or set option \"evolve\" or \"ignore_unknown_columns\".")));
}

/* Has missing columns added where option "evolve" says so.  Returns if the field is to be left out. */
static void
missing_column(KsBatch *b, const KsMessage *message, const KsFieldList *fields, const KsField *field, bool needed)
{
	if (b->run->evolution && b->target->rel->rd_rel->relkind != RELKIND_FOREIGN_TABLE)
		ks_evolution_ask(b->run, b->target, message, b->parsed, fields, needed, b->ignore_unknown);
	else if (!b->ignore_unknown)
		unknown_column(b, field);
}

/* Notes the columns that the publisher left out since they are unchanged (format json). */
static void
keep_unchanged(KsBatch *b, const KsMessage *message)
{
	const KsFieldList *unchanged = &b->parsed->unchanged;

	for (int i = 0; i < unchanged->count; i++)
	{
		KsColumnConverter *column = ks_converter_find(b->target->converter, &unchanged->fields[i], i);
		int			index;

		if (column == NULL)
		{
			missing_column(b, message, unchanged, &unchanged->fields[i], true);
			continue;
		}
		index = ks_column_index(column);
		if (b->target->columns[index].writable && b->cells[index] == KS_CELL_ABSENT)
			b->cells[index] = KS_CELL_KEEP;
	}
}

/* The column that a field of the row goes to, NULL if it is to be left out. */
static KsColumnConverter *
find_column(KsBatch *b, const KsMessage *message, const KsField *field, int i)
{
	KsTargetTable *t = b->target;
	KsColumnConverter *column;

	if (b->parsed->order == KS_BY_POSITION)
		return ks_converter_column(t->converter, t->ordered[i]);
	if (b->parsed->order == KS_IS_VALUE)
	{
		if (t->value_column < 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("cannot tell which column of table %s takes the message's value", t->qualified),
					 errhint("Name it in option \"raw.column\".")));
		return ks_converter_column(t->converter, t->value_column);
	}
	column = ks_converter_find(t->converter, field, i);
	if (column == NULL && !field->optional)
		missing_column(b, message, &b->parsed->after, field, false);
	return column;
}

/* Reads the row of a create, update or snapshot event. */
static void
read_row(KsBatch *b, const KsMessage *message)
{
	KsTargetTable *t = b->target;
	const KsFieldList *after = &b->parsed->after;

	if (!after->present)
		bad_message("the event has no row: \"after\" is missing or null");
	ks_converter_use_schema(t->converter, b->parsed->schema, b->parsed->schema_size);
	if (b->parsed->op == 'u' && b->debezium && !t->own_rows && !b->list)
	{
		leave_old_key(b, message);
		ks_converter_use_schema(t->converter, b->parsed->schema, b->parsed->schema_size);
	}
	if (b->parsed->order == KS_BY_POSITION && after->count != t->nordered)
		bad_message(psprintf("the line has %d fields, and table %s has %d columns for them", after->count, t->qualified,
							 t->nordered));

	clear_cells(b, message);
	for (int i = 0; i < after->count; i++)
	{
		const KsField *field = &after->fields[i];
		KsColumnConverter *column = find_column(b, message, field, i);
		int			index;

		if (column == NULL)
			continue;
		index = ks_column_index(column);
		if (!t->columns[index].writable || t->columns[index].metadata)
			continue;
		read_cell(b, column, index, field);
	}
	if (!keys_complete(b))
		read_keys(b, &b->parsed->key, b->parsed->key_schema, b->parsed->key_schema_size);
	ks_batch_check_keys(b);
	keep_unchanged(b, message);
	fold_upsert(b);
}

/* Reads the key of a delete or tombstone. */
static void
read_delete(KsBatch *b, const KsMessage *message)
{
	KsTargetTable *t = b->target;

	/* where each message has a row of its own, a delete finds none; only raw bytes have a row without a value */
	if (t->own_rows)
	{
		if (b->parsed->tombstone && b->parsed->after.present)
			read_row(b, message);
		return;
	}
	clear_cells(b, message);
	read_keys(b, &b->parsed->key, b->parsed->key_schema, b->parsed->key_schema_size);
	if (!keys_complete(b) && b->debezium)
	{
		/* A tombstone that does not tell the target's key: the delete before it said what there was to say. */
		if (b->parsed->tombstone)
			return;
		check_before_is_usable(b, message);
		read_before_keys(b);
	}
	ks_batch_check_keys(b);
	/* newer has an order of its own */
	if (b->debezium && !b->parsed->tombstone && (b->conflict == NULL || ks_conflict_event_by_event(b->conflict)))
		ks_check_moved_key(b, b->values);
	fold_delete(b);
}

/* A truncate: what was before it is of no matter any more. */
static void
read_truncate(KsBatch *b)
{
	/* of a log of messages it takes nothing, as deletes do */
	if (b->target->own_rows)
		return;
	b->truncate = true;
	b->nrows = 0;
	memset(b->buckets, 0, sizeof(int) * (b->bucket_mask + 1));
}

/* KsWriterOps.open */
static void
open_target(KsWriter *w)
{
	ks_target_open(w->table);
	if (((KsBatch *) w)->conflict)
		ks_conflict_open((KsBatch *) w);
}

/* KsWriterOps.begin */
static void
begin(KsWriter *w, int count)
{
	reset((KsBatch *) w, count);
}

/* KsWriterOps.add */
static void
add(KsWriter *w, const KsMessage *message, const KsParsed *parsed)
{
	KsBatch    *b = (KsBatch *) w;
	MemoryContext old = MemoryContextSwitchTo(b->context);

	b->message = message;
	b->parsed = parsed;
	if (b->conflict && !ks_conflict_wants(b))
	{
		MemoryContextSwitchTo(old);
		return;
	}
	ks_converter_use_connector(b->target->converter, parsed->connector, parsed->connector_size);
	if (b->list)
	{
		/* an insert per event that has a row */
		if (parsed->op != 't' && parsed->op != 'd' && !b->run->duplicate)
			read_row(b, message);
	}
	else if (parsed->op == 't')
		read_truncate(b);
	else if (parsed->op == 'd')
		read_delete(b, message);
	else
		read_row(b, message);
	MemoryContextSwitchTo(old);
}

/* KsWriterOps.write */
static void
write_rows(KsWriter *w)
{
	w->run->stage = "apply";
	w->table->sink->apply((KsBatch *) w);
}

/* KsWriterOps.close */
static void
close_target(KsWriter *w)
{
	ks_target_close(w->table);
}

/* KsWriterOps.abandon */
static void
abandon(KsWriter *w)
{
	ks_target_abandon(w->table);
}

/* See batch.h. */
void
ks_batch_begin(KsBatch *b, int count)
{
	reset(b, count);
}

/* See batch.h. */
bool
ks_batch_put(KsBatch *b, int message)
{
	int			before = b->nrows;
	MemoryContext old = MemoryContextSwitchTo(b->context);
	int			current = b->run->current;

	b->run->current = message;
	fold_upsert(b);
	b->run->current = current;
	MemoryContextSwitchTo(old);
	return b->list || b->nrows > before;
}

/* See batch.h. */
void
ks_batch_leave(KsBatch *b, int message)
{
	MemoryContext old = MemoryContextSwitchTo(b->context);
	KsBatchRow *row = row_of_key(b, b->values);

	row->found = true;
	if (!row->upsert)
	{
		row->remove = true;
		row->message = message;
	}
	MemoryContextSwitchTo(old);
}

static const KsWriterOps batch_ops = {open_target, begin, add, write_rows, close_target, abandon, limit};

/* See batch.h. */
KsBatch *
ks_batch_create(KsRun *run, KsTargetTable *target)
{
	const KsSubscription *subscription = run->subscription;
	KsBatch    *b = palloc0(sizeof(KsBatch));

	b->writer.ops = &batch_ops;
	b->writer.table = b->target = target;
	b->writer.run = b->run = run;
	b->ignore_unknown = subscription->options->bool_value[KS_OPT_IGNORE_UNKNOWN];
	b->full_before = subscription->options->bool_value[KS_OPT_FULL_BEFORE];
	b->debezium = strcmp(subscription->format, "debezium") == 0;
	b->list = strcmp(target->target->mode, "upsert") != 0;
	b->conflict = ks_conflict_create(subscription, target);
	b->context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync batch", 64 * 1024, 1024 * 1024, 8 * 1024 * 1024);
	return b;
}
