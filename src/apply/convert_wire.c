/*
 * convert_wire.c: values in the encodings of Debezium and Kafka Connect (JSON), by their meaning.
 *
 * A value is decoded to its natural type first (days to date, base64 to numeric ...) and delivered to the column: as
 * it is where the column has that type, else as its text through the column's input function.
 */
#include "postgres.h"

#include "apply/convert_internal.h"
#include "apply/value_text.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "compat/pg_compat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/cash.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/geo_decls.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#define UNIX_EPOCH_DAYS (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)
#define UNIX_EPOCH_USECS ((int64) UNIX_EPOCH_DAYS * USECS_PER_DAY)

#define TIMESTAMP_YEAR_10000 (INT64CONST(2921940) * USECS_PER_DAY)	/* days from 2000-01-01 */

/* The longest unscaled value that a numeric can hold: 131072 digits before the point and 16383 behind it. */
#define MAX_DECIMAL_BYTES 61300

/*
 * How Debezium writes infinities: pgjdbc's milliseconds (as they are, also where the unit is microseconds), Java's
 * extreme values, and for dates PostgreSQL's own extremes after Java's int arithmetic wrapped around.
 */
#define TIMESTAMP_INFINITY_1 INT64CONST(9223372036825200000)
#define TIMESTAMP_MINUS_INFINITY_1 INT64CONST(-9223372036832400000)
#define DATE_INFINITY_1 INT64CONST(-2147472692)
#define DATE_MINUS_INFINITY_1 INT64CONST(-2147472691)

#define PLACEHOLDER "__debezium_unavailable_value"
#define PLACEHOLDER_BASE64 "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="
#define PLACEHOLDER_HEX "5f5f646562657a69756d5f756e617661696c61626c655f76616c7565"
#define PLACEHOLDER_BYTES "95,95,100,101,98,101,122,105,117,109,95,117,110,97,118,97,105,108,97,98,108,101,95,118,97,108,117,101"
#define PLACEHOLDER_UUID "b68a35a7-17ad-35b3-af2a-ae46edb4545a"	/* version 3, of the same bytes */

static inline bool
text_is(const char *text, size_t size, const char *literal, size_t literal_size)
{
	return size == literal_size && memcmp(text, literal, size) == 0;
}

#define TEXT_IS(text, size, literal) text_is(text, size, literal, sizeof(literal) - 1)

/* Is the field the placeholder of an unchanged TOAST value, in the form its type gives it? */
bool
ks_is_placeholder(const KsField *field)
{
	const char *data = field->data;
	size_t		size = field->size;

	switch (field->kind)
	{
		case KS_FIELD_STRING:
			return TEXT_IS(data, size, PLACEHOLDER) ||
				TEXT_IS(data, size, PLACEHOLDER_BASE64) ||
				TEXT_IS(data, size, PLACEHOLDER_HEX) ||
				TEXT_IS(data, size, "{\"" PLACEHOLDER "\":\"" PLACEHOLDER "\"}");
		case KS_FIELD_OBJECT:
			return TEXT_IS(data, size, "{\"" PLACEHOLDER "\":\"" PLACEHOLDER "\"}");
		case KS_FIELD_ARRAY:
			return TEXT_IS(data, size, "[\"" PLACEHOLDER "\"]") ||
				TEXT_IS(data, size, "[\"" PLACEHOLDER_BASE64 "\"]") ||
				TEXT_IS(data, size, "[\"" PLACEHOLDER_UUID "\"]") ||
				TEXT_IS(data, size, "[" PLACEHOLDER_BYTES "]");
		default:
			return false;
	}
}

/* Converts a value of a natural type to the column's, through text. */
static Datum
through_text(KsConverter *conv, KsType *type, KsTypeClass class, Oid natural, Datum value)
{
	FmgrInfo   *output = &conv->natural_output[class];

	if (output->fn_oid == InvalidOid)
	{
		Oid			function;
		bool		varlena;

		getTypeOutputInfo(natural, &function, &varlena);
		fmgr_info_cxt(function, output, conv->context);
	}
	return InputFunctionCall(&type->input, OutputFunctionCall(output, value), type->ioparam, type->typmod);
}

/* 64-bit integer of a number (Oracle's intervals are written as 1.0E7); ERROR beyond that, or with a fraction. */
static int64
wire_int64(const KsType *type, const KsField *field)
{
	int64		value;
	bool		overflow;
	double		number;
	char		text[40];

	if (!ks_text_int64(field->data, field->size, &value, &overflow))
	{
		if (!overflow && field->size < sizeof(text))
		{
			memcpy(text, field->data, field->size);
			text[field->size] = '\0';
			number = strtod(text, NULL);
			if (number > -9007199254740992.0 && number < 9007199254740992.0 && number == (double) (int64) number)
				return (int64) number;
		}
		ereport(ERROR,
				(errcode(overflow ? ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE : ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("value \"%.*s\" is no 64-bit integer, as the encoding of type %s needs",
						(int) Min(field->size, 40), field->data, format_type_be(type->declared))));
	}
	return value;
}

static void
out_of_range(const char *what, const KsField *field)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("%s out of range: \"%.*s\"", what, (int) Min(field->size, 40), field->data)));
}

/* Days since 1970-01-01. */
static Datum
date_value(KsConverter *conv, KsType *type, const KsField *field)
{
	int64		days = wire_int64(type, field);
	DateADT		date;

	if (days == DATE_INFINITY_1 || days == PG_INT32_MAX)
		date = DATEVAL_NOEND;
	else if (days == DATE_MINUS_INFINITY_1 || days == PG_INT32_MIN)
		date = DATEVAL_NOBEGIN;
	else
	{
		if (days < PG_INT32_MIN || days > PG_INT32_MAX || !IS_VALID_DATE(days - UNIX_EPOCH_DAYS))
			out_of_range("date", field);
		date = (DateADT) (days - UNIX_EPOCH_DAYS);
	}
	if (type->class == KS_T_DATE)
		return DateADTGetDatum(date);
	return through_text(conv, type, KS_T_DATE, DATEOID, DateADTGetDatum(date));
}

/* Units per second of a field that is a time or timestamp; ERROR if they are not known. */
static int32
unit_of(KsConverter *conv, const KsMeaning *meaning, const KsType *type, const KsField *field)
{
	if (!meaning->certain)
	{
		if (field->modes & KS_MODE_TIME_CONNECT)
			return 1000;
		if ((field->modes & KS_MODE_TIME_MICROS) && meaning->kind == KS_M_TIME)
			return 1000000;
	}
	if (meaning->unit == 0)
		ks_unknown_unit(conv, type, field);
	return meaning->unit;
}

/* Converts a count of units to microseconds; ERROR if it overflows. */
static int64
to_usecs(int32 unit, int64 value, const KsField *field, const char *what)
{
	int64		result;

	switch (unit)
	{
		case 1000:
			if (pg_mul_s64_overflow(value, 1000, &result))
				out_of_range(what, field);
			return result;
		case 1000000000:
			/* towards the past, so that order is kept */
			return value >= 0 ? value / 1000 : -((-(value + 1)) / 1000) - 1;
		default:
			return value;
	}
}

/* Gives a duration in microseconds to a column of any type. */
static Datum
deliver_duration(KsConverter *conv, KsType *type, int64 usecs)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = usecs;
	if (type->class != KS_T_INTERVAL)
		return through_text(conv, type, KS_T_INTERVAL, INTERVALOID, IntervalPGetDatum(interval));
	if (type->typmod >= 0)
		return DirectFunctionCall2(interval_scale, IntervalPGetDatum(interval), Int32GetDatum(type->typmod));
	return IntervalPGetDatum(interval);
}

/* Units since midnight; MySQL's TIME may be negative and longer than a day, which an interval can hold. */
static Datum
time_value(KsConverter *conv, const KsMeaning *meaning, KsType *type, const KsField *field)
{
	TimeADT		time = to_usecs(unit_of(conv, meaning, type, field), wire_int64(type, field), field, "time");

	if (type->class == KS_T_INTERVAL)
		return deliver_duration(conv, type, time);
	if (time < 0 || time > USECS_PER_DAY)
		out_of_range("time", field);
	if (type->class != KS_T_TIME)
		return through_text(conv, type, KS_T_TIME, TIMEOID, TimeADTGetDatum(time));
	if (type->typmod >= 0 && type->typmod < MAX_TIME_PRECISION)
		return DirectFunctionCall2(time_scale, TimeADTGetDatum(time), Int32GetDatum(type->typmod));
	return TimeADTGetDatum(time);
}

/* Gives a timestamp (or, "zoned", a timestamptz) to a column of any type. */
static Datum
deliver_timestamp(KsConverter *conv, KsType *type, Timestamp value, bool zoned)
{
	/* without a zone means UTC, both ways */
	if (type->class == KS_T_TIMESTAMP || type->class == KS_T_TIMESTAMPTZ)
		return TimestampGetDatum(TIMESTAMP_NOT_FINITE(value) ? value : ks_round_timestamp(type, value));
	return through_text(conv, type, zoned ? KS_T_TIMESTAMPTZ : KS_T_TIMESTAMP,
						zoned ? TIMESTAMPTZOID : TIMESTAMPOID, TimestampGetDatum(value));
}

/* Units since 1970-01-01. */
static Datum
timestamp_value(KsConverter *conv, const KsMeaning *meaning, KsType *type, const KsField *field)
{
	int64		value = wire_int64(type, field);

	if (value == TIMESTAMP_INFINITY_1 || value == PG_INT64_MAX)
		value = DT_NOEND;
	else if (value == TIMESTAMP_MINUS_INFINITY_1 || value == PG_INT64_MIN)
		value = DT_NOBEGIN;
	else
	{
		/* milliseconds are moved to PostgreSQL's epoch first: its last years overflow as microseconds since 1970 */
		int32		unit = unit_of(conv, meaning, type, field);
		bool		millis = unit == 1000;
		int64		epoch = millis ? UNIX_EPOCH_USECS / 1000 : UNIX_EPOCH_USECS;

		if (!millis)
			value = to_usecs(unit, value, field, "timestamp");
		if (pg_sub_s64_overflow(value, epoch, &value))
			out_of_range("timestamp", field);
		if (millis)
			value = to_usecs(unit, value, field, "timestamp");
		if (!IS_VALID_TIMESTAMP(value))
			out_of_range("timestamp", field);
		/* no other database knows the year 10000: the unit is a smaller one */
		if (meaning->guessed && value >= TIMESTAMP_YEAR_10000)
			ks_unknown_unit(conv, type, field);
	}
	return deliver_timestamp(conv, type, value, false);
}

/* ISO 8601 text with a zone; "infinity" and what else the input function knows. */
static Datum
zoned_timestamp_value(KsConverter *conv, KsType *type, const KsField *field)
{
	KsDateTime	dt;
	int64		value;

	ks_check_nul(field);
	if (!ks_text_datetime(field->data, field->size, &dt) || !dt.has_zone ||
		!IS_VALID_JULIAN(dt.year, dt.month, dt.day))
		return ks_plain_value(conv, type, field);
	value = date2j(dt.year, dt.month, dt.day) - POSTGRES_EPOCH_JDATE;
	if (pg_mul_s64_overflow(value, USECS_PER_DAY, &value) ||
		pg_add_s64_overflow(value, dt.usec - dt.offset * USECS_PER_SEC, &value) ||
		!IS_VALID_TIMESTAMP(value))
		out_of_range("timestamp", field);
	return deliver_timestamp(conv, type, value, true);
}

/* A duration in units. */
static Datum
duration_value(KsConverter *conv, const KsMeaning *meaning, KsType *type, const KsField *field)
{
	return deliver_duration(conv, type, to_usecs(meaning->unit, wire_int64(type, field), field, "interval"));
}

/*
 * Decodes base64 into new memory; NULL if it is not that.  Only the standard alphabet: the minus of the other one
 * would make "-123" base64.
 */
static unsigned char *
base64_bytes(const char *text, size_t size, size_t *out_size)
{
	unsigned char *bytes = palloc(KS_BASE64_SIZE(size) + 1);

	if (ks_text_base64(text, size, false, bytes, out_size))
		return bytes;
	pfree(bytes);
	return NULL;
}

/*
 * Text of a two's complement big-endian integer, with an exponent: "-123e-2".  Divides by 10^9 over limbs of 32 bits;
 * the caller bounds the size.
 */
static char *
big_decimal_text(const unsigned char *bytes, size_t size, int32 scale)
{
	size_t		nlimbs = (size + 3) / 4;
	uint32	   *limbs = palloc0(nlimbs * sizeof(uint32));	/* most significant first */
	bool		negative = (bytes[0] & 0x80) != 0;
	size_t		max_groups = size / 3 + 2;	/* nine digits take more than three bytes */
	char	   *text = palloc(max_groups * 9 + 32);
	char	   *end = text + max_groups * 9 + 1;
	char	   *begin = end;
	size_t		first = 0;

	for (size_t i = 0; i < nlimbs * 4; i++)
	{
		size_t		pad = nlimbs * 4 - size;
		unsigned char byte = i < pad ? (negative ? 0xff : 0) : bytes[i - pad];

		limbs[i / 4] = limbs[i / 4] << 8 | byte;
	}
	if (negative)
	{
		uint64		carry = 1;

		for (size_t i = nlimbs; i-- > 0;)
		{
			carry += (uint32) ~limbs[i];
			limbs[i] = (uint32) carry;
			carry >>= 32;
		}
	}
	do
	{
		uint64		rest = 0;

		CHECK_FOR_INTERRUPTS();
		for (size_t i = first; i < nlimbs; i++)
		{
			rest = rest << 32 | limbs[i];
			limbs[i] = (uint32) (rest / 1000000000);
			rest %= 1000000000;
		}
		for (int digit = 0; digit < 9; digit++)
		{
			*--begin = (char) ('0' + rest % 10);
			rest /= 10;
		}
		while (first < nlimbs && limbs[first] == 0)
			first++;
	} while (first < nlimbs);
	if (negative)
		*--begin = '-';
	sprintf(end, "e%d", -scale);
	pfree(limbs);
	return begin;
}

/* Gives a numeric to a column of any type. */
static Datum
deliver_decimal(KsConverter *conv, KsType *type, const unsigned char *bytes, size_t size, int32 scale)
{
	Datum		value;

	if (size == 0 || size > MAX_DECIMAL_BYTES || scale > 16383 || scale < -131072)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("decimal of %zu bytes and scale %d is out of range", size, scale)));
	if (size <= sizeof(int64) && scale >= 0 && scale <= 1000)
	{
		/* unsigned, as a shifted negative number is undefined */
		uint64		unscaled = (bytes[0] & 0x80) != 0 ? PG_UINT64_MAX : 0;

		for (size_t i = 0; i < size; i++)
			unscaled = unscaled << 8 | bytes[i];
		value = ks_make_numeric(type, (int64) unscaled, scale);
	}
	else
		value = DirectFunctionCall3(numeric_in, CStringGetDatum(big_decimal_text(bytes, size, scale)),
									ObjectIdGetDatum(InvalidOid),
									Int32GetDatum(type->class == KS_T_NUMERIC ? type->typmod : -1));
	if (type->class == KS_T_NUMERIC)
		return value;
	if (type->class == KS_T_MONEY)
		return DirectFunctionCall1(numeric_cash, value);
	return through_text(conv, type, KS_T_NUMERIC, NUMERICOID, value);
}

/* A decimal in a string: base64 of the unscaled value, or (only where it can be nothing else) text. */
static Datum
decimal_string_value(KsConverter *conv, const KsMeaning *meaning, KsType *type, const KsField *field)
{
	size_t		size;
	unsigned char *bytes = base64_bytes(field->data, field->size, &size);

	if (bytes != NULL && size > 0)
	{
		if (meaning->scale != KS_SCALE_UNKNOWN)
			return deliver_decimal(conv, type, bytes, size, meaning->scale);
		if (TEXT_IS(field->data, field->size, "Infinity"))
			return ks_plain_value(conv, type, field);
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("cannot tell the scale of decimal \"%.*s\"", (int) Min(field->size, 40), field->data),
				 errhint("Name the source's type in option \"column_types\", for example {\"%s\": \"numeric(10,2)\"}, or \"text\" for decimals in text.",
						 conv->current->name)));
	}

	/*
	 * With a scale, text has a point in it (or is NaN) and cannot be taken for base64.  Integers in text can, so they
	 * are refused rather than read right or wrong by their length.
	 */
	if (!meaning->certain && meaning->scale != 0)
	{
		ks_check_nul(field);
		return ks_plain_value(conv, type, field);
	}
	if (!meaning->certain &&
		(TEXT_IS(field->data, field->size, "NaN") || TEXT_IS(field->data, field->size, "NAN")))
		return ks_plain_value(conv, type, field);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("decimal \"%.*s\" is not in base64", (int) Min(field->size, 40), field->data),
			 meaning->certain ? 0 :
			 errhint("For decimals in text, set option \"column_types\" to {\"%s\": \"text\"}.", conv->current->name)));
	return (Datum) 0;
}

/* VariableScaleDecimal: {"scale":n,"value":"base64"}. */
static Datum
decimal_struct_value(KsConverter *conv, KsType *type, const KsField *field)
{
	KsJson		json;
	KsField		member;
	bool		first = true;
	int64		scale = PG_INT64_MIN;
	unsigned char *bytes = NULL;
	size_t		size = 0;

	ks_json_init(&json, field->raw, field->raw_size, &conv->arena);
	while (ks_json_peek(&json) >= 0 && ks_json_next_member(&json, &first, &member) > 0)
	{
		if (!ks_json_value(&json, &member))
			break;
		if (TEXT_IS(member.name, member.name_size, "scale") && member.kind == KS_FIELD_NUMBER)
			scale = wire_int64(type, &member);
		else if (TEXT_IS(member.name, member.name_size, "value") && member.kind == KS_FIELD_STRING)
			bytes = base64_bytes(member.data, member.size, &size);
	}
	if (bytes == NULL || scale < PG_INT32_MIN || scale > PG_INT32_MAX || scale == KS_SCALE_UNKNOWN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("JSON object is no decimal: it needs an integer \"scale\" and a base64 \"value\"")));
	return deliver_decimal(conv, type, bytes, size, (int32) scale);
}

/* Gives bytes to a column of any type. */
static Datum
deliver_bytes(KsConverter *conv, KsType *type, bytea *value)
{
	if (type->class == KS_T_BYTEA)
		return PointerGetDatum(value);
	return through_text(conv, type, KS_T_BYTEA, BYTEAOID, PointerGetDatum(value));
}

/* Bytes in base64 or hexadecimal digits: as schema or writer say, else as the types do. */
static Datum
bytes_value(KsConverter *conv, const KsMeaning *meaning, KsType *type, const KsField *field)
{
	bool		hex = meaning->certain || (field->modes & KS_MODE_BINARY) == 0
		? meaning->kind == KS_M_HEX : (field->modes & KS_MODE_HEX) != 0;
	bytea	   *value = palloc(VARHDRSZ + (hex ? field->size / 2 : KS_BASE64_SIZE(field->size)) + 1);
	size_t		size = field->size / 2;

	/* PostgreSQL's own form; base64 has no backslash */
	if (field->size >= 2 && field->data[0] == '\\' && field->data[1] == 'x')
		return ks_plain_value(conv, type, field);
	if (hex
		? !ks_text_hex(field->data, field->size, (unsigned char *) VARDATA(value))
		: !ks_text_base64(field->data, field->size, true, (unsigned char *) VARDATA(value), &size))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("bytes are not in %s", hex ? "hexadecimal digits" : "base64"),
				 hex ? 0 :
				 errhint("For bytes in hexadecimal digits, set option \"binary.handling.mode\" to \"hex\", or \"column_types\" to {\"%s\": \"text\"}.",
						 conv->current->name)));
	SET_VARSIZE(value, VARHDRSZ + size);
	return deliver_bytes(conv, type, value);
}

/* Bits as a number, which is what BIT columns of MySQL are often used for. */
static Datum
bits_number(KsConverter *conv, KsType *type, const unsigned char *bytes, size_t size, size_t nbits)
{
	uint64		number = 0;
	char		text[32];
	KsField		field = {.kind = KS_FIELD_NUMBER, .data = text};

	if (nbits > 64)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("%zu bits are too many for a number", nbits)));
	for (size_t i = 0; i < Min(size, 8); i++)
		number |= (uint64) bytes[i] << (i * 8);
	field.size = snprintf(text, sizeof(text), UINT64_FORMAT, number);
	return ks_plain_value(conv, type, &field);
}

/* Bits: little-endian bytes, of which trailing zero bytes may be missing, to digits and the input function. */
static Datum
bits_value(KsConverter *conv, const KsMeaning *meaning, KsType *type, const KsField *field)
{
	size_t		size;
	unsigned char *bytes = base64_bytes(field->data, field->size, &size);
	size_t		nbits;
	size_t		length;
	char	   *digits;

	if (bytes == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("bits are not in base64")));
	for (nbits = size * 8; nbits > 0 && (bytes[(nbits - 1) / 8] >> ((nbits - 1) % 8) & 1) == 0;)
		nbits--;
	/* a fixed length is filled up with zeros; a varying one is not in the message, but one zero byte is one zero */
	length = meaning->length > 0 ? (size_t) meaning->length : Max(nbits, size > 0 ? 1 : 0);
	if (nbits > length)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_LENGTH_MISMATCH),
				 errmsg("%zu bits do not fit into %zu", nbits, length)));
	if (type->class == KS_T_INT2 || type->class == KS_T_INT4 || type->class == KS_T_INT8 || type->class == KS_T_NUMERIC)
		return bits_number(conv, type, bytes, size, nbits);
	if (type->class != KS_T_BIT && type->class != KS_T_VARBIT && type->class != KS_T_TEXT && type->class != KS_T_VARCHAR)
		ks_wrong_kind(type, field);
	digits = palloc(length + 1);
	for (size_t i = 0; i < length; i++)
		digits[length - 1 - i] = i < nbits && (bytes[i / 8] >> (i % 8) & 1) != 0 ? '1' : '0';
	digits[length] = '\0';
	return InputFunctionCall(&type->input, digits, type->ioparam, type->typmod);
}

/* Point: {"x":..,"y":..,"wkb":..,"srid":..}; x and y are enough. */
static Datum
point_value(KsConverter *conv, KsType *type, const KsField *field)
{
	KsJson		json;
	KsField		member;
	bool		first = true;
	bool		has_x = false;
	bool		has_y = false;
	Point	   *point = palloc0(sizeof(Point));

	ks_json_init(&json, field->raw, field->raw_size, &conv->arena);
	while (ks_json_peek(&json) >= 0 && ks_json_next_member(&json, &first, &member) > 0)
	{
		bool		x;

		if (!ks_json_value(&json, &member))
			break;
		x = TEXT_IS(member.name, member.name_size, "x");
		if ((!x && !TEXT_IS(member.name, member.name_size, "y")) ||
			(member.kind != KS_FIELD_NUMBER && member.kind != KS_FIELD_STRING))
			continue;
		ks_check_nul(&member);
		*(x ? &point->x : &point->y) =
			DatumGetFloat8(DirectFunctionCall1(float8in,
											   CStringGetDatum(ks_server_cstring(conv, member.data, member.size))));
		*(x ? &has_x : &has_y) = true;
	}
	if (!has_x || !has_y)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("JSON object is no point: it needs \"x\" and \"y\"")));
	if (type->class == KS_T_POINT)
		return PointPGetDatum(point);
	return through_text(conv, type, KS_T_POINT, POINTOID, PointPGetDatum(point));
}

/*
 * Converts a non-null field by its meaning.  A JSON kind that the meaning does not have stands for itself.
 */
Datum
ks_wire_value(KsConverter *conv, const KsMeaning *meaning, KsType *type, const KsField *field)
{
	bool		number = field->kind == KS_FIELD_NUMBER;
	bool		string = field->kind == KS_FIELD_STRING;
	bool		object = field->kind == KS_FIELD_OBJECT;

	switch (meaning->kind)
	{
		case KS_M_PLAIN:
			break;
		case KS_M_DATE:
			if (number)
				return date_value(conv, type, field);
			break;
		case KS_M_TIME:
			if (number)
				return time_value(conv, meaning, type, field);
			break;
		case KS_M_TIMESTAMP:
			if (number)
				return timestamp_value(conv, meaning, type, field);
			break;
		case KS_M_ZONED_TIMESTAMP:
			if (string)
				return zoned_timestamp_value(conv, type, field);
			break;
		case KS_M_DURATION:
			if (number)
				return duration_value(conv, meaning, type, field);
			break;
		case KS_M_DECIMAL:
			if (string)
				return decimal_string_value(conv, meaning, type, field);
			if (object)
				return decimal_struct_value(conv, type, field);
			break;
		case KS_M_BYTES:
		case KS_M_HEX:
			if (string)
				return bytes_value(conv, meaning, type, field);
			break;
		case KS_M_BITS:
			if (string)
				return bits_value(conv, meaning, type, field);
			break;
		case KS_M_JSON:
			if (string)
			{
				ks_check_nul(field);
				return ks_input_text(conv, type, field->data, field->size);
			}
			break;
		case KS_M_HSTORE:
			if (object || (string && field->size > 0 && field->data[0] == '{'))
			{
				ks_check_nul(field);
				return ks_hstore_value(conv, type, field->data, field->size);
			}
			break;
		case KS_M_POINT:
			if (object)
				return point_value(conv, type, field);
			break;
		case KS_M_ARRAY:
			if (field->kind == KS_FIELD_ARRAY && type->class == KS_T_ARRAY)
				return ks_array_value(conv, meaning->element, type, field);
			break;
	}
	return ks_plain_value(conv, type, field);
}
