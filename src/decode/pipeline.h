/*
 * pipeline.h: hands a process's own source and sink to the output plugin, which otherwise prints.
 */
#ifndef KS_PIPELINE_H
#define KS_PIPELINE_H

#include "postgres.h"

#include "decode/source.h"
#include "event/event.h"

typedef struct KsPipeline
{
	KsSource   *source;
	KsSink	   *sink;
} KsPipeline;

/* Decoding contexts that this process makes from now on feed this pipeline. */
extern void ks_pipeline_attach(const KsPipeline *pipeline);

#endif							/* KS_PIPELINE_H */
