/*
 * snapshot.h: the initial rows of a publisher's tables, handed over to the stream without a gap.
 *
 * Protocol (all of it outside the slot, in ordinary transactions):
 *  1. The slot is made; from its start on, every transaction is in the stream.  The next xid after that is the floor.
 *  2. Every transaction with an xid below the floor is waited for: one of them may have written its commit record
 *     before the slot's start (so it is not in the stream) and still be invisible to snapshots.
 *  3. Per table, snapshot A is recorded durably.  Only then rows are read with a later snapshot B and sent.
 *  4. The stream drops, for that table, the transactions that A sees.  Those between A and B are sent twice, as rows and
 *     as changes, in that order: the topic converges.  A retry after a crash reads again with a later B, and keeps A: had
 *     it recorded a new one, deletes between both would be lost.
 */
#ifndef KS_SNAPSHOT_H
#define KS_SNAPSHOT_H

#include "postgres.h"

#include "control/catalog.h"
#include "decode/source.h"
#include "produce/producer.h"

/* Steps 1 and 2, as far as they were not taken before; then the publisher's snapshot_state is "running". */
extern void ks_snapshot_prepare(KsPublisher *publisher);

/* Steps 3 and 4 for every published table that is not done, then "done"; all messages acknowledged. */
extern void ks_snapshot_run(const KsPublisher *publisher, KsSource *source, KsProducer *producer);

#endif							/* KS_SNAPSHOT_H */
