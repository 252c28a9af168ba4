/*
 * log_position.h: where partitions begin and end, and what "start" means; no librdkafka types, so that control/ may use it.
 */
#ifndef KS_LOG_POSITION_H
#define KS_LOG_POSITION_H

#include "postgres.h"

#include "kafka/properties.h"
#include "nodes/pg_list.h"

typedef struct KsPartitionPosition
{
	char	   *topic;
	int32		partition;
	int64		low;
	int64		stable;			/* last stable offset (read_committed end) */
	int64		offset;			/* the resolved start */
	bool		named;			/* false: a JSON start does not name this partition (offset is then its beginning) */
} KsPartitionPosition;

/*
 * Resolves "start" (earliest | latest | a timestamp as text | {"topic":{"0":123}}) for every partition of the topics
 * (patterns begin with ^ and skip internal topics).  Returns a list of KsPartitionPosition.  Interruptible; ERROR within
 * 10 s if no broker answers, if a named topic is missing (unless missing_ok: it is left out), if "start" is malformed,
 * or names a topic or partition that does not exist, or an offset outside [low, end].
 */
extern List *ks_resolve_start(const KsServer *server, char **topics, int ntopics, const char *start, bool missing_ok);

/* Is a topic of these names or patterns? */
extern bool ks_topic_is_among(const char *topic, char **topics, int ntopics);

#endif							/* KS_LOG_POSITION_H */
