/*
 * foreign_table.c: see foreign_table.h.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "control/foreign_table.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "nodes/pathnodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/* The modes of tables of a kind, beside upsert. */
static const struct
{
	bool		append;
	bool		merge;
}			kinds[] = {
	[KS_TABLE_LOCAL] = {true, true},
	[KS_TABLE_POSTGRES] = {true, true},
	[KS_TABLE_KAFKA] = {true, false},
	[KS_TABLE_GENERIC] = {false, false},
};

/* The wrapper of a foreign table. */
static ForeignDataWrapper *
wrapper_of(Oid relid)
{
	return GetForeignDataWrapper(GetForeignServer(GetForeignTable(relid)->serverid)->fdwid);
}

/* Is a wrapper's handler this C function of this library, whatever the wrapper's name is? */
static bool
is_handler(const ForeignDataWrapper *wrapper, const char *function, const char *library)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(wrapper->fdwhandler));
	Datum		value;
	bool		isnull;
	bool		result = false;

	if (!HeapTupleIsValid(tuple))
		return false;
	value = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull);
	if (!isnull && strcmp(TextDatumGetCString(value), function) == 0)
	{
		value = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_probin, &isnull);
		result = !isnull && strstr(TextDatumGetCString(value), library) != NULL;
	}
	ReleaseSysCache(tuple);
	return result;
}

/* See foreign_table.h. */
KsTableKind
ks_table_kind(Oid relid)
{
	ForeignDataWrapper *wrapper;

	if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE)
		return KS_TABLE_LOCAL;
	wrapper = wrapper_of(relid);
	if (is_handler(wrapper, "postgres_fdw_handler", "postgres_fdw"))
		return KS_TABLE_POSTGRES;
	if (is_handler(wrapper, "ks_fdw_handler", "pg_kafka_sync"))
		return KS_TABLE_KAFKA;
	return KS_TABLE_GENERIC;
}

/* Can the wrapper write all that a target needs: rows that come, change and go (append: that come)? */
static bool
is_updatable(Relation rel, bool append)
{
	FdwRoutine *routine = GetFdwRoutineForRelation(rel, false);
	int			needed = append ? 1 << CMD_INSERT : (1 << CMD_INSERT) | (1 << CMD_UPDATE) | (1 << CMD_DELETE);
	int			events;

	if (routine->IsForeignRelUpdatable)
		events = routine->IsForeignRelUpdatable(rel);
	else
		events = (routine->ExecForeignInsert ? 1 << CMD_INSERT : 0) | (routine->ExecForeignUpdate ? 1 << CMD_UPDATE : 0) |
			(routine->ExecForeignDelete ? 1 << CMD_DELETE : 0);
	return (events & needed) == needed;
}

/*
 * The names of the columns by which a wrapper tells the row that it is to change.  NIL: by something else, such as its
 * place.  It is asked as the planner would ask it, but without its planning the statement, which may need the other side.
 */
static List *
row_identity(Relation rel)
{
	FdwRoutine *routine = GetFdwRoutineForRelation(rel, false);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	Query	   *query = makeNode(Query);
	PlannerInfo *root = makeNode(PlannerInfo);
	List	   *names = NIL;
	ListCell   *lc;

	if (routine->AddForeignUpdateTargets == NULL)
		return NIL;
	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(rel);
	rte->relkind = rel->rd_rel->relkind;
	query->commandType = CMD_DELETE;
	query->resultRelation = 1;
	query->rtable = list_make1(rte);
	root->parse = query;
	root->planner_cxt = CurrentMemoryContext;
	routine->AddForeignUpdateTargets(root, 1, rte, rel);
	foreach(lc, root->processed_tlist)
	{
		Var		   *var = (Var *) ((TargetEntry *) lfirst(lc))->expr;

		if (!IsA(var, Var) || var->varattno <= 0)
			return NIL;
		names = lappend(names, NameStr(TupleDescAttr(RelationGetDescr(rel), var->varattno - 1)->attname));
	}
	return names;
}

/* See foreign_table.h. */
void
ks_foreign_check_identity(Relation rel, List *key)
{
	List	   *identity;
	StringInfoData columns;
	ListCell   *lk;
	ListCell   *lc;

	if (ks_table_kind(RelationGetRelid(rel)) != KS_TABLE_GENERIC || (identity = row_identity(rel)) == NIL)
		return;
	initStringInfo(&columns);
	foreach(lc, identity)
		appendStringInfo(&columns, "%s\"%s\"", columns.len ? ", " : "", (char *) lfirst(lc));
	foreach(lk, key)
	{
		bool		found = false;

		foreach(lc, identity)
			found = found || strcmp(lfirst(lc), lfirst(lk)) == 0;
		if (!found)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
					 errmsg("foreign table \"%s\" cannot be written by key column \"%s\"", RelationGetRelationName(rel), (char *) lfirst(lk)),
					 errdetail("Foreign-data wrapper \"%s\" tells rows apart by %s alone, so that it would change rows of other "
							   "keys too.", wrapper_of(RelationGetRelid(rel))->fdwname, columns.data),
					 errhint("Let the key be of columns by which the wrapper tells rows apart. mysql_fdw takes the first one.")));
	}
}

/* See foreign_table.h. */
void
ks_foreign_check(Relation rel, const char *mode, const KsOptions *options)
{
	Oid			relid = RelationGetRelid(rel);
	KsTableKind kind = ks_table_kind(relid);
	const char *wrapper;
	bool		append = strcmp(mode, "append") == 0;
	bool		merge = strcmp(mode, "merge") == 0;

	if (options->bool_value[KS_OPT_REMOTE_OFFSETS] && kind != KS_TABLE_POSTGRES)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("option \"remote_offsets\" is for foreign tables of postgres_fdw only")));
	if (kind == KS_TABLE_LOCAL)
		return;
	wrapper = wrapper_of(relid)->fdwname;
	/* our own wrapper cannot delete rows, but writes tombstones */
	if (kind != KS_TABLE_KAFKA && !is_updatable(rel, append))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("foreign table \"%s\" cannot be written", RelationGetRelationName(rel)),
				 errdetail("Foreign-data wrapper \"%s\", or an option of the table or its server, does not allow it.", wrapper),
				 errhint("See the wrapper's options, such as \"updatable\".")));
	if ((append || merge) && kind == KS_TABLE_POSTGRES && !options->bool_value[KS_OPT_REMOTE_OFFSETS])
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("mode %s needs option \"remote_offsets\" for target \"%s\", which is a foreign table", mode,
						RelationGetRelationName(rel)),
				 errdetail("After a crash messages would be written again: only a table beside the target, on its server, can "
						   "tell which it has."),
				 errhint("Use kafka.add_target with options => '{\"remote_offsets\": true}'.")));
	if ((append && !kinds[kind].append) || (merge && !kinds[kind].merge))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("target \"%s\" is a foreign table of foreign-data wrapper \"%s\", for which there is no mode %s",
						RelationGetRelationName(rel), wrapper, mode),
				 errdetail("After a crash messages would be written again, since the other side does not remember which it has."),
				 errhint("Mode upsert can be written again without harm.")));
}

/* See foreign_table.h. */
void
ks_foreign_refuse_rebuild(Oid relid, const char *hint)
{
	if (ks_table_kind(relid) == KS_TABLE_LOCAL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("target \"%s\" is a foreign table, which cannot be read again from the log", get_rel_name(relid)),
			 errhint("%s", hint)));
}
