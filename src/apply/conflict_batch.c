/*
 * conflict_batch.c: putting events in order; see conflict_batch.h.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "apply/apply_internal.h"
#include "apply/conflict_batch.h"
#include "catalog/pg_class.h"
#include "event/event.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#define FORGET_ROWS 1000			/* at a time */

/* See conflict_batch.h. */
KsConflictBatch *
ks_conflict_create(const KsSubscription *s, const KsTargetTable *target)
{
	char	   *column;
	KsConflict	kind = ks_conflict_parse(s->options->text_value[KS_OPT_CONFLICT], &column);
	KsConflictBatch *c;

	if (kind == KS_CONFLICT_APPLY)
		return NULL;
	c = palloc0(sizeof(KsConflictBatch));
	c->kind = kind;
	c->column = column;
	c->server_name = s->options->text_value[KS_OPT_SERVER_NAME];
	c->replica = strcmp(s->options->text_value[KS_OPT_REPLICATION_ROLE], "replica") == 0;
	c->retention = ks_tombstone_retention(s->options);
	return c;
}

/* See conflict_batch.h. */
bool
ks_conflict_event_by_event(const KsConflictBatch *c)
{
	return c->kind == KS_CONFLICT_KEEP;
}

/* Finds the equality of each column's type, for keep. */
static void
find_equality(KsConflictBatch *c, TupleDesc desc)
{
	c->equal = MemoryContextAllocZero(c->context, sizeof(FmgrInfo) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Oid			operator = InvalidOid;

		if (!att->attisdropped)
			operator = lookup_type_cache(getBaseType(att->atttypid), TYPECACHE_EQ_OPR)->eq_opr;
		if (OidIsValid(operator))
			fmgr_info_cxt(get_opcode(operator), &c->equal[i], c->context);
	}
}

/* ERROR: the target cannot be written by option "conflict" as it is now. */
static void
unsuitable(const KsBatch *b, const char *why, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("subscription \"%s\" cannot write to table %s with option \"conflict\": %s",
					b->target->subscription, b->target->qualified, why),
			 errhint("%s", hint)));
}

/* See conflict_batch.h. */
void
ks_conflict_open(KsBatch *b)
{
	KsConflictBatch *c = b->conflict;
	KsTargetTable *t = b->target;
	const char *trigger;

	if (c->context && c->version == t->version)
		return;
	if (c->context)
		MemoryContextDelete(c->context);
	c->context = NULL;
	trigger = ks_interfering_trigger(t->rel, c->replica);
	if (t->rel->rd_rel->relkind != RELKIND_RELATION)
		unsuitable(b, "it is not an ordinary table", "Write to an ordinary table.");
	if (trigger)
		unsuitable(b, psprintf("trigger \"%s\" might change rows on their way into it", trigger),
				   "Set option \"session_replication_role\": \"replica\", or make it an AFTER ... FOR EACH ROW trigger.");
	c->context = AllocSetContextCreate(t->parent, "pg_kafka_sync conflict", ALLOCSET_SMALL_SIZES);
	if (c->kind == KS_CONFLICT_NEWER)
	{
		AttrNumber	attnum = get_attnum(t->relid, c->column);
		char	  **names = palloc(sizeof(char *) * t->nkeys);

		if (!ks_guard_is_set(t->rel))
			unsuitable(b, "the triggers that order what is written here are missing or disabled",
					   "Set the option to apply and then to newer again with kafka.alter_subscription.");
		trigger = ks_trigger_after_guard(t->rel);
		if (trigger)
			unsuitable(b, psprintf("trigger \"%s\" fires after the one that orders what is written here", trigger),
					   "Rename it: triggers fire in the order of their names, and that one is called " KS_GUARD_TRIGGER ".");
		if (attnum <= 0 || !t->columns[attnum - 1].writable)
			unsuitable(b, psprintf("it has no column \"%s\" that can be written", c->column),
					   "Set the option anew with kafka.alter_subscription.");
		c->index = attnum - 1;
		ks_ordering_init(&c->ordering, TupleDescAttr(RelationGetDescr(t->rel), c->index), c->context);
		for (int i = 0; i < t->nkeys; i++)
			names[i] = t->target->keys[i];
		ks_key_text_init(&c->key, t->rel, t->nkeys, names, c->context);
	}
	else
		find_equality(c, RelationGetDescr(t->rel));
	c->version = t->version;
}

/* Text of the header that tells what a delete is ordered by, NULL if there is none.  ERROR if it is no text in UTF-8. */
static char *
delete_header(const KsMessage *message)
{
	size_t		size;
	const char *value = message->find_header ? message->find_header(message, KS_HEADER_DELETED, &size) : NULL;

	return value ? pg_any_to_server(pnstrdup(value, size), size, PG_UTF8) : NULL;
}

/* See conflict_batch.h. */
bool
ks_conflict_wants(KsBatch *b)
{
	const KsParsed *parsed = b->parsed;

	/* a new row would come again though it was deleted here meanwhile */
	if (b->conflict->kind == KS_CONFLICT_KEEP && b->run->duplicate)
		return false;
	if (parsed->op == 't')
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a truncate cannot be put in order with what was written here (option \"conflict\")"),
				 errhint("Set option \"truncate\" of the publisher to \"skip\", and use DELETE.")));
	if (!ks_batch_key_is_whole(b, b->message))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the message key does not hold the target's key, which option \"conflict\" needs"),
				 errhint("Publish the table with the target's key as message key (kafka.set_topic(key)).")));
	/* the tombstone that another publisher writes behind a delete says nothing new, and not when it was */
	if (parsed->tombstone)
		return b->conflict->kind == KS_CONFLICT_NEWER && b->message->find_header &&
			delete_header(b->message) != NULL;
	return true;
}

/* When the event's transaction committed, 0 if it is not told. */
static TimestampTz
commit_time(const KsParsed *parsed)
{
	int64		value = 0;

	if (parsed->commit_time == NULL)
		return 0;
	for (size_t i = 0; i < parsed->commit_time_size; i++)
	{
		if (parsed->commit_time[i] < '0' || parsed->commit_time[i] > '9' || i > 17)
			return 0;
		value = value * 10 + (parsed->commit_time[i] - '0');
	}
	if (parsed->commit_in_ms)
		value = Min(value, PG_INT64_MAX / 1000) * 1000;
	return value - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
}

/* The value that the old row has for the column, if the event has it. */
static bool
old_value(KsBatch *b, Datum *value, bool *isnull)
{
	KsTargetTable *t = b->target;
	const KsFieldList *before = &b->parsed->before;

	if (!before->present)
		return false;
	ks_converter_use_schema(t->converter, b->parsed->schema, b->parsed->schema_size);
	for (int i = 0; i < before->count; i++)
	{
		KsColumnConverter *column = ks_converter_find(t->converter, &before->fields[i], i);
		bool		missing = false;

		if (column == NULL || ks_column_index(column) != b->conflict->index)
			continue;
		ks_convert_field(column, &before->fields[i], value, isnull, &missing);
		return !missing;
	}
	return false;
}

/* ERROR: it is not known what a delete is ordered by. */
static void
cannot_order_delete(KsBatch *b)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the delete cannot be put in order: its message does not tell the old value of column \"%s\"",
					b->conflict->column),
			 errhint("Set \"conflict\": \"newer\" in a subscription of the source table, too, whose publisher then tells it; or "
					 "REPLICA IDENTITY FULL there and option \"full_before\" here.")));
}

/* Finds the place of a delete in the order. */
static void
order_delete(KsBatch *b, KsRowOrder *order)
{
	KsOrdering *o = &b->conflict->ordering;
	char	   *header = delete_header(b->message);
	TimestampTz at = commit_time(b->parsed);

	order->has_base = b->full_before && old_value(b, &order->base, &order->base_null);
	if (header && header[0] != '\0' && header[0] != '=')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("header %s is malformed: \"%s\"", KS_HEADER_DELETED, header)));
	if (header)
		order->value = ks_ordering_value(o, header[0] == '=' ? header + 1 : NULL, &order->isnull);
	else if (o->is_time && at != 0)
		order->value = ks_ordering_moment(o, at);
	else if (order->has_base)
	{
		order->value = order->base;
		order->isnull = order->base_null;
	}
	else
		cannot_order_delete(b);
}

/* Finds the place of a row in the order. */
static void
order_row(KsBatch *b, KsRowOrder *order)
{
	KsConflictBatch *c = b->conflict;

	if (b->cells[c->index] != KS_CELL_VALUE)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("the message has no value for column \"%s\", which option \"conflict\" names", c->column)));
	order->value = b->values[c->index];
	order->isnull = b->nulls[c->index];
	if (b->parsed->op != 'u')
		return;
	order->has_base = old_value(b, &order->base, &order->base_null);
	order->stale = commit_time(b->parsed) != 0 && commit_time(b->parsed) < GetCurrentTimestamp() - c->retention;
}

/* ERROR if an unchanged value is left out: the row that is there may not be the one that has it. */
static void
check_whole(KsBatch *b)
{
	for (int i = 0; i < b->natts; i++)
		if (b->cells[i] == KS_CELL_KEEP)
			ereport(ERROR,
					(errcode(ERRCODE_NO_DATA_FOUND),
					 errmsg("column \"%s\": the message leaves the value out as unchanged, and the row may have been changed here",
							b->target->columns[i].name),
					 errhint("Set REPLICA IDENTITY FULL on the source table.")));
}

/* See conflict_batch.h. */
bool
ks_conflict_name_wins(const char *new_name, const char *old_name)
{
	return strcmp(new_name ? new_name : "", old_name ? old_name : "") > 0;
}

/* Does an event come after what the batch has for the row so far? */
static bool
comes_after(KsBatch *b, const KsRowOrder *new, const KsRowOrder *old)
{
	int			order = ks_ordering_compare(&b->conflict->ordering, new->value, new->isnull, old->value, old->isnull);

	if (order != 0)
		return order > 0;
	if (new->deleted || old->deleted)
		return new->deleted && !old->deleted;
	/* one database gives two rows of a key the same value only where it repeats itself: then the last word counts */
	return strcmp(new->server ? new->server : "", old->server ? old->server : "") == 0 ||
		ks_conflict_name_wins(new->server, old->server);
}

/* Notes the old row of an event, for keep. */
static void
take_before(KsBatch *b, KsRowOrder *order)
{
	KsTargetTable *t = b->target;
	const KsParsed *parsed = b->parsed;

	if (!parsed->before.present)
	{
		if (parsed->op == 'u' || parsed->op == 'd')
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the event has no old row, by which conflicts are found"),
					 errhint("Set REPLICA IDENTITY FULL on the source table.")));
		return;
	}
	order->before = palloc(sizeof(Datum) * b->natts);
	order->before_nulls = palloc(sizeof(bool) * b->natts);
	order->before_cells = palloc0(b->natts);
	ks_converter_use_schema(t->converter, parsed->schema, parsed->schema_size);
	for (int i = 0; i < parsed->before.count; i++)
	{
		KsColumnConverter *column = ks_converter_find(t->converter, &parsed->before.fields[i], i);
		int			index = column ? ks_column_index(column) : -1;
		bool		missing = false;

		if (column == NULL || !t->columns[index].writable || t->columns[index].metadata)
			continue;
		ks_convert_field(column, &parsed->before.fields[i], &order->before[index], &order->before_nulls[index], &missing);
		order->before_cells[index] = missing ? KS_CELL_KEEP : KS_CELL_VALUE;
	}
}

/* See conflict_batch.h. */
bool
ks_conflict_take(KsBatch *b, KsBatchRow *row, bool deleted)
{
	KsRowOrder *order = palloc0(sizeof(KsRowOrder));
	KsRowOrder *former = row->order;

	if (!deleted)
		check_whole(b);
	order->deleted = deleted;
	if (b->conflict->kind == KS_CONFLICT_KEEP)
	{
		take_before(b, order);
		row->order = order;
		return true;
	}
	/* the time of the commit, by which such a delete would be ordered, may be later than the row that it has become */
	if (deleted && !b->parsed->tombstone && !delete_header(b->message) && ks_key_stays(b, row->values))
		return false;
	if (b->parsed->server)
		order->server = pnstrdup(b->parsed->server, b->parsed->server_size);
	if (deleted)
		order_delete(b, order);
	else
		order_row(b, order);
	if (former)
	{
		if (!comes_after(b, order, former))
			return false;
		order->has_base = former->has_base;
		order->base = former->base;
		order->base_null = former->base_null;
	}
	row->order = order;
	return true;
}

/* See conflict_batch.h. */
bool
ks_conflict_forget(const KsSubscription *s)
{
	int64		retention = ks_tombstone_retention(s->options);
	bool		more = false;
	ListCell   *lc;

	foreach(lc, s->targets)
	{
		ks_apply_begin();
		more = ks_deleted_rows_clean(((KsTarget *) lfirst(lc))->relid, retention, FORGET_ROWS) == FORGET_ROWS || more;
		ks_apply_commit();
	}
	return more;
}
