/*
 * subscription_sql.c: the SQL functions that define subscriptions.  Where the subscription begins is resolved to one
 * offset per partition, and stored, before a function returns.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/catalog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "compat/pg_compat.h"
#include "control/definitions.h"
#include "control/shmem.h"
#include "kafka/log_position.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(ks_create_subscription);
PG_FUNCTION_INFO_V1(ks_alter_subscription);
PG_FUNCTION_INFO_V1(ks_drop_subscription);
PG_FUNCTION_INFO_V1(ks_pause_subscription);
PG_FUNCTION_INFO_V1(ks_resume_subscription);
PG_FUNCTION_INFO_V1(ks_seek_subscription);

/* Elements of a text[] argument; ERROR for nulls, an empty array, or an element that comes twice. */
static char **
text_list(ArrayType *array, const char *what, int *count)
{
	Datum	   *elements;
	bool	   *nulls;
	char	  **result;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, count);
	if (*count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what)));
	result = palloc(sizeof(char *) * *count);
	for (int i = 0; i < *count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", what)));
		result[i] = TextDatumGetCString(elements[i]);
		for (int j = 0; j < i; j++)
			if (strcmp(result[i], result[j]) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_OBJECT),
						 errmsg("\"%s\" appears twice in %s", result[i], what)));
	}
	return result;
}

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

/* The names of an index' key columns, if it can be a target's key (unique, immediate, plain columns, not partial). */
static List *
index_columns(Relation rel, Oid indexid)
{
	Relation	index = index_open(indexid, AccessShareLock);
	List	   *names = NIL;
	bool		usable = index->rd_index->indisunique && index->rd_index->indisvalid && index->rd_index->indimmediate &&
		RelationGetIndexPredicate(index) == NIL && RelationGetIndexExpressions(index) == NIL;

	for (int i = 0; usable && i < index->rd_index->indnkeyatts; i++)
		names = lappend(names, pstrdup(NameStr(TupleDescAttr(RelationGetDescr(rel),
															 index->rd_index->indkey.values[i] - 1)->attname)));
	index_close(index, AccessShareLock);
	return names;
}

/* Do the two lists hold the same names, in any order? */
static bool
same_names(List *a, List *b)
{
	ListCell   *la;
	ListCell   *lb;

	if (list_length(a) != list_length(b))
		return false;
	foreach(la, a)
	{
		bool		found = false;

		foreach(lb, b)
			found = found || strcmp(lfirst(la), lfirst(lb)) == 0;
		if (!found)
			return false;
	}
	return true;
}

/*
 * The key columns of a target: those asked for (which a unique index must cover exactly), or the primary key's.
 * Returns a text[] Datum.
 */
static Datum
resolve_key(Relation rel, List *asked)
{
	List	   *indexes = RelationGetIndexList(rel);
	List	   *key = NIL;
	ListCell   *lc;
	Datum	   *elements;
	int			n = 0;

	foreach(lc, asked)
		if (get_attnum(RelationGetRelid(rel), lfirst(lc)) <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist", (char *) lfirst(lc),
							RelationGetRelationName(rel))));
	foreach(lc, indexes)
	{
		List	   *columns;

		if (asked == NIL && lfirst_oid(lc) != rel->rd_pkindex)
			continue;
		columns = index_columns(rel, lfirst_oid(lc));
		if (asked == NIL || same_names(columns, asked))
			key = columns;
		if (key != NIL)
			break;
	}
	if (key == NIL && asked == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("target \"%s\" has no primary key", RelationGetRelationName(rel)),
				 errhint("Add a primary key, or name the columns of a unique index as key.")));
	if (key == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no unique index of target \"%s\" has exactly the key's columns", RelationGetRelationName(rel)),
				 errhint("Create a unique index, not partial and not deferrable, on these columns.")));
	elements = palloc(sizeof(Datum) * list_length(key));
	foreach(lc, key)
		elements[n++] = CStringGetTextDatum(lfirst(lc));
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* ERROR unless the current user may have the extension write this table. Returns the key as a text[] Datum. */
static Datum
check_target(Oid relid, List *asked_key)
{
	Relation	rel = table_open(relid, AccessShareLock);
	Datum		key;

	if (rel->rd_rel->relkind != RELKIND_RELATION && rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("target \"%s\" is not a table", RelationGetRelationName(rel)),
				 errhint("A target is an ordinary or a partitioned table.")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("target \"%s\" is a temporary table", RelationGetRelationName(rel))));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("target \"%s\" is an unlogged table", RelationGetRelationName(rel)),
				 errdetail("A crash would empty it while the offsets stay.")));
	if (IsSystemRelation(rel) || ks_is_own_relation(relid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be a target", RelationGetRelationName(rel))));
	if (!ks_member_can_set_role(GetUserId(), rel->rd_rel->relowner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be able to SET ROLE to the owner of table \"%s\"", RelationGetRelationName(rel)),
				 errdetail("Rows are written with the rights of the table's owner.")));
	key = resolve_key(rel, asked_key);
	table_close(rel, NoLock);
	return key;
}

/* ERROR if another subscription writes this table. */
static void
check_target_free(Oid relid)
{
	List	   *subscriptions = ks_subscriptions();
	ListCell   *lc;
	ListCell   *lt;

	foreach(lc, subscriptions)
		foreach(lt, ((KsSubscription *) lfirst(lc))->targets)
			if (((KsTarget *) lfirst(lt))->relid == relid)
				ereport(NOTICE,
						(errmsg("subscription \"%s\" writes into this table too",
								NameStr(((KsSubscription *) lfirst(lc))->name))));
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

static const char *const on_errors[] = {"stop", "dead_letter", NULL};

/* ERROR if the topic for dead letters is one that the subscription reads. */
static void
check_dead_letter_topic(const KsOptions *options, char **topics, int ntopics)
{
	const char *topic = options->text_value[KS_OPT_DLQ_TOPIC];

	for (int i = 0; topic && i < ntopics; i++)
	{
		bool		read = topics[i][0] == '^'
			? DatumGetBool(DirectFunctionCall2Coll(textregexeq, C_COLLATION_OID, CStringGetTextDatum(topic),
												   CStringGetTextDatum(topics[i])))
			: strcmp(topics[i], topic) == 0;

		if (read)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"%s\": the subscription reads topic \"%s\" itself",
							"errors.deadletterqueue.topic.name", topic)));
	}
}

/*
 * kafka.create_subscription(name, server, topics, target, format, mode, key, start, on_error, workers, options, enabled)
 */
Datum
ks_create_subscription(PG_FUNCTION_ARGS)
{
	static const char *const formats[] = {"debezium", "json", NULL};
	static const char *const modes[] = {"upsert", NULL};
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
	List	   *asked_key = NIL;
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
	topics = text_list(PG_GETARG_ARRAYTYPE_P(2), "topics", &ntopics);
	check_topics(topics, ntopics);
	ks_check_word("format", format, formats);
	ks_check_word("mode", mode, modes);
	ks_check_word("on_error", on_error, on_errors);
	if (workers != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a subscription has one worker in this version"),
				 errhint("Leave workers at 1; several subscriptions can share a topic by option \"partitions\".")));
	(void) ks_server_open(server, GetUserId());
	if (options == NULL)
		options = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	parsed = ks_options_parse(KS_SUBSCRIPTION, format, options, GetUserId());
	if (parsed->text_value[KS_OPT_PARTITIONS])
		(void) ks_partition_selected(parsed->text_value[KS_OPT_PARTITIONS], 0);
	check_dead_letter_topic(parsed, topics, ntopics);
	if (ks_subscription_by_name(name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription \"%s\" already exists", name)));
	if (!PG_ARGISNULL(6))
	{
		int			nkeys;
		char	  **keys = text_list(PG_GETARG_ARRAYTYPE_P(6), "key", &nkeys);

		for (int i = 0; i < nkeys; i++)
			asked_key = lappend(asked_key, keys[i]);
	}
	if (!PG_ARGISNULL(3))
	{
		key = check_target(PG_GETARG_OID(3), asked_key);
		check_target_free(PG_GETARG_OID(3));
	}

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
		Oid			target_types[4] = {INT8OID, OIDOID, TEXTOID, TEXTARRAYOID};
		Datum		target_values[4] = {values[0], PG_GETARG_DATUM(3), CStringGetTextDatum(mode), key};

		(void) ks_catalog_execute("INSERT INTO kafka.subscription_target (subscription_id, target, mode, key) "
								  "VALUES ($1, $2::pg_catalog.regclass, $3, $4)", 4, target_types, target_values, NULL);
	}
	store_start(id, server, GetUserId(), topics, ntopics, start, parsed->text_value[KS_OPT_PARTITIONS]);
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

/* Removes the positions of topics that a changed list does not name any more. */
static void
forget_topics(int64 id, ArrayType *topics)
{
	Oid			types[2] = {INT8OID, TEXTARRAYOID};
	Datum		values[2] = {Int64GetDatum(id), PointerGetDatum(topics)};

	(void) ks_catalog_execute("DELETE FROM kafka.subscription_position WHERE subscription_id = $1 "
							  "AND NOT EXISTS (SELECT 1 FROM pg_catalog.unnest($2) t WHERE t = topic "
							  "OR (t ^@ '^' AND topic ~ t))", 2, types, values, NULL);
}

/* kafka.alter_subscription(name, options) */
Datum
ks_alter_subscription(PG_FUNCTION_ARGS)
{
	static const char *const special[] = {"topics", "server", "on_error", NULL};
	Jsonb	   *special_values[3];
	char	   *name = ks_name_arg(fcinfo, 0, "name");
	KsSubscription *s;
	KsOptions  *parsed;
	Jsonb	   *merged;
	Oid			types[5] = {INT8OID, JSONBOID, NAMEOID, TEXTARRAYOID, TEXTOID};
	Datum		values[5];
	char		nulls[5] = {' ', ' ', ' ', 'n', ' '};
	NameData	server;
	char	  **topics;
	int			ntopics;
	char	   *on_error;

	ks_shmem_require();
	s = ks_own_subscription(name);
	if (PG_ARGISNULL(1))
		PG_RETURN_VOID();
	ks_subscription_lock(s->id, true);
	s = ks_own_subscription(name);
	merged = ks_merge_options(s->options_json, PG_GETARG_JSONB_P(1), special, special_values);
	parsed = ks_options_parse(KS_SUBSCRIPTION, s->format, merged, GetUserId());
	if (parsed->text_value[KS_OPT_PARTITIONS])
		(void) ks_partition_selected(parsed->text_value[KS_OPT_PARTITIONS], 0);
	server = s->server;
	topics = s->topics;
	ntopics = s->ntopics;
	on_error = s->on_error;
	if (special_values[0])
	{
		ArrayType  *array = special_texts(special_values[0], "topics");

		topics = text_list(array, "topics", &ntopics);
		check_topics(topics, ntopics);
		forget_topics(s->id, array);
		values[3] = PointerGetDatum(array);
		nulls[3] = ' ';
	}
	if (special_values[2])
	{
		on_error = ks_special_name(special_values[2], "on_error");
		ks_check_word("on_error", on_error, on_errors);
	}
	check_dead_letter_topic(parsed, topics, ntopics);
	if (special_values[1])
	{
		namestrcpy(&server, ks_special_name(special_values[1], "server"));
		(void) ks_server_open(NameStr(server), GetUserId());
	}
	values[0] = Int64GetDatum(s->id);
	values[1] = JsonbPGetDatum(merged);
	values[2] = NameGetDatum(&server);
	values[4] = CStringGetTextDatum(on_error);
	(void) ks_catalog_execute("UPDATE kafka.subscription SET options = $2, server = $3, topics = coalesce($4, topics), "
							  "on_error = $5, version = version + 1 WHERE id = $1", 5, types, values, nulls);
	PG_RETURN_VOID();
}

/* kafka.drop_subscription(name, if_exists): needs no broker; the target keeps its rows. */
Datum
ks_drop_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = ks_name_arg(fcinfo, 0, "name");
	Oid			types[1] = {INT8OID};
	Datum		values[1];
	KsSubscription *s;

	ks_shmem_require();
	if (!PG_ARGISNULL(1) && PG_GETARG_BOOL(1) && ks_subscription_by_name(name) == NULL)
	{
		ereport(NOTICE, (errmsg("subscription \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}
	s = ks_own_subscription(name);
	ks_subscription_lock(s->id, true);
	ks_drop_dead_letters(s, InvalidOid);
	values[0] = Int64GetDatum(s->id);
	(void) ks_catalog_execute("DELETE FROM kafka.subscription WHERE id = $1", 1, types, values, NULL);
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
 * partitions that it names.
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
	foreach(lc, positions)
	{
		KsPartitionPosition *p = lfirst(lc);

		if (!ks_partition_selected(options->text_value[KS_OPT_PARTITIONS], p->partition))
			continue;
		if (!p->named)
			continue;			/* stays where it is */
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
								  "SET next_offset = excluded.next_offset, start_offset = excluded.start_offset, "
								  "last_offset = NULL, last_timestamp = NULL, last_checksum = NULL",
								  4, types, values, NULL);
	}
	(void) ks_catalog_execute("UPDATE kafka.subscription SET version = version + 1 WHERE id = $1", 1, types, values, NULL);
	PG_RETURN_VOID();
}
