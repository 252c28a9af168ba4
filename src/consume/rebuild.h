/*
 * rebuild.h: reading targets of a subscription again from the beginning, beside its ordinary work.
 *
 * Rows go into a shadow of each target (or, to hydrate a new one, into itself) by a feed of their own, whose positions
 * commit with the rows in kafka.rebuild_position.  Targets that are read again are not written by the ordinary feed, which
 * goes on for the others ("live").  At the end both stand at the same place, and one transaction joins them.
 *
 *   LOAD     up to where the log ended at first; live goes on
 *   INDEX    the shadows' other indexes, one at a time; live goes on
 *   CATCH_UP in rounds, while they get shorter; live goes on
 *   FINISH   to the end of each partition, and not beyond; live pauses
 *   DRAIN    live comes to the same place
 *   JOIN     shadows take their targets' places
 *
 * That each partition is read to its end, whatever live has read, is needed for compacted logs: a record that gave way to
 * a later one while we read is made up for only by that one, which may lie anywhere up to the end.
 */
#ifndef KS_REBUILD_H
#define KS_REBUILD_H

#include "postgres.h"

#include "consume/feed.h"
#include "control/worker.h"

typedef enum KsRebuildStage
{
	KS_REBUILD_LOAD,
	KS_REBUILD_INDEX,
	KS_REBUILD_CATCH_UP,
	KS_REBUILD_FINISH,
	KS_REBUILD_DRAIN,
	KS_REBUILD_JOIN
} KsRebuildStage;

/* One target that is read again. */
typedef struct KsRebuildTarget
{
	int64		id;				/* of kafka.subscription_rebuild */
	bool		hydrate;
	bool		running;		/* else it waits for those that are to end */
	const KsTarget *target;
	Oid			shadow;			/* or the target itself, to hydrate it; InvalidOid: none yet */
} KsRebuildTarget;

typedef struct KsRebuild
{
	const KsSubscription *subscription;
	int			ntargets;
	KsRebuildTarget *targets;	/* running and waiting ones */
	bool		lenient;		/* partitions may have lost their beginning */
	TimestampTz started_at;		/* what runs */
	KsFeed	   *feed;
	KsFeed	   *live;			/* NULL: all targets are read again */
	KsOffsets  *live_offsets;

	KsRebuildStage stage;
	bool		goals;			/* are set */
	int			rounds;
	uint64		last_round;		/* messages */
	TimestampTz held_since;		/* DRAIN: since when live waits for a row or a lock, 0 = it does not */
	TimestampTz give_up;		/* JOIN: when to do without exchanging files, which needs locks */
	TimestampTz next_try;
	int			nholders;		/* transactions with snapshots that may not see all of the shadows; -1 = not asked yet */
	void	   *holders;		/* VirtualTransactionId[] */
	bool		replace;		/* the difference deletes and inserts, see shadow.h */
	const char *detail;			/* for the status */
	char		incomplete[KS_DETAIL_SIZE]; /* instead of it: what cannot be read again, "" if nothing */
} KsRebuild;

/*
 * What of a subscription is to be read again, NULL if nothing.  "begin": begins with what waits if nothing is under way:
 * makes the shadows.  Outside of transactions; lives in TopMemoryContext.
 */
extern KsRebuild *ks_rebuild_load(const KsSubscription *subscription, bool begin);
/* Is this target being read again, or to be? */
extern bool ks_rebuild_covers(const KsRebuild *rebuild, Oid relid);
/* Makes the feed, inside a transaction, with positions that may begin now. */
extern void ks_rebuild_create_feed(KsRebuild *rebuild, const KsServer *server, TimestampTz *pace);
/* Starts, outside of transactions.  live: the other targets' feed, or NULL. */
extern void ks_rebuild_start(KsRebuild *rebuild, KsFeed *live, KsOffsets *live_offsets);
/* May the ordinary feed do anything now? */
extern bool ks_rebuild_live_may_run(const KsRebuild *rebuild);
/*
 * One pass, without waiting.  *more: there is more to do at once.  False: it is over, or begins anew: the worker is to be
 * started again.
 */
extern bool ks_rebuild_pass(KsRebuild *rebuild, bool *more);

#endif							/* KS_REBUILD_H */
