/*
 * slot_reader.h: reads a publisher's slot: acquire, decode record by record, confirm.
 */
#ifndef KS_SLOT_READER_H
#define KS_SLOT_READER_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "decode/pipeline.h"
#include "decode/wal_page.h"

typedef struct KsSlotReader KsSlotReader;

/*
 * Acquires the slot and prepares decoding into the pipeline, outside any transaction; "wait" is called whenever WAL is
 * read up to its end.  ERROR if the slot is missing or lost what it needs.
 */
extern KsSlotReader *ks_slot_reader_open(const char *slot_name, const char *publisher, const KsPipeline *pipeline,
										 KsWalWait wait, void *wait_arg);

/*
 * Reads and decodes one record, waiting for it; the events of a transaction come with its commit record.  Returns the
 * end of the record: everything that ends before it has been decoded.
 */
extern XLogRecPtr ks_slot_reader_next(KsSlotReader *reader);

/* Tells the slot that everything up to lsn is safe; "save" also writes the slot to disk, if it moved. Takes no xid. */
extern void ks_slot_reader_confirm(KsSlotReader *reader, XLogRecPtr lsn, bool save);
/* What the slot was last told. */
extern XLogRecPtr ks_slot_reader_confirmed(const KsSlotReader *reader);

#endif							/* KS_SLOT_READER_H */
