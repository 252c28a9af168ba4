/*
 * analyse_internal.h: what the files of query/analyse*.c share.
 */
#ifndef KS_ANALYSE_INTERNAL_H
#define KS_ANALYSE_INTERNAL_H

#include "query/analyse.h"

/* How often a relation stands in a query, at any depth. */
extern int	ks_count_references(Query *query, Oid relid);

/*
 * An expression of a query's level 0 in terms of batch alone, as varno 1; NULL if it reads anything else, or calls a
 * volatile function.
 */
extern Node *ks_in_terms_of_batch(Query *query, Node *expr);

/* Notes the conditions of a query, in which batch stands, that are on its topic alone. */
extern void ks_note_topic_conditions(KsQuery *result, Query *query);

#endif							/* KS_ANALYSE_INTERNAL_H */
