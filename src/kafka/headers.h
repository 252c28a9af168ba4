/*
 * headers.h: headers of messages as jsonb.
 */
#ifndef KS_HEADERS_H
#define KS_HEADERS_H

#include "kafka/client.h"
#include "utils/jsonb.h"

/* Returns the headers of a jsonb (NULL: none), to be destroyed or given to librdkafka. ERROR: it describes no headers. */
extern rd_kafka_headers_t *ks_headers_make(Jsonb *jsonb);
/* Returns headers as an array of [name, text | null | {"base64": "..."}]. */
extern Jsonb *ks_headers_read(const rd_kafka_headers_t *headers);

#endif							/* KS_HEADERS_H */
