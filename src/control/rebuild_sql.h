/*
 * rebuild_sql.h: requests to read targets again from the log (kafka.subscription_rebuild).
 */
#ifndef KS_REBUILD_SQL_H
#define KS_REBUILD_SQL_H

#include "postgres.h"

#include "control/catalog.h"

/*
 * ERROR if reading a subscription again from the beginning would not give what it should: a partition has gone or lost its
 * beginning, or a target (InvalidOid: any of them) appends or merges from a compacted topic.  The hint is the way out.  Asks
 * Kafka; takes no locks.
 */
extern void ks_rebuild_check(const KsSubscription *subscription, Oid target, const char *hint);

/*
 * ERROR, with the hint, if a target that appends or merges ("mode") would have to read a compacted topic's past: events of
 * it may be gone.  Asks Kafka; the subscription's positions are stored.
 */
extern void ks_rebuild_check_past(const KsSubscription *subscription, const char *mode, const char *hint);

/*
 * Has the worker of a subscription read a target (InvalidOid: each of them) again from the log: a "rebuild" beside the old
 * rows, or a "hydrate" of a new target into itself, after which it joins the others.  "force": from what is left of the
 * log.  What is under way for the target begins anew.  In a transaction that holds ks_subscription_lock.
 */
extern void ks_rebuild_request(int64 subscription_id, Oid target, const char *kind, bool force);

/*
 * Removes the positions of partitions that option "partitions" does not name (any more).  In a transaction that holds
 * ks_subscription_lock.
 */
extern void ks_forget_partitions(int64 subscription_id, const char *spec);

/* Is any target of a subscription (or each of them) being read again? */
extern bool ks_rebuild_pending(int64 subscription_id, bool all);

/*
 * While a subscription reads again, moves the position of that past a message that cannot be applied, rather than the
 * subscription's own.  False: nothing is read again there, or the offset is one that the subscription itself has not come
 * to.  ERROR: all targets are read again, and that is further already.
 */
extern bool ks_rebuild_seek(int64 subscription_id, const char *topic, int32 partition, int64 offset);

#endif							/* KS_REBUILD_SQL_H */
