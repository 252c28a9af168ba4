/*
 * topic_target.h: a topic's table as the target of a subscription: what makes it fit to be one.
 */
#ifndef KS_TOPIC_TARGET_H
#define KS_TOPIC_TARGET_H

#include "compat/pg_compat.h"
#include "control/catalog.h"
#include "fdw/topic_table.h"

/*
 * Returns the columns that make the message key, as attribute indexes, for mode upsert (NIL for append).  ERROR, with the
 * reason: messages cannot be made of rows of such a table, or rows of the mode not be told apart by their message keys.
 */
extern List *ks_topic_target_key(const KsTopicTable *table, Relation rel, const char *mode);

/* ERROR: a column cannot be given a value in the mode. */
extern void ks_topic_target_column_check(const KsTopicTable *table, int index, const char *mode);

/*
 * ERROR if the table's topic is one that the subscription reads, as far as that can be told without asking Kafka.
 * Returns whether it has the name of one, on another server.
 */
extern bool ks_topic_target_loops(const KsTopicTable *table, const KsSubscription *subscription);
/* Raises that error. */
pg_noreturn extern void ks_topic_target_loop_error(const KsTopicTable *table, const KsSubscription *subscription);

/* Sets the hooks of control/. */
extern void ks_topic_target_init(void);

#endif							/* KS_TOPIC_TARGET_H */
