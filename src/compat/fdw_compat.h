/*
 * fdw_compat.h: what differs between PostgreSQL 15 and 18 for foreign-data wrappers, as static inline functions.
 */
#ifndef KS_FDW_COMPAT_H
#define KS_FDW_COMPAT_H

#include "postgres.h"

#include "access/xact.h"
#include "commands/explain.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#endif
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/pathnodes.h"
#include "nodes/plannodes.h"
#include "optimizer/pathnode.h"
#include "parser/parsetree.h"
#include "storage/buffile.h"

/* A path that reads a foreign table. 17 added the conditions that are pushed down as joins, 18 the disabled nodes. */
static inline ForeignPath *
ks_create_foreignscan_path(PlannerInfo *root, RelOptInfo *rel, double rows, Cost startup_cost, Cost total_cost,
						   Relids required_outer, List *fdw_private)
{
#if PG_VERSION_NUM >= 180000
	return create_foreignscan_path(root, rel, NULL, rows, 0, startup_cost, total_cost, NIL, required_outer, NULL, NIL,
								   fdw_private);
#elif PG_VERSION_NUM >= 170000
	return create_foreignscan_path(root, rel, NULL, rows, startup_cost, total_cost, NIL, required_outer, NULL, NIL,
								   fdw_private);
#else
	return create_foreignscan_path(root, rel, NULL, rows, startup_cost, total_cost, NIL, required_outer, NULL, fdw_private);
#endif
}

/* The role whose rights a scan has: the owner of the view that it is in, else the current user. */
static inline Oid
ks_scan_role(ForeignScanState *node)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
#if PG_VERSION_NUM >= 160000
	Oid			role = plan->checkAsUser;
#else
	Oid			role = exec_rt_fetch(plan->scan.scanrelid, node->ss.ps.state)->checkAsUser;
#endif

	return OidIsValid(role) ? role : GetUserId();
}

/* The same for a planned scan. */
static inline Oid
ks_planned_scan_role(PlannerInfo *root, RelOptInfo *rel)
{
#if PG_VERSION_NUM >= 160000
	Oid			role = rel->userid;
#else
	Oid			role = planner_rt_fetch(rel->relid, root)->checkAsUser;
#endif

	(void) root;
	return OidIsValid(role) ? role : GetUserId();
}

/* The same for a table that is written. */
static inline Oid
ks_modify_role(ResultRelInfo *rri, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	Oid			role = ExecGetResultRelCheckAsUser(rri, estate);
#else
	/* a partition reached through its parent has no entry of its own */
	Index		index = rri->ri_RangeTableIndex != 0 ? rri->ri_RangeTableIndex :
		rri->ri_RootResultRelInfo ? rri->ri_RootResultRelInfo->ri_RangeTableIndex : 0;
	Oid			role = index != 0 ? exec_rt_fetch(index, estate)->checkAsUser : InvalidOid;
#endif

	return OidIsValid(role) ? role : GetUserId();
}

/* Can a subtransaction begin?  Before 17, not while a query runs in parallel. */
static inline bool
ks_may_begin_subtransaction(void)
{
#if PG_VERSION_NUM >= 170000
	return true;
#else
	return !IsInParallelMode();
#endif
}

/*
 * For a scan that needs subtransactions, while the sizes of base relations are estimated (none has a path yet but
 * subqueries): the query is not to be a parallel one, where these would fail.
 */
static inline void
ks_plan_subtransactions(PlannerInfo *root)
{
#if PG_VERSION_NUM < 170000
	root->glob->parallelModeOK = false;
	for (; root != NULL; root = root->parent_root)
		for (int i = 1; i < root->simple_rel_array_size; i++)
			if (root->simple_rel_array[i] != NULL)
			{
				root->simple_rel_array[i]->consider_parallel = false;
				root->simple_rel_array[i]->partial_pathlist = NIL;
			}
#else
	(void) root;
#endif
}

/* Writes to a temporary file; 16 made the data const. */
static inline void
ks_buffile_write(BufFile *file, const void *data, size_t size)
{
	BufFileWrite(file, unconstify(void *, data), size);
}

#endif							/* KS_FDW_COMPAT_H */
