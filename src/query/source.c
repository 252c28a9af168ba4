/*
 * source.c: see source.h.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "control/foreign_table.h"
#include "event/message.h"
#include "fdw/topic_table.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "query/analyse_internal.h"
#include "query/source.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

/* ---- finding it */

/* The topics' tables in a query. */
typedef struct Collect
{
	List	   *relids;			/* each as often as it stands there */
	Oid			view;			/* that is being looked into */
	Oid			behind;			/* a table that stands in a view, */
	Oid			behind_view;	/* this one */
} Collect;

static bool collect_walker(Node *node, void *arg);

/* Looks into a view, other than kafka.batch. */
static void
collect_in_view(Collect *c, Oid view)
{
	Oid			outer = c->view;
	Relation	rel;

	if (view == ks_batch_relid())
		return;
	check_stack_depth();
	rel = table_open(view, AccessShareLock);
	c->view = OidIsValid(outer) ? outer : view;
	(void) collect_walker((Node *) get_view_query(rel), c);
	c->view = outer;
	table_close(rel, NoLock);
}

/* Collects the topics' tables. */
static bool
collect_walker(Node *node, void *arg)
{
	Collect    *c = arg;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		/* before PostgreSQL 16, the query of a view has entries for the view itself, too, as OLD and NEW */
		if (rte->rtekind != RTE_RELATION || !rte->inFromCl)
			return false;
		if (get_rel_relkind(rte->relid) == RELKIND_VIEW)
			collect_in_view(c, rte->relid);
		else if (ks_table_kind(rte->relid) != KS_TABLE_KAFKA)
			return false;
		else if (OidIsValid(c->view))
		{
			c->behind = rte->relid;
			c->behind_view = c->view;
		}
		else
			c->relids = lappend_oid(c->relids, rte->relid);
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, collect_walker, arg, QTW_EXAMINE_RTES_BEFORE | QTW_IGNORE_JOINALIASES);
	return expression_tree_walker(node, collect_walker, arg);
}

/* Name of a relation for messages. */
static char *
qualified_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}

/* What the options of a topic's table say, in CurrentMemoryContext. */
static KsTopicTable *
read_table(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	KsTopicTable *table = ks_topic_table(rel);

	/* the lock stays, so that what it says does */
	table_close(rel, NoLock);
	return table;
}

/* The topic of a table, in the server's encoding. */
static char *
topic_of(const KsTopicTable *table)
{
	return pg_any_to_server(table->topic, strlen(table->topic), PG_UTF8);
}

/* Is the topic of a table one of those that the subscription reads, from the same server? */
static bool
is_read_by(const KsTopicTable *table, const KsSubscription *s)
{
	return strcmp(GetForeignServer(table->serverid)->servername, NameStr(s->server)) == 0 &&
		ks_reads_topic(s->topics, s->ntopics, topic_of(table));
}

/* ---- does it read messages as the subscription does? */

/* ERROR: table and subscription differ. */
static void
differ(const KsTopicTable *table, const KsSubscription *s, const char *how)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("foreign table %s does not read its topic as subscription \"%s\" does", ks_topic_table_name(table),
					NameStr(s->name)),
			 errdetail("%s", how),
			 errhint("Give both the same: a message is read once for all targets.")));
}

/* An option's value for messages. */
static const char *
quoted(const char *value)
{
	return value ? psprintf("\"%s\"", value) : "not given";
}

/* ERROR unless two values of an option are the same; NULL = not given. */
static void
compare(const KsTopicTable *table, const KsSubscription *s, const char *option, const char *here, const char *there)
{
	if ((here == NULL) != (there == NULL) || (here && strcmp(here, there) != 0))
		differ(table, s, psprintf("Option \"%s\" is %s there, and %s of the subscription.", option, quoted(here),
								  quoted(there)));
}

/* The same for a boolean. */
static void
compare_bool(const KsTopicTable *table, const KsSubscription *s, const char *option, bool here, bool there)
{
	compare(table, s, option, here ? "true" : "false", there ? "true" : "false");
}

/* JSON as jsonb prints it; NULL for NULL. */
static const char *
normal_json(const char *text)
{
	Jsonb	   *jsonb;

	if (text == NULL)
		return NULL;
	jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	return JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
}

/* Text in UTF-8 in the server's encoding; NULL for NULL. */
static const char *
server_text(const char *utf8)
{
	return utf8 ? pg_any_to_server(utf8, strlen(utf8), PG_UTF8) : NULL;
}

/* A character as text; NULL = the default. */
static const char *
character(char c, const char *none)
{
	return c ? psprintf("%c", c) : none;
}

/* Does the table look into the fields of message keys? */
static bool
reads_key_fields(const KsTopicTable *table)
{
	for (int i = 0; i < table->natts; i++)
		if (!table->columns[i].is_dropped && table->columns[i].meta == KS_COL_KEY && table->columns[i].npath > 0)
			return true;
	return table->nkeys > 0;
}

/* ERROR unless the table's options mean the same as the subscription's. */
static void
check_options(const KsTopicTable *table, const KsSubscription *s)
{
	const KsOptions *o = s->options ? s->options : ks_subscription_options(s);
	const KsParserOptions *p = &table->parser_options;
	const char *key_format = o->text_value[KS_OPT_KEY_FORMAT];

	if (strcmp(table->format, s->format) != 0)
		differ(table, s, psprintf("Its format is %s, and the subscription's %s.", table->format, s->format));
	compare_bool(table, s, "flat", p->flat, o->bool_value[KS_OPT_FLAT]);
	compare(table, s, "source.connector", server_text(p->connector), o->text_value[KS_OPT_SOURCE_CONNECTOR]);
	if (strcmp(s->format, "debezium") == 0 && table->modes != ks_message_modes(o))
		differ(table, s, "Option \"binary.handling.mode\" or \"time.precision.mode\" is not the same.");
	if (strcmp(s->format, "csv") == 0)
	{
		compare_bool(table, s, "csv.header", p->csv_header, o->bool_value[KS_OPT_CSV_HEADER]);
		compare(table, s, "csv.columns", normal_json(server_text(p->csv_columns)),
				normal_json(o->text_value[KS_OPT_CSV_COLUMNS]));
		compare(table, s, "csv.delimiter", character(p->csv_delimiter, ","), o->text_value[KS_OPT_CSV_DELIMITER]);
		compare(table, s, "csv.quote", character(p->csv_quote, "\""), o->text_value[KS_OPT_CSV_QUOTE]);
		compare(table, s, "csv.null", p->csv_null ? server_text(p->csv_null) : "", o->text_value[KS_OPT_CSV_NULL]);
	}
	if (strcmp(s->format, "syslog") == 0)
	{
		compare_bool(table, s, "syslog.lenient", p->syslog_lenient, o->bool_value[KS_OPT_SYSLOG_LENIENT]);
		compare(table, s, "syslog.time_zone", p->syslog_time_zone ? server_text(p->syslog_time_zone) : "UTC",
				o->text_value[KS_OPT_SYSLOG_TIME_ZONE]);
	}
	if (o->given[KS_OPT_PATHS])
		differ(table, s, "The subscription has option \"paths\", which gives fields other names.");
	if (key_format == NULL)
		key_format = strcmp(s->format, "json") == 0 || strcmp(s->format, "debezium") == 0 ? "json" :
			strcmp(s->format, "raw") == 0 ? "bytes" : "text";
	if (reads_key_fields(table))
		compare(table, s, "key_format", table->nkeys > 0 && table->key_format == KS_TOPIC_KEY_TEXT ? "text" : "json",
				key_format);
}

/* ---- its columns */

/* A field's path for messages: a.b[0]. */
static char *
path_text(const KsTopicColumn *c)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < c->npath; i++)
		if (c->path[i].name)
			appendStringInfo(&text, "%s%s", i > 0 ? "." : "", quote_identifier(server_text(c->path[i].name)));
		else
			appendStringInfo(&text, "[%d]", c->path[i].index);
	return text.data;
}

/* Describes a column of the table in terms of batch. */
static void
describe_column(const KsTopicTable *table, int index, int place, const char *type, KsSourceColumn *result)
{
	/* names of our own schema-less types are those that everybody knows */
	const char *type_name = strncmp(type, "pg_catalog.", 11) == 0 ? type + 11 : type;

	const KsTopicColumn *c = &table->columns[index];
	bool		numbered = strcmp(table->format, "csv") == 0 && !table->parser_options.csv_header &&
		table->parser_options.csv_columns == NULL;
	const char *what = NULL;

	result->whole = c->npath <= 1;
	if (c->npath > 0)
		result->name = pstrdup(server_text(c->path[0].name));
	switch (c->meta)
	{
		case KS_COL_NONE:
			result->column = KS_BATCH_AFTER;
			what = "field";
			/* the parser's names for fields without names */
			if (numbered)
				result->name = psprintf("column%d", place + 1);
			for (int i = 0; i < table->nkeys; i++)
				result->or_key = result->or_key || table->keys[i] == index;
			break;
		case KS_COL_VALUE:
			result->column = KS_BATCH_AFTER;
			what = "value";
			break;
		case KS_COL_KEY:
			result->column = KS_BATCH_KEY;
			what = table->key_format == KS_TOPIC_KEY_JSON && c->npath == 0 ? "json key" : "key";
			break;
		case KS_COL_BEFORE:
			result->column = KS_BATCH_BEFORE;
			what = "before";
			break;
		case KS_COL_TOPIC:
			result->column = KS_BATCH_TOPIC;
			what = "topic";
			break;
		case KS_COL_PARTITION:
			result->column = KS_BATCH_PARTITION;
			what = "partition";
			break;
		case KS_COL_OFFSET:
			result->column = KS_BATCH_OFFSET;
			what = "offset";
			break;
		case KS_COL_TIMESTAMP:
			result->column = KS_BATCH_TS;
			what = "timestamp";
			break;
		case KS_COL_HEADERS:
			result->column = KS_BATCH_HEADERS;
			what = "headers";
			break;
		case KS_COL_OP:
			result->column = KS_BATCH_OP;
			what = "op";
			break;
		case KS_COL_UNCHANGED:
			result->refusal = "unchanged values are those of the row that is there, or an error";
			return;
		case KS_COL_ERROR:
			result->refusal = "what cannot be read stops the subscription, or becomes a dead letter";
			return;
	}
	result->meaning = psprintf("%s%s%s%s as %s", what, c->npath > 0 ? " " : "",
							   c->meta == KS_COL_NONE && numbered ? psprintf("%d", place + 1) :
							   c->npath > 0 ? path_text(c) : "", result->or_key ? " or key" : "", type_name);
}

/* Describes the table. */
static KsSource *
describe(const KsTopicTable *table)
{
	KsSource   *source = palloc0(sizeof(KsSource));
	Relation	rel = table_open(table->relid, NoLock);
	int			place = 0;

	source->relid = table->relid;
	source->qualified = qualified_name(table->relid);
	source->topic = topic_of(table);
	source->natts = table->natts;
	source->columns = palloc0(sizeof(KsSourceColumn) * Max(table->natts, 1));
	for (int i = 0; i < table->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		if (table->columns[i].is_dropped)
			source->columns[i].refusal = "it is computed when the table is read";
		else
			describe_column(table, i, place, format_type_extended(att->atttypid, att->atttypmod,
																  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY),
							&source->columns[i]);
		place += !table->columns[i].is_dropped && table->columns[i].meta == KS_COL_NONE;
	}
	table_close(rel, NoLock);
	return source;
}

/* ---- in batch's place */

typedef struct QueryLevel
{
	Query	   *query;
	struct QueryLevel *outer;
} QueryLevel;

typedef struct Substitute
{
	KsSource   *source;
	QueryLevel *level;
} Substitute;

/* Gives variables of the table their numbers among those of batch. */
static Node *
substitute_mutator(Node *node, void *arg)
{
	Substitute *s = arg;

	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
	{
		QueryLevel	level = {(Query *) node, s->level};
		Node	   *result;

		s->level = &level;
		result = (Node *) query_tree_mutator((Query *) node, substitute_mutator, arg, 0);
		s->level = level.outer;
		return result;
	}
	if (IsA(node, Var))
	{
		Var		   *var = copyObject((Var *) node);
		QueryLevel *l = s->level;
		RangeTblEntry *rte;

		for (int up = var->varlevelsup; l != NULL && up > 0; up--)
			l = l->outer;
		if (l == NULL)
			return (Node *) var;
		rte = rt_fetch(var->varno, l->query->rtable);
		if (rte->rtekind != RTE_RELATION || rte->relid != s->source->relid)
			return (Node *) var;
		if (var->varattno < 0)
			s->source->system = true;
		else if (var->varattno > 0)
			var->varattno = KS_SOURCE_COLUMN(var->varattno);
		return (Node *) var;
	}
	return expression_tree_mutator(node, substitute_mutator, arg);
}

/* Puts kafka.batch where the table stands. */
static bool
place_walker(Node *node, void *arg)
{
	KsSource   *source = arg;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_RELATION && rte->relid == source->relid)
		{
			rte->relid = ks_batch_relid();
			rte->relkind = RELKIND_VIEW;
		}
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, place_walker, arg, QTW_EXAMINE_RTES_BEFORE | QTW_IGNORE_JOINALIASES);
	return expression_tree_walker(node, place_walker, arg);
}

/* Rewrites a query over the table into one over kafka.batch. */
static void
substitute(Query *query, KsSource *source)
{
	Substitute	s = {source, NULL};
	Query	   *result = (Query *) substitute_mutator((Node *) query, &s);

	memcpy(query, result, sizeof(Query));
	(void) place_walker((Node *) query, source);
}

/* See source.h. */
const char *
ks_source_refusal(const KsSource *source)
{
	int			attnum = -1;

	if (has_subclass(source->relid))
		return psprintf("%s has tables that inherit from it", source->qualified);
	if (source->system)
		return psprintf("it reads a system column of %s, which messages do not have", source->qualified);
	while ((attnum = bms_next_member(source->used, attnum)) >= 0)
		if (source->columns[attnum - 1].refusal)
			return psprintf("it reads column \"%s\" of %s: %s", get_attname(source->relid, attnum, false),
							source->qualified, source->columns[attnum - 1].refusal);
	return NULL;
}

/* See source.h. */
KsSource *
ks_source_find(Query *query, const KsSubscription *s, int references, const char **reason)
{
	Collect		c = {0};
	KsTopicTable *found = NULL;
	KsSource   *source;
	Oid			other = InvalidOid;
	ListCell   *lc;

	*reason = NULL;
	(void) collect_walker((Node *) query, &c);
	foreach(lc, c.relids)
	{
		KsTopicTable *table = read_table(lfirst_oid(lc));

		if (!is_read_by(table, s))
		{
			other = lfirst_oid(lc);
			continue;
		}
		references++;
		found = table;
	}
	if (OidIsValid(c.behind))
		*reason = psprintf("it reads %s, a topic, by way of view %s", qualified_name(c.behind), qualified_name(c.behind_view));
	else if (references > 1 && query->setOperations == NULL && found)
		*reason = psprintf("it reads the messages of the subscription more than once, by %s among others",
						   qualified_name(found->relid));
	else if (OidIsValid(other) && references > 0)
		*reason = psprintf("it joins %s, a whole topic, which would be read anew for each batch of messages, within the transaction that writes them",
						   qualified_name(other));
	else if (OidIsValid(other))
		*reason = psprintf("%s is topic \"%s\" of server \"%s\", which subscription \"%s\" does not read",
						   qualified_name(other), topic_of(read_table(other)),
						   GetForeignServer(GetForeignTable(other)->serverid)->servername, NameStr(s->name));
	if (found == NULL || *reason || references > 1)
		return NULL;
	check_options(found, s);
	source = describe(found);
	substitute(query, source);
	return source;
}

/* See source.h. */
List *
ks_source_meaning(const KsSource *source)
{
	List	   *result = list_make1(psprintf("topic %s", source->topic));
	int			attnum = -1;

	while ((attnum = bms_next_member(source->used, attnum)) >= 0)
		result = lappend(result, source->columns[attnum - 1].meaning);
	return result;
}

/* See source.h. */
void
ks_source_check_rights(Oid relid, const Bitmapset *used, Oid role)
{
	int			attnum = -1;
	bool		allowed = pg_class_aclcheck(relid, role, ACL_SELECT) == ACLCHECK_OK;

	if (!allowed)
	{
		allowed = bms_is_empty(used) ?
			pg_attribute_aclcheck_all(relid, role, ACL_SELECT, ACLMASK_ANY) == ACLCHECK_OK : true;
		while (allowed && (attnum = bms_next_member(used, attnum)) >= 0)
			allowed = pg_attribute_aclcheck(relid, attnum, role, ACL_SELECT) == ACLCHECK_OK;
	}
	if (!allowed)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FOREIGN_TABLE, get_rel_name(relid));
}
