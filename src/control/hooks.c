/*
 * hooks.c: the hook variables of hooks.h.
 */
#include "postgres.h"

#include "control/hooks.h"

void		(*ks_slot_create_hook) (const char *slot_name) = NULL;
void		(*ks_slot_drop_hook) (const char *slot_name, bool missing_ok) = NULL;
void		(*ks_format_check_hook) (const char *format, const struct KsOptions *options) = NULL;
void		(*ks_import_done_hook) (struct ImportForeignSchemaStmt *stmt) = NULL;
struct List *(*ks_topic_target_hook) (struct RelationData *rel, const char *mode, struct List *asked,
									  struct List *columns) = NULL;
void		(*ks_topic_loop_hook) (Oid relid, const struct KsSubscription *subscription) = NULL;
