/*
 * Values in text: integers, decimals, dates, base64, UUIDs, floats.
 */
#include "apply/value_text.c"

#include <math.h>
#include <stdlib.h>

#include "tap.h"

static void
int64(const char *text, bool expected, int64_t value, bool overflow)
{
	int64_t		got = 0;
	bool		over;
	bool		result = ks_text_int64(text, strlen(text), &got, &over);

	ok(result == expected && (!expected || got == value) && over == overflow, "int64 \"%s\"", text);
}

static void
decimal(const char *text, bool expected, int64_t unscaled, int32_t scale)
{
	int64_t		got = 0;
	int32_t		got_scale = 0;
	bool		result = ks_text_decimal(text, strlen(text), &got, &got_scale);

	ok(result == expected && (!expected || (got == unscaled && got_scale == scale)), "decimal \"%s\"", text);
}

static void
datetime(const char *text, bool expected, int year, int month, int day, int64_t usec, bool zone, int offset)
{
	KsDateTime	dt;
	bool		result = ks_text_datetime(text, strlen(text), &dt);

	ok(result == expected && (!expected || (dt.year == year && dt.month == month && dt.day == day &&
											dt.usec == usec && dt.has_zone == zone && dt.offset == offset)),
	   "date and time \"%s\"", text);
}

static void
date(const char *text, bool expected)
{
	int			y,
				m,
				d;

	ok(ks_text_date(text, strlen(text), &y, &m, &d) == expected, "date \"%s\"", text);
}

static void
base64(const char *text, bool url_safe, bool expected, const char *bytes, size_t size)
{
	unsigned char *out = malloc(KS_BASE64_SIZE(strlen(text)) + 1);
	size_t		got = 0;
	bool		result = ks_text_base64(text, strlen(text), url_safe, out, &got);

	ok(result == expected && (!expected || (got == size && memcmp(out, bytes, size) == 0)), "base64 \"%s\"", text);
	free(out);
}

/* Fast and slow ways agree to the bit. */
static void
floats(const char *text)
{
	double		d = 0;
	float		f = 0;

	if (ks_text_double(text, strlen(text), &d))
	{
		double		expected = strtod(text, NULL);

		ok(memcmp(&d, &expected, sizeof(d)) == 0, "double %s", text);
	}
	if (ks_text_float(text, strlen(text), &f))
	{
		float		expected = strtof(text, NULL);

		ok(memcmp(&f, &expected, sizeof(f)) == 0, "float %s", text);
	}
}

int
main(void)
{
	unsigned char uuid[16];
	int			differ = 0;

	int64("0", true, 0, false);
	int64("-1", true, -1, false);
	int64("+5", true, 5, false);
	int64("9223372036854775807", true, INT64_MAX, false);
	int64("-9223372036854775808", true, INT64_MIN, false);
	int64("9223372036854775808", false, 0, true);
	int64("-9223372036854775809", false, 0, true);
	int64("99999999999999999999999", false, 0, true);
	int64("99999999999999999999999x", false, 0, false);
	int64("", false, 0, false);
	int64("-", false, 0, false);
	int64("1.0", false, 0, false);
	int64(" 1", false, 0, false);
	int64("0000000000000000000000001", true, 1, false);

	decimal("0", true, 0, 0);
	decimal("-1.50", true, -150, 2);
	decimal("123456789012345678", true, INT64_C(123456789012345678), 0);
	decimal("1234567890123456789", false, 0, 0);
	decimal("123456789012345.678", true, INT64_C(123456789012345678), 3);
	decimal("1234567890123456.789", false, 0, 0);
	decimal("1.", false, 0, 0);
	decimal(".5", false, 0, 0);
	decimal("1e5", false, 0, 0);
	decimal("--1", false, 0, 0);
	decimal("1.2.3", false, 0, 0);
	decimal("", false, 0, 0);

	ok(ks_text_is_number("-12.5e+3", 8) && !ks_text_is_number("12x", 3) && !ks_text_is_number("", 0) &&
	   !ks_text_is_number("1e", 2) && !ks_text_is_number(".", 1), "text of numbers");

	datetime("2020-01-01T00:00:00Z", true, 2020, 1, 1, 0, true, 0);
	datetime("2020-02-29 23:59:59.123456", true, 2020, 2, 29, INT64_C(86399123456), false, 0);
	datetime("2020-01-01 00:00:00.5+05:30", true, 2020, 1, 1, 500000, true, 19800);
	datetime("2020-01-01 00:00:00-03", true, 2020, 1, 1, 0, true, -10800);
	datetime("1900-01-01 00:00:00+00:19:32", true, 1900, 1, 1, 0, true, 1172);
	datetime("2020-12-31T23:59:59.9999999Z", true, 2020, 12, 31, INT64_C(86400000000), true, 0);
	datetime("+12345-01-01T00:00:00Z", true, 12345, 1, 1, 0, true, 0);
	datetime("-0044-03-15T00:00:00Z", true, -44, 3, 15, 0, true, 0);
	datetime("294276-12-31 23:59:59.999999", true, 294276, 12, 31, INT64_C(86399999999), false, 0);
	datetime("2020-01-01", false, 0, 0, 0, 0, false, 0);
	datetime("2020-01-01T24:00:00Z", false, 0, 0, 0, 0, false, 0);
	datetime("2020-01-01T00:00:60Z", false, 0, 0, 0, 0, false, 0);
	datetime("2020-01-01T00:00:00.Z", false, 0, 0, 0, 0, false, 0);
	datetime("2020-01-01T00:00:00Zx", false, 0, 0, 0, 0, false, 0);
	datetime("2020-01-01T00:00:00+1", false, 0, 0, 0, 0, false, 0);
	datetime("2020-01-01 00:00:00 BC", false, 0, 0, 0, 0, false, 0);
	datetime("infinity", false, 0, 0, 0, 0, false, 0);
	datetime("", false, 0, 0, 0, 0, false, 0);

	date("2020-02-29", true);
	date("2021-02-29", false);
	date("1900-02-29", false);
	date("2000-02-29", true);
	date("2020-13-01", false);
	date("2020-00-01", false);
	date("2020-04-31", false);
	date("2020-1-1", false);
	date("0000-01-01", false);
	date("20200101", false);
	date("2020-01-01x", false);
	date("99999999-01-01", false);

	base64("", false, true, "", 0);
	base64("AeJA", false, true, "\x01\xe2\x40", 3);
	base64("+w==", false, true, "\xfb", 1);
	base64("-w==", false, false, NULL, 0);
	base64("-w==", true, true, "\xfb", 1);
	base64("_w==", true, true, "\xff", 1);
	base64("YWI=", false, true, "ab", 2);
	base64("YWJ=", false, false, NULL, 0);
	base64("YQ==", false, true, "a", 1);
	base64("YX==", false, false, NULL, 0);
	base64("Y===", false, false, NULL, 0);
	base64("====", false, false, NULL, 0);
	base64("YWI", false, false, NULL, 0);
	base64("YQ==YQ==", false, false, NULL, 0);
	base64("AB C", false, false, NULL, 0);

	ok(ks_text_uuid("00112233-4455-6677-8899-aAbBcCdDeEfF", 36, uuid) && uuid[15] == 0xff && uuid[0] == 0, "uuid");
	ok(!ks_text_uuid("00112233-4455-6677-8899-aAbBcCdDeEf", 35, uuid), "short uuid");
	ok(!ks_text_uuid("00112233x4455-6677-8899-aAbBcCdDeEfF", 36, uuid), "uuid with another separator");
	ok(!ks_text_uuid("0011223g-4455-6677-8899-aAbBcCdDeEfF", 36, uuid), "uuid with another digit");

	floats("0");
	floats("-0.0");
	floats("1.1");
	floats("123456.789");
	floats("0.1");
	floats("999999999999999");
	floats("16777216");
	floats("16777.217");
	srand(1);
	for (int i = 0; i < 200000; i++)
	{
		char		text[40];
		double		d;
		float		f;

		snprintf(text, sizeof(text), "%s%d.%0*d", i % 2 ? "-" : "", rand() % (i % 3 ? 100 : 1000000), 1 + i % 9,
				 rand() % (i % 5 ? 10 : 1000000));
		if (ks_text_double(text, strlen(text), &d) && d != strtod(text, NULL))
			differ++;
		if (ks_text_float(text, strlen(text), &f) && f != strtof(text, NULL))
			differ++;
	}
	ok(differ == 0, "200000 random numbers: fast and slow ways agree");
	return done_testing();
}
