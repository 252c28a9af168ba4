/*
 * direct_sink.c: writing rows below SQL, as logical replication's own apply does, but a batch at a time.
 *
 * Every key is looked up once in its unique index.  New rows are gathered and written many to a page by one WAL record;
 * all constraints, generated columns, defaults, other indexes and AFTER ROW triggers (foreign keys among them) work as
 * usual.  Rows of mode append are not looked up at all.  No row lock is taken before an update: should another session change the row in between, it is looked up anew.
 * Should another session insert the same key in between, the unique index says so, and the caller tries again.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "apply/direct_writer.h"
#include "apply/local_sink.h"
#include "catalog/pg_attribute.h"
#include "commands/trigger.h"
#include "compat/executor_compat.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* See direct_writer.h. */
KsDirectWriter *
ks_direct_begin(KsBatch *batch)
{
	KsDirectWriter *w = MemoryContextAlloc(batch->context, sizeof(KsDirectWriter));
	KsTargetTable *t = batch->target;

	memset(w, 0, offsetof(KsDirectWriter, slots));
	w->batch = batch;
	w->target = t;
	w->rel = t->rel;
	w->estate = CreateExecutorState();
	ks_init_range_table(w->estate, w->rel, t->written);
	w->rri = makeNode(ResultRelInfo);
	InitResultRelInfo(w->rri, w->rel, 1, NULL, 0);
	if (batch->conflict)
		ks_guard_leave_out(w->rri->ri_TrigDesc);	/* what we write is in order */
	w->estate->es_opened_result_relations = lappend(w->estate->es_opened_result_relations, w->rri);
	w->cid = GetCurrentCommandId(true);
	w->estate->es_output_cid = w->cid;
	ExecOpenIndices(w->rri, false);
	AfterTriggerBeginQuery();
	w->generated = w->rel->rd_att->constr && w->rel->rd_att->constr->has_generated_stored;
	w->after_insert = w->rri->ri_TrigDesc && w->rri->ri_TrigDesc->trig_insert_after_row;

	if (!batch->list)
	{
		w->index = index_open(t->key_index, RowExclusiveLock);
		InitDirtySnapshot(w->snapshot);
		w->scan = ks_index_beginscan(w->rel, w->index, &w->snapshot, t->nkeys);
	}
	w->found = table_slot_create(w->rel, NULL);
	w->changed = table_slot_create(w->rel, NULL);
	return w;
}

/* See direct_writer.h. */
void
ks_direct_finish(KsDirectWriter *w)
{
	ExecClearTuple(w->found);
	if (w->index)
	{
		index_endscan(w->scan);
		index_close(w->index, NoLock);
	}
	w->batch->run->current = -1;		/* what follows concerns them all */
	AfterTriggerEndQuery(w->estate);
	ExecDropSingleTupleTableSlot(w->found);
	ExecDropSingleTupleTableSlot(w->changed);
	for (int i = 0; i < w->nslots; i++)
		ExecDropSingleTupleTableSlot(w->slots[i]);
	ExecCloseIndices(w->rri);
	ExecResetTupleTable(w->estate->es_tupleTable, false);
	FreeExecutorState(w->estate);
	CommandCounterIncrement();
}

/* See direct_writer.h. */
bool
ks_direct_find(KsDirectWriter *w, const Datum *values)
{
	KsTargetTable *t = w->target;

	for (int i = 0; i < t->nkeys; i++)
		t->scan_keys[i].sk_argument = values[t->keys[i].index];
	for (;;)
	{
		TransactionId wait;

		index_rescan(w->scan, t->scan_keys, t->nkeys, NULL, 0);
		if (!index_getnext_slot(w->scan, ForwardScanDirection, w->found))
			return false;
		wait = TransactionIdIsValid(w->snapshot.xmin) ? w->snapshot.xmin : w->snapshot.xmax;
		if (!TransactionIdIsValid(wait))
			return true;
		ExecClearTuple(w->found);
		XactLockTableWait(wait, NULL, NULL, XLTW_None);
	}
}

/*
 * Has the key, for which ks_direct_find() was called just now, a row by an ordinary snapshot?  Whatever version that sees was
 * in the index before the scan began.
 */
static bool
is_in_snapshot(KsDirectWriter *w)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found;

	snapshot->curcid = InvalidCommandId;	/* with all that we have done */
	w->scan->xs_snapshot = snapshot;
	index_rescan(w->scan, w->target->scan_keys, w->target->nkeys, NULL, 0);
	found = index_getnext_slot(w->scan, ForwardScanDirection, w->found);
	ExecClearTuple(w->found);
	w->scan->xs_snapshot = &w->snapshot;
	UnregisterSnapshot(snapshot);
	return found;
}

/* See direct_writer.h. */
bool
ks_direct_find_surely(KsDirectWriter *w, const Datum *values)
{
	while (!ks_direct_find(w, values))
	{
		if (!is_in_snapshot(w))
			return false;
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/* Can the row be written again?  False: somebody was faster, look it up anew. */
static bool
written(TM_Result result)
{
	switch (result)
	{
		case TM_Ok:
			return true;
		case TM_Updated:
		case TM_Deleted:
		case TM_BeingModified:
			CHECK_FOR_INTERRUPTS();
			return false;
		default:
			elog(ERROR, "unexpected result %d of writing a row", (int) result);
			return false;
	}
}

/* See direct_writer.h. */
bool
ks_direct_lock(KsDirectWriter *w)
{
	TM_FailureData failure;
	ItemPointerData tid = w->found->tts_tid;

	ExecClearTuple(w->found);
	return written(table_tuple_lock(w->rel, &tid, GetActiveSnapshot(), w->found, w->cid, LockTupleExclusive, LockWaitBlock, 0,
									&failure));
}

/* See direct_writer.h. */
bool
ks_direct_delete(KsDirectWriter *w)
{
	TM_FailureData failure;
	ItemPointerData tid = w->found->tts_tid;

	if (!w->deletes_checked)
		CheckCmdReplicaIdentity(w->rel, CMD_DELETE);
	w->deletes_checked = true;
	if (!written(table_tuple_delete(w->rel, &tid, w->cid, GetActiveSnapshot(), InvalidSnapshot, true, &failure, false)))
		return false;
	ExecClearTuple(w->found);
	ExecARDeleteTriggers(w->estate, w->rri, &tid, NULL, NULL, false);
	return true;
}

/* Deletes the row of a key, if there is one.  (New rows need no second look: the unique index knows.) */
static void
remove_row(KsDirectWriter *w, const KsBatchRow *row)
{
	while (ks_direct_find_surely(w, row->values))
		if (ks_direct_delete(w))
			return;
}

/*
 * Checks a new row version and computes its generated columns: all of them, as for an insert.  PostgreSQL 15 keeps one
 * list per relation, and one made for updates leaves out those that no written column feeds.
 */
static void
complete(KsDirectWriter *w, TupleTableSlot *slot)
{
	if (w->generated)
		ExecComputeStoredGenerated(w->rri, w->estate, slot, CMD_INSERT);
	if (w->rel->rd_att->constr)
		ExecConstraints(w->rri, slot, w->estate);
	if (w->rel->rd_rel->relispartition)
		ExecPartitionCheck(w->rri, slot, w->estate, true);
	ResetPerTupleExprContext(w->estate);
}

/* See direct_writer.h. */
bool
ks_direct_update(KsDirectWriter *w, const KsBatchRow *row)
{
	TupleTableSlot *slot = w->changed;
	ItemPointerData tid = w->found->tts_tid;
	TM_FailureData failure;
	bool		update_indexes = false;
	bool		only_summarizing = false;
	List	   *recheck = NIL;

	if (!w->updates_checked)
		CheckCmdReplicaIdentity(w->rel, CMD_UPDATE);
	w->updates_checked = true;

	slot_getallattrs(w->found);
	ExecClearTuple(slot);
	for (int i = 0; i < w->target->natts; i++)
	{
		bool		given = row->cells[i] == KS_CELL_VALUE;

		slot->tts_values[i] = given ? row->values[i] : w->found->tts_values[i];
		slot->tts_isnull[i] = given ? row->nulls[i] : w->found->tts_isnull[i];
	}
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(w->rel);
	complete(w, slot);

	if (!written(ks_table_tuple_update(w->rel, &tid, slot, w->cid, GetActiveSnapshot(), &failure,
									   &update_indexes, &only_summarizing)))
		return false;
	if (update_indexes)
		recheck = ks_insert_index_tuples(w->rri, slot, w->estate, true, only_summarizing);
	ExecARUpdateTriggers(w->estate, w->rri, NULL, NULL, &tid, NULL, slot, recheck, NULL, false);
	list_free(recheck);
	ExecClearTuple(slot);
	ExecClearTuple(w->found);
	ResetPerTupleExprContext(w->estate);
	return true;
}

/* See direct_writer.h. */
void
ks_direct_flush(KsDirectWriter *w)
{
	MemoryContext old;

	if (w->count == 0)
		return;
	w->batch->run->current = -1;
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(w->estate));
	table_multi_insert(w->rel, w->slots, w->count, w->cid, 0, NULL);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < w->count; i++)
	{
		List	   *recheck = NIL;

		w->batch->run->current = w->messages[i];
		if (w->rri->ri_NumIndices > 0)
			recheck = ks_insert_index_tuples(w->rri, w->slots[i], w->estate, false, false);
		if (w->after_insert)
			ExecARInsertTriggers(w->estate, w->rri, w->slots[i], recheck, NULL);
		list_free(recheck);
		ExecClearTuple(w->slots[i]);
	}
	ResetPerTupleExprContext(w->estate);
	w->count = 0;
	w->bytes = 0;
}

/* The null that a column of a domain type gets without a default, checked by the domain; NULL for other types. */
static Expr *
domain_null(Form_pg_attribute attribute)
{
	int32		typmod = attribute->atttypmod;
	Oid			base = getBaseTypeAndTypmod(attribute->atttypid, &typmod);

	if (base == attribute->atttypid)
		return NULL;
	return (Expr *) coerce_to_domain((Node *) makeNullConst(base, typmod, attribute->attcollation), base, typmod,
									 attribute->atttypid, COERCION_IMPLICIT, COERCE_IMPLICIT_CAST, -1, false);
}

/* Prepares the defaults of all columns. */
static void
prepare_defaults(KsDirectWriter *w)
{
	MemoryContext old = MemoryContextSwitchTo(w->estate->es_query_cxt);

	w->defaults = palloc0(sizeof(ExprState *) * w->target->natts);
	for (int i = 0; i < w->target->natts; i++)
	{
		Expr	   *expr;

		if (!w->target->columns[i].writable)
			continue;
		expr = (Expr *) build_column_default(w->rel, i + 1);
		if (expr == NULL)
			expr = domain_null(TupleDescAttr(RelationGetDescr(w->rel), i));
		if (expr)
			w->defaults[i] = ExecInitExpr(expression_planner(expr), NULL);
	}
	MemoryContextSwitchTo(old);
}

/* Size of a row's variable-length values, roughly. */
static Size
row_size(KsDirectWriter *w, TupleTableSlot *slot)
{
	Size		size = 0;

	for (int i = 0; i < w->target->natts; i++)
		if (w->target->columns[i].toastable && !slot->tts_isnull[i])
			size += VARSIZE_ANY(DatumGetPointer(slot->tts_values[i]));
	return size;
}

/* See direct_writer.h. */
void
ks_direct_insert(KsDirectWriter *w, const KsBatchRow *row)
{
	TupleTableSlot *slot;
	int			natts = w->target->natts;

	if (w->count == w->nslots)
		w->slots[w->nslots++] = table_slot_create(w->rel, NULL);
	slot = w->slots[w->count];
	ExecClearTuple(slot);
	memcpy(slot->tts_values, row->values, sizeof(Datum) * natts);
	memcpy(slot->tts_isnull, row->nulls, sizeof(bool) * natts);
	if (!row->complete)
	{
		if (w->defaults == NULL)
			prepare_defaults(w);
		/* into the batch's memory: the values must last until the row is written */
		for (int i = 0; i < natts; i++)
			if (row->cells[i] != KS_CELL_VALUE && w->defaults[i])
				slot->tts_values[i] = ExecEvalExpr(w->defaults[i], GetPerTupleExprContext(w->estate),
												   &slot->tts_isnull[i]);
	}
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(w->rel);
	complete(w, slot);
	/* generated columns leave a materialised row, and what it was made of is gone */
	slot_getallattrs(slot);
	w->messages[w->count++] = row->message;
	w->bytes += row_size(w, slot);
	if (w->count == KS_GATHER_ROWS || w->bytes >= KS_GATHER_BYTES)
		ks_direct_flush(w);
}

/* See direct_writer.h. */
void
ks_direct_next_command(KsDirectWriter *w)
{
	ks_direct_flush(w);
	CommandCounterIncrement();
	w->cid = GetCurrentCommandId(true);
	w->estate->es_output_cid = w->cid;
}

/* See local_sink.h. */
void
ks_direct_apply(KsBatch *b)
{
	MemoryContext old = MemoryContextSwitchTo(b->context);
	KsDirectWriter *w = ks_direct_begin(b);

	for (int i = 0; i < b->nrows; i++)
	{
		b->run->current = b->rows[i].message;
		if (b->rows[i].remove)
			remove_row(w, &b->rows[i]);
	}
	for (int i = 0; i < b->nrows; i++)
	{
		KsBatchRow *row = &b->rows[i];
		bool		done = !row->upsert;

		b->run->current = row->message;
		while (!done)
		{
			if (row->remove || row->absent || b->list ||
				!(row->keeps ? ks_direct_find_surely(w, row->values) : ks_direct_find(w, row->values)))
			{
				if (row->keeps)
					ks_missing_value(w->target, row);
				ks_direct_insert(w, row);
				done = true;
			}
			else
				done = ks_direct_update(w, row);
		}
		if ((i & 255) == 255)
			CHECK_FOR_INTERRUPTS();
	}
	ks_direct_flush(w);
	ks_direct_finish(w);
	MemoryContextSwitchTo(old);
}
