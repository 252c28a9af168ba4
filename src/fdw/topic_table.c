/*
 * topic_table.c: options of foreign tables and their columns, and what they mean together.
 *
 * The validator sees one object's options at a time, so what concerns several columns, or a column's type, is checked
 * when the table is used.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "compat/pg_compat.h"
#include "fdw/topic_table.h"
#include "foreign/foreign.h"
#include "format/json_scan.h"
#include "mb/pg_wchar.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/varlena.h"

/* Topic names are shorter than this, says Kafka. */
#define MAX_TOPIC_NAME 249

static const struct
{
	const char *name;
	KsMeta		meta;
}			metas[] = {
	{"topic", KS_COL_TOPIC},
	{"partition", KS_COL_PARTITION},
	{"offset", KS_COL_OFFSET},
	{"timestamp", KS_COL_TIMESTAMP},
	{"key", KS_COL_KEY},
	{"headers", KS_COL_HEADERS},
	{"value", KS_COL_VALUE},
	{"op", KS_COL_OP},
	{"before", KS_COL_BEFORE},
	{"unchanged", KS_COL_UNCHANGED},
	{"error", KS_COL_ERROR},
};

/* In the order of KsTopicKey, after KS_TOPIC_KEY_DEFAULT. */
static const char *const key_formats[] = {"text", "json", "bytes"};
static const char *const table_options[] = {
	"topic", "format", "key", "key_format", "timestamps", "on_error", "updatable", "use_remote_estimate",
	"flat", "source.connector", "binary.handling.mode", "time.precision.mode", "csv.header", "csv.columns", "csv.delimiter", "csv.quote", "csv.null", "syslog.lenient",
	"syslog.time_zone"
};

/* Formats of values. */
static const char *const formats[] = {"json", "debezium", "csv", "syslog", "raw"};
static const char *const column_options[] = {"meta", "path"};

/* Reports a value that an option cannot have. */
pg_noreturn static void
bad_value(const char *name, const char *value, const char *allowed)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
			 errdetail("%s", allowed)));
}

/* Reports an option that there is not. */
pg_noreturn static void
unknown_option(const char *name, const char *of, const char *const *known, int nknown)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < nknown; i++)
		appendStringInfo(&list, "%s%s", i ? ", " : "", known[i]);
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 errhint("Options of %s are: %s.", of, list.data)));
}

/* Returns the meaning of option "meta"; KS_COL_NONE if it has none. */
static KsMeta
find_meta(const char *value)
{
	for (int i = 0; i < (int) lengthof(metas); i++)
		if (strcmp(metas[i].name, value) == 0)
			return metas[i].meta;
	return KS_COL_NONE;
}

/* Returns the index of a key format, or -1. */
static int
find_key_format(const char *value)
{
	for (int i = 0; i < (int) lengthof(key_formats); i++)
		if (strcmp(key_formats[i], value) == 0)
			return i;
	return -1;
}

/* Reads a name in quotes, which is a JSON string; NULL if it is none. */
static char *
quoted_name(const char **text)
{
	KsArena		arena = {0};
	KsJson		json;
	KsField		field;
	char	   *name = NULL;

	ks_json_init(&json, *text, strlen(*text), &arena);
	if (ks_json_value(&json, &field) && field.kind == KS_FIELD_STRING && !field.has_nul)
		name = pnstrdup(field.data, field.size);
	*text = json.pos;
	ks_arena_free(&arena);
	return name;
}

KsPathStep *
ks_path_read(const char *text, int *count)
{
	KsPathStep *path = palloc0(sizeof(KsPathStep) * (strlen(text) + 1));
	const char *p = text + (text[0] == '$');

	for (*count = 0; *p != '\0'; (*count)++)
	{
		KsPathStep *step = &path[*count];

		if (*p == '[' && *count > 0)
		{
			size_t		digits = strspn(p + 1, "0123456789");

			if (digits == 0 || digits > 9 || p[1 + digits] != ']')
				return NULL;
			step->index = atoi(p + 1);
			p += digits + 2;
			continue;
		}
		if (*p == '.')
			p++;
		else if (p != text)
			return NULL;
		if (*p == '"')
			step->name = quoted_name(&p);
		else
		{
			size_t		size = strcspn(p, ".[]\" \t\r\n");

			step->name = size > 0 ? pnstrdup(p, size) : NULL;
			p += size;
		}
		if (step->name == NULL)
			return NULL;
	}
	return *count > 0 ? path : NULL;
}

/* ERROR unless the text is a boolean. */
static bool
bool_value(const char *name, const char *value)
{
	bool		result;

	if (!parse_bool(value, &result))
		bad_value(name, value, "It must be true or false.");
	return result;
}

void
ks_topic_table_option_check(const char *name, const char *value)
{
	if (strcmp(name, "topic") == 0)
	{
		if (value[0] == '\0' || strlen(value) > MAX_TOPIC_NAME || strcmp(value, ".") == 0 || strcmp(value, "..") == 0 ||
			strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != strlen(value))
			bad_value(name, value, "A topic's name has 1 to 249 characters of a-z, A-Z, 0-9, dot, underscore, hyphen.");
	}
	else if (strcmp(name, "format") == 0)
	{
		bool		known = false;

		for (int i = 0; i < (int) lengthof(formats); i++)
			known |= strcmp(formats[i], value) == 0;
		if (!known)
			bad_value(name, value, "It must be json, debezium, csv, syslog, or raw.");
	}
	else if (strcmp(name, "key") == 0)
	{
		char	   *copy = pstrdup(value);
		List	   *names;

		if (!SplitIdentifierString(copy, ',', &names) || names == NIL)
			bad_value(name, value, "It must be a list of column names.");
	}
	else if (strcmp(name, "key_format") == 0)
	{
		if (find_key_format(value) < 0)
			bad_value(name, value, "It must be text, json, or bytes.");
	}
	else if (strcmp(name, "timestamps") == 0)
	{
		if (strcmp(value, "any") != 0 && strcmp(value, "ordered") != 0)
			bad_value(name, value, "It must be any or ordered.");
	}
	else if (strcmp(name, "on_error") == 0)
	{
		if (strcmp(value, "error") != 0 && strcmp(value, "null") != 0)
			bad_value(name, value, "It must be error or null.");
	}
	else if (strcmp(name, "binary.handling.mode") == 0)
	{
		if (ks_binary_mode(value, strlen(value)) == 0)
			bad_value(name, value, "It must be bytes, base64, base64-url-safe, or hex.");
	}
	else if (strcmp(name, "time.precision.mode") == 0)
	{
		if (ks_time_mode(value, strlen(value)) == 0)
			bad_value(name, value, "It must be adaptive, adaptive_time_microseconds, or connect.");
	}
	else if (strcmp(name, "csv.delimiter") == 0 || strcmp(name, "csv.quote") == 0)
	{
		if (strlen(value) != 1)
			bad_value(name, value, "It must be one ASCII character.");
	}
	else if (strcmp(name, "source.connector") == 0 || strcmp(name, "csv.columns") == 0 || strcmp(name, "csv.null") == 0 ||
			 strcmp(name, "syslog.time_zone") == 0)
		 /* checked by the parser when the table is used */ ;
	else if (strcmp(name, "updatable") == 0 || strcmp(name, "use_remote_estimate") == 0 || strcmp(name, "flat") == 0 ||
			 strcmp(name, "csv.header") == 0 || strcmp(name, "syslog.lenient") == 0)
		(void) bool_value(name, value);
	else
		unknown_option(name, "a topic's table", table_options, lengthof(table_options));
}

void
ks_topic_column_option_check(const char *name, const char *value)
{
	if (strcmp(name, "meta") == 0)
	{
		if (find_meta(value) == KS_COL_NONE)
			bad_value(name, value, "It must be topic, partition, offset, timestamp, key, headers, value, op, before, unchanged, or error.");
	}
	else if (strcmp(name, "path") == 0)
	{
		int			count;

		if (ks_path_read(pg_server_to_any(value, strlen(value), PG_UTF8), &count) == NULL)
			bad_value(name, value, "It must be names of members with dots between them, such as a.b, \"a b\".c, or a.list[0].");
	}
	else
		unknown_option(name, "a topic's columns", column_options, lengthof(column_options));
}

char *
ks_topic_table_name(const KsTopicTable *table)
{
	return quote_qualified_identifier(table->schema, table->name);
}

int
ks_topic_key_column(const KsTopicTable *table)
{
	for (int i = 0; i < table->natts; i++)
		if (!table->columns[i].is_dropped && table->columns[i].meta == KS_COL_KEY && table->columns[i].npath == 0)
			return i;
	return -1;
}

/* Reports a column that does not fit. */
pg_noreturn static void
bad_column(const KsTopicTable *table, const KsTopicColumn *column, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_COLUMN_NUMBER),
			 errmsg("column \"%s\" of foreign table \"%s\" cannot be read from a topic", column->name, table->name),
			 errdetail("%s", detail)));
}

/* ERROR unless the column's type is one that its meta option gives. */
static void
check_column(const KsTopicTable *table, const KsTopicColumn *column)
{
	Oid			type = column->type;
	bool		has_path = column->npath > 0;

	switch (column->meta)
	{
		case KS_COL_NONE:
			if (has_path && !table->is_json && column->npath > 1 && strcmp(table->format, "syslog") != 0)
				bad_column(table, column, psprintf("Fields of format %s have nothing inside that a path could lead to.",
												   table->format));
			return;
		case KS_COL_KEY:
			if (table->key_format == KS_TOPIC_KEY_BYTES && !has_path && getBaseType(type) != BYTEAOID)
				bad_column(table, column, "With key_format bytes, the type of the key must be bytea.");
			return;
		case KS_COL_BEFORE:
			if (strcmp(table->format, "debezium") != 0)
				bad_column(table, column, "Only messages of format debezium have a before.");
			if (!has_path && type != JSONOID && type != JSONBOID && type != TEXTOID)
				bad_column(table, column, "The type of before must be jsonb, json, or text, unless a path leads to one of its fields.");
			return;
		case KS_COL_TOPIC:
			if (type != TEXTOID)
				bad_column(table, column, "The type of a topic must be text.");
			break;
		case KS_COL_PARTITION:
			if (type != INT4OID && type != INT8OID)
				bad_column(table, column, "The type of a partition must be integer or bigint.");
			break;
		case KS_COL_OFFSET:
			if (type != INT8OID)
				bad_column(table, column, "The type of an offset must be bigint.");
			break;
		case KS_COL_TIMESTAMP:
			if (type != TIMESTAMPTZOID)
				bad_column(table, column, "The type of a timestamp must be timestamp with time zone.");
			break;
		case KS_COL_HEADERS:
			if (type != JSONBOID)
				bad_column(table, column, "The type of headers must be jsonb.");
			break;
		case KS_COL_OP:
			if (type != TEXTOID && type != CHAROID)
				bad_column(table, column, "The type of an op must be text or \"char\".");
			if (strcmp(table->format, "debezium") != 0)
				bad_column(table, column, "Only messages of format debezium have an op.");
			break;
		case KS_COL_UNCHANGED:
			if (type != TEXTARRAYOID)
				bad_column(table, column, "The type of the names of unchanged columns must be text[].");
			if (table->parser == NULL)
				bad_column(table, column, "Messages of format raw have no unchanged columns.");
			break;
		case KS_COL_ERROR:
			if (type != TEXTOID)
				bad_column(table, column, "The type of an error must be text.");
			break;
		case KS_COL_VALUE:
			break;
	}
	if (has_path)
		bad_column(table, column, "Option path goes with fields of the value, of the key, and of before.");
}

/* Returns a text of the catalog in UTF-8. */
static char *
utf8(const char *text)
{
	return pg_server_to_any(text, strlen(text), PG_UTF8);
}

/* Reads the options of the columns. */
static void
read_columns(KsTopicTable *table, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	table->natts = desc->natts;
	table->columns = palloc0(sizeof(KsTopicColumn) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		KsTopicColumn *column = &table->columns[i];
		ListCell   *cell;

		/* virtual generated columns (PostgreSQL 18) are not ours to read or write either */
		column->is_dropped = attribute->attisdropped || attribute->attgenerated == 'v';
		if (column->is_dropped)
			continue;
		column->name = pstrdup(NameStr(attribute->attname));
		column->type = attribute->atttypid;
		foreach(cell, GetForeignColumnOptions(RelationGetRelid(rel), i + 1))
		{
			DefElem    *option = lfirst(cell);
			const char *value = defGetString(option);

			if (strcmp(option->defname, "meta") == 0)
				column->meta = find_meta(value);
			else if (strcmp(option->defname, "path") == 0)
				column->path = ks_path_read(utf8(value), &column->npath);
		}
		/* in format raw a column is the value */
		if (column->meta == KS_COL_NONE && column->npath == 0)
		{
			if (table->parser == NULL)
				column->meta = KS_COL_VALUE;
			else
			{
				column->npath = 1;
				column->path = palloc0(sizeof(KsPathStep));
				column->path[0].name = utf8(column->name);
			}
		}
	}
}

/* Takes an option that is the parser's. */
static void
read_parser_option(KsParserOptions *o, const char *name, const char *value)
{
	if (strcmp(name, "flat") == 0)
		o->flat = bool_value(name, value);
	else if (strcmp(name, "source.connector") == 0)
		o->connector = utf8(value);
	else if (strcmp(name, "csv.header") == 0)
		o->csv_header = bool_value(name, value);
	else if (strcmp(name, "csv.columns") == 0)
		o->csv_columns = utf8(value);
	else if (strcmp(name, "csv.delimiter") == 0)
		o->csv_delimiter = value[0];
	else if (strcmp(name, "csv.quote") == 0)
		o->csv_quote = value[0];
	else if (strcmp(name, "csv.null") == 0)
		o->csv_null = utf8(value);
	else if (strcmp(name, "syslog.lenient") == 0)
		o->syslog_lenient = bool_value(name, value);
	else if (strcmp(name, "syslog.time_zone") == 0)
		o->syslog_time_zone = utf8(value);
}

/* Finds the columns of option "key". */
static void
read_keys(KsTopicTable *table, const char *value)
{
	List	   *names;
	ListCell   *cell;

	if (!SplitIdentifierString(pstrdup(value), ',', &names))
		return;
	table->keys = palloc(sizeof(int) * Max(list_length(names), 1));
	foreach(cell, names)
	{
		const char *name = lfirst(cell);
		int			i;

		for (i = 0; i < table->natts; i++)
			if (!table->columns[i].is_dropped && strcmp(table->columns[i].name, name) == 0)
				break;
		if (i == table->natts)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("option \"key\" of foreign table \"%s\" names column \"%s\", which it does not have",
							table->name, name)));
		if (table->columns[i].meta != KS_COL_NONE)
			bad_column(table, &table->columns[i], "Columns of option key must be fields of the value.");
		table->keys[table->nkeys++] = i;
	}
}

/* Checks what no column alone can tell. */
static void
check_table(const KsTopicTable *table)
{
	int			nvalues = 0;
	bool		has_error = false;

	for (int i = 0; i < table->natts; i++)
	{
		const KsTopicColumn *column = &table->columns[i];

		if (column->is_dropped)
			continue;
		check_column(table, column);
		nvalues += column->meta == KS_COL_VALUE;
		has_error |= column->meta == KS_COL_ERROR;
	}
	if (table->parser == NULL && nvalues > 1)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_COLUMN_NUMBER),
				 errmsg("foreign table \"%s\" of format raw has %d columns for the value", table->name, nvalues),
				 errhint("Say with option \"meta\" what the others are.")));
	for (int i = 0; i < table->nkeys; i++)
		if (table->columns[table->keys[i]].npath != 1)
			bad_column(table, &table->columns[table->keys[i]], "The path of a column of option key must be one name.");
	if (table->nkeys > 0 && (table->key_format == KS_TOPIC_KEY_BYTES || (table->key_format == KS_TOPIC_KEY_TEXT && table->nkeys > 1)))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("options \"key\" and \"key_format\" of foreign table \"%s\" do not fit", table->name),
				 errdetail("With key_format text the key is one column; with bytes it cannot be made of columns.")));
	if (table->null_on_error && !has_error)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("foreign table \"%s\" has on_error null, but no column that would tell of an error", table->name),
				 errhint("Add a column of type text with OPTIONS (meta 'error').")));
}

KsTopicTable *
ks_topic_table(Relation rel)
{
	ForeignTable *foreign = GetForeignTable(RelationGetRelid(rel));
	KsTopicTable *table = palloc0(sizeof(KsTopicTable));
	const char *keys = NULL;
	ListCell   *cell;

	table->relid = RelationGetRelid(rel);
	table->serverid = foreign->serverid;
	table->schema = get_namespace_name(RelationGetNamespace(rel));
	table->name = pstrdup(RelationGetRelationName(rel));
	table->topic = utf8(table->name);
	table->format = "json";
	table->updatable = true;
	foreach(cell, foreign->options)
	{
		DefElem    *option = lfirst(cell);
		char	   *value = defGetString(option);

		if (strcmp(option->defname, "topic") == 0)
			table->topic = utf8(value);
		else if (strcmp(option->defname, "format") == 0)
			table->format = value;
		else if (strcmp(option->defname, "key") == 0)
			keys = value;
		else if (strcmp(option->defname, "key_format") == 0)
			table->key_format = (KsTopicKey) (find_key_format(value) + KS_TOPIC_KEY_TEXT);
		else if (strcmp(option->defname, "timestamps") == 0)
			table->ordered = strcmp(value, "ordered") == 0;
		else if (strcmp(option->defname, "binary.handling.mode") == 0)
			table->modes |= ks_binary_mode(value, strlen(value));
		else if (strcmp(option->defname, "time.precision.mode") == 0)
			table->modes |= ks_time_mode(value, strlen(value));
		else if (strcmp(option->defname, "on_error") == 0)
			table->null_on_error = strcmp(value, "null") == 0;
		else if (strcmp(option->defname, "updatable") == 0)
			table->updatable = bool_value(option->defname, value);
		else if (strcmp(option->defname, "use_remote_estimate") == 0)
			table->remote_estimate = bool_value(option->defname, value);
		else
			read_parser_option(&table->parser_options, option->defname, value);
	}
	table->is_json = strcmp(table->format, "json") == 0 || strcmp(table->format, "debezium") == 0;
	if (strcmp(table->format, "raw") != 0)
		table->parser = ks_parser_ops(table->format);
	read_columns(table, rel);
	if (keys)
		read_keys(table, keys);
	check_table(table);
	return table;
}
