/*
 * worker.h: what every background worker of the extension uses: its place in shared memory, its state, its counters,
 * how it starts and how it ends.  Shared memory and the launcher are in control/shmem.c and control/launcher.c.
 *
 * State machine (shown by the *_status views):
 *   starting -> waiting | snapshot | streaming -> finished
 *   any -> retrying (Kafka or a remote side cannot be reached; the worker stays)
 *   any -> error (the worker ended with an ERROR; the launcher starts it again after a capped, jittered back-off;
 *          shown until the worker makes progress)
 *   paused: not enabled; no worker
 */
#ifndef KS_WORKER_H
#define KS_WORKER_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "conflict/conflict.h"
#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"

typedef enum KsWorkerKind
{
	KS_WORKER_NONE = 0,
	KS_WORKER_SCAN,				/* short-lived: reads one database's catalog for the launcher */
	KS_WORKER_PUBLISHER,
	KS_WORKER_SUBSCRIPTION
} KsWorkerKind;

typedef enum KsWorkerState
{
	KS_STATE_STARTING = 0,
	KS_STATE_WAITING,
	KS_STATE_SNAPSHOT,
	KS_STATE_STREAMING,
	KS_STATE_REBUILDING,
	KS_STATE_PAUSED,
	KS_STATE_RETRYING,
	KS_STATE_ERROR,
	KS_STATE_FINISHED
} KsWorkerState;

#define KS_ERROR_SIZE 1024
#define KS_DETAIL_SIZE 256
#define KS_PROBLEMS 5
#define KS_TOPIC_SIZE 256

/* A worker's place in shared memory.  Text and identity: under ks_shmem lock.  Counters: atomics, written by the worker. */
typedef struct KsWorker
{
	KsWorkerKind kind;			/* KS_WORKER_NONE = free */
	Oid			database;
	int64		object_id;		/* publisher or subscription id */
	int32		ordinal;		/* among the workers of a subscription; 0 elsewhere */
	NameData	name;
	Oid			owner;			/* sees the status */
	int32		version;		/* of the definition the worker was started with */
	int32		wanted_version; /* of the catalog at the last scan */
	bool		wanted;			/* should run */
	bool		dropped;		/* catalog row is gone: free this place when the worker has ended */
	KsWorkerState state;
	char		detail[KS_DETAIL_SIZE];	/* what it waits for, shown in status */
	pid_t		pid;			/* 0 = not running */
	Latch	   *latch;			/* of the running worker */
	uint32		restarts;
	uint32		failures;		/* in a row, for the back-off */
	TimestampTz next_start;		/* not before */
	TimestampTz started_at;
	char		last_error[KS_ERROR_SIZE];
	TimestampTz last_error_at;
	char		problems[KS_PROBLEMS][KS_DETAIL_SIZE];
	bool		restart_now;	/* set by the worker before a clean exit that wants an immediate restart */
	char		wanted_topic[KS_TOPIC_SIZE];	/* publisher: topic met in WAL that must be made before streaming on */
	Oid			wanted_relation;	/* publisher: the table that goes with it */
	bool		wanted_keyed;	/* publisher: that topic's messages have keys */
	bool		wall_clock;		/* publisher: a broker refused a commit-time timestamp; stamp with now */

	pg_atomic_uint64 rows;		/* events sent or messages applied since the worker slot was made */
	pg_atomic_uint64 bytes;
	pg_atomic_uint64 acked_lsn; /* publisher: all transactions that end at or before it are acknowledged */
	pg_atomic_uint64 confirmed_lsn; /* publisher: what the slot was told */
	pg_atomic_uint64 read_lsn;	/* publisher: read up to here */
	pg_atomic_uint64 last_commit_time;	/* TimestampTz of the last transaction acknowledged / message applied */
	pg_atomic_uint64 lag_messages;	/* subscription: sum over partitions; UINT64_MAX = not known yet */
	pg_atomic_uint64 skipped_truncates;
	pg_atomic_uint64 columns_added; /* subscription: option "evolve" */
	pg_atomic_uint64 conflicts[KS_CONFLICT_COUNTS];	/* subscription: decided by option "conflict" */
	pg_atomic_uint64 retry_requests;	/* subscription: grows when dead letters are to be retried */
	pg_atomic_uint64 loops;		/* main loop passes: tests for busy loops read it */
	pg_atomic_uint64 fetched_at;	/* subscription: TimestampTz of the last look at the log ends */
	ConditionVariable progress; /* broadcast when acked_lsn or applied offsets moved; last: it outlives the place's use */
} KsWorker;

/* Log ends of a partition as its subscription's worker last saw them. */
typedef struct KsPartition
{
	Oid			database;		/* InvalidOid = free */
	int64		subscription_id;
	int32		ordinal;		/* of the worker that reads it */
	char		topic[KS_TOPIC_SIZE];
	int32		partition;
	int64		next_offset;
	int64		high_watermark; /* -1 = not known */
	int64		last_stable_offset;
} KsPartition;

extern KsWorker *ks_my_worker;

/*
 * First call of every worker's main function: attaches to its place, installs signal handlers (SIGTERM sets
 * ShutdownRequestPending via die(): CHECK_FOR_INTERRUPTS ends the worker), unblocks signals, connects to the database
 * as the bootstrap superuser, sets a locked search_path (pg_catalog, pg_temp), application_name.
 */
extern KsWorker *ks_worker_attach(Datum main_arg, KsWorkerKind kind);

/*
 * Runs body(); an ERROR is stored as last_error with state "error", then the process ends with code 1 (the launcher
 * restarts it after a back-off).  Returns when body returns; the caller then ends with proc_exit(0) = finished, or
 * with restart_now set.
 */
extern void ks_worker_run(void (*body) (void));

/* Sets state and detail (NULL = none) and the pg_stat_activity text "<kind> <name>: <state>[, <detail>]". Cheap if unchanged. */
extern void ks_worker_set_state(KsWorkerState state, const char *detail);
/* Stores an error text without ending (state retrying). */
extern void ks_worker_note_error(const char *message);
/* A line in kafka.problems while this worker lives; slot 0..KS_PROBLEMS-1, message NULL clears it. */
extern void ks_worker_set_problem(int slot, const char *message);
/*
 * The worker moved on, or has nothing left to do: an error is over and the back-off starts anew; wakes waiters of
 * wait_for_*, who sleep on the first worker of a subscription.
 */
extern void ks_worker_progress(void);
/* Publishes log ends of a partition for kafka.subscription_offsets. */
extern void ks_partition_report(const char *topic, int32 partition, int64 next_offset, int64 high, int64 stable);
/* Forgets all partitions that a worker of this subscription and ordinal reported (at start). */
extern void ks_partition_forget(void);

extern const char *ks_state_name(KsWorkerState state);

/* Name of the replication origin of a worker of a subscription, in dst (NAMEDATALEN). */
extern void ks_origin_name(char *dst, Oid database, int64 subscription_id, int32 ordinal);
#define KS_ORIGIN_PREFIX "pg_kafka_sync_"
/* Name of a publisher's slot. */
extern void ks_slot_name(char *dst, Oid database, int64 publisher_id);

/* Asks the launcher, when the current transaction commits, to look at this database's definitions again. */
extern void ks_rescan_at_commit(void);

/* GUCs (control/guc.c) */
extern bool ks_guc_enabled;
extern int	ks_guc_max_workers;
extern int	ks_guc_max_partitions;
extern int	ks_guc_rebuild_wait;	/* seconds */

#endif							/* KS_WORKER_H */
