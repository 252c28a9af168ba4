/*
 * guard.c: the triggers on a table with conflict newer.
 *
 * They see to it that what is written here comes, in the order of newer, after what was there: an update after the row it
 * replaces, an insert after a remembered delete, and a delete after its row.  The last is noted in kafka.deleted_row just
 * before the row goes, where the publisher finds it, too.  What subscriptions write is ordered already.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "conflict/conflict.h"
#include "control/worker.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(ks_conflict_guard);

/* What is known of the table, for one statement. */
typedef struct Guard
{
	AttrNumber	attnum;			/* of the column that newer goes by */
	KsOrdering	ordering;
	KsKeyText	key;
} Guard;

/* See conflict.h. */
KsConflict
ks_conflict_parse(const char *value, char **column)
{
	*column = NULL;
	if (strcmp(value, "apply") == 0)
		return KS_CONFLICT_APPLY;
	if (strcmp(value, "keep") == 0)
		return KS_CONFLICT_KEEP;
	if (strncmp(value, "newer:", 6) == 0 && value[6] != '\0')
	{
		*column = pstrdup(value + 6);
		return KS_CONFLICT_NEWER;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": %s", "conflict", value),
			 errhint("Allowed is apply, keep, or newer: and the name of a column.")));
}

/* See conflict.h. */
bool
ks_guard_is_set(Relation rel)
{
	bool		row = false;
	bool		truncate = false;

	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		const Trigger *t = &rel->trigdesc->triggers[i];

		if (t->tgenabled != TRIGGER_FIRES_ALWAYS)
			continue;
		row = row || strcmp(t->tgname, KS_GUARD_TRIGGER) == 0;
		truncate = truncate || strcmp(t->tgname, KS_GUARD_TRUNCATE) == 0;
	}
	return row && truncate;
}

/* See conflict.h. */
const char *
ks_interfering_trigger(Relation rel, bool replica)
{
	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		const Trigger *t = &rel->trigdesc->triggers[i];
		bool		writes = TRIGGER_FOR_INSERT(t->tgtype) || TRIGGER_FOR_UPDATE(t->tgtype) || TRIGGER_FOR_DELETE(t->tgtype);
		bool		fires = t->tgenabled == TRIGGER_FIRES_ALWAYS ||
			t->tgenabled == (replica ? TRIGGER_FIRES_ON_REPLICA : TRIGGER_FIRES_ON_ORIGIN);

		if (!writes || !fires || strcmp(t->tgname, KS_GUARD_TRIGGER) == 0)
			continue;
		if (!TRIGGER_FOR_ROW(t->tgtype) || !TRIGGER_FOR_AFTER(t->tgtype) || t->tgoldtable || t->tgnewtable)
			return t->tgname;
	}
	return NULL;
}

/* See conflict.h. */
const char *
ks_trigger_after_guard(Relation rel)
{
	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		const Trigger *t = &rel->trigdesc->triggers[i];

		/* triggers fire in the order of their names, as bytes */
		if (TRIGGER_FOR_ROW(t->tgtype) && TRIGGER_FOR_BEFORE(t->tgtype) && t->tgenabled != TRIGGER_DISABLED &&
			strcmp(t->tgname, KS_GUARD_TRIGGER) > 0)
			return t->tgname;
	}
	return NULL;
}

/* Finds out about the table, once per statement. */
static Guard *
guard_of(FunctionCallInfo fcinfo, TriggerData *data)
{
	Guard	   *guard = fcinfo->flinfo->fn_extra;
	Relation	rel = data->tg_relation;
	Trigger    *trigger = data->tg_trigger;
	MemoryContext context = fcinfo->flinfo->fn_mcxt;

	if (guard)
		return guard;
	if (trigger->tgnargs < 2)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("kafka.conflict_guard needs the name of a column and those of the key's columns")));
	guard = MemoryContextAllocZero(context, sizeof(Guard));
	guard->attnum = get_attnum(RelationGetRelid(rel), trigger->tgargs[0]);
	if (guard->attnum <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table \"%s\" has no column \"%s\", which option \"conflict\" of its subscription names",
						RelationGetRelationName(rel), trigger->tgargs[0]),
				 errhint("Set the option anew with kafka.alter_subscription.")));
	ks_ordering_init(&guard->ordering, TupleDescAttr(RelationGetDescr(rel), guard->attnum - 1), context);
	ks_key_text_init(&guard->key, rel, trigger->tgnargs - 1, trigger->tgargs + 1, context);
	fcinfo->flinfo->fn_extra = guard;
	return guard;
}

/* The key of a row. */
static Datum
key_of(Guard *guard, Relation rel, HeapTuple tuple)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);

	heap_deform_tuple(tuple, desc, values, nulls);
	for (int i = 0; i < guard->key.nkeys; i++)
		if (nulls[guard->key.attnums[i] - 1])
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("null value in a key column of table \"%s\", which two databases write",
							RelationGetRelationName(rel))));
	return ks_key_text(&guard->key, values);
}

/* Returns the row with a newer value than old_value, which it is to follow; itself if it has one. */
static HeapTuple
put_after(Guard *guard, Relation rel, HeapTuple row, Datum old_value, bool old_null)
{
	TupleDesc	desc = RelationGetDescr(rel);
	const char *column = NameStr(TupleDescAttr(desc, guard->attnum - 1)->attname);
	int			attnum = guard->attnum;
	bool		isnull;
	Datum		value = heap_getattr(row, attnum, desc, &isnull);

	if (!isnull && ks_ordering_compare(&guard->ordering, value, isnull, old_value, old_null) > 0)
		return row;
	if (ks_ordering_next(&guard->ordering, old_value, old_null, false, &value))
	{
		isnull = false;
		return heap_modify_tuple_by_cols(row, desc, 1, &attnum, &value, &isnull);
	}
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("null value in column \"%s\" of table \"%s\", by which changes of two databases are ordered", column,
						RelationGetRelationName(rel))));
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("value of column \"%s\" of table \"%s\" is not newer than %s, that of the row or delete before", column,
					RelationGetRelationName(rel), ks_ordering_text(&guard->ordering, old_value, old_null)),
			 errdetail("Changes that two databases make of a row are ordered by this column."),
			 errhint("Give it a greater value with every change.")));
}

/* A new key: after the delete of it, if one is remembered. */
static HeapTuple
guard_insert(Guard *guard, Relation rel, HeapTuple row)
{
	Oid			relid = RelationGetRelid(rel);
	Datum		key = key_of(guard, rel, row);
	char	   *stamp;
	bool		stamp_null;
	bool		isnull;

	(void) ks_absent_key_lock(relid, key, false, true);
	if (ks_deleted_row_find(relid, key, &stamp))
	{
		Datum		value = ks_ordering_value(&guard->ordering, stamp, &stamp_null);

		return put_after(guard, rel, row, value, stamp_null);
	}
	/* no delete: any value will do, but the type's clock is better than none */
	(void) heap_getattr(row, guard->attnum, RelationGetDescr(rel), &isnull);
	return isnull ? put_after(guard, rel, row, (Datum) 0, true) : row;
}

/* A key goes: notes what the delete is ordered by. */
static void
guard_delete(Guard *guard, Relation rel, HeapTuple row)
{
	bool		isnull;
	Datum		value = heap_getattr(row, guard->attnum, RelationGetDescr(rel), &isnull);
	Datum		stamp;

	if (ks_ordering_next(&guard->ordering, value, isnull, true, &stamp))
	{
		value = stamp;
		isnull = false;
	}
	ks_deleted_row_put(RelationGetRelid(rel), key_of(guard, rel, row), ks_ordering_text(&guard->ordering, value, isnull));
}

/* Do two rows have the same key? */
static bool
same_key(Guard *guard, Relation rel, HeapTuple a, HeapTuple b)
{
	bool		same = true;

	for (int i = 0; same && i < guard->key.nkeys; i++)
	{
		AttrNumber	attnum = guard->key.attnums[i];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
		bool		a_null;
		bool		b_null;
		Datum		a_value = heap_getattr(a, attnum, RelationGetDescr(rel), &a_null);
		Datum		b_value = heap_getattr(b, attnum, RelationGetDescr(rel), &b_null);

		same = !a_null && !b_null && datum_image_eq(a_value, b_value, att->attbyval, att->attlen);
	}
	/* numeric has equal values that differ */
	return same || datum_image_eq(key_of(guard, rel, a), key_of(guard, rel, b), false, -1);
}

/* kafka.conflict_guard(): trigger function; see above. */
Datum
ks_conflict_guard(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	TriggerEvent event;
	Relation	rel;
	Guard	   *guard;
	HeapTuple	old;
	HeapTuple	new;
	bool		isnull;
	Datum		value;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("kafka.conflict_guard must be called as a trigger, before rows are written")));
	event = data->tg_event;
	rel = data->tg_relation;
	if (TRIGGER_FIRED_BY_TRUNCATE(event))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s\" cannot be truncated: a subscription has option \"conflict\": \"newer\" for it",
						RelationGetRelationName(rel)),
				 errdetail("The changes of the other database could not be told from those before the TRUNCATE."),
				 errhint("Use DELETE.")));
	old = data->tg_trigtuple;
	new = TRIGGER_FIRED_BY_UPDATE(event) ? data->tg_newtuple : old;
	if (ks_my_worker != NULL && ks_my_worker->kind == KS_WORKER_SUBSCRIPTION)
		return PointerGetDatum(new);

	guard = guard_of(fcinfo, data);
	if (TRIGGER_FIRED_BY_INSERT(event))
		return PointerGetDatum(guard_insert(guard, rel, new));
	if (TRIGGER_FIRED_BY_DELETE(event))
	{
		guard_delete(guard, rel, old);
		return PointerGetDatum(old);
	}
	if (!same_key(guard, rel, old, new))
	{
		new = guard_insert(guard, rel, new);
		guard_delete(guard, rel, old);
	}
	value = heap_getattr(old, guard->attnum, RelationGetDescr(rel), &isnull);
	return PointerGetDatum(put_after(guard, rel, new, value, isnull));
}
