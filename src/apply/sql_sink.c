/*
 * sql_sink.c: writing rows by SQL, a set at a time, from a relation of typed rows, KS_ROWS.
 *
 * For targets that need what only SQL does: routing to partitions, BEFORE and statement triggers; and, by statements that
 * another server executes, for tables there.
 */
#include "postgres.h"

#include "apply/local_sink.h"
#include "apply/row_group.h"
#include "executor/spi.h"

/* A batch that is being written, under the names that the table and its columns have there. */
typedef struct Writing
{
	KsBatch    *batch;
	KsTargetTable *names;
	KsRowsExecute execute;
} Writing;

/* Deletes what is to be removed. */
static void
delete_rows(const Writing *w)
{
	KsBatch    *b = w->batch;
	KsTargetTable *t = w->names;
	bool	   *columns = palloc0(sizeof(bool) * t->natts);
	int		   *rows = palloc(sizeof(int) * b->nrows);
	int			count = 0;
	StringInfoData sql;

	for (int i = 0; i < b->nrows; i++)
		if (b->rows[i].remove)
			rows[count++] = i;
	if (count == 0)
		return;
	for (int i = 0; i < t->nkeys; i++)
		columns[t->keys[i].index] = true;
	initStringInfo(&sql);
	appendStringInfo(&sql, "DELETE FROM %s t USING " KS_ROWS " r WHERE ", t->qualified);
	ks_append_key_condition(&sql, t);
	(void) w->execute(b, sql.data, NULL, SPI_OK_DELETE, columns, rows, count);
}

/* Has a group values for all columns that can be written? */
static bool
is_complete(KsTargetTable *t, const KsRowGroup *g)
{
	for (int i = 0; i < t->natts; i++)
		if (t->columns[i].writable && !g->columns[i])
			return false;
	return true;
}

/*
 * Inserts the rows of a group, or updates those that are there.
 *
 * INSERT checks a row before it looks for a conflict.  So what lacks columns, which may be NOT NULL, must not come that
 * far if its row is there: such rows are updated first, and only the others are inserted.
 */
static void
upsert_group(const Writing *w, KsRowGroup *g)
{
	KsBatch    *b = w->batch;
	KsTargetTable *t = w->names;
	StringInfoData sql;
	StringInfoData assignments;
	bool		complete = is_complete(t, g);

	initStringInfo(&sql);
	initStringInfo(&assignments);
	if (!complete && !b->list && ks_append_assignments(&assignments, t, g->columns, "r") > 0)
	{
		appendStringInfo(&sql, "UPDATE %s t SET %s FROM " KS_ROWS " r WHERE ", t->qualified, assignments.data);
		ks_append_key_condition(&sql, t);
		if (w->execute(b, sql.data, NULL, SPI_OK_UPDATE, g->columns, g->rows, g->count) == g->count)
			return;
		resetStringInfo(&sql);
		resetStringInfo(&assignments);
	}
	appendStringInfo(&sql, "INSERT INTO %s AS t (", t->qualified);
	ks_append_columns(&sql, t, g->columns);
	appendStringInfo(&sql, ")%s SELECT ", t->has_identity ? " OVERRIDING SYSTEM VALUE" : "");
	ks_append_columns(&sql, t, g->columns);
	appendStringInfoString(&sql, " FROM " KS_ROWS " r");
	if (b->list)
	{
		(void) w->execute(b, sql.data, NULL, SPI_OK_INSERT, g->columns, g->rows, g->count);
		return;
	}
	if (!complete)
	{
		appendStringInfo(&sql, " WHERE NOT EXISTS (SELECT FROM %s t WHERE ", t->qualified);
		ks_append_key_condition(&sql, t);
		appendStringInfoChar(&sql, ')');
	}
	appendStringInfoString(&sql, " ON CONFLICT (");
	for (int i = 0; i < t->nkeys; i++)
		appendStringInfo(&sql, "%s%s", i ? ", " : "", t->columns[t->keys[i].index].quoted);
	appendStringInfoChar(&sql, ')');
	if (ks_append_assignments(&assignments, t, g->columns, "EXCLUDED") > 0)
		appendStringInfo(&sql, " DO UPDATE SET %s", assignments.data);
	else
		appendStringInfoString(&sql, " DO NOTHING");
	(void) w->execute(b, sql.data, NULL, SPI_OK_INSERT, g->columns, g->rows, g->count);
}

/* Updates the rows of a group, all of which must be there. */
static void
update_group(const Writing *w, KsRowGroup *g)
{
	KsBatch    *b = w->batch;
	KsTargetTable *t = w->names;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s t SET ", t->qualified);
	if (ks_append_assignments(&sql, t, g->columns, "r") == 0)
	{
		/* nothing but the key came: it only has to be there */
		const char *name = t->columns[t->keys[0].index].quoted;

		appendStringInfo(&sql, "%s = t.%s", name, name);
	}
	appendStringInfoString(&sql, " FROM " KS_ROWS " r WHERE ");
	ks_append_key_condition(&sql, t);
	if (w->execute(b, sql.data, NULL, SPI_OK_UPDATE, g->columns, g->rows, g->count) < g->count)
	{
		/* the caller halves the batch until one row is left, which it then is */
		b->run->current = g->count == 1 ? b->rows[g->rows[0]].message : -1;
		ks_missing_value(t, &b->rows[g->rows[0]]);
	}
}

/* See local_sink.h. */
void
ks_sql_write(KsBatch *b, KsTargetTable *names, KsRowsExecute execute)
{
	Writing		w = {b, names, execute};
	MemoryContext old = MemoryContextSwitchTo(b->context);
	List	   *groups = NIL;
	ListCell   *lc;

	b->run->current = -1;
	delete_rows(&w);
	for (int i = 0; i < b->nrows; i++)
	{
		KsBatchRow *row = &b->rows[i];

		if (!row->upsert)
			continue;
		if (row->keeps && (row->remove || b->list))
		{
			b->run->current = row->message;
			ks_missing_value(b->target, row);
		}
		ks_row_group_add(b, &groups, i, !row->keeps);
	}
	foreach(lc, groups)
	{
		KsRowGroup *g = lfirst(lc);

		if (g->insert)
			upsert_group(&w, g);
		else
			update_group(&w, g);
	}
	MemoryContextSwitchTo(old);
}
