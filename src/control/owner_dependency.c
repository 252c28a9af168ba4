/*
 * owner_dependency.c: a role that owns publishers or subscriptions cannot be dropped, from whichever database.
 *
 * Roles belong to all databases, our tables to one.  PostgreSQL keeps in pg_shdepend who needs a role, and counts there
 * what it cannot see from where it is.  Rows of a table are no objects of their own; so the schema "kafka" is said to
 * depend on their owners as if they had privileges on it (anybody has USAGE), with a number of its own for each of the
 * two tables, apart from what GRANT notes.  DROP OWNED finds no such privilege to take away, and leaves the entry.
 *
 * A trigger on each row keeps the entries, in the same transaction.  Who adds a definition holds the lock of its owner
 * shared; who takes one away needs it exclusively to know that it was the last one, and does not wait for that: the
 * launcher's next scan removes what is left over.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_shdepend.h"
#include "commands/trigger.h"
#include "control/catalog.h"
#include "control/owner_dependency.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* The schema's numbers ("objsubid"), one per table. */
typedef enum OwnedTable
{
	OWNED_PUBLISHER = 1,
	OWNED_SUBSCRIPTION = 2
} OwnedTable;

PG_FUNCTION_INFO_V1(ks_owner_changed);

/* Locks the owner's entry until the end of the transaction; false if others hold it and this is not to wait. */
static bool
lock_owner(OwnedTable table, Oid owner, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, get_namespace_oid("kafka", false), owner, table);
	return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/* The roles that have an entry, a list of Oids. */
static List *
noted(OwnedTable table)
{
	Relation	rel = table_open(SharedDependRelationId, AccessShareLock);
	ScanKeyData keys[4];
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *result = NIL;

	ScanKeyInit(&keys[0], Anum_pg_shdepend_dbid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(MyDatabaseId));
	ScanKeyInit(&keys[1], Anum_pg_shdepend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(NamespaceRelationId));
	ScanKeyInit(&keys[2], Anum_pg_shdepend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(get_namespace_oid("kafka", false)));
	ScanKeyInit(&keys[3], Anum_pg_shdepend_objsubid, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(table));
	scan = systable_beginscan(rel, SharedDependDependerIndexId, true, NULL, 4, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_shdepend form = (Form_pg_shdepend) GETSTRUCT(tuple);

		if (form->refclassid == AuthIdRelationId)
			result = list_append_unique_oid(result, form->refobjid);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* Is there an entry? */
static bool
is_noted(OwnedTable table, Oid owner)
{
	return list_member_oid(noted(table), owner);
}

/* Adds or removes an entry.  ERROR if the role is being dropped. */
static void
note(OwnedTable table, Oid owner, bool add)
{
	Oid		   *role = palloc(sizeof(Oid));	/* freed by the call */

	*role = owner;
	updateAclDependencies(NamespaceRelationId, get_namespace_oid("kafka", false), table, InvalidOid,
						  add ? 0 : 1, add ? NULL : role, add ? 1 : 0, add ? role : NULL);
	CommandCounterIncrement();
}

/* Does a role own a row of the table, as committed or changed by ourselves? */
static bool
owns(OwnedTable table, Oid owner)
{
	List	   *list = table == OWNED_PUBLISHER ? ks_publishers() : ks_subscriptions();
	ListCell   *lc;

	foreach(lc, list)
		if (owner == (table == OWNED_PUBLISHER ? ((KsPublisher *) lfirst(lc))->owner :
					  ((KsSubscription *) lfirst(lc))->owner))
			return true;
	return false;
}

/* A row of this owner was added. */
static void
gained(OwnedTable table, Oid owner)
{
	(void) lock_owner(table, owner, ShareLock, true);
	if (!is_noted(table, owner))
		note(table, owner, true);
}

/* A row of this owner was taken away. */
static void
lost(OwnedTable table, Oid owner)
{
	if (lock_owner(table, owner, ExclusiveLock, false) && !owns(table, owner) && is_noted(table, owner))
		note(table, owner, false);
}

/* kafka.owner_changed(): row trigger of kafka.publisher and kafka.subscription. */
Datum
ks_owner_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	OwnedTable	table;
	Oid			owner;
	Oid			former;
	int			column;
	bool		isnull;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("kafka.owner_changed() is a row trigger function")));
	desc = RelationGetDescr(trigger->tg_relation);
	table = strcmp(RelationGetRelationName(trigger->tg_relation), "publisher") == 0 ? OWNED_PUBLISHER : OWNED_SUBSCRIPTION;
	column = SPI_fnumber(desc, "owner");
	owner = former = DatumGetObjectId(heap_getattr(trigger->tg_trigtuple, column, desc, &isnull));
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		owner = DatumGetObjectId(heap_getattr(trigger->tg_newtuple, column, desc, &isnull));

	CommandCounterIncrement();	/* see what the statement did */
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		gained(table, owner);
	else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		lost(table, former);
	else if (owner != former)
	{
		gained(table, owner);
		lost(table, former);
	}
	return PointerGetDatum(NULL);
}

/* Makes the entries equal to the owners: those that are missing, if the role is still there, and those left over. */
static void
repair(OwnedTable table, List *owners)
{
	List	   *entries = noted(table);
	ListCell   *lc;

	foreach(lc, owners)
		if (!list_member_oid(entries, lfirst_oid(lc)) && lfirst_oid(lc) >= FirstNormalObjectId &&
			SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(lfirst_oid(lc))))
			note(table, lfirst_oid(lc), true);
	foreach(lc, entries)
		if (!list_member_oid(owners, lfirst_oid(lc)))
			lost(table, lfirst_oid(lc));
}

/* See owner_dependency.h. */
void
ks_owner_dependencies_repair(List *publishers, List *subscriptions)
{
	List	   *owners = NIL;
	ListCell   *lc;

	if (!OidIsValid(get_namespace_oid("kafka", true)))
		return;
	foreach(lc, publishers)
		owners = list_append_unique_oid(owners, ((KsPublisher *) lfirst(lc))->owner);
	repair(OWNED_PUBLISHER, owners);
	owners = NIL;
	foreach(lc, subscriptions)
		owners = list_append_unique_oid(owners, ((KsSubscription *) lfirst(lc))->owner);
	repair(OWNED_SUBSCRIPTION, owners);
}

/* See owner_dependency.h. */
void
ks_owner_dependencies_forget(void)
{
	Oid			schema = get_namespace_oid("kafka", true);

	if (!OidIsValid(schema))
		return;
	deleteSharedDependencyRecordsFor(NamespaceRelationId, schema, OWNED_PUBLISHER);
	deleteSharedDependencyRecordsFor(NamespaceRelationId, schema, OWNED_SUBSCRIPTION);
}
