/*
 * conflict_batch.h: what a batch knows beside its rows where two databases write them (option "conflict").
 *
 * With newer, events of a key are folded to the last one in the order of conflict.h, which need not be the one that
 * came last.  With keep, events stay apart, since each is judged by the row that it meets.
 */
#ifndef KS_CONFLICT_BATCH_H
#define KS_CONFLICT_BATCH_H

#include "postgres.h"

#include "apply/batch.h"
#include "conflict/conflict.h"

typedef struct KsConflictBatch
{
	KsConflict	kind;
	char	   *column;			/* of newer */
	const char *server_name;	/* option, NULL = the publisher's topic prefix */
	bool		replica;		/* session_replication_role */
	int64		retention;		/* of deletes, in microseconds */

	/* of the target, as of its description "version"; in "context" */
	uint32		version;
	MemoryContext context;
	int			index;			/* attribute index of the column */
	KsOrdering	ordering;
	KsKeyText	key;
	FmgrInfo   *equal;			/* keep: by attribute; fn_oid InvalidOid: compare bytes */
} KsConflictBatch;

/* What a row is judged by. */
typedef struct KsRowOrder
{
	/* newer: its place in the order */
	Datum		value;
	bool		isnull;
	bool		deleted;
	char	   *server;			/* source.name, NULL if it is not told */
	bool		stale;			/* an update that is older than deletes are remembered */
	bool		has_base;		/* the row that the first event was made from had the value "base" */
	Datum		base;
	bool		base_null;
	/* keep: the old row; before_cells NULL: there was none */
	Datum	   *before;
	bool	   *before_nulls;
	uint8	   *before_cells;
} KsRowOrder;

/* NULL if what comes overwrites what is there.  Lives in CurrentMemoryContext. */
extern KsConflictBatch *ks_conflict_create(const KsSubscription *subscription, const KsTargetTable *target);
/* Looks at the target, which has just been opened.  ERROR: it does not suit any more. */
extern void ks_conflict_open(KsBatch *b);
extern bool ks_conflict_event_by_event(const KsConflictBatch *c);
/* Is b->message to be read?  Not a repeat, with keep.  ERROR: it cannot be put in order. */
extern bool ks_conflict_wants(KsBatch *b);
/*
 * Gives a row, found or made for the key of b->message, its place.  False: the batch has something for the row that comes
 * after it, and the event is left out.
 */
extern bool ks_conflict_take(KsBatch *b, KsBatchRow *row, bool deleted);
/* Does a new name win a tie against a former one? */
extern bool ks_conflict_name_wins(const char *new_name, const char *old_name);
/* Writes the batch, row by row, as the order says; in conflict_sink.c. */
extern void ks_conflict_write(KsBatch *b);

/* Forgets deletes that are old enough, some at a time, in transactions of its own; true: there may be more. */
extern bool ks_conflict_forget(const KsSubscription *subscription);

#endif							/* KS_CONFLICT_BATCH_H */
