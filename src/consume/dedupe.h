/*
 * dedupe.h: repeats that an at-least-once publisher wrote, found by the position that each message carries in a header.
 *
 * Positions of one producer grow within a partition.  The last one of each producer is kept with the partition's offset
 * (column producers of the position tables), so it moves in the transaction of the rows.
 */
#ifndef KS_DEDUPE_H
#define KS_DEDUPE_H

#include "postgres.h"

#include "event/parser.h"
#include "utils/jsonb.h"

/* The last positions of a partition's producers. */
typedef struct KsProducers KsProducers;

/* Reads what a position table says (NULL: nothing); lives in CurrentMemoryContext. */
extern KsProducers *ks_producers_read(const Jsonb *stored);

/*
 * Was this message applied before?  If not, notes its position, for the transaction under way.  header: NULL is
 * pg_kafka_sync.pos, '<publisher>/<commit LSN>/<ordinal>'; another one is '<number>' or '<producer>/<number>'.  A message
 * without the header is no repeat.  ERROR: the header says something else.
 */
extern bool ks_producers_repeated(KsProducers *producers, const KsMessage *message, const char *header);

/* Is anything noted that is not stored yet? */
extern bool ks_producers_changed(const KsProducers *producers);
/* What is to be stored, in CurrentMemoryContext. */
extern Jsonb *ks_producers_write(const KsProducers *producers);
/* The transaction committed, or what was noted is forgotten. */
extern void ks_producers_finish(KsProducers *producers, bool committed);

#endif							/* KS_DEDUPE_H */
