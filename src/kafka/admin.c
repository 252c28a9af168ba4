/*
 * admin.c: a connected handle for the length of one SQL function.
 *
 * Requests that librdkafka answers through a queue are waited for here; the few that only exist as blocking calls
 * (metadata, offsets) run on a thread of their own (ks_client_call), so that every wait can be interrupted.
 */
#include "postgres.h"

#include "funcapi.h"
#include "kafka/admin.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#define WAIT_NAME "KafkaAdmin"
/* How often a look at partitions whose leader is not known yet is repeated. */
#define LEADER_TRIES 20
/* The same for topics and partitions that are not known at all. */
#define UNKNOWN_TRIES 4

struct KsOwned
{
	KsOwned    *next;
	void	   *object;
	KsDestroy	destroy;
};

/* Arguments and results of rd_kafka_metadata on its thread. */
typedef struct MetadataCall
{
	char	   *topic;			/* NULL = all, "" = none */
	int			timeout_ms;
	rd_kafka_resp_err_t err;
	const rd_kafka_metadata_t *metadata;
} MetadataCall;

/* Arguments and results of rd_kafka_offsets_for_times on its thread. */
typedef struct OffsetsCall
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t err;
} OffsetsCall;

void *
ks_admin_own(KsAdmin *admin, void *object, KsDestroy destroy)
{
	KsOwned    *owned = palloc(sizeof(KsOwned));

	owned->object = object;
	owned->destroy = destroy;
	owned->next = admin->owned;
	admin->owned = owned;
	return object;
}

rd_kafka_queue_t *
ks_admin_queue(KsAdmin *admin)
{
	return admin->client->queue;
}

void
ks_admin_release(KsAdmin *admin)
{
	while (admin->owned)
	{
		KsOwned    *owned = admin->owned;

		admin->owned = owned->next;
		owned->destroy(owned->object);
		pfree(owned);
	}
}

void
ks_admin_close(KsAdmin *admin)
{
	ks_admin_release(admin);
	if (admin->client && !admin->borrowed)
		ks_client_destroy(admin->client, 0);
	admin->client = NULL;
}

KsAdmin *
ks_admin_connect(const KsServer *server, const char *isolation)
{
	KsAdmin    *admin = palloc0(sizeof(KsAdmin));
	KsProperty	overrides[1];

	overrides[0].name = pstrdup("isolation.level");
	overrides[0].value = pstrdup(isolation);
	admin->server = server;
	admin->client = ks_client_create(KS_CLIENT_ADMIN, server, overrides, 1);
	PG_TRY();
	{
		(void) ks_admin_metadata(admin, "");
	}
	PG_CATCH();
	{
		ks_admin_close(admin);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return admin;
}

KsAdmin *
ks_admin_borrow(const KsServer *server, KsClient *client)
{
	KsAdmin    *admin = palloc0(sizeof(KsAdmin));

	admin->server = server;
	admin->client = client;
	admin->keep_events = true;
	admin->borrowed = true;
	return admin;
}

Datum
ks_admin_run(FunctionCallInfo fcinfo, Datum (*body) (KsAdmin *admin, FunctionCallInfo fcinfo))
{
	KsServer   *server;
	KsAdmin    *admin;
	volatile Datum result = (Datum) 0;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", "server")));
	server = ks_server_open(NameStr(*PG_GETARG_NAME(0)), GetUserId());
	if (fcinfo->flinfo->fn_retset)
		InitMaterializedSRF(fcinfo, 0);
	admin = ks_admin_connect(server, "read_uncommitted");
	PG_TRY();
	{
		result = body(admin, fcinfo);
	}
	PG_FINALLY();
	{
		ks_admin_close(admin);
	}
	PG_END_TRY();
	return result;
}

rd_kafka_AdminOptions_t *
ks_admin_options(KsAdmin *admin, rd_kafka_admin_op_t operation)
{
	rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(admin->client->rk, operation);
	char		reason[256];

	ks_admin_own(admin, options, (KsDestroy) rd_kafka_AdminOptions_destroy);
	if (rd_kafka_AdminOptions_set_request_timeout(options, KS_REQUEST_MS, reason, sizeof(reason)))
		elog(ERROR, "could not set an admin request's timeout: %s", reason);
	return options;
}

/*
 * A broker that went away after we were connected is given KS_CONNECT_MS to come back: a request itself may take
 * longer, a connection may not.
 */
rd_kafka_event_t *
ks_admin_wait(KsAdmin *admin, rd_kafka_event_type_t type, const char *what)
{
	KsClient   *client = admin->client;
	TimestampTz down_since = 0;

	for (;;)
	{
		rd_kafka_event_t *event;

		ks_client_drain_log(client);
		while ((event = rd_kafka_queue_poll(client->queue, 0)) != NULL)
		{
			ks_admin_own(admin, event, (KsDestroy) rd_kafka_event_destroy);
			if (rd_kafka_event_type(event) == type)
			{
				if (rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__TIMED_OUT && client->all_brokers_down)
					ks_unreachable_error(client);
				if (rd_kafka_event_error(event))
					ks_kafka_error(admin, rd_kafka_event_error(event), rd_kafka_event_error_string(event), what);
				return event;
			}
			if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR)
				ks_client_note_error(client, rd_kafka_event_error(event), rd_kafka_event_error_string(event));
		}
		if (client->all_brokers_down && down_since == 0)
			down_since = GetCurrentTimestamp();
		if (down_since != 0 && TimestampDifferenceExceeds(down_since, GetCurrentTimestamp(), KS_CONNECT_MS))
			ks_unreachable_error(client);
		ks_client_wait(client, 1000, WAIT_NAME);
	}
}

/* On the call's thread. */
static void
metadata_run(rd_kafka_t *rk, void *arg)
{
	MetadataCall *call = arg;
	rd_kafka_topic_t *topic = NULL;

	/* On a consumer handle looking a topic up does not create it. */
	if (call->topic && call->topic[0] != '\0')
	{
		topic = rd_kafka_topic_new(rk, call->topic, NULL);
		if (topic == NULL)
		{
			call->err = rd_kafka_last_error();
			return;
		}
	}
	call->err = rd_kafka_metadata(rk, call->topic == NULL, topic, &call->metadata, call->timeout_ms);
	if (topic)
		rd_kafka_topic_destroy(topic);
}

/* On any thread. */
static void
metadata_release(void *arg)
{
	MetadataCall *call = arg;

	if (call->metadata)
		rd_kafka_metadata_destroy(call->metadata);
	free(call->topic);
	free(call);
}

const rd_kafka_metadata_t *
ks_admin_metadata(KsAdmin *admin, const char *topic)
{
	MetadataCall *call = calloc(1, sizeof(MetadataCall));

	if (call == NULL || (topic && (call->topic = strdup(topic)) == NULL))
	{
		free(call);
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	}
	call->timeout_ms = KS_CONNECT_MS;
	ks_client_call(admin->client, metadata_run, metadata_release, call, WAIT_NAME);
	ks_admin_own(admin, call, metadata_release);

	switch (call->err)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			admin->client->all_brokers_down = false;
			return call->metadata;
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR__TIMED_OUT:
		case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
			ks_unreachable_error(admin->client);
			break;
		default:
			ks_kafka_error(admin, call->err, NULL, "read the topics");
	}
	return NULL;
}

const rd_kafka_metadata_topic_t *
ks_admin_topic(KsAdmin *admin, const char *topic)
{
	for (int tries = 0;; tries++)
	{
		const rd_kafka_metadata_t *metadata = ks_admin_metadata(admin, topic);
		rd_kafka_resp_err_t err = metadata->topic_cnt == 1 ? metadata->topics[0].err : RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;

		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			return &metadata->topics[0];
		if (err == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE && tries < LEADER_TRIES)
			ks_admin_pause(admin, 100);
		else if (err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("topic \"%s\" does not exist on Kafka server \"%s\"", topic, admin->server->name)));
		else
			ks_kafka_error(admin, err, NULL, psprintf("read topic \"%s\"", topic));
	}
}

/* On the call's thread. */
static void
offsets_run(rd_kafka_t *rk, void *arg)
{
	OffsetsCall *call = arg;

	call->err = rd_kafka_offsets_for_times(rk, call->list, KS_CONNECT_MS);
}

/* On any thread. */
static void
offsets_release(void *arg)
{
	OffsetsCall *call = arg;

	rd_kafka_topic_partition_list_destroy(call->list);
	free(call);
}

/* Returns the first error of a call, in *partition where it is; that of a partition says more than the call's own. */
static rd_kafka_resp_err_t
call_error(const OffsetsCall *call, const rd_kafka_topic_partition_t **partition)
{
	for (int i = 0; i < call->list->cnt; i++)
		if (call->list->elems[i].err && call->list->elems[i].err != RD_KAFKA_RESP_ERR__IN_PROGRESS)
		{
			*partition = &call->list->elems[i];
			return call->list->elems[i].err;
		}
	return call->err;
}

/* Is an error of ListOffsets about a topic or partition that is not there, or not yet? */
static bool
is_unknown(rd_kafka_resp_err_t err)
{
	return err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
		err == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
}

/* How often to try again: errors that go away by themselves, when a leader is elected or known everywhere. */
static int
tries_for(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
		case RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH:
		case RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH:
			return LEADER_TRIES;
		default:
			return is_unknown(err) ? UNKNOWN_TRIES : 0;
	}
}

/* Asks for the offsets of a list at a time once; the result is owned by admin. */
static OffsetsCall *
look_up_offsets(KsAdmin *admin, const rd_kafka_topic_partition_list_t *list, int64 time)
{
	OffsetsCall *call = calloc(1, sizeof(OffsetsCall));

	if (call == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	call->list = rd_kafka_topic_partition_list_copy(list);
	for (int i = 0; i < call->list->cnt; i++)
	{
		call->list->elems[i].offset = time;
		call->list->elems[i].err = RD_KAFKA_RESP_ERR_NO_ERROR;
	}
	if (list->cnt > 0)
		ks_client_call(admin->client, offsets_run, offsets_release, call, WAIT_NAME);
	return ks_admin_own(admin, call, offsets_release);
}

rd_kafka_topic_partition_list_t *
ks_admin_try_offsets(KsAdmin *admin, const rd_kafka_topic_partition_list_t *list, int64 time)
{
	OffsetsCall *call = look_up_offsets(admin, list, time);

	return call->err ? NULL : call->list;
}

rd_kafka_topic_partition_list_t *
ks_admin_offsets(KsAdmin *admin, const rd_kafka_topic_partition_list_t *list, int64 time)
{
	for (int tries = 0;; tries++)
	{
		OffsetsCall *call = look_up_offsets(admin, list, time);
		const rd_kafka_topic_partition_t *failed = NULL;
		rd_kafka_resp_err_t err = call_error(call, &failed);

		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			return call->list;
		if (tries < tries_for(err))
			ks_admin_pause(admin, 100);
		else if (err == RD_KAFKA_RESP_ERR__TIMED_OUT || err == RD_KAFKA_RESP_ERR__TRANSPORT)
			ks_unreachable_error(admin->client);
		else if (failed && err == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("topic \"%s\" has no partition %d", failed->topic, (int) failed->partition)));
		else if (failed && is_unknown(err))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("topic \"%s\" does not exist on Kafka server \"%s\"", failed->topic, admin->server->name)));
		else if (failed)
			ks_kafka_error(admin, err, NULL, psprintf("read the offsets of topic \"%s\", partition %d",
													  failed->topic, (int) failed->partition));
		else
			ks_kafka_error(admin, err, NULL, "read offsets");
	}
}

const rd_kafka_ConfigResource_t **
ks_admin_configs(KsAdmin *admin, const char *const *topics, int ntopics, const char *const *names, int nnames)
{
	rd_kafka_ConfigResource_t **wanted = palloc0(sizeof(*wanted) * ntopics);
	const rd_kafka_ConfigResource_t **found = palloc0(sizeof(*found) * ntopics);
	const rd_kafka_ConfigResource_t **results;
	rd_kafka_event_t *event;
	size_t		nresults;

	for (int i = 0; i < ntopics; i++)
	{
		wanted[i] = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topics[i]);
		if (wanted[i] == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("invalid topic name \"%s\"", topics[i])));
		ks_admin_own(admin, wanted[i], (KsDestroy) rd_kafka_ConfigResource_destroy);
		/* To describe, only the names count; librdkafka wants a value all the same. */
		for (int j = 0; j < nnames; j++)
			rd_kafka_ConfigResource_set_config(wanted[i], names[j], "");
	}
	if (ntopics == 0)
		return found;
	rd_kafka_DescribeConfigs(admin->client->rk, wanted, ntopics,
							 ks_admin_options(admin, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS), ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_DESCRIBECONFIGS_RESULT, "describe configs");
	results = rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event), &nresults);
	/* They come back in the order of the request, but that is nowhere promised. */
	for (int i = 0; i < ntopics; i++)
		for (size_t j = 0; j < nresults && found[i] == NULL; j++)
			if (strcmp(rd_kafka_ConfigResource_name(results[(i + j) % nresults]), topics[i]) == 0)
				found[i] = results[(i + j) % nresults];
	return found;
}

void
ks_admin_pause(KsAdmin *admin, long ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
	long		left;

	while ((left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until)) > 0)
	{
		rd_kafka_event_t *event;

		if (admin->keep_events)
		{
			ks_client_sleep(admin->client, left, WAIT_NAME);
			continue;
		}
		ks_client_wait(admin->client, left, WAIT_NAME);
		while ((event = rd_kafka_queue_poll(admin->client->queue, 0)) != NULL)
		{
			if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR)
				ks_client_note_error(admin->client, rd_kafka_event_error(event), rd_kafka_event_error_string(event));
			rd_kafka_event_destroy(event);
		}
	}
}
