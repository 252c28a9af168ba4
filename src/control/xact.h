/*
 * xact.h: end-of-transaction work.
 */
#ifndef KS_XACT_H
#define KS_XACT_H

#include "control/worker.h"

/* Sets the latches of all publishers of this database. */
extern void ks_wake_publishers(void);
/* Asks the launcher, when the current transaction commits, to look at all databases again. */
extern void ks_rescan_all_at_commit(void);
/* Ends the worker of an object when the current transaction commits; the launcher starts it anew. */
extern void ks_restart_at_commit(KsWorkerKind kind, int64 object_id);

/* Has a subscription's worker look, when the current transaction commits, for dead letters to be retried. */
extern void ks_retry_at_commit(int64 subscription_id);

#endif							/* KS_XACT_H */
