/*
 * postgres_look.c: what must be known of the table on the other side: its columns' types, and that its key is unique.
 */
#include "postgres.h"

#include "access/transam.h"
#include "apply/postgres_sink.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* Types whose values have one binary form, in every version and database. */
static const Oid binary_types[] = {
	BOOLOID, INT2OID, INT4OID, INT8OID, FLOAT4OID, FLOAT8OID, NUMERICOID, TEXTOID, VARCHAROID, BPCHAROID, BYTEAOID,
	DATEOID, TIMEOID, TIMETZOID, TIMESTAMPOID, TIMESTAMPTZOID, INTERVALOID, UUIDOID, JSONOID, JSONBOID, INETOID, CIDROID
};

/* ERROR: the table there is of no use. */
static void
unfit(KsPostgresSink *s, int code, const char *why, const char *hint)
{
	ereport(ERROR,
			(errcode(code),
			 errmsg("subscription \"%s\" cannot write to table %s: %s", s->target->subscription, s->target->qualified, why),
			 errdetail("It is the table %s of server \"%s\".", s->names->qualified, s->remote->server),
			 errhint("%s", hint)));
}

/* A name as an array of one text, for parameters. */
static char *
names_literal(KsPostgresSink *s)
{
	KsTargetTable *t = s->target;
	Datum	   *names = palloc(sizeof(Datum) * Max(t->nkeys, 1));
	ArrayType  *array;

	for (int i = 0; i < t->nkeys; i++)
		names[i] = CStringGetTextDatum(s->names->columns[t->keys[i].index].name);
	array = construct_array(names, t->nkeys, TEXTOID, -1, false, TYPALIGN_INT);
	return OidOutputFunctionCall(F_ARRAY_OUT, PointerGetDatum(array));
}

/* How values of a column are sent to one of this type. */
static void
describe_column(KsPostgresSink *s, int index, Oid type, const char *name)
{
	KsPostgresColumn *c = &s->columns[index];
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(s->target->rel), index);
	Oid			function;
	bool		varlena;

	c->type = pstrdup(name);
	for (int i = 0; i < lengthof(binary_types); i++)
		c->binary = c->binary || (binary_types[i] == type && type == att->atttypid);
	if (c->binary)
		getTypeBinaryOutputInfo(att->atttypid, &function, &varlena);
	else
		getTypeOutputInfo(att->atttypid, &function, &varlena);
	c->array = c->binary ? get_array_type(att->atttypid) : TEXTARRAYOID;
	fmgr_info_cxt(function, &c->send, s->context);
}

/* Are all values of a column, if they are texts, different ones here?  Not so in type citext, or a collation that says otherwise. */
static bool
tells_texts_apart(const KsTargetTable *t, int index)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(t->rel), index);

	return att->atttypid < FirstNormalObjectId && (!OidIsValid(att->attcollation) || get_collation_isdeterministic(att->attcollation));
}

/* See postgres_sink.h. */
void
ks_postgres_look(KsPostgresSink *s)
{
	KsTargetTable *t = s->target;
	MemoryContext old;
	PGresult   *result;
	const char *values[2] = {s->names->qualified, NULL};

	MemoryContextReset(s->context);
	old = MemoryContextSwitchTo(s->context);
	s->columns = palloc0(sizeof(KsPostgresColumn) * Max(t->natts, 1));
	s->names->has_identity = false;

	result = ks_remote_execute(s->remote, "SELECT relkind FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1)",
							   1, NULL, values, NULL, NULL);
	if (PQntuples(result) == 0)
		unfit(s, ERRCODE_UNDEFINED_TABLE, "there is no such table on its server",
			  "Create it there, or set the foreign table's options schema_name and table_name.");
	if (PQgetvalue(result, 0, 0)[0] != 'r' && PQgetvalue(result, 0, 0)[0] != 'p')
		unfit(s, ERRCODE_WRONG_OBJECT_TYPE, "what is there on its server is not an ordinary or partitioned table",
			  "Name a table.");

	/* without typmods, a cast does not cut anything off */
	result = ks_remote_execute(s->remote,
							   psprintf("SELECT a.attname, a.atttypid, pg_catalog.format_type(a.atttypid, -1), a.attidentity, "
										"t.typtype = 'b' AND t.typcategory = 'S' AND t.oid >= %u OR %s "
										"FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid "
										"WHERE a.attrelid = pg_catalog.to_regclass($1)::pg_catalog.oid "
										"AND a.attnum > 0 AND NOT a.attisdropped", (Oid) FirstNormalObjectId,
										PQserverVersion(s->remote->conn) < 120000 ? "false" :
										"EXISTS (SELECT FROM pg_catalog.pg_collation c WHERE c.oid = a.attcollation "
										"AND NOT c.collisdeterministic)"),
							   1, NULL, values, NULL, NULL);
	for (int row = 0; row < PQntuples(result); row++)
		for (int i = 0; i < t->natts; i++)
			if (s->names->columns[i].name && strcmp(s->names->columns[i].name, PQgetvalue(result, row, 0)) == 0)
			{
				describe_column(s, i, (Oid) strtoul(PQgetvalue(result, row, 1), NULL, 10), PQgetvalue(result, row, 2));
				s->names->columns[i].always_identity = PQgetvalue(result, row, 3)[0] == 'a';
				s->names->has_identity = s->names->has_identity || s->names->columns[i].always_identity;
				if (t->columns[i].key && PQgetvalue(result, row, 4)[0] == 't' && tells_texts_apart(t, i))
					unfit(s, ERRCODE_DATATYPE_MISMATCH,
						  psprintf("key column \"%s\" may have texts there that differ and are equal", s->names->columns[i].name),
						  "Give the column there a type and a collation that tell all texts apart, such as text, or the foreign "
						  "table's the same type.");
			}
	for (int i = 0; i < t->natts; i++)
		if (t->columns[i].writable && s->columns[i].type == NULL)
			unfit(s, ERRCODE_UNDEFINED_COLUMN, psprintf("column \"%s\" is missing on its server", s->names->columns[i].name),
				  "Add it there, drop it from the foreign table, or set its option column_name.");

	if (t->nkeys > 0)
	{
		values[1] = names_literal(s);
		result = ks_remote_execute(s->remote,
								   "SELECT 1 FROM pg_catalog.pg_index i WHERE i.indrelid = pg_catalog.to_regclass($1)::pg_catalog.oid "
								   "AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL "
								   "AND i.indexprs IS NULL AND ARRAY(SELECT a.attname::pg_catalog.text "
								   "FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY k (attnum, place) "
								   "JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum "
								   "WHERE k.place <= i.indnkeyatts ORDER BY 1) "
								   "= ARRAY(SELECT n FROM pg_catalog.unnest($2::pg_catalog.text[]) n ORDER BY 1)",
								   2, NULL, values, NULL, NULL);
		if (PQntuples(result) == 0)
			unfit(s, ERRCODE_INVALID_COLUMN_REFERENCE,
				  "on its server it has no valid, immediate unique index over the key columns",
				  "Add a primary key or a unique constraint that is not deferrable over them, there.");
	}
	MemoryContextSwitchTo(old);
	s->looked = true;
}
