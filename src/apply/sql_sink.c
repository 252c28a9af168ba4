/*
 * sql_sink.c: writing rows by SQL, a set at a time, from an ephemeral named relation of typed rows.
 *
 * For targets that need what only SQL does: routing to partitions, BEFORE and statement triggers.  Rows are grouped by
 * which columns they have; statements are planned anew each time, since the best plan changes with the table's size.
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "access/xact.h"
#include "apply/local_sink.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#define RELATION_NAME "ks_rows"

/* Rows that have values for the same columns. */
typedef struct RowGroup
{
	bool	   *columns;		/* by attribute */
	bool		insert;			/* may be new rows; else they must be there */
	int			count;
	int		   *rows;
	int			capacity;
} RowGroup;

/* Makes the row type of the columns chosen; sets *map (attribute indexes). */
static TupleDesc
make_desc(KsTargetTable *t, const bool *columns, int **map)
{
	TupleDesc	source = RelationGetDescr(t->rel);
	TupleDesc	desc;
	int			n = 0;

	*map = palloc(sizeof(int) * t->natts);
	for (int i = 0; i < t->natts; i++)
		if (columns[i])
			(*map)[n++] = i;
	desc = CreateTemplateTupleDesc(n);
	for (int i = 0; i < n; i++)
	{
		Form_pg_attribute att = TupleDescAttr(source, (*map)[i]);

		TupleDescInitEntry(desc, i + 1, NameStr(att->attname), att->atttypid, att->atttypmod, att->attndims);
		TupleDescInitEntryCollation(desc, i + 1, att->attcollation);
	}
	return desc;
}

/* Runs a statement over the given rows, of which it sees the columns chosen.  Returns the number of rows it wrote. */
static uint64
run(KsBatch *b, const char *statement, int expected, const bool *columns, const int *rows, int count)
{
	KsTargetTable *t = b->target;
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	int		   *map;
	TupleDesc	desc = make_desc(t, columns, &map);
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);
	uint64		processed;
	int			result;

	for (int r = 0; r < count; r++)
	{
		KsBatchRow *row = &b->rows[rows[r]];

		for (int i = 0; i < desc->natts; i++)
		{
			values[i] = row->values[map[i]];
			nulls[i] = row->nulls[map[i]];
		}
		tuplestore_putvalues(store, desc, values, nulls);
	}

	relation->md.name = RELATION_NAME;
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = count;
	relation->reldata = store;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the rows of a batch");
	result = SPI_execute(statement, false, 0);
	if (result != expected)
		elog(ERROR, "unexpected result %d of writing to %s", result, t->qualified);
	processed = SPI_processed;
	SPI_finish();
	tuplestore_end(store);
	return processed;
}

/* Appends "t.k = r.k AND ..." for the key, compared as its index does. */
static void
append_key_condition(StringInfo sql, KsTargetTable *t)
{
	for (int i = 0; i < t->nkeys; i++)
	{
		const char *name = t->columns[t->keys[i].index].quoted;

		appendStringInfo(sql, "%st.%s %s r.%s", i ? " AND " : "", name, t->keys[i].equal_operator, name);
	}
}

/* Appends the names of the columns chosen. */
static void
append_columns(StringInfo sql, KsTargetTable *t, const bool *columns)
{
	const char *separator = "";

	for (int i = 0; i < t->natts; i++)
		if (columns[i])
		{
			appendStringInfo(sql, "%s%s", separator, t->columns[i].quoted);
			separator = ", ";
		}
}

/* Appends "c = source.c, ..." for the columns chosen that are no key; returns how many. */
static int
append_assignments(StringInfo sql, KsTargetTable *t, const bool *columns, const char *source)
{
	int			n = 0;

	for (int i = 0; i < t->natts; i++)
		/* SQL lets an identity column GENERATED ALWAYS be given in INSERT only */
		if (columns[i] && !t->columns[i].key && !t->columns[i].always_identity)
			appendStringInfo(sql, "%s%s = %s.%s", n++ ? ", " : "", t->columns[i].quoted, source, t->columns[i].quoted);
	return n;
}

/* Deletes what is to be removed. */
static void
delete_rows(KsBatch *b)
{
	KsTargetTable *t = b->target;
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
	appendStringInfo(&sql, "DELETE FROM %s t USING " RELATION_NAME " r WHERE ", t->qualified);
	append_key_condition(&sql, t);
	(void) run(b, sql.data, SPI_OK_DELETE, columns, rows, count);
}

/* Has a group values for all columns that can be written? */
static bool
is_complete(KsTargetTable *t, const RowGroup *g)
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
upsert_group(KsBatch *b, RowGroup *g)
{
	KsTargetTable *t = b->target;
	StringInfoData sql;
	StringInfoData assignments;
	bool		complete = is_complete(t, g);

	initStringInfo(&sql);
	initStringInfo(&assignments);
	if (!complete && !b->list && append_assignments(&assignments, t, g->columns, "r") > 0)
	{
		appendStringInfo(&sql, "UPDATE %s t SET %s FROM " RELATION_NAME " r WHERE ", t->qualified, assignments.data);
		append_key_condition(&sql, t);
		if (run(b, sql.data, SPI_OK_UPDATE, g->columns, g->rows, g->count) == g->count)
			return;
		resetStringInfo(&sql);
		resetStringInfo(&assignments);
	}
	appendStringInfo(&sql, "INSERT INTO %s AS t (", t->qualified);
	append_columns(&sql, t, g->columns);
	appendStringInfo(&sql, ")%s SELECT ", t->has_identity ? " OVERRIDING SYSTEM VALUE" : "");
	append_columns(&sql, t, g->columns);
	appendStringInfoString(&sql, " FROM " RELATION_NAME " r");
	if (b->list)
	{
		(void) run(b, sql.data, SPI_OK_INSERT, g->columns, g->rows, g->count);
		return;
	}
	if (!complete)
	{
		appendStringInfo(&sql, " WHERE NOT EXISTS (SELECT FROM %s t WHERE ", t->qualified);
		append_key_condition(&sql, t);
		appendStringInfoChar(&sql, ')');
	}
	appendStringInfoString(&sql, " ON CONFLICT (");
	for (int i = 0; i < t->nkeys; i++)
		appendStringInfo(&sql, "%s%s", i ? ", " : "", t->columns[t->keys[i].index].quoted);
	appendStringInfoChar(&sql, ')');
	if (append_assignments(&assignments, t, g->columns, "EXCLUDED") > 0)
		appendStringInfo(&sql, " DO UPDATE SET %s", assignments.data);
	else
		appendStringInfoString(&sql, " DO NOTHING");
	(void) run(b, sql.data, SPI_OK_INSERT, g->columns, g->rows, g->count);
}

/* Updates the rows of a group, all of which must be there. */
static void
update_group(KsBatch *b, RowGroup *g)
{
	KsTargetTable *t = b->target;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s t SET ", t->qualified);
	if (append_assignments(&sql, t, g->columns, "r") == 0)
	{
		/* nothing but the key came: it only has to be there */
		const char *name = t->columns[t->keys[0].index].quoted;

		appendStringInfo(&sql, "%s = t.%s", name, name);
	}
	appendStringInfoString(&sql, " FROM " RELATION_NAME " r WHERE ");
	append_key_condition(&sql, t);
	if (run(b, sql.data, SPI_OK_UPDATE, g->columns, g->rows, g->count) < g->count)
	{
		/* the caller halves the batch until one row is left, which it then is */
		b->run->current = g->count == 1 ? b->rows[g->rows[0]].message : -1;
		ks_missing_value(t, &b->rows[g->rows[0]]);
	}
}

/* Finds or makes the group that a row belongs to. */
static RowGroup *
group_of_row(KsBatch *b, List **groups, const KsBatchRow *row)
{
	KsTargetTable *t = b->target;
	bool		insert = !row->keeps;
	ListCell   *lc;
	RowGroup	   *g;

	foreach(lc, *groups)
	{
		bool		same;

		g = lfirst(lc);
		same = g->insert == insert;
		for (int i = 0; same && i < t->natts; i++)
			same = g->columns[i] == (t->columns[i].writable && row->cells[i] == KS_CELL_VALUE);
		if (same)
			return g;
	}
	g = palloc0(sizeof(RowGroup));
	g->insert = insert;
	g->columns = palloc(sizeof(bool) * t->natts);
	for (int i = 0; i < t->natts; i++)
		g->columns[i] = t->columns[i].writable && row->cells[i] == KS_CELL_VALUE;
	g->capacity = 64;
	g->rows = palloc(sizeof(int) * g->capacity);
	*groups = lappend(*groups, g);
	return g;
}

/* See local_sink.h. */
void
ks_sql_apply(KsBatch *b)
{
	MemoryContext old = MemoryContextSwitchTo(b->context);
	List	   *groups = NIL;
	ListCell   *lc;

	b->run->current = -1;
	delete_rows(b);
	for (int i = 0; i < b->nrows; i++)
	{
		KsBatchRow *row = &b->rows[i];
		RowGroup	   *g;

		if (!row->upsert)
			continue;
		if (row->keeps && (row->remove || b->list))
		{
			b->run->current = row->message;
			ks_missing_value(b->target, row);
		}
		g = group_of_row(b, &groups, row);
		if (g->count == g->capacity)
		{
			g->capacity *= 2;
			g->rows = repalloc(g->rows, sizeof(int) * g->capacity);
		}
		g->rows[g->count++] = i;
	}
	foreach(lc, groups)
	{
		RowGroup	   *g = lfirst(lc);

		if (g->insert)
			upsert_group(b, g);
		else
			update_group(b, g);
	}
	MemoryContextSwitchTo(old);
}
