/*
 * plugin_options.c: options of the plain output plugin; see plugin_options.h.
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "decode/plugin_options.h"
#include "event/codec.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"

/* Appends one option to the text of a JSON object: true, false and numbers as such, anything else as a string. */
static void
append_option(StringInfo json, const char *name, const char *value)
{
	const char *digits = value[0] == '-' ? value + 1 : value;
	bool		literal = strcmp(value, "true") == 0 || strcmp(value, "false") == 0 ||
		(digits[0] != '\0' && strspn(digits, "0123456789") == strlen(digits) && (digits[0] != '0' || digits[1] == '\0'));

	if (json->len > 1)
		appendStringInfoChar(json, ',');
	escape_json(json, name);
	appendStringInfoChar(json, ':');
	if (literal)
		appendStringInfoString(json, value);
	else
		escape_json(json, value);
}

/* Name of this database, as a copy in CurrentMemoryContext. */
static char *
database_name(void)
{
	MemoryContext context = CurrentMemoryContext;
	bool		own_transaction = !IsTransactionState();
	char	   *name;

	if (own_transaction)
		StartTransactionCommand();
	name = MemoryContextStrdup(context, get_database_name(MyDatabaseId));
	if (own_transaction)
		CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return name;
}

KsPublisher *
ks_plugin_options(List *options)
{
	KsPublisher *p = palloc0(sizeof(KsPublisher));
	StringInfoData json;
	ListCell   *lc;
	bool		publication = false;

	namestrcpy(&p->name, "pg_kafka_sync");
	p->format = "debezium";
	p->version = 1;
	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	foreach(lc, options)
	{
		DefElem    *option = lfirst(lc);
		const char *value = option->arg ? strVal(option->arg) : "true";

		if (strcmp(option->defname, "publication") == 0)
		{
			namestrcpy(&p->publication, value);
			publication = true;
		}
		else if (strcmp(option->defname, "format") == 0)
			p->format = pstrdup(value);
		else if (strcmp(option->defname, "topic_prefix") == 0)
			p->topic_prefix = pstrdup(value);
		else
			append_option(&json, option->defname, value);
	}
	appendStringInfoChar(&json, '}');
	if (!publication)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"publication\" is missing"),
				 errhint("Name a publication, for example with pg_recvlogical -o publication=my_publication.")));
	if (ks_encoder_ops(p->format) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"format\": \"%s\"", p->format),
				 errhint("Formats are \"debezium\" and \"json\".")));
	if (p->topic_prefix == NULL)
		p->topic_prefix = database_name();
	p->options_json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
	p->options = ks_options_parse(KS_PUBLISHER, p->format, p->options_json, InvalidOid);
	return p;
}
