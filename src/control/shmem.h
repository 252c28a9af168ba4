/*
 * shmem.h: the extension's shared memory, private to control/.
 */
#ifndef KS_SHMEM_H
#define KS_SHMEM_H

#include "control/worker.h"
#include "storage/lwlock.h"

#define KS_RESCANS 64			/* databases that wait for a scan; more than that and every database is scanned */
#define KS_BLOCKED 8			/* databases that a DROP, RENAME ... DATABASE keeps workers out of at one time */
#define KS_MESSAGE_SIZE 256

typedef struct KsShared
{
	LWLock	   *lock;			/* text, identity and desired state of everything below */
	pid_t		launcher_pid;	/* 0 = not running */
	Latch	   *launcher_latch;
	bool		launcher_ran;	/* since shared memory was made */
	bool		rescan_all;
	int			nrescans;
	Oid			rescans[KS_RESCANS];
	int			nblocked;
	Oid			blocked[KS_BLOCKED];
	pid_t		blocker[KS_BLOCKED];	/* backend that asked; its death unblocks */
	bool		no_room;		/* a definition found no place in workers[] */
	char		message[KS_MESSAGE_SIZE];	/* why the launcher cannot start workers, "" = it can */
	pg_atomic_uint32 npublishers;	/* running ones; 0 spares committing backends the look at the array */
	int			nworkers;		/* length of workers[] */
	int			npartitions;
} KsShared;

extern KsShared *ks_shared;
extern KsWorker *ks_workers;	/* ks_shared->nworkers of them, and one more for the database scan */
extern KsPartition *ks_partitions;

extern void ks_shmem_request(void);
extern void ks_shmem_startup(void);
/* ERROR with the way out when the library was not preloaded. */
extern void ks_shmem_require(void);

/* The place of an object's worker, or NULL.  Caller holds ks_shared->lock. */
extern KsWorker *ks_worker_find(Oid database, KsWorkerKind kind, int64 object_id, int32 ordinal);
/* Like ks_worker_find, but takes a free place and clears it; NULL when all are taken.  Caller holds the lock exclusively. */
extern KsWorker *ks_worker_take(Oid database, KsWorkerKind kind, int64 object_id, int32 ordinal);

/* Asks for a scan of a database (InvalidOid = all) now. */
extern void ks_rescan_now(Oid database);
/* Wakes the launcher. */
extern void ks_launcher_wake(void);

/*
 * Keeps all workers out of a database until this transaction has ended, and waits until those that run have ended.
 * Interruptible.
 */
extern void ks_database_block(Oid database);
/* The transaction has ended: lets workers into its databases again. */
extern void ks_databases_unblock(void);
/* Caller holds the lock. */
extern bool ks_database_is_blocked(Oid database);

extern void ks_xact_init(void);
extern void ks_utility_init(void);
extern void ks_guc_init(void);
extern void ks_launcher_register(void);

#endif							/* KS_SHMEM_H */
