/*
 * topic_reader.h: reads a part of a topic once, from where its partitions begin (or later) to where they ended when the
 * reader was first started: committed messages only, up to the last stable offset.
 */
#ifndef KS_TOPIC_READER_H
#define KS_TOPIC_READER_H

#include "event/parser.h"
#include "kafka/client.h"
#include "nodes/pg_list.h"

/* What is to be read.  Zeroed and then ks_bounds_all(): everything. */
typedef struct KsBounds
{
	bool		none;			/* nothing at all */
	int64		partition_min;
	int64		partition_max;	/* inclusive */
	List	   *partitions;		/* of int: only these, too, unless any_partition */
	bool		any_partition;
	int64		offset_min;
	int64		offset_max;		/* inclusive */
	int64		last;			/* about so many messages at the end of the topic, divided by partition; 0 = all */
	/* For samples: of each partition, one of so many equal parts, from a place in it on (0 to 1); slices 0 = all of it. */
	int			slices;
	int			slice;
	double		place;
	int64		most;			/* about so many messages, shared out by the partitions' lengths; 0 = all */
	int64		ms_min;			/* messages with a timestamp before it (in ms since 1970) are not wanted; PG_INT64_MIN = all are */
	int64		ms_end;			/* nor those with this one or a later one; PG_INT64_MAX = all are */
} KsBounds;

extern void ks_bounds_all(KsBounds *bounds);

/* One partition. */
typedef struct KsRange
{
	int32		partition;
	int64		low;			/* where the log began */
	int64		stable;			/* last stable offset: its end */
	int64		start;
	int64		end;			/* first offset that is not read */
	int64		next;
	bool		open;			/* something of it is still to be read */
	bool		wanted;			/* something of it was, since the reader was made */
	int64		messages;		/* handed out since then */
	int64		most;			/* to be handed out since the reader was started; 0 = all */
	int64		taken;			/* of these */
} KsRange;

typedef struct KsTopicReader
{
	KsServer   *server;
	char	   *topic;
	bool		few;			/* a few messages are wanted: not much is fetched ahead */
	bool		ordered;		/* the log is known to be in the order of its timestamps: ms_end ends the reading */
	KsClient   *client;
	int			nranges;		/* all partitions of the topic, from the first start on */
	KsRange    *ranges;
	int			nopen;
	int64		messages;
	rd_kafka_event_t *event;	/* of the message handed out */
	Size		taken;
	Size		unpoked;
	MemoryContext context;
	MemoryContextCallback callback;
} KsTopicReader;

/*
 * Makes a reader in CurrentMemoryContext, and ends with that context if it is not closed before.  No broker is asked
 * yet.  "expected": how many messages are wanted at most, 0 = not known: a few are fetched in small pieces.
 */
extern KsTopicReader *ks_topic_reader_create(KsServer *server, const char *topic, bool ordered, double expected);
/*
 * Begins (anew) to read what bounds say.  The ends of the partitions are those of the first call.  ERROR: no broker
 * answers within 10 s, there is no such topic, it may not be read.
 */
extern void ks_topic_reader_start(KsTopicReader *reader, const KsBounds *bounds);
/*
 * Waits for the next message; false at the end.  Each partition comes in its order.  What m points to is valid until
 * the next call.  ERROR: the brokers went away, messages were deleted before they could be read.
 */
extern bool ks_topic_reader_next(KsTopicReader *reader, KsMessage *m);
extern void ks_topic_reader_close(KsTopicReader *reader);

/* Messages in the topic by its watermarks, for estimates. ERROR as ks_topic_reader_start. */
extern double ks_topic_reader_count(KsTopicReader *reader);
/* Offsets that the last reading, which has come to its end, has gone over. */
extern double ks_topic_reader_covered(const KsTopicReader *reader);

#endif							/* KS_TOPIC_READER_H */
