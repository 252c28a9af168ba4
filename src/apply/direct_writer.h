/*
 * direct_writer.h: writing single rows below SQL, for those who decide row by row; in direct_sink.c.
 */
#ifndef KS_DIRECT_WRITER_H
#define KS_DIRECT_WRITER_H

#include "postgres.h"

#include "access/genam.h"
#include "apply/batch.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/snapshot.h"

#define KS_GATHER_ROWS 1000
#define KS_GATHER_BYTES (256 * 1024)

typedef struct KsDirectWriter
{
	KsBatch    *batch;
	KsTargetTable *target;
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *rri;
	CommandId	cid;
	Relation	index;
	IndexScanDesc scan;
	SnapshotData snapshot;		/* dirty: sees what others are about to commit */
	TupleTableSlot *found;
	TupleTableSlot *changed;
	ExprState **defaults;		/* by attribute, NULL = none; made when first needed */
	bool		updates_checked;
	bool		deletes_checked;
	bool		generated;
	bool		after_insert;

	/* new rows that are gathered */
	int			count;
	Size		bytes;
	int			nslots;
	TupleTableSlot *slots[KS_GATHER_ROWS];
	int			messages[KS_GATHER_ROWS];
} KsDirectWriter;

/* Makes a writer of a batch's target, in the batch's memory; finish() fires AFTER triggers and closes everything. */
extern KsDirectWriter *ks_direct_begin(KsBatch *batch);
extern void ks_direct_finish(KsDirectWriter *w);
/* Finds the row of a key into w->found, waiting for others who are just changing it. */
extern bool ks_direct_find(KsDirectWriter *w, const Datum *values);
/* The same, and sure that there is none: a scan that sees rows being changed can pass between two versions of one. */
extern bool ks_direct_find_surely(KsDirectWriter *w, const Datum *values);
/* Locks the version that was found, for a delete.  False: somebody has changed it. */
extern bool ks_direct_lock(KsDirectWriter *w);
/* Updates or deletes the very version that was found.  False: somebody has changed it, look it up anew. */
extern bool ks_direct_update(KsDirectWriter *w, const KsBatchRow *row);
extern bool ks_direct_delete(KsDirectWriter *w);
/* Gathers a new row; flush writes what was gathered. */
extern void ks_direct_insert(KsDirectWriter *w, const KsBatchRow *row);
extern void ks_direct_flush(KsDirectWriter *w);
/* What was written so far can be written again. */
extern void ks_direct_next_command(KsDirectWriter *w);

#endif							/* KS_DIRECT_WRITER_H */
