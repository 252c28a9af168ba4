/*
 * log_ends.c: reads the few numbers that we want out of librdkafka's statistics document.
 *
 * It is JSON that librdkafka itself prints, about a kilobyte per partition.  Names in it (topics) need no escapes, so
 * it is scanned for its member names in the order they are known to come in, without building anything.
 */
#include "postgres.h"

#include "consume/log_ends.h"

/* Returns what follows "name": in text, before "end" (NULL = anywhere), or NULL. */
static const char *
member(const char *text, const char *name, const char *end)
{
	const char *at = strstr(text, name);

	if (at == NULL || (end != NULL && at >= end))
		return NULL;
	at += strlen(name);
	while (*at == ' ' || *at == ':')
		at++;
	return at;
}

/* Reads an integer member of a partition's object into *value, if it is there. */
static void
number(const char *text, const char *name, const char *end, int64 *value)
{
	const char *at = member(text, name, end);

	if (at)
		*value = strtoll(at, NULL, 10);
}

/* Takes the ends of one topic's partitions, between text and end. */
static void
update_topic(KsOffsets *offsets, const char *topic, const char *text, const char *end)
{
	const char *at = text;

	while ((at = member(at, "\"partition\"", end)) != NULL)
	{
		int32		partition = (int32) strtol(at, NULL, 10);
		const char *next = strstr(at, "\"partition\"");
		KsOffset   *o;
		int64		high = -1;
		int64		stable = -1;
		int64		low = -1;

		if (next == NULL || (end != NULL && next > end))
			next = end;
		o = partition < 0 ? NULL : ks_offsets_find(offsets, topic, partition);
		if (o == NULL || !o->assigned)
			continue;
		number(at, "\"lo_offset\"", next, &low);
		number(at, "\"hi_offset\"", next, &high);
		number(at, "\"ls_offset\"", next, &stable);
		if (high < 0)
			continue;
		if (stable < 0)
			stable = high;
		/*
		 * A log never gets shorter, but for one that was deleted and made anew.  The numbers may be a little older than
		 * the messages that came before them, hence twice.
		 */
		o->shorter = high < o->read ? o->shorter + 1 : 0;
		if (o->shorter >= 2)
			o->verified = false;
		o->low = low;
		ks_offset_note_ends(o, high, stable);
	}
}

/* See log_ends.h. */
bool
ks_log_ends_update(KsOffsets *offsets, const char *json)
{
	const char *topics = strstr(json, "\"topics\"");
	const char *at;
	bool		connected = false;

	for (at = strstr(json, "\"brokers\""); at != NULL && (at = member(at, "\"state\"", topics)) != NULL;)
		if (strncmp(at, "\"UP\"", 4) == 0)
			connected = true;
	if (topics == NULL)
		return connected;

	at = member(topics, "\"topic\"", NULL);
	while (at != NULL)
	{
		char		topic[256];
		const char *next = member(at, "\"topic\"", NULL);
		const char *quote = *at == '"' ? strchr(at + 1, '"') : NULL;

		if (quote != NULL && quote - at - 1 < sizeof(topic))
		{
			memcpy(topic, at + 1, quote - at - 1);
			topic[quote - at - 1] = '\0';
			update_topic(offsets, topic, quote, next);
		}
		at = next;
	}
	return connected;
}

/* See log_ends.h. */
uint64
ks_log_ends_lag(const KsOffsets *offsets)
{
	uint64		lag = 0;

	for (int i = 0; i < offsets->count; i++)
	{
		KsOffset   *o = offsets->items[i];

		if (!o->assigned)
			continue;
		if (o->stable < 0)
			return PG_UINT64_MAX;
		if (o->stable > o->stored)
			lag += o->stable - o->stored;
	}
	return lag;
}
