/*
 * topic_facts.c: questions about topics; see topic_facts.h.  Nothing of PostgreSQL is called here: it runs on threads.
 */
#include "postgres.h"

#include "consume/topic_facts.h"

#define ASK_TIMEOUT_MS 5000
#define RECORD_TIMEOUT_MS 1000

bool
ks_topic_ids_known(void)
{
#if RD_KAFKA_VERSION >= 0x020300ff
	return rd_kafka_version() >= 0x020300ff;
#else
	return false;
#endif
}

KsTopicFacts *
ks_topic_facts_create(int count)
{
	KsTopicFacts *f = calloc(1, sizeof(KsTopicFacts));

	if (f == NULL)
		return NULL;
	f->facts = calloc(count + 1, sizeof(KsTopicFact));
	if (f->facts == NULL)
	{
		free(f);
		return NULL;
	}
	return f;
}

bool
ks_topic_facts_add(KsTopicFacts *f, const char *topic)
{
	if (ks_topic_facts_find(f, topic) != NULL)
		return true;
	f->facts[f->count].topic = strdup(topic);
	if (f->facts[f->count].topic == NULL)
		return false;
	f->count++;
	return true;
}

const KsTopicFact *
ks_topic_facts_find(const KsTopicFacts *f, const char *topic)
{
	/* partitions come topic by topic */
	for (int i = f->count - 1; i >= 0; i--)
		if (strcmp(f->facts[i].topic, topic) == 0)
			return &f->facts[i];
	return NULL;
}

void
ks_topic_facts_free(void *arg)
{
	KsTopicFacts *f = arg;

	for (int i = 0; i < f->count; i++)
		free(f->facts[i].topic);
	free(f->facts);
	free(f);
}

/* The answer about this topic, to be written. */
static KsTopicFact *
fact_of(KsTopicFacts *f, const char *topic)
{
	return (KsTopicFact *) ks_topic_facts_find(f, topic);
}

/* Waits for the result of a request, in a queue of its own. Returns NULL, with f->err set, if there is none. */
static rd_kafka_event_t *
wait_result(KsTopicFacts *f, rd_kafka_queue_t *queue)
{
	rd_kafka_event_t *event = rd_kafka_queue_poll(queue, ASK_TIMEOUT_MS + 1000);

	f->err = event == NULL ? RD_KAFKA_RESP_ERR__TIMED_OUT : rd_kafka_event_error(event);
	if (event != NULL && f->err)
	{
		rd_kafka_event_destroy(event);
		event = NULL;
	}
	return event;
}

/* Takes the configs of one topic. */
static void
take_configs(KsTopicFacts *f, const rd_kafka_ConfigResource_t *resource)
{
	KsTopicFact *fact = fact_of(f, rd_kafka_ConfigResource_name(resource));
	size_t		n;
	const rd_kafka_ConfigEntry_t **entries;

	if (fact == NULL || rd_kafka_ConfigResource_error(resource))
		return;					/* no right to see them, or the topic has just gone */
	entries = rd_kafka_ConfigResource_configs(resource, &n);
	for (size_t i = 0; i < n; i++)
	{
		const char *name = rd_kafka_ConfigEntry_name(entries[i]);
		const char *value = rd_kafka_ConfigEntry_value(entries[i]);

		if (value == NULL)
			continue;
		if (strcmp(name, "cleanup.policy") == 0)
		{
			fact->compact = strstr(value, "compact") != NULL;
			fact->config_known = true;
		}
		else if (strcmp(name, "delete.retention.ms") == 0)
			fact->delete_retention_ms = strtoll(value, NULL, 10);
	}
}

/* Asks for the configs of all topics, with one request. */
static void
ask_configs(rd_kafka_t *rk, KsTopicFacts *f, rd_kafka_queue_t *queue)
{
	rd_kafka_ConfigResource_t **resources = calloc(f->count, sizeof(*resources));
	rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
	rd_kafka_event_t *event;

	if (resources == NULL)
	{
		rd_kafka_AdminOptions_destroy(options);
		f->err = RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
		return;
	}
	for (int i = 0; i < f->count; i++)
		resources[i] = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, f->facts[i].topic);
	(void) rd_kafka_AdminOptions_set_request_timeout(options, ASK_TIMEOUT_MS, NULL, 0);
	rd_kafka_DescribeConfigs(rk, resources, f->count, options, queue);
	rd_kafka_ConfigResource_destroy_array(resources, f->count);
	free(resources);
	rd_kafka_AdminOptions_destroy(options);

	event = wait_result(f, queue);
	if (event != NULL)
	{
		size_t		n;
		const rd_kafka_ConfigResource_t **answers =
			rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event), &n);

		for (size_t i = 0; i < n; i++)
			take_configs(f, answers[i]);
		rd_kafka_event_destroy(event);
	}
}

#if RD_KAFKA_VERSION >= 0x020300ff
/* Asks for the ids of all topics, with one request. */
static void
ask_ids(rd_kafka_t *rk, KsTopicFacts *f, rd_kafka_queue_t *queue)
{
	const char **names = calloc(f->count, sizeof(*names));
	rd_kafka_TopicCollection_t *topics;
	rd_kafka_AdminOptions_t *options;
	rd_kafka_event_t *event;

	if (names == NULL)
	{
		f->err = RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
		return;
	}
	for (int i = 0; i < f->count; i++)
		names[i] = f->facts[i].topic;
	topics = rd_kafka_TopicCollection_of_topic_names(names, f->count);
	options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
	(void) rd_kafka_AdminOptions_set_request_timeout(options, ASK_TIMEOUT_MS, NULL, 0);
	rd_kafka_DescribeTopics(rk, topics, options, queue);
	rd_kafka_TopicCollection_destroy(topics);
	rd_kafka_AdminOptions_destroy(options);
	free(names);

	event = wait_result(f, queue);
	if (event != NULL)
	{
		size_t		n;
		const rd_kafka_TopicDescription_t **answers =
			rd_kafka_DescribeTopics_result_topics(rd_kafka_event_DescribeTopics_result(event), &n);

		for (size_t i = 0; i < n; i++)
		{
			const rd_kafka_error_t *error = rd_kafka_TopicDescription_error(answers[i]);
			KsTopicFact *fact = fact_of(f, rd_kafka_TopicDescription_name(answers[i]));
			const rd_kafka_Uuid_t *id = rd_kafka_TopicDescription_topic_id(answers[i]);

			if (fact == NULL || id == NULL || (error != NULL && rd_kafka_error_code(error)) ||
				(rd_kafka_Uuid_most_significant_bits(id) == 0 && rd_kafka_Uuid_least_significant_bits(id) == 0))
				continue;		/* it has just gone, or the broker knows no ids */
			strlcpy(fact->id, rd_kafka_Uuid_base64str(id), sizeof(fact->id));
		}
		rd_kafka_event_destroy(event);
	}
}
#endif

void
ks_topic_facts_run(rd_kafka_t *rk, void *arg)
{
	KsTopicFacts *f = arg;
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);

#if RD_KAFKA_VERSION >= 0x020300ff
	if (f->want_ids && f->count > 0)
		ask_ids(rk, f, queue);
#endif
	if (f->want_configs && f->count > 0 && !f->err)
		ask_configs(rk, f, queue);
	rd_kafka_queue_destroy(queue);
}

KsRecordAsks *
ks_record_asks_create(int count)
{
	KsRecordAsks *a = calloc(1, sizeof(KsRecordAsks));

	if (a == NULL)
		return NULL;
	a->asks = calloc(count + 1, sizeof(KsRecordAsk));
	if (a->asks == NULL)
	{
		free(a);
		return NULL;
	}
	return a;
}

bool
ks_record_asks_add(KsRecordAsks *a, const char *topic, int32_t partition, int64_t offset)
{
	KsRecordAsk *ask = &a->asks[a->count];

	ask->topic = strdup(topic);
	if (ask->topic == NULL)
		return false;
	ask->partition = partition;
	ask->offset = offset;
	a->count++;
	return true;
}

void
ks_record_asks_free(KsRecordAsks *a)
{
	for (int i = 0; i < a->count; i++)
	{
		free(a->asks[i].topic);
		free(a->asks[i].key);
		free(a->asks[i].value);
	}
	free(a->asks);
	free(a);
}

/* Keeps what a record is known by; the message goes back at once, so that the handle can end at any time. */
static void
keep_record(KsRecordAsk *ask, const rd_kafka_message_t *m)
{
	rd_kafka_timestamp_type_t kind;

	/* the log does not reach there; any other error, of a topic that is just not there too, tells nothing of the record */
	if (m->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET || m->err == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE ||
		m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF || (!m->err && m->offset != ask->offset))
		ask->answered = true;
	if (m->err || m->offset != ask->offset)
		return;
	ask->key = malloc(m->key_len + 1);
	ask->value = malloc(m->len + 1);
	if (ask->key == NULL || ask->value == NULL)
		return;
	if (m->key_len > 0)
		memcpy(ask->key, m->key, m->key_len);
	if (m->len > 0)
		memcpy(ask->value, m->payload, m->len);
	ask->key_size = m->key_len;
	ask->value_size = m->len;
	ask->timestamp_ms = rd_kafka_message_timestamp(m, &kind);
	ask->answered = ask->found = true;
}

/* Reads single records with the simple consumer, which leaves what others read alone. */
void
ks_record_asks_run(rd_kafka_t *rk, void *arg)
{
	KsRecordAsks *a = arg;

	for (int i = 0; i < a->count && !__atomic_load_n(&a->cancelled, __ATOMIC_RELAXED); i++)
	{
		KsRecordAsk *ask = &a->asks[i];
		rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, ask->topic, NULL);

		if (topic == NULL)
			continue;
		if (rd_kafka_consume_start(topic, ask->partition, ask->offset) == 0)
		{
			rd_kafka_message_t *m = rd_kafka_consume(topic, ask->partition, RECORD_TIMEOUT_MS);

			if (m)
			{
				keep_record(ask, m);
				rd_kafka_message_destroy(m);
			}
			(void) rd_kafka_consume_stop(topic, ask->partition);
		}
		rd_kafka_topic_destroy(topic);
	}
}

/* Asks for the ends of logs; one without a leader must not keep the others waiting for long. */
void
ks_record_asks_run_ends(rd_kafka_t *rk, void *arg)
{
	KsRecordAsks *a = arg;

	for (int i = 0; i < a->count && !__atomic_load_n(&a->cancelled, __ATOMIC_RELAXED); i++)
	{
		KsRecordAsk *ask = &a->asks[i];
		int64_t		low;

		ask->answered = rd_kafka_query_watermark_offsets(rk, ask->topic, ask->partition, &low, &ask->offset,
														 RECORD_TIMEOUT_MS) == RD_KAFKA_RESP_ERR_NO_ERROR;
	}
}

/* The asker frees it; from here on it is his. */
void
ks_record_asks_release(void *arg)
{
	KsRecordAsks *a = arg;

	__atomic_store_n(&a->done, 1, __ATOMIC_RELEASE);
}

bool
ks_record_asks_done(const KsRecordAsks *a)
{
	return __atomic_load_n(&a->done, __ATOMIC_ACQUIRE) != 0;
}
