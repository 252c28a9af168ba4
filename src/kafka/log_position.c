/*
 * log_position.c: where partitions begin and end, and the offsets that "start" stands for.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "compat/pg_compat.h"
#include "kafka/admin.h"
#include "kafka/log_position.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

typedef enum StartKind
{
	START_EARLIEST,
	START_LATEST,
	START_TIMESTAMP,
	START_OFFSETS
} StartKind;

/* What "start" says. */
typedef struct Start
{
	StartKind	kind;
	int64		timestamp_ms;	/* since the Unix epoch, not negative */
	Jsonb	   *offsets;
} Start;

/* ERROR: "start" is none. */
pg_noreturn static void start_error(const char *start, const char *detail);

static void
start_error(const char *start, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid start \"%s\"", start),
			 detail ? errdetail("%s", detail) : 0,
			 errhint("It must be earliest, latest, a timestamp, or offsets: {\"topic\": {\"0\": 123}}.")));
}

/* Reads a timestamp, in *start as milliseconds. ERROR if the text is none. */
static void
parse_timestamp(const char *text, Start *start)
{
	MemoryContext context = CurrentMemoryContext;
	volatile TimestampTz timestamp = 0;

	/* Whatever the error is, another takes its place: nothing goes on after it. */
	PG_TRY();
	{
		timestamp = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
															ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		start_error(text, psprintf("As a timestamp: %s.", error->message));
	}
	PG_END_TRY();

	if (TIMESTAMP_IS_NOBEGIN(timestamp))
		start->kind = START_EARLIEST;
	else if (TIMESTAMP_IS_NOEND(timestamp))
		start->kind = START_LATEST;
	else
	{
		int64		unix_us = timestamp + (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;

		/* Rounded up: a record of the millisecond before may be older than the timestamp. */
		start->kind = unix_us < 0 ? START_EARLIEST : START_TIMESTAMP;
		start->timestamp_ms = (unix_us + 999) / 1000;
	}
}

/* Returns a partition number as JSON's keys have it, or -1. */
static int32
parse_partition(const char *text)
{
	char	   *end;
	long		number;

	if (text[0] < '0' || text[0] > '9' || strlen(text) > 9)
		return -1;
	number = strtol(text, &end, 10);
	return *end == '\0' ? (int32) number : -1;
}

/* Reads "start"; the offsets' form is checked here, whether they exist later. ERROR if it is malformed. */
static Start
parse_start(const char *text)
{
	Start		start = {START_EARLIEST, 0, NULL};
	MemoryContext context = CurrentMemoryContext;

	if (strcmp(text, "earliest") == 0)
		return start;
	if (strcmp(text, "latest") == 0)
	{
		start.kind = START_LATEST;
		return start;
	}
	if (text[strspn(text, " \t\n")] != '{')
	{
		parse_timestamp(text, &start);
		return start;
	}
	start.kind = START_OFFSETS;
	PG_TRY();
	{
		start.offsets = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		start_error(text, psprintf("As JSON: %s.", error->message));
	}
	PG_END_TRY();
	return start;
}

/* Adds a partition to the result. */
static List *
add_position(List *positions, const char *topic, int32 partition)
{
	KsPartitionPosition *position = palloc0(sizeof(KsPartitionPosition));

	position->topic = pstrdup(topic);
	position->partition = partition;
	return lappend(positions, position);
}

/* Orders positions by topic and partition. */
static int
compare_positions(const ListCell *a, const ListCell *b)
{
	const KsPartitionPosition *left = lfirst(a);
	const KsPartitionPosition *right = lfirst(b);
	int			order = strcmp(left->topic, right->topic);

	return order ? order : (left->partition > right->partition) - (left->partition < right->partition);
}

/* Does a topic's name match a pattern? */
static bool
matches(const char *topic, const char *pattern)
{
	return DatumGetBool(DirectFunctionCall2Coll(textregexeq, C_COLLATION_OID, CStringGetTextDatum(topic),
												CStringGetTextDatum(pattern)));
}

bool
ks_topic_is_among(const char *topic, char **topics, int ntopics)
{
	for (int i = 0; i < ntopics; i++)
	{
		if (topics[i][0] == '^')
		{
			if (strncmp(topic, "__", 2) != 0 && matches(topic, topics[i]))
				return true;
		}
		else if (strcmp(topic, topics[i]) == 0)
			return true;
	}
	return false;
}

/* Returns the partitions of all wanted topics. ERROR for a named topic that cannot be read, or (unless missing_ok) is not there. */
static List *
find_partitions(KsAdmin *admin, char **topics, int ntopics, bool missing_ok)
{
	List	   *positions = NIL;
	bool		patterns = false;

	for (int i = 0; i < ntopics; i++)
	{
		const rd_kafka_metadata_t *metadata;
		const rd_kafka_metadata_topic_t *topic;
		rd_kafka_resp_err_t err;

		if (topics[i][0] == '^')
		{
			patterns = true;
			continue;
		}
		metadata = ks_admin_metadata(admin, topics[i]);
		topic = metadata->topic_cnt == 1 ? &metadata->topics[0] : NULL;
		err = topic ? topic->err : RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
		if (missing_ok && (err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC))
			continue;
		if (err)
			topic = ks_admin_topic(admin, topics[i]);
		for (int p = 0; p < topic->partition_cnt; p++)
			positions = add_position(positions, topic->topic, topic->partitions[p].id);
	}
	if (patterns)
	{
		const rd_kafka_metadata_t *metadata = ks_admin_metadata(admin, NULL);

		for (int i = 0; i < metadata->topic_cnt; i++)
		{
			const rd_kafka_metadata_topic_t *topic = &metadata->topics[i];

			if (topic->err == 0 && ks_topic_is_among(topic->topic, topics, ntopics))
				for (int p = 0; p < topic->partition_cnt; p++)
					positions = add_position(positions, topic->topic, topic->partitions[p].id);
		}
	}
	list_sort(positions, compare_positions);
	return positions;
}

/* Removes what is there twice: a topic may be named and match a pattern. */
static List *
without_duplicates(List *positions)
{
	List	   *result = NIL;
	KsPartitionPosition *last = NULL;
	ListCell   *cell;

	foreach(cell, positions)
	{
		KsPartitionPosition *position = lfirst(cell);

		if (last == NULL || last->partition != position->partition || strcmp(last->topic, position->topic) != 0)
			result = lappend(result, position);
		last = position;
	}
	return result;
}

/* Returns the position of a partition, or NULL. */
static KsPartitionPosition *
find_position(List *positions, const char *topic, int32 partition)
{
	ListCell   *cell;

	foreach(cell, positions)
	{
		KsPartitionPosition *position = lfirst(cell);

		if (position->partition == partition && strcmp(position->topic, topic) == 0)
			return position;
	}
	return NULL;
}

/* Has the result a partition of this topic? */
static bool
has_topic(List *positions, const char *topic)
{
	return find_position(positions, topic, 0) != NULL;
}

/* Returns the offset of a partition in a list from ks_admin_offsets(). */
static int64
offset_in(const rd_kafka_topic_partition_list_t *list, const KsPartitionPosition *position)
{
	rd_kafka_topic_partition_t *found =
		rd_kafka_topic_partition_list_find(unconstify(rd_kafka_topic_partition_list_t *, list),
										   position->topic, position->partition);

	if (found == NULL)
		elog(ERROR, "no offset of topic \"%s\", partition %d in Kafka's answer", position->topic, (int) position->partition);
	return found->offset;
}

/* Returns the partitions as librdkafka's list, owned by admin. */
static rd_kafka_topic_partition_list_t *
partition_list(KsAdmin *admin, List *positions)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(list_length(positions));
	ListCell   *cell;

	ks_admin_own(admin, list, (KsDestroy) rd_kafka_topic_partition_list_destroy);
	foreach(cell, positions)
	{
		KsPartitionPosition *position = lfirst(cell);

		rd_kafka_topic_partition_list_add(list, position->topic, position->partition);
	}
	return list;
}

/*
 * Returns the end of a partition with open transactions counted: offsets between the last stable one and this one are
 * valid to start at.  A handle of its own, because isolation is the handle's; needed only for such offsets.
 */
static int64
high_watermark(const KsServer *server, KsPartitionPosition *position)
{
	KsAdmin    *admin = ks_admin_connect(server, "read_uncommitted");
	volatile int64 offset = 0;

	PG_TRY();
	{
		offset = offset_in(ks_admin_offsets(admin, partition_list(admin, list_make1(position)), RD_KAFKA_OFFSET_END),
						   position);
	}
	PG_FINALLY();
	{
		ks_admin_close(admin);
	}
	PG_END_TRY();
	return offset;
}

/* Sets one offset that "start" gives. ERROR if there is no such partition, or no such offset in it. */
static void
set_offset(const KsServer *server, List *positions, const char *start, const char *topic, const char *partition,
		   const JsonbValue *value)
{
	int32		number = parse_partition(partition);
	KsPartitionPosition *position = number < 0 ? NULL : find_position(positions, topic, number);
	char	   *text;
	int64		offset;
	char	   *end;

	if (position == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" has no partition \"%s\" to start at", topic, partition)));
	if (value->type != jbvNumeric)
		start_error(start, psprintf("The offset of topic \"%s\", partition %s must be a number.", topic, partition));
	text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
	errno = 0;
	offset = strtoll(text, &end, 10);
	if (*end != '\0' || errno != 0)
		start_error(start, psprintf("The offset of topic \"%s\", partition %s must be a whole number.", topic, partition));
	if (offset < position->low ||
		(offset > position->stable && offset > high_watermark(server, position)))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("offset %lld is outside of topic \"%s\", partition %d",
						(long long) offset, topic, (int) number),
				 errdetail("The partition begins at %lld and ends at %lld.",
						   (long long) position->low, (long long) position->stable)));
	position->offset = offset;
	position->named = true;
}

/* Sets the offsets that "start" gives; the other partitions keep their beginning. ERROR as set_offset. */
static void
set_offsets(const KsServer *server, List *positions, const char *start, Jsonb *offsets)
{
	JsonbIterator *topics = JsonbIteratorInit(&offsets->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *topic = NULL;

	while ((token = JsonbIteratorNext(&topics, &value, true)) != WJB_DONE)
	{
		JsonbIterator *partitions;
		char	   *partition = NULL;

		if (token == WJB_KEY)
		{
			topic = pnstrdup(value.val.string.val, value.val.string.len);
			if (!has_topic(positions, topic))
				ereport(ERROR,
						(errcode(ERRCODE_UNDEFINED_OBJECT),
						 errmsg("there is no topic \"%s\" to start at", topic),
						 errdetail("It does not exist, or is not among the topics.")));
		}
		if (token != WJB_VALUE)
			continue;
		if (value.type != jbvBinary || !JsonContainerIsObject(value.val.binary.data))
			start_error(start, psprintf("The offsets of topic \"%s\" must be an object.", topic));
		partitions = JsonbIteratorInit(value.val.binary.data);
		while ((token = JsonbIteratorNext(&partitions, &value, true)) != WJB_DONE)
		{
			if (token == WJB_KEY)
				partition = pnstrdup(value.val.string.val, value.val.string.len);
			else if (token == WJB_VALUE)
				set_offset(server, positions, start, topic, partition, &value);
		}
	}
}

/* Fills in where the partitions begin and end, and the start. */
static void
resolve(KsAdmin *admin, List *positions, const char *text, const Start *start)
{
	rd_kafka_topic_partition_list_t *list = partition_list(admin, positions);
	rd_kafka_topic_partition_list_t *low = ks_admin_offsets(admin, list, RD_KAFKA_OFFSET_BEGINNING);
	rd_kafka_topic_partition_list_t *at_time = NULL;
	rd_kafka_topic_partition_list_t *stable;
	ListCell   *cell;

	if (start->kind == START_TIMESTAMP)
		at_time = ks_admin_offsets(admin, list, start->timestamp_ms);
	/* Last: "past the end" must not become an offset before messages that came in between. */
	stable = ks_admin_offsets(admin, list, RD_KAFKA_OFFSET_END);
	foreach(cell, positions)
	{
		KsPartitionPosition *position = lfirst(cell);

		position->low = offset_in(low, position);
		position->stable = offset_in(stable, position);
		position->offset = position->low;
		position->named = start->kind != START_OFFSETS;
		if (start->kind == START_LATEST)
			position->offset = position->stable;
		if (start->kind == START_TIMESTAMP)
		{
			position->offset = offset_in(at_time, position);
			if (position->offset < 0)
				position->offset = position->stable;
		}
	}
	if (start->kind == START_OFFSETS)
		set_offsets(admin->server, positions, text, start->offsets);
}

List *
ks_resolve_start(const KsServer *server, char **topics, int ntopics, const char *start, bool missing_ok)
{
	Start		parsed = parse_start(start);
	List	   *volatile positions = NIL;
	KsAdmin    *admin;

	/* A pattern that is none is an error also while no topic is there to match. */
	for (int i = 0; i < ntopics; i++)
		if (topics[i][0] == '^')
			(void) matches("", topics[i]);

	admin = ks_admin_connect(server, "read_committed");
	PG_TRY();
	{
		positions = without_duplicates(find_partitions(admin, topics, ntopics, missing_ok));
		resolve(admin, positions, start, &parsed);
	}
	PG_FINALLY();
	{
		ks_admin_close(admin);
	}
	PG_END_TRY();
	return positions;
}
