/*
 * convert_plain.c: values that stand for themselves: JSON numbers and booleans, PostgreSQL text, raw JSON.
 *
 * Common types have their own code; whatever that does not take (and all other types) goes to the type's input
 * function, which also words the error.
 */
#include "postgres.h"

#include <errno.h>
#include <math.h>

#include "apply/convert_internal.h"
#include "apply/value_text.h"
#include "common/int.h"
#include "compat/pg_compat.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

/* Reports a NUL character, which PostgreSQL's text cannot hold. */
void
ks_check_nul(const KsField *field)
{
	if (unlikely(field->has_nul))
		ereport(ERROR,
				(errcode(ERRCODE_UNTRANSLATABLE_CHARACTER),
				 errmsg("string has a null character (\\u0000), which PostgreSQL cannot store")));
}

/* Returns UTF-8 text in the server's encoding and its size; the text itself where nothing needs conversion. */
static const char *
server_text(KsConverter *conv, const char *text, size_t *size)
{
	const char *result;

	if (likely(!conv->recode))
		return text;
	result = pg_any_to_server(text, (int) *size, PG_UTF8);
	if (result != text)
		*size = strlen(result);
	return result;
}

/* Returns a C string in the server's encoding. */
char *
ks_server_cstring(KsConverter *conv, const char *text, size_t size)
{
	char	   *result = conv->scratch;

	text = server_text(conv, text, &size);
	if (size >= sizeof(conv->scratch))
		result = palloc(size + 1);
	memcpy(result, text, size);
	result[size] = '\0';
	return result;
}

/* Calls the type's input function on UTF-8 text without NUL. */
Datum
ks_input_text(KsConverter *conv, KsType *type, const char *text, size_t size)
{
	return InputFunctionCall(&type->input, ks_server_cstring(conv, text, size), type->ioparam, type->typmod);
}

/* Reports a field that cannot become a value of the type. */
void
ks_wrong_kind(const KsType *type, const KsField *field)
{
	static const char *const kinds[] = {"null", "boolean", "boolean", "number", "string", "object", "array", "value"};

	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("cannot convert a JSON %s to type %s", kinds[field->kind], format_type_be(type->declared))));
}

/* Reports a number for a type whose values are no numbers. */
void
ks_unknown_unit(KsConverter *conv, const KsType *type, const KsField *field)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("cannot tell what the number %.*s means for type %s",
					(int) Min(field->size, 40), field->data, format_type_be(type->declared)),
			 conv->debezium
			 ? errhint("Name the source's type in option \"column_types\", for example {\"%s\": \"timestamp(3)\"} for milliseconds%s.",
					   conv->current->name,
					   conv->dialect == KS_DIALECT_OTHER ? ", or the connector, where messages do not tell it, in option \"source.connector\"" : "")
			 : errhint("Format json carries such values as PostgreSQL text.")));
}

/* Reports an integer beyond the type's range. */
static void
out_of_range(const KsType *type, const KsField *field)
{
	ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("value \"%.*s\" is out of range for type %s",
					(int) Min(field->size, 40), field->data, format_type_be(type->declared))));
}

/* Integer of a number with a fraction or an exponent, such as 1.0 or 1e3; ERROR if it is not integral. */
static int64
integral_number(KsConverter *conv, const KsType *type, const KsField *field)
{
	Datum		number;
	Datum		floored;

	number = DirectFunctionCall3(numeric_in, CStringGetDatum(ks_server_cstring(conv, field->data, field->size)),
								 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	floored = DirectFunctionCall1(numeric_floor, number);
	if (!DatumGetBool(DirectFunctionCall2(numeric_eq, number, floored)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("number %.*s is not an integer, as type %s needs",
						(int) Min(field->size, 40), field->data, format_type_be(type->declared))));
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, floored));
}

/* int2, int4, int8, oid from a number or its text. */
static Datum
integer_value(KsConverter *conv, KsType *type, const KsField *field)
{
	int64		value;
	bool		overflow;

	if (unlikely(!ks_text_int64(field->data, field->size, &value, &overflow)))
	{
		if (overflow)
			out_of_range(type, field);
		if (field->kind == KS_FIELD_STRING)
			return ks_input_text(conv, type, field->data, field->size);
		value = integral_number(conv, type, field);
	}
	switch (type->class)
	{
		case KS_T_INT2:
			if (value < PG_INT16_MIN || value > PG_INT16_MAX)
				out_of_range(type, field);
			return Int16GetDatum((int16) value);
		case KS_T_INT4:
			if (value < PG_INT32_MIN || value > PG_INT32_MAX)
				out_of_range(type, field);
			return Int32GetDatum((int32) value);
		case KS_T_OID:
			if (value < 0 || value > PG_UINT32_MAX)
				out_of_range(type, field);
			return ObjectIdGetDatum((Oid) value);
		default:
			return Int64GetDatum(value);
	}
}

/* float8 from a number. */
static Datum
double_value(KsConverter *conv, KsType *type, const KsField *field)
{
	double		value;

	if (!ks_text_double(field->data, field->size, &value))
		return ks_input_text(conv, type, field->data, field->size);
	return Float8GetDatum(value);
}

/* float4 from a number. */
static Datum
float_value(KsConverter *conv, KsType *type, const KsField *field)
{
	float		value;

	if (!ks_text_float(field->data, field->size, &value))
		return ks_input_text(conv, type, field->data, field->size);
	return Float4GetDatum(value);
}

/* Builds a numeric and fits it to the typmod, as an assignment does (rounding to the scale, ERROR beyond the precision). */
Datum
ks_make_numeric(const KsType *type, int64 unscaled, int32 scale)
{
	static const int64 powers[] = {
		INT64CONST(1), INT64CONST(10), INT64CONST(100), INT64CONST(1000), INT64CONST(10000), INT64CONST(100000),
		INT64CONST(1000000), INT64CONST(10000000), INT64CONST(100000000), INT64CONST(1000000000),
		INT64CONST(10000000000), INT64CONST(100000000000), INT64CONST(1000000000000), INT64CONST(10000000000000),
		INT64CONST(100000000000000), INT64CONST(1000000000000000), INT64CONST(10000000000000000),
		INT64CONST(100000000000000000), INT64CONST(1000000000000000000)
	};
	const int	npowers = lengthof(powers);
	int32		typmod = type->class == KS_T_NUMERIC ? type->typmod : -1;
	Numeric		result;

	Assert(scale >= 0);
	if (typmod >= (int32) VARHDRSZ)
	{
		int32		precision = ((typmod - VARHDRSZ) >> 16) & 0xffff;
		int32		wanted = (((typmod - VARHDRSZ) & 0x7ff) ^ 1024) - 1024;
		int64		scaled;

		if (wanted >= scale && wanted - scale < npowers &&
			!pg_mul_s64_overflow(unscaled, powers[wanted - scale], &scaled) &&
			(precision >= npowers || (scaled < powers[precision] && scaled > -powers[precision])))
		{
			unscaled = scaled;
			scale = wanted;
			typmod = -1;		/* fits already */
		}
	}
	result = scale == 0 ? int64_to_numeric(unscaled) : int64_div_fast_to_numeric(unscaled, scale);
	if (typmod < 0)
		return NumericGetDatum(result);
	return DirectFunctionCall2(numeric, NumericGetDatum(result), Int32GetDatum(typmod));
}

/* numeric from a number or its text. */
static Datum
numeric_value(KsConverter *conv, KsType *type, const KsField *field)
{
	static const char plus[] = "POSITIVE_INFINITY";
	static const char minus[] = "NEGATIVE_INFINITY";
	int64		unscaled;
	int32		scale;

	if (ks_text_decimal(field->data, field->size, &unscaled, &scale))
		return ks_make_numeric(type, unscaled, scale);
	/* "decimal.handling.mode": "string" */
	if (conv->debezium && field->size == sizeof(plus) - 1)
	{
		if (memcmp(field->data, plus, field->size) == 0)
			return ks_input_text(conv, type, "Infinity", 8);
		if (memcmp(field->data, minus, field->size) == 0)
			return ks_input_text(conv, type, "-Infinity", 9);
	}
	return ks_input_text(conv, type, field->data, field->size);
}

/* text and varchar; a varchar that is too long is an ERROR unless only spaces are too many. */
static Datum
text_value(KsConverter *conv, KsType *type, const char *text, size_t size)
{
	if (size > MaxAllocSize - VARHDRSZ)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("value of %zu bytes is too long", size)));
	/* a string of n bytes has at most n characters */
	if (type->class == KS_T_VARCHAR && type->typmod >= (int32) VARHDRSZ && size > (size_t) (type->typmod - VARHDRSZ))
		return ks_input_text(conv, type, text, size);
	text = server_text(conv, text, &size);
	return PointerGetDatum(cstring_to_text_with_len(text, (int) size));
}

/* name; the input function would cut a long one without a word. */
static Datum
name_value(KsConverter *conv, KsType *type, const char *text, size_t size)
{
	char	   *string = ks_server_cstring(conv, text, size);

	if (strlen(string) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("value too long for type %s", format_type_be(type->declared))));
	return InputFunctionCall(&type->input, string, type->ioparam, type->typmod);
}

/* json and jsonb from text that the scanner has already found to be valid JSON. */
static Datum
raw_json_value(KsConverter *conv, KsType *type, const KsField *field)
{
	size_t		size = field->raw_size;
	const char *text;

	if (type->class == KS_T_JSONB)
		return ks_input_text(conv, type, field->raw, field->raw_size);
	text = server_text(conv, field->raw, &size);
	return PointerGetDatum(cstring_to_text_with_len(text, (int) size));
}

/* Rounds a finite timestamp to the precision in the type's typmod. */
int64
ks_round_timestamp(const KsType *type, int64 value)
{
	static const int64 units[] = {1000000, 100000, 10000, 1000, 100, 10};

	if (type->typmod < 0 || type->typmod > 5 || value % units[type->typmod] == 0)
		return value;
	/* what timestamp_scale() does; timestamptz has the same representation */
	return DatumGetTimestamp(DirectFunctionCall2(timestamp_scale, TimestampGetDatum(value),
												 Int32GetDatum(type->typmod)));
}

/* timestamp and timestamptz from ISO text; what is not quite that goes to the input function. */
static Datum
timestamp_value(KsConverter *conv, KsType *type, const KsField *field)
{
	KsDateTime	dt;
	int64		value;

	/* timestamp ignores a zone, timestamptz without one depends on TimeZone: leave both to the input functions */
	if (!ks_text_datetime(field->data, field->size, &dt) ||
		!IS_VALID_JULIAN(dt.year, dt.month, dt.day) ||
		dt.has_zone != (type->class == KS_T_TIMESTAMPTZ))
		return ks_input_text(conv, type, field->data, field->size);

	value = date2j(dt.year, dt.month, dt.day) - POSTGRES_EPOCH_JDATE;
	if (pg_mul_s64_overflow(value, USECS_PER_DAY, &value) ||
		pg_add_s64_overflow(value, dt.usec - dt.offset * USECS_PER_SEC, &value) ||
		!IS_VALID_TIMESTAMP(value))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp \"%.*s\" is out of range", (int) Min(field->size, 64), field->data)));
	return Int64GetDatum(ks_round_timestamp(type, value));
}

/* date from ISO text. */
static Datum
date_value(KsConverter *conv, KsType *type, const KsField *field)
{
	int			year;
	int			month;
	int			day;

	if (!ks_text_date(field->data, field->size, &year, &month, &day) || !IS_VALID_JULIAN(year, month, day))
		return ks_input_text(conv, type, field->data, field->size);
	day = date2j(year, month, day) - POSTGRES_EPOCH_JDATE;
	if (!IS_VALID_DATE(day))
		return ks_input_text(conv, type, field->data, field->size);
	return DateADTGetDatum(day);
}

/* A string. */
static Datum
string_value(KsConverter *conv, KsType *type, const KsField *field)
{
	/* json keeps \u0000 in its text */
	if (type->class == KS_T_JSON || type->class == KS_T_JSONB)
		return raw_json_value(conv, type, field);
	ks_check_nul(field);
	switch (type->class)
	{
		case KS_T_TEXT:
		case KS_T_VARCHAR:
			return text_value(conv, type, field->data, field->size);
		case KS_T_NAME:
			return name_value(conv, type, field->data, field->size);
		case KS_T_INT2:
		case KS_T_INT4:
		case KS_T_INT8:
		case KS_T_OID:
			return integer_value(conv, type, field);
		case KS_T_NUMERIC:
			return numeric_value(conv, type, field);
		case KS_T_DATE:
			return date_value(conv, type, field);
		case KS_T_TIMESTAMP:
		case KS_T_TIMESTAMPTZ:
			return timestamp_value(conv, type, field);
		case KS_T_UUID:
			{
				pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));

				if (ks_text_uuid(field->data, field->size, uuid->data))
					return UUIDPGetDatum(uuid);
				break;
			}
		default:
			break;
	}
	return ks_input_text(conv, type, field->data, field->size);
}

/* A number. */
static Datum
number_value(KsConverter *conv, KsType *type, const KsField *field)
{
	switch (type->class)
	{
		case KS_T_INT2:
		case KS_T_INT4:
		case KS_T_INT8:
		case KS_T_OID:
			return integer_value(conv, type, field);
		case KS_T_FLOAT8:
			return double_value(conv, type, field);
		case KS_T_FLOAT4:
			return float_value(conv, type, field);
		case KS_T_NUMERIC:
			return numeric_value(conv, type, field);
		case KS_T_TEXT:
		case KS_T_VARCHAR:
			return text_value(conv, type, field->data, field->size);
		case KS_T_JSON:
		case KS_T_JSONB:
			return raw_json_value(conv, type, field);
		case KS_T_DATE:
		case KS_T_TIME:
		case KS_T_TIMETZ:
		case KS_T_TIMESTAMP:
		case KS_T_TIMESTAMPTZ:
		case KS_T_INTERVAL:
			ks_unknown_unit(conv, type, field);
			break;
		case KS_T_BYTEA:
		case KS_T_UUID:
		case KS_T_POINT:
		case KS_T_ARRAY:
			ks_wrong_kind(type, field);
			break;
		default:
			break;
	}
	return ks_input_text(conv, type, field->data, field->size);
}

/* Bytes, which nobody has looked at yet. */
Datum
ks_bytes_value(KsConverter *conv, KsType *type, const KsField *field)
{
	KsField		text = *field;
	size_t		valid;

	if (type->class == KS_T_BYTEA)
	{
		bytea	   *value;

		if (field->size > MaxAllocSize - VARHDRSZ)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("value of %u bytes is too long", field->size)));
		value = palloc(VARHDRSZ + field->size);
		SET_VARSIZE(value, VARHDRSZ + field->size);
		memcpy(VARDATA(value), field->data, field->size);
		return PointerGetDatum(value);
	}
	valid = ks_utf8_check(field->data, field->size);
	if (valid < field->size)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("invalid UTF-8 at byte %zu", valid),
				 errhint("A column of type bytea takes any bytes.")));
	text.kind = KS_FIELD_STRING;
	text.has_nul = memchr(field->data, 0, field->size) != NULL;
	ks_check_nul(&text);
	if (type->class == KS_T_JSON || type->class == KS_T_JSONB)
		return ks_input_text(conv, type, text.data, text.size);
	return ks_plain_value(conv, type, &text);
}

/*
 * Converts a non-null field that stands for itself.  ERROR where it is no value of the type.
 */
Datum
ks_plain_value(KsConverter *conv, KsType *type, const KsField *field)
{
	switch (field->kind)
	{
		case KS_FIELD_NUMBER:
			return number_value(conv, type, field);
		case KS_FIELD_STRING:
			return string_value(conv, type, field);
		case KS_FIELD_TRUE:
		case KS_FIELD_FALSE:
			switch (type->class)
			{
				case KS_T_BOOL:
					return BoolGetDatum(field->kind == KS_FIELD_TRUE);
				case KS_T_BIT:
				case KS_T_VARBIT:
					return ks_input_text(conv, type, field->kind == KS_FIELD_TRUE ? "1" : "0", 1);
				case KS_T_TEXT:
				case KS_T_VARCHAR:
					return text_value(conv, type, field->data, field->size);
				case KS_T_JSON:
				case KS_T_JSONB:
					return raw_json_value(conv, type, field);
				default:
					ks_wrong_kind(type, field);
			}
			break;
		case KS_FIELD_OBJECT:
		case KS_FIELD_ARRAY:
			switch (type->class)
			{
				case KS_T_JSON:
				case KS_T_JSONB:
					return raw_json_value(conv, type, field);
				case KS_T_TEXT:
				case KS_T_VARCHAR:
					return text_value(conv, type, field->raw, field->raw_size);
				case KS_T_ARRAY:
					if (field->kind == KS_FIELD_ARRAY)
						return ks_array_value(conv, NULL, type, field);
					break;
				case KS_T_HSTORE:
					if (field->kind == KS_FIELD_OBJECT)
						return ks_hstore_value(conv, type, field->raw, field->raw_size);
					break;
				default:
					break;
			}
			ks_wrong_kind(type, field);
			break;
		case KS_FIELD_BYTES:
			return ks_bytes_value(conv, type, field);
		case KS_FIELD_NULL:
			if (type->class == KS_T_JSON || type->class == KS_T_JSONB)
				return raw_json_value(conv, type, field);
			break;
	}
	elog(ERROR, "field of unknown kind %d", (int) field->kind);
}
