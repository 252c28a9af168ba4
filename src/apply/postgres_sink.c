/*
 * postgres_sink.c: see postgres_sink.h.
 */
#include "postgres.h"

#include "access/table.h"
#include "apply/local_sink.h"
#include "apply/postgres_sink.h"
#include "apply/progress.h"
#include "commands/defrem.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* The value of an option, or what holds without it. */
static char *
option(List *options, const char *name, char *otherwise)
{
	ListCell   *lc;

	foreach(lc, options)
		if (strcmp(((DefElem *) lfirst(lc))->defname, name) == 0)
			return pstrdup(defGetString(lfirst(lc)));
	return otherwise;
}

/* The target under the names that it and its columns have on the other side. */
static KsTargetTable *
remote_names(KsTargetTable *t, KsPostgresSink *s)
{
	KsTargetTable *names = palloc(sizeof(KsTargetTable));
	ForeignTable *table = GetForeignTable(t->relid);
	char	   *name = option(table->options, "table_name", pstrdup(RelationGetRelationName(t->rel)));

	*names = *t;
	s->schema = option(table->options, "schema_name", get_namespace_name(RelationGetNamespace(t->rel)));
	names->qualified = pstrdup(quote_qualified_identifier(s->schema, name));
	names->columns = palloc(sizeof(KsTargetColumn) * Max(t->natts, 1));
	memcpy(names->columns, t->columns, sizeof(KsTargetColumn) * t->natts);
	for (int i = 0; i < t->natts; i++)
	{
		KsTargetColumn *c = &names->columns[i];

		if (c->name == NULL)
			continue;
		c->name = option(GetForeignColumnOptions(t->relid, i + 1), "column_name", c->name);
		c->quoted = pstrdup(quote_identifier(c->name));
	}
	return names;
}

/* KsSinkOps.describe */
static void
describe(KsTargetTable *t)
{
	KsPostgresSink *s = t->sink_state;

	if (t->rel->trigdesc)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("subscription \"%s\" cannot write to table %s: it has triggers", t->subscription, t->qualified),
				 errdetail("Rows go straight to the other server, so triggers of the foreign table would not fire."),
				 errhint("Create the triggers on the table there.")));
	if (s == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(t->parent);

		s = palloc0(sizeof(KsPostgresSink));
		s->target = t;
		s->remote = ks_remote_create(t->subscription_id);
		s->context = AllocSetContextCreate(t->parent, "pg_kafka_sync other server's table", ALLOCSET_SMALL_SIZES);
		if (t->target->options->bool_value[KS_OPT_REMOTE_OFFSETS])
		{
			t->progress = ks_progress_create();
			s->confirmed = ks_progress_create();
		}
		MemoryContextSwitchTo(old);
		t->sink_state = s;
	}
	s->serverid = GetForeignTable(t->relid)->serverid;
	s->names = remote_names(t, s);
	s->offsets = t->progress ? pstrdup(quote_qualified_identifier(s->schema, "pg_kafka_sync_offsets")) : NULL;
	/* options of the server or the user mapping may be what has changed */
	s->described = false;
}

/* KsSinkOps.open */
static void
open_remote(KsTargetTable *t, KsRun *run)
{
	KsPostgresSink *s = t->sink_state;

	if (!s->described)
	{
		ks_remote_close(s->remote);
		s->described = true;
	}
	if (ks_remote_connect(s->remote, s->serverid, t->owner, &run->unreachable))
		s->looked = s->checked = false;
	if (!s->looked)
	{
		if (s->offsets)
			ks_postgres_create_offsets(s);
		ks_postgres_look(s);
	}
	if (s->offsets && !s->checked)
		ks_postgres_check_offsets(s, run);
	s->checked = true;
	ks_remote_begin(s->remote);
	if (s->offsets)
		ks_postgres_load_offsets(s, run);
}

/* KsSinkOps.apply */
static void
apply(KsBatch *b)
{
	KsPostgresSink *s = b->target->sink_state;

	if (b->truncate)
		(void) ks_remote_command(s->remote, psprintf("TRUNCATE TABLE %s", s->names->qualified));
	if (b->nrows > 0)
		ks_sql_write(b, s->names, ks_postgres_execute);
}

/* KsMergeOps.fold */
static void
fold(KsQueryWriter *w)
{
	KsBatch    *b = w->batch;
	KsPostgresSink *s = w->writer.table->sink_state;
	bool	   *columns = palloc0(sizeof(bool) * b->natts);
	int		   *rows = palloc(sizeof(int) * b->nrows);

	for (int i = 0; i < w->nsinks; i++)
		columns[w->attributes[i]] = true;
	for (int i = 0; i < b->nrows; i++)
		rows[i] = i;
	(void) ks_postgres_execute(b, ks_merge_statement(w, s->names), NULL, SPI_OK_INSERT, columns, rows, b->nrows);
}

/* KsMergeOps.newest_window */
static bool
newest_window(KsQueryWriter *w, Datum *window)
{
	KsTargetTable *t = w->writer.table;
	KsPostgresSink *s = t->sink_state;
	PGresult   *result = ks_remote_command(s->remote, psprintf("SELECT max(%s) FROM %s", s->names->columns[w->window].quoted,
															   s->names->qualified));

	if (PQgetisnull(result, 0, 0))
		return false;
	*window = ks_postgres_value(t, w->window, PQgetvalue(result, 0, 0));
	return true;
}

/* KsMergeOps.delete_windows */
static void
delete_windows(KsQueryWriter *w, Datum before)
{
	KsTargetTable *t = w->writer.table;
	KsPostgresSink *s = t->sink_state;
	Oid			function;
	bool		varlena;
	const char *values[1];

	getTypeOutputInfo(TupleDescAttr(RelationGetDescr(t->rel), w->window)->atttypid, &function, &varlena);
	values[0] = OidOutputFunctionCall(function, before);
	(void) ks_remote_execute(s->remote, psprintf("DELETE FROM %s WHERE %s < $1::%s", s->names->qualified,
												 s->names->columns[w->window].quoted, s->columns[w->window].type),
							 1, NULL, values, NULL, NULL);
}

static const KsMergeOps merge_ops = {fold, newest_window, delete_windows};

/* KsSinkOps.merge */
static void
merge(KsQueryWriter *w)
{
	ks_merge_write(w, &merge_ops);
}

/* KsSinkOps.commit */
static void
commit(KsTargetTable *t, KsRun *run)
{
	KsPostgresSink *s = t->sink_state;

	if (s->offsets)
	{
		s->advanced = true;
		ks_postgres_store_offsets(s, run);
	}
	ks_remote_commit(s->remote);
	s->advanced = false;
	if (s->offsets)
		ks_postgres_confirm_offsets(s);
}

/* KsSinkOps.abandon */
static void
abandon(KsTargetTable *t)
{
	KsPostgresSink *s = t->sink_state;

	if (s == NULL)
		return;
	ks_remote_abandon(s->remote);
	if (s->advanced)
		t->progress->stale = true;
	s->advanced = false;
}

const KsSinkOps ks_postgres_sink = {
	.describe = describe,
	.open = open_remote,
	.apply = apply,
	.existing_keys = ks_postgres_existing_keys,
	.merge = merge,
	.commit = commit,
	.abandon = abandon,
};
