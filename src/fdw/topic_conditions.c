/*
 * topic_conditions.c: see topic_conditions.h.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fdw/topic_conditions.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* A condition taken apart: column, operator as a btree strategy with the column on its left, value. */
typedef struct Parts
{
	KsMeta		meta;
	int			strategy;
	Expr	   *value;
	bool		any;			/* value is an array, = ANY */
} Parts;

/* A condition ready for execution. */
typedef struct Condition
{
	Parts		parts;
	ExprState  *state;
	Oid			type;			/* of the value, or of the array's elements */
} Condition;

/* Returns the column that an expression is, or NULL if it is none that messages can be found by. */
static const KsTopicColumn *
place_column(const KsTopicTable *table, Index relid, Node *node)
{
	Var		   *var = (Var *) node;
	const KsTopicColumn *column;

	if (node == NULL || !IsA(node, Var) || var->varno != relid || var->varlevelsup != 0 || var->varattno < 1 ||
		var->varattno > table->natts)
		return NULL;
	column = &table->columns[var->varattno - 1];
	if (column->meta != KS_COL_PARTITION && column->meta != KS_COL_OFFSET && column->meta != KS_COL_TIMESTAMP)
		return NULL;
	return column;
}

/* Can a value be known before the reading begins? */
static bool
is_known(PlannerInfo *root, Index relid, Node *value)
{
	return !bms_is_member(relid, pull_varnos(root, value)) && !contain_volatile_functions(value) &&
		!contain_subplans(value);
}

/* Is it a type that values are compared with here? */
static bool
is_comparable(KsMeta meta, Oid type)
{
	if (meta == KS_COL_TIMESTAMP)
		return type == TIMESTAMPTZOID;
	return type == INT2OID || type == INT4OID || type == INT8OID;
}

/* Returns the btree strategy of an operator for a column, 0 if it has none. */
static int
strategy_of(KsMeta meta, Oid operator)
{
	Oid			type = meta == KS_COL_TIMESTAMP ? TIMESTAMPTZOID : INT8OID;

	return get_op_opfamily_strategy(operator, lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY)->btree_opf);
}

/* Takes a condition apart; root is NULL once it is planned. False: it is not one of ours. */
static bool
take_apart(PlannerInfo *root, const KsTopicTable *table, Index relid, Expr *clause, Parts *parts)
{
	const KsTopicColumn *column;
	List	   *args;
	Oid			operator;
	Oid			type;
	Node	   *value;
	bool		swapped = false;

	parts->any = IsA(clause, ScalarArrayOpExpr);
	if (IsA(clause, OpExpr))
	{
		args = ((OpExpr *) clause)->args;
		operator = ((OpExpr *) clause)->opno;
	}
	else if (parts->any && ((ScalarArrayOpExpr *) clause)->useOr)
	{
		args = ((ScalarArrayOpExpr *) clause)->args;
		operator = ((ScalarArrayOpExpr *) clause)->opno;
	}
	else
		return false;
	if (list_length(args) != 2)
		return false;

	value = lsecond(args);
	column = place_column(table, relid, linitial(args));
	if (column == NULL && !parts->any)
	{
		value = linitial(args);
		column = place_column(table, relid, lsecond(args));
		swapped = true;
	}
	if (column == NULL || (root && !is_known(root, relid, value)))
		return false;
	type = exprType(value);
	if (parts->any)
		type = get_element_type(type);
	parts->meta = column->meta;
	parts->value = (Expr *) value;
	parts->strategy = strategy_of(column->meta, operator);
	if (parts->strategy == 0 || !is_comparable(column->meta, type) ||
		(parts->any && parts->strategy != BTEqualStrategyNumber))
		return false;
	if (swapped)
		parts->strategy = BTMaxStrategyNumber + 1 - parts->strategy;
	return true;
}

bool
ks_condition_is_useful(PlannerInfo *root, const KsTopicTable *table, Index relid, Expr *clause)
{
	Parts		parts;

	return take_apart(root, table, relid, clause, &parts);
}

List *
ks_conditions_prepare(const KsTopicTable *table, Index relid, List *clauses, PlanState *parent)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, clauses)
	{
		Condition  *condition = palloc0(sizeof(Condition));

		if (!take_apart(NULL, table, relid, lfirst(cell), &condition->parts))
			elog(ERROR, "condition on a topic is not what the planner found it to be");
		condition->state = ExecInitExpr(condition->parts.value, parent);
		condition->type = exprType((Node *) condition->parts.value);
		if (condition->parts.any)
			condition->type = get_element_type(condition->type);
		result = lappend(result, condition);
	}
	return result;
}

/* Returns a value as a number. */
static int64
as_number(Datum value, Oid type)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(value);
		case INT4OID:
			return DatumGetInt32(value);
		default:
			return DatumGetInt64(value);	/* timestamptz, too: microseconds */
	}
}

/* Narrows a closed interval by "strategy value". */
static void
narrow(int64 *min, int64 *max, int strategy, int64 value)
{
	switch (strategy)
	{
		case BTLessStrategyNumber:
			*max = Min(*max, value == PG_INT64_MIN ? value : value - 1);
			break;
		case BTLessEqualStrategyNumber:
			*max = Min(*max, value);
			break;
		case BTEqualStrategyNumber:
			*min = Max(*min, value);
			*max = Min(*max, value);
			break;
		case BTGreaterEqualStrategyNumber:
			*min = Max(*min, value);
			break;
		case BTGreaterStrategyNumber:
			*min = Max(*min, value == PG_INT64_MAX ? value : value + 1);
			break;
	}
}

/* Milliseconds since 1970 of a PostgreSQL timestamp, rounded up. */
static int64
milliseconds(int64 micros)
{
	int64		ms = micros / 1000 + (micros % 1000 > 0 ? 1 : 0);

	return ms + (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000;
}

/* Sets the bounds in milliseconds from a closed interval in microseconds. */
static void
set_times(KsBounds *bounds, int64 min, int64 max)
{
	if (min > max || min == PG_INT64_MAX || max == PG_INT64_MIN)
		bounds->none = true;	/* no message has the time infinity */
	else
	{
		if (min != PG_INT64_MIN)
			bounds->ms_min = milliseconds(min);
		if (max < PG_INT64_MAX - 1)
			bounds->ms_end = milliseconds(max + 1);
	}
}

/* Narrows by the values of = ANY. */
static void
narrow_any(const Condition *condition, Datum array, int64 *min, int64 *max, KsBounds *bounds)
{
	int16		length;
	bool		by_value;
	char		align;
	Datum	   *values;
	bool	   *nulls;
	int			count;
	int64		lowest = PG_INT64_MAX;
	int64		highest = PG_INT64_MIN;
	List	   *partitions = NIL;

	get_typlenbyvalalign(condition->type, &length, &by_value, &align);
	deconstruct_array(DatumGetArrayTypeP(array), condition->type, length, by_value, align, &values, &nulls, &count);
	for (int i = 0; i < count; i++)
		if (!nulls[i])
		{
			int64		value = as_number(values[i], condition->type);

			lowest = Min(lowest, value);
			highest = Max(highest, value);
			if (value >= 0 && value <= PG_INT32_MAX)
				partitions = list_append_unique_int(partitions, (int) value);
		}
	*min = Max(*min, lowest);
	*max = Min(*max, highest);
	if (condition->parts.meta == KS_COL_PARTITION)
	{
		bounds->partitions = bounds->any_partition ? partitions : list_intersection_int(bounds->partitions, partitions);
		bounds->any_partition = false;
	}
}

void
ks_conditions_bounds(List *conditions, ExprContext *econtext, KsBounds *bounds)
{
	int64		min[3] = {0, 0, PG_INT64_MIN};
	int64		max[3] = {PG_INT32_MAX, PG_INT64_MAX - 1, PG_INT64_MAX};
	ListCell   *cell;

	ks_bounds_all(bounds);
	foreach(cell, conditions)
	{
		const Condition *condition = lfirst(cell);
		int			which = condition->parts.meta == KS_COL_PARTITION ? 0 : condition->parts.meta == KS_COL_OFFSET ? 1 : 2;
		bool		isnull;
		Datum		value = ExecEvalExpr(condition->state, econtext, &isnull);

		if (isnull)
			bounds->none = true;	/* nothing compares with null */
		else if (condition->parts.any)
			narrow_any(condition, value, &min[which], &max[which], bounds);
		else
			narrow(&min[which], &max[which], condition->parts.strategy, as_number(value, condition->type));
	}
	bounds->partition_min = min[0];
	bounds->partition_max = max[0];
	bounds->offset_min = min[1];
	bounds->offset_max = max[1];
	bounds->none |= min[0] > max[0] || min[1] > max[1];
	set_times(bounds, min[2], max[2]);
}
