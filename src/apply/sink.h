/*
 * sink.h: how the rows of a target get to where it keeps them: one table of functions per kind of relation, chosen when
 * the target is described.  Writers (batch.c, query_target.c) make rows of messages and know no kind.
 *
 * A foreign target commits before the local transaction does, which holds the positions: so these never run ahead of it.
 * A crash in between repeats messages, which mode upsert takes without harm; a sink whose other side remembers what it
 * has (target->progress) is not handed them again.
 *
 * Calls come in this order: open, then existing_keys, apply or merge, as need be, then commit.  An ERROR anywhere, and a
 * local transaction that is not to commit, is followed by "abandon".  One that is down, or too slow to be waited for, sets
 * run->unreachable before its ERROR: then no message is at fault, and the same is tried again, for ever.
 */
#ifndef KS_SINK_H
#define KS_SINK_H

#include "postgres.h"

#include "apply/batch.h"
#include "apply/existing_keys.h"
#include "apply/query_target.h"
#include "control/foreign_table.h"

struct KsSinkOps
{
	/*
	 * Adds to the description what the kind needs, in target->context: called whenever it is made anew, with the table
	 * open, columns and key known.  ERROR for what makes the table unfit.  NULL: nothing.
	 */
	void		(*describe) (KsTargetTable *target);
	/*
	 * Begins a transaction on the other side, connecting if need be; fills target->progress, if it has one that is stale.
	 * Called with the table open, as the superuser.  ERROR: what is wrong concerns no message.  NULL: nothing to do.
	 */
	void		(*open) (KsTargetTable *target, KsRun *run);
	/*
	 * Writes a batch: empties the table first if batch->truncate; then rows to remove; then the others, in the order of
	 * their last message.  As the table's owner.  ERROR: run->current is the message at fault, where it is known.
	 */
	void		(*apply) (KsBatch *batch);
	/* See existing_keys.h. As the table's owner. */
	void		(*existing_keys) (KsTargetTable *target, const int *attributes, int n, Datum **parts, int count,
								  KsKeyFound found, void *arg);
	/* Mode merge: computes the rows of the run and folds them into the table.  NULL: the kind has no such mode. */
	void		(*merge) (KsQueryWriter *writer);
	/*
	 * Makes it durable on the other side, with the progress that ks_sink_advance gives, if it keeps one.  Called last of
	 * all before the local commit, as the superuser.  NULL: nothing to do.
	 */
	void		(*commit) (KsTargetTable *target, KsRun *run);
	/* The local transaction is not to commit, or did not: what was begun is rolled back.  No ERROR.  NULL: nothing to do. */
	void		(*abandon) (KsTargetTable *target);
};

extern const KsSinkOps ks_local_sink;
extern const KsSinkOps ks_foreign_sink;
extern const KsSinkOps ks_postgres_sink;

/* The sink for a relation; NULL: there is none for its kind. */
extern const KsSinkOps *ks_sink_for(Oid relid);

/*
 * Brings target->progress to what it is when the run (or the letter that is retried) is written; what differs from before
 * is "changed".
 */
extern void ks_sink_advance(KsTargetTable *target, KsRun *run);
/* Does the other side of a target have message number i of the run already? */
extern bool ks_sink_has(KsTargetTable *target, const KsRun *run, int i);

#endif							/* KS_SINK_H */
