/*
 * wal_page.h: reads WAL pages for decoding, waiting for more as the caller wants it.
 */
#ifndef KS_WAL_PAGE_H
#define KS_WAL_PAGE_H

#include "postgres.h"

#include "access/xlogreader.h"

/*
 * Waits for something to happen, at most timeout_ms; interruptible.  "flushed" is how far WAL can be read; every
 * complete record before it has been processed.
 */
typedef void (*KsWalWait) (void *arg, XLogRecPtr flushed, long timeout_ms);

/* How readers made with ks_wal_routine() wait in this process from now on; NULL = wait for the latch. */
extern void ks_wal_set_wait(KsWalWait wait, void *arg);

/* The callbacks of an XLogReader. */
extern XLogReaderRoutine *ks_wal_routine(void);

#endif							/* KS_WAL_PAGE_H */
