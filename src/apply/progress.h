/*
 * progress.h: how far a target has come, as its other side remembers it.
 *
 * A foreign target commits before we do.  Where its other side keeps, in the same transaction as the rows, the next offset
 * of each partition, a crash between the two commits is seen afterwards: what it has is not handed to it again.  Offsets
 * count only within one "generation", the number of the row in kafka.subscription_position: a seek, and whatever else has
 * a partition begin anew, gives it another.  Of each partition's dead letters the one retried last is remembered, as an
 * item of another partition number: by its id as generation and its offset, since a restored database issues ids again.
 */
#ifndef KS_PROGRESS_H
#define KS_PROGRESS_H

#include "postgres.h"

#include "event/parser.h"

/* Stands for the dead letters of a partition. */
#define KS_LETTERS_OF(partition) (-1 - (partition))

typedef struct KsProgressItem
{
	char	   *topic;
	int32		partition;
	int64		generation;
	int64		next;			/* offset */
	bool		changed;		/* by the transaction under way */
} KsProgressItem;

typedef struct KsProgress
{
	MemoryContext context;
	bool		stale;			/* to be read from the other side before it is relied upon */
	int			count;
	int			capacity;
	KsProgressItem *items;
	int			latest;			/* of the last look-up */
} KsProgress;

/* Makes an empty, stale one, in CurrentMemoryContext. */
extern KsProgress *ks_progress_create(void);
/* Forgets all; what is set next is what the other side says. */
extern void ks_progress_reset(KsProgress *progress);
/* Sets the next offset of a partition; "changed" if it is not what was known. */
extern void ks_progress_set(KsProgress *progress, const char *topic, int32 partition, int64 generation, int64 next);
/* Is anything known of a partition? */
extern bool ks_progress_known(KsProgress *progress, const char *topic, int32 partition);
/* Does the other side have a message of this generation? */
extern bool ks_progress_has(KsProgress *progress, const KsMessage *message, int64 generation);
/* Notes a dead letter, by its id, as the last one of its partition that was retried. */
extern void ks_progress_set_letter(KsProgress *progress, const KsMessage *message, int64 id);
/* Was it this dead letter that was retried last of its partition? */
extern bool ks_progress_has_letter(KsProgress *progress, const KsMessage *message, int64 id);
/* The transaction committed on the other side: nothing is "changed" any more. */
extern void ks_progress_settle(KsProgress *progress);

#endif							/* KS_PROGRESS_H */
