/*
 * publication.c: membership of tables in a publication; see publication.h.
 *
 * The rules are those of the built-in output plugin: with publish_via_partition_root a partition is published as its
 * topmost published ancestor, and only row filter and column list of the relation published as count.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/catalog.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_publication_rel.h"
#include "compat/decode_compat.h"
#include "decode/publication.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* Raises the ERROR for a publication that is not there at the place in hand. */
static void
missing_publication(const KsSource *source)
{
	if (XLogRecPtrIsInvalid(source->lsn))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("publication \"%s\" does not exist", source->publication),
				 errhint("Create it, or name another one with kafka.alter_publisher(name, '{\"publication\": ...}').")));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("publication \"%s\" does not exist at WAL position %X/%X", source->publication,
					LSN_FORMAT_ARGS(source->lsn)),
			 errdetail("Changes are published as the catalogs were when they were made."),
			 errhint("Drop the publisher and create it again with a snapshot.")));
}

/* Reads row filter and column list of the relation published as. */
static void
read_details(const Publication *publication, KsMembership *out)
{
	HeapTuple	tuple;
	Datum		value;
	bool		isnull;

	out->all_columns = true;
	out->generated = ks_publishes_stored_generated(publication);
	if (publication->alltables)
		return;
	/* FOR TABLES IN SCHEMA means no filter, even if the table is also named by itself */
	tuple = SearchSysCache2(PUBLICATIONRELMAP, ObjectIdGetDatum(out->as_relid), ObjectIdGetDatum(publication->oid));
	if (!HeapTupleIsValid(tuple))
		return;
	if (!SearchSysCacheExists2(PUBLICATIONNAMESPACEMAP, ObjectIdGetDatum(get_rel_namespace(out->as_relid)),
							   ObjectIdGetDatum(publication->oid)))
	{
		value = SysCacheGetAttr(PUBLICATIONRELMAP, tuple, Anum_pg_publication_rel_prqual, &isnull);
		if (!isnull)
			out->filter = TextDatumGetCString(value);
	}
	value = SysCacheGetAttr(PUBLICATIONRELMAP, tuple, Anum_pg_publication_rel_prattrs, &isnull);
	if (!isnull)
	{
		ArrayType  *list = DatumGetArrayTypeP(value);
		int16	   *attnums = (int16 *) ARR_DATA_PTR(list);

		out->all_columns = false;
		out->generated = ks_column_list_publishes_generated();
		for (int i = 0; i < ARR_DIMS(list)[0]; i++)
			out->columns = bms_add_member(out->columns, attnums[i]);
	}
	ReleaseSysCache(tuple);
}

/* Same as ks_publication_membership for a publication at hand. */
static bool
membership(const Publication *publication, Oid relid, KsMembership *out)
{
	bool		published = publication->alltables;
	List	   *ancestors = NIL;

	memset(out, 0, sizeof(*out));
	out->as_relid = relid;
	if (ks_is_own_relation(relid))
		return false;
	if (get_rel_relispartition(relid))
		ancestors = get_partition_ancestors(relid);

	if (publication->alltables)
	{
		if (publication->pubviaroot && ancestors != NIL)
			out->as_relid = llast_oid(ancestors);
	}
	else
	{
		if (ancestors != NIL)
		{
			Oid			ancestor = GetTopMostAncestorInPublication(publication->oid, ancestors, NULL);

			if (OidIsValid(ancestor))
			{
				published = true;
				if (publication->pubviaroot)
					out->as_relid = ancestor;
			}
		}
		if (!published)
		{
			List	   *direct = GetRelationPublications(relid);
			List	   *by_schema = GetSchemaPublications(get_rel_namespace(relid));

			published = list_member_oid(direct, publication->oid) || list_member_oid(by_schema, publication->oid);
			list_free(direct);
			list_free(by_schema);
		}
	}
	list_free(ancestors);
	if (!published)
		return false;
	/* a partitioned table's own event is a truncate; its partitions speak for themselves unless the root does */
	if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE && !publication->pubviaroot)
		return false;
	if (out->as_relid != relid && ks_is_own_relation(out->as_relid))
		return false;
	out->insert = publication->pubactions.pubinsert;
	out->update = publication->pubactions.pubupdate;
	out->delete = publication->pubactions.pubdelete;
	out->truncate = publication->pubactions.pubtruncate;
	read_details(publication, out);
	return true;
}

bool
ks_publication_membership(const KsSource *source, Oid relid, KsMembership *out)
{
	Publication *publication;

	memset(out, 0, sizeof(*out));
	if (ks_is_own_relation(relid))
		return false;
	publication = GetPublicationByName(source->publication, true);
	if (publication == NULL)
		missing_publication(source);
	return membership(publication, relid, out);
}

/* Orders published tables by Oid. */
static int
compare_tables(const ListCell *a, const ListCell *b)
{
	Oid			x = ((KsPublishedTable *) lfirst(a))->relid;
	Oid			y = ((KsPublishedTable *) lfirst(b))->relid;

	return x < y ? -1 : x > y;
}

List *
ks_publication_tables(const KsSource *source, bool *exists)
{
	Publication *publication = GetPublicationByName(source->publication, true);
	List	   *result = NIL;
	List	   *candidates = NIL;
	Relation	pg_class;
	TableScanDesc scan;
	HeapTuple	tuple;
	ListCell   *lc;

	*exists = publication != NULL;
	if (publication == NULL)
		return NIL;

	/* What can be published at all: permanent tables of users. */
	pg_class = table_open(RelationRelationId, AccessShareLock);
	scan = table_beginscan_catalog(pg_class, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);

		if (form->relkind == RELKIND_RELATION && form->relpersistence == RELPERSISTENCE_PERMANENT &&
			form->oid >= FirstNormalObjectId && !IsCatalogRelationOid(form->oid) && !form->relrewrite)
			candidates = lappend_oid(candidates, form->oid);
	}
	table_endscan(scan);
	table_close(pg_class, AccessShareLock);

	foreach(lc, candidates)
	{
		Oid			relid = lfirst_oid(lc);
		KsMembership m;
		KsPublishedTable *table = NULL;
		ListCell   *t;

		if (!membership(publication, relid, &m))
			continue;
		if (m.as_relid != relid)
			foreach(t, result)
				if (((KsPublishedTable *) lfirst(t))->relid == m.as_relid)
					table = lfirst(t);
		if (table == NULL)
		{
			table = palloc0(sizeof(KsPublishedTable));
			table->relid = m.as_relid;
			result = lappend(result, table);
		}
		table->leaves = lappend_oid(table->leaves, relid);
	}
	list_sort(result, compare_tables);
	return result;
}
