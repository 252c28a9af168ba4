/*
 * guard.c: the triggers on a table with conflict newer.
 *
 * They see to it that what is written here comes, in the order of newer, after what was there: an update after the row it
 * replaces, an insert after a remembered delete, and a delete after its row.  The last is noted in kafka.deleted_row just
 * before the row goes, where the publisher finds it, too.  What subscriptions write is ordered already.
 *
 * An insert may wait in the unique index for somebody who is deleting the key, and follow a delete that was not there to be
 * seen before: a trigger that fires after the row is in looks again.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "conflict/conflict.h"
#include "control/worker.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(ks_conflict_guard);

/* What is known of the table, for one statement. */
typedef struct Guard
{
	AttrNumber	attnum;			/* of the column that newer goes by */
	KsOrdering	ordering;
	KsKeyText	key;
} Guard;

/* While a row is given a newer value than a delete: rows of the table get none that is not above it. */
typedef struct Floor
{
	Oid			relid;
	Datum		value;
	bool		isnull;
} Floor;

static const Floor *floor_value = NULL;

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
	bool		after = false;

	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		const Trigger *t = &rel->trigdesc->triggers[i];

		if (t->tgenabled != TRIGGER_FIRES_ALWAYS)
			continue;
		row = row || strcmp(t->tgname, KS_GUARD_TRIGGER) == 0;
		truncate = truncate || strcmp(t->tgname, KS_GUARD_TRUNCATE) == 0;
		after = after || strcmp(t->tgname, KS_GUARD_AFTER) == 0;
	}
	return row && truncate && after;
}

/* See conflict.h. */
void
ks_guard_leave_out(TriggerDesc *triggers)
{
	bool		after_insert = false;
	bool		after_update = false;

	if (triggers == NULL)
		return;
	for (int i = 0; i < triggers->numtriggers; i++)
	{
		Trigger    *t = &triggers->triggers[i];

		if (strcmp(t->tgname, KS_GUARD_AFTER) == 0)
			t->tgenabled = TRIGGER_DISABLED;
		else if (TRIGGER_FOR_ROW(t->tgtype) && TRIGGER_FOR_AFTER(t->tgtype))
		{
			after_insert = after_insert || TRIGGER_FOR_INSERT(t->tgtype);
			after_update = after_update || TRIGGER_FOR_UPDATE(t->tgtype);
		}
	}
	triggers->trig_insert_after_row = triggers->trig_insert_after_row && after_insert;
	triggers->trig_update_after_row = triggers->trig_update_after_row && after_update;
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

/* Is this version of a row there, for this transaction, as of now? */
static bool
is_there(Relation rel, ItemPointer tid)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		found = table_tuple_fetch_row_version(rel, tid, snapshot, slot);

	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	return found;
}

/*
 * A new key is in the table.  Is there a delete of it that the row does not come after?  It was not committed when
 * guard_insert() looked, but is now: the unique index waits for who deletes.  None can come any more before we commit.
 */
static void
guard_inserted(Guard *guard, Relation rel, TriggerData *data)
{
	HeapTuple	row = TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? data->tg_newtuple : data->tg_trigtuple;
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), guard->attnum - 1);
	Oid			types[2] = {att->atttypid, TIDOID};
	Datum		values[2];
	ItemPointerData tid = row->t_self;
	Floor		floor = {RelationGetRelid(rel)};
	const Floor *outer = floor_value;
	TableScanDesc scan;
	HeapTuple	later;
	Snapshot	snapshot;
	char	   *stamp;
	char	   *sql;
	Oid			user;
	int			security;
	bool		isnull;

	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event) && same_key(guard, rel, data->tg_trigtuple, row))
		return;
	if (!ks_deleted_row_find(RelationGetRelid(rel), key_of(guard, rel, row), &stamp))
		return;
	floor.value = ks_ordering_value(&guard->ordering, stamp, &floor.isnull);
	later = put_after(guard, rel, row, floor.value, floor.isnull);
	if (later == row)
		return;

	/* another trigger may have changed it since, or deleted it: then that delete was found, and nothing is left to update */
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = table_beginscan_tid(rel, snapshot);
	table_tuple_get_latest_tid(scan, &tid);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);

	values[0] = heap_getattr(later, guard->attnum, RelationGetDescr(rel), &isnull);
	values[1] = PointerGetDatum(&tid);
	sql = psprintf("UPDATE ONLY %s SET %s = $1 WHERE ctid OPERATOR(pg_catalog.=) $2",
				   quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)), RelationGetRelationName(rel)),
				   quote_identifier(NameStr(att->attname)));
	/* as foreign keys do it: with the owner's rights, and all rows are there for him */
	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(rel->rd_rel->relowner, security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
	floor_value = &floor;
	PG_TRY();
	{
		if (SPI_connect() != SPI_OK_CONNECT)
			elog(ERROR, "SPI_connect failed");
		if (SPI_execute_with_args(sql, 2, types, values, NULL, false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "could not give a row a newer value");
		if (SPI_processed == 0 && is_there(rel, &tid))
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
					 errmsg("a new row of table \"%s\" could not be given a newer value than the delete that it waited for",
							RelationGetRelationName(rel)),
					 errhint("A trigger or rule has left out the UPDATE that would do it. Insert the row again.")));
		SPI_finish();
	}
	PG_FINALLY();
	{
		floor_value = outer;
		SetUserIdAndSecContext(user, security);
	}
	PG_END_TRY();
}

/* ERROR: the key was changed by a trigger, of which KS_GUARD_AFTER is not told. */
static void
check_key_is_updated(Guard *guard, Relation rel, const Bitmapset *updated)
{
	for (int i = 0; i < guard->key.nkeys; i++)
		if (bms_is_member(guard->key.attnums[i] - FirstLowInvalidHeapAttributeNumber, updated))
			return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a trigger has changed the key of a row of table \"%s\", which two databases write",
					RelationGetRelationName(rel)),
			 errhint("Change the key in the UPDATE itself.")));
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

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("kafka.conflict_guard must be called as a trigger")));
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
	if (TRIGGER_FIRED_AFTER(event))
	{
		guard_inserted(guard, rel, data);
		return PointerGetDatum(NULL);
	}
	if (TRIGGER_FIRED_BY_INSERT(event))
		return PointerGetDatum(guard_insert(guard, rel, new));
	if (TRIGGER_FIRED_BY_DELETE(event))
	{
		guard_delete(guard, rel, old);
		return PointerGetDatum(old);
	}
	if (!same_key(guard, rel, old, new))
	{
		check_key_is_updated(guard, rel, data->tg_updatedcols);
		new = guard_insert(guard, rel, new);
		guard_delete(guard, rel, old);
	}
	value = heap_getattr(old, guard->attnum, RelationGetDescr(rel), &isnull);
	if (floor_value && floor_value->relid == RelationGetRelid(rel) &&
		ks_ordering_compare(&guard->ordering, floor_value->value, floor_value->isnull, value, isnull) > 0)
		return PointerGetDatum(put_after(guard, rel, new, floor_value->value, floor_value->isnull));
	return PointerGetDatum(put_after(guard, rel, new, value, isnull));
}
