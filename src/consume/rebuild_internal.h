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

/*
 * rebuild_gone.c: partitions of which the subscription has read something, but which do not exist any more.  What the rebuild
 * has all read is complete; else it waits, and says so, or with "force" leaves the partition out.
 */
/* Is a partition not in the cluster any more, as far as the feed of this position knows? */
extern bool ks_rebuild_gone(const KsOffset *offset);
/*
 * May the rebuild end without what has gone?  With "force" and nothing else to stand at the same place, removes positions of
 * which nothing was read.  False: not (then r->incomplete is set), or not yet.
 */
extern bool ks_rebuild_complete(KsRebuild *rebuild);
/*
 * Puts the rebuild's position of a partition that has gone where the ordinary feed's is.  True: it is there, and stays,
 * since that feed holds nothing of it.
 */
extern bool ks_rebuild_leave(KsRebuild *rebuild, KsOffset *offset, const KsOffset *live);

/* Puts a request that was under way back among those that wait; inside a transaction. */
extern void ks_rebuild_put_back(int64 id);

#endif							/* KS_REBUILD_INTERNAL_H */
