/*
 * apply_internal.h: what apply.c, apply_write.c, set_aside.c and retry.c share.
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

/* In PG_CATCH: returns the error, in a->context, which becomes the current one; the transaction is rolled back. */
extern ErrorData *ks_apply_caught(KsApply *a);
/* Others were in the way: the same again may succeed. */
extern bool ks_is_transient(const ErrorData *e);
/* The server, and no message, is at fault. */
extern bool ks_is_general(const ErrorData *e);
/* What an error says, with the column it is about. */
extern char *ks_error_cause(const KsApply *a, const ErrorData *e);
/* Raises an error again. */
extern void ks_rethrow(ErrorData *e);

/* Notes that the other side of a foreign target cannot be reached. */
extern void ks_apply_note_trouble(KsApply *a, const ErrorData *e);
/* Nothing is in the way any more. */
extern void ks_apply_clear_trouble(KsApply *a);
/*
 * The targets that the message which just failed has not got, into relids (if not NULL); returns their number.  Those that
 * take events one by one are not given a repeat: they got it when it came first, or have a letter of then.
 */
extern int	ks_letter_targets(const KsApply *a, Oid *relids);
/* Sets the message that just failed aside in the current transaction, where it is not in a topic already. */
extern void ks_letter_add(KsApply *a, const KsMessage *m, const ErrorData *e);
/*
 * Sends a message to the topic for dead letters.  Returns an error, or NULL when it is acknowledged.  Outside of a
 * transaction: none is held open while Kafka is waited for.  *moved: the definition has changed, nothing was sent.
 */
extern ErrorData *ks_letter_send(KsApply *a, const KsMessage *m, const char *topic, const ErrorData *e, bool *moved);
/*
 * Is the definition that this worker goes by still in force?  What somebody says of targets and of bad messages holds
 * from his commit on, and a worker is told to end only some time after that.  In a transaction; ks_subscription_lock makes
 * the answer last.
 */
extern bool ks_apply_definition_holds(const KsSubscription *s);

#endif							/* KS_APPLY_INTERNAL_H */
