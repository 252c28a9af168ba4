/*
 * topic_send.h: sends what the transaction has written to topics, before it commits.
 */
#ifndef KS_TOPIC_SEND_H
#define KS_TOPIC_SEND_H

#include "fdw/topic_outbox.h"

struct KsTransactional;

/*
 * Sends all messages of the outbox, each login's in one Kafka transaction, and commits these.  ERROR, after they were
 * aborted: a message was not accepted, or no broker answers.  Where it cannot be known whether Kafka has committed, the
 * error says so.
 */
extern void ks_topic_send(void);

/* Hands one message to a producer whose transaction has begun; number as in KsTransactionalMessage. */
extern void ks_outgoing_send(struct KsTransactional *producer, const char *topic, const KsOutgoing *message, int64 number);

#endif							/* KS_TOPIC_SEND_H */
