/*
 * transactional.c: see transactional.h.
 */
#include "postgres.h"

#include "kafka/admin.h"
#include "kafka/transactional.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Without any acknowledgement for this long, the brokers count as gone. */
#define SILENCE_MS 10000
#define MESSAGE_TIMEOUT_MS 60000
#define ASK_MS 1000
#define SERVE_EVERY 500
#define MAX_BYTES (8 * 1024 * 1024)

/* Arguments and result of a call about transactions on its thread. */
typedef struct TransactionCall
{
	rd_kafka_error_t *(*function) (rd_kafka_t *rk, int timeout_ms);
	int			timeout_ms;
	rd_kafka_error_t *error;
} TransactionCall;

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
transaction_call(KsTransactional *p, rd_kafka_error_t *(*function) (rd_kafka_t *rk, int timeout_ms), int timeout_ms)
{
	TransactionCall *call = calloc(1, sizeof(TransactionCall));

	if (call == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	call->function = function;
	call->timeout_ms = timeout_ms;
	p->client->errors_only = true;
	ks_client_call(p->client, transaction_run, transaction_release, call, p->wait_name);
	p->client->errors_only = false;
	return call;
}

/* ERROR for what the brokers said. */
pg_noreturn static void
producer_error(KsTransactional *p, rd_kafka_resp_err_t err, const char *reason, const char *what)
{
	KsAdmin		admin = {p->server, p->client, NULL};

	if (err == RD_KAFKA_RESP_ERR__TIMED_OUT || err == RD_KAFKA_RESP_ERR__TRANSPORT ||
		err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
		ks_unreachable_error(p->client);
	if (err == RD_KAFKA_RESP_ERR__FENCED || err == RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH ||
		err == RD_KAFKA_RESP_ERR_PRODUCER_FENCED)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("Kafka server \"%s\" has ended the transaction", p->server->name),
				 errdetail("It took longer than %d ms, or another producer with the same transactional id has begun.",
						   p->timeout_ms)));
	ks_kafka_error(&admin, err, reason, what);
}

/* ERROR unless the call went well; releases it. */
static void
check_call(KsTransactional *p, TransactionCall *call, const char *what)
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
		producer_error(p, err, reason, what);
}

/* Was a property given with the server? */
static bool
is_given(const KsServer *server, const char *name)
{
	for (int i = 0; name && i < server->nproperties; i++)
		if (strcmp(server->properties[i].name, name) == 0)
			return true;
	return false;
}

/* Makes the handle. */
static KsClient *
make_client(const KsServer *server, const char *id, int timeout_ms)
{
	char		timeout[16];
	const KsProperty guarantees[] = {
		{"acks", "all"},
		{"enable.idempotence", "true"},
		{"partitioner", "murmur2_random"},
		{"queue.buffering.max.messages", "100000"},
		/* room for one message of any size: the bound in bytes is our own */
		{"queue.buffering.max.kbytes", "262144"},
		{"message.timeout.ms", CppAsString2(MESSAGE_TIMEOUT_MS)},
		{"transaction.timeout.ms", timeout},
		{"transactional.id", unconstify(char *, id)},
	};
	KsProperty	properties[lengthof(defaults) + lengthof(guarantees)];
	int			n = 0;

	snprintf(timeout, sizeof(timeout), "%d", timeout_ms);
	for (int i = 0; i < (int) lengthof(defaults); i++)
		if (!is_given(server, defaults[i].name) && !is_given(server, defaults[i].other_name))
		{
			properties[n].name = unconstify(char *, defaults[i].name);
			properties[n++].value = unconstify(char *, defaults[i].value);
		}
	for (int i = 0; i < (int) lengthof(guarantees); i++)
		properties[n++] = guarantees[i];
	return ks_client_create(KS_CLIENT_PRODUCER, server, properties, n);
}

KsTransactional *
ks_transactional_create(const KsServer *server, const char *id, int timeout_ms, const char *wait_name)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_kafka_sync producer", ALLOCSET_SMALL_SIZES);
	MemoryContext former = MemoryContextSwitchTo(context);
	KsTransactional *p = palloc0(sizeof(KsTransactional));

	p->context = context;
	p->server = ks_server_copy(server);
	p->timeout_ms = timeout_ms;
	p->wait_name = wait_name;
	MemoryContextSwitchTo(former);
	PG_TRY();
	{
		p->client = make_client(p->server, id, timeout_ms);
	}
	PG_CATCH();
	{
		MemoryContextDelete(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return p;
}

void
ks_transactional_destroy(KsTransactional *p)
{
	ks_client_destroy(p->client, 0);
	MemoryContextDelete(p->context);
}

void
ks_transactional_init(KsTransactional *p)
{
	if (p->ready)
		return;
	check_call(p, transaction_call(p, rd_kafka_init_transactions, KS_CONNECT_MS), "begin a transaction");
	p->ready = true;
}

void
ks_transactional_begin(KsTransactional *p)
{
	rd_kafka_error_t *error;

	if (p->begun)
		return;
	ks_transactional_init(p);
	error = rd_kafka_begin_transaction(p->client->rk);
	if (error)
	{
		rd_kafka_resp_err_t err = rd_kafka_error_code(error);
		char	   *reason = pstrdup(rd_kafka_error_string(error));

		rd_kafka_error_destroy(error);
		producer_error(p, err, reason, "begin a transaction");
	}
	p->begun = true;
	p->under_way = 0;
	p->bytes = 0;
	p->progress = GetCurrentTimestamp();
}

void
ks_transactional_check_topic(KsTransactional *p, const char *topic)
{
	KsAdmin		admin = {p->server, p->client, NULL};
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);

	ks_admin_own(&admin, list, (KsDestroy) rd_kafka_topic_partition_list_destroy);
	rd_kafka_topic_partition_list_add(list, topic, 0);
	p->client->errors_only = true;
	PG_TRY();
	{
		(void) ks_admin_offsets(&admin, list, RD_KAFKA_OFFSET_END);
	}
	PG_CATCH();
	{
		p->client->errors_only = false;
		ks_admin_release(&admin);
		PG_RE_THROW();
	}
	PG_END_TRY();
	p->client->errors_only = false;
	ks_admin_release(&admin);
}

/* Was a message dropped since another, or the transaction, had failed? */
static bool
is_purge(rd_kafka_resp_err_t err)
{
	return err == RD_KAFKA_RESP_ERR__PURGE_QUEUE || err == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT;
}

/* Looks at one event. */
static void
handle_event(KsTransactional *p, rd_kafka_event_t *event)
{
	const rd_kafka_message_t *message;

	if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR)
	{
		while ((message = rd_kafka_event_message_next(event)) != NULL)
		{
			p->under_way--;
			p->bytes -= message->len + message->key_len;
			if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
				p->progress = GetCurrentTimestamp();
			else
			{
				p->nfailed += !is_purge(message->err);
				if (p->failure != RD_KAFKA_RESP_ERR_NO_ERROR && (!is_purge(p->failure) || is_purge(message->err)))
					continue;
				p->failure = message->err;
				p->failed_number = (intptr_t) message->_private;
				strlcpy(p->failed_topic, rd_kafka_topic_name(message->rkt), sizeof(p->failed_topic));
			}
		}
	}
	else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR)
	{
		rd_kafka_resp_err_t err = rd_kafka_event_error(event);

		ks_client_note_error(p->client, err, rd_kafka_event_error_string(event));
		if (p->failure == RD_KAFKA_RESP_ERR_NO_ERROR &&
			(err == RD_KAFKA_RESP_ERR__FATAL || err == RD_KAFKA_RESP_ERR__AUTHENTICATION))
			p->failure = err;
	}
}

/*
 * Messages were dropped since the transaction had failed: finds out why, in p->failure and reason.  To commit it is how
 * librdkafka tells.
 */
static void
find_cause(KsTransactional *p, char *reason, Size size)
{
	TransactionCall *call = transaction_call(p, rd_kafka_commit_transaction, ASK_MS);

	if (call->error)
	{
		p->failure = rd_kafka_error_code(call->error);
		p->failed_topic[0] = '\0';
		strlcpy(reason, rd_kafka_error_string(call->error), size);
	}
	transaction_release(call);
}

void
ks_transactional_serve(KsTransactional *p)
{
	rd_kafka_event_t *event;
	char		reason[512] = "";

	while ((event = rd_kafka_queue_poll(p->client->queue, 0)) != NULL)
	{
		handle_event(p, event);
		rd_kafka_event_destroy(event);
	}
	ks_client_drain_log(p->client);
	if (is_purge(p->failure))
		find_cause(p, reason, sizeof(reason));
	if (p->failure)
	{
		if (p->failure == RD_KAFKA_RESP_ERR__FATAL)
			p->failure = rd_kafka_fatal_error(p->client->rk, reason, sizeof(reason));
		producer_error(p, p->failure, reason, p->failed_topic[0] ?
					   psprintf("send messages to topic \"%s\"", p->failed_topic) : "send messages");
	}
	if (p->under_way > 0 && TimestampDifferenceExceeds(p->progress, GetCurrentTimestamp(), SILENCE_MS))
		ks_unreachable_error(p->client);
}

/* Waits a moment for acknowledgements; an ERROR takes the headers with it. */
static void
wait_for_room(KsTransactional *p, rd_kafka_headers_t *headers)
{
	PG_TRY();
	{
		ks_transactional_serve(p);
		ks_client_wait(p->client, 100, p->wait_name);
	}
	PG_CATCH();
	{
		if (headers)
			rd_kafka_headers_destroy(headers);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

void
ks_transactional_send(KsTransactional *p, const KsTransactionalMessage *m)
{
	while (p->bytes > MAX_BYTES)
		wait_for_room(p, m->headers);
	for (;;)
	{
		rd_kafka_resp_err_t err = rd_kafka_producev(p->client->rk,
													RD_KAFKA_V_TOPIC(m->topic),
													RD_KAFKA_V_PARTITION(m->partition),
													RD_KAFKA_V_KEY(unconstify(char *, m->key), m->key_size),
													RD_KAFKA_V_VALUE(unconstify(char *, m->value), m->value_size),
													RD_KAFKA_V_TIMESTAMP(m->timestamp_ms),
													RD_KAFKA_V_HEADERS(m->headers),
													RD_KAFKA_V_OPAQUE((void *) (intptr_t) m->number),
													RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
													RD_KAFKA_V_END);

		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			break;
		if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL)
		{
			char		reason[512] = "";

			if (m->headers)
				rd_kafka_headers_destroy(m->headers);
			ks_transactional_serve(p);	/* what has gone wrong before says more */
			if (err == RD_KAFKA_RESP_ERR__FATAL)
				err = rd_kafka_fatal_error(p->client->rk, reason, sizeof(reason));
			p->failure = err;
			p->failed_number = m->number;
			p->nfailed++;
			if (err == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION)
				ereport(ERROR,
						(errcode(ERRCODE_UNDEFINED_OBJECT),
						 errmsg("topic \"%s\" has no partition %d", m->topic, (int) m->partition)));
			producer_error(p, err, reason, psprintf("send a message to topic \"%s\"", m->topic));
		}
		wait_for_room(p, m->headers);
	}
	/* librdkafka has the headers now */
	p->bytes += m->key_size + m->value_size;
	if (p->under_way++ == 0)
		p->progress = GetCurrentTimestamp();
	if (p->under_way % SERVE_EVERY == 0)
	{
		ks_transactional_serve(p);
		CHECK_FOR_INTERRUPTS();
	}
}

void
ks_transactional_wait(KsTransactional *p)
{
	for (;;)
	{
		ks_transactional_serve(p);
		if (p->under_way == 0)
			return;
		ks_client_wait(p->client, 1000, p->wait_name);
	}
}

bool
ks_transactional_commit(KsTransactional *p, int timeout_ms, char *reason, Size size)
{
	TransactionCall *call = transaction_call(p, rd_kafka_commit_transaction, timeout_ms);
	bool		unknown = call->error && !rd_kafka_error_txn_requires_abort(call->error) &&
		!rd_kafka_error_is_fatal(call->error);

	if (!unknown)
	{
		check_call(p, call, "commit a transaction");
		p->begun = false;
		return true;
	}
	ks_client_scrub(p->client, rd_kafka_error_string(call->error), reason, size);
	transaction_release(call);
	p->begun = false;			/* there is nothing that could be aborted */
	p->ready = false;
	return false;
}

void
ks_transactional_abort(KsTransactional *p, int timeout_ms)
{
	if (!p->begun)
		return;
	/* a transaction that is not aborted ends by its timeout */
	transaction_release(transaction_call(p, rd_kafka_abort_transaction, timeout_ms));
	p->begun = false;
}
