/*
 * convert_schema.c: what values mean, from SQL types and from the schemas that Kafka Connect puts into messages.
 */
#include "postgres.h"

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

/* The members of a schema that matter, as they stand in the text. */
typedef struct SchemaNode
{
	KsField		type;			/* kind NULL where absent, in all of these */
	KsField		name;
	KsField		field;
	KsField		fields;
	KsField		items;
	KsField		parameters;
} SchemaNode;

static bool
is_text(const KsField *field, const char *text)
{
	size_t		size = strlen(text);

	return field->kind == KS_FIELD_STRING && field->size == size && memcmp(field->data, text, size) == 0;
}

/* Reports a schema that is none. */
static void
bad_schema(const char *cause)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("invalid schema in a message: %s", cause)));
}

/* Reads a member of an object by name; kind NULL if there is none. */
static KsField
member_of(KsConverter *conv, const KsField *object, const char *name)
{
	KsField		member = {0};
	KsJson		json;
	bool		first = true;

	ks_json_init(&json, object->raw, object->raw_size, &conv->arena);
	if (ks_json_peek(&json) == '{')
		while (ks_json_next_member(&json, &first, &member) > 0)
		{
			bool		found = member.name_size == strlen(name) && memcmp(member.name, name, member.name_size) == 0;

			if (!ks_json_value(&json, &member))
				break;
			if (found)
				return member;
		}
	memset(&member, 0, sizeof(member));
	return member;
}

/* Reads the schema at hand. */
static void
read_node(KsConverter *conv, KsJson *json, SchemaNode *node)
{
	bool		first = true;
	KsField		member;
	int			more;

	memset(node, 0, sizeof(SchemaNode));
	if (ks_json_peek(json) != '{')
		bad_schema("not a JSON object");
	while ((more = ks_json_next_member(json, &first, &member)) > 0)
	{
		if (!ks_json_value(json, &member))
			break;
		if (member.name_size == 4 && memcmp(member.name, "type", 4) == 0)
			node->type = member;
		else if (member.name_size == 4 && memcmp(member.name, "name", 4) == 0)
			node->name = member;
		else if (member.name_size == 5 && memcmp(member.name, "field", 5) == 0)
			node->field = member;
		else if (member.name_size == 6 && memcmp(member.name, "fields", 6) == 0)
			node->fields = member;
		else if (member.name_size == 5 && memcmp(member.name, "items", 5) == 0)
			node->items = member;
		else if (member.name_size == 10 && memcmp(member.name, "parameters", 10) == 0)
			node->parameters = member;
	}
	if (more != 0)
		bad_schema(json->error != NULL ? json->error : "unknown error");
}

/* An integer parameter (Connect writes them as strings); "missing" if there is none. */
static int32
int_parameter(KsConverter *conv, const SchemaNode *node, const char *name, int32 missing)
{
	KsField		value;
	char		text[16];

	if (node->parameters.kind != KS_FIELD_OBJECT)
		return missing;
	value = member_of(conv, &node->parameters, name);
	if ((value.kind != KS_FIELD_STRING && value.kind != KS_FIELD_NUMBER) || value.size >= sizeof(text))
		return missing;
	memcpy(text, value.data, value.size);
	text[value.size] = '\0';
	return atoi(text);
}

/*
 * What a schema says of values for a column; NULL where it says nothing that the SQL types do not say better.
 * "source" is the type from option column_types, NULL if not given.
 */
static KsMeaning *
meaning_of_node(KsConverter *conv, const SchemaNode *node, const KsType *source, const KsType *target)
{
	KsMeaning  *result;

	check_stack_depth();
	if (node->name.kind == KS_FIELD_STRING)
	{
		for (int i = 0; i < (int) lengthof(semantic_names); i++)
		{
			if (!is_text(&node->name, semantic_names[i].name))
				continue;
			result = meaning_make(semantic_names[i].kind, semantic_names[i].unit);
			result->certain = true;
			if (result->kind == KS_M_JSON && target->class == KS_T_HSTORE)
				result->kind = KS_M_HSTORE;
			if (result->kind == KS_M_DECIMAL)
				result->scale = int_parameter(conv, node, "scale", KS_SCALE_UNKNOWN);
			/* "length" of a varying bit string is only its limit */
			if (result->kind == KS_M_BITS &&
				(source != NULL ? source->class == KS_T_BIT : target->class == KS_T_BIT))
				result->length = Max(int_parameter(conv, node, "length", 0), 0);
			return result;
		}
	}
	if (is_text(&node->type, "bytes"))
	{
		result = meaning_make(KS_M_BYTES, 0);
		result->certain = true;
		return result;
	}
	if (is_text(&node->type, "array") && node->items.kind == KS_FIELD_OBJECT)
	{
		const KsType *element = target->class == KS_T_ARRAY ? target->element : target;
		SchemaNode	items;
		KsJson		json;

		ks_json_init(&json, node->items.raw, node->items.raw_size, &conv->arena);
		read_node(conv, &json, &items);
		result = meaning_make(KS_M_ARRAY, 0);
		/* nested arrays are dimensions of one array type */
		if (is_text(&items.type, "array"))
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
	if (is_text(&node->type, "string"))
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
		SchemaNode	node;
		KsField		name = {0};
		KsColumnConverter *column;

		read_node(conv, &json, &node);
		if (node.field.kind != KS_FIELD_STRING)
			bad_schema("a field has no name");
		name.name = node.field.data;
		name.name_size = node.field.size;
		column = ks_converter_find(conv, &name, position++);
		if (column != NULL)
			meanings[column->index] = meaning_of_node(conv, &node, column->source, column->target);
	}
	if (more != 0)
		bad_schema(json.error != NULL ? json.error : "unknown error");
}

/*
 * Reads a schema, of an event (its fields "after" or "before" have the columns), of a row or key, or of a scalar key.
 * The result is in the current context.
 */
KsSchema *
ks_schema_parse(KsConverter *conv, const char *text, size_t size)
{
	KsSchema   *result = palloc0(sizeof(KsSchema));
	SchemaNode	top;
	KsJson		json;

	result->text = palloc(size);
	memcpy(result->text, text, size);
	result->size = size;
	result->meanings = palloc0(Max(conv->natts, 1) * sizeof(KsMeaning *));

	ks_json_init(&json, result->text, size, &conv->arena);
	read_node(conv, &json, &top);
	if (!is_text(&top.type, "struct"))
	{
		if (conv->key_column >= 0)
		{
			KsColumnConverter *column = conv->columns[conv->key_column];

			result->meanings[conv->key_column] = meaning_of_node(conv, &top, column->source, column->target);
		}
		return result;
	}
	if (top.fields.kind != KS_FIELD_ARRAY)
		bad_schema("a struct has no fields");

	/* an event? */
	{
		SchemaNode	row = {0};
		bool		first = true;
		bool		has_op = false;

		ks_json_init(&json, top.fields.raw, top.fields.raw_size, &conv->arena);
		(void) ks_json_peek(&json);
		while (ks_json_next_element(&json, &first) > 0)
		{
			SchemaNode	node;

			read_node(conv, &json, &node);
			has_op |= is_text(&node.field, "op");
			if ((is_text(&node.field, "after") || (is_text(&node.field, "before") && row.fields.kind == KS_FIELD_NULL)) &&
				node.fields.kind == KS_FIELD_ARRAY)
				row = node;
		}
		if (has_op && row.fields.kind == KS_FIELD_ARRAY)
		{
			read_fields(conv, &row.fields, result->meanings);
			return result;
		}
	}
	read_fields(conv, &top.fields, result->meanings);
	return result;
}
