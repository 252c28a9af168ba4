/*
 * query_describe.c: what must be known of a target's query before messages come, and of their keys when they do.
 */
#include "postgres.h"

#include "access/table.h"
#include "apply/query_target.h"
#include "mb/pg_wchar.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* Name of the target, for messages. */
static const char *
table_name(KsQueryWriter *w)
{
	return w->writer.table->qualified;
}

/* How a column is folded, as ks_query_check asks. */
static const char *
fold_of(void *arg, const char *column)
{
	/* in the order of KsMergeFunction */
	static const char *const words[] = {"sum", "min", "max", "count", "first", "last", "or", "and"};
	const KsTarget *target = arg;

	for (int i = 0; i < target->nmerge; i++)
		if (strcmp(target->merge[i].column, column) == 0)
			return words[target->merge[i].function];
	return NULL;
}

/* Declares to the decoder what a column of a query tells of the source's field of its name. */
static void
declare_type(KsQueryWriter *w, const KsQuerySink *sink)
{
	ListCell   *lc;

	/* the topic's table has types of its own */
	if (w->query->source)
		return;
	foreach(lc, sink->column->reads)
	{
		KsBatchField *f = lfirst(lc);

		if (f->name && strcmp(f->name, sink->column->name) == 0)
		{
			ks_decoder_declare(w->relation->decoder, f->name, sink->type, sink->typmod, table_name(w));
			return;
		}
	}
}

/* Matches the query's columns with the target's by name. */
static void
describe_sinks(KsQueryWriter *w)
{
	KsTargetTable *t = w->writer.table;
	TupleDesc	desc = RelationGetDescr(t->rel);

	w->nsinks = 0;
	w->sinks = palloc0(sizeof(KsQuerySink) * w->query->ncolumns);
	w->attributes = palloc0(sizeof(int) * w->query->ncolumns);
	w->keys = palloc0(sizeof(bool) * w->query->ncolumns);
	w->cells = palloc0(sizeof(uint8) * t->natts);
	for (int i = 0; i < w->query->ncolumns; i++)
	{
		KsQueryColumn *c = &w->query->output[i];
		KsQuerySink *sink = &w->sinks[w->nsinks];
		int			index = get_attnum(t->relid, c->name) - 1;
		Form_pg_attribute att;

		if (index < 0 || !t->columns[index].writable)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("table %s has no column \"%s\" that can be written, which the query of the target fills",
							t->qualified, c->name),
					 errhint("Add the column, or give the target another query with kafka.drop_target and kafka.add_target.")));
		att = TupleDescAttr(desc, index);
		sink->column = c;
		sink->type = att->atttypid;
		sink->typmod = att->atttypmod;
		sink->collation = att->attcollation;
		w->attributes[w->nsinks] = index;
		w->keys[w->nsinks] = t->columns[index].key;
		w->cells[index] = KS_CELL_VALUE;
		w->nsinks++;
		declare_type(w, sink);
	}
}

/* Finds the columns of the target's key that are traced, and makes the query for them. */
static void
describe_places(KsQueryWriter *w)
{
	KsQuerySink *sinks = palloc(sizeof(KsQuerySink) * Max(w->nsinks, 1));
	int			n = 0;

	w->places = palloc(sizeof(int) * Max(w->nsinks, 1));
	w->nplaces = 0;
	w->topic_in_key = false;
	for (int i = 0; i < w->nsinks; i++)
	{
		if (!w->keys[i] || !w->sinks[i].column->traced)
			continue;
		w->topic_in_key = w->topic_in_key || w->sinks[i].column->field.column == KS_BATCH_TOPIC;
		w->places[w->nplaces++] = i;
		sinks[n++] = w->sinks[i];
	}
	w->places_query = ks_query_of_places(w->query, w->relation->shape, sinks, n);
}

/* ERROR if the topic's table does not mean any more what it meant when the target was added. */
static void
check_source(KsQueryWriter *w)
{
	const KsTarget *t = w->target;
	List	   *meaning;
	const char *was = "something else";
	const char *is = "something else";
	ListCell   *lc;

	/* where there is none any more, the check of the query says why */
	if (t->nsource == 0 || w->query->source == NULL)
		return;
	meaning = ks_source_meaning(w->query->source);
	foreach(lc, meaning)
	{
		int			i = foreach_current_index(lc);

		if (i < t->nsource && strcmp(lfirst(lc), t->source[i]) == 0)
			continue;
		is = lfirst(lc);
		if (i < t->nsource)
			was = t->source[i];
		break;
	}
	if (lc == NULL && list_length(meaning) == t->nsource)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("foreign table %s does not mean any more what it did when target %s was added",
					w->query->source->qualified, table_name(w)),
			 errdetail("It was read as %s, and would be read as %s.", was, is),
			 errhint("ALTER it back; or use kafka.drop_target and kafka.add_target, so that all rows are read in the new way.")));
}

/* The columns of topics' tables that were asked for since the last call. */
static Bitmapset *
take_typed(KsBatchShape *shape)
{
	Bitmapset  *typed = bms_copy(shape->typed);

	bms_free(shape->typed);
	shape->typed = NULL;
	return typed;
}

/* Notes what is to be known of the topic's table, if the query is over one. */
static void
describe_source(KsQueryWriter *w)
{
	KsSource   *source = w->query->source;
	int			index = -1;

	w->source = InvalidOid;
	w->used = NULL;
	w->runs_code = false;
	if (source == NULL)
		return;
	w->source = source->relid;
	w->used = source->used;
	while ((index = bms_next_member(w->used, index)) >= 0)
		w->runs_code = w->runs_code || ks_may_run_code(get_atttype(source->relid, index));
}

/* See query_target.h. */
void
ks_query_describe(KsQueryWriter *w)
{
	KsTargetTable *t = w->writer.table;
	const KsTarget *target = w->target;
	MemoryContext old;

	if (w->context)
		MemoryContextReset(w->context);
	old = MemoryContextSwitchTo(w->context);
	w->key_shapes = NIL;
	w->topics = NIL;
	w->query = ks_query_analyse(target->view, w->batch->run->subscription);
	check_source(w);
	if (w->upsert)
		ks_query_assign(w->query, t->relid);
	ks_query_check(w->query, target->mode, target->nkeys, target->keys, w->merge ? fold_of : NULL,
				   unconstify(KsTarget *, target));
	w->only_topic = w->upsert ? ks_query_check_topics(w->query, target->nkeys, target->keys,
													  ks_subscription_topics(w->batch->run->subscription->id),
													  w->batch->run->subscription->owner) : NULL;
	w->row_wise = w->query->not_row_wise == NULL;
	w->view = w->upsert ? KS_VIEW_STATE :
		bms_is_member(KS_BATCH_OP, w->query->columns) ? KS_VIEW_EVENTS_AND_DELETES : KS_VIEW_EVENTS;
	describe_sinks(w);
	(void) take_typed(w->relation->shape);
	w->rows_query = ks_query_over_messages(w->query, w->relation->shape, w->sinks, w->nsinks);
	w->typed = take_typed(w->relation->shape);
	if (w->upsert)
		describe_places(w);
	w->typed_places = take_typed(w->relation->shape);
	describe_source(w);
	w->window = -1;
	if (w->merge && target->options->text_value[KS_OPT_WINDOW])
		w->window = get_attnum(t->relid, target->options->text_value[KS_OPT_WINDOW]) - 1;
	ks_batch_relation_prepare(w->relation, w->typed);
	ks_batch_relation_prepare(w->relation, w->typed_places);
	w->generation = w->relation->generation;
	w->table_version = t->version;
	MemoryContextSwitchTo(old);
}

/* See query_target.h. */
bool
ks_query_sees(const KsQueryWriter *w, const KsBatchEvent *e)
{
	const char *topic = ks_query_topic(w);

	return ks_batch_relation_sees(e, w->view) && (topic == NULL || strcmp(e->topic, topic) == 0);
}

/* See query_target.h. */
bool
ks_query_topic_in_scope(KsQueryWriter *w, const char *topic)
{
	ListCell   *lc;
	KsTopicScope *scope;
	MemoryContext old;

	foreach(lc, w->topics)
	{
		scope = lfirst(lc);
		if (strcmp(scope->topic, topic) == 0)
			return scope->reads;
	}
	old = MemoryContextSwitchTo(w->context);
	scope = palloc(sizeof(KsTopicScope));
	scope->topic = pstrdup(topic);
	scope->reads = ks_query_reads_topic(w->query, topic, w->batch->run->subscription->owner);
	if (scope->reads && w->upsert && !w->topic_in_key)
	{
		if (w->only_topic && strcmp(w->only_topic, topic) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("target %s has rows of topic \"%s\" and of topic \"%s\", whose message keys nothing tells apart",
							table_name(w), w->only_topic, topic),
					 errhint("Choose one with WHERE topic = '...' in the query, or put topic into the target's key.")));
		w->only_topic = pstrdup(topic);
	}
	w->topics = lappend(w->topics, scope);
	MemoryContextSwitchTo(old);
	return scope->reads;
}

/* Does a traced column tell a field of a message key? */
static bool
tells(KsQueryWriter *w, int place, const char *name, uint32 size)
{
	const KsBatchField *f = &w->sinks[w->places[place]].column->field;
	const char *wire;

	if (f->column == KS_BATCH_TOPIC)
		return false;
	if (f->name == NULL)
		return true;
	wire = pg_server_to_any(f->name, strlen(f->name), PG_UTF8);
	return strlen(wire) == size && memcmp(wire, name, size) == 0;
}

/* How many traced columns tell a field by its name? */
static int
named_places(KsQueryWriter *w)
{
	int			n = 0;

	for (int i = 0; i < w->nplaces; i++)
		if (w->sinks[w->places[i]].column->field.name)
			n++;
	return n;
}

/* Finds out how the target's key tells keys like this one.  ERROR if it does not. */
static KsKeyShape *
make_shape(KsQueryWriter *w, const KsFieldList *key)
{
	KsKeyShape *s = palloc0(sizeof(KsKeyShape));
	KsTargetTable *t = w->writer.table;
	bool		scalar = key->count == 1 && key->fields[0].name_size == 0;

	s->nfields = key->count;
	s->names = palloc(sizeof(char *) * Max(key->count, 1));
	s->sizes = palloc(sizeof(uint32) * Max(key->count, 1));
	s->places = palloc0(sizeof(bool) * Max(w->nplaces, 1));
	s->in_row = palloc0(sizeof(bool) * Max(key->count, 1));
	s->attributes = palloc(sizeof(int) * Max(w->nplaces, 1));
	for (int i = 0; i < key->count; i++)
	{
		const KsField *field = &key->fields[i];
		bool		told = false;

		s->names[i] = pnstrdup(field->name, field->name_size);
		s->sizes[i] = field->name_size;
		for (int p = 0; p < w->nplaces; p++)
		{
			const KsBatchField *f = &w->sinks[w->places[p]].column->field;
			/* where only one field tells the key, a key that is no object is that field */
			bool		is_scalar = scalar && f->name && f->column == KS_BATCH_AFTER && named_places(w) == 1;

			if (!is_scalar && !tells(w, p, field->name, field->name_size))
				continue;
			told = s->places[p] = true;
			if (f->column == KS_BATCH_AFTER)
				s->in_row[i] = true;
		}
		if (!told)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 scalar ? errmsg("the message key is no object, and the key of target %s does not tell it", t->qualified) :
					 errmsg("field \"%s\" of the message key is not told by the key of target %s", s->names[i], t->qualified),
					 errhint(scalar ? "Put (key #>> '{}') into the target's key, cast as its column is." :
							 "Put the field into the target's key, or use mode append or merge: else several messages would "
							 "write one row.")));
	}
	for (int p = 0; p < w->nplaces; p++)
	{
		if (w->sinks[w->places[p]].column->field.column == KS_BATCH_TOPIC)
			s->places[p] = true;
		if (s->places[p])
			s->attributes[s->nplaces++] = w->attributes[w->places[p]];
	}
	s->exact = s->nplaces == t->nkeys;
	return s;
}

/* Do the fields of a key look like those of a shape? */
static bool
looks_like(const KsKeyShape *s, const KsFieldList *key)
{
	if (s->nfields != key->count)
		return false;
	for (int i = 0; i < s->nfields; i++)
		if (s->sizes[i] != key->fields[i].name_size ||
			memcmp(s->names[i], key->fields[i].name, s->sizes[i]) != 0)
			return false;
	return true;
}

/* See query_target.h. */
KsKeyShape *
ks_query_key_shape(KsQueryWriter *w, const KsMessage *message, const KsParsed *parsed)
{
	ListCell   *lc;
	KsKeyShape *s;
	MemoryContext old;

	if (!parsed->key.present)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the message has no key, so that nothing tells which row of target %s is its own", table_name(w)),
				 errhint("Publish with message keys (kafka.set_topic), or use mode append or merge.")));
	foreach(lc, w->key_shapes)
		if (looks_like(lfirst(lc), &parsed->key))
			return lfirst(lc);
	old = MemoryContextSwitchTo(w->context);
	s = make_shape(w, &parsed->key);
	w->key_shapes = lappend(w->key_shapes, s);
	MemoryContextSwitchTo(old);
	return s;
}
