/*
 * topics.h: the topics of a publisher: made before they are needed, with partition counts that stay for ever.
 */
#ifndef KS_TOPICS_H
#define KS_TOPICS_H

#include "postgres.h"

#include "control/catalog.h"
#include "decode/source.h"
#include "kafka/client.h"
#include "kafka/properties.h"

typedef struct KsTopicBook KsTopicBook;

/* Makes an empty book in CurrentMemoryContext. */
extern KsTopicBook *ks_topic_book_create(void);
/* Pinned partition count of a topic, 0 = unknown; has the signature of KsSource.partitions. */
extern int32 ks_topic_book_partitions(void *book, const char *topic);

/*
 * Makes sure that the topic of every table that is published now, and the one that the stream met last, exists and is
 * pinned, and fills the book.  Outside any transaction, with no slot held.  Missing topics are made: compacted if
 * keyed.  "client" is a connection to look with.  ERROR when a topic cannot be used as it is.
 */
extern void ks_topics_prepare(KsTopicBook *book, const KsPublisher *publisher, KsSource *source, const KsServer *server,
							  KsClient *client);

#endif							/* KS_TOPICS_H */
