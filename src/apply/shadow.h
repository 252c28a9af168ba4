/*
 * shadow.h: a copy of a target in the making, kafka.rebuild_<id>: a table of the same columns, defaults and constraints,
 * which rows are read into beside the target, and how it takes the target's place.
 *
 * A shadow belongs to the target's owner, falls with the target, and is invisible to logical decoding.  All functions
 * are called inside a transaction, as the bootstrap superuser.
 */
#ifndef KS_SHADOW_H
#define KS_SHADOW_H

#include "postgres.h"

#include "apply/target.h"

/* Name of the index that stands for the target's in its shadow, in dst (NAMEDATALEN). */
extern void ks_shadow_index_name(char *dst, int64 id, Oid index);

/* Name of a shadow, without its schema (kafka), in dst (NAMEDATALEN). */
extern void ks_shadow_name(char *dst, int64 id);

/*
 * All that the rows of a target depend on, as text: should it change while its shadow is being filled, the shadow is of
 * no use any more.  NULL if there is no such table.  Palloc'ed.
 */
extern char *ks_shadow_definition(Oid target);

/*
 * Makes the shadow of a table that is open as "target", with the key's index, and others only where the writer of the
 * target looks rows up by them; drops what may be left of an earlier one.  Returns its Oid.
 */
extern Oid	ks_shadow_create(const KsTargetTable *target, int64 id);

/* The shadow made for this target, InvalidOid if there is none. */
extern Oid	ks_shadow_find(Oid target, int64 id);

/* Drops a shadow, if there is one. */
extern void ks_shadow_drop(int64 id);

/*
 * Why a shadow cannot take the place of its target by exchanging the files of the two, or NULL.  Then the difference is
 * applied: where others must see row changes, or the table is more than its files.
 */
extern const char *ks_shadow_obstacle(Oid target);

/* Builds one index that the target has and its shadow lacks. False: none is missing. */
extern bool ks_shadow_add_index(Oid target, int64 id);

/*
 * Is the shadow still what was made of the target?  It is its owner's, who may have changed it.  "indexes": it has all of
 * the target's, too, as for an exchange of files.  Keeps both from being changed until the transaction ends.  In
 * shadow_fits.c.
 */
extern bool ks_shadow_fits(Oid target, Oid shadow, int64 id, bool indexes);

/*
 * Exchanges the files of target and shadow, heap, TOAST and indexes, and drops the shadow with the old ones.  The target
 * keeps its Oid and all that hangs on it.  Both are locked in AccessExclusiveLock, they fit each other with all indexes, and every
 * snapshot in use sees what was written to the shadow.  In shadow_swap.c.
 */
extern void ks_shadow_swap(Oid target, Oid shadow, int64 id);

/* A target and its shadow, for the difference. */
typedef struct KsShadowPair
{
	KsTargetTable *target;		/* open */
	Oid			shadow;
} KsShadowPair;

/*
 * Makes targets equal to their shadows by ordinary row changes, as their owners: all of one owner in one statement, so
 * that foreign keys between them are checked when all are done.  "replace" deletes and inserts rows that differ, where an
 * update could meet another row's unique values on its way.  Returns the number of rows changed.  In shadow_difference.c.
 */
extern uint64 ks_shadow_difference(KsShadowPair *pairs, int npairs, bool replace);

#endif							/* KS_SHADOW_H */
