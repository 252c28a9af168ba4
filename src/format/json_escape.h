/*
 * json_escape.h: writing JSON into a StringInfo without a terminating NUL after every piece.
 *
 * The encoders write straight behind out->data + out->len; whoever hands the buffer on terminates it once
 * (ks_terminate).
 */
#ifndef KS_JSON_ESCAPE_H
#define KS_JSON_ESCAPE_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/memutils.h"

/* Makes room for n more bytes and returns where they go; the caller adds what it used to out->len. */
static inline char *
ks_reserve(StringInfo out, Size n)
{
	if (unlikely(n >= (Size) (out->maxlen - out->len)))
	{
		if (n > MaxAllocSize)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("message of more than %zu bytes cannot be encoded", (size_t) MaxAllocSize)));
		enlargeStringInfo(out, (int) n);
	}
	return out->data + out->len;
}

/* Appends n bytes as they are. */
static inline void
ks_put(StringInfo out, const char *data, Size n)
{
	memcpy(ks_reserve(out, n), data, n);
	out->len += n;
}

/* Appends one byte. */
static inline void
ks_put_char(StringInfo out, char c)
{
	*ks_reserve(out, 1) = c;
	out->len++;
}

/* Appends a NUL-terminated string as it is; meant for literals, whose length the compiler knows. */
#define ks_put_literal(out, literal) ks_put((out), ("" literal), sizeof(literal) - 1)

/* Puts the NUL behind the buffer that StringInfo promises its readers. */
static inline void
ks_terminate(StringInfo out)
{
	*ks_reserve(out, 1) = '\0';
}

/* Appends the inside of a JSON string: n bytes of UTF-8 with quotes, backslashes and control characters escaped. */
extern void ks_put_escaped(StringInfo out, const char *data, Size n);

/* Appends a JSON string, quotes included. */
static inline void
ks_put_string(StringInfo out, const char *data, Size n)
{
	ks_put_char(out, '"');
	ks_put_escaped(out, data, n);
	ks_put_char(out, '"');
}

#endif							/* KS_JSON_ESCAPE_H */
