/*
 * shadow_swap.c: exchanging the files of a target and its shadow, as CLUSTER does with those of a rewritten table.
 *
 * What a relation is made of (file, tablespace, TOAST table, oldest xid) moves; what it is (Oid, name, rights, columns,
 * statistics) stays.  Index entries are row addresses, so indexes of the same definition can be exchanged with the heap.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/toast_internals.h"
#include "access/xact.h"
#include "apply/shadow.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "commands/tablecmds.h"
#include "compat/swap_compat.h"
#include "control/catalog.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* A writable copy of a relation's row in pg_class. */
static HeapTuple
class_row(Oid relid)
{
	HeapTuple	tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(relid));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	return tuple;
}

#define EXCHANGE(type, a, b) do { type x_ = (a); (a) = (b); (b) = x_; } while (0)

/* Exchanges the storage of two relations of the same kind. */
static void
exchange(Relation pg_class, Oid kept, Oid other)
{
	HeapTuple	kept_row = class_row(kept);
	HeapTuple	other_row = class_row(other);
	Form_pg_class a = (Form_pg_class) GETSTRUCT(kept_row);
	Form_pg_class b = (Form_pg_class) GETSTRUCT(other_row);

	if (a->relfilenode == 0 || b->relfilenode == 0 || a->relkind != b->relkind || a->relam != b->relam ||
		a->relpersistence != b->relpersistence || a->relnatts != b->relnatts)
		elog(ERROR, "relations %u and %u differ", kept, other);
	EXCHANGE(Oid, a->relfilenode, b->relfilenode);
	EXCHANGE(Oid, a->reltablespace, b->reltablespace);
	EXCHANGE(Oid, a->reltoastrelid, b->reltoastrelid);
	EXCHANGE(TransactionId, a->relfrozenxid, b->relfrozenxid);
	EXCHANGE(TransactionId, a->relminmxid, b->relminmxid);
	EXCHANGE(float4, a->reltuples, b->reltuples);
	ks_swap_page_counts(a, b);
	CatalogTupleUpdate(pg_class, &kept_row->t_self, kept_row);
	CatalogTupleUpdate(pg_class, &other_row->t_self, other_row);
	heap_freetuple(kept_row);
	heap_freetuple(other_row);
	ks_close_smgr(kept);
	ks_close_smgr(other);
}

/* Makes a TOAST table the one of another table: its only dependency is that. */
static void
change_toast_owner(Oid toast, Oid owner)
{
	ObjectAddress object;
	ObjectAddress referenced;
	long		count;

	if (!OidIsValid(toast))
		return;
	count = deleteDependencyRecordsFor(RelationRelationId, toast, false);
	if (count != 1)
		elog(ERROR, "TOAST table %u has %ld dependencies", toast, count);
	ObjectAddressSet(object, RelationRelationId, toast);
	ObjectAddressSet(referenced, RelationRelationId, owner);
	recordDependencyOn(&object, &referenced, DEPENDENCY_INTERNAL);
}

/* Gives the TOAST table that the target has got the name it should have, and its rows back to logical decoding. */
static void
settle_toast(Relation pg_class, Oid toast, Oid target)
{
	char		name[NAMEDATALEN];
	HeapTuple	tuple;

	snprintf(name, sizeof(name), "pg_toast_%u", target);
	RenameRelationInternal(toast, name, true, false);
	snprintf(name, sizeof(name), "pg_toast_%u_index", target);
	RenameRelationInternal(toast_get_valid_index(toast, AccessExclusiveLock), name, true, true);
	CommandCounterIncrement();
	tuple = class_row(toast);
	((Form_pg_class) GETSTRUCT(tuple))->relrewrite = InvalidOid;
	CatalogTupleUpdate(pg_class, &tuple->t_self, tuple);
	heap_freetuple(tuple);
}

/* The TOAST table of a relation. */
static Oid
toast_of(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	Oid			toast = rel->rd_rel->reltoastrelid;

	table_close(rel, NoLock);
	return toast;
}

/* See shadow.h. */
void
ks_shadow_swap(Oid target, Oid shadow, int64 id)
{
	Relation	pg_class = table_open(RelationRelationId, RowExclusiveLock);
	Relation	rel = table_open(target, NoLock);
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	Oid			old_toast = rel->rd_rel->reltoastrelid;
	Oid			new_toast = toast_of(shadow);
	ObjectAddress object;

	CheckTableNotInUse(rel, "rebuild");
	/* marks of serializable transactions name pages */
	TransferPredicateLocksToHeapRelation(rel);
	table_close(rel, NoLock);

	/* one of them may have no TOAST table: a column that was dropped since may have needed it */
	exchange(pg_class, target, shadow);
	change_toast_owner(new_toast, target);
	change_toast_owner(old_toast, shadow);
	foreach(lc, indexes)
	{
		char		name[NAMEDATALEN];
		Oid			counterpart;

		ks_shadow_index_name(name, id, lfirst_oid(lc));
		counterpart = get_relname_relid(name, ks_catalog_schema());
		if (!OidIsValid(counterpart))
			elog(ERROR, "index kafka.%s is missing", name);
		LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
		LockRelationOid(counterpart, AccessExclusiveLock);
		exchange(pg_class, lfirst_oid(lc), counterpart);
	}
	CommandCounterIncrement();

	/* the old files go with the shadow when the transaction commits */
	ObjectAddressSet(object, RelationRelationId, shadow);
	performDeletion(&object, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
	if (OidIsValid(new_toast))
		settle_toast(pg_class, new_toast, target);
	table_close(pg_class, RowExclusiveLock);
	CommandCounterIncrement();
}
