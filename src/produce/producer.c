/*
 * producer.c: sends records and keeps the ledger of acknowledgements; see producer.h.
 */
#include "postgres.h"

#include "kafka/client.h"
#include "mb/pg_wchar.h"
#include "produce/payload_pool.h"
#include "produce/producer.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#define MAX_BYTES_UNDER_WAY (8 * 1024 * 1024)	/* more only means colder caches: measured with bench/ */
#define SERVE_EVERY 512			/* records between two looks at reports */
#define FULL_WAIT_MS 1000
#define PROBE_EVERY_MS 1000
#define PROBE_TIMEOUT_MS 500
#define CAUSE_WAIT_MS 2000		/* for the report of the message that made librdkafka give up */
#define SHOWN_KEY_SIZE 128

/*
 * What a partition has had of this producer.  A broker that knows nothing of a producer takes any sequence number, so it
 * would take a second batch whose first one it has refused: until the first is acknowledged, nothing else is under way.
 */
typedef enum Proof
{
	PROOF_NONE = 0, PROOF_AWAITED, PROOF_DONE
} Proof;

typedef struct Topic
{
	char		name[KS_TOPIC_SIZE];
	rd_kafka_topic_t *handle;
	int32		partitions;
	int32		unproven;		/* partitions without PROOF_DONE */
	uint8	   *proofs;			/* Proof of each partition */
	char		table[2 * NAMEDATALEN + 2];	/* for errors: the table it was last used for */
} Topic;

struct KsProducer
{
	KsSink		sink;			/* first: it is passed back to us */
	KsClient   *client;
	KsLedger	ledger;
	KsProducerOwner owner;
	HTAB	   *topics;
	uint64		transaction;	/* number of the one in hand */
	uint64		bytes_under_way;
	uint32		since_served;
	uint32		awaited;		/* partitions with PROOF_AWAITED */
	bool		down;			/* no broker can be reached */
	bool		failed;			/* an ERROR was raised for what cannot be delivered */
	TimestampTz probed_at;
	KsWorkerState state;		/* while all goes well */
	char		detail[KS_DETAIL_SIZE];
};

/* Properties that the owner of the publisher may set otherwise, under either name. */
static const struct
{
	const char *name;
	const char *other_name;
	const char *value;
}			defaults[] = {
	{"compression.codec", "compression.type", "lz4"},
	{"linger.ms", "queue.buffering.max.ms", "2"},
	{"queue.buffering.max.messages", NULL, "100000"},
	{"message.max.bytes", NULL, "104857600"},
	{"reconnect.backoff.max.ms", NULL, "2000"},
	{"socket.nagle.disable", NULL, "true"},
};

/* Properties that guarantees rest on. */
static const KsProperty guarantees[] = {
	{"acks", "all"},
	{"enable.idempotence", "true"},
	/*
	 * After a message that could not be delivered nothing later of its partition may be: it would come before what is sent
	 * again, and subscriptions know repeats by positions that grow within a partition.
	 */
	{"enable.gapless.guarantee", "true"},
	{"message.timeout.ms", "0"},
	/* room for one message of any size: the bound in bytes is our own */
	{"queue.buffering.max.kbytes", "262144"},
};

/* Is a property given by the server or by the publisher's options? */
static bool
is_given(const char *name, const KsServer *server, const KsOptions *options)
{
	if (name == NULL)
		return false;
	for (int i = 0; i < server->nproperties; i++)
		if (strcmp(server->properties[i].name, name) == 0)
			return true;
	for (int i = 0; i < options->nproperties; i++)
		if (strcmp(options->properties[i].name, name) == 0)
			return true;
	return false;
}

/* Returns the properties that are set after the server's; *count of them. */
static KsProperty *
make_overrides(const KsServer *server, const KsOptions *options, int *count)
{
	KsProperty *result = palloc(sizeof(KsProperty) * (lengthof(defaults) + options->nproperties + lengthof(guarantees)));

	*count = 0;
	for (int i = 0; i < lengthof(defaults); i++)
		if (!is_given(defaults[i].name, server, options) && !is_given(defaults[i].other_name, server, options))
		{
			result[*count].name = pstrdup(defaults[i].name);
			result[(*count)++].value = pstrdup(defaults[i].value);
		}
	for (int i = 0; i < options->nproperties; i++)
		result[(*count)++] = options->properties[i];
	for (int i = 0; i < lengthof(guarantees); i++)
		result[(*count)++] = guarantees[i];
	return result;
}

/* The topic's entry with its handle, made if this is its first record. ERROR if librdkafka refuses. */
static Topic *
find_topic(KsProducer *producer, const KsRelation *rel, int32 partitions)
{
	bool		found;
	Topic	   *topic = hash_search(producer->topics, rel->topic, HASH_ENTER, &found);

	if (!found)
		topic->handle = NULL;
	if (topic->handle == NULL)
	{
		topic->handle = rd_kafka_topic_new(producer->client->rk, rel->topic, NULL);
		if (topic->handle == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_ERROR),
					 errmsg("could not use topic \"%s\": %s", rel->topic, rd_kafka_err2str(rd_kafka_last_error()))));
		topic->partitions = topic->unproven = partitions;
		topic->proofs = MemoryContextAllocZero(TopMemoryContext, partitions);
	}
	snprintf(topic->table, sizeof(topic->table), "%s.%s", rel->schema, rel->table);
	return topic;
}

/* Copies a message key for an error text: printable, and cut where it is long. */
static void
show_key(const char *key, Size size, char *dst, Size dst_size)
{
	Size		shown;

	if (key == NULL)
	{
		strlcpy(dst, "none", dst_size);
		return;
	}
	shown = Min(size, dst_size - 4);
	memcpy(dst, key, shown);
	for (Size i = 0; i < shown; i++)
		if ((unsigned char) dst[i] < 0x20 || IS_HIGHBIT_SET(dst[i]))
			dst[i] = '?';
	strcpy(dst + shown, shown < size ? "..." : "");
}

/* What to do about a message that cannot be delivered. */
static const char *
failure_hint(rd_kafka_resp_err_t error)
{
	switch (error)
	{
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
			return "Raise the topic's \"max.message.bytes\" (kafka.alter_topic()) and the broker's limits.";
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
			return "Allow the publisher's Kafka user to write to the topic (kafka.create_acl()).";
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			return "The topic was dropped or has lost partitions; what it held must be published again by a new publisher.";
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
			return "A compacted topic takes no messages without a key.";
		default:
			return NULL;
	}
}

/* Raises the ERROR for a message that cannot be delivered. */
static void
fail_message(KsProducer *producer, const char *topic_name, const char *key, Size key_size, Size size,
			 rd_kafka_resp_err_t error)
{
	Topic	   *topic = hash_search(producer->topics, topic_name, HASH_FIND, NULL);
	const char *hint = failure_hint(error);
	char		shown_key[SHOWN_KEY_SIZE];

	if (error == RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP)
		producer->owner.refused_timestamp(producer->owner.arg, topic_name);
	producer->failed = true;
	show_key(key, key_size, shown_key, sizeof(shown_key));
	ereport(ERROR,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("could not deliver a message of table \"%s\" to topic \"%s\": %s",
					topic ? topic->table : "?", topic_name, rd_kafka_err2str(error)),
			 errdetail("Message key: %s; %zu bytes.", shown_key, (size_t) size),
			 hint ? errhint("%s", hint) : 0));
}

/* A broker answered. */
static void
note_success(KsProducer *producer)
{
	if (!producer->down && !producer->client->all_brokers_down)
		return;
	producer->down = false;
	ks_client_note_success(producer->client);
	ks_worker_set_state(producer->state, producer->detail);
}

/* A message of a partition was acknowledged. */
static void
note_proof(KsProducer *producer, const rd_kafka_message_t *message)
{
	Topic	   *topic = hash_search(producer->topics, rd_kafka_topic_name(message->rkt), HASH_FIND, NULL);

	if (topic == NULL || message->partition < 0 || message->partition >= topic->partitions ||
		topic->proofs[message->partition] != PROOF_AWAITED)
		return;
	topic->proofs[message->partition] = PROOF_DONE;
	topic->unproven--;
	producer->awaited--;
}

/*
 * Books delivery reports.  ERROR for a message that could not be delivered; false if there are only such that came to
 * nothing because librdkafka has given the producer up.
 */
static bool
handle_reports(KsProducer *producer, rd_kafka_event_t *event)
{
	const rd_kafka_message_t *message;
	uint64		number = 0;
	uint64		count = 0;
	uint64		bytes = 0;
	uint64		rows = 0;
	bool		given_up = false;

	while ((message = rd_kafka_event_message_next(event)) != NULL)
	{
		uint64		of = (uint64) (uintptr_t) message->_private;

		if (message->err == RD_KAFKA_RESP_ERR__FATAL || message->err == RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE ||
			message->err == RD_KAFKA_RESP_ERR__PURGE_QUEUE || message->err == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT)
		{
			given_up = true;
			continue;
		}
		if (message->err)
			fail_message(producer, rd_kafka_topic_name(message->rkt), message->key, message->key_len, message->len,
						 message->err);
		if (unlikely(producer->awaited > 0))
			note_proof(producer, message);
		if (count > 0 && of != number)
		{
			if (!ks_ledger_acked(&producer->ledger, number, count))
				elog(ERROR, "acknowledgement of a transaction that is not under way");
			count = 0;
		}
		number = of;
		count++;
		rows++;
		bytes += message->len + message->key_len;
		ks_payload_release(message->payload);
	}
	if (count > 0 && !ks_ledger_acked(&producer->ledger, number, count))
		elog(ERROR, "acknowledgement of a transaction that is not under way");
	producer->bytes_under_way -= bytes;
	pg_atomic_fetch_add_u64(&ks_my_worker->rows, rows);
	pg_atomic_fetch_add_u64(&ks_my_worker->bytes, bytes);
	if (rows > 0)
		note_success(producer);
	return !given_up;
}

/*
 * Raises the ERROR for a producer that librdkafka has given up.  Where it did so for a message that could not be
 * delivered, the message's own report follows, and tells more.
 */
static void
fail_producer(KsProducer *producer)
{
	char		reason[256] = "";
	rd_kafka_resp_err_t error = rd_kafka_fatal_error(producer->client->rk, reason, sizeof(reason));
	TimestampTz began = GetCurrentTimestamp();

	producer->failed = true;
	while (error == RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE &&
		   !TimestampDifferenceExceeds(began, GetCurrentTimestamp(), CAUSE_WAIT_MS))
	{
		rd_kafka_event_t *event = rd_kafka_queue_poll(producer->client->queue, 0);

		if (event == NULL)
			ks_client_wait(producer->client, 50, "KafkaProduceWait");
		else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR)
			(void) handle_reports(producer, event);
		rd_kafka_event_destroy(event);
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("the Kafka producer failed: %s", rd_kafka_err2str(error)),
			 errdetail("%s", reason),
			 error == RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED ||
			 error == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ?
			 errhint("The Kafka user needs WRITE on the topics (and IDEMPOTENT_WRITE on old brokers).") : 0));
}

/* Shows that no broker can be reached. */
static void
note_down(KsProducer *producer)
{
	if (producer->down)
		return;
	producer->down = true;
	producer->probed_at = GetCurrentTimestamp();
	ks_worker_note_error(producer->client->last_error);
	ks_worker_set_state(KS_STATE_RETRYING, producer->client->last_error);
}

void
ks_producer_serve(KsProducer *producer)
{
	rd_kafka_event_t *event;

	producer->since_served = 0;
	while ((event = rd_kafka_queue_poll(producer->client->queue, 0)) != NULL)
	{
		switch (rd_kafka_event_type(event))
		{
			case RD_KAFKA_EVENT_DR:
				if (!handle_reports(producer, event))
					fail_producer(producer);
				break;
			case RD_KAFKA_EVENT_ERROR:
				if (rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__FATAL)
					fail_producer(producer);
				ks_client_note_error(producer->client, rd_kafka_event_error(event), rd_kafka_event_error_string(event));
				break;
			default:
				break;
		}
		rd_kafka_event_destroy(event);
	}
	ks_client_drain_log(producer->client);
	if (producer->client->all_brokers_down)
		note_down(producer);
}

/* What a probe learns; malloc'ed, filled by another thread. */
typedef struct Probe
{
	rd_kafka_resp_err_t error;
} Probe;

static void
probe_run(rd_kafka_t *rk, void *arg)
{
	const struct rd_kafka_metadata *metadata = NULL;

	((Probe *) arg)->error = rd_kafka_metadata(rk, 0, NULL, &metadata, PROBE_TIMEOUT_MS);
	if (metadata)
		rd_kafka_metadata_destroy(metadata);
}

/* Asks the brokers for a sign of life; true if one answered. */
static bool
ask_brokers(KsProducer *producer)
{
	Probe	   *p = calloc(1, sizeof(Probe));
	bool		answered;

	if (p == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	ks_client_call(producer->client, probe_run, free, p, "KafkaProduceWait");
	answered = p->error == RD_KAFKA_RESP_ERR_NO_ERROR;
	free(p);
	return answered;
}

/* With nothing under way no report would tell that the brokers are back: asks, now and then. */
static void
probe(KsProducer *producer)
{
	if (!producer->down || producer->ledger.outstanding > 0 ||
		!TimestampDifferenceExceeds(producer->probed_at, GetCurrentTimestamp(), PROBE_EVERY_MS))
		return;
	if (ask_brokers(producer))
		note_success(producer);
	producer->probed_at = GetCurrentTimestamp();
}

void
ks_producer_connect(KsProducer *producer)
{
	while (!ask_brokers(producer))
	{
		ks_producer_serve(producer);
		if (producer->client->last_error[0] == '\0')
			strlcpy(producer->client->last_error, "no broker answers", sizeof(producer->client->last_error));
		note_down(producer);
		ks_client_wait(producer->client, PROBE_EVERY_MS, "KafkaProduceWait");
		pg_atomic_fetch_add_u64(&ks_my_worker->loops, 1);
	}
	ks_producer_serve(producer);
	note_success(producer);
}

void
ks_producer_wait(KsProducer *producer, long timeout_ms)
{
	if (producer->down)
		timeout_ms = timeout_ms < 0 ? PROBE_EVERY_MS : Min(timeout_ms, PROBE_EVERY_MS);
	ks_client_wait(producer->client, timeout_ms, "KafkaProduceWait");
	pg_atomic_fetch_add_u64(&ks_my_worker->loops, 1);
	ks_producer_serve(producer);
	probe(producer);
}

void
ks_producer_flush(KsProducer *producer)
{
	ks_producer_serve(producer);
	while (producer->ledger.outstanding > 0)
		ks_producer_wait(producer, FULL_WAIT_MS);
}

void
ks_producer_settle(KsProducer *producer, long timeout_ms)
{
	TimestampTz began = GetCurrentTimestamp();

	while (producer->ledger.outstanding > 0 && !producer->down && !producer->failed &&
		   !TimestampDifferenceExceeds(began, GetCurrentTimestamp(), timeout_ms))
		ks_producer_wait(producer, 50);
}

static void
producer_begin(KsSink *sink, TransactionId xid)
{
	KsProducer *producer = (KsProducer *) sink;

	(void) xid;
	if (!ks_ledger_begin(&producer->ledger, &producer->transaction))
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
}

/* Waits until a partition can take another message, see Proof. */
static void
await_proof(KsProducer *producer, Topic *topic, int32 partition)
{
	if (likely(topic->unproven == 0) || partition >= topic->partitions)
		return;
	while (topic->proofs[partition] == PROOF_AWAITED)
		ks_producer_wait(producer, FULL_WAIT_MS);
	if (topic->proofs[partition] != PROOF_NONE)
		return;
	topic->proofs[partition] = PROOF_AWAITED;
	producer->awaited++;
}

/* Number of librdkafka's arguments besides headers. */
#define FIXED_ARGUMENTS 7

static void
producer_emit(KsSink *sink, const KsRecord *record)
{
	KsProducer *producer = (KsProducer *) sink;
	Topic	   *topic = record->rel->sink_topic;
	Size		size = record->key_size + record->value_size;
	rd_kafka_vu_t arguments[FIXED_ARGUMENTS + KS_MAX_HEADERS];
	int			n = 0;
	int32		partition = record->partition;
	void	   *payload = NULL;

	if (unlikely(record->partitions == 0))
		producer->owner.unknown_topic(producer->owner.arg, record->rel);
	if (unlikely(topic == NULL))
	{
		topic = find_topic(producer, record->rel, record->partitions);
		((KsRelation *) record->rel)->sink_topic = topic;
	}
	if (partition < 0)
		partition = rd_kafka_msg_partitioner_murmur2(topic->handle, record->key, record->key_size, record->partitions, NULL, NULL);

	if (++producer->since_served >= SERVE_EVERY)
		ks_producer_serve(producer);
	while (producer->bytes_under_way > 0 && producer->bytes_under_way + size > MAX_BYTES_UNDER_WAY)
		ks_producer_wait(producer, FULL_WAIT_MS);
	await_proof(producer, topic, partition);
	if (record->value_size > 0 && record->value_size <= KS_PAYLOAD_LARGEST)
	{
		payload = ks_payload_take(record->value_size);
		if (payload != NULL)
			memcpy(payload, record->value, record->value_size);
	}

	arguments[n].vtype = RD_KAFKA_VTYPE_RKT;
	arguments[n++].u.rkt = topic->handle;
	arguments[n].vtype = RD_KAFKA_VTYPE_PARTITION;
	arguments[n++].u.i32 = partition;
	arguments[n].vtype = RD_KAFKA_VTYPE_MSGFLAGS;
	arguments[n++].u.i = payload ? 0 : RD_KAFKA_MSG_F_COPY;
	arguments[n].vtype = RD_KAFKA_VTYPE_VALUE;
	arguments[n].u.mem.ptr = payload ? payload : (void *) record->value;
	arguments[n++].u.mem.size = record->value_size;
	arguments[n].vtype = RD_KAFKA_VTYPE_KEY;
	arguments[n].u.mem.ptr = (void *) record->key;
	arguments[n++].u.mem.size = record->key_size;
	arguments[n].vtype = RD_KAFKA_VTYPE_TIMESTAMP;
	arguments[n++].u.i64 = record->timestamp_ms;
	arguments[n].vtype = RD_KAFKA_VTYPE_OPAQUE;
	arguments[n++].u.ptr = (void *) (uintptr_t) producer->transaction;
	for (int i = 0; i < record->nheaders; i++)
	{
		arguments[n].vtype = RD_KAFKA_VTYPE_HEADER;
		arguments[n].u.header.name = record->headers[i].name;
		arguments[n].u.header.val = record->headers[i].value;
		arguments[n++].u.header.size = record->headers[i].size;
	}

	for (;;)
	{
		rd_kafka_error_t *error = rd_kafka_produceva(producer->client->rk, arguments, n);
		rd_kafka_resp_err_t code;
		bool		fatal;

		if (likely(error == NULL))
			break;
		code = rd_kafka_error_code(error);
		fatal = rd_kafka_error_is_fatal(error);
		rd_kafka_error_destroy(error);
		if (code == RD_KAFKA_RESP_ERR__QUEUE_FULL)
			ks_producer_wait(producer, FULL_WAIT_MS);
		else if (fatal || code == RD_KAFKA_RESP_ERR__FATAL)
			fail_producer(producer);
		else
			fail_message(producer, record->topic, record->key, record->key_size, size, code);
	}
	ks_ledger_sent(&producer->ledger);
	producer->bytes_under_way += size;
}

static void
producer_commit(KsSink *sink, XLogRecPtr commit_lsn, XLogRecPtr end_lsn, TimestampTz commit_time)
{
	(void) commit_lsn;
	ks_ledger_commit(&((KsProducer *) sink)->ledger, end_lsn, commit_time);
}

static void
producer_serve(KsSink *sink)
{
	ks_producer_serve((KsProducer *) sink);
}

KsProducer *
ks_producer_create(const KsServer *server, const KsOptions *options, const KsProducerOwner *owner)
{
	KsProducer *producer = palloc0(sizeof(KsProducer));
	KsProperty *overrides;
	int			noverrides;
	HASHCTL		ctl;

	producer->sink.begin = producer_begin;
	producer->sink.emit = producer_emit;
	producer->sink.commit = producer_commit;
	producer->sink.serve = producer_serve;
	producer->owner = *owner;
	producer->state = KS_STATE_STARTING;
	if (!ks_ledger_init(&producer->ledger, 0))
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = KS_TOPIC_SIZE;
	ctl.entrysize = sizeof(Topic);
	ctl.hcxt = CurrentMemoryContext;
	producer->topics = hash_create("topics", 64, &ctl, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	overrides = make_overrides(server, options, &noverrides);
	producer->client = ks_client_create(KS_CLIENT_PRODUCER, server, overrides, noverrides);
	return producer;
}

void
ks_producer_destroy(KsProducer *producer)
{
	HASH_SEQ_STATUS status;
	Topic	   *topic;

	hash_seq_init(&status, producer->topics);
	while ((topic = hash_seq_search(&status)) != NULL)
		if (topic->handle)
			rd_kafka_topic_destroy(topic->handle);
	ks_client_destroy(producer->client, 2000);
	ks_ledger_free(&producer->ledger);
	pfree(producer);
}

KsSink *
ks_producer_sink(KsProducer *producer)
{
	return &producer->sink;
}

KsLedger *
ks_producer_ledger(KsProducer *producer)
{
	return &producer->ledger;
}

KsClient *
ks_producer_client(KsProducer *producer)
{
	return producer->client;
}

void
ks_producer_set_state(KsProducer *producer, KsWorkerState state, const char *detail)
{
	producer->state = state;
	strlcpy(producer->detail, detail ? detail : "", sizeof(producer->detail));
	if (!producer->down)
		ks_worker_set_state(state, detail);
}
