/*
 * catalog.c: readers of the extension's own tables; see catalog.h.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "control/catalog.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

/* Attribute numbers, in the order of sql/install/10_catalog.sql. */
enum
{
	PUB_ID = 1, PUB_NAME, PUB_OWNER, PUB_SERVER, PUB_PUBLICATION, PUB_TOPIC_PREFIX, PUB_FORMAT, PUB_SNAPSHOT,
	PUB_DELIVERY, PUB_OPTIONS, PUB_ENABLED, PUB_VERSION, PUB_SLOT_NAME, PUB_SNAPSHOT_STATE, PUB_SNAPSHOT_FLOOR,
	PUB_SYSTEM_IDENTIFIER, PUB_DATABASE_OID
};
enum
{
	REL_PUBLISHER_ID = 1, REL_RELATION, REL_TOPIC, REL_KEY
};
enum
{
	SUB_ID = 1, SUB_NAME, SUB_OWNER, SUB_SERVER, SUB_TOPICS, SUB_FORMAT, SUB_START, SUB_ON_ERROR, SUB_WORKERS,
	SUB_OPTIONS, SUB_ENABLED, SUB_VERSION, SUB_SYSTEM_IDENTIFIER, SUB_DATABASE_OID
};
enum
{
	TARGET_SUBSCRIPTION_ID = 1, TARGET_TARGET, TARGET_MODE, TARGET_KEY, TARGET_QUERY, TARGET_MERGE, TARGET_OPTIONS,
	TARGET_VIEW, TARGET_SOURCE
};

/* Oid of the extension's schema, InvalidOid if there is none. */
Oid
ks_catalog_schema(void)
{
	return get_namespace_oid("kafka", true);
}

/*
 * Oid of one of our tables, InvalidOid if the extension is absent.  A table of that name that is no member of the
 * extension is somebody else's, and must not be taken for ours: we write ours as superuser.
 */
Oid
ks_catalog_relid(const char *table)
{
	Oid			extension = get_extension_oid("pg_kafka_sync", true);
	Oid			schema = OidIsValid(extension) ? ks_catalog_schema() : InvalidOid;
	Oid			relid = OidIsValid(schema) ? get_relname_relid(table, schema) : InvalidOid;

	if (!OidIsValid(relid) || getExtensionOfObject(RelationRelationId, relid) != extension)
		return InvalidOid;
	return relid;
}

/* Is relid a table of the extension's own schema? */
bool
ks_is_own_relation(Oid relid)
{
	Oid			schema = get_rel_namespace(relid);

	return OidIsValid(schema) && schema == ks_catalog_schema() && OidIsValid(get_extension_oid("pg_kafka_sync", true));
}

/* Value of a column as a C string in CurrentMemoryContext, NULL if null. */
static char *
text_column(HeapTuple tuple, TupleDesc desc, int attnum)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, attnum, desc, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/* Value of a NOT NULL column. */
static Datum
column(HeapTuple tuple, TupleDesc desc, int attnum)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, attnum, desc, &isnull);

	if (isnull)
		elog(ERROR, "unexpected null in a catalog table of pg_kafka_sync");
	return value;
}

/* Elements of a text[] column as C strings; *count is 0 for null. */
static char **
text_array_column(HeapTuple tuple, TupleDesc desc, int attnum, int *count)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, attnum, desc, &isnull);
	Datum	   *elements;
	bool	   *nulls;
	char	  **result;

	*count = 0;
	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, count);
	result = palloc(sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		result[i] = nulls[i] ? pstrdup("") : TextDatumGetCString(elements[i]);
	return result;
}

static KsPublisher *
publisher_from_tuple(HeapTuple tuple, TupleDesc desc)
{
	KsPublisher *p = palloc0(sizeof(KsPublisher));

	p->id = DatumGetInt64(column(tuple, desc, PUB_ID));
	p->name = *DatumGetName(column(tuple, desc, PUB_NAME));
	p->owner = DatumGetObjectId(column(tuple, desc, PUB_OWNER));
	p->server = *DatumGetName(column(tuple, desc, PUB_SERVER));
	p->publication = *DatumGetName(column(tuple, desc, PUB_PUBLICATION));
	p->topic_prefix = text_column(tuple, desc, PUB_TOPIC_PREFIX);
	p->format = text_column(tuple, desc, PUB_FORMAT);
	p->snapshot = text_column(tuple, desc, PUB_SNAPSHOT);
	p->delivery = text_column(tuple, desc, PUB_DELIVERY);
	p->options_json = DatumGetJsonbPCopy(column(tuple, desc, PUB_OPTIONS));
	p->enabled = DatumGetBool(column(tuple, desc, PUB_ENABLED));
	p->version = DatumGetInt32(column(tuple, desc, PUB_VERSION));
	p->slot_name = *DatumGetName(column(tuple, desc, PUB_SLOT_NAME));
	p->snapshot_state = text_column(tuple, desc, PUB_SNAPSHOT_STATE);
	p->snapshot_floor = DatumGetInt64(column(tuple, desc, PUB_SNAPSHOT_FLOOR));
	p->system_identifier = DatumGetInt64(column(tuple, desc, PUB_SYSTEM_IDENTIFIER));
	p->database_oid = DatumGetInt64(column(tuple, desc, PUB_DATABASE_OID));
	return p;
}

/* See catalog.h. */
KsMergeColumn *
ks_merge_parse(Jsonb *merge, int *count)
{
	/* in the order of KsMergeFunction */
	static const char *const functions[] = {"sum", "min", "max", "count", "first", "last", "or", "and"};
	KsMergeColumn *result;
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;

	*count = 0;
	if (!JB_ROOT_IS_OBJECT(merge))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("merge must be a JSON object"),
				 errhint("It names a function for each column: {\"column\": \"sum\"}.")));
	result = palloc0(sizeof(KsMergeColumn) * Max(JB_ROOT_COUNT(merge), 1));
	it = JsonbIteratorInit(&merge->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		KsMergeColumn *m = &result[*count];
		char	   *word = NULL;
		bool		found = false;

		if (token != WJB_KEY)
			continue;
		m->column = pnstrdup(v.val.string.val, v.val.string.len);
		(void) JsonbIteratorNext(&it, &v, true);
		if (v.type == jbvString)
			word = pnstrdup(v.val.string.val, v.val.string.len);
		for (int i = 0; word && i < lengthof(functions); i++)
			if (strcmp(word, functions[i]) == 0)
			{
				m->function = (KsMergeFunction) i;
				found = true;
			}
		if (!found)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 word ? errmsg("invalid merge function for column \"%s\": \"%s\"", m->column, word)
					 : errmsg("invalid merge function for column \"%s\"", m->column),
					 errhint("Allowed is one of: sum, min, max, count, first, last, or, and.")));
		(*count)++;
	}
	return result;
}

/* Reads the targets of a subscription into a list of KsTarget. */
static List *
read_targets(int64 subscription_id)
{
	Relation	rel = table_open(ks_catalog_relid("subscription_target"), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *result = NIL;

	ScanKeyInit(&key, TARGET_SUBSCRIPTION_ID, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(subscription_id));
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		KsTarget   *t = palloc0(sizeof(KsTarget));
		Datum		value;
		bool		isnull;

		t->relid = DatumGetObjectId(column(tuple, desc, TARGET_TARGET));
		t->mode = text_column(tuple, desc, TARGET_MODE);
		t->keys = text_array_column(tuple, desc, TARGET_KEY, &t->nkeys);
		t->query = text_column(tuple, desc, TARGET_QUERY);
		value = heap_getattr(tuple, TARGET_VIEW, desc, &isnull);
		t->view = isnull ? InvalidOid : DatumGetObjectId(value);
		t->source = text_array_column(tuple, desc, TARGET_SOURCE, &t->nsource);
		value = heap_getattr(tuple, TARGET_MERGE, desc, &isnull);
		if (!isnull)
			t->merge_json = DatumGetJsonbPCopy(value);
		t->options_json = DatumGetJsonbPCopy(column(tuple, desc, TARGET_OPTIONS));
		result = lappend(result, t);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

static KsSubscription *
subscription_from_tuple(HeapTuple tuple, TupleDesc desc)
{
	KsSubscription *s = palloc0(sizeof(KsSubscription));

	s->id = DatumGetInt64(column(tuple, desc, SUB_ID));
	s->name = *DatumGetName(column(tuple, desc, SUB_NAME));
	s->owner = DatumGetObjectId(column(tuple, desc, SUB_OWNER));
	s->server = *DatumGetName(column(tuple, desc, SUB_SERVER));
	s->topics = text_array_column(tuple, desc, SUB_TOPICS, &s->ntopics);
	s->format = text_column(tuple, desc, SUB_FORMAT);
	s->start = text_column(tuple, desc, SUB_START);
	s->on_error = text_column(tuple, desc, SUB_ON_ERROR);
	s->workers = DatumGetInt32(column(tuple, desc, SUB_WORKERS));
	s->options_json = DatumGetJsonbPCopy(column(tuple, desc, SUB_OPTIONS));
	s->enabled = DatumGetBool(column(tuple, desc, SUB_ENABLED));
	s->version = DatumGetInt32(column(tuple, desc, SUB_VERSION));
	s->system_identifier = DatumGetInt64(column(tuple, desc, SUB_SYSTEM_IDENTIFIER));
	s->database_oid = DatumGetInt64(column(tuple, desc, SUB_DATABASE_OID));
	s->targets = read_targets(s->id);
	return s;
}

/*
 * Scans one of our tables with a key (or without, nkeys 0), handing each tuple to make(); returns the list of results.
 * Heap scans are used: the tables are small, and index Oids need no name then.
 */
static List *
scan_table(const char *table, ScanKey keys, int nkeys, void *(*make) (HeapTuple, TupleDesc))
{
	Oid			relid = ks_catalog_relid(table);
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *result = NIL;

	if (!OidIsValid(relid))
		return NIL;
	rel = table_open(relid, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, nkeys, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		result = lappend(result, make(tuple, RelationGetDescr(rel)));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

static void *
make_publisher(HeapTuple tuple, TupleDesc desc)
{
	return publisher_from_tuple(tuple, desc);
}

static void *
make_subscription(HeapTuple tuple, TupleDesc desc)
{
	return subscription_from_tuple(tuple, desc);
}

static void *
make_publisher_relation(HeapTuple tuple, TupleDesc desc)
{
	KsPublisherRelation *r = palloc0(sizeof(KsPublisherRelation));

	r->relid = DatumGetObjectId(column(tuple, desc, REL_RELATION));
	r->topic = text_column(tuple, desc, REL_TOPIC);
	r->keys = text_array_column(tuple, desc, REL_KEY, &r->nkeys);
	return r;
}

/* First element of a list or NULL. */
static void *
first(List *list)
{
	return list == NIL ? NULL : linitial(list);
}

/* Was a definition made in this database, and not restored or cloned from elsewhere? */
bool
ks_belongs_here(int64 system_identifier, int64 database_oid)
{
	return (uint64) system_identifier == GetSystemIdentifier() && database_oid == (int64) MyDatabaseId;
}

/* All publishers of this database, a list of KsPublisher. */
List *
ks_publishers(void)
{
	return scan_table("publisher", NULL, 0, make_publisher);
}

/* All subscriptions of this database, a list of KsSubscription. */
List *
ks_subscriptions(void)
{
	return scan_table("subscription", NULL, 0, make_subscription);
}

/* The publisher with this id, its options not parsed, or NULL. */
KsPublisher *
ks_publisher_row(int64 id)
{
	ScanKeyData key;

	ScanKeyInit(&key, PUB_ID, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	return first(scan_table("publisher", &key, 1, make_publisher));
}

/* The publisher with this id and its options, or NULL. */
KsPublisher *
ks_publisher_by_id(int64 id)
{
	KsPublisher *p = ks_publisher_row(id);

	if (p)
		p->options = ks_options_parse(KS_PUBLISHER, p->format, p->options_json, InvalidOid);
	return p;
}

/* The publisher of this name, or NULL. */
KsPublisher *
ks_publisher_by_name(const char *name)
{
	ScanKeyData key;
	NameData	n;

	namestrcpy(&n, name);
	ScanKeyInit(&key, PUB_NAME, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(&n));
	return first(scan_table("publisher", &key, 1, make_publisher));
}

/* What set_topic stored for a relation of a publisher, or NULL. */
KsPublisherRelation *
ks_publisher_relation(int64 publisher_id, Oid relid)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], REL_PUBLISHER_ID, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(publisher_id));
	ScanKeyInit(&keys[1], REL_RELATION, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	return first(scan_table("publisher_relation", keys, 2, make_publisher_relation));
}

/* The parsed options of a subscription; ERROR if it came with some that this version does not know. */
KsOptions *
ks_subscription_options(const KsSubscription *s)
{
	return ks_options_parse(KS_SUBSCRIPTION, s->format, s->options_json, InvalidOid);
}

/* The subscription with this id and its options, or NULL. */
KsSubscription *
ks_subscription_by_id(int64 id)
{
	ScanKeyData key;
	KsSubscription *s;
	ListCell   *lc;

	ScanKeyInit(&key, SUB_ID, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	s = first(scan_table("subscription", &key, 1, make_subscription));
	if (s == NULL)
		return NULL;
	s->options = ks_subscription_options(s);
	foreach(lc, s->targets)
	{
		KsTarget   *t = lfirst(lc);

		if (t->merge_json)
			t->merge = ks_merge_parse(t->merge_json, &t->nmerge);
		t->options = ks_options_parse(KS_TARGET, NULL, t->options_json, InvalidOid);
	}
	return s;
}

/* See catalog.h. */
bool
ks_reads_topic(char **topics, int ntopics, const char *topic)
{
	for (int i = 0; i < ntopics; i++)
	{
		if (topics[i][0] != '^')
		{
			if (strcmp(topics[i], topic) == 0)
				return true;
		}
		else if (strncmp(topic, "__", 2) != 0 &&
				 DatumGetBool(DirectFunctionCall2Coll(textregexeq, C_COLLATION_OID, CStringGetTextDatum(topic),
													  CStringGetTextDatum(topics[i]))))
			return true;
	}
	return false;
}

static void *
make_topic(HeapTuple tuple, TupleDesc desc)
{
	return text_column(tuple, desc, 2);
}

/* See catalog.h. */
List *
ks_subscription_topics(int64 id)
{
	ScanKeyData key;
	List	   *result = NIL;
	ListCell   *lc;
	ListCell   *known;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	foreach(lc, scan_table("subscription_position", &key, 1, make_topic))
	{
		bool		is_known = false;

		foreach(known, result)
			is_known = is_known || strcmp(lfirst(known), lfirst(lc)) == 0;
		if (!is_known)
			result = lappend(result, lfirst(lc));
	}
	return result;
}

/* See catalog.h.  Called in each transaction of a worker, so the table is looked up once. */
int32
ks_subscription_version(int64 id)
{
	static Oid	relid = InvalidOid;
	Relation	rel = OidIsValid(relid) ? try_table_open(relid, AccessShareLock) : NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int32		version = -1;

	if (rel == NULL)
	{
		relid = ks_catalog_relid("subscription");
		if (!OidIsValid(relid))
			return -1;
		rel = table_open(relid, AccessShareLock);
	}
	ScanKeyInit(&key, SUB_ID, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		version = DatumGetInt32(column(tuple, RelationGetDescr(rel), SUB_VERSION));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

/* The subscription of this name, or NULL. */
KsSubscription *
ks_subscription_by_name(const char *name)
{
	ScanKeyData key;
	NameData	n;

	namestrcpy(&n, name);
	ScanKeyInit(&key, SUB_NAME, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(&n));
	return first(scan_table("subscription", &key, 1, make_subscription));
}
