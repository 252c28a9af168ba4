/*
 * admin_groups.c: kafka.list_consumer_groups, consumer_lag.
 */
#include "postgres.h"

#include "compat/pg_compat.h"
#include "kafka/admin.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#define COORDINATOR_WAIT_MS 8000
#define COORDINATOR_STEP_MS 100

PG_FUNCTION_INFO_V1(ks_list_consumer_groups);
PG_FUNCTION_INFO_V1(ks_consumer_lag);

/* Returns a state's name as Kafka's tools write it, in lower case. */
static Datum
state_datum(rd_kafka_consumer_group_state_t state)
{
	char	   *name = pstrdup(rd_kafka_consumer_group_state_name(state));

	for (char *c = name; *c; c++)
		*c = pg_tolower((unsigned char) *c);
	return CStringGetTextDatum(name);
}

/* Returns the descriptions of groups, in the order in which Kafka lists them. */
static const rd_kafka_ConsumerGroupDescription_t **
describe_groups(KsAdmin *admin, const char **groups, size_t ngroups, size_t *ndescriptions)
{
	rd_kafka_event_t *event;

	*ndescriptions = 0;
	if (ngroups == 0)
		return NULL;
	rd_kafka_DescribeConsumerGroups(admin->client->rk, groups, ngroups,
									ks_admin_options(admin, RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS),
									ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_DESCRIBECONSUMERGROUPS_RESULT, "describe consumer groups");
	return rd_kafka_DescribeConsumerGroups_result_groups(rd_kafka_event_DescribeConsumerGroups_result(event),
														 ndescriptions);
}

/* list_consumer_groups with a handle. */
static Datum
list_consumer_groups(KsAdmin *admin, FunctionCallInfo fcinfo)
{
	const rd_kafka_ListConsumerGroups_result_t *result;
	const rd_kafka_ConsumerGroupListing_t **listings;
	const rd_kafka_ConsumerGroupDescription_t **descriptions;
	const rd_kafka_error_t **errors;
	rd_kafka_event_t *event;
	const char **groups;
	size_t		ngroups;
	size_t		nerrors;
	size_t		ndescriptions;

	rd_kafka_ListConsumerGroups(admin->client->rk, ks_admin_options(admin, RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS),
								ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_LISTCONSUMERGROUPS_RESULT, "list consumer groups");
	result = rd_kafka_event_ListConsumerGroups_result(event);
	errors = rd_kafka_ListConsumerGroups_result_errors(result, &nerrors);
	if (nerrors > 0)
		ks_kafka_error(admin, rd_kafka_error_code(errors[0]), rd_kafka_error_string(errors[0]), "list consumer groups");
	listings = rd_kafka_ListConsumerGroups_result_valid(result, &ngroups);
	groups = palloc(sizeof(char *) * (ngroups + 1));
	for (size_t i = 0; i < ngroups; i++)
		groups[i] = rd_kafka_ConsumerGroupListing_group_id(listings[i]);
	descriptions = describe_groups(admin, groups, ngroups, &ndescriptions);

	for (size_t i = 0; i < ngroups; i++)
	{
		const rd_kafka_ConsumerGroupDescription_t *description = NULL;
		const rd_kafka_Node_t *coordinator = NULL;
		Datum		values[5] = {0};
		bool		nulls[5] = {0};

		for (size_t j = 0; j < ndescriptions; j++)
			if (strcmp(rd_kafka_ConsumerGroupDescription_group_id(descriptions[j]), groups[i]) == 0 &&
				rd_kafka_ConsumerGroupDescription_error(descriptions[j]) == NULL)
				description = descriptions[j];
		if (description)
			coordinator = rd_kafka_ConsumerGroupDescription_coordinator(description);
		values[0] = ks_kafka_text(groups[i]);
		values[1] = state_datum(rd_kafka_ConsumerGroupListing_state(listings[i]));
		values[2] = BoolGetDatum(rd_kafka_ConsumerGroupListing_is_simple_consumer_group(listings[i]));
		nulls[3] = description == NULL;
		if (description)
			values[3] = Int32GetDatum((int32) rd_kafka_ConsumerGroupDescription_member_count(description));
		nulls[4] = coordinator == NULL;
		if (coordinator)
			values[4] = Int32GetDatum(rd_kafka_Node_id(coordinator));
		ks_put_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

/* Takes a server; returns a row per group that the server's Kafka user may see. */
Datum
ks_list_consumer_groups(PG_FUNCTION_ARGS)
{
	return ks_admin_run(fcinfo, list_consumer_groups);
}

/* Returns what a group has committed; partitions without a commit are left out by Kafka. */
static const rd_kafka_topic_partition_list_t *
committed_offsets(KsAdmin *admin, const char *group)
{
	char	   *what = psprintf("read the offsets of group \"%s\"", group);
	rd_kafka_ListConsumerGroupOffsets_t *request = rd_kafka_ListConsumerGroupOffsets_new(group, NULL);
	const rd_kafka_group_result_t **results;
	const rd_kafka_error_t *error;
	rd_kafka_event_t *event;
	size_t		nresults;

	ks_admin_own(admin, request, (KsDestroy) rd_kafka_ListConsumerGroupOffsets_destroy);
	rd_kafka_ListConsumerGroupOffsets(admin->client->rk, &request, 1,
									  ks_admin_options(admin, RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS),
									  ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_LISTCONSUMERGROUPOFFSETS_RESULT, what);
	results = rd_kafka_ListConsumerGroupOffsets_result_groups(rd_kafka_event_ListConsumerGroupOffsets_result(event),
															  &nresults);
	if (nresults != 1)
		elog(ERROR, "unexpected number of results from Kafka: %zu", nresults);
	error = rd_kafka_group_result_error(results[0]);
	if (error && rd_kafka_error_code(error) != RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND)
		ks_kafka_error(admin, rd_kafka_error_code(error), rd_kafka_error_string(error), what);
	return rd_kafka_group_result_partitions(results[0]);
}

/* Does the broker that coordinates a group only need a moment, as after its start? */
static bool
coordinator_is_coming(rd_kafka_resp_err_t code)
{
	return code == RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS || code == RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE ||
		code == RD_KAFKA_RESP_ERR_NOT_COORDINATOR;
}

/*
 * ERROR unless Kafka knows a group of this name: an unknown one has no offsets, and no error either.  Waits for the
 * group's coordinator: librdkafka 2.0.2 crashes over the answer of one that is still loading to a question for offsets.
 */
static void
check_group(KsAdmin *admin, const char *group)
{
	TimestampTz began = GetCurrentTimestamp();

	for (;;)
	{
		const rd_kafka_ConsumerGroupDescription_t **descriptions;
		const rd_kafka_error_t *error;
		rd_kafka_resp_err_t code;
		size_t		n;

		descriptions = describe_groups(admin, &group, 1, &n);
		if (n != 1)
			elog(ERROR, "unexpected number of results from Kafka: %zu", n);
		error = rd_kafka_ConsumerGroupDescription_error(descriptions[0]);
		code = error ? rd_kafka_error_code(error) : RD_KAFKA_RESP_ERR_NO_ERROR;
		if (coordinator_is_coming(code) &&
			!TimestampDifferenceExceeds(began, GetCurrentTimestamp(), COORDINATOR_WAIT_MS))
		{
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, COORDINATOR_STEP_MS,
							 ks_wait_event("KafkaAdmin"));
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
			continue;
		}
		if (error && code != RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND)
			ks_kafka_error(admin, code, rd_kafka_error_string(error), psprintf("describe group \"%s\"", group));
		if (error || rd_kafka_ConsumerGroupDescription_state(descriptions[0]) == RD_KAFKA_CONSUMER_GROUP_STATE_DEAD)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("consumer group \"%s\" does not exist on Kafka server \"%s\"", group, admin->server->name)));
		return;
	}
}

/* consumer_lag with a handle. */
static Datum
consumer_lag(KsAdmin *admin, FunctionCallInfo fcinfo)
{
	char	   *group = ks_kafka_arg(fcinfo, 1, "group_id");
	const rd_kafka_topic_partition_list_t *committed;
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_topic_partition_list_t *ends = NULL;

	check_group(admin, group);
	committed = committed_offsets(admin, group);
	if (committed == NULL || committed->cnt == 0)
		return (Datum) 0;
	list = rd_kafka_topic_partition_list_new(committed->cnt);
	ks_admin_own(admin, list, (KsDestroy) rd_kafka_topic_partition_list_destroy);
	for (int i = 0; i < committed->cnt; i++)
		rd_kafka_topic_partition_list_add(list, committed->elems[i].topic, committed->elems[i].partition);
	rd_kafka_topic_partition_list_sort(list, NULL, NULL);
	/* A topic that was dropped after the commit has no end; the others do. */
	for (int tries = 0; tries < 3 && ends == NULL; tries++)
		ends = ks_admin_try_offsets(admin, list, RD_KAFKA_OFFSET_END);

	for (int i = 0; i < list->cnt; i++)
	{
		const char *topic = list->elems[i].topic;
		int32		partition = list->elems[i].partition;
		int64		offset = rd_kafka_topic_partition_list_find(unconstify(rd_kafka_topic_partition_list_t *, committed),
																topic, partition)->offset;
		rd_kafka_topic_partition_t *end = ends ? rd_kafka_topic_partition_list_find(ends, topic, partition) : NULL;
		Datum		values[5] = {0};
		bool		nulls[5] = {0};

		values[0] = ks_kafka_text(topic);
		values[1] = Int32GetDatum(partition);
		values[2] = Int64GetDatum(offset);
		nulls[2] = offset < 0;
		nulls[3] = end == NULL || end->err != 0 || end->offset < 0;
		if (!nulls[3])
			values[3] = Int64GetDatum(end->offset);
		nulls[4] = nulls[2] || nulls[3];
		if (!nulls[4])
			values[4] = Int64GetDatum(Max(end->offset - offset, 0));
		ks_put_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

/* Takes a server and a group; returns a row per partition with a committed offset. ERROR if there is no such group. */
Datum
ks_consumer_lag(PG_FUNCTION_ARGS)
{
	return ks_admin_run(fcinfo, consumer_lag);
}
