/*
 * query_target.c: see query_target.h.
 *
 * In mode upsert the target holds what the query makes of the latest state of each message key.  So of all rows that
 * belong to a message key of the run, those stay that the query gives now, and the others go: the places where rows of
 * a key can be are told by the traced columns of the target's key.
 */
#include "postgres.h"

#include "access/table.h"
#include "apply/decode.h"
#include "apply/existing_keys.h"
#include "apply/query_target.h"
#include "apply/sink.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#define BATCH_MEMORY (96 * 1024 * 1024)

/* Takes what a query gives. */
typedef struct Receiver
{
	DestReceiver pub;
	KsQueryWriter *w;
	uint64		rows;
} Receiver;

/* A row of the query for places: the event, and the values of the traced columns, by attribute of the target. */
typedef struct Place
{
	int			event;
	Datum	   *values;
	bool	   *nulls;
} Place;

typedef struct Places
{
	DestReceiver pub;
	KsQueryWriter *w;
	int			count;
	Place	   *places;
} Places;

static List *relations = NIL;	/* of this process, for invalidation */

/* A relation's definition changed (InvalidOid: any may have): which of ours use it is not worth knowing. */
static void
invalidate(Datum arg, Oid relid)
{
	ListCell   *lc;
	ListCell   *lw;

	foreach(lc, relations)
	{
		KsBatchRelation *r = lfirst(lc);

		foreach(lw, r->writers)
		{
			KsQueryWriter *w = lfirst(lw);

			if (relid == InvalidOid || relid == w->target->view || relid == w->writer.table->relid || relid == w->source)
				r->valid = false;
		}
		foreach(lw, r->run->subscription->targets)
			if (relid == ((KsTarget *) lfirst(lw))->relid)
				r->valid = false;
	}
}

/* Declares the columns of targets without a query, which take fields by their names. */
static void
declare_plain_targets(KsBatchRelation *r)
{
	ListCell   *lc;

	foreach(lc, r->run->subscription->targets)
	{
		const KsTarget *target = lfirst(lc);
		Relation	rel;

		if (target->query || (rel = try_table_open(target->relid, AccessShareLock)) == NULL)
			continue;
		for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
		{
			Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

			if (!att->attisdropped)
				ks_decoder_declare(r->decoder, NameStr(att->attname), att->atttypid, att->atttypmod,
								   quote_identifier(RelationGetRelationName(rel)));
		}
		table_close(rel, AccessShareLock);
	}
}

/*
 * Makes what the targets with queries share fit their definitions.  A change found by one of them concerns those that
 * are open already, too; all are locked against changes by then.
 */
static void
refresh(KsQueryWriter *w)
{
	KsBatchRelation *r = w->relation;
	ListCell   *lc;

	if (!r->valid)
	{
		r->generation++;
		ks_shape_reset(r->shape);
		ks_decoder_reset(r->decoder);
		declare_plain_targets(r);
		r->valid = true;
	}
	foreach(lc, r->writers)
	{
		KsQueryWriter *other = lfirst(lc);

		if (other->is_open &&
			(other->generation != r->generation || other->table_version != other->writer.table->version))
			ks_query_describe(other);
	}
	ks_decoder_prepare(r->decoder);
}

/* KsWriterOps.open */
static void
open_target(KsWriter *writer)
{
	KsQueryWriter *w = (KsQueryWriter *) writer;

	ks_target_open(w->writer.table);
	LockRelationOid(w->target->view, AccessShareLock);
	if (get_rel_relkind(w->target->view) != RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the query of target %s does not exist any more", w->writer.table->qualified),
				 errhint("Something it uses was dropped with CASCADE. Use kafka.drop_target and kafka.add_target.")));
	/* before what is known of it is looked at: from here on ALTER waits */
	if (OidIsValid(w->source))
		LockRelationOid(w->source, AccessShareLock);
	w->is_open = true;
	refresh(w);
	if (OidIsValid(w->source))
		ks_source_check_rights(w->source, w->used, w->batch->run->subscription->owner);
}

/* KsWriterOps.begin */
static void
begin(KsWriter *writer, int count)
{
	KsQueryWriter *w = (KsQueryWriter *) writer;

	ks_batch_begin(w->batch, count);
	ks_batch_relation_begin(w->relation, count);
	w->capacity = count + 1;
	w->produced = MemoryContextAllocZero(w->batch->context, sizeof(int) * w->capacity);
	w->shapes = MemoryContextAllocZero(w->batch->context, sizeof(KsKeyShape *) * w->capacity);
}

/* Makes room for as many events as the relation has: a message may have many rows. */
static void
make_room(KsQueryWriter *w)
{
	int			wanted = w->relation->capacity;

	if (w->relation->count <= w->capacity)
		return;
	w->produced = repalloc_huge(w->produced, sizeof(int) * wanted);
	w->shapes = repalloc_huge(w->shapes, sizeof(KsKeyShape *) * wanted);
	memset(w->produced + w->capacity, 0, sizeof(int) * (wanted - w->capacity));
	memset(w->shapes + w->capacity, 0, sizeof(KsKeyShape *) * (wanted - w->capacity));
	w->capacity = wanted;
}

/* Finds a field by its name. */
static const KsField *
find_field(const KsFieldList *list, const char *name, uint32 size)
{
	for (int i = 0; list->present && i < list->count; i++)
		if (list->fields[i].name_size == size && memcmp(list->fields[i].name, name, size) == 0)
			return &list->fields[i];
	return NULL;
}

/* A field's text, for comparison; "null" where it is. */
static char *
field_text(KsBatchRelation *r, const KsField *field)
{
	Datum		value;
	bool		isnull;

	if (field == NULL || !ks_decode_text(r->decoder, NULL, field, &value, &isnull) || isnull)
		return pstrdup("null");
	return TextDatumGetCString(value);
}

/* Is the column of the topic's table that is traced to a field one that the message key tells where the row does not? */
static bool
is_told_by_key(KsQueryWriter *w, const char *name)
{
	for (int p = 0; p < w->nplaces; p++)
	{
		const KsQueryColumn *c = w->sinks[w->places[p]].column;

		if (c->field.column == KS_BATCH_AFTER && strcmp(c->field.name, name) == 0 && !c->or_key)
			return false;
	}
	return w->query->source != NULL;
}

/*
 * ERROR unless a row says the same of the fields of its message key as the key: what is traced to the row is looked up by
 * the key when the row is to go.
 */
static void
check_key_in_row(KsQueryWriter *w, const KsKeyShape *shape, const KsParsed *parsed)
{
	for (int i = 0; i < shape->nfields; i++)
	{
		const KsField *in_key = &parsed->key.fields[i];
		const KsField *in_row;
		const char *name = shape->names[i];
		uint32		size = shape->sizes[i];

		if (!shape->in_row[i])
			continue;
		if (size == 0)
			for (int p = 0; p < w->nplaces; p++)
				if (shape->places[p] && w->sinks[w->places[p]].column->field.name)
				{
					name = w->sinks[w->places[p]].column->field.name;
					size = strlen(name);
				}
		in_row = find_field(&parsed->after, name, size);
		if (in_row && in_row->kind == in_key->kind && in_row->size == in_key->size &&
			(in_row->size == 0 || memcmp(in_row->data, in_key->data, in_row->size) == 0))
			continue;
		if (in_row ? strcmp(field_text(w->relation, in_row), field_text(w->relation, in_key)) == 0 : is_told_by_key(w, name))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("field \"%s\" is %s in the message key, but %s in the row", name, field_text(w->relation, in_key),
						in_row ? field_text(w->relation, in_row) : "missing"),
				 errhint("Let the query take the field from key, as in key->>'%s'.", name)));
	}
}

/* ERROR: a message leaves out a value that the query needs. */
static void
needs_value(const KsBatchField *field, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 errmsg("field \"%s\": the message leaves the value out as unchanged, and %s", field->name, what),
			 errhint("Set REPLICA IDENTITY FULL on the source table, and publish its rows again.")));
}

/* The first of the fields that a list of them has, or all of whose column it has; NULL if it has none. */
static const KsBatchField *
first_read(List *unavailable, List *reads)
{
	ListCell   *lc;

	foreach(lc, unavailable)
	{
		const KsBatchField *f = lfirst(lc);

		if (ks_reads_field(reads, f->column, f->name))
			return f;
	}
	return NULL;
}

/* Becomes the subscription's owner, who the query runs as; what the table's owner has SET is no matter to it. */
static void
become_reader(KsQueryWriter *w, Oid *save_user, int *save_context)
{
	ks_run_settle(w->batch->run);
	GetUserIdAndSecContext(save_user, save_context);
	SetUserIdAndSecContext(w->batch->run->subscription->owner, *save_context | SECURITY_RESTRICTED_OPERATION);
}

/* Becomes the table's owner again, without what the query has SET. */
static void
become_writer(KsQueryWriter *w, Oid save_user, int save_context)
{
	ks_run_settle(w->batch->run);
	SetUserIdAndSecContext(save_user, save_context);
}

/* Reads the columns of the topic's table that the query needs; types that run code of users, as the query does. */
static void
read_source(KsQueryWriter *w, KsBatchEvent *e, const KsMessage *message, const KsParsed *parsed)
{
	bool		in_rows = w->upsert ? e->op != 'd' : ks_batch_relation_sees(e, w->view);
	Oid			save_user;
	int			save_context;

	if (w->runs_code)
		become_reader(w, &save_user, &save_context);
	if (in_rows)
		ks_batch_relation_read(w->relation, e, message, parsed, w->typed);
	ks_batch_relation_read(w->relation, e, message, parsed, w->typed_places);
	if (w->runs_code)
		become_writer(w, save_user, save_context);
}

/* KsWriterOps.add */
static void
add(KsWriter *writer, const KsMessage *message, const KsParsed *parsed)
{
	KsQueryWriter *w = (KsQueryWriter *) writer;
	bool		in_scope = ks_query_topic_in_scope(w, message->topic);
	KsBatchEvent *e = ks_batch_relation_add(w->relation, message, parsed);

	make_room(w);
	if (e == NULL || !in_scope)
		return;
	if (w->typed || w->typed_places)
		read_source(w, e, message, parsed);
	if (w->upsert)
	{
		KsKeyShape *shape = ks_query_key_shape(w, message, parsed);

		if (e->op != 'd')
			check_key_in_row(w, shape, parsed);
		w->shapes[w->relation->count - 1] = shape;
	}
	else if (e->unavailable != NIL && ks_batch_relation_sees(e, w->view))
	{
		const KsBatchField *f = first_read(e->unavailable, w->query->reads);

		if (f)
			needs_value(f, "the query reads it");
	}
}

/* Says that the message at hand has two rows for one place. */
static void
two_rows(KsQueryWriter *w)
{
	ereport(ERROR,
			(errcode(ERRCODE_CARDINALITY_VIOLATION),
			 errmsg("the query gives two rows with the same key of target %s", w->writer.table->qualified),
			 errhint("Join other tables by their unique keys, or put what tells the rows apart into the target's key.")));
}

/* Marks the cells of a row whose values the message leaves out as unchanged.  ERROR where that will not do. */
static void
keep_cells(KsQueryWriter *w, KsBatchEvent *e)
{
	KsBatch    *b = w->batch;

	for (int i = 0; i < w->nsinks; i++)
	{
		const KsQueryColumn *c = w->sinks[i].column;
		const KsBatchField *f = first_read(e->state_unavailable, c->reads);
		ListCell   *lc;

		if (f == NULL)
			continue;
		if (w->keys[i])
			needs_value(f, psprintf("key column \"%s\" depends on it", c->name));
		foreach(lc, c->reads)
		{
			const KsBatchField *read = lfirst(lc);

			if (c->mixed || read->name == NULL || !ks_reads_field(e->state_unavailable, read->column, read->name))
				needs_value(f, psprintf("column \"%s\" is made of it and of others", c->name));
		}
		if (e->follows_delete)
			needs_value(f, "the row was deleted before");
		b->cells[w->attributes[i]] = KS_CELL_KEEP;
		b->nulls[w->attributes[i]] = true;
	}
}

/* Takes a row of the query. */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	Receiver   *receiver = (Receiver *) self;
	KsQueryWriter *w = receiver->w;
	KsBatch    *b = w->batch;
	KsTargetTable *t = w->writer.table;
	MemoryContext old = MemoryContextSwitchTo(b->context);
	int			event = -1;

	slot_getallattrs(slot);
	memcpy(b->cells, w->cells, b->natts);
	for (int i = 0; i < w->nsinks; i++)
	{
		int			index = w->attributes[i];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(t->rel), index);

		b->nulls[index] = slot->tts_isnull[i];
		if (!slot->tts_isnull[i])
			b->values[index] = att->attbyval ? slot->tts_values[i] : datumCopy(slot->tts_values[i], false, att->attlen);
	}
	if (w->row_wise)
	{
		event = DatumGetInt32(slot->tts_values[w->nsinks]);
		b->run->current = w->relation->events[event].message;
		w->produced[event]++;
		if (w->upsert && w->relation->events[event].state_unavailable != NIL)
			keep_cells(w, &w->relation->events[event]);
	}
	ks_batch_check_keys(b);
	if (!ks_batch_put(b, event < 0 ? -1 : w->relation->events[event].message))
		two_rows(w);
	b->run->current = -1;
	/* a run that grows too large is halved by the caller */
	if ((++receiver->rows & 1023) == 0 && w->relation->count > 1 &&
		MemoryContextMemAllocated(b->context, false) > BATCH_MEMORY)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the query of target %s gives too many rows", t->qualified)));
	MemoryContextSwitchTo(old);
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

static const DestReceiver row_receiver = {receive_row, receive_startup, receive_end, receive_end, DestNone};

/* See query_target.h. */
PlannedStmt *
ks_query_plan_rows(KsQueryWriter *w, int count)
{
	Oid			save_user;
	int			save_context;
	PlannedStmt *plan;

	become_reader(w, &save_user, &save_context);
	plan = ks_query_plan(w->rows_query, w->relation->shape, count);
	become_writer(w, save_user, save_context);
	return plan;
}

/* See query_target.h. */
void
ks_query_run_rows(KsQueryWriter *w, PlannedStmt *plan, Tuplestorestate *rows, int count, DestReceiver *dest)
{
	Oid			save_user;
	int			save_context;

	become_reader(w, &save_user, &save_context);
	ks_query_run(plan, w->relation->shape, rows, count, dest);
	become_writer(w, save_user, save_context);
}

/* See query_target.h. */
void
ks_query_compute(KsQueryWriter *w, Tuplestorestate *rows, int count)
{
	Receiver	receiver = {row_receiver, w, 0};
	MemoryContext old;

	if (count == 0)
		return;
	old = MemoryContextSwitchTo(w->batch->context);
	ks_query_run_rows(w, ks_query_plan_rows(w, count), rows, count, &receiver.pub);
	MemoryContextSwitchTo(old);
}

/* ERROR if which rows there are depends on a value that the last message of a key leaves out. */
static void
check_conditions(KsQueryWriter *w)
{
	KsBatchRelation *r = w->relation;

	for (int i = 0; i < r->count; i++)
	{
		KsBatchEvent *e = &r->events[i];
		const KsBatchField *f;

		if (e->state_unavailable == NIL || w->shapes[i] == NULL || !ks_batch_relation_sees(e, KS_VIEW_STATE))
			continue;
		f = first_read(e->state_unavailable, w->query->conditions);
		if (f == NULL)
			continue;
		r->run->current = e->message;
		needs_value(f, "a condition of the query depends on it");
	}
}

/* Takes a row of the query for places. */
static bool
receive_place(TupleTableSlot *slot, DestReceiver *self)
{
	Places	   *p = (Places *) self;
	KsQueryWriter *w = p->w;
	KsTargetTable *t = w->writer.table;
	MemoryContext old = MemoryContextSwitchTo(w->batch->context);
	Place	   *place = &p->places[p->count++];

	slot_getallattrs(slot);
	place->event = DatumGetInt32(slot->tts_values[w->nplaces]);
	place->values = palloc(sizeof(Datum) * t->natts);
	for (int i = 0; i < w->nplaces; i++)
	{
		int			index = w->attributes[w->places[i]];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(t->rel), index);

		if (!w->shapes[place->event]->places[i])
			continue;
		if (slot->tts_isnull[i])
		{
			w->batch->run->current = w->relation->events[place->event].message;
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("the message key gives no value for key column \"%s\"", t->columns[index].name)));
		}
		place->values[index] = att->attbyval ? slot->tts_values[i] : datumCopy(slot->tts_values[i], false, att->attlen);
	}
	MemoryContextSwitchTo(old);
	return true;
}

static const DestReceiver place_receiver = {receive_place, receive_startup, receive_end, receive_end, DestNone};

/* Computes, for every message key of the run that may have left rows behind, where these are. */
static void
find_places(KsQueryWriter *w, Places *p)
{
	KsBatchRelation *r = w->relation;
	int		   *events = MemoryContextAlloc(w->batch->context, sizeof(int) * Max(r->count, 1));
	int			n = 0;
	Oid			save_user;
	int			save_context;
	MemoryContext old;

	for (int i = 0; i < r->count; i++)
	{
		KsKeyShape *shape = w->shapes[i];

		/* where the message key is the whole of the target's key, the row that was given is the only one */
		if (r->events[i].last && shape && (w->produced[i] == 0 || !shape->exact))
			events[n++] = i;
	}
	p->pub = place_receiver;
	p->w = w;
	p->count = 0;
	p->places = MemoryContextAlloc(w->batch->context, sizeof(Place) * Max(n, 1));
	if (n == 0)
		return;
	old = MemoryContextSwitchTo(w->batch->context);
	become_reader(w, &save_user, &save_context);
	ks_query_run(ks_query_plan(w->places_query, r->shape, n), r->shape, ks_batch_relation_choose(r, events, n), n, &p->pub);
	become_writer(w, save_user, save_context);
	MemoryContextSwitchTo(old);
}

/* What a row that is there is to be matched with. */
typedef struct Leaving
{
	KsQueryWriter *w;
	const int  *numbers;		/* of messages, by part */
} Leaving;

/* A row of a message key of the run: it goes unless the query gave it again. */
static void
found_row(void *arg, int number, const Datum *values)
{
	Leaving    *l = arg;
	KsTargetTable *t = l->w->writer.table;
	KsBatch    *b = l->w->batch;
	MemoryContext old = MemoryContextSwitchTo(b->context);

	for (int i = 0; i < t->nkeys; i++)
	{
		int			index = t->keys[i].index;

		b->values[index] = datumCopy(values[index], t->keys[i].typbyval, t->keys[i].typlen);
	}
	ks_batch_leave(b, l->numbers[number]);
	MemoryContextSwitchTo(old);
}

/* Removes what the message keys of the run have left behind. */
static void
leave_places(KsQueryWriter *w, const Places *p)
{
	KsBatch    *b = w->batch;
	KsTargetTable *t = w->writer.table;
	Datum	  **parts = MemoryContextAlloc(b->context, sizeof(Datum *) * Max(p->count, 1));
	int		   *numbers = MemoryContextAlloc(b->context, sizeof(int) * Max(p->count, 1));
	bool		exact = false;	/* some key was not looked for */
	ListCell   *lc;

	for (int i = 0; i < p->count; i++)
	{
		const Place *place = &p->places[i];
		KsKeyShape *shape = w->shapes[place->event];

		if (!shape->exact)
			continue;
		for (int k = 0; k < t->nkeys; k++)
			b->values[t->keys[k].index] = place->values[t->keys[k].index];
		ks_batch_leave(b, w->relation->events[place->event].message);
	}
	foreach(lc, w->key_shapes)
	{
		KsKeyShape *shape = lfirst(lc);
		Leaving		l = {w, numbers};
		int			n = 0;

		exact = exact || shape->exact;
		if (shape->exact)
			continue;
		for (int i = 0; i < p->count; i++)
			if (w->shapes[p->places[i].event] == shape)
			{
				numbers[n] = w->relation->events[p->places[i].event].message;
				parts[n++] = p->places[i].values;
			}
		ks_existing_keys(t, shape->attributes, shape->nplaces, parts, n, found_row, &l);
	}
	/* what was looked for and not found need not be looked for again */
	for (int i = 0; i < b->nrows && !exact; i++)
		b->rows[i].absent = !b->rows[i].found && !b->truncate;
}

/* KsWriterOps.write */
static void
write_rows(KsWriter *writer)
{
	KsQueryWriter *w = (KsQueryWriter *) writer;
	Tuplestorestate *rows;
	Places		places;
	int			count;

	if (w->merge)
	{
		w->writer.table->sink->merge(w);
		return;
	}
	if (w->upsert)
		check_conditions(w);
	rows = ks_batch_relation_rows(w->relation, w->view, ks_query_topic(w), &count);
	ks_query_compute(w, rows, count);
	if (w->upsert)
	{
		/* one partition is read, then, and so one topic */
		w->batch->truncate = w->relation->truncate && w->topics != NIL &&
			((KsTopicScope *) linitial(w->topics))->reads;
		find_places(w, &places);
		leave_places(w, &places);
	}
	w->batch->run->stage = "apply";
	w->writer.table->sink->apply(w->batch);
}

/* KsWriterOps.close */
static void
close_target(KsWriter *writer)
{
	KsQueryWriter *w = (KsQueryWriter *) writer;

	ks_target_close(w->writer.table);
	w->is_open = false;
}

/* KsWriterOps.abandon */
static void
abandon(KsWriter *writer)
{
	KsQueryWriter *w = (KsQueryWriter *) writer;

	ks_target_abandon(w->writer.table);
	w->is_open = false;
}

/* KsWriterOps.limit */
static int
limit(const KsWriter *writer, int wanted)
{
	const KsQueryWriter *w = (const KsQueryWriter *) writer;

	return w->batch->writer.ops->limit(&w->batch->writer, wanted);
}

static const KsWriterOps query_ops = {open_target, begin, add, write_rows, close_target, abandon, limit};

/* See query_target.h. */
KsWriter *
ks_query_writer_create(KsRun *run, KsTargetTable *table)
{
	static bool registered = false;
	KsQueryWriter *w = palloc0(sizeof(KsQueryWriter));
	MemoryContext old;

	w->writer.ops = &query_ops;
	w->writer.table = table;
	w->writer.run = run;
	w->target = table->target;
	w->upsert = strcmp(w->target->mode, "upsert") == 0;
	w->merge = strcmp(w->target->mode, "merge") == 0;
	w->batch = ks_batch_create(run, table);
	w->context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync target query", ALLOCSET_DEFAULT_SIZES);
	if (run->relation == NULL)
	{
		run->relation = ks_batch_relation_create(run);
		old = MemoryContextSwitchTo(TopMemoryContext);
		relations = lappend(relations, run->relation);
		MemoryContextSwitchTo(old);
	}
	w->relation = run->relation;
	w->relation->writers = lappend(w->relation->writers, w);
	if (!registered)
		CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
	registered = true;
	return &w->writer;
}
