/*
 * subscription_sql.c: the SQL functions that define subscriptions.  Where the subscription begins is resolved to one
 * offset per partition, and stored, before a function returns.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "control/conflict_definition.h"
#include "control/create_target.h"
#include "control/definitions.h"
#include "control/hooks.h"
#include "control/rebuild_sql.h"
#include "control/shmem.h"
#include "control/target_definition.h"
#include "control/target_view.h"
#include "kafka/log_position.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

PG_FUNCTION_INFO_V1(ks_create_subscription);
PG_FUNCTION_INFO_V1(ks_alter_subscription);
PG_FUNCTION_INFO_V1(ks_drop_subscription);
PG_FUNCTION_INFO_V1(ks_pause_subscription);
PG_FUNCTION_INFO_V1(ks_resume_subscription);
PG_FUNCTION_INFO_V1(ks_seek_subscription);

/* ERROR for a topic name or pattern that cannot be right. */
static void
check_topics(char **topics, int ntopics)
{
	for (int i = 0; i < ntopics; i++)
	{
		size_t		size = strlen(topics[i]);

		if (topics[i][0] == '^')
		{
			/* the pattern is matched by librdkafka's POSIX regular expressions; ours find the mistakes */
			text	   *re = cstring_to_text(topics[i]);

			(void) RE_compile_and_cache(re, REG_EXTENDED, C_COLLATION_OID);
			continue;
		}
		if (size == 0 || size > 249 ||
			strspn(topics[i], "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != size)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("invalid topic name: \"%s\"", topics[i]),
					 errhint("Topic names have 1 to 249 characters out of a-z, A-Z, 0-9, '.', '_' and '-'; a pattern begins with '^'.")));
	}
}

/*
 * Resolves "start" and stores one row per partition in kafka.subscription_position (replacing what is there).  "spec"
 * is option "partitions" (NULL = all).
 */
static void
store_start(int64 id, const char *server, Oid owner, char **topics, int ntopics, const char *start, const char *spec)
{
	KsServer   *s = ks_server_open(server, owner);
	List	   *positions = ks_resolve_start(s, topics, ntopics, start, true);
	ListCell   *lc;
	Oid			types[4] = {INT8OID, TEXTOID, INT4OID, INT8OID};
	Datum		values[4];

	values[0] = Int64GetDatum(id);
	(void) ks_catalog_execute("DELETE FROM kafka.subscription_position WHERE subscription_id = $1", 1, types, values, NULL);
	foreach(lc, positions)
	{
		KsPartitionPosition *p = lfirst(lc);

		if (!ks_partition_selected(spec, p->partition))
			continue;
		values[1] = CStringGetTextDatum(p->topic);
		values[2] = Int32GetDatum(p->partition);
		values[3] = Int64GetDatum(p->offset);
		(void) ks_catalog_execute("INSERT INTO kafka.subscription_position (subscription_id, topic, partition, next_offset, start_offset) "
								  "VALUES ($1, $2, $3, $4, $4)", 4, types, values, NULL);
	}
	for (int i = 0; i < ntopics; i++)
	{
		bool		found = topics[i][0] == '^';

		foreach(lc, positions)
			found = found || strcmp(((KsPartitionPosition *) lfirst(lc))->topic, topics[i]) == 0;
		if (!found)
			ereport(NOTICE,
					(errmsg("topic \"%s\" does not exist yet", topics[i]),
					 errdetail("The subscription waits for it and reads it from its beginning.")));
	}
}

/* ERROR for a number of workers that the server has no room for. */
static void
check_workers(int64 workers)
{
	if (workers < 1 || workers > ks_guc_max_workers)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid number of workers: " INT64_FORMAT, workers),
				 errhint("Allowed is 1 to %d (pg_kafka_sync.max_workers).", ks_guc_max_workers)));
}

static const char *const on_errors[] = {"stop", "dead_letter", NULL};

/* ERROR if the topic for dead letters is one that the subscription reads. */
static void
check_dead_letter_topic(const KsOptions *options, char **topics, int ntopics)
{
	const char *topic = options->text_value[KS_OPT_DLQ_TOPIC];

	if (topic && ks_reads_topic(topics, ntopics, topic))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": the subscription reads topic \"%s\" itself",
						"errors.deadletterqueue.topic.name", topic)));
}

/* The schema that the caller's search_path creates tables in, NULL if there is none. */
static char *
creation_schema(void)
{
	List	   *path = fetch_search_path(false);

	return path == NIL || isAnyTempNamespace(linitial_oid(path)) ? NULL : get_namespace_name(linitial_oid(path));
}

/*
 * What create_subscription does once it is known where the caller makes tables.
 *
 * kafka.create_subscription(name, server, topics, target, format, mode, key, start, on_error, workers, options, enabled)
 */
static void
create_subscription(FunctionCallInfo fcinfo, const char *schema)
{
	static const char *const formats[] = {"debezium", "json", "csv", "syslog", "raw", NULL};
	char	   *name = ks_name_arg(fcinfo, 0, "name");
	char	   *server = ks_name_arg(fcinfo, 1, "server");
	char	   *format = ks_text_arg(fcinfo, 4, "format");
	char	   *mode = ks_text_arg(fcinfo, 5, "mode");
	char	   *start = ks_text_arg(fcinfo, 7, "start");
	char	   *on_error = ks_text_arg(fcinfo, 8, "on_error");
	int32		workers = PG_ARGISNULL(9) ? 1 : PG_GETARG_INT32(9);
	Jsonb	   *options = PG_ARGISNULL(10) ? NULL : PG_GETARG_JSONB_P(10);
	bool		enabled = PG_ARGISNULL(11) || PG_GETARG_BOOL(11);
	KsOptions  *parsed;
	char	  **topics;
	int			ntopics;
	KsTargetRequest target = {0};
	Datum		key = (Datum) 0;
	Oid			types[13] = {INT8OID, NAMEOID, OIDOID, NAMEOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, JSONBOID,
	BOOLOID, INT8OID, INT8OID};
	Datum		values[13];
	NameData	names[2];
	int64		id;

	ks_shmem_require();
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("topics must not be null")));
	topics = ks_text_list(PG_GETARG_ARRAYTYPE_P(2), "topics", &ntopics);
	check_topics(topics, ntopics);
	ks_check_word("format", format, formats);
	ks_check_word("on_error", on_error, on_errors);
	check_workers(workers);
	(void) ks_server_open(server, GetUserId());
	if (options == NULL)
		options = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	if (!PG_ARGISNULL(6))
		target.key = ks_text_names(PG_GETARG_ARRAYTYPE_P(6), "key");
	parsed = ks_options_parse(KS_SUBSCRIPTION, format, options, GetUserId());
	if (parsed->bool_value[KS_OPT_CREATE_TARGET])
	{
		if (!PG_ARGISNULL(3))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" does not go with argument target", "create_target"),
					 errhint("The table is created: leave out one of the two.")));
		options = ks_create_target_complete(options, schema, mode, target.key);
		parsed = ks_options_parse(KS_SUBSCRIPTION, format, options, GetUserId());
		ks_create_target_check(parsed, format, topics, ntopics, GetUserId());
	}
	else if (parsed->given[KS_OPT_CREATE_TARGET_NAME] || parsed->given[KS_OPT_CREATE_TARGET_SCHEMA] ||
			 parsed->given[KS_OPT_CREATE_TARGET_MODE] || parsed->given[KS_OPT_CREATE_TARGET_KEY])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options \"create_target.name\", \"create_target.schema\", \"create_target.mode\" and \"create_target.key\" need option \"create_target\""),
				 errhint("Set it to true, or leave these out.")));
	ks_format_check_hook(format, parsed);
	if (parsed->text_value[KS_OPT_PARTITIONS])
		(void) ks_partition_selected(parsed->text_value[KS_OPT_PARTITIONS], 0);
	check_dead_letter_topic(parsed, topics, ntopics);
	ks_conflict_check(format, parsed);
	ks_name_lock("subscription", name);
	if (ks_subscription_by_name(name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription \"%s\" already exists", name)));
	target.mode = mode;
	target.options = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	if (!PG_ARGISNULL(3))
	{
		target.relid = PG_GETARG_OID(3);
		(void) ks_target_check(&target, GetUserId(), &key);
		ks_conflict_check_target(parsed, target.relid, mode, false, key);
	}
	else
		ks_target_check_mode(&target);

	id = ks_random_id();
	namestrcpy(&names[0], name);
	namestrcpy(&names[1], server);
	values[0] = Int64GetDatum(id);
	values[1] = NameGetDatum(&names[0]);
	values[2] = ObjectIdGetDatum(GetUserId());
	values[3] = NameGetDatum(&names[1]);
	values[4] = PG_GETARG_DATUM(2);
	values[5] = CStringGetTextDatum(format);
	values[6] = CStringGetTextDatum(start);
	values[7] = CStringGetTextDatum(on_error);
	values[8] = Int32GetDatum(workers);
	values[9] = JsonbPGetDatum(options);
	values[10] = BoolGetDatum(enabled);
	values[11] = Int64GetDatum((int64) GetSystemIdentifier());
	values[12] = Int64GetDatum((int64) MyDatabaseId);
	(void) ks_catalog_execute("INSERT INTO kafka.subscription (id, name, owner, server, topics, format, start, on_error, "
							  "workers, options, enabled, version, system_identifier, database_oid) "
							  "VALUES ($1, $2, $3::pg_catalog.regrole, $4, $5, $6, $7, $8, $9, $10, $11, 1, $12, $13)",
							  13, types, values, NULL);
	if (!PG_ARGISNULL(3))
	{
		ks_target_store(&target, id, key);
		ks_conflict_settle(target.relid);
	}
	store_start(id, server, GetUserId(), topics, ntopics, start, parsed->text_value[KS_OPT_PARTITIONS]);
	if (parsed->bool_value[KS_OPT_CREATE_TARGET])
		mode = parsed->text_value[KS_OPT_CREATE_TARGET_MODE];
	else if (PG_ARGISNULL(3))
		return;
	if (strcmp(mode, "upsert") != 0)
		ks_rebuild_check_past(ks_own_subscription(name), mode,
							  "Begin at its end (start => 'latest'), or add the target with kafka.add_target and option "
							  "\"hydrate\": false to take what is left.");
}

/*
 * kafka.create_subscription(): like kafka.add_target, it runs with the caller's search_path, until that is known.
 */
Datum
ks_create_subscription(PG_FUNCTION_ARGS)
{
	char	   *schema = creation_schema();
	int			nest_level = NewGUCNestLevel();

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
	create_subscription(fcinfo, schema);
	AtEOXact_GUC(true, nest_level);
	PG_RETURN_VOID();
}

/* A JSON array of strings as a text[]; ERROR for anything else. */
static ArrayType *
special_texts(Jsonb *value, const char *key)
{
	JsonbIterator *it = JsonbIteratorInit(&value->root);
	JsonbValue	v;
	JsonbIteratorToken token;
	Datum	   *elements = palloc(sizeof(Datum) * Max(JB_ROOT_COUNT(value), 1));
	int			n = 0;

	if (!JB_ROOT_IS_ARRAY(value) || JB_ROOT_IS_SCALAR(value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\"", key),
				 errhint("Allowed is an array of strings.")));
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (v.type != jbvString)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"%s\"", key),
					 errhint("Allowed is an array of strings.")));
		elements[n++] = PointerGetDatum(cstring_to_text_with_len(v.val.string.val, v.val.string.len));
	}
	return construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT);
}

/* The number given for "workers"; null is the default. */
static int32
special_workers(Jsonb *value)
{
	JsonbValue	v;
	char	   *text = NULL;
	int64		workers = 1;

	if (JB_ROOT_IS_SCALAR(value) && JsonbExtractScalar(&value->root, &v))
	{
		if (v.type == jbvNull)
			return 1;
		if (v.type == jbvNumeric)
			text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v.val.numeric)));
		else if (v.type == jbvString)
			text = pnstrdup(v.val.string.val, v.val.string.len);
	}
	if (text == NULL || text[0] == '\0' || strlen(text) > 9 || strspn(text, "0123456789") != strlen(text))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"workers\": %s", JsonbToCString(NULL, &value->root, VARSIZE(value))),
				 errhint("Allowed is 1 to %d (pg_kafka_sync.max_workers).", ks_guc_max_workers)));
	workers = atoi(text);
	check_workers(workers);
	return (int32) workers;
}

/* Removes the positions of topics that a changed list does not name any more. */
static void
forget_topics(int64 id, ArrayType *topics)
{
	Oid			types[2] = {INT8OID, TEXTARRAYOID};
	Datum		values[2] = {Int64GetDatum(id), PointerGetDatum(topics)};

	(void) ks_catalog_execute("DELETE FROM kafka.subscription_position WHERE subscription_id = $1 "
							  "AND NOT EXISTS (SELECT 1 FROM pg_catalog.unnest($2) t WHERE t = topic "
							  "OR (t ^@ '^' AND topic ~ t))", 2, types, values, NULL);
	(void) ks_catalog_execute("DELETE FROM kafka.rebuild_position WHERE subscription_id = $1 "
							  "AND NOT EXISTS (SELECT 1 FROM pg_catalog.unnest($2) t WHERE t = topic "
							  "OR (t ^@ '^' AND topic ~ t))", 2, types, values, NULL);
}

/* ERROR if a target does not suit the changed options, as far as two databases write it. */
static void
check_conflict(const KsSubscription *s, const KsOptions *options)
{
	ListCell   *lc;

	ks_conflict_check(s->format, options);
	if (strcmp(options->text_value[KS_OPT_CONFLICT], "apply") != 0 && ks_rebuild_pending(s->id, false))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" is being rebuilt", NameStr(s->name)),
				 errhint("Set option \"conflict\" when that is over.")));
	foreach(lc, s->targets)
	{
		KsTarget   *t = lfirst(lc);
		Datum	   *names = palloc(sizeof(Datum) * Max(t->nkeys, 1));

		for (int i = 0; i < t->nkeys; i++)
			names[i] = CStringGetTextDatum(t->keys[i]);
		ks_conflict_check_target(options, t->relid, t->mode, t->query != NULL,
								 PointerGetDatum(construct_array(names, t->nkeys, TEXTOID, -1, false, TYPALIGN_INT)));
	}
}

/* kafka.alter_subscription(name, options) */
Datum
ks_alter_subscription(PG_FUNCTION_ARGS)
{
	static const char *const special[] = {"topics", "server", "workers", "on_error", NULL};
	Jsonb	   *special_values[4];
	char	   *name = ks_name_arg(fcinfo, 0, "name");
	KsSubscription *s;
	KsOptions  *parsed;
	Jsonb	   *merged;
	Oid			types[6] = {INT8OID, JSONBOID, NAMEOID, TEXTARRAYOID, INT4OID, TEXTOID};
	Datum		values[6];
	char		nulls[6] = {' ', ' ', ' ', 'n', ' ', ' '};
	NameData	server;
	char	  **topics;
	int			ntopics;
	char	   *on_error;
	ListCell   *lc;

	ks_shmem_require();
	s = ks_own_subscription(name);
	if (PG_ARGISNULL(1))
		PG_RETURN_VOID();
	ks_subscription_lock(s->id, true);
	s = ks_own_subscription(name);
	merged = ks_merge_options(s->options_json, PG_GETARG_JSONB_P(1), special, special_values);
	parsed = ks_options_parse(KS_SUBSCRIPTION, s->format, merged, GetUserId());
	ks_format_check_hook(s->format, parsed);
	if (parsed->text_value[KS_OPT_PARTITIONS])
		(void) ks_partition_selected(parsed->text_value[KS_OPT_PARTITIONS], 0);
	check_conflict(s, parsed);
	ks_forget_partitions(s->id, parsed->text_value[KS_OPT_PARTITIONS]);
	server = s->server;
	topics = s->topics;
	ntopics = s->ntopics;
	on_error = s->on_error;
	if (special_values[0])
	{
		ArrayType  *array = special_texts(special_values[0], "topics");

		topics = ks_text_list(array, "topics", &ntopics);
		check_topics(topics, ntopics);
		forget_topics(s->id, array);
		values[3] = PointerGetDatum(array);
		nulls[3] = ' ';
	}
	if (special_values[3])
	{
		on_error = ks_special_name(special_values[3], "on_error");
		ks_check_word("on_error", on_error, on_errors);
	}
	check_dead_letter_topic(parsed, topics, ntopics);
	if (s->targets == NIL)
	{
		ks_create_target_check(parsed, s->format, topics, ntopics, s->owner);
		if (parsed->bool_value[KS_OPT_CREATE_TARGET] && strcmp(parsed->text_value[KS_OPT_CREATE_TARGET_MODE], "upsert") != 0)
			ks_rebuild_check_past(s, parsed->text_value[KS_OPT_CREATE_TARGET_MODE],
								  "Begin at its end (kafka.seek_subscription), or add the target with kafka.add_target and "
								  "option \"hydrate\": false to take what is left.");
	}
	else if (parsed->bool_value[KS_OPT_CREATE_TARGET])
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" has a target already", name),
				 errhint("Option \"create_target\" is for subscriptions without one.")));
	if (special_values[1])
	{
		namestrcpy(&server, ks_special_name(special_values[1], "server"));
		(void) ks_server_open(NameStr(server), GetUserId());
	}
	values[0] = Int64GetDatum(s->id);
	values[1] = JsonbPGetDatum(merged);
	values[2] = NameGetDatum(&server);
	values[4] = Int32GetDatum(special_values[2] ? special_workers(special_values[2]) : s->workers);
	values[5] = CStringGetTextDatum(on_error);
	(void) ks_catalog_execute("UPDATE kafka.subscription SET options = $2, server = $3, topics = coalesce($4, topics), "
							  "workers = $5, on_error = $6, version = version + 1 WHERE id = $1", 6, types, values, nulls);
	foreach(lc, s->targets)
		ks_conflict_settle(((KsTarget *) lfirst(lc))->relid);
	PG_RETURN_VOID();
}

/* kafka.drop_subscription(name, if_exists): needs no broker; the targets keep their rows. */
Datum
ks_drop_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = ks_name_arg(fcinfo, 0, "name");
	Oid			types[1] = {INT8OID};
	Datum		values[1];
	KsSubscription *s;
	ListCell   *lc;

	ks_shmem_require();
	if (!PG_ARGISNULL(1) && PG_GETARG_BOOL(1) && ks_subscription_by_name(name) == NULL)
	{
		ereport(NOTICE, (errmsg("subscription \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}
	s = ks_own_subscription(name);
	ks_subscription_lock(s->id, true);
	s = ks_own_subscription(name);
	ks_drop_dead_letters(s, InvalidOid);
	values[0] = Int64GetDatum(s->id);
	(void) ks_catalog_execute("DELETE FROM kafka.subscription WHERE id = $1", 1, types, values, NULL);
	foreach(lc, s->targets)
	{
		ks_target_view_drop(((KsTarget *) lfirst(lc))->view);
		ks_conflict_settle(((KsTarget *) lfirst(lc))->relid);
	}
	PG_RETURN_VOID();
}

/* Sets "enabled" of a subscription; resuming one that was cloned makes it this database's own. */
static void
set_enabled(FunctionCallInfo fcinfo, bool enabled)
{
	KsSubscription *s;
	Oid			types[4] = {INT8OID, BOOLOID, INT8OID, INT8OID};
	Datum		values[4];

	ks_shmem_require();
	s = ks_own_subscription(ks_name_arg(fcinfo, 0, "name"));
	ks_subscription_lock(s->id, true);
	values[0] = Int64GetDatum(s->id);
	values[1] = BoolGetDatum(enabled);
	values[2] = Int64GetDatum(enabled ? (int64) GetSystemIdentifier() : s->system_identifier);
	values[3] = Int64GetDatum(enabled ? (int64) MyDatabaseId : s->database_oid);
	(void) ks_catalog_execute("UPDATE kafka.subscription SET enabled = $2, version = version + 1, system_identifier = $3, "
							  "database_oid = $4 WHERE id = $1", 4, types, values, NULL);
}

/* kafka.pause_subscription(name): durable. */
Datum
ks_pause_subscription(PG_FUNCTION_ARGS)
{
	set_enabled(fcinfo, false);
	PG_RETURN_VOID();
}

/* kafka.resume_subscription(name): goes on, or tries again at once after an error. */
Datum
ks_resume_subscription(PG_FUNCTION_ARGS)
{
	set_enabled(fcinfo, true);
	PG_RETURN_VOID();
}

/*
 * kafka.seek_subscription(name, start, force): where the next message is read from.  A JSON start moves only the
 * partitions that it names.  A rebuild still begins where the subscription began, the earliest of its starts.
 */
Datum
ks_seek_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = ks_name_arg(fcinfo, 0, "name");
	char	   *start = ks_text_arg(fcinfo, 1, "start");
	bool		force = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	KsSubscription *s;
	KsOptions  *options;
	List	   *positions;
	ListCell   *lc;
	Oid			types[4] = {INT8OID, TEXTOID, INT4OID, INT8OID};
	Datum		values[4];

	ks_shmem_require();
	s = ks_own_subscription(name);
	options = ks_subscription_options(s);
	/* Kafka first, so that the worker is not held up by a slow broker */
	positions = ks_resolve_start(ks_server_open(NameStr(s->server), s->owner), s->topics, s->ntopics, start, true);
	ks_subscription_lock(s->id, true);
	values[0] = Int64GetDatum(s->id);
	if (ks_rebuild_pending(s->id, false) && start[strspn(start, " \t\n")] != '{')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" is being rebuilt", name),
				 errhint("Wait until that is over. Single messages can be skipped meanwhile, with offsets as start.")));
	foreach(lc, positions)
	{
		KsPartitionPosition *p = lfirst(lc);

		if (!ks_partition_selected(options->text_value[KS_OPT_PARTITIONS], p->partition))
			continue;
		if (!p->named)
			continue;			/* stays where it is */
		if (ks_rebuild_seek(s->id, p->topic, p->partition, p->offset))
			continue;
		if (strcmp(start, "earliest") == 0 && p->low > 0 && !force)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("partition %d of topic \"%s\" has lost its beginning: it starts at offset " INT64_FORMAT,
							p->partition, p->topic, p->low),
					 errhint("Pass force => true to read what is left.")));
		values[1] = CStringGetTextDatum(p->topic);
		values[2] = Int32GetDatum(p->partition);
		values[3] = Int64GetDatum(p->offset);
		(void) ks_catalog_execute("INSERT INTO kafka.subscription_position (subscription_id, topic, partition, next_offset, start_offset) "
								  "VALUES ($1, $2, $3, $4, $4) ON CONFLICT (subscription_id, topic, partition) DO UPDATE "
								  "SET next_offset = excluded.next_offset, "
								  "start_offset = least(subscription_position.start_offset, excluded.start_offset), "
								  "last_offset = NULL, last_timestamp = NULL, last_checksum = NULL, "
								  "anchor_offset = NULL, read_at = NULL, topic_id = NULL, generation = kafka.new_id(), "
								  /* what is read again is no repeat */
								  "producers = CASE WHEN excluded.next_offset >= subscription_position.next_offset "
								  "THEN subscription_position.producers END",
								  4, types, values, NULL);
	}
	(void) ks_catalog_execute("UPDATE kafka.subscription SET version = version + 1 WHERE id = $1", 1, types, values, NULL);
	/* as in ks_offsets_add */
	ForceSyncCommit();
	PG_RETURN_VOID();
}
