/*
 * offsets.h: how far a subscription has come in each partition: kafka.subscription_position in memory.
 *
 * "stored" is what the table says; it moves only when a transaction that wrote it has committed.  "read" runs ahead of
 * it: it is where the consumer goes on.  A write is refused when the table no longer says "stored": then somebody else
 * (kafka.seek_subscription, a second worker) moved the position, and what was read since is not ours to apply.
 */
#ifndef KS_OFFSETS_H
#define KS_OFFSETS_H

#include "postgres.h"

#include "consume/dedupe.h"
#include "datatype/timestamp.h"
#include "event/parser.h"

#define KS_TOPIC_ID_SIZE 32		/* of a topic's id as base64 text, with its end */

typedef struct KsOffset
{
	char	   *topic;
	int32		partition;
	int64		stored;			/* next_offset in the table */
	int64		generation;		/* of the row in the table: another one when the partition begins anew, see apply/progress.h */
	int64		read;			/* handed out by the consumer, or stepped over, up to here */
	int64		last_offset;	/* of the last message applied, -1 = none */
	int64		last_timestamp_ms;
	uint32		last_checksum;

	/* what the transaction under way writes */
	bool		staged;
	int64		staged_next;
	const KsMessage *staged_message;	/* last one of it, NULL = only stepped over others */

	/* log ends as last seen, -1 = not known */
	int64		low;
	int64		high;
	int64		stable;
	int64		elsewhere;		/* it was read up to here by the other feed of a rebuild: it was no shorter then */

	int64		goal;			/* rebuild: what is read before it looks at the log's end again */
	int64		eof;			/* where the log ended when its end was last met, -1 = not yet */
	int64		stop;			/* nothing at or after this is read; PG_INT64_MAX: no such bound */

	/* gaps.c */
	TimestampTz asked_at;		/* just before the log's end was asked for last */
	int64		asked_high;		/* and the answer, -1 = none yet */
	int64		asked_end;		/* what is to be applied for all that was in the log by then to be; -1 = not known */
	TimestampTz read_at;		/* all that was in the log by then is applied; 0 = it was never read to its end */
	TimestampTz read_at_noted;	/* the same, as in the table */
	int64		retention_ms;	/* delete.retention.ms; 0 = not compacted, or of no concern, -1 = not known */
	char		topic_id[KS_TOPIC_ID_SIZE]; /* of the topic that was read, "" = not known */
	char		new_topic_id[KS_TOPIC_ID_SIZE];	/* it has another one now; else "" */
	bool		lost;			/* the topic went before it was read to its end */
	bool		note;			/* the table is to be told what we know by now */
	int64		anchor_offset;	/* a record that was read some time ago, -1 = none */
	int64		anchor_timestamp_ms;
	uint32		anchor_checksum;
	struct
	{
		int64		offset;
		int64		timestamp_ms;
		uint32		checksum;
	}			anchor_next;	/* becomes the anchor if that is found unchanged */

	KsProducers *producers;		/* last positions of those whose messages append and merge targets have */

	int			shorter;		/* times in a row that the log ended before what was read */

	bool		exists;			/* in the cluster, at the last look */
	bool		gone;			/* Kafka answered, and it is not in the cluster */
	bool		assigned;		/* being read */
	bool		verified;		/* the log is the one that was read before */
	int64		reported;		/* next_offset, stable as last reported to shared memory */
	int64		reported_stable;
	int64		reported_high;
	int64		group_committed;	/* last told to the Kafka group */
} KsOffset;

typedef struct KsOffsets
{
	int64		subscription_id;
	const char *table;			/* of schema kafka: where they are stored */
	int32		ordinal;		/* the worker whose partitions these are, */
	int32		workers;		/* of so many */
	int			count;
	int			capacity;
	KsOffset  **items;
	KsOffset   *latest;			/* of the last look-up */
	MemoryContext context;
} KsOffsets;

/* Which of the workers of a subscription reads a partition: the partitions of each topic go round. */
extern int32 ks_partition_worker(const char *topic, int32 partition, int32 workers);
#define KS_LIVE_POSITIONS "subscription_position"
#define KS_REBUILD_POSITIONS "rebuild_position"

/* Reads the positions of a worker's partitions from a table; call inside a transaction. Lives in CurrentMemoryContext. */
extern KsOffsets *ks_offsets_load(int64 subscription_id, const char *table, int32 ordinal, int32 workers);
/* Moves a partition of which nothing was read yet, in memory and (in a transaction of its own) in the table. */
extern void ks_offsets_move(KsOffsets *offsets, KsOffset *offset, int64 start);
/* Returns the entry of a partition, NULL if there is none. */
extern KsOffset *ks_offsets_find(KsOffsets *offsets, const char *topic, int32 partition);
/*
 * Adds a partition that begins at start, in memory and (in a transaction of its own) in the table; returns it.  Should the
 * table have it already (another worker was faster, just before the number of workers changed), it goes on from there.
 */
extern KsOffset *ks_offsets_add(KsOffsets *offsets, const char *topic, int32 partition, int64 start);
/* Notes that a transaction applies this message (of this partition). Messages come in order. */
extern void ks_offsets_stage(KsOffset *offset, const KsMessage *message);
/* Notes that a transaction steps up to "next" without a message. */
extern void ks_offsets_stage_step(KsOffset *offset, int64 next);
/* Is anything staged? */
extern bool ks_offsets_staged(const KsOffsets *offsets);
/*
 * Writes what is staged, inside the transaction of the rows and under its active snapshot.  False: the table no longer
 * says what we stored there; the caller must abort and begin anew.  In offsets_write.c.
 */
extern bool ks_offsets_write(KsOffsets *offsets);
/*
 * Writes read_at, topic_id and the last record of the entries marked "note", in a transaction of its own.
 */
extern void ks_offsets_note(KsOffsets *offsets);
/* Notes the answer, a high watermark, to what was asked at "asked_at". */
extern void ks_offset_note_answer(KsOffset *offset, int64 high, TimestampTz asked_at);
/* Notes where a partition ends by what was fetched of it last, whenever that was. */
extern void ks_offset_note_ends(KsOffset *offset, int64 high, int64 stable);
/* Makes the last record the one that the partition is known by from now on. */
extern void ks_offset_anchor(KsOffset *offset);
/* What read_at becomes when everything before "position" is applied. */
extern TimestampTz ks_offset_read_at(const KsOffset *offset, int64 position);
/* The transaction committed (or not): staged positions become stored ones, or are forgotten. */
extern void ks_offsets_finish(KsOffsets *offsets, bool committed);
/* Milliseconds since the Unix epoch as a timestamptz. */
extern TimestampTz ks_timestamp_of_ms(int64 ms);
/* CRC-32C of a message's key and value. */
extern uint32 ks_message_checksum(const char *key, Size key_size, const char *value, Size value_size);

#endif							/* KS_OFFSETS_H */
