/*
 * topic_send.c: see topic_send.h.
 *
 * A producer with a transactional id of its own is kept per login for the rest of the session: fetching one for every
 * commit would cost several times what the commit does.  After any error it is given up.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "event/event.h"
#include "fdw/topic_outbox.h"
#include "fdw/topic_send.h"
#include "kafka/admin.h"
#include "kafka/headers.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/predicate.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define WAIT_NAME "KafkaInsert"
/* Without any acknowledgement for this long, the brokers count as gone. */
#define SILENCE_MS 10000
#define COMMIT_MS 10000
#define ABORT_MS 3000
/* A transaction may take this long in any case, and a second more for each so many bytes; brokers allow 15 minutes. */
#define BASE_TIMEOUT_MS 60000
#define BYTES_PER_SECOND (1024 * 1024)
#define MAX_TIMEOUT_MS 900000
#define MAX_SENDERS 8
#define SERVE_EVERY 500
#define MAX_BYTES (8 * 1024 * 1024)

typedef struct Sender
{
	dlist_node	node;
	MemoryContext context;
	KsServer   *server;
	Oid			role;
	int			timeout_ms;		/* of its transactions */
	KsClient   *client;
	bool		ready;			/* it has a producer id */
	bool		begun;
	int64		under_way;		/* messages not acknowledged */
	int64		bytes;			/* of these */
	TimestampTz progress;
	rd_kafka_resp_err_t failure;	/* of the first message that was not accepted */
	char		failed_topic[256];
} Sender;

/* Arguments and result of a call about transactions on its thread. */
typedef struct TransactionCall
{
	rd_kafka_error_t *(*function) (rd_kafka_t *rk, int timeout_ms);
	int			timeout_ms;
	rd_kafka_error_t *error;
} TransactionCall;

/* Kept for the next transaction, and in use for this one, newest first. */
static dlist_head senders = DLIST_STATIC_INIT(senders);
static int	nsenders = 0;

/* Gives a producer up. */
static void
forget_sender(Sender *sender)
{
	dlist_delete(&sender->node);
	nsenders--;
	if (sender->client)
		ks_client_destroy(sender->client, 0);
	MemoryContextDelete(sender->context);
}

/* On the call's thread. */
static void
transaction_run(rd_kafka_t *rk, void *arg)
{
	TransactionCall *call = arg;

	call->error = call->function(rk, call->timeout_ms);
}

/* On any thread. */
static void
transaction_release(void *arg)
{
	TransactionCall *call = arg;

	if (call->error)
		rd_kafka_error_destroy(call->error);
	free(call);
}

/* Runs a call that blocks; the caller releases what is returned. */
static TransactionCall *
transaction_call(Sender *sender, rd_kafka_error_t *(*function) (rd_kafka_t *rk, int timeout_ms), int timeout_ms)
{
	TransactionCall *call = calloc(1, sizeof(TransactionCall));

	if (call == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	call->function = function;
	call->timeout_ms = timeout_ms;
	sender->client->errors_only = true;
	ks_client_call(sender->client, transaction_run, transaction_release, call, WAIT_NAME);
	sender->client->errors_only = false;
	return call;
}

/* ERROR for what the brokers said. */
static void
sender_error(Sender *sender, rd_kafka_resp_err_t err, const char *reason, const char *what)
{
	KsAdmin		admin = {sender->server, sender->client, NULL};

	if (err == RD_KAFKA_RESP_ERR__TIMED_OUT || err == RD_KAFKA_RESP_ERR__TRANSPORT ||
		err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
		ks_unreachable_error(sender->client);
	ks_kafka_error(&admin, err, reason, what);
}

/* ERROR unless the call went well; releases it. */
static void
check_call(Sender *sender, TransactionCall *call, const char *what)
{
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;
	char	   *reason = NULL;

	if (call->error)
	{
		err = rd_kafka_error_code(call->error);
		reason = pstrdup(rd_kafka_error_string(call->error));
	}
	transaction_release(call);
	if (err)
		sender_error(sender, err, reason, what);
}

/* Where the server's options do not say otherwise, under either name. */
static const struct
{
	const char *name;
	const char *other_name;
	const char *value;
}			defaults[] = {
	{"compression.codec", "compression.type", "lz4"},
	{"linger.ms", "queue.buffering.max.ms", "5"},
	{"message.max.bytes", NULL, "104857600"},
	{"reconnect.backoff.max.ms", NULL, "2000"},
	{"socket.nagle.disable", NULL, "true"},
};

/* Was a property given with the server? */
static bool
is_given(const KsServer *server, const char *name)
{
	for (int i = 0; name && i < server->nproperties; i++)
		if (strcmp(server->properties[i].name, name) == 0)
			return true;
	return false;
}

/* Makes the producer. */
static void
make_client(Sender *sender)
{
	char		id[128];
	char		timeout[16];
	const KsProperty guarantees[] = {
		{"acks", "all"},
		{"enable.idempotence", "true"},
		{"partitioner", "murmur2_random"},
		{"queue.buffering.max.messages", "100000"},
		/* room for one message of any size: the bound in bytes is our own */
		{"queue.buffering.max.kbytes", "262144"},
		{"message.timeout.ms", CppAsString2(BASE_TIMEOUT_MS)},
		{"transaction.timeout.ms", timeout},
		{"transactional.id", id},
	};
	KsProperty	properties[lengthof(defaults) + lengthof(guarantees)];
	uint64		random;
	int			n = 0;

	if (!pg_strong_random(&random, sizeof(random)))
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not make a random number")));
	/* no other session has it, now or later: nothing is taken over from anybody */
	snprintf(id, sizeof(id), "pg_kafka_sync.insert." UINT64_FORMAT ".%u.%d." UINT64_FORMAT,
			 GetSystemIdentifier(), MyDatabaseId, MyProcPid, random);
	snprintf(timeout, sizeof(timeout), "%d", sender->timeout_ms);
	for (int i = 0; i < (int) lengthof(defaults); i++)
		if (!is_given(sender->server, defaults[i].name) && !is_given(sender->server, defaults[i].other_name))
		{
			properties[n].name = unconstify(char *, defaults[i].name);
			properties[n++].value = unconstify(char *, defaults[i].value);
		}
	for (int i = 0; i < (int) lengthof(guarantees); i++)
		properties[n++] = guarantees[i];
	sender->client = ks_client_create(KS_CLIENT_PRODUCER, sender->server, properties, n);
}

/* Is a sender one for this target's login? */
static bool
sender_fits(const Sender *sender, const KsOutboxTarget *target)
{
	const KsServer *a = sender->server;
	const KsServer *b = target->server;

	if (sender->role != target->role || a->serverid != b->serverid || a->nproperties != b->nproperties)
		return false;
	for (int i = 0; i < a->nproperties; i++)
		if (strcmp(a->properties[i].name, b->properties[i].name) != 0 ||
			strcmp(a->properties[i].value, b->properties[i].value) != 0)
			return false;
	return true;
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
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &senders)
	{
		sender = dlist_container(Sender, node, iter.cur);
		if (!sender_fits(sender, target))
			continue;
		if (sender->timeout_ms >= timeout_ms || sender->begun)
			return sender;
		forget_sender(sender);
		break;
	}
	if (!registered)
	{
		before_shmem_exit(abort_at_exit, (Datum) 0);
		registered = true;
	}
	context = AllocSetContextCreate(TopMemoryContext, "pg_kafka_sync sender", ALLOCSET_SMALL_SIZES);
	former = MemoryContextSwitchTo(context);
	sender = palloc0(sizeof(Sender));
	sender->context = context;
	sender->server = ks_server_copy(target->server);
	sender->role = target->role;
	sender->timeout_ms = timeout_ms;
	MemoryContextSwitchTo(former);
	dlist_push_head(&senders, &sender->node);
	nsenders++;
	make_client(sender);
	return sender;
}

/*
 * ERROR unless there is such a topic: a message to none could have a broker create it.  Only before the login's first
 * message is sent, since what comes back meanwhile is thrown away but for errors.
 */
static void
check_topic(Sender *sender, const KsOutboxTarget *target)
{
	KsAdmin		admin = {sender->server, sender->client, NULL};
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);

	ks_admin_own(&admin, list, (KsDestroy) rd_kafka_topic_partition_list_destroy);
	rd_kafka_topic_partition_list_add(list, target->topic, 0);
	sender->client->errors_only = true;
	PG_TRY();
	{
		(void) ks_admin_offsets(&admin, list, RD_KAFKA_OFFSET_END);
	}
	PG_CATCH();
	{
		sender->client->errors_only = false;
		ks_admin_release(&admin);
		PG_RE_THROW();
	}
	PG_END_TRY();
	sender->client->errors_only = false;
	ks_admin_release(&admin);
}

/* Begins the Kafka transaction, unless it has begun. ERROR if no broker answers, or the login may not. */
static void
begin_sending(Sender *sender)
{
	rd_kafka_error_t *error;

	if (sender->begun)
		return;
	if (!sender->ready)
	{
		check_call(sender, transaction_call(sender, rd_kafka_init_transactions, KS_CONNECT_MS), "begin a transaction");
		sender->ready = true;
	}
	error = rd_kafka_begin_transaction(sender->client->rk);
	if (error)
	{
		rd_kafka_resp_err_t err = rd_kafka_error_code(error);
		char	   *reason = pstrdup(rd_kafka_error_string(error));

		rd_kafka_error_destroy(error);
		sender_error(sender, err, reason, "begin a transaction");
	}
	sender->begun = true;
	sender->under_way = 0;
	sender->bytes = 0;
	sender->progress = GetCurrentTimestamp();
}

/* Looks at one event. */
static void
handle_event(Sender *sender, rd_kafka_event_t *event)
{
	const rd_kafka_message_t *message;

	if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR)
	{
		while ((message = rd_kafka_event_message_next(event)) != NULL)
		{
			sender->under_way--;
			sender->bytes -= message->len + message->key_len;
			if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
				sender->progress = GetCurrentTimestamp();
			else if (sender->failure == RD_KAFKA_RESP_ERR_NO_ERROR)
			{
				sender->failure = message->err;
				strlcpy(sender->failed_topic, rd_kafka_topic_name(message->rkt), sizeof(sender->failed_topic));
			}
		}
	}
	else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR)
	{
		rd_kafka_resp_err_t err = rd_kafka_event_error(event);

		ks_client_note_error(sender->client, err, rd_kafka_event_error_string(event));
		if (sender->failure == RD_KAFKA_RESP_ERR_NO_ERROR &&
			(err == RD_KAFKA_RESP_ERR__FATAL || err == RD_KAFKA_RESP_ERR__AUTHENTICATION))
			sender->failure = err;
	}
}

/* Takes what has arrived. ERROR for a message that was not accepted, or brokers that are gone. */
static void
serve(Sender *sender)
{
	rd_kafka_event_t *event;
	char		reason[512] = "";

	while ((event = rd_kafka_queue_poll(sender->client->queue, 0)) != NULL)
	{
		handle_event(sender, event);
		rd_kafka_event_destroy(event);
	}
	ks_client_drain_log(sender->client);
	if (sender->failure)
	{
		if (sender->failure == RD_KAFKA_RESP_ERR__FATAL)
			sender->failure = rd_kafka_fatal_error(sender->client->rk, reason, sizeof(reason));
		sender_error(sender, sender->failure, reason, sender->failed_topic[0] ?
					 psprintf("send messages to topic \"%s\"", sender->failed_topic) : "send messages");
	}
	if (sender->under_way > 0 && TimestampDifferenceExceeds(sender->progress, GetCurrentTimestamp(), SILENCE_MS))
		ks_unreachable_error(sender->client);
}

/* Headers of a message: those given, and what the format has to say. */
static rd_kafka_headers_t *
make_headers(const KsOutgoing *m)
{
	rd_kafka_headers_t *headers;

	if (m->headers.data == NULL && m->json_null.data == NULL)
		return NULL;
	headers = ks_headers_make((Jsonb *) m->headers.data);
	if (m->json_null.data)
		rd_kafka_header_add(headers, KS_HEADER_JSON_NULL, -1, m->json_null.data, m->json_null.size);
	return headers;
}

/* Waits a moment for acknowledgements; an ERROR takes the headers with it. */
static void
wait_for_room(Sender *sender, rd_kafka_headers_t *headers)
{
	PG_TRY();
	{
		serve(sender);
		ks_client_wait(sender->client, 100, WAIT_NAME);
	}
	PG_CATCH();
	{
		if (headers)
			rd_kafka_headers_destroy(headers);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Hands a message to librdkafka, which copies it; waits for room. */
static void
produce(Sender *sender, const KsOutboxTarget *target, const KsOutgoing *m)
{
	rd_kafka_headers_t *headers = make_headers(m);

	while (sender->bytes > MAX_BYTES)
		wait_for_room(sender, headers);
	for (;;)
	{
		rd_kafka_resp_err_t err = rd_kafka_producev(sender->client->rk,
													RD_KAFKA_V_TOPIC(target->topic),
													RD_KAFKA_V_PARTITION(m->partition),
													RD_KAFKA_V_KEY(unconstify(char *, m->key.data), m->key.size),
													RD_KAFKA_V_VALUE(unconstify(char *, m->value.data), m->value.size),
													RD_KAFKA_V_TIMESTAMP(m->timestamp_ms),
													RD_KAFKA_V_HEADERS(headers),
													RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
													RD_KAFKA_V_END);

		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			break;
		if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL)
		{
			char		reason[512] = "";

			if (headers)
				rd_kafka_headers_destroy(headers);
			serve(sender);		/* what has gone wrong before says more */
			if (err == RD_KAFKA_RESP_ERR__FATAL)
				err = rd_kafka_fatal_error(sender->client->rk, reason, sizeof(reason));
			if (err == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION)
				ereport(ERROR,
						(errcode(ERRCODE_UNDEFINED_OBJECT),
						 errmsg("topic \"%s\" has no partition %d", target->topic, (int) m->partition)));
			sender_error(sender, err, reason, psprintf("send a message to topic \"%s\"", target->topic));
		}
		wait_for_room(sender, headers);
	}
	/* librdkafka has the headers now */
	sender->bytes += m->key.size + m->value.size;
	if (sender->under_way++ == 0)
		sender->progress = GetCurrentTimestamp();
}

/* Sends all messages to librdkafka. */
static void
produce_all(int timeout_ms)
{
	int			ntargets;
	const KsOutboxTarget *targets = ks_outbox_targets(&ntargets);
	Sender	  **of_target = palloc0(sizeof(Sender *) * ntargets);
	KsOutgoing	message;
	int			count = 0;

	/* all of them before the first message: see check_topic */
	for (int i = 0; i < ntargets; i++)
		if (targets[i].first >= 0)
		{
			of_target[i] = find_sender(&targets[i], timeout_ms);
			begin_sending(of_target[i]);
			check_topic(of_target[i], &targets[i]);
		}
	ks_outbox_rewind();
	while (ks_outbox_next(&message))
	{
		Sender	   *sender = of_target[message.target];

		produce(sender, &targets[message.target], &message);
		if (++count % SERVE_EVERY == 0)
		{
			serve(sender);
			CHECK_FOR_INTERRUPTS();
		}
	}
}

/* Waits until all messages are acknowledged. */
static void
wait_acknowledged(Sender *sender)
{
	for (;;)
	{
		serve(sender);
		if (sender->under_way == 0)
			return;
		ks_client_wait(sender->client, 1000, WAIT_NAME);
	}
}

/* Commits the Kafka transaction, in at most COMMIT_MS; interrupts are held: see commit_all. */
static void
commit(Sender *sender)
{
	TransactionCall *call;
	bool		unknown;
	char		reason[512];

	call = transaction_call(sender, rd_kafka_commit_transaction, COMMIT_MS);
	unknown = call->error && !rd_kafka_error_txn_requires_abort(call->error) && !rd_kafka_error_is_fatal(call->error);
	if (!unknown)
	{
		check_call(sender, call, "commit a transaction");
		sender->begun = false;
		return;
	}
	ks_client_scrub(sender->client, rd_kafka_error_string(call->error), reason, sizeof(reason));
	transaction_release(call);
	sender->begun = false;		/* there is nothing that could be aborted */
	sender->ready = false;
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
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &senders)
	{
		Sender	   *sender = dlist_container(Sender, node, iter.cur);

		if (sender->begun || !sender->ready)
		{
			PG_TRY();
			{
				if (sender->begun)
					transaction_release(transaction_call(sender, rd_kafka_abort_transaction, ABORT_MS));
			}
			PG_CATCH();
			{
				/* a transaction that is not aborted ends by its timeout */
				FlushErrorState();
			}
			PG_END_TRY();
			forget_sender(sender);
		}
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

		if (sender->begun)
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
		any |= dlist_container(Sender, node, iter.cur)->begun;
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

	PG_TRY();
	{
		produce_all(timeout_ms);
		dlist_foreach(iter, &senders)
		{
			Sender	   *sender = dlist_container(Sender, node, iter.cur);

			if (sender->begun)
				wait_acknowledged(sender);
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

	/* few sessions write with many logins */
	while (nsenders > MAX_SENDERS)
		forget_sender(dlist_container(Sender, node, dlist_tail_node(&senders)));
	MemoryContextSwitchTo(former);
	MemoryContextDelete(context);
}
