/*
 * existing_keys.c: rows of a local table by a part of its key.  Rows are seen as they were when the transaction began: nobody else writes what
 * a subscription derives from its topics.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/tableam.h"
#include "apply/find_rows.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "compat/executor_compat.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

/* Does an index begin with exactly these columns, in any order? */
static bool
begins_with(Relation index, const int *attributes, int n)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisvalid || !form->indisready || index->rd_rel->relam != BTREE_AM_OID || form->indnkeyatts < n ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
		return false;
	for (int i = 0; i < n; i++)
	{
		bool		found = false;

		for (int j = 0; j < n; j++)
			found = found || form->indkey.values[i] == attributes[j] + 1;
		if (!found)
			return false;
	}
	return true;
}

/* Opens an index that begins with these columns; NULL if there is none. */
static Relation
find_index(KsTargetTable *t, const int *attributes, int n)
{
	ListCell   *lc;

	if (t->rel->rd_rel->relkind != RELKIND_RELATION)
		return NULL;
	foreach(lc, RelationGetIndexList(t->rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (begins_with(index, attributes, n))
			return index;
		index_close(index, NoLock);
	}
	return NULL;
}

/* By index. */
static void
by_index(KsTargetTable *t, Relation index, int n, Datum **parts, int count, KsKeyFound found, void *arg)
{
	ScanKeyData *keys = palloc0(sizeof(ScanKeyData) * n);
	TupleTableSlot *slot = table_slot_create(t->rel, NULL);
	IndexScanDesc scan = ks_index_beginscan(t->rel, index, GetActiveSnapshot(), n);

	for (int i = 0; i < n; i++)
	{
		Oid			opfamily = index->rd_opfamily[i];
		Oid			type = index->rd_opcintype[i];
		Oid			operator = get_opfamily_member(opfamily, type, type, BTEqualStrategyNumber);

		ScanKeyEntryInitialize(&keys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid, index->rd_indcollation[i],
							   get_opcode(operator), (Datum) 0);
	}
	for (int p = 0; p < count; p++)
	{
		for (int i = 0; i < n; i++)
			keys[i].sk_argument = parts[p][index->rd_index->indkey.values[i] - 1];
		index_rescan(scan, keys, n, NULL, 0);
		while (index_getnext_slot(scan, ForwardScanDirection, slot))
		{
			slot_getallattrs(slot);
			found(arg, p, slot->tts_values);
		}
		if ((p & 1023) == 1023)
			CHECK_FOR_INTERRUPTS();
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
}

/* See existing_keys.h. */
void
ks_local_existing_keys(KsTargetTable *t, const int *attributes, int n, Datum **parts, int count, KsKeyFound found, void *arg)
{
	MemoryContext context;
	MemoryContext old;
	Relation	index;

	context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync existing keys", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	index = find_index(t, attributes, n);
	if (index)
		by_index(t, index, n, parts, count, found, arg);
	else
		/* for partitioned tables, and those without such an index */
		ks_find_keys(t, attributes, n, parts, 0, count, NULL, NULL, found, arg);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
