/*
 * value_text.c: see value_text.h.
 */
#include "apply/value_text.h"

#include <string.h>

static inline bool
is_digit(char c)
{
	return (unsigned char) (c - '0') <= 9;
}

/* Parses a 64-bit integer. */
bool
ks_text_int64(const char *text, size_t size, int64_t *value, bool *overflow)
{
	const char *p = text;
	const char *end = text + size;
	bool		negative = false;
	int64_t		result = 0;

	*overflow = false;
	if (p < end && (*p == '-' || *p == '+'))
		negative = *p++ == '-';
	if (p == end)
		return false;
	if (end - p <= 18)
	{
		/* cannot overflow */
		for (; p < end; p++)
		{
			if (!is_digit(*p))
				return false;
			result = result * 10 + (*p - '0');
		}
		*value = negative ? -result : result;
		return true;
	}
	/* built as a negative number, which has one value more */
	for (; p < end; p++)
	{
		if (!is_digit(*p))
		{
			*overflow = false;
			return false;
		}
		if (*overflow ||
			__builtin_mul_overflow(result, (int64_t) 10, &result) ||
			__builtin_sub_overflow(result, (int64_t) (*p - '0'), &result))
			*overflow = true;
	}
	if (!*overflow && !negative && result == INT64_MIN)
		*overflow = true;
	if (*overflow)
		return false;
	*value = negative ? result : -result;
	return true;
}

/* Parses a short decimal number. */
bool
ks_text_decimal(const char *text, size_t size, int64_t *unscaled, int32_t *scale)
{
	const char *p = text;
	const char *end = text + size;
	const char *point = NULL;
	bool		negative = false;
	uint64_t	result = 0;		/* 19 digits fit */

	if (p < end && *p == '-')
	{
		negative = true;
		p++;
	}
	if (end - p > 19)
		return false;
	if (p == end || !is_digit(*p))
		return false;
	for (; p < end; p++)
	{
		if (is_digit(*p))
			result = result * 10 + (uint64_t) (*p - '0');
		else if (*p == '.' && point == NULL)
			point = p;
		else
			return false;
	}
	if (point == NULL)
	{
		if (size - negative > 18)
			return false;
		*scale = 0;
	}
	else
	{
		*scale = (int32_t) (end - point - 1);
		if (*scale == 0)
			return false;
	}
	*unscaled = negative ? -(int64_t) result : (int64_t) result;
	return true;
}

/* Is it the text of a decimal number? */
bool
ks_text_is_number(const char *text, size_t size)
{
	const char *p = text;
	const char *end = text + size;
	size_t		digits = 0;

	if (p < end && (*p == '-' || *p == '+'))
		p++;
	for (; p < end && is_digit(*p); p++)
		digits++;
	if (p < end && *p == '.')
		for (p++; p < end && is_digit(*p); p++)
			digits++;
	if (digits == 0)
		return false;
	if (p < end && (*p == 'e' || *p == 'E'))
	{
		p++;
		if (p < end && (*p == '-' || *p == '+'))
			p++;
		if (p == end)
			return false;
		while (p < end && is_digit(*p))
			p++;
	}
	return p == end;
}

/* Two digits at p as a number, -1 if they are none. */
static inline int
two_digits(const char *p)
{
	if (!is_digit(p[0]) || !is_digit(p[1]))
		return -1;
	return (p[0] - '0') * 10 + (p[1] - '0');
}

/* Parses a date at the beginning of the text; returns the number of bytes used, 0 if there is none. */
static size_t
scan_date(const char *text, size_t size, int *year, int *month, int *day)
{
	static const int days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	const char *p = text;
	const char *end = text + size;
	const char *digits;
	bool		sign = false;
	bool		negative = false;
	int			y = 0;

	if (p < end && (*p == '-' || *p == '+'))
	{
		sign = true;
		negative = *p++ == '-';
	}
	for (digits = p; p < end && is_digit(*p) && p - digits < 7; p++)
		y = y * 10 + (*p - '0');
	/* more than four digits need a sign in ISO 8601; PostgreSQL writes them without */
	if (p - digits < 4 || (p - digits > 4 && !sign && *digits == '0'))
		return 0;
	if (end - p < 6 || p[0] != '-' || p[3] != '-')
		return 0;
	*month = two_digits(p + 1);
	*day = two_digits(p + 4);
	*year = negative ? -y : y;
	if (*month < 1 || *month > 12 || *day < 1 || *day > days[*month - 1])
		return 0;
	if (*month == 2 && *day == 29 && !(y % 4 == 0 && (y % 100 != 0 || y % 400 == 0)))
		return 0;
	/* without a sign, PostgreSQL has no year 0 */
	if (!sign && y == 0)
		return 0;
	return p + 6 - text;
}

/* Parses a date. */
bool
ks_text_date(const char *text, size_t size, int *year, int *month, int *day)
{
	return size > 0 && scan_date(text, size, year, month, day) == size;
}

/* Parses date and time. */
bool
ks_text_datetime(const char *text, size_t size, KsDateTime *result)
{
	const char *p = text;
	const char *end = text + size;
	size_t		used = scan_date(text, size, &result->year, &result->month, &result->day);
	int			hour;
	int			minute;
	int			second;

	if (used == 0)
		return false;
	p += used;
	if (end - p < 9 || (*p != 'T' && *p != ' ') || p[3] != ':' || p[6] != ':')
		return false;
	hour = two_digits(p + 1);
	minute = two_digits(p + 4);
	second = two_digits(p + 7);
	if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59)
		return false;
	result->usec = ((int64_t) (hour * 60 + minute) * 60 + second) * 1000000;
	p += 9;
	if (p < end && *p == '.')
	{
		int			fraction = 0;
		int			ndigits = 0;

		for (p++; p < end && is_digit(*p); p++, ndigits++)
		{
			if (ndigits < 6)
				fraction = fraction * 10 + (*p - '0');
			else if (ndigits == 6 && *p >= '5')
				fraction++;
		}
		if (ndigits == 0)
			return false;
		for (; ndigits < 6; ndigits++)
			fraction *= 10;
		result->usec += fraction;
	}
	result->has_zone = false;
	result->offset = 0;
	if (p < end && (*p == 'Z' || *p == 'z'))
	{
		result->has_zone = true;
		p++;
	}
	else if (p < end && (*p == '+' || *p == '-'))
	{
		int			sign = *p++ == '-' ? -1 : 1;
		int			part = end - p >= 2 ? two_digits(p) : -1;

		if (part < 0 || part > 15)
			return false;
		result->offset = part * 3600;
		p += 2;
		for (int unit = 60; unit >= 1 && p < end && *p == ':'; unit /= 60)
		{
			part = end - p >= 3 ? two_digits(p + 1) : -1;
			if (part < 0 || part > 59)
				return false;
			result->offset += part * unit;
			p += 3;
		}
		result->offset *= sign;
		result->has_zone = true;
	}
	return p == end;
}

/* Value of a base64 digit, -1 if it is none. */
static inline int
base64_digit(unsigned char c, bool url_safe)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+' || (url_safe && c == '-'))
		return 62;
	if (c == '/' || (url_safe && c == '_'))
		return 63;
	return -1;
}

/* Decodes base64. */
bool
ks_text_base64(const char *text, size_t size, bool url_safe, unsigned char *out, size_t *out_size)
{
	const unsigned char *p = (const unsigned char *) text;
	const unsigned char *end = p + size;
	unsigned char *begin = out;
	int			padding = 0;

	if (size % 4 != 0)
		return false;
	if (size > 0 && end[-1] == '=')
		padding = end[-2] == '=' ? 2 : 1;
	for (; p < end; p += 4)
	{
		bool		last = padding > 0 && end - p == 4;
		int			a = base64_digit(p[0], url_safe);
		int			b = base64_digit(p[1], url_safe);
		int			c = last && padding == 2 ? 0 : base64_digit(p[2], url_safe);
		int			d = last ? 0 : base64_digit(p[3], url_safe);

		if ((a | b | c | d) < 0)
			return false;
		if (last && padding == 2)
		{
			if ((b & 15) != 0)
				return false;
			*out++ = (unsigned char) (a << 2 | b >> 4);
		}
		else if (last)
		{
			if ((c & 3) != 0)
				return false;
			*out++ = (unsigned char) (a << 2 | b >> 4);
			*out++ = (unsigned char) (b << 4 | c >> 2);
		}
		else
		{
			*out++ = (unsigned char) (a << 2 | b >> 4);
			*out++ = (unsigned char) (b << 4 | c >> 2);
			*out++ = (unsigned char) (c << 6 | d);
		}
	}
	*out_size = out - begin;
	return true;
}

/* Value of a hexadecimal digit, -1 if it is none. */
static inline int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Decodes hexadecimal digits. */
bool
ks_text_hex(const char *text, size_t size, unsigned char *out)
{
	if (size % 2 != 0)
		return false;
	for (size_t i = 0; i < size; i += 2)
	{
		int			high = hex_digit(text[i]);
		int			low = hex_digit(text[i + 1]);

		if (high < 0 || low < 0)
			return false;
		*out++ = (unsigned char) (high << 4 | low);
	}
	return true;
}

/* Parses a UUID: 8-4-4-4-12 digits. */
bool
ks_text_uuid(const char *text, size_t size, unsigned char *out)
{
	static const unsigned char lengths[] = {8, 4, 4, 4, 12};
	const char *p = text;

	if (size != 36)
		return false;
	for (int i = 0; i < 5; i++)
	{
		if (i > 0 && *p++ != '-')
			return false;
		if (!ks_text_hex(p, lengths[i], out))
			return false;
		p += lengths[i];
		out += lengths[i] / 2;
	}
	return true;
}

/*
 * Splits [-]digits[.digits] into sign, mantissa (at most 15 digits) and number of decimals (at most max_decimals).
 */
static bool
scan_mantissa(const char *text, size_t size, int max_decimals, bool *negative, int64_t *mantissa, int *decimals)
{
	const char *p = text;
	const char *end = text + size;
	const char *point = NULL;
	int			digits = 0;

	*negative = p < end && *p == '-';
	p += *negative;
	if (p == end || !is_digit(*p))
		return false;
	*mantissa = 0;
	for (; p < end; p++)
	{
		if (is_digit(*p))
		{
			*mantissa = *mantissa * 10 + (*p - '0');
			if (++digits > 15)
				return false;
		}
		else if (*p == '.' && point == NULL)
			point = p;
		else
			return false;
	}
	*decimals = point == NULL ? 0 : (int) (end - point - 1);
	return *decimals <= max_decimals && (point == NULL || *decimals > 0);
}

/* A mantissa below 2^53 and a power of ten up to 10^22 are exact doubles, so their quotient is rounded once. */
bool
ks_text_double(const char *text, size_t size, double *value)
{
	static const double powers[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
	bool		negative;
	int64_t		mantissa;
	int			decimals;

	if (!scan_mantissa(text, size, 15, &negative, &mantissa, &decimals))
		return false;
	*value = (double) mantissa / powers[decimals];
	if (negative)
		*value = -*value;
	return true;
}

/* The same for floats: below 2^24, and up to 10^10. */
bool
ks_text_float(const char *text, size_t size, float *value)
{
	static const float powers[] = {1e0f, 1e1f, 1e2f, 1e3f, 1e4f, 1e5f, 1e6f, 1e7f, 1e8f, 1e9f, 1e10f};
	bool		negative;
	int64_t		mantissa;
	int			decimals;

	if (!scan_mantissa(text, size, 10, &negative, &mantissa, &decimals) || mantissa > (1 << 24))
		return false;
	*value = (float) mantissa / powers[decimals];
	if (negative)
		*value = -*value;
	return true;
}
