/*
 * log_ends.h: where partitions end, from librdkafka's statistics: the only place where it tells the last stable offset
 * without a request of its own.
 */
#ifndef KS_LOG_ENDS_H
#define KS_LOG_ENDS_H

#include "consume/offsets.h"

/*
 * Takes high watermark and last stable offset of every partition of "offsets" from a statistics document.  Returns true
 * if any broker is connected.  A partition whose log ends before what was read of it is marked not verified.
 */
extern bool ks_log_ends_update(KsOffsets *offsets, const char *json);

/* Sum over partitions of the messages not yet applied, UINT64_MAX if one is not known. */
extern uint64 ks_log_ends_lag(const KsOffsets *offsets);

#endif							/* KS_LOG_ENDS_H */
