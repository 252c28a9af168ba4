/*
 * topic_lookup.c: see topic_lookup.h.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_table.h"
#include "fdw/topic_lookup.h"
#include "fdw/topic_table.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* Looks for the field in one table. */
static KsTopicLookup
look_into(Relation rel, const char *topic, const char *format, const char *field, size_t size, Oid *type, int32 *typmod)
{
	KsTopicTable *table = ks_topic_table(rel);
	KsTopicLookup result = KS_LOOKUP_NONE;

	if (strcmp(table->topic, topic) != 0 || strcmp(table->format, format) != 0)
		return result;
	for (int i = 0; i < table->natts; i++)
	{
		const KsTopicColumn *column = &table->columns[i];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		if (column->is_dropped || column->meta != KS_COL_NONE || column->npath != 1 ||
			strlen(column->path[0].name) != size || memcmp(column->path[0].name, field, size) != 0)
			continue;
		if (result == KS_LOOKUP_FOUND && (*type != att->atttypid || *typmod != att->atttypmod))
			return KS_LOOKUP_DISPUTED;
		result = KS_LOOKUP_FOUND;
		*type = att->atttypid;
		*typmod = att->atttypmod;
	}
	return result;
}

/*
 * Does a relation belong to a superuser, to the role, or to one that the role is a member of?  That a superuser has
 * everybody's rights makes him nobody's member: a type's code would run with his.
 */
static bool
is_trusted(Oid relid, Oid role)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return false;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return superuser_arg(owner) || role == owner || is_member_of_role_nosuper(role, owner);
}

/* See topic_lookup.h. */
KsTopicLookup
ks_topic_lookup(const char *server, Oid role, const char *topic, const char *format, const char *field, size_t size,
				Oid *type, int32 *typmod)
{
	ForeignServer *s = GetForeignServerByName(server, true);
	KsTopicLookup result = KS_LOOKUP_NONE;
	Relation	catalog;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (s == NULL)
		return result;
	catalog = table_open(ForeignTableRelationId, AccessShareLock);
	scan = systable_beginscan(catalog, InvalidOid, false, NULL, 0, NULL);
	while (result != KS_LOOKUP_DISPUTED && (tuple = systable_getnext(scan)) != NULL)
	{
		Form_pg_foreign_table form = (Form_pg_foreign_table) GETSTRUCT(tuple);
		Relation	rel;
		Oid			found_type = InvalidOid;
		int32		found_typmod = -1;
		KsTopicLookup found;

		/* before it is locked: no other may make us wait */
		if (form->ftserver != s->serverid || !is_trusted(form->ftrelid, role) ||
			(rel = try_relation_open(form->ftrelid, AccessShareLock)) == NULL)
			continue;
		/* as it is now that nobody alters it */
		found = is_trusted(form->ftrelid, role) ?
			look_into(rel, topic, format, field, size, &found_type, &found_typmod) : KS_LOOKUP_NONE;
		if (found == KS_LOOKUP_FOUND && result == KS_LOOKUP_FOUND &&
			(*type != found_type || *typmod != found_typmod))
			found = KS_LOOKUP_DISPUTED;
		if (found == KS_LOOKUP_FOUND)
		{
			*type = found_type;
			*typmod = found_typmod;
		}
		if (found != KS_LOOKUP_NONE)
			result = found;
		relation_close(rel, AccessShareLock);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return result;
}
