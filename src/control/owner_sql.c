/*
 * owner_sql.c: kafka.set_owner.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "compat/pg_compat.h"
#include "control/definitions.h"
#include "control/shmem.h"
#include "control/target_view.h"
#include "kafka/properties.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"

PG_FUNCTION_INFO_V1(ks_set_owner);

/* kafka.set_owner(kind, name, owner): as ALTER ... OWNER TO; the new owner must have what creating it needs. */
Datum
ks_set_owner(PG_FUNCTION_ARGS)
{
	static const char *const kinds[] = {"publisher", "subscription", NULL};
	char	   *kind = ks_text_arg(fcinfo, 0, "kind");
	char	   *name = ks_text_arg(fcinfo, 1, "name");
	Oid			owner;
	Oid			types[2] = {INT8OID, OIDOID};
	Datum		values[2];
	bool		publisher;
	char	   *server;
	int64		id;
	KsSubscription *s = NULL;

	ks_shmem_require();
	ks_check_word("kind", kind, kinds);
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("owner must not be null")));
	owner = PG_GETARG_OID(2);
	publisher = strcmp(kind, "publisher") == 0;
	if (publisher)
	{
		KsPublisher *p = ks_own_publisher(name);

		id = p->id;
		server = NameStr(p->server);
		ks_publisher_lock(id);
		if (!superuser_arg(owner) && !has_rolreplication(owner))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("role \"%s\" cannot own publishers", GetUserNameFromId(owner, false)),
					 errhint("The role needs the REPLICATION attribute.")));
	}
	else
	{
		s = ks_own_subscription(name);
		id = s->id;
		ks_subscription_lock(id, true);
		s = ks_own_subscription(name);
		server = NameStr(s->server);
	}
	ks_check_can_set_role(GetUserId(), owner);
	(void) ks_server_open(server, owner);
	values[0] = Int64GetDatum(id);
	values[1] = ObjectIdGetDatum(owner);
	(void) ks_catalog_execute(publisher
							  ? "UPDATE kafka.publisher SET owner = $2::pg_catalog.regrole, version = version + 1 WHERE id = $1"
							  : "UPDATE kafka.subscription SET owner = $2::pg_catalog.regrole, version = version + 1 WHERE id = $1",
							  2, types, values, NULL);
	if (s)
	{
		(void) ks_catalog_execute("UPDATE kafka.dead_letter SET owner = $2::pg_catalog.regrole WHERE subscription_id = $1",
								  2, types, values, NULL);
		ks_target_views_set_owner(s, owner);
	}
	if (publisher)
		CacheInvalidateRelcacheByRelid(ks_catalog_relid("publisher"));
	PG_RETURN_VOID();
}
