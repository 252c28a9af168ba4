/*
 * topic_target.c: see topic_target.h.
 *
 * What a topic holds of a row is known by the bytes of its message key.  So keys that are equal must have the same text,
 * and all of the key must be columns that are in every row.
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "control/hooks.h"
#include "fdw/topic_encode.h"
#include "fdw/topic_target.h"
#include "foreign/foreign.h"
#include "kafka/log_position.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/* ERROR: the table cannot be a target in the mode. */
pg_noreturn static void
unfit(const KsTopicTable *table, const char *mode, char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("foreign table \"%s\" of a topic cannot be a target in mode %s", table->name, mode),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

/* Have equal values of a column the same text, always? */
static bool
is_written_one_way(Form_pg_attribute att)
{
	TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_BTREE_OPFAMILY);
	Oid			function;

	/* with a scale of its own, a number has no zeros more or less */
	if (att->atttypid == NUMERICOID)
		return att->atttypmod >= 0;
	if (!OidIsValid(type->btree_opf))
		return false;
	function = get_opfamily_proc(type->btree_opf, type->btree_opintype, type->btree_opintype, BTEQUALIMAGE_PROC);
	return OidIsValid(function) &&
		DatumGetBool(OidFunctionCall1Coll(function, att->attcollation, ObjectIdGetDatum(type->btree_opintype)));
}

List *
ks_topic_target_key(const KsTopicTable *table, Relation rel, const char *mode)
{
	List	   *key = NIL;
	ListCell   *lc;

	ks_topic_encoder_check(table);
	if (!table->updatable)
		unfit(table, mode, "Its option \"updatable\" is false.", "Set the option to true.");
	if (strcmp(mode, "merge") == 0)
		unfit(table, mode, "Rows are folded into those that are there, which a topic cannot be asked for.",
			  "Merge into a local table, and publish that.");
	if (strcmp(mode, "upsert") != 0)
		return NIL;
	for (int i = 0; i < table->nkeys; i++)
		key = lappend_int(key, table->keys[i]);
	if (table->nkeys == 0 && ks_topic_key_column(table) >= 0)
		key = list_make1_int(ks_topic_key_column(table));
	if (key == NIL)
		unfit(table, mode, "Its messages have no key, by which one takes the place of another.",
			  "Name the columns of the message key in its option \"key\", or use mode append.");
	foreach(lc, key)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), lfirst_int(lc));

		if (!is_written_one_way(att))
			unfit(table, mode, psprintf("Equal values of key column \"%s\" of type %s can be written in several ways, so that "
										"messages of one row would not have one key.", NameStr(att->attname),
										format_type_with_typemod(att->atttypid, att->atttypmod)),
				  "Give the column another type, such as text, integer, uuid, or numeric with a precision.");
	}
	return key;
}

void
ks_topic_target_column_check(const KsTopicTable *table, int index, const char *mode)
{
	const KsTopicColumn *column = &table->columns[index];
	bool		upsert = strcmp(mode, "upsert") == 0;

	switch (column->meta)
	{
		case KS_COL_NONE:
		case KS_COL_TIMESTAMP:
		case KS_COL_HEADERS:
			return;
		case KS_COL_KEY:
			if (column->npath == 0 && (!upsert || table->nkeys == 0))
				return;
			break;
		case KS_COL_PARTITION:
			if (upsert)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("column \"%s\" of foreign table \"%s\" cannot be given a value in mode %s", column->name,
								table->name, mode),
						 errdetail("The message key tells the partition, so that all messages of a key are in one.")));
			return;
		case KS_COL_VALUE:
			if (table->parser == NULL)
				return;
			break;
		default:
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_GENERATED_ALWAYS),
			 errmsg("column \"%s\" of foreign table \"%s\" cannot be given a value", column->name, table->name),
			 errdetail("Kafka gives it, or it is made of other columns.")));
}

/* Value of a server's property, or NULL. */
static const char *
server_property(Oid serverid, const char *name)
{
	ListCell   *lc;

	foreach(lc, GetForeignServer(serverid)->options)
		if (strcmp(((DefElem *) lfirst(lc))->defname, name) == 0)
			return strVal(((DefElem *) lfirst(lc))->arg);
	return NULL;
}

void
ks_topic_target_loop_error(const KsTopicTable *table, const KsSubscription *s)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("subscription \"%s\" cannot write to foreign table \"%s\": it reads topic \"%s\" itself", NameStr(s->name),
					table->name, table->topic),
			 errdetail("What it writes would come back for ever."),
			 errhint("Write to another topic.")));
}

bool
ks_topic_target_loops(const KsTopicTable *table, const KsSubscription *s)
{
	Oid			serverid = get_foreign_server_oid(NameStr(s->server), true);
	const char *brokers;

	if (!ks_topic_is_among(table->topic, s->topics, s->ntopics))
		return false;
	if (serverid == table->serverid)
		ks_topic_target_loop_error(table, s);
	if (!OidIsValid(serverid))
		return false;
	brokers = server_property(serverid, "bootstrap.servers");
	if (brokers && server_property(table->serverid, "bootstrap.servers") &&
		strcmp(brokers, server_property(table->serverid, "bootstrap.servers")) == 0)
		ks_topic_target_loop_error(table, s);
	return true;
}

/* Is a name in the list? */
static bool
has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* See hooks.h. */
static List *
target_check(Relation rel, const char *mode, List *asked, List *columns)
{
	KsTopicTable *table = ks_topic_table(rel);
	List	   *names = NIL;
	ListCell   *lc;
	bool		same = true;

	foreach(lc, ks_topic_target_key(table, rel, mode))
	{
		names = lappend(names, table->columns[lfirst_int(lc)].name);
		same = same && has_name(asked, llast(names));
	}
	if (asked != NIL && (!same || list_length(asked) != list_length(names)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("the key of target \"%s\" must be the columns that make its message key", table->name),
				 errhint("Leave argument key out, or change option \"key\" of the foreign table.")));
	for (int i = 0; i < table->natts; i++)
		if (!table->columns[i].is_dropped && has_name(columns, table->columns[i].name))
			ks_topic_target_column_check(table, i, mode);
	return names;
}

/* See hooks.h. */
static void
loop_check(Oid relid, const KsSubscription *subscription)
{
	Relation	rel = table_open(relid, AccessShareLock);

	(void) ks_topic_target_loops(ks_topic_table(rel), subscription);
	table_close(rel, NoLock);
}

void
ks_topic_target_init(void)
{
	ks_topic_target_hook = target_check;
	ks_topic_loop_hook = loop_check;
}
