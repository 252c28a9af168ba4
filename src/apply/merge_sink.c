/*
 * merge_sink.c: folding the rows that a query gave into those of a target, mode merge.
 *
 * Rows of one key are folded with each other first, in their order, and then with the row of the table.  Nulls are
 * ignored, as aggregates do.
 */
#include "postgres.h"

#include "apply/query_target.h"
#include "apply/row_group.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

/* The function that folds a column. */
static KsMergeFunction
function_of(KsQueryWriter *w, const char *column)
{
	for (int i = 0; i < w->target->nmerge; i++)
		if (strcmp(w->target->merge[i].column, column) == 0)
			return w->target->merge[i].function;
	elog(ERROR, "no merge function for column \"%s\"", column);
	return KS_MERGE_SUM;
}

/* Appends the fold of a column over rows r of one key, in their order. */
static void
append_fold(StringInfo sql, KsMergeFunction function, const char *column, const KsQuerySink *sink)
{
	const char *type = format_type_with_typemod(sink->type, sink->typmod);
	const char *order = NULL;

	switch (function)
	{
		case KS_MERGE_SUM:
		case KS_MERGE_COUNT:
			appendStringInfo(sql, "pg_catalog.sum(r.%s)::%s", column, type);
			return;
		case KS_MERGE_OR:
			appendStringInfo(sql, "pg_catalog.bool_or(r.%s)", column);
			return;
		case KS_MERGE_AND:
			appendStringInfo(sql, "pg_catalog.bool_and(r.%s)", column);
			return;
		case KS_MERGE_FIRST:
			order = "r." KS_ORDER;
			break;
		case KS_MERGE_LAST:
			order = "r." KS_ORDER " DESC";
			break;
		case KS_MERGE_MIN:
			order = psprintf("r.%s", column);
			break;
		case KS_MERGE_MAX:
			order = psprintf("r.%s DESC", column);
			break;
	}
	/* any type will do; arrays, which would become dimensions, go through their text */
	if (OidIsValid(get_element_type(getBaseType(sink->type))))
		appendStringInfo(sql, "(pg_catalog.array_agg(r.%s::pg_catalog.text ORDER BY %s) FILTER (WHERE r.%s IS NOT NULL))[1]::%s",
						 column, order, column, type);
	else
		appendStringInfo(sql, "(pg_catalog.array_agg(r.%s ORDER BY %s) FILTER (WHERE r.%s IS NOT NULL))[1]",
						 column, order, column);
}

/* Appends the fold of the value in the table (t) with a new one (EXCLUDED). */
static void
append_update(StringInfo sql, KsMergeFunction function, const char *c)
{
	switch (function)
	{
		case KS_MERGE_SUM:
		case KS_MERGE_COUNT:
			appendStringInfo(sql, "coalesce(t.%s OPERATOR(pg_catalog.+) EXCLUDED.%s, t.%s, EXCLUDED.%s)", c, c, c, c);
			break;
		case KS_MERGE_MIN:
			appendStringInfo(sql, "least(t.%s, EXCLUDED.%s)", c, c);
			break;
		case KS_MERGE_MAX:
			appendStringInfo(sql, "greatest(t.%s, EXCLUDED.%s)", c, c);
			break;
		case KS_MERGE_FIRST:
			appendStringInfo(sql, "coalesce(t.%s, EXCLUDED.%s)", c, c);
			break;
		case KS_MERGE_LAST:
			appendStringInfo(sql, "coalesce(EXCLUDED.%s, t.%s)", c, c);
			break;
		case KS_MERGE_OR:
			appendStringInfo(sql, "coalesce(t.%s OR EXCLUDED.%s, t.%s, EXCLUDED.%s)", c, c, c, c);
			break;
		case KS_MERGE_AND:
			appendStringInfo(sql, "coalesce(t.%s AND EXCLUDED.%s, t.%s, EXCLUDED.%s)", c, c, c, c);
			break;
	}
}

/* See query_target.h. */
char *
ks_merge_statement(KsQueryWriter *w, KsTargetTable *t)
{
	StringInfoData sql;
	StringInfoData keys;
	int			updates = 0;

	initStringInfo(&sql);
	initStringInfo(&keys);
	for (int i = 0; i < t->nkeys; i++)
		appendStringInfo(&keys, "%s%s", i ? ", " : "", t->columns[t->keys[i].index].quoted);
	appendStringInfo(&sql, "INSERT INTO %s AS t (", t->qualified);
	for (int i = 0; i < w->nsinks; i++)
		appendStringInfo(&sql, "%s%s", i ? ", " : "", t->columns[w->attributes[i]].quoted);
	appendStringInfo(&sql, ")%s SELECT ", t->has_identity ? " OVERRIDING SYSTEM VALUE" : "");
	for (int i = 0; i < w->nsinks; i++)
	{
		const char *column = t->columns[w->attributes[i]].quoted;

		appendStringInfoString(&sql, i ? ", " : "");
		if (w->keys[i])
			appendStringInfo(&sql, "r.%s", column);
		else
			append_fold(&sql, function_of(w, w->sinks[i].column->name), column, &w->sinks[i]);
	}
	/* in the order of the keys, so that several writers lock rows in one order */
	appendStringInfo(&sql, " FROM " KS_ROWS " r GROUP BY %s ORDER BY %s ON CONFLICT (%s) DO ", keys.data, keys.data,
					 keys.data);
	for (int i = 0; i < w->nsinks; i++)
	{
		const char *column = t->columns[w->attributes[i]].quoted;

		if (w->keys[i])
			continue;
		appendStringInfo(&sql, "%s%s = ", updates++ ? ", " : "UPDATE SET ", column);
		append_update(&sql, function_of(w, w->sinks[i].column->name), column);
	}
	if (updates == 0)
		appendStringInfoString(&sql, "NOTHING");
	return sql.data;
}

/* KsMergeOps.fold */
static void
fold(KsQueryWriter *w)
{
	KsBatch    *b = w->batch;
	KsTargetTable *t = w->writer.table;
	MemoryContext old = MemoryContextSwitchTo(b->context);
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc	desc = CreateTemplateTupleDesc(w->nsinks + 1);
	Datum	   *values = palloc(sizeof(Datum) * (w->nsinks + 1));
	bool	   *nulls = palloc(sizeof(bool) * (w->nsinks + 1));

	for (int i = 0; i < w->nsinks; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(t->rel), w->attributes[i]);

		TupleDescInitEntry(desc, i + 1, NameStr(att->attname), att->atttypid, att->atttypmod, att->attndims);
		TupleDescInitEntryCollation(desc, i + 1, att->attcollation);
	}
	TupleDescInitEntry(desc, w->nsinks + 1, KS_ORDER, INT4OID, -1, 0);
	for (int r = 0; r < b->nrows; r++)
	{
		for (int i = 0; i < w->nsinks; i++)
		{
			values[i] = b->rows[r].values[w->attributes[i]];
			nulls[i] = b->rows[r].nulls[w->attributes[i]];
		}
		values[w->nsinks] = Int32GetDatum(r);
		nulls[w->nsinks] = false;
		tuplestore_putvalues(store, desc, values, nulls);
	}
	relation->md.name = KS_ROWS;
	relation->md.tupdesc = desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = b->nrows;
	relation->reldata = store;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the rows of a batch");
	if (SPI_execute(ks_merge_statement(w, t), false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write to %s", t->qualified);
	SPI_finish();
	tuplestore_end(store);
	MemoryContextSwitchTo(old);
}

/* KsMergeOps.newest_window */
static bool
newest_window(KsQueryWriter *w, Datum *window)
{
	KsTargetTable *t = w->writer.table;
	bool		isnull = true;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(psprintf("SELECT pg_catalog.max(%s) FROM %s", t->columns[w->window].quoted, t->qualified), true, 1) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not read %s", t->qualified);
	if (SPI_processed == 1)
		*window = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	SPI_finish();
	return !isnull;
}

/* KsMergeOps.delete_windows */
static void
delete_windows(KsQueryWriter *w, Datum before)
{
	KsTargetTable *t = w->writer.table;
	Oid			type = getBaseType(TupleDescAttr(RelationGetDescr(t->rel), w->window)->atttypid);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(psprintf("DELETE FROM %s WHERE %s OPERATOR(pg_catalog.<) $1", t->qualified,
									   t->columns[w->window].quoted), 1, &type, &before, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete from %s", t->qualified);
	SPI_finish();
}

const KsMergeOps ks_local_merge = {fold, newest_window, delete_windows};
