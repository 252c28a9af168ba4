/*
 * progress_topic.c: see progress_topic.h.
 */
#include "postgres.h"

#include "kafka/admin.h"
#include "kafka/progress_topic.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define KEY_SIZE 512
/* Without a word from the brokers for this long, or as long behind a transaction that stays open, reading fails. */
#define SILENCE_MS 10000

typedef struct Entry
{
	char		key[KEY_SIZE];
	char	   *value;
} Entry;

/* Reading under way. */
typedef struct Reading
{
	const KsServer *server;
	const char *topic;
	const char *prefix;
	const char *wait_name;
	int64		end;			/* what is before it is to be read */
	int64		position;
	bool		answered;		/* the end of what is committed was met */
	HTAB	   *entries;
	KsClient   *client;
	rd_kafka_event_t *event;	/* that is looked at */
} Reading;

static const KsProperty consumer_properties[] = {
	{"isolation.level", "read_committed"},
	{"enable.partition.eof", "true"},
	{"auto.offset.reset", "earliest"},
	{"group.id", "pg_kafka_sync.progress"},
	{"fetch.wait.max.ms", "50"},
	{"queued.max.messages.kbytes", "16384"},
};

/* ERROR unless a topic keeps the last record of each key for ever, as far as we may see that. */
static void
check_compacted(KsAdmin *admin, const char *topic)
{
	static const char *const name = "cleanup.policy";
	const rd_kafka_ConfigResource_t *resource = ks_admin_configs(admin, &topic, 1, &name, 1)[0];
	const rd_kafka_ConfigEntry_t **entries;
	size_t		nentries;

	if (resource == NULL || rd_kafka_ConfigResource_error(resource) != 0)
		return;
	entries = rd_kafka_ConfigResource_configs(resource, &nentries);
	for (size_t i = 0; i < nentries; i++)
	{
		const char *value = rd_kafka_ConfigEntry_value(entries[i]);

		if (strcmp(rd_kafka_ConfigEntry_name(entries[i]), name) == 0 && value != NULL && strcmp(value, "compact") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("topic \"%s\" on Kafka server \"%s\" cannot keep positions: its cleanup.policy is \"%s\"",
							topic, admin->server->name, value),
					 errhint("Set it to \"compact\" with kafka.alter_topic.")));
	}
}

/* Returns the end of the log, open transactions included; makes the topic if it is missing. */
static int64
find_end(KsAdmin *admin, const char *topic)
{
	/* small segments, so that compaction, which leaves the newest one alone, keeps the log short */
	static const KsConfig configs[] = {
		{"cleanup.policy", "compact"},
		{"segment.bytes", "16777216"},
		{"min.cleanable.dirty.ratio", "0.1"},
	};
	const rd_kafka_metadata_t *metadata = ks_admin_metadata(admin, topic);
	rd_kafka_resp_err_t err = metadata->topic_cnt == 1 ? metadata->topics[0].err : RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
	rd_kafka_topic_partition_list_t *list;

	if (err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC)
		(void) ks_admin_create_topic(admin, topic, 1, -1, configs, lengthof(configs), true);
	else
		check_compacted(admin, topic);
	list = rd_kafka_topic_partition_list_new(1);
	ks_admin_own(admin, list, (KsDestroy) rd_kafka_topic_partition_list_destroy);
	rd_kafka_topic_partition_list_add(list, topic, 0);
	return ks_admin_offsets(admin, list, RD_KAFKA_OFFSET_END)->elems[0].offset;
}

/* Takes a record. */
static void
take_record(Reading *r, const rd_kafka_message_t *m)
{
	char		key[KEY_SIZE];
	Entry	   *entry;
	bool		found;

	if (m->err || m->key == NULL || m->key_len >= KEY_SIZE)
		return;
	memcpy(key, m->key, m->key_len);
	key[m->key_len] = '\0';
	if (strncmp(key, r->prefix, strlen(r->prefix)) != 0)
		return;
	entry = hash_search(r->entries, key, m->payload ? HASH_ENTER : HASH_FIND, &found);
	if (entry == NULL)
		return;
	if (found)
		pfree(entry->value);
	if (m->payload)
		entry->value = pnstrdup(m->payload, m->len);
	else
		hash_search(r->entries, key, HASH_REMOVE, NULL);
}

/* Handles an error event. ERROR for what does not go away. */
static void
handle_error(Reading *r, rd_kafka_event_t *event)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);
	KsAdmin		admin = {r->server, r->client, NULL};
	rd_kafka_topic_partition_t *tp;

	switch (err)
	{
		case RD_KAFKA_RESP_ERR__PARTITION_EOF:
			tp = rd_kafka_event_topic_partition(event);
			if (tp)
			{
				/* it steps over what is no message: aborted ones, and the marks of transactions */
				r->position = Max(r->position, tp->offset);
				r->answered = true;
				rd_kafka_topic_partition_destroy(tp);
			}
			break;
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
			ks_kafka_error(&admin, err, rd_kafka_event_error_string(event), psprintf("read topic \"%s\"", r->topic));
			break;
		default:
			if (rd_kafka_event_error_is_fatal(event))
				ks_kafka_error(&admin, err, rd_kafka_event_error_string(event), psprintf("read topic \"%s\"", r->topic));
			ks_client_note_error(r->client, err, rd_kafka_event_error_string(event));
			break;
	}
}

/* Gives back the event at hand. */
static void
release_event(Reading *r)
{
	if (r->event)
		rd_kafka_event_destroy(r->event);
	r->event = NULL;
}

/* Takes the event at hand. ERROR as handle_error. */
static void
take_event(Reading *r)
{
	const rd_kafka_message_t *m;

	if (rd_kafka_event_type(r->event) == RD_KAFKA_EVENT_FETCH)
		while ((m = rd_kafka_event_message_next(r->event)) != NULL)
		{
			take_record(r, m);
			r->position = Max(r->position, m->offset + 1);
		}
	else if (rd_kafka_event_type(r->event) == RD_KAFKA_EVENT_ERROR)
		handle_error(r, r->event);
	release_event(r);
}

/* Reads until "end". */
static void
read_records(Reading *r)
{
	TimestampTz since = GetCurrentTimestamp();
	int64		before = -1;

	while (r->position < r->end)
	{
		if (r->position != before)
			since = GetCurrentTimestamp();
		before = r->position;
		r->event = rd_kafka_queue_poll(r->client->queue, 0);
		if (r->event == NULL)
		{
			ks_client_drain_log(r->client);
			if (TimestampDifferenceExceeds(since, GetCurrentTimestamp(), SILENCE_MS))
			{
				if (r->client->all_brokers_down || !r->answered)
					ks_unreachable_error(r->client);
				ereport(ERROR,
						(errcode(ERRCODE_CONNECTION_FAILURE),
						 errmsg("topic \"%s\" on Kafka server \"%s\" cannot be read to its end", r->topic, r->server->name),
						 errdetail("A transaction is open there. It ends by itself, or with its timeout.")));
			}
			ks_client_wait(r->client, 1000, r->wait_name);
			continue;
		}
		take_event(r);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Has a consumer read the log. */
static void
read_log(Reading *r)
{
	rd_kafka_topic_partition_list_t *list;

	r->client = ks_client_create(KS_CLIENT_CONSUMER, r->server, consumer_properties, lengthof(consumer_properties));
	PG_TRY();
	{
		list = rd_kafka_topic_partition_list_new(1);
		rd_kafka_topic_partition_list_add(list, r->topic, 0)->offset = RD_KAFKA_OFFSET_BEGINNING;
		(void) rd_kafka_assign(r->client->rk, list);
		rd_kafka_topic_partition_list_destroy(list);
		read_records(r);
	}
	PG_FINALLY();
	{
		release_event(r);
		ks_client_destroy(r->client, 0);
	}
	PG_END_TRY();
}

List *
ks_progress_topic_read(const KsServer *server, const char *topic, const char *prefix, const char *wait_name)
{
	Reading		r = {server, topic, prefix, wait_name};
	HASHCTL		ctl = {.keysize = KEY_SIZE, .entrysize = sizeof(Entry), .hcxt = CurrentMemoryContext};
	KsAdmin    *admin = ks_admin_connect(server, "read_uncommitted");
	List	   *records = NIL;
	HASH_SEQ_STATUS scan;
	Entry	   *entry;

	PG_TRY();
	{
		r.end = find_end(admin, topic);
	}
	PG_FINALLY();
	{
		ks_admin_close(admin);
	}
	PG_END_TRY();

	r.entries = hash_create("pg_kafka_sync progress", 64, &ctl, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	if (r.end > 0)
		read_log(&r);
	hash_seq_init(&scan, r.entries);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		KsProgressRecord *record = palloc(sizeof(KsProgressRecord));

		record->key = pstrdup(entry->key);
		record->value = entry->value;
		records = lappend(records, record);
	}
	hash_destroy(r.entries);
	return records;
}

void
ks_progress_topic_put(KsTransactional *producer, const char *topic, const char *key, const char *value)
{
	KsTransactionalMessage message = {.topic = topic, .partition = 0, .key = key, .key_size = strlen(key),
	.value = value, .value_size = value ? strlen(value) : 0};

	ks_transactional_send(producer, &message);
}
