/*
 * progress_topic.h: positions that are committed together with messages: records of a compacted topic of one partition,
 * written in the same Kafka transaction.  (Offsets of a consumer group would do the same, but expire.)
 */
#ifndef KS_PROGRESS_TOPIC_H
#define KS_PROGRESS_TOPIC_H

#include "kafka/transactional.h"
#include "nodes/pg_list.h"

typedef struct KsProgressRecord
{
	char	   *key;
	char	   *value;
} KsProgressRecord;

/*
 * Returns the latest committed record of each key that begins with prefix, as a list of KsProgressRecord in
 * CurrentMemoryContext.  The topic is made if it is missing.  To be called when ks_transactional_init has ended what
 * another of the same transactional id had begun: then what is returned does not change but by us.  Transactions of
 * others that are open are waited for, for a while.  Interruptible; ERROR within seconds if no broker answers.
 */
extern List *ks_progress_topic_read(const KsServer *server, const char *topic, const char *prefix, const char *wait_name);

/* Adds a record to the producer's open transaction; value NULL: there is none of this key any more. */
extern void ks_progress_topic_put(KsTransactional *producer, const char *topic, const char *key, const char *value);

#endif							/* KS_PROGRESS_TOPIC_H */
