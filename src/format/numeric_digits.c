/*
 * numeric_digits.c: numeric as text and as the unscaled two's-complement integer that Connect's Decimal carries.
 */
#include "postgres.h"

#include "compat/pg_compat.h"
#include "miscadmin.h"
#include "utils/numeric.h"

#include "format/json_escape.h"
#include "format/numeric_digits.h"

/* The header word: 2 bits of kind; a short header also holds scale and weight, a long one has the weight behind it. */
#define HEADER_KIND			0xC000
#define HEADER_NEGATIVE		0x4000
#define HEADER_SHORT		0x8000
#define HEADER_SPECIAL		0xC000
#define SPECIAL_MASK		0xF000
#define SPECIAL_INFINITY	0xD000
#define SPECIAL_MINUS_INF	0xF000
#define SHORT_NEGATIVE		0x2000
#define SHORT_SCALE_SHIFT	7
#define SHORT_SCALE_MASK	0x3F
#define SHORT_WEIGHT_SIGN	0x0040
#define SHORT_WEIGHT_MASK	0x003F
#define LONG_SCALE_MASK		0x3FFF

#define BASE 10000
#define BASE_DIGITS 4

static const uint64 powers_of_ten[] = {
	1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000,
	UINT64CONST(10000000000), UINT64CONST(100000000000), UINT64CONST(1000000000000),
	UINT64CONST(10000000000000), UINT64CONST(100000000000000), UINT64CONST(1000000000000000),
	UINT64CONST(10000000000000000), UINT64CONST(100000000000000000), UINT64CONST(1000000000000000000)
};

/* The i-th base-10000 digit. */
static inline int
digit_at(const KsNumeric *num, int i)
{
	int16		digit;

	memcpy(&digit, num->digits + i * sizeof(int16), sizeof(int16));
	return digit;
}

/* Takes a numeric datum apart.  Detoasts only what is compressed or stored elsewhere. */
void
ks_numeric_read(Datum value, KsNumeric *num)
{
	struct varlena *datum = PG_DETOAST_DATUM_PACKED(value);
	const char *data = VARDATA_ANY(datum);
	int			size = VARSIZE_ANY_EXHDR(datum);
	uint16		header;

	memcpy(&header, data, sizeof(header));
	data += sizeof(header);
	size -= sizeof(header);
	num->kind = KS_NUMERIC_FINITE;
	num->digits = data;
	if ((header & HEADER_KIND) == HEADER_SPECIAL)
	{
		if ((header & SPECIAL_MASK) == SPECIAL_INFINITY)
			num->kind = KS_NUMERIC_INFINITY;
		else if ((header & SPECIAL_MASK) == SPECIAL_MINUS_INF)
			num->kind = KS_NUMERIC_MINUS_INFINITY;
		else
			num->kind = KS_NUMERIC_NAN;
		num->negative = false;
		num->dscale = num->weight = num->ndigits = 0;
		return;
	}
	if (header & HEADER_SHORT)
	{
		num->negative = (header & SHORT_NEGATIVE) != 0;
		num->dscale = (header >> SHORT_SCALE_SHIFT) & SHORT_SCALE_MASK;
		num->weight = header & SHORT_WEIGHT_MASK;
		if (header & SHORT_WEIGHT_SIGN)
			num->weight -= SHORT_WEIGHT_MASK + 1;
	}
	else
	{
		int16		weight;

		memcpy(&weight, data, sizeof(weight));
		num->digits += sizeof(weight);
		size -= sizeof(weight);
		num->negative = (header & HEADER_NEGATIVE) != 0;
		num->dscale = header & LONG_SCALE_MASK;
		num->weight = weight;
	}
	num->ndigits = size / (int) sizeof(int16);
}

/* Writes the four decimal digits of a base-10000 digit. */
static inline char *
write_group(char *p, int digit)
{
	p[0] = '0' + digit / 1000;
	p[1] = '0' + digit / 100 % 10;
	p[2] = '0' + digit / 10 % 10;
	p[3] = '0' + digit % 10;
	return p + BASE_DIGITS;
}

/* Appends a numeric exactly as numeric_out would, special values included. */
void
ks_numeric_put_text(StringInfo out, const KsNumeric *num)
{
	char	   *p;
	int			i;

	switch (num->kind)
	{
		case KS_NUMERIC_NAN:
			ks_put_literal(out, "NaN");
			return;
		case KS_NUMERIC_INFINITY:
			ks_put_literal(out, "Infinity");
			return;
		case KS_NUMERIC_MINUS_INFINITY:
			ks_put_literal(out, "-Infinity");
			return;
		case KS_NUMERIC_FINITE:
			break;
	}
	p = ks_reserve(out, (Size) (Max(num->weight, 0) + 2) * BASE_DIGITS + num->dscale + BASE_DIGITS + 2);
	if (num->negative)
		*p++ = '-';
	if (num->weight < 0)
		*p++ = '0';
	else
	{
		for (i = 0; i <= num->weight; i++)
		{
			int			digit = i < num->ndigits ? digit_at(num, i) : 0;

			if (i > 0 || digit >= 1000)
				p = write_group(p, digit);
			else
			{
				if (digit >= 100)
					*p++ = '0' + digit / 100;
				if (digit >= 10)
					*p++ = '0' + digit / 10 % 10;
				*p++ = '0' + digit % 10;
			}
		}
	}
	if (num->dscale > 0)
	{
		char	   *end;

		*p++ = '.';
		end = p + num->dscale;
		for (i = num->weight + 1; p < end; i++)
			p = write_group(p, i >= 0 && i < num->ndigits ? digit_at(num, i) : 0);
		p = end;
	}
	out->len = p - out->data;
}

/* Returns the number of digits after the point that are needed to write a finite value exactly. */
int
ks_numeric_minimal_scale(const KsNumeric *num)
{
	int			n = num->ndigits;
	int			scale;
	int			last;

	while (n > 0 && digit_at(num, n - 1) == 0)
		n--;
	scale = (n - 1 - num->weight) * BASE_DIGITS;
	if (n == 0 || scale <= 0)
		return 0;
	for (last = digit_at(num, n - 1); last % 10 == 0; last /= 10)
		scale--;
	return scale;
}

/* Writes the big-endian two's complement of +-magnitude in as few bytes as hold the sign; returns how many. */
static int
write_complement(const uint32 *words, int nwords, bool negative, unsigned char *bytes)
{
	int			n = 0;
	bool		carry = true;
	int			i;

	while (nwords > 0 && words[nwords - 1] == 0)
		nwords--;
	/* Little-endian first, with one byte more than the magnitude needs; turned round at the end. */
	for (i = 0; i < nwords * 4; i++)
		bytes[n++] = (unsigned char) (words[i / 4] >> (i % 4 * 8));
	bytes[n++] = 0;
	if (negative)
	{
		for (i = 0; i < n; i++)
		{
			bytes[i] = (unsigned char) ~bytes[i];
			if (carry)
				carry = ++bytes[i] == 0;
		}
	}
	while (n > 1 && ((bytes[n - 1] == 0x00 && !(bytes[n - 2] & 0x80)) ||
					 (bytes[n - 1] == 0xFF && (bytes[n - 2] & 0x80))))
		n--;
	for (i = 0; i < n / 2; i++)
	{
		unsigned char swap = bytes[i];

		bytes[i] = bytes[n - 1 - i];
		bytes[n - 1 - i] = swap;
	}
	return n;
}

/* Writes a 64-bit integer as big-endian two's complement in as few bytes (at most 8) as hold it; returns how many. */
int
ks_int64_bytes(int64 value, unsigned char *bytes)
{
	int			n = 1;
	int			i;

	while (n < 8 && (value < -(INT64CONST(1) << (8 * n - 1)) || value >= (INT64CONST(1) << (8 * n - 1))))
		n++;
	for (i = 0; i < n; i++)
		bytes[i] = (unsigned char) ((uint64) value >> (8 * (n - 1 - i)));
	return n;
}

/* words = words * factor + add; returns the new count of words. */
static int
multiply_add(uint32 *words, int nwords, uint32 factor, uint32 add)
{
	uint64		carry = add;
	int			i;

	for (i = 0; i < nwords; i++)
	{
		carry += (uint64) words[i] * factor;
		words[i] = (uint32) carry;
		carry >>= 32;
	}
	if (carry != 0)
		words[nwords++] = (uint32) carry;
	return nwords;
}

/* words = words / divisor, where that is exact. */
static void
divide_exactly(uint32 *words, int nwords, uint32 divisor)
{
	uint64		rest = 0;
	int			i;

	for (i = nwords - 1; i >= 0; i--)
	{
		rest = (rest << 32) | words[i];
		words[i] = (uint32) (rest / divisor);
		rest %= divisor;
	}
	Assert(rest == 0);
}

/*
 * Makes the big-endian two's complement of value * 10^scale, which must be a whole number (-1 if it is not).
 * Returns the number of bytes and where they are: in "small" (of at least 16 bytes) if they fit, else palloc'ed.
 */
int
ks_numeric_unscaled(const KsNumeric *num, int scale, unsigned char *small, int small_size, unsigned char **bytes)
{
	int			n = num->ndigits;
	int			exponent;		/* of ten, for the integer that the digits make */
	uint32	   *words;
	int			nwords = 0;
	int			i;
	int			size;

	while (n > 0 && digit_at(num, n - 1) == 0)
		n--;
	*bytes = small;
	if (n == 0)
	{
		small[0] = 0;
		return 1;
	}
	exponent = (num->weight - n + 1) * BASE_DIGITS + scale;
	if (ks_numeric_minimal_scale(num) > Max(scale, 0))
		return -1;
	if (scale < 0 && exponent < 0)
	{
		/* Digits before the point are cut too: they must be zeros. */
		int			last = digit_at(num, n - 1);

		if (exponent <= -BASE_DIGITS || last % (int) powers_of_ten[-exponent] != 0)
			return -1;
	}

	/* Fast path: everything fits into 64 bits. */
	if (n <= 4 && n * BASE_DIGITS + exponent <= 18)
	{
		int64		whole = 0;

		for (i = 0; i < n; i++)
			whole = whole * BASE + digit_at(num, i);
		if (exponent >= 0)
			whole *= (int64) powers_of_ten[exponent];
		else
			whole /= (int64) powers_of_ten[-exponent];
		return ks_int64_bytes(num->negative ? -whole : whole, small);
	}

	/* 4 decimal digits need less than 14 bits; two words more for carries. */
	words = palloc(sizeof(uint32) * (((Size) n * BASE_DIGITS + Max(exponent, 0)) * 7 / 64 + 4));
	for (i = 0; i < n; i++)
	{
		nwords = multiply_add(words, nwords, BASE, digit_at(num, i));
		if (i % 256 == 255)
			CHECK_FOR_INTERRUPTS();
	}
	if (exponent < 0)
		divide_exactly(words, nwords, (uint32) powers_of_ten[-exponent]);
	for (; exponent > 0; exponent -= 9)
	{
		nwords = multiply_add(words, nwords, (uint32) powers_of_ten[Min(exponent, 9)], 0);
		CHECK_FOR_INTERRUPTS();
	}
	if (nwords * 4 + 1 > small_size)
		*bytes = palloc(nwords * 4 + 1);
	size = write_complement(words, nwords, num->negative, *bytes);
	pfree(words);
	return size;
}
