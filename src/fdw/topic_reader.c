/*
 * topic_reader.c: see topic_reader.h.
 *
 * A partition is done when a message at or after its end comes, or librdkafka says that it has reached the log's end
 * (which steps over control records, aborted and compacted messages): so reading ends whatever the log holds.
 */
#include "postgres.h"

#include <math.h>

#include "fdw/topic_reader.h"
#include "kafka/admin.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define WAIT_NAME "KafkaScan"
/* Without a word from the brokers for this long, they are asked whether they are still there. */
#define SILENCE_MS 5000
#define POKE_AFTER (8 * 1024 * 1024)	/* about when librdkafka's queue may have been full */
#define POKE_EVERY (2 * 1024 * 1024)
#define POKE_AFTER_FEW (128 * 1024)
/* Below this many messages wanted, little is fetched ahead. */
#define FEW 1000

static const KsProperty fixed_properties[] = {
	{"isolation.level", "read_committed"},
	{"enable.partition.eof", "true"},
	{"auto.offset.reset", "error"},
	{"group.id", "pg_kafka_sync.scan"},
};

/*
 * Where the server's options do not say otherwise: bounded memory, short waits.  A fetch waits at the broker only at the
 * log's end, and then holds up what is asked for next.
 */
static const struct
{
	const char *name;
	const char *value;
	const char *few;			/* the same where few messages are wanted */
}			default_properties[] = {
	{"fetch.wait.max.ms", "10", "10"},
	{"fetch.min.bytes", "1", "1"},
	{"fetch.max.bytes", "1572864", "1572864"},
	{"fetch.message.max.bytes", "524288", "65536"},
	{"queued.max.messages.kbytes", "16384", "256"},
	{"queued.min.messages", "100000", "1000"},
	{"fetch.error.backoff.ms", "100", "100"},
	{"fetch.queue.backoff.ms", "5", "5"},
	{"reconnect.backoff.max.ms", "2000", "2000"},
	{"socket.nagle.disable", "true", "true"},
};

void
ks_bounds_all(KsBounds *bounds)
{
	bounds->none = false;
	bounds->partition_min = 0;
	bounds->partition_max = PG_INT32_MAX;
	bounds->partitions = NIL;
	bounds->any_partition = true;
	bounds->offset_min = 0;
	bounds->offset_max = PG_INT64_MAX - 1;
	bounds->last = 0;
	bounds->slices = 0;
	bounds->slice = 0;
	bounds->place = 0;
	bounds->most = 0;
	bounds->ms_min = PG_INT64_MIN;
	bounds->ms_end = PG_INT64_MAX;
}

/* Gives back the message that was handed out. */
static void
release_event(KsTopicReader *reader)
{
	if (reader->event)
		rd_kafka_event_destroy(reader->event);
	reader->event = NULL;
}

void
ks_topic_reader_close(KsTopicReader *reader)
{
	KsClient   *client = reader->client;

	release_event(reader);
	reader->client = NULL;
	if (client)
		ks_client_destroy(client, 0);
}

/* The context goes, after an error for instance. */
static void
close_with_context(void *arg)
{
	ks_topic_reader_close(arg);
}

KsTopicReader *
ks_topic_reader_create(KsServer *server, const char *topic, bool ordered, double expected)
{
	KsTopicReader *reader = palloc0(sizeof(KsTopicReader));

	reader->context = CurrentMemoryContext;
	reader->server = server;
	reader->topic = pstrdup(topic);
	reader->ordered = ordered;
	reader->callback.func = close_with_context;
	reader->callback.arg = reader;
	MemoryContextRegisterResetCallback(reader->context, &reader->callback);
	reader->few = expected > 0 && expected <= FEW;
	return reader;
}

/* Was a property given with the server?  With larger messages, librdkafka raises fetch.max.bytes by itself. */
static bool
is_given(const KsServer *server, const char *name)
{
	if (strcmp(name, "fetch.max.bytes") == 0 && is_given(server, "message.max.bytes"))
		return true;
	for (int i = 0; i < server->nproperties; i++)
		if (strcmp(server->properties[i].name, name) == 0)
			return true;
	return false;
}

/* Makes the handle, when it is first needed. */
static void
connect_reader(KsTopicReader *reader)
{
	KsProperty	properties[lengthof(default_properties) + lengthof(fixed_properties)];
	int			n = 0;

	if (reader->client)
		return;
	for (int i = 0; i < (int) lengthof(default_properties); i++)
		if (!is_given(reader->server, default_properties[i].name) && ks_property_known(default_properties[i].name))
		{
			properties[n].name = unconstify(char *, default_properties[i].name);
			properties[n++].value = unconstify(char *, reader->few ? default_properties[i].few : default_properties[i].value);
		}
	for (int i = 0; i < (int) lengthof(fixed_properties); i++)
		properties[n++] = fixed_properties[i];
	reader->client = ks_client_create(KS_CLIENT_CONSUMER, reader->server, properties, n);
}

/* A list of those partitions that are (or are not yet) to be read. */
static rd_kafka_topic_partition_list_t *
partition_list(KsAdmin *admin, const KsTopicReader *reader, bool only_open)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(reader->nranges);

	ks_admin_own(admin, list, (KsDestroy) rd_kafka_topic_partition_list_destroy);
	for (int i = 0; i < reader->nranges; i++)
		if (!only_open || reader->ranges[i].open)
			rd_kafka_topic_partition_list_add(list, reader->topic, reader->ranges[i].partition);
	return list;
}

/* Returns the partition's entry. */
static KsRange *
find_range(KsTopicReader *reader, int32 partition)
{
	/* they are numbered from 0, but that is nowhere promised */
	if (partition >= 0 && partition < reader->nranges && reader->ranges[partition].partition == partition)
		return &reader->ranges[partition];
	for (int i = 0; i < reader->nranges; i++)
		if (reader->ranges[i].partition == partition)
			return &reader->ranges[i];
	return NULL;
}

/* Looks up partitions, where they begin and where they end, once. */
static void
look_up(KsTopicReader *reader, KsAdmin *admin)
{
	const rd_kafka_metadata_topic_t *topic;
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_topic_partition_list_t *low;
	rd_kafka_topic_partition_list_t *stable;

	if (reader->ranges)
		return;
	topic = ks_admin_topic(admin, reader->topic);
	reader->ranges = MemoryContextAllocZero(reader->context, sizeof(KsRange) * Max(topic->partition_cnt, 1));
	reader->nranges = topic->partition_cnt;
	for (int i = 0; i < topic->partition_cnt; i++)
		reader->ranges[i].partition = topic->partitions[i].id;
	list = partition_list(admin, reader, false);
	low = ks_admin_offsets(admin, list, RD_KAFKA_OFFSET_BEGINNING);
	stable = ks_admin_offsets(admin, list, RD_KAFKA_OFFSET_END);
	for (int i = 0; i < low->cnt; i++)
		find_range(reader, low->elems[i].partition)->low = low->elems[i].offset;
	for (int i = 0; i < stable->cnt; i++)
		find_range(reader, stable->elems[i].partition)->stable = stable->elems[i].offset;
}

/*
 * Narrows the ranges by timestamps.  The first message with a timestamp at or after ms_min is exactly where to begin,
 * in whatever order timestamps are.  The first one at or after ms_end is where to stop only if later ones are no earlier,
 * which the table must vouch for: a topic that has LogAppendTime now may have had another setting, or a leader whose
 * clock was ahead.
 */
static void
apply_timestamps(KsTopicReader *reader, KsAdmin *admin, const KsBounds *bounds)
{
	if (bounds->ms_min > 0)
	{
		rd_kafka_topic_partition_list_t *list = ks_admin_offsets(admin, partition_list(admin, reader, true), bounds->ms_min);

		for (int i = 0; i < list->cnt; i++)
		{
			KsRange    *range = find_range(reader, list->elems[i].partition);

			range->start = list->elems[i].offset < 0 ? range->end : Max(range->start, list->elems[i].offset);
		}
	}
	if (bounds->ms_end < PG_INT64_MAX && reader->ordered)
	{
		rd_kafka_topic_partition_list_t *list = ks_admin_offsets(admin, partition_list(admin, reader, true),
																 Max(bounds->ms_end, 0));

		for (int i = 0; i < list->cnt; i++)
		{
			KsRange    *range = find_range(reader, list->elems[i].partition);

			if (list->elems[i].offset >= 0)
				range->end = Min(range->end, list->elems[i].offset);
		}
	}
}

/* Is a partition wanted? */
static bool
is_wanted(const KsBounds *bounds, int32 partition)
{
	return !bounds->none && partition >= bounds->partition_min && partition <= bounds->partition_max &&
		(bounds->any_partition || list_member_int(bounds->partitions, partition));
}

/* Messages between the watermarks of all partitions, were there none missing. */
static double
total_length(const KsTopicReader *reader)
{
	double		length = 0;

	for (int i = 0; i < reader->nranges; i++)
		length += reader->ranges[i].stable - reader->ranges[i].low;
	return length;
}

/* Narrows a range to its part of a sample. */
static void
apply_sample(const KsTopicReader *reader, KsRange *range, const KsBounds *bounds)
{
	double		length = range->stable - range->low;
	int64		start = range->low + (int64) (length * bounds->slice / bounds->slices);
	int64		end = range->low + (int64) (length * (bounds->slice + 1) / bounds->slices);

	if (length == 0)
		return;
	range->most = (int64) ceil(bounds->most * (length / total_length(reader)));
	range->start = Max(range->start, start + (int64) (Max(end - start - range->most, 0) * bounds->place));
	range->end = Min(range->end, end);
}

/* Sets the ranges to what is to be read, and has librdkafka fetch it. */
static void
assign(KsTopicReader *reader, KsAdmin *admin, const KsBounds *bounds)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t err;
	bool		any = false;

	look_up(reader, admin);
	for (int i = 0; i < reader->nranges; i++)
	{
		KsRange    *range = &reader->ranges[i];

		range->start = Max(range->low, bounds->offset_min);
		range->end = Min(range->stable, bounds->offset_max + 1);
		if (bounds->last > 0)
			range->start = Max(range->start, range->end - (bounds->last + reader->nranges - 1) / reader->nranges);
		range->most = range->taken = 0;
		if (bounds->slices > 0)
			apply_sample(reader, range, bounds);
		range->open = is_wanted(bounds, range->partition) && range->start < range->end;
		any |= range->open;
	}
	if (any && (bounds->ms_min > 0 || bounds->ms_end < PG_INT64_MAX))
		apply_timestamps(reader, admin, bounds);

	reader->nopen = 0;
	for (int i = 0; i < reader->nranges; i++)
	{
		KsRange    *range = &reader->ranges[i];

		range->open = range->open && range->start < range->end;
		range->next = range->start;
		range->wanted |= range->open;
		reader->nopen += range->open;
	}
	if (reader->nopen == 0)
		return;
	list = partition_list(admin, reader, true);
	for (int i = 0; i < list->cnt; i++)
		list->elems[i].offset = find_range(reader, list->elems[i].partition)->start;
	err = rd_kafka_assign(reader->client->rk, list);
	if (err)
		ks_kafka_error(admin, err, NULL, psprintf("read topic \"%s\"", reader->topic));
}

/* Runs body with an admin's view of the reader's handle, while nothing but errors is in its queue. */
static void
with_admin(KsTopicReader *reader, void (*body) (KsTopicReader *reader, KsAdmin *admin, const KsBounds *bounds),
		   const KsBounds *bounds)
{
	KsAdmin		admin = {reader->server, NULL, NULL};
	MemoryContext former = MemoryContextSwitchTo(reader->context);

	connect_reader(reader);
	admin.client = reader->client;
	reader->client->errors_only = true;
	PG_TRY();
	{
		body(reader, &admin, bounds);
	}
	PG_CATCH();
	{
		reader->client->errors_only = false;
		ks_admin_release(&admin);
		PG_RE_THROW();
	}
	PG_END_TRY();
	reader->client->errors_only = false;
	ks_admin_release(&admin);
	MemoryContextSwitchTo(former);
}

void
ks_topic_reader_start(KsTopicReader *reader, const KsBounds *bounds)
{
	release_event(reader);
	/* Messages and ends of a former assignment that are still queued are dropped by librdkafka. */
	if (reader->client && reader->ranges)
		(void) rd_kafka_assign(reader->client->rk, NULL);
	with_admin(reader, assign, bounds);
}

/* Body of ks_topic_reader_count. */
static void
count_body(KsTopicReader *reader, KsAdmin *admin, const KsBounds *bounds)
{
	(void) bounds;
	look_up(reader, admin);
}

double
ks_topic_reader_count(KsTopicReader *reader)
{
	with_admin(reader, count_body, NULL);
	return total_length(reader);
}

double
ks_topic_reader_covered(const KsTopicReader *reader)
{
	double		covered = 0;

	for (int i = 0; i < reader->nranges; i++)
	{
		const KsRange *range = &reader->ranges[i];

		/* unless it had enough, it was read to its end */
		if (range->start < range->end)
			covered += (range->most > 0 && range->taken >= range->most ? range->next : range->end) - range->start;
	}
	return covered;
}

/* Nothing more of a partition is wanted: stops fetching it, where others still are. */
static void
finish_range(KsTopicReader *reader, KsRange *range)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_error_t *error;

	if (!range->open)
		return;
	range->open = false;
	if (--reader->nopen == 0)
	{
		(void) rd_kafka_assign(reader->client->rk, NULL);
		return;
	}
	list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_topic_partition_list_add(list, reader->topic, range->partition);
	error = rd_kafka_incremental_unassign(reader->client->rk, list);
	if (error)
		rd_kafka_error_destroy(error);	/* then what comes of it is thrown away */
	rd_kafka_topic_partition_list_destroy(list);
}

/* ERROR: what was to be read is not there any more. */
pg_noreturn static void
messages_gone(const KsTopicReader *reader, const KsRange *range)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("messages of topic \"%s\", partition %d were deleted while they were being read",
					reader->topic, (int) range->partition),
			 errdetail("Offset %lld is not in the log any more.", (long long) range->next),
			 errhint("Read again.")));
}

/* An error event. */
static void
handle_error(KsTopicReader *reader, rd_kafka_event_t *event)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);
	rd_kafka_topic_partition_t *tp = rd_kafka_event_topic_partition(event);
	KsRange    *range = tp ? find_range(reader, tp->partition) : NULL;
	int64		position = tp ? tp->offset : -1;
	KsAdmin		admin = {reader->server, reader->client, NULL};

	if (tp)
		rd_kafka_topic_partition_destroy(tp);
	switch (err)
	{
		case RD_KAFKA_RESP_ERR__PARTITION_EOF:
			if (range && position >= range->end)
				finish_range(reader, range);
			else if (range && range->open)
				messages_gone(reader, range);	/* the log has become shorter */
			break;
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			if (range && range->open)
				messages_gone(reader, range);
			break;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
			ks_kafka_error(&admin, err, rd_kafka_event_error_string(event), psprintf("read topic \"%s\"", reader->topic));
			break;
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
			break;				/* no group is used */
		default:
			if (rd_kafka_event_error_is_fatal(event))
				ks_kafka_error(&admin, err, rd_kafka_event_error_string(event),
							   psprintf("read topic \"%s\"", reader->topic));
			ks_client_note_error(reader->client, err, rd_kafka_event_error_string(event));
			break;
	}
}

/*
 * Before librdkafka 2.2, a broker thread that found the queue full looks again only after a second, though the queue is
 * drained in a fraction of it; any request to that broker wakes it.  Notes that "size" bytes were taken, 0: all of them.
 */
static void
note_taken(KsTopicReader *reader, Size size)
{
	reader->taken += size;
	reader->unpoked += size;
	if (rd_kafka_version() < 0x02020000 && reader->taken >= (reader->few ? POKE_AFTER_FEW : POKE_AFTER) &&
		(reader->unpoked >= POKE_EVERY || size == 0))
	{
		rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(reader->nranges);

		for (int i = 0; i < reader->nranges; i++)
			if (reader->ranges[i].open)
				rd_kafka_topic_partition_list_add(list, reader->topic, reader->ranges[i].partition)->offset =
					RD_KAFKA_OFFSET_END;
		if (list->cnt > 0)
			(void) rd_kafka_offsets_for_times(reader->client->rk, list, 0);
		rd_kafka_topic_partition_list_destroy(list);
		reader->unpoked = 0;
	}
	if (size == 0)
		reader->taken = 0;
}

/* Looks up a header of the message that was handed out; see parser.h. */
static const char *
find_header(const KsMessage *message, const char *name, size_t *size)
{
	rd_kafka_headers_t *headers;
	const void *value;

	if (rd_kafka_message_headers(message->headers_of, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR &&
		rd_kafka_header_get_last(headers, name, &value, size) == RD_KAFKA_RESP_ERR_NO_ERROR && value != NULL)
		return value;
	*size = 0;
	return NULL;
}

/* Takes over the message of an event. False: it is not wanted. */
static bool
take_message(KsTopicReader *reader, rd_kafka_event_t *event, KsMessage *m)
{
	const rd_kafka_message_t *rkm = rd_kafka_event_message_next(event);
	rd_kafka_timestamp_type_t kind;
	KsRange    *range;

	if (rkm == NULL || rkm->err)
		return false;
	range = find_range(reader, rkm->partition);
	if (range == NULL || !range->open || rkm->offset < range->next)
		return false;
	if (rkm->offset >= range->end)
	{
		finish_range(reader, range);
		return false;
	}
	range->next = rkm->offset + 1;
	range->messages++;
	reader->messages++;
	memset(m, 0, sizeof(KsMessage));
	m->topic = reader->topic;
	m->partition = rkm->partition;
	m->offset = rkm->offset;
	m->timestamp_ms = rd_kafka_message_timestamp(rkm, &kind);
	m->key = rkm->key;
	m->key_size = rkm->key_len;
	m->value = rkm->payload;
	m->value_size = rkm->len;
	m->native = event;
	m->find_header = find_header;
	m->headers_of = rkm;
	if (range->next >= range->end || ++range->taken == range->most)
		finish_range(reader, range);
	note_taken(reader, m->key_size + m->value_size + 1);
	return true;
}

/*
 * Asks the brokers for something, to learn whether they are there. ERROR if they are not.  Messages and ends of
 * partitions that come meanwhile stay in the queue.
 */
static void
probe(KsTopicReader *reader)
{
	KsAdmin		admin = {reader->server, reader->client, NULL, true};

	PG_TRY();
	{
		(void) ks_admin_offsets(&admin, partition_list(&admin, reader, true), RD_KAFKA_OFFSET_END);
	}
	PG_CATCH();
	{
		ks_admin_release(&admin);
		PG_RE_THROW();
	}
	PG_END_TRY();
	ks_admin_release(&admin);
}

bool
ks_topic_reader_next(KsTopicReader *reader, KsMessage *m)
{
	TimestampTz since = 0;

	release_event(reader);
	while (reader->nopen > 0)
	{
		rd_kafka_event_t *event;

		CHECK_FOR_INTERRUPTS();
		event = rd_kafka_queue_poll(reader->client->queue, 0);

		if (event == NULL)
		{
			TimestampTz now = GetCurrentTimestamp();

			note_taken(reader, 0);
			ks_client_drain_log(reader->client);
			if (since == 0)
				since = now;
			if (TimestampDifferenceExceeds(since, now, SILENCE_MS))
			{
				probe(reader);
				since = 0;
			}
			ks_client_wait(reader->client, 1000, WAIT_NAME);
			continue;
		}
		reader->event = event;
		if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_FETCH)
		{
			since = 0;
			if (take_message(reader, event, m))
				return true;
		}
		else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR)
			handle_error(reader, event);
		release_event(reader);
	}
	return false;
}
