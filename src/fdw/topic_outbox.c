/*
 * topic_outbox.c: see topic_outbox.h.
 *
 * A log of bytes that only grows at its end, or is cut back to where it was when a subtransaction began to write.  What
 * is behind "length" is left over and is written over.
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat/fdw_compat.h"
#include "fdw/topic_outbox.h"
#include "fdw/topic_send.h"
#include "miscadmin.h"
#include "storage/buffile.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#define MAX_MEMORY (512 * 1024 * 1024)

/* What is before each message. */
typedef struct Head
{
	int64		timestamp_ms;
	int32		target;
	int32		partition;
	int32		key_size;		/* -1 = none */
	int32		value_size;
	int32		headers_size;
	int32		json_null_size;
} Head;

/* Where the log ended when a subtransaction of this level first wrote. */
typedef struct Mark
{
	int			level;
	int64		length;
} Mark;

typedef struct Outbox
{
	MemoryContext context;		/* of the transaction */
	int			ntargets;
	KsOutboxTarget *targets;
	int64		length;
	char	   *memory;			/* all of it, until it is in the file */
	Size		capacity;
	BufFile    *file;
	bool		spilled;		/* the file has it; false with a file: that could not be filled */
	int64		position;		/* of the file, for writing; -1 = somewhere else */
	int			nmarks;
	int			max_marks;
	Mark	   *marks;			/* levels go up */
	int64		read;
	MemoryContext message_context;	/* of the message read last */
} Outbox;

static Outbox *outbox = NULL;

/* Closes the file. */
static void
close_file(void)
{
	BufFile    *file = outbox->file;

	outbox->file = NULL;
	BufFileClose(file);
}

/* Ends the outbox; its memory and file are the transaction's. */
static void
forget(bool close)
{
	if (outbox && outbox->file && close)
		close_file();
	outbox = NULL;
}

/* Sends before the commit, and forgets afterwards. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	if (outbox == NULL)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			/* to close it writes what is left in its buffer, which must not fail once the messages are sent */
			if (outbox->file && !outbox->spilled)
				close_file();
			if (outbox->length > 0)
				ks_topic_send();
			forget(true);
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (outbox->length > 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has written to a topic"),
						 errhint("Kafka cannot wait for COMMIT PREPARED: use COMMIT.")));
			forget(true);
			break;
		case XACT_EVENT_ABORT:
			forget(false);
			break;
		default:
			break;
	}
}

/* Cuts the log back to where it was before a subtransaction that failed. */
static void
at_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (outbox == NULL)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (outbox->nmarks > 0 && outbox->marks[outbox->nmarks - 1].level >= level)
			outbox->length = outbox->marks[--outbox->nmarks].length;
		outbox->position = -1;
		for (int i = 0; i < outbox->ntargets; i++)
			if (outbox->targets[i].first >= outbox->length)
				outbox->targets[i].first = -1;
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB && outbox->nmarks > 0)
	{
		Mark	   *last = &outbox->marks[outbox->nmarks - 1];

		if (last->level < level)
			return;
		/* what it wrote is now its parent's, which may have written before */
		if (outbox->nmarks > 1 && last[-1].level == level - 1)
			outbox->nmarks--;
		else
			last->level = level - 1;
	}
}

/* Makes the transaction's outbox, if there is none yet. */
static void
begin(void)
{
	static bool registered = false;
	MemoryContext context;

	if (outbox)
		return;
	if (!registered)
	{
		RegisterXactCallback(at_transaction_end, NULL);
		RegisterSubXactCallback(at_subtransaction_end, NULL);
		registered = true;
	}
	context = AllocSetContextCreate(TopTransactionContext, "pg_kafka_sync outbox", ALLOCSET_DEFAULT_SIZES);
	outbox = MemoryContextAllocZero(context, sizeof(Outbox));
	outbox->context = context;
	outbox->message_context = AllocSetContextCreate(context, "pg_kafka_sync message", ALLOCSET_DEFAULT_SIZES);
}

int
ks_outbox_target(const KsServer *server, Oid role, const char *topic, const char *table)
{
	MemoryContext former;
	KsOutboxTarget *target;
	KsServer   *copy = NULL;

	begin();
	for (int i = 0; i < outbox->ntargets; i++)
	{
		target = &outbox->targets[i];
		if (target->role != role || !ks_server_same(target->server, server))
			continue;
		if (strcmp(target->topic, topic) == 0)
			return i;
		copy = unconstify(KsServer *, target->server);	/* one login has one producer */
	}
	former = MemoryContextSwitchTo(outbox->context);
	outbox->targets = outbox->targets ?
		repalloc(outbox->targets, sizeof(KsOutboxTarget) * (outbox->ntargets + 1)) : palloc(sizeof(KsOutboxTarget));
	target = &outbox->targets[outbox->ntargets];
	if (copy == NULL)
		copy = ks_server_copy(server);
	target->server = copy;
	target->role = role;
	target->topic = pstrdup(topic);
	target->table = pstrdup(table);
	target->first = -1;
	MemoryContextSwitchTo(former);
	return outbox->ntargets++;
}

/* Remembers the log's end for the subtransaction that is about to write. */
static void
mark(void)
{
	int			level = GetCurrentTransactionNestLevel();

	/* at the top there is nothing to go back to */
	if (level <= 1 || (outbox->nmarks > 0 && outbox->marks[outbox->nmarks - 1].level >= level))
		return;
	if (outbox->nmarks == outbox->max_marks)
	{
		int			most = Max(16, outbox->max_marks * 2);

		outbox->marks = outbox->marks ? repalloc(outbox->marks, sizeof(Mark) * most) :
			MemoryContextAlloc(outbox->context, sizeof(Mark) * most);
		outbox->max_marks = most;	/* not before: a subtransaction that fails here leaves the outbox to others */
	}
	outbox->marks[outbox->nmarks].level = level;
	outbox->marks[outbox->nmarks++].length = outbox->length;
}

/* Moves the file to a place. */
static void
seek(int64 position)
{
	if (BufFileSeek(outbox->file, 0, (off_t) position, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not seek in the temporary file of messages to be sent")));
}

/* Makes the file, which lives as long as the transaction, whatever subtransaction this is. */
static void
make_file(void)
{
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext former = MemoryContextSwitchTo(outbox->context);

	CurrentResourceOwner = TopTransactionResourceOwner;
	PG_TRY();
	{
		outbox->file = BufFileCreateTemp(false);
	}
	PG_FINALLY();
	{
		CurrentResourceOwner = owner;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(former);
}

/*
 * Moves what there is in memory to the file.  The memory is kept until all of it is there: if that fails in a
 * subtransaction, for want of space, what was written before is still to be sent.
 */
static void
spill(void)
{
	if (outbox->file)
		seek(0);				/* it could not be filled before */
	else
		make_file();
	if (outbox->length > 0)
		ks_buffile_write(outbox->file, outbox->memory, outbox->length);
	outbox->position = outbox->length;
	outbox->spilled = true;
	if (outbox->memory)
		pfree(outbox->memory);
	outbox->memory = NULL;
}

/* Writes bytes at the log's end. */
static void
append(const void *data, Size size)
{
	if (size == 0)
		return;
	if (!outbox->spilled && outbox->length + size > Min((Size) work_mem * 1024, MAX_MEMORY))
		spill();
	if (outbox->spilled)
	{
		if (outbox->position != outbox->length)
			seek(outbox->length);
		outbox->position = -1;	/* should it fail in the middle */
		ks_buffile_write(outbox->file, data, size);
		outbox->position = outbox->length + size;
	}
	else
	{
		while (outbox->length + size > outbox->capacity || outbox->memory == NULL)
		{
			Size		capacity = Max(8192, outbox->capacity * 2);

			outbox->memory = outbox->memory ? repalloc_huge(outbox->memory, capacity) :
				MemoryContextAlloc(outbox->context, capacity);
			outbox->capacity = capacity;
		}
		memcpy(outbox->memory + outbox->length, data, size);
	}
	outbox->length += size;
}

void
ks_outbox_add(const KsOutgoing *m)
{
	Head		head = {m->timestamp_ms, m->target, m->partition, m->key.data ? m->key.size : -1,
	m->value.data ? m->value.size : -1, m->headers.data ? m->headers.size : -1, m->json_null.data ? m->json_null.size : -1};

	mark();
	if (outbox->targets[m->target].first < 0)
		outbox->targets[m->target].first = outbox->length;
	append(&head, sizeof(head));
	append(m->key.data, Max(head.key_size, 0));
	append(m->value.data, Max(head.value_size, 0));
	append(m->headers.data, Max(head.headers_size, 0));
	append(m->json_null.data, Max(head.json_null_size, 0));
}

const KsOutboxTarget *
ks_outbox_targets(int *count)
{
	*count = outbox->ntargets;
	return outbox->targets;
}

int64
ks_outbox_size(void)
{
	return outbox->length;
}

void
ks_outbox_rewind(void)
{
	outbox->read = 0;
	if (outbox->spilled)
		seek(0);
	outbox->position = -1;
}

/* Reads bytes from where the last ones ended. */
static void
take(void *data, Size size)
{
	if (!outbox->spilled)
		memcpy(data, outbox->memory + outbox->read, size);
	else if (BufFileRead(outbox->file, data, size) != size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read the temporary file of messages to be sent")));
	outbox->read += size;
}

/* Reads a part of a message. */
static KsPart
take_part(int32 size)
{
	KsPart		part = {NULL, 0};
	char	   *data;

	if (size < 0)
		return part;
	data = palloc(Max(size, 1));
	if (size > 0)
		take(data, size);
	part.data = data;
	part.size = size;
	return part;
}

bool
ks_outbox_next(KsOutgoing *m)
{
	MemoryContext former;
	Head		head;

	if (outbox->read >= outbox->length)
		return false;
	MemoryContextReset(outbox->message_context);
	former = MemoryContextSwitchTo(outbox->message_context);
	take(&head, sizeof(head));
	m->target = head.target;
	m->partition = head.partition;
	m->timestamp_ms = head.timestamp_ms;
	m->key = take_part(head.key_size);
	m->value = take_part(head.value_size);
	m->headers = take_part(head.headers_size);
	m->json_null = take_part(head.json_null_size);
	m->unchanged = take_part(-1);
	MemoryContextSwitchTo(former);
	return true;
}
