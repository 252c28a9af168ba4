/*
 * admin_acls.c: kafka.create_acl, drop_acl, list_acls.
 */
#include "postgres.h"

#include "kafka/admin.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(ks_create_acl);
PG_FUNCTION_INFO_V1(ks_drop_acl);
PG_FUNCTION_INFO_V1(ks_list_acls);

typedef struct AclWord
{
	const char *name;
	int			code;
} AclWord;

static const AclWord resource_types[] = {
	{"topic", RD_KAFKA_RESOURCE_TOPIC},
	{"group", RD_KAFKA_RESOURCE_GROUP},
	{"cluster", RD_KAFKA_RESOURCE_BROKER},
#if RD_KAFKA_VERSION >= 0x020600ff
	{"transactional_id", RD_KAFKA_RESOURCE_TRANSACTIONAL_ID},
#endif
	{"any", RD_KAFKA_RESOURCE_ANY},
	{NULL, 0}
};

static const AclWord pattern_types[] = {
	{"literal", RD_KAFKA_RESOURCE_PATTERN_LITERAL},
	{"prefixed", RD_KAFKA_RESOURCE_PATTERN_PREFIXED},
	{"match", RD_KAFKA_RESOURCE_PATTERN_MATCH},
	{"any", RD_KAFKA_RESOURCE_PATTERN_ANY},
	{NULL, 0}
};

static const AclWord operations[] = {
	{"all", RD_KAFKA_ACL_OPERATION_ALL},
	{"read", RD_KAFKA_ACL_OPERATION_READ},
	{"write", RD_KAFKA_ACL_OPERATION_WRITE},
	{"create", RD_KAFKA_ACL_OPERATION_CREATE},
	{"delete", RD_KAFKA_ACL_OPERATION_DELETE},
	{"alter", RD_KAFKA_ACL_OPERATION_ALTER},
	{"describe", RD_KAFKA_ACL_OPERATION_DESCRIBE},
	{"cluster_action", RD_KAFKA_ACL_OPERATION_CLUSTER_ACTION},
	{"describe_configs", RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS},
	{"alter_configs", RD_KAFKA_ACL_OPERATION_ALTER_CONFIGS},
	{"idempotent_write", RD_KAFKA_ACL_OPERATION_IDEMPOTENT_WRITE},
	{"any", RD_KAFKA_ACL_OPERATION_ANY},
	{NULL, 0}
};

static const AclWord permissions[] = {
	{"allow", RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW},
	{"deny", RD_KAFKA_ACL_PERMISSION_TYPE_DENY},
	{"any", RD_KAFKA_ACL_PERMISSION_TYPE_ANY},
	{NULL, 0}
};

/*
 * Returns the code of a word argument, in any case of letters.  In a filter NULL is "any"; elsewhere NULL, "any" and
 * "match" are errors.
 */
static int
word_arg(FunctionCallInfo fcinfo, int i, const char *name, const AclWord *words, bool filter)
{
	StringInfoData known;
	char	   *word;

	if (filter && PG_ARGISNULL(i))
		word = pstrdup("any");
	else
		word = ks_kafka_arg(fcinfo, i, name);
	initStringInfo(&known);
	for (; words->name; words++)
	{
		if (!filter && (strcmp(words->name, "any") == 0 || strcmp(words->name, "match") == 0))
			continue;
		if (pg_strcasecmp(words->name, word) == 0)
			return words->code;
		appendStringInfo(&known, "%s%s", known.len ? ", " : "", words->name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for argument \"%s\": \"%s\"", name, word),
			 errdetail("It must be one of: %s.", known.data)));
}

/* Returns the word of a code, as text. */
static Datum
word_datum(const AclWord *words, int code)
{
	for (; words->name; words++)
		if (words->code == code)
			return CStringGetTextDatum(words->name);
	return CStringGetTextDatum("unknown");
}

/* Returns the ACL, or the filter, that arguments 1 to 7 describe; owned by admin. ERROR if they describe none. */
static rd_kafka_AclBinding_t *
acl_arg(KsAdmin *admin, FunctionCallInfo fcinfo, bool filter)
{
	int			resource_type = word_arg(fcinfo, 1, "resource_type", resource_types, filter);
	int			pattern_type = word_arg(fcinfo, 3, "pattern_type", pattern_types, filter);
	int			operation = word_arg(fcinfo, 6, "operation", operations, filter);
	int			permission = word_arg(fcinfo, 7, "permission", permissions, filter);
	char	   *resource_name;
	char	   *principal;
	char	   *host;
	char		reason[256] = "";
	rd_kafka_AclBinding_t *acl;

	if (filter)
	{
		resource_name = ks_kafka_arg_or_null(fcinfo, 2);
		principal = ks_kafka_arg_or_null(fcinfo, 4);
		host = ks_kafka_arg_or_null(fcinfo, 5);
		acl = rd_kafka_AclBindingFilter_new(resource_type, resource_name, pattern_type, principal, host,
											operation, permission, reason, sizeof(reason));
	}
	else
	{
		resource_name = ks_kafka_arg(fcinfo, 2, "resource_name");
		principal = ks_kafka_arg(fcinfo, 4, "principal");
		host = ks_kafka_arg(fcinfo, 5, "host");
		acl = rd_kafka_AclBinding_new(resource_type, resource_name, pattern_type, principal, host,
									  operation, permission, reason, sizeof(reason));
	}
	if (acl == NULL)
		ks_kafka_error(admin, RD_KAFKA_RESP_ERR__INVALID_ARG, reason, "describe an ACL");
	return ks_admin_own(admin, acl, (KsDestroy) rd_kafka_AclBinding_destroy);
}

/* ERROR if "error" is one. */
static void
check_error(KsAdmin *admin, const rd_kafka_error_t *error, const char *what)
{
	if (error && rd_kafka_error_code(error))
		ks_kafka_error(admin, rd_kafka_error_code(error), rd_kafka_error_string(error), what);
}

/* create_acl with a handle. */
static Datum
create_acl(KsAdmin *admin, FunctionCallInfo fcinfo)
{
	rd_kafka_AclBinding_t *acl = acl_arg(admin, fcinfo, false);
	rd_kafka_event_t *event;
	const rd_kafka_acl_result_t **results;
	size_t		nresults;

	rd_kafka_CreateAcls(admin->client->rk, &acl, 1, ks_admin_options(admin, RD_KAFKA_ADMIN_OP_CREATEACLS),
						ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_CREATEACLS_RESULT, "create an ACL");
	results = rd_kafka_CreateAcls_result_acls(rd_kafka_event_CreateAcls_result(event), &nresults);
	for (size_t i = 0; i < nresults; i++)
		check_error(admin, rd_kafka_acl_result_error(results[i]), "create an ACL");
	PG_RETURN_VOID();
}

/* Takes a server and an ACL. ERROR if Kafka refuses. */
Datum
ks_create_acl(PG_FUNCTION_ARGS)
{
	return ks_admin_run(fcinfo, create_acl);
}

/* drop_acl with a handle. */
static Datum
drop_acl(KsAdmin *admin, FunctionCallInfo fcinfo)
{
	rd_kafka_AclBinding_t *filter = acl_arg(admin, fcinfo, true);
	rd_kafka_event_t *event;
	const rd_kafka_DeleteAcls_result_response_t **responses;
	size_t		nresponses;
	int64		dropped = 0;

	rd_kafka_DeleteAcls(admin->client->rk, &filter, 1, ks_admin_options(admin, RD_KAFKA_ADMIN_OP_DELETEACLS),
						ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_DELETEACLS_RESULT, "drop ACLs");
	responses = rd_kafka_DeleteAcls_result_responses(rd_kafka_event_DeleteAcls_result(event), &nresponses);
	for (size_t i = 0; i < nresponses; i++)
	{
		const rd_kafka_AclBinding_t **acls;
		size_t		nacls;

		check_error(admin, rd_kafka_DeleteAcls_result_response_error(responses[i]), "drop ACLs");
		acls = rd_kafka_DeleteAcls_result_response_matching_acls(responses[i], &nacls);
		for (size_t j = 0; j < nacls; j++)
			check_error(admin, rd_kafka_AclBinding_error(acls[j]), "drop an ACL");
		dropped += nacls;
	}
	PG_RETURN_INT64(dropped);
}

/* Takes a server and a filter (NULL = any); returns the number of ACLs dropped. ERROR if Kafka refuses. */
Datum
ks_drop_acl(PG_FUNCTION_ARGS)
{
	return ks_admin_run(fcinfo, drop_acl);
}

/* list_acls with a handle. */
static Datum
list_acls(KsAdmin *admin, FunctionCallInfo fcinfo)
{
	rd_kafka_AclBinding_t *filter = acl_arg(admin, fcinfo, true);
	rd_kafka_event_t *event;
	const rd_kafka_AclBinding_t **acls;
	size_t		nacls;

	rd_kafka_DescribeAcls(admin->client->rk, filter, ks_admin_options(admin, RD_KAFKA_ADMIN_OP_DESCRIBEACLS),
						  ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_DESCRIBEACLS_RESULT, "list ACLs");
	acls = rd_kafka_DescribeAcls_result_acls(rd_kafka_event_DescribeAcls_result(event), &nacls);
	for (size_t i = 0; i < nacls; i++)
	{
		Datum		values[7] = {0};
		bool		nulls[7] = {0};

		values[0] = word_datum(resource_types, rd_kafka_AclBinding_restype(acls[i]));
		values[1] = ks_kafka_text(rd_kafka_AclBinding_name(acls[i]));
		values[2] = word_datum(pattern_types, rd_kafka_AclBinding_resource_pattern_type(acls[i]));
		values[3] = ks_kafka_text(rd_kafka_AclBinding_principal(acls[i]));
		values[4] = ks_kafka_text(rd_kafka_AclBinding_host(acls[i]));
		values[5] = word_datum(operations, rd_kafka_AclBinding_operation(acls[i]));
		values[6] = word_datum(permissions, rd_kafka_AclBinding_permission_type(acls[i]));
		ks_put_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

/* Takes a server and a filter (NULL = any); returns a row per ACL. */
Datum
ks_list_acls(PG_FUNCTION_ARGS)
{
	return ks_admin_run(fcinfo, list_acls);
}
