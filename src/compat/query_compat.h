/*
 * query_compat.h: what differs between PostgreSQL 15 and 18 in parsed queries and in running plans, as static inline
 * functions.
 */
#ifndef KS_QUERY_COMPAT_H
#define KS_QUERY_COMPAT_H

#include "postgres.h"

#include "executor/executor.h"
#include "nodes/parsenodes.h"

/* The expression behind a column of the grouping step, which is a range table entry of its own since 18; else NULL. */
static inline Node *
ks_group_expression(const RangeTblEntry *rte, AttrNumber attno)
{
#if PG_VERSION_NUM >= 180000
	if (rte->rtekind == RTE_GROUP && attno > 0)
		return list_nth(rte->groupexprs, attno - 1);
#else
	(void) rte;
	(void) attno;
#endif
	return NULL;
}

/* Forgets as whom the relations of a query are to be read (not those in its subqueries): as the current user, then. */
static inline void
ks_read_as_current_user(Query *query)
{
	ListCell   *lc;

#if PG_VERSION_NUM >= 160000
	foreach(lc, query->rteperminfos)
		((RTEPermissionInfo *) lfirst(lc))->checkAsUser = InvalidOid;
#else
	foreach(lc, query->rtable)
		((RangeTblEntry *) lfirst(lc))->checkAsUser = InvalidOid;
#endif
}

/* A range table entry needs no permission any more. */
static inline void
ks_needs_no_permission(RangeTblEntry *rte)
{
#if PG_VERSION_NUM >= 160000
	rte->perminfoindex = 0;
#else
	rte->requiredPerms = 0;
	rte->selectedCols = NULL;
#endif
}

/* Runs a plan to its end. */
static inline void
ks_executor_run(QueryDesc *desc)
{
#if PG_VERSION_NUM >= 180000
	ExecutorRun(desc, ForwardScanDirection, 0);
#else
	ExecutorRun(desc, ForwardScanDirection, 0, true);
#endif
}

#endif							/* KS_QUERY_COMPAT_H */
