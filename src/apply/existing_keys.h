/*
 * existing_keys.h: rows of a target by a part of its key.
 */
#ifndef KS_EXISTING_KEYS_H
#define KS_EXISTING_KEYS_H

#include "apply/target.h"

/* Called with the key of a row, by attribute; valid only during the call. */
typedef void (*KsKeyFound) (void *arg, int number, const Datum *values);

/*
 * Finds the rows whose key columns "attributes" (indexes of attributes, n of them) have the values of one of "parts"
 * (count of them, each by attribute); calls found with the number of the part for each.  In sink.c.
 */
extern void ks_existing_keys(KsTargetTable *target, const int *attributes, int n, Datum **parts, int count,
							 KsKeyFound found, void *arg);
/*
 * For local tables: by an index that begins with these columns, if there is one; else by SQL, as the current user, who must
 * be allowed to read the table.
 */
extern void ks_local_existing_keys(KsTargetTable *target, const int *attributes, int n, Datum **parts, int count,
								   KsKeyFound found, void *arg);

#endif							/* KS_EXISTING_KEYS_H */
