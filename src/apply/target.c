/*
 * target.c: describing a target table.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/table.h"
#include "access/tableam.h"
#include "apply/metadata.h"
#include "apply/sink.h"
#include "catalog/pg_am.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "compat/executor_compat.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

static List *targets = NIL;		/* all of this process, for invalidation */

/* A table's definition changed (InvalidOid: any may have). */
static void
invalidate(Datum arg, Oid relid)
{
	ListCell   *lc;

	foreach(lc, targets)
	{
		KsTargetTable *t = lfirst(lc);

		if (relid == InvalidOid || relid == t->relid || relid == t->key_index)
			t->valid = false;
	}
}

/* A role's memberships changed, or a foreign server's options: the right to write, and where to, are to be checked anew. */
static void
invalidate_all(Datum arg, int cacheid, uint32 hashvalue)
{
	invalidate(arg, InvalidOid);
}

/* See target.h. */
KsTargetTable *
ks_target_create(const KsSubscription *subscription, const KsTarget *target, Oid relid)
{
	static bool registered = false;
	KsTargetTable *t = palloc0(sizeof(KsTargetTable));
	MemoryContext old;

	t->relid = relid;
	t->subscription_owner = subscription->owner;
	t->subscription_id = subscription->id;
	t->subscription = NameStr(subscription->name);
	t->target = target;
	t->format = subscription->format;
	/* what a query gives is no field of a message */
	if (target->query == NULL)
	{
		t->column_types = subscription->options->text_value[KS_OPT_COLUMN_TYPES];
		t->metadata_columns = subscription->options->text_value[KS_OPT_METADATA_COLUMNS];
		t->shares_types = list_length(subscription->targets) > 1 || subscription->options->bool_value[KS_OPT_EVOLVE];
	}
	t->parent = CurrentMemoryContext;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, invalidate_all, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHOID, invalidate_all, (Datum) 0);
		CacheRegisterSyscacheCallback(TYPEOID, invalidate_all, (Datum) 0);
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, invalidate_all, (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID, invalidate_all, (Datum) 0);
		registered = true;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	targets = lappend(targets, t);
	MemoryContextSwitchTo(old);
	return t;
}

/* ERROR: the table is of no use as a target. */
static void
unusable(KsTargetTable *t, int code, const char *why, const char *hint)
{
	ereport(ERROR,
			(errcode(code),
			 errmsg("subscription \"%s\" cannot write to table %s: %s", t->subscription, t->qualified, why),
			 errhint("%s", hint)));
}

/* Is the role of the subscription's owner entitled to write as the table's owner, unfiltered? */
static void
check_rights(KsTargetTable *t)
{
	Oid			save_user;
	int			save_context;
	bool		filtered;
	AclMode		needed = ACL_INSERT | ACL_UPDATE | ACL_DELETE | ACL_SELECT;

	if (!ks_member_can_set_role(t->subscription_owner, t->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("subscription \"%s\" cannot write to table %s: its owner \"%s\" may not act as the table's owner \"%s\"",
						t->subscription, t->qualified, GetUserNameFromId(t->subscription_owner, false),
						GetUserNameFromId(t->owner, false)),
				 errhint("GRANT %s TO %s, or give the subscription to another owner with kafka.set_owner.",
						 quote_identifier(GetUserNameFromId(t->owner, false)),
						 quote_identifier(GetUserNameFromId(t->subscription_owner, false)))));

	if (pg_class_aclmask(t->relid, t->owner, needed, ACLMASK_ALL) != needed)
		unusable(t, ERRCODE_INSUFFICIENT_PRIVILEGE, "its owner has no INSERT, UPDATE, DELETE and SELECT right on it",
				 "GRANT them to the table's owner.");

	/* row_security is off in our sessions, which would make this an error by itself */
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(t->owner, save_context);
	filtered = check_enable_rls(t->relid, InvalidOid, true) == RLS_ENABLED;
	SetUserIdAndSecContext(save_user, save_context);
	if (filtered)
		unusable(t, ERRCODE_INSUFFICIENT_PRIVILEGE, "its row-level security policies apply to its owner too",
				 "ALTER TABLE ... NO FORCE ROW LEVEL SECURITY, or make the owner a role with BYPASSRLS.");
}

/* See target.h.  That of a domain may, wherever it is a part; base types are C code. */
bool
ks_may_run_code(Oid type)
{
	Oid			element = get_element_type(type);
	char		kind = get_typtype(OidIsValid(element) ? element : type);

	return kind != TYPTYPE_BASE && kind != TYPTYPE_ENUM;
}

/* Fills in the columns. */
static void
describe_columns(KsTargetTable *t, TupleDesc desc)
{
	t->natts = desc->natts;
	t->columns = palloc0(sizeof(KsTargetColumn) * desc->natts);
	t->written = NULL;
	t->has_identity = false;
	t->runs_code = false;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		KsTargetColumn *c = &t->columns[i];

		if (att->attisdropped)
			continue;
		c->name = pstrdup(NameStr(att->attname));
		c->quoted = pstrdup(quote_identifier(c->name));
		c->writable = att->attgenerated == '\0';
		c->always_identity = att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS;
		c->toastable = att->attlen == -1 && att->attstorage != TYPSTORAGE_PLAIN;
		if (c->always_identity)
			t->has_identity = true;
		t->runs_code = t->runs_code || ks_may_run_code(att->atttypid);
		if (c->writable)
			t->written = bms_add_member(t->written, i + 1 - FirstLowInvalidHeapAttributeNumber);
	}
}

/* Attribute index of a column by name, -1 if there is none. */
static int
column_by_name(KsTargetTable *t, const char *name)
{
	for (int i = 0; i < t->natts; i++)
		if (t->columns[i].name && strcmp(t->columns[i].name, name) == 0)
			return i;
	return -1;
}

/* Is this index a unique one over exactly the wanted columns, that can decide conflicts? */
static bool
index_fits(Relation index, const bool *wanted, int nwanted)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisunique || !form->indisvalid || !form->indisready || !form->indimmediate ||
		form->indnkeyatts != nwanted || index->rd_rel->relam != BTREE_AM_OID ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indexprs, NULL))
		return false;
	for (int i = 0; i < nwanted; i++)
		if (form->indkey.values[i] <= 0 || !wanted[form->indkey.values[i] - 1])
			return false;
	return true;
}

/* Fills in how a key column, whose index and collation are known, is compared and hashed. */
static void
describe_equality(KsTargetTable *t, KsKeyColumn *k, Oid operator, TupleDesc desc)
{
	Form_pg_attribute att = TupleDescAttr(desc, k->index);
	HeapTuple	tuple;
	Form_pg_operator form;
	TypeCacheEntry *type;

	k->typlen = att->attlen;
	k->typbyval = att->attbyval;
	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "missing equality operator of column \"%s\"", NameStr(att->attname));
	form = (Form_pg_operator) GETSTRUCT(tuple);
	k->equal_operator = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
								 NameStr(form->oprname));
	fmgr_info_cxt(form->oprcode, &k->equal, t->context);
	ReleaseSysCache(tuple);

	/* Only the hash that goes with that very equality will do. */
	type = lookup_type_cache(att->atttypid, TYPECACHE_HASH_PROC_FINFO | TYPECACHE_EQ_OPR);
	if (OidIsValid(type->hash_proc) && type->eq_opr == operator)
		fmgr_info_cxt(type->hash_proc, &k->hash, t->context);
	else
		k->hash.fn_oid = InvalidOid;
}

/* Fills in how a key column is compared, hashed and looked up in the key's index. */
static void
describe_key_column(KsTargetTable *t, KsKeyColumn *k, Relation index, int position, TupleDesc desc)
{
	Oid			opfamily = index->rd_opfamily[position];
	Oid			optype = index->rd_opcintype[position];

	k->index = index->rd_index->indkey.values[position] - 1;
	k->collation = index->rd_indcollation[position];
	describe_equality(t, k, get_opfamily_member(opfamily, optype, optype, BTEqualStrategyNumber), desc);
	ScanKeyEntryInitialize(&t->scan_keys[position], 0, position + 1, BTEqualStrategyNumber, InvalidOid,
						   k->collation, k->equal.fn_oid, (Datum) 0);
}

/* The key of a foreign table, which has no index here: columns are equal as their types have it. */
static void
describe_foreign_key(KsTargetTable *t, TupleDesc desc)
{
	for (int i = 0; i < t->nkeys; i++)
	{
		KsKeyColumn *k = &t->keys[i];
		TypeCacheEntry *type;

		k->index = column_by_name(t, t->target->keys[i]);
		k->collation = TupleDescAttr(desc, k->index)->attcollation;
		type = lookup_type_cache(TupleDescAttr(desc, k->index)->atttypid, TYPECACHE_EQ_OPR);
		if (!OidIsValid(type->eq_opr))
			unusable(t, ERRCODE_UNDEFINED_FUNCTION,
					 psprintf("the type of its key column \"%s\" has no equality", t->columns[k->index].name),
					 "Choose another key.");
		describe_equality(t, k, type->eq_opr, desc);
	}
}

/* Describes the key: by its unique index, which it finds, but for foreign tables. */
static void
describe_key(KsTargetTable *t, Relation rel)
{
	bool	   *wanted = palloc0(sizeof(bool) * t->natts);
	List	   *indexes;
	ListCell   *lc;

	t->key_index = InvalidOid;
	t->nkeys = 0;
	/* rows of mode append have no key, whatever the table's is */
	if (strcmp(t->target->mode, "append") == 0)
		return;
	for (int i = 0; i < t->target->nkeys; i++)
	{
		int			index = column_by_name(t, t->target->keys[i]);

		if (index < 0 || !t->columns[index].writable)
			unusable(t, ERRCODE_UNDEFINED_COLUMN, psprintf("it has no key column \"%s\" that can be written", t->target->keys[i]),
					 "Make the column, or create the subscription with another key.");
		wanted[index] = true;
		t->columns[index].key = true;
	}
	t->nkeys = t->target->nkeys;
	t->keys = palloc0(sizeof(KsKeyColumn) * Max(t->nkeys, 1));
	t->scan_keys = NULL;
	if (rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
	{
		describe_foreign_key(t, RelationGetDescr(rel));
		return;
	}
	indexes = RelationGetIndexList(rel);
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index_fits(index, wanted, t->target->nkeys) &&
			(!OidIsValid(t->key_index) || index->rd_index->indisprimary))
			t->key_index = RelationGetRelid(index);
		index_close(index, NoLock);
	}
	if (t->target->nkeys == 0 || !OidIsValid(t->key_index))
		unusable(t, ERRCODE_INVALID_COLUMN_REFERENCE, "it has no valid, immediate unique index over the key columns",
				 "Add a primary key or a unique constraint that is not deferrable over them.");

	t->scan_keys = palloc0(sizeof(ScanKeyData) * t->nkeys);
	{
		Relation	index = index_open(t->key_index, AccessShareLock);

		for (int i = 0; i < t->nkeys; i++)
			describe_key_column(t, &t->keys[i], index, i, RelationGetDescr(rel));
		index_close(index, NoLock);
	}
}

/* Finds the columns of option "metadata_columns", and those that fields without names go to. */
static void
describe_metadata(KsTargetTable *t)
{
	ListCell   *lc;
	int			candidates = 0;

	t->metadata = t->metadata_columns ? ks_metadata_parse(t->metadata_columns, t->converter) : NIL;
	foreach(lc, t->metadata)
	{
		int			index = ks_column_index(((KsMetadataColumn *) lfirst(lc))->column);

		if (!t->columns[index].writable)
			unusable(t, ERRCODE_INVALID_COLUMN_REFERENCE,
					 psprintf("column \"%s\" of option \"metadata_columns\" is generated", t->columns[index].name),
					 "Name another column.");
		t->columns[index].metadata = true;
	}
	t->own_rows = true;
	for (int i = 0; i < t->nkeys; i++)
		t->own_rows = t->own_rows && t->columns[t->keys[i].index].metadata;

	t->ordered = palloc(sizeof(int) * Max(t->natts, 1));
	t->nordered = 0;
	t->value_column = -1;
	for (int i = 0; i < t->natts; i++)
	{
		if (!t->columns[i].writable || t->columns[i].metadata)
			continue;
		t->ordered[t->nordered++] = i;
		if (t->columns[i].key)
			continue;
		t->value_column = i;
		candidates++;
	}
	if (candidates != 1)
	{
		t->value_column = column_by_name(t, "value");
		if (t->value_column >= 0 && (!t->columns[t->value_column].writable || t->columns[t->value_column].metadata))
			t->value_column = -1;
	}
}

/*
 * Can rows be written below SQL?  Not where rows may go elsewhere (partitions, inheritance of a partitioned parent is no
 * matter) or other code must see them first or as a whole (BEFORE and statement triggers).
 */
static bool
can_write_directly(Relation rel)
{
	TriggerDesc *trig = rel->trigdesc;

	if (rel->rd_rel->relkind != RELKIND_RELATION || rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		return false;
	if (trig == NULL)
		return true;
	return !(trig->trig_insert_before_row || trig->trig_update_before_row || trig->trig_delete_before_row ||
			 trig->trig_insert_instead_row || trig->trig_update_instead_row || trig->trig_delete_instead_row ||
			 trig->trig_insert_before_statement || trig->trig_insert_after_statement ||
			 trig->trig_update_before_statement || trig->trig_update_after_statement ||
			 trig->trig_delete_before_statement || trig->trig_delete_after_statement ||
			 trig->trig_insert_new_table || trig->trig_update_old_table || trig->trig_update_new_table ||
			 trig->trig_delete_old_table);
}

/* The part of option "column_types" that is about this table. */
static const char *
own_column_types(KsTargetTable *t)
{
	Jsonb	   *types;
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;

	if (t->column_types == NULL || !t->shares_types)
		return t->column_types;
	types = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(t->column_types)));
	it = JsonbIteratorInit(&types->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char	   *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(v.val.string.val, v.val.string.len);
		if (column_by_name(t, name) < 0)
			types = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(types), CStringGetTextDatum(name)));
	}
	return JsonbToCString(NULL, &types->root, VARSIZE(types));
}

/* Builds the description anew. */
static void
describe(KsTargetTable *t)
{
	Relation	rel = t->rel;
	MemoryContext old;

	if (t->context)
		MemoryContextDelete(t->context);
	t->context = NULL;
	t->converter = NULL;
	t->context = AllocSetContextCreate(t->parent, "pg_kafka_sync target", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(t->context);
	t->qualified = pstrdup(quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
													  RelationGetRelationName(rel)));
	t->owner = rel->rd_rel->relowner;
	if (rel->rd_rel->relkind != RELKIND_RELATION && rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE &&
		rel->rd_rel->relkind != RELKIND_FOREIGN_TABLE)
		unusable(t, ERRCODE_WRONG_OBJECT_TYPE, "it is not a table", "Name a table.");
	t->sink = ks_sink_for(t->relid);
	if (t->sink == NULL)
		unusable(t, ERRCODE_FEATURE_NOT_SUPPORTED, "foreign tables of this wrapper cannot be written", "Name another table.");
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		unusable(t, ERRCODE_WRONG_OBJECT_TYPE, "it is a temporary table", "Name a permanent table.");
	describe_columns(t, RelationGetDescr(rel));
	describe_key(t, rel);
	check_rights(t);
	t->direct = can_write_directly(rel);
	t->converter = ks_converter_create(RelationGetDescr(rel), t->format, own_column_types(t),
									   t->nkeys == 1 ? t->keys[0].index : -1);
	describe_metadata(t);
	if (t->sink->describe)
		t->sink->describe(t);
	MemoryContextSwitchTo(old);
	t->version++;
	t->valid = true;
}

/* See target.h. */
void
ks_target_open(KsTargetTable *t)
{
	t->rel = try_table_open(t->relid, RowExclusiveLock);
	if (t->rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("subscription \"%s\" cannot write to its target: the table does not exist any more", t->subscription),
				 errhint("Remove the target with kafka.drop_target and its number in kafka.subscription_targets, or drop the subscription.")));
	if (!t->valid)
		describe(t);
}

/* See target.h. */
void
ks_target_close(KsTargetTable *t)
{
	table_close(t->rel, NoLock);
	t->rel = NULL;
}

/* See target.h. */
void
ks_target_abandon(KsTargetTable *t)
{
	t->rel = NULL;
	if (t->sink && t->sink->abandon)
		t->sink->abandon(t);
}

/* Hash of the bytes of a value whose type has no hash function for its equality. */
static uint32
hash_bytes_of(const KsKeyColumn *k, Datum value)
{
	struct varlena *v;
	uint32		hash;

	if (k->typbyval)
		return hash_bytes((unsigned char *) &value, sizeof(Datum));
	if (k->typlen > 0)
		return hash_bytes((unsigned char *) DatumGetPointer(value), k->typlen);
	if (k->typlen == -2)
		return hash_bytes((unsigned char *) DatumGetPointer(value), strlen(DatumGetCString(value)));
	v = PG_DETOAST_DATUM_PACKED(value);
	hash = hash_bytes((unsigned char *) VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v));
	if ((Pointer) v != DatumGetPointer(value))
		pfree(v);
	return hash;
}

/* See target.h. */
uint32
ks_target_hash_key(KsTargetTable *t, const Datum *values)
{
	uint32		hash = 0;

	for (int i = 0; i < t->nkeys; i++)
	{
		KsKeyColumn *k = &t->keys[i];
		Datum		value = values[k->index];
		uint32		h = OidIsValid(k->hash.fn_oid) ?
			DatumGetUInt32(FunctionCall1Coll(&k->hash, k->collation, value)) : hash_bytes_of(k, value);

		hash = hash_combine(hash, h);
	}
	return hash;
}

/* See target.h. */
bool
ks_target_same_key(KsTargetTable *t, const Datum *a, const Datum *b)
{
	for (int i = 0; i < t->nkeys; i++)
	{
		KsKeyColumn *k = &t->keys[i];

		if (!DatumGetBool(FunctionCall2Coll(&k->equal, k->collation, a[k->index], b[k->index])))
			return false;
	}
	return true;
}
