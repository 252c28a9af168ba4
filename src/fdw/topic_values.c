/*
 * topic_values.c: see topic_values.h.
 *
 * Fields are found by the format's parser and made values of by apply/convert.c, as for subscriptions.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "compat/pg_compat.h"
#include "event/message.h"
#include "fdw/topic_values.h"
#include "format/json_escape.h"
#include "format/text_out.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Descriptor whose names are those of the message's fields, since schemas in messages speak of these. */
static TupleDesc
wire_descriptor(const KsTopicTable *table, TupleDesc desc)
{
	TupleDesc	wire = CreateTupleDescCopy(desc);

	for (int i = 0; i < wire->natts; i++)
	{
		const KsTopicColumn *column = &table->columns[i];
		const char *name;

		if (column->is_dropped || column->npath != 1)
			continue;
		name = pg_any_to_server(column->path[0].name, strlen(column->path[0].name), PG_UTF8);
		if (strlen(name) < NAMEDATALEN)
			namestrcpy(&TupleDescAttr(wire, i)->attname, name);
	}
	return wire;
}

/* Is the attribute one of option "key"? */
static bool
is_key(const KsTopicTable *table, int index)
{
	for (int i = 0; i < table->nkeys; i++)
		if (table->keys[i] == index)
			return true;
	return false;
}

/* Frees what is not palloc'ed. */
static void
free_values(void *arg)
{
	ks_arena_free(&((KsTopicValues *) arg)->arena);
}

KsTopicValues *
ks_topic_values_create(const KsTopicTable *table, TupleDesc desc)
{
	KsTopicValues *v = palloc0(sizeof(KsTopicValues));
	TupleDesc	wire = wire_descriptor(table, desc);

	v->table = table;
	v->context = CurrentMemoryContext;
	v->is_debezium = strcmp(table->format, "debezium") == 0;
	v->callback.func = free_values;
	v->callback.arg = v;
	MemoryContextRegisterResetCallback(v->context, &v->callback);
	v->converter = ks_converter_create(wire, table->parser ? table->format : "json", NULL, -1);
	v->plain = ks_converter_create(wire, "json", NULL, -1);
	/* errors name the table's column, whatever its field is called */
	for (int i = 0; i < table->natts; i++)
		if (!table->columns[i].is_dropped)
		{
			v->nfields += table->columns[i].meta == KS_COL_NONE;
			ks_converter_name_column(v->converter, i, table->columns[i].name);
			ks_converter_name_column(v->plain, i, table->columns[i].name);
		}
	return v;
}

void
ks_topic_values_check(const KsTopicValues *v, const KsParsed *parsed)
{
	if (parsed->after.present && parsed->order == KS_BY_POSITION && parsed->after.count != v->nfields)
		ks_topic_parse_error(psprintf("the line has %d fields, and the table %d columns for them", parsed->after.count,
									  v->nfields));
}

void
ks_topic_values_reset(KsTopicValues *v)
{
	if (v->arena.chunks)
		ks_arena_reset(&v->arena);
}

void
ks_topic_value_describe(const KsTopicTable *table, int index, KsTopicValue *c)
{
	Oid			base = getBaseType(table->columns[index].type);

	memset(c, 0, sizeof(KsTopicValue));
	c->column = &table->columns[index];
	c->index = index;
	c->is_bytea = base == BYTEAOID;
	c->is_json = base == JSONOID || base == JSONBOID;
	c->is_key = c->column->meta == KS_COL_NONE && is_key(table, index);
	for (int i = 0; i < index; i++)
		c->place += !table->columns[i].is_dropped && table->columns[i].meta == KS_COL_NONE;
}

void
ks_topic_parse_error(const char *cause)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("%s", cause)));
}

/* Does a field have this name? */
static inline bool
field_is(const KsField *field, const char *name, size_t size)
{
	return field->name_size == size && memcmp(field->name, name, size) == 0;
}

/* Descends from a field along the rest of a path; false if it leads nowhere. */
static bool
descend(KsTopicValues *v, KsField *field, const KsTopicColumn *column, int depth)
{
	uint8		modes = field->modes;

	for (; depth < column->npath; depth++)
	{
		const KsPathStep *step = &column->path[depth];
		KsJson		json;
		KsField		member;
		bool		first = true;
		bool		found = false;
		int			more;

		if (field->kind != (step->name ? KS_FIELD_OBJECT : KS_FIELD_ARRAY))
			return false;
		ks_json_init(&json, field->raw, field->raw_size, &v->arena);
		(void) ks_json_peek(&json);
		if (step->name)
		{
			while ((more = ks_json_next_member(&json, &first, &member)) > 0 && ks_json_value(&json, &member))
				if (field_is(&member, step->name, strlen(step->name)))
				{
					*field = member;	/* of members of one name, the last counts */
					found = true;
				}
		}
		else
		{
			int			index = step->index;

			while (!found && (more = ks_json_next_element(&json, &first)) > 0 && ks_json_value(&json, &member))
				if (index-- == 0)
				{
					*field = member;
					found = true;
				}
		}
		if (!found)
			return false;
	}
	field->modes = modes;
	return true;
}

/* Finds the field that a column's path leads to; false if the message has none. */
static bool
find_field(KsTopicValues *v, const KsFieldList *list, bool by_position, KsTopicValue *c, KsField *field)
{
	const KsTopicColumn *column = c->column;
	const char *name = column->path[0].name;
	size_t		size = strlen(name);
	int			at = c->hint;

	if (!list->present)
		return false;
	if (by_position)
	{
		if (c->place >= list->count)
			return false;
		*field = list->fields[c->place];
		return true;
	}
	if (at >= list->count || !field_is(&list->fields[at], name, size))
	{
		for (at = 0; at < list->count; at++)
			if (field_is(&list->fields[at], name, size))
				break;
		if (at == list->count)
			return false;
		c->hint = at;
	}
	*field = list->fields[at];
	/* of what was left out, what is inside was, too */
	return column->npath == 1 || (v->is_debezium && ks_is_placeholder(field)) || descend(v, field, column, 1);
}

/* Does a header of the message say that this field was left out since it did not change? */
static bool
is_left_out(const KsParsed *parsed, const KsTopicColumn *column)
{
	for (int i = 0; i < parsed->unchanged.count; i++)
		if (field_is(&parsed->unchanged.fields[i], column->path[0].name, strlen(column->path[0].name)))
			return true;
	return false;
}

/* Converts a field. */
static void
convert(KsConverter *converter, const KsTopicValue *c, const KsField *field, Datum *value, bool *isnull, bool *unavailable)
{
	bool		left_out;

	ks_convert_field(ks_converter_column(converter, c->index), field, value, isnull, &left_out);
	if (left_out)
		*isnull = *unavailable = true;
}

/* ERROR: bytes are not what a column must have. */
pg_noreturn static void
bytes_error(const KsTopicValue *c, int sqlstate, const char *cause, const char *hint)
{
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("%s", cause),
			 hint ? errhint("%s", hint) : 0,
			 err_generic_string(PG_DIAG_COLUMN_NAME, c->column->name)));
}

void
ks_topic_value_bytes(KsTopicValues *v, KsTopicValue *c, bool as_json, const char *data, size_t size, Datum *value,
					 bool *isnull, bool *unavailable)
{
	KsField		field = {.kind = KS_FIELD_STRING, .data = data, .size = size, .raw = data, .raw_size = size};

	if (data == NULL)
		return;
	if (size > MaxAllocSize - VARHDRSZ)
		bytes_error(c, ERRCODE_INVALID_TEXT_REPRESENTATION, "it is too long", NULL);
	if (c->is_bytea && !as_json)
	{
		bytea	   *bytes = palloc(VARHDRSZ + size);

		SET_VARSIZE(bytes, VARHDRSZ + size);
		memcpy(VARDATA(bytes), data, size);
		*value = PointerGetDatum(bytes);
		*isnull = false;
		if (c->column->type != BYTEAOID)
			domain_check(*value, false, c->column->type, &c->domain_cache, v->context);
		return;
	}
	if (as_json || c->is_json)
	{
		KsJson		json;

		ks_json_init(&json, data, size, &v->arena);
		if (!ks_json_value(&json, &field) || !ks_json_finish(&json))
			bytes_error(c, ERRCODE_INVALID_TEXT_REPRESENTATION,
						psprintf("invalid JSON at byte %zu: %s", json.error_at, json.error ? json.error : "unknown error"), NULL);
	}
	else
	{
		if (!pg_verify_mbstr(PG_UTF8, data, size, true))
			bytes_error(c, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE, "it is not text in UTF-8", "Read it as bytea.");
		field.has_nul = memchr(data, '\0', size) != NULL;
	}
	convert(v->plain, c, &field, value, isnull, unavailable);
}

/* A column of the value as the message key tells it; false if it does not. */
static bool
read_in_key(KsTopicValues *v, KsTopicValue *c, const KsMessage *m, const KsParsed *key, bool or_scalar, Datum *value,
			bool *isnull, bool *unavailable)
{
	KsField		field;

	if (c->is_key && v->table->key_format == KS_TOPIC_KEY_TEXT)
		ks_topic_value_bytes(v, c, false, m->key, m->key_size, value, isnull, unavailable);
	else if (find_field(v, &key->key, false, c, &field))
	{
		ks_converter_use_schema(v->converter, key->key_schema, key->key_schema_size);
		convert(v->converter, c, &field, value, isnull, unavailable);
	}
	else if (or_scalar && key->key.count == 1 && key->key.fields[0].name_size == 0)
		convert(v->plain, c, &key->key.fields[0], value, isnull, unavailable);
	else
		return false;
	return true;
}

void
ks_topic_value_in_key(KsTopicValues *v, KsTopicValue *c, const KsMessage *m, const KsParsed *key, bool or_scalar,
					  Datum *value, bool *isnull)
{
	bool		unavailable;

	(void) read_in_key(v, c, m, key, or_scalar, value, isnull, &unavailable);
}

/* The field of the message's value, or of the key where that is all there is. */
static void
read_field(KsTopicValues *v, KsTopicValue *c, const KsMessage *m, const KsParsed *parsed, const KsParsed *key, Datum *value, bool *isnull, bool *unavailable)
{
	KsField		field;

	if (find_field(v, &parsed->after, parsed->order == KS_BY_POSITION, c, &field))
	{
		ks_converter_use_schema(v->converter, parsed->schema, parsed->schema_size);
		convert(v->converter, c, &field, value, isnull, unavailable);
	}
	else if (c->is_key && read_in_key(v, c, m, key, v->table->nkeys == 1, value, isnull, unavailable))
		return;
	else if (is_left_out(parsed, c->column))
		*unavailable = true;
}

/* The old row of a Debezium event, or a field of it. */
static void
read_before(KsTopicValues *v, KsTopicValue *c, const KsParsed *parsed, Datum *value, bool *isnull, bool *unavailable)
{
	const KsFieldList *before = &parsed->before;
	KsField		field;
	StringInfoData text;
	KsJson		json;

	if (!before->present)
		return;
	if (c->column->npath > 0)
	{
		if (find_field(v, before, false, c, &field))
		{
			ks_converter_use_schema(v->converter, parsed->schema, parsed->schema_size);
			convert(v->converter, c, &field, value, isnull, unavailable);
		}
		return;
	}
	/* put together again from its fields */
	initStringInfo(&text);
	for (int i = 0; i < before->count; i++)
	{
		ks_put_char(&text, i == 0 ? '{' : ',');
		ks_put_string(&text, before->fields[i].name, before->fields[i].name_size);
		ks_put_char(&text, ':');
		ks_put(&text, before->fields[i].raw, before->fields[i].raw_size);
	}
	if (before->count == 0)
		ks_put_char(&text, '{');
	ks_put_char(&text, '}');
	ks_json_init(&json, text.data, text.len, &v->arena);
	if (ks_json_value(&json, &field))
		convert(v->plain, c, &field, value, isnull, unavailable);
}

/* The key, or a field of it. */
static void
read_key(KsTopicValues *v, KsTopicValue *c, const KsMessage *m, const KsParsed *key, Datum *value, bool *isnull, bool *unavailable)
{
	KsField		field;

	if (c->column->npath == 0)
		ks_topic_value_bytes(v, c, v->table->key_format == KS_TOPIC_KEY_JSON, m->key, m->key_size, value, isnull, unavailable);
	else if (find_field(v, &key->key, false, c, &field))
	{
		ks_converter_use_schema(v->converter, key->key_schema, key->key_schema_size);
		convert(v->converter, c, &field, value, isnull, unavailable);
	}
}

void
ks_topic_value_place(const KsTopicValue *c, const KsMessage *m, Datum *value, bool *isnull)
{
	switch (c->column->meta)
	{
		case KS_COL_TOPIC:
			*value = CStringGetTextDatum(m->topic);
			*isnull = false;
			break;
		case KS_COL_PARTITION:
			*value = c->column->type == INT4OID ? Int32GetDatum(m->partition) : Int64GetDatum(m->partition);
			*isnull = false;
			break;
		case KS_COL_OFFSET:
			*value = Int64GetDatum(m->offset);
			*isnull = false;
			break;
		case KS_COL_TIMESTAMP:
			if (m->timestamp_ms >= 0 && m->timestamp_ms <= PG_INT64_MAX / 1000 - 1)
			{
				*value = TimestampTzGetDatum((m->timestamp_ms - (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
											  SECS_PER_DAY * 1000) * 1000);
				*isnull = !IS_VALID_TIMESTAMP(DatumGetTimestampTz(*value));
			}
			break;
		case KS_COL_HEADERS:
			*value = JsonbPGetDatum(ks_message_headers(m));
			*isnull = DatumGetPointer(*value) == NULL;
			break;
		default:
			break;
	}
}

void
ks_topic_value_content(KsTopicValues *v, KsTopicValue *c, const KsMessage *m, const KsParsed *parsed, const KsParsed *key,
					   Datum *value, bool *isnull, bool *unavailable)
{
	switch (c->column->meta)
	{
		case KS_COL_NONE:
			read_field(v, c, m, parsed, key, value, isnull, unavailable);
			break;
		case KS_COL_KEY:
			read_key(v, c, m, key, value, isnull, unavailable);
			break;
		case KS_COL_VALUE:
			ks_topic_value_bytes(v, c, false, m->value, m->value_size, value, isnull, unavailable);
			break;
		case KS_COL_OP:
			if (m->value != NULL && parsed->op != 0)
			{
				*value = c->column->type == CHAROID ? CharGetDatum(parsed->op) :
					PointerGetDatum(cstring_to_text_with_len(&parsed->op, 1));
				*isnull = false;
			}
			break;
		case KS_COL_BEFORE:
			read_before(v, c, parsed, value, isnull, unavailable);
			break;
		default:
			break;
	}
}

