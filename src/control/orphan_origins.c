/*
 * orphan_origins.c: the end of replication origins whose subscription was dropped; see orphan_origins.h.
 *
 * A publisher knows by the origin's name that rows were written by a subscription, and leaves them out.  Rows in WAL
 * that it has not read yet outlive the subscription: without their origin they would be published, and with two-way
 * use go round in circles.  So an origin stays until no slot of ours in this database can read what lies before the
 * place where it was found without an owner, which kafka.dropped_origin keeps.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/pg_replication_origin.h"
#include "catalog/pg_type.h"
#include "control/definitions.h"
#include "control/orphan_origins.h"
#include "control/worker.h"
#include "miscadmin.h"
#include "replication/origin.h"
#include "replication/slot.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* Is this the origin of a worker of one of the subscriptions? */
static bool
is_owned(const char *name, List *subscriptions)
{
	ListCell   *lc;

	foreach(lc, subscriptions)
	{
		const KsSubscription *s = lfirst(lc);

		for (int32 ordinal = 0; ordinal < s->workers; ordinal++)
		{
			char		own[NAMEDATALEN];

			ks_origin_name(own, MyDatabaseId, s->id, ordinal);
			if (strcmp(own, name) == 0)
				return true;
		}
	}
	return false;
}

/* Names of origins that nobody owns: of this database in *ours, of databases that are gone in *others. */
static void
find_orphans(List *subscriptions, List **ours, List **others)
{
	Relation	rel = table_open(ReplicationOriginRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	*ours = *others = NIL;
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_replication_origin_roname, RelationGetDescr(rel), &isnull);
		char	   *name = TextDatumGetCString(value);
		Oid			database;

		if (sscanf(name, KS_ORIGIN_PREFIX "%u_", &database) != 1)
			continue;
		if (database != MyDatabaseId)
		{
			if (!SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database)))
				*others = lappend(*others, name);
		}
		else if (!is_owned(name, subscriptions))
			*ours = lappend(*ours, name);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/*
 * Where the oldest WAL begins that a slot of our output plugin in this database may read (again, after a crash: what is
 * confirmed is written to disk later, but never behind this place); PG_UINT64_MAX if there is no such slot.
 */
static XLogRecPtr
oldest_needed(void)
{
	XLogRecPtr	oldest = PG_UINT64_MAX;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];
		XLogRecPtr	restart_lsn;

		if (!slot->in_use || slot->data.database != MyDatabaseId ||
			strcmp(NameStr(slot->data.plugin), "pg_kafka_sync") != 0)
			continue;
		SpinLockAcquire(&slot->mutex);
		restart_lsn = slot->data.restart_lsn;
		SpinLockRelease(&slot->mutex);
		/* one without a place is lost, or just being made: it begins later than all this */
		if (restart_lsn != InvalidXLogRecPtr)
			oldest = Min(oldest, restart_lsn);
	}
	LWLockRelease(ReplicationSlotControlLock);
	return oldest;
}

/* Returns the place in WAL before which the origin was in use, noted now if it is not yet. */
static XLogRecPtr
place_of(const char *name)
{
	Oid			types[2] = {TEXTOID, PG_LSNOID};
	Datum		values[2] = {CStringGetTextDatum(name), LSNGetDatum(GetXLogInsertRecPtr())};
	XLogRecPtr	result = InvalidXLogRecPtr;
	KsIdentity	saved;

	ks_become_superuser(&saved);
	SPI_connect();
	if (SPI_execute_with_args("INSERT INTO kafka.dropped_origin AS o (origin, dropped_lsn) VALUES ($1, $2) "
							  "ON CONFLICT (origin) DO UPDATE SET dropped_lsn = o.dropped_lsn RETURNING dropped_lsn",
							  2, types, values, NULL, false, 1) != SPI_OK_INSERT_RETURNING || SPI_processed != 1)
		elog(ERROR, "could not note a dropped replication origin");
	else
	{
		bool		isnull;

		result = DatumGetLSN(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	}
	SPI_finish();
	ks_become_caller(&saved);
	return result;
}

/* Forgets the places of origins that are gone. */
static void
forget_places(List *kept)
{
	Oid			types[1] = {TEXTARRAYOID};
	Datum	   *names = palloc(sizeof(Datum) * Max(list_length(kept), 1));
	Datum		values[1];
	int			n = 0;
	ListCell   *lc;

	foreach(lc, kept)
		names[n++] = CStringGetTextDatum(lfirst(lc));
	values[0] = PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
	(void) ks_catalog_execute("DELETE FROM kafka.dropped_origin WHERE origin <> ALL ($1)", 1, types, values, NULL);
}

/* See orphan_origins.h. */
void
ks_drop_orphan_origins(List *subscriptions, bool (*in_use) (const char *origin))
{
	bool		has_table = OidIsValid(ks_catalog_relid("dropped_origin"));
	List	   *ours;
	List	   *others;
	List	   *kept = NIL;
	XLogRecPtr	oldest;
	ListCell   *lc;

	find_orphans(subscriptions, &ours, &others);
	foreach(lc, others)
		replorigin_drop_by_name(lfirst(lc), true, true);

	oldest = oldest_needed();
	foreach(lc, ours)
	{
		char	   *name = lfirst(lc);

		if (in_use(name))
			continue;
		/* without our tables there are no publishers either */
		if (has_table && oldest != PG_UINT64_MAX && oldest < place_of(name))
			kept = lappend(kept, name);
		else
			replorigin_drop_by_name(name, true, true);
	}
	if (has_table)
		forget_places(kept);
}
