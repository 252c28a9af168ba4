/*
 * topic_send.c: see topic_send.h.
 *
 * A producer with a transactional id of its own is kept per login for the rest of the session: fetching one for every
 * commit would cost several times what the commit does.  After any error it is given up, but not its id: if brokers that
 * were away could not be told to abort, the first thing that the next producer of that id does is just that.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "event/event.h"
#include "fdw/topic_outbox.h"
#include "fdw/topic_send.h"
#include "kafka/headers.h"
#include "kafka/transactional.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/predicate.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define WAIT_NAME "KafkaInsert"
#define COMMIT_MS 10000
#define ABORT_MS 3000
/* A transaction may take this long in any case, and a second more for each so many bytes; brokers allow 15 minutes. */
#define BASE_TIMEOUT_MS 60000
#define BYTES_PER_SECOND (1024 * 1024)
#define MAX_TIMEOUT_MS 900000
#define MAX_SENDERS 8

typedef struct Sender
{
	dlist_node	node;
	MemoryContext context;
	KsServer   *server;
	Oid			role;
	char		id[128];		/* transactional */
	KsTransactional *producer;	/* NULL: given up */
} Sender;

/* Kept for the next transaction, and in use for this one, newest first. */
static dlist_head senders = DLIST_STATIC_INIT(senders);
static int	nsenders = 0;

/* Gives a sender's producer up. */
static void
give_up_producer(Sender *sender)
{
	if (sender->producer)
		ks_transactional_destroy(sender->producer);
	sender->producer = NULL;
}

/* Gives a login up. */
static void
forget_sender(Sender *sender)
{
	give_up_producer(sender);
	dlist_delete(&sender->node);
	nsenders--;
	MemoryContextDelete(sender->context);
}

static void abort_at_exit(int code, Datum arg);

/* Returns the sender of a target's login, made if need be. */
static Sender *
find_sender(const KsOutboxTarget *target, int timeout_ms)
{
	static bool registered = false;
	MemoryContext context;
	MemoryContext former;
	Sender	   *sender;
	uint64		random;
	dlist_iter	iter;

	dlist_foreach(iter, &senders)
	{
		sender = dlist_container(Sender, node, iter.cur);
		if (sender->role != target->role || !ks_server_same(sender->server, target->server))
			continue;
		if (sender->producer && sender->producer->timeout_ms < timeout_ms && !sender->producer->begun)
			give_up_producer(sender);
		if (sender->producer == NULL)
			sender->producer = ks_transactional_create(sender->server, sender->id, timeout_ms, WAIT_NAME);
		return sender;
	}
	if (!registered)
	{
		before_shmem_exit(abort_at_exit, (Datum) 0);
		registered = true;
	}
	if (!pg_strong_random(&random, sizeof(random)))
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not make a random number")));
	context = AllocSetContextCreate(TopMemoryContext, "pg_kafka_sync sender", ALLOCSET_SMALL_SIZES);
	former = MemoryContextSwitchTo(context);
	sender = palloc0(sizeof(Sender));
	sender->context = context;
	sender->server = ks_server_copy(target->server);
	sender->role = target->role;
	/* no other session has it, now or later: nothing is taken over from anybody */
	snprintf(sender->id, sizeof(sender->id), "pg_kafka_sync.insert." UINT64_FORMAT ".%u.%d." UINT64_FORMAT,
			 GetSystemIdentifier(), MyDatabaseId, MyProcPid, random);
	MemoryContextSwitchTo(former);
	dlist_push_head(&senders, &sender->node);
	nsenders++;
	sender->producer = ks_transactional_create(sender->server, sender->id, timeout_ms, WAIT_NAME);
	return sender;
}

/* Headers of a message: those given, and what the format has to say. */
static rd_kafka_headers_t *
make_headers(const KsOutgoing *m)
{
	rd_kafka_headers_t *headers;

	if (m->headers.data == NULL && m->json_null.data == NULL && m->unchanged.data == NULL)
		return NULL;
	headers = ks_headers_make((Jsonb *) m->headers.data);
	if (m->json_null.data)
		rd_kafka_header_add(headers, KS_HEADER_JSON_NULL, -1, m->json_null.data, m->json_null.size);
	if (m->unchanged.data)
		rd_kafka_header_add(headers, KS_HEADER_UNCHANGED, -1, m->unchanged.data, m->unchanged.size);
	return headers;
}

/* See topic_send.h. */
void
ks_outgoing_send(KsTransactional *producer, const char *topic, const KsOutgoing *m, int64 number)
{
	KsTransactionalMessage message = {topic, m->partition, m->timestamp_ms, m->key.data, m->key.size, m->value.data,
	m->value.size, make_headers(m), number};

	ks_transactional_send(producer, &message);
}

/* Sends all messages to librdkafka. */
static void
produce_all(int timeout_ms)
{
	int			ntargets;
	const KsOutboxTarget *targets = ks_outbox_targets(&ntargets);
	Sender	  **of_target = palloc0(sizeof(Sender *) * ntargets);
	KsOutgoing	message;

	/* all of them before the first message: see ks_transactional_check_topic */
	for (int i = 0; i < ntargets; i++)
		if (targets[i].first >= 0)
		{
			of_target[i] = find_sender(&targets[i], timeout_ms);
			ks_transactional_begin(of_target[i]->producer);
			ks_transactional_check_topic(of_target[i]->producer, targets[i].topic);
		}
	ks_outbox_rewind();
	while (ks_outbox_next(&message))
		ks_outgoing_send(of_target[message.target]->producer, targets[message.target].topic, &message, 0);
}

/* Commits the Kafka transaction, in at most COMMIT_MS; interrupts are held: see commit_all. */
static void
commit(Sender *sender)
{
	char		reason[512];

	if (ks_transactional_commit(sender->producer, COMMIT_MS, reason, sizeof(reason)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
			 errmsg("Kafka server \"%s\" did not say in time whether the transaction's messages are committed",
					sender->server->name),
			 errdetail("Kafka says: %s", reason),
			 errhint("They may or may not have been sent; the transaction here is rolled back.")));
}

/* After an error: aborts what has begun, as far as that can be done soon, and gives the producers up. */
static void
abort_all(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &senders)
	{
		Sender	   *sender = dlist_container(Sender, node, iter.cur);

		if (sender->producer == NULL || (sender->producer->ready && !sender->producer->begun))
			continue;
		PG_TRY();
		{
			ks_transactional_abort(sender->producer, ABORT_MS);
		}
		PG_CATCH();
		{
			/* a transaction that is not aborted ends by its timeout, or when the next producer of its id begins */
			FlushErrorState();
		}
		PG_END_TRY();
		give_up_producer(sender);
	}
}

/*
 * Commits the Kafka transactions.  From the first one on nobody can tell what an interrupt would leave behind, and what
 * one login has sent is not to be without what another has: so there is none until all are done.  On ERROR they are
 * still held where the error is caught, which clears that.
 */
static void
commit_all(void)
{
	dlist_iter	iter;

	HOLD_INTERRUPTS();
	dlist_foreach(iter, &senders)
	{
		Sender	   *sender = dlist_container(Sender, node, iter.cur);

		if (sender->producer && sender->producer->begun)
			commit(sender);
	}
	RESUME_INTERRUPTS();
}

/*
 * The session ends, perhaps (it was terminated, or the server stops) between begin and commit: what is open would hold up
 * readers of committed messages until its timeout.  Runs before the transaction here is aborted, and waits for a few
 * seconds at most.  No interrupt is served meanwhile, and an ERROR only ends this callback: PostgreSQL makes it FATAL and
 * goes on with the next one.
 */
static void
abort_at_exit(int code, Datum arg)
{
	dlist_iter	iter;
	bool		any = false;

	(void) code;
	(void) arg;
	dlist_foreach(iter, &senders)
	{
		Sender	   *sender = dlist_container(Sender, node, iter.cur);

		any |= sender->producer && sender->producer->begun;
	}
	if (any)
		abort_all();
}

void
ks_topic_send(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync send", ALLOCSET_DEFAULT_SIZES);
	MemoryContext former = MemoryContextSwitchTo(context);
	int			timeout_ms = Min(MAX_TIMEOUT_MS, BASE_TIMEOUT_MS + ks_outbox_size() / BYTES_PER_SECOND * 1000);
	dlist_iter	iter;

	/* few sessions write with many logins */
	while (nsenders > MAX_SENDERS)
		forget_sender(dlist_container(Sender, node, dlist_tail_node(&senders)));
	PG_TRY();
	{
		produce_all(timeout_ms);
		dlist_foreach(iter, &senders)
		{
			Sender	   *sender = dlist_container(Sender, node, iter.cur);

			if (sender->producer && sender->producer->begun)
				ks_transactional_wait(sender->producer);
		}
		/* the last thing that could still refuse the commit here */
		PreCommit_CheckForSerializationFailure();
		commit_all();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		HOLD_INTERRUPTS();
		abort_all();
		RESUME_INTERRUPTS();
		ReThrowError(error);
	}
	PG_END_TRY();

	MemoryContextSwitchTo(former);
	MemoryContextDelete(context);
}
