/*
 * evolve.c: see evolve.h.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "apply/apply_internal.h"
#include "apply/connect_types.h"
#include "apply/evolve.h"
#include "apply/new_column.h"
#include "compat/pg_compat.h"
#include "control/definitions.h"
#include "control/worker.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/*
 * Readers queue up behind us while we wait for the table: not for long, and not often.
 */
#define LOCK_WAIT "1s"
#define LOCK_PAUSE_MS 5000
#define MAX_IGNORED 1000

/* A field that has no column and gets none. */
typedef struct Ignored
{
	const KsTargetTable *table;
	uint32		version;
	char	   *name;
	uint32		size;
} Ignored;

struct KsEvolution
{
	MemoryContext context;		/* of what was asked for */
	KsTargetTable *table;		/* that lacks columns, NULL = none does */
	List	   *columns;		/* KsNewColumn */
	int			rounds;			/* without an attempt that succeeded */
	TimestampTz not_before;
	uint64		settled_row;	/* the last row that nothing had to be added for, */
	const KsFieldList *settled_fields;	/* of its fields these, */
	const KsTargetTable *settled_table; /* in this table */
	MemoryContext ignored_context;
	List	   *ignored;
};

/* See evolve.h. */
KsEvolution *
ks_evolution_create(void)
{
	KsEvolution *e = palloc0(sizeof(KsEvolution));

	e->context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync new columns", ALLOCSET_SMALL_SIZES);
	e->ignored_context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync ignored fields", ALLOCSET_SMALL_SIZES);
	return e;
}

/* Is a field known to be left out? */
static bool
is_ignored(const KsEvolution *e, const KsTargetTable *t, const KsField *field)
{
	ListCell   *lc;

	foreach(lc, e->ignored)
	{
		const Ignored *i = lfirst(lc);

		if (i->table == t && i->version == t->version && i->size == field->name_size &&
			memcmp(i->name, field->name, i->size) == 0)
			return true;
	}
	return false;
}

/* Notes that a field is left out, which saves looking for its type with every message. */
static void
ignore_field(KsEvolution *e, const KsTargetTable *t, const KsField *field)
{
	MemoryContext old;
	Ignored    *i;

	if (list_length(e->ignored) >= MAX_IGNORED)
	{
		MemoryContextReset(e->ignored_context);
		e->ignored = NIL;
	}
	old = MemoryContextSwitchTo(e->ignored_context);
	i = palloc(sizeof(Ignored));
	i->table = t;
	i->version = t->version;
	i->name = pnstrdup(field->name, field->name_size);
	i->size = field->name_size;
	e->ignored = lappend(e->ignored, i);
	MemoryContextSwitchTo(old);
}

/* Adds a column to what is asked for, once. */
static void
ask_for(KsEvolution *e, const KsNewColumn *column)
{
	MemoryContext old = MemoryContextSwitchTo(e->context);
	KsNewColumn *copy;
	ListCell   *lc;
	bool		known = false;

	foreach(lc, e->columns)
		known = known || strcmp(((KsNewColumn *) lfirst(lc))->name, column->name) == 0;
	if (!known)
	{
		copy = palloc(sizeof(KsNewColumn));
		*copy = *column;
		copy->name = pstrdup(column->name);
		e->columns = lappend(e->columns, copy);
	}
	MemoryContextSwitchTo(old);
}

/* A field's name for messages. */
static char *
field_name(const KsField *field)
{
	char	   *name = pnstrdup(field->name, field->name_size);

	return pg_any_to_server(name, strlen(name), PG_UTF8);
}

/* See evolve.h. */
void
ks_evolution_ask(KsRun *run, KsTargetTable *t, const KsMessage *message, const KsParsed *parsed, const KsFieldList *fields,
				 bool needed, bool ignore)
{
	KsEvolution *e = run->evolution;
	List	   *schema = NIL;
	bool		schema_read = false;

	/* each of its fields without a column asks */
	if (e->settled_row == run->row && e->settled_fields == fields && e->settled_table == t)
		return;
	ks_evolution_begin(e);
	for (int i = 0; i < fields->count; i++)
	{
		const KsField *field = &fields->fields[i];
		KsNewColumn column;

		if (field->optional || ks_converter_find(t->converter, field, -1) != NULL || is_ignored(e, t, field))
			continue;
		if (!schema_read && parsed->schema)
			schema = ks_connect_columns(parsed->schema, parsed->schema_size);
		schema_read = true;
		switch (ks_new_column(run->subscription, message->topic, schema, field, needed, &column))
		{
			case KS_NEW_COLUMN:
				ask_for(e, &column);
				break;
			case KS_NEW_NOTHING:
				break;
			case KS_NEW_REFUSED:
				if (!ignore)
					ereport(ERROR,
							(errcode(ERRCODE_UNDEFINED_COLUMN),
							 errmsg("column \"%s\" does not exist in table %s and cannot be added: %s", field_name(field),
									t->qualified, column.why),
							 errhint("%s", column.hint)));
				ignore_field(e, t, field);
				break;
		}
	}
	if (e->columns == NIL)
	{
		e->settled_row = run->row;
		e->settled_fields = fields;
		e->settled_table = t;
		return;
	}
	e->table = t;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("column \"%s\" does not exist in table %s", ((KsNewColumn *) linitial(e->columns))->name, t->qualified)));
}

/* See evolve.h. */
void
ks_evolution_begin(KsEvolution *e)
{
	e->table = NULL;
	e->columns = NIL;
	MemoryContextReset(e->context);
}

/* See evolve.h. */
bool
ks_evolution_pending(const KsEvolution *e)
{
	return e != NULL && e->table != NULL;
}

/* See evolve.h. */
bool
ks_evolution_waits(const KsEvolution *e)
{
	return e != NULL && e->not_before > GetCurrentTimestamp();
}

/* See evolve.h. */
void
ks_evolution_succeeded(KsEvolution *e)
{
	e->rounds = 0;
}

/* ERROR unless the table's owner, as whom it is altered, is one whom the subscription's owner may become. */
static void
check_owner(const KsSubscription *s, Relation rel)
{
	Oid			owner = rel->rd_rel->relowner;

	if (!ks_member_can_set_role(s->owner, owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the subscription's owner \"%s\" may not act as the table's owner \"%s\"",
						GetUserNameFromId(s->owner, false), GetUserNameFromId(owner, false))));
}

/* Adds those columns that are still missing, as the table's owner; returns their number.  The list becomes that of these. */
static int
add_columns(const KsSubscription *s, Oid relid, List **columns)
{
	Relation	rel = try_table_open(relid, AccessExclusiveLock);
	List	   *missing = NIL;
	ListCell   *lc;
	StringInfoData command;
	Oid			owner;
	int			natts;
	Oid			save_user;
	int			save_context;
	int			nest_level;

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table does not exist any more")));
	check_owner(s, rel);
	owner = rel->rd_rel->relowner;
	natts = RelationGetNumberOfAttributes(rel);
	initStringInfo(&command);
	appendStringInfo(&command, "ALTER TABLE %s",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)), RelationGetRelationName(rel)));
	table_close(rel, NoLock);
	foreach(lc, *columns)
	{
		KsNewColumn *column = lfirst(lc);

		/* another worker may have been faster */
		if (SearchSysCacheExistsAttName(relid, column->name))
			continue;
		appendStringInfo(&command, "%s ADD COLUMN %s", missing ? "," : "", ks_new_column_definition(column));
		missing = lappend(missing, column);
	}
	*columns = missing;
	if (missing == NIL)
		return 0;
	if (natts + list_length(missing) > MaxHeapAttributeNumber)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("a table can have at most %d columns, dropped ones included", MaxHeapAttributeNumber)));

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(owner, save_context | SECURITY_RESTRICTED_OPERATION);
	nest_level = NewGUCNestLevel();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(command.data, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not run: %s", command.data);
	SPI_finish();
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(save_user, save_context);
	return list_length(missing);
}

/* Says what was done. */
static void
announce(const KsSubscription *s, const KsTargetTable *t, char **types, List *columns)
{
	ListCell   *lc;

	foreach(lc, columns)
		ereport(LOG,
				(errmsg("subscription \"%s\": added column \"%s\" of type %s to table %s", NameStr(s->name),
						((KsNewColumn *) lfirst(lc))->name, types[foreach_current_index(lc)], t->qualified),
				 errhidestmt(true)));
	pg_atomic_fetch_add_u64(&ks_my_worker->columns_added, list_length(columns));
}

/* The names of types, in a->context: the catalog is out of reach after the transaction. */
static char **
type_names(KsApply *a, List *columns)
{
	char	  **types = MemoryContextAlloc(a->context, sizeof(char *) * Max(list_length(columns), 1));
	ListCell   *lc;

	foreach(lc, columns)
	{
		const KsNewColumn *column = lfirst(lc);

		types[foreach_current_index(lc)] =
			MemoryContextStrdup(a->context, format_type_with_typemod(column->type, column->typmod));
	}
	return types;
}

/* See evolve.h. */
ErrorData *
ks_evolve(KsApply *a, bool *moved)
{
	KsEvolution *e = a->run.evolution;
	KsTargetTable *t = e->table;
	Oid			relid = t->target->relid;
	ErrorData  *volatile error = NULL;
	MemoryContext old = CurrentMemoryContext;

	*moved = false;
	if (++e->rounds > KS_MAX_RETRIES)
		elog(ERROR, "columns that were added to table %s are not there", t->qualified);
	PG_TRY();
	{
		ks_apply_begin();
		(void) set_config_option("lock_timeout", LOCK_WAIT, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
		ks_subscription_lock(a->subscription->id, false);
		if (ks_subscription_version(a->subscription->id) != a->subscription->version)
		{
			AbortCurrentTransaction();
			*moved = true;
		}
		else
		{
			List	   *columns = e->columns;
			char	  **types;

			(void) add_columns(a->subscription, relid, &columns);
			types = type_names(a, columns);
			MemoryContextSwitchTo(e->context);
			columns = list_copy(columns);
			ks_apply_commit();
			announce(a->subscription, t, types, columns);
			/* a copy in the making has to have it, too: it is made anew */
			*moved = t->relid != relid;
		}
	}
	PG_CATCH();
	{
		error = ks_apply_caught(a);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	if (error)
	{
		const KsNewColumn *column = linitial(e->columns);

		MemoryContextSwitchTo(a->context);
		error->message = psprintf("cannot add column \"%s\" to table %s: %s", column->name, t->qualified, error->message);
		if (error->hint == NULL)
			error->hint = pstrdup("Add the column by hand, or set option \"ignore_unknown_columns\" without \"evolve\".");
		MemoryContextSwitchTo(old);
		a->run.stage = "apply";
		if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
			e->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCK_PAUSE_MS);
	}
	return error;
}
