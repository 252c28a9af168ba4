/*
 * conflict_sink.c: writing rows that two databases write: each is held against the one that is there.
 *
 * No row lock is taken for it: what is decided on is one version of a row, and that version is what is updated or
 * deleted, or, if somebody has changed it meanwhile, it is looked up and decided anew.  A key without a row has no
 * version; for that, deletes that are remembered are looked at before and after its row is written, and the delete of a
 * key without a row takes the lock that new rows hold.
 */
#include "postgres.h"

#include "apply/conflict_batch.h"
#include "apply/direct_writer.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "compat/pg_compat.h"
#include "control/definitions.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/datum.h"

#define LOCK_TRIES 50			/* milliseconds: less than deadlock_timeout, so that it is we who give way */

typedef struct Decider
{
	KsBatch    *b;
	KsConflictBatch *c;
	KsDirectWriter *w;
	const char *own_name;		/* NULL: not looked up yet */
	int			ninserted;		/* rows that were inserted, to be looked at again */
	int		   *inserted;
	int			nabsent;		/* deletes of keys without a row, which come last */
	int		   *absent;
} Decider;

/* Counts a decision. */
static void
count(Decider *d, KsConflictCount what)
{
	d->b->run->conflicts[what]++;
}

/* Looks this database's name up: that of the publishers of the table. */
static const char *
publisher_name(Oid relid)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(relid)};
	KsIdentity	saved;
	char	   *name = NULL;
	uint64		found;

	ks_become_superuser(&saved);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT DISTINCT p.topic_prefix FROM kafka.publisher p "
							  "JOIN pg_catalog.pg_publication_tables t ON t.pubname = p.publication "
							  "JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname "
							  "JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename "
							  "WHERE c.oid = $1", 1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the publishers");
	found = SPI_processed;
	if (found == 1)
		name = MemoryContextStrdup(context, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	SPI_finish();
	ks_become_caller(&saved);
	if (found > 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("two rows have the same value, and this database has several names: the topic_prefix of several publishers"),
				 errhint("Set option \"server_name\" of the subscription to the topic_prefix of the one that the other side reads.")));
	return name ? name : get_database_name(MyDatabaseId);
}

/* Is the event's row the one that is there? */
static bool
same_row(Decider *d, const KsBatchRow *row)
{
	KsTargetTable *t = d->b->target;
	TupleDesc	desc = RelationGetDescr(d->w->rel);

	slot_getallattrs(d->w->found);
	for (int i = 0; i < t->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (row->cells[i] != KS_CELL_VALUE)
			continue;
		if (row->nulls[i] != d->w->found->tts_isnull[i] ||
			(!row->nulls[i] && !datum_image_eq(row->values[i], d->w->found->tts_values[i], att->attbyval, att->attlen)))
			return false;
	}
	return true;
}

/* Two rows of the same value: the greater name's wins. */
static bool
wins_tie(Decider *d, const KsBatchRow *row)
{
	const char *server = row->order->server;

	if (same_row(d, row))
		return false;			/* as after a repeat: nothing to decide */
	if (d->own_name == NULL)
		d->own_name = d->c->server_name ? d->c->server_name : publisher_name(d->b->target->relid);
	if (server == NULL || strcmp(server, d->own_name) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 server == NULL ?
				 errmsg("two rows have the same value of column \"%s\", and the message does not tell its server", d->c->column) :
				 errmsg("two rows have the same value of column \"%s\", and both databases are called \"%s\"", d->c->column, server),
				 errhint("Give the publishers of the two sides different values of topic_prefix.")));
	count(d, KS_CONFLICTS_TIES);
	return ks_conflict_name_wins(server, d->own_name);
}

/* newer: does the event win over the row that was found? */
static bool
beats_row(Decider *d, const KsBatchRow *row)
{
	KsRowOrder *e = row->order;
	bool		isnull;
	Datum		value = slot_getattr(d->w->found, d->c->index + 1, &isnull);
	int			order = ks_ordering_compare(&d->c->ordering, e->value, e->isnull, value, isnull);

	if (order == 0 && !e->deleted)
		return wins_tie(d, row);
	if (order < 0)
	{
		count(d, KS_CONFLICTS_KEPT);
		return false;
	}
	return true;
}

/* newer: was the row that has been overwritten another one than the event was made from? */
static bool
is_conflict(Decider *d, const KsRowOrder *e, Datum value, bool isnull)
{
	return e->has_base && ks_ordering_compare(&d->c->ordering, e->base, e->base_null, value, isnull) != 0;
}

/* newer: does the event win over a delete that is remembered, if there is one? */
static bool
beats_delete(Decider *d, const KsBatchRow *row, Datum key)
{
	KsRowOrder *e = row->order;
	char	   *stamp;
	bool		isnull;
	Datum		value;

	if (!ks_deleted_row_find(d->b->target->relid, key, &stamp))
		return true;
	value = ks_ordering_value(&d->c->ordering, stamp, &isnull);
	return ks_ordering_compare(&d->c->ordering, e->value, e->isnull, value, isnull) > 0;
}

/* Remembers a delete. */
static void
remember(Decider *d, const KsBatchRow *row, Datum key)
{
	ks_deleted_row_put(d->b->target->relid, key, ks_ordering_text(&d->c->ordering, row->order->value, row->order->isnull));
}

/* newer: writes over the version that was found, or deletes it.  False: somebody has changed it. */
static bool
overwrite(Decider *d, const KsBatchRow *row)
{
	bool		isnull;
	Datum		value = slot_getattr(d->w->found, d->c->index + 1, &isnull);
	bool		conflict = is_conflict(d, row->order, value, isnull);

	if (row->upsert)
	{
		if (!ks_direct_update(d->w, row))
			return false;
	}
	else
	{
		if (!ks_direct_lock(d->w))
			return false;
		/* as the guard does it: just before, where a publisher with origin any finds it */
		remember(d, row, ks_key_text(&d->c->key, row->values));
		if (!ks_direct_delete(d->w))
			elog(ERROR, "a row that is locked was changed");
	}
	if (conflict)
		count(d, KS_CONFLICTS_APPLIED);
	return true;
}

/* newer: writes a row or deletes it, if its key has a row now and the event wins; false: there is no row. */
static bool
write_found(Decider *d, const KsBatchRow *row)
{
	while (ks_direct_find_surely(d->w, row->values))
		if (!beats_row(d, row) || overwrite(d, row))
			return true;
	return false;
}

/* newer: one row, but for deletes of keys without a row, which are put off. */
static void
write_newer(Decider *d, int i)
{
	const KsBatchRow *row = &d->b->rows[i];

	if (write_found(d, row))
		return;
	if (!row->upsert)
		d->absent[d->nabsent++] = i;
	else if (!beats_delete(d, row, ks_key_text(&d->c->key, row->values)))
		count(d, KS_CONFLICTS_KEPT);
	else
	{
		if (row->order->stale)
			count(d, KS_CONFLICTS_STALE);
		ks_direct_insert(d->w, row);
		d->inserted[d->ninserted++] = i;
	}
}

/* newer: locks a key that has no row, or had none before us.  ERROR if that takes long. */
static void
lock_absent_key(Decider *d, Datum key, bool exclusive)
{
	for (int tries = 0; !ks_absent_key_lock(d->b->target->relid, key, exclusive, false); tries++)
	{
		if (tries == LOCK_TRIES)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 exclusive ?
					 errmsg("a delete waits for a transaction that has inserted into table %s", d->b->target->qualified) :
					 errmsg("a new row waits for a transaction that has deleted from table %s", d->b->target->qualified)));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1, ks_wait_event("KafkaApplyRetry"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* newer: remembers the delete of a key that had no row. */
static void
write_absent(Decider *d, const KsBatchRow *row)
{
	Datum		key = ks_key_text(&d->c->key, row->values);

	lock_absent_key(d, key, true);
	if (!write_found(d, row) && beats_delete(d, row, key))
		remember(d, row, key);
}

/*
 * newer: has a row that was inserted been deleted by somebody between our looking and our writing?  Another worker that
 * remembers its delete has not met our row if he has the key's lock already, and is waited for; who gets it now meets it.
 * So it need not be held on to.
 */
static void
look_again(Decider *d)
{
	for (int i = 0; i < d->ninserted; i++)
	{
		const KsBatchRow *row = &d->b->rows[d->inserted[i]];
		Datum		key = ks_key_text(&d->c->key, row->values);

		d->b->run->current = row->message;
		lock_absent_key(d, key, false);
		if (!beats_delete(d, row, key))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("a row was deleted while it was being inserted")));
		ks_absent_key_unlock(d->b->target->relid, key);
	}
}

/* keep: is the row that was found the one that the event was made from? */
static bool
is_base(Decider *d, const KsRowOrder *e)
{
	KsTargetTable *t = d->b->target;
	TupleDesc	desc = RelationGetDescr(d->w->rel);

	if (e->before_cells == NULL)
		return false;
	slot_getallattrs(d->w->found);
	for (int i = 0; i < t->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Datum		value = d->w->found->tts_values[i];

		if (e->before_cells[i] != KS_CELL_VALUE)
			continue;
		if (e->before_nulls[i] != d->w->found->tts_isnull[i])
			return false;
		if (e->before_nulls[i])
			continue;
		if (OidIsValid(d->c->equal[i].fn_oid) ?
			!DatumGetBool(FunctionCall2Coll(&d->c->equal[i], att->attcollation, e->before[i], value)) :
			!datum_image_eq(e->before[i], value, att->attbyval, att->attlen))
			return false;
	}
	return true;
}

/* keep: one event. */
static void
write_keep(Decider *d, const KsBatchRow *row)
{
	while (ks_direct_find_surely(d->w, row->values))
	{
		if (!is_base(d, row->order))
		{
			/* a repeat is none */
			if (!row->upsert || !same_row(d, row))
				count(d, KS_CONFLICTS_KEPT);
			return;
		}
		if (row->upsert ? ks_direct_update(d->w, row) : ks_direct_delete(d->w))
			return;
	}
	if (!row->upsert)
		return;
	if (row->order->before_cells)
		count(d, KS_CONFLICTS_KEPT);	/* it was deleted here */
	else
		ks_direct_insert(d->w, row);
}

/* keep: events of a key one after the other, each of which must see what the one before has written. */
static void
write_events(Decider *d)
{
	KsBatch    *b = d->b;
	int			buckets = 64;
	int		   *seen;

	while (buckets < b->nrows * 2)
		buckets *= 2;
	seen = palloc0(sizeof(int) * buckets);
	for (int i = 0; i < b->nrows; i++)
	{
		KsBatchRow *row = &b->rows[i];
		uint32		at;

		b->run->current = row->message;
		row->hash = ks_target_hash_key(b->target, row->values);
		for (at = row->hash & (buckets - 1); seen[at] != 0; at = (at + 1) & (buckets - 1))
			if (b->rows[seen[at] - 1].hash == row->hash)
				break;
		if (seen[at] != 0)
		{
			ks_direct_next_command(d->w);
			memset(seen, 0, sizeof(int) * buckets);
			at = row->hash & (buckets - 1);
		}
		seen[at] = i + 1;
		write_keep(d, row);
		CHECK_FOR_INTERRUPTS();
	}
	ks_direct_flush(d->w);
}

/* newer: deletes first, so that what is unique beside the key is free again. */
static void
write_rows(Decider *d)
{
	KsBatch    *b = d->b;

	d->inserted = palloc(sizeof(int) * b->nrows);
	d->absent = palloc(sizeof(int) * b->nrows);
	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < b->nrows; i++)
		{
			b->run->current = b->rows[i].message;
			if (b->rows[i].upsert ? pass == 1 : pass == 0 && b->rows[i].remove)
				write_newer(d, i);
			if ((i & 255) == 255)
				CHECK_FOR_INTERRUPTS();
		}
	ks_direct_flush(d->w);
	look_again(d);
	for (int i = 0; i < d->nabsent; i++)
	{
		b->run->current = b->rows[d->absent[i]].message;
		write_absent(d, &b->rows[d->absent[i]]);
	}
}

/* See conflict_batch.h. */
void
ks_conflict_write(KsBatch *b)
{
	MemoryContext old = MemoryContextSwitchTo(b->context);
	Decider		d = {b, b->conflict, ks_direct_begin(b)};

	if (b->conflict->kind == KS_CONFLICT_NEWER)
		write_rows(&d);
	else
		write_events(&d);
	ks_direct_finish(d.w);
	MemoryContextSwitchTo(old);
}
