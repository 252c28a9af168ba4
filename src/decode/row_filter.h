/*
 * row_filter.h: a publication's row filter over rows of one relation.
 */
#ifndef KS_ROW_FILTER_H
#define KS_ROW_FILTER_H

#include "postgres.h"

#include "event/event.h"

typedef struct KsRowFilter KsRowFilter;

/* Makes a filter from its node string, in CurrentMemoryContext; a transaction must be active. */
extern KsRowFilter *ks_row_filter_create(TupleDesc desc, const char *expression);
/* Does the row match?  NULL counts as no. */
extern bool ks_row_filter_match(KsRowFilter *filter, const KsRow *row);

#endif							/* KS_ROW_FILTER_H */
