/*
 * shadow_fits.c: are a target and its shadow made alike?
 *
 * Rows and index entries of the one are read by the definition of the other once files are exchanged, so whatever says
 * how they are laid out, ordered and found must be the same.  Expressions are not compared as text, which they do not keep
 * when they are parsed again; an index can only be made by us in the shadow's schema, and no expression of one changed.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "apply/shadow.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_index.h"
#include "control/catalog.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* Are values laid out alike in two relations?  "names": the columns of tables have the same ones, too.  What a dropped column was is no matter: all rows have nulls there. */
static bool
same_columns(TupleDesc a, TupleDesc b, bool names)
{
	if (a->natts != b->natts)
		return false;
	for (int i = 0; i < a->natts; i++)
	{
		Form_pg_attribute x = TupleDescAttr(a, i);
		Form_pg_attribute y = TupleDescAttr(b, i);

		if (x->attisdropped != y->attisdropped)
			return false;
		if (x->attisdropped)
			continue;
		if (x->atttypid != y->atttypid || x->atttypmod != y->atttypmod || x->attlen != y->attlen ||
			x->attbyval != y->attbyval || x->attalign != y->attalign || x->attcollation != y->attcollation ||
			x->attgenerated != y->attgenerated || x->attnotnull != y->attnotnull)
			return false;
		if (names && strcmp(NameStr(x->attname), NameStr(y->attname)) != 0)
			return false;
	}
	return true;
}

/* A field of an index' row in pg_index, as it is stored; none: false. */
static bool
index_field(Relation index, AttrNumber number, Datum *value)
{
	bool		isnull;

	*value = SysCacheGetAttr(INDEXRELID, index->rd_indextuple, number, &isnull);
	return !isnull;
}

/* Do two expressions, or lists of them, read the same columns and give the same types?  number: the field of pg_index. */
static bool
similar_expressions(Relation a, Relation b, AttrNumber number)
{
	Relation	index[2] = {a, b};
	Node	   *expr[2];
	Bitmapset  *columns[2] = {NULL, NULL};

	for (int i = 0; i < 2; i++)
	{
		Datum		value;

		/* not by RelationGetIndexExpressions, which would run code of users */
		expr[i] = index_field(index[i], number, &value) ? stringToNode(TextDatumGetCString(value)) : NULL;
		pull_varattnos(expr[i], 1, &columns[i]);
	}
	if ((expr[0] == NULL) != (expr[1] == NULL) || !bms_equal(columns[0], columns[1]))
		return false;
	if (expr[0] && IsA(expr[0], List) && IsA(expr[1], List))
	{
		ListCell   *x;
		ListCell   *y;

		if (list_length((List *) expr[0]) != list_length((List *) expr[1]))
			return false;
		forboth(x, (List *) expr[0], y, (List *) expr[1])
			if (exprType(lfirst(x)) != exprType(lfirst(y)) || exprCollation(lfirst(x)) != exprCollation(lfirst(y)))
				return false;
	}
	return true;
}

/* Are the parameters of an index column's operator class the same in two indexes? */
static bool
same_options(Oid a, Oid b, AttrNumber column)
{
	Datum		x = get_attoptions(a, column);
	Datum		y = get_attoptions(b, column);

	if (x == (Datum) 0 || y == (Datum) 0)
		return x == y;
	return datumIsEqual(x, y, false, -1);
}

/* Would one index do for the other? */
static bool
same_index(Relation a, Relation b)
{
	Form_pg_index x = a->rd_index;
	Form_pg_index y = b->rd_index;
	Datum		x_class;
	Datum		y_class;

	if (a->rd_rel->relkind != b->rd_rel->relkind || a->rd_rel->relam != b->rd_rel->relam ||
		a->rd_rel->relpersistence != b->rd_rel->relpersistence ||
		x->indnatts != y->indnatts || x->indnkeyatts != y->indnkeyatts || x->indisunique != y->indisunique ||
		x->indnullsnotdistinct != y->indnullsnotdistinct || !y->indisvalid || !y->indisready || !y->indislive ||
		!y->indimmediate || y->indisexclusion || !same_columns(RelationGetDescr(a), RelationGetDescr(b), false))
		return false;
	if (memcmp(x->indkey.values, y->indkey.values, sizeof(int16) * x->indnatts) != 0)
		return false;
	if (!index_field(a, Anum_pg_index_indclass, &x_class) || !index_field(b, Anum_pg_index_indclass, &y_class) ||
		memcmp(((oidvector *) DatumGetPointer(x_class))->values, ((oidvector *) DatumGetPointer(y_class))->values,
			   sizeof(Oid) * x->indnkeyatts) != 0)
		return false;
	for (int i = 0; i < x->indnkeyatts; i++)
		if (a->rd_indcollation[i] != b->rd_indcollation[i] || a->rd_indoption[i] != b->rd_indoption[i] ||
			!same_options(RelationGetRelid(a), RelationGetRelid(b), i + 1))
			return false;
	return similar_expressions(a, b, Anum_pg_index_indexprs) && similar_expressions(a, b, Anum_pg_index_indpred);
}

/* Has the shadow its counterpart of each index of the target? */
static bool
same_indexes(Relation target, Relation shadow, int64 id)
{
	List	   *indexes = RelationGetIndexList(target);
	bool		same = list_length(indexes) == list_length(RelationGetIndexList(shadow));
	ListCell   *lc;

	foreach(lc, indexes)
	{
		char		name[NAMEDATALEN];
		Oid			counterpart;
		Relation	a;
		Relation	b;

		ks_shadow_index_name(name, id, lfirst_oid(lc));
		counterpart = get_relname_relid(name, ks_catalog_schema());
		if (!same || !list_member_oid(RelationGetIndexList(shadow), counterpart))
			return false;
		a = index_open(lfirst_oid(lc), AccessShareLock);
		b = index_open(counterpart, AccessShareLock);
		same = same_index(a, b);
		index_close(a, NoLock);
		index_close(b, NoLock);
	}
	return same;
}

/* See shadow.h. */
bool
ks_shadow_fits(Oid target, Oid shadow, int64 id, bool indexes)
{
	Relation	a = table_open(target, AccessShareLock);
	Relation	b = try_table_open(shadow, AccessShareLock);
	bool		same;

	if (b == NULL)
	{
		table_close(a, NoLock);
		return false;
	}
	/* what else would read or write other rows than those of its file, or run code */
	same = b->rd_rel->relkind == RELKIND_RELATION && b->rd_rel->relowner == a->rd_rel->relowner &&
		b->rd_rules == NULL && b->trigdesc == NULL && !b->rd_rel->relrowsecurity && !b->rd_rel->relispartition &&
		!has_subclass(shadow) && !has_superclass(shadow) &&
		same_columns(RelationGetDescr(a), RelationGetDescr(b), true);
	if (same && indexes)
		same = a->rd_rel->relam == b->rd_rel->relam && a->rd_rel->relpersistence == b->rd_rel->relpersistence &&
			same_indexes(a, b, id);
	table_close(a, NoLock);
	table_close(b, NoLock);
	return same;
}
