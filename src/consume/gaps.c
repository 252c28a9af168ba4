/*
 * gaps.c: never a silent gap.  What else than a position outside of the log shows that messages cannot be read any more:
 *
 * - The topic has another id than the one that was read: it was deleted and created again.  librdkafka before 2.3 tells no
 *   ids: then the record that was applied (or passed) last must still be the same one, at every assignment (assign.c) and,
 *   for partitions that move, now and then while they are read: a new topic that grew beyond our position within moments
 *   raises no other sign.
 * - A compacted partition was not read to its end for longer than delete.retention.ms.  A tombstone that was written after
 *   its end was last seen may have come and gone since, and the row of its key would stay for ever.  read_at is the time
 *   up to which everything in the log was read; the table has it a little late, so that an idle subscription rarely writes.
 *   Ends are asked for, on a thread: what librdkafka says unasked (statistics, ends of partitions) tells nothing of when it
 *   was so; it goes on saying it while no broker answers.
 *
 * A rebuild is the way out of both, and is checked likewise: it counts as having read the log to its end when it began,
 * since then there was nothing that a delete could have been missed for.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "compat/pg_compat.h"
#include "consume/consumer.h"
#include "consume/problems.h"
#include "consume/topic_facts.h"
#include "control/definitions.h"
#include "control/rebuild_sql.h"
#include "control/foreign_table.h"
#include "control/worker.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define CONFIGS_EVERY_MS (10 * 60 * 1000)
/* shorter times of retention cannot be told from a restart of the worker */
#define RETENTION_MIN_MS 60000
#define ANCHORS_AT_ONCE 64
#define ENDS_EVERY_MS (10 * 60 * 1000)	/* where a topic is not compacted: it may become so */

/* Are the positions those of the subscription itself? */
static bool
is_live(const KsConsumer *c)
{
	return strcmp(c->offsets->table, KS_LIVE_POSITIONS) == 0;
}

/* Is one of the targets a foreign table, which cannot be read again? */
static bool
has_foreign_target(const KsSubscription *s)
{
	bool		found = false;
	bool		own = !IsTransactionState();
	MemoryContext old = CurrentMemoryContext;
	ListCell   *lc;

	if (own)
		StartTransactionCommand();
	foreach(lc, s->targets)
		found = found || ks_table_kind(((KsTarget *) lfirst(lc))->relid) != KS_TABLE_LOCAL;
	if (own)
		CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	return found;
}

/*
 * Option "on_gap": has all targets read again from what the log holds, instead of ending with an error.  Returns where
 * that is not wanted or not possible; else the worker begins anew with the rebuild.
 */
static void
ks_on_gap(const KsConsumer *c, const KsOffset *o, const char *reason)
{
	const KsSubscription *s = c->subscription;

	if (!is_live(c) || strcmp(s->options->text_value[KS_OPT_ON_GAP], "rebuild") != 0 || has_foreign_target(s))
		return;
	if (IsTransactionState())
		AbortOutOfAnyTransaction();
	StartTransactionCommand();
	ks_subscription_lock(s->id, true);
	PushActiveSnapshot(GetTransactionSnapshot());
	/* another worker of the subscription may have asked for it already */
	if (!ks_rebuild_pending(s->id, true))
	{
		Oid			types[1] = {INT8OID};
		Datum		values[1] = {Int64GetDatum(s->id)};

		ks_rebuild_request(s->id, InvalidOid, "rebuild", true);
		(void) ks_catalog_execute("UPDATE kafka.subscription_position SET read_at = NULL, topic_id = NULL, "
								  "last_offset = NULL, last_timestamp = NULL, last_checksum = NULL, anchor_offset = NULL "
								  "WHERE subscription_id = $1", 1, types, values, NULL);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	ereport(LOG,
			(errmsg("subscription \"%s\": topic \"%s\", partition %d cannot be read on at offset " INT64_FORMAT ": %s",
					NameStr(s->name), o->topic, o->partition, o->stored, reason),
			 errdetail("Its targets are rebuilt from what the log holds (option \"on_gap\").")));
	ks_my_worker->restart_now = true;
	proc_exit(0);
}

/* See consumer.h. */
void
ks_consumer_gap(const KsConsumer *c, const KsOffset *o, const char *reason)
{
	ks_on_gap(c, o, reason);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("subscription \"%s\": topic \"%s\", partition %d cannot be read on at offset " INT64_FORMAT ": %s",
					NameStr(c->subscription->name), o->topic, o->partition, o->stored, reason),
			 c->rebuild ?
			 errhint("Read again what is left with kafka.rebuild_subscription(%s, force => true).",
					 quote_literal_cstr(NameStr(c->subscription->name))) :
			 errhint("Messages may have been lost. Rebuild all targets from what the log holds with "
					 "kafka.rebuild_subscription(%s, force => true), or go on elsewhere with kafka.seek_subscription().",
					 quote_literal_cstr(NameStr(c->subscription->name)))));
}

/* See consumer.h. */
void
ks_consumer_begin_anew(const KsConsumer *c, const KsOffset *o)
{
	ereport(LOG,
			(errmsg("subscription \"%s\": topic \"%s\", partition %d may have been deleted and created again before anything of "
					"it was applied: it is read from offset " INT64_FORMAT " again",
					NameStr(c->subscription->name), o->topic, o->partition, o->stored)));
	ks_my_worker->restart_now = true;
	proc_exit(0);
}

/* Does it matter to any target that a key was deleted? */
static bool
needs_tombstones(const KsSubscription *s)
{
	ListCell   *lc;

	foreach(lc, s->targets)
		if (strcmp(((KsTarget *) lfirst(lc))->mode, "upsert") == 0)
			return true;
	return false;
}

/* Takes what was learned about a partition's topic. */
static void
take_fact(KsConsumer *c, KsOffset *o, const KsTopicFact *fact, bool configs)
{
	if (fact->id[0] != '\0')
	{
		if (o->topic_id[0] == '\0')
		{
			strlcpy(o->topic_id, fact->id, sizeof(o->topic_id));
			o->note = true;
		}
		else if (strcmp(o->topic_id, fact->id) != 0)
		{
			strlcpy(o->new_topic_id, fact->id, sizeof(o->new_topic_id));
			o->verified = false;
		}
	}
	if (configs)
		o->retention_ms = !fact->config_known ? -1 : !fact->compact ? 0 : Max(fact->delete_retention_ms, 1);
}

/* A line in kafka.problems about what cannot be relied on. */
static void
show_retention_problems(KsConsumer *c)
{
	char		text[KS_DETAIL_SIZE] = "";

	for (int i = 0; i < c->offsets->count && text[0] == '\0'; i++)
	{
		KsOffset   *o = c->offsets->items[i];

		if (!o->exists)
			continue;
		if (o->retention_ms < 0)
			snprintf(text, sizeof(text), "the configuration of topic \"%.100s\" is not ours to see: deletes that were missed "
					 "while it was not read are not noticed (describe_configs)", o->topic);
		else if (o->retention_ms > 0 && o->retention_ms < RETENTION_MIN_MS)
			snprintf(text, sizeof(text), "delete.retention.ms of topic \"%.100s\" is less than a minute: deletes can be missed",
					 o->topic);
	}
	ks_worker_set_problem(KS_PROBLEM_RETENTION, text[0] ? text : NULL);
}

/* See consumer.h. */
bool
ks_gaps_ask(KsConsumer *c, bool *changed)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		configs = needs_tombstones(c->subscription) && (*changed || now >= c->next_configs);
	KsTopicFacts *facts;
	bool		answered;

	if (c->offsets->count == 0 || (!configs && !ks_topic_ids_known()))
		return true;
	facts = ks_topic_facts_create(c->offsets->count);
	for (int i = 0; facts != NULL && i < c->offsets->count; i++)
		if (c->offsets->items[i]->exists && !ks_topic_facts_add(facts, c->offsets->items[i]->topic))
		{
			ks_topic_facts_free(facts);
			facts = NULL;
		}
	if (facts == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	facts->want_ids = ks_topic_ids_known();
	facts->want_configs = configs;
	ks_client_call(c->asker, ks_topic_facts_run, ks_topic_facts_free, facts, "KafkaMetadata");
	answered = !facts->err;
	if (!answered)
		ks_consumer_note_failure(c, facts->err);
	for (int i = 0; answered && i < c->offsets->count; i++)
	{
		KsOffset   *o = c->offsets->items[i];
		const KsTopicFact *fact = o->exists ? ks_topic_facts_find(facts, o->topic) : NULL;

		if (fact)
			take_fact(c, o, fact, configs);
		if (o->exists && !o->verified)
			*changed = true;
	}
	ks_topic_facts_free(facts);
	if (answered && configs)
	{
		c->next_configs = TimestampTzPlusMilliseconds(now, CONFIGS_EVERY_MS);
		show_retention_problems(c);
	}
	return answered;
}

/* See consumer.h. */
void
ks_gaps_check_id(KsConsumer *c, KsOffset *o)
{
	if (o->new_topic_id[0] == '\0')
		return;
	/* nothing was read of the former one, and nothing is missing of this one */
	if (o->last_offset >= 0 || o->stored > o->low)
		ks_consumer_gap(c, o, "the topic was deleted and created again");
	strlcpy(o->topic_id, o->new_topic_id, sizeof(o->topic_id));
	o->new_topic_id[0] = '\0';
	o->note = true;
}

/* See consumer.h. */
void
ks_gaps_check_unread(KsConsumer *c, const KsOffset *o, TimestampTz now)
{
	if (o->retention_ms <= 0 || o->read_at == 0 ||
		!TimestampDifferenceExceeds(o->read_at, now, (int) Min(Max(o->retention_ms, RETENTION_MIN_MS), PG_INT32_MAX)))
		return;
	ks_consumer_gap(c, o, psprintf("it was last read to its end at %s, longer ago than delete.retention.ms (" INT64_FORMAT
								   "): compaction may have removed deletes since; the log ends at offset " INT64_FORMAT,
								   timestamptz_to_str(o->read_at), o->retention_ms, Max(o->stable, o->high)));
}

/* See consumer.h. */
void
ks_gaps_check_read(KsConsumer *c)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		notes = false;

	for (int i = 0; i < c->offsets->count; i++)
	{
		KsOffset   *o = c->offsets->items[i];
		int64		end = o->stable >= 0 ? o->stable : o->high;

		if (!o->exists || end < 0)
			continue;
		if (o->retention_ms > 0)
		{
			int64		limit = Max(o->retention_ms, RETENTION_MIN_MS);

			if (o->read_at == 0)
				o->read_at = now;	/* it begins */
			else if (o->stored < end || o->read > o->stored)
				ks_gaps_check_unread(c, o, now);
			if (TimestampDifferenceExceeds(o->read_at_noted, o->read_at, Min(limit / 8, PG_INT32_MAX)))
				o->note = true;
		}
		notes = notes || o->note;
	}
	if (notes && is_live(c))
		ks_offsets_note(c->offsets);
}

/* Is it time to ask again where a partition's log ends? */
static bool
end_is_due(const KsOffset *o, TimestampTz now)
{
	int64		every = o->retention_ms > 0 ? Max(o->retention_ms, RETENTION_MIN_MS) / 8 : ENDS_EVERY_MS;

	return o->assigned && o->verified && TimestampDifferenceExceeds(o->read_at, now, (int) Min(every, PG_INT32_MAX));
}

/* See consumer.h. */
void
ks_gaps_check_ends(KsConsumer *c)
{
	KsRecordAsks *asks = c->ends;
	TimestampTz now = GetCurrentTimestamp();

	if (asks != NULL)
	{
		if (!ks_record_asks_done(asks))
			return;
		c->ends = NULL;
		for (int i = 0; i < asks->count; i++)
		{
			KsOffset   *o = asks->asks[i].answered ? ks_offsets_find(c->offsets, asks->asks[i].topic, asks->asks[i].partition) : NULL;

			/* who lags comes to a former end sooner */
			if (o && o->assigned && o->verified && (o->read_at >= o->asked_at || asks->asks[i].offset < o->asked_high))
				ks_offset_note_answer(o, asks->asks[i].offset, c->ends_at);
		}
		ks_record_asks_free(asks);
	}
	asks = ks_record_asks_create(c->offsets->count);
	for (int i = 0; asks != NULL && i < c->offsets->count; i++)
	{
		KsOffset   *o = c->offsets->items[i];

		if (end_is_due(o, now) && !ks_record_asks_add(asks, o->topic, o->partition, -1))
		{
			ks_record_asks_free(asks);
			asks = NULL;
		}
	}
	if (asks == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	if (asks->count == 0)
	{
		ks_record_asks_free(asks);
		return;
	}
	c->ends = asks;
	c->ends_at = now;
	ks_client_start(c->asker, ks_record_asks_run_ends, ks_record_asks_release, asks);
}

/* Takes the answers about anchors. */
static void
take_anchors(KsConsumer *c, const KsRecordAsks *asks)
{
	for (int i = 0; i < asks->count; i++)
	{
		const KsRecordAsk *ask = &asks->asks[i];
		KsOffset   *o = ks_offsets_find(c->offsets, ask->topic, ask->partition);

		if (!o->verified || o->anchor_offset != ask->offset)
			continue;			/* what there was to be said about it was said */
		if (!ask->answered)
			continue;			/* what has come since may be of another topic: it must not take the anchor's place */
		if (ask->found && (ask->timestamp_ms != o->anchor_timestamp_ms ||
						   ks_message_checksum(ask->key, ask->key_size, ask->value, ask->value_size) != o->anchor_checksum))
		{
			if (o->last_offset < 0)
				ks_consumer_begin_anew(c, o);
			/* what was applied since is of the new topic: who comes after us must not compare with that */
			o->last_offset = o->anchor_offset;
			o->last_timestamp_ms = o->anchor_timestamp_ms;
			o->last_checksum = o->anchor_checksum;
			o->note = true;
			ks_offsets_note(c->offsets);
			ks_consumer_gap(c, o, psprintf("the record at offset " INT64_FORMAT " is not the one that was read; the topic "
										   "seems to have been deleted and created again while it was read", ask->offset));
		}
		if (o->anchor_next.offset < 0)
			continue;			/* nothing was applied yet */
		/* it was still the same topic when what came next had been read already */
		o->anchor_offset = o->anchor_next.offset;
		o->anchor_timestamp_ms = o->anchor_next.timestamp_ms;
		o->anchor_checksum = o->anchor_next.checksum;
	}
}

/* See consumer.h. */
void
ks_gaps_check_anchors(KsConsumer *c)
{
	KsRecordAsks *asks = c->anchors;
	int			count = Min(c->offsets->count, ANCHORS_AT_ONCE);

	if (!is_live(c) || ks_topic_ids_known())
		return;
	if (asks != NULL)
	{
		if (!ks_record_asks_done(asks))
			return;
		c->anchors = NULL;
		take_anchors(c, asks);
		ks_record_asks_free(asks);
	}
	asks = ks_record_asks_create(count);
	for (int i = 0; asks != NULL && i < count; i++)
	{
		KsOffset   *o = c->offsets->items[(c->next_anchor + i) % c->offsets->count];

		if (!o->assigned || !o->verified || o->anchor_offset < 0)
			continue;
		o->anchor_next.offset = o->last_offset;
		o->anchor_next.timestamp_ms = o->last_timestamp_ms;
		o->anchor_next.checksum = o->last_checksum;
		if (!ks_record_asks_add(asks, o->topic, o->partition, o->anchor_offset))
		{
			ks_record_asks_free(asks);
			asks = NULL;
		}
	}
	if (asks == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	c->next_anchor = c->offsets->count > 0 ? (c->next_anchor + count) % c->offsets->count : 0;
	if (asks->count == 0)
	{
		ks_record_asks_free(asks);
		return;
	}
	c->anchors = asks;
	ks_client_start(c->asker, ks_record_asks_run, ks_record_asks_release, asks);
}
