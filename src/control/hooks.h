/*
 * hooks.h: what control/ asks of the pipeline without knowing it; _PG_init wires them through ks_decode_init() and
 * ks_apply_init().
 */
#ifndef KS_HOOKS_H
#define KS_HOOKS_H

struct KsOptions;

/*
 * ERROR unless a subscription's options are right for its format, as far as that can be told without a target.
 */
extern void (*ks_format_check_hook) (const char *format, const struct KsOptions *options);

/*
 * Makes a logical slot from within a backend's transaction that has not written yet (ERROR otherwise); it is gone again
 * if the transaction, or the subtransaction, aborts.
 */
extern void (*ks_slot_create_hook) (const char *slot_name);
/* Drops a slot now; ERROR when it is in use, or missing and not missing_ok. */
extern void (*ks_slot_drop_hook) (const char *slot_name, bool missing_ok);

struct List;
struct RelationData;
struct KsSubscription;

/*
 * A topic's table that is to be a target: returns the names of the columns that are its key in the mode.  ERROR unless
 * they are those asked for (NIL: none were), and rows can be messages; columns: those that a query fills, or NIL.
 */
extern struct List *(*ks_topic_target_hook) (struct RelationData *rel, const char *mode, struct List *asked,
											 struct List *columns);
/* ERROR if a topic's table is of a topic that the subscription reads. */
extern void (*ks_topic_loop_hook) (Oid relid, const struct KsSubscription *subscription);

struct ImportForeignSchemaStmt;

/* Called when an IMPORT FOREIGN SCHEMA, of whatever wrapper, is done. */
extern void (*ks_import_done_hook) (struct ImportForeignSchemaStmt *stmt);

#endif							/* KS_HOOKS_H */
