/*
 * create_target.h: option "create_target": a subscription whose target is made by its worker, once a message shows what it
 * has to be.  Until then the request lies in the options "create_target.*"; when the table is made it becomes a target
 * like any other, and the request is gone.
 */
#ifndef KS_CREATE_TARGET_H
#define KS_CREATE_TARGET_H

#include "postgres.h"

#include "control/catalog.h"

/*
 * Adds to the options of a request what goes without saying: the schema that the caller's search_path makes tables in
 * (NULL: none), and the call's mode and key (NIL: that of the messages).
 */
extern Jsonb *ks_create_target_complete(Jsonb *options, const char *schema, const char *mode, List *key);

/*
 * ERROR for a request that cannot be granted, or for which the subscription's owner has not the rights.  Does nothing where
 * "create_target" is off.
 */
extern void ks_create_target_check(const KsOptions *options, const char *format, char **topics, int ntopics, Oid owner);

/* Name of the table as the options have it; NULL for a part that they do not. */
extern void ks_create_target_name(const KsOptions *options, char **schema, char **table);

/* Names of the key's columns as the options have them, NIL if they do not. */
extern List *ks_create_target_key(const KsOptions *options);

/* ERROR, with hint, unless the owner may create tables in a schema, and no relation of the name is there. */
extern void ks_create_target_check_place(const char *schema, const char *table, Oid owner);

/* Ends the request of a subscription, if there is one: it has a target. */
extern void ks_create_target_end(int64 subscription_id);

/* Makes a table that was just created the subscription's target, which ends the request.  The caller holds its lock. */
extern void ks_create_target_store(const KsSubscription *subscription, Oid relid);

#endif							/* KS_CREATE_TARGET_H */
