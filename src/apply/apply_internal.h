/*
 * apply_internal.h: what apply.c and retry.c share.
 */
#ifndef KS_APPLY_INTERNAL_H
#define KS_APPLY_INTERNAL_H

#include "apply/apply.h"

/* Times that an attempt is repeated which others were in the way of. */
#define KS_MAX_RETRIES 20

/* Begins a transaction for applying, in which a wait for a lock has an end. */
extern void ks_apply_begin(void);
/* Has the sinks that were written commit, where they are apart from the current transaction. */
extern void ks_apply_commit_sinks(KsApply *a);
/* Commits it, under our origin. */
extern void ks_apply_commit(void);
/*
 * Reads and writes the rows of messages with the active writers in the current transaction, each table's as its owner.
 * Sets a->count: so many of the messages were written.
 */
extern void ks_apply_write(KsApply *a, const KsMessage *messages, int count);
/* The transaction was rolled back, or is to be: the writers forget what was open in it. */
extern void ks_apply_abandon(KsApply *a);

/* Others were in the way: the same again may succeed. */
extern bool ks_is_transient(const ErrorData *e);
/* The server, and no message, is at fault. */
extern bool ks_is_general(const ErrorData *e);
/* What an error says, with the column it is about. */
extern char *ks_error_cause(const KsApply *a, const ErrorData *e);
/* Raises an error again. */
extern void ks_rethrow(ErrorData *e);

#endif							/* KS_APPLY_INTERNAL_H */
