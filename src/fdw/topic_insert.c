/*
 * topic_insert.c: INSERT and COPY into a topic: rows become messages at once, and are sent before the commit.
 */
#include "postgres.h"

#include "commands/explain.h"
#include "compat/fdw_compat.h"
#include "fdw/topic_encode.h"
#include "fdw/topic_fdw.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

typedef struct Insert
{
	KsTopicTable *table;
	KsTopicEncoder *encoder;
	int			target;
} Insert;

/* Refuses what a log cannot do, when it is planned. */
static List *
plan_modify(PlannerInfo *root, ModifyTable *plan, Index index, int subplan)
{
	RangeTblEntry *rte = planner_rt_fetch(index, root);

	if (plan->operation != CMD_INSERT)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg(plan->operation == CMD_DELETE ? "cannot delete from foreign table \"%s\"" :
						"cannot update foreign table \"%s\"", get_rel_name(rte->relid)),
				 errdetail("It is a topic: messages are only added to it."),
				 errhint("For a reader that keeps the latest message of each key, insert a new one.")));
	if (plan->onConflictAction != ONCONFLICT_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot use ON CONFLICT with foreign table \"%s\"", get_rel_name(rte->relid)),
				 errdetail("It is a topic, which has no unique keys.")));
	return NIL;
}

/* Begins to write a table. */
static void
begin(EState *estate, ResultRelInfo *rri)
{
	MemoryContext former = MemoryContextSwitchTo(estate->es_query_cxt);
	Insert	   *insert = palloc0(sizeof(Insert));
	Oid			role = ks_modify_role(rri, estate);

	insert->table = ks_topic_table(rri->ri_RelationDesc);
	insert->encoder = ks_topic_encoder_create(insert->table, RelationGetDescr(rri->ri_RelationDesc));
	insert->target = ks_outbox_target(ks_server_of_table(insert->table->serverid, role), role, insert->table->topic,
									  insert->table->name);
	rri->ri_FdwState = insert;
	MemoryContextSwitchTo(former);
}

/* INSERT begins. */
static void
begin_modify(ModifyTableState *mtstate, ResultRelInfo *rri, List *private, int subplan, int eflags)
{
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		ks_topic_encoder_check(ks_topic_table(rri->ri_RelationDesc));
	else
		begin(mtstate->ps.state, rri);
}

/* COPY begins, or a row of a partitioned table comes to a partition that is a topic. */
static void
begin_insert(ModifyTableState *mtstate, ResultRelInfo *rri)
{
	if (mtstate->ps.plan && ((ModifyTable *) mtstate->ps.plan)->onConflictAction != ONCONFLICT_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot use ON CONFLICT with foreign table \"%s\"", RelationGetRelationName(rri->ri_RelationDesc)),
				 errdetail("It is a topic, which has no unique keys.")));
	begin(mtstate->ps.state, rri);
}

/* Takes a row. */
static TupleTableSlot *
insert_row(EState *estate, ResultRelInfo *rri, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	Insert	   *insert = rri->ri_FdwState;
	KsOutgoing	message;

	ks_topic_encode(insert->encoder, slot, &message);
	message.target = insert->target;
	ks_outbox_add(&message);
	return slot;
}

/* What is written is the transaction's now. */
static void
end_insert(EState *estate, ResultRelInfo *rri)
{
	rri->ri_FdwState = NULL;
}

/* Rows can only be inserted, and that only unless option "updatable" is false. */
static int
is_updatable(Relation rel)
{
	return ks_topic_table(rel)->updatable ? 1 << CMD_INSERT : 0;
}

static void
explain_modify(ModifyTableState *mtstate, ResultRelInfo *rri, List *private, int subplan, struct ExplainState *es)
{
	ExplainPropertyText("Kafka Topic", ks_topic_table(rri->ri_RelationDesc)->topic, es);
}

void
ks_topic_insert_functions(FdwRoutine *routine)
{
	routine->PlanForeignModify = plan_modify;
	routine->BeginForeignModify = begin_modify;
	routine->ExecForeignInsert = insert_row;
	routine->EndForeignModify = end_insert;
	routine->BeginForeignInsert = begin_insert;
	routine->EndForeignInsert = end_insert;
	routine->IsForeignRelUpdatable = is_updatable;
	routine->ExplainForeignModify = explain_modify;
}
