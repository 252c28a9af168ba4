/*
 * json_encode.c: format json: a row as one flat JSON object that loses nothing.
 *
 * Numbers and booleans are JSON's own, json and jsonb are nested as they are, everything else is PostgreSQL's text
 * under fixed settings.  A column that WAL does not carry is left out and named in a header; deletes have no
 * value but a tombstone.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/cash.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "event/codec.h"
#include "format/debezium_types.h"
#include "format/numeric_digits.h"
#include "format/text_out.h"

/* What has been prepared for a relation (in its own memory context). */
typedef struct JsonRelation
{
	int			ncolumns;
	KsColumn   *columns;
	int			nkeys;
	KsColumn   *keys;
	bool		uses_settings;
} JsonRelation;

typedef struct JsonEncoder
{
	KsEncoder	base;
	bool		initialised;
	/* values of these headers: names of columns, a JSON array without its end */
	StringInfoData json_null;
	StringInfoData unchanged;
} JsonEncoder;

/* The encoder at work, for values that end up in a header. */
static JsonEncoder *current = NULL;

/* Adds a column to a header's names. */
static void
note_column(StringInfo names, const KsColumn *column)
{
	ks_put_char(names, names->len == 0 ? '[' : ',');
	/* The prefix is ,"name": */
	ks_put(names, column->prefix + 1, column->prefix_size - 2);
}

/* Notes that a column's value is JSON null, which is not the same as SQL's. */
static void
note_json_null(const KsColumn *column)
{
	note_column(&current->json_null, column);
}

/* Appends a header unless it has no names. */
static void
add_names_header(StringInfo names, const char *name, KsHeader *headers, int *nheaders)
{
	if (likely(names->len == 0))
		return;
	ks_put_char(names, ']');
	ks_terminate(names);
	headers[*nheaders].name = name;
	headers[*nheaders].value = names->data;
	headers[*nheaders].size = names->len;
	(*nheaders)++;
}

/* real with all its digits; what is no number is a string. */
static void
put_float4(StringInfo out, KsColumn *column, Datum value)
{
	float4		number = DatumGetFloat4(value);

	if (unlikely(isnan(number) || isinf(number)))
		ks_dbz_float4(out, column, value);
	else
		ks_put_float4(out, number);
}

/* The same for double precision. */
static void
put_float8(StringInfo out, KsColumn *column, Datum value)
{
	float8		number = DatumGetFloat8(value);

	if (unlikely(isnan(number) || isinf(number)))
		ks_dbz_float8(out, column, value);
	else
		ks_put_float8(out, number);
}

/* numeric with all its digits; special values are strings. */
static void
put_numeric(StringInfo out, KsColumn *column, Datum value)
{
	KsNumeric	num;

	ks_numeric_read(value, &num);
	if (num.kind == KS_NUMERIC_FINITE)
		ks_numeric_put_text(out, &num);
	else
	{
		ks_put_char(out, '"');
		ks_numeric_put_text(out, &num);
		ks_put_char(out, '"');
	}
}

/* money as lc_monetary C has it. */
static void
put_money(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_char(out, '"');
	ks_put_money(out, DatumGetCash(value));
	ks_put_char(out, '"');
}

/* date */
static void
put_date(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_char(out, '"');
	ks_put_date(out, DatumGetDateADT(value));
	ks_put_char(out, '"');
}

/* time */
static void
put_time(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_char(out, '"');
	ks_put_time(out, DatumGetTimeADT(value));
	ks_put_char(out, '"');
}

/* time with time zone */
static void
put_timetz(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_char(out, '"');
	ks_put_timetz(out, DatumGetTimeTzADTP(value));
	ks_put_char(out, '"');
}

/* timestamp */
static void
put_timestamp(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_char(out, '"');
	ks_put_timestamp(out, DatumGetTimestamp(value), false);
	ks_put_char(out, '"');
}

/* timestamptz, in UTC */
static void
put_timestamptz(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_char(out, '"');
	ks_put_timestamp(out, DatumGetTimestampTz(value), true);
	ks_put_char(out, '"');
}

/* interval */
static void
put_interval(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_char(out, '"');
	ks_put_interval(out, DatumGetIntervalP(value));
	ks_put_char(out, '"');
}

/* bytea in hexadecimal digits */
static void
put_bytea(StringInfo out, KsColumn *column, Datum value)
{
	struct varlena *datum = PG_DETOAST_DATUM_PACKED(value);

	ks_put_literal(out, "\"\\\\x");
	ks_put_hex(out, VARDATA_ANY(datum), VARSIZE_ANY_EXHDR(datum));
	ks_put_char(out, '"');
}

/* Appends JSON of the database as it is. */
static void
put_nested(StringInfo out, KsColumn *column, const char *text, Size size)
{
	text = ks_utf8(column, text, &size);
	ks_put(out, text, size);
}

/* json, whose text is kept to the last blank. */
static void
put_json(StringInfo out, KsColumn *column, Datum value)
{
	struct varlena *datum = PG_DETOAST_DATUM_PACKED(value);
	const char *text = VARDATA_ANY(datum);
	Size		size = VARSIZE_ANY_EXHDR(datum);
	Size		first = 0;

	while (first < size && strchr(" \t\r\n", text[first]) != NULL)
		first++;
	/* JSON that begins with n can only be null. */
	if (first < size && text[first] == 'n')
		note_json_null(column);
	put_nested(out, column, text, size);
}

/* jsonb, as PostgreSQL prints it. */
static void
put_jsonb(StringInfo out, KsColumn *column, Datum value)
{
	Jsonb	   *jsonb = DatumGetJsonbP(value);
	StringInfoData text;

	initStringInfo(&text);
	(void) JsonbToCString(&text, &jsonb->root, VARSIZE(jsonb));
	if (text.len == 4 && memcmp(text.data, "null", 4) == 0)
		note_json_null(column);
	put_nested(out, column, text.data, text.len);
	pfree(text.data);
}

static const struct
{
	Oid			type;
	KsPutValue	put;
}			types[] = {
	{BOOLOID, ks_dbz_bool},
	{INT2OID, ks_dbz_int2},
	{INT4OID, ks_dbz_int4},
	{INT8OID, ks_dbz_int8},
	{OIDOID, ks_dbz_oid},
	{FLOAT4OID, put_float4},
	{FLOAT8OID, put_float8},
	{NUMERICOID, put_numeric},
	{CASHOID, put_money},
	{TEXTOID, ks_put_text_datum},
	{VARCHAROID, ks_put_text_datum},
	{BPCHAROID, ks_put_text_datum},
	{NAMEOID, ks_dbz_name},
	{BYTEAOID, put_bytea},
	{DATEOID, put_date},
	{TIMEOID, put_time},
	{TIMETZOID, put_timetz},
	{TIMESTAMPOID, put_timestamp},
	{TIMESTAMPTZOID, put_timestamptz},
	{INTERVALOID, put_interval},
	{UUIDOID, ks_dbz_uuid},
	{JSONOID, put_json},
	{JSONBOID, put_jsonb},
};

/* Makes encoder state in the current memory context. */
static KsEncoder *
json_create(const KsEncoderConfig *config)
{
	JsonEncoder *encoder = palloc0(sizeof(JsonEncoder));

	encoder->base.ops = &ks_json_encoder;
	encoder->base.config = *config;
	initStringInfo(&encoder->json_null);
	initStringInfo(&encoder->unchanged);
	return &encoder->base;
}

/* Prepares the columns of a row or key. */
static KsColumn *
prepare_columns(const KsRelation *rel, const int *attributes, int count)
{
	KsColumn   *columns = ks_columns_prepare(rel, attributes, count);

	for (int i = 0; i < count; i++)
	{
		for (int t = 0; t < (int) lengthof(types) && columns[i].put == NULL; t++)
		{
			if (types[t].type == columns[i].type)
				columns[i].put = types[t].put;
		}
		if (columns[i].put == NULL)
		{
			ks_need_output(&columns[i]);
			columns[i].put = ks_put_output;
		}
	}
	return columns;
}

/* Fills rel->codec; ERROR for names that cannot be converted to UTF-8. */
static void
json_prepare_relation(KsEncoder *base, KsRelation *rel)
{
	JsonEncoder *encoder = (JsonEncoder *) base;
	MemoryContext old;
	JsonRelation *state;

	if (!encoder->initialised)
		ks_columns_init();
	encoder->initialised = true;
	old = MemoryContextSwitchTo(rel->context);
	state = palloc0(sizeof(JsonRelation));
	state->ncolumns = rel->ncolumns;
	state->columns = prepare_columns(rel, rel->columns, rel->ncolumns);
	state->nkeys = rel->nkeys;
	state->keys = prepare_columns(rel, rel->keys, rel->nkeys);
	for (int i = 0; i < state->ncolumns; i++)
		state->uses_settings |= state->columns[i].uses_settings;
	for (int i = 0; i < state->nkeys; i++)
		state->uses_settings |= state->keys[i].uses_settings;
	rel->codec = state;
	MemoryContextSwitchTo(old);
}

/* Appends an object of the given columns; "older" has the values that "row" leaves unchanged, or is NULL. */
static void
put_object(JsonEncoder *encoder, const KsRelation *rel, KsColumn *columns, int ncolumns, const KsRow *row,
		   const KsRow *older, StringInfo out)
{
	const JsonRelation *state = rel->codec;
	ErrorContextCallback callback = {.callback = ks_encoding_context, .previous = error_context_stack};
	int			level = state->uses_settings ? ks_settings_begin() : 0;
	int			start = out->len;

	error_context_stack = &callback;
	current = encoder;
	ks_encoding.rel = rel;
	ks_encoding.row = row;
	for (int i = 0; i < ncolumns; i++)
	{
		KsColumn   *column = &columns[i];
		int			attribute = column->attribute;
		const KsRow *from = row;

		ks_encoding.column = column;
		if (unlikely(row->unchanged != NULL && row->unchanged[attribute]))
		{
			if (older == NULL || (older->unchanged != NULL && older->unchanged[attribute]))
			{
				note_column(&encoder->unchanged, column);
				continue;
			}
			from = older;
		}
		ks_put(out, column->prefix, column->prefix_size);
		if (from->nulls[attribute])
			ks_put_literal(out, "null");
		else
			column->put(out, column, from->values[attribute]);
	}
	if (out->len == start)
		ks_put_char(out, '{');
	else
		out->data[start] = '{';
	ks_put_char(out, '}');
	ks_terminate(out);
	ks_encoding.rel = NULL;
	error_context_stack = callback.previous;
	ks_settings_end(level);
}

/* Appends the message key of a row. */
static void
json_encode_key(KsEncoder *base, const KsRelation *rel, const KsRow *row, StringInfo out)
{
	JsonEncoder *encoder = (JsonEncoder *) base;
	JsonRelation *state = rel->codec;

	ks_encoding.row = NULL;
	for (int i = 0; i < state->nkeys; i++)
	{
		if (unlikely(row->unchanged != NULL && row->unchanged[state->keys[i].attribute]))
			ks_cannot_encode(&state->keys[i], "is part of the message key, but WAL does not carry it",
							 "Use ALTER TABLE ... REPLICA IDENTITY FULL.");
	}
	resetStringInfo(&encoder->json_null);
	put_object(encoder, rel, state->keys, state->nkeys, row, NULL, out);
}

/* Appends the row after the change; false where there is none (deletes, truncates, logical messages). */
static bool
json_encode_value(KsEncoder *base, const KsChange *change, StringInfo out, KsHeader *headers, int *nheaders)
{
	JsonEncoder *encoder = (JsonEncoder *) base;
	JsonRelation *state;

	if (change->after == NULL)
		return false;
	state = change->rel->codec;
	resetStringInfo(&encoder->json_null);
	resetStringInfo(&encoder->unchanged);
	put_object(encoder, change->rel, state->columns, state->ncolumns, change->after,
			   change->before_is_key ? NULL : change->before, out);
	add_names_header(&encoder->json_null, KS_HEADER_JSON_NULL, headers, nheaders);
	add_names_header(&encoder->unchanged, KS_HEADER_UNCHANGED, headers, nheaders);
	return true;
}

const KsEncoderOps ks_json_encoder = {
	.name = "json",
	.create = json_create,
	.prepare_relation = json_prepare_relation,
	.encode_key = json_encode_key,
	.encode_value = json_encode_value,
	.delete_then_tombstone = false,
	.rekey_headers = false,
};
