/*
 * snapshot.c: reading the rows of published tables; see snapshot.h.
 *
 * Rows are taken straight from the table's pages: a scan, no executor.  One row is held back, so that the last one can
 * be marked as such.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_inherits.h"
#include "decode/emit.h"
#include "decode/publication.h"
#include "decode/relation_cache.h"
#include "decode/slot_create.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "produce/publisher_catalog.h"
#include "produce/snapshot.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define CLOCK_EVERY 64			/* rows that share one look at the clock */
#define SHOW_EVERY 65536		/* rows between two progress texts */

/* The whole run. */
typedef struct Run
{
	const KsPublisher *publisher;
	KsSource   *source;
	KsProducer *producer;
	KsEmitter  *emitter;
	List	   *tables;			/* Oids published as, to be read in this run */
	int			index;			/* of the table in hand */
	XLogRecPtr	position_lsn;
	uint64		ordinal;		/* of the next row */
	bool		any_row;		/* of any table was sent */
	MemoryContext row_context;
} Run;

/* A row that waits for its successor. */
typedef struct Held
{
	KsEntry    *entry;
	TupleTableSlot *slot;
	KsRow		row;
} Held;

/* One table being read. */
typedef struct Reading
{
	Run		   *run;
	XLogRecPtr	lsn;
	Held		held;			/* entry NULL = none */
	const KsRelation *rel;		/* of the row sent last */
	uint64		rows;
	TimestampTz read_at;
	List	   *slots;			/* of all leaves, to be dropped at the end: one of them may hold a row */
	List	   *entries;		/* of all leaves, likewise */
} Reading;

/* May the owner read all that is published of the table, every row of it?  ERROR if not. */
static void
check_rights(const KsPublisher *publisher, const KsRelation *rel)
{
	AclResult	result = pg_class_aclcheck(rel->relid, publisher->owner, ACL_SELECT);

	if (result != ACLCHECK_OK)
	{
		result = rel->ncolumns > 0 ? ACLCHECK_OK : ACLCHECK_NO_PRIV;
		for (int i = 0; i < rel->ncolumns && result == ACLCHECK_OK; i++)
			result = pg_attribute_aclcheck(rel->relid, rel->columns[i] + 1, publisher->owner, ACL_SELECT);
	}
	if (result != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table \"%s.%s\"", rel->schema, rel->table),
				 errdetail("The owner of publisher \"%s\" needs SELECT for the snapshot.", NameStr(publisher->name))));
	if (check_enable_rls(rel->relid, publisher->owner, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row-level security of table \"%s.%s\" would hide rows from the snapshot", rel->schema, rel->table),
				 errhint("Use an owner with BYPASSRLS, or the table's own.")));
}

/* Debezium's marker of a row. */
static const char *
marker(const Run *run, bool first_of_table, bool last_of_table, bool last_of_all)
{
	if (last_of_all)
		return "last";
	if (first_of_table && !run->any_row)
		return "first";
	if (last_of_table)
		return "last_in_data_collection";
	if (first_of_table)
		return "first_in_data_collection";
	return "true";
}

/* Shows which table is read, and how far. */
static void
show_progress(const Reading *reading)
{
	const KsRelation *rel = reading->rel;
	char		text[KS_DETAIL_SIZE];

	snprintf(text, sizeof(text), "table %s.%s, %d of %d, " UINT64_FORMAT " rows", rel->schema, rel->table,
			 reading->run->index + 1, list_length(reading->run->tables), reading->rows);
	ks_producer_set_state(reading->run->producer, KS_STATE_SNAPSHOT, text);
}

/* Sends the row that was held back. */
static void
send_held(Reading *reading, bool last_of_table, bool last_of_all)
{
	Run		   *run = reading->run;
	MemoryContext old = MemoryContextSwitchTo(run->row_context);

	if (reading->rows % CLOCK_EVERY == 0)
		reading->read_at = GetCurrentTimestamp();
	ks_emit_mark(run->emitter, marker(run, reading->rows == 0, last_of_table, last_of_all), reading->read_at);
	ks_emit_insert(run->emitter, reading->held.entry->rel, KS_OP_READ, &reading->held.row, reading->lsn);
	MemoryContextSwitchTo(old);
	MemoryContextReset(run->row_context);
	ExecClearTuple(reading->held.slot);
	reading->rel = reading->held.entry->rel;
	reading->held.entry = NULL;
	reading->rows++;
	run->ordinal++;
	run->any_row = true;
	if (reading->rows % SHOW_EVERY == 0)
		show_progress(reading);
}

/* The row of a slot as one of the relation published as; "which" of the entry's two rows may be used for it. */
static void
row_of_slot(KsEntry *entry, TupleTableSlot *slot, int which, KsRow *out)
{
	KsRow	   *room = which == 0 ? &entry->before : &entry->after;

	slot_getallattrs(slot);
	*out = *room;
	if (entry->map == NULL)
	{
		out->values = slot->tts_values;
		out->nulls = slot->tts_isnull;
		return;
	}
	for (int i = 0; i < entry->map->maplen; i++)
	{
		int			there = entry->map->attnums[i] - 1;

		out->nulls[i] = there < 0 || slot->tts_isnull[there];
		out->values[i] = out->nulls[i] ? (Datum) 0 : slot->tts_values[there];
	}
}

/* Reads one table with rows; the last row stays held. */
static void
read_leaf(Reading *reading, Relation leaf)
{
	KsEntry    *entry = palloc0(sizeof(KsEntry));
	TableScanDesc scan;
	TupleTableSlot *slots[2];
	int			next = 0;

	ks_entry_fill(reading->run->source, leaf, false, entry);
	reading->entries = lappend(reading->entries, entry);
	if (!entry->published)
		return;
	for (int i = 0; i < 2; i++)
	{
		slots[i] = table_slot_create(leaf, NULL);
		reading->slots = lappend(reading->slots, slots[i]);
	}
	scan = table_beginscan(leaf, GetActiveSnapshot(), 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slots[next]))
	{
		KsRow		row;

		CHECK_FOR_INTERRUPTS();
		row_of_slot(entry, slots[next], next, &row);
		if (entry->filter && !ks_row_filter_match(entry->filter, &row))
			continue;
		if (reading->held.entry)
			send_held(reading, false, false);
		reading->held.entry = entry;
		reading->held.slot = slots[next];
		reading->held.row = row;
		next = 1 - next;
	}
	table_endscan(scan);
}

/* Oids of the tables with rows below a published one, locked against changes of their form; NIL if it is gone. */
static List *
lock_leaves(Oid relid)
{
	Relation	rel = try_relation_open(relid, AccessShareLock);
	List	   *all;
	List	   *leaves = NIL;
	ListCell   *lc;

	if (rel == NULL)
		return NIL;
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		all = find_all_inheritors(relid, AccessShareLock, NULL);
	else
		all = list_make1_oid(relid);
	relation_close(rel, NoLock);
	foreach(lc, all)
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_RELATION)
			leaves = lappend_oid(leaves, lfirst_oid(lc));
	return leaves;
}

/* Begins a read-only transaction that keeps one snapshot. */
static void
begin_reading(void)
{
	StartTransactionCommand();
	XactIsoLevel = XACT_REPEATABLE_READ;
	XactReadOnly = true;
}

/* Has any of the tables after the one in hand a visible row?  Then the last row of this one is not the last of all. */
static bool
more_rows(Run *run)
{
	for (int i = run->index + 1; i < list_length(run->tables); i++)
	{
		ListCell   *lc;
		bool		found = false;

		foreach(lc, lock_leaves(list_nth_oid(run->tables, i)))
		{
			Relation	leaf = table_open(lfirst_oid(lc), NoLock);
			TupleTableSlot *slot = table_slot_create(leaf, NULL);
			TableScanDesc scan = table_beginscan(leaf, GetActiveSnapshot(), 0, NULL);

			found = table_scan_getnextslot(scan, ForwardScanDirection, slot);
			ExecDropSingleTupleTableSlot(slot);
			table_endscan(scan);
			table_close(leaf, NoLock);
			if (found)
				return true;
		}
	}
	return false;
}

/* Reads and sends the rows of one published table; returns how many. */
static uint64
read_table(Run *run, Oid relid)
{
	Reading		reading;
	KsEmitOrigin origin;
	List	   *leaves;
	ListCell   *lc;
	Oid			user;
	int			security;

	memset(&reading, 0, sizeof(reading));
	reading.run = run;
	begin_reading();
	/* locks first: a TRUNCATE or rewrite that committed before them is in the snapshot that is taken after them */
	leaves = lock_leaves(relid);
	PushActiveSnapshot(GetTransactionSnapshot());
	reading.lsn = GetXLogInsertRecPtr();
	reading.read_at = GetCurrentTimestamp();
	(void) ks_source_refresh(run->source);

	memset(&origin, 0, sizeof(origin));
	origin.xid = GetActiveSnapshot()->xmax;
	origin.commit_lsn = reading.lsn;
	origin.position_lsn = run->position_lsn;
	origin.commit_time = reading.read_at;
	origin.first_ordinal = run->ordinal;
	origin.snapshot = "true";
	ks_emit_begin(run->emitter, &origin);

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(run->publisher->owner, security | SECURITY_RESTRICTED_OPERATION);
	foreach(lc, leaves)
	{
		Relation	leaf = table_open(lfirst_oid(lc), NoLock);

		read_leaf(&reading, leaf);
		table_close(leaf, NoLock);
	}
	SetUserIdAndSecContext(user, security);
	if (reading.held.entry)
		send_held(&reading, true, !more_rows(run));
	foreach(lc, reading.slots)
		ExecDropSingleTupleTableSlot(lfirst(lc));
	(void) ks_emit_commit(run->emitter, run->position_lsn);
	foreach(lc, reading.entries)
		MemoryContextDelete(((KsEntry *) lfirst(lc))->context);
	PopActiveSnapshot();
	CommitTransactionCommand();
	return reading.rows;
}

/* Lists the tables to be read, in "context"; checks the owner's rights before the first row is sent. */
static List *
list_tables(const KsPublisher *publisher, KsSource *source, MemoryContext context)
{
	List	   *result = NIL;
	ListCell   *lc;
	bool		exists;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	source->valid = false;
	source->lsn = InvalidXLogRecPtr;
	(void) ks_source_refresh(source);
	foreach(lc, ks_publication_tables(source, &exists))
	{
		KsPublishedTable *table = lfirst(lc);
		Relation	leaf = RelationIdGetRelation(linitial_oid(table->leaves));
		MemoryContext old;
		KsEntry		entry;

		if (!RelationIsValid(leaf))
			continue;
		ks_entry_fill(source, leaf, false, &entry);
		RelationClose(leaf);
		if (entry.published)
			check_rights(publisher, entry.rel);
		MemoryContextDelete(entry.context);
		old = MemoryContextSwitchTo(context);
		result = lappend_oid(result, table->relid);
		MemoryContextSwitchTo(old);
	}
	if (!exists)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("publication \"%s\" does not exist", source->publication),
				 errhint("Create it, or name another one with kafka.alter_publisher().")));
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return result;
}

void
ks_snapshot_run(const KsPublisher *publisher, KsSource *source, KsProducer *producer)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "snapshot", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Run			run;
	ListCell   *lc;

	memset(&run, 0, sizeof(run));
	run.publisher = publisher;
	run.source = source;
	run.producer = producer;
	run.emitter = ks_emitter_create(source, ks_producer_sink(producer));
	run.row_context = AllocSetContextCreate(context, "row", ALLOCSET_DEFAULT_SIZES);
	/*
	 * Positions of snapshot rows come before those of all streamed ones, whose commit records begin at the slot's start
	 * or later, and those of a later attempt after those of an earlier one.
	 */
	run.position_lsn = ks_slot_confirmed(NameStr(publisher->slot_name));
	if (XLogRecPtrIsInvalid(run.position_lsn))
		run.position_lsn = GetXLogInsertRecPtr();
	run.position_lsn--;
	run.ordinal = (uint64) GetCurrentTimestamp();

	ks_producer_set_state(producer, KS_STATE_SNAPSHOT, NULL);
	foreach(lc, list_tables(publisher, source, context))
	{
		if (!ks_store_table_snapshot(publisher->id, lfirst_oid(lc)))
			run.tables = lappend_oid(run.tables, lfirst_oid(lc));
	}
	foreach(lc, run.tables)
	{
		Oid			relid = lfirst_oid(lc);
		uint64		rows;

		run.index = foreach_current_index(lc);
		rows = read_table(&run, relid);
		MemoryContextSwitchTo(context);
		ks_producer_flush(producer);
		ks_store_table_done(publisher->id, relid, rows);
		ks_worker_progress();
	}
	ks_store_snapshot_done(publisher->id);
	source->valid = false;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
