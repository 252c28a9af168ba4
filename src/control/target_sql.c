/*
 * target_sql.c: kafka.add_target, kafka.drop_target.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "control/conflict_definition.h"
#include "control/create_target.h"
#include "control/definitions.h"
#include "control/foreign_table.h"
#include "control/rebuild_sql.h"
#include "control/shmem.h"
#include "control/target_definition.h"
#include "control/target_view.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(ks_add_target);
PG_FUNCTION_INFO_V1(ks_drop_target);

/* A relation's name for messages, its number if it is gone. */
static char *
relation_name(Oid relid)
{
	char	   *name = get_rel_name(relid);

	return name ? name : psprintf("%u", relid);
}

/* The target of a subscription that is this table, or NULL. */
static KsTarget *
find_target(const KsSubscription *s, Oid relid)
{
	ListCell   *lc;

	foreach(lc, s->targets)
		if (((KsTarget *) lfirst(lc))->relid == relid)
			return lfirst(lc);
	return NULL;
}

/* Has the subscription applied anything since where it was told to begin? */
static bool
has_moved(int64 id)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(id)};

	return ks_catalog_execute("SELECT 1 FROM kafka.subscription_position WHERE subscription_id = $1 "
							  "AND next_offset <> start_offset LIMIT 1", 1, types, values, NULL) > 0;
}

/* The worker begins anew with the targets as they are now. */
static void
targets_changed(int64 id)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(id)};

	(void) ks_catalog_execute("UPDATE kafka.subscription SET version = version + 1 WHERE id = $1", 1, types, values, NULL);
}

/* ERROR if the table is a target of the subscription already. */
static void
check_new(const KsSubscription *s, Oid relid)
{
	if (find_target(s, relid))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("table \"%s\" is a target of subscription \"%s\" already", relation_name(relid), NameStr(s->name))));
}

/*
 * ERROR if the new target cannot have what is in the log, read again (moved) or for the first time.  Asks
 * Kafka.
 */
static void
check_can_hydrate(const KsSubscription *s, const KsTargetRequest *request, bool moved)
{
	KsSubscription with_it = *s;
	KsTarget	target = {request->relid, unconstify(char *, request->mode)};

	with_it.targets = list_make1(&target);
	if (moved)
		ks_foreign_refuse_rebuild(request->relid, "The subscription has moved already: with option \"hydrate\": false the target "
								  "begins with the next message.");
	if (moved)
		ks_conflict_check_rebuild(s);
	if (moved)
		ks_rebuild_check(&with_it, request->relid, "Option \"hydrate\": false lets the target begin with the next message; "
						 "kafka.rebuild_subscription with force => true then reads what is left.");
	else if (strcmp(request->mode, "upsert") != 0)
		ks_rebuild_check_past(s, request->mode, "Option \"hydrate\": false takes what is left.");
}

/* What add_target does once the query's names are bound. */
static void
add_target(const char *name, KsTargetRequest *request)
{
	KsSubscription *s = ks_own_subscription(name);
	KsOptions  *options;
	Datum		key;
	bool		hydrate;

	check_new(s, request->relid);
	options = ks_target_check(request, s->owner, &key);
	ks_conflict_check_target(ks_subscription_options(s), request->relid, request->mode, request->query != NULL, key);
	/* Kafka first, so that the worker is not held up by a slow broker */
	hydrate = options->bool_value[KS_OPT_HYDRATE] && has_moved(s->id);
	if (options->bool_value[KS_OPT_HYDRATE])
		check_can_hydrate(s, request, hydrate);

	/* the definition and the positions stay as they are until we have finished */
	ks_subscription_lock(s->id, true);
	s = ks_own_subscription(name);
	check_new(s, request->relid);
	if (!hydrate && options->bool_value[KS_OPT_HYDRATE] && has_moved(s->id))
	{
		hydrate = true;
		check_can_hydrate(s, request, true);
	}
	ks_target_store(request, s->id, key);
	ks_conflict_settle(request->relid);
	ks_create_target_end(s->id);
	if (hydrate)
		ks_rebuild_request(s->id, request->relid, "hydrate", false);
	else
		targets_changed(s->id);
}

/*
 * kafka.add_target(subscription, target, query, mode, key, merge, options).  It runs with the
 * caller's search_path, until the names in the query are bound.
 */
Datum
ks_add_target(PG_FUNCTION_ARGS)
{
	char	   *name = ks_name_arg(fcinfo, 0, "subscription");
	KsTargetRequest request = {0};
	int			nest_level;

	ks_shmem_require();
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("target must not be null")));
	request.relid = PG_GETARG_OID(1);
	request.mode = ks_text_arg(fcinfo, 3, "mode");
	if (!PG_ARGISNULL(4))
		request.key = ks_text_names(PG_GETARG_ARRAYTYPE_P(4), "key");
	if (!PG_ARGISNULL(5))
		request.merge = PG_GETARG_JSONB_P(5);
	request.options = PG_ARGISNULL(6) ? DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")))
		: PG_GETARG_JSONB_P(6);
	if (!PG_ARGISNULL(2))
	{
		request.query_text = text_to_cstring(PG_GETARG_TEXT_PP(2));
		request.query = ks_target_query_parse(request.query_text);
	}

	nest_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
	add_target(name, &request);
	AtEOXact_GUC(true, nest_level);
	PG_RETURN_VOID();
}

/* kafka.drop_target(subscription, target): the table keeps its rows. */
Datum
ks_drop_target(PG_FUNCTION_ARGS)
{
	char	   *name = ks_name_arg(fcinfo, 0, "subscription");
	KsSubscription *s;
	KsTarget   *t;
	Oid			types[2] = {INT8OID, OIDOID};
	Datum		values[2];

	ks_shmem_require();
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("target must not be null")));
	s = ks_own_subscription(name);
	ks_subscription_lock(s->id, true);
	s = ks_own_subscription(name);
	t = find_target(s, PG_GETARG_OID(1));
	if (t == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" is no target of subscription \"%s\"", relation_name(PG_GETARG_OID(1)), name),
				 errhint("The view kafka.subscription_targets lists the targets.")));
	values[0] = Int64GetDatum(s->id);
	values[1] = ObjectIdGetDatum(t->relid);
	(void) ks_catalog_execute("DELETE FROM kafka.subscription_target WHERE subscription_id = $1 "
							  "AND target = $2::pg_catalog.regclass", 2, types, values, NULL);
	ks_target_view_drop(t->view);
	ks_conflict_settle(t->relid);
	ks_drop_dead_letters(s, t->relid);
	targets_changed(s->id);
	PG_RETURN_VOID();
}
