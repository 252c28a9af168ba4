/*
 * json_scan.c: see json_scan.h.
 *
 * Invariant: start <= pos <= end, and no byte at or behind "end" is ever read.
 */
#include "format/json_scan.h"

#include <stdlib.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define likely_(x)		__builtin_expect(!!(x), 1)
#define unlikely_(x)	__builtin_expect(!!(x), 0)

#define ARENA_CHUNK ((size_t) 64 * 1024)

struct KsArenaChunk
{
	KsArenaChunk *next;
	size_t		size;			/* usable bytes after this header */
};

/* Returns size bytes of the arena, NULL when out of memory. */
char *
ks_arena_alloc(KsArena *arena, size_t size)
{
	char	   *result;

	if (arena->pos == NULL || (size_t) (arena->end - arena->pos) < size)
	{
		size_t		chunk_size = size > ARENA_CHUNK ? size : ARENA_CHUNK;
		KsArenaChunk *chunk = malloc(sizeof(KsArenaChunk) + chunk_size);

		if (chunk == NULL)
			return NULL;
		chunk->next = arena->chunks;
		chunk->size = chunk_size;
		arena->chunks = chunk;
		arena->pos = (char *) (chunk + 1);
		arena->end = arena->pos + chunk_size;
	}
	result = arena->pos;
	arena->pos += size;
	return result;
}

/* Frees all chunks but one of ordinary size, which is used again. */
void
ks_arena_reset(KsArena *arena)
{
	KsArenaChunk *chunk = arena->chunks;
	KsArenaChunk *kept = NULL;

	while (chunk != NULL)
	{
		KsArenaChunk *next = chunk->next;

		if (kept == NULL && chunk->size == ARENA_CHUNK)
			kept = chunk;
		else
			free(chunk);
		chunk = next;
	}
	arena->chunks = kept;
	arena->pos = arena->end = NULL;
	if (kept != NULL)
	{
		kept->next = NULL;
		arena->pos = (char *) (kept + 1);
		arena->end = arena->pos + kept->size;
	}
}

/* Frees everything. */
void
ks_arena_free(KsArena *arena)
{
	while (arena->chunks != NULL)
	{
		KsArenaChunk *next = arena->chunks->next;

		free(arena->chunks);
		arena->chunks = next;
	}
	arena->pos = arena->end = NULL;
}

/* Begins scanning size bytes at data. */
void
ks_json_init(KsJson *json, const char *data, size_t size, KsArena *arena)
{
	json->start = json->pos = data;
	json->end = data + size;
	json->arena = arena;
	json->error = NULL;
	json->error_at = 0;
	if (size > KS_JSON_MAX_SIZE)
	{
		json->error = "text is larger than 2 GB";
		json->end = data;
	}
}

/* Notes the first error, at "at"; returns false for the caller to return. */
static bool
fail(KsJson *json, const char *at, const char *error)
{
	if (json->error == NULL)
	{
		json->error = error;
		json->error_at = at - json->start;
	}
	return false;
}

/* Fails with "expected", or says that the text ended. */
static bool
fail_expected(KsJson *json, const char *at, const char *expected)
{
	return fail(json, at, at >= json->end ? "unexpected end of text" : expected);
}

static inline const char *
skip_space(const char *p, const char *end)
{
	while (p < end && unlikely_((unsigned char) *p <= ' ') &&
		   (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
		p++;
	return p;
}

/* Returns the first byte in [p, end) that is a quote, a backslash, a control character or not ASCII; or end. */
static inline const char *
skip_plain(const char *p, const char *end)
{
#ifdef __SSE2__
	const __m128i quote = _mm_set1_epi8('"');
	const __m128i backslash = _mm_set1_epi8('\\');
	const __m128i space = _mm_set1_epi8(' ');

	while (end - p >= 16)
	{
		__m128i		chunk = _mm_loadu_si128((const __m128i *) p);
		/* as signed bytes, everything from 0x80 on is below the space, too */
		__m128i		hit = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(chunk, quote),
													_mm_cmpeq_epi8(chunk, backslash)),
									   _mm_cmplt_epi8(chunk, space));
		int			mask = _mm_movemask_epi8(hit);

		if (mask != 0)
			return p + __builtin_ctz(mask);
		p += 16;
	}
#else
	while (end - p >= 8)
	{
		const uint64_t ones = UINT64_C(0x0101010101010101);
		uint64_t	chunk;
		uint64_t	quote;
		uint64_t	backslash;

		memcpy(&chunk, p, 8);
		quote = chunk ^ (ones * '"');
		backslash = chunk ^ (ones * '\\');
		/* a high bit set means: not ASCII, below the space, or (xor gave zero) one of the two */
		if (((chunk | (chunk - ones * ' ') | (quote - ones) | (backslash - ones)) & (ones * 0x80)) != 0)
			break;
		p += 8;
	}
#endif
	while (p < end)
	{
		unsigned char c = (unsigned char) *p;

		if (c < ' ' || c >= 0x80 || c == '"' || c == '\\')
			break;
		p++;
	}
	return p;
}

/* Returns the length of the valid UTF-8 sequence that begins at p (a byte from 0x80 on), 0 if there is none. */
static inline int
utf8_length(const char *p, const char *end)
{
	const unsigned char *s = (const unsigned char *) p;
	size_t		left = end - p;

	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		return left >= 2 && (s[1] & 0xc0) == 0x80 ? 2 : 0;
	if ((s[0] & 0xf0) == 0xe0)
	{
		if (left < 3 || (s[1] & 0xc0) != 0x80 || (s[2] & 0xc0) != 0x80)
			return 0;
		if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f))
			return 0;			/* overlong, surrogate */
		return 3;
	}
	if (s[0] >= 0xf0 && s[0] <= 0xf4)
	{
		if (left < 4 || (s[1] & 0xc0) != 0x80 || (s[2] & 0xc0) != 0x80 || (s[3] & 0xc0) != 0x80)
			return 0;
		if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
			return 0;			/* overlong, beyond U+10FFFF */
		return 4;
	}
	return 0;
}

/* Finds the first byte that is not part of valid UTF-8. */
size_t
ks_utf8_check(const char *text, size_t size)
{
	const char *p = text;
	const char *end = text + size;

	while (p < end)
	{
		if ((unsigned char) *p < 0x80)
		{
			uint64_t	eight;

			while (end - p >= 8 && (memcpy(&eight, p, 8), (eight & UINT64_C(0x8080808080808080)) == 0))
				p += 8;
			while (p < end && (unsigned char) *p < 0x80)
				p++;
		}
		else
		{
			int			length = utf8_length(p, end);

			if (length == 0)
				return p - text;
			p += length;
		}
	}
	return size;
}

/* Value of four hexadecimal digits at p, -1 if they are none. */
static int
hex4(const char *p, const char *end)
{
	int			value = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		char		c = p[i];

		value <<= 4;
		if (c >= '0' && c <= '9')
			value |= c - '0';
		else if (c >= 'a' && c <= 'f')
			value |= c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			value |= c - 'A' + 10;
		else
			return -1;
	}
	return value;
}

/*
 * Checks the escape sequence at p (a backslash).  Returns its length, 0 with the error set.
 * A surrogate pair is one sequence.
 */
static int
check_escape(KsJson *json, const char *p)
{
	int			code;

	if (json->end - p < 2)
	{
		fail(json, json->end, "unexpected end of text");
		return 0;
	}
	switch (p[1])
	{
		case '"':
		case '\\':
		case '/':
		case 'b':
		case 'f':
		case 'n':
		case 'r':
		case 't':
			return 2;
		case 'u':
			code = hex4(p + 2, json->end);
			if (code < 0)
			{
				fail(json, p, "\\u is not followed by four hexadecimal digits");
				return 0;
			}
			if (code < 0xd800 || code > 0xdfff)
				return 6;
			if (code <= 0xdbff && json->end - p >= 12 && p[6] == '\\' && p[7] == 'u')
			{
				int			low = hex4(p + 8, json->end);

				if (low >= 0xdc00 && low <= 0xdfff)
					return 12;
			}
			fail(json, p, "unpaired surrogate");
			return 0;
		default:
			fail(json, p, "invalid escape sequence");
			return 0;
	}
}

/* Writes the character of code as UTF-8; returns the position behind it. */
static char *
put_utf8(char *out, uint32_t code)
{
	if (code < 0x80)
		*out++ = (char) code;
	else if (code < 0x800)
	{
		*out++ = (char) (0xc0 | (code >> 6));
		*out++ = (char) (0x80 | (code & 0x3f));
	}
	else if (code < 0x10000)
	{
		*out++ = (char) (0xe0 | (code >> 12));
		*out++ = (char) (0x80 | ((code >> 6) & 0x3f));
		*out++ = (char) (0x80 | (code & 0x3f));
	}
	else
	{
		*out++ = (char) (0xf0 | (code >> 18));
		*out++ = (char) (0x80 | ((code >> 12) & 0x3f));
		*out++ = (char) (0x80 | ((code >> 6) & 0x3f));
		*out++ = (char) (0x80 | (code & 0x3f));
	}
	return out;
}

/*
 * Unescapes the checked string [p, end) into the arena.  Output is never longer than input: \uXXXX takes six bytes and
 * gives at most three.  False when out of memory.
 */
static bool
unescape(KsJson *json, const char *p, const char *end, const char **data, uint32_t *size, bool *has_nul)
{
	char	   *result = ks_arena_alloc(json->arena, end - p);
	char	   *out = result;

	if (result == NULL)
		return fail(json, p, "out of memory");
	while (p < end)
	{
		const char *escape = memchr(p, '\\', end - p);
		size_t		plain = (escape != NULL ? escape : end) - p;

		memcpy(out, p, plain);
		out += plain;
		p += plain;
		if (escape == NULL)
			break;
		p += 2;
		switch (p[-1])
		{
			case 'b':
				*out++ = '\b';
				break;
			case 'f':
				*out++ = '\f';
				break;
			case 'n':
				*out++ = '\n';
				break;
			case 'r':
				*out++ = '\r';
				break;
			case 't':
				*out++ = '\t';
				break;
			case 'u':
				{
					uint32_t	code = (uint32_t) hex4(p, end);

					p += 4;
					if (code >= 0xd800 && code <= 0xdbff)
					{
						code = 0x10000 + ((code - 0xd800) << 10) + ((uint32_t) hex4(p + 2, end) - 0xdc00);
						p += 6;
					}
					if (code == 0)
						*has_nul = true;
					out = put_utf8(out, code);
					break;
				}
			default:			/* quote, backslash, slash */
				*out++ = p[-1];
				break;
		}
	}
	*data = result;
	*size = (uint32_t) (out - result);
	return true;
}

/*
 * Checks the string at pos (a quote) and moves behind it.  With "data", gives the unescaped content.
 */
static inline bool
scan_string(KsJson *json, const char **data, uint32_t *size, bool *has_nul)
{
	const char *begin = json->pos + 1;
	const char *p = begin;
	const char *end = json->end;
	bool		escaped = false;

	for (;;)
	{
		p = skip_plain(p, end);
		if (unlikely_(p == end))
			return fail(json, end, "unterminated string");
		if (likely_(*p == '"'))
			break;
		if ((unsigned char) *p >= 0x80)
		{
			do
			{
				int			length = utf8_length(p, end);

				if (length == 0)
					return fail(json, p, "invalid UTF-8");
				p += length;
			} while (p < end && (unsigned char) *p >= 0x80);
		}
		else if (*p == '\\')
		{
			int			length = check_escape(json, p);

			if (length == 0)
				return false;
			p += length;
			escaped = true;
		}
		else
			return fail(json, p, "control character in a string");
	}
	json->pos = p + 1;
	if (data != NULL)
	{
		*has_nul = false;
		if (escaped)
			return unescape(json, begin, p, data, size, has_nul);
		*data = begin;
		*size = (uint32_t) (p - begin);
	}
	return true;
}

static inline bool
digit_at(const char *p, const char *end)
{
	return p < end && (unsigned char) (*p - '0') <= 9;
}

/* Checks the number at pos and moves behind it. */
static inline bool
scan_number(KsJson *json)
{
	const char *p = json->pos;
	const char *end = json->end;

	if (*p == '-')
		p++;
	if (!digit_at(p, end))
		return fail_expected(json, p, "expected a digit");
	if (*p == '0')
		p++;
	else
		while (digit_at(p, end))
			p++;
	if (p < end && *p == '.')
	{
		p++;
		if (!digit_at(p, end))
			return fail_expected(json, p, "expected a digit");
		while (digit_at(p, end))
			p++;
	}
	if (p < end && (*p == 'e' || *p == 'E'))
	{
		p++;
		if (p < end && (*p == '+' || *p == '-'))
			p++;
		if (!digit_at(p, end))
			return fail_expected(json, p, "expected a digit");
		while (digit_at(p, end))
			p++;
	}
	json->pos = p;
	return true;
}

/* Checks a literal name at pos and moves behind it. */
static inline bool
scan_literal(KsJson *json, const char *word, size_t size)
{
	if ((size_t) (json->end - json->pos) < size || memcmp(json->pos, word, size) != 0)
		return fail(json, json->pos, "expected a JSON value");
	json->pos += size;
	return true;
}

/* Checks the scalar at pos, which must not be at the end, and moves behind it. */
static inline bool
skip_scalar(KsJson *json)
{
	switch (*json->pos)
	{
		case '"':
			return scan_string(json, NULL, NULL, NULL);
		case 't':
			return scan_literal(json, "true", 4);
		case 'f':
			return scan_literal(json, "false", 5);
		case 'n':
			return scan_literal(json, "null", 4);
		case '-':
		case '0':
		case '1':
		case '2':
		case '3':
		case '4':
		case '5':
		case '6':
		case '7':
		case '8':
		case '9':
			return scan_number(json);
		default:
			return fail(json, json->pos, "expected a JSON value");
	}
}

/* Checks a member's name and colon and moves behind them. */
static inline bool
skip_name(KsJson *json)
{
	json->pos = skip_space(json->pos, json->end);
	if (json->pos == json->end || *json->pos != '"')
		return fail_expected(json, json->pos, "expected a member name");
	if (!scan_string(json, NULL, NULL, NULL))
		return false;
	json->pos = skip_space(json->pos, json->end);
	if (json->pos == json->end || *json->pos != ':')
		return fail_expected(json, json->pos, "expected a colon");
	json->pos++;
	return true;
}

/* Checks the object or array at pos and moves behind it; a stack of one bit per level instead of recursion. */
static bool
skip_container(KsJson *json)
{
	uint64_t	is_object[KS_JSON_MAX_DEPTH / 64] = {0};
	int			depth = 0;

	for (;;)
	{
		/* at a value */
		json->pos = skip_space(json->pos, json->end);
		if (json->pos == json->end)
			return fail_expected(json, json->pos, NULL);
		if (*json->pos == '{' || *json->pos == '[')
		{
			bool		object = *json->pos == '{';

			if (depth == KS_JSON_MAX_DEPTH)
				return fail(json, json->pos, "nested too deeply");
			if (object)
				is_object[depth / 64] |= UINT64_C(1) << (depth % 64);
			else
				is_object[depth / 64] &= ~(UINT64_C(1) << (depth % 64));
			depth++;
			json->pos = skip_space(json->pos + 1, json->end);
			if (json->pos == json->end || *json->pos != (object ? '}' : ']'))
			{
				if (object && !skip_name(json))
					return false;
				continue;
			}
			/* empty: falls through to its closing bracket */
		}
		else if (!skip_scalar(json))
			return false;

		/* behind a value, or at the closing bracket of an empty container */
		for (;;)
		{
			bool		object = (is_object[(depth - 1) / 64] >> ((depth - 1) % 64)) & 1;

			json->pos = skip_space(json->pos, json->end);
			if (json->pos == json->end)
				return fail_expected(json, json->pos, NULL);
			if (*json->pos == ',')
			{
				json->pos++;
				if (object && !skip_name(json))
					return false;
				break;
			}
			if (*json->pos != (object ? '}' : ']'))
				return fail(json, json->pos, object ? "expected a comma or }" : "expected a comma or ]");
			json->pos++;
			if (--depth == 0)
				return true;
		}
	}
}

/* Returns the next byte that is not white space, -1 at the end. */
int
ks_json_peek(KsJson *json)
{
	json->pos = skip_space(json->pos, json->end);
	return json->pos < json->end ? (unsigned char) *json->pos : -1;
}

/* Scans any value. */
bool
ks_json_value(KsJson *json, KsField *value)
{
	const char *begin = skip_space(json->pos, json->end);

	json->pos = begin;
	value->has_nul = false;
	value->json_null = false;
	value->modes = 0;
	value->optional = false;
	if (json->error != NULL || begin == json->end)
		return fail_expected(json, begin, NULL);
	value->raw = value->data = begin;
	switch (*begin)
	{
		case '"':
			value->kind = KS_FIELD_STRING;
			if (!scan_string(json, &value->data, &value->size, &value->has_nul))
				return false;
			value->raw_size = (uint32_t) (json->pos - begin);
			return true;
		case '{':
		case '[':
			value->kind = *begin == '{' ? KS_FIELD_OBJECT : KS_FIELD_ARRAY;
			if (!skip_container(json))
				return false;
			break;
		case 'n':
			value->kind = KS_FIELD_NULL;
			if (!scan_literal(json, "null", 4))
				return false;
			break;
		case 't':
			value->kind = KS_FIELD_TRUE;
			if (!scan_literal(json, "true", 4))
				return false;
			break;
		case 'f':
			value->kind = KS_FIELD_FALSE;
			if (!scan_literal(json, "false", 5))
				return false;
			break;
		default:
			value->kind = KS_FIELD_NUMBER;
			if (!skip_scalar(json))
				return false;
			break;
	}
	value->raw_size = value->size = (uint32_t) (json->pos - begin);
	return true;
}

/* Checks and skips any value. */
bool
ks_json_skip(KsJson *json)
{
	json->pos = skip_space(json->pos, json->end);
	if (json->error != NULL || json->pos == json->end)
		return fail_expected(json, json->pos, NULL);
	if (*json->pos == '{' || *json->pos == '[')
		return skip_container(json);
	return skip_scalar(json);
}

/*
 * Moves over the opening bracket or a comma, or the closing bracket.  Returns 1 before a member or element, 0 behind
 * the closing bracket, -1 on error.
 */
static inline int
next_item(KsJson *json, bool *first, char close)
{
	if (*first)
	{
		*first = false;
		json->pos = skip_space(json->pos + 1, json->end);
		if (json->pos < json->end && *json->pos == close)
		{
			json->pos++;
			return 0;
		}
		return 1;
	}
	json->pos = skip_space(json->pos, json->end);
	if (json->pos < json->end && *json->pos == ',')
	{
		json->pos++;
		return 1;
	}
	if (json->pos < json->end && *json->pos == close)
	{
		json->pos++;
		return 0;
	}
	fail_expected(json, json->pos, close == '}' ? "expected a comma or }" : "expected a comma or ]");
	return -1;
}

/* Next member of an object. */
int
ks_json_next_member(KsJson *json, bool *first, KsField *field)
{
	int			result = next_item(json, first, '}');
	bool		has_nul;

	if (result <= 0)
		return result;
	json->pos = skip_space(json->pos, json->end);
	if (json->pos == json->end || *json->pos != '"')
	{
		fail_expected(json, json->pos, "expected a member name");
		return -1;
	}
	if (!scan_string(json, &field->name, &field->name_size, &has_nul))
		return -1;
	json->pos = skip_space(json->pos, json->end);
	if (json->pos == json->end || *json->pos != ':')
	{
		fail_expected(json, json->pos, "expected a colon");
		return -1;
	}
	json->pos++;
	return 1;
}

/* Next element of an array. */
int
ks_json_next_element(KsJson *json, bool *first)
{
	return next_item(json, first, ']');
}

/* Checks that nothing is left but white space. */
bool
ks_json_finish(KsJson *json)
{
	json->pos = skip_space(json->pos, json->end);
	if (json->error != NULL)
		return false;
	if (json->pos != json->end)
		return fail(json, json->pos, "text goes on after the JSON value");
	return true;
}
