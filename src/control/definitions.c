/*
 * definitions.c: what the SQL functions that define publishers and subscriptions share; see definitions.h.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat/pg_compat.h"
#include "control/definitions.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

/* Runs what follows as the bootstrap superuser. */
void
ks_become_superuser(KsIdentity *saved)
{
	GetUserIdAndSecContext(&saved->userid, &saved->context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, saved->context | SECURITY_LOCAL_USERID_CHANGE);
}

/* Goes back to the caller's identity. */
void
ks_become_caller(const KsIdentity *saved)
{
	SetUserIdAndSecContext(saved->userid, saved->context);
}

/* Runs one SQL command on our own tables as the bootstrap superuser; returns the number of rows. */
uint64
ks_catalog_execute(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	KsIdentity	saved;
	uint64		rows;
	int			rc;

	ks_become_superuser(&saved);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	rc = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_with_args failed: %s", SPI_result_code_string(rc));
	rows = SPI_processed;
	SPI_finish();
	ks_become_caller(&saved);
	return rows;
}

/* ERROR unless the current user has the rights of the owner. */
void
ks_check_owner(Oid owner, const char *kind, const char *name)
{
	if (!has_privs_of_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of %s \"%s\"", kind, name)));
}

/* The publisher of this name, that the current user may change. */
KsPublisher *
ks_own_publisher(const char *name)
{
	KsPublisher *p = ks_publisher_by_name(name);

	if (p == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("publisher \"%s\" does not exist", name),
				 errhint("The view kafka.publisher_status lists the publishers of this database.")));
	ks_check_owner(p->owner, "publisher", name);
	return p;
}

/* The subscription of this name, that the current user may change. */
KsSubscription *
ks_own_subscription(const char *name)
{
	KsSubscription *s = ks_subscription_by_name(name);

	if (s == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription \"%s\" does not exist", name),
				 errhint("The view kafka.subscription_status lists the subscriptions of this database.")));
	ks_check_owner(s->owner, "subscription", name);
	return s;
}

/* ERROR unless word is in the list. */
void
ks_check_word(const char *what, const char *word, const char *const *allowed)
{
	StringInfoData list;

	for (int i = 0; allowed[i]; i++)
		if (strcmp(word, allowed[i]) == 0)
			return;
	initStringInfo(&list);
	for (int i = 0; allowed[i]; i++)
		appendStringInfo(&list, "%s%s", i ? ", " : "", allowed[i]);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid %s: \"%s\"", what, word),
			 errhint("Allowed is %s%s.", allowed[1] ? "one of: " : "", list.data)));
}

static void
check_not_null(FunctionCallInfo fcinfo, int arg, const char *what)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what)));
}

/* A name argument as a C string. */
char *
ks_name_arg(FunctionCallInfo fcinfo, int arg, const char *what)
{
	check_not_null(fcinfo, arg, what);
	if (NameStr(*PG_GETARG_NAME(arg))[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("%s must not be empty", what)));
	return pstrdup(NameStr(*PG_GETARG_NAME(arg)));
}

/* A text argument as a C string. */
char *
ks_text_arg(FunctionCallInfo fcinfo, int arg, const char *what)
{
	check_not_null(fcinfo, arg, what);
	return text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

/* See definitions.h. */
char **
ks_text_list(ArrayType *array, const char *what, int *count)
{
	Datum	   *elements;
	bool	   *nulls;
	char	  **result;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, count);
	if (*count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what)));
	result = palloc(sizeof(char *) * *count);
	for (int i = 0; i < *count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", what)));
		result[i] = TextDatumGetCString(elements[i]);
		for (int j = 0; j < i; j++)
			if (strcmp(result[i], result[j]) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_OBJECT),
						 errmsg("\"%s\" appears twice in %s", result[i], what)));
	}
	return result;
}

/* See definitions.h. */
List *
ks_text_names(ArrayType *array, const char *what)
{
	int			count;
	char	  **elements = ks_text_list(array, what, &count);
	List	   *result = NIL;

	for (int i = 0; i < count; i++)
		result = lappend(result, elements[i]);
	return result;
}

/* Merges option changes; see definitions.h. */
Jsonb *
ks_merge_options(Jsonb *old, Jsonb *changes, const char *const *special, Jsonb **special_values)
{
	Datum		merged;
	JsonbIterator *it;
	JsonbValue	key;
	JsonbValue	value;
	JsonbIteratorToken token;

	if (!JB_ROOT_IS_OBJECT(changes))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object")));
	merged = DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(old), JsonbPGetDatum(changes));

	for (int i = 0; special[i]; i++)
		special_values[i] = NULL;
	it = JsonbIteratorInit(&changes->root);
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		char	   *name;
		bool		is_special = false;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(key.val.string.val, key.val.string.len);
		(void) JsonbIteratorNext(&it, &value, true);
		for (int i = 0; special[i]; i++)
		{
			if (strcmp(special[i], name) != 0)
				continue;
			is_special = true;
			special_values[i] = JsonbValueToJsonb(&value);
		}
		if (is_special || value.type == jbvNull)
			merged = DirectFunctionCall2(jsonb_delete, merged, CStringGetTextDatum(name));
	}
	return DatumGetJsonbP(merged);
}

/* Takes the lock of a row of one of our tables until the end of the transaction. */
static void
lock_definition(const char *table, int64 id, LOCKMODE mode)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ks_catalog_relid(table), hash_bytes((unsigned char *) &id, sizeof(id)), 0);
	(void) LockAcquire(&tag, mode, false, false);
}

/* Takes the lock of a subscription until the end of the transaction. */
void
ks_subscription_lock(int64 id, bool exclusive)
{
	lock_definition("subscription", id, exclusive ? ExclusiveLock : ShareLock);
}

/* See definitions.h. */
bool
ks_subscription_lock_wanted(int64 id)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ks_catalog_relid("subscription"), hash_bytes((unsigned char *) &id, sizeof(id)), 0);
	return ks_lock_held_by_me(&tag, ShareLock) && LockHasWaiters(&tag, ShareLock, false);
}

/* See definitions.h. */
void
ks_subscription_waiter_tag(LOCKTAG *tag, int64 id)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, ks_catalog_relid("subscription"),
					   hash_bytes((unsigned char *) &id, sizeof(id)), 2);
}

/* Takes the lock of a publisher until the end of the transaction. */
void
ks_publisher_lock(int64 id)
{
	lock_definition("publisher", id, ExclusiveLock);
}

/* Reserves a name until the end of the transaction. */
void
ks_name_lock(const char *table, const char *name)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ks_catalog_relid(table),
					   hash_bytes((const unsigned char *) name, strlen(name)), 1);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* End of the WAL inserted so far, flushed. */
XLogRecPtr
ks_wal_end(void)
{
	XLogRecPtr	lsn = GetXLogInsertRecPtr();

	/* the next record's place may be behind a page header that is not written yet: the last record ends before it */
	if (XLogSegmentOffset(lsn, wal_segment_size) == SizeOfXLogLongPHD)
		lsn -= SizeOfXLogLongPHD;
	else if (lsn % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		lsn -= SizeOfXLogShortPHD;
	XLogFlush(lsn);
	return lsn;
}

/* Milliseconds of an interval argument. */
int64
ks_timeout_arg(FunctionCallInfo fcinfo, int arg, int64 default_ms)
{
	Interval   *interval;
	int64		ms;

	if (PG_ARGISNULL(arg))
		return default_ms;
	interval = PG_GETARG_INTERVAL_P(arg);
	ms = interval->time / 1000 +
		((int64) interval->day + (int64) interval->month * DAYS_PER_MONTH) * SECS_PER_DAY * 1000;
	if (ms < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative")));
	return ms;
}

/* A random positive 63-bit identifier. */
int64
ks_random_id(void)
{
	uint64		id;

	do
	{
		if (!pg_strong_random(&id, sizeof(id)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate a random identifier")));
		id >>= 1;
	} while (id == 0);
	return (int64) id;
}

/* Text of a JSON string; ERROR for anything else. */
char *
ks_special_name(Jsonb *value, const char *key)
{
	JsonbValue	v;

	if (!JB_ROOT_IS_SCALAR(value) || !JsonbExtractScalar(&value->root, &v) || v.type != jbvString || v.val.string.len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\"", key),
				 errhint("Allowed is a non-empty string.")));
	return pnstrdup(v.val.string.val, v.val.string.len);
}
