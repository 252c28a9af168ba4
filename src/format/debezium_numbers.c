/*
 * debezium_numbers.c: booleans, numbers and money in Debezium's JSON encodings; see debezium_values.c.
 */
#include "postgres.h"

#include <math.h>

#include "common/shortest_dec.h"
#include "utils/cash.h"

#include "format/debezium_types.h"
#include "format/numeric_digits.h"
#include "format/text_out.h"

/* boolean: true or false. */
void
ks_dbz_bool(StringInfo out, KsColumn *column, Datum value)
{
	if (DatumGetBool(value))
		ks_put_literal(out, "true");
	else
		ks_put_literal(out, "false");
}

/* smallint: a number. */
void
ks_dbz_int2(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_int64(out, DatumGetInt16(value));
}

/* integer: a number. */
void
ks_dbz_int4(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_int64(out, DatumGetInt32(value));
}

/* bigint: a number. */
void
ks_dbz_int8(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_int64(out, DatumGetInt64(value));
}

/* oid: a number. */
void
ks_dbz_oid(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_uint64(out, DatumGetObjectId(value));
}

/*
 * Appends a finite number, given in its shortest form, the way Java's toString writes it: 1.0, 0.001, 1.0E10.
 */
static void
put_java_number(StringInfo out, double magnitude, const char *text, int size)
{
	bool		plain = magnitude == 0 || (magnitude >= 1e-3 && magnitude < 1e7);
	char		digits[32];
	int			ndigits = 0;
	int			point = -1;
	int			exponent = 0;
	int			first = 0;
	char	   *p;

	if (plain && memchr(text, 'e', size) == NULL)
	{
		ks_put(out, text, size);
		if (memchr(text, '.', size) == NULL)
			ks_put_literal(out, ".0");
		return;
	}

	/* Take it apart: value = d.ddd * 10^exponent. */
	for (int i = 0; i < size; i++)
	{
		if (text[i] == '-')
			ks_put_char(out, '-');
		else if (text[i] == '.')
			point = ndigits;
		else if (text[i] == 'e')
		{
			bool		negative = text[++i] == '-';

			while (++i < size)
				exponent = exponent * 10 + (text[i] - '0');
			if (negative)
				exponent = -exponent;
		}
		else
			digits[ndigits++] = text[i];
	}
	exponent += (point < 0 ? ndigits : point) - 1;
	while (first < ndigits - 1 && digits[first] == '0')
	{
		first++;
		exponent--;
	}
	while (ndigits > first + 1 && digits[ndigits - 1] == '0')
		ndigits--;

	p = ks_reserve(out, sizeof(digits) + 16);
	if (plain && exponent < 0)
	{
		*p++ = '0';
		*p++ = '.';
		for (int i = -1; i > exponent; i--)
			*p++ = '0';
	}
	else
	{
		for (int i = 0; i <= (plain ? exponent : 0); i++)
			*p++ = first < ndigits ? digits[first++] : '0';
		*p++ = '.';
		if (first == ndigits)
			*p++ = '0';
	}
	while (first < ndigits)
		*p++ = digits[first++];
	out->len = p - out->data;
	if (!plain)
	{
		ks_put_char(out, 'E');
		ks_put_int64(out, exponent);
	}
}

/* Appends the string that Jackson writes for a float that is no number; false if it is one. */
static bool
put_special_float(StringInfo out, double value)
{
	if (isnan(value))
		ks_put_literal(out, "\"NaN\"");
	else if (isinf(value))
	{
		if (value > 0)
			ks_put_literal(out, "\"Infinity\"");
		else
			ks_put_literal(out, "\"-Infinity\"");
	}
	else
		return false;
	return true;
}

/* Appends a float8. */
void
ks_dbz_put_double(StringInfo out, double value)
{
	char		buf[DOUBLE_SHORTEST_DECIMAL_LEN];

	if (!put_special_float(out, value))
		put_java_number(out, fabs(value), buf, double_to_shortest_decimal_bufn(value, buf));
}

/* real: a number in Java's form, or the name of what is none. */
void
ks_dbz_float4(StringInfo out, KsColumn *column, Datum value)
{
	float4		number = DatumGetFloat4(value);
	char		buf[FLOAT_SHORTEST_DECIMAL_LEN];

	if (!put_special_float(out, number))
		put_java_number(out, fabs(number), buf, float_to_shortest_decimal_bufn(number, buf));
}

/* double precision: the same. */
void
ks_dbz_float8(StringInfo out, KsColumn *column, Datum value)
{
	ks_dbz_put_double(out, DatumGetFloat8(value));
}

/* Raises the error for NaN and infinities where only numbers go. */
static void
check_finite(KsColumn *column, const KsNumeric *num)
{
	if (unlikely(num->kind != KS_NUMERIC_FINITE))
		ks_cannot_encode(column, psprintf("is %s, which decimal.handling.mode \"precise\" cannot carry",
										  num->kind == KS_NUMERIC_NAN ? "NaN" :
										  num->kind == KS_NUMERIC_INFINITY ? "Infinity" : "-Infinity"),
						 "Set option \"decimal.handling.mode\" to \"string\" or \"double\".");
}

/* Appends value * 10^scale as the base64 of its bytes. */
static void
put_unscaled(StringInfo out, KsColumn *column, const KsNumeric *num, int scale)
{
	unsigned char small[64];
	unsigned char *bytes;
	int			size = ks_numeric_unscaled(num, scale, small, sizeof(small), &bytes);

	if (unlikely(size < 0))
		ks_cannot_encode(column, psprintf("has digits beyond the column's scale of %d", scale),
						 "Set option \"decimal.handling.mode\" to \"string\".");
	ks_put_char(out, '"');
	ks_put_base64(out, bytes, size, false);
	ks_put_char(out, '"');
	if (bytes != small)
		pfree(bytes);
}

/* numeric(p,s) as Connect's Decimal. */
void
ks_dbz_decimal(StringInfo out, KsColumn *column, Datum value)
{
	KsNumeric	num;

	ks_numeric_read(value, &num);
	check_finite(column, &num);
	put_unscaled(out, column, &num, column->scale);
}

/* numeric without a declared scale: a struct that says its own. */
void
ks_dbz_decimal_variable(StringInfo out, KsColumn *column, Datum value)
{
	KsNumeric	num;
	int			scale;

	ks_numeric_read(value, &num);
	check_finite(column, &num);
	scale = ks_numeric_minimal_scale(&num);
	ks_put_literal(out, "{\"scale\":");
	ks_put_int64(out, scale);
	ks_put_literal(out, ",\"value\":");
	put_unscaled(out, column, &num, scale);
	ks_put_char(out, '}');
}

/* Appends the double nearest to a number in text; ERROR if there is none. */
static void
put_double_text(StringInfo out, KsColumn *column, const char *text)
{
	double		number = strtod(text, NULL);

	if (isinf(number))
		ks_cannot_encode(column, "is out of the range that decimal.handling.mode \"double\" can carry",
						 "Set option \"decimal.handling.mode\" to \"string\" or \"precise\".");
	ks_dbz_put_double(out, number);
}

/* numeric in mode double; ERROR if it is out of range. */
void
ks_dbz_decimal_double(StringInfo out, KsColumn *column, Datum value)
{
	KsNumeric	num;
	StringInfoData text;

	ks_numeric_read(value, &num);
	initStringInfo(&text);
	ks_numeric_put_text(&text, &num);
	ks_terminate(&text);
	if (num.kind == KS_NUMERIC_FINITE)
		put_double_text(out, column, text.data);
	else
		ks_put_string(out, text.data, text.len);
	pfree(text.data);
}

/* Debezium writes special values by the names of its Java constants. */
void
ks_dbz_decimal_string(StringInfo out, KsColumn *column, Datum value)
{
	KsNumeric	num;

	ks_numeric_read(value, &num);
	switch (num.kind)
	{
		case KS_NUMERIC_NAN:
			ks_put_literal(out, "\"NAN\"");
			break;
		case KS_NUMERIC_INFINITY:
			ks_put_literal(out, "\"POSITIVE_INFINITY\"");
			break;
		case KS_NUMERIC_MINUS_INFINITY:
			ks_put_literal(out, "\"NEGATIVE_INFINITY\"");
			break;
		case KS_NUMERIC_FINITE:
			ks_put_char(out, '"');
			ks_numeric_put_text(out, &num);
			ks_put_char(out, '"');
			break;
	}
}

/* money as Connect's Decimal of scale 2. */
void
ks_dbz_money(StringInfo out, KsColumn *column, Datum value)
{
	unsigned char bytes[8];
	int			size = ks_int64_bytes(DatumGetCash(value), bytes);

	ks_put_char(out, '"');
	ks_put_base64(out, bytes, size, false);
	ks_put_char(out, '"');
}

/* Appends money as a plain number with two digits after the point. */
static void
put_money_digits(StringInfo out, int64 value)
{
	uint64		cents = value < 0 ? -(uint64) value : (uint64) value;
	char	   *p;

	if (value < 0)
		ks_put_char(out, '-');
	ks_put_uint64(out, cents / 100);
	p = ks_reserve(out, 3);
	*p++ = '.';
	ks_write_two(p, (unsigned) (cents % 100));
	out->len += 3;
}

/* money in mode double. */
void
ks_dbz_money_double(StringInfo out, KsColumn *column, Datum value)
{
	StringInfoData text;

	initStringInfo(&text);
	put_money_digits(&text, DatumGetCash(value));
	ks_terminate(&text);
	put_double_text(out, column, text.data);
	pfree(text.data);
}

/* money in mode string. */
void
ks_dbz_money_string(StringInfo out, KsColumn *column, Datum value)
{
	ks_put_char(out, '"');
	put_money_digits(out, DatumGetCash(value));
	ks_put_char(out, '"');
}
