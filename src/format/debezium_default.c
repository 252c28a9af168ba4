/*
 * debezium_default.c: column defaults, which Debezium puts into schemas and into the NOT NULL columns of key-only rows.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "format/debezium_types.h"

/* Returns the constant below a constraint check or a relabelling, where there is one. */
static Node *
strip(Node *node)
{
	for (;;)
	{
		if (node != NULL && IsA(node, CoerceToDomain))
			node = (Node *) ((CoerceToDomain *) node)->arg;
		else if (node != NULL && IsA(node, RelabelType))
			node = (Node *) ((RelabelType *) node)->arg;
		else
			return node;
	}
}

/* True for an immutable function that is part of the server itself, written in C. */
static bool
is_safe_function(Oid function)
{
	HeapTuple	tuple;
	bool		safe;

	if (function >= FirstNormalObjectId)
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return false;
	safe = ((Form_pg_proc) GETSTRUCT(tuple))->prolang == INTERNALlanguageId &&
		((Form_pg_proc) GETSTRUCT(tuple))->provolatile == PROVOLATILE_IMMUTABLE &&
		((Form_pg_proc) GETSTRUCT(tuple))->proisstrict;
	ReleaseSysCache(tuple);
	return safe;
}

/*
 * Returns the constant that a default expression is, or NULL.  Only immutable casts that are part of PostgreSQL are
 * run: the expression belongs to the table's owner, and this process may have more rights than that.  They are
 * called directly, so that an error in one leaves nothing behind.
 */
static Const *
constant_of(Node *node)
{
	FuncExpr   *call;
	FmgrInfo	function;
	int16		size;
	bool		by_value;
	int			i = 0;
	ListCell   *lc;

	LOCAL_FCINFO(fcinfo, FUNC_MAX_ARGS);

	node = strip(node);
	if (node != NULL && IsA(node, Const))
		return (Const *) node;
	if (node == NULL || !IsA(node, FuncExpr))
		return NULL;
	call = (FuncExpr *) node;
	if (call->funcretset || call->funcformat == COERCE_EXPLICIT_CALL || !is_safe_function(call->funcid))
		return NULL;
	get_typlenbyval(call->funcresulttype, &size, &by_value);
	fmgr_info(call->funcid, &function);
	InitFunctionCallInfoData(*fcinfo, &function, list_length(call->args), call->inputcollid, NULL, NULL);
	foreach(lc, call->args)
	{
		Const	   *arg = constant_of(lfirst(lc));

		if (arg == NULL || arg->constisnull)
			return arg;
		fcinfo->args[i].value = arg->constvalue;
		fcinfo->args[i++].isnull = false;
	}
	return makeConst(call->funcresulttype, -1, call->funccollid, size, FunctionCallInvoke(fcinfo), fcinfo->isnull,
					 by_value);
}

/*
 * Returns the JSON of a default expression: its value if it is a constant, what Debezium puts for others, or NULL for
 * a null.
 */
static const char *
encode_default(KsColumn *column, const char *expression)
{
	Const	   *value = constant_of(stringToNode(expression));
	StringInfoData json;

	if (value == NULL)
		return column->generated;
	if (value->constisnull || getBaseType(value->consttype) != column->type)
		return NULL;
	initStringInfo(&json);
	column->put(&json, column, value->constvalue);
	ks_terminate(&json);
	return json.data;
}

/* encode_default, but NULL too for what is an error by itself or cannot be encoded: no row need ever have it. */
static const char *
encode_valid_default(KsColumn *column, const char *expression)
{
	MemoryContext context = CurrentMemoryContext;
	const char *volatile json = NULL;

	PG_TRY();
	{
		json = encode_default(column, expression);
	}
	PG_CATCH();
	{
		/* Plain computation holds no resources: no subtransaction is needed to go on. */
		MemoryContextSwitchTo(context);
		if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return json;
}

/*
 * Fills column->schema_default and column->missing: what a NOT NULL column holds in a row of which only the key is
 * known.
 */
void
ks_debezium_default(KsColumn *column)
{
	TupleDesc	desc = column->rel->desc;

	if (TupleDescAttr(desc, column->attribute)->attgenerated == '\0' && desc->constr != NULL)
		for (int i = 0; i < desc->constr->num_defval; i++)
			if (desc->constr->defval[i].adnum == column->attribute + 1)
				column->schema_default = encode_valid_default(column, desc->constr->defval[i].adbin);
	column->missing = !column->not_null ? "null" :
		column->schema_default != NULL ? column->schema_default : column->zero;
	column->missing_size = strlen(column->missing);

	/* Connect's own rule: structs have no defaults in schemas. */
	if (column->schema_default != NULL && column->schema_default[0] == '{')
		column->schema_default = NULL;
}
