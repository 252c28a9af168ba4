/*
 * emit.h: from one row change to the records of it, in the order they are to be sent.
 */
#ifndef KS_EMIT_H
#define KS_EMIT_H

#include "postgres.h"

#include "decode/source.h"
#include "event/event.h"
#include "lib/stringinfo.h"

typedef struct KsEmitter KsEmitter;

/* What all events of a transaction (or of a table's snapshot) have in common. */
typedef struct KsEmitOrigin
{
	TransactionId xid;
	XLogRecPtr	commit_lsn;
	XLogRecPtr	position_lsn;	/* first part of the position header; for transactions the same as commit_lsn */
	TimestampTz commit_time;
	uint64		first_ordinal;
	uint16		origin;
	XLogRecPtr	origin_lsn;
	const char *snapshot;
} KsEmitOrigin;

/* Makes an emitter below the source's context. */
extern KsEmitter *ks_emitter_create(KsSource *source, KsSink *sink);

/* A transaction begins; the sink hears of it with its first event. */
extern void ks_emit_begin(KsEmitter *emitter, const KsEmitOrigin *origin);
/* Snapshot rows: marker of the next row, and the time it was read. */
extern void ks_emit_mark(KsEmitter *emitter, const char *snapshot, TimestampTz read_at);

/*
 * One change of a row: before is NULL if WAL has no old row, and has only the identity columns if before_is_key.  The
 * records are: an event; a delete and its tombstone; for a changed key a delete, a tombstone and a create.
 */
extern void ks_emit_insert(KsEmitter *emitter, const KsRelation *rel, KsOp op, const KsRow *after, XLogRecPtr lsn);
extern void ks_emit_update(KsEmitter *emitter, const KsRelation *rel, const KsRow *before, bool before_is_key,
						   const KsRow *after, XLogRecPtr lsn);
extern void ks_emit_delete(KsEmitter *emitter, const KsRelation *rel, const KsRow *before, bool before_is_key,
						   XLogRecPtr lsn);
/*
 * What the deletes that are emitted next are ordered by among the changes of two databases, for their header; NULL: they
 * have none.
 */
extern void ks_emit_delete_stamp(KsEmitter *emitter, const StringInfoData *stamp);
/* A truncate: one event in every partition. */
extern void ks_emit_truncate(KsEmitter *emitter, const KsRelation *rel, XLogRecPtr lsn);

/* The transaction is complete. Returns whether it had any event. */
extern bool ks_emit_commit(KsEmitter *emitter, XLogRecPtr end_lsn);

#endif							/* KS_EMIT_H */
