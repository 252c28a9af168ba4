/*
 * relation_key.c: columns, identity and message key of a published relation; see relation_key.h.
 *
 * The message key must be known from the old row of every update and delete, or a key change could not be seen and a
 * delete would have no key.  So a key is taken only if the replica identity of the table carries all of its columns.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "compat/decode_compat.h"
#include "decode/relation_key.h"
#include "utils/rel.h"

void
ks_resolve_columns(KsRelation *rel, const KsMembership *membership)
{
	rel->columns = palloc(sizeof(int) * Max(rel->desc->natts, 1));
	rel->ncolumns = 0;
	for (int i = 0; i < rel->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(rel->desc, i);

		if (att->attisdropped)
			continue;
		if (!membership->all_columns && !bms_is_member(i + 1, membership->columns))
			continue;
		if (att->attgenerated && !(membership->generated && att->attgenerated == ATTRIBUTE_GENERATED_STORED))
			continue;
		rel->columns[rel->ncolumns++] = i;
	}
}

/* Attribute indexes of an index's key columns, in its own order; *count is 0 if there is an expression among them. */
static int *
index_columns(Oid index_oid, int *count)
{
	Relation	index;
	int		   *result;

	*count = 0;
	if (!OidIsValid(index_oid))
		return NULL;
	index = RelationIdGetRelation(index_oid);
	if (!RelationIsValid(index))
		elog(ERROR, "could not open index with OID %u", index_oid);
	result = palloc(sizeof(int) * IndexRelationGetNumberOfKeyAttributes(index));
	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
	{
		int			attnum = index->rd_index->indkey.values[i];

		if (attnum <= 0)
		{
			*count = 0;
			break;
		}
		result[(*count)++] = attnum - 1;
	}
	RelationClose(index);
	return result;
}

/* Columns of rel->desc that old rows of the table carry. */
static void
resolve_identity(KsRelation *rel, Relation table, const AttrMap *map)
{
	char		kind = table->rd_rel->relreplident;
	Bitmapset  *in_table = NULL;
	int		   *columns;
	int			count = 0;

	rel->identity_full = kind == REPLICA_IDENTITY_FULL;
	rel->identity = NULL;
	if (kind == REPLICA_IDENTITY_NOTHING)
		return;
	if (!rel->identity_full)
	{
		columns = index_columns(RelationGetReplicaIndex(table), &count);
		for (int i = 0; i < count; i++)
			in_table = bms_add_member(in_table, columns[i]);
	}
	for (int i = 0; i < rel->desc->natts; i++)
	{
		int			there = map ? map->attnums[i] - 1 : i;

		if (TupleDescAttr(rel->desc, i)->attisdropped || there < 0)
			continue;
		if (rel->identity_full || bms_is_member(there, in_table))
			rel->identity = bms_add_member(rel->identity, i);
	}
	bms_free(in_table);
}

/* Can these columns be the key: all published, and all in old rows? */
static bool
usable(const KsRelation *rel, const int *columns, int count)
{
	for (int i = 0; i < count; i++)
	{
		bool		published = false;

		for (int j = 0; j < rel->ncolumns && !published; j++)
			published = rel->columns[j] == columns[i];
		if (!published || !bms_is_member(columns[i], rel->identity))
			return false;
	}
	return count > 0;
}

/* Attribute index of a published column named by set_topic; ERROR if there is none. */
static int
named_column(const KsRelation *rel, const char *name)
{
	for (int i = 0; i < rel->ncolumns; i++)
		if (strcmp(NameStr(TupleDescAttr(rel->desc, rel->columns[i])->attname), name) == 0)
			return rel->columns[i];
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("message key column \"%s\" of table \"%s.%s\" is not published", name, rel->schema, rel->table),
			 errdetail("It does not exist, or the publication's column list leaves it out."),
			 errhint("Set another key with kafka.set_topic().")));
}

/* The key that set_topic asked for. ERROR unless old rows carry it, or no event needs them. */
static void
take_named_key(KsRelation *rel, const KsMembership *membership, const KsPublisherRelation *setting)
{
	rel->keys = palloc(sizeof(int) * setting->nkeys);
	rel->nkeys = setting->nkeys;
	for (int i = 0; i < setting->nkeys; i++)
		rel->keys[i] = named_column(rel, setting->keys[i]);
	if ((membership->update || membership->delete) && !usable(rel, rel->keys, rel->nkeys))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replica identity of table \"%s.%s\" does not cover its message key", rel->schema, rel->table),
				 errdetail("Updates and deletes would not carry the old key."),
				 errhint("Use ALTER TABLE ... REPLICA IDENTITY FULL; changes made before that need the publisher to be "
						 "dropped and created again with a snapshot.")));
}

void
ks_resolve_key(KsRelation *rel, Relation table, Relation as, const AttrMap *map,
			   const KsMembership *membership, const KsPublisherRelation *setting)
{
	int		   *columns;
	int			count;

	resolve_identity(rel, table, map);
	rel->nkeys = 0;
	rel->keys = NULL;
	if (setting != NULL && setting->nkeys > 0)
	{
		take_named_key(rel, membership, setting);
		return;
	}
	columns = index_columns(ks_primary_key_index(as), &count);
	if (!usable(rel, columns, count) && table->rd_rel->relreplident == REPLICA_IDENTITY_INDEX)
	{
		columns = index_columns(RelationGetReplicaIndex(table), &count);
		if (map != NULL)
			for (int i = 0; i < count; i++)
			{
				int			there = columns[i] + 1;

				columns[i] = -1;
				for (int j = 0; j < map->maplen && columns[i] < 0; j++)
					if (map->attnums[j] == there)
						columns[i] = j;
				if (columns[i] < 0)
					return;
			}
	}
	if (!usable(rel, columns, count))
		return;
	rel->keys = columns;
	rel->nkeys = count;
}
