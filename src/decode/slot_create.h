/*
 * slot_create.h: making and dropping a publisher's slot.
 */
#ifndef KS_SLOT_CREATE_H
#define KS_SLOT_CREATE_H

#include "postgres.h"

#include "access/xlogdefs.h"

#define KS_OUTPUT_PLUGIN "pg_kafka_sync"

/*
 * Makes a slot within a backend's transaction; it goes away if the (sub)transaction aborts.  ERROR if the transaction
 * has written already: it would wait for itself.
 */
extern void ks_slot_create(const char *name);
/* Drops a slot now; ERROR when it is in use, or missing and not missing_ok. */
extern void ks_slot_drop(const char *name, bool missing_ok);

/*
 * Makes a slot in a worker, outside any transaction.  While it waits for running transactions, wait_for() is called
 * with them: it returns when they have ended.  The slot is released afterwards.
 */
extern void ks_slot_create_in_worker(const char *name, void (*wait_for) (const TransactionId *xids, int count));

/* Is there such a slot? */
extern bool ks_slot_exists(const char *name);
/* Confirmed position of a slot, Invalid if there is none. */
extern XLogRecPtr ks_slot_confirmed(const char *name);

#endif							/* KS_SLOT_CREATE_H */
