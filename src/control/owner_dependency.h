/*
 * owner_dependency.h: pg_shdepend entries for the owners of publishers and subscriptions.
 */
#ifndef KS_OWNER_DEPENDENCY_H
#define KS_OWNER_DEPENDENCY_H

#include "postgres.h"

#include "nodes/pg_list.h"

/*
 * Makes the entries those of the owners of these definitions (all of this database, lists of KsPublisher and
 * KsSubscription), which may have come without our trigger (pg_upgrade, a restore with triggers off); removes those left
 * over.  Inside a transaction that may write, with an active snapshot.
 */
extern void ks_owner_dependencies_repair(List *publishers, List *subscriptions);

/* Removes all entries: the extension is being dropped, its schema may stay. */
extern void ks_owner_dependencies_forget(void);

#endif							/* KS_OWNER_DEPENDENCY_H */
