/*
 * status.c: what the status views show, read from shared memory; and the functions that wait for progress.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "compat/pg_compat.h"
#include "control/definitions.h"
#include "control/shmem.h"
#include "control/xact.h"
#include "funcapi.h"
#include "kafka/log_position.h"
#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "nodes/primnodes.h"
#include "storage/lock.h"
#include "tcop/pquery.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define WAIT_STEP_MS 200		/* waiters look again this often even without a broadcast */

PG_FUNCTION_INFO_V1(ks_worker_status);
PG_FUNCTION_INFO_V1(ks_partition_status);
PG_FUNCTION_INFO_V1(ks_wait_for_publisher);
PG_FUNCTION_INFO_V1(ks_wait_for_subscription);

/* May the current user see the status of what this role owns? */
static bool
may_see(Oid owner)
{
	return has_privs_of_role(GetUserId(), owner) || has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
}

/* Puts a text, NULL if empty. */
static void
put_text(Datum *values, bool *nulls, int i, const char *text)
{
	nulls[i] = text[0] == '\0';
	if (!nulls[i])
		values[i] = CStringGetTextDatum(text);
}

/* Puts an LSN, NULL if invalid. */
static void
put_lsn(Datum *values, bool *nulls, int i, uint64 lsn)
{
	nulls[i] = lsn == 0;
	values[i] = LSNGetDatum(lsn);
}

/* Puts a time, NULL if 0. */
static void
put_time(Datum *values, bool *nulls, int i, TimestampTz t)
{
	nulls[i] = t == 0;
	values[i] = TimestampTzGetDatum(t);
}

/* A worker's lines for kafka.problems as a text[]. */
static Datum
problem_array(const KsWorker *w)
{
	Datum		lines[KS_PROBLEMS];
	int			n = 0;

	for (int i = 0; i < KS_PROBLEMS; i++)
		if (w->problems[i][0] != '\0')
			lines[n++] = CStringGetTextDatum(w->problems[i]);
	return PointerGetDatum(construct_array(lines, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * kafka.worker_status(): one row per worker of the publishers and subscriptions of this database that the current user
 * may see.
 */
Datum
ks_worker_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	KsWorker   *copy = palloc(sizeof(KsWorker));

	ks_shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < ks_shared->nworkers; i++)
	{
		KsWorker   *w = &ks_workers[i];
		Datum		values[26];
		bool		nulls[26] = {false};
		int			n = 0;
		uint64		lag;

		LWLockAcquire(ks_shared->lock, LW_SHARED);
		memcpy(copy, w, sizeof(KsWorker));
		LWLockRelease(ks_shared->lock);
		if ((copy->kind != KS_WORKER_PUBLISHER && copy->kind != KS_WORKER_SUBSCRIPTION) ||
			copy->database != MyDatabaseId || copy->dropped || !may_see(copy->owner))
			continue;

		values[n++] = CStringGetTextDatum(copy->kind == KS_WORKER_PUBLISHER ? "publisher" : "subscription");
		values[n++] = Int64GetDatum(copy->object_id);
		values[n++] = CStringGetTextDatum(ks_state_name(copy->state));
		put_text(values, nulls, n++, copy->detail);
		nulls[n] = copy->pid == 0;
		values[n++] = Int32GetDatum(copy->pid);
		values[n++] = Int64GetDatum(pg_atomic_read_u64(&w->rows));
		values[n++] = Int64GetDatum(pg_atomic_read_u64(&w->bytes));
		put_lsn(values, nulls, n++, pg_atomic_read_u64(&w->acked_lsn));
		put_lsn(values, nulls, n++, pg_atomic_read_u64(&w->confirmed_lsn));
		put_lsn(values, nulls, n++, pg_atomic_read_u64(&w->read_lsn));
		put_time(values, nulls, n++, pg_atomic_read_u64(&w->last_commit_time));
		lag = pg_atomic_read_u64(&w->lag_messages);
		nulls[n] = lag == UINT64_MAX;
		values[n++] = Int64GetDatum(lag);
		values[n++] = Int64GetDatum(pg_atomic_read_u64(&w->skipped_truncates));
		values[n++] = Int64GetDatum(copy->restarts);
		put_text(values, nulls, n++, copy->last_error);
		put_time(values, nulls, n++, copy->last_error_at);
		put_time(values, nulls, n++, copy->started_at);
		values[n++] = problem_array(copy);
		values[n++] = Int64GetDatum(pg_atomic_read_u64(&w->loops));
		put_time(values, nulls, n++, pg_atomic_read_u64(&w->fetched_at));
		put_time(values, nulls, n++, copy->next_start);
		values[n++] = Int32GetDatum(copy->ordinal);
		values[n++] = Int64GetDatum(pg_atomic_read_u64(&w->columns_added));
		values[n++] = Int64GetDatum(pg_atomic_read_u64(&w->conflicts[KS_CONFLICTS_APPLIED]));
		values[n++] = Int64GetDatum(pg_atomic_read_u64(&w->conflicts[KS_CONFLICTS_KEPT]));
		values[n++] = Int64GetDatum(pg_atomic_read_u64(&w->conflicts[KS_CONFLICTS_TIES]));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(ks_launcher_message);

/* kafka.launcher_message(): why nothing can run, or NULL. */
Datum
ks_launcher_message(PG_FUNCTION_ARGS)
{
	char		message[KS_MESSAGE_SIZE];
	bool		running;

	if (ks_shared == NULL)
		PG_RETURN_TEXT_P(cstring_to_text("pg_kafka_sync is not in shared_preload_libraries"));
	LWLockAcquire(ks_shared->lock, LW_SHARED);
	running = ks_shared->launcher_pid != 0;
	strlcpy(message, ks_shared->message, sizeof(message));
	LWLockRelease(ks_shared->lock);
	if (RecoveryInProgress())
		PG_RETURN_TEXT_P(cstring_to_text("the server is a standby: workers start at its promotion"));
	if (!running)
		PG_RETURN_TEXT_P(cstring_to_text("the launcher is not running"));
	if (!ks_guc_enabled)
		PG_RETURN_TEXT_P(cstring_to_text("pg_kafka_sync.enabled is off"));
	if (message[0] == '\0')
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(message));
}

/* kafka.partition_status(): log ends that the subscriptions of this database have seen. */
Datum
ks_partition_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	ks_shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < ks_shared->npartitions; i++)
	{
		KsPartition copy;
		KsWorker   *w;
		Oid			owner = InvalidOid;
		Datum		values[6];
		bool		nulls[6] = {false};

		LWLockAcquire(ks_shared->lock, LW_SHARED);
		copy = ks_partitions[i];
		if (copy.database == MyDatabaseId)
		{
			w = ks_worker_find(MyDatabaseId, KS_WORKER_SUBSCRIPTION, copy.subscription_id, 0);
			if (w)
				owner = w->owner;
		}
		LWLockRelease(ks_shared->lock);
		if (!OidIsValid(owner) || !may_see(owner))
			continue;
		values[0] = Int64GetDatum(copy.subscription_id);
		values[1] = CStringGetTextDatum(copy.topic);
		values[2] = Int32GetDatum(copy.partition);
		values[3] = Int64GetDatum(copy.next_offset);
		values[4] = Int64GetDatum(copy.high_watermark);
		values[5] = Int64GetDatum(copy.last_stable_offset);
		nulls[4] = copy.high_watermark < 0;
		nulls[5] = copy.last_stable_offset < 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * Sleeps until the worker of an object broadcasts progress, at most a step and at most until "end".  Returns false when
 * the time is up.
 */
static bool
wait_step(KsWorkerKind kind, int64 id, TimestampTz end)
{
	TimestampTz now = GetCurrentTimestamp();
	KsWorker   *w;
	long		ms;

	CHECK_FOR_INTERRUPTS();
	if (now >= end)
		return false;
	ms = Min(TimestampDifferenceMilliseconds(now, end) + 1, WAIT_STEP_MS);
	LWLockAcquire(ks_shared->lock, LW_SHARED);
	w = ks_worker_find(MyDatabaseId, kind, id, 0);
	LWLockRelease(ks_shared->lock);
	if (w == NULL)
	{
		ConditionVariableCancelSleep();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, Min(ms, 20),
						 ks_wait_event("KafkaWaitFor"));
		ResetLatch(MyLatch);
	}
	else
		(void) ConditionVariableTimedSleep(&w->progress, ms, ks_wait_event("KafkaWaitFor"));
	return true;
}

/* Has a publisher acknowledged everything up to lsn (or finished, where it has no stream)? */
static bool
publisher_reached(int64 id, XLogRecPtr lsn)
{
	KsWorker   *w;
	bool		reached = false;

	LWLockAcquire(ks_shared->lock, LW_SHARED);
	w = ks_worker_find(MyDatabaseId, KS_WORKER_PUBLISHER, id, 0);
	if (w)
		reached = w->state == KS_STATE_FINISHED || pg_atomic_read_u64(&w->acked_lsn) >= lsn;
	LWLockRelease(ks_shared->lock);
	return reached;
}

/* kafka.wait_for_publisher(name, lsn, timeout) */
Datum
ks_wait_for_publisher(PG_FUNCTION_ARGS)
{
	char	   *name = ks_name_arg(fcinfo, 0, "name");
	int64		timeout = ks_timeout_arg(fcinfo, 2, 30000);
	TimestampTz end;
	KsPublisher *p;
	XLogRecPtr	lsn;
	bool		reached;

	ks_shmem_require();
	p = ks_publisher_by_name(name);
	if (p == NULL || !may_see(p->owner))
		(void) ks_own_publisher(name);	/* raises the error */
	lsn = PG_ARGISNULL(1) ? ks_wal_end() : PG_GETARG_LSN(1);
	end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	ks_wake_publishers();
	while (!(reached = publisher_reached(p->id, lsn)) && wait_step(KS_WORKER_PUBLISHER, p->id, end))
		;
	ConditionVariableCancelSleep();
	PG_RETURN_BOOL(reached);
}

/* The stored next offset of a partition, as committed by now, or -1. */
static int64
stored_offset(int64 id, const char *topic, int32 partition)
{
	Relation	rel = table_open(ks_catalog_relid("subscription_position"), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData keys[3];
	SysScanDesc scan;
	HeapTuple	tuple;
	int64		offset = -1;
	bool		isnull;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(topic));
	keys[1].sk_collation = TupleDescAttr(RelationGetDescr(rel), 1)->attcollation;
	ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(partition));
	scan = systable_beginscan(rel, ks_primary_key_index(rel), true, snapshot, 3, keys);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
		offset = DatumGetInt64(heap_getattr(tuple, 4, RelationGetDescr(rel), &isnull));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return offset;
}

/* Is a target of a subscription being read again, or about to be, as committed by now? */
static bool
is_rebuilding(int64 id)
{
	Relation	rel = table_open(ks_catalog_relid("subscription_rebuild"), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	ScanKeyInit(&key, 2, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * Is the statement under way this function's call and nothing else, with a snapshot of its own?  Then that snapshot reads
 * nothing any more.
 */
static bool
is_whole_statement(FunctionCallInfo fcinfo)
{
	PlannedStmt *statement;
	TargetEntry *result;

	if (IsolationUsesXactSnapshot() || ActivePortal == NULL || list_length(ActivePortal->stmts) != 1)
		return false;
	statement = linitial_node(PlannedStmt, ActivePortal->stmts);
	if (statement->commandType != CMD_SELECT || statement->subplans != NIL || !IsA(statement->planTree, Result) ||
		outerPlan(statement->planTree) != NULL || list_length(statement->planTree->targetlist) != 1)
		return false;
	result = linitial_node(TargetEntry, statement->planTree->targetlist);
	return IsA(result->expr, FuncExpr) && ((FuncExpr *) result->expr)->funcid == fcinfo->flinfo->fn_oid;
}

/* Waits until no target of a subscription is being read again; false: the time is up. */
static bool
wait_for_rebuild(FunctionCallInfo fcinfo, int64 id, TimestampTz end)
{
	LOCKTAG		tag;
	bool		marked = is_whole_statement(fcinfo);
	bool		ready = true;

	ks_subscription_waiter_tag(&tag, id);
	if (marked)
		(void) LockAcquire(&tag, AccessShareLock, false, false);
	while (ready && is_rebuilding(id))
		ready = wait_step(KS_WORKER_SUBSCRIPTION, id, end);
	ConditionVariableCancelSleep();
	if (marked)
		LockRelease(&tag, AccessShareLock, false);
	return ready;
}

/*
 * kafka.wait_for_subscription(name, timeout): true when every partition is applied up to the last stable offset that it
 * had at the call, in all targets.
 */
Datum
ks_wait_for_subscription(PG_FUNCTION_ARGS)
{
	char	   *name = ks_name_arg(fcinfo, 0, "name");
	int64		timeout = ks_timeout_arg(fcinfo, 1, 30000);
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	KsSubscription *s;
	KsOptions  *options;
	List	   *positions;
	ListCell   *lc;

	ks_shmem_require();
	s = ks_subscription_by_name(name);
	if (s == NULL || !may_see(s->owner))
		s = ks_own_subscription(name);	/* raises the error */
	options = ks_subscription_options(s);
	positions = ks_resolve_start(ks_server_open(NameStr(s->server), s->owner), s->topics, s->ntopics, "latest", true);
	if (!wait_for_rebuild(fcinfo, s->id, end))
		PG_RETURN_BOOL(false);
	foreach(lc, positions)
	{
		KsPartitionPosition *p = lfirst(lc);

		if (!ks_partition_selected(options->text_value[KS_OPT_PARTITIONS], p->partition) || p->stable == 0)
			continue;
		while (stored_offset(s->id, p->topic, p->partition) < p->stable)
		{
			if (!wait_step(KS_WORKER_SUBSCRIPTION, s->id, end))
			{
				ConditionVariableCancelSleep();
				PG_RETURN_BOOL(false);
			}
		}
	}
	ConditionVariableCancelSleep();
	PG_RETURN_BOOL(true);
}
