/*
 * properties.c: which librdkafka properties may be set where and by whom, and what a server's properties are.
 *
 * Names and values are librdkafka's to judge (rd_kafka_conf_set on a configuration that no handle is made of); the
 * tables here only say what is refused because a guarantee rests on it, what is secret, and what a role that is no
 * superuser may set.  A property that is in none of the tables is for superusers: new ones of newer libraries are.
 */
#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "compat/pg_compat.h"
#include "foreign/foreign.h"
#include "kafka/properties.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#define ON_SERVER	(1 << KS_PLACE_SERVER)
#define ON_MAPPING	(1 << KS_PLACE_USER_MAPPING)
#define ON_OPTIONS	(1 << KS_PLACE_OPTIONS)
#define CONNECTION	(ON_SERVER | ON_MAPPING)
#define TUNING		(ON_SERVER | ON_OPTIONS)

typedef struct AllowedProperty
{
	const char *name;
	int			places;
} AllowedProperty;

/* What a role that is no superuser may set: nothing here reads a file, loads code, or runs a program. */
static const AllowedProperty allowed[] = {
	{"bootstrap.servers", ON_SERVER},
	{"client.id", ON_SERVER | ON_MAPPING | ON_OPTIONS},
	{"client.rack", TUNING},
	{"client.dns.lookup", ON_SERVER},
	{"security.protocol", CONNECTION},
	{"sasl.mechanism", CONNECTION},
	{"sasl.mechanisms", CONNECTION},
	{"sasl.username", CONNECTION},
	{"sasl.password", ON_MAPPING},
	{"sasl.kerberos.service.name", CONNECTION},
	{"sasl.oauthbearer.config", ON_MAPPING},
	{"enable.sasl.oauthbearer.unsecure.jwt", CONNECTION},
	{"ssl.ca.pem", CONNECTION},
	{"ssl.certificate.pem", CONNECTION},
	{"ssl.key.pem", ON_MAPPING},
	{"ssl.key.password", ON_MAPPING},
	{"ssl.cipher.suites", CONNECTION},
	{"ssl.curves.list", CONNECTION},
	{"ssl.sigalgs.list", CONNECTION},
	{"ssl.endpoint.identification.algorithm", CONNECTION},
	{"enable.ssl.certificate.verification", CONNECTION},
	{"broker.address.family", ON_SERVER},
	{"broker.address.ttl", ON_SERVER},
	{"socket.timeout.ms", ON_SERVER},
	{"socket.connection.setup.timeout.ms", ON_SERVER},
	{"socket.keepalive.enable", ON_SERVER},
	{"socket.nagle.disable", TUNING},
	{"socket.send.buffer.bytes", TUNING},
	{"socket.receive.buffer.bytes", TUNING},
	{"connections.max.idle.ms", ON_SERVER},
	{"reconnect.backoff.ms", ON_SERVER},
	{"reconnect.backoff.max.ms", ON_SERVER},
	{"retry.backoff.ms", TUNING},
	{"retry.backoff.max.ms", TUNING},
	{"metadata.max.age.ms", TUNING},
	{"topic.metadata.refresh.interval.ms", TUNING},
	{"message.max.bytes", TUNING},
	{"receive.message.max.bytes", TUNING},
	{"max.in.flight", TUNING},
	{"max.in.flight.requests.per.connection", TUNING},
	{"request.timeout.ms", TUNING},
	{"compression.codec", TUNING},
	{"compression.type", TUNING},
	{"compression.level", TUNING},
	{"linger.ms", TUNING},
	{"queue.buffering.max.ms", TUNING},
	{"queue.buffering.max.messages", TUNING},
	{"queue.buffering.max.kbytes", TUNING},
	{"batch.num.messages", TUNING},
	{"batch.size", TUNING},
	{"sticky.partitioning.linger.ms", TUNING},
	{"queued.min.messages", TUNING},
	{"queued.max.messages.kbytes", TUNING},
	{"fetch.wait.max.ms", TUNING},
	{"fetch.queue.backoff.ms", TUNING},
	{"fetch.error.backoff.ms", TUNING},
	{"fetch.message.max.bytes", TUNING},
	{"max.partition.fetch.bytes", TUNING},
	{"fetch.max.bytes", TUNING},
	{"fetch.min.bytes", TUNING},
	{"check.crcs", TUNING},
};

/* What the extension sets itself, for every role and in every place, with the aliases. */
static const char *const reserved[] = {
	"acks", "request.required.acks",
	"enable.idempotence", "enable.gapless.guarantee",
	"retries", "message.send.max.retries",
	"queuing.strategy", "partitioner", "msg_order_cmp",
	"message.timeout.ms", "delivery.timeout.ms", "delivery.report.only.error", "produce.offset.report",
	"transactional.id", "transaction.timeout.ms",
	"isolation.level",
	"auto.offset.reset",
	"enable.auto.commit", "auto.commit.enable", "enable.auto.offset.store", "enable.partition.eof",
	"offset.store.method", "offset.store.path", "offset.store.sync.interval.ms",
	"group.id", "group.instance.id", "group.protocol", "group.remote.assignor",
	"allow.auto.create.topics",
	"opaque", "default_topic_conf", "interceptors",
	"enabled_events", "log.queue", "enable_sasl_queue", "internal.termination.signal",
};

/* Secrets, beyond the endings that ks_property_is_secret() looks for. */
static const char *const secrets[] = {
	"ssl_key", "sasl.oauthbearer.config",
};

/* Does "name" end with "ending"? */
static bool
ends_with(const char *name, const char *ending)
{
	size_t		n = strlen(name);
	size_t		e = strlen(ending);

	return n >= e && strcmp(name + n - e, ending) == 0;
}

/* Is "name" one of the list? */
static bool
in_list(const char *name, const char *const *list, int n)
{
	for (int i = 0; i < n; i++)
		if (strcmp(name, list[i]) == 0)
			return true;
	return false;
}

/* Does the extension keep this property to itself? */
static bool
is_reserved(const char *name)
{
	return in_list(name, reserved, lengthof(reserved)) || ends_with(name, "_cb") ||
		strncmp(name, "test.mock.", strlen("test.mock.")) == 0;
}

bool
ks_property_is_secret(const char *name)
{
	return in_list(name, secrets, lengthof(secrets)) || ends_with(name, "password") ||
		ends_with(name, ".secret") || ends_with(name, ".passphrase") || ends_with(name, "key.pem");
}

/* Returns the places in which a role that is no superuser may set this property, 0 = none. */
static int
allowed_places(const char *name)
{
	for (int i = 0; i < lengthof(allowed); i++)
		if (strcmp(name, allowed[i].name) == 0)
			return allowed[i].places;
	return 0;
}

/* NULL puts a property back to its default, and so tells the names it knows without setting anything. */
bool
ks_property_known(const char *name)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		reason[256];
	bool		known = rd_kafka_conf_set(conf, name, NULL, reason, sizeof(reason)) != RD_KAFKA_CONF_UNKNOWN;

	rd_kafka_conf_destroy(conf);
	return known;
}

/*
 * Returns librdkafka's property with the name closest to "name", palloc'ed, or NULL when none is close.  The library
 * lists all its names (unset ones and aliases too) only in the table that it prints for its own manual.
 */
static char *
closest_property(const char *name)
{
	char	   *table = NULL;
	size_t		size = 0;
	FILE	   *stream;
	char	   *line;
	char	   *save = NULL;
	char	   *best = NULL;
	int			length = strlen(name);
	int			limit = Min(4, length / 2);

	if (length > 100 || (stream = open_memstream(&table, &size)) == NULL)
		return NULL;
	rd_kafka_conf_properties_show(stream);
	if (fclose(stream) != 0)
	{
		free(table);
		return NULL;
	}
	for (line = strtok_r(table, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save))
	{
		char	   *end = strpbrk(line, " |");
		int			distance;

		if (end == NULL || strstr(end, "|") == NULL)
			continue;
		*end = '\0';
		if (strchr(line, '.') == NULL || is_reserved(line))
			continue;
		distance = varstr_levenshtein_less_equal(name, length, line, strlen(line), 1, 1, 1, limit, true);
		if (distance <= limit)
		{
			limit = distance - 1;
			best = pstrdup(line);
		}
		if (limit < 0)
			break;
	}
	free(table);
	return best;
}

/* Where a property stands, for messages. */
static const char *
place_name(KsPropertyPlace place)
{
	switch (place)
	{
		case KS_PLACE_SERVER:
			return "a server";
		case KS_PLACE_USER_MAPPING:
			return "a user mapping";
		case KS_PLACE_OPTIONS:
			return "options";
	}
	return "options";
}

/*
 * Checks the value with librdkafka, and what librdkafka would only find when a handle is made.  ERROR with
 * librdkafka's own words, but for secrets.
 */
static void
check_value(const char *name, const char *value)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		reason[512] = "";
	rd_kafka_conf_res_t res;

	res = rd_kafka_conf_set(conf, name, value, reason, sizeof(reason));
	rd_kafka_conf_destroy(conf);
	/* Some reasons end with a newline. */
	for (Size n = strlen(reason); n > 0 && (reason[n - 1] == '\n' || reason[n - 1] == '.'); n--)
		reason[n - 1] = '\0';
	if (res != RD_KAFKA_CONF_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for property \"%s\"", name),
				 ks_property_is_secret(name) ? 0 : errdetail("librdkafka says: %s.", reason)));

	if (strcmp(name, "bootstrap.servers") == 0 && value[strspn(value, " ,\t\n")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for property \"%s\"", name),
				 errdetail("It must name at least one broker, as host:port.")));
	if (strncmp(name, "max.in.flight", strlen("max.in.flight")) == 0 && atoi(value) > 5)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for property \"%s\"", name),
				 errdetail("The idempotent producer allows at most 5.")));
}

void
ks_property_check(const char *name, const char *value, KsPropertyPlace place, Oid role)
{
	if (!ks_property_known(name))
	{
		char	   *closest = closest_property(name);

		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("unknown librdkafka property \"%s\"", name),
				 closest ? errhint("Perhaps you meant \"%s\".", closest) :
				 errhint("The names are those of librdkafka's CONFIGURATION.md, version %s.", rd_kafka_version_str())));
	}
	if (strcmp(name, "metadata.broker.list") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("property \"%s\" cannot be set", name),
				 errhint("Use \"bootstrap.servers\".")));
	if (is_reserved(name))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("property \"%s\" cannot be set", name),
				 errdetail("pg_kafka_sync sets it itself, because its guarantees rest on it.")));
	if (strcmp(name, "bootstrap.servers") == 0 && place != KS_PLACE_SERVER)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("property \"%s\" cannot be set in %s", name, place_name(place)),
				 errhint("It belongs to the server.")));
	if (ks_property_is_secret(name) && place != KS_PLACE_USER_MAPPING)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("property \"%s\" cannot be set in %s", name, place_name(place)),
				 errdetail("It is a secret, and everyone can read it there."),
				 errhint("Set it in a user mapping.")));
	if (!superuser_arg(role))
	{
		int			places = allowed_places(name);

		if (places == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to set property \"%s\"", name),
					 errdetail("Only a superuser may set it.")));
		if ((places & (1 << place)) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to set property \"%s\" in %s", name, place_name(place)),
					 errhint("Set it in %s.", place_name((places & ON_SERVER) ? KS_PLACE_SERVER :
														 (places & ON_MAPPING) ? KS_PLACE_USER_MAPPING : KS_PLACE_OPTIONS))));
	}
	check_value(name, value);
}

/* Adds the options of a list of DefElem to the server's properties; the later one of a name wins. */
static void
add_properties(KsServer *server, List *options)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *def = (DefElem *) lfirst(cell);
		int			i;

		for (i = 0; i < server->nproperties; i++)
			if (strcmp(server->properties[i].name, def->defname) == 0)
				break;
		if (i == server->nproperties)
		{
			server->nproperties++;
			server->properties = server->properties == NULL ?
				palloc(sizeof(KsProperty)) :
				repalloc(server->properties, server->nproperties * sizeof(KsProperty));
		}
		server->properties[i].name = pstrdup(def->defname);
		server->properties[i].value = pstrdup(defGetString(def));
	}
}

/* Returns the options of the role's own user mapping, else PUBLIC's, else none. */
static List *
mapping_options(Oid serverid, Oid userid)
{
	HeapTuple	tuple;
	Datum		options;
	bool		isnull;
	List	   *list = NIL;

	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(userid), ObjectIdGetDatum(serverid));
	if (!HeapTupleIsValid(tuple))
		tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid), ObjectIdGetDatum(serverid));
	if (!HeapTupleIsValid(tuple))
		return NIL;
	options = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple, Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		list = untransformRelOptions(options);
	ReleaseSysCache(tuple);
	return list;
}

/* Puts a server's properties together. */
static KsServer *
make_server(const ForeignServer *foreign, Oid userid)
{
	KsServer   *server = palloc0(sizeof(KsServer));

	server->serverid = foreign->serverid;
	server->name = pstrdup(foreign->servername);
	add_properties(server, foreign->options);
	add_properties(server, mapping_options(foreign->serverid, userid));
	return server;
}

KsServer *
ks_server_open(const char *name, Oid userid)
{
	ForeignServer *foreign = GetForeignServerByName(name, false);

	if (strcmp(GetForeignDataWrapper(foreign->fdwid)->fdwname, "kafka") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not of the foreign-data wrapper \"kafka\"", name)));
	if (ks_server_aclcheck(foreign->serverid, userid, ACL_USAGE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FOREIGN_SERVER, name);
	return make_server(foreign, userid);
}

KsServer *
ks_server_of_table(Oid serverid, Oid userid)
{
	return make_server(GetForeignServer(serverid), userid);
}

KsServer *
ks_server_copy(const KsServer *server)
{
	KsServer   *copy = palloc(sizeof(KsServer));

	*copy = *server;
	copy->name = pstrdup(server->name);
	copy->properties = palloc0(sizeof(KsProperty) * (server->nproperties + 1));
	for (int i = 0; i < server->nproperties; i++)
	{
		copy->properties[i].name = pstrdup(server->properties[i].name);
		copy->properties[i].value = pstrdup(server->properties[i].value);
	}
	return copy;
}

bool
ks_server_same(const KsServer *a, const KsServer *b)
{
	if (a->serverid != b->serverid || a->nproperties != b->nproperties || strcmp(a->name, b->name) != 0)
		return false;
	for (int i = 0; i < a->nproperties; i++)
		if (strcmp(a->properties[i].name, b->properties[i].name) != 0 ||
			strcmp(a->properties[i].value, b->properties[i].value) != 0)
			return false;
	return true;
}
