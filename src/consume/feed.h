/*
 * feed.h: one way of messages into tables: a consumer, positions, and what applies them.  A subscription's worker has one
 * for its targets, and another beside it while it reads some of them again from the beginning.
 */
#ifndef KS_FEED_H
#define KS_FEED_H

#include "postgres.h"

#include "apply/apply.h"
#include "consume/consumer.h"
#include "consume/offsets.h"

typedef struct KsFeed
{
	const KsSubscription *subscription;
	KsOffsets  *offsets;
	KsConsumer *consumer;
	KsApply    *apply;
	int			max_rows;
	TimestampTz batch_since;	/* when the oldest message that waits came in; 0 = none */
	TimestampTz not_before;		/* pause: something is waited for */
	TimestampTz *pace;			/* pause: the rate limit, which all feeds of the worker share */
	bool		holding;		/* messages wait for others' rows */
	uint64		commits;		/* transactions */
	uint64		dropped;		/* late events */
	uint64		skipped_truncates;
	bool		retries;		/* dead letters, too */
	uint64		retry_requests; /* that were looked after */
	bool		forgets;		/* it is this worker that forgets remembered deletes */
	TimestampTz next_forget;
	bool		retry_due;		/* dead letters may wait to be retried */
	TimestampTz retry_not_before;
} KsFeed;

/* Makes a feed with its client handles.  Inside a transaction; lives in CurrentMemoryContext. */
extern KsFeed *ks_feed_create(const KsSubscription *subscription, const KsServer *server, KsOffsets *offsets,
							  TimestampTz *pace);
/* Says which tables it writes.  Outside of transactions. ERROR: one of them cannot be written. */
extern void ks_feed_start(KsFeed *feed, const KsApplyTarget *targets, int ntargets);

/*
 * One pass, without waiting: takes what has arrived, applies it if it is time to.  *more: there is more to do at once.
 * False: the positions were moved by somebody else, begin anew.
 */
extern bool ks_feed_pass(KsFeed *feed, bool *more);
/* Milliseconds until there is something to do even if nothing arrives, at most "most". */
extern long ks_feed_idle_ms(const KsFeed *feed, long most);
/* Waits for messages, the latch, or so long. */
extern void ks_feed_wait(KsFeed *feed, long ms);
/* What keeps the feed from working, in text (KS_DETAIL_SIZE), or false. */
extern bool ks_feed_trouble(const KsFeed *feed, char *text);

#endif							/* KS_FEED_H */
