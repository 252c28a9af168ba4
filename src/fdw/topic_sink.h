/*
 * topic_sink.h: the sink of targets that are topics.
 */
#ifndef KS_TOPIC_SINK_H
#define KS_TOPIC_SINK_H

#include "apply/sink.h"

extern const KsSinkOps ks_topic_sink;

#endif							/* KS_TOPIC_SINK_H */
