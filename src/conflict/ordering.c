/*
 * ordering.c: the order of values of the column that "newer" goes by, and texts of keys and values.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/nbtree.h"
#include "catalog/pg_type.h"
#include "conflict/conflict.h"
#include "format/text_out.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* See conflict.h. */
void
ks_ordering_init(KsOrdering *o, Form_pg_attribute att, MemoryContext context)
{
	int32		typmod = att->atttypmod;
	Oid			type = getBaseTypeAndTypmod(att->atttypid, &typmod);
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_CMP_PROC);
	Oid			output;
	bool		varlena;

	if (!OidIsValid(entry->cmp_proc))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("column \"%s\" of option \"conflict\" is of type %s, whose values have no order",
						NameStr(att->attname), format_type_be(att->atttypid)),
				 errhint("Name a column such as a timestamptz or a bigint.")));
	o->type = type;
	o->typmod = typmod;
	o->collation = att->attcollation;
	get_typlenbyval(type, &o->typlen, &o->typbyval);
	getTypeInputInfo(type, &o->input, &o->input_param);
	getTypeOutputInfo(type, &output, &varlena);
	fmgr_info_cxt(entry->cmp_proc, &o->compare, context);
	fmgr_info_cxt(output, &o->output, context);
	o->is_time = type == TIMESTAMPTZOID || type == TIMESTAMPOID || type == DATEOID;
}

/* See conflict.h. */
int
ks_ordering_compare(KsOrdering *o, Datum a, bool a_null, Datum b, bool b_null)
{
	if (a_null || b_null)
		return (int) b_null - (int) a_null;
	return DatumGetInt32(FunctionCall2Coll(&o->compare, o->collation, a, b));
}

/* See conflict.h. */
Datum
ks_ordering_moment(KsOrdering *o, TimestampTz moment)
{
	Datum		value = TimestampTzGetDatum(moment);

	if (o->type == TIMESTAMPOID)
		return DirectFunctionCall1(timestamptz_timestamp, value);
	if (o->type == DATEOID)
		return DirectFunctionCall1(timestamptz_date, value);
	return value;
}

/* A timestamp cut to what the column's precision holds. */
static int64
cut(int64 value, int64 step)
{
	int64		rest = value % step;

	return value - (rest < 0 ? rest + step : rest);
}

/* The distance of two neighbours of a timestamp type, in microseconds. */
static int64
timestamp_step(int32 typmod)
{
	int64		step = 1;

	for (int digits = typmod; digits >= 0 && digits < 6; digits++)
		step *= 10;
	return step;
}

/* The same for timestamps; old may be infinite. */
static bool
next_timestamp(KsOrdering *o, Datum old, bool old_null, bool exact, Datum *next)
{
	int64		step = timestamp_step(o->typmod);
	int64		clock = cut(DatumGetTimestamp(ks_ordering_moment(o, GetCurrentTimestamp())), step);
	int64		value = old_null ? PG_INT64_MIN : DatumGetTimestamp(old);

	if (clock <= value && (!exact || TIMESTAMP_IS_NOEND(value)))
	{
		if (value >= END_TIMESTAMP - step)
			return exact;
		clock = value + step;
	}
	*next = TimestampGetDatum(Max(clock, value));
	return true;
}

/* See conflict.h. */
bool
ks_ordering_next(KsOrdering *o, Datum old, bool old_null, bool exact, Datum *next)
{
	if (!old_null)
		*next = old;
	switch (o->type)
	{
		case TIMESTAMPTZOID:
		case TIMESTAMPOID:
			return next_timestamp(o, old, old_null, exact, next);
		case DATEOID:
			{
				Datum		today = ks_ordering_moment(o, GetCurrentTimestamp());

				if (!old_null && DatumGetDateADT(today) <= DatumGetDateADT(old))
					return exact;
				*next = today;
				return true;
			}
		case INT2OID:
			if (old_null || DatumGetInt16(old) == PG_INT16_MAX || exact)
				return exact && !old_null;
			*next = Int16GetDatum(DatumGetInt16(old) + 1);
			return true;
		case INT4OID:
			if (old_null || DatumGetInt32(old) == PG_INT32_MAX || exact)
				return exact && !old_null;
			*next = Int32GetDatum(DatumGetInt32(old) + 1);
			return true;
		case INT8OID:
			if (old_null || DatumGetInt64(old) == PG_INT64_MAX || exact)
				return exact && !old_null;
			*next = Int64GetDatum(DatumGetInt64(old) + 1);
			return true;
		default:
			return exact && !old_null;
	}
}

/* See conflict.h. */
char *
ks_ordering_text(KsOrdering *o, Datum value, bool isnull)
{
	StringInfoData text;
	int			level;
	char	   *result;

	if (isnull)
		return NULL;
	if (o->type == TIMESTAMPTZOID || o->type == TIMESTAMPOID)
	{
		initStringInfo(&text);
		ks_put_timestamp(&text, DatumGetTimestamp(value), o->type == TIMESTAMPTZOID);
		appendStringInfoChar(&text, '\0');	/* the writers leave it out */
		return text.data;
	}
	level = ks_settings_begin();
	result = OutputFunctionCall(&o->output, value);
	ks_settings_end(level);
	return result;
}

/* See conflict.h. */
Datum
ks_ordering_value(KsOrdering *o, const char *text, bool *isnull)
{
	int			level;
	Datum		value;

	*isnull = text == NULL;
	if (text == NULL)
		return (Datum) 0;
	level = ks_settings_begin();
	value = OidInputFunctionCall(o->input, unconstify(char *, text), o->input_param, -1);
	ks_settings_end(level);
	return value;
}

/* Do values of a key column's type that are equal look alike? */
static bool
equal_means_same(Form_pg_attribute att)
{
	TypeCacheEntry *type = lookup_type_cache(getBaseType(att->atttypid), TYPECACHE_BTREE_OPFAMILY);
	Oid			proc;

	if (!OidIsValid(type->btree_opf))
		return false;
	proc = get_opfamily_proc(type->btree_opf, type->btree_opintype, type->btree_opintype, BTEQUALIMAGE_PROC);
	return OidIsValid(proc) &&
		DatumGetBool(OidFunctionCall1Coll(proc, att->attcollation, ObjectIdGetDatum(type->btree_opintype)));
}

/* See conflict.h. */
void
ks_key_text_init(KsKeyText *k, Relation rel, int nkeys, char **names, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);

	k->nkeys = nkeys;
	k->attnums = palloc(sizeof(AttrNumber) * nkeys);
	k->output = palloc(sizeof(FmgrInfo) * nkeys);
	k->trim = palloc(sizeof(bool) * nkeys);
	for (int i = 0; i < nkeys; i++)
	{
		Form_pg_attribute att;
		Oid			output;
		bool		varlena;

		k->attnums[i] = get_attnum(RelationGetRelid(rel), names[i]);
		if (k->attnums[i] <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("table \"%s\" has no key column \"%s\" any more", RelationGetRelationName(rel), names[i]),
					 errhint("Set option \"conflict\" of its subscription anew.")));
		att = TupleDescAttr(RelationGetDescr(rel), k->attnums[i] - 1);
		k->trim[i] = getBaseType(att->atttypid) == NUMERICOID;
		if (!k->trim[i] && !equal_means_same(att))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("option \"conflict\" cannot be newer: key column \"%s\" is of type %s, whose equal values can have "
							"different texts", names[i], format_type_be(att->atttypid)),
					 errdetail("Deletes are remembered by the text of the key.")));
		getTypeOutputInfo(att->atttypid, &output, &varlena);
		fmgr_info_cxt(output, &k->output[i], context);
	}
	MemoryContextSwitchTo(old);
}

/* See conflict.h. */
Datum
ks_key_text(KsKeyText *k, const Datum *values)
{
	Datum	   *texts = palloc(sizeof(Datum) * k->nkeys);
	int			level = ks_settings_begin();

	for (int i = 0; i < k->nkeys; i++)
	{
		Datum		value = values[k->attnums[i] - 1];

		if (k->trim[i])
			value = DirectFunctionCall1(numeric_trim_scale, value);
		texts[i] = CStringGetTextDatum(OutputFunctionCall(&k->output[i], value));
	}
	ks_settings_end(level);
	return PointerGetDatum(construct_array(texts, k->nkeys, TEXTOID, -1, false, TYPALIGN_INT));
}
