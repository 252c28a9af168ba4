/*
 * log_limit.c: see log_limit.h.  A small table for the whole process: clients of one server have the same to complain of.
 */
#include "kafka/log_limit.h"

#include <string.h>

#define CAUSES 16
#define EVERY_MS 60000

typedef struct Cause
{
	uint64_t	hash;			/* 0: free */
	int64_t		logged_at;
	uint32_t	left_out;
} Cause;

static Cause causes[CAUSES];

/* FNV-1a of some bytes, going on from another hash. */
static uint64_t
hash_more(uint64_t hash, const char *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		hash = (hash ^ (unsigned char) bytes[i]) * UINT64_C(1099511628211);
	return hash;
}

/* What makes a line another one; never 0. */
static uint64_t
cause_of(const char *facility, const char *text)
{
	uint64_t	hash = hash_more(UINT64_C(14695981039346656037), facility, strlen(facility) + 1);
	const char *end;

	if (strncmp(text, "[thrd:", 6) == 0)
	{
		const char *thread_end = strstr(text, "]: ");

		if (thread_end != NULL)
			text = thread_end + 3;
	}
	end = strstr(text, " (after ");
	hash = hash_more(hash, text, end != NULL ? (size_t) (end - text) : strlen(text));
	return hash != 0 ? hash : 1;
}

/* See log_limit.h. */
bool
ks_log_limit(const char *facility, const char *text, int64_t now_ms, uint32_t *left_out)
{
	uint64_t	hash = cause_of(facility, text);
	Cause	   *oldest = &causes[0];

	*left_out = 0;
	for (int i = 0; i < CAUSES; i++)
	{
		Cause	   *cause = &causes[i];

		if (cause->hash == hash)
		{
			/* a clock that was set back counts as a minute */
			if (now_ms >= cause->logged_at && now_ms - cause->logged_at < EVERY_MS)
			{
				cause->left_out++;
				return false;
			}
			*left_out = cause->left_out;
			cause->left_out = 0;
			cause->logged_at = now_ms;
			return true;
		}
		if (oldest->hash != 0 && (cause->hash == 0 || cause->logged_at < oldest->logged_at))
			oldest = cause;
	}
	oldest->hash = hash;
	oldest->logged_at = now_ms;
	oldest->left_out = 0;
	return true;
}

/* See log_limit.h. */
void
ks_log_limit_reset(void)
{
	memset(causes, 0, sizeof(causes));
}
