/*
 * rewrite.c: see rewrite.h.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "compat/query_compat.h"
#include "executor/execdesc.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_coerce.h"
#include "parser/parsetree.h"
#include "query/analyse_internal.h"
#include "query/rewrite.h"
#include "rewrite/rewriteHandler.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#define RELATION_NAME "kafka_batch"
#define SOURCE_TEXT "query of a subscription's target"

/* ---- the shape */

/* See rewrite.h. */
KsBatchShape *
ks_shape_create(void)
{
	KsBatchShape *shape = palloc0(sizeof(KsBatchShape));

	shape->context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync batch shape", ALLOCSET_SMALL_SIZES);
	return shape;
}

/* See rewrite.h. */
void
ks_shape_reset(KsBatchShape *shape)
{
	MemoryContextReset(shape->context);
	shape->fields = shape->sources = NIL;
	shape->typed = NULL;
	shape->columns = NULL;
	shape->desc = NULL;
}

/* Describes a column that is one of a topic's table. */
static void
init_typed_entry(TupleDesc desc, AttrNumber attno, const char *name, const KsShapeField *field)
{
	Form_pg_attribute att = TupleDescAttr(field->source->desc, field->attribute);

	TupleDescInitEntry(desc, attno, name, att->atttypid, att->atttypmod, att->attndims);
	TupleDescInitEntryCollation(desc, attno, att->attcollation);
}

/* See rewrite.h. */
TupleDesc
ks_shape_desc(KsBatchShape *shape)
{
	static const struct
	{
		const char *name;
		Oid			type;
	}			fixed[KS_BATCH_FIXED] = {
		{"topic", TEXTOID}, {"partition", INT4OID}, {"offset", INT8OID}, {"ts", TIMESTAMPTZOID}, {"key", JSONBOID},
		{"op", TEXTOID}, {"before", JSONBOID}, {"after", JSONBOID}, {"headers", JSONBOID}, {"row", INT4OID}
	};
	MemoryContext old;
	int			natts = KS_BATCH_FIXED + list_length(shape->fields);

	if (shape->desc)
		return shape->desc;
	old = MemoryContextSwitchTo(shape->context);
	shape->desc = CreateTemplateTupleDesc(natts);
	for (int i = 0; i < natts; i++)
	{
		char		name[NAMEDATALEN];

		if (i >= KS_BATCH_FIXED)
			snprintf(name, sizeof(name), "field_%d", i);
		TupleDescInitEntry(shape->desc, i + 1, i < KS_BATCH_FIXED ? fixed[i].name : name,
						   i < KS_BATCH_FIXED ? fixed[i].type : TEXTOID, -1, 0);
		if (i >= KS_BATCH_FIXED && ks_shape_field(shape, i)->source)
			init_typed_entry(shape->desc, i + 1, name, ks_shape_field(shape, i));
	}
	MemoryContextSwitchTo(old);
	return shape->desc;
}

/* Returns the attribute number of a text field, which is added if need be. */
static AttrNumber
field_column(KsBatchShape *shape, KsBatchColumn column, const char *name, bool or_scalar)
{
	MemoryContext old;
	KsShapeField *f;
	ListCell   *lc;

	foreach(lc, shape->fields)
	{
		f = lfirst(lc);
		if (f->source == NULL && f->column == column && f->or_scalar == or_scalar && strcmp(f->name, name) == 0)
			return KS_BATCH_FIXED + foreach_current_index(lc) + 1;
	}
	old = MemoryContextSwitchTo(shape->context);
	f = palloc0(sizeof(KsShapeField));
	f->column = column;
	f->name = pstrdup(name);
	f->or_scalar = or_scalar;
	shape->fields = lappend(shape->fields, f);
	shape->desc = NULL;
	MemoryContextSwitchTo(old);
	return KS_BATCH_FIXED + list_length(shape->fields);
}

/* What a topic's table says, read once. */
static KsShapeSource *
shape_source(KsBatchShape *shape, Oid relid)
{
	MemoryContext old;
	KsShapeSource *source;
	Relation	rel;
	ListCell   *lc;

	foreach(lc, shape->sources)
		if (((KsShapeSource *) lfirst(lc))->relid == relid)
			return lfirst(lc);
	rel = table_open(relid, AccessShareLock);
	old = MemoryContextSwitchTo(shape->context);
	source = palloc(sizeof(KsShapeSource));
	source->relid = relid;
	source->table = ks_topic_table(rel);
	source->desc = CreateTupleDescCopy(RelationGetDescr(rel));
	shape->sources = lappend(shape->sources, source);
	MemoryContextSwitchTo(old);
	/* the lock stays, so that what it says does */
	table_close(rel, NoLock);
	return source;
}

/*
 * Returns the attribute number of a column of a topic's table, which is added if need be.  in_key: one of the value, as
 * the message key tells it.
 */
static AttrNumber
typed_column(KsBatchShape *shape, const KsSource *from, AttrNumber attnum, bool in_key, bool or_scalar)
{
	KsShapeSource *source = shape_source(shape, from->relid);
	const KsSourceColumn *c = &from->columns[attnum - 1];
	MemoryContext old = MemoryContextSwitchTo(shape->context);
	KsShapeField *f;
	int			index = 0;
	ListCell   *lc;

	in_key = in_key && c->column == KS_BATCH_AFTER;
	or_scalar = or_scalar && in_key;
	foreach(lc, shape->fields)
	{
		f = lfirst(lc);
		if (f->source == source && f->attribute == attnum - 1 && f->in_key == in_key && f->or_scalar == or_scalar)
			break;
		index++;
	}
	if (lc == NULL)
	{
		f = palloc0(sizeof(KsShapeField));
		f->column = c->column;
		f->name = c->name ? pstrdup(c->name) : NULL;
		f->source = source;
		f->attribute = attnum - 1;
		f->in_key = in_key;
		f->or_scalar = or_scalar;
		shape->fields = lappend(shape->fields, f);
		shape->desc = NULL;
	}
	shape->typed = bms_add_member(shape->typed, KS_BATCH_FIXED + index);
	MemoryContextSwitchTo(old);
	return KS_BATCH_FIXED + index + 1;
}

/* ---- putting the ephemeral relation in batch's place */

typedef struct Replace
{
	Query	   *query;			/* in which batch stands */
	KsBatchShape *shape;
	const KsSource *source;		/* the topic's table whose columns batch has, NULL: none */
	int			varno;
	int			levelsup;
	bool		or_scalar;
	bool		in_key;			/* columns of the value are those that the message key tells */
} Replace;

/* Notes that a column of batch is read as a whole. */
static void
note_column(KsBatchShape *shape, int column)
{
	MemoryContext old = MemoryContextSwitchTo(shape->context);

	if (column > 0 && column <= KS_BATCH_COLUMNS)
		shape->columns = bms_add_member(shape->columns, column);
	MemoryContextSwitchTo(old);
}

/* Notes the columns of batch in an expression of level 0. */
static bool
note_walker(Node *node, void *arg)
{
	Replace    *r = arg;

	if (node == NULL)
		return false;
	if (IsA(node, Var) && ((Var *) node)->varno == r->varno)
		note_column(r->shape, ((Var *) node)->varattno);
	return expression_tree_walker(node, note_walker, arg);
}

/*
 * The column of batch that a variable is, 0 if it is none.  It may be by the name of a join; batch is never on the side
 * of one that is filled up with nulls.
 */
static int
column_of_batch(Replace *r, const Var *var)
{
	RangeTblEntry *rte;
	Node	   *alias;

	if (var->varlevelsup != r->levelsup)
		return 0;
	if (var->varno == r->varno)
		return var->varattno;
	if (r->query == NULL || var->varattno <= 0)
		return 0;
	for (;;)
	{
		rte = rt_fetch(var->varno, r->query->rtable);
		if (rte->rtekind != RTE_JOIN)
			return 0;
		alias = list_nth(rte->joinaliasvars, var->varattno - 1);
		if (alias == NULL || !IsA(alias, Var))
		{
			(void) note_walker(alias, r);
			return 0;
		}
		var = (Var *) alias;
		if (var->varno == r->varno)
			return var->varattno;
	}
}

/* Replaces accesses to fields as text by variables, and notes which columns of batch are still read. */
static Node *
replace_mutator(Node *node, void *arg)
{
	Replace    *r = arg;
	char	   *name;
	bool		as_text;
	Node	   *operand;
	int			column;

	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
	{
		Query	   *result;

		r->levelsup++;
		result = query_tree_mutator((Query *) node, replace_mutator, arg, QTW_IGNORE_JOINALIASES);
		r->levelsup--;
		return (Node *) result;
	}
	operand = ks_field_access(node, &name, &as_text);
	if (operand && as_text && IsA(operand, Var) && (column = column_of_batch(r, (Var *) operand)) > 0 &&
		ks_is_document(column))
		return (Node *) makeVar(r->varno, field_column(r->shape, column, name, r->or_scalar), TEXTOID, -1,
								DEFAULT_COLLATION_OID, r->levelsup);
	if (IsA(node, Var) && (column = column_of_batch(r, (Var *) node)) > 0)
	{
		Var		   *var = copyObject((Var *) node);

		if (KS_IS_SOURCE_COLUMN(column))
			return (Node *) makeVar(r->varno, typed_column(r->shape, r->source, column - KS_SOURCE_COLUMN(0), r->in_key,
														   r->or_scalar),
									var->vartype, var->vartypmod, var->varcollid, r->levelsup);
		note_column(r->shape, column);
		if (var->varno == r->varno)
			return (Node *) var;
		return (Node *) makeVar(r->varno, column, var->vartype, var->vartypmod, var->varcollid, r->levelsup);
	}
	return expression_tree_mutator(node, replace_mutator, arg);
}

/* A range table entry for the ephemeral relation; its columns are filled in when it is planned. */
static RangeTblEntry *
make_entry(void)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_NAMEDTUPLESTORE;
	rte->enrname = pstrdup(RELATION_NAME);
	rte->eref = makeAlias(RELATION_NAME, NIL);
	rte->inFromCl = true;
	return rte;
}

/* Adds a column to a query's target list; returns its number. */
static AttrNumber
add_column(Query *q, Expr *expr, const char *name)
{
	AttrNumber	resno = list_length(q->targetList) + 1;

	q->targetList = lappend(q->targetList, makeTargetEntry(expr, resno, pstrdup(name), false));
	return resno;
}

/* Takes the order out of a query, whose rows come one by one, and what only the order needs. */
static void
drop_order(Query *q)
{
	List	   *kept = NIL;
	ListCell   *lc;

	q->sortClause = NIL;
	foreach(lc, q->targetList)
		if (!((TargetEntry *) lfirst(lc))->resjunk)
			kept = lappend(kept, lfirst(lc));
	q->targetList = kept;
}

/*
 * Columns of joins that were made of columns of a topic's table: those that are one are not asked for by the join's name
 * any more, the others are replaced.
 */
static void
replace_join_columns(Query *q, Replace *r)
{
	ListCell   *lc;
	ListCell   *la;

	foreach(lc, q->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind != RTE_JOIN)
			continue;
		foreach(la, rte->joinaliasvars)
		{
			Node	   *alias = lfirst(la);

			if (alias && !IsA(alias, Var))
				lfirst(la) = replace_mutator(alias, r);
			else if (alias && KS_IS_SOURCE_COLUMN(((Var *) alias)->varattno))
				lfirst(la) = NULL;
		}
	}
}

/*
 * Puts the ephemeral relation into a query in which batch stands, or a subquery of it; with_row: adds the number of the
 * message as a column, whose number is returned.
 */
static AttrNumber
replace_batch(Query *q, Oid batch, const KsSource *source, KsBatchShape *shape, bool with_row)
{
	ListCell   *lc;

	if (with_row)
		drop_order(q);
	ks_read_as_current_user(q);
	foreach(lc, q->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);
		int			varno = foreach_current_index(lc) + 1;
		AttrNumber	inner;

		if (rte->rtekind == RTE_SUBQUERY && ks_count_references(rte->subquery, batch) > 0)
		{
			inner = replace_batch(rte->subquery, batch, source, shape, with_row);
			if (with_row)
				rte->eref->colnames = lappend(rte->eref->colnames, makeString(pstrdup("ks_row")));
		}
		else if (rte->rtekind == RTE_RELATION && rte->relid == batch)
		{
			Replace		r = {q, shape, source, varno, 0};
			Query	   *replaced;

			replaced = query_tree_mutator(q, replace_mutator, &r, QTW_IGNORE_JOINALIASES);
			memcpy(q, replaced, sizeof(Query));
			if (source)
				replace_join_columns(q, &r);
			list_nth_cell(q->rtable, varno - 1)->ptr_value = make_entry();
			inner = KS_BATCH_ROW;
		}
		else
			continue;
		return with_row ? add_column(q, (Expr *) makeVar(varno, inner, INT4OID, -1, InvalidOid, 0), "ks_row") : 0;
	}
	elog(ERROR, "the query of a target does not read kafka.batch");
	return 0;
}

/* Reads everything as the current user, at any depth. */
static bool
current_user_walker(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		ks_read_as_current_user((Query *) node);
		return query_tree_walker((Query *) node, current_user_walker, arg, 0);
	}
	return expression_tree_walker(node, current_user_walker, arg);
}

/* An expression as it is assigned to a sink's column. */
static Expr *
assign(Node *expr, const KsQuerySink *sink)
{
	Node	   *result = coerce_to_target_type(NULL, expr, exprType(expr), sink->type, sink->typmod, COERCION_ASSIGNMENT,
											   COERCE_IMPLICIT_CAST, -1);

	if (result == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" is of type %s, but the query's is of type %s", sink->column->name,
						format_type_be(sink->type), format_type_be(exprType(expr))),
				 errhint("Cast it in the query.")));
	return (Expr *) result;
}

/* A SELECT from one range table entry. */
static Query *
select_from(RangeTblEntry *rte)
{
	Query	   *q = makeNode(Query);
	RangeTblRef *ref = makeNode(RangeTblRef);

	ref->rtindex = 1;
	q->commandType = CMD_SELECT;
	q->querySource = QSRC_ORIGINAL;
	q->canSetTag = true;
	q->rtable = list_make1(rte);
	q->jointree = makeFromExpr(list_make1(ref), NULL);
	return q;
}

/* See rewrite.h. */
Query *
ks_query_over_messages(const KsQuery *query, KsBatchShape *shape, const KsQuerySink *sinks, int nsinks)
{
	Query	   *inner = copyObject(query->query);
	bool		with_row = query->not_row_wise == NULL;
	AttrNumber	row = replace_batch(inner, ks_batch_relid(), query->source, shape, with_row);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	Query	   *q;
	List	   *names = NIL;
	ListCell   *lc;

	(void) current_user_walker((Node *) inner, NULL);
	foreach(lc, inner->targetList)
	{
		TargetEntry *te = lfirst(lc);

		if (!te->resjunk)
			names = lappend(names, makeString(pstrdup(te->resname ? te->resname : "?column?")));
	}
	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = inner;
	rte->alias = makeAlias("q", NIL);
	rte->eref = makeAlias("q", names);
	rte->inFromCl = true;
	q = select_from(rte);
	for (int i = 0; i < nsinks; i++)
	{
		TargetEntry *te = list_nth(inner->targetList, sinks[i].column->resno - 1);
		Node	   *expr = (Node *) te->expr;
		Var		   *var = makeVar(1, te->resno, exprType(expr), exprTypmod(expr), exprCollation(expr), 0);

		(void) add_column(q, assign((Node *) var, &sinks[i]), sinks[i].column->name);
	}
	if (with_row)
		(void) add_column(q, (Expr *) makeVar(1, row, INT4OID, -1, InvalidOid, 0), "ks_row");
	return q;
}

/* The key in the place of the row. */
static Node *
key_mutator(Node *node, void *arg)
{
	if (node && IsA(node, Var) && ((Var *) node)->varattno == KS_BATCH_AFTER)
	{
		Var		   *var = copyObject((Var *) node);

		var->varattno = KS_BATCH_KEY;
		return (Node *) var;
	}
	return expression_tree_mutator(node, key_mutator, arg);
}

/* See rewrite.h. */
Query *
ks_query_of_places(const KsQuery *query, KsBatchShape *shape, const KsQuerySink *sinks, int nsinks)
{
	Query	   *q = select_from(make_entry());
	Replace		r = {NULL, shape, query->source, 1, 0, false, true};
	int			fields = 0;

	for (int i = 0; i < nsinks; i++)
		if (sinks[i].column->traced && sinks[i].column->field.name)
			fields++;
	for (int i = 0; i < nsinks; i++)
	{
		const KsQueryColumn *c = sinks[i].column;
		Node	   *expr;

		if (!c->traced)
			continue;
		/* where only one field tells the key, a key that is no object is that field */
		r.or_scalar = fields == 1 && c->field.column == KS_BATCH_AFTER;
		expr = replace_mutator(key_mutator(c->expr, NULL), &r);
		(void) add_column(q, assign(expr, &sinks[i]), c->name);
	}
	(void) add_column(q, (Expr *) makeVar(1, KS_BATCH_ROW, INT4OID, -1, InvalidOid, 0), "ks_row");
	return q;
}

/* ---- planning and running */

typedef struct Fill
{
	TupleDesc	desc;
	double		rows;
} Fill;

/* Describes the ephemeral relation where it stands. */
static bool
fill_walker(Node *node, void *arg)
{
	Fill	   *f = arg;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind != RTE_NAMEDTUPLESTORE)
			return false;
		rte->enrtuples = f->rows;
		rte->eref->colnames = rte->coltypes = rte->coltypmods = rte->colcollations = NIL;
		for (int i = 0; i < f->desc->natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(f->desc, i);

			rte->eref->colnames = lappend(rte->eref->colnames, makeString(pstrdup(NameStr(att->attname))));
			rte->coltypes = lappend_oid(rte->coltypes, att->atttypid);
			rte->coltypmods = lappend_int(rte->coltypmods, att->atttypmod);
			rte->colcollations = lappend_oid(rte->colcollations, att->attcollation);
		}
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, fill_walker, arg, QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, fill_walker, arg);
}

/* See rewrite.h. */
PlannedStmt *
ks_query_plan(const Query *query, KsBatchShape *shape, double rows)
{
	Query	   *q = copyObject(unconstify(Query *, query));
	Fill		f = {ks_shape_desc(shape), rows};
	List	   *rewritten;

	(void) fill_walker((Node *) q, &f);
	AcquireRewriteLocks(q, true, false);
	rewritten = QueryRewrite(q);
	if (list_length(rewritten) != 1)
		elog(ERROR, "unexpected number of queries: %d", list_length(rewritten));
	return pg_plan_query(linitial_node(Query, rewritten), SOURCE_TEXT, 0, NULL);
}

/* See rewrite.h. */
void
ks_query_run(PlannedStmt *plan, KsBatchShape *shape, Tuplestorestate *rows, double count, DestReceiver *dest)
{
	QueryEnvironment *environment = create_queryEnv();
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));
	QueryDesc  *desc;

	relation->md.name = RELATION_NAME;
	relation->md.tupdesc = ks_shape_desc(shape);
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = count;
	relation->reldata = rows;
	register_ENR(environment, relation);
	desc = CreateQueryDesc(plan, SOURCE_TEXT, GetActiveSnapshot(), InvalidSnapshot, dest, NULL, environment, 0);
	ExecutorStart(desc, 0);
	ks_executor_run(desc);
	ExecutorFinish(desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
	pfree(relation);
}
