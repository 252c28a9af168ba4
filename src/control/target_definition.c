/*
 * target_definition.c: checking and storing the targets of subscriptions; see target_definition.h.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "compat/pg_compat.h"
#include "control/definitions.h"
#include "control/foreign_table.h"
#include "control/hooks.h"
#include "control/target_definition.h"
#include "control/target_view.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_coerce.h"
#include "query/analyse.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* The names of an index' key columns, if it can be a target's key (unique, immediate, plain columns, not partial). */
static List *
index_columns(Relation rel, Oid indexid)
{
	Relation	index = index_open(indexid, AccessShareLock);
	List	   *names = NIL;
	bool		usable = index->rd_index->indisunique && index->rd_index->indisvalid && index->rd_index->indimmediate &&
		RelationGetIndexPredicate(index) == NIL && RelationGetIndexExpressions(index) == NIL;

	for (int i = 0; usable && i < index->rd_index->indnkeyatts; i++)
		names = lappend(names, pstrdup(NameStr(TupleDescAttr(RelationGetDescr(rel),
															 index->rd_index->indkey.values[i] - 1)->attname)));
	index_close(index, AccessShareLock);
	return names;
}

/* Do the two lists hold the same names, in any order? */
static bool
same_names(List *a, List *b)
{
	ListCell   *la;
	ListCell   *lb;

	if (list_length(a) != list_length(b))
		return false;
	foreach(la, a)
	{
		bool		found = false;

		foreach(lb, b)
			found = found || strcmp(lfirst(la), lfirst(lb)) == 0;
		if (!found)
			return false;
	}
	return true;
}

/*
 * The key columns of a target: those asked for (which a unique index must cover exactly), or the primary key's.
 * Returns a list of names.
 */
static List *
resolve_key(Relation rel, List *asked)
{
	List	   *indexes = RelationGetIndexList(rel);
	List	   *key = NIL;
	ListCell   *lc;

	foreach(lc, asked)
		if (get_attnum(RelationGetRelid(rel), lfirst(lc)) <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist", (char *) lfirst(lc),
							RelationGetRelationName(rel))));
	foreach(lc, indexes)
	{
		List	   *columns;

		if (asked == NIL && lfirst_oid(lc) != rel->rd_pkindex)
			continue;
		columns = index_columns(rel, lfirst_oid(lc));
		if (asked == NIL || same_names(columns, asked))
			key = columns;
		if (key != NIL)
			break;
	}
	if (rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
	{
		/* its unique indexes are elsewhere, and known there only */
		if (asked == NIL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("target \"%s\" is a foreign table: its key is not known", RelationGetRelationName(rel)),
					 errhint("Name the columns of its primary key, or of another unique index of the table behind it, as key.")));
		return asked;
	}
	if (key == NIL && asked == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("target \"%s\" has no primary key", RelationGetRelationName(rel)),
				 errhint("Add a primary key, or name the columns of a unique index as key.")));
	if (key == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no unique index of target \"%s\" has exactly the key's columns", RelationGetRelationName(rel)),
				 errhint("Create a unique index, not partial and not deferrable, on these columns.")));
	return key;
}

/* ERROR unless the table can be a target of subscriptions that this role owns. */
static void
check_table(Relation rel, Oid owner)
{
	if (rel->rd_rel->relkind != RELKIND_RELATION && rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE &&
		rel->rd_rel->relkind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("target \"%s\" is not a table", RelationGetRelationName(rel)),
				 errhint("A target is an ordinary, partitioned or foreign table.")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("target \"%s\" is a temporary table", RelationGetRelationName(rel))));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("target \"%s\" is an unlogged table", RelationGetRelationName(rel)),
				 errdetail("A crash would empty it while the offsets stay.")));
	if (IsSystemRelation(rel) || ks_is_own_relation(RelationGetRelid(rel)))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be a target", RelationGetRelationName(rel))));
	if (!ks_member_can_set_role(owner, rel->rd_rel->relowner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 owner == GetUserId()
				 ? errmsg("must be able to SET ROLE to the owner of table \"%s\"", RelationGetRelationName(rel))
				 : errmsg("the subscription's owner \"%s\" must be able to SET ROLE to the owner of table \"%s\"",
						  GetUserNameFromId(owner, false), RelationGetRelationName(rel)),
				 errdetail("Rows are written with the rights of the table's owner.")));
}

/* NOTICE if another subscription writes this table. */
static void
check_target_free(Oid relid)
{
	List	   *subscriptions = ks_subscriptions();
	ListCell   *lc;
	ListCell   *lt;

	foreach(lc, subscriptions)
		foreach(lt, ((KsSubscription *) lfirst(lc))->targets)
			if (((KsTarget *) lfirst(lt))->relid == relid)
				ereport(NOTICE,
						(errmsg("subscription \"%s\" writes into this table too",
								NameStr(((KsSubscription *) lfirst(lc))->name))));
}

/* Is the name in the list? */
static bool
has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* The names of a query's columns. */
static List *
output_names(const Query *query)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, query->targetList)
		if (!((TargetEntry *) lfirst(lc))->resjunk)
			names = lappend(names, ((TargetEntry *) lfirst(lc))->resname);
	return names;
}

/* ERROR unless each column of the query can be stored in the target's column of its name, and the key is among them. */
static void
check_outputs(Relation rel, const Query *query, List *key)
{
	const char *table = RelationGetRelationName(rel);
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst(lc);
		AttrNumber	attnum;
		Form_pg_attribute att;
		Oid			type = exprType((Node *) tle->expr);

		if (tle->resjunk)
			continue;
		attnum = get_attnum(RelationGetRelid(rel), tle->resname);
		if (attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("the query's column \"%s\" is no column of target \"%s\"", tle->resname, table),
					 errhint("Columns go to those of the same name: use AS to name them.")));
		if (has_name(names, tle->resname))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("the query has column \"%s\" more than once", tle->resname)));
		names = lappend(names, tle->resname);
		att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
		if (att->attgenerated != '\0')
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("column \"%s\" of target \"%s\" is generated", tle->resname, table),
					 errhint("Leave it out of the query.")));
		if (!can_coerce_type(1, &type, &att->atttypid, COERCION_ASSIGNMENT))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of target \"%s\" is of type %s, but the query's is of type %s", tle->resname,
							table, format_type_with_typemod(att->atttypid, att->atttypmod), format_type_be(type)),
					 errhint("Cast it in the query.")));
	}
	foreach(lc, key)
		if (!has_name(names, lfirst(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
					 errmsg("the query has no column \"%s\", which is in the key of target \"%s\"", (char *) lfirst(lc),
							table)));
}

/* See target_definition.h. */
const char *
ks_merge_word(KsMergeFunction function)
{
	switch (function)
	{
		case KS_MERGE_SUM:
			return "sum";
		case KS_MERGE_MIN:
			return "min";
		case KS_MERGE_MAX:
			return "max";
		case KS_MERGE_COUNT:
			return "count";
		case KS_MERGE_FIRST:
			return "first";
		case KS_MERGE_LAST:
			return "last";
		case KS_MERGE_OR:
			return "or";
		case KS_MERGE_AND:
			return "and";
	}
	return "";
}

/* Can values of a type be folded so? */
static bool
merge_suits(KsMergeFunction function, Oid type)
{
	Oid			base = getBaseType(type);

	switch (function)
	{
		case KS_MERGE_SUM:
			return base == INT2OID || base == INT4OID || base == INT8OID || base == NUMERICOID || base == FLOAT4OID ||
				base == FLOAT8OID || base == CASHOID || base == INTERVALOID;
		case KS_MERGE_COUNT:
			return base == INT2OID || base == INT4OID || base == INT8OID || base == NUMERICOID;
		case KS_MERGE_MIN:
		case KS_MERGE_MAX:
			return OidIsValid(lookup_type_cache(base, TYPECACHE_LT_OPR)->lt_opr);
		case KS_MERGE_OR:
		case KS_MERGE_AND:
			return base == BOOLOID;
		case KS_MERGE_FIRST:
		case KS_MERGE_LAST:
			return true;
	}
	return false;
}

/* ERROR unless "merge" has a function that suits for every column of the query that is not in the key, and no more. */
static void
check_merge(Relation rel, const KsTargetRequest *request, List *key)
{
	List	   *outputs = output_names(request->query);
	List	   *merged = NIL;
	int			count;
	KsMergeColumn *merge;
	ListCell   *lc;

	if (request->merge == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("mode merge needs argument merge"),
				 errhint("It names a function for each column that is not in the key: {\"column\": \"sum\"}.")));
	merge = ks_merge_parse(request->merge, &count);
	for (int i = 0; i < count; i++)
	{
		const char *name = merge[i].column;
		Oid			type;

		if (!has_name(outputs, name))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("merge names column \"%s\", which the query does not have", name)));
		if (has_name(key, name))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("merge names column \"%s\", which is in the key of target \"%s\"", name,
							RelationGetRelationName(rel))));
		type = get_atttype(RelationGetRelid(rel), get_attnum(RelationGetRelid(rel), name));
		if (!merge_suits(merge[i].function, type))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("merge function %s is not for column \"%s\" of type %s", ks_merge_word(merge[i].function), name,
							format_type_be(type)),
					 errhint("sum is for numbers, money and intervals; count for integers and numeric; min and max for types "
							 "that can be ordered; or and and for boolean; first and last for all.")));
		merged = lappend(merged, unconstify(char *, name));
	}
	foreach(lc, outputs)
		if (!has_name(key, lfirst(lc)) && !has_name(merged, lfirst(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("merge has no function for column \"%s\"", (char *) lfirst(lc)),
					 errhint("Every column of the query that is not in the key needs one: sum, min, max, count, first, last, "
							 "or, and.")));
}

/* ERROR unless an option is an interval above zero (or not given). */
static void
check_interval(const KsOptions *options, KsOptionId id, const char *name)
{
	const char *text = options->text_value[id];
	MemoryContext context = CurrentMemoryContext;
	Interval	zero = {0};
	Datum		interval;
	volatile bool valid = false;

	if (text == NULL)
		return;
	/* the input function leaves nothing behind that would need a subtransaction */
	PG_TRY();
	{
		interval = DirectFunctionCall3(interval_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
		valid = ks_interval_infinity(DatumGetIntervalP(interval)) == 0 &&
			DatumGetInt32(DirectFunctionCall2(interval_cmp, interval, IntervalPGetDatum(&zero))) > 0;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	if (!valid)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": %s", name, text),
				 errhint("Allowed is an interval above zero, such as 1 hour.")));
}

/* Parses the options of a target; ERROR for those that do not go with its mode, key or columns. */
static KsOptions *
check_options(Relation rel, const KsTargetRequest *request, List *key)
{
	static const struct
	{
		KsOptionId	id;
		const char *name;
	}			merge_only[] = {{KS_OPT_WINDOW, "window"}, {KS_OPT_RETAIN, "retain"}, {KS_OPT_GRACE, "grace"}, {KS_OPT_LATE, "late"}};
	KsOptions  *options = ks_options_parse(KS_TARGET, NULL, request->options, InvalidOid);
	const char *window = options->text_value[KS_OPT_WINDOW];

	for (int i = 0; i < lengthof(merge_only); i++)
		if (options->given[merge_only[i].id] && strcmp(request->mode, "merge") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" is for mode merge only", merge_only[i].name)));
	if (options->given[KS_OPT_PROGRESS_TOPIC] && ks_table_kind(request->relid) != KS_TABLE_KAFKA)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" is for targets that are topics only", "progress.topic")));
	check_interval(options, KS_OPT_RETAIN, "retain");
	check_interval(options, KS_OPT_GRACE, "grace");
	if (window == NULL && (options->given[KS_OPT_RETAIN] || options->given[KS_OPT_GRACE]))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" needs option \"window\"", options->given[KS_OPT_RETAIN] ? "retain" : "grace"),
				 errhint("\"window\" names the key column that holds the begin of a row's window.")));
	if (options->given[KS_OPT_LATE] && !options->given[KS_OPT_GRACE] && !options->given[KS_OPT_RETAIN])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"late\" needs option \"grace\" or \"retain\"")));
	if (window)
	{
		Oid			type = InvalidOid;

		if (has_name(key, window))
			type = getBaseType(get_atttype(RelationGetRelid(rel), get_attnum(RelationGetRelid(rel), window)));
		if (type != DATEOID && type != TIMESTAMPOID && type != TIMESTAMPTZOID)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"window\": %s", window),
					 errhint("Allowed is a column of the target's key of type date, timestamp or timestamptz.")));
	}
	return options;
}

/* See target_definition.h. */
void
ks_target_check_mode(const KsTargetRequest *request)
{
	static const char *const modes[] = {"upsert", "append", "merge", NULL};

	ks_check_word("mode", request->mode, modes);
	if (strcmp(request->mode, "merge") == 0 && request->query == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("mode merge needs a query"),
				 errhint("Create the subscription without a target, and call kafka.add_target with query and merge.")));
	if (strcmp(request->mode, "merge") != 0 && request->merge != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument merge is for mode merge only")));
	if (strcmp(request->mode, "append") == 0 && request->key != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("mode append has no key"),
				 errhint("Every event becomes a row of its own: leave argument key out.")));
}

/* A list of strings as text[]. */
static Datum
text_array(List *strings)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(list_length(strings), 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, strings)
		elements[n++] = CStringGetTextDatum(lfirst(lc));
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* See target_definition.h. */
KsOptions *
ks_target_check(const KsTargetRequest *request, Oid owner, Datum *key)
{
	Relation	rel;
	List	   *names = NIL;
	KsOptions  *options;

	ks_target_check_mode(request);
	rel = table_open(request->relid, AccessShareLock);
	check_table(rel, owner);
	if (ks_table_kind(request->relid) == KS_TABLE_KAFKA)
		names = ks_topic_target_hook(rel, request->mode, request->key,
									 request->query ? output_names(request->query) : NIL);
	else if (strcmp(request->mode, "append") != 0)
		names = resolve_key(rel, request->key);
	if (request->query)
		check_outputs(rel, request->query, names);
	if (strcmp(request->mode, "merge") == 0)
		check_merge(rel, request, names);
	options = check_options(rel, request, names);
	ks_foreign_check(rel, request->mode, options);
	ks_foreign_check_identity(rel, names);
	check_target_free(request->relid);
	table_close(rel, NoLock);

	*key = text_array(names);
	return options;
}

/* What the argument merge says of a column; NULL if it does not name it. */
static const char *
fold_of(void *merge, const char *column)
{
	int			count;
	KsMergeColumn *columns = ks_merge_parse(merge, &count);

	for (int i = 0; i < count; i++)
		if (strcmp(columns[i].column, column) == 0)
			return ks_merge_word(columns[i].function);
	return NULL;
}

/* Does an index that can be used for any row begin with exactly these columns, in any order? */
static bool
is_led_by(Relation rel, Oid indexid, List *columns)
{
	Relation	index = index_open(indexid, AccessShareLock);
	Form_pg_index form = index->rd_index;
	int			n = list_length(columns);
	bool		result = form->indisvalid && index->rd_rel->relam == BTREE_AM_OID && form->indnkeyatts >= n &&
		/* not by RelationGetIndexPredicate, which would run code of users */
		heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);

	for (int i = 0; result && i < n; i++)
	{
		AttrNumber	attnum = form->indkey.values[i];

		result = attnum > 0 && has_name(columns, NameStr(TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attname));
	}
	index_close(index, NoLock);
	return result;
}

/*
 * NOTICE if rows will be looked for by some columns of the key, which tell the message key, and no index begins with
 * these.
 */
static void
check_index(Oid relid, const KsQuery *query, int nkeys, char **keys)
{
	Relation	rel;
	List	   *traced = NIL;
	bool		found = false;
	StringInfoData columns;
	ListCell   *lc;

	initStringInfo(&columns);
	for (int i = 0; i < nkeys; i++)
		if (ks_query_column(query, keys[i])->traced)
		{
			appendStringInfo(&columns, "%s%s", traced ? ", " : "", quote_identifier(keys[i]));
			traced = lappend(traced, keys[i]);
		}
	if (list_length(traced) == nkeys)
		return;
	rel = table_open(relid, AccessShareLock);
	foreach(lc, RelationGetIndexList(rel))
		found = found || is_led_by(rel, lfirst_oid(lc), traced);
	if (!found)
		ereport(NOTICE,
				(errmsg("no index of target \"%s\" begins with the columns that tell the message key", RelationGetRelationName(rel)),
				 errdetail("Each batch of messages will read the whole table, to find the rows that they leave behind."),
				 errhint("CREATE INDEX ON %s (%s).",
						 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
													RelationGetRelationName(rel)), columns.data)));
	table_close(rel, NoLock);
}

/*
 * ERROR unless the message key tells all of the key of a topic's table: rows that a message leaves behind are not looked
 * for there.
 */
static void
check_topic_key(const KsQuery *query, int nkeys, char **keys, Oid relid)
{
	for (int i = 0; i < nkeys; i++)
		if (!ks_query_column(query, keys[i])->traced)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("key column \"%s\" of target \"%s\" is not told by the message key", keys[i], get_rel_name(relid)),
					 errdetail("Rows that a message leaves behind would have to be looked for, and a topic cannot be asked which it has."),
					 errhint("Make the key of the foreign table of fields of the message key alone, or use mode append.")));
}

/*
 * ERROR unless the query, which is that of the view, can keep the target exact in its mode.  Returns whether it reads a
 * topic's table; *source becomes what that means, a text[].
 */
static bool
check_exact(const KsTargetRequest *request, const KsSubscription *s, Oid view, Datum key, Datum *source)
{
	KsQuery    *query = ks_query_analyse(view, s);
	Datum	   *elements;
	bool	   *nulls;
	int			nkeys;
	char	  **keys;

	deconstruct_array(DatumGetArrayTypeP(key), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &nkeys);
	keys = palloc(sizeof(char *) * Max(nkeys, 1));
	for (int i = 0; i < nkeys; i++)
		keys[i] = TextDatumGetCString(elements[i]);
	if (strcmp(request->mode, "upsert") == 0)
		ks_query_assign(query, request->relid);
	ks_query_check(query, request->mode, nkeys, keys, request->merge ? fold_of : NULL, request->merge);
	if (strcmp(request->mode, "upsert") == 0)
	{
		(void) ks_query_check_topics(query, nkeys, keys, ks_subscription_topics(s->id), s->owner);
		if (ks_table_kind(request->relid) == KS_TABLE_KAFKA)
			check_topic_key(query, nkeys, keys, request->relid);
		check_index(request->relid, query, nkeys, keys);
	}
	if (query->source == NULL)
		return false;
	*source = text_array(ks_source_meaning(query->source));
	return true;
}

/* See target_definition.h. */
void
ks_target_store(const KsTargetRequest *request, int64 subscription_id, Datum key)
{
	Oid			types[9] = {INT8OID, OIDOID, TEXTOID, TEXTARRAYOID, TEXTOID, JSONBOID, JSONBOID, OIDOID, TEXTARRAYOID};
	Datum		values[9];
	char		nulls[9] = {' ', ' ', ' ', ' ', 'n', 'n', ' ', 'n', 'n'};

	if (ks_table_kind(request->relid) == KS_TABLE_KAFKA)
		ks_topic_loop_hook(request->relid, ks_subscription_by_id(subscription_id));
	values[0] = Int64GetDatum(subscription_id);
	values[1] = ObjectIdGetDatum(request->relid);
	values[2] = CStringGetTextDatum(request->mode);
	values[3] = key;
	values[6] = JsonbPGetDatum(request->options);
	if (request->query)
	{
		KsSubscription *s = ks_subscription_by_id(subscription_id);
		Oid			view = ks_target_view_create(request->query, s->owner, subscription_id);

		if (check_exact(request, s, view, key, &values[8]))
			nulls[8] = ' ';
		ks_target_view_check(view, s->owner, get_rel_name(request->relid));
		values[4] = CStringGetTextDatum(request->query_text);
		values[7] = ObjectIdGetDatum(view);
		nulls[4] = nulls[7] = ' ';
	}
	if (request->merge)
	{
		values[5] = JsonbPGetDatum(request->merge);
		nulls[5] = ' ';
	}
	(void) ks_catalog_execute("INSERT INTO kafka.subscription_target (subscription_id, target, mode, key, query, merge, options, view, source) "
							  "VALUES ($1, $2::pg_catalog.regclass, $3, $4, $5, $6, $7, $8::pg_catalog.regclass, $9)",
							  9, types, values, nulls);
}
