/*
 * shadow.c: making the copy that a target is rebuilt in.
 *
 * The copy has the same columns at the same places, dropped ones too, so that its rows are the target's to the byte.
 * Sequences are shared: what fills columns by itself draws from the target's.
 *
 * Commands that have expressions of the target in them may run code of users while they are parsed and planned.  They run
 * as the target's owner, in a schema that is his for that long: with the right to create things in schema kafka, that code
 * could leave things behind there.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "apply/shadow.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_type.h"
#include "commands/tablespace.h"
#include "commands/trigger.h"
#include "control/catalog.h"
#include "control/definitions.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/*
 * What comes behind CREATE TABLE <name>, and the commands that make the rest, separated by \x01, of table $1.  A dropped
 * column's place is taken by one that is dropped at once.
 */
static const char definition_query[] =
"SELECT '(' || pg_catalog.string_agg("
"    CASE WHEN a.attisdropped THEN pg_catalog.quote_ident(a.attname) || ' integer'"
"    ELSE pg_catalog.quote_ident(a.attname) || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod)"
"     || CASE a.attcompression WHEN 'p' THEN ' COMPRESSION pglz' WHEN 'l' THEN ' COMPRESSION lz4' ELSE '' END"
"     || CASE WHEN a.attcollation <> t.typcollation THEN ' COLLATE ' || ("
"            SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.collname)"
"              FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace"
"             WHERE c.oid = a.attcollation) ELSE '' END"
"     || CASE WHEN a.attgenerated = 's' THEN ' GENERATED ALWAYS AS (' || pg_catalog.pg_get_expr(d.adbin, d.adrelid) || ') STORED'"
"             WHEN a.attgenerated <> '' THEN ' GENERATED ALWAYS AS (' || pg_catalog.pg_get_expr(d.adbin, d.adrelid) || ') VIRTUAL'"
"             WHEN a.attidentity <> '' THEN ' DEFAULT pg_catalog.nextval(' || pg_catalog.quote_literal("
"                  pg_catalog.pg_get_serial_sequence(r.name, a.attname)) || '::pg_catalog.regclass)'"
"             WHEN a.atthasdef THEN ' DEFAULT ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid) ELSE '' END"
"     || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END"
"    END, ', ' ORDER BY a.attnum)"
" || coalesce((SELECT pg_catalog.string_agg(', CONSTRAINT ' || pg_catalog.quote_ident(k.conname) || ' ' ||"
"               pg_catalog.pg_get_constraintdef(k.oid), '' ORDER BY k.conname)"
"               FROM pg_catalog.pg_constraint k WHERE k.conrelid = $1 AND k.contype = 'c'), '') || ')'"
" || coalesce((SELECT ' WITH (' || pg_catalog.string_agg(pg_catalog.split_part(o.name, '=', 1) || '=' ||"
"               pg_catalog.quote_literal(pg_catalog.substr(o.name, pg_catalog.strpos(o.name, '=') + 1)), ', ' ORDER BY o.name) || ')'"
"               FROM (SELECT pg_catalog.unnest(c.reloptions) AS name WHERE c.relkind = 'r' UNION ALL"
"                     SELECT 'toast.' || pg_catalog.unnest(x.reloptions) FROM pg_catalog.pg_class x"
"                      WHERE x.oid = c.reltoastrelid AND c.relkind = 'r') o), ''),"
" coalesce(pg_catalog.string_agg('DROP COLUMN ' || pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)"
"          FILTER (WHERE a.attisdropped) || ', ', '')"
" || coalesce(pg_catalog.string_agg('ALTER COLUMN ' || pg_catalog.quote_ident(a.attname) || ' SET STORAGE '"
"          || CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END,"
"          ', ' ORDER BY a.attnum) FILTER (WHERE NOT a.attisdropped AND a.attstorage <> t.typstorage) || ', ', '')"
" || coalesce((SELECT 'SET TABLESPACE ' || pg_catalog.quote_ident(s.spcname) || ', ' FROM pg_catalog.pg_tablespace s"
"               WHERE s.oid = c.reltablespace AND c.relkind = 'r'), '')"
" || 'OWNER TO ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner))"
" FROM pg_catalog.pg_class c"
" JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
" LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid"
" LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum,"
" LATERAL (SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name"
"            FROM pg_catalog.pg_namespace n WHERE n.oid = c.relnamespace) r"
" WHERE c.oid = $1 GROUP BY c.oid, c.relkind, c.reloptions, c.reltoastrelid, c.reltablespace, c.relowner";

/* See shadow.h. */
void
ks_shadow_name(char *dst, int64 id)
{
	snprintf(dst, NAMEDATALEN, "rebuild_" INT64_FORMAT, id);
}

/* See shadow.h. */
void
ks_shadow_index_name(char *dst, int64 id, Oid index)
{
	snprintf(dst, NAMEDATALEN, "rebuild_" INT64_FORMAT "_%u", id, index);
}

/* Runs one command. */
static void
execute(const char *command)
{
	(void) ks_catalog_execute(command, 0, NULL, NULL, NULL);
}

/* Makes a schema of the owner's for the time being, which nobody else sees.  Its name, quoted. */
static char *
lend_schema(int64 id, Oid owner)
{
	char		name[NAMEDATALEN];

	snprintf(name, sizeof(name), "kafka_rebuild_" INT64_FORMAT, id);
	for (int i = 1; OidIsValid(get_namespace_oid(name, true)); i++)
		snprintf(name, sizeof(name), "kafka_rebuild_" INT64_FORMAT "_%d", id, i);
	execute(psprintf("CREATE SCHEMA %s AUTHORIZATION %s", name, quote_identifier(GetUserNameFromId(owner, false))));
	return pstrdup(name);
}

/* Takes the shadow out of that schema, which goes. */
static void
take_back(const char *schema, const char *shadow)
{
	execute(psprintf("ALTER TABLE %s.%s SET SCHEMA kafka", schema, shadow));
	execute(psprintf("DROP SCHEMA %s RESTRICT", schema));
}

/* Runs one command as a role that is not trusted. */
static void
execute_as(Oid role, const char *command)
{
	Oid			save_user;
	int			save_context;
	int			nest_level;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(role, save_context | SECURITY_RESTRICTED_OPERATION);
	nest_level = NewGUCNestLevel();
	(void) set_config_option("default_tablespace", "", PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("default_table_access_method", "heap", PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not run: %s", command);
	SPI_finish();
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(save_user, save_context);
}

/* Asks for the two parts of a table's definition. False: there is no such table. */
static bool
read_definition(Oid target, char **columns, char **rest)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(target)};
	MemoryContext context = CurrentMemoryContext;
	bool		found;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(definition_query, 1, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the definition of table %u", target);
	found = SPI_processed == 1;
	if (found)
	{
		char	   *first = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
		char	   *second = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);

		if (first == NULL || second == NULL)
			elog(ERROR, "could not read the definition of table %u", target);
		*columns = MemoryContextStrdup(context, first);
		*rest = MemoryContextStrdup(context, second);
	}
	SPI_finish();
	return found;
}

/* See shadow.h. */
char *
ks_shadow_definition(Oid target)
{
	char	   *columns;
	char	   *rest;

	if (!read_definition(target, &columns, &rest))
		return NULL;
	return psprintf("%s %s", columns, rest);
}

/*
 * Marks a relation as one that stands for the target while it is rewritten: logical decoding, anybody's, leaves its rows
 * out, whatever the publication.
 */
static void
mark_rewrite(Oid relid, Oid target)
{
	Relation	rel = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(relid));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	((Form_pg_class) GETSTRUCT(tuple))->relrewrite = target;
	CatalogTupleUpdate(rel, &tuple->t_self, tuple);
	heap_freetuple(tuple);
	table_close(rel, RowExclusiveLock);
}

/* Has the shadow fall when another relation does. */
static void
depend_on(Oid shadow, Oid other)
{
	ObjectAddress object;
	ObjectAddress referenced;

	ObjectAddressSet(object, RelationRelationId, shadow);
	ObjectAddressSet(referenced, RelationRelationId, other);
	recordDependencyOn(&object, &referenced, DEPENDENCY_AUTO);
}

/* Owner of a relation. */
static Oid
owner_of(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Takes from everybody else what the owner's default privileges gave them: they may have no right to the target. */
static void
revoke_defaults(Oid relid, const char *name)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(relid)};
	MemoryContext context = CurrentMemoryContext;
	char	   *roles;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT pg_catalog.string_agg(CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE "
							  "pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END, ', ') "
							  "FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a "
							  "WHERE c.oid = $1 AND a.grantee <> c.relowner", 1, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the rights to table %u", relid);
	roles = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (roles)
		roles = MemoryContextStrdup(context, roles);
	SPI_finish();
	if (roles)
		execute(psprintf("REVOKE ALL ON kafka.%s FROM %s", name, roles));
}

/* Builds the shadow's counterpart of one index of the target. */
static void
add_index(Oid target, int64 id, Oid indexid)
{
	char		shadow[NAMEDATALEN];
	char		name[NAMEDATALEN];
	const char *definition = TextDatumGetCString(DirectFunctionCall1(pg_get_indexdef, ObjectIdGetDatum(indexid)));
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(indexid));
	bool		unique;
	char	   *table = quote_qualified_identifier(get_namespace_name(get_rel_namespace(target)), get_rel_name(target));
	char	   *prefix;
	char	   *schema;
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for index %u", indexid);
	unique = ((Form_pg_index) GETSTRUCT(tuple))->indisunique;
	ReleaseSysCache(tuple);
	prefix = psprintf("CREATE %sINDEX %s ON %s%s ", unique ? "UNIQUE " : "", quote_identifier(get_rel_name(indexid)),
					  get_rel_relkind(target) == RELKIND_PARTITIONED_TABLE ? "ONLY " : "", table);
	if (strncmp(definition, prefix, strlen(prefix)) != 0)
		elog(ERROR, "unexpected definition of an index: %s", definition);
	ks_shadow_name(shadow, id);
	ks_shadow_index_name(name, id, indexid);
	owner = owner_of(get_relname_relid(shadow, ks_catalog_schema()));
	schema = lend_schema(id, owner);
	execute(psprintf("ALTER TABLE kafka.%s SET SCHEMA %s", shadow, schema));
	CommandCounterIncrement();
	execute_as(owner, psprintf("CREATE %sINDEX %s ON %s.%s %s", unique ? "UNIQUE " : "", name, schema, shadow,
							   definition + strlen(prefix)));
	CommandCounterIncrement();
	take_back(schema, shadow);
	/* to which its owner may have no right */
	if (OidIsValid(get_rel_tablespace(indexid)))
		execute(psprintf("ALTER INDEX kafka.%s SET TABLESPACE %s", name,
						 quote_identifier(get_tablespace_name(get_rel_tablespace(indexid)))));
}

/*
 * Changes of the shadow's rows must be allowed even where a publication has all tables: by the key, if it can identify a
 * row.
 */
static void
set_identity(const KsTargetTable *t, int64 id)
{
	char		shadow[NAMEDATALEN];
	char		name[NAMEDATALEN];
	bool		nullable = false;

	ks_shadow_name(shadow, id);
	ks_shadow_index_name(name, id, t->key_index);
	for (int i = 0; i < t->nkeys; i++)
		if (!TupleDescAttr(RelationGetDescr(t->rel), t->keys[i].index)->attnotnull)
			nullable = true;
	if (nullable)
		execute(psprintf("ALTER TABLE kafka.%s REPLICA IDENTITY FULL", shadow));
	else
		execute(psprintf("ALTER TABLE kafka.%s REPLICA IDENTITY USING INDEX %s", shadow, name));
}

/* See shadow.h. */
Oid
ks_shadow_create(const KsTargetTable *t, int64 id)
{
	char		name[NAMEDATALEN];
	char	   *columns;
	char	   *rest;
	Oid			shadow;
	Oid			toast;
	char	   *schema;

	ks_shadow_drop(id);
	ks_shadow_name(name, id);
	if (!read_definition(t->relid, &columns, &rest))
		elog(ERROR, "table %u vanished", t->relid);
	schema = lend_schema(id, t->owner);
	execute_as(t->owner, psprintf("CREATE TABLE %s.%s %s", schema, name, columns));
	CommandCounterIncrement();
	take_back(schema, name);
	execute(psprintf("ALTER TABLE kafka.%s %s", name, rest));
	execute(psprintf("COMMENT ON TABLE kafka.%s IS %s", name,
					 quote_literal_cstr(psprintf("Copy of %s in the making; see kafka.rebuild_subscription.", t->qualified))));
	shadow = get_relname_relid(name, ks_catalog_schema());
	if (!OidIsValid(shadow))
		elog(ERROR, "table kafka.%s was not made", name);
	revoke_defaults(shadow, name);
	if (OidIsValid(t->key_index))
	{
		add_index(t->relid, id, t->key_index);
		set_identity(t, id);
	}
	/* rows of a query are looked up by more than the key */
	while (t->target->query && strcmp(t->target->mode, "upsert") == 0 && ks_shadow_add_index(t->relid, id))
		CommandCounterIncrement();
	CommandCounterIncrement();
	mark_rewrite(shadow, t->relid);
	CommandCounterIncrement();
	{
		Relation	rel = table_open(shadow, AccessExclusiveLock);

		toast = rel->rd_rel->reltoastrelid;
		table_close(rel, NoLock);
	}
	if (OidIsValid(toast))
		mark_rewrite(toast, t->relid);
	depend_on(shadow, t->relid);
	depend_on(shadow, ks_catalog_relid("subscription_rebuild"));
	CommandCounterIncrement();
	return shadow;
}

/* See shadow.h. */
Oid
ks_shadow_find(Oid target, int64 id)
{
	char		name[NAMEDATALEN];
	Oid			shadow;
	HeapTuple	tuple;
	bool		ours;

	ks_shadow_name(name, id);
	shadow = get_relname_relid(name, ks_catalog_schema());
	if (!OidIsValid(shadow))
		return InvalidOid;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(shadow));
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	/* one that came with a dump is not */
	ours = ((Form_pg_class) GETSTRUCT(tuple))->relrewrite == target;
	ReleaseSysCache(tuple);
	return ours ? shadow : InvalidOid;
}

/* See shadow.h. */
void
ks_shadow_drop(int64 id)
{
	char		name[NAMEDATALEN];

	ks_shadow_name(name, id);
	if (OidIsValid(get_relname_relid(name, ks_catalog_schema())))
		execute(psprintf("DROP TABLE kafka.%s", name));
}

/* Has a table indexes that exchanged files would not do for? */
static bool
odd_indexes(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	bool		odd = false;

	foreach(lc, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index form;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for index %u", lfirst_oid(lc));
		form = (Form_pg_index) GETSTRUCT(tuple);
		odd = odd || !form->indisvalid || !form->indisready || !form->indimmediate || form->indisexclusion;
		ReleaseSysCache(tuple);
	}
	list_free(indexes);
	return odd;
}

/* See shadow.h. */
const char *
ks_shadow_obstacle(Oid target)
{
	Relation	rel = table_open(target, AccessShareLock);
	const char *obstacle = NULL;

	if (rel->rd_rel->relkind != RELKIND_RELATION || rel->rd_rel->relispartition ||
		has_subclass(target) || has_superclass(target))
		obstacle = "it is partitioned or inherits";
	else if (rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		obstacle = "it is no heap table";
	else if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		obstacle = "it is unlogged";
	else if (rel->trigdesc != NULL)
		obstacle = "it has triggers or foreign keys";
	else if (GetRelationPublications(target) != NIL || GetAllTablesPublications() != NIL ||
			 GetSchemaPublications(RelationGetNamespace(rel)) != NIL)
		obstacle = "it is published";
	else if (odd_indexes(rel))
		obstacle = "it has deferrable, exclusion or invalid indexes";
	table_close(rel, NoLock);
	return obstacle;
}

/* See shadow.h. */
bool
ks_shadow_add_index(Oid target, int64 id)
{
	Relation	rel = table_open(target, AccessShareLock);
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	bool		added = false;

	foreach(lc, indexes)
	{
		char		name[NAMEDATALEN];

		ks_shadow_index_name(name, id, lfirst_oid(lc));
		if (OidIsValid(get_relname_relid(name, ks_catalog_schema())))
			continue;
		add_index(target, id, lfirst_oid(lc));
		added = true;
		break;
	}
	list_free(indexes);
	table_close(rel, NoLock);
	return added;
}
