/*
 * shadow_difference.c: making targets equal to their shadows by row changes: DELETE, UPDATE and INSERT of what differs.
 *
 * Rows are compared by their bytes, not by the types' idea of equality.  All targets of one owner are changed by one
 * statement, whose parts run one after the other since each asks for the count of the one before; foreign keys, also
 * between the targets, are checked at its end.
 */
#include "postgres.h"

#include "apply/shadow.h"
#include "commands/trigger.h"
#include "control/catalog.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

/* Appends "prefix.column" of all columns that are written, separated by commas. */
static void
append_columns(StringInfo sql, const KsTargetTable *t, const char *prefix)
{
	const char *separator = "";

	for (int i = 0; i < t->natts; i++)
		if (t->columns[i].writable)
		{
			appendStringInfo(sql, "%s%s%s", separator, prefix, t->columns[i].quoted);
			separator = ", ";
		}
}

/* Appends "t.key = s.key AND ...", by the operators of the key's index. */
static void
append_same_key(StringInfo sql, const KsTargetTable *t)
{
	for (int i = 0; i < t->nkeys; i++)
	{
		const char *name = t->columns[t->keys[i].index].quoted;

		appendStringInfo(sql, "%st.%s %s s.%s", i ? " AND " : "", name, t->keys[i].equal_operator, name);
	}
}

/* Appends a comparison of the whole rows t and s: *= or *<>. */
static void
append_compared(StringInfo sql, const KsTargetTable *t, const char *operator)
{
	appendStringInfoString(sql, "(ROW(");
	append_columns(sql, t, "t.");
	appendStringInfo(sql, ")::pg_catalog.record OPERATOR(pg_catalog.%s) ROW(", operator);
	append_columns(sql, t, "s.");
	appendStringInfoString(sql, ")::pg_catalog.record)");
}

/* Appends one part of the statement, which waits for the one before. */
static void
begin_part(StringInfo sql, int *part)
{
	appendStringInfo(sql, "%sp%d AS (", *part ? ",\n" : "WITH ", *part);
	(*part)++;
}

static void
end_part(StringInfo sql, int part)
{
	if (part > 1)
		appendStringInfo(sql, " AND (SELECT pg_catalog.count(*) FROM p%d) >= 0", part - 2);
	appendStringInfoString(sql, " RETURNING 1)");
}

/* Has a table columns that an UPDATE cannot set? */
static bool
needs_replace(const KsTargetTable *t)
{
	for (int i = 0; i < t->natts; i++)
		if (t->columns[i].always_identity)
			return true;
	return t->nkeys == 0;
}

/* Appends the parts for one target. */
static void
append_target(StringInfo sql, const KsShadowPair *pair, bool replace, int *part)
{
	const KsTargetTable *t = pair->target;
	const char *shadow = psprintf("kafka.%s", quote_identifier(get_rel_name(pair->shadow)));

	replace = replace || needs_replace(t);

	/* what is not there any more, or is to be inserted anew */
	begin_part(sql, part);
	appendStringInfo(sql, "DELETE FROM %s t WHERE true", t->qualified);
	if (t->nkeys > 0)
	{
		appendStringInfo(sql, " AND NOT EXISTS (SELECT FROM %s s WHERE ", shadow);
		append_same_key(sql, t);
		if (replace)
		{
			appendStringInfoString(sql, " AND ");
			append_compared(sql, t, "*=");
		}
		appendStringInfoChar(sql, ')');
	}
	end_part(sql, *part);

	if (!replace)
	{
		begin_part(sql, part);
		appendStringInfo(sql, "UPDATE %s t SET ", t->qualified);
		for (int i = 0, n = 0; i < t->natts; i++)
			if (t->columns[i].writable)
				appendStringInfo(sql, "%s%s = s.%s", n++ ? ", " : "", t->columns[i].quoted, t->columns[i].quoted);
		appendStringInfo(sql, " FROM %s s WHERE ", shadow);
		append_same_key(sql, t);
		appendStringInfoString(sql, " AND ");
		append_compared(sql, t, "*<>");
		end_part(sql, *part);
	}

	/* the statement's snapshot still shows the rows that were deleted by it */
	begin_part(sql, part);
	appendStringInfo(sql, "INSERT INTO %s (", t->qualified);
	append_columns(sql, t, "");
	appendStringInfoString(sql, ") OVERRIDING SYSTEM VALUE SELECT ");
	append_columns(sql, t, "s.");
	appendStringInfo(sql, " FROM %s s WHERE true", shadow);
	if (t->nkeys > 0)
	{
		appendStringInfo(sql, " AND NOT EXISTS (SELECT FROM %s t WHERE ", t->qualified);
		append_same_key(sql, t);
		if (replace)
		{
			appendStringInfoString(sql, " AND ");
			append_compared(sql, t, "*=");
		}
		appendStringInfoChar(sql, ')');
	}
	end_part(sql, *part);
}

/* Runs a statement made of "parts" as a role; returns the number of rows that it changed. */
static uint64
run_as(Oid role, StringInfo sql, int parts)
{
	static ConstraintsSetStmt all_immediate = {.type = T_ConstraintsSetStmt};
	Oid			save_user;
	int			save_context;
	int			nest_level;
	bool		null;
	uint64		changed;

	appendStringInfoString(sql, "\nSELECT 0");
	for (int i = 0; i < parts; i++)
		appendStringInfo(sql, " + (SELECT pg_catalog.count(*) FROM p%d)", i);

	AfterTriggerSetState(&all_immediate);
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(role, save_context | SECURITY_RESTRICTED_OPERATION);
	nest_level = NewGUCNestLevel();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(sql->data, false, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not apply the difference");
	changed = (uint64) DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
	SPI_finish();
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(save_user, save_context);
	return changed;
}

/* See shadow.h. */
uint64
ks_shadow_difference(KsShadowPair *pairs, int npairs, bool replace)
{
	bool	   *done = palloc0(sizeof(bool) * Max(npairs, 1));
	uint64		changed = 0;

	for (int i = 0; i < npairs; i++)
	{
		StringInfoData sql;
		int			parts = 0;

		if (done[i])
			continue;
		initStringInfo(&sql);
		for (int j = i; j < npairs; j++)
			if (pairs[j].target->owner == pairs[i].target->owner)
			{
				append_target(&sql, &pairs[j], replace, &parts);
				done[j] = true;
			}
		changed += run_as(pairs[i].target->owner, &sql, parts);
	}
	return changed;
}
