/*
 * rebuild_sql.c: kafka.rebuild_subscription, and the requests that the subscription's worker acts on.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "compat/pg_compat.h"
#include "control/conflict_definition.h"
#include "control/definitions.h"
#include "control/foreign_table.h"
#include "control/rebuild_sql.h"
#include "control/shmem.h"
#include "kafka/log_position.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(ks_rebuild_subscription);
PG_FUNCTION_INFO_V1(ks_rebuild_removed);

/* Runs a query on our tables that returns one bigint; def if it returns no row or null. */
static int64
ask(const char *sql, int nargs, Oid *types, Datum *values, int64 def)
{
	KsIdentity	saved;
	int64		result = def;

	ks_become_superuser(&saved);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(sql, nargs, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the extension's tables");
	if (SPI_processed > 0)
	{
		bool		null;
		Datum		d = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null);

		if (!null)
			result = DatumGetInt64(d);
	}
	SPI_finish();
	ks_become_caller(&saved);
	return result;
}

/* Where a partition was read from at first, 0 if it is not known yet. */
static int64
start_offset(int64 subscription_id, const char *topic, int32 partition)
{
	Oid			types[3] = {INT8OID, TEXTOID, INT4OID};
	Datum		values[3] = {Int64GetDatum(subscription_id), CStringGetTextDatum(topic), Int32GetDatum(partition)};

	return ask("SELECT start_offset FROM kafka.subscription_position "
			   "WHERE subscription_id = $1 AND topic = $2 AND partition = $3", 3, types, values, 0);
}

/* Does a topic drop all but the last message of a key? */
static bool
is_compacted(const KsSubscription *s, const char *topic)
{
	Oid			types[2] = {NAMEOID, TEXTOID};
	Datum		values[2] = {NameGetDatum(&s->server), CStringGetTextDatum(topic)};
	int64		result = 0;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT 1 FROM kafka.topic_config($1, $2) "
							  "WHERE name = 'cleanup.policy' AND value ~ 'compact'",
							  2, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the topic's configuration");
	result = (int64) SPI_processed;
	SPI_finish();
	return result > 0;
}

/* See rebuild_sql.h. */
void
ks_forget_partitions(int64 subscription_id, const char *spec)
{
	Oid			types[2] = {INT8OID, INT4OID};
	Datum		values[2] = {Int64GetDatum(subscription_id)};
	MemoryContext context = CurrentMemoryContext;
	List	   *unread = NIL;
	ListCell   *lc;
	KsIdentity	saved;

	ks_become_superuser(&saved);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT partition FROM kafka.subscription_position WHERE subscription_id = $1 "
							  "UNION SELECT partition FROM kafka.rebuild_position WHERE subscription_id = $1",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kafka.subscription_position");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		null;
		int32		partition = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &null));

		if (!ks_partition_selected(spec, partition))
		{
			MemoryContext old = MemoryContextSwitchTo(context);

			unread = lappend_int(unread, partition);
			MemoryContextSwitchTo(old);
		}
	}
	SPI_finish();
	ks_become_caller(&saved);
	foreach(lc, unread)
	{
		values[1] = Int32GetDatum(lfirst_int(lc));
		(void) ks_catalog_execute("DELETE FROM kafka.subscription_position WHERE subscription_id = $1 AND partition = $2",
								  2, types, values, NULL);
		(void) ks_catalog_execute("DELETE FROM kafka.rebuild_position WHERE subscription_id = $1 AND partition = $2",
								  2, types, values, NULL);
	}
}

/* Is a partition in a list of KsPartitionPosition? */
static bool
is_listed(List *positions, const char *topic, int32 partition)
{
	ListCell   *lc;

	foreach(lc, positions)
	{
		KsPartitionPosition *p = lfirst(lc);

		if (p->partition == partition && strcmp(p->topic, topic) == 0)
			return true;
	}
	return false;
}

/* ERROR if something was read from a partition that is not among those that there are now. */
static void
check_none_gone(const KsSubscription *s, const char *spec, List *positions, const char *hint)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(s->id)};
	KsIdentity	saved;

	ks_become_superuser(&saved);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT topic, partition FROM kafka.subscription_position WHERE subscription_id = $1 "
							  "AND start_offset < next_offset ORDER BY topic, partition",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kafka.subscription_position");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *topic = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		bool		null;
		int32		partition = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &null));

		if (ks_partition_selected(spec, partition) && !is_listed(positions, topic, partition))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("partition %d of topic \"%s\" does not exist any more", partition, topic),
					 errdetail("The subscription has read messages of it; rows that came from them would be missing."),
					 errhint("%s", hint)));
	}
	SPI_finish();
	ks_become_caller(&saved);
}

/* See rebuild_sql.h. */
void
ks_rebuild_check(const KsSubscription *s, Oid target, const char *hint)
{
	KsOptions  *options = ks_subscription_options(s);
	List	   *positions = ks_resolve_start(ks_server_open(NameStr(s->server), s->owner), s->topics, s->ntopics,
											 "earliest", true);
	const char *folding = NULL;
	const char *checked = "";
	ListCell   *lc;

	foreach(lc, s->targets)
	{
		KsTarget   *t = lfirst(lc);

		if ((!OidIsValid(target) || t->relid == target) && strcmp(t->mode, "upsert") != 0)
			folding = t->mode;
	}
	check_none_gone(s, options->text_value[KS_OPT_PARTITIONS], positions, hint);
	foreach(lc, positions)
	{
		KsPartitionPosition *p = lfirst(lc);
		int64		start;

		if (!ks_partition_selected(options->text_value[KS_OPT_PARTITIONS], p->partition))
			continue;
		start = start_offset(s->id, p->topic, p->partition);
		/* a log that ends before it is another one, and read from its own beginning */
		if (start > p->stable)
			start = 0;
		if (p->low > start)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("partition %d of topic \"%s\" has lost its beginning: it starts at offset " INT64_FORMAT,
							p->partition, p->topic, p->low),
					 errdetail("The subscription began at offset " INT64_FORMAT "; rows that came from the messages in "
							   "between would vanish.", start),
					 errhint("%s", hint)));
		if (folding && strcmp(checked, p->topic) != 0 && is_compacted(s, p->topic))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("topic \"%s\" is compacted: a target of mode %s cannot be read again from it", p->topic, folding),
					 errdetail("All but the last message of each key may be gone."),
					 errhint("%s", hint)));
		checked = p->topic;
	}
}

/* See rebuild_sql.h. */
void
ks_rebuild_check_past(const KsSubscription *s, const char *mode, const char *hint)
{
	KsOptions  *options = ks_subscription_options(s);
	List	   *positions = ks_resolve_start(ks_server_open(NameStr(s->server), s->owner), s->topics, s->ntopics,
											 "earliest", true);
	const char *checked = "";
	ListCell   *lc;

	foreach(lc, positions)
	{
		KsPartitionPosition *p = lfirst(lc);

		if (!ks_partition_selected(options->text_value[KS_OPT_PARTITIONS], p->partition) ||
			strcmp(checked, p->topic) == 0 || start_offset(s->id, p->topic, p->partition) >= p->stable)
			continue;
		if (is_compacted(s, p->topic))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("topic \"%s\" is compacted: mode %s could lack events of the past", p->topic, mode),
					 errdetail("All but the last message of each key may be gone."),
					 errhint("%s", hint)));
		checked = p->topic;
	}
}

/* See rebuild_sql.h. */
void
ks_rebuild_request(int64 subscription_id, Oid target, const char *kind, bool force)
{
	Oid			types[4] = {INT8OID, OIDOID, TEXTOID, BOOLOID};
	Datum		values[4] = {Int64GetDatum(subscription_id), ObjectIdGetDatum(target), CStringGetTextDatum(kind),
	BoolGetDatum(force)};

	(void) ks_catalog_execute("INSERT INTO kafka.subscription_rebuild (id, subscription_id, target, kind, state, force, requested_at) "
							  "SELECT kafka.new_id(), $1, target, $3, 'pending', $4, pg_catalog.clock_timestamp() "
							  "FROM kafka.subscription_target WHERE subscription_id = $1 AND ($2 = 0 OR target = $2) "
							  "ON CONFLICT (subscription_id, target) DO UPDATE SET kind = excluded.kind, state = 'pending', "
							  "force = excluded.force, requested_at = excluded.requested_at, started_at = NULL",
							  4, types, values, NULL);
	(void) ks_catalog_execute("UPDATE kafka.subscription SET version = version + 1 WHERE id = $1", 1, types, values, NULL);
}

/* See rebuild_sql.h. */
bool
ks_rebuild_pending(int64 subscription_id, bool all)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(subscription_id)};

	if (all)
		return ask("SELECT 1::bigint WHERE NOT EXISTS (SELECT 1 FROM kafka.subscription_target t WHERE t.subscription_id = $1 "
				   "AND NOT EXISTS (SELECT 1 FROM kafka.subscription_rebuild b "
				   "WHERE b.subscription_id = $1 AND b.target = t.target))", 1, types, values, 0) > 0;
	return ask("SELECT 1::bigint FROM kafka.subscription_rebuild WHERE subscription_id = $1", 1, types, values, 0) > 0;
}

/* See rebuild_sql.h. */
bool
ks_rebuild_seek(int64 subscription_id, const char *topic, int32 partition, int64 offset)
{
	Oid			types[5] = {INT8OID, TEXTOID, INT4OID, INT8OID, BOOLOID};
	Datum		values[5];

	if (!ks_rebuild_pending(subscription_id, false))
		return false;
	values[0] = Int64GetDatum(subscription_id);
	values[1] = CStringGetTextDatum(topic);
	values[2] = Int32GetDatum(partition);
	values[3] = Int64GetDatum(offset);
	values[4] = BoolGetDatum(ks_rebuild_pending(subscription_id, true));
	if (ks_catalog_execute("UPDATE kafka.rebuild_position r SET next_offset = $4, last_offset = NULL, "
						   "last_timestamp = NULL, last_checksum = NULL "
						   "WHERE subscription_id = $1 AND topic = $2 AND partition = $3 AND next_offset < $4 "
						   "AND ($5 OR $4 <= (SELECT p.next_offset FROM kafka.subscription_position p "
						   "WHERE p.subscription_id = $1 AND p.topic = $2 AND p.partition = $3))",
						   5, types, values, NULL) > 0)
		return true;
	if (DatumGetBool(values[4]))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition %d of topic \"%s\" is being read again and is not before offset " INT64_FORMAT,
						partition, topic, offset),
				 errhint("Wait until the rebuild is over; meanwhile messages can only be skipped.")));
	return false;
}

/* Is a target being read again already? */
static bool
is_under_way(int64 subscription_id, Oid target)
{
	Oid			types[2] = {INT8OID, OIDOID};
	Datum		values[2] = {Int64GetDatum(subscription_id), ObjectIdGetDatum(target)};

	return ask("SELECT 1::bigint FROM kafka.subscription_rebuild WHERE subscription_id = $1 AND target = $2",
			   2, types, values, 0) > 0;
}

/* The target of a subscription with this Oid; ERROR if there is none. */
static void
check_is_target(const KsSubscription *s, Oid target)
{
	ListCell   *lc;

	foreach(lc, s->targets)
		if (((KsTarget *) lfirst(lc))->relid == target)
			return;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("\"%s\" is not a target of subscription \"%s\"",
					get_rel_name(target) ? get_rel_name(target) : "", NameStr(s->name)),
			 errhint("The view kafka.subscription_status lists the targets.")));
}

/* kafka.rebuild_subscription(name, target, force) */
Datum
ks_rebuild_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = ks_name_arg(fcinfo, 0, "name");
	Oid			target = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1);
	bool		force = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	KsSubscription *s;
	ListCell   *lc;
	int			requested = 0;

	ks_shmem_require();
	s = ks_own_subscription(name);
	if (OidIsValid(target))
		check_is_target(s, target);
	if (s->targets == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" has no target", name)));
	foreach(lc, s->targets)
		if (!OidIsValid(target) || ((KsTarget *) lfirst(lc))->relid == target)
			ks_foreign_refuse_rebuild(((KsTarget *) lfirst(lc))->relid,
									  "Rebuild the other targets one by one; to have this one written again, use "
									  "kafka.seek_subscription.");
	ks_conflict_check_rebuild(s);
	/* Kafka first, so that the worker is not held up by a slow broker */
	if (!force)
		ks_rebuild_check(s, target, "Pass force => true to read what is left.");
	ks_subscription_lock(s->id, true);
	s = ks_own_subscription(name);
	ks_conflict_check_rebuild(s);
	foreach(lc, s->targets)
	{
		Oid			relid = ((KsTarget *) lfirst(lc))->relid;

		if (OidIsValid(target) && relid != target)
			continue;
		if (!force && is_under_way(s->id, relid))
		{
			ereport(NOTICE,
					(errmsg("table \"%s\" is being read from the log already", get_rel_name(relid) ? get_rel_name(relid) : ""),
					 errhint("Pass force => true to begin anew.")));
			continue;
		}
		ks_rebuild_request(s->id, relid, "rebuild", force);
		requested++;
	}
	if (requested > 0 && !s->enabled)
		ereport(NOTICE,
				(errmsg("subscription \"%s\" is paused; it is rebuilt when it is resumed", name)));
	PG_RETURN_VOID();
}

/* Trigger function: a request is gone, and its shadow with it. */
Datum
ks_rebuild_removed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Relation	rel;
	int64		id;
	bool		null;
	char		name[NAMEDATALEN];

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("kafka.rebuild_removed must be called as a trigger, for each row that is deleted")));
	rel = trigger->tg_relation;
	id = DatumGetInt64(heap_getattr(trigger->tg_trigtuple, 1, RelationGetDescr(rel), &null));
	snprintf(name, sizeof(name), "rebuild_" INT64_FORMAT, id);
	if (OidIsValid(get_relname_relid(name, RelationGetNamespace(rel))))
		(void) ks_catalog_execute(psprintf("DROP TABLE kafka.%s", name), 0, NULL, NULL, NULL);
	return PointerGetDatum(trigger->tg_trigtuple);
}
