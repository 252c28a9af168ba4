/*
 * json_scan.h: a pull scanner for JSON (RFC 8259, strict) over bytes that nobody vouches for.  Plain C, no PostgreSQL.
 *
 * Every byte that the scanner passes over is checked, also in values that are skipped: grammar, UTF-8, escapes, depth.
 * Values are slices of the input; only strings with escapes are copied, into the arena.
 */
#ifndef KS_JSON_SCAN_H
#define KS_JSON_SCAN_H

#include "event/parser.h"

/* Nesting that is accepted below the value at hand. */
#define KS_JSON_MAX_DEPTH 512
/* Longest text that is accepted: sizes must fit KsField and PostgreSQL's int. */
#define KS_JSON_MAX_SIZE 0x7fffffff

/* Memory that is given back all at once; keeps one chunk for the next round. */
typedef struct KsArenaChunk KsArenaChunk;
typedef struct KsArena
{
	KsArenaChunk *chunks;		/* newest first */
	char	   *pos;
	char	   *end;
} KsArena;

/* Returns size bytes, or NULL when out of memory. */
extern char *ks_arena_alloc(KsArena *arena, size_t size);
/* Forgets everything allocated, keeping one chunk of ordinary size. */
extern void ks_arena_reset(KsArena *arena);
extern void ks_arena_free(KsArena *arena);

typedef struct KsJson
{
	const char *start;
	const char *pos;
	const char *end;
	KsArena    *arena;
	const char *error;			/* static text, NULL while all is well */
	size_t		error_at;		/* byte offset */
} KsJson;

/* Returns the place of the first byte that is not part of valid UTF-8, or size. */
extern size_t ks_utf8_check(const char *text, size_t size);

/* Begins scanning a text; the arena takes unescaped strings. */
extern void ks_json_init(KsJson *json, const char *data, size_t size, KsArena *arena);

/* Skips white space and returns the next byte without consuming it, or -1 at the end. */
extern int	ks_json_peek(KsJson *json);

/* Scans any value into kind, has_nul, data, size, raw, raw_size of *value.  False: json->error is set. */
extern bool ks_json_value(KsJson *json, KsField *value);

/* Checks and skips any value; the same as ks_json_value() without the result. */
extern bool ks_json_skip(KsJson *json);

/*
 * Iteration.  The caller has seen '{' (or '[') with ks_json_peek(); *first is true before the first call.
 * ks_json_next_member() scans the member's name (name and name_size of *field) and the colon;
 * ks_json_next_element() stops before an element.  The caller must then scan or skip the value.
 * Returns 1, 0 after the closing bracket, or -1 with json->error set.
 */
extern int	ks_json_next_member(KsJson *json, bool *first, KsField *field);
extern int	ks_json_next_element(KsJson *json, bool *first);

/* Checks that only white space is left. */
extern bool ks_json_finish(KsJson *json);

#endif							/* KS_JSON_SCAN_H */
