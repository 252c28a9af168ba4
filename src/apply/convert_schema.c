/*
 * convert_schema.c: what values mean, from SQL types and from the schemas that Kafka Connect puts into messages.
 */
#include "postgres.h"

#include "apply/connect_schema.h"
#include "apply/convert_internal.h"
#include "miscadmin.h"

#define UNIT_MS 1000
#define UNIT_US 1000000
#define UNIT_NS 1000000000

/* Makes a meaning in the current context. */
static KsMeaning *
meaning_make(KsMeaningKind kind, int32 unit)
{
	KsMeaning  *result = palloc0(sizeof(KsMeaning));

	result->kind = kind;
	result->unit = unit;
	result->scale = KS_SCALE_UNKNOWN;
	return result;
}

/* Unit that Debezium uses for a precision in its adaptive mode. */
static int32
adaptive_unit(const KsType *type)
{
	return type->typmod >= 0 && type->typmod <= 3 ? UNIT_MS : UNIT_US;
}

/*
 * What values of a SQL type look like in messages without schemas, with Debezium's default modes.  "source" is the
 * type of the source's column, "target" that of ours.
 */
KsMeaning *
ks_meaning_of_type(KsConverter *conv, const KsType *source, const KsType *target)
{
	KsMeaning  *result;

	if (conv->text && (target->class == KS_T_JSON || target->class == KS_T_JSONB))
		return meaning_make(KS_M_JSON, 0);
	if (!conv->debezium)
		return meaning_make(KS_M_PLAIN, 0);
	switch (source->class)
	{
		case KS_T_DATE:
			return meaning_make(KS_M_DATE, 0);
		case KS_T_TIME:
			return meaning_make(KS_M_TIME, adaptive_unit(source));
		case KS_T_TIMESTAMP:
			return meaning_make(KS_M_TIMESTAMP, adaptive_unit(source));
		case KS_T_TIMESTAMPTZ:
			return meaning_make(KS_M_ZONED_TIMESTAMP, 0);
		case KS_T_INTERVAL:
			return meaning_make(KS_M_DURATION, UNIT_US);
		case KS_T_NUMERIC:
			result = meaning_make(KS_M_DECIMAL, 0);
			if (source->typmod >= (int32) VARHDRSZ)
				result->scale = (((source->typmod - VARHDRSZ) & 0x7ff) ^ 1024) - 1024;
			return result;
		case KS_T_MONEY:
			result = meaning_make(KS_M_DECIMAL, 0);
			result->scale = 2;
			return result;
		case KS_T_BYTEA:
			return meaning_make(KS_M_BYTES, 0);
		case KS_T_BIT:
			result = meaning_make(KS_M_BITS, 0);
			result->length = source->typmod > 0 ? source->typmod : 0;
			return result;
		case KS_T_VARBIT:
			return meaning_make(KS_M_BITS, 0);
		case KS_T_JSON:
		case KS_T_JSONB:
			return meaning_make(KS_M_JSON, 0);
		case KS_T_HSTORE:
			return meaning_make(KS_M_HSTORE, 0);
		case KS_T_POINT:
			return meaning_make(KS_M_POINT, 0);
		case KS_T_ARRAY:
			result = meaning_make(KS_M_ARRAY, 0);
			result->element = ks_meaning_of_type(conv, source->element,
												 target->class == KS_T_ARRAY ? target->element : target);
			return result;
		case KS_T_TEXT:
		case KS_T_VARCHAR:
			/* text for a bytea column: "binary.handling.mode": "hex" */
			return meaning_make(target->class == KS_T_BYTEA ? KS_M_HEX :
								target->class == KS_T_JSON || target->class == KS_T_JSONB ? KS_M_JSON :
								target->class == KS_T_HSTORE ? KS_M_HSTORE : KS_M_PLAIN, 0);
		default:
			return meaning_make(KS_M_PLAIN, 0);
	}
}

/*
 * What values for a column look like that come from another database, with that connector's default modes, as far as the
 * target's type tells.
 */
KsMeaning *
ks_meaning_of_dialect(KsConverter *conv, KsDialect dialect, const KsType *target)
{
	KsMeaning  *result;

	switch (target->class)
	{
		case KS_T_DATE:
			/* Oracle's DATE has a time, and is milliseconds; a number that stands for itself is no date */
			return meaning_make(dialect == KS_DIALECT_MYSQL ? KS_M_DATE : KS_M_PLAIN, 0);
		case KS_T_TIME:
			/* MySQL's TIME is microseconds whatever its precision */
			return meaning_make(KS_M_TIME, dialect == KS_DIALECT_MYSQL ? UNIT_US : 0);
		case KS_T_TIMESTAMP:
			/* the precision decides, and only PostgreSQL's default is six digits */
			if (dialect == KS_DIALECT_OTHER || target->typmod < 0)
				return meaning_make(KS_M_TIMESTAMP, 0);
			result = ks_meaning_of_type(conv, target, target);
			result->guessed = true;
			return result;
		case KS_T_INTERVAL:
			return dialect == KS_DIALECT_OTHER ? meaning_make(KS_M_PLAIN, 0) : meaning_make(KS_M_DURATION, UNIT_US);
		case KS_T_MONEY:
			return meaning_make(KS_M_DECIMAL, 0);
		case KS_T_ARRAY:
			result = meaning_make(KS_M_ARRAY, 0);
			result->element = ks_meaning_of_dialect(conv, dialect, target->element);
			return result;
		default:
			return ks_meaning_of_type(conv, target, target);
	}
}

/* Semantic names whose values are not what their JSON type says. */
static const struct
{
	const char *name;
	KsMeaningKind kind;
	int32		unit;
}			semantic_names[] =
{
	{"io.debezium.time.Date", KS_M_DATE, 0},
	{"org.apache.kafka.connect.data.Date", KS_M_DATE, 0},
	{"io.debezium.time.Time", KS_M_TIME, UNIT_MS},
	{"org.apache.kafka.connect.data.Time", KS_M_TIME, UNIT_MS},
	{"io.debezium.time.MicroTime", KS_M_TIME, UNIT_US},
	{"io.debezium.time.NanoTime", KS_M_TIME, UNIT_NS},
	{"io.debezium.time.Timestamp", KS_M_TIMESTAMP, UNIT_MS},
	{"org.apache.kafka.connect.data.Timestamp", KS_M_TIMESTAMP, UNIT_MS},
	{"io.debezium.time.MicroTimestamp", KS_M_TIMESTAMP, UNIT_US},
	{"io.debezium.time.NanoTimestamp", KS_M_TIMESTAMP, UNIT_NS},
	{"io.debezium.time.ZonedTimestamp", KS_M_ZONED_TIMESTAMP, 0},
	{"io.debezium.time.MicroDuration", KS_M_DURATION, UNIT_US},
	{"io.debezium.time.NanoDuration", KS_M_DURATION, UNIT_NS},
	{"org.apache.kafka.connect.data.Decimal", KS_M_DECIMAL, 0},
	{"io.debezium.data.VariableScaleDecimal", KS_M_DECIMAL, 0},
	{"io.debezium.data.Bits", KS_M_BITS, 0},
	{"io.debezium.data.Json", KS_M_JSON, 0},
	{"io.debezium.data.geometry.Point", KS_M_POINT, 0},
};

/* See convert_internal.h. */
KsMeaning *
ks_meaning_of_name(const char *name, size_t size)
{
	for (int i = 0; i < (int) lengthof(semantic_names); i++)
		if (strlen(semantic_names[i].name) == size && memcmp(semantic_names[i].name, name, size) == 0)
		{
			KsMeaning  *result = meaning_make(semantic_names[i].kind, semantic_names[i].unit);

			result->certain = true;
			return result;
		}
	return NULL;
}

/* Reports a schema that is none. */
static void
check_schema(const char *cause)
{
	if (cause)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid schema in a message: %s", cause)));
}

/*
 * What a schema says of values for a column; NULL where it says nothing that the SQL types do not say better.
 * "source" is the type from option column_types, NULL if not given.
 */
static KsMeaning *
meaning_of_node(KsConverter *conv, const KsSchemaNode *node, const KsType *source, const KsType *target)
{
	KsMeaning  *result;

	check_stack_depth();
	if (node->name.kind == KS_FIELD_STRING)
	{
		for (int i = 0; i < (int) lengthof(semantic_names); i++)
		{
			if (!ks_schema_is(&node->name, semantic_names[i].name))
				continue;
			result = meaning_make(semantic_names[i].kind, semantic_names[i].unit);
			result->certain = true;
			if (result->kind == KS_M_JSON && target->class == KS_T_HSTORE)
				result->kind = KS_M_HSTORE;
			if (result->kind == KS_M_DECIMAL)
				result->scale = ks_schema_parameter(&conv->arena, node, "scale", KS_SCALE_UNKNOWN);
			/* "length" of a varying bit string is only its limit */
			if (result->kind == KS_M_BITS &&
				(source != NULL ? source->class == KS_T_BIT : target->class == KS_T_BIT))
				result->length = Max(ks_schema_parameter(&conv->arena, node, "length", 0), 0);
			return result;
		}
	}
	if (ks_schema_is(&node->type, "bytes"))
	{
		result = meaning_make(KS_M_BYTES, 0);
		result->certain = true;
		return result;
	}
	if (ks_schema_is(&node->type, "array") && node->items.kind == KS_FIELD_OBJECT)
	{
		const KsType *element = target->class == KS_T_ARRAY ? target->element : target;
		KsSchemaNode items;
		KsJson		json;

		ks_json_init(&json, node->items.raw, node->items.raw_size, &conv->arena);
		check_schema(ks_schema_read(&json, &items));
		result = meaning_make(KS_M_ARRAY, 0);
		/* nested arrays are dimensions of one array type */
		if (ks_schema_is(&items.type, "array"))
		{
			KsMeaning  *inner = meaning_of_node(conv, &items, source, target);

			result->element = inner != NULL ? inner->element : NULL;
		}
		else
			result->element = meaning_of_node(conv, &items, NULL, element);
		if (result->element == NULL)
			result->element = meaning_make(KS_M_PLAIN, 0);
		return result;
	}
	/* plain numbers and strings: column_types may know better */
	if (source != NULL)
		return NULL;
	if (ks_schema_is(&node->type, "string"))
		return meaning_make(target->class == KS_T_JSON || target->class == KS_T_JSONB ? KS_M_JSON :
							target->class == KS_T_HSTORE ? KS_M_HSTORE :
							target->class == KS_T_BYTEA ? KS_M_BYTES :
							target->class == KS_T_TIMESTAMPTZ ? KS_M_ZONED_TIMESTAMP : KS_M_PLAIN, 0);
	return meaning_make(KS_M_PLAIN, 0);
}

/* Notes the meaning of each field of a row schema's "fields". */
static void
read_fields(KsConverter *conv, const KsField *fields, KsMeaning **meanings)
{
	KsJson		json;
	bool		first = true;
	int			position = 0;
	int			more;

	ks_json_init(&json, fields->raw, fields->raw_size, &conv->arena);
	(void) ks_json_peek(&json);
	while ((more = ks_json_next_element(&json, &first)) > 0)
	{
		KsSchemaNode node;
		KsField		name = {0};
		KsColumnConverter *column;

		check_schema(ks_schema_read(&json, &node));
		if (node.field.kind != KS_FIELD_STRING)
			check_schema("a field has no name");
		name.name = node.field.data;
		name.name_size = node.field.size;
		column = ks_converter_find(conv, &name, position++);
		if (column != NULL)
			meanings[column->index] = meaning_of_node(conv, &node, column->source, column->target);
	}
	if (more != 0)
		check_schema(json.error != NULL ? json.error : "unknown error");
}

/*
 * Reads a schema, of an event (its fields "after" or "before" have the columns), of a row or key, or of a scalar key.
 * The result is in the current context.
 */
KsSchema *
ks_schema_parse(KsConverter *conv, const char *text, size_t size)
{
	KsSchema   *result = palloc0(sizeof(KsSchema));
	KsSchemaNode top;
	KsField		fields;

	result->text = palloc(size);
	memcpy(result->text, text, size);
	result->size = size;
	result->meanings = palloc0(Max(conv->natts, 1) * sizeof(KsMeaning *));

	check_schema(ks_schema_rows(&conv->arena, result->text, size, &top, &fields));
	if (fields.kind == KS_FIELD_ARRAY)
		read_fields(conv, &fields, result->meanings);
	else if (conv->key_column >= 0)
	{
		KsColumnConverter *column = conv->columns[conv->key_column];

		result->meanings[conv->key_column] = meaning_of_node(conv, &top, column->source, column->target);
	}
	return result;
}
