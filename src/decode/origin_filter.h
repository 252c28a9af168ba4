/*
 * origin_filter.h: which replication origins are those of our own subscriptions.
 */
#ifndef KS_ORIGIN_FILTER_H
#define KS_ORIGIN_FILTER_H

#include "postgres.h"

#include "access/xlogdefs.h"

/* Was this origin made by a subscription of the extension?  Cheap once asked. */
extern bool ks_origin_is_ours(RepOriginId origin);

#endif							/* KS_ORIGIN_FILTER_H */
