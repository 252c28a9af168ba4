/*
 * properties.h: librdkafka properties of servers, user mappings and options, without librdkafka's own header, so that
 * control/ may include it.
 */
#ifndef KS_PROPERTIES_H
#define KS_PROPERTIES_H

#include "postgres.h"

#include "control/options.h"

typedef enum KsClientKind
{
	KS_CLIENT_ADMIN,
	KS_CLIENT_PRODUCER,
	KS_CLIENT_CONSUMER
} KsClientKind;

typedef enum KsPropertyPlace
{
	KS_PLACE_SERVER,			/* CREATE SERVER options: seen by everyone, so no secrets */
	KS_PLACE_USER_MAPPING,
	KS_PLACE_OPTIONS			/* publisher / subscription options */
} KsPropertyPlace;

/* Server and user mapping options merged; in the memory context it was read in. */
typedef struct KsServer
{
	Oid			serverid;
	char	   *name;
	int			nproperties;
	KsProperty *properties;
} KsServer;

/*
 * Reads a server of the kafka foreign data wrapper and the user mapping of "userid" (or PUBLIC's, or none).
 * ERROR: no such server, server of another wrapper, userid has no USAGE on it.
 */
extern KsServer *ks_server_open(const char *server, Oid userid);

/* The same of a foreign table's server, which whoever may use the table may use through it: USAGE is not asked for. */
extern KsServer *ks_server_of_table(Oid serverid, Oid userid);

/* A copy in CurrentMemoryContext. */
extern KsServer *ks_server_copy(const KsServer *server);
/* Are two the same server with the same properties? */
extern bool ks_server_same(const KsServer *a, const KsServer *b);

/*
 * Checks one property by rd_kafka_conf_set on a scratch configuration and by our own lists; ERROR naming it.
 * "role" must be a superuser for what is not on the allow-list.
 */
extern void ks_property_check(const char *name, const char *value, KsPropertyPlace place, Oid role);
/* Does librdkafka know a property of this name (global or topic scope)? */
extern bool ks_property_known(const char *name);

/* Is the value of this property a secret (password, private key, token)? */
extern bool ks_property_is_secret(const char *name);

#endif							/* KS_PROPERTIES_H */
