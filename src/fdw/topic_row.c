/*
 * topic_row.c: see topic_row.h.
 *
 * A message is a row, whatever it is: tombstones, deletes and Debezium's other events too; what it does not have is null.
 * Fields are found by the format's parser and made values of by apply/convert.c, as for subscriptions.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/convert.h"
#include "catalog/pg_type.h"
#include "compat/fdw_compat.h"
#include "compat/pg_compat.h"
#include "event/message.h"
#include "fdw/topic_row.h"
#include "format/json_escape.h"
#include "format/json_fields.h"
#include "format/text_out.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

/* How a wanted column gets its value. */
typedef struct Column
{
	const KsTopicColumn *column;
	int			index;
	int			hint;			/* place of its field in the message before */
	int			place;			/* among the table's fields, for formats without names */
	bool		is_key;			/* of option "key": if the value lacks it, it is taken from the key */
	bool		is_bytea;
	bool		is_json;
	void	   *domain_cache;	/* with is_bytea and a domain */
} Column;

struct KsTopicRow
{
	const KsTopicTable *table;
	MemoryContext context;
	MemoryContextCallback callback;
	int			ncolumns;
	Column	   *columns;
	bool		needs_value;	/* it must be parsed */
	bool		needs_key;
	bool		more;			/* the message has another row */
	int			nfields;		/* of the table */
	bool		has_json_headers;	/* headers of format json say more of its fields */
	bool		is_debezium;	/* keys may be {"schema":..,"payload":..}, and values need a connector and modes */
	KsParser   *parser;
	KsParser   *key_parser;
	KsParsed	parsed;
	KsParsed	parsed_key;
	KsConverter *converter;		/* of the format's values */
	KsConverter *plain;			/* of values that stand for themselves */
	KsArena		arena;
	List	   *unchanged;		/* names (char *) of columns whose value the message leaves out */
	const Column *current;		/* being converted */
};

/* Frees what is not palloc'ed. */
static void
free_row(void *arg)
{
	KsTopicRow *row = arg;

	if (row->parser)
		row->table->parser->destroy(row->parser);
	ks_json_parser_destroy(row->key_parser);
	ks_parsed_free(&row->parsed);
	ks_parsed_free(&row->parsed_key);
	ks_arena_free(&row->arena);
}

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

/* Adds a wanted column. */
static void
add_column(KsTopicRow *row, int index)
{
	const KsTopicColumn *column = &row->table->columns[index];
	Column	   *c = &row->columns[row->ncolumns++];
	Oid			base = getBaseType(column->type);

	c->column = column;
	c->index = index;
	c->is_bytea = base == BYTEAOID;
	c->is_json = base == JSONOID || base == JSONBOID;
	for (int i = 0; i < index; i++)
		c->place += !row->table->columns[i].is_dropped && row->table->columns[i].meta == KS_COL_NONE;
	switch (column->meta)
	{
		case KS_COL_NONE:
			row->needs_value = true;
			c->is_key = is_key(row->table, index);
			row->needs_key |= c->is_key && row->table->key_format != KS_TOPIC_KEY_TEXT;
			break;
		case KS_COL_OP:
		case KS_COL_BEFORE:
		case KS_COL_UNCHANGED:
			row->needs_value = true;
			break;
		case KS_COL_KEY:
			row->needs_key |= column->npath > 0;
			break;
		default:
			break;
	}
}

KsTopicRow *
ks_topic_row_create(const KsTopicTable *table, TupleDesc desc, const Bitmapset *wanted)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync topic row", ALLOCSET_DEFAULT_SIZES);
	MemoryContext former = MemoryContextSwitchTo(context);
	KsTopicRow *row = palloc0(sizeof(KsTopicRow));
	TupleDesc	wire = wire_descriptor(table, desc);
	bool		all = false;

	row->table = table;
	row->context = context;
	row->columns = palloc0(sizeof(Column) * Max(table->natts, 1));
	row->is_debezium = strcmp(table->format, "debezium") == 0;
	row->has_json_headers = strcmp(table->format, "json") == 0;
	row->callback.func = free_row;
	row->callback.arg = row;
	MemoryContextRegisterResetCallback(context, &row->callback);

	for (int i = 0; i < table->natts; i++)
		if (!table->columns[i].is_dropped && bms_is_member(i, wanted))
		{
			add_column(row, i);
			all |= table->columns[i].meta == KS_COL_UNCHANGED || table->columns[i].meta == KS_COL_ERROR;
		}
	/* which columns are unchanged, or wrong, is found where they are converted */
	if (all)
		for (int i = 0; i < table->natts; i++)
			if (!table->columns[i].is_dropped && !bms_is_member(i, wanted))
				add_column(row, i);
	for (int i = 0; i < table->natts; i++)
		row->nfields += !table->columns[i].is_dropped && table->columns[i].meta == KS_COL_NONE;
	/* what a field of Debezium's keys means is told by the connector, which is in the value */
	row->needs_value |= row->needs_key && row->is_debezium;
	/* how many rows there are in a message is in its value */
	row->needs_value = table->parser != NULL && (row->needs_value || table->parser->next != NULL);

	if (row->needs_value)
	{
		const char *cause;

		if ((row->parser = table->parser->create()) == NULL)
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		cause = table->parser->configure(row->parser, &table->parser_options);
		if (cause)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("options of foreign table \"%s\" are not right: %s", table->name, cause)));
	}
	if (row->needs_key && (row->key_parser = ks_json_parser_create()) == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	row->converter = ks_converter_create(wire, table->parser ? table->format : "json", NULL, -1);
	row->plain = ks_converter_create(wire, "json", NULL, -1);
	MemoryContextSwitchTo(former);
	return row;
}

/* ERROR: the message cannot be read, for the cause given. */
pg_noreturn static void
message_error(const KsMessage *m, int sqlstate, const char *cause, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("message at topic \"%s\", partition %d, offset " INT64_FORMAT " cannot be read: %s",
					m->topic, (int) m->partition, m->offset, cause),
			 detail ? errdetail("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0));
}

/* ERROR: the parser did not like it. */
pg_noreturn static void
parse_error(const char *cause)
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
descend(KsTopicRow *row, KsField *field, const KsTopicColumn *column, int depth)
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
		ks_json_init(&json, field->raw, field->raw_size, &row->arena);
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
find_field(KsTopicRow *row, const KsFieldList *list, Column *c, KsField *field)
{
	const KsTopicColumn *column = c->column;
	const char *name = column->path[0].name;
	size_t		size = strlen(name);
	int			at = c->hint;

	if (!list->present)
		return false;
	if (list == &row->parsed.after && row->parsed.order == KS_BY_POSITION)
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
	return column->npath == 1 || descend(row, field, column, 1);
}

/* Does a header of the message say that this field was left out since it did not change? */
static bool
is_left_out(const KsTopicRow *row, const KsTopicColumn *column)
{
	for (int i = 0; i < row->parsed.unchanged.count; i++)
		if (field_is(&row->parsed.unchanged.fields[i], column->path[0].name, strlen(column->path[0].name)))
			return true;
	return false;
}

/* Converts a field. */
static void
convert(KsTopicRow *row, KsConverter *converter, const Column *c, const KsField *field, Datum *value, bool *isnull)
{
	bool		unavailable;

	ks_convert_field(ks_converter_column(converter, c->index), field, value, isnull, &unavailable);
	if (unavailable)
	{
		*isnull = true;
		row->unchanged = lappend(row->unchanged, c->column->name);
	}
}

/* Makes bytes of Kafka a column's value: bytea as they are, json if they are that, else text for the type's input. */
static void
convert_bytes(KsTopicRow *row, Column *c, bool as_json, const char *data, size_t size, Datum *value, bool *isnull)
{
	KsField		field = {.kind = KS_FIELD_STRING, .data = data, .size = size, .raw = data, .raw_size = size};

	if (data == NULL)
		return;
	if (size > MaxAllocSize - VARHDRSZ)
		parse_error("it is too long");
	if (c->is_bytea && !as_json)
	{
		bytea	   *bytes = palloc(VARHDRSZ + size);

		SET_VARSIZE(bytes, VARHDRSZ + size);
		memcpy(VARDATA(bytes), data, size);
		*value = PointerGetDatum(bytes);
		*isnull = false;
		if (c->column->type != BYTEAOID)
			domain_check(*value, false, c->column->type, &c->domain_cache, row->context);
		return;
	}
	if (as_json || c->is_json)
	{
		KsJson		json;

		ks_json_init(&json, data, size, &row->arena);
		if (!ks_json_value(&json, &field) || !ks_json_finish(&json))
			parse_error(psprintf("invalid JSON at byte %zu: %s", json.error_at, json.error ? json.error : "unknown error"));
	}
	else
	{
		if (!pg_verify_mbstr(PG_UTF8, data, size, true))
			ereport(ERROR,
					(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
					 errmsg("it is not text in UTF-8"),
					 errhint("Read it as bytea.")));
		field.has_nul = memchr(data, '\0', size) != NULL;
	}
	convert(row, row->plain, c, &field, value, isnull);
}

/* The field of the message's value, or of the key where that is all there is. */
static void
read_field(KsTopicRow *row, Column *c, const KsMessage *m, Datum *value, bool *isnull)
{
	KsField		field;

	if (find_field(row, &row->parsed.after, c, &field))
	{
		ks_converter_use_schema(row->converter, row->parsed.schema, row->parsed.schema_size);
		convert(row, row->converter, c, &field, value, isnull);
	}
	else if (c->is_key && row->table->key_format == KS_TOPIC_KEY_TEXT)
		convert_bytes(row, c, false, m->key, m->key_size, value, isnull);
	else if (c->is_key && find_field(row, &row->parsed_key.key, c, &field))
	{
		ks_converter_use_schema(row->converter, row->parsed_key.key_schema, row->parsed_key.key_schema_size);
		convert(row, row->converter, c, &field, value, isnull);
	}
	else if (c->is_key && row->table->nkeys == 1 && row->parsed_key.key.count == 1 &&
			 row->parsed_key.key.fields[0].name_size == 0)
		convert(row, row->plain, c, &row->parsed_key.key.fields[0], value, isnull);
	else if (is_left_out(row, c->column))
		row->unchanged = lappend(row->unchanged, c->column->name);
}

/* The old row of a Debezium event, or a field of it. */
static void
read_before(KsTopicRow *row, Column *c, Datum *value, bool *isnull)
{
	const KsFieldList *before = &row->parsed.before;
	KsField		field;
	StringInfoData text;
	KsJson		json;

	if (!before->present)
		return;
	if (c->column->npath > 0)
	{
		if (find_field(row, before, c, &field))
		{
			ks_converter_use_schema(row->converter, row->parsed.schema, row->parsed.schema_size);
			convert(row, row->converter, c, &field, value, isnull);
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
	ks_json_init(&json, text.data, text.len, &row->arena);
	if (ks_json_value(&json, &field))
		convert(row, row->plain, c, &field, value, isnull);
}

/* The key, or a field of it. */
static void
read_key(KsTopicRow *row, Column *c, const KsMessage *m, Datum *value, bool *isnull)
{
	KsField		field;

	if (c->column->npath == 0)
		convert_bytes(row, c, row->table->key_format == KS_TOPIC_KEY_JSON, m->key, m->key_size, value, isnull);
	else if (find_field(row, &row->parsed_key.key, c, &field))
	{
		ks_converter_use_schema(row->converter, row->parsed_key.key_schema, row->parsed_key.key_schema_size);
		convert(row, row->converter, c, &field, value, isnull);
	}
}

/* What needs no parsing, and cannot fail. */
static void
read_place(const Column *c, const KsMessage *m, Datum *value, bool *isnull)
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

/* What is in key and value. ERROR if it cannot be read. */
static void
read_content(KsTopicRow *row, Column *c, const KsMessage *m, Datum *value, bool *isnull)
{
	switch (c->column->meta)
	{
		case KS_COL_NONE:
			read_field(row, c, m, value, isnull);
			break;
		case KS_COL_KEY:
			read_key(row, c, m, value, isnull);
			break;
		case KS_COL_VALUE:
			convert_bytes(row, c, false, m->value, m->value_size, value, isnull);
			break;
		case KS_COL_OP:
			if (m->value != NULL && row->parsed.op != 0)
			{
				*value = c->column->type == CHAROID ? CharGetDatum(row->parsed.op) :
					PointerGetDatum(cstring_to_text_with_len(&row->parsed.op, 1));
				*isnull = false;
			}
			break;
		case KS_COL_BEFORE:
			read_before(row, c, value, isnull);
			break;
		default:
			break;
	}
}

/* Parses the key. ERROR with the parser's cause. */
static void
parse_key(KsTopicRow *row, const KsMessage *m)
{
	const char *error;
	uint8_t		modes;

	ks_json_parser_reset(row->key_parser);
	error = ks_json_key(row->key_parser, m, row->is_debezium, &row->parsed_key);
	if (error == NULL && row->is_debezium &&
		(error = ks_debezium_message_modes(row->key_parser, m, &modes)) == NULL && modes != 0)
		ks_mark_modes(&row->parsed_key.key, modes);
	if (error)
		parse_error(error);
}

/* Parses value and key. ERROR with the parser's cause. */
static void
parse(KsTopicRow *row, const KsMessage *m)
{
	KsMessage	message = *m;
	const char *error;

	if (row->more)
	{
		/* the next row of the same message, whose key is known */
		row->more = false;
		error = row->table->parser->next(row->parser, &row->parsed);
		if (error)
			parse_error(error);
	}
	else
	{
		ks_parsed_clear(&row->parsed);
		ks_parsed_clear(&row->parsed_key);
		message.modes = row->table->modes;
		if (row->key_parser)
			parse_key(row, &message);
		/* of Debezium, a tombstone is parsed too: its key is the default connector's */
		if (!row->needs_value || (m->value == NULL && !row->is_debezium))
			return;
		row->table->parser->reset(row->parser);
		/* the key was looked at as the table says, which need not be as the format says */
		message.key = NULL;
		message.key_size = 0;
		if (row->has_json_headers)
		{
			message.json_null = m->find_header(m, KS_HEADER_JSON_NULL, &message.json_null_size);
			message.unchanged = m->find_header(m, KS_HEADER_UNCHANGED, &message.unchanged_size);
		}
		error = row->table->parser->parse(row->parser, &message, &row->parsed);
		if (error)
			parse_error(error);
	}
	row->more = row->parsed.more;
	if (row->parsed.after.present && row->parsed.order == KS_BY_POSITION && row->parsed.after.count != row->nfields)
		parse_error(psprintf("the line has %d fields, and the table %d columns for them", row->parsed.after.count,
							 row->nfields));
	if (row->converter)
		ks_converter_use_connector(row->converter, row->parsed.connector, row->parsed.connector_size);
}

bool
ks_topic_row_has_more(const KsTopicRow *row)
{
	return row->more;
}

void
ks_topic_row_forget(KsTopicRow *row)
{
	row->more = false;
}

/* Reads all that can fail. */
static void
read_contents(KsTopicRow *row, const KsMessage *m, Datum *values, bool *nulls)
{
	int			level;

	if (row->arena.chunks)
		ks_arena_reset(&row->arena);
	row->unchanged = NIL;
	row->current = NULL;
	if (row->needs_key || row->needs_value)
		parse(row, m);
	level = ks_settings_begin();
	for (int i = 0; i < row->ncolumns; i++)
	{
		Column	   *c = &row->columns[i];

		row->current = c;
		read_content(row, c, m, &values[c->index], &nulls[c->index]);
	}
	row->current = NULL;
	ks_settings_end(level);
	for (int i = 0; row->unchanged && i < row->ncolumns; i++)
		if (row->columns[i].column->meta == KS_COL_UNCHANGED)
		{
			Datum	   *names = palloc(sizeof(Datum) * list_length(row->unchanged));

			for (int n = 0; n < list_length(row->unchanged); n++)
				names[n] = CStringGetTextDatum(list_nth(row->unchanged, n));
			values[row->columns[i].index] = PointerGetDatum(construct_array(names, list_length(row->unchanged), TEXTOID,
																			-1, false, TYPALIGN_INT));
			nulls[row->columns[i].index] = false;
		}
}

/* Is an error the message's, and not the server's or the user's? */
static bool
is_of_message(int sqlstate)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	return category != ERRCODE_INSUFFICIENT_RESOURCES && category != ERRCODE_OPERATOR_INTERVENTION &&
		category != ERRCODE_SYSTEM_ERROR && category != ERRCODE_INTERNAL_ERROR;
}

/* Words for an error in a column. */
static const char *
cause_of(const KsTopicRow *row, const ErrorData *error)
{
	return row->current ? psprintf("column \"%s\": %s", row->current->column->name, error->message) : error->message;
}

/*
 * Reads what can fail, in a subtransaction, since a type's input function may leave anything behind.  Returns the cause,
 * or NULL.
 */
static const char *
try_contents(KsTopicRow *row, const KsMessage *m, Datum *values, bool *nulls)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	const char *volatile cause = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		read_contents(row, m, values, nulls);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (!is_of_message(error->sqlerrcode))
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		cause = cause_of(row, error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return cause;
}

/* Begins a row: what cannot fail. */
static void
read_places(KsTopicRow *row, const KsMessage *m, Datum *values, bool *nulls)
{
	memset(nulls, true, sizeof(bool) * row->table->natts);
	for (int i = 0; i < row->ncolumns; i++)
		read_place(&row->columns[i], m, &values[row->columns[i].index], &nulls[row->columns[i].index]);
}

const char *
ks_topic_row_try(KsTopicRow *row, const KsMessage *m, Datum *values, bool *nulls)
{
	if (row->table->null_on_error)
	{
		ks_topic_row_read(row, m, values, nulls);
		return NULL;
	}
	read_places(row, m, values, nulls);
	return try_contents(row, m, values, nulls);
}

void
ks_topic_row_read(KsTopicRow *row, const KsMessage *m, Datum *values, bool *nulls)
{
	MemoryContext context = CurrentMemoryContext;
	const char *cause;

	read_places(row, m, values, nulls);
	if (!row->table->null_on_error || !ks_may_begin_subtransaction())
	{
		PG_TRY();
		{
			read_contents(row, m, values, nulls);
		}
		PG_CATCH();
		{
			ErrorData  *error;

			MemoryContextSwitchTo(context);
			error = CopyErrorData();
			if (!is_of_message(error->sqlerrcode))
				PG_RE_THROW();
			FlushErrorState();
			/* what the planner could not see: a function of a parallel query, for instance */
			message_error(m, error->sqlerrcode, cause_of(row, error), error->detail, !row->table->null_on_error ? error->hint :
						  "Before PostgreSQL 17, on_error null has no effect in a parallel query: set max_parallel_workers_per_gather to 0.");
		}
		PG_END_TRY();
		return;
	}
	cause = try_contents(row, m, values, nulls);
	if (cause == NULL)
		return;
	for (int i = 0; i < row->ncolumns; i++)
	{
		const Column *c = &row->columns[i];

		switch (c->column->meta)
		{
			case KS_COL_KEY:
			case KS_COL_VALUE:
			case KS_COL_NONE:
			case KS_COL_OP:
			case KS_COL_BEFORE:
			case KS_COL_UNCHANGED:
				nulls[c->index] = true;
				/* bytes are bytes, whatever is wrong with them */
				if (c->column->type == BYTEAOID && c->column->npath == 0)
					convert_bytes(row, &row->columns[i], false,
								  c->column->meta == KS_COL_KEY ? m->key : m->value,
								  c->column->meta == KS_COL_KEY ? m->key_size : m->value_size,
								  &values[c->index], &nulls[c->index]);
				break;
			case KS_COL_ERROR:
				values[c->index] = CStringGetTextDatum(cause);
				nulls[c->index] = false;
				break;
			default:
				break;
		}
	}
}
