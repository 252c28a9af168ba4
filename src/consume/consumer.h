/*
 * consumer.h: reads the partitions of a subscription from where its stored offsets say, and nowhere else.
 *
 * Messages are handed out in the order of each partition and stay valid until they are released.
 */
#ifndef KS_CONSUMER_H
#define KS_CONSUMER_H

#include "compat/pg_compat.h"
#include "consume/offsets.h"
#include "control/catalog.h"
#include "datatype/timestamp.h"
#include "kafka/client.h"

typedef struct KsConsumer
{
	const KsSubscription *subscription;
	KsOffsets  *offsets;
	KsClient   *client;			/* reads */
	KsClient   *asker;			/* metadata and log ends: a fetch that waits at the broker must not hold these up */
	bool		json_headers;	/* the format has headers that parsers need */
	uint8		modes;			/* KS_MODE_... that the options name */
	bool		connected;
	bool		stale;			/* what there is to read must be looked at again soon */
	char		missing[256];	/* a topic that does not exist, "" if all do */
	int			partitions;		/* that the subscription reads, by all its workers */
	int			busy_workers;	/* those of them that have any, at least 1 */
	TimestampTz polled_at;		/* when messages were last taken */
	TimestampTz next_assign;	/* when to look at the cluster's partitions again */
	TimestampTz next_configs;	/* when to look at the topics' configurations again */
	int			next_anchor;	/* partition to be checked next, see gaps.c */
	struct KsRecordAsks *anchors;	/* being asked for, or NULL */
	struct KsRecordAsks *ends;	/* likewise, the ends of partitions, since "ends_at" */
	TimestampTz ends_at;
	TimestampTz next_group_commit;
	bool		group_commit_warned;

	/* messages handed out and not released, oldest first */
	int			count;
	int			capacity;
	Size		bytes;
	Size		taken;			/* bytes since librdkafka's queue was last found empty */
	Size		unpoked;		/* and since its broker threads were last woken */
	KsMessage  *messages;
	KsOffset  **owners;
	rd_kafka_event_t *event;	/* being handled */
	bool		fresh_ends;		/* log ends were refreshed since the flag was cleared */
	bool		first_end;		/* likewise, an end was found that was not known before */
	bool		rebuild;		/* reads again what was read before, */
	bool		lenient;		/* and may begin later than that did, where the log does */
} KsConsumer;

/* Makes the client handles. ERROR as ks_client_create. */
extern KsConsumer *ks_consumer_create(const KsSubscription *subscription, const KsServer *server, KsOffsets *offsets);

/*
 * Looks up which partitions there are, adds new ones, checks that the logs are those read before and assigns; does
 * nothing more where nothing changed.  To be called again at next_assign, or when the consumer is "stale".  False: Kafka
 * could not be asked, try again later.  ERROR: the stored position is not in the log any more, or the topic is another
 * one.  In assign.c.
 */
extern bool ks_consumer_assign(KsConsumer *consumer);

/* Takes what has arrived, up to max_messages and max_bytes in all, without waiting. True: there may be more. */
extern bool ks_consumer_poll(KsConsumer *consumer, int max_messages, Size max_bytes);
/* Gives back the first n messages. */
extern void ks_consumer_release(KsConsumer *consumer, int n);
/* Tells the Kafka group how far we are, at most every few seconds, without waiting. */
extern void ks_consumer_commit_group(KsConsumer *consumer);
/* Handles an event that is no message; shared with assign.c, which reads on its own while it checks. */
extern void ks_consumer_handle_event(KsConsumer *consumer, rd_kafka_event_t *event);
/* Destroys the event that was being handled (c->event), if any. */
extern void ks_consumer_event_done(KsConsumer *consumer);
/* Stores why Kafka could not be asked. In assign.c. */
extern void ks_consumer_note_failure(KsConsumer *consumer, rd_kafka_resp_err_t err);

/* The rest is in gaps.c. */

/*
 * The position of a partition cannot be read any more, for the reason given: ERROR, or, with option "on_gap", the end of
 * the process and a rebuild.
 */
pg_noreturn extern void ks_consumer_gap(const KsConsumer *consumer, const KsOffset *offset, const char *reason);
/*
 * Ends the process, and has the worker begin anew: what was read of a partition may be of a topic that is not there any more,
 * but none of it was applied, so the one that is there now is read from where it was to begin.
 */
pg_noreturn extern void ks_consumer_begin_anew(const KsConsumer *consumer, const KsOffset *offset);
/*
 * Asks what topics there are ids of, and, when something changed or now and then, how long their tombstones stay.  Sets
 * *changed where a topic is another one.  False: no answer.
 */
extern bool ks_gaps_ask(KsConsumer *consumer, bool *changed);
/* Compares the topic's id; the log's ends are known. */
extern void ks_gaps_check_id(KsConsumer *consumer, KsOffset *offset);
/* Checks that no partition was unread for too long, and notes what is to outlive us. */
extern void ks_gaps_check_read(KsConsumer *consumer);
/* The same for one partition of which something is unread at "now". */
extern void ks_gaps_check_unread(KsConsumer *consumer, const KsOffset *offset, TimestampTz now);
/* Takes the answers, and asks anew, where logs end of which it was not asked for some time. */
extern void ks_gaps_check_ends(KsConsumer *consumer);
/* Takes the answers, and asks anew, whether what was read some time ago is still what the log holds. */
extern void ks_gaps_check_anchors(KsConsumer *consumer);

#endif							/* KS_CONSUMER_H */
