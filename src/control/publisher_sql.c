/*
 * publisher_sql.c: the SQL functions that define publishers.  They only change catalog rows; the launcher is told at
 * commit.  The one exception: snapshot "never" makes the slot before the first write of its transaction, so that the
 * stream begins no later than the call.
 */
#include "postgres.h"

#include <inttypes.h>

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "control/definitions.h"
#include "control/hooks.h"
#include "control/shmem.h"
#include "control/slot_guard.h"
#include "kafka/properties.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(ks_new_id);
PG_FUNCTION_INFO_V1(ks_create_publisher);
PG_FUNCTION_INFO_V1(ks_alter_publisher);
PG_FUNCTION_INFO_V1(ks_drop_publisher);
PG_FUNCTION_INFO_V1(ks_pause_publisher);
PG_FUNCTION_INFO_V1(ks_resume_publisher);
PG_FUNCTION_INFO_V1(ks_set_topic);

/* kafka.new_id() */
Datum
ks_new_id(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(ks_random_id());
}

/* Has the decoding worker read the definitions again from this transaction's place in WAL on. */
static void
invalidate_publishers(void)
{
	CacheInvalidateRelcacheByRelid(ks_catalog_relid("publisher"));
}

/* The publisher of this name, that the current user may change, locked until the end of the transaction. */
static KsPublisher *
lock_own_publisher(const char *name)
{
	ks_publisher_lock(ks_own_publisher(name)->id);
	return ks_own_publisher(name);	/* as it is now */
}

/* ERROR unless this server and role can publish at all. */
static void
check_may_publish(void)
{
	ks_shmem_require();
	if (wal_level < WAL_LEVEL_LOGICAL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("publishers need wal_level = logical"),
				 errhint("Set wal_level to logical and restart the server.")));
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("publishers cannot be defined on a standby")));
	if (!superuser() && !has_rolreplication(GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to define publishers"),
				 errhint("The role needs the REPLICATION attribute.")));
}

static void
check_publication(const char *publication)
{
	if (!OidIsValid(get_publication_oid(publication, true)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("publication \"%s\" does not exist", publication),
				 errhint("Create it with CREATE PUBLICATION, or name one that pg_publication lists.")));
}

/* ERROR when another transaction is just making a publisher of the same name, or one exists. */
static void
check_new_name(const char *name)
{
	ks_name_lock("publisher", name);
	if (ks_publisher_by_name(name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("publisher \"%s\" already exists", name)));
}

/*
 * Makes the slot of a publisher whose stream begins here and now.  Must come before the transaction's first write: slot
 * creation waits for running transactions with an xid, its own among them.
 */
static void
make_slot_now(const char *slot_name)
{
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a publisher with snapshot \"never\" cannot be started in a transaction that has already written"),
				 errhint("Call the function in a transaction of its own.")));
	ks_slot_guard(slot_name);
	ks_slot_create_hook(slot_name);
}

/* NOTICE for published tables that a subscription writes: what it writes is not published unless asked for. */
static void
notice_targets(const char *publication)
{
	List	   *subscriptions = ks_subscriptions();
	ListCell   *lc;
	ListCell   *lt;

	foreach(lc, subscriptions)
	{
		KsSubscription *s = lfirst(lc);

		foreach(lt, s->targets)
		{
			KsTarget   *t = lfirst(lt);
			Oid			types[2] = {NAMEOID, OIDOID};
			NameData	n;
			Datum		values[2];

			namestrcpy(&n, publication);
			values[0] = NameGetDatum(&n);
			values[1] = ObjectIdGetDatum(t->relid);
			if (ks_catalog_execute("SELECT 1 FROM pg_catalog.pg_publication_tables p "
								   "JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname "
								   "JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename "
								   "WHERE p.pubname = $1 AND c.oid = $2", 2, types, values, NULL) > 0)
				ereport(NOTICE,
						(errmsg("rows that subscription \"%s\" writes into %s are not published", NameStr(s->name),
								quote_qualified_identifier(get_namespace_name(get_rel_namespace(t->relid)),
														   get_rel_name(t->relid))),
						 errhint("Set the publisher's option \"origin\" to \"any\" to publish them too.")));
		}
	}
}

/* kafka.create_publisher(name, server, publication, topic_prefix, format, snapshot, delivery, options, enabled) */
Datum
ks_create_publisher(PG_FUNCTION_ARGS)
{
	static const char *const formats[] = {"debezium", "json", NULL};
	static const char *const snapshots[] = {"initial", "never", "only", NULL};
	static const char *const deliveries[] = {"at_least_once", NULL};
	char	   *name = ks_name_arg(fcinfo, 0, "name");
	char	   *server = ks_name_arg(fcinfo, 1, "server");
	char	   *publication = ks_name_arg(fcinfo, 2, "publication");
	char	   *prefix = PG_ARGISNULL(3) ? get_database_name(MyDatabaseId) : text_to_cstring(PG_GETARG_TEXT_PP(3));
	char	   *format = ks_text_arg(fcinfo, 4, "format");
	char	   *snapshot = ks_text_arg(fcinfo, 5, "snapshot");
	char	   *delivery = ks_text_arg(fcinfo, 6, "delivery");
	Jsonb	   *options = PG_ARGISNULL(7) ? NULL : PG_GETARG_JSONB_P(7);
	bool		enabled = PG_ARGISNULL(8) || PG_GETARG_BOOL(8);
	bool		never = strcmp(snapshot, "never") == 0;
	int64		id = ks_random_id();
	char		slot_name[NAMEDATALEN];
	Oid			types[17] = {INT8OID, NAMEOID, OIDOID, NAMEOID, NAMEOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID,
	BOOLOID, NAMEOID, TEXTOID, INT8OID, INT8OID, INT8OID};
	Datum		values[16];
	NameData	names[4];

	check_may_publish();
	ks_check_word("format", format, formats);
	ks_check_word("snapshot", snapshot, snapshots);
	ks_check_word("delivery", delivery, deliveries);
	if (prefix[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topic_prefix must not be empty")));
	(void) ks_server_open(server, GetUserId());
	check_publication(publication);
	if (options == NULL)
		options = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	(void) ks_options_parse(KS_PUBLISHER, format, options, GetUserId());
	check_new_name(name);

	ks_slot_name(slot_name, MyDatabaseId, id);
	if (never && enabled)
		make_slot_now(slot_name);

	namestrcpy(&names[0], name);
	namestrcpy(&names[1], server);
	namestrcpy(&names[2], publication);
	namestrcpy(&names[3], slot_name);
	values[0] = Int64GetDatum(id);
	values[1] = NameGetDatum(&names[0]);
	values[2] = ObjectIdGetDatum(GetUserId());
	values[3] = NameGetDatum(&names[1]);
	values[4] = NameGetDatum(&names[2]);
	values[5] = CStringGetTextDatum(prefix);
	values[6] = CStringGetTextDatum(format);
	values[7] = CStringGetTextDatum(snapshot);
	values[8] = CStringGetTextDatum(delivery);
	values[9] = JsonbPGetDatum(options);
	values[10] = BoolGetDatum(enabled);
	values[11] = NameGetDatum(&names[3]);
	values[12] = CStringGetTextDatum(never ? "none" : "pending");
	values[13] = Int64GetDatum(never && enabled ? (int64) U64FromFullTransactionId(ReadNextFullTransactionId()) : 0);
	values[14] = Int64GetDatum((int64) GetSystemIdentifier());
	values[15] = Int64GetDatum((int64) MyDatabaseId);
	(void) ks_catalog_execute("INSERT INTO kafka.publisher (id, name, owner, server, publication, topic_prefix, format, "
							  "snapshot, delivery, options, enabled, version, slot_name, snapshot_state, snapshot_floor, "
							  "system_identifier, database_oid) "
							  "VALUES ($1, $2, $3::pg_catalog.regrole, $4, $5, $6, $7, $8, $9, $10, $11, 1, $12, $13, $14, $15, $16)",
							  16, types, values, NULL);
	invalidate_publishers();
	notice_targets(publication);
	if (!enabled)
		ereport(NOTICE,
				(errmsg("publisher \"%s\" is paused and has no replication slot yet", name),
				 errhint("It publishes changes from the moment of kafka.resume_publisher on.")));
	PG_RETURN_VOID();
}

/* kafka.alter_publisher(name, options) */
Datum
ks_alter_publisher(PG_FUNCTION_ARGS)
{
	static const char *const special[] = {"publication", "server", NULL};
	Jsonb	   *special_values[2];
	char	   *name = ks_name_arg(fcinfo, 0, "name");
	KsPublisher *p;
	Jsonb	   *merged;
	Oid			types[4] = {INT8OID, JSONBOID, NAMEOID, NAMEOID};
	Datum		values[4];
	NameData	publication;
	NameData	server;

	check_may_publish();
	p = lock_own_publisher(name);
	if (PG_ARGISNULL(1))
		PG_RETURN_VOID();
	merged = ks_merge_options(p->options_json, PG_GETARG_JSONB_P(1), special, special_values);
	(void) ks_options_parse(KS_PUBLISHER, p->format, merged, GetUserId());
	publication = p->publication;
	server = p->server;
	if (special_values[0])
	{
		namestrcpy(&publication, ks_special_name(special_values[0], "publication"));
		check_publication(NameStr(publication));
	}
	if (special_values[1])
	{
		namestrcpy(&server, ks_special_name(special_values[1], "server"));
		(void) ks_server_open(NameStr(server), GetUserId());
	}
	values[0] = Int64GetDatum(p->id);
	values[1] = JsonbPGetDatum(merged);
	values[2] = NameGetDatum(&publication);
	values[3] = NameGetDatum(&server);
	(void) ks_catalog_execute("UPDATE kafka.publisher SET options = $2, publication = $3, server = $4, version = version + 1 "
							  "WHERE id = $1", 4, types, values, NULL);
	invalidate_publishers();
	PG_RETURN_VOID();
}

/* kafka.drop_publisher(name, if_exists): its slot goes after the commit. */
Datum
ks_drop_publisher(PG_FUNCTION_ARGS)
{
	char	   *name = ks_name_arg(fcinfo, 0, "name");
	Oid			types[1] = {INT8OID};
	Datum		values[1];

	ks_shmem_require();
	if (!PG_ARGISNULL(1) && PG_GETARG_BOOL(1) && ks_publisher_by_name(name) == NULL)
	{
		ereport(NOTICE, (errmsg("publisher \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}
	values[0] = Int64GetDatum(lock_own_publisher(name)->id);
	(void) ks_catalog_execute("DELETE FROM kafka.publisher WHERE id = $1", 1, types, values, NULL);
	invalidate_publishers();
	PG_RETURN_VOID();
}

/* kafka.pause_publisher(name): durable; the slot stays, so nothing is lost. */
Datum
ks_pause_publisher(PG_FUNCTION_ARGS)
{
	KsPublisher *p;
	Oid			types[1] = {INT8OID};
	Datum		values[1];

	ks_shmem_require();
	p = lock_own_publisher(ks_name_arg(fcinfo, 0, "name"));
	values[0] = Int64GetDatum(p->id);
	(void) ks_catalog_execute("UPDATE kafka.publisher SET enabled = false, version = version + 1 WHERE id = $1",
							  1, types, values, NULL);
	PG_RETURN_VOID();
}

/*
 * kafka.resume_publisher(name): goes on, or tries again at once after an error.  A publisher that has no slot yet gets
 * one; one that came from elsewhere (restored, cloned) begins anew here, under a new identifier.
 */
Datum
ks_resume_publisher(PG_FUNCTION_ARGS)
{
	KsPublisher *p;
	Oid			types[6] = {INT8OID, INT8OID, NAMEOID, INT8OID, INT8OID, INT8OID};
	Datum		values[6];
	NameData	slot;
	bool		foreign;
	bool		never;
	int64		id;
	int64		floor;

	check_may_publish();
	p = lock_own_publisher(ks_name_arg(fcinfo, 0, "name"));
	foreign = !ks_belongs_here(p->system_identifier, p->database_oid);
	never = strcmp(p->snapshot, "never") == 0;
	id = foreign ? ks_random_id() : p->id;
	floor = foreign ? 0 : p->snapshot_floor;
	slot = p->slot_name;
	if (foreign)
		ks_slot_name(NameStr(slot), MyDatabaseId, id);
	if (never && floor == 0)
	{
		make_slot_now(NameStr(slot));
		floor = (int64) U64FromFullTransactionId(ReadNextFullTransactionId());
	}
	values[0] = Int64GetDatum(p->id);
	values[1] = Int64GetDatum(id);
	values[2] = NameGetDatum(&slot);
	values[3] = Int64GetDatum(floor);
	values[4] = Int64GetDatum((int64) GetSystemIdentifier());
	values[5] = Int64GetDatum((int64) MyDatabaseId);
	if (foreign)
		(void) ks_catalog_execute("DELETE FROM kafka.publisher_snapshot WHERE publisher_id = $1", 1, types, values, NULL);
	(void) ks_catalog_execute("UPDATE kafka.publisher SET enabled = true, version = version + 1, id = $2, slot_name = $3, "
							  "snapshot_floor = CASE WHEN id <> $2 OR snapshot_floor = 0 THEN $4 ELSE snapshot_floor END, system_identifier = $5, database_oid = $6, "
							  "snapshot_state = CASE WHEN id <> $2 AND snapshot <> 'never' THEN 'pending' ELSE snapshot_state END "
							  "WHERE id = $1", 6, types, values, NULL);
	invalidate_publishers();
	PG_RETURN_VOID();
}

/* ERROR unless every key column exists and old rows in WAL carry it. Returns nothing. */
static void
check_key_columns(Relation rel, int nkeys, char **keys)
{
	Bitmapset  *identity = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_IDENTITY_KEY);

	for (int i = 0; i < nkeys; i++)
	{
		AttrNumber	attnum = get_attnum(RelationGetRelid(rel), keys[i]);

		if (attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist", keys[i], RelationGetRelationName(rel))));
		for (int j = 0; j < i; j++)
			if (strcmp(keys[i], keys[j]) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column \"%s\" appears twice in the key", keys[i])));
		if (rel->rd_rel->relreplident != REPLICA_IDENTITY_FULL &&
			!bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, identity))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("column \"%s\" cannot be part of the message key of \"%s\": its replica identity does not cover it",
							keys[i], RelationGetRelationName(rel)),
					 errhint("Run ALTER TABLE %s REPLICA IDENTITY FULL first.",
							 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
														RelationGetRelationName(rel)))));
	}
}

/* ERROR for a topic name that Kafka refuses. */
static void
check_topic_name(const char *topic)
{
	size_t		size = strlen(topic);

	if (size == 0 || size > 249 || strcmp(topic, ".") == 0 || strcmp(topic, "..") == 0 ||
		strspn(topic, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != size)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid topic name: \"%s\"", topic),
				 errhint("Topic names have 1 to 249 characters out of a-z, A-Z, 0-9, '.', '_' and '-'.")));
}

/* kafka.set_topic(publisher, relation, topic, key): both NULL goes back to the defaults. */
Datum
ks_set_topic(PG_FUNCTION_ARGS)
{
	KsPublisher *p;
	Relation	rel;
	int			nkeys = 0;
	char	  **keys = NULL;
	Oid			types[4] = {INT8OID, OIDOID, TEXTOID, TEXTARRAYOID};
	Datum		values[4];
	char		nulls[4] = {' ', ' ', ' ', ' '};

	check_may_publish();
	p = lock_own_publisher(ks_name_arg(fcinfo, 0, "publisher"));
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("relation must not be null")));
	if (ks_is_own_relation(PG_GETARG_OID(1)))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("tables of pg_kafka_sync are never published")));
	rel = table_open(PG_GETARG_OID(1), AccessShareLock);
	if (!PG_ARGISNULL(2))
		check_topic_name(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	if (!PG_ARGISNULL(3))
	{
		Datum	   *elements;
		bool	   *element_nulls;

		deconstruct_array(PG_GETARG_ARRAYTYPE_P(3), TEXTOID, -1, false, TYPALIGN_INT, &elements, &element_nulls, &nkeys);
		keys = palloc(sizeof(char *) * Max(nkeys, 1));
		for (int i = 0; i < nkeys; i++)
		{
			if (element_nulls[i])
				ereport(ERROR,
						(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						 errmsg("key must not contain nulls")));
			keys[i] = TextDatumGetCString(elements[i]);
		}
		if (nkeys == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("key must name at least one column")));
		check_key_columns(rel, nkeys, keys);
	}
	values[0] = Int64GetDatum(p->id);
	values[1] = ObjectIdGetDatum(RelationGetRelid(rel));
	values[2] = PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2);
	values[3] = PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3);
	nulls[2] = PG_ARGISNULL(2) ? 'n' : ' ';
	nulls[3] = PG_ARGISNULL(3) ? 'n' : ' ';
	/* a user catalog table takes no ON CONFLICT; the publisher's lock keeps others out meanwhile */
	(void) ks_catalog_execute("DELETE FROM kafka.publisher_relation WHERE publisher_id = $1 AND relation::pg_catalog.oid = $2",
							  2, types, values, NULL);
	if (!PG_ARGISNULL(2) || !PG_ARGISNULL(3))
		(void) ks_catalog_execute("INSERT INTO kafka.publisher_relation (publisher_id, relation, topic, key) "
								  "VALUES ($1, $2::pg_catalog.regclass, $3, $4)",
								  4, types, values, nulls);
	(void) ks_catalog_execute("UPDATE kafka.publisher SET version = version + 1 WHERE id = $1", 1, types, values, NULL);
	CacheInvalidateRelcache(rel);
	invalidate_publishers();
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}
