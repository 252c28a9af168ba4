/*
 * connect_types.c: see connect_types.h.
 *
 * A type is chosen so that it holds all that the schema lets a value be: a limit is set only where the schema has it.
 */
#include "postgres.h"

#include "apply/connect_schema.h"
#include "apply/connect_types.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"

#define SOURCE_TYPE "__debezium.source.column.type"
#define SOURCE_LENGTH "__debezium.source.column.length"
#define MAX_PRECISION 1000
#define MAX_LENGTH 10485760

/* Semantic names of Debezium and Connect. */
static const struct
{
	const char *name;
	Oid			type;
	bool		encoded;
}			semantic_types[] =
{
	{"io.debezium.time.Date", DATEOID, true},
	{"org.apache.kafka.connect.data.Date", DATEOID, true},
	{"io.debezium.time.Time", TIMEOID, true},
	{"org.apache.kafka.connect.data.Time", TIMEOID, true},
	{"io.debezium.time.MicroTime", TIMEOID, true},
	{"io.debezium.time.NanoTime", TIMEOID, true},
	{"io.debezium.time.ZonedTime", TIMETZOID, false},
	{"io.debezium.time.Timestamp", TIMESTAMPOID, true},
	{"org.apache.kafka.connect.data.Timestamp", TIMESTAMPOID, true},
	{"io.debezium.time.MicroTimestamp", TIMESTAMPOID, true},
	{"io.debezium.time.NanoTimestamp", TIMESTAMPOID, true},
	{"io.debezium.time.ZonedTimestamp", TIMESTAMPTZOID, true},
	{"io.debezium.time.MicroDuration", INTERVALOID, true},
	{"io.debezium.time.NanoDuration", INTERVALOID, true},
	{"io.debezium.time.Interval", INTERVALOID, false},
	{"io.debezium.time.Year", INT4OID, false},
	{"org.apache.kafka.connect.data.Decimal", NUMERICOID, true},
	{"io.debezium.data.VariableScaleDecimal", NUMERICOID, true},
	{"io.debezium.data.Bits", VARBITOID, true},
	{"io.debezium.data.Json", JSONBOID, true},
	{"io.debezium.data.Uuid", UUIDOID, false},
	{"io.debezium.data.Xml", XMLOID, false},
	{"io.debezium.data.geometry.Point", POINTOID, true},
};

/* Connect's own types.  A number with a semantic name that is not known has a unit that is not known. */
static const struct
{
	const char *name;
	Oid			type;
	bool		number;
}			connect_types[] =
{
	{"int8", INT2OID, true},
	{"int16", INT2OID, true},
	{"int32", INT4OID, true},
	{"int64", INT8OID, true},
	{"float", FLOAT4OID, true},
	{"float32", FLOAT4OID, true},
	{"double", FLOAT8OID, true},
	{"float64", FLOAT8OID, true},
	{"boolean", BOOLOID, false},
	{"string", TEXTOID, false},
	{"bytes", BYTEAOID, true},
	{"map", JSONBOID, false},
	{"struct", JSONBOID, false},
};

/* Words for a string with a limit of characters, in any database. */
static const char *const varchars[] = {"VARCHAR", "CHARACTER VARYING", "VARCHAR2", "NVARCHAR", "NVARCHAR2"};

/* The number of a semantic name, -1 if it is not known. */
static int
find_name(const char *name, size_t size)
{
	for (int i = 0; i < (int) lengthof(semantic_types); i++)
		if (strlen(semantic_types[i].name) == size && memcmp(semantic_types[i].name, name, size) == 0)
			return i;
	return -1;
}

/* See connect_types.h. */
Oid
ks_connect_type_of_name(const char *name, size_t size)
{
	int			i = find_name(name, size);

	return i >= 0 && semantic_types[i].encoded ? semantic_types[i].type : InvalidOid;
}

/* The typmod for a decimal, whose precision may not be told. */
static int32
decimal_typmod(KsArena *arena, const KsSchemaNode *node)
{
	int32		precision = ks_schema_parameter(arena, node, "connect.decimal.precision", 0);
	int32		scale = ks_schema_parameter(arena, node, "scale", PG_INT32_MIN);

	if (precision < 1 || precision > MAX_PRECISION || scale < -MAX_PRECISION || scale > MAX_PRECISION)
		return -1;
	return ((precision << 16) | (scale & 0x7ff)) + VARHDRSZ;
}

/* Is a schema's column of this type in the source, says the connector? */
static bool
source_is(const KsField *type, const char *word)
{
	return type->kind == KS_FIELD_STRING && type->size == strlen(word) && pg_strncasecmp(type->data, word, type->size) == 0;
}

/* Refines a type by what the connector says of the source's column (column.propagate.source.type). */
static void
refine(KsArena *arena, const KsSchemaNode *node, KsConnectColumn *column)
{
	KsField		type = ks_schema_text_parameter(arena, node, SOURCE_TYPE);
	int32		length = ks_schema_parameter(arena, node, SOURCE_LENGTH, 0);

	switch (column->type)
	{
		case TEXTOID:
			for (int i = 0; i < (int) lengthof(varchars); i++)
				if (source_is(&type, varchars[i]) && length > 0 && length <= MAX_LENGTH)
				{
					column->type = VARCHAROID;
					column->typmod = length + VARHDRSZ;
				}
			break;
		case JSONBOID:
			if (column->encoded && source_is(&type, "JSON"))
				column->type = JSONOID;
			break;
		case VARBITOID:
			length = ks_schema_parameter(arena, node, "length", 0);
			if (source_is(&type, "BIT") && length > 0 && length <= MAX_LENGTH)
			{
				column->type = BITOID;
				column->typmod = length;
			}
			else if (!source_is(&type, "VARBIT") && !source_is(&type, "BIT VARYING") && length < PG_INT32_MAX)
				column->doubt = "its schema does not tell whether bits are of a fixed or a varying number";
			break;
		default:
			break;
	}
}

/* Finds the type for a schema. */
static void
read_type(KsArena *arena, const KsSchemaNode *node, KsConnectColumn *column)
{
	int			name = node->name.kind == KS_FIELD_STRING ? find_name(node->name.data, node->name.size) : -1;

	check_stack_depth();
	column->type = InvalidOid;
	column->typmod = -1;
	column->encoded = false;
	column->doubt = NULL;
	if (name >= 0)
	{
		column->type = semantic_types[name].type;
		column->encoded = semantic_types[name].encoded;
		if (column->type == NUMERICOID)
			column->typmod = decimal_typmod(arena, node);
		refine(arena, node, column);
		return;
	}
	if (ks_schema_is(&node->type, "array") && node->items.kind == KS_FIELD_OBJECT)
	{
		KsSchemaNode items;
		KsJson		json;

		ks_json_init(&json, node->items.raw, node->items.raw_size, arena);
		if (ks_schema_read(&json, &items) != NULL)
			return;
		read_type(arena, &items, column);
		/* arrays in arrays are dimensions of one array */
		if (OidIsValid(column->type) && !ks_schema_is(&items.type, "array"))
			column->type = get_array_type(column->type);
		return;
	}
	for (int i = 0; i < (int) lengthof(connect_types); i++)
		if (ks_schema_is(&node->type, connect_types[i].name))
		{
			column->type = connect_types[i].type;
			column->encoded = column->type == BYTEAOID;
			if (connect_types[i].number && node->name.kind == KS_FIELD_STRING)
				column->doubt = "its schema has a name that is not known";
			refine(arena, node, column);
		}
}

/* See connect_types.h. */
List *
ks_connect_columns(const char *schema, size_t size)
{
	KsArena		arena = {0};
	KsSchemaNode top;
	KsField		fields;
	KsJson		json;
	bool		first = true;
	List	   *result = NIL;

	if (ks_schema_rows(&arena, schema, size, &top, &fields) != NULL)
	{
		ks_arena_free(&arena);
		return NIL;
	}
	if (fields.kind != KS_FIELD_ARRAY)
	{
		KsConnectColumn *column = palloc0(sizeof(KsConnectColumn));

		column->name = pstrdup("");
		read_type(&arena, &top, column);
		ks_arena_free(&arena);
		return list_make1(column);
	}
	ks_json_init(&json, fields.raw, fields.raw_size, &arena);
	(void) ks_json_peek(&json);
	while (ks_json_next_element(&json, &first) > 0)
	{
		KsSchemaNode node;
		KsConnectColumn *column;

		if (ks_schema_read(&json, &node) != NULL)
			break;
		if (node.field.kind != KS_FIELD_STRING || node.field.has_nul)
			continue;
		column = palloc0(sizeof(KsConnectColumn));
		column->name = pnstrdup(node.field.data, node.field.size);
		read_type(&arena, &node, column);
		result = lappend(result, column);
	}
	ks_arena_free(&arena);
	return result;
}
