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
#include "utils/timestamp.h"

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

/* A type as values see it: the base type of a domain, the elements of an array; and its modifier. */
typedef struct ValueType
{
	Oid			type;
	int32		typmod;
} ValueType;

/* The type of a column here. */
static ValueType
local_type(const KsTargetTable *t, int index)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(t->rel), index);
	ValueType	v = {InvalidOid, att->atttypmod};
	Oid			element;

	v.type = getBaseTypeAndTypmod(att->atttypid, &v.typmod);
	element = get_element_type(v.type);
	if (OidIsValid(element))
		v.type = getBaseTypeAndTypmod(element, &v.typmod);
	return v;
}

/* Are all values of a column, if they are texts, different ones here?  Not so in type citext, or a collation that says otherwise. */
static bool
tells_texts_apart(const KsTargetTable *t, int index)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(t->rel), index);

	return getBaseType(att->atttypid) < FirstNormalObjectId &&
		(!OidIsValid(att->attcollation) || get_collation_isdeterministic(att->attcollation));
}

/* Digits after the point that a numeric's modifier leaves, as numeric.c has it. */
static int
scale_of(int32 typmod)
{
	return (((typmod - VARHDRSZ) & 0x7ff) ^ 1024) - 1024;
}

/* Digits of a second that a time's modifier leaves. */
static int
second_digits(int32 typmod)
{
	return typmod < 0 ? MAX_TIMESTAMP_PRECISION : typmod;
}

/*
 * May a value change without an error when it is stored there?  What a type refuses is an error of its message; but it is
 * no error where values are rounded, lose a part, or their spaces at the end.  These matter in keys only, where they tell
 * rows apart.
 */
static bool
may_change(ValueType here, ValueType there, bool key)
{
	bool		text = here.type == TEXTOID || here.type == VARCHAROID || here.type >= FirstNormalObjectId;
	bool		moment = here.type == TIMESTAMPOID || here.type == TIMESTAMPTZOID;
	bool		whole = here.type == INT2OID || here.type == INT4OID || here.type == INT8OID;

	switch (there.type)
	{
		case NUMERICOID:
			if (there.typmod < VARHDRSZ)
				return false;
			if (whole)
				return scale_of(there.typmod) < 0;
			return here.type != NUMERICOID || here.typmod < VARHDRSZ || scale_of(here.typmod) > scale_of(there.typmod);
		case FLOAT4OID:
			return here.type == FLOAT8OID || here.type == NUMERICOID || here.type == INT4OID || here.type == INT8OID;
		case FLOAT8OID:
			return here.type == NUMERICOID || here.type == INT8OID;
		case DATEOID:
			return moment;
		case TIMEOID:
		case TIMETZOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			if ((moment && (there.type == TIMEOID || there.type == TIMETZOID)) ||
				(here.type == TIMETZOID && there.type == TIMEOID))
				return true;
			if (second_digits(there.typmod) == MAX_TIMESTAMP_PRECISION || here.type == DATEOID)
				return false;
			return !(moment || here.type == TIMEOID || here.type == TIMETZOID) ||
				second_digits(here.typmod) > second_digits(there.typmod);
		case INTERVALOID:
			return there.typmod >= 0 && (here.type != INTERVALOID || here.typmod != there.typmod);
		case NAMEOID:
			return text;
		case VARCHAROID:
			return key && text && there.typmod >= 0 &&
				!(here.type == VARCHAROID && here.typmod >= 0 && here.typmod <= there.typmod);
		case BPCHAROID:
			return key && text;
		case TEXTOID:
		case BITOID:
		case VARBITOID:
			return false;
		default:
			return key && there.typmod >= 0 && here.typmod != there.typmod;
	}
}

/* ERROR if values of a column may change without an error there, where it is of this type. */
static void
check_type(KsPostgresSink *s, int index, ValueType there, const char *name)
{
	bool		key = s->target->columns[index].key;

	if (!s->target->columns[index].writable || !may_change(local_type(s->target, index), there, key))
		return;
	unfit(s, ERRCODE_DATATYPE_MISMATCH,
		  psprintf("%s \"%s\" is of type %s there, which may round values or cut something off in silence",
				   key ? "key column" : "column", s->names->columns[index].name, name),
		  "Give the column the same type on both sides, with ALTER FOREIGN TABLE ... ALTER COLUMN ... TYPE, or there.");
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

	/* without typmods, a cast does not cut anything off; b is the base type, or that of an array's elements */
	result = ks_remote_execute(s->remote,
							   psprintf("WITH RECURSIVE b (attnum, oid, typmod) AS ("
										"SELECT attnum, atttypid, atttypmod FROM pg_catalog.pg_attribute "
										"WHERE attrelid = pg_catalog.to_regclass($1)::pg_catalog.oid AND attnum > 0 "
										"AND NOT attisdropped UNION ALL "
										"SELECT b.attnum, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END, "
										"CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE b.typmod END "
										"FROM b JOIN pg_catalog.pg_type t ON t.oid = b.oid "
										"WHERE t.typtype = 'd' OR t.typcategory = 'A' AND t.typlen = -1 AND t.typelem <> 0) "
										"SELECT a.attname, a.atttypid, pg_catalog.format_type(a.atttypid, -1), a.attidentity, "
										"t.typtype = 'b' AND t.typcategory = 'S' AND t.oid >= %u OR %s, "
										"t.oid, b.typmod, CASE WHEN a.atttypmod < 0 AND b.typmod >= 0 "
										"THEN pg_catalog.format_type(a.atttypid, -1) || ', ' "
										"|| pg_catalog.format_type(t.oid, b.typmod) "
										"ELSE pg_catalog.format_type(a.atttypid, a.atttypmod) END "
										"FROM pg_catalog.pg_attribute a JOIN b ON b.attnum = a.attnum "
										"JOIN pg_catalog.pg_type t ON t.oid = b.oid "
										"WHERE a.attrelid = pg_catalog.to_regclass($1)::pg_catalog.oid "
										"AND t.typtype <> 'd' AND NOT (t.typcategory = 'A' AND t.typlen = -1 AND t.typelem <> 0) "
										"ORDER BY a.attnum",
										(Oid) FirstNormalObjectId,
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
				check_type(s, i, (ValueType) {(Oid) strtoul(PQgetvalue(result, row, 5), NULL, 10),
						   atoi(PQgetvalue(result, row, 6))}, PQgetvalue(result, row, 7));
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
