/*
 * ack_ledger.c: which WAL position is safe to confirm; see ack_ledger.h.
 */
#include "produce/ack_ledger.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 1024

/* The place of a transaction in the ring. */
static KsLedgerEntry *
entry_of(const KsLedger *ledger, uint64_t number)
{
	return &ledger->ring[number & (ledger->capacity - 1)];
}

bool
ks_ledger_init(KsLedger *ledger, uint64_t safe_lsn)
{
	memset(ledger, 0, sizeof(*ledger));
	ledger->capacity = FIRST_CAPACITY;
	ledger->safe_lsn = safe_lsn;
	ledger->ring = malloc(sizeof(KsLedgerEntry) * ledger->capacity);
	return ledger->ring != NULL;
}

void
ks_ledger_free(KsLedger *ledger)
{
	free(ledger->ring);
	memset(ledger, 0, sizeof(*ledger));
}

/* Doubles the ring; every transaction keeps its number. */
static bool
grow(KsLedger *ledger)
{
	KsLedger	bigger = *ledger;

	bigger.capacity *= 2;
	bigger.ring = malloc(sizeof(KsLedgerEntry) * bigger.capacity);
	if (bigger.ring == NULL)
		return false;
	for (uint64_t number = ledger->tail; number < ledger->head; number++)
		*entry_of(&bigger, number) = *entry_of(ledger, number);
	free(ledger->ring);
	*ledger = bigger;
	return true;
}

/* Moves past every complete transaction at the tail. */
static void
advance(KsLedger *ledger)
{
	while (ledger->tail < ledger->head)
	{
		KsLedgerEntry *entry = entry_of(ledger, ledger->tail);

		if (!entry->commit_seen || entry->pending > 0)
			return;
		ledger->safe_lsn = entry->end_lsn;
		ledger->safe_time = entry->commit_time;
		ledger->tail++;
	}
}

bool
ks_ledger_begin(KsLedger *ledger, uint64_t *number)
{
	KsLedgerEntry *entry;

	if (ledger->head - ledger->tail == ledger->capacity && !grow(ledger))
		return false;
	*number = ledger->head++;
	entry = entry_of(ledger, *number);
	memset(entry, 0, sizeof(*entry));
	return true;
}

void
ks_ledger_sent(KsLedger *ledger)
{
	entry_of(ledger, ledger->head - 1)->pending++;
	ledger->outstanding++;
}

void
ks_ledger_commit(KsLedger *ledger, uint64_t end_lsn, int64_t commit_time)
{
	KsLedgerEntry *entry = entry_of(ledger, ledger->head - 1);

	entry->end_lsn = end_lsn;
	entry->commit_time = commit_time;
	entry->commit_seen = true;
	advance(ledger);
}

bool
ks_ledger_acked(KsLedger *ledger, uint64_t number, uint64_t count)
{
	KsLedgerEntry *entry;

	if (number < ledger->tail || number >= ledger->head)
		return false;
	entry = entry_of(ledger, number);
	if (entry->pending < count)
		return false;
	entry->pending -= count;
	ledger->outstanding -= count;
	if (number == ledger->tail)
		advance(ledger);
	return true;
}

bool
ks_ledger_is_empty(const KsLedger *ledger)
{
	return ledger->tail == ledger->head;
}
