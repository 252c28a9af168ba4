/*
 * xact.h: end-of-transaction work.
 */
#ifndef KS_XACT_H
#define KS_XACT_H

/* Sets the latches of all publishers of this database. */
extern void ks_wake_publishers(void);

#endif							/* KS_XACT_H */
