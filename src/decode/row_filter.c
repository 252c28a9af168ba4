/*
 * row_filter.c: a publication's row filter; see row_filter.h.
 */
#include "postgres.h"

#include "decode/row_filter.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"

struct KsRowFilter
{
	EState	   *estate;
	ExprState  *state;
	TupleTableSlot *slot;
};

KsRowFilter *
ks_row_filter_create(TupleDesc desc, const char *expression)
{
	KsRowFilter *filter = palloc0(sizeof(KsRowFilter));

	filter->estate = CreateExecutorState();
	filter->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	filter->state = ExecPrepareExpr((Expr *) stringToNode(expression), filter->estate);
	return filter;
}

bool
ks_row_filter_match(KsRowFilter *filter, const KsRow *row)
{
	ExprContext *econtext = GetPerTupleExprContext(filter->estate);
	int			natts = filter->slot->tts_tupleDescriptor->natts;
	bool		isnull;
	Datum		result;

	ResetPerTupleExprContext(filter->estate);
	ExecClearTuple(filter->slot);
	memcpy(filter->slot->tts_values, row->values, sizeof(Datum) * natts);
	memcpy(filter->slot->tts_isnull, row->nulls, sizeof(bool) * natts);
	ExecStoreVirtualTuple(filter->slot);
	econtext->ecxt_scantuple = filter->slot;
	result = ExecEvalExprSwitchContext(filter->state, econtext, &isnull);
	return !isnull && DatumGetBool(result);
}
