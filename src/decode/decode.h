/*
 * decode.h: what the rest of the extension calls of decode/ without knowing logical decoding.
 */
#ifndef KS_DECODE_H
#define KS_DECODE_H

#include "postgres.h"

/* Sets the hooks of control/hooks.h; called from _PG_init. */
extern void ks_decode_init(void);

#endif							/* KS_DECODE_H */
