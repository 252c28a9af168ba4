/*
 * consumer.c: reading from Kafka: the handle, its settings, messages and events.
 *
 * Everything comes through one queue as events, and is looked at only by the worker's own thread.  Memory is bounded:
 * librdkafka stops fetching when its queue is full, and the caller says how much it wants to hold.
 */
#include "postgres.h"

#include "consume/consumer.h"
#include "consume/log_ends.h"
#include "consume/topic_facts.h"
#include "control/worker.h"
#include "event/event.h"
#include "event/message.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define GROUP_COMMIT_EVERY_MS 5000
#define POKE_AFTER (8 * 1024 * 1024)	/* about when librdkafka's queue may have been full */
#define POKE_EVERY (2 * 1024 * 1024)

/*
 * Properties that the guarantees rest on, and those that keep memory small and latency low.  A fetch waits at the
 * broker only while there is nothing to read, so its wait time costs no latency; it does bound how soon the end of a
 * partition behind control records is noticed.
 */
static const KsProperty fixed_properties[] = {
	{"isolation.level", "read_committed"},
	{"enable.partition.eof", "true"},
	{"enable.auto.commit", "false"},
	{"enable.auto.offset.store", "false"},
	{"auto.offset.reset", "error"},
	{"allow.auto.create.topics", "false"},
	{"statistics.interval.ms", "1000"},
};

static const KsProperty default_properties[] = {
	{"fetch.wait.max.ms", "100"},
	{"fetch.min.bytes", "1"},
	{"fetch.max.bytes", "1572864"},
	{"fetch.message.max.bytes", "524288"},
	{"queued.max.messages.kbytes", "16384"},
	{"queued.min.messages", "100000"},
	{"fetch.error.backoff.ms", "100"},
	{"fetch.queue.backoff.ms", "5"},
	{"reconnect.backoff.max.ms", "2000"},
	{"topic.metadata.refresh.interval.ms", "10000"},
	{"socket.keepalive.enable", "true"},
	{"socket.nagle.disable", "true"},
};

/*
 * Was a property given with the server or in the options?  With larger messages, librdkafka raises fetch.max.bytes by
 * itself, and refuses a smaller one.
 */
static bool
is_given(const KsServer *server, const KsOptions *options, const char *name)
{
	if (strcmp(name, "fetch.max.bytes") == 0 && is_given(server, options, "message.max.bytes"))
		return true;
	for (int i = 0; i < server->nproperties; i++)
		if (strcmp(server->properties[i].name, name) == 0)
			return true;
	for (int i = 0; i < options->nproperties; i++)
		if (strcmp(options->properties[i].name, name) == 0)
			return true;
	return false;
}

/*
 * At the end of the process, before the handle is destroyed: gives back what we still hold of it, because librdkafka
 * waits for that.
 */
static void
release_at_exit(int code, Datum arg)
{
	KsConsumer *c = (KsConsumer *) DatumGetPointer(arg);

	ks_consumer_event_done(c);
	ks_consumer_release(c, c->count);
	if (c->anchors)
		__atomic_store_n(&c->anchors->cancelled, 1, __ATOMIC_RELAXED);
	if (c->ends)
		__atomic_store_n(&c->ends->cancelled, 1, __ATOMIC_RELAXED);
}

/* See consumer.h. */
KsConsumer *
ks_consumer_create(const KsSubscription *subscription, const KsServer *server, KsOffsets *offsets)
{
	KsConsumer *c = palloc0(sizeof(KsConsumer));
	const KsOptions *options = subscription->options;
	KsProperty *properties = palloc(sizeof(KsProperty) *
									(lengthof(fixed_properties) + lengthof(default_properties) + options->nproperties + 4));
	const char *group = options->text_value[KS_OPT_GROUP_ID];
	int			n = 0;

	c->subscription = subscription;
	c->offsets = offsets;
	c->busy_workers = 1;
	c->json_headers = strcmp(subscription->format, "json") == 0;
	c->modes = ks_message_modes(options);

	/* later ones win */
	for (int i = 0; i < lengthof(default_properties); i++)
		if (!is_given(server, options, default_properties[i].name) && ks_property_known(default_properties[i].name))
			properties[n++] = default_properties[i];
	for (int i = 0; i < options->nproperties; i++)
		properties[n++] = options->properties[i];
	for (int i = 0; i < lengthof(fixed_properties); i++)
		properties[n++] = fixed_properties[i];
	properties[n].name = "group.id";
	properties[n].value = pstrdup(group && group[0] ? group : NameStr(subscription->name));
	n++;
	c->client = ks_client_create(KS_CLIENT_CONSUMER, server, properties, n);

	n = 0;
	for (int i = 0; i < options->nproperties; i++)
		properties[n++] = options->properties[i];
	/* a position may lie behind the last stable offset, but never behind the log's end */
	properties[n].name = "isolation.level";
	properties[n++].value = "read_uncommitted";
	/* single records are read with it, see gaps.c */
	properties[n].name = "queued.min.messages";
	properties[n++].value = "1";
	properties[n].name = "queued.max.messages.kbytes";
	properties[n++].value = "1024";
	properties[n].name = "fetch.message.max.bytes";
	properties[n++].value = "65536";
	/* a record beyond the log's ends is told of */
	properties[n].name = "auto.offset.reset";
	properties[n++].value = "error";
	c->asker = ks_client_create(KS_CLIENT_ADMIN, server, properties, n);
	pfree(properties);
	on_proc_exit(release_at_exit, PointerGetDatum(c));	/* later than, so run before, the client's own */
	return c;
}

/* Says what keeps us from reading. The state is set by the main loop. */
static void
note_trouble(KsConsumer *c, rd_kafka_resp_err_t err, const char *reason)
{
	char		text[KS_ERROR_SIZE];
	char		clean[KS_DETAIL_SIZE];

	ks_client_note_error(c->client, err, reason);
	c->connected = false;
	ks_client_scrub(c->client, reason ? reason : rd_kafka_err2str(err), clean, sizeof(clean));
	snprintf(text, sizeof(text), "Kafka: %s", clean);
	ks_worker_note_error(text);
}

/* An error event of a partition or of the whole handle. */
static void
handle_error(KsConsumer *c, rd_kafka_event_t *event)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);
	const char *reason = rd_kafka_event_error_string(event);
	rd_kafka_topic_partition_t *tp = rd_kafka_event_topic_partition(event);
	KsOffset   *o = tp ? ks_offsets_find(c->offsets, tp->topic, tp->partition) : NULL;
	int64		position = tp ? tp->offset : -1;

	if (tp)
		rd_kafka_topic_partition_destroy(tp);

	switch (err)
	{
		case RD_KAFKA_RESP_ERR__PARTITION_EOF:
			/* Everything before it was handed out: step over control, aborted and compacted records. */
			c->connected = true;
			if (o && o->assigned && position >= o->read)
			{
				if (o->stable < 0)
					c->first_end = true;
				o->read = Max(o->read, Min(position, o->stop));
				o->eof = o->stable = position;
				o->high = Max(o->high, position);
			}
			break;
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			if (o && o->assigned)
				ks_consumer_gap(c, o, "the log does not hold that offset any more");
			break;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			/* deleted, or not there yet; should it come back, it must be shown to be the same one */
			if (o)
				o->verified = false;
			c->stale = true;
			break;
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
		default:
			if (rd_kafka_event_error_is_fatal(event))
				ereport(ERROR,
						(errcode(ERRCODE_FDW_ERROR),
						 errmsg("subscription \"%s\": Kafka: %s", NameStr(c->subscription->name), reason)));
			note_trouble(c, err, reason);
			break;
	}
}

/* The answer to a group commit: a failure is told once. */
static void
handle_group_commit(KsConsumer *c, rd_kafka_event_t *event)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR || err == RD_KAFKA_RESP_ERR__NO_OFFSET)
		c->group_commit_warned = false;
	else if (!c->group_commit_warned)
	{
		c->group_commit_warned = true;
		ereport(WARNING,
				(errmsg("subscription \"%s\" could not commit its offsets to the Kafka group: %s",
						NameStr(c->subscription->name), rd_kafka_err2str(err)),
				 errdetail("Nothing depends on them but what Kafka's own tools show.")));
	}
}

/* See consumer.h. */
void
ks_consumer_handle_event(KsConsumer *c, rd_kafka_event_t *event)
{
	switch (rd_kafka_event_type(event))
	{
		case RD_KAFKA_EVENT_ERROR:
			handle_error(c, event);
			break;
		case RD_KAFKA_EVENT_STATS:
			if (ks_log_ends_update(c->offsets, rd_kafka_event_stats(event)))
			{
				c->connected = true;
				ks_client_note_success(c->client);
				c->fresh_ends = true;
				for (int i = 0; i < c->offsets->count; i++)
					if (c->offsets->items[i]->assigned && !c->offsets->items[i]->verified)
						c->stale = true;
			}
			else
				for (int i = 0; i < c->offsets->count; i++)
					if (c->offsets->items[i]->assigned)
						c->connected = false;
			break;
		case RD_KAFKA_EVENT_OFFSET_COMMIT:
			handle_group_commit(c, event);
			break;
		default:
			break;
	}
}

/* See consumer.h. */
void
ks_consumer_event_done(KsConsumer *c)
{
	if (c->event)
		rd_kafka_event_destroy(c->event);
	c->event = NULL;
}

/* Makes room for one more message. */
static void
grow(KsConsumer *c)
{
	MemoryContext old;

	if (c->count < c->capacity)
		return;
	c->capacity = Max(1024, c->capacity * 2);
	old = MemoryContextSwitchTo(GetMemoryChunkContext(c));
	c->messages = c->messages ? repalloc(c->messages, sizeof(KsMessage) * c->capacity) :
		palloc(sizeof(KsMessage) * c->capacity);
	c->owners = c->owners ? repalloc(c->owners, sizeof(KsOffset *) * c->capacity) :
		palloc(sizeof(KsOffset *) * c->capacity);
	MemoryContextSwitchTo(old);
}

/* Returns the value of a header and its size, NULL and 0 if there is none (or it is null). */
static const char *
find_header(const rd_kafka_headers_t *headers, const char *name, size_t *size)
{
	const void *value;

	if (rd_kafka_header_get_last(headers, name, &value, size) == RD_KAFKA_RESP_ERR_NO_ERROR && value != NULL)
		return value;
	*size = 0;
	return NULL;
}

/* Looks up a header of a message that is not released yet; see parser.h. */
static const char *
message_header(const KsMessage *message, const char *name, size_t *size)
{
	rd_kafka_headers_t *headers;

	*size = 0;
	if (rd_kafka_message_headers(message->headers_of, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return NULL;
	return find_header(headers, name, size);
}

/* Takes over one message; it owns the event from then on. False: it is none of ours. */
static bool
take_message(KsConsumer *c, rd_kafka_event_t *event)
{
	const rd_kafka_message_t *rkm = rd_kafka_event_message_next(event);
	rd_kafka_timestamp_type_t kind;
	KsMessage  *m;
	KsOffset   *o;
	rd_kafka_headers_t *headers;

	if (rkm == NULL || rkm->err)
		return false;
	o = ks_offsets_find(c->offsets, rd_kafka_topic_name(rkm->rkt), rkm->partition);
	if (o == NULL || !o->assigned || rkm->offset < o->read)
		return false;
	if (rkm->offset >= o->stop)
	{
		/* in order: what lies before it has come, or is not there */
		o->read = Max(o->read, o->stop);
		return false;
	}
	c->event = event;			/* should this be the end of us */
	ks_gaps_check_unread(c, o, c->polled_at);
	c->event = NULL;

	grow(c);
	m = &c->messages[c->count];
	m->topic = o->topic;
	m->partition = rkm->partition;
	m->offset = rkm->offset;
	m->timestamp_ms = rd_kafka_message_timestamp(rkm, &kind);
	m->key = rkm->key;
	m->key_size = rkm->key_len;
	m->value = rkm->payload;
	m->value_size = rkm->len;
	m->native = event;
	m->json_null = NULL;
	m->json_null_size = 0;
	m->unchanged = NULL;
	m->unchanged_size = 0;
	m->modes = c->modes;
	m->find_header = message_header;
	m->headers_of = rkm;
	if (c->json_headers && rkm->payload != NULL &&
		rd_kafka_message_headers(rkm, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		m->json_null = find_header(headers, KS_HEADER_JSON_NULL, &m->json_null_size);
		m->unchanged = find_header(headers, KS_HEADER_UNCHANGED, &m->unchanged_size);
	}
	c->owners[c->count] = o;
	c->count++;
	c->bytes += m->key_size + m->value_size;
	o->read = m->offset + 1;
	if (o->anchor_offset < 0)
	{
		/* from now on, not only when it is applied: what is read next may be of another topic */
		o->anchor_offset = m->offset;
		o->anchor_timestamp_ms = m->timestamp_ms;
		o->anchor_checksum = ks_message_checksum(m->key, m->key_size, m->value, m->value_size);
	}
	return true;
}

/*
 * Before librdkafka 2.2 (which has fetch.queue.backoff.ms), a broker thread that found the queue full looks again only
 * after a second, though the queue is drained in a fraction of it.  Any request to that broker wakes it; this is a
 * small one that nobody waits for the answer of.
 */
static void
poke(KsConsumer *c)
{
	rd_kafka_topic_partition_list_t *list;

	c->unpoked = 0;
	if (rd_kafka_version() >= 0x02020000 || !c->connected)
		return;
	list = rd_kafka_topic_partition_list_new(c->offsets->count);
	for (int i = 0; i < c->offsets->count; i++)
		if (c->offsets->items[i]->assigned)
			rd_kafka_topic_partition_list_add(list, c->offsets->items[i]->topic,
											  c->offsets->items[i]->partition)->offset = RD_KAFKA_OFFSET_END;
	if (list->cnt > 0)
		(void) rd_kafka_offsets_for_times(c->client->rk, list, 0);
	rd_kafka_topic_partition_list_destroy(list);
}

/* Notes that "size" bytes were taken out of librdkafka's queue, or (0) that it is empty. */
static void
note_taken(KsConsumer *c, Size size)
{
	c->unpoked += size;
	c->taken += size;
	if (c->taken >= POKE_AFTER && (c->unpoked >= POKE_EVERY || size == 0))
		poke(c);
	if (size == 0)
		c->taken = 0;
}

/* See consumer.h. */
bool
ks_consumer_poll(KsConsumer *c, int max_messages, Size max_bytes)
{
	c->polled_at = GetCurrentTimestamp();
	while (c->count < max_messages && (c->count == 0 || c->bytes < max_bytes))
	{
		rd_kafka_event_t *event = rd_kafka_queue_poll(c->client->queue, 0);

		if (event == NULL)
		{
			note_taken(c, 0);
			return false;
		}
		if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_FETCH)
		{
			Size		before = c->bytes;

			if (!take_message(c, event))
				rd_kafka_event_destroy(event);
			note_taken(c, c->bytes - before + 1);
			c->connected = true;
			continue;
		}
		c->event = event;
		ks_consumer_handle_event(c, event);
		ks_consumer_event_done(c);
	}
	return true;
}

/* See consumer.h. */
void
ks_consumer_release(KsConsumer *c, int n)
{
	for (int i = 0; i < n; i++)
	{
		c->bytes -= c->messages[i].key_size + c->messages[i].value_size;
		rd_kafka_event_destroy(c->messages[i].native);
	}
	c->count -= n;
	if (c->count > 0)
	{
		memmove(c->messages, c->messages + n, sizeof(KsMessage) * c->count);
		memmove(c->owners, c->owners + n, sizeof(KsOffset *) * c->count);
	}
}

/* See consumer.h. */
void
ks_consumer_commit_group(KsConsumer *c)
{
	TimestampTz now = GetCurrentTimestamp();
	rd_kafka_topic_partition_list_t *list;

	if (now < c->next_group_commit || !c->connected)
		return;
	c->next_group_commit = TimestampTzPlusMilliseconds(now, GROUP_COMMIT_EVERY_MS);
	list = rd_kafka_topic_partition_list_new(c->offsets->count);
	for (int i = 0; i < c->offsets->count; i++)
	{
		KsOffset   *o = c->offsets->items[i];

		if (o->assigned && o->stored != o->group_committed)
		{
			rd_kafka_topic_partition_list_add(list, o->topic, o->partition)->offset = o->stored;
			o->group_committed = o->stored;
		}
	}
	if (list->cnt > 0)
		(void) rd_kafka_commit_queue(c->client->rk, list, c->client->queue, NULL, NULL);
	rd_kafka_topic_partition_list_destroy(list);
}
