/*
 * convert.c: converters of target tables and their columns; see convert.h and convert_internal.h.
 */
#include "postgres.h"

#include "apply/convert_internal.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat/pg_compat.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* Schemas kept; beyond that all are forgotten (a topic has a handful). */
#define MAX_SCHEMAS 64

/* Fixes what text input and output depend on. */
void
ks_converter_fix_settings(void)
{
	static const char *const settings[][2] = {
		{"datestyle", "ISO, YMD"},
		{"intervalstyle", "postgres"},
		{"timezone", "UTC"},
		{"extra_float_digits", "1"},
		{"bytea_output", "hex"},
		{"lc_monetary", "C"},
		{"xmloption", "content"},
	};

	for (int i = 0; i < (int) lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/* Says how a base type is handled. */
static KsTypeClass
type_class(Oid base)
{
	switch (base)
	{
		case BOOLOID:
			return KS_T_BOOL;
		case INT2OID:
			return KS_T_INT2;
		case INT4OID:
			return KS_T_INT4;
		case INT8OID:
			return KS_T_INT8;
		case OIDOID:
			return KS_T_OID;
		case FLOAT4OID:
			return KS_T_FLOAT4;
		case FLOAT8OID:
			return KS_T_FLOAT8;
		case NUMERICOID:
			return KS_T_NUMERIC;
		case MONEYOID:
			return KS_T_MONEY;
		case TEXTOID:
			return KS_T_TEXT;
		case VARCHAROID:
			return KS_T_VARCHAR;
		case NAMEOID:
			return KS_T_NAME;
		case BYTEAOID:
			return KS_T_BYTEA;
		case BITOID:
			return KS_T_BIT;
		case VARBITOID:
			return KS_T_VARBIT;
		case DATEOID:
			return KS_T_DATE;
		case TIMEOID:
			return KS_T_TIME;
		case TIMETZOID:
			return KS_T_TIMETZ;
		case TIMESTAMPOID:
			return KS_T_TIMESTAMP;
		case TIMESTAMPTZOID:
			return KS_T_TIMESTAMPTZ;
		case INTERVALOID:
			return KS_T_INTERVAL;
		case UUIDOID:
			return KS_T_UUID;
		case JSONOID:
			return KS_T_JSON;
		case JSONBOID:
			return KS_T_JSONB;
		case POINTOID:
			return KS_T_POINT;
		default:
			return KS_T_OTHER;
	}
}

/* Makes a type ready. */
KsType *
ks_type_make(KsConverter *conv, Oid typid, int32 typmod)
{
	MemoryContext old = MemoryContextSwitchTo(conv->context);
	KsType	   *type = palloc0(sizeof(KsType));
	Oid			element;
	Oid			function;

	type->declared = typid;
	type->typmod = typmod;
	type->base = getBaseTypeAndTypmod(typid, &type->typmod);
	type->is_domain = type->base != typid;
	type->class = type_class(type->base);
	getTypeInputInfo(type->base, &function, &type->ioparam);
	fmgr_info_cxt(function, &type->input, conv->context);
	get_typlenbyvalalign(typid, &type->len, &type->byval, &type->align);

	element = get_element_type(type->base);
	if (OidIsValid(element))
	{
		type->class = KS_T_ARRAY;
		type->element = ks_type_make(conv, element, type->typmod);
	}
	else if (type->class == KS_T_OTHER && type->base >= FirstNormalObjectId)
	{
		/* an extension's type has no fixed Oid */
		char	   *name = format_type_extended(type->base, -1, 0);
		char	   *dot = strrchr(name, '.');

		if (strcmp(dot != NULL ? dot + 1 : name, "hstore") == 0)
			type->class = KS_T_HSTORE;
	}
	MemoryContextSwitchTo(old);
	return type;
}

/* Checks domain constraints. */
void
ks_domain_check(KsConverter *conv, KsType *type, Datum value, bool isnull)
{
	domain_check(value, isnull, type->declared, &type->domain_cache, conv->context);
}

/* Frees what is not palloc'ed. */
static void
converter_reset(void *arg)
{
	ks_arena_free(&((KsConverter *) arg)->arena);
}

static uint32
name_hash(const char *name, uint32 size)
{
	return hash_bytes((const unsigned char *) name, (int) size);
}

/* Adds a column to the hash by its wire name. */
static void
hash_insert(KsConverter *conv, KsColumnConverter *column)
{
	uint32		slot = name_hash(column->wire_name, column->wire_name_size) & conv->hash_mask;

	while (conv->hash[slot] != NULL)
		slot = (slot + 1) & conv->hash_mask;
	conv->hash[slot] = column;
}

static inline bool
column_is(const KsColumnConverter *column, const KsField *field)
{
	return column->wire_name_size == field->name_size &&
		memcmp(column->wire_name, field->name, field->name_size) == 0;
}

/* Returns the column of a name in UTF-8, NULL if there is none. */
static KsColumnConverter *
hash_lookup(KsConverter *conv, const KsField *field)
{
	uint32		slot = name_hash(field->name, field->name_size) & conv->hash_mask;

	for (; conv->hash[slot] != NULL; slot = (slot + 1) & conv->hash_mask)
		if (column_is(conv->hash[slot], field))
			return conv->hash[slot];
	return NULL;
}

/* Reads option column_types into the columns. */
static void
read_column_types(KsConverter *conv, const char *column_types)
{
	const char *text = pg_server_to_any(column_types, strlen(column_types), PG_UTF8);
	KsJson		json;
	KsField		member;
	bool		first = true;
	int			more;

	ks_json_init(&json, text, strlen(text), &conv->arena);
	if (ks_json_peek(&json) != '{')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"column_types\" is not a JSON object")));
	while ((more = ks_json_next_member(&json, &first, &member)) > 0)
	{
		KsColumnConverter *column;
		Oid			typid;
		int32		typmod;

		if (!ks_json_value(&json, &member))
			break;
		if (member.kind != KS_FIELD_STRING)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"column_types\": a type must be a string")));
		ks_check_nul(&member);
		column = hash_lookup(conv, &member);
		if (column == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("option \"column_types\" names column \"%s\", which the target does not have",
							ks_server_cstring(conv, member.name, member.name_size))));
		column->named = ks_meaning_of_name(member.data, member.size);
		if (column->named != NULL)
			continue;
		ks_parse_type_string(ks_server_cstring(conv, member.data, member.size), &typid, &typmod);
		column->source = ks_type_make(conv, typid, typmod);
	}
	if (more != 0 || !ks_json_finish(&json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"column_types\" is no valid JSON: %s", json.error != NULL ? json.error : "unknown error")));
}

/* Which modes of the writer do values of this meaning depend on? */
static uint8
wanted_modes(const KsMeaning *meaning)
{
	switch (meaning->kind)
	{
		case KS_M_BYTES:
		case KS_M_HEX:
			return KS_MODE_BINARY;
		case KS_M_TIME:
		case KS_M_TIMESTAMP:
			return KS_MODE_TIME;
		case KS_M_ARRAY:
			return wanted_modes(meaning->element);
		default:
			return 0;
	}
}

/* Makes a converter. */
KsConverter *
ks_converter_create(TupleDesc target, const char *format, const char *column_types, int key_column)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync converter",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	KsConverter *conv = palloc0(sizeof(KsConverter));
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));
	uint32		hash_size = 16;

	conv->context = context;
	callback->func = converter_reset;
	callback->arg = conv;
	MemoryContextRegisterResetCallback(context, callback);

	conv->debezium = strcmp(format, "debezium") == 0;
	conv->text = strcmp(format, "csv") == 0 || strcmp(format, "syslog") == 0 || strcmp(format, "raw") == 0;
	conv->recode = GetDatabaseEncoding() != PG_UTF8;
	conv->natts = target->natts;
	conv->key_column = -1;
	conv->columns = palloc0(Max(target->natts, 1) * sizeof(KsColumnConverter *));
	conv->hints = palloc0(Max(target->natts, 1) * sizeof(KsColumnConverter *));
	while (hash_size < (uint32) target->natts * 2)
		hash_size *= 2;
	conv->hash = palloc0(hash_size * sizeof(KsColumnConverter *));
	conv->hash_mask = hash_size - 1;
	conv->schema_context = AllocSetContextCreate(context, "pg_kafka_sync schemas", ALLOCSET_SMALL_SIZES);

	for (int i = 0; i < target->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(target, i);
		KsColumnConverter *column;

		if (attribute->attisdropped)
			continue;
		column = palloc0(sizeof(KsColumnConverter));
		column->converter = conv;
		column->index = i;
		column->name = pstrdup(NameStr(attribute->attname));
		column->wire_name = pg_server_to_any(column->name, strlen(column->name), PG_UTF8);
		column->wire_name_size = strlen(column->wire_name);
		column->target = ks_type_make(conv, attribute->atttypid, attribute->atttypmod);
		conv->columns[i] = column;
		hash_insert(conv, column);
	}
	if (key_column >= 0 && key_column < target->natts && conv->columns[key_column] != NULL)
		conv->key_column = key_column;
	if (column_types != NULL)
		read_column_types(conv, column_types);
	for (int i = 0; i < target->natts; i++)
	{
		KsColumnConverter *column = conv->columns[i];

		for (int dialect = 0; column != NULL && dialect < KS_DIALECT_COUNT; dialect++)
		{
			if (column->named != NULL)
				column->meaning[dialect] = column->named;
			else if (column->source != NULL || dialect == KS_DIALECT_POSTGRESQL || !conv->debezium)
				column->meaning[dialect] =
					ks_meaning_of_type(conv, column->source != NULL ? column->source : column->target, column->target);
			else
				column->meaning[dialect] = ks_meaning_of_dialect(conv, dialect, column->target);
			ks_modes_wanted |= wanted_modes(column->meaning[dialect]);
		}
	}
	MemoryContextSwitchTo(old);
	return conv;
}

/* Frees a converter. */
void
ks_converter_free(KsConverter *converter)
{
	MemoryContextDelete(converter->context);
}

static inline bool
schema_is(const KsSchema *entry, const char *schema, size_t size)
{
	return entry != NULL && entry->size == size && memcmp(entry->text, schema, size) == 0;
}

/* Finds a schema seen before, or reads it. */
static KsSchema *
find_schema(KsConverter *conv, const char *schema, size_t size)
{
	uint32		hash = hash_bytes((const unsigned char *) schema, (int) size);
	MemoryContext old;
	KsSchema   *entry;

	for (entry = conv->schemas; entry != NULL; entry = entry->next)
		if (entry->hash == hash && schema_is(entry, schema, size))
			return entry;

	if (conv->nschemas >= MAX_SCHEMAS)
	{
		conv->schemas = conv->schema = conv->recent[0] = conv->recent[1] = NULL;
		conv->nschemas = 0;
		MemoryContextReset(conv->schema_context);
	}
	ks_arena_reset(&conv->arena);
	old = MemoryContextSwitchTo(conv->schema_context);
	entry = ks_schema_parse(conv, schema, size);
	MemoryContextSwitchTo(old);
	entry->hash = hash;
	entry->next = conv->schemas;
	conv->schemas = entry;
	conv->nschemas++;
	return entry;
}

/* Chooses the schema of the fields to come. */
void
ks_converter_use_schema(KsConverter *converter, const char *schema, size_t size)
{
	if (schema == NULL)
	{
		converter->schema = NULL;
		return;
	}
	for (int i = 0; i < 2; i++)
		if (schema_is(converter->recent[i], schema, size))
		{
			converter->schema = converter->recent[i];
			return;
		}
	converter->schema = find_schema(converter, schema, size);
	converter->recent[1] = converter->recent[0];
	converter->recent[0] = converter->schema;
}

/* Chooses the connector of the fields to come. */
void
ks_converter_use_connector(KsConverter *converter, const char *connector, size_t size)
{
	if (likely(connector == NULL || (size == 10 && memcmp(connector, "postgresql", 10) == 0)))
		converter->dialect = KS_DIALECT_POSTGRESQL;
	else if ((size == 5 && memcmp(connector, "mysql", 5) == 0) || (size == 7 && memcmp(connector, "mariadb", 7) == 0))
		converter->dialect = KS_DIALECT_MYSQL;
	else if (size == 6 && memcmp(connector, "oracle", 6) == 0)
		converter->dialect = KS_DIALECT_ORACLE;
	else
		converter->dialect = KS_DIALECT_OTHER;
}

/* Finds a field's column. */
KsColumnConverter *
ks_converter_find(KsConverter *converter, const KsField *field, int position)
{
	bool		hinted = position >= 0 && position < converter->natts;
	KsColumnConverter *column;

	if (hinted)
	{
		column = converter->hints[position];
		if (column != NULL && column_is(column, field))
			return column;
	}
	if (field->name_size == 0)
		return converter->key_column >= 0 ? converter->columns[converter->key_column] : NULL;
	column = hash_lookup(converter, field);
	if (hinted && column != NULL)
		converter->hints[position] = column;
	return column;
}

/* Returns the column of an attribute index. */
KsColumnConverter *
ks_converter_column(KsConverter *converter, int index)
{
	return index >= 0 && index < converter->natts ? converter->columns[index] : NULL;
}

/* Names a column for messages. */
void
ks_converter_name_column(KsConverter *converter, int index, const char *name)
{
	converter->columns[index]->name = MemoryContextStrdup(converter->context, name);
}

/* Returns the attribute index of a column. */
int
ks_column_index(const KsColumnConverter *column)
{
	return column->index;
}

/* Do values of a column stand for themselves? */
bool
ks_column_is_plain(const KsColumnConverter *column)
{
	const KsSchema *schema = column->converter->schema;
	const KsMeaning *meaning = schema != NULL ? schema->meanings[column->index] : NULL;

	return (meaning != NULL ? meaning : column->meaning[column->converter->dialect])->kind == KS_M_PLAIN;
}

/* The type of a column, without domains. */
Oid
ks_column_type(const KsColumnConverter *column)
{
	return column->target->base;
}

/* Error context: names the column, for people and in ErrorData.column_name. */
static void
column_error_context(void *arg)
{
	const KsColumnConverter *column = arg;

	errcontext("column \"%s\"", column->name);
	err_generic_string(PG_DIAG_COLUMN_NAME, column->name);
}

/* Converts one field; see convert.h. */
void
ks_convert_field(KsColumnConverter *column, const KsField *field, Datum *value, bool *isnull, bool *unavailable)
{
	KsConverter *conv = column->converter;
	KsType	   *type = column->target;
	const KsMeaning *meaning = column->meaning[conv->dialect];
	ErrorContextCallback callback;

	*value = (Datum) 0;
	*unavailable = false;
	*isnull = field->kind == KS_FIELD_NULL &&
		!(field->json_null && (type->class == KS_T_JSON || type->class == KS_T_JSONB));
	if (*isnull && !type->is_domain)
		return;
	if (conv->debezium && ks_is_placeholder(field))
	{
		*unavailable = true;
		return;
	}

	callback.callback = column_error_context;
	callback.arg = column;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	conv->current = column;
	if (unlikely(conv->arena.chunks != NULL))
		ks_arena_reset(&conv->arena);
	if (!*isnull)
	{
		if (conv->schema != NULL && conv->schema->meanings[column->index] != NULL)
			meaning = conv->schema->meanings[column->index];
		*value = field->kind == KS_FIELD_BYTES
			? ks_bytes_value(conv, type, field)
			: meaning->kind == KS_M_PLAIN
			? ks_plain_value(conv, type, field)
			: ks_wire_value(conv, meaning, type, field);
	}
	if (type->is_domain)
		ks_domain_check(conv, type, *value, *isnull);

	error_context_stack = callback.previous;
}

/* Converts what is no part of a message's format; see convert.h. */
void
ks_convert_text_field(KsColumnConverter *column, const KsField *field, Datum *value, bool *isnull)
{
	KsConverter *conv = column->converter;
	KsType	   *type = column->target;
	ErrorContextCallback callback;

	callback.callback = column_error_context;
	callback.arg = column;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	conv->current = column;
	*isnull = field->kind == KS_FIELD_NULL;
	*value = (Datum) 0;
	if (field->kind == KS_FIELD_BYTES)
		*value = ks_bytes_value(conv, type, field);
	else if (!*isnull)
		*value = ks_input_text(conv, type, field->data, field->size);
	if (type->is_domain)
		ks_domain_check(conv, type, *value, *isnull);

	error_context_stack = callback.previous;
}

/* Is a column's type one of numbers? */
bool
ks_column_is_number(const KsColumnConverter *column)
{
	switch (column->target->class)
	{
		case KS_T_INT2:
		case KS_T_INT4:
		case KS_T_INT8:
		case KS_T_FLOAT4:
		case KS_T_FLOAT8:
		case KS_T_NUMERIC:
			return true;
		default:
			return false;
	}
}
