/*
 * client.h: librdkafka handles: configuration from a foreign server and user mapping, logs and errors through queues,
 * waiting on latch and queue together, destroying with a bound on time.  Only kafka/, produce/ and consume/ include this.
 */
#ifndef KS_CLIENT_H
#define KS_CLIENT_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "compat/pg_compat.h"
#include "lib/ilist.h"
#include "kafka/properties.h"

typedef struct KsClient
{
	rd_kafka_t *rk;
	rd_kafka_queue_t *queue;	/* main queue (producer: delivery reports and errors; consumer: consumer queue) */
	rd_kafka_queue_t *log_queue;
	int			wake_fd[2];		/* pipe that librdkafka writes to when "queue" becomes non-empty */
	char		last_error[256];	/* last error event seen by ks_client_service(), "" if none since the last success */
	bool		all_brokers_down;	/* set by an error event, cleared by ks_client_note_success() */
	rd_kafka_resp_err_t last_err;	/* code of last_error */
	/* of client.c */
	bool		was_down;		/* all brokers were, and the log may say so: it is told when one answers */
	bool		errors_only;	/* nothing but errors is in "queue" while ks_client_call() waits: it notes them */
	char	   *server_name;
	int			nsecrets;
	char	  **secrets;		/* values that never appear in a log line or error */
	struct KsHandle *shared;	/* what outlives this struct: the handle, and the threads that still use it */
	struct WaitEventSet *wait_set;
	const char *wait_name;
	uint32		wait_event;
	dlist_node	node;
} KsClient;

/*
 * Makes a handle.  "overrides" (the extension's own properties; they win) are set last.  All signals are blocked while
 * the handle is made; logs go to a queue, events instead of callbacks.  Allocated in TopMemoryContext; ERROR with
 * errcode ERRCODE_FDW_UNABLE_TO_CREATE_EXECUTION or a property error without secrets in it.
 */
extern KsClient *ks_client_create(KsClientKind kind, const KsServer *server, const KsProperty *overrides, int noverrides);

/* Destroys a handle, waiting at most timeout_ms for librdkafka's threads to end (a detached thread finishes the rest). */
extern void ks_client_destroy(KsClient *client, int timeout_ms);

/*
 * Forwards queued log lines to the server log (LOG / WARNING by level; secrets never appear in librdkafka's lines), each
 * cause once a minute.
 */
extern void ks_client_drain_log(KsClient *client);

/* Notes an error event in last_error / all_brokers_down. */
extern void ks_client_note_error(KsClient *client, rd_kafka_resp_err_t err, const char *reason);

/* Notes that a broker answered: what was noted before is over.  A line in the log, if all of them had been down. */
extern void ks_client_note_success(KsClient *client);

/*
 * Waits until the queue is non-empty, the process latch is set, or timeout_ms passed (-1 = for ever); resets the latch
 * and drains the pipe, does CHECK_FOR_INTERRUPTS.  wait_name is the wait event's name (PG 17+), e.g. "KafkaProduce".
 */
extern void ks_client_wait(KsClient *client, long timeout_ms, const char *wait_name);

/* Waits as ks_client_wait, whatever is in the queue: until something new arrives there, or the time is over. */
extern void ks_client_sleep(KsClient *client, long timeout_ms, const char *wait_name);

/*
 * Runs a librdkafka call that blocks on a thread of its own and waits for it as ks_client_wait does.  "run" and
 * "release" call nothing of PostgreSQL; "arg" is malloc'ed.  When run has returned, so does this, and "arg" is the
 * caller's again.  On ERROR (an interrupt; a login that the broker refused) the thread goes on alone: it calls
 * release(arg) at its end, and ks_client_destroy keeps the handle alive for it.  Events of producers and consumers stay
 * in their queue, unless errors_only is set.
 */
extern void ks_client_call(KsClient *client, void (*run) (rd_kafka_t *rk, void *arg), void (*release) (void *arg),
						   void *arg, const char *wait_name);

/*
 * Runs such a call without waiting for it: the thread calls release(arg) at its end, with a lock of the handle held.
 * ERROR, after release(arg), if it cannot be started.
 */
extern void ks_client_start(KsClient *client, void (*run) (rd_kafka_t *rk, void *arg), void (*release) (void *arg),
							void *arg);

/* Appends "text" with the client's secrets struck out to dst (of size bytes). */
extern void ks_client_scrub(const KsClient *client, const char *text, char *dst, Size size);

/* ERROR for a server of which no broker answers, or which refuses our login (errors.c). */
pg_noreturn extern void ks_unreachable_error(const KsClient *client);

#endif							/* KS_CLIENT_H */
