/*
 * topic_scan.c: reading a topic as a table.
 *
 * Nothing is asked of a broker before the first row is.  A scan that begins anew (a nested loop's inner side) keeps its
 * connection, and sees the topic as it was at the first time.
 */
#include "postgres.h"

#include "commands/explain.h"
#include "compat/fdw_compat.h"
#include "fdw/topic_conditions.h"
#include "fdw/topic_fdw.h"
#include "fdw/topic_row.h"
#include "fdw/topic_scan.h"
#include "nodes/makefuncs.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

typedef struct TopicScan
{
	KsTopicTable *table;
	KsTopicReader *reader;
	KsTopicRow *row;
	List	   *conditions;
	bool		begun;			/* since the last rescan */
	KsMessage	message;		/* the one at hand */
} TopicScan;

/* Prepares a scan, without asking Kafka for anything. */
static void
begin_scan(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	TopicScan  *scan = palloc0(sizeof(TopicScan));
	Bitmapset  *wanted = NULL;
	KsServer   *server;
	ListCell   *cell;

	node->fdw_state = scan;
	scan->table = ks_topic_table(node->ss.ss_currentRelation);
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	foreach(cell, (List *) linitial(plan->fdw_private))
		wanted = bms_add_member(wanted, lfirst_int(cell));
	server = ks_server_of_table(scan->table->serverid, ks_scan_role(node));
	scan->reader = ks_topic_reader_create(server, scan->table->topic, scan->table->ordered,
										  linitial_int((List *) lsecond(plan->fdw_private)));
	scan->row = ks_topic_row_create(scan->table, RelationGetDescr(node->ss.ss_currentRelation), wanted);
	scan->conditions = ks_conditions_prepare(scan->table, plan->scan.scanrelid, plan->fdw_exprs, &node->ss.ps);
}

/* Returns the next message as a row. */
static TupleTableSlot *
iterate_scan(ForeignScanState *node)
{
	TopicScan  *scan = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;

	ExecClearTuple(slot);
	if (!scan->begun)
	{
		KsBounds	bounds;

		ks_conditions_bounds(scan->conditions, node->ss.ps.ps_ExprContext, &bounds);
		ks_topic_row_forget(scan->row);
		ks_topic_reader_start(scan->reader, &bounds);
		scan->begun = true;
	}
	if (!ks_topic_row_has_more(scan->row) && !ks_topic_reader_next(scan->reader, &scan->message))
		return slot;
	ks_topic_row_read(scan->row, &scan->message, slot->tts_values, slot->tts_isnull);
	return ExecStoreVirtualTuple(slot);
}

static void
rescan(ForeignScanState *node)
{
	((TopicScan *) node->fdw_state)->begun = false;
}

static void
end_scan(ForeignScanState *node)
{
	TopicScan  *scan = node->fdw_state;

	if (scan && scan->reader)
		ks_topic_reader_close(scan->reader);
}

/* Shows which partitions were read, and where: "0: 5-10 (5 messages)". */
static void
explain_ranges(const KsTopicReader *reader, ExplainState *es)
{
	List	   *list = NIL;

	for (int i = 0; i < reader->nranges; i++)
	{
		const KsRange *range = &reader->ranges[i];

		if (range->wanted)
			list = lappend(list, psprintf("%d: " INT64_FORMAT " to " INT64_FORMAT " (" INT64_FORMAT " messages)",
										  (int) range->partition, range->start, range->end, range->messages));
	}
	ExplainPropertyList("Offsets Read", list, es);
}

static void
explain_scan(ForeignScanState *node, ExplainState *es)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	TopicScan  *scan = node->fdw_state;

	ExplainPropertyText("Kafka Topic", scan->table->topic, es);
	if (plan->fdw_exprs)
	{
		List	   *context = set_deparse_context_plan(es->deparse_cxt, (Plan *) plan, NIL);
		Node	   *conditions = (Node *) make_ands_explicit(plan->fdw_exprs);

		ExplainPropertyText("Kafka Conditions", deparse_expression(conditions, context, list_length(es->rtable) > 1, false),
							es);
	}
	if (es->analyze && scan->reader)
	{
		ExplainPropertyInteger("Messages Read", NULL, scan->reader->messages, es);
		if (es->verbose)
			explain_ranges(scan->reader, es);
	}
}

void
ks_topic_scan_functions(FdwRoutine *routine)
{
	routine->GetForeignRelSize = ks_topic_rel_size;
	routine->GetForeignPaths = ks_topic_paths;
	routine->GetForeignPlan = ks_topic_plan;
	routine->BeginForeignScan = begin_scan;
	routine->IterateForeignScan = iterate_scan;
	routine->ReScanForeignScan = rescan;
	routine->EndForeignScan = end_scan;
	routine->ExplainForeignScan = explain_scan;
}
