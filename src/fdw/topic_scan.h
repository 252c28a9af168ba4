/*
 * topic_scan.h: what topic_plan.c and topic_scan.c share.
 */
#ifndef KS_TOPIC_SCAN_H
#define KS_TOPIC_SCAN_H

#include "postgres.h"

#include "foreign/fdwapi.h"

extern void ks_topic_rel_size(PlannerInfo *root, RelOptInfo *rel, Oid relid);
extern void ks_topic_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid);
/*
 * fdw_exprs of the plan are the conditions that shorten the reading; fdw_private is a list of the attribute indexes that
 * are needed, and a list of one: how many rows are wanted at most, 0 = not known.
 */
extern ForeignScan *ks_topic_plan(PlannerInfo *root, RelOptInfo *rel, Oid relid, ForeignPath *path, List *tlist,
								  List *scan_clauses, Plan *outer_plan);

#endif							/* KS_TOPIC_SCAN_H */
