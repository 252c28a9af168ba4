/*
 * produce_now.c: kafka.produce: one message, now, outside of the transaction, acknowledged before it returns.
 *
 * The producer is kept for the rest of the session (logging in and fetching a producer id for every message would make
 * a loop of calls a hundred times slower) and is given up when something goes wrong on the way.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "compat/pg_compat.h"
#include "funcapi.h"
#include "kafka/admin.h"
#include "kafka/headers.h"
#include "kafka/produce_now.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define WAIT_NAME "KafkaProduceNow"
#define DELIVERY_MS 8000
/* Topics known to exist; forgotten together when there are more. */
#define KNOWN_TOPICS 64

PG_FUNCTION_INFO_V1(ks_produce_text);
PG_FUNCTION_INFO_V1(ks_produce_bytea);

/*
 * The session's producer; "context" holds what describes it.  "busy": a message is on its way, or a topic is looked up
 * (librdkafka remembers for long that a topic is missing or forbidden).
 */
typedef struct SessionProducer
{
	bool		busy;
	KsClient   *client;
	MemoryContext context;
	KsServer	server;
	Oid			userid;
	int			ntopics;
	char	   *topics[KNOWN_TOPICS];
} SessionProducer;

static SessionProducer *session_producer = NULL;

/* Bytes of a message part; data NULL = none. */
typedef struct Part
{
	const char *data;
	Size		size;
} Part;

/* Gives up the session's producer, with whatever it has not delivered. */
static void
forget_producer(void)
{
	SessionProducer *producer = session_producer;

	if (producer == NULL)
		return;
	session_producer = NULL;
	if (producer->client)
		ks_client_destroy(producer->client, 0);
	MemoryContextDelete(producer->context);
}

/* Is the session's producer one for this server as it is now, and this role? */
static bool
producer_fits(const KsServer *server, Oid userid)
{
	return session_producer && session_producer->userid == userid && ks_server_same(&session_producer->server, server);
}

/* Returns the session's producer for a server, made anew where needed. ERROR as ks_client_create. */
static SessionProducer *
open_producer(const KsServer *server, Oid userid)
{
	static const KsProperty overrides[] = {
		{"acks", "all"},
		{"enable.idempotence", "true"},
		{"partitioner", "murmur2_random"},
		{"message.timeout.ms", CppAsString2(DELIVERY_MS)},
		{"linger.ms", "0"},
	};
	MemoryContext context;
	MemoryContext former;
	SessionProducer *producer;

	if (producer_fits(server, userid))
		return session_producer;
	forget_producer();
	context = AllocSetContextCreate(TopMemoryContext, "kafka.produce", ALLOCSET_SMALL_SIZES);
	former = MemoryContextSwitchTo(context);
	producer = palloc0(sizeof(SessionProducer));
	producer->context = context;
	producer->userid = userid;
	producer->server = *server;
	producer->server.name = pstrdup(server->name);
	producer->server.properties = palloc0(sizeof(KsProperty) * (server->nproperties + 1));
	for (int i = 0; i < server->nproperties; i++)
	{
		producer->server.properties[i].name = pstrdup(server->properties[i].name);
		producer->server.properties[i].value = pstrdup(server->properties[i].value);
	}
	MemoryContextSwitchTo(former);
	session_producer = producer;
	producer->client = ks_client_create(KS_CLIENT_PRODUCER, server, overrides, lengthof(overrides));
	return producer;
}

/*
 * ERROR unless the topic exists: producing to one that does not could have the broker create it.  The partition's
 * offset is only asked for to find out.
 */
static void
check_topic(SessionProducer *producer, const char *topic, int partition)
{
	KsAdmin		admin = {&producer->server, producer->client, NULL};
	rd_kafka_topic_partition_list_t *list;

	for (int i = 0; i < producer->ntopics; i++)
		if (strcmp(producer->topics[i], topic) == 0)
			return;
	list = rd_kafka_topic_partition_list_new(1);
	ks_admin_own(&admin, list, (KsDestroy) rd_kafka_topic_partition_list_destroy);
	rd_kafka_topic_partition_list_add(list, topic, Max(partition, 0));
	producer->client->errors_only = true;
	producer->busy = true;
	PG_TRY();
	{
		(void) ks_admin_offsets(&admin, list, RD_KAFKA_OFFSET_END);
	}
	PG_FINALLY();
	{
		producer->client->errors_only = false;
		ks_admin_release(&admin);
	}
	PG_END_TRY();

	producer->busy = false;
	if (producer->ntopics == KNOWN_TOPICS)
	{
		for (int i = 0; i < KNOWN_TOPICS; i++)
			pfree(producer->topics[i]);
		producer->ntopics = 0;
	}
	producer->topics[producer->ntopics] = MemoryContextStrdup(producer->context, topic);
	producer->ntopics++;
}

/* ERROR for a message that was not delivered; "err" says why. */
static void
delivery_error(SessionProducer *producer, const char *topic, int partition, rd_kafka_resp_err_t err, const char *reason)
{
	KsAdmin		admin = {&producer->server, producer->client, NULL};

	if (err == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION && partition >= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" has no partition %d", topic, partition)));
	if (err == RD_KAFKA_RESP_ERR__MSG_TIMED_OUT)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("message to topic \"%s\" was not acknowledged by Kafka server \"%s\" in time",
						topic, producer->server.name),
				 producer->client->last_error[0] ?
				 errdetail("It may or may not have been stored. Kafka says: %s", producer->client->last_error) :
				 errdetail("It may or may not have been stored.")));
	ks_kafka_error(&admin, err, reason, psprintf("produce to topic \"%s\"", topic));
}

/* Waits for the delivery report of the one message that is on its way. ERROR unless it was acknowledged. */
static void
wait_delivery(SessionProducer *producer, const char *topic, int partition, int32 *partition_sent, int64 *offset)
{
	KsClient   *client = producer->client;
	TimestampTz start = GetCurrentTimestamp();

	for (;;)
	{
		rd_kafka_event_t *event;

		while ((event = rd_kafka_queue_poll(client->queue, 0)) != NULL)
		{
			const rd_kafka_message_t *message;
			rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;
			char		reason[512] = "";

			if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR && (message = rd_kafka_event_message_next(event)) != NULL)
			{
				err = message->err;
				*partition_sent = message->partition;
				*offset = message->offset;
				rd_kafka_event_destroy(event);
				producer->busy = false;
				if (err)
					delivery_error(producer, topic, partition, err, NULL);
				client->last_error[0] = '\0';
				client->last_err = RD_KAFKA_RESP_ERR_NO_ERROR;
				return;
			}
			if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR)
			{
				ks_client_note_error(client, rd_kafka_event_error(event), rd_kafka_event_error_string(event));
				if (rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__FATAL)
					err = rd_kafka_fatal_error(client->rk, reason, sizeof(reason));
				else if (rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__AUTHENTICATION)
					err = rd_kafka_event_error(event);
			}
			rd_kafka_event_destroy(event);
			if (err)
				delivery_error(producer, topic, partition, err, reason);
		}
		ks_client_drain_log(client);
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), DELIVERY_MS + 1000))
			delivery_error(producer, topic, partition, RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, NULL);
		ks_client_wait(client, 1000, WAIT_NAME);
	}
}

/* Hands the message to librdkafka, which copies it and owns the headers then. ERROR if it is refused at once. */
static void
send_message(SessionProducer *producer, const char *topic, Part key, Part value, rd_kafka_headers_t *headers,
			 int partition, int64 timestamp_ms)
{
	rd_kafka_resp_err_t err;

	err = rd_kafka_producev(producer->client->rk,
							RD_KAFKA_V_TOPIC(topic),
							RD_KAFKA_V_PARTITION(partition),
							RD_KAFKA_V_KEY((void *) key.data, key.size),
							RD_KAFKA_V_VALUE((void *) value.data, value.size),
							RD_KAFKA_V_HEADERS(headers),
							RD_KAFKA_V_TIMESTAMP(Max(timestamp_ms, 0)),
							RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							RD_KAFKA_V_END);
	if (err)
	{
		char		reason[512] = "";

		rd_kafka_headers_destroy(headers);
		if (err == RD_KAFKA_RESP_ERR__FATAL)
			err = rd_kafka_fatal_error(producer->client->rk, reason, sizeof(reason));
		delivery_error(producer, topic, partition, err, reason);
	}
	producer->busy = true;
}

/* Returns the bytes of a text (in UTF-8) or bytea argument. */
static Part
part_arg(FunctionCallInfo fcinfo, int i, bool is_text)
{
	Part		part = {NULL, 0};

	if (PG_ARGISNULL(i))
		return part;
	if (is_text)
	{
		part.data = ks_kafka_arg_or_null(fcinfo, i);
		part.size = strlen(part.data);
	}
	else
	{
		bytea	   *bytes = PG_GETARG_BYTEA_PP(i);

		part.data = VARDATA_ANY(bytes);
		part.size = VARSIZE_ANY_EXHDR(bytes);
	}
	return part;
}

/* Returns a partition argument; NULL leaves it to the partitioner. */
static int
partition_arg(FunctionCallInfo fcinfo, int i)
{
	if (PG_ARGISNULL(i))
		return RD_KAFKA_PARTITION_UA;
	if (PG_GETARG_INT32(i) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for argument \"%s\": %d", "partition", PG_GETARG_INT32(i))));
	return PG_GETARG_INT32(i);
}

/* Opens the producer, sends, and waits for the acknowledgement.  The headers are taken over. */
static void
produce(const KsServer *server, Oid userid, const char *topic, Part key, Part value, rd_kafka_headers_t *headers,
		int partition, int64 timestamp_ms, int32 *partition_sent, int64 *offset)
{
	SessionProducer *producer;
	rd_kafka_headers_t *volatile mine = headers;

	PG_TRY();
	{
		producer = open_producer(server, userid);
		check_topic(producer, topic, partition);
		mine = NULL;
		send_message(producer, topic, key, value, headers, partition, timestamp_ms);
		wait_delivery(producer, topic, partition, partition_sent, offset);
	}
	PG_CATCH();
	{
		if (mine)
			rd_kafka_headers_destroy(mine);
		/* Nobody may take a late report for that of the next message, or an old error for a new one. */
		if (session_producer && (session_producer->client == NULL || session_producer->busy ||
								 session_producer->client->last_err != RD_KAFKA_RESP_ERR_NO_ERROR))
			forget_producer();
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* See produce_now.h. */
void
ks_produce_now(const KsServer *server, Oid userid, const char *topic, const char *key, Size key_size,
			   const char *value, Size value_size, rd_kafka_headers_t *headers, int64 timestamp_ms)
{
	Part		key_part = {key, key_size};
	Part		value_part = {value, value_size};
	int32		partition_sent;
	int64		offset;

	produce(server, userid, topic, key_part, value_part, headers ? headers : rd_kafka_headers_new(0),
			RD_KAFKA_PARTITION_UA, timestamp_ms, &partition_sent, &offset);
}

/* Both overloads: sends, waits, returns (partition, offset). */
static Datum
produce_now(FunctionCallInfo fcinfo, bool is_text)
{
	KsServer   *server;
	char	   *topic;
	Part		value;
	Part		key;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	int			partition = partition_arg(fcinfo, 5);
	int32		partition_sent = -1;
	int64		offset = -1;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", "server")));
	topic = ks_kafka_arg(fcinfo, 1, "topic");
	value = part_arg(fcinfo, 2, is_text);
	key = part_arg(fcinfo, 3, is_text);
	server = ks_server_open(NameStr(*PG_GETARG_NAME(0)), GetUserId());
	produce(server, GetUserId(), topic, key, value, ks_headers_make(PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4)),
			partition, -1, &partition_sent, &offset);

	values[0] = Int32GetDatum(partition_sent);
	values[1] = Int64GetDatum(offset);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* kafka.produce with text value and key: sent as UTF-8. */
Datum
ks_produce_text(PG_FUNCTION_ARGS)
{
	return produce_now(fcinfo, true);
}

/* kafka.produce with bytea value and key: sent as they are. */
Datum
ks_produce_bytea(PG_FUNCTION_ARGS)
{
	return produce_now(fcinfo, false);
}
