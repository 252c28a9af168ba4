/*
 * payload_pool.h: memory of message values that librdkafka borrows until they are acknowledged.  Copying a value once
 * into a chunk that stays warm is cheaper than one allocation per message that another thread's report frees later.
 */
#ifndef KS_PAYLOAD_POOL_H
#define KS_PAYLOAD_POOL_H

#include <stddef.h>

/* Values above this size are librdkafka's own to copy. */
#define KS_PAYLOAD_LARGEST (64 * 1024)

/*
 * Returns room for a value of size bytes (0 < size <= KS_PAYLOAD_LARGEST), or NULL when the pool has none: values that
 * stay in use for long can pin it all, and librdkafka copies then.  It stays in use until ks_payload_release.  Both are
 * for the main thread.
 */
extern void *ks_payload_take(size_t size);

/* Gives a value's room back: what librdkafka's report of the message points to.  Memory that is not ours is ignored. */
extern void ks_payload_release(const void *payload);

#endif							/* KS_PAYLOAD_POOL_H */
