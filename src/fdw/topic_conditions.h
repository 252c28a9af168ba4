/*
 * topic_conditions.h: conditions on partition, offset and timestamp that say what of a topic need not be read.
 *
 * Whatever is found here is checked again by the executor: it only makes the reading shorter.
 */
#ifndef KS_TOPIC_CONDITIONS_H
#define KS_TOPIC_CONDITIONS_H

#include "fdw/topic_reader.h"
#include "fdw/topic_table.h"
#include "nodes/execnodes.h"
#include "nodes/pathnodes.h"

/* Can this condition on the relation shorten the reading?  Its other side may be anything known when reading begins. */
extern bool ks_condition_is_useful(PlannerInfo *root, const KsTopicTable *table, Index relid, Expr *clause);

/* Prepares such conditions for execution; returns what ks_conditions_bounds takes. */
extern List *ks_conditions_prepare(const KsTopicTable *table, Index relid, List *clauses, PlanState *parent);
/* Sets bounds to what the conditions say with the values that they have now. */
extern void ks_conditions_bounds(List *conditions, ExprContext *econtext, KsBounds *bounds);

#endif							/* KS_TOPIC_CONDITIONS_H */
