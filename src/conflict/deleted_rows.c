/*
 * deleted_rows.c: table kafka.deleted_row, read and written below SQL.
 *
 * What is read is what has committed by now, and what this transaction did.  A key's row is written only by who has
 * deleted the row of the key, or holds the lock of absent keys: nobody else writes it meanwhile, but for the cleaner,
 * who may take it away.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat/pg_compat.h"
#include "conflict/conflict.h"
#include "control/definitions.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define DELETED_TARGET 1
#define DELETED_KEY 2
#define DELETED_AT 3
#define DELETED_STAMP 4
#define DELETED_COLUMNS 4

#define LOCK_BUCKETS 128

static Oid	table_oid = InvalidOid;	/* of kafka.deleted_row, as long as it is known */

/* A table's definition changed (InvalidOid: any may have). */
static void
forget_table(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == table_oid)
		table_oid = InvalidOid;
}

/* The table; ERROR if there is none.  It is looked up for every row. */
static Oid
table_relid(void)
{
	static bool registered = false;

	if (!registered)
		CacheRegisterRelcacheCallback(forget_table, (Datum) 0);
	registered = true;
	if (!OidIsValid(table_oid))
		table_oid = ks_catalog_relid("deleted_row");
	if (!OidIsValid(table_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("extension pg_kafka_sync has no table deleted_row in this database")));
	return table_oid;
}

/* The row of a key, a copy, or NULL. */
static HeapTuple
find(Relation rel, Oid target, Datum key)
{
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	ScanKeyInit(&keys[0], DELETED_TARGET, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(target));
	/* the column is COLLATE "C", as keys that are made so are */
	ScanKeyInit(&keys[1], DELETED_KEY, BTEqualStrategyNumber, F_ARRAY_EQ, key);
	scan = systable_beginscan(rel, ks_primary_key_index(rel), true, snapshot, 2, keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return tuple;
}

/* See conflict.h. */
bool
ks_deleted_row_find(Oid target, Datum key, char **stamp)
{
	Relation	rel = table_open(table_relid(), AccessShareLock);
	HeapTuple	tuple = find(rel, target, key);

	*stamp = NULL;
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, DELETED_STAMP, RelationGetDescr(rel), &isnull);

		if (!isnull)
			*stamp = TextDatumGetCString(value);
	}
	table_close(rel, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

/* See conflict.h. */
void
ks_deleted_row_put(Oid target, Datum key, const char *stamp)
{
	Relation	rel = table_open(table_relid(), RowExclusiveLock);
	Datum		values[DELETED_COLUMNS];
	bool		nulls[DELETED_COLUMNS] = {false};
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = find(rel, target, key)))
	{
		TM_FailureData failure;

		if (table_tuple_delete(rel, &tuple->t_self, GetCurrentCommandId(true), GetLatestSnapshot(), InvalidSnapshot, true,
							   &failure, false) == TM_Ok)
			break;
		CHECK_FOR_INTERRUPTS();
	}
	values[DELETED_TARGET - 1] = ObjectIdGetDatum(target);
	values[DELETED_KEY - 1] = key;
	values[DELETED_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	nulls[DELETED_STAMP - 1] = stamp == NULL;
	if (stamp)
		values[DELETED_STAMP - 1] = CStringGetTextDatum(stamp);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values, nulls));
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

/* See conflict.h. */
int
ks_deleted_rows_clean(Oid target, int64 age, int limit)
{
	Oid			types[3] = {OIDOID, TIMESTAMPTZOID, INT4OID};
	Datum		values[3] = {ObjectIdGetDatum(target), TimestampTzGetDatum(GetCurrentTimestamp() - age), Int32GetDatum(limit)};

	return (int) ks_catalog_execute("DELETE FROM kafka.deleted_row WHERE ctid = ANY (ARRAY(SELECT ctid FROM kafka.deleted_row "
									"WHERE target = $1::pg_catalog.regclass AND deleted_at < $2 "
									"ORDER BY deleted_at LIMIT $3 FOR UPDATE SKIP LOCKED))", 3, types, values, NULL);
}

/* The lock that a key without a row has. */
static LOCKTAG
absent_key_tag(Oid target, Datum key)
{
	struct varlena *bytes = PG_DETOAST_DATUM(key);
	uint32		hash = hash_bytes((unsigned char *) VARDATA(bytes), VARSIZE(bytes) - VARHDRSZ);
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, table_relid(), target, hash % LOCK_BUCKETS);
	return tag;
}

/* See conflict.h. */
bool
ks_absent_key_lock(Oid target, Datum key, bool exclusive, bool wait)
{
	LOCKTAG		tag = absent_key_tag(target, key);

	return LockAcquire(&tag, exclusive ? ExclusiveLock : ShareLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/* See conflict.h. */
void
ks_absent_key_unlock(Oid target, Datum key)
{
	LOCKTAG		tag = absent_key_tag(target, key);

	(void) LockRelease(&tag, ShareLock, false);
}
