/*
 * print_sink.h: the sink of the plain output plugin (pg_recvlogical, SQL functions): one line per record.
 */
#ifndef KS_PRINT_SINK_H
#define KS_PRINT_SINK_H

#include "postgres.h"

#include "event/event.h"
#include "replication/logical.h"

/* Makes the sink of a decoding context, in CurrentMemoryContext. */
extern KsSink *ks_print_sink_create(LogicalDecodingContext *ctx);

#endif							/* KS_PRINT_SINK_H */
