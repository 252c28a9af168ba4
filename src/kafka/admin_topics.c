/*
 * admin_topics.c: kafka.create_topic, alter_topic, drop_topic, delete_records.
 *
 * Each returns when the brokers' metadata show the change, so that the next statement sees it: a controller answers
 * before the brokers know.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_foreign_server.h"
#include "control/catalog.h"
#include "kafka/admin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* How long to look for a change in the metadata after the controller accepted it. */
#define SPREAD_TRIES 100
#define SPREAD_PAUSE_MS 50
#define OPERATION_MS 10000

PG_FUNCTION_INFO_V1(ks_create_topic);
PG_FUNCTION_INFO_V1(ks_alter_topic);
PG_FUNCTION_INFO_V1(ks_drop_topic);
PG_FUNCTION_INFO_V1(ks_delete_records);

/* Returns the options of a request that the controller may take some time for. */
static rd_kafka_AdminOptions_t *
operation_options(KsAdmin *admin, rd_kafka_admin_op_t operation)
{
	rd_kafka_AdminOptions_t *options = ks_admin_options(admin, operation);
	char		reason[256];

	if (rd_kafka_AdminOptions_set_operation_timeout(options, OPERATION_MS, reason, sizeof(reason)))
		elog(ERROR, "could not set an admin operation's timeout: %s", reason);
	return options;
}

/* Waits until a topic is there with at least "partitions" of them (0: until it is gone). Gives up in silence. */
static void
wait_until_spread(KsAdmin *admin, const char *topic, int partitions)
{
	for (int i = 0; i < SPREAD_TRIES; i++)
	{
		const rd_kafka_metadata_t *metadata = ks_admin_metadata(admin, topic);
		const rd_kafka_metadata_topic_t *found = metadata->topic_cnt == 1 ? &metadata->topics[0] : NULL;
		bool		missing = found == NULL || found->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
			found->err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;

		if (partitions == 0 ? missing : (!missing && found->err == 0 && found->partition_cnt >= partitions))
			return;
		/* Not ours to see: then neither is the change. */
		if (!missing && found->err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
			return;
		ks_admin_pause(admin, SPREAD_PAUSE_MS);
	}
}

/* Returns the one result of a request about one topic; ERROR if it failed, unless with the code "tolerated". */
static rd_kafka_resp_err_t
topic_result(KsAdmin *admin, const rd_kafka_topic_result_t **results, size_t nresults,
			 rd_kafka_resp_err_t tolerated, const char *what)
{
	rd_kafka_resp_err_t err;

	if (nresults != 1)
		elog(ERROR, "unexpected number of results from Kafka: %zu", nresults);
	err = rd_kafka_topic_result_error(results[0]);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR || err == tolerated)
		return err;
	if (err == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("topic \"%s\" already exists on Kafka server \"%s\"",
						rd_kafka_topic_result_name(results[0]), admin->server->name)));
	if (err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" does not exist on Kafka server \"%s\"",
						rd_kafka_topic_result_name(results[0]), admin->server->name)));
	ks_kafka_error(admin, err, rd_kafka_topic_result_error_string(results[0]), what);
}

/* Returns an int argument; ERROR if it is NULL. */
static int
int_arg(FunctionCallInfo fcinfo, int i, const char *name)
{
	if (PG_ARGISNULL(i))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
	return PG_GETARG_INT32(i);
}

/* ERROR unless a count is -1 (the broker's default) or in 1..max. */
static void
check_count(int count, int max, const char *name)
{
	if (count != -1 && (count < 1 || count > max))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for argument \"%s\": %d", name, count),
				 errdetail("It must be at least 1, or -1 for the broker's default.")));
}

bool
ks_admin_create_topic(KsAdmin *admin, const char *topic, int partitions, int replication_factor,
					  const KsConfig *configs, int nconfigs, bool if_not_exists)
{
	char	   *what = psprintf("create topic \"%s\"", topic);
	rd_kafka_NewTopic_t *wanted;
	rd_kafka_event_t *event;
	const rd_kafka_topic_result_t **results;
	char		reason[256] = "";
	size_t		nresults;

	wanted = rd_kafka_NewTopic_new(topic, partitions, replication_factor, reason, sizeof(reason));
	if (wanted == NULL)
		ks_kafka_error(admin, RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, reason, what);
	ks_admin_own(admin, wanted, (KsDestroy) rd_kafka_NewTopic_destroy);
	for (int i = 0; i < nconfigs; i++)
	{
		rd_kafka_resp_err_t err;

		if (configs[i].value == NULL)
			continue;
		err = rd_kafka_NewTopic_set_config(wanted, configs[i].name, configs[i].value);
		if (err)
			ks_kafka_error(admin, err, NULL, what);
	}
	rd_kafka_CreateTopics(admin->client->rk, &wanted, 1, operation_options(admin, RD_KAFKA_ADMIN_OP_CREATETOPICS),
						  ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_CREATETOPICS_RESULT, what);
	results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &nresults);
	if (topic_result(admin, results, nresults,
					 if_not_exists ? RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS : RD_KAFKA_RESP_ERR_NO_ERROR, what) != 0)
		return false;
	wait_until_spread(admin, topic, Max(partitions, 1));
	return true;
}

/* create_topic with a handle. */
static Datum
create_topic(KsAdmin *admin, FunctionCallInfo fcinfo)
{
	char	   *topic = ks_kafka_arg(fcinfo, 1, "topic");
	int			partitions = int_arg(fcinfo, 2, "partitions");
	int			replication_factor = int_arg(fcinfo, 3, "replication_factor");
	bool		if_not_exists = !PG_ARGISNULL(5) && PG_GETARG_BOOL(5);
	KsConfig   *configs;
	int			nconfigs;

	check_count(partitions, 1000000, "partitions");
	check_count(replication_factor, PG_INT16_MAX, "replication_factor");
	configs = ks_config_arg(fcinfo, 4, "config", &nconfigs);
	if (!ks_admin_create_topic(admin, topic, partitions, replication_factor, configs, nconfigs, if_not_exists))
		ereport(NOTICE,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("topic \"%s\" already exists, skipping", topic)));
	PG_RETURN_VOID();
}

/*
 * Takes a server, a topic, partitions and replication factor (-1 = broker's default), a jsonb of topic configs and
 * if_not_exists.  ERROR if Kafka refuses.
 */
Datum
ks_create_topic(PG_FUNCTION_ARGS)
{
	return ks_admin_run(fcinfo, create_topic);
}

/* drop_topic with a handle. */
static Datum
drop_topic(KsAdmin *admin, FunctionCallInfo fcinfo)
{
	char	   *topic = ks_kafka_arg(fcinfo, 1, "topic");
	bool		if_exists = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	char	   *what = psprintf("drop topic \"%s\"", topic);
	rd_kafka_DeleteTopic_t *doomed = rd_kafka_DeleteTopic_new(topic);
	rd_kafka_event_t *event;
	const rd_kafka_topic_result_t **results;
	size_t		nresults;

	ks_admin_own(admin, doomed, (KsDestroy) rd_kafka_DeleteTopic_destroy);
	rd_kafka_DeleteTopics(admin->client->rk, &doomed, 1, operation_options(admin, RD_KAFKA_ADMIN_OP_DELETETOPICS),
						  ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_DELETETOPICS_RESULT, what);
	results = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), &nresults);
	if (topic_result(admin, results, nresults,
					 if_exists ? RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART : RD_KAFKA_RESP_ERR_NO_ERROR, what) != 0)
	{
		ereport(NOTICE,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" does not exist, skipping", topic)));
		PG_RETURN_VOID();
	}
	wait_until_spread(admin, topic, 0);
	PG_RETURN_VOID();
}

/* Takes a server, a topic and if_exists. ERROR if Kafka refuses. */
Datum
ks_drop_topic(PG_FUNCTION_ARGS)
{
	return ks_admin_run(fcinfo, drop_topic);
}

/*
 * Returns the name of a publisher of this server whose keys are hashed over the topic's partitions, or NULL.
 */
static char *
publisher_of_topic(const char *server, const char *topic)
{
	Oid			relid = ks_catalog_relid("publisher_topic");
	char	   *found = NULL;
	Relation	relation;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	Snapshot	snapshot;

	if (!OidIsValid(relid))
		return NULL;
	relation = table_open(relid, AccessShareLock);
	ScanKeyInit(&key, 2, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(topic));
	key.sk_collation = TupleDescAttr(RelationGetDescr(relation), 1)->attcollation;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = systable_beginscan(relation, InvalidOid, false, snapshot, 1, &key);
	while (found == NULL && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		int64		id = DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(relation), &isnull));
		KsPublisher *publisher = ks_publisher_by_id(id);

		if (publisher && strcmp(NameStr(publisher->server), server) == 0)
			found = pstrdup(NameStr(publisher->name));
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
	return found;
}

/* Grows a topic to "partitions". ERROR if it has more, or if a publisher's keys depend on their number. */
static void
add_partitions(KsAdmin *admin, const char *topic, int partitions)
{
	int			current = ks_admin_topic(admin, topic)->partition_cnt;
	char	   *what = psprintf("change the partitions of topic \"%s\"", topic);
	char	   *publisher;
	rd_kafka_NewPartitions_t *wanted;
	rd_kafka_event_t *event;
	const rd_kafka_topic_result_t **results;
	char		reason[256] = "";
	size_t		nresults;

	if (partitions == current)
		return;
	if (partitions < current)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topic \"%s\" has %d partitions already", topic, current),
				 errdetail("The number of partitions can only grow.")));
	publisher = publisher_of_topic(admin->server->name, topic);
	if (publisher)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot change the partitions of topic \"%s\"", topic),
				 errdetail("Publisher \"%s\" spreads its keys over %d partitions; another number would break the order of each key's events.",
						   publisher, current),
				 errhint("Pause the publisher, create a topic with more partitions, and give it to the table with kafka.set_topic().")));

	wanted = rd_kafka_NewPartitions_new(topic, partitions, reason, sizeof(reason));
	if (wanted == NULL)
		ks_kafka_error(admin, RD_KAFKA_RESP_ERR_INVALID_PARTITIONS, reason, what);
	ks_admin_own(admin, wanted, (KsDestroy) rd_kafka_NewPartitions_destroy);
	rd_kafka_CreatePartitions(admin->client->rk, &wanted, 1,
							  operation_options(admin, RD_KAFKA_ADMIN_OP_CREATEPARTITIONS), ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_CREATEPARTITIONS_RESULT, what);
	results = rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(event), &nresults);
	topic_result(admin, results, nresults, RD_KAFKA_RESP_ERR_NO_ERROR, what);
	wait_until_spread(admin, topic, partitions);
}

/* Returns the configs of a topic as they are. ERROR if they cannot be read. */
static const rd_kafka_ConfigEntry_t **
read_configs(KsAdmin *admin, const char *topic, const char *what, size_t *nentries)
{
	const rd_kafka_ConfigResource_t *resource = ks_admin_configs(admin, &topic, 1, NULL, 0)[0];

	if (resource == NULL)
		elog(ERROR, "no configs of topic \"%s\" in Kafka's answer", topic);
	if (rd_kafka_ConfigResource_error(resource) == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" does not exist on Kafka server \"%s\"", topic, admin->server->name)));
	if (rd_kafka_ConfigResource_error(resource))
		ks_kafka_error(admin, rd_kafka_ConfigResource_error(resource),
					   rd_kafka_ConfigResource_error_string(resource), what);
	return rd_kafka_ConfigResource_configs(resource, nentries);
}

/* Returns the entry of this name, or NULL. */
static const rd_kafka_ConfigEntry_t *
find_entry(const rd_kafka_ConfigEntry_t **entries, size_t nentries, const char *name)
{
	for (size_t i = 0; i < nentries; i++)
		if (strcmp(rd_kafka_ConfigEntry_name(entries[i]), name) == 0)
			return entries[i];
	return NULL;
}

/* Is the entry set on the topic itself, rather than inherited from the broker? */
static bool
is_set_on_topic(const rd_kafka_ConfigEntry_t *entry)
{
	return entry && rd_kafka_ConfigEntry_source(entry) == RD_KAFKA_CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG;
}

/* Is this change what the topic has? */
static bool
is_applied(const KsConfig *config, const rd_kafka_ConfigEntry_t *entry)
{
	const char *value;

	if (config->value == NULL || !is_set_on_topic(entry))
		return config->value == NULL && !is_set_on_topic(entry);
	value = rd_kafka_ConfigEntry_value(entry);
	return value == NULL || strcmp(value, config->value) == 0;
}

/* ERROR if librdkafka refuses a config. */
static void
check_added(KsAdmin *admin, rd_kafka_resp_err_t err, const char *name, const char *what)
{
	if (err)
		ks_kafka_error(admin, err, psprintf("Config \"%s\" is not acceptable.", name), what);
}

#if RD_KAFKA_VERSION >= 0x020200ff

/* Adds the changes to a request that changes only what it names. */
static void
add_changes(KsAdmin *admin, rd_kafka_ConfigResource_t *resource, const KsConfig *configs, int nconfigs,
			const rd_kafka_ConfigEntry_t **entries, size_t nentries, const char *what)
{
	(void) entries;
	(void) nentries;
	for (int i = 0; i < nconfigs; i++)
	{
		rd_kafka_error_t *error;

		error = rd_kafka_ConfigResource_add_incremental_config(resource, configs[i].name,
															   configs[i].value ? RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET :
															   RD_KAFKA_ALTER_CONFIG_OP_TYPE_DELETE,
															   configs[i].value);
		if (error)
		{
			rd_kafka_resp_err_t err = rd_kafka_error_code(error);

			rd_kafka_error_destroy(error);
			check_added(admin, err, configs[i].name, what);
		}
	}
}

/* Sends the request and returns the resources of its result. */
static const rd_kafka_ConfigResource_t **
send_changes(KsAdmin *admin, rd_kafka_ConfigResource_t *resource, const char *what, size_t *nresults)
{
	rd_kafka_event_t *event;

	rd_kafka_IncrementalAlterConfigs(admin->client->rk, &resource, 1,
									 ks_admin_options(admin, RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS),
									 ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_INCREMENTALALTERCONFIGS_RESULT, what);
	return rd_kafka_IncrementalAlterConfigs_result_resources(rd_kafka_event_IncrementalAlterConfigs_result(event),
															 nresults);
}

#else

/*
 * Adds the changes to a request that replaces all configs of the topic: those that it has and that are not changed are
 * sent along.  ERROR if one of them cannot be read.
 */
static void
add_changes(KsAdmin *admin, rd_kafka_ConfigResource_t *resource, const KsConfig *configs, int nconfigs,
			const rd_kafka_ConfigEntry_t **entries, size_t nentries, const char *what)
{
	for (size_t i = 0; i < nentries; i++)
	{
		const char *name = rd_kafka_ConfigEntry_name(entries[i]);
		bool		named = false;

		for (int j = 0; j < nconfigs; j++)
			named = named || strcmp(configs[j].name, name) == 0;
		if (named || !is_set_on_topic(entries[i]))
			continue;
		if (rd_kafka_ConfigEntry_is_sensitive(entries[i]) || rd_kafka_ConfigEntry_value(entries[i]) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("could not %s on Kafka server \"%s\"", what, admin->server->name),
					 errdetail("librdkafka %s can only replace all configs of a topic, and the value of \"%s\" cannot be read back.",
							   rd_kafka_version_str(), name),
					 errhint("Name \"%s\" and its value too, or use librdkafka 2.2 or newer.", name)));
		check_added(admin, rd_kafka_ConfigResource_set_config(resource, name, rd_kafka_ConfigEntry_value(entries[i])),
					name, what);
	}
	for (int i = 0; i < nconfigs; i++)
		if (configs[i].value)
			check_added(admin, rd_kafka_ConfigResource_set_config(resource, configs[i].name, configs[i].value),
						configs[i].name, what);
}

/* Sends the request and returns the resources of its result. */
static const rd_kafka_ConfigResource_t **
send_changes(KsAdmin *admin, rd_kafka_ConfigResource_t *resource, const char *what, size_t *nresults)
{
	rd_kafka_event_t *event;

	rd_kafka_AlterConfigs(admin->client->rk, &resource, 1,
						  ks_admin_options(admin, RD_KAFKA_ADMIN_OP_ALTERCONFIGS), ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_ALTERCONFIGS_RESULT, what);
	return rd_kafka_AlterConfigs_result_resources(rd_kafka_event_AlterConfigs_result(event), nresults);
}

#endif

/*
 * Sets and resets configs of a topic, and leaves the others.
 *
 * Where the library can only replace them all, this reads them first.  The lock (on the server, to the end of the
 * transaction) keeps two such calls of this database apart, and waiting until the change can be read keeps the next
 * one from sending back what was there before it.
 */
static void
change_configs(KsAdmin *admin, const char *topic, const KsConfig *configs, int nconfigs)
{
	char	   *what = psprintf("change the configs of topic \"%s\"", topic);
	const rd_kafka_ConfigEntry_t **entries;
	const rd_kafka_ConfigResource_t **results;
	rd_kafka_ConfigResource_t *resource;
	size_t		nentries;
	size_t		nresults;

	LockDatabaseObject(ForeignServerRelationId, admin->server->serverid, 0, ShareUpdateExclusiveLock);
	entries = read_configs(admin, topic, what, &nentries);
	for (int i = 0; i < nconfigs; i++)
		if (find_entry(entries, nentries, configs[i].name) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown topic config \"%s\"", configs[i].name),
					 errhint("kafka.topic_config() lists those that Kafka server \"%s\" knows.", admin->server->name)));

	resource = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic);
	ks_admin_own(admin, resource, (KsDestroy) rd_kafka_ConfigResource_destroy);
	add_changes(admin, resource, configs, nconfigs, entries, nentries, what);
	results = send_changes(admin, resource, what, &nresults);
	if (nresults != 1)
		elog(ERROR, "unexpected number of results from Kafka: %zu", nresults);
	if (rd_kafka_ConfigResource_error(results[0]))
		ks_kafka_error(admin, rd_kafka_ConfigResource_error(results[0]),
					   rd_kafka_ConfigResource_error_string(results[0]), what);

	for (int i = 0; i < SPREAD_TRIES; i++)
	{
		bool		applied = true;

		entries = read_configs(admin, topic, what, &nentries);
		for (int j = 0; j < nconfigs; j++)
			applied = applied && is_applied(&configs[j], find_entry(entries, nentries, configs[j].name));
		if (applied)
			break;
		ks_admin_pause(admin, SPREAD_PAUSE_MS);
	}
}

/* alter_topic with a handle. */
static Datum
alter_topic(KsAdmin *admin, FunctionCallInfo fcinfo)
{
	char	   *topic = ks_kafka_arg(fcinfo, 1, "topic");
	int			nconfigs;
	KsConfig   *configs = ks_config_arg(fcinfo, 3, "config", &nconfigs);

	if (!PG_ARGISNULL(2))
	{
		if (PG_GETARG_INT32(2) < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for argument \"%s\": %d", "partitions", PG_GETARG_INT32(2))));
		add_partitions(admin, topic, PG_GETARG_INT32(2));
	}
	if (nconfigs > 0)
		change_configs(admin, topic, configs, nconfigs);
	else
		(void) ks_admin_topic(admin, topic);
	PG_RETURN_VOID();
}

/* Takes a server, a topic, a number of partitions or NULL, and a jsonb of configs (null resets). ERROR if Kafka refuses. */
Datum
ks_alter_topic(PG_FUNCTION_ARGS)
{
	return ks_admin_run(fcinfo, alter_topic);
}

/* delete_records with a handle. */
static Datum
delete_records(KsAdmin *admin, FunctionCallInfo fcinfo)
{
	char	   *topic = ks_kafka_arg(fcinfo, 1, "topic");
	int			partition = int_arg(fcinfo, 2, "partition");
	char	   *what = psprintf("delete records of topic \"%s\", partition %d", topic, partition);
	rd_kafka_topic_partition_list_t *offsets = rd_kafka_topic_partition_list_new(1);
	rd_kafka_DeleteRecords_t *request;
	rd_kafka_event_t *event;
	const rd_kafka_topic_partition_list_t *result;
	int64		before;

	ks_admin_own(admin, offsets, (KsDestroy) rd_kafka_topic_partition_list_destroy);
	if (PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", "before_offset")));
	before = PG_GETARG_INT64(3);
	if (before < -1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for argument \"%s\": %lld", "before_offset", (long long) before),
				 errdetail("It must be an offset, or -1 for the end of the partition.")));
	if (partition < 0 || partition >= ks_admin_topic(admin, topic)->partition_cnt)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" has no partition %d", topic, partition)));

	rd_kafka_topic_partition_list_add(offsets, topic, partition)->offset = before;
	request = rd_kafka_DeleteRecords_new(offsets);
	ks_admin_own(admin, request, (KsDestroy) rd_kafka_DeleteRecords_destroy);
	rd_kafka_DeleteRecords(admin->client->rk, &request, 1, operation_options(admin, RD_KAFKA_ADMIN_OP_DELETERECORDS),
						   ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_DELETERECORDS_RESULT, what);
	result = rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(event));
	for (int i = 0; i < result->cnt; i++)
		if (result->elems[i].err == RD_KAFKA_RESP_ERR_POLICY_VIOLATION)
			ks_kafka_error(admin, result->elems[i].err,
						   "Records of a compacted topic cannot be deleted by offset.", what);
		else if (result->elems[i].err)
			ks_kafka_error(admin, result->elems[i].err, NULL, what);
	PG_RETURN_VOID();
}

/* Takes a server, a topic, a partition and the first offset to keep (-1 = none). ERROR if Kafka refuses. */
Datum
ks_delete_records(PG_FUNCTION_ARGS)
{
	return ks_admin_run(fcinfo, delete_records);
}
