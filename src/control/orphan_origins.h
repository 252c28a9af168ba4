/*
 * orphan_origins.h: the end of replication origins whose subscription was dropped.
 */
#ifndef KS_ORPHAN_ORIGINS_H
#define KS_ORPHAN_ORIGINS_H

#include "postgres.h"

#include "nodes/pg_list.h"

/*
 * Drops replication origins that carry our name and belong to none of "subscriptions" (all of this database, a list of
 * KsSubscription), or to a database that is gone.  in_use: says whether a worker still writes under this origin; it
 * stays then.  To be called inside a transaction that may write, with an active snapshot.
 */
extern void ks_drop_orphan_origins(List *subscriptions, bool (*in_use) (const char *origin));

#endif							/* KS_ORPHAN_ORIGINS_H */
