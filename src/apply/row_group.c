/*
 * row_group.c: see row_group.h.  Statements are planned anew each time, since the best plan changes with the table's size.
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "apply/row_group.h"
#include "executor/spi.h"
#include "miscadmin.h"

/* Finds or makes the group that a row belongs to. */
static KsRowGroup *
group_of_row(KsBatch *b, List **groups, const KsBatchRow *row, bool insert)
{
	KsTargetTable *t = b->target;
	ListCell   *lc;
	KsRowGroup *g;

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
	g = palloc0(sizeof(KsRowGroup));
	g->insert = insert;
	g->columns = palloc(sizeof(bool) * t->natts);
	for (int i = 0; i < t->natts; i++)
		g->columns[i] = t->columns[i].writable && row->cells[i] == KS_CELL_VALUE;
	g->capacity = 64;
	g->rows = palloc(sizeof(int) * g->capacity);
	*groups = lappend(*groups, g);
	return g;
}

/* See row_group.h. */
void
ks_row_group_add(KsBatch *b, List **groups, int row, bool insert)
{
	KsRowGroup *g = group_of_row(b, groups, &b->rows[row], insert);

	if (g->count == g->capacity)
	{
		g->capacity *= 2;
		g->rows = repalloc(g->rows, sizeof(int) * g->capacity);
	}
	g->rows[g->count++] = row;
}

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

/* See row_group.h. */
int
ks_relation_execute(const char *name, TupleDesc desc, Tuplestorestate *store, int count, const char *statement,
					const KsParameters *parameters, bool read_only)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	relation->md.name = unconstify(char *, name);
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = count;
	relation->reldata = store;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the rows of a batch");
	if (parameters == NULL)
		return SPI_execute(statement, read_only, 0);
	return SPI_execute_with_args(statement, parameters->count, parameters->types, parameters->values, NULL, read_only, 0);
}

/* See row_group.h. */
uint64
ks_rows_execute(KsBatch *b, const char *statement, const KsParameters *parameters, int expected, const bool *columns,
				const int *rows, int count)
{
	KsTargetTable *t = b->target;
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
	result = ks_relation_execute(KS_ROWS, desc, store, count, statement, parameters, false);
	if (result != expected)
		elog(ERROR, "unexpected result %d of writing to %s", result, t->qualified);
	processed = SPI_processed;
	SPI_finish();
	tuplestore_end(store);
	return processed;
}

/* See row_group.h. */
void
ks_append_key_condition(StringInfo sql, KsTargetTable *t)
{
	for (int i = 0; i < t->nkeys; i++)
	{
		const char *name = t->columns[t->keys[i].index].quoted;

		appendStringInfo(sql, "%st.%s %s r.%s", i ? " AND " : "", name, t->keys[i].equal_operator, name);
	}
}

/* See row_group.h. */
void
ks_append_columns(StringInfo sql, KsTargetTable *t, const bool *columns)
{
	const char *separator = "";

	for (int i = 0; i < t->natts; i++)
		if (columns[i])
		{
			appendStringInfo(sql, "%s%s", separator, t->columns[i].quoted);
			separator = ", ";
		}
}

/* See row_group.h. */
int
ks_append_assignments(StringInfo sql, KsTargetTable *t, const bool *columns, const char *source)
{
	int			n = 0;

	for (int i = 0; i < t->natts; i++)
		/* SQL lets an identity column GENERATED ALWAYS be given in INSERT only */
		if (columns[i] && !t->columns[i].key && !t->columns[i].always_identity)
			appendStringInfo(sql, "%s%s = %s.%s", n++ ? ", " : "", t->columns[i].quoted, source, t->columns[i].quoted);
	return n;
}
