/*
 * transactional.h: a producer whose messages become visible together, or not at all, to readers of committed messages.
 *
 * All calls wait on the latch, can be interrupted, and have an end: a broker that does not answer is an ERROR.  After an
 * ERROR the producer is of no use but to be aborted and destroyed.
 */
#ifndef KS_TRANSACTIONAL_H
#define KS_TRANSACTIONAL_H

#include "postgres.h"

#include "kafka/client.h"

typedef struct KsTransactional
{
	MemoryContext context;
	KsServer   *server;
	KsClient   *client;
	const char *wait_name;		/* wait event */
	int			timeout_ms;		/* of its transactions */
	bool		ready;			/* it has a producer id */
	bool		begun;			/* a transaction has */
	int64		under_way;		/* messages not acknowledged */
	int64		bytes;			/* of these */
	TimestampTz progress;
	rd_kafka_resp_err_t failure;	/* of the first message that was not accepted, or of the producer itself */
	char		failed_topic[256];	/* "" = it is no message's */
	int64		failed_number;	/* of that message */
	int			nfailed;		/* messages that were not accepted, but for those that others took with them */
} KsTransactional;

/* A message to be sent; data NULL = none. */
typedef struct KsTransactionalMessage
{
	const char *topic;
	int32		partition;		/* -1 = by murmur2 of the key, as Java clients do; any without a key */
	int64		timestamp_ms;	/* 0 = now */
	const char *key;
	Size		key_size;
	const char *value;
	Size		value_size;
	rd_kafka_headers_t *headers;	/* taken over, on ERROR too; NULL = none */
	int64		number;			/* becomes failed_number */
} KsTransactionalMessage;

/*
 * Makes a producer, in TopMemoryContext.  Whoever else has the same id is fenced by the first transaction of this one.
 * ERROR for properties that librdkafka refuses.
 */
extern KsTransactional *ks_transactional_create(const KsServer *server, const char *id, int timeout_ms,
												const char *wait_name);
/* Gives it up; a transaction that is open ends by its timeout, or when another with the same id begins. */
extern void ks_transactional_destroy(KsTransactional *p);

/* Gets a producer id, unless it has one: transactions of others with the same id are over then. */
extern void ks_transactional_init(KsTransactional *p);
/* Begins a transaction, unless one has begun. */
extern void ks_transactional_begin(KsTransactional *p);
/*
 * ERROR unless there is such a topic: a message to none could have a broker create it.  Only while no message is under
 * way, since what comes back meanwhile is thrown away but for errors.
 */
extern void ks_transactional_check_topic(KsTransactional *p, const char *topic);
/* Hands a message to librdkafka, which copies it; waits for room.  ERROR for one that was not accepted, this or an earlier one. */
extern void ks_transactional_send(KsTransactional *p, const KsTransactionalMessage *m);
/* Takes what has arrived, without waiting. ERROR as ks_transactional_send, or for brokers that are gone. */
extern void ks_transactional_serve(KsTransactional *p);
/* Waits until all messages are acknowledged. ERROR as ks_transactional_serve. */
extern void ks_transactional_wait(KsTransactional *p);
/*
 * Commits, in at most timeout_ms.  False: it cannot be known whether the transaction is committed, with Kafka's words in
 * reason.  ERROR: it is not.
 */
extern bool ks_transactional_commit(KsTransactional *p, int timeout_ms, char *reason, Size size);
/* Aborts what has begun, as far as that can be done in timeout_ms; no ERROR but for an interrupt. */
extern void ks_transactional_abort(KsTransactional *p, int timeout_ms);

#endif							/* KS_TRANSACTIONAL_H */
