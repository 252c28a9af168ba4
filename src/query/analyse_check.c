/*
 * analyse_check.c: can a query be kept exact as a target?
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "query/analyse.h"
#include "query/analyse_internal.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

/* Is there a variable that is not batch's topic? */
static bool
not_topic_walker(Node *node, void *arg)
{
	bool	   *found = arg;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		*found = true;
		return ((Var *) node)->varattno != KS_BATCH_TOPIC;
	}
	return expression_tree_walker(node, not_topic_walker, arg);
}

/* See analyse_internal.h. */
void
ks_note_topic_conditions(KsQuery *result, Query *query)
{
	ListCell   *lc;

	foreach(lc, make_ands_implicit((Expr *) query->jointree->quals))
	{
		Node	   *expr = ks_in_terms_of_batch(query, lfirst(lc));
		bool		has_topic = false;

		if (expr && !not_topic_walker(expr, &has_topic) && has_topic)
			result->topic_conditions = lappend(result->topic_conditions, expr);
	}
}

/* Puts a constant in the place of the topic. */
static Node *
topic_mutator(Node *node, void *arg)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
		return (Node *) makeConst(TEXTOID, -1, ((Var *) node)->varcollid, -1, PointerGetDatum(arg), false, false);
	return expression_tree_mutator(node, topic_mutator, arg);
}

/* See analyse.h. */
bool
ks_query_reads_topic(const KsQuery *query, const char *topic, Oid reader)
{
	Oid			save_user;
	int			save_context;
	int			nest_level;
	bool		reads = true;
	ListCell   *lc;

	if (query->source && strcmp(query->source->topic, topic) != 0)
		return false;
	/* immutable functions run here, anybody's */
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(reader, save_context | SECURITY_RESTRICTED_OPERATION);
	nest_level = NewGUCNestLevel();
	foreach(lc, query->topic_conditions)
	{
		Node	   *expr = topic_mutator(lfirst(lc), cstring_to_text(topic));
		Const	   *result = (Const *) eval_const_expressions(NULL, expr);

		if (IsA(result, Const) && (result->constisnull || !DatumGetBool(result->constvalue)))
		{
			reads = false;
			break;
		}
	}
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(save_user, save_context);
	return reads;
}

/* ERROR: the query is of no use. */
static void
refuse(const char *mode, const char *reason, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("the query cannot be kept exact in mode %s: %s", mode, reason),
			 errhint("%s", hint)));
}

/* Is a name among the key's? */
static bool
is_key(const char *name, int nkeys, char **keys)
{
	for (int i = 0; i < nkeys; i++)
		if (strcmp(keys[i], name) == 0)
			return true;
	return false;
}

/*
 * ERROR if a column of the key tells a field only through a cast that may make one value of several, and the field is in
 * the message key, or no other column is traced.
 */
static void
check_casts(const KsQuery *query, int nkeys, char **keys, bool traced)
{
	for (int i = 0; i < nkeys; i++)
	{
		KsQueryColumn *c = ks_query_column(query, keys[i]);
		bool		told = false;

		if (!c->lossy || c->field.column == KS_BATCH_TOPIC || (traced && c->field.column != KS_BATCH_KEY))
			continue;
		for (int j = 0; j < nkeys; j++)
		{
			KsQueryColumn *other = ks_query_column(query, keys[j]);

			told = told || (other->traced && other->field.column != KS_BATCH_TOPIC &&
							(other->field.name == NULL ||
							 (c->field.name && strcmp(other->field.name, c->field.name) == 0)));
		}
		if (!told)
			refuse("upsert", psprintf("key column \"%s\" is cast in a way that can make one value of several, so that several messages would write one row",
									  c->name),
				   "Cast the field's text once, to the type that it has at its source, and let the table's column have this type; keep what is derived from it in a column that is not in the key.");
	}
}

/* Folds that may follow an aggregate, "" for none but first and last. */
static const char *
folds_after(const Aggref *a)
{
	static const char *const known[][2] = {
		{"sum", "sum"}, {"count", "sum count"}, {"min", "min"}, {"max", "max"}, {"bool_or", "or"}, {"bool_and", "and"},
		{"every", "and"}, {"bit_or", "or"}, {"bit_and", "and"}
	};
	char	   *name = get_func_name(a->aggfnoid);

	for (int i = 0; name && i < lengthof(known); i++)
		if (strcmp(name, known[i][0]) == 0 && (a->aggdistinct == NIL || strncmp(known[i][1], "sum", 3) != 0))
			return known[i][1];
	return "";
}

/* Checks that what an aggregate yields for parts of the events can be folded into what it yields for all of them. */
static void
check_fold(const KsQuery *query, const KsQueryColumn *column, const char *fold)
{
	TargetEntry *te = list_nth(query->query->targetList, column->resno - 1);
	Node	   *expr = (Node *) te->expr;
	const char *allowed;
	const char *at;

	if (fold == NULL)
		refuse("merge", psprintf("nothing says how column \"%s\" is folded", column->name),
			   "Name it in the argument merge, as sum, min, max, count, first, last, or or and; or make it part of the key.");
	while (IsA(expr, RelabelType) || IsA(expr, CoerceViaIO) ||
		   (IsA(expr, FuncExpr) && list_length(((FuncExpr *) expr)->args) > 0 &&
			((FuncExpr *) expr)->funcformat != COERCE_EXPLICIT_CALL))
		expr = IsA(expr, RelabelType) ? (Node *) ((RelabelType *) expr)->arg :
			IsA(expr, CoerceViaIO) ? (Node *) ((CoerceViaIO *) expr)->arg : linitial(((FuncExpr *) expr)->args);
	if (!IsA(expr, Aggref) || strcmp(fold, "first") == 0 || strcmp(fold, "last") == 0)
		return;
	allowed = folds_after((Aggref *) expr);
	at = strstr(allowed, fold);
	if (at == NULL || (at != allowed && at[-1] != ' '))
		refuse("merge", psprintf("%s of column \"%s\" cannot be folded with %s",
								 get_func_name(((Aggref *) expr)->aggfnoid), column->name, fold),
			   allowed[0] ? psprintf("Fold it with %s.", strcmp(allowed, "sum count") == 0 ? "sum" : allowed) :
			   "Keep what it is made of, such as sum and count, and compute it when the table is read.");
}

/* See analyse.h. */
void
ks_query_check(const KsQuery *query, const char *mode, int nkeys, char **keys,
			   const char *(*fold) (void *arg, const char *column), void *fold_arg)
{
	bool		merge = strcmp(mode, "merge") == 0;
	bool		upsert = strcmp(mode, "upsert") == 0;
	const char *reason = merge ? query->not_mergeable : query->not_row_wise;
	bool		traced = false;

	if (reason)
		refuse(mode, reason, !merge && query->aggregates && query->not_mergeable == NULL ?
			   "Only mode merge may aggregate." :
			   "Write it as a plain SELECT over one kafka.batch, or one foreign table of a topic that the subscription reads, in FROM, joined with other tables where needed.");
	for (int i = 0; i < query->ncolumns; i++)
		for (int j = 0; j < i; j++)
			if (strcmp(query->output[i].name, query->output[j].name) == 0)
				refuse(mode, psprintf("it returns two columns named \"%s\"", query->output[i].name), "Give one another name.");
	if (strcmp(mode, "append") == 0)
		return;
	for (int i = 0; i < nkeys; i++)
	{
		KsQueryColumn *c = ks_query_column(query, keys[i]);

		if (c == NULL)
			refuse(mode, psprintf("it does not return the key column \"%s\"", keys[i]), "Add the column to the query.");
		traced = traced || (c->traced && c->field.column != KS_BATCH_TOPIC);
	}
	if (upsert)
		check_casts(query, nkeys, keys, traced);
	if (upsert && !traced)
		refuse(mode, "no column of the target's key is a plain part of the message key, so that nothing tells which rows a message has left behind",
			   "Put the message key's fields into the target's key, such as (after->>'id')::int, or use mode append or merge.");
	for (int i = 0; merge && fold && i < query->ncolumns; i++)
		if (!is_key(query->output[i].name, nkeys, keys))
			check_fold(query, &query->output[i], fold(fold_arg, query->output[i].name));
}

/* See analyse.h. */
const char *
ks_query_check_topics(const KsQuery *query, int nkeys, char **keys, List *topics, Oid reader)
{
	const char *only = NULL;
	ListCell   *lc;

	for (int i = 0; i < nkeys; i++)
	{
		KsQueryColumn *c = ks_query_column(query, keys[i]);

		if (c && c->traced && c->field.column == KS_BATCH_TOPIC)
			return NULL;
	}
	foreach(lc, topics)
	{
		if (!ks_query_reads_topic(query, lfirst(lc), reader))
			continue;
		if (only)
			refuse("upsert", psprintf("it reads topic \"%s\" and topic \"%s\", and nothing in the target's key tells apart rows of one message key",
									  only, (char *) lfirst(lc)),
				   "Choose one topic with WHERE topic = '...' in the query, or put topic into the target's key.");
		only = lfirst(lc);
	}
	return only;
}
