/*
 * text_out.c: fast text output of common types, and the settings that the text of all other types depends on.
 */
#include "postgres.h"

#include <math.h>

#include "common/shortest_dec.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/datetime.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "compat/pg_compat.h"
#include "format/format.h"
#include "format/json_escape.h"
#include "format/text_out.h"

/* Of utils/pg_locale.h, which wants ICU's headers; Debian's PostgreSQL 17 and 18 come without them. */
extern PGDLLIMPORT char *locale_monetary;

const char	ks_two_digits[201] =
"00010203040506070809" "10111213141516171819" "20212223242526272829" "30313233343536373839"
"40414243444546474849" "50515253545556575859" "60616263646566676869" "70717273747576777879"
"80818283848586878889" "90919293949596979899";

/* The settings that output functions look at, and what they are while rows are encoded. */
static const struct
{
	const char *name;
	const char *value;
}			fixed_settings[] = {
	{"DateStyle", "ISO"},
	{"IntervalStyle", "postgres"},
	{"TimeZone", "UTC"},
	{"extra_float_digits", "1"},
	{"bytea_output", "hex"},
	{"lc_monetary", "C"},
};

/* See format.h.  Raises an error only if a setting does not exist any more. */
void
ks_format_fix_settings(void)
{
	for (int i = 0; i < (int) lengthof(fixed_settings); i++)
		SetConfigOption(fixed_settings[i].name, fixed_settings[i].value, PGC_SUSET, PGC_S_OVERRIDE);
}

/* True if output functions would now write what the formats promise. */
bool
ks_settings_fixed(void)
{
	return DateStyle == USE_ISO_DATES && IntervalStyle == INTSTYLE_POSTGRES && extra_float_digits == 1 &&
		bytea_output == BYTEA_OUTPUT_HEX && strcmp(locale_monetary, "C") == 0 &&
		(strcmp(pg_get_timezone_name(session_timezone), "UTC") == 0 ||
		 strcmp(pg_get_timezone_name(session_timezone), "Etc/UTC") == 0);
}

/*
 * Sets them until ks_settings_end, if they are not already: for SQL functions and walsenders, which run in somebody's
 * session.  Returns the nesting level to pass on; an error in between resets them with its transaction.
 */
int
ks_settings_begin(void)
{
	int			level;

	if (likely(ks_settings_fixed()))
		return 0;
	level = NewGUCNestLevel();
	for (int i = 0; i < (int) lengthof(fixed_settings); i++)
		(void) set_config_option(fixed_settings[i].name, fixed_settings[i].value, PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return level;
}

/* Puts back what ks_settings_begin changed. */
void
ks_settings_end(int level)
{
	if (level > 0)
		AtEOXact_GUC(true, level);
}

/* Appends a signed integer. */
void
ks_put_int64(StringInfo out, int64 value)
{
	out->len += pg_lltoa(value, ks_reserve(out, MAXINT8LEN + 1));
}

/* Appends an unsigned integer. */
void
ks_put_uint64(StringInfo out, uint64 value)
{
	out->len += pg_ulltoa_n(value, ks_reserve(out, MAXINT8LEN + 1));
}

/* Appends a float4 in the fewest digits that read back as it. */
void
ks_put_float4(StringInfo out, float4 value)
{
	out->len += float_to_shortest_decimal_bufn(value, ks_reserve(out, FLOAT_SHORTEST_DECIMAL_LEN));
}

/* The same for float8. */
void
ks_put_float8(StringInfo out, float8 value)
{
	out->len += double_to_shortest_decimal_bufn(value, ks_reserve(out, DOUBLE_SHORTEST_DECIMAL_LEN));
}

/* Splits a finite timestamp into days since 2000-01-01 and microseconds since that day's midnight. */
void
ks_split_timestamp(Timestamp value, int32 *day, int64 *micros)
{
	int64		d = value / USECS_PER_DAY;
	int64		m = value % USECS_PER_DAY;

	if (m < 0)
	{
		m += USECS_PER_DAY;
		d--;
	}
	*day = (int32) d;
	*micros = m;
}

/*
 * Writes a day (since 2000-01-01, finite) as year-month-day; returns where it ends.  Rows that follow each other
 * mostly have the same few days: the last one is kept.
 */
char *
ks_write_day(char *p, int32 day, KsYearStyle style, bool *is_bc)
{
	static int32 last_day;
	static char last_text[10];
	static bool last_valid = false;
	int			year;
	int			month;
	int			mday;
	char	   *start = p;

	*is_bc = false;
	if (last_valid && day == last_day)
	{
		memcpy(p, last_text, sizeof(last_text));
		return p + sizeof(last_text);
	}
	j2date(day + POSTGRES_EPOCH_JDATE, &year, &month, &mday);
	if (likely(year >= 1 && year <= 9999))
	{
		p = ks_write_two(p, year / 100);
		p = ks_write_two(p, year % 100);
	}
	else
	{
		if (style == KS_YEAR_POSTGRES)
		{
			if (year <= 0)
			{
				*is_bc = true;
				year = 1 - year;
			}
		}
		else if (year < 0)
		{
			*p++ = '-';
			year = -year;
		}
		else if (year > 9999)
			*p++ = '+';
		p = pg_ultostr_zeropad(p, (uint32) year, 4);
	}
	*p++ = '-';
	p = ks_write_two(p, month);
	*p++ = '-';
	p = ks_write_two(p, mday);
	if (p - start == sizeof(last_text) && !*is_bc && start[0] != '-' && start[0] != '+' && year >= 1)
	{
		last_day = day;
		memcpy(last_text, start, sizeof(last_text));
		last_valid = true;
	}
	return p;
}

/*
 * Writes hh:mm:ss and, where there are any, fractional digits: at least min_digits, more (up to 6) as needed to be
 * exact.  Returns where it ends.
 */
char *
ks_write_clock(char *p, int64 micros, int min_digits)
{
	unsigned	seconds = (unsigned) (micros / USECS_PER_SEC);
	unsigned	fraction = (unsigned) (micros % USECS_PER_SEC);
	int			digits = 6;
	char	   *end;

	p = ks_write_two(p, seconds / SECS_PER_HOUR);
	*p++ = ':';
	p = ks_write_two(p, seconds / SECS_PER_MINUTE % MINS_PER_HOUR);
	*p++ = ':';
	p = ks_write_two(p, seconds % SECS_PER_MINUTE);
	if (fraction == 0 && min_digits == 0)
		return p;
	*p++ = '.';
	end = ks_write_two(p, fraction / 10000);
	end = ks_write_two(end, fraction / 100 % 100);
	ks_write_two(end, fraction % 100);
	while (digits > min_digits && p[digits - 1] == '0')
		digits--;
	return p + digits;
}

/* Appends a date. */
void
ks_put_date(StringInfo out, DateADT value)
{
	char	   *p = ks_reserve(out, KS_DAY_SIZE + 3);
	bool		is_bc;

	if (DATE_IS_NOBEGIN(value))
		ks_put_literal(out, "-infinity");
	else if (DATE_IS_NOEND(value))
		ks_put_literal(out, "infinity");
	else
	{
		out->len = ks_write_day(p, value, KS_YEAR_POSTGRES, &is_bc) - out->data;
		if (is_bc)
			ks_put_literal(out, " BC");
	}
}

/* Appends a time of day, 24:00:00 included. */
void
ks_put_time(StringInfo out, TimeADT value)
{
	char	   *p = ks_reserve(out, KS_CLOCK_SIZE);

	out->len = ks_write_clock(p, value, 0) - out->data;
}

/* Appends a time of day with its offset, as +hh, +hh:mm or +hh:mm:ss. */
void
ks_put_timetz(StringInfo out, const TimeTzADT *value)
{
	int			west = value->zone;
	unsigned	offset = (unsigned) abs(west);
	char	   *p;

	ks_put_time(out, value->time);
	p = ks_reserve(out, 9);
	*p++ = west <= 0 ? '+' : '-';
	p = ks_write_two(p, offset / SECS_PER_HOUR);
	if (offset % SECS_PER_HOUR != 0)
	{
		*p++ = ':';
		p = ks_write_two(p, offset / SECS_PER_MINUTE % MINS_PER_HOUR);
		if (offset % SECS_PER_MINUTE != 0)
		{
			*p++ = ':';
			p = ks_write_two(p, offset % SECS_PER_MINUTE);
		}
	}
	out->len = p - out->data;
}

/* Appends a timestamp, or with_zone a timestamptz in UTC. */
void
ks_put_timestamp(StringInfo out, Timestamp value, bool with_zone)
{
	int32		day;
	int64		micros;
	bool		is_bc;
	char	   *p;

	if (TIMESTAMP_IS_NOBEGIN(value))
	{
		ks_put_literal(out, "-infinity");
		return;
	}
	if (TIMESTAMP_IS_NOEND(value))
	{
		ks_put_literal(out, "infinity");
		return;
	}
	ks_split_timestamp(value, &day, &micros);
	p = ks_write_day(ks_reserve(out, KS_DAY_SIZE + KS_CLOCK_SIZE + 7), day, KS_YEAR_POSTGRES, &is_bc);
	*p++ = ' ';
	p = ks_write_clock(p, micros, 0);
	out->len = p - out->data;
	if (with_zone)
		ks_put_literal(out, "+00");
	if (is_bc)
		ks_put_literal(out, " BC");
}

/* Appends an interval in IntervalStyle postgres. */
void
ks_put_interval(StringInfo out, const Interval *value)
{
	int			infinite = ks_interval_infinity(value);
	struct pg_itm itm;
	char		buf[MAXDATELEN + 1];

	if (infinite != 0)
	{
		ks_put(out, infinite > 0 ? "infinity" : "-infinity", infinite > 0 ? 8 : 9);
		return;
	}
	interval2itm(*value, &itm);
	EncodeInterval(&itm, INTSTYLE_POSTGRES, buf);
	ks_put(out, buf, strlen(buf));
}

/* Appends a uuid in its usual form. */
void
ks_put_uuid(StringInfo out, const pg_uuid_t *value)
{
	static const char hex[] = "0123456789abcdef";
	char	   *p = ks_reserve(out, 2 * UUID_LEN + 4);

	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = hex[value->data[i] >> 4];
		*p++ = hex[value->data[i] & 15];
	}
	out->len = p - out->data;
}

/* Appends n bytes as lower-case hexadecimal digits. */
void
ks_put_hex(StringInfo out, const char *data, Size n)
{
	static const char hex[] = "0123456789abcdef";
	char	   *p = ks_reserve(out, 2 * n);

	for (Size i = 0; i < n; i++)
	{
		*p++ = hex[(unsigned char) data[i] >> 4];
		*p++ = hex[(unsigned char) data[i] & 15];
	}
	out->len = p - out->data;
}

/* Appends n bytes in base64, padded, in the standard alphabet or the one for URLs. */
void
ks_put_base64(StringInfo out, const unsigned char *data, Size n, bool url_safe)
{
	static const char alphabets[2][65] = {
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	};
	const char *alphabet = alphabets[url_safe ? 1 : 0];
	char	   *p = ks_reserve(out, (n + 2) / 3 * 4);

	for (; n >= 3; n -= 3, data += 3)
	{
		uint32		bits = (uint32) data[0] << 16 | (uint32) data[1] << 8 | data[2];

		*p++ = alphabet[bits >> 18];
		*p++ = alphabet[bits >> 12 & 63];
		*p++ = alphabet[bits >> 6 & 63];
		*p++ = alphabet[bits & 63];
	}
	if (n > 0)
	{
		uint32		bits = (uint32) data[0] << 16 | (n > 1 ? (uint32) data[1] << 8 : 0);

		*p++ = alphabet[bits >> 18];
		*p++ = alphabet[bits >> 12 & 63];
		*p++ = n > 1 ? alphabet[bits >> 6 & 63] : '=';
		*p++ = '=';
	}
	out->len = p - out->data;
}

/* Appends money as lc_monetary C writes it: -$1,234.56. */
void
ks_put_money(StringInfo out, int64 value)
{
	uint64		cents = value < 0 ? -(uint64) value : (uint64) value;
	char		digits[MAXINT8LEN + 1];
	int			n = pg_ulltoa_n(cents / 100, digits);
	char	   *p = ks_reserve(out, 2 + n + n / 3 + 3);

	if (value < 0)
		*p++ = '-';
	*p++ = '$';
	for (int i = 0; i < n; i++)
	{
		if (i > 0 && (n - i) % 3 == 0)
			*p++ = ',';
		*p++ = digits[i];
	}
	*p++ = '.';
	p = ks_write_two(p, (unsigned) (cents % 100));
	out->len = p - out->data;
}
