/*
 * utility.c: commands of others that concern us: DROP, RENAME, copy or move of a database (its workers stop first),
 * COMMIT PREPARED (publishers wake), RENAME of servers and publications (definitions follow), and DROP of what a
 * definition uses (refused, or with CASCADE its user ends up in state error).
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "compat/pg_compat.h"
#include "control/definitions.h"
#include "control/hooks.h"
#include "control/owner_dependency.h"
#include "control/shmem.h"
#include "control/xact.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

static ProcessUtility_hook_type prev_utility_hook = NULL;
static object_access_hook_type prev_object_access_hook = NULL;

/* How the DROP that is running was asked for; cascade for drops that no DROP statement asked for. */
static DropBehavior drop_behavior = DROP_CASCADE;

/* The database that a command needs to itself, or InvalidOid. */
static Oid
database_of_command(Node *statement)
{
	ListCell   *lc;

	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			return get_database_oid(((DropdbStmt *) statement)->dbname, true);
		case T_CreatedbStmt:
			foreach(lc, ((CreatedbStmt *) statement)->options)
			{
				DefElem    *option = lfirst(lc);

				if (strcmp(option->defname, "template") == 0 && option->arg)
					return get_database_oid(defGetString(option), true);
			}
			return InvalidOid;
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
				return get_database_oid(((RenameStmt *) statement)->subname, true);
			return InvalidOid;
		case T_AlterDatabaseStmt:
			foreach(lc, ((AlterDatabaseStmt *) statement)->options)
				if (strcmp(((DefElem *) lfirst(lc))->defname, "tablespace") == 0)
					return get_database_oid(((AlterDatabaseStmt *) statement)->dbname, true);
			return InvalidOid;
		default:
			return InvalidOid;
	}
}

/*
 * Has definitions that name a renamed server or publication follow it.  Runs with the caller's search_path and the
 * superuser's rights: every operator is qualified.
 */
static void
follow_rename(RenameStmt *statement)
{
	Oid			types[2] = {NAMEOID, NAMEOID};
	Datum		values[2];
	NameData	names[2];
	const char *old = strVal(statement->object);

	if (!OidIsValid(ks_catalog_relid("publisher")))
		return;
	namestrcpy(&names[0], old);
	namestrcpy(&names[1], statement->newname);
	values[0] = NameGetDatum(&names[0]);
	values[1] = NameGetDatum(&names[1]);
	if (statement->renameType == OBJECT_PUBLICATION)
		(void) ks_catalog_execute("UPDATE kafka.publisher SET publication = $2, version = version OPERATOR(pg_catalog.+) 1 "
								  "WHERE publication OPERATOR(pg_catalog.=) $1", 2, types, values, NULL);
	else
	{
		(void) ks_catalog_execute("UPDATE kafka.publisher SET server = $2, version = version OPERATOR(pg_catalog.+) 1 "
								  "WHERE server OPERATOR(pg_catalog.=) $1", 2, types, values, NULL);
		(void) ks_catalog_execute("UPDATE kafka.subscription SET server = $2, version = version OPERATOR(pg_catalog.+) 1 "
								  "WHERE server OPERATOR(pg_catalog.=) $1", 2, types, values, NULL);
	}
	CacheInvalidateRelcacheByRelid(ks_catalog_relid("publisher"));
}

/* The behaviour of a DROP statement, else what is in force. */
static DropBehavior
behavior_of(Node *statement)
{
	if (IsA(statement, DropStmt))
		return ((DropStmt *) statement)->behavior;
	if (IsA(statement, DropOwnedStmt))
		return ((DropOwnedStmt *) statement)->behavior;
	return drop_behavior;
}

static void
utility_hook(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
			 ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	Node	   *statement = pstmt->utilityStmt;
	Oid			database = ks_shared && context == PROCESS_UTILITY_TOPLEVEL ? database_of_command(statement) : InvalidOid;
	DropBehavior saved_behavior = drop_behavior;

	/* who has no right to the command must not stop workers with it */
	if (OidIsValid(database) && !ks_database_ownercheck(database, GetUserId()))
		database = InvalidOid;
	drop_behavior = behavior_of(statement);
	PG_TRY();
	{
		if (OidIsValid(database))
			ks_database_block(database);
		if (prev_utility_hook)
			prev_utility_hook(pstmt, query, read_only_tree, context, params, environment, dest, completion);
		else
			standard_ProcessUtility(pstmt, query, read_only_tree, context, params, environment, dest, completion);
	}
	PG_FINALLY();
	{
		drop_behavior = saved_behavior;
	}
	PG_END_TRY();

	if (IsA(statement, RenameStmt) && (((RenameStmt *) statement)->renameType == OBJECT_PUBLICATION ||
									   ((RenameStmt *) statement)->renameType == OBJECT_FOREIGN_SERVER))
		follow_rename((RenameStmt *) statement);
	if (ks_shared && IsA(statement, TransactionStmt) && ((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED)
		ks_wake_publishers();
	if (IsA(statement, ImportForeignSchemaStmt))
		ks_import_done_hook((ImportForeignSchemaStmt *) statement);
	/* a new database may hold definitions; one may be open to connections now, or no template any more */
	if (ks_shared && (IsA(statement, CreatedbStmt) || IsA(statement, AlterDatabaseStmt)))
		ks_rescan_all_at_commit();
}

/* Appends "publisher x" or "subscription x" to a list in words, and has its worker find out if the drop commits. */
static void
add_user(StringInfo users, KsWorkerKind kind, int64 id, const char *name)
{
	appendStringInfo(users, "%s%s \"%s\"", users->len ? ", " : "",
					 kind == KS_WORKER_PUBLISHER ? "publisher" : "subscription", name);
	ks_restart_at_commit(kind, id);
}

/* Collects in words the definitions that use an object about to be dropped. */
static void
find_users(Oid class, Oid object, StringInfo users)
{
	List	   *publishers = class == RelationRelationId ? NIL : ks_publishers();
	List	   *subscriptions = class == PublicationRelationId ? NIL : ks_subscriptions();
	char	   *name = NULL;
	ListCell   *lc;
	ListCell   *lt;

	if (class == ForeignServerRelationId)
		name = GetForeignServer(object)->servername;
	else if (class == PublicationRelationId)
		name = get_publication_name(object, false);

	foreach(lc, publishers)
	{
		KsPublisher *p = lfirst(lc);

		if ((class == ForeignServerRelationId && strcmp(NameStr(p->server), name) == 0) ||
			(class == PublicationRelationId && strcmp(NameStr(p->publication), name) == 0) ||
			(class == AuthIdRelationId && p->owner == object))
			add_user(users, KS_WORKER_PUBLISHER, p->id, NameStr(p->name));
	}
	foreach(lc, subscriptions)
	{
		KsSubscription *s = lfirst(lc);

		if ((class == ForeignServerRelationId && strcmp(NameStr(s->server), name) == 0) ||
			(class == AuthIdRelationId && s->owner == object))
			add_user(users, KS_WORKER_SUBSCRIPTION, s->id, NameStr(s->name));
		foreach(lt, s->targets)
			if (class == RelationRelationId &&
				(((KsTarget *) lfirst(lt))->relid == object || ((KsTarget *) lfirst(lt))->view == object))
				add_user(users, KS_WORKER_SUBSCRIPTION, s->id, NameStr(s->name));
	}
}

/* Names an object for messages: "table public.t". */
static char *
describe(Oid class, Oid object)
{
	ObjectAddress address;

	ObjectAddressSet(address, class, object);
	return getObjectDescription(&address, false);
}

static void
object_access(ObjectAccessType access, Oid class, Oid object, int sub, void *arg)
{
	StringInfoData users;
	char		relkind = '\0';

	if (prev_object_access_hook)
		prev_object_access_hook(access, class, object, sub, arg);
	if (access != OAT_DROP || sub != 0 || !IsTransactionState() || IsBootstrapProcessingMode())
		return;
	if (class == ExtensionRelationId && object == get_extension_oid("pg_kafka_sync", true))
	{
		ks_rescan_at_commit();	/* workers end, slots and origins go */
		ks_owner_dependencies_forget();
		return;
	}
	if (class != RelationRelationId && class != ForeignServerRelationId && class != PublicationRelationId &&
		class != AuthIdRelationId)
		return;
	if (class == RelationRelationId)
		relkind = get_rel_relkind(object);
	if (class == RelationRelationId && relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE &&
		relkind != RELKIND_VIEW)
		return;
	if (!OidIsValid(ks_catalog_relid("publisher")) || !OidIsValid(ks_catalog_relid("subscription")) ||
		!OidIsValid(ks_catalog_relid("subscription_target")) ||
		(relkind != RELKIND_VIEW && ks_is_own_relation(object)))
		return;

	initStringInfo(&users);
	find_users(class, object, &users);
	if (users.len == 0)
		return;
	if (drop_behavior == DROP_RESTRICT || class == AuthIdRelationId)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop %s because pg_kafka_sync uses it", describe(class, object)),
				 errdetail("It is used by %s.", users.data),
				 class == AuthIdRelationId
				 ? errhint("Drop what uses it first, or give it to another role with kafka.set_owner.")
				 : errhint("Drop what uses it first, or use DROP ... CASCADE, which leaves that in state error.")));
}

/* Installs the hooks; called from _PG_init while preloading. */
void
ks_utility_init(void)
{
	prev_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = utility_hook;
	prev_object_access_hook = object_access_hook;
	object_access_hook = object_access;
}
