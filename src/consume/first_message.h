/*
 * first_message.h: waiting for a message that tells what the target must be (option "create_target").
 */
#ifndef KS_FIRST_MESSAGE_H
#define KS_FIRST_MESSAGE_H

#include "consume/feed.h"

/*
 * Reads, without moving any position, until the target is made or the definition has changed; then the worker begins
 * anew.  The feed has no targets.  ERROR as ks_new_table_make.
 */
extern void ks_first_message(KsFeed *feed);

#endif							/* KS_FIRST_MESSAGE_H */
