/*
 * json_escape.c: escaping of JSON strings, sixteen bytes at a time where the processor can.
 */
#include "postgres.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "port/pg_bitutils.h"

#include "format/json_escape.h"

/* The escape of a byte that cannot stand for itself, written the way Jackson does; returns its length. */
static inline int
write_escape(unsigned char c, char *p)
{
	static const char hex[] = "0123456789ABCDEF";
	char		letter;

	switch (c)
	{
		case '"':
		case '\\':
			letter = (char) c;
			break;
		case '\b':
			letter = 'b';
			break;
		case '\t':
			letter = 't';
			break;
		case '\n':
			letter = 'n';
			break;
		case '\f':
			letter = 'f';
			break;
		case '\r':
			letter = 'r';
			break;
		default:
			memcpy(p, "\\u00", 4);
			p[4] = hex[c >> 4];
			p[5] = hex[c & 15];
			return 6;
	}
	p[0] = '\\';
	p[1] = letter;
	return 2;
}

/* True for the bytes that JSON strings cannot hold as they are. */
static inline bool
needs_escape(unsigned char c)
{
	return c < 0x20 || c == '"' || c == '\\';
}

#ifdef __SSE2__
#define STRIDE 16
/* Copies 16 bytes and returns how many of them, from the left, need no escape. */
static inline int
copy_clean(const char *data, char *p)
{
	__m128i		bytes = _mm_loadu_si128((const __m128i *) data);
	__m128i		control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
	__m128i		quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
	__m128i		backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'));
	int			mask = _mm_movemask_epi8(_mm_or_si128(control, _mm_or_si128(quote, backslash)));

	_mm_storeu_si128((__m128i *) p, bytes);
	return mask == 0 ? STRIDE : pg_rightmost_one_pos32(mask);
}
#else
#define STRIDE 8
/* The same for 8 bytes, with whole-word arithmetic only to decide that none needs an escape. */
static inline int
copy_clean(const char *data, char *p)
{
	const uint64 ones = UINT64CONST(0x0101010101010101);
	uint64		bytes;
	uint64		quote;
	uint64		backslash;
	uint64		found;
	int			n = 0;

	memcpy(&bytes, data, sizeof(bytes));
	memcpy(p, &bytes, sizeof(bytes));
	quote = bytes ^ (ones * '"');
	backslash = bytes ^ (ones * '\\');
	found = ((bytes - ones * 0x20) & ~bytes) | ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash);
	if (likely((found & (ones * 0x80)) == 0))
		return STRIDE;
	while (n < STRIDE && !needs_escape((unsigned char) data[n]))
		n++;
	return n;
}
#endif

/* See json_escape.h.  ERROR if the buffer would grow beyond what a StringInfo holds. */
void
ks_put_escaped(StringInfo out, const char *data, Size n)
{
	const char *end = data + n;
	char	   *p = ks_reserve(out, n + STRIDE);

	/* Invariant: there is room for what is left, unescaped, and one stride more. */
	while (data < end)
	{
		if (end - data >= STRIDE)
		{
			int			clean = copy_clean(data, p);

			data += clean;
			p += clean;
			if (clean == STRIDE)
				continue;
		}
		else if (likely(!needs_escape((unsigned char) *data)))
		{
			*p++ = *data++;
			continue;
		}
		p += write_escape((unsigned char) *data++, p);
		out->len = p - out->data;
		p = ks_reserve(out, (end - data) + STRIDE);
	}
	out->len = p - out->data;
}
