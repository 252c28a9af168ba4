/*
 * batch_relation.c: see batch_relation.h.
 */
#include "postgres.h"

#include "apply/batch_relation.h"
#include "common/hashfn.h"
#include "event/message.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define STORE_KB (64 * 1024)

PG_FUNCTION_INFO_V1(ks_batch_rows);

/* What is known of a field at a place in a list: messages look alike, so one comparison finds it. */
typedef struct Place
{
	char	   *name;
	uint32		size;
	KsColumnConverter *column;
	List	   *columns;		/* of the shape that hold it as text, as integers */
} Place;

typedef struct KsBatchLayout
{
	MemoryContext context;
	uint32		generation;		/* of the relation, and of its decoder */
	uint32		decoder_generation;
	int			nplaces[KS_BATCH_COLUMNS + 1];	/* by KsBatchColumn */
	Place	   *places[KS_BATCH_COLUMNS + 1];
	int			nfields;
	char	  **names;			/* of the shape's fields, in UTF-8 */
	int			scalar;			/* column of a key that is no object, 0 = none */
} KsBatchLayout;

/* kafka.batch_rows(): never has rows by itself; the queries of targets are given them in its place. */
Datum
ks_batch_rows(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("relation kafka.batch cannot be read here"),
			 errhint("It has rows only while a subscription applies them, in the query of a target: see kafka.add_target.")));
}

/* See batch_relation.h. */
KsBatchRelation *
ks_batch_relation_create(KsRun *run)
{
	KsBatchRelation *r = palloc0(sizeof(KsBatchRelation));

	r->run = run;
	r->shape = ks_shape_create();
	r->decoder = ks_decoder_create(run->subscription->format, run->subscription->options->text_value[KS_OPT_COLUMN_TYPES]);
	r->context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync batch relation", 64 * 1024, 1024 * 1024,
									   8 * 1024 * 1024);
	r->layout = palloc0(sizeof(KsBatchLayout));
	r->layout->context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync field places", ALLOCSET_SMALL_SIZES);
	r->layout->generation = PG_UINT32_MAX;
	return r;
}

/* See batch_relation.h. */
void
ks_batch_relation_begin(KsBatchRelation *r, int count)
{
	int			buckets = 64;

	/* rows are gone with the memory, but not what was spilled to disk: that goes with the transaction */
	MemoryContextReset(r->context);
	while (buckets < count * 2)
		buckets *= 2;
	r->count = 0;
	r->capacity = count + 1;
	r->events = MemoryContextAllocHuge(r->context, sizeof(KsBatchEvent) * r->capacity);
	r->buckets = MemoryContextAllocExtended(r->context, sizeof(int) * buckets, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	r->bucket_mask = buckets - 1;
	r->taken = 0;
	r->topic = NULL;
	r->messages = NULL;
	r->truncate = false;
	memset(r->stores, 0, sizeof(r->stores));
	r->topic_stores = NIL;
}

/* ---- which columns a field goes to */

/* Makes the layout anew where definitions, or what messages say of types, have changed. */
static void
refresh_layout(KsBatchRelation *r)
{
	KsBatchLayout *l = r->layout;
	MemoryContext old;
	ListCell   *lc;

	if (l->generation == r->generation && l->decoder_generation == ks_decoder_generation(r->decoder))
		return;
	MemoryContextReset(l->context);
	old = MemoryContextSwitchTo(l->context);
	memset(l->nplaces, 0, sizeof(l->nplaces));
	memset(l->places, 0, sizeof(l->places));
	l->generation = r->generation;
	l->decoder_generation = ks_decoder_generation(r->decoder);
	l->nfields = list_length(r->shape->fields);
	l->names = palloc(sizeof(char *) * Max(l->nfields, 1));
	l->scalar = 0;
	foreach(lc, r->shape->fields)
	{
		KsShapeField *f = lfirst(lc);
		int			i = foreach_current_index(lc);

		/* columns of topics' tables are read by those that need them */
		l->names[i] = f->source ? NULL : pg_server_to_any(f->name, strlen(f->name), PG_UTF8);
		if (f->or_scalar && f->source == NULL)
			l->scalar = KS_BATCH_FIXED + i;
	}
	MemoryContextSwitchTo(old);
}

/* Finds out what is known of a field. */
static void
fill_place(KsBatchRelation *r, Place *place, KsBatchColumn part, const KsField *field)
{
	KsBatchLayout *l = r->layout;
	MemoryContext old = MemoryContextSwitchTo(l->context);
	ListCell   *lc;

	place->name = palloc(field->name_size + 1);
	memcpy(place->name, field->name, field->name_size);
	place->size = field->name_size;
	place->column = ks_decoder_find(r->decoder, field);
	list_free(place->columns);
	place->columns = NIL;
	foreach(lc, r->shape->fields)
	{
		KsShapeField *f = lfirst(lc);
		const char *name = l->names[foreach_current_index(lc)];

		if (name && f->column == part && strlen(name) == field->name_size && memcmp(name, field->name, field->name_size) == 0)
			place->columns = lappend_int(place->columns, KS_BATCH_FIXED + foreach_current_index(lc));
	}
	MemoryContextSwitchTo(old);
}

/* What is known of the field at a position of a list. */
static Place *
find_place(KsBatchRelation *r, KsBatchColumn part, const KsField *field, int position)
{
	KsBatchLayout *l = r->layout;
	Place	   *place;

	if (position >= l->nplaces[part])
	{
		int			n = Max(position + 1, Max(8, l->nplaces[part] * 2));
		MemoryContext old = MemoryContextSwitchTo(l->context);
		Place	   *places = palloc0(sizeof(Place) * n);

		if (l->nplaces[part] > 0)
			memcpy(places, l->places[part], sizeof(Place) * l->nplaces[part]);
		l->places[part] = places;
		l->nplaces[part] = n;
		MemoryContextSwitchTo(old);
	}
	place = &l->places[part][position];
	if (place->name == NULL || place->size != field->name_size || memcmp(place->name, field->name, field->name_size) != 0)
	{
		/* lists that do not look alike at all must not fill the memory */
		if (place->name && MemoryContextMemAllocated(l->context, false) > 1024 * 1024)
		{
			l->generation = PG_UINT32_MAX;
			refresh_layout(r);
			return find_place(r, part, field, position);
		}
		fill_place(r, place, part, field);
	}
	return place;
}

/* ---- one message */

/* Notes that a message leaves out the value of a field as unchanged. */
static void
note_unavailable(KsBatchEvent *e, KsBatchColumn part, const char *name, uint32 size)
{
	KsBatchField *f = palloc(sizeof(KsBatchField));
	int			n;
	char	   *string = ks_decode_string(name, size, &n);

	f->column = part;
	f->name = pnstrdup(string, n);
	e->unavailable = lappend(e->unavailable, f);
}

/* Sets a column of an event. */
static inline void
set_value(KsBatchEvent *e, int index, Datum value)
{
	e->values[index] = value;
	e->nulls[index] = false;
}

/* Decodes a list of fields into the columns that hold them as text, and (wanted) into a document. */
static void
read_fields(KsBatchRelation *r, KsBatchEvent *e, KsBatchColumn part, const KsFieldList *list, bool wanted)
{
	JsonbParseState *state = NULL;
	JsonbValue *object = NULL;

	if (!list->present)
		return;
	if (wanted)
		object = pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < list->count; i++)
	{
		const KsField *field = &list->fields[i];
		Place	   *place = find_place(r, part, field, i);
		bool		available = true;
		ListCell   *lc;
		Datum		text = (Datum) 0;
		bool		isnull = true;

		if (place->columns != NIL)
		{
			available = ks_decode_text(r->decoder, place->column, field, &text, &isnull);
			foreach(lc, place->columns)
				if (available && !isnull)
					set_value(e, lfirst_int(lc), text);
		}
		if (available && wanted)
		{
			JsonbValue	value;

			available = ks_decode_json(r->decoder, place->column, field, &value);
			if (available)
			{
				JsonbValue	name;
				int			size;

				name.type = jbvString;
				name.val.string.val = ks_decode_string(field->name, field->name_size, &size);
				name.val.string.len = size;
				(void) pushJsonbValue(&state, WJB_KEY, &name);
				(void) pushJsonbValue(&state, WJB_VALUE, &value);
			}
		}
		if (!available)
			note_unavailable(e, part, field->name, field->name_size);
	}
	if (wanted)
	{
		object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
		set_value(e, part - 1, JsonbPGetDatum(JsonbValueToJsonb(object)));
	}
}

/* Decodes the message key: an object's fields, or a scalar. */
static void
read_key(KsBatchRelation *r, KsBatchEvent *e, const KsFieldList *key)
{
	bool		wanted = bms_is_member(KS_BATCH_KEY, r->shape->columns);

	if (!key->present)
		return;
	if (key->count == 1 && key->fields[0].name_size == 0)
	{
		KsField		field = key->fields[0];
		Datum		text;
		bool		isnull;
		JsonbValue	value;

		if (r->layout->scalar > 0 && ks_decode_text(r->decoder, NULL, &field, &text, &isnull) && !isnull)
			set_value(e, r->layout->scalar, text);
		if (wanted && ks_decode_json(r->decoder, NULL, &field, &value))
			set_value(e, KS_BATCH_KEY - 1, JsonbPGetDatum(JsonbValueToJsonb(&value)));
		return;
	}
	read_fields(r, e, KS_BATCH_KEY, key, wanted);
}

/* Fills the columns of an event from its message. */
static void
read_event(KsBatchRelation *r, KsBatchEvent *e, const KsMessage *m, const KsParsed *parsed)
{
	Bitmapset  *columns = r->shape->columns;

	set_value(e, KS_BATCH_ROW - 1, Int32GetDatum(r->count));
	if (bms_is_member(KS_BATCH_TOPIC, columns))
		set_value(e, KS_BATCH_TOPIC - 1, CStringGetTextDatum(m->topic));
	set_value(e, KS_BATCH_PARTITION - 1, Int32GetDatum(m->partition));
	set_value(e, KS_BATCH_OFFSET - 1, Int64GetDatum(m->offset));
	if (m->timestamp_ms >= 0)
		set_value(e, KS_BATCH_TS - 1,
				  TimestampTzGetDatum(m->timestamp_ms * 1000 -
									  ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * USECS_PER_DAY));
	if (bms_is_member(KS_BATCH_OP, columns))
		set_value(e, KS_BATCH_OP - 1, PointerGetDatum(cstring_to_text_with_len(&e->op, 1)));

	if (bms_is_member(KS_BATCH_HEADERS, columns))
	{
		Jsonb	   *headers = ks_message_headers(m);

		if (headers)
			set_value(e, KS_BATCH_HEADERS - 1, JsonbPGetDatum(headers));
	}

	ks_decoder_use_connector(r->decoder, parsed->connector, parsed->connector_size);
	ks_decoder_use_schema(r->decoder, parsed->key_schema, parsed->key_schema_size);
	refresh_layout(r);
	read_key(r, e, &parsed->key);
	ks_decoder_use_schema(r->decoder, parsed->schema, parsed->schema_size);
	refresh_layout(r);
	read_fields(r, e, KS_BATCH_BEFORE, &parsed->before, bms_is_member(KS_BATCH_BEFORE, columns));
	read_fields(r, e, KS_BATCH_AFTER, &parsed->after, bms_is_member(KS_BATCH_AFTER, columns));
	for (int i = 0; i < parsed->unchanged.count; i++)
		note_unavailable(e, KS_BATCH_AFTER, parsed->unchanged.fields[i].name, parsed->unchanged.fields[i].name_size);
}

/* See batch_relation.h. */
bool
ks_batch_field_in(List *list, const KsBatchField *field)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		KsBatchField *f = lfirst(lc);

		if (f->column == field->column && strcmp(f->name, field->name) == 0)
			return true;
	}
	return false;
}

/* A document with a field of another. */
static Datum
with_field(Datum document, Datum other, const char *name)
{
	JsonbValue *value = getKeyJsonValueFromContainer(&DatumGetJsonbP(other)->root, name, strlen(name), NULL);
	JsonbParseState *state = NULL;
	JsonbValue	key;
	JsonbValue *object;

	if (value == NULL)
		return document;
	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	(void) pushJsonbValue(&state, WJB_KEY, &key);
	(void) pushJsonbValue(&state, WJB_VALUE, value);
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return DirectFunctionCall2(jsonb_concat, document, JsonbPGetDatum(JsonbValueToJsonb(object)));
}

/* Takes values that an event leaves out from the former state of its key. */
static void
lay_over(KsBatchRelation *r, KsBatchEvent *e, const KsBatchEvent *former)
{
	int			natts = ks_shape_desc(r->shape)->natts;
	int			after = KS_BATCH_AFTER - 1;
	ListCell   *lc;

	e->state_values = palloc(sizeof(Datum) * natts);
	e->state_nulls = palloc(sizeof(bool) * natts);
	memcpy(e->state_values, e->values, sizeof(Datum) * natts);
	memcpy(e->state_nulls, e->nulls, sizeof(bool) * natts);
	e->state_unavailable = NIL;
	foreach(lc, e->unavailable)
	{
		KsBatchField *f = lfirst(lc);
		ListCell   *column;

		if (f->column != KS_BATCH_AFTER || ks_batch_field_in(former->state_unavailable, f))
		{
			e->state_unavailable = lappend(e->state_unavailable, f);
			continue;
		}
		foreach(column, r->shape->fields)
		{
			KsShapeField *t = lfirst(column);
			int			i = KS_BATCH_FIXED + foreach_current_index(column);

			if (t->source || t->column != KS_BATCH_AFTER || strcmp(t->name, f->name) != 0)
				continue;
			e->state_values[i] = former->state_values[i];
			e->state_nulls[i] = former->state_nulls[i];
		}
		if (!e->state_nulls[after] && !former->state_nulls[after])
			e->state_values[after] = with_field(e->state_values[after], former->state_values[after], f->name);
	}
}

/* Finds the former event of a message's key and takes its place. */
static void
enter_key(KsBatchRelation *r, KsBatchEvent *e, const KsMessage *m, const KsMessage *messages)
{
	int			index = r->count;
	uint32		at;

	e->previous = -1;
	e->last = true;
	if (m->key == NULL)
		return;
	/* the partitions of a topic have a copy of its name each, and a key may be in several, as after their number has grown */
	if (m->topic != r->topic)
	{
		r->topic = m->topic;
		r->topic_hash = hash_bytes((const unsigned char *) m->topic, (int) strlen(m->topic));
	}
	e->hash = hash_combine(hash_bytes((const unsigned char *) m->key, (int) m->key_size), r->topic_hash);
	for (at = e->hash & r->bucket_mask; r->buckets[at] != 0; at = (at + 1) & r->bucket_mask)
	{
		KsBatchEvent *other = &r->events[r->buckets[at] - 1];
		/* messages of a run lie side by side */
		const KsMessage *o = messages + other->message;

		if (other->hash == e->hash && o->key_size == m->key_size && memcmp(o->key, m->key, m->key_size) == 0 &&
			(o->topic == m->topic || strcmp(o->topic, m->topic) == 0))
		{
			e->previous = r->buckets[at] - 1;
			break;
		}
	}
	r->buckets[at] = index + 1;
	/* all rows of a message belong to its key; those of a later one take their place */
	for (int i = e->previous; i >= 0 && r->events[i].message != e->message && r->events[i].last; i = r->events[i].previous)
		r->events[i].last = false;
}

/* See batch_relation.h. */
KsBatchEvent *
ks_batch_relation_add(KsBatchRelation *r, const KsMessage *m, const KsParsed *parsed)
{
	int			current = r->run->current;
	MemoryContext old;
	KsBatchEvent *e;
	int			natts;

	if (r->taken == r->run->row)
		return r->latest;
	r->latest = NULL;
	if (parsed->op == 't')
	{
		for (int i = 0; i < r->count; i++)
			r->events[i].last = false;
		memset(r->buckets, 0, sizeof(int) * (r->bucket_mask + 1));
		r->truncate = true;
		r->taken = r->run->row;
		return NULL;
	}
	if (r->count == r->capacity)
	{
		r->capacity *= 2;
		r->events = repalloc_huge(r->events, sizeof(KsBatchEvent) * r->capacity);
	}
	old = MemoryContextSwitchTo(r->context);
	natts = ks_shape_desc(r->shape)->natts;
	e = &r->events[r->count];
	memset(e, 0, sizeof(KsBatchEvent));
	e->message = current;
	e->op = parsed->op;
	e->tombstone = parsed->tombstone;
	e->duplicate = r->run->duplicate;
	e->topic = m->topic;
	e->values = palloc(natts * (sizeof(Datum) + 2 * sizeof(bool)));
	e->nulls = (bool *) (e->values + natts);
	memset(e->nulls, true, natts);
	e->read = e->nulls + natts;
	memset(e->read, false, natts);
	ks_decoder_use_connector(r->decoder, parsed->connector, parsed->connector_size);
	read_event(r, e, m, parsed);
	r->messages = m - current;
	enter_key(r, e, m, r->messages);
	e->state_values = e->values;
	e->state_nulls = e->nulls;
	e->state_unavailable = e->unavailable;
	if (e->previous >= 0)
	{
		const KsBatchEvent *former = &r->events[e->previous];

		e->follows_delete = former->op == 'd' || former->follows_delete;
		if (e->unavailable != NIL && former->op != 'd')
			lay_over(r, e, former);
	}
	r->count++;
	r->taken = r->run->row;
	r->latest = e;
	MemoryContextSwitchTo(old);
	return e;
}

/* ---- as relations */

/* See batch_relation.h. */
bool
ks_batch_relation_sees(const KsBatchEvent *e, KsBatchView view)
{
	switch (view)
	{
		case KS_VIEW_STATE:
			return e->last && e->op != 'd';
		case KS_VIEW_EVENTS:
			return !e->duplicate && e->op != 'd';
		default:
			return !e->duplicate && !e->tombstone;
	}
}

/* An empty store, in the run's memory. */
static Tuplestorestate *
make_store(KsBatchRelation *r)
{
	MemoryContext old = MemoryContextSwitchTo(r->context);
	Tuplestorestate *store = tuplestore_begin_heap(false, false, STORE_KB);

	MemoryContextSwitchTo(old);
	return store;
}

/* Makes the rows that a query of this kind sees, of one topic or (NULL) of all. */
static Tuplestorestate *
fill_store(KsBatchRelation *r, KsBatchView view, const char *topic, int *count)
{
	Tuplestorestate *store = make_store(r);
	TupleDesc	desc = ks_shape_desc(r->shape);
	const char *last = NULL;	/* the partitions of a topic have a copy of its name each */
	bool		wanted = true;

	*count = 0;
	for (int i = 0; i < r->count; i++)
	{
		KsBatchEvent *e = &r->events[i];

		if (topic && e->topic != last)
		{
			last = e->topic;
			wanted = strcmp(last, topic) == 0;
		}
		if (!wanted || !ks_batch_relation_sees(e, view))
			continue;
		if (view == KS_VIEW_STATE)
			tuplestore_putvalues(store, desc, e->state_values, e->state_nulls);
		else
			tuplestore_putvalues(store, desc, e->values, e->nulls);
		(*count)++;
	}
	return store;
}

/* See batch_relation.h. */
Tuplestorestate *
ks_batch_relation_rows(KsBatchRelation *r, KsBatchView view, const char *topic, int *count)
{
	MemoryContext old;
	KsTopicStore *s;
	ListCell   *lc;

	if (topic == NULL)
	{
		if (r->stores[view] == NULL)
			r->stores[view] = fill_store(r, view, NULL, &r->store_counts[view]);
		*count = r->store_counts[view];
		return r->stores[view];
	}
	foreach(lc, r->topic_stores)
	{
		s = lfirst(lc);
		if (s->view == view && strcmp(s->topic, topic) == 0)
			break;
	}
	if (lc == NULL)
	{
		old = MemoryContextSwitchTo(r->context);
		s = palloc(sizeof(KsTopicStore));
		s->topic = topic;
		s->view = view;
		s->rows = fill_store(r, view, topic, &s->count);
		r->topic_stores = lappend(r->topic_stores, s);
		MemoryContextSwitchTo(old);
	}
	*count = s->count;
	return s->rows;
}

/* See batch_relation.h. */
Tuplestorestate *
ks_batch_relation_choose(KsBatchRelation *r, const int *events, int count)
{
	Tuplestorestate *store = make_store(r);
	TupleDesc	desc = ks_shape_desc(r->shape);

	for (int i = 0; i < count; i++)
		tuplestore_putvalues(store, desc, r->events[events[i]].values, r->events[events[i]].nulls);
	return store;
}
