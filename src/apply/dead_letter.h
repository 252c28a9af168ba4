/*
 * dead_letter.h: messages that cannot be applied, set aside in kafka.dead_letter in the transaction of their offset; and
 * which of those are overtaken by newer messages of their key.
 */
#ifndef KS_DEAD_LETTER_H
#define KS_DEAD_LETTER_H

#include "postgres.h"

#include "control/catalog.h"
#include "event/parser.h"

/* Most letters that a subscription can have, whatever its options say: their keys are held in memory. */
#define KS_DEAD_LETTERS_MAX 1000000

/*
 * Reads what must be known of the letters of this process's subscription; call it inside a transaction, at the begin.
 */
extern void ks_dead_letters_load(const KsSubscription *subscription);

/* The targets that a message is set aside for. */
typedef struct KsLetterTargets
{
	Oid			only;			/* it is set aside for this one alone; InvalidOid = for all that it was being applied to */
	int			count;
	const Oid  *relids;			/* those that have not got it */
	bool		anew;			/* they are being read again: until that is over, their own tables are not concerned */
} KsLetterTargets;

/*
 * Sets a message aside in the current transaction, which also moves past it.
 * stage: parse | convert | query | apply | late.  op: KsParsed.op, 0 if it is not known.  A message that is there already
 * only gets another attempt.  retry: ks_apply_retry() is to try it again.  ERROR (which concerns no message): option
 * "max_dead_letters" is reached.  May be called as any role.
 */
extern void ks_dead_letter_add(const KsSubscription *subscription, const KsMessage *message, char op,
							   const KsLetterTargets *targets, const char *stage, int sqlstate, const char *error,
							   const char *detail, bool retry);
/* Forgets what the rebuild before set aside for targets that it has not finished. */
extern void ks_dead_letters_begin_rebuild(const KsSubscription *subscription);
/*
 * A target has what is in the log, up to the positions of the rebuild (request id): letters stand for it no longer, but
 * those do that the rebuild set aside.
 */
extern void ks_dead_letters_end_rebuild(const KsSubscription *subscription, int64 id);
/* An array of table Oids as a Datum of type oid[], and back. */
extern Datum ks_oid_array(const Oid *relids, int count);
extern Oid *ks_read_oid_array(Datum array, int *count);

/*
 * Notes that the current transaction applies a message to targets that hold the latest state of a key.  Cheap where the
 * subscription has no letters.
 */
extern void ks_dead_letters_overtake(const KsMessage *message, const KsParsed *parsed);
/* Marks the letters that were overtaken, in the current transaction; before any row is written. */
extern void ks_dead_letters_mark(const KsSubscription *subscription);
/*
 * Marks the letters that a letter which is applied now overtakes, in the current transaction.  It asks the table: with
 * several workers, another one may have set the message aside.
 */
extern void ks_dead_letters_overtaken_by(const KsSubscription *subscription, const KsMessage *message);
/* The transaction committed or was rolled back. */
extern void ks_dead_letters_finish(bool committed);

/* "text" cut to a size that a row or header may have, and valid in the database's encoding. */
extern char *ks_dead_letter_text(const char *text);
/* Does a target hold the latest state of a key, so that an older message must not be applied after a newer one? */
extern bool ks_target_holds_state(const KsTarget *target);

#endif							/* KS_DEAD_LETTER_H */
