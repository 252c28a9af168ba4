/*
 * ack_ledger.h: which WAL position is safe to confirm, pure logic.
 *
 * Transactions enter in commit order.  Messages of several of them are under way at once and are acknowledged in any
 * order.  A position is safe when every message of every transaction that ends at or before it is acknowledged, so it
 * only ever moves from the oldest transaction on.
 */
#ifndef KS_ACK_LEDGER_H
#define KS_ACK_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct KsLedgerEntry
{
	uint64_t	end_lsn;		/* of the transaction; 0 until its commit was seen */
	int64_t		commit_time;
	uint64_t	pending;		/* messages that are not acknowledged */
	bool		commit_seen;
} KsLedgerEntry;

typedef struct KsLedger
{
	KsLedgerEntry *ring;
	uint64_t	capacity;		/* a power of two */
	uint64_t	head;			/* number of the next transaction */
	uint64_t	tail;			/* number of the oldest one that is not complete */
	uint64_t	outstanding;	/* messages that are not acknowledged, of all */
	uint64_t	safe_lsn;		/* end of the newest transaction that is complete, with all before it */
	int64_t		safe_time;		/* its commit time */
} KsLedger;

/* Makes an empty ledger; false when out of memory (malloc). */
extern bool ks_ledger_init(KsLedger *ledger, uint64_t safe_lsn);
extern void ks_ledger_free(KsLedger *ledger);

/* Opens the next transaction and returns its number; false when out of memory. */
extern bool ks_ledger_begin(KsLedger *ledger, uint64_t *number);
/* A message of the newest transaction is on its way. */
extern void ks_ledger_sent(KsLedger *ledger);
/* The newest transaction is complete as far as sending goes. */
extern void ks_ledger_commit(KsLedger *ledger, uint64_t end_lsn, int64_t commit_time);
/* "count" messages of a transaction were acknowledged.  False for a number that is not open: a bug of the caller. */
extern bool ks_ledger_acked(KsLedger *ledger, uint64_t number, uint64_t count);
/* Is every transaction that was begun committed and acknowledged? */
extern bool ks_ledger_is_empty(const KsLedger *ledger);

#endif							/* KS_ACK_LEDGER_H */
