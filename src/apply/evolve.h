/*
 * evolve.h: option "evolve": columns that messages have and a plain target lacks are added to it.
 *
 * A writer that meets such fields asks for columns and raises an ERROR, by which its transaction is rolled back.  The
 * columns are made in a transaction of their own, after which the same messages are tried again: so no row is written
 * under a lock that readers wait for, and a crash anywhere leaves a column too many at most, never a row too few.
 */
#ifndef KS_EVOLVE_H
#define KS_EVOLVE_H

#include "postgres.h"

#include "apply/apply.h"

/* Makes what a run needs; lives in CurrentMemoryContext. */
extern KsEvolution *ks_evolution_create(void);

/*
 * Asks for columns for all fields of the list, one of which has none, and raises an ERROR; a field whose type cannot be
 * known is an ERROR of the message's own.  Returns where there is nothing to add: fields that are null and of no known type,
 * or (ignore) of no known type, are left out.  "needed": the fields stand for values though they are null here.
 */
extern void ks_evolution_ask(KsRun *run, KsTargetTable *table, const KsMessage *message, const KsParsed *parsed,
							 const KsFieldList *fields, bool needed, bool ignore);

/* Forgets what was asked for. */
extern void ks_evolution_begin(KsEvolution *evolution);
/* Is the error that was just caught such a question? */
extern bool ks_evolution_pending(const KsEvolution *evolution);
/* An attempt went through: what was added is there. */
extern void ks_evolution_succeeded(KsEvolution *evolution);
/* Is it too early to try again, after somebody's lock was in the way? */
extern bool ks_evolution_waits(const KsEvolution *evolution);

/*
 * Adds the columns, in a transaction of its own.  Returns NULL, or the error, in a->context, everything rolled back.
 * *moved: the definition has changed, or the table is being rebuilt and has to be anew: begin again.
 */
extern ErrorData *ks_evolve(KsApply *a, bool *moved);

#endif							/* KS_EVOLVE_H */
