/*
 * batch_source.c: columns of topics' foreign tables in the rows of kafka.batch; see batch_relation.h.
 *
 * They are read for the target that needs them, so that what cannot be read is at fault for that target alone, and once
 * for all targets that need the same.
 */
#include "postgres.h"

#include "apply/batch_relation.h"
#include "fdw/topic_values.h"
#include "utils/memutils.h"

/* How a column of the shape is read; zeroed: not known yet. */
typedef struct TypedColumn
{
	KsShapeField *field;
	KsTopicValues *values;
	KsTopicValue value;
} TypedColumn;

typedef struct KsBatchSources
{
	MemoryContext context;
	uint32		generation;		/* of the relation */
	int			ncolumns;
	TypedColumn *columns;		/* by index of the shape */
	List	   *values;			/* of KsTopicValues *: one for each table */
} KsBatchSources;

/* What reads the columns of a table. */
static KsTopicValues *
values_of(KsBatchSources *s, const KsShapeSource *source)
{
	ListCell   *lc;
	KsTopicValues *v;

	foreach(lc, s->values)
		if (((KsTopicValues *) lfirst(lc))->table == source->table)
			return lfirst(lc);
	v = ks_topic_values_create(source->table, source->desc);
	s->values = lappend(s->values, v);
	return v;
}

/* How a column of the shape is read. */
static TypedColumn *
column_at(KsBatchRelation *r, int index)
{
	KsBatchSources *s = r->sources;
	TypedColumn *c;
	MemoryContext old;

	if (s == NULL)
	{
		s = r->sources = MemoryContextAllocZero(GetMemoryChunkContext(r), sizeof(KsBatchSources));
		s->context = AllocSetContextCreate(GetMemoryChunkContext(r), "pg_kafka_sync topics' tables", ALLOCSET_DEFAULT_SIZES);
		s->generation = r->generation;
	}
	if (s->generation != r->generation)
	{
		MemoryContextReset(s->context);
		s->ncolumns = 0;
		s->values = NIL;
		s->generation = r->generation;
	}
	old = MemoryContextSwitchTo(s->context);
	if (index >= s->ncolumns)
	{
		int			n = ks_shape_desc(r->shape)->natts;
		TypedColumn *columns = palloc0(sizeof(TypedColumn) * n);

		if (s->ncolumns > 0)
			memcpy(columns, s->columns, sizeof(TypedColumn) * s->ncolumns);
		s->columns = columns;
		s->ncolumns = n;
	}
	c = &s->columns[index];
	if (c->field == NULL)
	{
		c->field = ks_shape_field(r->shape, index);
		c->values = values_of(s, c->field->source);
		ks_topic_value_describe(c->field->source->table, c->field->attribute, &c->value);
	}
	MemoryContextSwitchTo(old);
	return c;
}

/* Gives an event a state of its own, apart from what its message says. */
static void
separate_state(KsBatchRelation *r, KsBatchEvent *e)
{
	int			natts = ks_shape_desc(r->shape)->natts;

	if (e->state_values != e->values)
		return;
	e->state_values = memcpy(palloc(sizeof(Datum) * natts), e->values, sizeof(Datum) * natts);
	e->state_nulls = memcpy(palloc(sizeof(bool) * natts), e->nulls, sizeof(bool) * natts);
}

/* Adds a field to a list that others may have a pointer to. */
static List *
with_field(List *list, const KsBatchField *field)
{
	return lappend(list_copy(list), memcpy(palloc(sizeof(KsBatchField)), field, sizeof(KsBatchField)));
}

/*
 * Notes that a message leaves out the value of a field as unchanged; the state is that of the former event of its key, if
 * that has it.
 */
static void
note_left_out(KsBatchRelation *r, KsBatchEvent *e, KsBatchColumn part, char *name, int index)
{
	KsBatchField field = {part, name};
	const KsBatchEvent *former = e->previous >= 0 ? &r->events[e->previous] : NULL;
	bool		known = part == KS_BATCH_AFTER && index >= 0 && former && former->op != 'd' && former->read[index] &&
		!ks_batch_field_in(former->state_unavailable, &field);

	if (!ks_batch_field_in(e->unavailable, &field))
		e->unavailable = with_field(e->unavailable, &field);
	if (!known)
	{
		if (!ks_batch_field_in(e->state_unavailable, &field))
			e->state_unavailable = with_field(e->state_unavailable, &field);
		return;
	}
	separate_state(r, e);
	e->state_values[index] = former->state_values[index];
	e->state_nulls[index] = former->state_nulls[index];
}

/* Notes all fields that a message of Debezium leaves out, for a column that is all of them. */
static void
note_placeholders(KsBatchRelation *r, KsBatchEvent *e, KsBatchColumn part, const KsFieldList *list)
{
	for (int i = 0; list->present && i < list->count; i++)
		if (ks_is_placeholder(&list->fields[i]))
		{
			int			size;
			char	   *name = ks_decode_string(list->fields[i].name, list->fields[i].name_size, &size);

			note_left_out(r, e, part, pnstrdup(name, size), -1);
		}
}

/* Reads one column. */
static void
read_column(KsBatchRelation *r, KsBatchEvent *e, TypedColumn *c, int index, const KsMessage *m, const KsParsed *parsed)
{
	Datum		value = (Datum) 0;
	bool		isnull = true;
	bool		unavailable = false;
	KsShapeField *f = c->field;

	ks_topic_values_reset(c->values);
	if (f->in_key)
		ks_topic_value_in_key(c->values, &c->value, m, parsed, f->or_scalar, &value, &isnull);
	else
	{
		ks_topic_value_place(&c->value, m, &value, &isnull);
		ks_topic_value_content(c->values, &c->value, m, parsed, parsed, &value, &isnull, &unavailable);
		if (f->name == NULL && strcmp(f->source->table->format, "debezium") == 0 &&
			(f->column == KS_BATCH_AFTER || f->column == KS_BATCH_BEFORE))
			note_placeholders(r, e, f->column, f->column == KS_BATCH_AFTER ? &parsed->after : &parsed->before);
	}
	e->values[index] = value;
	e->nulls[index] = isnull;
	if (e->state_values != e->values)
	{
		e->state_values[index] = value;
		e->state_nulls[index] = isnull;
	}
	if (unavailable && f->name)
		note_left_out(r, e, f->column, f->name, index);
	e->read[index] = true;
}

/* See batch_relation.h. */
void
ks_batch_relation_prepare(KsBatchRelation *r, const Bitmapset *columns)
{
	int			index = -1;

	while ((index = bms_next_member(columns, index)) >= 0)
		(void) column_at(r, index);
}

/* See batch_relation.h. */
void
ks_batch_relation_read(KsBatchRelation *r, KsBatchEvent *e, const KsMessage *m, const KsParsed *parsed,
					   const Bitmapset *columns)
{
	MemoryContext old = MemoryContextSwitchTo(r->context);
	KsTopicValues *values = NULL;
	int			index = -1;

	while ((index = bms_next_member(columns, index)) >= 0)
	{
		TypedColumn *c = column_at(r, index);

		if (e->read[index])
			continue;
		if (values != c->values)
		{
			values = c->values;
			ks_converter_use_connector(values->converter, parsed->connector, parsed->connector_size);
			ks_topic_values_check(values, parsed);
		}
		read_column(r, e, c, index, m, parsed);
	}
	MemoryContextSwitchTo(old);
}
