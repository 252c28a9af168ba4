/*
 * pg_compat.h: differences between PostgreSQL 15, 16, 17 and 18, as static inline functions with the newest version's
 * signature.  Only this folder looks at PG_VERSION_NUM.
 */
#ifndef KS_PG_COMPAT_H
#define KS_PG_COMPAT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_namespace.h"
#include "parser/parse_type.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/relcache.h"
#include "utils/wait_event.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* Comes first in a declaration; 18 has it in place of pg_attribute_noreturn(), which came last. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/*
 * Wait event id for a name of our own, a literal; before 17 there is only the one "Extension".  PostgreSQL looks names up
 * under a lock, so each is asked for once by each source file.
 */
static inline uint32
ks_wait_event(const char *name)
{
#if PG_VERSION_NUM >= 170000
	static struct
	{
		const char *name;
		uint32		event;
	}			known[16];
	uint32		event;
	int			i;

	for (i = 0; i < lengthof(known) && known[i].name != NULL; i++)
		if (known[i].name == name)
			return known[i].event;
	event = WaitEventExtensionNew(name);
	if (i < lengthof(known))
	{
		known[i].name = name;
		known[i].event = event;
	}
	return event;
#else
	(void) name;
	return PG_WAIT_EXTENSION;
#endif
}

/* An event set that lives until FreeWaitEventSet; 17 took a resource owner instead of a memory context. */
static inline WaitEventSet *
ks_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/* Rights of a role on a foreign server; 16 has one function for all kinds of objects. */
static inline AclResult
ks_server_aclcheck(Oid serverid, Oid role, AclMode mode)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ForeignServerRelationId, serverid, role, mode);
#else
	return pg_foreign_server_aclcheck(serverid, role, mode);
#endif
}

/* The same on a schema. */
static inline AclResult
ks_schema_aclcheck(Oid namespace, Oid role, AclMode mode)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(NamespaceRelationId, namespace, role, mode);
#else
	return pg_namespace_aclcheck(namespace, role, mode);
#endif
}

/* Does a role own a database? 16 has one function for all kinds of objects. */
static inline bool
ks_database_ownercheck(Oid database, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, database, role);
#else
	return pg_database_ownercheck(database, role);
#endif
}

/* May "member" do SET ROLE "role"? */
static inline bool
ks_member_can_set_role(Oid member, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return member_can_set_role(member, role);
#else
	return is_member_of_role(member, role);
#endif
}

/* ERROR unless "member" may do SET ROLE "role". */
static inline void
ks_check_can_set_role(Oid member, Oid role)
{
#if PG_VERSION_NUM >= 160000
	check_can_set_role(member, role);
#else
	check_is_member_of_role(member, role);
#endif
}

/* Primary key index that is not deferrable, InvalidOid if there is none. */
static inline Oid
ks_primary_key_index(Relation relation)
{
#if PG_VERSION_NUM >= 180000
	return RelationGetPrimaryKeyIndex(relation, false);
#else
	return RelationGetPrimaryKeyIndex(relation);
#endif
}

/* 1, -1 or 0: an infinite interval (there are none before 17), a negative infinite one, a finite one. */
static inline int
ks_interval_infinity(const Interval *value)
{
#if PG_VERSION_NUM >= 170000
	return INTERVAL_IS_NOEND(value) ? 1 : INTERVAL_IS_NOBEGIN(value) ? -1 : 0;
#else
	(void) value;
	return 0;
#endif
}

/* Does this session hold a lock in exactly this mode? 17 can also be asked for stronger ones. */
static inline bool
ks_lock_held_by_me(const LOCKTAG *tag, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(tag, mode, false);
#else
	return LockHeldByMe(tag, mode);
#endif
}

/* Oid and typmod of a type's name, as in a cast; ERROR if there is none.  16 added soft errors. */
static inline void
ks_parse_type_string(const char *name, Oid *typid, int32 *typmod)
{
#if PG_VERSION_NUM >= 160000
	(void) parseTypeString(name, typid, typmod, NULL);
#else
	parseTypeString(name, typid, typmod, false);
#endif
}

#endif							/* KS_PG_COMPAT_H */
