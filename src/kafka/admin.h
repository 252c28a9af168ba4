/*
 * admin.h: what the SQL functions about topics, ACLs and groups share: a connected handle that ends with the function,
 * waits with bounds, Kafka's errors as PostgreSQL's, and arguments.  For kafka/, and for produce/topics.c, which makes topics.
 */
#ifndef KS_ADMIN_H
#define KS_ADMIN_H

#include "postgres.h"

#include "fmgr.h"
#include "kafka/client.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

/* Long enough for slow networks and logins, and an unreachable broker is reported within 10 s. */
#define KS_CONNECT_MS 8000
/* For a request to brokers that answer. */
#define KS_REQUEST_MS 60000

typedef void (*KsDestroy) (void *object);
typedef struct KsOwned KsOwned;

typedef struct KsAdmin
{
	const KsServer *server;
	KsClient   *client;
	KsOwned    *owned;			/* librdkafka objects that end before the handle does */
	bool		keep_events;	/* what is in the handle's queue is the caller's: it is left there */
	bool		borrowed;		/* the handle is the caller's: it outlives us */
} KsAdmin;

/* "value" NULL = JSON null. */
typedef struct KsConfig
{
	char	   *name;
	char	   *value;
} KsConfig;

/* admin.c */

/*
 * Returns a handle that has reached a broker.  "isolation" is read_committed or read_uncommitted: which end of a
 * partition ks_admin_offsets() finds.  Close it, also on ERROR.  ERROR within 10 s if no broker answers.
 */
extern KsAdmin *ks_admin_connect(const KsServer *server, const char *isolation);
/*
 * The same with a handle that somebody else has connected; only metadata can be asked for (what it reports is not ours to
 * take from its queue).  Close it, too: the handle stays.
 */
extern KsAdmin *ks_admin_borrow(const KsServer *server, KsClient *client);
extern void ks_admin_close(KsAdmin *admin);
/* Destroys what ks_admin_own() was given, but not the handle. */
extern void ks_admin_release(KsAdmin *admin);
/* Runs body with a handle for the server that argument 0 names, as the current user, and closes it. */
extern Datum ks_admin_run(FunctionCallInfo fcinfo, Datum (*body) (KsAdmin *admin, FunctionCallInfo fcinfo));
/* Has ks_admin_close() destroy a librdkafka object; returns it. */
extern void *ks_admin_own(KsAdmin *admin, void *object, KsDestroy destroy);
/* Options of one request; "operation" is an rd_kafka_admin_op_t. */
extern rd_kafka_AdminOptions_t *ks_admin_options(KsAdmin *admin, rd_kafka_admin_op_t operation);
/* Where the results of requests go. */
extern rd_kafka_queue_t *ks_admin_queue(KsAdmin *admin);
/* Waits for the result of a request. ERROR "could not <what>" if there is none. The event is owned by admin. */
extern rd_kafka_event_t *ks_admin_wait(KsAdmin *admin, rd_kafka_event_type_t type, const char *what);
/* Metadata of one topic, of all (NULL), or of none (""); ERROR if it cannot be had. Errors of single topics are in it. */
extern const rd_kafka_metadata_t *ks_admin_metadata(KsAdmin *admin, const char *topic);
/* The one topic of ks_admin_metadata(); ERROR if it does not exist or is not ours to see. */
extern const rd_kafka_metadata_topic_t *ks_admin_topic(KsAdmin *admin, const char *topic);
/* A copy of "list" with the offsets at a time, or RD_KAFKA_OFFSET_BEGINNING or _END; one request per broker. */
extern rd_kafka_topic_partition_list_t *ks_admin_offsets(KsAdmin *admin, const rd_kafka_topic_partition_list_t *list,
														 int64 time);
/* One look, without ERROR: NULL if it failed, else partitions that failed have an "err". */
extern rd_kafka_topic_partition_list_t *ks_admin_try_offsets(KsAdmin *admin,
															 const rd_kafka_topic_partition_list_t *list, int64 time);
/* Configs of topics (all of them, or those named), in the order of topics; an rd_kafka_DescribeConfigs_result_t's. */
extern const rd_kafka_ConfigResource_t **ks_admin_configs(KsAdmin *admin, const char *const *topics, int ntopics,
														  const char *const *names, int nnames);
/* Sleeps a moment between two looks at something that takes time to spread. */
extern void ks_admin_pause(KsAdmin *admin, long ms);

/* admin_topics.c */

/*
 * Makes a topic and waits until the brokers know it; -1 is the broker's default.  False: it exists, and if_not_exists.
 * ERROR if Kafka refuses.
 */
extern bool ks_admin_create_topic(KsAdmin *admin, const char *topic, int partitions, int replication_factor,
								  const KsConfig *configs, int nconfigs, bool if_not_exists);

/* errors.c */

/* SQLSTATE for an error of Kafka or librdkafka. */
extern int	ks_kafka_sqlstate(rd_kafka_resp_err_t err);
/* ERROR "could not <what>", in the terms of err and with Kafka's own words if there are any; never returns. */
pg_noreturn extern void ks_kafka_error(const KsAdmin *admin, rd_kafka_resp_err_t err, const char *detail, const char *what);

/* arguments.c */

/* Arguments that must not be NULL, Kafka's text in UTF-8; "name" is the SQL name of the argument. */
extern char *ks_kafka_arg(FunctionCallInfo fcinfo, int i, const char *name);
/* The same for one that may be NULL. */
extern char *ks_kafka_arg_or_null(FunctionCallInfo fcinfo, int i);
/* Text of Kafka (UTF-8) as a text datum in the database's encoding; bytes that are none are ERROR. */
extern Datum ks_kafka_text(const char *utf8);
/* Members of a jsonb object of topic configs; ERROR if it is something else. */
extern KsConfig *ks_config_arg(FunctionCallInfo fcinfo, int i, const char *name, int *nconfigs);
/* Adds a row to the result of a set-returning function. */
extern void ks_put_row(FunctionCallInfo fcinfo, const Datum *values, const bool *nulls);

#endif							/* KS_ADMIN_H */
