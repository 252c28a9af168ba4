/*
 * arguments.c: SQL arguments and results of the topic functions.  Kafka's names are UTF-8 whatever the database's
 * encoding is.
 */
#include "postgres.h"

#include "funcapi.h"
#include "kafka/admin.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/tuplestore.h"

char *
ks_kafka_arg(FunctionCallInfo fcinfo, int i, const char *name)
{
	if (PG_ARGISNULL(i))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
	return ks_kafka_arg_or_null(fcinfo, i);
}

char *
ks_kafka_arg_or_null(FunctionCallInfo fcinfo, int i)
{
	char	   *value;

	if (PG_ARGISNULL(i))
		return NULL;
	value = text_to_cstring(PG_GETARG_TEXT_PP(i));
	return pg_server_to_any(value, strlen(value), PG_UTF8);
}

Datum
ks_kafka_text(const char *utf8)
{
	return CStringGetTextDatum(pg_any_to_server(utf8, strlen(utf8), PG_UTF8));
}

/* Returns a scalar of a jsonb object as Kafka writes it; NULL for null. ERROR for arrays and objects. */
static char *
config_value(const char *name, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return NULL;
		case jbvString:
			{
				char	   *copy = pnstrdup(value->val.string.val, value->val.string.len);

				return pg_server_to_any(copy, strlen(copy), PG_UTF8);
			}
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		default:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for topic config \"%s\"", name),
					 errdetail("It must be a string, a number, a boolean, or null.")));
	}
	return NULL;
}

KsConfig *
ks_config_arg(FunctionCallInfo fcinfo, int i, const char *name, int *nconfigs)
{
	Jsonb	   *jsonb;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	KsConfig   *configs;
	int			n = 0;

	*nconfigs = 0;
	if (PG_ARGISNULL(i))
		return NULL;
	jsonb = PG_GETARG_JSONB_P(i);
	if (!JB_ROOT_IS_OBJECT(jsonb))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must be a JSON object", name),
				 errhint("For example: {\"cleanup.policy\": \"compact\", \"retention.ms\": 86400000}.")));
	configs = palloc0(sizeof(KsConfig) * (JB_ROOT_COUNT(jsonb) + 1));
	iterator = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			configs[n].name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
		{
			configs[n].value = config_value(configs[n].name, &value);
			n++;
		}
	}
	*nconfigs = n;
	return configs;
}

void
ks_put_row(FunctionCallInfo fcinfo, const Datum *values, const bool *nulls)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	tuplestore_putvalues(result->setResult, result->setDesc, unconstify(Datum *, values), unconstify(bool *, nulls));
}
