/*
 * decode.c: see decode.h.
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "apply/decode.h"
#include "apply/decode_types.h"
#include "apply/value_text.h"
#include "catalog/pg_type.h"
#include "format/json_scan.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

/* Schemas remembered; beyond that all are forgotten (a topic has a handful). */
#define MAX_SCHEMAS 64

struct KsDecoder
{
	MemoryContext context;
	MemoryContext names;		/* of declarations; a child */
	const char *format;
	const char *column_types;
	bool		debezium;
	List	   *declared;		/* of KsDeclaredType * */
	uint32		generation;
	KsConverter *converter;		/* NULL: to be made */

	char		connector[32];		/* whose events, where connector_size is not 0 */
	size_t		connector_size;

	int			nschemas;		/* that were looked into for fields that nothing else knows */
	struct
	{
		char	   *text;
		size_t		size;
	}			schemas[MAX_SCHEMAS];

	Oid			output_type;	/* of the function below */
	FmgrInfo	output;
};

/* See decode.h. */
KsDecoder *
ks_decoder_create(const char *format, const char *column_types)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync decoder", ALLOCSET_SMALL_SIZES);
	KsDecoder  *d = MemoryContextAllocZero(context, sizeof(KsDecoder));

	d->context = context;
	d->names = AllocSetContextCreate(context, "pg_kafka_sync field types", ALLOCSET_SMALL_SIZES);
	d->format = MemoryContextStrdup(context, format);
	d->column_types = column_types ? MemoryContextStrdup(context, column_types) : NULL;
	d->debezium = strcmp(format, "debezium") == 0;
	return d;
}

/* Forgets the converter; another is made when it is needed. */
static void
drop_converter(KsDecoder *d)
{
	if (d->converter)
		ks_converter_free(d->converter);
	d->converter = NULL;
	d->generation++;
}

/* See decode.h. */
void
ks_decoder_reset(KsDecoder *d)
{
	MemoryContext old;

	drop_converter(d);
	MemoryContextReset(d->names);
	d->declared = NIL;
	d->nschemas = 0;
	if (d->column_types == NULL)
		return;
	old = MemoryContextSwitchTo(d->names);
	d->declared = ks_types_in_option(d->column_types);
	MemoryContextSwitchTo(old);
}

/* Adds a declaration, or refines one that leaves something open. */
void
ks_decoder_declare(KsDecoder *d, const char *name, Oid type, int32 typmod, const char *where)
{
	MemoryContext old;
	ListCell   *lc;
	KsDeclaredType *t;
	int32		base_typmod = typmod;
	Oid			base = getBaseTypeAndTypmod(type, &base_typmod);

	foreach(lc, d->declared)
	{
		t = lfirst(lc);
		if (strcmp(t->name, name) != 0)
			continue;
		/* only Debezium's format encodes values */
		if (d->debezium && !t->given && !ks_same_encoding(t->type, t->typmod, base, base_typmod))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("targets disagree on how to decode field \"%s\": it is %s in %s, but %s in %s", name,
							format_type_with_typemod(t->type, t->typmod), t->where,
							format_type_with_typemod(base, base_typmod), where),
					 errhint("Name the source's type in option \"column_types\" of the subscription.")));
		if (!t->given && t->type == base && t->typmod < 0)
			t->typmod = base_typmod;
		drop_converter(d);
		return;
	}
	old = MemoryContextSwitchTo(d->names);
	t = palloc0(sizeof(KsDeclaredType));
	t->name = pstrdup(name);
	t->where = pstrdup(where);
	t->type = base;
	t->typmod = base_typmod;
	d->declared = lappend(d->declared, t);
	MemoryContextSwitchTo(old);
	drop_converter(d);
}

/* The converter for all that was declared. */
static KsConverter *
converter(KsDecoder *d)
{
	MemoryContext old;
	TupleDesc	desc;
	ListCell   *lc;

	if (d->converter)
		return d->converter;
	old = MemoryContextSwitchTo(d->context);
	desc = CreateTemplateTupleDesc(list_length(d->declared));
	foreach(lc, d->declared)
	{
		KsDeclaredType *t = lfirst(lc);
		int			i = foreach_current_index(lc);

		TupleDescInitEntry(desc, i + 1, t->name, t->type, t->typmod, 0);
	}
	d->converter = ks_converter_create(desc, d->format, d->debezium ? d->column_types : NULL, -1);
	ks_converter_use_connector(d->converter, d->connector_size > 0 ? d->connector : NULL, d->connector_size);
	d->generation++;
	FreeTupleDesc(desc);
	MemoryContextSwitchTo(old);
	return d->converter;
}

/* See decode.h. */
void
ks_decoder_prepare(KsDecoder *d)
{
	if (d->debezium)
		(void) converter(d);
}

/* Looks into a schema, once, for fields that nothing else knows. */
static void
look_into(KsDecoder *d, const char *schema, size_t size)
{
	MemoryContext old;
	ListCell   *lc;

	for (int i = 0; i < d->nschemas; i++)
		if (d->schemas[i].size == size && memcmp(d->schemas[i].text, schema, size) == 0)
			return;
	if (d->nschemas == MAX_SCHEMAS)
	{
		for (int i = 0; i < d->nschemas; i++)
			pfree(d->schemas[i].text);
		d->nschemas = 0;
	}
	old = MemoryContextSwitchTo(d->names);
	d->schemas[d->nschemas].text = memcpy(palloc(size), schema, size);
	d->schemas[d->nschemas++].size = size;
	foreach(lc, ks_types_in_schema(schema, size))
	{
		KsDeclaredType *t = lfirst(lc);
		ListCell   *known;
		bool		is_known = false;

		foreach(known, d->declared)
			is_known = is_known || strcmp(((KsDeclaredType *) lfirst(known))->name, t->name) == 0;
		if (is_known)
			continue;
		d->declared = lappend(d->declared, t);
		drop_converter(d);
	}
	MemoryContextSwitchTo(old);
}

/* See decode.h. */
void
ks_decoder_use_connector(KsDecoder *d, const char *connector, size_t size)
{
	if (!d->debezium || (connector == NULL && d->connector_size == 0))
		return;
	/* a longer name is none that is known, as is "?" */
	if (connector != NULL && (size == 0 || size > sizeof(d->connector)))
	{
		connector = "?";
		size = 1;
	}
	d->connector_size = connector != NULL ? size : 0;
	memcpy(d->connector, connector != NULL ? connector : "", d->connector_size);
	if (d->converter)
		ks_converter_use_connector(d->converter, connector, size);
}

/* See decode.h. */
void
ks_decoder_use_schema(KsDecoder *d, const char *schema, size_t size)
{
	if (!d->debezium)
		return;
	if (schema)
		look_into(d, schema, size);
	ks_converter_use_schema(converter(d), schema, size);
}

/* See decode.h. */
KsColumnConverter *
ks_decoder_find(KsDecoder *d, const KsField *field)
{
	if (field->name_size == 0 || (!d->debezium && field->kind != KS_FIELD_BYTES))
		return NULL;
	return ks_converter_find(converter(d), field, -1);
}

/* See decode.h. */
uint32
ks_decoder_generation(const KsDecoder *d)
{
	return d->generation;
}

/* See decode.h. */
char *
ks_decode_string(const char *utf8, size_t size, int *result_size)
{
	char	   *result = pg_any_to_server(utf8, (int) size, PG_UTF8);

	*result_size = result == utf8 ? (int) size : (int) strlen(result);
	return result;
}

/* ERROR: PostgreSQL's text and jsonb cannot hold a null character, nor bytes that are no text. */
static void
check_text(const KsField *field)
{
	bool		bytes = field->kind == KS_FIELD_BYTES;
	size_t		valid = bytes ? ks_utf8_check(field->data, field->size) : field->size;

	if (valid < field->size)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("field \"%.*s\": invalid UTF-8 at byte %zu", (int) field->name_size, field->name, valid)));
	if (field->has_nul || (bytes && memchr(field->data, 0, field->size) != NULL))
		ereport(ERROR,
				(errcode(ERRCODE_UNTRANSLATABLE_CHARACTER),
				 errmsg("field \"%.*s\": string has a null character (\\u0000), which PostgreSQL cannot store",
						(int) field->name_size, field->name)));
}

/* UTF-8 as text. */
static Datum
make_text(const char *utf8, size_t size)
{
	int			n;
	char	   *string = ks_decode_string(utf8, size, &n);

	return PointerGetDatum(cstring_to_text_with_len(string, n));
}

/* A JSON number as numeric. */
static Datum
make_numeric(const KsField *field)
{
	int64		value;
	bool		overflow;

	if (ks_text_int64(field->data, field->size, &value, &overflow))
		return NumericGetDatum(int64_to_numeric(value));
	return DirectFunctionCall3(numeric_in, CStringGetDatum(pnstrdup(field->data, field->size)),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

/* Raw JSON as jsonb. */
static Jsonb *
make_jsonb(const char *raw, size_t size)
{
	int			n;
	char	   *string = ks_decode_string(raw, size, &n);

	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(string, n))));
}

/* Is the text of a number what jsonb would print, too? */
static bool
is_canonical_number(const KsField *field)
{
	for (uint32 i = 0; i < field->size; i++)
		if (field->data[i] == 'e' || field->data[i] == 'E')
			return false;
	return !(field->size >= 2 && field->data[0] == '-' && field->data[1] == '0');
}

/* Converts a value that does not stand for itself.  False: unavailable. */
static bool
convert(KsDecoder *d, KsColumnConverter *column, const KsField *field, Datum *value, bool *isnull)
{
	bool		unavailable;

	ks_convert_field(column, field, value, isnull, &unavailable);
	if (!unavailable && !*isnull && d->output_type != ks_column_type(column))
	{
		Oid			function;
		bool		varlena;

		getTypeOutputInfo(ks_column_type(column), &function, &varlena);
		fmgr_info_cxt(function, &d->output, d->context);
		d->output_type = ks_column_type(column);
	}
	return !unavailable;
}

/* See decode.h. */
bool
ks_decode_text(KsDecoder *d, KsColumnConverter *column, const KsField *field, Datum *value, bool *isnull)
{
	*isnull = field->kind == KS_FIELD_NULL;
	if (*isnull)
		return true;
	if (column && (field->kind == KS_FIELD_BYTES || !ks_column_is_plain(column)))
	{
		Datum		converted;

		if (!convert(d, column, field, &converted, isnull))
			return false;
		if (!*isnull)
			*value = CStringGetTextDatum(OutputFunctionCall(&d->output, converted));
		return true;
	}
	switch (field->kind)
	{
		case KS_FIELD_TRUE:
			*value = CStringGetTextDatum("true");
			return true;
		case KS_FIELD_FALSE:
			*value = CStringGetTextDatum("false");
			return true;
		case KS_FIELD_NUMBER:
			if (is_canonical_number(field))
				*value = PointerGetDatum(cstring_to_text_with_len(field->data, (int) field->size));
			else
				*value = CStringGetTextDatum(DatumGetCString(DirectFunctionCall1(numeric_out, make_numeric(field))));
			return true;
		case KS_FIELD_BYTES:
		case KS_FIELD_STRING:
			if (d->debezium && ks_is_placeholder(field))
				return false;
			check_text(field);
			*value = make_text(field->data, field->size);
			return true;
		default:
			if (d->debezium && ks_is_placeholder(field))
				return false;
			{
				Jsonb	   *jsonb = make_jsonb(field->raw, field->raw_size);

				*value = CStringGetTextDatum(JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb)));
			}
			return true;
	}
}

/* A string as a JSON value. */
static void
json_string(JsonbValue *value, char *string, int size)
{
	value->type = jbvString;
	value->val.string.val = string;
	value->val.string.len = size;
}

/* A jsonb as a part of another. */
static void
json_nested(JsonbValue *value, Jsonb *jsonb)
{
	if (JB_ROOT_IS_SCALAR(jsonb))
		(void) JsonbExtractScalar(&jsonb->root, value);
	else
	{
		value->type = jbvBinary;
		value->val.binary.data = &jsonb->root;
		value->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	}
}

/* A converted value as JSON: numbers, documents, and everything else as PostgreSQL's text. */
static void
json_converted(KsDecoder *d, Oid type, Datum converted, JsonbValue *value)
{
	char	   *string;

	switch (type)
	{
		case NUMERICOID:
			if (!numeric_is_nan(DatumGetNumeric(converted)) && !numeric_is_inf(DatumGetNumeric(converted)))
			{
				value->type = jbvNumeric;
				value->val.numeric = DatumGetNumeric(converted);
				return;
			}
			break;
		case BOOLOID:
			value->type = jbvBool;
			value->val.boolean = DatumGetBool(converted);
			return;
		case JSONBOID:
			json_nested(value, DatumGetJsonbP(converted));
			return;
		case JSONOID:
			string = TextDatumGetCString(converted);
			json_nested(value, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(string))));
			return;
		default:
			break;
	}
	string = OutputFunctionCall(&d->output, converted);
	json_string(value, string, (int) strlen(string));
}

/* See decode.h. */
bool
ks_decode_json(KsDecoder *d, KsColumnConverter *column, const KsField *field, JsonbValue *value)
{
	char	   *string;
	int			size;

	value->type = jbvNull;
	if (field->kind == KS_FIELD_NULL)
		return true;
	if (column && (field->kind == KS_FIELD_BYTES || !ks_column_is_plain(column)))
	{
		Datum		converted;
		bool		isnull;

		if (!convert(d, column, field, &converted, &isnull))
			return false;
		if (!isnull)
			json_converted(d, ks_column_type(column), converted, value);
		return true;
	}
	switch (field->kind)
	{
		case KS_FIELD_TRUE:
		case KS_FIELD_FALSE:
			value->type = jbvBool;
			value->val.boolean = field->kind == KS_FIELD_TRUE;
			return true;
		case KS_FIELD_NUMBER:
			value->type = jbvNumeric;
			value->val.numeric = DatumGetNumeric(make_numeric(field));
			return true;
		case KS_FIELD_BYTES:
		case KS_FIELD_STRING:
			if (d->debezium && ks_is_placeholder(field))
				return false;
			check_text(field);
			string = ks_decode_string(field->data, field->size, &size);
			json_string(value, string, size);
			return true;
		default:
			if (d->debezium && ks_is_placeholder(field))
				return false;
			json_nested(value, make_jsonb(field->raw, field->raw_size));
			return true;
	}
}
