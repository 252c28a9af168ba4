/*
 * apply.h: applying messages in order: each run of them in one transaction together with the offsets.
 */
#ifndef KS_APPLY_H
#define KS_APPLY_H

#include "postgres.h"

#include "apply/writer.h"

typedef struct KsApply
{
	const KsSubscription *subscription;
	KsRun		run;
	int			nwriters;
	KsWriter  **writers;		/* one per target */
	const KsParserOps *parser_ops;
	KsParser   *parser;
	KsParsed	parsed;
	KsPositions positions;
	int			limit;			/* messages per transaction at the moment: halved while one at fault is sought */
	int			suspects;		/* of the next messages, one at least is at fault; 0 = not known */
	int			since_fault;	/* messages applied since the last one that was set aside */
	TimestampTz waiting_since;	/* for a referenced row; 0 = not */
	int			waiting;		/* messages that have been waiting since then, those to come included */
	bool		again;			/* the attempt that met what may be gone the next time has been made again */
	Oid			target;			/* only these messages' rows of one target are written: a message is set aside for it alone */
	const KsWriter *at;			/* the writer that is at work; NULL = none */
	int			nactive;		/* writers that messages are handed to at the moment */
	KsWriter  **active;
	bool		opening;		/* the target is being opened: what fails now concerns no message */
	int			retries;		/* of a transaction that others were in the way of */
	bool		sent;			/* the next message is in the topic for dead letters already */
	int			letter_retries; /* of a dead letter that others were in the way of */
	MemoryContext context;		/* error texts of one attempt */
	int			count;			/* messages of the attempt: fewer than asked for where a target has some of them already */
	int			nopen;			/* active writers whose sinks are open */
	char		trouble[256];	/* why a target's other side cannot be reached, "" = it can */
	int			outages;		/* attempts in a row that met it */
	bool		dedupes;		/* some target appends or merges, or keeps what is there, so that repeats must be left out */
	bool		placed;			/* the position of the message that failed could be read: run.duplicate is known */
	uint64		dropped;		/* late events, by transactions that committed, since the worker started */
	uint64		skipping;		/* truncates left out by the transaction under way */
	uint64		skipped_truncates;	/* and by those that committed, since the worker started */
} KsApply;

typedef enum KsApplyResult
{
	KS_APPLY_DONE,				/* all of them */
	KS_APPLY_WAIT,				/* the next one waits for a row it refers to, or for others: try again a little later */
	KS_APPLY_MOVED				/* the positions were moved, or the definition changed, by somebody else: begin anew */
} KsApplyResult;

/* A table that messages are applied to, and the definition of what is done with it. */
typedef struct KsApplyTarget
{
	const KsTarget *target;
	Oid			relid;			/* the target's own table, or one that is being built to take its place */
} KsApplyTarget;

/* Sets up the subscription's replication origin for this session; call it once. */
extern void ks_apply_setup_origin(const KsSubscription *subscription);

/*
 * Makes what is needed to apply a subscription's messages to some tables.  ERROR: one of them cannot be written.  Lives
 * in CurrentMemoryContext.
 */
extern KsApply *ks_apply_create(const KsSubscription *subscription, const KsApplyTarget *targets, int ntargets,
								KsPositions positions);

/* How many messages one transaction may have at most, to keep memory bounded; not more than wanted. */
extern int	ks_apply_limit(const KsApply *apply, int wanted);

/*
 * Tries to reach the other sides of foreign targets; apply->trouble says why not.  ERROR: what is wrong there does not go
 * away by itself.
 */
extern void ks_apply_probe(KsApply *apply);

/*
 * Applies messages; *done of them are applied and committed.  Also called with count 0, to write positions alone.
 * ERROR naming topic, partition, offset, column and cause for a message that cannot be applied; those before it are.
 */
extern KsApplyResult ks_apply(KsApply *apply, const KsMessage *messages, int count, int *done);

/*
 * Applies dead letters that are to be retried, each in a transaction of its own: it is gone then, or has another error.
 * At most some at a time: DONE when there are no more, MORE, or WAIT where others are in the way.  ERROR: what fails
 * concerns no letter; those that are left are retried later.  In retry.c.
 */
typedef enum KsRetryResult
{
	KS_RETRY_DONE,
	KS_RETRY_MORE,
	KS_RETRY_WAIT
} KsRetryResult;

extern KsRetryResult ks_apply_retry(KsApply *apply);

#endif							/* KS_APPLY_H */
