/*
 * admin_describe.c: kafka.list_topics, describe_topic, topic_config.
 *
 * Offsets of all partitions are asked for at once, one request to each broker.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "kafka/admin.h"
#include "utils/array.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(ks_list_topics);
PG_FUNCTION_INFO_V1(ks_describe_topic);
PG_FUNCTION_INFO_V1(ks_topic_config);

/* How often topics that change while they are looked at are looked at again. */
#define CHANGED_TRIES 10

/* What list_topics shows of one topic. */
typedef struct TopicLine
{
	const rd_kafka_metadata_topic_t *topic;
	int64		messages;		/* -1 = not known */
} TopicLine;

/* Adds all partitions of a topic to a list. */
static void
add_partitions_of(rd_kafka_topic_partition_list_t *list, const rd_kafka_metadata_topic_t *topic)
{
	for (int i = 0; i < topic->partition_cnt; i++)
		rd_kafka_topic_partition_list_add(list, topic->topic, topic->partitions[i].id);
}

/* Have all partitions of a topic a leader? Without one nobody can say where they end. */
static bool
has_leaders(const rd_kafka_metadata_topic_t *topic)
{
	for (int i = 0; i < topic->partition_cnt; i++)
		if (topic->partitions[i].leader < 0)
			return false;
	return true;
}

/* Orders topics by name. */
static int
compare_lines(const void *a, const void *b)
{
	return strcmp(((const TopicLine *) a)->topic->topic, ((const TopicLine *) b)->topic->topic);
}

/* Sets values[i] to a config of this name, if it is known. */
static void
config_datum(const rd_kafka_ConfigResource_t *resource, const char *name, bool number, Datum *value, bool *isnull)
{
	const rd_kafka_ConfigEntry_t **entries;
	size_t		nentries;

	*isnull = true;
	if (resource == NULL || rd_kafka_ConfigResource_error(resource))
		return;
	entries = rd_kafka_ConfigResource_configs(resource, &nentries);
	for (size_t i = 0; i < nentries; i++)
	{
		const char *text = rd_kafka_ConfigEntry_value(entries[i]);

		if (strcmp(rd_kafka_ConfigEntry_name(entries[i]), name) != 0 || text == NULL)
			continue;
		*value = number ? Int64GetDatum((int64) strtoll(text, NULL, 10)) : ks_kafka_text(text);
		*isnull = false;
	}
}

/*
 * Fills in the messages of each topic: the sum of what lies between the ends of its partitions.  Returns false if the
 * topics have changed meanwhile, so that their offsets cannot be had.
 */
static bool
count_messages(KsAdmin *admin, TopicLine *lines, int nlines)
{
	rd_kafka_topic_partition_list_t *all = rd_kafka_topic_partition_list_new(nlines);
	rd_kafka_topic_partition_list_t *low;
	rd_kafka_topic_partition_list_t *high;
	int			at = 0;

	ks_admin_own(admin, all, (KsDestroy) rd_kafka_topic_partition_list_destroy);
	for (int i = 0; i < nlines; i++)
	{
		lines[i].messages = has_leaders(lines[i].topic) ? 0 : -1;
		if (lines[i].messages == 0)
			add_partitions_of(all, lines[i].topic);
	}
	low = ks_admin_try_offsets(admin, all, RD_KAFKA_OFFSET_BEGINNING);
	high = low ? ks_admin_try_offsets(admin, all, RD_KAFKA_OFFSET_END) : NULL;
	if (high == NULL)
		return false;
	for (int i = 0; i < nlines; i++)
	{
		if (lines[i].messages < 0)
			continue;
		for (int p = 0; p < lines[i].topic->partition_cnt; p++, at++)
		{
			if (low->elems[at].err || high->elems[at].err)
				return false;
			lines[i].messages += high->elems[at].offset - low->elems[at].offset;
		}
	}
	return true;
}

/* Reads the topics to list, by name, with their messages; *nlines is their number. */
static TopicLine *
read_lines(KsAdmin *admin, bool include_internal, int *nlines)
{
	for (int tries = 0;; tries++)
	{
		const rd_kafka_metadata_t *metadata = ks_admin_metadata(admin, NULL);
		TopicLine  *lines = palloc0(sizeof(TopicLine) * (metadata->topic_cnt + 1));
		int			n = 0;

		for (int i = 0; i < metadata->topic_cnt; i++)
		{
			const rd_kafka_metadata_topic_t *topic = &metadata->topics[i];

			if (topic->partition_cnt > 0 && (include_internal || strncmp(topic->topic, "__", 2) != 0))
				lines[n++].topic = topic;
		}
		qsort(lines, n, sizeof(TopicLine), compare_lines);
		*nlines = n;
		if (count_messages(admin, lines, n))
			return lines;
		if (tries == CHANGED_TRIES)
		{
			/* Rather all topics without these figures than none. */
			for (int i = 0; i < n; i++)
				lines[i].messages = -1;
			return lines;
		}
		ks_admin_pause(admin, 100);
	}
}

/* list_topics with a handle. */
static Datum
list_topics(KsAdmin *admin, FunctionCallInfo fcinfo)
{
	static const char *const names[] = {"cleanup.policy", "retention.ms"};
	int			n;
	TopicLine  *lines = read_lines(admin, !PG_ARGISNULL(1) && PG_GETARG_BOOL(1), &n);
	const char **topics = palloc0(sizeof(char *) * (n + 1));
	const rd_kafka_ConfigResource_t **configs;

	for (int i = 0; i < n; i++)
		topics[i] = lines[i].topic->topic;
	configs = ks_admin_configs(admin, topics, n, names, lengthof(names));

	for (int i = 0; i < n; i++)
	{
		Datum		values[6] = {0};
		bool		nulls[6] = {0};

		values[0] = ks_kafka_text(lines[i].topic->topic);
		values[1] = Int32GetDatum(lines[i].topic->partition_cnt);
		values[2] = Int32GetDatum(lines[i].topic->partitions[0].replica_cnt);
		values[3] = Int64GetDatum(lines[i].messages);
		nulls[3] = lines[i].messages < 0;
		config_datum(configs[i], names[0], false, &values[4], &nulls[4]);
		config_datum(configs[i], names[1], true, &values[5], &nulls[5]);
		ks_put_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

/* Takes a server and include_internal; returns a row per topic. */
Datum
ks_list_topics(PG_FUNCTION_ARGS)
{
	return ks_admin_run(fcinfo, list_topics);
}

/* Returns broker ids as int[]. */
static Datum
broker_array(const int32_t *ids, int n)
{
	Datum	   *datums = palloc(sizeof(Datum) * (n + 1));

	for (int i = 0; i < n; i++)
		datums[i] = Int32GetDatum(ids[i]);
	return PointerGetDatum(construct_array(datums, n, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

/* Orders partitions by number; Kafka lists them in any order. */
static int
compare_partitions(const void *a, const void *b)
{
	const rd_kafka_metadata_partition_t *left = *(const rd_kafka_metadata_partition_t *const *) a;
	const rd_kafka_metadata_partition_t *right = *(const rd_kafka_metadata_partition_t *const *) b;

	return (left->id > right->id) - (left->id < right->id);
}

/* describe_topic with a handle. */
static Datum
describe_topic(KsAdmin *admin, FunctionCallInfo fcinfo)
{
	const rd_kafka_metadata_topic_t *topic = ks_admin_topic(admin, ks_kafka_arg(fcinfo, 1, "topic"));
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(topic->partition_cnt);
	const rd_kafka_metadata_partition_t **partitions = palloc(sizeof(*partitions) * (topic->partition_cnt + 1));
	rd_kafka_topic_partition_list_t *low;
	rd_kafka_topic_partition_list_t *high;

	ks_admin_own(admin, list, (KsDestroy) rd_kafka_topic_partition_list_destroy);
	for (int i = 0; i < topic->partition_cnt; i++)
	{
		partitions[i] = &topic->partitions[i];
		if (partitions[i]->leader >= 0)
			rd_kafka_topic_partition_list_add(list, topic->topic, partitions[i]->id);
	}
	qsort(partitions, topic->partition_cnt, sizeof(*partitions), compare_partitions);
	low = ks_admin_offsets(admin, list, RD_KAFKA_OFFSET_BEGINNING);
	high = ks_admin_offsets(admin, list, RD_KAFKA_OFFSET_END);

	for (int i = 0; i < topic->partition_cnt; i++)
	{
		const rd_kafka_metadata_partition_t *partition = partitions[i];
		const rd_kafka_topic_partition_t *begin;
		const rd_kafka_topic_partition_t *end;
		Datum		values[6] = {0};
		bool		nulls[6] = {0};

		begin = rd_kafka_topic_partition_list_find(low, topic->topic, partition->id);
		end = rd_kafka_topic_partition_list_find(high, topic->topic, partition->id);
		values[0] = Int32GetDatum(partition->id);
		values[1] = Int32GetDatum(partition->leader);
		nulls[1] = partition->leader < 0;
		values[2] = broker_array(partition->replicas, partition->replica_cnt);
		values[3] = broker_array(partition->isrs, partition->isr_cnt);
		nulls[4] = begin == NULL;
		values[4] = Int64GetDatum(begin ? begin->offset : 0);
		nulls[5] = end == NULL;
		values[5] = Int64GetDatum(end ? end->offset : 0);
		ks_put_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

/* Takes a server and a topic; returns a row per partition. ERROR if there is no such topic. */
Datum
ks_describe_topic(PG_FUNCTION_ARGS)
{
	return ks_admin_run(fcinfo, describe_topic);
}

/* topic_config with a handle. */
static Datum
topic_config(KsAdmin *admin, FunctionCallInfo fcinfo)
{
	const char *topic = ks_kafka_arg(fcinfo, 1, "topic");
	const rd_kafka_ConfigResource_t *resource = ks_admin_configs(admin, &topic, 1, NULL, 0)[0];
	const rd_kafka_ConfigEntry_t **entries;
	size_t		nentries;

	if (resource == NULL)
		elog(ERROR, "no configs of topic \"%s\" in Kafka's answer", topic);
	if (rd_kafka_ConfigResource_error(resource) == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" does not exist on Kafka server \"%s\"", topic, admin->server->name)));
	if (rd_kafka_ConfigResource_error(resource))
		ks_kafka_error(admin, rd_kafka_ConfigResource_error(resource),
					   rd_kafka_ConfigResource_error_string(resource),
					   psprintf("read the configs of topic \"%s\"", topic));
	entries = rd_kafka_ConfigResource_configs(resource, &nentries);
	for (size_t i = 0; i < nentries; i++)
	{
		const char *value = rd_kafka_ConfigEntry_value(entries[i]);
		rd_kafka_ConfigSource_t source = rd_kafka_ConfigEntry_source(entries[i]);
		Datum		values[6] = {0};
		bool		nulls[6] = {0};

		values[0] = ks_kafka_text(rd_kafka_ConfigEntry_name(entries[i]));
		nulls[1] = value == NULL;
		if (value)
			values[1] = ks_kafka_text(value);
		values[2] = CStringGetTextDatum(rd_kafka_ConfigSource_name(source));
		values[3] = BoolGetDatum(source == RD_KAFKA_CONFIG_SOURCE_DEFAULT_CONFIG);
		values[4] = BoolGetDatum(rd_kafka_ConfigEntry_is_read_only(entries[i]) == 1);
		values[5] = BoolGetDatum(rd_kafka_ConfigEntry_is_sensitive(entries[i]) == 1);
		ks_put_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

/* Takes a server and a topic; returns a row per config. ERROR if there is no such topic. */
Datum
ks_topic_config(PG_FUNCTION_ARGS)
{
	return ks_admin_run(fcinfo, topic_config);
}
