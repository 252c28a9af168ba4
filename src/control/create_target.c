/*
 * create_target.c: see create_target.h.
 */
#include "postgres.h"

#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "compat/pg_compat.h"
#include "control/conflict_definition.h"
#include "control/create_target.h"
#include "control/definitions.h"
#include "control/target_definition.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/varlena.h"

/* Adds a member to an object. */
static void
put_text(JsonbParseState **state, const char *name, const char *text)
{
	JsonbValue	v;

	v.type = jbvString;
	v.val.string.val = unconstify(char *, name);
	v.val.string.len = strlen(name);
	pushJsonbValue(state, WJB_KEY, &v);
	v.val.string.val = unconstify(char *, text);
	v.val.string.len = strlen(text);
	pushJsonbValue(state, WJB_VALUE, &v);
}

/* See create_target.h. */
Jsonb *
ks_create_target_complete(Jsonb *options, const char *schema, const char *mode, List *key)
{
	JsonbParseState *state = NULL;
	JsonbValue	v;
	ListCell   *lc;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (schema)
		put_text(&state, "create_target.schema", schema);
	if (strcmp(mode, "upsert") != 0)
		put_text(&state, "create_target.mode", mode);
	if (key)
	{
		v.type = jbvString;
		v.val.string.val = "create_target.key";
		v.val.string.len = strlen(v.val.string.val);
		pushJsonbValue(&state, WJB_KEY, &v);
		pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
		foreach(lc, key)
		{
			v.val.string.val = lfirst(lc);
			v.val.string.len = strlen(v.val.string.val);
			pushJsonbValue(&state, WJB_ELEM, &v);
		}
		pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	}
	/* what the options say themselves comes first */
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat,
											  JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL))),
											  JsonbPGetDatum(options)));
}

/* See create_target.h. */
void
ks_create_target_name(const KsOptions *options, char **schema, char **table)
{
	const char *text = options->text_value[KS_OPT_CREATE_TARGET_NAME];
	List	   *parts = NIL;

	*schema = *table = NULL;
	if (text == NULL)
		return;
	if (!SplitIdentifierString(pstrdup(text), '.', &parts) || list_length(parts) < 1 || list_length(parts) > 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": %s", "create_target.name", text),
				 errhint("Allowed is a table's name as in SQL, with or without its schema.")));
	*table = llast(parts);
	if (list_length(parts) == 2)
		*schema = linitial(parts);
}

/* See create_target.h. */
List *
ks_create_target_key(const KsOptions *options)
{
	const char *text = options->text_value[KS_OPT_CREATE_TARGET_KEY];
	Jsonb	   *array;
	List	   *names = NIL;

	if (text == NULL)
		return NIL;
	array = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	for (uint32 i = 0; i < JB_ROOT_COUNT(array); i++)
	{
		JsonbValue *v = getIthJsonbValueFromContainer(&array->root, i);

		names = lappend(names, pnstrdup(v->val.string.val, v->val.string.len));
	}
	return names;
}

/* See create_target.h. */
void
ks_create_target_check_place(const char *schema, const char *table, Oid owner)
{
	Oid			namespace = get_namespace_oid(schema, true);

	if (!OidIsValid(namespace))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("cannot create the target: schema \"%s\" does not exist", schema),
				 errhint("Create it, or name another one in option \"create_target.name\".")));
	if (IsCatalogNamespace(namespace) || IsToastNamespace(namespace) || isAnyTempNamespace(namespace) ||
		namespace == ks_catalog_schema())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot create the target in schema \"%s\"", schema),
				 errhint("Name another one in option \"create_target.name\".")));
	if (ks_schema_aclcheck(namespace, owner, ACL_USAGE) != ACLCHECK_OK ||
		ks_schema_aclcheck(namespace, owner, ACL_CREATE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot create the target: the subscription's owner \"%s\" may not create tables in schema \"%s\"",
						GetUserNameFromId(owner, false), schema),
				 errhint("GRANT USAGE, CREATE ON SCHEMA %s TO %s, or name another one in option \"create_target.name\".",
						 quote_identifier(schema), quote_identifier(GetUserNameFromId(owner, false)))));
	if (table && OidIsValid(get_relname_relid(table, namespace)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("cannot create the target: %s exists already", quote_qualified_identifier(schema, table)),
				 errhint("Make it the target with kafka.add_target, or name another one in option \"create_target.name\".")));
}

/* ERROR: the option does not go with something else. */
static void
does_not_go(const char *with, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" does not go with %s", "create_target", with),
			 errhint("%s", hint)));
}

/* See create_target.h. */
void
ks_create_target_check(const KsOptions *options, const char *format, char **topics, int ntopics, Oid owner)
{
	char	   *schema;
	char	   *table;

	if (!options->bool_value[KS_OPT_CREATE_TARGET])
		return;
	if (ntopics != 1 || topics[0][0] == '^')
		does_not_go("several topics or a pattern",
					"Make a subscription per topic, or create the tables and name them with kafka.add_target.");
	if (strcmp(format, "raw") == 0 || strcmp(format, "syslog") == 0)
		does_not_go(psprintf("format %s", format), "Create the table, and pass it as target.");
	if (options->given[KS_OPT_METADATA_COLUMNS])
		does_not_go("option \"metadata_columns\"", "Create the table, and pass it as target.");
	if (strcmp(options->text_value[KS_OPT_CREATE_TARGET_MODE], "append") == 0 && ks_create_target_key(options) != NIL)
		does_not_go("a key in mode append", "Every event becomes a row of its own: leave the key out.");
	ks_create_target_name(options, &schema, &table);
	if (schema == NULL)
		schema = options->text_value[KS_OPT_CREATE_TARGET_SCHEMA];
	if (schema == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("no schema has been selected to create the target in"),
				 errhint("Name it in option \"create_target.name\" or \"create_target.schema\".")));
	ks_create_target_check_place(schema, table, owner);
}

/* See create_target.h. */
void
ks_create_target_end(int64 id)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(id)};

	(void) ks_catalog_execute("UPDATE kafka.subscription SET version = version + 1, options = options - "
							  "'{create_target,create_target.name,create_target.schema,create_target.mode,create_target.key}'"
							  "::pg_catalog.text[] WHERE id = $1 AND options ? 'create_target'", 1, types, values, NULL);
}

/* See create_target.h. */
void
ks_create_target_store(const KsSubscription *s, Oid relid)
{
	KsTargetRequest request = {0};
	Datum		key;

	request.relid = relid;
	request.mode = s->options->text_value[KS_OPT_CREATE_TARGET_MODE];
	request.options = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	(void) ks_target_check(&request, s->owner, &key);
	ks_conflict_check_target(s->options, relid, request.mode, false, key);
	ks_target_store(&request, s->id, key);
	ks_conflict_settle(relid);
	ks_create_target_end(s->id);
}
