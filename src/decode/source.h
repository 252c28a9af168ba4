/*
 * source.h: what is published and how: the definition that holds at the WAL position being decoded, its encoder, and
 * what the streaming filter knows of the initial snapshot.
 *
 * A source is used under a historic snapshot (the output plugin) or under an ordinary one (snapshot reader, topics).
 */
#ifndef KS_SOURCE_H
#define KS_SOURCE_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "control/catalog.h"
#include "control/options.h"
#include "event/codec.h"
#include "event/event.h"

/* The snapshot that a table's initial rows were first sent with; xids are full ones. */
typedef struct KsTableSnapshot
{
	Oid			relid;			/* the relation published as */
	uint64		xmin;
	uint64		xmax;
	int			nxip;
	uint64	   *xip;			/* in progress, ascending */
} KsTableSnapshot;

typedef struct KsSource
{
	MemoryContext context;		/* lives as long as the source */
	int64		publisher_id;	/* 0 = plain output plugin, no publisher */
	const KsPublisher *fallback;	/* the definition where the catalog has none yet */
	int			nsnapshots;
	KsTableSnapshot *snapshots;
	/* pinned partition count of a topic, 0 = not known; NULL function = nobody cares */
	int32		(*partitions) (void *arg, const char *topic);
	void	   *partitions_arg;
	XLogRecPtr	lsn;			/* of the change in hand, for errors; Invalid = now */

	/* the definition in force; all of it, and everything made with it, is in definition_context */
	bool		valid;
	uint32		generation;		/* grows when the definition changes */
	MemoryContext definition_context;
	int32		version;
	Oid			catalog_relid;	/* kafka.publisher */
	char	   *publication;
	char	   *topic_prefix;
	const KsOptions *options;
	KsEncoder  *encoder;
} KsSource;

/* Makes a source, in a context of its own below the current one, with "fallback" as its first definition. */
extern KsSource *ks_source_create(const KsPublisher *fallback);

/*
 * Makes the definition valid for the snapshot in force: reads kafka.publisher again after an invalidation.  True if
 * it changed: everything made with the former one is gone.  A transaction must be active.
 */
extern bool ks_source_refresh(KsSource *source);

/* Is a transaction (full xid) visible in the snapshot that a table was read with? */
extern bool ks_snapshot_sees(const KsTableSnapshot *snapshot, uint64 full_xid);
/* The recorded snapshot of a relation, NULL if it has none. */
extern const KsTableSnapshot *ks_source_snapshot(const KsSource *source, Oid relid);

/* Appends the topic of a table to "out", as set_topic or the default naming say. ERROR if it is too long. */
extern void ks_source_topic(const KsSource *source, const char *schema, const char *table,
							const KsPublisherRelation *setting, StringInfo out);

#endif							/* KS_SOURCE_H */
