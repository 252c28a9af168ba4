/*
 * produce_now.h: sending one message and waiting until it is acknowledged, with a producer that the process keeps.
 */
#ifndef KS_PRODUCE_NOW_H
#define KS_PRODUCE_NOW_H

#include "kafka/client.h"

/*
 * Sends one message to a topic that exists; key or value NULL: none.  "headers" are taken over, also on ERROR; NULL:
 * none.  timestamp_ms since the Unix epoch, -1 = now.  ERROR as kafka.produce.
 */
extern void ks_produce_now(const KsServer *server, Oid userid, const char *topic, const char *key, Size key_size,
						   const char *value, Size value_size, rd_kafka_headers_t *headers, int64 timestamp_ms);

#endif							/* KS_PRODUCE_NOW_H */
