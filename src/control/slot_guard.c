/*
 * slot_guard.c: a heavyweight lock per slot name, on an object of this database that cannot exist otherwise:
 * class 0, hash of the name.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "control/slot_guard.h"
#include "miscadmin.h"
#include "storage/lock.h"

static void
set_tag(LOCKTAG *tag, const char *slot_name)
{
	uint32		hash = hash_bytes((const unsigned char *) slot_name, strlen(slot_name));

	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, InvalidOid, hash, 0);
}

/* Guards a slot name until the end of this transaction. */
void
ks_slot_guard(const char *slot_name)
{
	LOCKTAG		tag;

	set_tag(&tag, slot_name);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* Guards a slot name unless another transaction does; returns whether it could. */
bool
ks_slot_guard_try(const char *slot_name)
{
	LOCKTAG		tag;

	set_tag(&tag, slot_name);
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}
