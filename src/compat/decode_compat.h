/*
 * decode_compat.h: differences between PostgreSQL 15, 16, 17 and 18 in logical decoding, for decode/ only (it needs
 * reorderbuffer.h).
 */
#ifndef KS_DECODE_COMPAT_H
#define KS_DECODE_COMPAT_H

#include "postgres.h"

#include "access/attmap.h"
#include "catalog/pg_publication.h"
#include "compat/pg_compat.h"
#include "replication/logical.h"
#include "replication/reorderbuffer.h"
#include "replication/slot.h"
#include "utils/relcache.h"

/* The new row of a change, NULL if there is none. */
static inline HeapTuple
ks_change_new_tuple(ReorderBufferChange *change)
{
#if PG_VERSION_NUM >= 170000
	return change->data.tp.newtuple;
#else
	return change->data.tp.newtuple ? &change->data.tp.newtuple->tuple : NULL;
#endif
}

/* The old row (or its identity columns) of a change, NULL if WAL has none. */
static inline HeapTuple
ks_change_old_tuple(ReorderBufferChange *change)
{
#if PG_VERSION_NUM >= 170000
	return change->data.tp.oldtuple;
#else
	return change->data.tp.oldtuple ? &change->data.tp.oldtuple->tuple : NULL;
#endif
}

/* Are stored generated columns published where there is no column list? */
static inline bool
ks_publishes_stored_generated(const Publication *publication)
{
#if PG_VERSION_NUM >= 180000
	return publication->pubgencols_type == PUBLISH_GENCOLS_STORED;
#else
	(void) publication;
	return false;
#endif
}

/* Can a column list name a stored generated column, which is published then? */
static inline bool
ks_column_list_publishes_generated(void)
{
#if PG_VERSION_NUM >= 180000
	return true;
#else
	return false;
#endif
}

/* Map of attributes of "in" by the attributes of "out", NULL if both are alike. */
static inline AttrMap *
ks_build_attrmap(TupleDesc in, TupleDesc out)
{
#if PG_VERSION_NUM >= 160000
	return build_attrmap_by_name_if_req(in, out, false);
#else
	return build_attrmap_by_name_if_req(in, out);
#endif
}

/* Has the slot lost WAL or rows that it needs?  Caller holds the slot or its mutex. */
static inline bool
ks_slot_is_invalidated(const ReplicationSlot *slot)
{
#if PG_VERSION_NUM >= 160000
	return slot->data.invalidated != RS_INVAL_NONE;
#else
	return slot->data.invalidated_at != InvalidXLogRecPtr;
#endif
}

/* Takes the slot at once, or raises an ERROR. */
static inline void
ks_slot_acquire(const char *name)
{
#if PG_VERSION_NUM >= 180000
	ReplicationSlotAcquire(name, true, true);
#else
	ReplicationSlotAcquire(name, true);
#endif
}

/* Makes a slot that goes away on ERROR unless it is persisted. */
static inline void
ks_slot_make_ephemeral(const char *name)
{
#if PG_VERSION_NUM >= 170000
	ReplicationSlotCreate(name, true, RS_EPHEMERAL, false, false, false);
#else
	ReplicationSlotCreate(name, true, RS_EPHEMERAL, false);
#endif
}

#endif							/* KS_DECODE_COMPAT_H */
