/*
 * assign.c: which partitions a subscription reads, from where, and whether the log there is still the one it read.
 *
 * A topic that was deleted and made anew under the same name would be read on at the old offset in silence.  So before
 * a partition is assigned, its stored position is held against the log: it must lie within it, and the record applied
 * last must still have the timestamp and checksum it had (unless compaction has taken it).
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "consume/consumer.h"
#include "consume/problems.h"
#include "control/worker.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define ASK_TIMEOUT_MS 5000
#define CHECK_TIMEOUT_MS 15000
#define DISCOVER_EVERY_MS 5000
#define DISCOVER_AGAIN_MS 1000

/* A question about topics, asked on a thread of its own: malloc'ed, and nothing of PostgreSQL in it. */
typedef struct TopicAnswer
{
	char	   *name;
	int			partitions;		/* 0 = there is no such topic */
} TopicAnswer;

typedef struct TopicAsk
{
	bool		all;			/* every topic of the cluster, else those named */
	int			count;
	TopicAnswer *topics;
	rd_kafka_resp_err_t err;
} TopicAsk;

/* A question about the ends of partitions. */
typedef struct EndAnswer
{
	char	   *topic;
	int32_t		partition;
	int64_t		low;
	int64_t		high;
} EndAnswer;

typedef struct EndAsk
{
	int			count;
	EndAnswer  *ends;
	rd_kafka_resp_err_t err;
} EndAsk;

static void
topic_ask_free(void *arg)
{
	TopicAsk   *ask = arg;

	for (int i = 0; i < ask->count; i++)
		free(ask->topics[i].name);
	free(ask->topics);
	free(ask);
}

static void
end_ask_free(void *arg)
{
	EndAsk	   *ask = arg;

	for (int i = 0; i < ask->count; i++)
		free(ask->ends[i].topic);
	free(ask->ends);
	free(ask);
}

/* Asks for one named topic, or for all. Runs on its own thread. */
static void
topic_ask_run(rd_kafka_t *rk, void *arg)
{
	TopicAsk   *ask = arg;
	const struct rd_kafka_metadata *md;

	if (ask->all)
	{
		ask->err = rd_kafka_metadata(rk, 1, NULL, &md, ASK_TIMEOUT_MS);
		if (ask->err)
			return;
		ask->topics = calloc(md->topic_cnt + 1, sizeof(TopicAnswer));
		for (int i = 0; ask->topics != NULL && i < md->topic_cnt; i++)
		{
			char	   *name = strdup(md->topics[i].topic);

			if (name == NULL)
				break;
			ask->topics[ask->count].name = name;
			ask->topics[ask->count++].partitions = md->topics[i].partition_cnt;
		}
		rd_kafka_metadata_destroy(md);
		return;
	}
	for (int i = 0; i < ask->count && !ask->err; i++)
	{
		rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, ask->topics[i].name, NULL);

		if (topic == NULL)
		{
			ask->err = rd_kafka_last_error();
			return;
		}
		ask->err = rd_kafka_metadata(rk, 0, topic, &md, ASK_TIMEOUT_MS);
		rd_kafka_topic_destroy(topic);
		if (ask->err)
			return;
		if (md->topic_cnt == 1)
		{
			ask->topics[i].partitions = md->topics[0].partition_cnt;
			/* not to be read at all is another matter than not to be there */
			if (md->topics[0].err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
				ask->err = md->topics[0].err;
		}
		rd_kafka_metadata_destroy(md);
	}
}

/* Asks for the ends of partitions, one after the other. Runs on its own thread. */
static void
end_ask_run(rd_kafka_t *rk, void *arg)
{
	EndAsk	   *ask = arg;

	for (int i = 0; i < ask->count && !ask->err; i++)
		ask->err = rd_kafka_query_watermark_offsets(rk, ask->ends[i].topic, ask->ends[i].partition,
													&ask->ends[i].low, &ask->ends[i].high, ASK_TIMEOUT_MS);
}

/* See consumer.h. */
void
ks_consumer_note_failure(KsConsumer *c, rd_kafka_resp_err_t err)
{
	char		text[KS_ERROR_SIZE];

	ks_client_note_error(c->client, err, c->asker->last_error[0] ? c->asker->last_error : rd_kafka_err2str(err));
	c->asker->last_error[0] = '\0';
	c->connected = false;
	snprintf(text, sizeof(text), "Kafka: %s", c->client->last_error);
	ks_worker_note_error(text);
}

/* malloc, or ERROR. */
static void *
allocate(Size size)
{
	void	   *p = calloc(1, size);

	if (p == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	return p;
}

/* Asks which topics there are; NULL: Kafka does not answer. Sets c->missing. */
static TopicAsk *
ask_topics(KsConsumer *c)
{
	const KsSubscription *s = c->subscription;
	TopicAsk   *ask = allocate(sizeof(TopicAsk));

	for (int i = 0; i < s->ntopics; i++)
		if (s->topics[i][0] == '^')
			ask->all = true;
	if (!ask->all)
	{
		ask->topics = allocate(sizeof(TopicAnswer) * (s->ntopics + 1));
		for (int i = 0; i < s->ntopics; i++)
		{
			ask->topics[i].name = strdup(s->topics[i]);
			if (ask->topics[i].name == NULL)
				ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
			ask->count++;
		}
	}
	ks_client_call(c->asker, topic_ask_run, topic_ask_free, ask, "KafkaMetadata");
	if (ask->err)
	{
		ks_consumer_note_failure(c, ask->err);
		topic_ask_free(ask);
		return NULL;
	}

	c->missing[0] = '\0';
	for (int i = 0; i < s->ntopics; i++)
	{
		bool		found = s->topics[i][0] == '^';

		for (int j = 0; j < ask->count && !found; j++)
			found = ask->topics[j].partitions > 0 && strcmp(ask->topics[j].name, s->topics[i]) == 0;
		if (!found)
			strlcpy(c->missing, s->topics[i], sizeof(c->missing));
	}
	return ask;
}

/*
 * Has the reading handle learn who leads the partitions that it is about to get.  It would find out by itself, but looks
 * for leaders only once a second.  What it is answered does not matter.
 */
static void
learn_leaders(KsConsumer *c)
{
	KsOffsets  *offsets = c->offsets;
	TopicAsk   *ask = allocate(sizeof(TopicAsk));

	ask->topics = allocate(sizeof(TopicAnswer) * (offsets->count + 1));
	for (int i = 0; i < offsets->count; i++)
	{
		KsOffset   *o = offsets->items[i];
		bool		listed = !o->exists || o->assigned;

		for (int j = 0; j < ask->count && !listed; j++)
			listed = strcmp(ask->topics[j].name, o->topic) == 0;
		if (listed)
			continue;
		ask->topics[ask->count].name = strdup(o->topic);
		if (ask->topics[ask->count].name == NULL)
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		ask->count++;
	}
	if (ask->count > 0)
		ks_client_call(c->client, topic_ask_run, topic_ask_free, ask, "KafkaMetadata");
	topic_ask_free(ask);
}

/* Asks for the ends of the partitions of offsets that are marked "exists" and not verified. False: no answer. */
static bool
ask_ends(KsConsumer *c)
{
	KsOffsets  *offsets = c->offsets;
	EndAsk	   *ask = allocate(sizeof(EndAsk));
	TimestampTz asked_at = GetCurrentTimestamp();

	ask->ends = allocate(sizeof(EndAnswer) * (offsets->count + 1));
	for (int i = 0; i < offsets->count; i++)
	{
		KsOffset   *o = offsets->items[i];

		if (!o->exists || o->verified)
			continue;
		ask->ends[ask->count].topic = strdup(o->topic);
		if (ask->ends[ask->count].topic == NULL)
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		ask->ends[ask->count++].partition = o->partition;
	}
	ks_client_call(c->asker, end_ask_run, end_ask_free, ask, "KafkaMetadata");
	if (ask->err)
	{
		ks_consumer_note_failure(c, ask->err);
		end_ask_free(ask);
		return false;
	}
	for (int i = 0; i < ask->count; i++)
	{
		KsOffset   *o = ks_offsets_find(offsets, ask->ends[i].topic, ask->ends[i].partition);

		o->low = ask->ends[i].low;
		o->high = ask->ends[i].high;
		o->shorter = 0;
		ks_offset_note_answer(o, o->high, asked_at);
	}
	end_ask_free(ask);
	return true;
}

/* Low watermark of one partition, -1 if Kafka does not say. */
static int64
ask_low(KsConsumer *c, const char *topic, int32 partition)
{
	EndAsk	   *ask = allocate(sizeof(EndAsk));
	int64		low;

	ask->ends = allocate(sizeof(EndAnswer));
	ask->ends[0].topic = strdup(topic);
	ask->ends[0].partition = partition;
	ask->count = 1;
	if (ask->ends[0].topic == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	ks_client_call(c->asker, end_ask_run, end_ask_free, ask, "KafkaMetadata");
	low = ask->err ? -1 : ask->ends[0].low;
	if (ask->err)
		ks_consumer_note_failure(c, ask->err);
	end_ask_free(ask);
	return low;
}

/* Compares the record at last_offset, now in the log, with the one that was applied. */
static void
check_record(KsConsumer *c, KsOffset *o, const rd_kafka_message_t *rkm)
{
	rd_kafka_timestamp_type_t kind;

	if (o->last_offset < 0)
	{
		/* the record before a position that was given: from now on it tells the topic from another one */
		if (rkm->offset == o->stored - 1)
		{
			o->last_offset = rkm->offset;
			o->last_timestamp_ms = rd_kafka_message_timestamp(rkm, &kind);
			o->last_checksum = ks_message_checksum(rkm->key, rkm->key_len, rkm->payload, rkm->len);
			o->note = true;
		}
		return;
	}
	if (rkm->offset != o->last_offset)
		return;					/* compacted away */
	if (rd_kafka_message_timestamp(rkm, &kind) != o->last_timestamp_ms ||
		ks_message_checksum(rkm->key, rkm->key_len, rkm->payload, rkm->len) != o->last_checksum)
		ks_consumer_gap(c, o, "the topic is not the one that was read before; it seems to have been deleted and created again");
}

/* Takes one event while records are checked. */
static void
check_event(KsConsumer *c, rd_kafka_event_t *event, int *left)
{
	rd_kafka_event_type_t type = rd_kafka_event_type(event);
	KsOffset   *o = NULL;

	if (type == RD_KAFKA_EVENT_FETCH)
	{
		const rd_kafka_message_t *rkm = rd_kafka_event_message_next(event);

		o = rkm == NULL ? NULL : ks_offsets_find(c->offsets, rd_kafka_topic_name(rkm->rkt), rkm->partition);
		if (o && !o->verified && o->exists)
			check_record(c, o, rkm);
	}
	else if (type == RD_KAFKA_EVENT_ERROR && (rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__PARTITION_EOF ||
											  rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET))
	{
		rd_kafka_topic_partition_t *tp = rd_kafka_event_topic_partition(event);

		if (tp)
		{
			o = ks_offsets_find(c->offsets, tp->topic, tp->partition);
			rd_kafka_topic_partition_destroy(tp);
		}
	}
	else
		ks_consumer_handle_event(c, event);

	if (o && o->exists && !o->verified)
	{
		o->verified = true;
		(*left)--;
	}
}

/* What was just found in the log is what it is known by from now on. */
static void
set_anchors(KsOffsets *offsets)
{
	for (int i = 0; i < offsets->count; i++)
		if (offsets->items[i]->verified && offsets->items[i]->last_offset >= 0 && offsets->items[i]->anchor_offset < 0)
			ks_offset_anchor(offsets->items[i]);
}

/* Offset of the record that a partition is known by, -1 if there is none. */
static int64
to_compare(const KsOffset *o)
{
	return o->last_offset >= 0 ? o->last_offset : o->stored - 1;
}

/*
 * Where to begin reading a partition again: where it was begun at first, but at the beginning of a log that is another
 * one, or, if that was accepted, that has lost more.
 */
static void
find_beginning(KsConsumer *c, KsOffset *o)
{
	if (o->stored < o->low ? c->lenient : o->stored > o->high && (c->lenient || o->low == 0))
		ks_offsets_move(c->offsets, o, o->low);
}

/*
 * Holds the stored position of every partition that is not verified against the log.  Nothing is assigned meanwhile.
 * False: no answer.
 */
static bool
verify(KsConsumer *c)
{
	KsOffsets  *offsets = c->offsets;
	rd_kafka_topic_partition_list_t *list;
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CHECK_TIMEOUT_MS);
	int			left = 0;

	if (!ask_ends(c))
		return false;
	for (int i = 0; i < offsets->count; i++)
	{
		KsOffset   *o = offsets->items[i];

		if (!o->exists || o->verified)
			continue;
		/* there is nothing to tell by whether what is at hand is of this topic */
		if (o->last_offset < 0 && o->read > o->stored)
			ks_consumer_begin_anew(c, o);
		if (c->rebuild && o->last_offset < 0)
			find_beginning(c, o);
		if (o->stored < o->low)
			ks_consumer_gap(c, o, psprintf("the log begins at offset " INT64_FORMAT " only", o->low));
		if (o->stored > o->high)
			ks_consumer_gap(c, o, psprintf("the log ends at offset " INT64_FORMAT " already; the topic seems to have been "
										   "deleted and created again", o->high));
		ks_gaps_check_id(c, o);
		if (to_compare(o) < o->low || to_compare(o) >= o->high)
			o->verified = true; /* nothing to compare with */
		else
			left++;
	}
	if (left == 0)
	{
		set_anchors(offsets);
		return true;
	}

	list = rd_kafka_topic_partition_list_new(left);
	for (int i = 0; i < offsets->count; i++)
	{
		KsOffset   *o = offsets->items[i];

		o->assigned = false;
		if (o->exists && !o->verified)
			rd_kafka_topic_partition_list_add(list, o->topic, o->partition)->offset = to_compare(o);
	}
	rd_kafka_assign(c->client->rk, list);
	rd_kafka_topic_partition_list_destroy(list);
	while (left > 0 && GetCurrentTimestamp() < until)
	{
		rd_kafka_event_t *event = rd_kafka_queue_poll(c->client->queue, 0);

		if (event == NULL)
		{
			ks_client_wait(c->client, 500, "KafkaCheck");
			ks_client_drain_log(c->client);
			continue;
		}
		c->event = event;
		check_event(c, event, &left);
		ks_consumer_event_done(c);
	}
	rd_kafka_assign(c->client->rk, NULL);
	set_anchors(offsets);
	return left == 0;
}

/* A partition that was read has gone. That is how topics end, but not before all of it is read. */
static void
note_gone(KsOffset *o)
{
	int64		end = Max(Max(o->high, o->stable), o->elsewhere);

	o->lost = o->high < 0 || end > o->stored;
	ereport(o->lost ? WARNING : LOG,
			(errmsg("topic \"%s\", partition %d does not exist any more", o->topic, o->partition),
			 o->lost ? errdetail("It was read up to offset " INT64_FORMAT ", and ended at " INT64_FORMAT ".",
								 o->stored, end) : 0));
}

/* Shows in kafka.problems that topics have gone before they were read to their end. */
static void
show_lost(const KsOffsets *offsets)
{
	char		text[KS_DETAIL_SIZE] = "";

	for (int i = 0; i < offsets->count && text[0] == '\0'; i++)
		if (offsets->items[i]->lost)
			snprintf(text, sizeof(text), "topic \"%.100s\", partition %d has gone with messages that were not read",
					 offsets->items[i]->topic, offsets->items[i]->partition);
	ks_worker_set_problem(KS_PROBLEM_GONE, text[0] ? text : NULL);
}

/* Marks what exists; adds what is new.  Sets *changed if the assignment must change.  False: no answer. */
static bool
compare(KsConsumer *c, const TopicAsk *ask, bool *changed)
{
	KsOffsets  *offsets = c->offsets;
	bool	   *busy = palloc0(sizeof(bool) * offsets->workers);
	int			partitions = 0;

	for (int i = 0; i < offsets->count; i++)
		offsets->items[i]->exists = false;
	for (int i = 0; i < ask->count; i++)
	{
		const TopicAnswer *t = &ask->topics[i];

		if (t->partitions <= 0 || !ks_reads_topic(c->subscription->topics, c->subscription->ntopics, t->name))
			continue;
		for (int32 p = 0; p < t->partitions; p++)
		{
			KsOffset   *o;

			if (!ks_partition_selected(c->subscription->options->text_value[KS_OPT_PARTITIONS], p))
				continue;
			partitions++;
			busy[ks_partition_worker(t->name, p, offsets->workers)] = true;
			if (ks_partition_worker(t->name, p, offsets->workers) != offsets->ordinal)
				continue;
			o = ks_offsets_find(offsets, t->name, p);
			if (o == NULL)
			{
				int64		low = ask_low(c, t->name, p);

				if (low < 0)
					return false;
				o = ks_offsets_add(offsets, t->name, p, low);
			}
			o->exists = true;
		}
	}
	c->partitions = partitions;
	c->busy_workers = 0;
	for (int i = 0; i < offsets->workers; i++)
		c->busy_workers += busy[i] ? 1 : 0;
	c->busy_workers = Max(c->busy_workers, 1);
	pfree(busy);
	for (int i = 0; i < offsets->count; i++)
	{
		KsOffset   *o = offsets->items[i];

		o->gone = !o->exists;
		if (!o->exists)
			o->verified = false;
		if (o->exists)
			o->lost = false;
		else if (o->assigned && !o->lost)
			note_gone(o);
		if (o->exists != o->assigned || (o->exists && !o->verified))
			*changed = true;
	}
	show_lost(offsets);
	return true;
}

/* See consumer.h. */
bool
ks_consumer_assign(KsConsumer *c)
{
	KsOffsets  *offsets = c->offsets;
	TimestampTz now = GetCurrentTimestamp();
	TopicAsk   *ask;
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t err;
	bool		changed = false;
	bool		answered;

	c->next_assign = TimestampTzPlusMilliseconds(now, DISCOVER_AGAIN_MS);
	ask = ask_topics(c);
	if (ask == NULL)
		return false;
	answered = compare(c, ask, &changed);	/* should it fail, the process ends, and "ask" with it */
	topic_ask_free(ask);
	if (!answered)
		return false;
	if (!ks_gaps_ask(c, &changed))
		return false;
	if (changed)
	{
		learn_leaders(c);
		if (!verify(c))
			return false;
	}
	ks_gaps_check_ends(c);
	ks_gaps_check_read(c);
	ks_gaps_check_anchors(c);
	if (c->missing[0] == '\0')
		c->next_assign = TimestampTzPlusMilliseconds(now, DISCOVER_EVERY_MS);
	c->connected = true;
	c->stale = false;
	if (offsets->count == 0)
		c->fresh_ends = true;	/* a worker without partitions is up to date */
	if (!changed)
		return true;

	list = rd_kafka_topic_partition_list_new(Max(offsets->count, 1));
	for (int i = 0; i < offsets->count; i++)
	{
		KsOffset   *o = offsets->items[i];

		o->assigned = o->exists;
		if (o->assigned)
			rd_kafka_topic_partition_list_add(list, o->topic, o->partition)->offset = o->read;
		else
			o->high = o->stable = -1;
	}
	err = rd_kafka_assign(c->client->rk, list);
	rd_kafka_topic_partition_list_destroy(list);
	if (err)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("subscription \"%s\": could not assign partitions: %s",
						NameStr(c->subscription->name), rd_kafka_err2str(err))));
	return true;
}
