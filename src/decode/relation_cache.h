/*
 * relation_cache.h: what is known of each table whose changes or rows are met: is it published, as what, with which
 * columns, key and topic.
 */
#ifndef KS_RELATION_CACHE_H
#define KS_RELATION_CACHE_H

#include "postgres.h"

#include "access/attmap.h"
#include "access/htup.h"
#include "decode/row_filter.h"
#include "decode/source.h"
#include "utils/relcache.h"

typedef struct KsEntry
{
	Oid			relid;			/* of the table that has the rows; hash key */
	bool		valid;
	uint32		generation;		/* of the source's definition that this was made with */
	bool		deleted_rows;	/* it is kafka.deleted_row */
	bool		published;		/* all that follows only if so */
	bool		insert;
	bool		update;
	bool		delete;
	bool		truncate;
	Oid			as_relid;
	MemoryContext context;
	KsRelation *rel;			/* the relation published as */
	bool		explicit_topic; /* set_topic named the topic */
	TupleDesc	desc;			/* of the table that has the rows */
	AttrMap    *map;			/* its attributes by those of rel->desc; NULL: the same */
	KsRowFilter *filter;		/* over rel->desc; NULL: none */
	const KsTableSnapshot *snapshot;	/* NULL: every transaction counts */
	TransactionId judged_xid;	/* transaction that "dropped" is about */
	bool		dropped;
	int			nvarlena;		/* columns of rel->desc that can be toasted */
	int		   *varlena;
	KsRow		before;			/* room for one row each, of rel->desc */
	KsRow		after;
	Datum	   *raw_values;		/* room for one row of "desc", if there is a map */
	bool	   *raw_nulls;
} KsEntry;

typedef struct KsRelationCache KsRelationCache;

/*
 * Makes the cache of a source (one per process), below the source's context, and registers for invalidations; it
 * unregisters itself when that context goes.
 */
extern KsRelationCache *ks_relation_cache_create(KsSource *source);

/*
 * Entry of a relation under the snapshot in force; valid until the next call.  ERROR when the publication does not
 * exist, the key cannot be had, or two tables meet in one topic.
 */
extern KsEntry *ks_relation_cache_lookup(KsRelationCache *cache, Relation relation);

/*
 * Fills an entry (zeroed but for relid) without any cache.  "lenient": a table that cannot be keyed though it should
 * is no ERROR, and the encoder is not asked (to find topics).
 */
extern void ks_entry_fill(KsSource *source, Relation relation, bool lenient, KsEntry *entry);

/* Spreads one tuple of the table into a row of the relation published as. */
extern void ks_entry_deform(KsEntry *entry, HeapTuple tuple, KsRow *row);

#endif							/* KS_RELATION_CACHE_H */
