/*
 * postgres_rows.c: rows as parameters of statements that another server executes: one array per column.
 *
 * Values of types that are the same everywhere go in binary form, others as text with a cast to what the column is there.
 */
#include "postgres.h"

#include "apply/postgres_sink.h"
#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* The parameters of a statement, and what makes a relation of them. */
typedef struct Arrays
{
	StringInfoData relation;	/* "SELECT unnest($1) AS ..." */
	int			count;
	Oid		   *types;
	char	  **values;
	int		   *lengths;
	int		   *formats;
} Arrays;

/* Appends a number of four bytes in network order. */
static void
append_int32(StringInfo buffer, int32 value)
{
	uint32		n = pg_hton32((uint32) value);

	appendBinaryStringInfo(buffer, (char *) &n, sizeof(n));
}

/* Appends a value with its length. */
static void
append_value(StringInfo buffer, KsPostgresColumn *c, Datum value)
{
	if (c->binary)
	{
		bytea	   *bytes = SendFunctionCall(&c->send, value);

		append_int32(buffer, VARSIZE(bytes) - VARHDRSZ);
		appendBinaryStringInfo(buffer, VARDATA(bytes), VARSIZE(bytes) - VARHDRSZ);
		pfree(bytes);
	}
	else
	{
		char	   *text = OutputFunctionCall(&c->send, value);

		append_int32(buffer, strlen(text));
		appendBinaryStringInfo(buffer, text, strlen(text));
		pfree(text);
	}
}

/* Where the values of a column come from: number i of "count". */
typedef bool (*ValueAt) (void *arg, int attribute, int i, Datum *value);

/* Adds a column's values as an array. */
static void
add_array(Arrays *a, KsPostgresColumn *c, int attribute, int count, ValueAt value_at, void *arg)
{
	StringInfoData buffer;
	Oid			element = get_element_type(c->array);

	initStringInfo(&buffer);
	append_int32(&buffer, 1);	/* dimension */
	append_int32(&buffer, 1);	/* may have nulls */
	append_int32(&buffer, (int32) element);
	append_int32(&buffer, count);
	append_int32(&buffer, 1);
	for (int i = 0; i < count; i++)
	{
		Datum		value;

		if (value_at(arg, attribute, i, &value))
			append_value(&buffer, c, value);
		else
			append_int32(&buffer, -1);
	}
	a->types[a->count] = c->array;
	a->values[a->count] = buffer.data;
	a->lengths[a->count] = buffer.len;
	a->formats[a->count++] = 1;
}

/*
 * Makes arrays of the columns chosen (attributes, n of them); the relation has the rows' numbers, from 1 on, in KS_ORDER.
 * Arrays of one length in the SELECT list go in step, and faster than in FROM, where each is stored first.
 */
static Arrays
make_arrays(KsPostgresSink *s, const int *attributes, int n, int count, ValueAt value_at, void *arg)
{
	Arrays		a = {0};

	a.types = palloc(sizeof(Oid) * n);
	a.values = palloc(sizeof(char *) * n);
	a.lengths = palloc(sizeof(int) * n);
	a.formats = palloc(sizeof(int) * n);
	initStringInfo(&a.relation);
	appendStringInfo(&a.relation, "SELECT generate_series(1, %d) AS " KS_ORDER, count);
	for (int i = 0; i < n; i++)
	{
		KsPostgresColumn *c = &s->columns[attributes[i]];
		const char *name = s->names->columns[attributes[i]].quoted;

		if (c->binary)
			appendStringInfo(&a.relation, ", unnest($%d) AS %s", i + 1, name);
		else
			appendStringInfo(&a.relation, ", unnest($%d)::%s AS %s", i + 1, c->type, name);
		add_array(&a, c, attributes[i], count, value_at, arg);
	}
	return a;
}

/* Rows of a batch. */
typedef struct BatchRows
{
	KsBatch    *batch;
	const int  *rows;
} BatchRows;

/* ValueAt */
static bool
batch_value(void *arg, int attribute, int i, Datum *value)
{
	const BatchRows *r = arg;
	const KsBatchRow *row = &r->batch->rows[r->rows[i]];

	*value = row->values[attribute];
	return !row->nulls[attribute];
}

/* See postgres_sink.h. */
uint64
ks_postgres_execute(KsBatch *b, const char *statement, const KsParameters *parameters, int expected, const bool *columns,
					const int *rows, int count)
{
	KsPostgresSink *s = b->target->sink_state;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync parameters", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	BatchRows	source = {b, rows};
	int		   *attributes = palloc(sizeof(int) * Max(b->target->natts, 1));
	int			n = 0;
	Arrays		a;
	PGresult   *result;
	uint64		written;

	Assert(parameters == NULL);
	for (int i = 0; i < b->target->natts; i++)
		if (columns[i])
			attributes[n++] = i;
	a = make_arrays(s, attributes, n, count, batch_value, &source);
	result = ks_remote_execute(s->remote, psprintf("WITH " KS_ROWS " AS (%s) %s", a.relation.data, statement), a.count,
							   a.types, (const char *const *) a.values, a.lengths, a.formats);
	written = strtoul(PQcmdTuples(result), NULL, 10);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return written;
}

/* See postgres_sink.h. */
Datum
ks_postgres_value(const KsTargetTable *t, int attribute, char *text)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(t->rel), attribute);
	Oid			input;
	Oid			param;

	getTypeInputInfo(att->atttypid, &input, &param);
	return OidInputFunctionCall(input, text, param, att->atttypmod);
}

/* ValueAt: of the values looked for. */
static bool
part_value(void *arg, int attribute, int i, Datum *value)
{
	*value = ((Datum **) arg)[i][attribute];
	return true;
}

/* See postgres_sink.h. */
void
ks_postgres_existing_keys(KsTargetTable *t, const int *attributes, int n, Datum **parts, int count, KsKeyFound found,
						  void *arg)
{
	KsPostgresSink *s = t->sink_state;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync existing keys", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Arrays		a = make_arrays(s, attributes, n, count, part_value, parts);
	Datum	   *values = palloc0(sizeof(Datum) * t->natts);
	StringInfoData sql;
	PGresult   *result;
	int			nrows;

	initStringInfo(&sql);
	appendStringInfo(&sql, "WITH " KS_ROWS " AS (%s) SELECT r." KS_ORDER, a.relation.data);
	for (int i = 0; i < t->nkeys; i++)
		appendStringInfo(&sql, ", t.%s", s->names->columns[t->keys[i].index].quoted);
	appendStringInfo(&sql, " FROM " KS_ROWS " r JOIN %s t ON ", s->names->qualified);
	for (int i = 0, conditions = 0; i < t->nkeys; i++)
		for (int j = 0; j < n; j++)
			if (t->keys[i].index == attributes[j])
			{
				const char *name = s->names->columns[attributes[j]].quoted;

				appendStringInfo(&sql, "%st.%s %s r.%s", conditions++ ? " AND " : "", name, t->keys[i].equal_operator, name);
			}
	result = ks_remote_execute(s->remote, sql.data, a.count, a.types, (const char *const *) a.values, a.lengths, a.formats);
	nrows = PQntuples(result);
	for (int row = 0; row < nrows; row++)
	{
		for (int i = 0; i < t->nkeys; i++)
			values[t->keys[i].index] = ks_postgres_value(t, t->keys[i].index, PQgetvalue(result, row, i + 1));
		found(arg, atoi(PQgetvalue(result, row, 0)) - 1, values);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
