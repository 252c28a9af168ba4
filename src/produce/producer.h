/*
 * producer.h: the sink that sends records to Kafka and learns of their acknowledgement.
 *
 * acks=all, idempotent, no time limit: an outage delays messages and never fails them.  What cannot be delivered ends
 * the worker with an ERROR; nothing is ever skipped.  Memory is bounded by the messages under way.
 */
#ifndef KS_PRODUCER_H
#define KS_PRODUCER_H

#include "postgres.h"

#include "control/options.h"
#include "control/worker.h"
#include "event/event.h"
#include "kafka/client.h"
#include "kafka/properties.h"
#include "produce/ack_ledger.h"

typedef struct KsProducer KsProducer;

/* What the producer asks of its owner. */
typedef struct KsProducerOwner
{
	/* A record's topic has no pinned partition count; does not return. */
	void		(*unknown_topic) (void *arg, const KsRelation *rel);
	/* The broker refused a timestamp: start again with the present time; does not return. */
	void		(*refused_timestamp) (void *arg, const char *topic);
	void	   *arg;
} KsProducerOwner;

/* Makes a producer in CurrentMemoryContext. ERROR for properties that librdkafka refuses. */
extern KsProducer *ks_producer_create(const KsServer *server, const KsOptions *options, const KsProducerOwner *owner);
extern void ks_producer_destroy(KsProducer *producer);

/* Waits until a broker answers, in state retrying while none does; interruptible. */
extern void ks_producer_connect(KsProducer *producer);

extern KsSink *ks_producer_sink(KsProducer *producer);
extern KsLedger *ks_producer_ledger(KsProducer *producer);
/* Its connection, for looks at metadata. */
extern KsClient *ks_producer_client(KsProducer *producer);

/* The state to show while all goes well. */
extern void ks_producer_set_state(KsProducer *producer, KsWorkerState state, const char *detail);

/* Handles what librdkafka has reported, without waiting. ERROR for a message that cannot be delivered. */
extern void ks_producer_serve(KsProducer *producer);
/* Waits for a report or the latch, at most timeout_ms, and serves; interruptible. */
extern void ks_producer_wait(KsProducer *producer, long timeout_ms);
/* Waits until every message is acknowledged, however long that takes; interruptible. */
extern void ks_producer_flush(KsProducer *producer);

/*
 * Waits, at most timeout_ms, for what is under way; returns at once where it cannot be acknowledged soon (no broker, a
 * message failed).  For the end of a process: what is acknowledged then need not be sent again.
 */
extern void ks_producer_settle(KsProducer *producer, long timeout_ms);

#endif							/* KS_PRODUCER_H */
