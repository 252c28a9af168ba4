/*
 * client.c: librdkafka handles.
 *
 * Rules that everything here serves: no handle before fork; all signals are blocked while librdkafka makes threads, so
 * that no PostgreSQL signal handler ever runs on one; logs, errors and reports come through queues, and nothing of
 * PostgreSQL is called on a thread that is not the process's own; destroying never blocks longer than asked, because
 * librdkafka joins its threads and one of them may sit in a name lookup.
 */
#include "postgres.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "compat/pg_compat.h"
#include "kafka/client.h"
#include "kafka/log_limit.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define EXIT_WAIT_MS 2000

/*
 * What outlives a KsClient: malloc'ed, freed by the thread that destroys the handle.  "users" counts threads that still
 * run a call on the handle; "wake_fd" is where they announce their end, -1 when nobody listens any more.
 */
typedef struct KsHandle
{
	rd_kafka_t *rk;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int			users;
	int			wake_fd;
} KsHandle;

/* One call of ks_client_call: malloc'ed; "abandoned" and "done" are under the lock of "shared". */
typedef struct KsCall
{
	KsHandle   *shared;
	void		(*run) (rd_kafka_t *rk, void *arg);
	void		(*release) (void *arg);
	void	   *arg;
	bool		done;
	bool		abandoned;
} KsCall;

/* Handles that are being destroyed by detached threads of this process. */
static pthread_mutex_t dying_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t dying_changed = PTHREAD_COND_INITIALIZER;
static int	dying = 0;

/* Live handles, for the exit callback. */
static dlist_head clients = DLIST_STATIC_INIT(clients);
static bool exit_registered = false;

/* Blocks every signal of this thread; returns the former mask in *former. */
static void
block_signals(sigset_t *former)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, former);
}

/* Starts a detached thread that gets no signals. Returns false if the system has none left. */
static bool
start_thread(void *(*body) (void *), void *arg)
{
	sigset_t	former;
	pthread_attr_t attributes;
	pthread_t	thread;
	int			rc;

	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	block_signals(&former);
	rc = pthread_create(&thread, &attributes, body, arg);
	pthread_sigmask(SIG_SETMASK, &former, NULL);
	pthread_attr_destroy(&attributes);
	return rc == 0;
}

/* Returns the time of day in timeout_ms from now, for pthread_cond_timedwait. */
static struct timespec
deadline_after(int timeout_ms)
{
	struct timespec at;

	clock_gettime(CLOCK_REALTIME, &at);
	at.tv_sec += timeout_ms / 1000;
	at.tv_nsec += (timeout_ms % 1000) * 1000000L;
	if (at.tv_nsec >= 1000000000L)
	{
		at.tv_sec++;
		at.tv_nsec -= 1000000000L;
	}
	return at;
}

/* Body of the thread that ends a handle: waits for calls that still run on it, then destroys it. */
static void *
destroy_body(void *arg)
{
	KsHandle   *shared = arg;

	pthread_mutex_lock(&shared->lock);
	while (shared->users > 0)
		pthread_cond_wait(&shared->changed, &shared->lock);
	pthread_mutex_unlock(&shared->lock);

	rd_kafka_destroy_flags(shared->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	pthread_mutex_destroy(&shared->lock);
	pthread_cond_destroy(&shared->changed);
	free(shared);

	pthread_mutex_lock(&dying_lock);
	dying--;
	pthread_cond_broadcast(&dying_changed);
	pthread_mutex_unlock(&dying_lock);
	return NULL;
}

/* Waits until at most "left" handles are still being destroyed, or timeout_ms passed. */
static void
wait_dying(int left, int timeout_ms)
{
	struct timespec until = deadline_after(timeout_ms);

	pthread_mutex_lock(&dying_lock);
	while (dying > left)
		if (pthread_cond_timedwait(&dying_changed, &dying_lock, &until) != 0)
			break;
	pthread_mutex_unlock(&dying_lock);
}

/* At process exit: ends the handles that are still there, so that no librdkafka thread runs into exit()'s cleanup. */
static void
destroy_at_exit(int code, Datum arg)
{
	bool		alive;

	(void) arg;
	while (!dlist_is_empty(&clients))
		ks_client_destroy(dlist_head_element(KsClient, node, &clients), 0);
	wait_dying(0, EXIT_WAIT_MS);
	pthread_mutex_lock(&dying_lock);
	alive = dying > 0;
	pthread_mutex_unlock(&dying_lock);
	/* a thread that does not end must not meet the exit handlers of its libraries; shared memory is left already */
	if (alive)
		_exit(code);
}

/* Makes the pipe that librdkafka writes to. ERROR if there are no file descriptors left. */
static void
make_pipe(int fd[2])
{
	if (pipe(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create a pipe: %m")));
	for (int i = 0; i < 2; i++)
	{
		(void) fcntl(fd[i], F_SETFL, O_NONBLOCK);
		(void) fcntl(fd[i], F_SETFD, FD_CLOEXEC);
	}
}

/* Sets one property. ERROR, after the configuration was destroyed, naming it. */
static void
set_property(rd_kafka_conf_t *conf, const char *name, const char *value, const char *server)
{
	char		reason[512] = "";

	if (rd_kafka_conf_set(conf, name, value, reason, sizeof(reason)) == RD_KAFKA_CONF_OK)
		return;
	rd_kafka_conf_destroy(conf);
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("could not set property \"%s\" of server \"%s\"", name, server),
			 ks_property_is_secret(name) ? 0 : errdetail("librdkafka says: %s.", reason)));
}

/* Returns the configuration of a handle, to be destroyed or handed to rd_kafka_new. ERROR as set_property. */
static rd_kafka_conf_t *
make_conf(KsClientKind kind, const KsServer *server, const KsProperty *overrides, int noverrides)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	int			events = RD_KAFKA_EVENT_ERROR;

	set_property(conf, "client.id", "pg_kafka_sync", server->name);
	for (int i = 0; i < server->nproperties; i++)
		set_property(conf, server->properties[i].name, server->properties[i].value, server->name);
	set_property(conf, "log.queue", "true", server->name);
	set_property(conf, "allow.auto.create.topics", "false", server->name);
	if (kind != KS_CLIENT_PRODUCER)
	{
		/* Nothing but the local catalog decides where a consumer reads. */
		set_property(conf, "enable.auto.commit", "false", server->name);
		set_property(conf, "enable.auto.offset.store", "false", server->name);
	}
	for (int i = 0; i < noverrides; i++)
		set_property(conf, overrides[i].name, overrides[i].value, server->name);

	if (kind == KS_CLIENT_PRODUCER)
		events |= RD_KAFKA_EVENT_DR;
	if (kind == KS_CLIENT_CONSUMER)
		events |= RD_KAFKA_EVENT_OFFSET_COMMIT;
	rd_kafka_conf_set_events(conf, events);
	return conf;
}

/* Remembers the values that must never be shown. */
static void
remember_secrets(KsClient *client, const KsServer *server)
{
	client->secrets = palloc0(sizeof(char *) * (server->nproperties + 1));
	for (int i = 0; i < server->nproperties; i++)
		if (ks_property_is_secret(server->properties[i].name) && strlen(server->properties[i].value) >= 4)
			client->secrets[client->nsecrets++] = pstrdup(server->properties[i].value);
}

/* Frees what the process itself holds of a client; the handle is gone or somebody else's by now. */
static void
free_client(KsClient *client)
{
	if (client->wait_set)
		FreeWaitEventSet(client->wait_set);
	close(client->wake_fd[0]);
	close(client->wake_fd[1]);
	for (int i = 0; i < client->nsecrets; i++)
	{
		explicit_bzero(client->secrets[i], strlen(client->secrets[i]));
		pfree(client->secrets[i]);
	}
	pfree(client->secrets);
	pfree(client->server_name);
	pfree(client);
}

KsClient *
ks_client_create(KsClientKind kind, const KsServer *server, const KsProperty *overrides, int noverrides)
{
	MemoryContext former_context;
	KsClient   *client;
	KsHandle   *shared;
	rd_kafka_conf_t *conf;
	sigset_t	former;
	char		reason[512] = "";
	int			fd[2];

	if (!exit_registered)
	{
		on_proc_exit(destroy_at_exit, (Datum) 0);
		exit_registered = true;
	}

	conf = make_conf(kind, server, overrides, noverrides);
	shared = calloc(1, sizeof(KsHandle));
	if (shared == NULL)
	{
		rd_kafka_conf_destroy(conf);
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	}

	/* Admin calls run on a consumer handle: a producer one would have the broker create topics it looks up. */
	block_signals(&former);
	shared->rk = rd_kafka_new(kind == KS_CLIENT_PRODUCER ? RD_KAFKA_PRODUCER : RD_KAFKA_CONSUMER,
							  conf, reason, sizeof(reason));
	pthread_sigmask(SIG_SETMASK, &former, NULL);
	if (shared->rk == NULL)
	{
		rd_kafka_conf_destroy(conf);
		free(shared);
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_CREATE_EXECUTION),
				 errmsg("could not create a Kafka client for server \"%s\"", server->name),
				 errdetail("librdkafka says: %s.", reason)));
	}
	pthread_mutex_init(&shared->lock, NULL);
	pthread_cond_init(&shared->changed, NULL);
	shared->wake_fd = -1;

	former_context = MemoryContextSwitchTo(TopMemoryContext);
	PG_TRY();
	{
		make_pipe(fd);
		client = palloc0(sizeof(KsClient));
		client->wake_fd[0] = fd[0];
		client->wake_fd[1] = fd[1];
		client->shared = shared;
		client->errors_only = kind == KS_CLIENT_ADMIN;
		client->server_name = pstrdup(server->name);
		remember_secrets(client, server);
	}
	PG_CATCH();
	{
		rd_kafka_destroy_flags(shared->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
		free(shared);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(former_context);

	client->rk = shared->rk;
	shared->wake_fd = client->wake_fd[1];
	client->log_queue = rd_kafka_queue_new(client->rk);
	rd_kafka_set_log_queue(client->rk, client->log_queue);
	if (kind == KS_CLIENT_CONSUMER)
	{
		rd_kafka_poll_set_consumer(client->rk);
		client->queue = rd_kafka_queue_get_consumer(client->rk);
	}
	if (client->queue == NULL)
		client->queue = rd_kafka_queue_get_main(client->rk);
	rd_kafka_queue_io_event_enable(client->queue, client->wake_fd[1], "q", 1);
	dlist_push_tail(&clients, &client->node);

	/* From here on ks_client_destroy() knows how to clean up. */
	PG_TRY();
	{
		client->wait_set = ks_wait_event_set(3);
		AddWaitEventToSet(client->wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(client->wait_set, WL_SOCKET_READABLE, client->wake_fd[0], NULL, NULL);
		AddWaitEventToSet(client->wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	}
	PG_CATCH();
	{
		ks_client_destroy(client, 0);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return client;
}

void
ks_client_destroy(KsClient *client, int timeout_ms)
{
	KsHandle   *shared = client->shared;
	int			others;

	ks_client_drain_log(client);
	dlist_delete(&client->node);

	/* No thread may write to the pipe once it is closed. */
	rd_kafka_queue_io_event_enable(client->queue, -1, NULL, 0);
	pthread_mutex_lock(&shared->lock);
	shared->wake_fd = -1;
	pthread_mutex_unlock(&shared->lock);
	rd_kafka_queue_destroy(client->queue);
	rd_kafka_queue_destroy(client->log_queue);
	free_client(client);

	pthread_mutex_lock(&dying_lock);
	others = dying++;
	pthread_mutex_unlock(&dying_lock);
	if (!start_thread(destroy_body, shared))
	{
		/* Rather keep the handle than hang. */
		pthread_mutex_lock(&dying_lock);
		dying--;
		pthread_mutex_unlock(&dying_lock);
		return;
	}
	if (timeout_ms > 0)
		wait_dying(others, timeout_ms);
}

void
ks_client_scrub(const KsClient *client, const char *text, char *dst, Size size)
{
	static const char mask[] = "[redacted]";
	Size		used = 0;

	while (*text != '\0' && used + 1 < size)
	{
		int			i;

		for (i = 0; i < client->nsecrets; i++)
			if (strncmp(text, client->secrets[i], strlen(client->secrets[i])) == 0)
				break;
		if (i == client->nsecrets)
			dst[used++] = *text++;
		else
		{
			text += strlen(client->secrets[i]);
			used += strlcpy(dst + used, mask, size - used);
		}
	}
	dst[Min(used, size - 1)] = '\0';
}

/*
 * Severities are syslog's: 3 error, 4 warning; the rest is chatter.  In a backend all go to the server log
 * only: a WARNING would also be sent to its client.
 */
void
ks_client_drain_log(KsClient *client)
{
	rd_kafka_event_t *event;
	char		line[1024];

	while (rd_kafka_queue_length(client->log_queue) > 0 &&
		   (event = rd_kafka_queue_poll(client->log_queue, 0)) != NULL)
	{
		const char *facility = "";
		const char *text = "";
		int			level = 7;

		if (rd_kafka_event_log(event, &facility, &text, &level) == 0)
		{
			int			elevel;
			uint32		left_out = 0;

			/* Server options serve producers and consumers alike: that one does not use another's is no news. */
			if (level > 4 || strcmp(facility, "CONFWARN") == 0)
				elevel = DEBUG1;
			else if (MyBackendType == B_BG_WORKER)
				elevel = WARNING;
			else
				elevel = LOG_SERVER_ONLY;
			ks_client_scrub(client, text, line, sizeof(line));
			if (message_level_is_interesting(elevel) &&
				(elevel == DEBUG1 || ks_log_limit(facility, line, GetCurrentTimestamp() / 1000, &left_out)))
				ereport(elevel,
						(errmsg_internal("Kafka server \"%s\": %s: %s", client->server_name, facility, line),
						 left_out > 0 ? errdetail("The same was left out %u times since it was logged last.", left_out) : 0,
						 errhidestmt(true), errhidecontext(true)));
		}
		rd_kafka_event_destroy(event);
	}
}

void
ks_client_note_error(KsClient *client, rd_kafka_resp_err_t err, const char *reason)
{
	if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
	{
		client->all_brokers_down = client->was_down = true;
		/* "3/3 brokers are down" says less than what was noted of one of them. */
		if (client->last_error[0] != '\0')
			return;
	}
	client->last_err = err;
	ks_client_scrub(client, reason ? reason : rd_kafka_err2str(err), client->last_error, sizeof(client->last_error));
}

void
ks_client_note_success(KsClient *client)
{
	client->all_brokers_down = false;
	client->last_error[0] = '\0';
	if (!client->was_down)
		return;
	client->was_down = false;
	ks_log_limit_reset();
	if (MyBackendType == B_BG_WORKER)
		ereport(LOG,
				(errmsg("Kafka server \"%s\" answers again", client->server_name),
				 errhidestmt(true), errhidecontext(true)));
}

/* Waits for the pipe, the latch or the timeout; see ks_client_wait. */
static void
wait_for_pipe(KsClient *client, long timeout_ms, const char *wait_name)
{
	WaitEvent	occurred[3];
	int			n;

	CHECK_FOR_INTERRUPTS();
	if (wait_name != client->wait_name)
	{
		client->wait_event = ks_wait_event(wait_name);
		client->wait_name = wait_name;
	}
	n = WaitEventSetWait(client->wait_set, timeout_ms, occurred, lengthof(occurred), client->wait_event);
	for (int i = 0; i < n; i++)
	{
		if (occurred[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		if (occurred[i].events & WL_SOCKET_READABLE)
		{
			char		buffer[64];

			while (read(client->wake_fd[0], buffer, sizeof(buffer)) == sizeof(buffer))
				;
		}
	}
	CHECK_FOR_INTERRUPTS();
}

void
ks_client_wait(KsClient *client, long timeout_ms, const char *wait_name)
{
	/* The pipe tells only that the queue was empty once; what was left in it must not be slept on. */
	wait_for_pipe(client, rd_kafka_queue_length(client->queue) > 0 ? 0 : timeout_ms, wait_name);
}

/* See client.h. */
void
ks_client_sleep(KsClient *client, long timeout_ms, const char *wait_name)
{
	wait_for_pipe(client, timeout_ms, wait_name);
}

/* Notes the errors in a queue that holds nothing else meanwhile. ERROR if the broker refuses our login. */
static void
note_queued_errors(KsClient *client)
{
	rd_kafka_event_t *event;

	while (rd_kafka_queue_length(client->queue) > 0 && (event = rd_kafka_queue_poll(client->queue, 0)) != NULL)
	{
		if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR)
			ks_client_note_error(client, rd_kafka_event_error(event), rd_kafka_event_error_string(event));
		rd_kafka_event_destroy(event);
	}
	if (client->last_err == RD_KAFKA_RESP_ERR__AUTHENTICATION)
		ks_unreachable_error(client);
}

/* Body of the thread of one call. */
static void *
call_body(void *arg)
{
	KsCall	   *call = arg;
	KsHandle   *shared = call->shared;
	bool		abandoned;

	call->run(shared->rk, call->arg);

	pthread_mutex_lock(&shared->lock);
	call->done = true;
	abandoned = call->abandoned;
	if (abandoned)
	{
		/* Before "users" goes down: the handle must outlive what belongs to it. */
		call->release(call->arg);
		free(call);
	}
	if (shared->wake_fd >= 0 && write(shared->wake_fd, "c", 1) < 0)
	{
		/* A full pipe wakes the reader as well. */
	}
	shared->users--;
	pthread_cond_broadcast(&shared->changed);
	pthread_mutex_unlock(&shared->lock);
	return NULL;
}

/* Has the call's thread ended? Once it has, nobody but the caller touches the call. */
static bool
call_done(KsCall *call)
{
	bool		done;

	pthread_mutex_lock(&call->shared->lock);
	done = call->done;
	pthread_mutex_unlock(&call->shared->lock);
	return done;
}

/* Starts the thread of a call.  ERROR, after release(arg), if there is no thread or memory left. */
static KsCall *
start_call(KsClient *client, void (*run) (rd_kafka_t *rk, void *arg), void (*release) (void *arg), void *arg,
		   bool abandoned)
{
	KsHandle   *shared = client->shared;
	KsCall	   *call = calloc(1, sizeof(KsCall));

	if (call == NULL)
	{
		release(arg);
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	}
	call->shared = shared;
	call->run = run;
	call->release = release;
	call->arg = arg;
	call->abandoned = abandoned;
	pthread_mutex_lock(&shared->lock);
	shared->users++;
	pthread_mutex_unlock(&shared->lock);
	if (!start_thread(call_body, call))
	{
		pthread_mutex_lock(&shared->lock);
		shared->users--;
		pthread_mutex_unlock(&shared->lock);
		free(call);
		release(arg);
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES), errmsg("could not start a thread")));
	}
	return call;
}

/* See client.h. */
void
ks_client_start(KsClient *client, void (*run) (rd_kafka_t *rk, void *arg), void (*release) (void *arg), void *arg)
{
	(void) start_call(client, run, release, arg, true);
}

void
ks_client_call(KsClient *client, void (*run) (rd_kafka_t *rk, void *arg), void (*release) (void *arg),
			   void *arg, const char *wait_name)
{
	KsHandle   *shared = client->shared;
	KsCall	   *call = start_call(client, run, release, arg, false);

	PG_TRY();
	{
		while (!call_done(call))
		{
			wait_for_pipe(client, 1000, wait_name);
			ks_client_drain_log(client);
			if (client->errors_only)
				note_queued_errors(client);
		}
	}
	PG_CATCH();
	{
		bool		done;

		pthread_mutex_lock(&shared->lock);
		done = call->done;
		call->abandoned = true;
		pthread_mutex_unlock(&shared->lock);
		if (done)
		{
			release(arg);
			free(call);
		}
		PG_RE_THROW();
	}
	PG_END_TRY();
	free(call);
}
