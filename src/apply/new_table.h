/*
 * new_table.h: option "create_target": the table that messages need is made, and becomes the subscription's target.
 */
#ifndef KS_NEW_TABLE_H
#define KS_NEW_TABLE_H

#include "postgres.h"

#include "control/catalog.h"
#include "event/parser.h"

typedef enum KsNewTableResult
{
	KS_TABLE_NONE,				/* no message tells what the table must be */
	KS_TABLE_MADE,				/* it is a target now: begin anew */
	KS_TABLE_MOVED				/* the definition has changed: begin anew */
} KsNewTableResult;

/*
 * Makes the table as the subscription's owner, and the target, in one transaction, if one of the messages tells its columns.
 * ERROR: they cannot be known, or he has not the right.
 */
extern KsNewTableResult ks_new_table_make(const KsSubscription *subscription, const KsMessage *messages, int count);

#endif							/* KS_NEW_TABLE_H */
