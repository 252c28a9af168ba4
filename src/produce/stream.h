/*
 * stream.h: a publisher's changes, for ever: read, send, confirm.
 */
#ifndef KS_STREAM_H
#define KS_STREAM_H

#include "postgres.h"

#include "compat/pg_compat.h"
#include "control/catalog.h"
#include "decode/source.h"
#include "event/event.h"
#include "produce/producer.h"

/* Streams until the process is told to end or an ERROR does it. Outside any transaction. */
pg_noreturn extern void ks_stream(const KsPublisher *publisher, KsSource *source, KsProducer *producer);

/* What a producer of this process is to do when it cannot go on: confirm, and have the worker started again at once. */
extern KsProducerOwner ks_stream_owner(void);

#endif							/* KS_STREAM_H */
