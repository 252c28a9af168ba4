/*
 * decode_types.c: see decode_types.h.
 */
#include "postgres.h"

#include "apply/connect_types.h"
#include "apply/decode.h"
#include "apply/decode_types.h"
#include "catalog/pg_type.h"
#include "compat/pg_compat.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

/* The unit of a time's digits, as Debezium chooses it. */
static bool
in_milliseconds(int32 typmod)
{
	return typmod >= 0 && typmod <= 3;
}

/* Types whose values Debezium writes as they are, or as PostgreSQL's text. */
static bool
is_plain(Oid type)
{
	switch (type)
	{
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INTERVALOID:
		case NUMERICOID:
		case MONEYOID:
		case BYTEAOID:
		case BITOID:
		case VARBITOID:
		case JSONOID:
		case JSONBOID:
		case POINTOID:
			return false;
		default:
			return !OidIsValid(get_element_type(type));
	}
}

/* See decode_types.h. */
bool
ks_same_encoding(Oid a, int32 a_typmod, Oid b, int32 b_typmod)
{
	if ((a == JSONOID || a == JSONBOID) && (b == JSONOID || b == JSONBOID))
		return true;
	if (a != b)
		return is_plain(a) && is_plain(b);
	switch (a)
	{
		case TIMEOID:
		case TIMESTAMPOID:
			return in_milliseconds(a_typmod) == in_milliseconds(b_typmod);
		case NUMERICOID:
			/* one without a scale says nothing; the precision does not matter */
			return a_typmod < 0 || b_typmod < 0 ||
				((a_typmod - VARHDRSZ) & 0x7ff) == ((b_typmod - VARHDRSZ) & 0x7ff);
		case BITOID:
			return a_typmod == b_typmod;
		default:
			return true;
	}
}

/* See decode_types.h. */
List *
ks_types_in_schema(const char *schema, size_t size)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, ks_connect_columns(schema, size))
	{
		const KsConnectColumn *column = lfirst(lc);
		KsDeclaredType *t;
		int			n;
		char	   *name;

		if (!column->encoded || column->name[0] == '\0')
			continue;
		name = ks_decode_string(column->name, strlen(column->name), &n);
		if (n >= NAMEDATALEN)
			continue;
		t = palloc0(sizeof(KsDeclaredType));
		t->name = name;
		t->type = column->type;
		t->typmod = -1;
		t->where = pstrdup("the message's schema");
		result = lappend(result, t);
	}
	return result;
}

/* See decode_types.h. */
List *
ks_types_in_option(const char *column_types)
{
	Jsonb	   *jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(column_types)));
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;
	List	   *result = NIL;

	if (!JB_ROOT_IS_OBJECT(jsonb))
		return NIL;
	it = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		KsDeclaredType *t;

		if (token != WJB_KEY)
			continue;
		t = palloc0(sizeof(KsDeclaredType));
		t->name = pnstrdup(v.val.string.val, v.val.string.len);
		(void) JsonbIteratorNext(&it, &v, true);
		if (v.type != jbvString)
			continue;
		t->typmod = -1;
		t->type = ks_connect_type_of_name(v.val.string.val, v.val.string.len);
		if (!OidIsValid(t->type))
			ks_parse_type_string(pnstrdup(v.val.string.val, v.val.string.len), &t->type, &t->typmod);
		t->given = true;
		result = lappend(result, t);
	}
	return result;
}
