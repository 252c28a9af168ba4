/*
 * dedupe.c: see dedupe.h.
 */
#include "postgres.h"

#include "consume/dedupe.h"
#include "event/event.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

/* Most producers that a partition can have: their positions are held in memory, and stored with every transaction. */
#define MAX_PRODUCERS 1000
#define MAX_NAME 255

/* A position: commit LSN and ordinal, or 0 and a number. */
typedef struct Position
{
	uint64		major;
	uint64		minor;
} Position;

typedef struct Producer
{
	int			size;
	char	   *name;			/* as in the header */
	bool		known;			/* stored is set */
	bool		noted;			/* latest is set */
	Position	stored;
	Position	latest;			/* of the transaction under way */
} Producer;

struct KsProducers
{
	MemoryContext context;
	int			count;
	int			capacity;
	int			last;			/* found last: mostly the next one, too */
	bool		changed;
	Producer   *items;
};

/* Parses digits up to the end; false if there is anything else. */
static bool
parse_number(const char *text, const char *end, int base, uint64 *result)
{
	uint64		value = 0;

	if (text == end)
		return false;
	for (; text < end; text++)
	{
		int			digit = *text >= '0' && *text <= '9' ? *text - '0' : *text >= 'A' && *text <= 'F' ? *text - 'A' + 10 :
			*text >= 'a' && *text <= 'f' ? *text - 'a' + 10 : 99;

		if (digit >= base || value > (PG_UINT64_MAX - digit) / base)
			return false;
		value = value * base + digit;
	}
	*result = value;
	return true;
}

/* Where the last '/' of a text is, NULL if there is none. */
static const char *
last_slash(const char *text, const char *end)
{
	while (end > text)
		if (*--end == '/')
			return end;
	return NULL;
}

/* Parses a header's value; false if it is none. */
static bool
parse(const char *value, size_t size, bool ours, int *name_size, Position *position)
{
	const char *end = value + size;
	const char *slash = last_slash(value, end);

	position->major = 0;
	if (!parse_number(slash ? slash + 1 : value, end, 10, &position->minor))
		return false;
	*name_size = slash ? slash - value : 0;
	if (ours)
	{
		const char *second = slash ? last_slash(value, slash) : NULL;

		if (second == NULL || !parse_number(second + 1, slash, 16, &position->major))
			return false;
		*name_size = second - value;
	}
	return *name_size <= MAX_NAME && (!ours || *name_size > 0);
}

/* Finds a producer, or adds it. */
static Producer *
find_producer(KsProducers *p, const char *name, int size)
{
	Producer   *item;

	if (p->last < p->count)
	{
		item = &p->items[p->last];
		if (item->size == size && memcmp(item->name, name, size) == 0)
			return item;
	}
	for (int i = 0; i < p->count; i++)
	{
		item = &p->items[i];
		if (item->size == size && memcmp(item->name, name, size) == 0)
		{
			p->last = i;
			return item;
		}
	}
	if (p->count == MAX_PRODUCERS)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("messages of more than %d producers in one partition", MAX_PRODUCERS),
				 errhint("Set option \"dedupe\" to off: repeats are not recognised then.")));
	if (p->count == p->capacity)
	{
		MemoryContext old = MemoryContextSwitchTo(p->context);

		p->capacity = Max(4, p->capacity * 2);
		p->items = p->items ? repalloc(p->items, sizeof(Producer) * p->capacity) : palloc(sizeof(Producer) * p->capacity);
		MemoryContextSwitchTo(old);
	}
	item = &p->items[p->count];
	memset(item, 0, sizeof(Producer));
	item->size = size;
	item->name = MemoryContextAlloc(p->context, size + 1);
	memcpy(item->name, name, size);
	item->name[size] = '\0';
	p->last = p->count++;
	return item;
}

/* See dedupe.h. */
KsProducers *
ks_producers_read(const Jsonb *stored)
{
	KsProducers *p = palloc0(sizeof(KsProducers));
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;

	p->context = CurrentMemoryContext;
	if (stored == NULL || !JB_ROOT_IS_OBJECT(stored))
		return p;
	it = JsonbIteratorInit(&((Jsonb *) stored)->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		Producer   *item;
		int			name_size;

		if (token != WJB_KEY)
			continue;
		item = find_producer(p, v.val.string.val, v.val.string.len);
		(void) JsonbIteratorNext(&it, &v, true);
		/* "<LSN>/<number>": with a name before it, it looks like our header */
		if (v.type == jbvString)
		{
			char	   *text = psprintf("x/%.*s", v.val.string.len, v.val.string.val);

			item->known = parse(text, strlen(text), true, &name_size, &item->stored);
		}
	}
	return p;
}

/* See dedupe.h. */
bool
ks_producers_repeated(KsProducers *p, const KsMessage *m, const char *header)
{
	size_t		size;
	const char *value;
	int			name_size;
	Position	position;
	Producer   *item;
	const Position *last;

	if (m->find_header == NULL)
		return false;
	value = m->find_header(m, header ? header : KS_HEADER_POS, &size);
	if (value == NULL)
		return false;
	if (!parse(value, size, header == NULL, &name_size, &position) ||
		!pg_verify_mbstr(PG_UTF8, value, name_size, true))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("header \"%s\" is no position", header ? header : KS_HEADER_POS),
				 header ? errhint("It is a number that grows within a partition, or a producer's name, '/' and such a number.") :
				 errhint("Set option \"dedupe\" to off: repeats are not recognised then.")));
	item = find_producer(p, value, name_size);
	last = item->noted ? &item->latest : item->known ? &item->stored : NULL;
	if (last && (position.major < last->major || (position.major == last->major && position.minor <= last->minor)))
		return true;
	item->latest = position;
	item->noted = true;
	p->changed = true;
	return false;
}

/* See dedupe.h. */
bool
ks_producers_changed(const KsProducers *p)
{
	return p->changed;
}

/* See dedupe.h. */
Jsonb *
ks_producers_write(const KsProducers *p)
{
	JsonbParseState *state = NULL;
	JsonbValue	v;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < p->count; i++)
	{
		const Producer *item = &p->items[i];
		const Position *last = item->noted ? &item->latest : &item->stored;

		if (!item->noted && !item->known)
			continue;
		v.type = jbvString;
		v.val.string.val = item->name;
		v.val.string.len = item->size;
		(void) pushJsonbValue(&state, WJB_KEY, &v);
		v.val.string.val = psprintf("%llX/%llu", (unsigned long long) last->major, (unsigned long long) last->minor);
		v.val.string.len = strlen(v.val.string.val);
		(void) pushJsonbValue(&state, WJB_VALUE, &v);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* See dedupe.h. */
void
ks_producers_finish(KsProducers *p, bool committed)
{
	for (int i = 0; p->changed && i < p->count; i++)
	{
		Producer   *item = &p->items[i];

		if (committed && item->noted)
		{
			item->stored = item->latest;
			item->known = true;
		}
		item->noted = false;
	}
	p->changed = false;
}
