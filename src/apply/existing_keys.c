/*
 * existing_keys.c: rows of a local table by a part of its key.  Rows are seen as they were when the transaction began: nobody else writes what
 * a subscription derives from its topics.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/tableam.h"
#include "apply/existing_keys.h"
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

#define RELATION_NAME "ks_parts"

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

/* By SQL: for partitioned tables, and those without such an index. */
static void
by_sql(KsTargetTable *t, const int *attributes, int n, Datum **parts, int count, KsKeyFound found, void *arg)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc	source = RelationGetDescr(t->rel);
	TupleDesc	desc = CreateTemplateTupleDesc(n + 1);
	Datum	   *values = palloc(sizeof(Datum) * Max(n + 1, t->natts));
	bool	   *nulls = palloc0(sizeof(bool) * (n + 1));
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT r.ks_part");
	for (int i = 0; i < t->nkeys; i++)
		appendStringInfo(&sql, ", t.%s", t->columns[t->keys[i].index].quoted);
	appendStringInfo(&sql, " FROM " RELATION_NAME " r JOIN %s t ON ", t->qualified);
	TupleDescInitEntry(desc, 1, "ks_part", INT4OID, -1, 0);
	for (int i = 0; i < n; i++)
	{
		Form_pg_attribute att = TupleDescAttr(source, attributes[i]);

		TupleDescInitEntry(desc, i + 2, NameStr(att->attname), att->atttypid, att->atttypmod, att->attndims);
		TupleDescInitEntryCollation(desc, i + 2, att->attcollation);
		for (int k = 0; k < t->nkeys; k++)
			if (t->keys[k].index == attributes[i])
				appendStringInfo(&sql, "%st.%s %s r.%s", i ? " AND " : "", t->columns[attributes[i]].quoted,
								 t->keys[k].equal_operator, t->columns[attributes[i]].quoted);
	}
	for (int p = 0; p < count; p++)
	{
		values[0] = Int32GetDatum(p);
		for (int i = 0; i < n; i++)
			values[i + 1] = parts[p][attributes[i]];
		tuplestore_putvalues(store, desc, values, nulls);
	}
	relation->md.name = RELATION_NAME;
	relation->md.tupdesc = desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = count;
	relation->reldata = store;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the rows of a batch");
	if (SPI_execute(sql.data, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read %s", t->qualified);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		bool		isnull;

		for (int k = 0; k < t->nkeys; k++)
			values[t->keys[k].index] = SPI_getbinval(tuple, SPI_tuptable->tupdesc, k + 2, &isnull);
		found(arg, DatumGetInt32(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull)), values);
	}
	SPI_finish();
	tuplestore_end(store);
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
		by_sql(t, attributes, n, parts, count, found, arg);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
