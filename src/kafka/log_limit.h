/*
 * log_limit.h: the same complaint of librdkafka is logged once a minute, however often it is made.  Plain C.
 */
#ifndef KS_LOG_LIMIT_H
#define KS_LOG_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Is a line to be logged now?  *left_out: how often the same was left out since it was logged last.  Lines are the same
 * when facility and text are, but for the thread's name in front and "(after ...)" at the end.  now_ms: any clock.
 */
extern bool ks_log_limit(const char *facility, const char *text, int64_t now_ms, uint32_t *left_out);

/* Forgets all: after a recovery, a failure is news again. */
extern void ks_log_limit_reset(void);

#endif							/* KS_LOG_LIMIT_H */
