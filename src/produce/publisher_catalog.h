/*
 * publisher_catalog.h: what a publisher's worker reads from and writes to the extension's tables, each call in a
 * transaction of its own.  Never called while the slot is held.
 */
#ifndef KS_PUBLISHER_CATALOG_H
#define KS_PUBLISHER_CATALOG_H

#include "postgres.h"

#include "control/catalog.h"
#include "decode/source.h"

/* Pinned partition count of one topic. */
typedef struct KsPinnedTopic
{
	char	   *topic;
	int32		partitions;
} KsPinnedTopic;

/* Reads the publisher of this worker into "context"; NULL if it was dropped. */
extern KsPublisher *ks_load_publisher(int64 id, MemoryContext context);
/* Stores the next xid after the slot was made, and that the snapshot runs. */
extern void ks_store_floor(int64 id, uint64 floor);
/* Stores that the snapshot is done. */
extern void ks_store_snapshot_done(int64 id);

/*
 * Makes sure that a table has a recorded snapshot: the one of this call's transaction, unless an earlier attempt left
 * one.  Durable on return.  True if the table is done already.
 */
extern bool ks_store_table_snapshot(int64 id, Oid relid);
extern void ks_store_table_done(int64 id, Oid relid, uint64 rows);
/* Reads all recorded snapshots into the source. */
extern void ks_load_table_snapshots(int64 id, KsSource *source);

/* Pinned topics, in "context". */
extern KsPinnedTopic *ks_load_pinned(int64 id, MemoryContext context, int *count);
/* Pins topics; one that is pinned already stays as it is. */
extern void ks_store_pinned(int64 id, const KsPinnedTopic *topics, int count);

#endif							/* KS_PUBLISHER_CATALOG_H */
