/*
 * slot_guard.h: keeps the collector of ownerless slots away from a slot whose publisher row is not committed yet.
 */
#ifndef KS_SLOT_GUARD_H
#define KS_SLOT_GUARD_H

#include "postgres.h"

/* Guards a slot name until the end of this transaction; takes no xid. */
extern void ks_slot_guard(const char *slot_name);
/* True if nobody guards it; then this transaction does. */
extern bool ks_slot_guard_try(const char *slot_name);

#endif							/* KS_SLOT_GUARD_H */
