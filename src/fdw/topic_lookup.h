/*
 * topic_lookup.h: what foreign tables say of the fields of a topic, for those who read it without them.
 */
#ifndef KS_TOPIC_LOOKUP_H
#define KS_TOPIC_LOOKUP_H

#include "postgres.h"

typedef enum KsTopicLookup
{
	KS_LOOKUP_NONE,				/* no table names the field */
	KS_LOOKUP_FOUND,
	KS_LOOKUP_DISPUTED			/* they give it different types */
} KsTopicLookup;

/*
 * The type that foreign tables of a server give to a field (its name in UTF-8) of a topic's messages in this format.
 * Only tables count whose owner is a superuser, "role", or one that it is a member of: a type may come with code.  In a
 * transaction.
 */
extern KsTopicLookup ks_topic_lookup(const char *server, Oid role, const char *topic, const char *format,
									 const char *field, size_t size, Oid *type, int32 *typmod);

#endif							/* KS_TOPIC_LOOKUP_H */
