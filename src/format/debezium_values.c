/*
 * debezium_values.c: values of all but the numeric types in Debezium's JSON encodings.
 *
 * Each function appends the JSON of one value that is not null.  What an encoding cannot carry is an ERROR that names
 * the column and the option that can.
 */
#include "postgres.h"

#include "access/tupmacs.h"
#include "common/int.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/geo_decls.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/varbit.h"

#include "compat/pg_compat.h"
#include "format/debezium_types.h"
#include "format/text_out.h"

#define UNIX_EPOCH_DAYS (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)
#define UNIX_EPOCH_MICROS (UNIX_EPOCH_DAYS * USECS_PER_DAY)

/* What the JDBC driver makes of infinite timestamps, in milliseconds. */
#define INFINITY_MILLIS INT64CONST(9223372036825200000)
#define MINUS_INFINITY_MILLIS (-INT64CONST(9223372036832400000))

/* Infinite dates become the ends of the int32 range, which no finite date reaches. */
void
ks_dbz_date(StringInfo out, KsColumn *column, Datum value)
{
	DateADT		date = DatumGetDateADT(value);

	ks_put_int64(out, DATE_NOT_FINITE(date) ? date : date + UNIX_EPOCH_DAYS);
}

/* time as milliseconds since midnight. */
void
ks_dbz_time_millis(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_int64(out, DatumGetTimeADT(value) / 1000);
}

/* time as microseconds since midnight. */
void
ks_dbz_time_micros(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_int64(out, DatumGetTimeADT(value));
}

/* A time with zone, moved to UTC. */
void
ks_dbz_timetz(StringInfo out, KsColumn *column, Datum value)
{
	TimeTzADT  *time = DatumGetTimeTzADTP(value);
	int64		utc = time->time + time->zone * USECS_PER_SEC;
	char	   *p;

	if (time->time != USECS_PER_DAY || time->zone != 0)
	{
		utc %= USECS_PER_DAY;
		if (utc < 0)
			utc += USECS_PER_DAY;
	}
	p = ks_reserve(out, KS_CLOCK_SIZE + 3);
	*p++ = '"';
	p = ks_write_clock(p, utc, 0);
	*p++ = 'Z';
	*p++ = '"';
	out->len = p - out->data;
}

/* timestamp as milliseconds since 1970. */
void
ks_dbz_timestamp_millis(StringInfo out, KsColumn *column, Datum value)
{
	Timestamp	timestamp = DatumGetTimestamp(value);
	int64		millis;

	if (TIMESTAMP_IS_NOEND(timestamp))
		millis = INFINITY_MILLIS;
	else if (TIMESTAMP_IS_NOBEGIN(timestamp))
		millis = MINUS_INFINITY_MILLIS;
	else
	{
		millis = timestamp / 1000;
		if (timestamp % 1000 < 0)
			millis--;
		millis += UNIX_EPOCH_MICROS / 1000;
	}
	ks_put_int64(out, millis);
}

/* The last years that PostgreSQL knows do not fit into 64 bits of microseconds since 1970. */
void
ks_dbz_timestamp_micros(StringInfo out, KsColumn *column, Datum value)
{
	Timestamp	timestamp = DatumGetTimestamp(value);
	int64		micros;

	if (unlikely(TIMESTAMP_NOT_FINITE(timestamp)))
		micros = timestamp;
	else if (unlikely(pg_add_s64_overflow(timestamp, UNIX_EPOCH_MICROS, &micros) || micros == PG_INT64_MAX))
		ks_cannot_encode(column, "is beyond what microseconds since 1970 can carry",
						 "Set option \"time.precision.mode\" to \"connect\".");
	ks_put_int64(out, micros);
}

/* timestamptz as ISO text in UTC, padded to the precision of the column. */
void
ks_dbz_timestamptz(StringInfo out, KsColumn *column, Datum value)
{
	TimestampTz timestamp = DatumGetTimestampTz(value);
	int32		day;
	int64		micros;
	bool		is_bc;
	char	   *p;

	if (unlikely(TIMESTAMP_NOT_FINITE(timestamp)))
	{
		if (TIMESTAMP_IS_NOEND(timestamp))
			ks_put_literal(out, "\"infinity\"");
		else
			ks_put_literal(out, "\"-infinity\"");
		return;
	}
	ks_split_timestamp(timestamp, &day, &micros);
	p = ks_reserve(out, KS_DAY_SIZE + KS_CLOCK_SIZE + 4);
	*p++ = '"';
	p = ks_write_day(p, day, KS_YEAR_ISO, &is_bc);
	*p++ = 'T';
	p = ks_write_clock(p, micros, column->scale);
	*p++ = 'Z';
	*p++ = '"';
	out->len = p - out->data;
}

/* Microseconds, a month being 365.25 / 12 days. */
void
ks_dbz_interval(StringInfo out, KsColumn *column, Datum value)
{
	const int64 month = INT64CONST(2629800) * USECS_PER_SEC;
	Interval   *interval = DatumGetIntervalP(value);
	int64		micros;
	int64		days = interval->day * USECS_PER_DAY;	/* cannot overflow: 32 bits by 37 */

	if (ks_interval_infinity(interval) != 0 ||
		pg_mul_s64_overflow(interval->month, month, &micros) ||
		pg_add_s64_overflow(micros, days, &micros) ||
		pg_add_s64_overflow(micros, interval->time, &micros))
		ks_cannot_encode(column, "is beyond what interval.handling.mode \"numeric\" can carry",
						 "Set option \"interval.handling.mode\" to \"string\".");
	ks_put_int64(out, micros);
}

/* ISO 8601 with every field written, each with its own sign. */
void
ks_dbz_interval_string(StringInfo out, KsColumn *column, Datum value)
{
	Interval   *interval = DatumGetIntervalP(value);
	int			infinite = ks_interval_infinity(interval);
	int64		seconds = interval->time / USECS_PER_SEC;
	int64		fraction = interval->time % USECS_PER_SEC;
	char		buf[160];

	if (infinite != 0)
	{
		ks_put(out, infinite > 0 ? "\"infinity\"" : "\"-infinity\"", infinite > 0 ? 10 : 11);
		return;
	}
	ks_put(out, buf, snprintf(buf, sizeof(buf), "\"P%dY%dM%dDT" INT64_FORMAT "H%dM%s%d",
							  interval->month / MONTHS_PER_YEAR, interval->month % MONTHS_PER_YEAR, interval->day,
							  seconds / SECS_PER_HOUR, (int) (seconds % SECS_PER_HOUR / SECS_PER_MINUTE),
							  fraction < 0 && seconds % SECS_PER_MINUTE == 0 ? "-" : "",
							  (int) (seconds % SECS_PER_MINUTE)));
	if (fraction != 0)
	{
		int			size = snprintf(buf, sizeof(buf), ".%06d", (int) (fraction < 0 ? -fraction : fraction));

		while (buf[size - 1] == '0')
			size--;
		ks_put(out, buf, size);
	}
	ks_put_literal(out, "S\"");
}

/* Appends a bytea as a string of base64. */
static void
put_bytea_base64(StringInfo out, Datum value, bool url_safe)
{
	struct varlena *datum = PG_DETOAST_DATUM_PACKED(value);

	ks_put_char(out, '"');
	ks_put_base64(out, (unsigned char *) VARDATA_ANY(datum), VARSIZE_ANY_EXHDR(datum), url_safe);
	ks_put_char(out, '"');
}

/* bytea in base64. */
void
ks_dbz_bytea_base64(StringInfo out, KsColumn *column, Datum value)
{
	put_bytea_base64(out, value, false);
}

/* bytea in the base64 for URLs. */
void
ks_dbz_bytea_url_safe(StringInfo out, KsColumn *column, Datum value)
{
	put_bytea_base64(out, value, true);
}

/* bytea in hexadecimal digits. */
void
ks_dbz_bytea_hex(StringInfo out, KsColumn *column, Datum value)
{
	struct varlena *datum = PG_DETOAST_DATUM_PACKED(value);

	ks_put_char(out, '"');
	ks_put_hex(out, VARDATA_ANY(datum), VARSIZE_ANY_EXHDR(datum));
	ks_put_char(out, '"');
}

/* bit(1) */
void
ks_dbz_bit(StringInfo out, KsColumn *column, Datum value)
{
	VarBit	   *bits = DatumGetVarBitP(value);

	ks_dbz_bool(out, column, BoolGetDatum(VARBITLEN(bits) > 0 && (VARBITS(bits)[0] & 0x80) != 0));
}

/* Other bit strings: little-endian bytes, up to the highest bit that is set. */
void
ks_dbz_bits(StringInfo out, KsColumn *column, Datum value)
{
	VarBit	   *bits = DatumGetVarBitP(value);
	int			length = VARBITLEN(bits);
	unsigned char *bytes = palloc0(length / 8 + 1);
	int			size = 0;

	for (int i = 0; i < length; i++)
	{
		int			from_right = length - 1 - i;

		if (VARBITS(bits)[i / 8] & (0x80 >> (i % 8)))
		{
			bytes[from_right / 8] |= 1 << (from_right % 8);
			if (size == 0)
				size = from_right / 8 + 1;
		}
	}
	ks_put_char(out, '"');
	ks_put_base64(out, bytes, size, false);
	ks_put_char(out, '"');
	pfree(bytes);
}

/* name: a string. */
void
ks_dbz_name(StringInfo out, KsColumn *column, Datum value)
{
	Name		name = DatumGetName(value);

	ks_put_text(out, column, NameStr(*name), strlen(NameStr(*name)));
}

/* jsonb: a string of its text. */
void
ks_dbz_jsonb(StringInfo out, KsColumn *column, Datum value)
{
	Jsonb	   *jsonb = DatumGetJsonbP(value);
	StringInfoData text;

	initStringInfo(&text);
	(void) JsonbToCString(&text, &jsonb->root, VARSIZE(jsonb));
	ks_put_text(out, column, text.data, text.len);
	pfree(text.data);
}

/* uuid: a string. */
void
ks_dbz_uuid(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_char(out, '"');
	ks_put_uuid(out, DatumGetUUIDP(value));
	ks_put_char(out, '"');
}

/*
 * hstore as the text of a JSON object; made from the type's own text, "key"=>"value" or "key"=>NULL, where only
 * quotes and backslashes are escaped.
 */
void
ks_dbz_hstore(StringInfo out, KsColumn *column, Datum value)
{
	const char *s = OutputFunctionCall(&column->output, value);
	StringInfoData json;
	StringInfoData word;

	initStringInfo(&json);
	initStringInfo(&word);
	ks_put_char(&json, '{');
	while (*s != '\0')
	{
		if (*s == '"')
		{
			resetStringInfo(&word);
			for (s++; *s != '"' && *s != '\0'; s++)
			{
				if (*s == '\\')
					s++;
				ks_put_char(&word, *s);
			}
			if (*s == '"')
				s++;
			ks_put_string(&json, word.data, word.len);
		}
		else if (*s == 'N')
		{
			ks_put_literal(&json, "null");
			s += strlen("NULL");
		}
		else
		{
			if (*s == '=')
				ks_put_char(&json, ':');
			else if (*s == ',')
				ks_put_char(&json, ',');
			s++;
		}
	}
	ks_put_char(&json, '}');
	ks_put_text(out, column, json.data, json.len);
	pfree(json.data);
	pfree(word.data);
}

/* Appends 8 bytes of a double, least significant first. */
static void
write_double_bytes(unsigned char *bytes, double number)
{
	uint64		bits;

	memcpy(&bits, &number, sizeof(bits));
	for (int i = 0; i < 8; i++)
		bytes[i] = (unsigned char) (bits >> (8 * i));
}

/* A point, also as well-known binary. */
void
ks_dbz_point(StringInfo out, KsColumn *column, Datum value)
{
	Point	   *point = DatumGetPointP(value);
	unsigned char wkb[21] = {1, 1, 0, 0, 0};

	write_double_bytes(wkb + 5, point->x);
	write_double_bytes(wkb + 13, point->y);
	ks_put_literal(out, "{\"x\":");
	ks_dbz_put_double(out, point->x);
	ks_put_literal(out, ",\"y\":");
	ks_dbz_put_double(out, point->y);
	ks_put_literal(out, ",\"wkb\":\"");
	ks_put_base64(out, wkb, sizeof(wkb), false);
	ks_put_literal(out, "\",\"srid\":null}");
}

/* The position in an array that put_dimension has come to. */
typedef struct ArrayCursor
{
	const char *data;
	const bits8 *nulls;			/* NULL if no element is null */
	int			index;
} ArrayCursor;

/* Appends one dimension of an array, and those below it. */
static void
put_dimension(StringInfo out, KsColumn *column, ArrayCursor *cursor, const int *dims, int ndims)
{
	KsColumn   *element = column->element;

	ks_put_char(out, '[');
	for (int i = 0; i < dims[0]; i++)
	{
		if (i > 0)
			ks_put_char(out, ',');
		if (ndims > 1)
			put_dimension(out, column, cursor, dims + 1, ndims - 1);
		else
		{
			if (cursor->nulls != NULL && !(cursor->nulls[cursor->index / 8] & (1 << (cursor->index % 8))))
				ks_put_literal(out, "null");
			else
			{
				const char *data = (const char *) att_align_pointer(cursor->data, column->element_align,
																	column->element_size, cursor->data);

				element->put(out, element, fetch_att(data, column->element_by_value, column->element_size));
				cursor->data = att_addlength_pointer(data, column->element_size, data);
			}
			cursor->index++;
		}
	}
	ks_put_char(out, ']');
}

/* Arrays of any number of dimensions, nested; lower bounds other than 1 cannot be carried. */
void
ks_dbz_array(StringInfo out, KsColumn *column, Datum value)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	int			ndims = ARR_NDIM(array);
	ArrayCursor cursor;

	if (ndims == 0)
	{
		ks_put_literal(out, "[]");
		return;
	}
	for (int i = 0; i < ndims; i++)
	{
		if (unlikely(ARR_LBOUND(array)[i] != 1))
			ks_cannot_encode(column, "is an array that does not begin at 1, which format \"debezium\" cannot carry",
							 "Use format \"json\", or store the array with its first index 1.");
	}
	cursor.data = ARR_DATA_PTR(array);
	cursor.nulls = ARR_NULLBITMAP(array);
	cursor.index = 0;
	put_dimension(out, column, &cursor, ARR_DIMS(array), ndims);
}

/* The same where schemas are sent, which know only arrays of one dimension. */
void
ks_dbz_array_flat(StringInfo out, KsColumn *column, Datum value)
{
	ArrayType  *array = DatumGetArrayTypeP(value);

	if (unlikely(ARR_NDIM(array) > 1))
		ks_cannot_encode(column, "is an array of several dimensions, which a Connect schema cannot describe",
						 "Set option \"schemas\" to false, or use format \"json\".");
	ks_dbz_array(out, column, PointerGetDatum(array));
}
