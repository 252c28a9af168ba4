/*
 * analyse.c: see analyse.h.
 *
 * The query is walked as PostgreSQL stored it.  Variables are followed through joins and subqueries in FROM down to
 * kafka.batch; a "level" is a query with those around it, so that a variable's varlevelsup can be followed too.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "compat/query_compat.h"
#include "control/catalog.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parsetree.h"
#include "query/analyse.h"
#include "query/analyse_internal.h"
#include "rewrite/rewriteHandler.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

typedef struct Level
{
	Query	   *query;
	struct Level *outer;
} Level;

/* What a walk has found. */
typedef struct Walk
{
	Level	   *level;
	Oid			batch;
	KsSource   *source;
	List	   *reads;			/* of KsBatchField * */
	Bitmapset  *columns;
	bool		other;			/* relations other than batch, or columns that are not its documents */
	bool		whole_row;
} Walk;

/* See analyse.h. */
Oid
ks_batch_relid(void)
{
	return ks_catalog_relid("batch");
}

/* Counts the references to a relation, at any depth. */
typedef struct Count
{
	Oid			relid;
	int			count;
} Count;

static bool
count_walker(Node *node, void *arg)
{
	Count	   *c = arg;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_RELATION && rte->relid == c->relid)
			c->count++;
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, count_walker, arg, QTW_EXAMINE_RTES_BEFORE | QTW_IGNORE_JOINALIASES);
	return expression_tree_walker(node, count_walker, arg);
}

/* See analyse_internal.h. */
int
ks_count_references(Query *query, Oid relid)
{
	Count		c = {relid, 0};

	(void) count_walker((Node *) query, &c);
	return c.count;
}

/* The only element of a constant text[] with one element, NULL for anything else. */
static char *
only_element(Node *node)
{
	Const	   *c = (Const *) node;
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	if (node == NULL || !IsA(node, Const) || c->constisnull || c->consttype != TEXTARRAYOID)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(c->constvalue), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	return n == 1 && !nulls[0] ? TextDatumGetCString(elements[0]) : NULL;
}

/* See analyse.h. */
Node *
ks_field_access(Node *node, char **name, bool *as_text)
{
	OpExpr	   *op = (OpExpr *) node;
	Node	   *right;

	if (node == NULL || !IsA(node, OpExpr) || list_length(op->args) != 2)
		return NULL;
	set_opfuncid(op);
	right = lsecond(op->args);
	switch (op->opfuncid)
	{
		case F_JSONB_OBJECT_FIELD_TEXT:
		case F_JSONB_OBJECT_FIELD:
			if (!IsA(right, Const) || ((Const *) right)->constisnull || ((Const *) right)->consttype != TEXTOID)
				return NULL;
			*name = TextDatumGetCString(((Const *) right)->constvalue);
			break;
		case F_JSONB_EXTRACT_PATH_TEXT:
		case F_JSONB_EXTRACT_PATH:
			if ((*name = only_element(right)) == NULL)
				return NULL;
			break;
		default:
			return NULL;
	}
	*as_text = op->opfuncid == F_JSONB_OBJECT_FIELD_TEXT || op->opfuncid == F_JSONB_EXTRACT_PATH_TEXT;
	return linitial(op->args);
}

/* See analyse.h. */
bool
ks_is_document(int column)
{
	return column == KS_BATCH_KEY || column == KS_BATCH_BEFORE || column == KS_BATCH_AFTER;
}

/* See analyse.h. */
bool
ks_reads_field(List *reads, KsBatchColumn column, const char *name)
{
	ListCell   *lc;

	foreach(lc, reads)
	{
		KsBatchField *f = lfirst(lc);

		if (f->column == column && (f->name == NULL || (name != NULL && strcmp(f->name, name) == 0)))
			return true;
	}
	return false;
}

/* Notes that a column of batch is read, or one field of it. */
static void
note_read(Walk *w, int column, const char *name)
{
	KsBatchField *field;

	if (KS_IS_SOURCE_COLUMN(column))
	{
		int			attnum = column - KS_SOURCE_COLUMN(0);
		const KsSourceColumn *c = &w->source->columns[attnum - 1];

		/* what is read of it is inside of its field */
		w->source->used = bms_add_member(w->source->used, attnum);
		column = c->column;
		name = c->name;
	}
	else if (column == InvalidAttrNumber)
		w->whole_row = true;
	if (column <= 0)
	{
		w->other = true;
		return;
	}
	w->columns = bms_add_member(w->columns, column);
	if (!ks_is_document(column))
	{
		w->other = true;
		return;
	}
	if (ks_reads_field(w->reads, column, name))
		return;
	field = palloc0(sizeof(KsBatchField));
	field->column = column;
	field->name = name ? pstrdup(name) : NULL;
	w->reads = lappend(w->reads, field);
}

static bool reads_walker(Node *node, void *arg);

/*
 * A variable that is a whole row of a join or of a subquery: has that row anything of batch?  Its columns are not those
 * that it has where the query runs.
 */
static bool
row_of_batch(const Walk *w, const RangeTblEntry *rte, Level *level)
{
	Walk		inner = {level, w->batch, w->source};
	ListCell   *lc;

	if (rte->rtekind == RTE_SUBQUERY)
		return ks_count_references(rte->subquery, w->batch) > 0;
	if (rte->rtekind != RTE_JOIN)
		return false;
	foreach(lc, rte->joinaliasvars)
		(void) reads_walker(lfirst(lc), &inner);
	return inner.columns != NULL || inner.whole_row;
}

/* Follows a variable, of which only the field "name" is read (NULL: all of it). */
static void
follow(Walk *w, Var *var, const char *name)
{
	Level	   *saved = w->level;
	Level	   *l = w->level;
	Level		sub;
	RangeTblEntry *rte;
	Node	   *expr = NULL;

	for (int up = var->varlevelsup; l != NULL && up > 0; up--)
		l = l->outer;
	if (l == NULL)
	{
		w->other = true;
		return;
	}
	rte = rt_fetch(var->varno, l->query->rtable);
	if (rte->rtekind == RTE_RELATION && rte->relid == w->batch)
	{
		note_read(w, var->varattno, name);
		return;
	}
	w->level = l;
	if (rte->rtekind == RTE_JOIN && var->varattno > 0)
		expr = list_nth(rte->joinaliasvars, var->varattno - 1);
	else if (ks_group_expression(rte, var->varattno))
		expr = ks_group_expression(rte, var->varattno);
	else if (rte->rtekind == RTE_SUBQUERY && var->varattno > 0 && ks_count_references(rte->subquery, w->batch) > 0)
	{
		sub.query = rte->subquery;
		sub.outer = l;
		w->level = &sub;
		expr = (Node *) get_tle_by_resno(rte->subquery->targetList, var->varattno)->expr;
	}
	if (expr == NULL)
	{
		w->other = true;
		w->whole_row = w->whole_row || (var->varattno == InvalidAttrNumber && row_of_batch(w, rte, l));
	}
	else if (IsA(expr, Var))
		follow(w, (Var *) expr, name);
	else
		(void) reads_walker(expr, w);
	w->level = saved;
}

/* Notes what an expression or a query reads of batch. */
static bool
reads_walker(Node *node, void *arg)
{
	Walk	   *w = arg;
	Node	   *operand;
	char	   *name;
	bool		as_text;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Level		level = {(Query *) node, w->level};

		w->level = &level;
		(void) query_tree_walker((Query *) node, reads_walker, w, QTW_IGNORE_JOINALIASES);
		w->level = level.outer;
		return false;
	}
	if (IsA(node, Var))
	{
		follow(w, (Var *) node, NULL);
		return false;
	}
	operand = ks_field_access(node, &name, &as_text);
	if (operand && IsA(operand, Var))
	{
		follow(w, (Var *) operand, name);
		return false;
	}
	return expression_tree_walker(node, reads_walker, arg);
}

/* ---- where batch stands */

/*
 * Finds the range table entry, below a node of the join tree, that is batch or a subquery with it; 0 if there is none.
 * *nullable: it is on the side of an outer join that can be filled up with nulls.
 */
static int
find_in_from(Query *q, Oid batch, Node *node, bool below_nullable, bool *nullable)
{
	int			found = 0;

	if (node == NULL)
		return 0;
	if (IsA(node, RangeTblRef))
	{
		int			index = ((RangeTblRef *) node)->rtindex;
		RangeTblEntry *rte = rt_fetch(index, q->rtable);

		if ((rte->rtekind == RTE_RELATION && rte->relid == batch) ||
			(rte->rtekind == RTE_SUBQUERY && ks_count_references(rte->subquery, batch) > 0))
		{
			*nullable = below_nullable;
			return index;
		}
	}
	else if (IsA(node, FromExpr))
	{
		ListCell   *lc;

		foreach(lc, ((FromExpr *) node)->fromlist)
			if ((found = find_in_from(q, batch, lfirst(lc), below_nullable, nullable)) != 0)
				return found;
	}
	else if (IsA(node, JoinExpr))
	{
		JoinExpr   *j = (JoinExpr *) node;

		found = find_in_from(q, batch, j->larg, below_nullable || j->jointype == JOIN_RIGHT || j->jointype == JOIN_FULL,
							 nullable);
		if (found == 0)
			found = find_in_from(q, batch, j->rarg, below_nullable || j->jointype == JOIN_LEFT || j->jointype == JOIN_FULL,
								 nullable);
	}
	return found;
}

/* Why a query in which batch stands is not one that goes row by row; what follows from it in *mergeable. */
static const char *
level_reason(Query *q, bool top, bool *mergeable)
{
	*mergeable = false;
	if (q->setOperations)
		return "it combines queries with UNION, INTERSECT or EXCEPT";
	if (q->hasWindowFuncs)
		return "it uses window functions";
	if (q->distinctClause)
		return "it uses DISTINCT";
	if (q->limitCount || q->limitOffset)
		return "it uses LIMIT, OFFSET or FETCH";
	if (q->rowMarks)
		return "it locks rows";
	if (q->havingQual)
		return "it uses HAVING";
	if (q->hasAggs || q->groupClause || q->groupingSets)
	{
		*mergeable = top && q->groupingSets == NIL;
		return "it uses aggregates or GROUP BY";
	}
	*mergeable = true;
	return NULL;
}

/* Goes down from the query to batch, says what is in the way, and walks what decides which rows there are. */
static void
analyse_levels(KsQuery *r, Walk *conditions, const char *what)
{
	Query	   *q = r->query;
	Level		top = {q, NULL};
	Level	   *level = &top;

	for (;;)
	{
		bool		nullable = false;
		bool		mergeable;
		int			index = find_in_from(q, conditions->batch, (Node *) q->jointree, false, &nullable);
		const char *reason = level_reason(q, q == r->query, &mergeable);
		RangeTblEntry *rte;
		List	   *others = NIL;
		ListCell   *lc;

		if (index == 0)
		{
			mergeable = false;
			reason = reason && q->setOperations ? reason :
				psprintf("%s does not stand in its FROM clause, but in WITH or in an expression", what);
		}
		else if (nullable)
		{
			mergeable = false;
			reason = psprintf("%s is on the side of an outer join that is filled up with nulls", what);
		}
		if (reason && r->not_row_wise == NULL)
			r->not_row_wise = reason;
		if (reason && !mergeable && r->not_mergeable == NULL)
			r->not_mergeable = reason;
		if (index == 0)
			return;

		conditions->level = level;
		(void) expression_tree_walker((Node *) q->jointree, reads_walker, conditions);
		foreach(lc, q->rtable)
			if (foreach_current_index(lc) + 1 != index)
				others = lappend(others, lfirst(lc));
		(void) range_table_walker(others, reads_walker, conditions, QTW_IGNORE_JOINALIASES);
		foreach(lc, q->targetList)
			if (expression_returns_set((Node *) ((TargetEntry *) lfirst(lc))->expr))
				(void) reads_walker((Node *) ((TargetEntry *) lfirst(lc))->expr, conditions);

		ks_note_topic_conditions(r, q);
		rte = rt_fetch(index, q->rtable);
		if (rte->rtekind == RTE_RELATION)
			return;
		q = rte->subquery;
		level = memcpy(palloc(sizeof(Level)), &(Level) {q, level}, sizeof(Level));
	}
}

/* ---- expressions in terms of batch alone */

typedef struct Flatten
{
	Level	   *level;
	Oid			batch;
	bool		failed;
} Flatten;

/* Replaces variables by what they stand for in terms of batch, which becomes varno 1 of level 0. */
static Node *
flatten_mutator(Node *node, void *arg)
{
	Flatten    *f = arg;
	Level	   *saved = f->level;
	Level	   *l = f->level;
	Level		sub;
	RangeTblEntry *rte;
	Node	   *expr = NULL;
	Var		   *var = (Var *) node;

	if (node == NULL)
		return NULL;
	if (IsA(node, SubLink) || IsA(node, Query) || IsA(node, Aggref) || IsA(node, WindowFunc))
	{
		f->failed = true;
		return node;
	}
	if (!IsA(node, Var))
		return expression_tree_mutator(node, flatten_mutator, arg);
	for (int up = var->varlevelsup; l != NULL && up > 0; up--)
		l = l->outer;
	if (l == NULL || var->varattno <= 0)
	{
		f->failed = true;
		return node;
	}
	rte = rt_fetch(var->varno, l->query->rtable);
	if (rte->rtekind == RTE_RELATION && rte->relid == f->batch)
		return (Node *) makeVar(1, var->varattno, var->vartype, var->vartypmod, var->varcollid, 0);
	f->level = l;
	if (rte->rtekind == RTE_JOIN)
		expr = list_nth(rte->joinaliasvars, var->varattno - 1);
	else if (rte->rtekind == RTE_SUBQUERY && ks_count_references(rte->subquery, f->batch) > 0)
	{
		sub.query = rte->subquery;
		sub.outer = l;
		f->level = &sub;
		expr = (Node *) get_tle_by_resno(rte->subquery->targetList, var->varattno)->expr;
	}
	if (expr)
		expr = flatten_mutator(expr, arg);
	else
		f->failed = true;
	f->level = saved;
	return expr ? expr : node;
}

/* See analyse_internal.h. */
Node *
ks_in_terms_of_batch(Query *query, Node *expr)
{
	Level		top = {query, NULL};
	Flatten		f = {&top, ks_batch_relid(), false};
	Node	   *result = flatten_mutator(expr, &f);

	return f.failed || contain_volatile_functions(result) ? NULL : result;
}

/* ---- output */

/* Do casts to a type keep apart what differs in a key? */
static bool
keeps_apart(Oid type, int32 typmod)
{
	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case BOOLOID:
		case TEXTOID:
		case UUIDOID:
		case DATEOID:
		case JSONBOID:
		case BYTEAOID:
			return true;
		case NUMERICOID:
		case VARCHAROID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return typmod < 0;
		default:
			return false;
	}
}

/* Is a cast's function one to one, or an error for what it would have to change? */
static bool
is_one_to_one(Oid function)
{
	switch (function)
	{
		case F_INT2_INT4:
		case F_INT2_INT8:
		case F_INT4_INT2:
		case F_INT4_INT8:
		case F_INT8_INT2:
		case F_INT8_INT4:
		case F_NUMERIC_INT2:
		case F_NUMERIC_INT4:
		case F_NUMERIC_INT8:
		case F_NUMERIC_JSONB:
		case F_BOOL_JSONB:
			/* the session's time zone is UTC */
		case F_TIMESTAMP_DATE:
		case F_TIMESTAMPTZ_DATE:
		case F_TIMESTAMP_TIMESTAMPTZ:
		case F_TIMESTAMPTZ_TIMESTAMP:
			return true;
		default:
			return false;
	}
}

/*
 * A column of the topic's table: what it tells of the message, if it is all of that.  *is_lossy: reading it may make one
 * value of several.  A text that is too long for its type is an error, and not cut.
 */
static bool
trace_source(const KsSource *source, const Var *var, KsBatchField *field, bool *or_key, bool *is_lossy)
{
	const KsSourceColumn *c = &source->columns[var->varattno - KS_SOURCE_COLUMN(0) - 1];
	int32		typmod = var->vartypmod;
	Oid			type = getBaseTypeAndTypmod(var->vartype, &typmod);

	field->column = c->column;
	field->name = c->name;
	*or_key = c->or_key;
	*is_lossy = !keeps_apart(type, type == VARCHAROID ? -1 : typmod);
	return c->whole && (c->column == KS_BATCH_TOPIC || c->column == KS_BATCH_KEY ||
						(c->column == KS_BATCH_AFTER && c->name != NULL));
}

/* Is it all of the message key: a column of batch, or of the topic's table? */
static bool
is_whole_key(const KsSource *source, Node *node)
{
	const KsSourceColumn *c;

	if (!IsA(node, Var))
		return false;
	if (!KS_IS_SOURCE_COLUMN(((Var *) node)->varattno))
		return ((Var *) node)->varattno == KS_BATCH_KEY;
	c = &source->columns[((Var *) node)->varattno - KS_SOURCE_COLUMN(0) - 1];
	return c->column == KS_BATCH_KEY && c->name == NULL;
}

/*
 * If an expression (in terms of batch) is an access to a part of where the message came from, with casts at most: which
 * one?  *is_lossy: its casts may make one value of several.
 *
 * Reading a text as its type counts as one to one: the message keys of a topic are JSON in the form that their one
 * producer gives every value, so that it does not write both '1' and '01', and writes dates where a date is read.
 */
static bool
trace(const KsSource *source, Node *expr, KsBatchField *field, bool *or_key, bool *is_lossy)
{
	bool		lossy = false;
	bool		is_read = false;	/* by an input function, from a text */
	char	   *name;
	bool		as_text;
	Node	   *operand;

	for (;;)
	{
		if (IsA(expr, Var) && KS_IS_SOURCE_COLUMN(((Var *) expr)->varattno))
		{
			bool		found = trace_source(source, (Var *) expr, field, or_key, is_lossy);

			/* what was read from a text is not to be read again as another type */
			*is_lossy = *is_lossy || lossy;
			return found;
		}
		lossy = lossy || !keeps_apart(exprType(expr), exprTypmod(expr));
		if (IsA(expr, RelabelType))
			expr = (Node *) ((RelabelType *) expr)->arg;
		else if (IsA(expr, CoerceViaIO))
		{
			Node	   *arg = (Node *) ((CoerceViaIO *) expr)->arg;

			/* an output function tells values apart, but what it gives is not to be read as another type */
			lossy = lossy || (is_read && exprType(arg) != JSONBOID);
			is_read = is_read || (exprType(expr) != TEXTOID && exprType(expr) != VARCHAROID);
			expr = arg;
		}
		else if (IsA(expr, FuncExpr) && list_length(((FuncExpr *) expr)->args) > 0 &&
				 (((FuncExpr *) expr)->funcformat == COERCE_EXPLICIT_CAST ||
				  ((FuncExpr *) expr)->funcformat == COERCE_IMPLICIT_CAST))
		{
			lossy = lossy || !is_one_to_one(((FuncExpr *) expr)->funcid);
			expr = linitial(((FuncExpr *) expr)->args);
		}
		else
			break;
	}
	*is_lossy = lossy;
	if (IsA(expr, Var))
	{
		field->column = ((Var *) expr)->varattno;
		field->name = NULL;
		return field->column == KS_BATCH_TOPIC || field->column == KS_BATCH_KEY;
	}
	operand = ks_field_access(expr, &name, &as_text);
	if (operand && IsA(operand, Var))
	{
		field->column = is_whole_key(source, operand) ? KS_BATCH_KEY : ((Var *) operand)->varattno;
		field->name = name;
		return field->column == KS_BATCH_KEY || field->column == KS_BATCH_AFTER;
	}
	/* key #>> '{}' */
	if (IsA(expr, OpExpr) && ((OpExpr *) expr)->opfuncid == F_JSONB_EXTRACT_PATH_TEXT)
	{
		Node	   *left = linitial(((OpExpr *) expr)->args);
		Const	   *right = lsecond(((OpExpr *) expr)->args);

		field->column = KS_BATCH_KEY;
		field->name = NULL;
		return is_whole_key(source, left) && IsA(right, Const) && !right->constisnull &&
			right->consttype == TEXTARRAYOID && ARR_NDIM(DatumGetArrayTypeP(right->constvalue)) == 0;
	}
	return false;
}

/* Describes what the query returns. */
static void
analyse_output(KsQuery *r, Oid batch)
{
	Level		top = {r->query, NULL};
	ListCell   *lc;

	r->output = palloc0(sizeof(KsQueryColumn) * list_length(r->query->targetList));
	foreach(lc, r->query->targetList)
	{
		TargetEntry *te = lfirst(lc);
		KsQueryColumn *c = &r->output[r->ncolumns];
		Walk		w = {&top, batch, r->source};
		Node	   *expr;
		bool		lossy;

		if (te->resjunk)
			continue;
		r->ncolumns++;
		c->name = pstrdup(te->resname ? te->resname : "?column?");
		c->resno = te->resno;
		(void) reads_walker((Node *) te->expr, &w);
		c->reads = w.reads;
		c->mixed = w.other || w.columns == NULL || contain_volatile_functions((Node *) te->expr);
		expr = ks_in_terms_of_batch(r->query, (Node *) te->expr);
		if (expr && !expression_returns_set(expr) && trace(r->source, expr, &c->field, &c->or_key, &lossy))
		{
			c->traced = !lossy;
			c->lossy = lossy;
			c->expr = expr;
		}
	}
}

/*
 * Is what an assignment does with a value of a type one to one?  Lengths do not count: texts that are too long are an
 * error, and keys come in the precision of their column.
 */
static bool
assigns_apart(Oid from, int32 from_typmod, Oid to, int32 to_typmod)
{
	CaseTestExpr *value = makeNode(CaseTestExpr);
	Node	   *expr;

	value->typeId = from;
	value->typeMod = from_typmod;
	value->collation = get_typcollation(from);
	expr = coerce_to_target_type(NULL, (Node *) value, from, to, to_typmod, COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	while (expr && !IsA(expr, CaseTestExpr))
	{
		if (IsA(expr, RelabelType))
			expr = (Node *) ((RelabelType *) expr)->arg;
		else if (IsA(expr, CoerceToDomain))
			expr = (Node *) ((CoerceToDomain *) expr)->arg;
		else if (IsA(expr, CoerceViaIO))
			expr = (Node *) ((CoerceViaIO *) expr)->arg;
		else if (IsA(expr, FuncExpr) && list_length(((FuncExpr *) expr)->args) > 0 &&
				 (is_one_to_one(((FuncExpr *) expr)->funcid) ||
				  exprType(linitial(((FuncExpr *) expr)->args)) == ((FuncExpr *) expr)->funcresulttype))
			expr = linitial(((FuncExpr *) expr)->args);
		else
			return false;
	}
	return true;
}

/* See analyse.h. */
void
ks_query_assign(KsQuery *query, Oid table)
{
	for (int i = 0; i < query->ncolumns; i++)
	{
		KsQueryColumn *c = &query->output[i];
		AttrNumber	attnum = get_attnum(table, c->name);
		Oid			type;
		int32		typmod;
		Oid			collation;

		if (!c->traced || attnum <= 0)
			continue;
		get_atttypetypmodcoll(table, attnum, &type, &typmod, &collation);
		c->lossy = !assigns_apart(exprType(c->expr), exprTypmod(c->expr), type, typmod);
		c->traced = !c->lossy;
	}
}

/* See analyse.h. */
KsQueryColumn *
ks_query_column(const KsQuery *query, const char *name)
{
	for (int i = 0; i < query->ncolumns; i++)
		if (strcmp(query->output[i].name, name) == 0)
			return &query->output[i];
	return NULL;
}

/* See analyse.h. */
KsQuery *
ks_query_analyse(Oid view, const KsSubscription *subscription)
{
	Relation	rel = table_open(view, AccessShareLock);
	KsQuery    *r = palloc0(sizeof(KsQuery));
	Oid			batch = ks_batch_relid();
	Walk		all = {NULL, batch};
	Walk		conditions = {NULL, batch};
	const char *what = "kafka.batch";
	const char *reason;

	if (rel->rd_rel->relkind != RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a view", RelationGetRelationName(rel))));
	r->query = copyObject(get_view_query(rel));
	table_close(rel, NoLock);
	r->references = ks_count_references(r->query, batch);
	r->source = ks_source_find(r->query, subscription, r->references, &reason);
	if (r->source)
	{
		what = r->source->qualified;
		r->references = 1;
	}
	all.source = conditions.source = r->source;
	r->aggregates = r->query->hasAggs || r->query->groupClause != NIL;
	(void) reads_walker((Node *) r->query, &all);
	r->reads = all.reads;
	r->columns = all.columns;
	if (reason == NULL && r->source)
		reason = ks_source_refusal(r->source);
	if (all.whole_row)
		r->not_row_wise = r->not_mergeable = psprintf("it uses a row of %s, or of a join or subquery with it, as a whole, and not by its columns", what);
	else if (reason)
		r->not_row_wise = r->not_mergeable = reason;
	else if (r->references == 0)
		r->not_row_wise = r->not_mergeable = "it does not read kafka.batch";
	else if (r->references > 1 && r->query->setOperations == NULL)
		r->not_row_wise = r->not_mergeable = "it reads kafka.batch more than once";
	analyse_levels(r, &conditions, what);
	r->conditions = conditions.reads;
	analyse_output(r, batch);
	return r;
}
