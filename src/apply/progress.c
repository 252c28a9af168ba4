/*
 * progress.c: see progress.h.
 */
#include "postgres.h"

#include "apply/progress.h"
#include "utils/memutils.h"

/* See progress.h. */
KsProgress *
ks_progress_create(void)
{
	KsProgress *p = palloc0(sizeof(KsProgress));

	p->context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync progress", ALLOCSET_SMALL_SIZES);
	p->stale = true;
	return p;
}

/* See progress.h. */
void
ks_progress_reset(KsProgress *p)
{
	MemoryContextReset(p->context);
	p->count = p->capacity = p->latest = 0;
	p->items = NULL;
}

/* Finds the entry of a partition, NULL if there is none. */
static KsProgressItem *
find(KsProgress *p, const char *topic, int32 partition)
{
	for (int i = 0; i < p->count; i++)
	{
		/* messages of a partition come together */
		int			at = (p->latest + i) % p->count;
		KsProgressItem *item = &p->items[at];

		if (item->partition == partition && strcmp(item->topic, topic) == 0)
		{
			p->latest = at;
			return item;
		}
	}
	return NULL;
}

/* See progress.h. */
void
ks_progress_set(KsProgress *p, const char *topic, int32 partition, int64 generation, int64 next)
{
	KsProgressItem *item = find(p, topic, partition);

	if (item == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(p->context);

		if (p->count == p->capacity)
		{
			p->capacity = Max(16, p->capacity * 2);
			p->items = p->items ? repalloc(p->items, sizeof(KsProgressItem) * p->capacity) :
				palloc(sizeof(KsProgressItem) * p->capacity);
		}
		item = &p->items[p->count++];
		item->topic = pstrdup(topic);
		item->partition = partition;
		item->changed = true;
		MemoryContextSwitchTo(old);
	}
	else if (item->generation != generation || item->next != next)
		item->changed = true;
	item->generation = generation;
	item->next = next;
}

/* See progress.h. */
bool
ks_progress_known(KsProgress *p, const char *topic, int32 partition)
{
	return find(p, topic, partition) != NULL;
}

/* See progress.h. */
bool
ks_progress_has(KsProgress *p, const KsMessage *message, int64 generation)
{
	const KsProgressItem *item = find(p, message->topic, message->partition);

	return item && item->generation == generation && message->offset < item->next;
}

/* See progress.h. */
void
ks_progress_set_letter(KsProgress *p, const KsMessage *message, int64 id)
{
	ks_progress_set(p, message->topic, KS_LETTERS_OF(message->partition), id, message->offset);
}

/* See progress.h. */
bool
ks_progress_has_letter(KsProgress *p, const KsMessage *message, int64 id)
{
	const KsProgressItem *item = find(p, message->topic, KS_LETTERS_OF(message->partition));

	return item && item->generation == id && item->next == message->offset;
}

/* See progress.h. */
void
ks_progress_settle(KsProgress *p)
{
	for (int i = 0; i < p->count; i++)
		p->items[i].changed = false;
}
