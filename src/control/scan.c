/*
 * scan.c: the short-lived worker that reads one database's definitions into shared memory, for the launcher, and
 * removes slots and replication origins that no definition owns any more.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "control/catalog.h"
#include "control/hooks.h"
#include "control/orphan_origins.h"
#include "control/owner_dependency.h"
#include "control/shmem.h"
#include "control/slot_guard.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

PGDLLEXPORT void ks_scan_main(Datum arg);

/*
 * Writes one definition into its place.  A changed one is tried at once, whatever its back-off.  finished: it has
 * nothing left to do; foreign: it must not start here.
 */
static void
update_place(KsWorkerKind kind, int64 id, int32 ordinal, const char *name, Oid owner, int32 version, bool enabled,
			 bool finished, bool foreign)
{
	KsWorker   *w = ks_worker_take(MyDatabaseId, kind, id, ordinal);

	if (w == NULL)
	{
		ks_shared->no_room = true;
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no room for \"%s\" in shared memory", name),
				 errhint("Raise pg_kafka_sync.max_workers and restart the server.")));
		return;
	}
	namestrcpy(&w->name, name);
	w->owner = owner;
	if (w->wanted_version != version || !w->wanted)
	{
		w->next_start = 0;
		w->failures = 0;
	}
	w->wanted_version = version;
	w->wanted = enabled && !finished && !foreign;
	w->dropped = false;
	if (w->pid == 0)
	{
		if (finished)
			w->state = KS_STATE_FINISHED;
		else if (!w->wanted)
			w->state = KS_STATE_PAUSED;
		else if (w->state == KS_STATE_PAUSED || w->state == KS_STATE_FINISHED)
			w->state = KS_STATE_STARTING;
	}
	if (foreign)
		strlcpy(w->problems[0], kind == KS_WORKER_PUBLISHER
				? "history diverged: the publisher was restored or cloned from elsewhere, its position means nothing here; "
				"it is paused until kafka.resume_publisher begins anew, or drop it"
				: "the subscription was restored or cloned from elsewhere; it is paused until kafka.resume_subscription, or "
				"drop it", sizeof(w->problems[0]));
}

/* Is there a worker of this number in one of the subscriptions? */
static bool
subscription_has(List *subscriptions, int64 id, int32 ordinal)
{
	ListCell   *lc;

	foreach(lc, subscriptions)
		if (((KsSubscription *) lfirst(lc))->id == id)
			return ordinal < ((KsSubscription *) lfirst(lc))->workers;
	return false;
}

/* Marks the places of this database whose definition is gone. Returns nothing; the launcher frees them. */
static void
mark_dropped(List *publishers, List *subscriptions)
{
	ListCell   *lc;

	for (int i = 0; i < ks_shared->nworkers; i++)
	{
		KsWorker   *w = &ks_workers[i];
		bool		found = false;

		if (w->database != MyDatabaseId)
			continue;
		if (w->kind == KS_WORKER_PUBLISHER)
		{
			foreach(lc, publishers)
				found = found || ((KsPublisher *) lfirst(lc))->id == w->object_id;
		}
		else if (w->kind == KS_WORKER_SUBSCRIPTION)
			found = subscription_has(subscriptions, w->object_id, w->ordinal);
		else
			continue;
		if (!found)
		{
			w->dropped = true;
			w->wanted = false;
		}
	}
	for (int i = 0; i < ks_shared->npartitions; i++)
		if (ks_partitions[i].database == MyDatabaseId &&
			!subscription_has(subscriptions, ks_partitions[i].subscription_id, ks_partitions[i].ordinal))
			ks_partitions[i].database = InvalidOid;
}

/* Reads the definitions and updates shared memory. Returns the two lists in CurrentMemoryContext. */
static void
read_definitions(List **publishers, List **subscriptions)
{
	ListCell   *lc;

	*publishers = *subscriptions = NIL;
	if (OidIsValid(get_extension_oid("pg_kafka_sync", true)))
	{
		*publishers = ks_publishers();
		*subscriptions = ks_subscriptions();
	}
	LWLockAcquire(ks_shared->lock, LW_EXCLUSIVE);
	foreach(lc, *publishers)
	{
		KsPublisher *p = lfirst(lc);
		bool		finished = strcmp(p->snapshot, "only") == 0 && strcmp(p->snapshot_state, "done") == 0;

		update_place(KS_WORKER_PUBLISHER, p->id, 0, NameStr(p->name), p->owner, p->version, p->enabled,
					 finished, !ks_belongs_here(p->system_identifier, p->database_oid));
	}
	foreach(lc, *subscriptions)
	{
		KsSubscription *s = lfirst(lc);

		for (int32 ordinal = 0; ordinal < s->workers; ordinal++)
			update_place(KS_WORKER_SUBSCRIPTION, s->id, ordinal, NameStr(s->name), s->owner, s->version, s->enabled,
						 false, !ks_belongs_here(s->system_identifier, s->database_oid));
	}
	mark_dropped(*publishers, *subscriptions);
	LWLockRelease(ks_shared->lock);
}

/* Is a worker of this database still running that a slot or origin name belongs to? */
static bool
worker_runs(KsWorkerKind kind, const char *name)
{
	bool		runs = false;
	char		own[NAMEDATALEN];

	LWLockAcquire(ks_shared->lock, LW_SHARED);
	for (int i = 0; i < ks_shared->nworkers; i++)
	{
		const KsWorker *w = &ks_workers[i];

		if (w->kind != kind || w->database != MyDatabaseId || w->pid == 0)
			continue;
		if (kind == KS_WORKER_PUBLISHER)
			ks_slot_name(own, MyDatabaseId, w->object_id);
		else
			ks_origin_name(own, MyDatabaseId, w->object_id, w->ordinal);
		runs = runs || strcmp(own, name) == 0;
	}
	LWLockRelease(ks_shared->lock);
	return runs;
}

/* Does one of these publishers own a slot of this name? */
static bool
slot_is_owned(List *publishers, const char *slot_name)
{
	ListCell   *lc;

	foreach(lc, publishers)
		if (strcmp(NameStr(((KsPublisher *) lfirst(lc))->slot_name), slot_name) == 0)
			return true;
	return false;
}

/* Drops slots of this database that carry our name and belong to no publisher. */
static void
drop_orphan_slots(List *publishers)
{
	char		prefix[NAMEDATALEN];
	List	   *orphans = NIL;
	ListCell   *lc;

	snprintf(prefix, sizeof(prefix), "pg_kafka_sync_%u_", MyDatabaseId);
	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];

		if (!slot->in_use || slot->data.database != MyDatabaseId ||
			strncmp(NameStr(slot->data.name), prefix, strlen(prefix)) != 0)
			continue;
		if (!slot_is_owned(publishers, NameStr(slot->data.name)))
			orphans = lappend(orphans, pstrdup(NameStr(slot->data.name)));
	}
	LWLockRelease(ReplicationSlotControlLock);

	foreach(lc, orphans)
	{
		char	   *name = lfirst(lc);

		/*
		 * One that a transaction is just making is guarded until that transaction ends; it may have committed since
		 * the definitions were read, so look again.
		 */
		if (worker_runs(KS_WORKER_PUBLISHER, name) || !ks_slot_guard_try(name) ||
			slot_is_owned(ks_publishers(), name))
			continue;
		ks_slot_drop_hook(name, true);
		ereport(LOG, (errmsg("dropped replication slot \"%s\", which no publisher owns any more", name)));
	}
}

/* Does a worker of this database still write under a replication origin of this name? */
static bool
subscription_runs(const char *origin)
{
	return worker_runs(KS_WORKER_SUBSCRIPTION, origin);
}

static void
scan_body(void)
{
	List	   *publishers;
	List	   *subscriptions;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	read_definitions(&publishers, &subscriptions);
	drop_orphan_slots(publishers);
	ks_drop_orphan_origins(subscriptions, subscription_runs);
	ks_owner_dependencies_repair(publishers, subscriptions);
	PopActiveSnapshot();
	CommitTransactionCommand();
	ks_worker_set_state(KS_STATE_FINISHED, NULL);
}

/* Main function of the scan worker. */
void
ks_scan_main(Datum arg)
{
	ks_worker_attach(arg, KS_WORKER_SCAN);
	ks_worker_run(scan_body);
	proc_exit(0);
}
