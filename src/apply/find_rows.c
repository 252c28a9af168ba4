/*
 * find_rows.c: see find_rows.h.
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "apply/find_rows.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/tuplestore.h"

#define PARTS "ks_parts"

/* Makes the relation of the parts: their numbers and values; appends how rows of t are joined to it. */
static Tuplestorestate *
store_parts(KsTargetTable *t, const int *attributes, int n, Datum **parts, int count, StringInfo join, TupleDesc *result)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc	source = RelationGetDescr(t->rel);
	TupleDesc	desc = CreateTemplateTupleDesc(n + 1);
	Datum	   *values = palloc(sizeof(Datum) * (n + 1));
	bool	   *nulls = palloc0(sizeof(bool) * (n + 1));

	TupleDescInitEntry(desc, 1, "ks_part", INT4OID, -1, 0);
	for (int i = 0; i < n; i++)
	{
		Form_pg_attribute att = TupleDescAttr(source, attributes[i]);

		TupleDescInitEntry(desc, i + 2, NameStr(att->attname), att->atttypid, att->atttypmod, att->attndims);
		TupleDescInitEntryCollation(desc, i + 2, att->attcollation);
		for (int k = 0; k < t->nkeys; k++)
			if (t->keys[k].index == attributes[i])
				appendStringInfo(join, "%st.%s %s r.%s", i ? " AND " : "", t->columns[attributes[i]].quoted,
								 t->keys[k].equal_operator, t->columns[attributes[i]].quoted);
	}
	for (int p = 0; p < count; p++)
	{
		values[0] = Int32GetDatum(p);
		for (int i = 0; i < n; i++)
			values[i + 1] = parts[p][attributes[i]];
		tuplestore_putvalues(store, desc, values, nulls);
	}
	*result = desc;
	return store;
}

/* See find_rows.h. */
void
ks_find_rows(KsTargetTable *t, const int *attributes, int n, Datum **parts, int count, const bool *columns,
			 const char *condition, const KsParameters *parameters, KsRowFound found, void *arg)
{
	StringInfoData sql;
	StringInfoData join;
	TupleDesc	desc;
	Tuplestorestate *store;
	Datum	   *values = palloc0(sizeof(Datum) * t->natts);
	bool	   *nulls = palloc(sizeof(bool) * t->natts);

	initStringInfo(&sql);
	initStringInfo(&join);
	store = store_parts(t, attributes, n, parts, count, &join, &desc);
	appendStringInfoString(&sql, "SELECT r.ks_part");
	for (int i = 0; i < t->natts; i++)
		if (columns[i])
			appendStringInfo(&sql, ", t.%s", t->columns[i].quoted);
	appendStringInfo(&sql, " FROM " PARTS " r JOIN %s t ON %s", t->qualified, join.data);
	if (condition)
		appendStringInfo(&sql, " WHERE %s", condition);

	if (ks_relation_execute(PARTS, desc, store, count, sql.data, parameters, true) != SPI_OK_SELECT)
		elog(ERROR, "could not read %s", t->qualified);
	for (uint64 r = 0; r < SPI_processed; r++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[r];
		int			number = 1;
		bool		isnull;

		memset(nulls, true, sizeof(bool) * t->natts);
		for (int i = 0; i < t->natts; i++)
			if (columns[i])
				values[i] = SPI_getbinval(tuple, SPI_tuptable->tupdesc, ++number, &nulls[i]);
		found(arg, DatumGetInt32(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull)), values, nulls);
	}
	SPI_finish();
	tuplestore_end(store);
}

/* Who is to be told of a key. */
typedef struct KeyFound
{
	KsKeyFound	found;
	void	   *arg;
	int			first;
} KeyFound;

/* KsRowFound, for one that wants the key only. */
static void
pass_key(void *arg, int number, const Datum *values, const bool *nulls)
{
	KeyFound   *k = arg;

	k->found(k->arg, k->first + number, values);
}

/* See find_rows.h. */
void
ks_find_keys(KsTargetTable *t, const int *attributes, int n, Datum **parts, int first, int count, const char *condition,
			 const KsParameters *parameters, KsKeyFound found, void *arg)
{
	bool	   *columns = palloc0(sizeof(bool) * t->natts);
	KeyFound	k = {found, arg, first};

	for (int i = 0; i < t->nkeys; i++)
		columns[t->keys[i].index] = true;
	ks_find_rows(t, attributes, n, parts, count, columns, condition, parameters, pass_key, &k);
}
