/*
 * rebuild_join.c: the one transaction at the end of a rebuild.
 *
 * Files are exchanged where that loses nothing, after every snapshot is gone that does not see all that was written to the
 * shadow, and under a lock that is asked for only shortly at a time, so that readers hardly queue behind it.  Where that
 * cannot be had in time (pg_kafka_sync.rebuild_wait), and where others must see row changes, the difference is applied
 * instead.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/transam.h"
#include "apply/dead_letter.h"
#include "apply/shadow.h"
#include "catalog/pg_type.h"
#include "consume/rebuild_internal.h"
#include "control/definitions.h"
#include "control/worker.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "replication/origin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define TRY_EVERY_MS 300

/* What one attempt found. */
typedef enum Outcome
{
	JOINED,
	AGAIN,						/* somebody was in the way */
	ANEW						/* start the worker again */
} Outcome;

/* The transactions that are there now and have a snapshot. */
static VirtualTransactionId *
snapshot_holders(int *n)
{
	return GetCurrentVirtualXIDs(ReadNextTransactionId(), true, false, PROC_IS_AUTOVACUUM | PROC_IN_VACUUM, n);
}

/* Is a transaction in the list? */
static bool
is_among(const VirtualTransactionId *one, const VirtualTransactionId *list, int n)
{
	for (int i = 0; i < n; i++)
		if (VirtualTransactionIdEquals(*one, list[i]))
			return true;
	return false;
}

/*
 * Are all snapshots gone that were there when this was first asked?  Later ones see all of the shadows, which have not
 * been written to since.
 */
static bool
old_snapshots_gone(KsRebuild *r)
{
	VirtualTransactionId *now;
	VirtualTransactionId *waiters;
	VirtualTransactionId *held;
	LOCKTAG		tag;
	int			n;
	int			nwaiters;
	int			left = 0;

	StartTransactionCommand();
	now = snapshot_holders(&n);
	ks_subscription_waiter_tag(&tag, r->subscription->id);
	waiters = GetLockConflicts(&tag, AccessExclusiveLock, &nwaiters);
	if (r->nholders < 0)
	{
		r->holders = MemoryContextAlloc(TopMemoryContext, sizeof(VirtualTransactionId) * Max(n, 1));
		memcpy(r->holders, now, sizeof(VirtualTransactionId) * n);
		r->nholders = n;
	}
	held = r->holders;
	for (int i = 0; i < r->nholders; i++)
		if (is_among(&held[i], now, n) && !is_among(&held[i], waiters, nwaiters))
			held[left++] = held[i];
	r->nholders = left;
	CommitTransactionCommand();
	return left == 0;
}

/* Will a target's files be exchanged with its shadow's? */
static bool
by_exchange(const KsRebuild *r, const KsRebuildTarget *t, bool patient)
{
	return t->running && !t->hydrate && patient && ks_shadow_obstacle(t->target->relid) == NULL;
}

/* Orders targets by Oid, so that locks are always taken in the same order. */
static int
by_relid(const void *a, const void *b)
{
	Oid			left = ((const KsRebuildTarget *) a)->target->relid;
	Oid			right = ((const KsRebuildTarget *) b)->target->relid;

	return (left > right) - (left < right);
}

/* Takes a lock or, after ms, ERROR. */
static void
lock(Oid relid, LOCKMODE mode, int ms)
{
	int			nest_level = NewGUCNestLevel();

	(void) set_config_option("lock_timeout", psprintf("%d", ms), PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	LockRelationOid(relid, mode);
	AtEOXact_GUC(false, nest_level);
}

/* Locks what is to be exchanged.  The first lock ends autovacuum, and keeps nobody else from reading and writing. */
static void
take_locks(KsRebuild *r, bool patient)
{
	for (int i = 0; i < r->ntargets; i++)
		if (by_exchange(r, &r->targets[i], patient))
		{
			lock(r->targets[i].shadow, AccessExclusiveLock, 3000);
			lock(r->targets[i].target->relid, ShareUpdateExclusiveLock, 3000);
		}
	for (int i = 0; i < r->ntargets; i++)
		if (by_exchange(r, &r->targets[i], patient))
			lock(r->targets[i].target->relid, AccessExclusiveLock, 100);
}

/* Are a target and its shadow what they were when the shadow was made?  "exchange": with all indexes. */
static bool
fits(const KsRebuildTarget *t, bool exchange)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(t->id)};
	char	   *now = ks_shadow_definition(t->target->relid);
	bool		same = false;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT definition FROM kafka.subscription_rebuild WHERE id = $1",
							  1, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read kafka.subscription_rebuild");
	if (SPI_processed == 1 && now != NULL)
	{
		char	   *then = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		same = then != NULL && strcmp(then, now) == 0 && ks_shadow_find(t->target->relid, t->id) == t->shadow;
	}
	SPI_finish();
	return same && ks_shadow_fits(t->target->relid, t->shadow, t->id, exchange);
}

/* Sets the subscription's positions to those of the rebuild, or checks that they are the same. False: they are not. */
static bool
join_positions(KsRebuild *r)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(r->subscription->id)};
	uint64		different = 0;

	if (r->live)
	{
		if (SPI_connect() != SPI_OK_CONNECT)
			elog(ERROR, "SPI_connect failed");
		if (SPI_execute_with_args("SELECT FROM (SELECT * FROM kafka.subscription_position WHERE subscription_id = $1) p "
								  "FULL JOIN (SELECT * FROM kafka.rebuild_position WHERE subscription_id = $1) r "
								  "USING (topic, partition) WHERE p.next_offset IS DISTINCT FROM r.next_offset",
								  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
			elog(ERROR, "could not compare positions");
		different = SPI_processed;
		SPI_finish();
		/* what the new target has seen is no news, even if the others did not have to know */
		if (different == 0)
			(void) ks_catalog_execute("UPDATE kafka.subscription_position p SET producers = r.producers "
									  "FROM kafka.rebuild_position r WHERE p.subscription_id = $1 AND r.subscription_id = $1 "
									  "AND p.topic = r.topic AND p.partition = r.partition AND r.producers IS NOT NULL "
									  "AND p.producers IS DISTINCT FROM r.producers", 1, types, values, NULL);
		return different == 0;
	}
	/* partitions that have gone and were left out: should they come back, they are new */
	(void) ks_catalog_execute("DELETE FROM kafka.subscription_position p WHERE subscription_id = $1 AND NOT EXISTS ("
							  "SELECT FROM kafka.rebuild_position r WHERE r.subscription_id = $1 AND r.topic = p.topic "
							  "AND r.partition = p.partition)", 1, types, values, NULL);
	(void) ks_catalog_execute("INSERT INTO kafka.subscription_position (subscription_id, topic, partition, next_offset, "
							  "start_offset, last_offset, last_timestamp, last_checksum, applied_at, producers) "
							  "SELECT subscription_id, topic, partition, next_offset, start_offset, last_offset, "
							  "last_timestamp, last_checksum, applied_at, producers FROM kafka.rebuild_position WHERE subscription_id = $1 "
							  "ON CONFLICT (subscription_id, topic, partition) DO UPDATE SET next_offset = excluded.next_offset, "
							  "start_offset = excluded.start_offset, last_offset = excluded.last_offset, "
							  "last_timestamp = excluded.last_timestamp, last_checksum = excluded.last_checksum, "
							  "producers = excluded.producers, read_at = NULL, topic_id = NULL, anchor_offset = NULL, "
							  "applied_at = coalesce(excluded.applied_at, subscription_position.applied_at)",
							  1, types, values, NULL);
	return true;
}

/* Removes what was kept about the rebuild; a trigger drops the shadows. */
static void
forget(KsRebuild *r)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1];

	for (int i = 0; i < r->ntargets; i++)
		if (r->targets[i].running)
		{
			ks_dead_letters_end_rebuild(r->subscription, r->targets[i].id);
			values[0] = Int64GetDatum(r->targets[i].id);
			(void) ks_catalog_execute("DELETE FROM kafka.subscription_rebuild WHERE id = $1", 1, types, values, NULL);
		}
	values[0] = Int64GetDatum(r->subscription->id);
	(void) ks_catalog_execute("DELETE FROM kafka.rebuild_position WHERE subscription_id = $1", 1, types, values, NULL);
	if (r->subscription->workers > 1)	/* the others wait for that */
		(void) ks_catalog_execute("UPDATE kafka.subscription SET version = version + 1 WHERE id = $1", 1, types, values, NULL);
}

/* Does the work inside the transaction. */
static Outcome
join_targets(KsRebuild *r, bool patient)
{
	KsShadowPair *pairs = palloc0(sizeof(KsShadowPair) * r->ntargets);
	int			npairs = 0;
	Outcome		outcome = JOINED;

	ks_subscription_lock(r->subscription->id, true);
	PushActiveSnapshot(GetTransactionSnapshot());
	take_locks(r, patient);
	for (int i = 0; i < r->ntargets; i++)
		if (r->targets[i].running && !r->targets[i].hydrate && !fits(&r->targets[i], by_exchange(r, &r->targets[i], patient)))
		{
			ks_rebuild_put_back(r->targets[i].id);
			outcome = ANEW;
		}
	if (outcome == JOINED && !join_positions(r))
		outcome = ANEW;
	if (outcome == ANEW)
	{
		PopActiveSnapshot();
		return ANEW;
	}
	for (int i = 0; i < r->ntargets; i++)
	{
		KsRebuildTarget *t = &r->targets[i];

		if (!t->running || t->hydrate)
			continue;
		if (by_exchange(r, t, patient))
		{
			ks_shadow_swap(t->target->relid, t->shadow, t->id);
			continue;
		}
		pairs[npairs].target = ks_target_create(r->subscription, t->target, t->target->relid);
		ks_target_open(pairs[npairs].target);
		pairs[npairs++].shadow = t->shadow;
	}
	if (npairs > 0)
	{
		uint64		changed = ks_shadow_difference(pairs, npairs, r->replace);

		for (int i = 0; i < npairs; i++)
			ks_target_close(pairs[i].target);
		ereport(LOG,
				(errmsg("subscription \"%s\": %llu rows differed from the log and were changed",
						NameStr(r->subscription->name), (unsigned long long) changed)));
	}
	forget(r);
	PopActiveSnapshot();
	return JOINED;
}

/* One attempt. */
static Outcome
attempt(KsRebuild *r, bool patient)
{
	volatile Outcome outcome = AGAIN;
	MemoryContext old = CurrentMemoryContext;

	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		outcome = join_targets(r, patient);
		replorigin_session_origin_lsn = InvalidXLogRecPtr;
		replorigin_session_origin_timestamp = 0;
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		ErrorData  *e;

		MemoryContextSwitchTo(old);
		e = CopyErrorData();
		if (e->sqlerrcode == ERRCODE_UNIQUE_VIOLATION && !r->replace)
			r->replace = true;
		else if (e->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE && e->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED &&
				 e->sqlerrcode != ERRCODE_T_R_SERIALIZATION_FAILURE)
			PG_RE_THROW();
		FlushErrorState();
		AbortCurrentTransaction();
		outcome = AGAIN;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return outcome;
}

/* Gathers statistics of a target that has got other rows all at once. */
static void
analyze(Oid relid)
{
	MemoryContext old = CurrentMemoryContext;

	PG_TRY();
	{
		char	   *name;

		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		name = get_rel_name(relid);
		if (name)
			(void) ks_catalog_execute(psprintf("ANALYZE %s",
											   quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name)),
									  0, NULL, NULL, NULL);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		/* the rows are there; autovacuum will try again */
		MemoryContextSwitchTo(old);
		HOLD_INTERRUPTS();
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
}

/* See rebuild_internal.h. */
bool
ks_rebuild_join(KsRebuild *r)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		patient;
	bool		exchange = false;

	if (r->give_up == 0)
	{
		r->give_up = TimestampTzPlusMilliseconds(now, ks_guc_rebuild_wait * INT64CONST(1000));
		qsort(r->targets, r->ntargets, sizeof(KsRebuildTarget), by_relid);
	}
	if (now < r->next_try)
		return false;
	r->next_try = TimestampTzPlusMilliseconds(now, 50);
	patient = now < r->give_up;

	StartTransactionCommand();
	for (int i = 0; i < r->ntargets; i++)
		exchange = exchange || by_exchange(r, &r->targets[i], patient);
	CommitTransactionCommand();
	if (exchange && !old_snapshots_gone(r))
	{
		r->detail = "transactions that began earlier are waited for";
		return false;
	}
	r->detail = "a lock is waited for";
	switch (attempt(r, patient))
	{
		case JOINED:
			ks_worker_progress();
			for (int i = 0; i < r->ntargets; i++)
				if (r->targets[i].running)
					analyze(r->targets[i].target->relid);
			return true;
		case ANEW:
			return true;
		case AGAIN:
			r->next_try = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), TRY_EVERY_MS);
			break;
	}
	return false;
}
