/*
 * topic_row.c: see topic_row.h.
 *
 * A message is a row, whatever it is: tombstones, deletes and Debezium's other events too; what it does not have is null.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "compat/fdw_compat.h"
#include "compat/pg_compat.h"
#include "event/message.h"
#include "fdw/topic_row.h"
#include "fdw/topic_values.h"
#include "format/json_fields.h"
#include "format/text_out.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

struct KsTopicRow
{
	const KsTopicTable *table;
	MemoryContext context;
	MemoryContextCallback callback;
	int			ncolumns;
	KsTopicValue *columns;
	bool		needs_value;	/* it must be parsed */
	bool		needs_key;
	bool		more;			/* the message has another row */
	bool		has_json_headers;	/* headers of format json say more of its fields */
	bool		is_debezium;	/* keys may be {"schema":..,"payload":..}, and values need a connector and modes */
	KsParser   *parser;
	KsParser   *key_parser;
	KsParsed	parsed;
	KsParsed	parsed_key;
	KsTopicValues *values;
	List	   *unchanged;		/* names (char *) of columns whose value the message leaves out */
	const KsTopicValue *current;	/* being converted */
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
}

/* Adds a wanted column. */
static void
add_column(KsTopicRow *row, int index)
{
	KsTopicValue *c = &row->columns[row->ncolumns++];

	ks_topic_value_describe(row->table, index, c);
	switch (c->column->meta)
	{
		case KS_COL_NONE:
			row->needs_value = true;
			row->needs_key |= c->is_key && row->table->key_format != KS_TOPIC_KEY_TEXT;
			break;
		case KS_COL_OP:
		case KS_COL_BEFORE:
		case KS_COL_UNCHANGED:
			row->needs_value = true;
			break;
		case KS_COL_KEY:
			row->needs_key |= c->column->npath > 0;
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
	bool		all = false;

	row->table = table;
	row->context = context;
	row->columns = palloc0(sizeof(KsTopicValue) * Max(table->natts, 1));
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
	row->values = ks_topic_values_create(table, desc);
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
		ks_topic_parse_error(error);
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
			ks_topic_parse_error(error);
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
			ks_topic_parse_error(error);
	}
	row->more = row->parsed.more;
	ks_topic_values_check(row->values, &row->parsed);
	ks_converter_use_connector(row->values->converter, row->parsed.connector, row->parsed.connector_size);
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

	ks_topic_values_reset(row->values);
	row->unchanged = NIL;
	row->current = NULL;
	if (row->needs_key || row->needs_value)
		parse(row, m);
	level = ks_settings_begin();
	for (int i = 0; i < row->ncolumns; i++)
	{
		KsTopicValue *c = &row->columns[i];
		bool		unavailable = false;

		row->current = c;
		ks_topic_value_content(row->values, c, m, &row->parsed, &row->parsed_key, &values[c->index], &nulls[c->index],
							   &unavailable);
		if (unavailable)
			row->unchanged = lappend(row->unchanged, c->column->name);
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
		ks_topic_value_place(&row->columns[i], m, &values[row->columns[i].index], &nulls[row->columns[i].index]);
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
		const KsTopicValue *c = &row->columns[i];
		bool		unavailable;

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
					ks_topic_value_bytes(row->values, &row->columns[i], false,
								  c->column->meta == KS_COL_KEY ? m->key : m->value,
								  c->column->meta == KS_COL_KEY ? m->key_size : m->value_size,
								  &values[c->index], &nulls[c->index], &unavailable);
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
