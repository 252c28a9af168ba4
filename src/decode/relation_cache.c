/*
 * relation_cache.c: entries per table, and when they stop being true; see relation_cache.h.
 *
 * Invalidations come from WAL at the place where the catalog change was made, so an entry always tells what held at
 * the change in hand.  A callback may come while an entry is being made or used: it only marks, nothing is freed until
 * the next lookup.
 */
#include "postgres.h"

#include "catalog/pg_publication.h"
#include "access/htup_details.h"
#include "compat/decode_compat.h"
#include "decode/publication.h"
#include "decode/relation_cache.h"
#include "decode/relation_key.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#define TOPIC_KEY_SIZE 256

/* Who uses a topic. */
typedef struct TopicUse
{
	char		topic[TOPIC_KEY_SIZE];
	Oid			relid;			/* published as */
	bool		explicit_topic;
} TopicUse;

struct KsRelationCache
{
	KsSource   *source;
	HTAB	   *entries;
	HTAB	   *topics;
	int			nmapped;		/* entries that were published as another relation, ever */
	KsEntry    *last;			/* most recently looked up */
	MemoryContextCallback reset;
};

static KsRelationCache *active_cache = NULL;

/* Marks every entry. */
static void
invalidate_all(KsRelationCache *cache)
{
	HASH_SEQ_STATUS status;
	KsEntry    *entry;

	cache->last = NULL;
	hash_seq_init(&status, cache->entries);
	while ((entry = hash_seq_search(&status)) != NULL)
		entry->valid = false;
}

/* A relation changed: its entry, and those of partitions published as it. */
static void
relcache_callback(Datum arg, Oid relid)
{
	KsRelationCache *cache = active_cache;
	KsEntry    *entry;

	if (cache == NULL)
		return;
	if (!OidIsValid(relid) || relid == cache->source->catalog_relid)
	{
		cache->source->valid = false;
		invalidate_all(cache);
		return;
	}
	cache->last = NULL;
	entry = hash_search(cache->entries, &relid, HASH_FIND, NULL);
	if (entry != NULL)
		entry->valid = false;
	if (cache->nmapped > 0)
	{
		HASH_SEQ_STATUS status;

		hash_seq_init(&status, cache->entries);
		while ((entry = hash_seq_search(&status)) != NULL)
			if (entry->as_relid == relid)
				entry->valid = false;
	}
}

/* A publication, a schema's name or a type changed: anything may depend on it. */
static void
syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	if (active_cache != NULL)
		invalidate_all(active_cache);
}

/* The cache's memory goes. */
static void
forget_cache(void *arg)
{
	if (active_cache == arg)
		active_cache = NULL;
}

KsRelationCache *
ks_relation_cache_create(KsSource *source)
{
	static bool registered = false;
	KsRelationCache *cache = MemoryContextAllocZero(source->context, sizeof(KsRelationCache));
	HASHCTL		ctl;

	cache->source = source;
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(KsEntry);
	ctl.hcxt = source->context;
	cache->entries = hash_create("published tables", 128, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = TOPIC_KEY_SIZE;
	ctl.entrysize = sizeof(TopicUse);
	cache->topics = hash_create("topics of published tables", 128, &ctl, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);

	cache->reset.func = forget_cache;
	cache->reset.arg = cache;
	MemoryContextRegisterResetCallback(source->context, &cache->reset);
	active_cache = cache;
	if (!registered)
	{
		CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
		CacheRegisterSyscacheCallback(PUBLICATIONOID, syscache_callback, (Datum) 0);
		CacheRegisterSyscacheCallback(PUBLICATIONRELMAP, syscache_callback, (Datum) 0);
		CacheRegisterSyscacheCallback(PUBLICATIONNAMESPACEMAP, syscache_callback, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, syscache_callback, (Datum) 0);
		CacheRegisterSyscacheCallback(TYPEOID, syscache_callback, (Datum) 0);
		CacheRegisterSyscacheCallback(ENUMOID, syscache_callback, (Datum) 0);
		registered = true;
	}
	return cache;
}

/* Makes room for one row of natts columns. */
static void
make_row(KsRow *row, int natts)
{
	row->values = palloc0(sizeof(Datum) * Max(natts, 1));
	row->nulls = palloc0(sizeof(bool) * Max(natts, 1));
	row->unchanged = palloc0(sizeof(bool) * Max(natts, 1));
}

/* Everything of a published table's entry that is made once. */
static void
fill_published(KsSource *source, Relation table, Relation as, const KsMembership *membership, bool lenient,
			   KsEntry *entry)
{
	KsRelation *rel = palloc0(sizeof(KsRelation));
	KsPublisherRelation *setting = NULL;
	StringInfoData topic;

	entry->rel = rel;
	rel->context = CurrentMemoryContext;
	rel->relid = RelationGetRelid(as);
	rel->schema = get_namespace_name(RelationGetNamespace(as));
	rel->table = pstrdup(RelationGetRelationName(as));
	rel->desc = CreateTupleDescCopyConstr(RelationGetDescr(as));
	entry->desc = rel->desc;
	if (as != table)
	{
		entry->desc = CreateTupleDescCopyConstr(RelationGetDescr(table));
		entry->map = ks_build_attrmap(entry->desc, rel->desc);
	}
	if (source->publisher_id != 0 && OidIsValid(source->catalog_relid))
		setting = ks_publisher_relation(source->publisher_id, rel->relid);

	ks_resolve_columns(rel, membership);
	ks_resolve_key(rel, table, as, entry->map, membership, setting);
	if (rel->nkeys == 0 && !lenient && !source->options->bool_value[KS_OPT_ALLOW_UNKEYED])
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.%s\" has no message key", rel->schema, rel->table),
				 errdetail("Its replica identity carries neither a published primary key nor other key columns."),
				 errhint("Add a primary key, use REPLICA IDENTITY USING INDEX or FULL with kafka.set_topic(), or allow "
						 "messages without keys with option \"allow_unkeyed\".")));

	initStringInfo(&topic);
	ks_source_topic(source, rel->schema, rel->table, setting, &topic);
	rel->topic = topic.data;
	entry->explicit_topic = setting != NULL && setting->topic != NULL;
	if (source->partitions)
		rel->partitions = source->partitions(source->partitions_arg, rel->topic);

	entry->snapshot = ks_source_snapshot(source, rel->relid);
	make_row(&entry->before, rel->desc->natts);
	make_row(&entry->after, rel->desc->natts);
	if (entry->map)
	{
		entry->raw_values = palloc0(sizeof(Datum) * Max(entry->desc->natts, 1));
		entry->raw_nulls = palloc0(sizeof(bool) * Max(entry->desc->natts, 1));
	}
	entry->varlena = palloc(sizeof(int) * Max(rel->desc->natts, 1));
	for (int i = 0; i < rel->desc->natts; i++)
		if (TupleDescAttr(rel->desc, i)->attlen == -1 && !TupleDescAttr(rel->desc, i)->attisdropped)
			entry->varlena[entry->nvarlena++] = i;
	if (membership->filter)
		entry->filter = ks_row_filter_create(rel->desc, membership->filter);
	if (!lenient)
		source->encoder->ops->prepare_relation(source->encoder, rel);
}

void
ks_entry_fill(KsSource *source, Relation relation, bool lenient, KsEntry *entry)
{
	Oid			relid = RelationGetRelid(relation);
	MemoryContext old;
	KsMembership membership;
	Relation	as = relation;

	memset(entry, 0, sizeof(KsEntry));
	entry->relid = relid;
	entry->generation = source->generation;
	entry->context = AllocSetContextCreate(source->definition_context, "published table", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(entry->context);

	/* as pgoutput: FOR ALL TABLES does not mean materialised views or the catalog */
	entry->published = is_publishable_relation(relation) && ks_publication_membership(source, relid, &membership);
	if (entry->published)
	{
		entry->insert = membership.insert;
		entry->update = membership.update;
		entry->delete = membership.delete;
		entry->truncate = membership.truncate;
		entry->as_relid = membership.as_relid;
		if (membership.as_relid != relid)
		{
			as = RelationIdGetRelation(membership.as_relid);
			if (!RelationIsValid(as))
				elog(ERROR, "could not open relation with OID %u", membership.as_relid);
		}
		fill_published(source, relation, as, &membership, lenient, entry);
		if (as != relation)
			RelationClose(as);
	}
	entry->valid = true;
	MemoryContextSwitchTo(old);
	if (!entry->published)
	{
		entry->deleted_rows = relid == ks_catalog_relid("deleted_row");
		/* most tables of a database may not be published, and they come and go */
		MemoryContextDelete(entry->context);
		entry->context = NULL;
	}
}

/* Is the topic's other user really using it still, under the snapshot in force? */
static bool
still_uses_topic(KsSource *source, const TopicUse *use)
{
	char	   *name = get_rel_name(use->relid);
	char	   *schema;
	KsMembership membership;
	StringInfoData topic;

	if (name == NULL)
		return false;
	schema = get_namespace_name(get_rel_namespace(use->relid));
	initStringInfo(&topic);
	ks_source_topic(source, schema, name,
					source->publisher_id != 0 && OidIsValid(source->catalog_relid) ?
					ks_publisher_relation(source->publisher_id, use->relid) : NULL, &topic);
	if (strcmp(topic.data, use->topic) != 0)
		return false;
	if (get_rel_relkind(use->relid) == RELKIND_PARTITIONED_TABLE)
		return true;
	return ks_publication_membership(source, use->relid, &membership);
}

/* ERROR if another table writes to the same topic and not both said so. */
static void
claim_topic(KsRelationCache *cache, KsEntry *entry)
{
	KsRelation *rel = entry->rel;
	bool		found;
	TopicUse   *use = hash_search(cache->topics, rel->topic, HASH_ENTER, &found);

	if (found && use->relid != rel->relid && !(use->explicit_topic && entry->explicit_topic) &&
		still_uses_topic(cache->source, use))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("tables \"%s.%s\" and \"%s.%s\" would both be published to topic \"%s\"",
						get_namespace_name(get_rel_namespace(use->relid)), get_rel_name(use->relid),
						rel->schema, rel->table, rel->topic),
				 errhint("Give both tables that topic, or each its own, with kafka.set_topic().")));
	use->relid = rel->relid;
	use->explicit_topic = entry->explicit_topic;
}

KsEntry *
ks_relation_cache_lookup(KsRelationCache *cache, Relation relation)
{
	Oid			relid = RelationGetRelid(relation);
	KsEntry    *entry;
	bool		found;

	if (cache->last != NULL && cache->last->relid == relid && cache->last->valid)
		return cache->last;
	if (!cache->source->valid)
		(void) ks_source_refresh(cache->source);

	entry = hash_search(cache->entries, &relid, HASH_ENTER, &found);
	if (!found)
	{
		memset(entry, 0, sizeof(KsEntry));
		entry->relid = relid;
	}
	if (!entry->valid || entry->generation != cache->source->generation)
	{
		/* the context of an entry of an older definition went with that definition */
		if (entry->context != NULL && entry->generation == cache->source->generation)
			MemoryContextDelete(entry->context);
		memset(entry, 0, sizeof(KsEntry));
		entry->relid = relid;
		ks_entry_fill(cache->source, relation, false, entry);
		if (entry->published)
		{
			entry->valid = false;
			claim_topic(cache, entry);
			entry->valid = true;
			if (entry->as_relid != relid)
				cache->nmapped++;
		}
	}
	cache->last = entry;
	return entry;
}

void
ks_entry_deform(KsEntry *entry, HeapTuple tuple, KsRow *row)
{
	if (entry->map == NULL)
	{
		heap_deform_tuple(tuple, entry->desc, row->values, row->nulls);
		return;
	}
	heap_deform_tuple(tuple, entry->desc, entry->raw_values, entry->raw_nulls);
	for (int i = 0; i < entry->map->maplen; i++)
	{
		int			there = entry->map->attnums[i] - 1;

		row->nulls[i] = there < 0 || entry->raw_nulls[there];
		row->values[i] = row->nulls[i] ? (Datum) 0 : entry->raw_values[there];
	}
}
