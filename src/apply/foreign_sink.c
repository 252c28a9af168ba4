/*
 * foreign_sink.c: writing a foreign table of any wrapper that can write, by SQL.
 *
 * Nothing is presumed of the wrapper and of its other side.  There may be no transactions (mysql_fdw), so what was written
 * before an ERROR stays: a row that is there is updated, and never deleted to be inserted again, since it must not vanish
 * if that fails.  Keys may be compared loosely there (case), so they are compared here as well.  Values may be cut or
 * rounded, and a scan may end early, without an ERROR: so what was written is read back, and has to be the same.
 *
 * Statements are bounded, and name keys as constants, which wrappers send along.  After an ERROR that does not tell a lost
 * connection from a row that is refused, the next transaction's "open" tells.
 */
#include "postgres.h"

#include "apply/find_rows.h"
#include "apply/local_sink.h"
#include "apply/row_group.h"
#include "apply/sink.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/trigger.h"
#include "control/foreign_table.h"
#include "executor/spi.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#define KEYS_PER_STATEMENT 1000
#define BYTES_PER_STATEMENT (4 * 1024 * 1024)
#define SHOWN_BYTES 80			/* of a value, in messages */

/* KsSinkOps.describe */
static void
describe(KsTargetTable *t)
{
	List	   *key = NIL;

	for (int i = 0; i < t->target->nkeys; i++)
		key = lappend(key, t->target->keys[i]);
	ks_foreign_check_identity(t->rel, key);
}

/*
 * Finds out whether the other side is there and has the table: by an INSERT, of no row, for which the wrapper prepares all
 * the same; but by nothing that fires triggers.
 */
static void
probe(KsTargetTable *t)
{
	const char *key = t->columns[t->keys[0].index].quoted;
	TriggerDesc *triggers = t->rel->trigdesc;
	int			result;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (triggers && (triggers->trig_insert_before_statement || triggers->trig_insert_after_statement))
		result = SPI_execute(psprintf("SELECT t.%s FROM %s t LIMIT 1", key, t->qualified), true, 1);
	else
		result = SPI_execute(psprintf("INSERT INTO %s (%s) SELECT t.%s FROM %s t WHERE false", t->qualified, key, key,
									  t->qualified), false, 0);
	if (result < 0)
		elog(ERROR, "could not prepare to write to %s", t->qualified);
	SPI_finish();
}

/* KsSinkOps.open: where what fails is what the wrapper says, the other side is down, or has no such table. */
static void
open_table(KsTargetTable *t, KsRun *run)
{
	int			nest_level = NewGUCNestLevel();
	Oid			save_user;
	int			save_context;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(t->owner, save_context | SECURITY_RESTRICTED_OPERATION);
	PG_TRY();
	{
		probe(t);
	}
	PG_CATCH();
	{
		int			category = ERRCODE_TO_CATEGORY(geterrcode());

		run->unreachable = category == ERRCODE_TO_CATEGORY(ERRCODE_FDW_ERROR) || category == ERRCODE_CONNECTION_EXCEPTION;
		PG_RE_THROW();
	}
	PG_END_TRY();
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(save_user, save_context);
}

/* How the column of an attribute, which is in the key, is compared. */
static const char *
equal_operator(KsTargetTable *t, int attribute)
{
	for (int i = 0; i < t->nkeys; i++)
		if (t->keys[i].index == attribute)
			return t->keys[i].equal_operator;
	elog(ERROR, "column \"%s\" is not in the key", t->columns[attribute].name);
	return NULL;
}

/* Adds a parameter; appends its name. */
static void
append_parameter(StringInfo sql, KsParameters *p, Oid type, Datum value)
{
	if (p->count == p->capacity)
	{
		p->capacity = Max(16, p->capacity * 2);
		p->types = p->types ? repalloc(p->types, sizeof(Oid) * p->capacity) : palloc(sizeof(Oid) * p->capacity);
		p->values = p->values ? repalloc(p->values, sizeof(Datum) * p->capacity) : palloc(sizeof(Datum) * p->capacity);
	}
	p->types[p->count] = type;
	p->values[p->count++] = value;
	appendStringInfo(sql, "$%d", p->count);
}

/* Appends a condition for the rows of t whose columns "attributes" have the values of one of the parts. */
static void
append_condition(StringInfo sql, KsParameters *p, KsTargetTable *t, const int *attributes, int n, Datum **parts, int count)
{
	TupleDesc	desc = RelationGetDescr(t->rel);
	Oid			type = getBaseType(TupleDescAttr(desc, attributes[0])->atttypid);
	Oid			array = get_array_type(type);

	if (n == 1 && OidIsValid(array))
	{
		Datum	   *elements = palloc(sizeof(Datum) * count);
		int16		length;
		bool		byval;
		char		align;

		get_typlenbyvalalign(type, &length, &byval, &align);
		for (int i = 0; i < count; i++)
			elements[i] = parts[i][attributes[0]];
		appendStringInfo(sql, "t.%s %s ANY (", t->columns[attributes[0]].quoted, equal_operator(t, attributes[0]));
		append_parameter(sql, p, array, PointerGetDatum(construct_array(elements, count, type, length, byval, align)));
		appendStringInfoChar(sql, ')');
		return;
	}
	appendStringInfoChar(sql, '(');
	for (int i = 0; i < count; i++)
		for (int k = 0; k < n; k++)
		{
			appendStringInfo(sql, "%st.%s %s ", k ? " AND " : i ? " OR " : "", t->columns[attributes[k]].quoted,
							 equal_operator(t, attributes[k]));
			append_parameter(sql, p, getBaseType(TupleDescAttr(desc, attributes[k])->atttypid), parts[i][attributes[k]]);
		}
	appendStringInfoChar(sql, ')');
}

/* The key's columns, as attribute indexes. */
static int *
key_attributes(KsTargetTable *t)
{
	int		   *attributes = palloc(sizeof(int) * t->nkeys);

	for (int i = 0; i < t->nkeys; i++)
		attributes[i] = t->keys[i].index;
	return attributes;
}

/* The values of rows, by attribute. */
static Datum **
values_of(KsBatch *b, const int *rows, int count)
{
	Datum	  **parts = palloc(sizeof(Datum *) * Max(count, 1));

	for (int i = 0; i < count; i++)
		parts[i] = b->rows[rows[i]].values;
	return parts;
}

/* Appends a condition for the keys of these rows. */
static void
append_keys(StringInfo sql, KsParameters *p, KsBatch *b, const int *rows, int count)
{
	append_condition(sql, p, b->target, key_attributes(b->target), b->target->nkeys, values_of(b, rows, count), count);
}

/* The size of a row's values. */
static Size
row_size(KsBatch *b, const KsBatchRow *row)
{
	TupleDesc	desc = RelationGetDescr(b->target->rel);
	Size		size = 0;

	for (int i = 0; i < b->natts; i++)
		if (row->cells[i] == KS_CELL_VALUE && !row->nulls[i])
			size += TupleDescAttr(desc, i)->attlen == -1 ? VARSIZE_ANY(DatumGetPointer(row->values[i])) : sizeof(Datum);
	return size;
}

/* How many rows, from the first on, one statement takes: one at least. */
static int
share(KsBatch *b, const int *rows, int count)
{
	Size		size = 0;
	int			n = 0;

	CHECK_FOR_INTERRUPTS();
	while (n < count && n < KEYS_PER_STATEMENT && (n == 0 || size < BYTES_PER_STATEMENT))
		size += row_size(b, &b->rows[rows[n++]]);
	return n;
}

/* KsSinkOps.existing_keys */
static void
existing_keys(KsTargetTable *t, const int *attributes, int n, Datum **parts, int count, KsKeyFound found, void *arg)
{
	for (int from = 0; from < count; from += KEYS_PER_STATEMENT)
	{
		int			share = Min(KEYS_PER_STATEMENT, count - from);
		KsParameters parameters = {0};
		StringInfoData condition;

		CHECK_FOR_INTERRUPTS();
		initStringInfo(&condition);
		append_condition(&condition, &parameters, t, attributes, n, parts + from, share);
		ks_find_keys(t, attributes, n, parts + from, from, share, condition.data, &parameters, found, arg);
	}
}

/* Notes that a row is there. */
static void
note_found(void *arg, int number, const Datum *values)
{
	((bool *) arg)[number] = true;
}

/* Which of these rows are there? */
static bool *
find(KsBatch *b, const int *rows, int count)
{
	bool	   *found = palloc0(sizeof(bool) * Max(count, 1));

	existing_keys(b->target, key_attributes(b->target), b->target->nkeys, values_of(b, rows, count), count, note_found, found);
	return found;
}

/* Is an option of a foreign table, or of its server, set to false? */
static bool
option_is_off(Oid relid, const char *name)
{
	ForeignTable *table = GetForeignTable(relid);
	List	   *lists[2] = {table->options, GetForeignServer(table->serverid)->options};
	ListCell   *lc;

	for (int i = 0; i < 2; i++)
		foreach(lc, lists[i])
		{
			DefElem    *option = lfirst(lc);

			if (strcmp(option->defname, name) == 0)
				return !defGetBoolean(option);
		}
	return false;
}

/* Empties the table. */
static void
empty_table(KsTargetTable *t)
{
	FdwRoutine *routine = GetFdwRoutineForRelation(t->rel, false);

	if (routine->ExecForeignTruncate && !option_is_off(t->relid, "truncatable"))
	{
		ks_truncate_table(t);
		return;
	}
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(psprintf("DELETE FROM %s", t->qualified), false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not empty %s", t->qualified);
	if (SPI_execute(psprintf("SELECT FROM %s LIMIT 1", t->qualified), true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read %s", t->qualified);
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("foreign table %s has rows after all of them were deleted", t->qualified)));
	SPI_finish();
}

/* ERROR: the row number "row" of a batch is not what it should be on the other side. */
pg_noreturn static void
differs(KsBatch *b, int row, const char *message, const char *detail, const char *hint)
{
	b->run->current = b->rows[row].message;
	ereport(ERROR,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("%s", message),
			 detail ? errdetail("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0));
}

/* Do triggers of the foreign table, which belong to its owner, decide what is written? */
static bool
has_before_triggers(KsTargetTable *t)
{
	TriggerDesc *triggers = t->rel->trigdesc;

	return triggers &&
		(triggers->trig_insert_before_row || triggers->trig_update_before_row || triggers->trig_delete_before_row);
}

/* Deletes rows. */
static void
delete_rows(KsBatch *b, const int *rows, int count)
{
	KsTargetTable *t = b->target;
	bool	   *columns = palloc0(sizeof(bool) * t->natts);

	for (int i = 0; i < t->nkeys; i++)
		columns[t->keys[i].index] = true;
	for (int n; count > 0; rows += n, count -= n)
	{
		KsParameters parameters = {0};
		StringInfoData sql;
		bool	   *found;

		n = share(b, rows, count);
		initStringInfo(&sql);
		appendStringInfo(&sql, "DELETE FROM %s t USING " KS_ROWS " r WHERE ", t->qualified);
		ks_append_key_condition(&sql, t);
		appendStringInfoString(&sql, " AND ");
		append_keys(&sql, &parameters, b, rows, n);
		(void) ks_rows_execute(b, sql.data, &parameters, SPI_OK_DELETE, columns, rows, n);
		if (has_before_triggers(t))
			continue;
		found = find(b, rows, n);
		for (int i = 0; i < n; i++)
			if (found[i])
				differs(b, rows[i], psprintf("foreign table %s has a row after it was deleted", t->qualified), NULL, NULL);
	}
}

/* What the rows of a statement have to be now. */
typedef struct Check
{
	KsBatch    *b;
	const int  *rows;
	const bool *columns;
	bool	   *seen;
} Check;

/* A value, for a message. */
static char *
shown(Form_pg_attribute att, Datum value, bool isnull)
{
	Oid			output;
	bool		varlena;
	char	   *text;
	int			length;

	if (isnull)
		return pstrdup("NULL");
	getTypeOutputInfo(att->atttypid, &output, &varlena);
	text = OidOutputFunctionCall(output, value);
	length = pg_mbcliplen(text, strlen(text), SHOWN_BYTES);
	return psprintf("%.*s%s", length, text, text[length] ? "..." : "");
}

/* Are two values the same, as their type has it, or else as they are written? */
static bool
same_value(Form_pg_attribute att, Datum a, bool a_null, Datum b, bool b_null)
{
	TypeCacheEntry *type;
	Oid			output;
	bool		varlena;

	if (a_null || b_null)
		return a_null && b_null;
	type = lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR_FINFO);
	if (OidIsValid(type->eq_opr_finfo.fn_oid))
		return DatumGetBool(FunctionCall2Coll(&type->eq_opr_finfo, att->attcollation, a, b));
	getTypeOutputInfo(att->atttypid, &output, &varlena);
	a = PointerGetDatum(OidOutputFunctionCall(output, a));
	b = PointerGetDatum(OidOutputFunctionCall(output, b));
	if (getBaseType(att->atttypid) == JSONOID)
		/* some databases keep what it says, and not how it was written */
		return DatumGetBool(DirectFunctionCall2(jsonb_eq, DirectFunctionCall1(jsonb_in, a), DirectFunctionCall1(jsonb_in, b)));
	return strcmp(DatumGetCString(a), DatumGetCString(b)) == 0;
}

/* A row as it was read back. */
static void
check_row(void *arg, int number, const Datum *values, const bool *nulls)
{
	Check	   *c = arg;
	KsBatch    *b = c->b;
	KsBatchRow *row = &b->rows[c->rows[number]];

	c->seen[number] = true;
	for (int i = 0; i < b->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(b->target->rel), i);

		if (c->columns[i] && !same_value(att, row->values[i], row->nulls[i], values[i], nulls[i]))
			differs(b, c->rows[number],
					psprintf("column \"%s\": foreign table %s has another value than was written", NameStr(att->attname),
							 b->target->qualified),
					psprintf("Written was %s, read back %s.", shown(att, row->values[i], row->nulls[i]),
							 shown(att, values[i], nulls[i])),
					"Declare the column of the foreign table as a type, text for one, that its wrapper carries without loss, "
					"and see that the table behind it has room for it and leaves it as it is.");
	}
}

/* ERROR unless the rows are there with these columns' values. */
static void
read_back(KsBatch *b, const bool *columns, const int *rows, int count)
{
	KsTargetTable *t = b->target;
	Check		check = {b, rows, columns, palloc0(sizeof(bool) * count)};
	KsParameters parameters = {0};
	StringInfoData condition;

	if (has_before_triggers(t))
		return;
	initStringInfo(&condition);
	append_keys(&condition, &parameters, b, rows, count);
	ks_find_rows(t, key_attributes(t), t->nkeys, values_of(b, rows, count), count, columns, condition.data, &parameters,
				 check_row, &check);
	for (int i = 0; i < count; i++)
		if (!check.seen[i])
			differs(b, rows[i], psprintf("foreign table %s does not have a row that was written", t->qualified),
					NULL, "See that the table behind it, or a view, lets each row be read that it lets be written.");
}

/* Inserts rows that are not there, or updates those that are. */
static void
write_group(KsBatch *b, const KsRowGroup *g)
{
	KsTargetTable *t = b->target;
	const int  *rows = g->rows;

	for (int n, left = g->count; left > 0; rows += n, left -= n)
	{
		KsParameters parameters = {0};
		StringInfoData sql;

		n = share(b, rows, left);
		initStringInfo(&sql);
		if (g->insert)
		{
			appendStringInfo(&sql, "INSERT INTO %s (", t->qualified);
			ks_append_columns(&sql, t, g->columns);
			appendStringInfo(&sql, ")%s SELECT ", t->has_identity ? " OVERRIDING SYSTEM VALUE" : "");
			ks_append_columns(&sql, t, g->columns);
			appendStringInfoString(&sql, " FROM " KS_ROWS " r");
			(void) ks_rows_execute(b, sql.data, NULL, SPI_OK_INSERT, g->columns, rows, n);
		}
		else
		{
			appendStringInfo(&sql, "UPDATE %s t SET ", t->qualified);
			/* where nothing but the key came, the row only has to be there */
			if (ks_append_assignments(&sql, t, g->columns, "r") == 0)
				return;
			appendStringInfoString(&sql, " FROM " KS_ROWS " r WHERE ");
			ks_append_key_condition(&sql, t);
			appendStringInfoString(&sql, " AND ");
			append_keys(&sql, &parameters, b, rows, n);
			(void) ks_rows_execute(b, sql.data, &parameters, SPI_OK_UPDATE, g->columns, rows, n);
		}
		read_back(b, g->columns, rows, n);
	}
}

/* KsSinkOps.apply */
static void
apply(KsBatch *b)
{
	MemoryContext old;
	int		   *removed;
	int		   *written;
	int			nremoved = 0;
	int			nwritten = 0;
	bool	   *found;
	List	   *groups = NIL;
	ListCell   *lc;

	b->run->current = -1;
	if (b->truncate)
		empty_table(b->target);
	if (b->nrows == 0)
		return;
	old = MemoryContextSwitchTo(b->context);
	removed = palloc(sizeof(int) * b->nrows);
	written = palloc(sizeof(int) * b->nrows);
	for (int i = 0; i < b->nrows; i++)
	{
		KsBatchRow *row = &b->rows[i];

		/* a row that comes again after it was deleted, without all columns, must not keep the former ones' values */
		if (row->remove && !(row->upsert && row->complete))
			removed[nremoved++] = i;
		if (row->upsert)
			written[nwritten++] = i;
	}
	delete_rows(b, removed, nremoved);
	found = find(b, written, nwritten);
	for (int i = 0; i < nwritten; i++)
	{
		KsBatchRow *row = &b->rows[written[i]];

		if (row->keeps && (row->remove || !found[i]))
		{
			b->run->current = row->message;
			ks_missing_value(b->target, row);
		}
		ks_row_group_add(b, &groups, written[i], !found[i]);
	}
	foreach(lc, groups)
		write_group(b, lfirst(lc));
	MemoryContextSwitchTo(old);
}

const KsSinkOps ks_foreign_sink = {
	.describe = describe,
	.open = open_table,
	.apply = apply,
	.existing_keys = existing_keys,
};
