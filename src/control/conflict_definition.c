/*
 * conflict_definition.c: checking option "conflict", and keeping triggers as it says; see conflict_definition.h.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "conflict/conflict.h"
#include "control/conflict_definition.h"
#include "control/definitions.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* ERROR: "conflict" cannot be what it is. */
static void
unsuitable(const KsOptions *options, const char *why, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"conflict\" cannot be %s: %s", options->text_value[KS_OPT_CONFLICT], why),
			 hint ? errhint("%s", hint) : 0));
}

/* See conflict_definition.h. */
void
ks_conflict_check(const char *format, const KsOptions *options)
{
	char	   *column;
	KsConflict	conflict = ks_conflict_parse(options->text_value[KS_OPT_CONFLICT], &column);

	if (conflict != KS_CONFLICT_NEWER &&
		(options->given[KS_OPT_TOMBSTONE_RETENTION] || options->given[KS_OPT_SERVER_NAME]))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" needs option \"conflict\" to be newer",
						options->given[KS_OPT_TOMBSTONE_RETENTION] ? "tombstone_retention" : "server_name")));
	(void) ks_tombstone_retention(options);
	if (conflict == KS_CONFLICT_APPLY)
		return;
	if (strcmp(format, "debezium") != 0)
		unsuitable(options, psprintf("messages of format %s tell neither the old row nor who changed it", format),
				   "Publish and subscribe with format debezium.");
	if (options->bool_value[KS_OPT_FLAT])
		unsuitable(options, "events without an envelope (option \"flat\") tell neither the old row nor who changed it", NULL);
	if (conflict == KS_CONFLICT_KEEP && !options->bool_value[KS_OPT_FULL_BEFORE])
		unsuitable(options, "conflicts are found by the old row in events, which must be whole",
				   "Set REPLICA IDENTITY FULL on the source table and option \"full_before\": true.");
	if (strcmp(options->text_value[KS_OPT_ON_GAP], "rebuild") == 0)
		unsuitable(options, "option \"on_gap\" is rebuild, which would take away what was written here", NULL);
}

/* See conflict.h. */
int64
ks_tombstone_retention(const KsOptions *options)
{
	const char *text = options->text_value[KS_OPT_TOMBSTONE_RETENTION];
	Interval   *interval;
	int64		result;

	interval = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid),
													 Int32GetDatum(-1)));
	/* nobody needs a thousand years, and the sum must not overflow */
	if (interval->month < 0 || interval->month > 12000 || interval->day < 0 || interval->day > 366000 || interval->time < 0 ||
		interval->time > 366000 * USECS_PER_DAY ||
		(result = interval->time + (interval->day + 30 * (int64) interval->month) * USECS_PER_DAY) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": %s", "tombstone_retention", text),
				 errhint("Allowed is an interval above zero, such as 1 day.")));
	return result;
}

/* See conflict_definition.h. */
void
ks_conflict_check_target(const KsOptions *options, Oid relid, const char *mode, bool has_query, Datum key)
{
	bool		replica = strcmp(options->text_value[KS_OPT_REPLICATION_ROLE], "replica") == 0;
	char	   *column;
	KsConflict	conflict = ks_conflict_parse(options->text_value[KS_OPT_CONFLICT], &column);
	Relation	rel;
	const char *trigger;

	if (conflict == KS_CONFLICT_APPLY)
		return;
	if (strcmp(mode, "upsert") != 0)
		unsuitable(options, psprintf("rows of mode %s are not those of the other side", mode), NULL);
	if (has_query)
		unsuitable(options, "rows that a query makes are not those of the other side", NULL);
	rel = table_open(relid, AccessShareLock);
	if (rel->rd_rel->relkind != RELKIND_RELATION)
		unsuitable(options, psprintf("target \"%s\" is not an ordinary table", RelationGetRelationName(rel)), NULL);
	trigger = ks_interfering_trigger(rel, replica);
	if (trigger)
		unsuitable(options, psprintf("trigger \"%s\" of target \"%s\" might change rows on their way into it", trigger,
									 RelationGetRelationName(rel)),
				   "Set option \"session_replication_role\": \"replica\", with which ordinary triggers fire only for what is "
				   "written here, or make it an AFTER ... FOR EACH ROW trigger.");
	if (conflict == KS_CONFLICT_NEWER)
	{
		AttrNumber	attnum = get_attnum(relid, column);
		int			nkeys;
		char	  **keys = ks_text_list(DatumGetArrayTypeP(key), "key", &nkeys);
		KsOrdering	ordering;
		KsKeyText	texts;

		trigger = ks_trigger_after_guard(rel);
		if (trigger)
			unsuitable(options, psprintf("trigger \"%s\" of target \"%s\" fires after the one that orders what is written here",
										 trigger, RelationGetRelationName(rel)),
					   "Rename it: triggers fire in the order of their names, and that one is called " KS_GUARD_TRIGGER ".");
		if (attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of option \"conflict\" does not exist in target \"%s\"", column,
							RelationGetRelationName(rel))));
		if (TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attgenerated != '\0')
			unsuitable(options, psprintf("column \"%s\" is generated", column), "Name another column.");
		for (int i = 0; i < nkeys; i++)
			if (strcmp(keys[i], column) == 0)
				unsuitable(options, psprintf("column \"%s\" is in the key", column), "Name another column.");
		ks_ordering_init(&ordering, TupleDescAttr(RelationGetDescr(rel), attnum - 1), CurrentMemoryContext);
		ks_key_text_init(&texts, rel, nkeys, keys, CurrentMemoryContext);
	}
	table_close(rel, NoLock);
}

/* The text of a member of a jsonb object, NULL if it is none. */
static char *
member_text(Jsonb *object, const char *name)
{
	JsonbValue *v = getKeyJsonValueFromContainer(&object->root, name, strlen(name), NULL);

	return v && v->type == jbvString ? pnstrdup(v->val.string.val, v->val.string.len) : NULL;
}

/* The arguments of the row trigger of a target, NULL if it is to have none. */
static char *
guard_arguments(const KsSubscription *s, const KsTarget *t)
{
	char	   *value = member_text(s->options_json, "conflict");
	char	   *column;
	StringInfoData arguments;

	if (value == NULL || strncmp(value, "newer:", 6) != 0 || ks_conflict_parse(value, &column) != KS_CONFLICT_NEWER)
		return NULL;
	initStringInfo(&arguments);
	appendStringInfoString(&arguments, quote_literal_cstr(column));
	for (int i = 0; i < t->nkeys; i++)
		appendStringInfo(&arguments, ", %s", quote_literal_cstr(t->keys[i]));
	return arguments.data;
}

/* The key's columns, as a list in SQL. */
static char *
key_columns(const KsTarget *t)
{
	StringInfoData columns;

	initStringInfo(&columns);
	for (int i = 0; i < t->nkeys; i++)
		appendStringInfo(&columns, "%s%s", i ? ", " : "", quote_identifier(t->keys[i]));
	return columns.data;
}

/* What the subscriptions say the arguments are to be, and *columns of the key; ERROR if they do not agree. */
static char *
wanted_arguments(Oid relid, char **columns)
{
	char	   *wanted = NULL;
	ListCell   *lc;
	ListCell   *lt;

	foreach(lc, ks_subscriptions())
		foreach(lt, ((KsSubscription *) lfirst(lc))->targets)
	{
		KsTarget   *t = lfirst(lt);
		char	   *arguments = t->relid == relid ? guard_arguments(lfirst(lc), t) : NULL;

		if (arguments && wanted && strcmp(arguments, wanted) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("another subscription orders changes of table \"%s\" by another column or key", get_rel_name(relid)),
					 errhint("Give all of them the same option \"conflict\" and key.")));
		if (arguments == NULL)
			continue;
		wanted = arguments;
		*columns = key_columns(t);
	}
	return wanted;
}

/* Runs a command; the caller has been found to have the rights of the table's owner. */
static void
run(const char *command)
{
	(void) ks_catalog_execute(command, 0, NULL, NULL, NULL);
}

/* Makes one of the triggers; other replication is a local writer, too, so it always fires. */
static void
make_trigger(const char *name, const char *when, const char *table, const char *each, const char *arguments)
{
	run(psprintf("CREATE TRIGGER %s %s ON %s FOR EACH %s EXECUTE FUNCTION kafka.conflict_guard(%s)", name, when, table, each,
				 arguments));
	run(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", table, name));
	run(psprintf("ALTER TRIGGER %s ON %s DEPENDS ON EXTENSION pg_kafka_sync", name, table));
}

/* The arguments that the row trigger of a table has now; NULL if there is none.  *any: there is one of the triggers. */
static char *
present_arguments(Relation rel, bool *any)
{
	StringInfoData arguments;
	bool		found = false;

	*any = false;
	initStringInfo(&arguments);
	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		const Trigger *t = &rel->trigdesc->triggers[i];

		*any = *any || strcmp(t->tgname, KS_GUARD_TRUNCATE) == 0 || strcmp(t->tgname, KS_GUARD_AFTER) == 0;
		if (strcmp(t->tgname, KS_GUARD_TRIGGER) != 0)
			continue;
		*any = found = true;
		for (int n = 0; n < t->tgnargs; n++)
			appendStringInfo(&arguments, "%s%s", n ? ", " : "", quote_literal_cstr(t->tgargs[n]));
	}
	return found ? arguments.data : NULL;
}

/* See conflict_definition.h. */
void
ks_conflict_settle(Oid relid)
{
	char	   *columns = NULL;
	char	   *arguments = wanted_arguments(relid, &columns);
	Relation	rel = try_relation_open(relid, AccessShareLock);
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(relid)};
	char	   *table;
	char	   *present;
	bool		any;
	bool		complete;

	if (arguments == NULL)
		(void) ks_catalog_execute("DELETE FROM kafka.deleted_row WHERE target = $1::pg_catalog.regclass", 1, types, values, NULL);
	if (rel == NULL)
		return;
	table = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)), RelationGetRelationName(rel));
	present = present_arguments(rel, &any);
	complete = ks_guard_is_set(rel);
	relation_close(rel, AccessShareLock);
	if (arguments && complete && strcmp(arguments, present) == 0)
		return;
	if (any)
	{
		run(psprintf("DROP TRIGGER IF EXISTS " KS_GUARD_TRIGGER " ON %s", table));
		run(psprintf("DROP TRIGGER IF EXISTS " KS_GUARD_TRUNCATE " ON %s", table));
		run(psprintf("DROP TRIGGER IF EXISTS " KS_GUARD_AFTER " ON %s", table));
	}
	if (arguments == NULL)
		return;
	make_trigger(KS_GUARD_TRIGGER, "BEFORE INSERT OR UPDATE OR DELETE", table, "ROW", arguments);
	make_trigger(KS_GUARD_AFTER, psprintf("AFTER INSERT OR UPDATE OF %s", columns), table, "ROW", arguments);
	make_trigger(KS_GUARD_TRUNCATE, "BEFORE TRUNCATE", table, "STATEMENT", arguments);
}

/* See conflict_definition.h. */
void
ks_conflict_check_rebuild(const KsSubscription *s)
{
	char	   *value = member_text(s->options_json, "conflict");

	if (value && strcmp(value, "apply") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("targets of subscription \"%s\" cannot be read again from the log: option \"conflict\" is %s",
						NameStr(s->name), value),
				 errdetail("They hold what was written here, too, which the log does not have.")));
}
