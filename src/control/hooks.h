/*
 * hooks.h: what control/ asks of the pipeline without knowing it; _PG_init wires them through ks_decode_init().
 */
#ifndef KS_HOOKS_H
#define KS_HOOKS_H

/*
 * Makes a logical slot from within a backend's transaction that has not written yet (ERROR otherwise); it is gone again
 * if the transaction, or the subtransaction, aborts.
 */
extern void (*ks_slot_create_hook) (const char *slot_name);
/* Drops a slot now; ERROR when it is in use, or missing and not missing_ok. */
extern void (*ks_slot_drop_hook) (const char *slot_name, bool missing_ok);

#endif							/* KS_HOOKS_H */
