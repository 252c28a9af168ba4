/*
 * find_rows.h: reading rows of a target by SQL, by their key or a part of it.
 */
#ifndef KS_FIND_ROWS_H
#define KS_FIND_ROWS_H

#include "apply/existing_keys.h"
#include "apply/row_group.h"

/* Called with the columns asked for of a row, by attribute; valid only during the call. */
typedef void (*KsRowFound) (void *arg, int number, const Datum *values, const bool *nulls);

/*
 * Reads the columns chosen (by attribute) of the rows whose key columns "attributes" (indexes of attributes, n of them) have
 * the values of one of "parts" (count of them, each by attribute), as the current user, who must be allowed to read the
 * table; calls found with the number of the part for each.  condition, with parameters (NULL: none): what else holds for
 * these rows of t, for wrappers that cannot send a join to the other side.
 */
extern void ks_find_rows(KsTargetTable *target, const int *attributes, int n, Datum **parts, int count, const bool *columns,
						 const char *condition, const KsParameters *parameters, KsRowFound found, void *arg);

/* The same for the key's columns; numbers of parts begin at "first". */
extern void ks_find_keys(KsTargetTable *target, const int *attributes, int n, Datum **parts, int first, int count,
						 const char *condition, const KsParameters *parameters, KsKeyFound found, void *arg);

#endif							/* KS_FIND_ROWS_H */
