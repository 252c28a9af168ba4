/*
 * errors.c: errors of Kafka and librdkafka in PostgreSQL's terms.
 */
#include "postgres.h"

#include "kafka/admin.h"

int
ks_kafka_sqlstate(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS:
			return ERRCODE_DUPLICATE_OBJECT;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND:
		case RD_KAFKA_RESP_ERR_RESOURCE_NOT_FOUND:
			return ERRCODE_UNDEFINED_OBJECT;
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
			return ERRCODE_INSUFFICIENT_PRIVILEGE;
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
			return ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
			return ERRCODE_INVALID_NAME;
		case RD_KAFKA_RESP_ERR_INVALID_CONFIG:
		case RD_KAFKA_RESP_ERR_INVALID_PARTITIONS:
		case RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR:
		case RD_KAFKA_RESP_ERR_INVALID_REPLICA_ASSIGNMENT:
		case RD_KAFKA_RESP_ERR_INVALID_REQUEST:
		case RD_KAFKA_RESP_ERR_INVALID_PRINCIPAL_TYPE:
		case RD_KAFKA_RESP_ERR_INVALID_GROUP_ID:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
		case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
		case RD_KAFKA_RESP_ERR_INVALID_MSG:
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
		case RD_KAFKA_RESP_ERR__INVALID_ARG:
			return ERRCODE_INVALID_PARAMETER_VALUE;
		case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
		case RD_KAFKA_RESP_ERR_TOPIC_DELETION_DISABLED:
		case RD_KAFKA_RESP_ERR_SECURITY_DISABLED:
			return ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION:
		case RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE:
			return ERRCODE_FEATURE_NOT_SUPPORTED;
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
		case RD_KAFKA_RESP_ERR__QUEUE_FULL:
			return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
		case RD_KAFKA_RESP_ERR__RESOLVE:
		case RD_KAFKA_RESP_ERR__SSL:
			return ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
		case RD_KAFKA_RESP_ERR__TIMED_OUT:
		case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT:
		case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
		case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
			return ERRCODE_CONNECTION_FAILURE;
		default:
			return ERRCODE_FDW_ERROR;
	}
}

/* Returns what can be done about an error, or NULL. */
static const char *
hint_for(rd_kafka_resp_err_t err)
{
	if (ks_kafka_sqlstate(err) == ERRCODE_INSUFFICIENT_PRIVILEGE)
		return "The Kafka user of the server's user mapping needs an ACL for this.";
	if (err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
		return "Raise \"message.max.bytes\" of the server and \"max.message.bytes\" of the topic.";
	if (err == RD_KAFKA_RESP_ERR_INVALID_RECORD)
		return "A compacted topic takes no message without a key.";
	return NULL;
}

void
ks_kafka_error(const KsAdmin *admin, rd_kafka_resp_err_t err, const char *detail, const char *what)
{
	char		text[512];

	/* The broker's own text for a missing ACL is its request object printed in full. */
	if (detail == NULL || detail[0] == '\0' || ks_kafka_sqlstate(err) == ERRCODE_INSUFFICIENT_PRIVILEGE)
		detail = rd_kafka_err2str(err);
	ks_client_scrub(admin->client, detail, text, sizeof(text));
	if (err == RD_KAFKA_RESP_ERR__AUTHENTICATION || err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
		ks_unreachable_error(admin->client);
	ereport(ERROR,
			(errcode(ks_kafka_sqlstate(err)),
			 errmsg("could not %s on Kafka server \"%s\"", what, admin->server->name),
			 errdetail("Kafka says: %s (%s)", text, rd_kafka_err2name(err)),
			 hint_for(err) ? errhint("%s", hint_for(err)) : 0));
}

void
ks_unreachable_error(const KsClient *client)
{
	bool		login = client->last_err == RD_KAFKA_RESP_ERR__AUTHENTICATION;

	if (login)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("login to Kafka server \"%s\" failed", client->server_name),
				 errdetail("Kafka says: %s", client->last_error),
				 errhint("Check the user mapping, and \"security.protocol\" and \"sasl.mechanisms\" of the server.")));
	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("could not reach a broker of Kafka server \"%s\"", client->server_name),
			 client->last_error[0] ? errdetail("Kafka says: %s", client->last_error) :
			 errdetail("None of them answered in time."),
			 errhint("Check \"bootstrap.servers\" and \"security.protocol\" of the server, and that its brokers are running.")));
}
