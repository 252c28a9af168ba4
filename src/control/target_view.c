/*
 * target_view.c: parsing the query of a target, and the view that holds it; see target_view.h.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "commands/tablecmds.h"
#include "commands/view.h"
#include "control/definitions.h"
#include "control/target_view.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/* Names of the CTEs that can be seen from a place in the query. */
typedef struct Scope
{
	List	   *names;			/* of char * */
} Scope;

static bool name_batch(Node *node, void *scope);

/* ERROR: this is no query of a target. */
static void
not_a_query(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the query of a target %s", what),
			 errhint("It is one SELECT that reads batch.")));
}

/* name_batch for a SELECT with a WITH list: its names are seen in the rest of the statement, and by one another. */
static bool
name_batch_with(SelectStmt *select, const Scope *outer)
{
	WithClause *with = select->withClause;
	Scope		inner = {list_copy(outer->names)};
	bool		result = false;
	ListCell   *lc;

	if (with->recursive)
		foreach(lc, with->ctes)
			inner.names = lappend(inner.names, ((CommonTableExpr *) lfirst(lc))->ctename);
	foreach(lc, with->ctes)
	{
		CommonTableExpr *cte = lfirst(lc);

		result = result || name_batch(cte->ctequery, &inner);
		if (!with->recursive)
			inner.names = lappend(inner.names, cte->ctename);
	}
	select->withClause = NULL;
	result = result || raw_expression_tree_walker((Node *) select, name_batch, &inner);
	select->withClause = with;
	return result;
}

/*
 * Walks a raw parse tree; an unqualified "batch" that is no CTE of that name becomes kafka.batch, whatever the
 * search_path holds.  ERROR for what changes or locks rows.
 */
static bool
name_batch(Node *node, void *arg)
{
	Scope	   *scope = arg;
	ListCell   *lc;

	check_stack_depth();
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_RangeVar:
			{
				RangeVar   *rv = (RangeVar *) node;

				if (rv->schemaname != NULL || rv->catalogname != NULL || strcmp(rv->relname, "batch") != 0)
					return false;
				foreach(lc, scope->names)
					if (strcmp(lfirst(lc), rv->relname) == 0)
						return false;
				rv->schemaname = pstrdup("kafka");
				return false;
			}
		case T_SelectStmt:
			if (((SelectStmt *) node)->intoClause)
				not_a_query("has INTO");
			if (((SelectStmt *) node)->lockingClause != NIL)
				not_a_query("locks rows");
			if (((SelectStmt *) node)->withClause)
				return name_batch_with((SelectStmt *) node, scope);
			break;
		case T_InsertStmt:
		case T_UpdateStmt:
		case T_DeleteStmt:
		case T_MergeStmt:
			not_a_query("changes data");
			break;
		default:
			break;
	}
	return raw_expression_tree_walker(node, name_batch, arg);
}

/* Error context of parsing: places are those in the query's text, not in the statement that called us. */
static void
parse_context(void *text)
{
	int			place = geterrposition();

	if (place > 0)
	{
		errposition(0);
		internalerrposition(place);
		internalerrquery(text);
	}
	errcontext("query of a target");
}

/* See target_view.h. */
Query *
ks_target_query_parse(const char *text)
{
	ErrorContextCallback callback = {error_context_stack, parse_context, unconstify(char *, text)};
	Scope		scope = {NIL};
	List	   *statements;
	RawStmt    *raw;
	Query	   *query;
	bool		indeterminate = false;
	ListCell   *lc;

	error_context_stack = &callback;
	statements = raw_parser(text, RAW_PARSE_DEFAULT);
	if (list_length(statements) != 1)
		not_a_query(statements == NIL ? "is empty" : "has several statements");
	raw = linitial(statements);
	if (!IsA(raw->stmt, SelectStmt))
		not_a_query("is no SELECT");
	(void) name_batch(raw->stmt, &scope);
	query = parse_analyze_fixedparams(raw, text, NULL, 0, NULL);
	if (!IsA(query, Query) || query->commandType != CMD_SELECT || query->utilityStmt != NULL)
		not_a_query("is no SELECT");
	if (isQueryUsingTempRelation(query))
		not_a_query("uses temporary tables");
	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst(lc);

		indeterminate = type_is_collatable(exprType((Node *) tle->expr)) && !OidIsValid(exprCollation((Node *) tle->expr));
		if (!tle->resjunk && indeterminate)
			ereport(ERROR,
					(errcode(ERRCODE_INDETERMINATE_COLLATION),
					 errmsg("could not determine which collation to use for column \"%s\"", tle->resname),
					 errhint("Use the COLLATE clause to set the collation explicitly.")));
	}
	error_context_stack = callback.previous;
	return query;
}

/* A name of schema kafka that no relation has; several targets of a subscription can have queries. */
static char *
free_name(int64 subscription_id)
{
	for (int i = 1;; i++)
	{
		char	   *name = psprintf("target_query_" INT64_FORMAT "_%d", subscription_id, i);

		if (!OidIsValid(get_relname_relid(name, ks_catalog_schema())))
			return name;
	}
}

/* See target_view.h.  As CREATE VIEW does it, but for the query, which is bound already. */
Oid
ks_target_view_create(Query *query, Oid owner, int64 subscription_id)
{
	CreateStmt *create = makeNode(CreateStmt);
	KsIdentity	saved;
	ObjectAddress address;
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst(lc);
		Node	   *expr = (Node *) tle->expr;

		if (!tle->resjunk)
			create->tableElts = lappend(create->tableElts,
										makeColumnDef(tle->resname, exprType(expr), exprTypmod(expr), exprCollation(expr)));
	}
	create->relation = makeRangeVar("kafka", free_name(subscription_id), -1);
	create->oncommit = ONCOMMIT_NOOP;

	/* nobody else may create anything in our schema */
	ks_become_superuser(&saved);
	address = DefineRelation(create, RELKIND_VIEW, owner, NULL, NULL);
	CommandCounterIncrement();
	StoreViewQuery(address.objectId, query, false);
	CommandCounterIncrement();
	ks_become_caller(&saved);
	return address.objectId;
}

/* Error context of checking a view: whose rights are too few, and for what. */
static void
check_context(void *name)
{
	errcontext("query of target \"%s\", run as role \"%s\"", (const char *) name, GetUserNameFromId(GetUserId(), true));
}

/* See target_view.h.  EXPLAIN plans the query and checks rights, and runs nothing of it. */
void
ks_target_view_check(Oid view, Oid owner, const char *name)
{
	ErrorContextCallback callback = {error_context_stack, check_context, unconstify(char *, name)};
	char	   *command = psprintf("EXPLAIN SELECT * FROM %s",
								   quote_qualified_identifier(get_namespace_name(get_rel_namespace(view)), get_rel_name(view)));
	Oid			save_user;
	int			save_context;
	int			nest_level = NewGUCNestLevel();

	error_context_stack = &callback;
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(owner, save_context | SECURITY_RESTRICTED_OPERATION);
	/* as in workers: policies that would hide rows are an error */
	(void) set_config_option("row_security", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(command, false, 0) < 0)
		elog(ERROR, "could not plan the query of target %s", name);
	SPI_finish();
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(save_user, save_context);
	error_context_stack = callback.previous;
}

/* See target_view.h. */
void
ks_target_view_require(const KsTarget *t, const char *subscription)
{
	char	   *name = get_rel_name(t->relid);

	if (t->query == NULL || (OidIsValid(t->view) && get_rel_relkind(t->view) == RELKIND_VIEW))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("subscription \"%s\": the query of target \"%s\" is gone", subscription,
					name ? name : psprintf("%u", t->relid)),
			 errdetail("Something that it used was dropped with CASCADE."),
			 errhint("Remove the target with kafka.drop_target, and add it with a query that uses what is there.")));
}

/* See target_view.h. */
void
ks_target_views_set_owner(const KsSubscription *s, Oid owner)
{
	KsIdentity	saved;
	ListCell   *lc;

	foreach(lc, s->targets)
	{
		KsTarget   *t = lfirst(lc);
		char	   *name = get_rel_name(t->relid);

		/* one that is gone has put the subscription in error already */
		if (!OidIsValid(t->view) || get_rel_relkind(t->view) != RELKIND_VIEW)
			continue;
		ks_become_superuser(&saved);
		ATExecChangeOwner(t->view, owner, false, AccessExclusiveLock);
		CommandCounterIncrement();
		ks_become_caller(&saved);
		ks_target_view_check(t->view, owner, name ? name : "that was dropped");
	}
}

/* See target_view.h. */
void
ks_target_view_drop(Oid view)
{
	ObjectAddress address;
	KsIdentity	saved;

	if (!OidIsValid(view))
		return;
	LockRelationOid(view, AccessExclusiveLock);
	if (get_rel_relkind(view) != RELKIND_VIEW)
		return;
	ObjectAddressSet(address, RelationRelationId, view);
	ks_become_superuser(&saved);
	performDeletion(&address, DROP_RESTRICT, 0);
	CommandCounterIncrement();
	ks_become_caller(&saved);
}
