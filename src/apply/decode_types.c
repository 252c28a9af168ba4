/*
 * decode_types.c: see decode_types.h.
 */
#include "postgres.h"

#include "apply/decode.h"
#include "apply/decode_types.h"
#include "catalog/pg_type.h"
#include "compat/pg_compat.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

/* Semantic names of Debezium and Connect, and a type that holds their values. */
static const struct
{
	const char *name;
	Oid			type;
	Oid			array;
}			semantic_types[] =
{
	{"io.debezium.time.Date", DATEOID, DATEARRAYOID},
	{"org.apache.kafka.connect.data.Date", DATEOID, DATEARRAYOID},
	{"io.debezium.time.Time", TIMEOID, TIMEARRAYOID},
	{"org.apache.kafka.connect.data.Time", TIMEOID, TIMEARRAYOID},
	{"io.debezium.time.MicroTime", TIMEOID, TIMEARRAYOID},
	{"io.debezium.time.NanoTime", TIMEOID, TIMEARRAYOID},
	{"io.debezium.time.Timestamp", TIMESTAMPOID, TIMESTAMPARRAYOID},
	{"org.apache.kafka.connect.data.Timestamp", TIMESTAMPOID, TIMESTAMPARRAYOID},
	{"io.debezium.time.MicroTimestamp", TIMESTAMPOID, TIMESTAMPARRAYOID},
	{"io.debezium.time.NanoTimestamp", TIMESTAMPOID, TIMESTAMPARRAYOID},
	{"io.debezium.time.ZonedTimestamp", TIMESTAMPTZOID, TIMESTAMPTZARRAYOID},
	{"io.debezium.time.MicroDuration", INTERVALOID, INTERVALARRAYOID},
	{"io.debezium.time.NanoDuration", INTERVALOID, INTERVALARRAYOID},
	{"org.apache.kafka.connect.data.Decimal", NUMERICOID, NUMERICARRAYOID},
	{"io.debezium.data.VariableScaleDecimal", NUMERICOID, NUMERICARRAYOID},
	{"io.debezium.data.Bits", VARBITOID, VARBITARRAYOID},
	{"io.debezium.data.Json", JSONBOID, JSONBARRAYOID},
	{"io.debezium.data.geometry.Point", POINTOID, POINTARRAYOID},
};

/* The unit of a time's digits, as Debezium chooses it. */
static bool
in_milliseconds(int32 typmod)
{
	return typmod >= 0 && typmod <= 3;
}

/* Types whose values Debezium writes as they are, or as PostgreSQL's text. */
static bool
is_plain(Oid type)
{
	switch (type)
	{
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INTERVALOID:
		case NUMERICOID:
		case MONEYOID:
		case BYTEAOID:
		case BITOID:
		case VARBITOID:
		case JSONOID:
		case JSONBOID:
		case POINTOID:
			return false;
		default:
			return !OidIsValid(get_element_type(type));
	}
}

/* See decode_types.h. */
bool
ks_same_encoding(Oid a, int32 a_typmod, Oid b, int32 b_typmod)
{
	if ((a == JSONOID || a == JSONBOID) && (b == JSONOID || b == JSONBOID))
		return true;
	if (a != b)
		return is_plain(a) && is_plain(b);
	switch (a)
	{
		case TIMEOID:
		case TIMESTAMPOID:
			return in_milliseconds(a_typmod) == in_milliseconds(b_typmod);
		case NUMERICOID:
			/* one without a scale says nothing; the precision does not matter */
			return a_typmod < 0 || b_typmod < 0 ||
				((a_typmod - VARHDRSZ) & 0x7ff) == ((b_typmod - VARHDRSZ) & 0x7ff);
		case BITOID:
			return a_typmod == b_typmod;
		default:
			return true;
	}
}

/* A member of an object by its name; NULL if there is none. */
static JsonbValue *
member(JsonbContainer *object, const char *name)
{
	return JsonContainerIsObject(object) ? getKeyJsonValueFromContainer(object, name, (int) strlen(name), NULL) : NULL;
}

/* Is it this string? */
static bool
is_string(const JsonbValue *v, const char *string)
{
	return v && v->type == jbvString && v->val.string.len == strlen(string) &&
		memcmp(v->val.string.val, string, v->val.string.len) == 0;
}

/* The type that holds values of a field's schema; InvalidOid where they stand for themselves. */
static Oid
type_of_schema(JsonbContainer *node, bool element)
{
	JsonbValue *name = member(node, "name");
	JsonbValue *type = member(node, "type");
	JsonbValue *items;

	for (int i = 0; i < lengthof(semantic_types); i++)
		if (is_string(name, semantic_types[i].name))
			return element ? semantic_types[i].array : semantic_types[i].type;
	if (is_string(type, "bytes"))
		return element ? BYTEAARRAYOID : BYTEAOID;
	if (is_string(type, "array") && (items = member(node, "items")) != NULL && items->type == jbvBinary)
		return type_of_schema(items->val.binary.data, true);
	return InvalidOid;
}

/* Adds the fields of a struct's schema to the list. */
static List *
read_fields(List *result, JsonbContainer *node)
{
	JsonbValue *fields = member(node, "fields");

	if (fields == NULL || fields->type != jbvBinary || !JsonContainerIsArray(fields->val.binary.data))
		return result;
	for (uint32 i = 0; i < JsonContainerSize(fields->val.binary.data); i++)
	{
		JsonbValue *field = getIthJsonbValueFromContainer(fields->val.binary.data, i);
		JsonbValue *name;
		Oid			type;
		KsDeclaredType *t;

		if (field->type != jbvBinary)
			continue;
		name = member(field->val.binary.data, "field");
		type = type_of_schema(field->val.binary.data, false);
		if (name == NULL || name->type != jbvString || name->val.string.len >= NAMEDATALEN || !OidIsValid(type))
			continue;
		t = palloc0(sizeof(KsDeclaredType));
		t->name = pnstrdup(name->val.string.val, name->val.string.len);
		t->type = type;
		t->typmod = -1;
		t->where = pstrdup("the message's schema");
		result = lappend(result, t);
	}
	return result;
}

/* See decode_types.h. */
List *
ks_types_in_schema(const char *schema, size_t size)
{
	int			n;
	char	   *text = ks_decode_string(schema, size, &n);
	Jsonb	   *jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(text, n))));
	JsonbValue *fields;

	if (!JB_ROOT_IS_OBJECT(jsonb))
		return NIL;
	/* of an event: its rows' */
	fields = member(&jsonb->root, "fields");
	if (fields && fields->type == jbvBinary && JsonContainerIsArray(fields->val.binary.data))
	{
		List	   *result = NIL;
		bool		event = false;

		for (uint32 i = 0; i < JsonContainerSize(fields->val.binary.data); i++)
		{
			JsonbValue *field = getIthJsonbValueFromContainer(fields->val.binary.data, i);
			JsonbValue *name;

			if (field->type != jbvBinary)
				continue;
			name = member(field->val.binary.data, "field");
			event = event || is_string(name, "op");
			if (is_string(name, "after"))
				result = read_fields(NIL, field->val.binary.data);
		}
		if (event)
			return result;
	}
	return read_fields(NIL, &jsonb->root);
}

/* See decode_types.h. */
List *
ks_types_in_option(const char *column_types)
{
	Jsonb	   *jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(column_types)));
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;
	List	   *result = NIL;

	if (!JB_ROOT_IS_OBJECT(jsonb))
		return NIL;
	it = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		KsDeclaredType *t;

		if (token != WJB_KEY)
			continue;
		t = palloc0(sizeof(KsDeclaredType));
		t->name = pnstrdup(v.val.string.val, v.val.string.len);
		(void) JsonbIteratorNext(&it, &v, true);
		if (v.type != jbvString)
			continue;
		t->typmod = -1;
		for (int i = 0; i < lengthof(semantic_types); i++)
			if (is_string(&v, semantic_types[i].name))
				t->type = semantic_types[i].type;
		if (!OidIsValid(t->type))
			ks_parse_type_string(pnstrdup(v.val.string.val, v.val.string.len), &t->type, &t->typmod);
		t->given = true;
		result = lappend(result, t);
	}
	return result;
}
