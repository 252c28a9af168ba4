/*
 * rebuild_internal.h: what rebuild.c and rebuild_join.c share.
 */
#ifndef KS_REBUILD_INTERNAL_H
#define KS_REBUILD_INTERNAL_H

#include "consume/rebuild.h"

/*
 * Tries, without waiting long, to put the shadows in their targets' places, and the subscription's positions where theirs
 * are.  True: it is done, or cannot be: the worker is to be started again.  False: try again later.
 */
extern bool ks_rebuild_join(KsRebuild *rebuild);

/* Puts a request that was under way back among those that wait; inside a transaction. */
extern void ks_rebuild_put_back(int64 id);

#endif							/* KS_REBUILD_INTERNAL_H */
