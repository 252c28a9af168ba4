/*
 * executor_compat.h: what differs between PostgreSQL 15 and 18 in the executor, table access and replication origin
 * calls that apply/ makes, as static inline functions.
 */
#ifndef KS_EXECUTOR_COMPAT_H
#define KS_EXECUTOR_COMPAT_H

#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "compat/pg_compat.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_relation.h"
#include "replication/origin.h"
#include "utils/acl.h"
#include "utils/rel.h"

/* Gives an executor state a range table of the one relation that is written; "columns": its attnums, offset as usual. */
static inline void
ks_init_range_table(EState *estate, Relation rel, Bitmapset *columns)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(rel);
	rte->relkind = rel->rd_rel->relkind;
	rte->rellockmode = RowExclusiveLock;
#if PG_VERSION_NUM >= 160000
	{
		List	   *perms = NIL;
		RTEPermissionInfo *info = addRTEPermissionInfo(&perms, rte);

		info->insertedCols = columns;
		info->updatedCols = columns;
#if PG_VERSION_NUM >= 180000
		ExecInitRangeTable(estate, list_make1(rte), perms, bms_make_singleton(1));
#else
		ExecInitRangeTable(estate, list_make1(rte), perms);
#endif
	}
#else
	rte->insertedCols = columns;
	rte->updatedCols = columns;
	ExecInitRangeTable(estate, list_make1(rte));
#endif
}

/* Makes the index entries of a tuple; update: of a new version.  Returns the indexes to recheck. */
static inline List *
ks_insert_index_tuples(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate, bool update, bool only_summarizing)
{
#if PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(rri, slot, estate, update, false, NULL, NIL, only_summarizing);
#else
	(void) only_summarizing;
	return ExecInsertIndexTuples(rri, slot, estate, update, false, NULL, NIL);
#endif
}

/* Updates a tuple, waiting for others; says whether indexes need entries, and whether only summarizing ones do. */
static inline TM_Result
ks_table_tuple_update(Relation rel, ItemPointer tid, TupleTableSlot *slot, CommandId cid, Snapshot snapshot,
					  TM_FailureData *tmfd, bool *update_indexes, bool *only_summarizing)
{
	LockTupleMode lockmode;
	TM_Result	result;
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes update = TU_None;

	result = table_tuple_update(rel, tid, slot, cid, snapshot, InvalidSnapshot, true, tmfd, &lockmode, &update);
	*update_indexes = update != TU_None;
	*only_summarizing = update == TU_Summarizing;
#else
	result = table_tuple_update(rel, tid, slot, cid, snapshot, InvalidSnapshot, true, tmfd, &lockmode, update_indexes);
	*only_summarizing = false;
#endif
	return result;
}

/* Begins an index scan that is counted nowhere. */
static inline IndexScanDesc
ks_index_beginscan(Relation heap, Relation index, Snapshot snapshot, int nkeys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(heap, index, snapshot, nkeys, 0);
#endif
}

/* Makes this session write under a replication origin. */
static inline void
ks_replorigin_session_setup(RepOriginId node)
{
#if PG_VERSION_NUM >= 160000
	replorigin_session_setup(node, 0);
#else
	replorigin_session_setup(node);
#endif
}

#endif							/* KS_EXECUTOR_COMPAT_H */
