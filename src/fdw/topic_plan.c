/*
 * topic_plan.c: plans of reading a topic: how many rows, what it costs, which conditions shorten the reading.
 *
 * Conditions of joins can, too: a table of positions joined with a topic has the topic read from each of them.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "compat/fdw_compat.h"
#include "fdw/topic_conditions.h"
#include "fdw/topic_scan.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "utils/rel.h"
#include "utils/selfuncs.h"

/* What a topic is taken to hold if nobody knows. */
#define UNKNOWN_MESSAGES 100000
/* Connecting and looking up offsets, and one message, beside what a row costs. */
#define STARTUP_COST 1000.0
#define MESSAGE_COST 0.05

/* Of a relation while it is planned. */
typedef struct Planned
{
	KsTopicTable *table;
	List	   *useful;			/* of RestrictInfo: conditions on it alone that shorten the reading */
} Planned;

/* Asks Kafka how many messages there are. */
static double
ask_messages(PlannerInfo *root, RelOptInfo *rel, const KsTopicTable *table)
{
	KsServer   *server = ks_server_of_table(table->serverid, ks_planned_scan_role(root, rel));
	KsTopicReader *reader = ks_topic_reader_create(server, table->topic, false, 0);
	double		count = ks_topic_reader_count(reader);

	ks_topic_reader_close(reader);
	return count;
}

void
ks_topic_rel_size(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	Planned    *planned = palloc0(sizeof(Planned));
	Relation	relation = table_open(relid, NoLock);
	ListCell   *cell;

	planned->table = ks_topic_table(relation);
	table_close(relation, NoLock);
	rel->fdw_private = planned;
	if (planned->table->null_on_error)
		ks_plan_subtransactions(root);
	foreach(cell, rel->baserestrictinfo)
	{
		RestrictInfo *info = lfirst(cell);

		if (ks_condition_is_useful(root, planned->table, rel->relid, info->clause))
			planned->useful = lappend(planned->useful, info);
	}
	if (planned->table->remote_estimate)
		rel->tuples = ask_messages(root, rel, planned->table);
	else if (rel->tuples <= 0)
		rel->tuples = UNKNOWN_MESSAGES;
	set_baserel_size_estimates(root, rel);
}

/* Adds the path that reads with some conditions of joins, for the relations that they name. */
static void
add_path_for(PlannerInfo *root, RelOptInfo *rel, List *clauses, Relids outer, double rows)
{
	Planned    *planned = rel->fdw_private;
	Selectivity selectivity = clauselist_selectivity(root, planned->useful, 0, JOIN_INNER, NULL) *
		clauselist_selectivity(root, clauses, rel->relid, JOIN_INNER, NULL);
	double		messages = clamp_row_est(rel->tuples * selectivity);
	Cost		startup = STARTUP_COST + rel->baserestrictcost.startup;
	Cost		total = startup + messages * (MESSAGE_COST + cpu_tuple_cost + rel->baserestrictcost.per_tuple);

	add_path(rel, (Path *) ks_create_foreignscan_path(root, rel, rows, startup, total, outer, NIL));
}

/* Adds a path with what conditions of joins there are for the relations that one of them needs. */
static void
add_parameterized(PlannerInfo *root, RelOptInfo *rel, Relids clause_relids)
{
	Planned    *planned = rel->fdw_private;
	Relids		outer = bms_del_member(bms_union(clause_relids, rel->lateral_relids), rel->relid);
	ParamPathInfo *param;
	List	   *clauses = NIL;
	ListCell   *cell;

	if (bms_is_empty(outer))
		return;
	param = get_baserel_parampathinfo(root, rel, outer);
	foreach(cell, param->ppi_clauses)
	{
		RestrictInfo *info = lfirst(cell);

		if (ks_condition_is_useful(root, planned->table, rel->relid, info->clause))
			clauses = lappend(clauses, info);
	}
	if (clauses != NIL)
		add_path_for(root, rel, clauses, outer, param->ppi_rows);
}

/* For generate_implied_equalities_for_column: is it the column asked for? */
static bool
is_member(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *ec, EquivalenceMember *em, void *arg)
{
	(void) root;
	(void) ec;
	return IsA(em->em_expr, Var) && ((Var *) em->em_expr)->varno == rel->relid &&
		((Var *) em->em_expr)->varattno == *(AttrNumber *) arg;
}

void
ks_topic_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	Planned    *planned = rel->fdw_private;
	List	   *candidates = NIL;
	List	   *seen = NIL;
	ListCell   *cell;

	(void) relid;
	add_path_for(root, rel, NIL, rel->lateral_relids, rel->rows);

	foreach(cell, rel->joininfo)
	{
		RestrictInfo *info = lfirst(cell);

		if (join_clause_is_movable_to(info, rel) &&
			ks_condition_is_useful(root, planned->table, rel->relid, info->clause))
			candidates = lappend(candidates, info);
	}
	if (rel->has_eclass_joins)
		for (AttrNumber attnum = 1; attnum <= planned->table->natts; attnum++)
		{
			KsMeta		meta = planned->table->columns[attnum - 1].meta;
			ListCell   *found;

			if (meta != KS_COL_PARTITION && meta != KS_COL_OFFSET && meta != KS_COL_TIMESTAMP)
				continue;
			foreach(found, generate_implied_equalities_for_column(root, rel, is_member, &attnum,
																  rel->lateral_referencers))
			{
				RestrictInfo *info = lfirst(found);

				if (join_clause_is_movable_to(info, rel) &&
					ks_condition_is_useful(root, planned->table, rel->relid, info->clause))
					candidates = lappend(candidates, info);
			}
		}
	foreach(cell, candidates)
	{
		Relids		relids = ((RestrictInfo *) lfirst(cell))->clause_relids;
		ListCell   *other;
		bool		known = false;

		foreach(other, seen)
			known |= bms_equal(lfirst(other), relids);
		if (known)
			continue;
		seen = lappend(seen, relids);
		add_parameterized(root, rel, relids);
	}
}

ForeignScan *
ks_topic_plan(PlannerInfo *root, RelOptInfo *rel, Oid relid, ForeignPath *path, List *tlist, List *scan_clauses,
			  Plan *outer_plan)
{
	Planned    *planned = rel->fdw_private;
	Bitmapset  *used = NULL;
	List	   *useful = NIL;
	List	   *wanted = NIL;
	double		limit = 0;
	ListCell   *cell;

	(void) path;
	(void) relid;
	/* all are checked again: what they narrow down to may still hold other messages */
	foreach(cell, scan_clauses)
	{
		RestrictInfo *info = lfirst(cell);

		if (!info->pseudoconstant && ks_condition_is_useful(root, planned->table, rel->relid, info->clause))
			useful = lappend(useful, info->clause);
		pull_varattnos((Node *) info->clause, rel->relid, &used);
	}
	pull_varattnos((Node *) rel->reltarget->exprs, rel->relid, &used);
	for (int i = 0; i < planned->table->natts; i++)
		if (bms_is_member(i + 1 - FirstLowInvalidHeapAttributeNumber, used) ||
			bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, used))
			wanted = lappend_int(wanted, i);
	/*
	 * A LIMIT says how much is read where it counts what is read, as it comes.  A subquery may be run again for each row
	 * around it, and a reader for few messages is slow to begin anew: what is left in its small queue is in the way.
	 */
	if (root->query_level == 1 && root->limit_tuples > 0 && root->sort_pathkeys == NIL && list_length(useful) == list_length(scan_clauses) &&
		bms_membership(root->all_baserels) == BMS_SINGLETON)
		limit = Min(root->limit_tuples, PG_INT32_MAX);
	return make_foreignscan(tlist, extract_actual_clauses(scan_clauses, false), rel->relid, useful,
							list_make2(wanted, list_make1_int((int) limit)), NIL, NIL, outer_plan);
}
