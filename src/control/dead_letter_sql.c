/*
 * dead_letter_sql.c: the SQL functions about dead letters.  The letters are written and retried by the worker.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "control/definitions.h"
#include "control/shmem.h"
#include "control/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(ks_retry_dead_letters);

/* Does every target hold the latest state of a key, so that a superseded letter has nothing to say to any? */
static bool
all_hold_state(const KsSubscription *s)
{
	ListCell   *lc;

	foreach(lc, s->targets)
		if (strcmp(((KsTarget *) lfirst(lc))->mode, "upsert") != 0)
			return false;
	return true;
}

/* ERROR naming the ids that are no letters of the subscription. */
static void
check_ids(const KsSubscription *s, ArrayType *ids)
{
	Oid			types[2] = {INT8OID, INT8ARRAYOID};
	Datum		values[2] = {Int64GetDatum(s->id), PointerGetDatum(ids)};
	KsIdentity	saved;
	char	   *unknown;

	ks_become_superuser(&saved);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT pg_catalog.string_agg(coalesce(i::text, 'NULL'), ', ' ORDER BY i) "
							  "FROM pg_catalog.unnest($2) i WHERE NOT EXISTS "
							  "(SELECT 1 FROM kafka.dead_letter WHERE subscription_id = $1 AND id = i)",
							  2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kafka.dead_letter");
	unknown = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (unknown)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription \"%s\" has no dead letter with id %s", NameStr(s->name), unknown)));
	SPI_finish();
	ks_become_caller(&saved);
}

/* kafka.retry_dead_letters(subscription, ids): marks letters for the worker; returns how many. */
Datum
ks_retry_dead_letters(PG_FUNCTION_ARGS)
{
	char	   *name = ks_name_arg(fcinfo, 0, "subscription");
	KsSubscription *s;
	Oid			types[3] = {INT8OID, INT8ARRAYOID, BOOLOID};
	Datum		values[3];
	char		nulls[3] = {' ', ' ', ' '};
	bool		skip;
	int64		marked;

	ks_shmem_require();
	s = ks_own_subscription(name);
	nulls[1] = PG_ARGISNULL(1) ? 'n' : ' ';
	values[0] = Int64GetDatum(s->id);
	values[1] = PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1);
	skip = all_hold_state(s);
	values[2] = BoolGetDatum(skip);
	if (!PG_ARGISNULL(1))
		check_ids(s, PG_GETARG_ARRAYTYPE_P(1));
	marked = (int64) ks_catalog_execute("UPDATE kafka.dead_letter SET retry = true WHERE subscription_id = $1 "
										"AND ($2 IS NULL OR id = ANY ($2)) AND NOT (superseded AND $3)",
										3, types, values, nulls);
	if (skip)
	{
		uint64		superseded = ks_catalog_execute("SELECT 1 FROM kafka.dead_letter WHERE subscription_id = $1 "
													"AND ($2 IS NULL OR id = ANY ($2)) AND superseded",
													2, types, values, nulls);

		if (superseded > 0)
			ereport(NOTICE,
					(errmsg_plural("%llu dead letter is superseded and not retried",
								   "%llu dead letters are superseded and not retried",
								   (unsigned long) superseded, (unsigned long long) superseded),
					 errdetail("A newer message of the same key has been applied since.")));
	}
	if (marked > 0)
		ks_retry_at_commit(s->id);
	PG_RETURN_INT64(marked);
}

/* See definitions.h. */
void
ks_drop_dead_letters(const KsSubscription *s, Oid target)
{
	Oid			types[2] = {INT8OID, OIDOID};
	Datum		values[2] = {Int64GetDatum(s->id), ObjectIdGetDatum(target)};
	uint64		dropped;

	if (OidIsValid(target))
		(void) ks_catalog_execute("UPDATE kafka.dead_letter SET targets = pg_catalog.array_remove(targets, $2::pg_catalog.regclass), "
								  "targets_anew = pg_catalog.array_remove(targets_anew, $2::pg_catalog.regclass) "
								  "WHERE subscription_id = $1 AND $2::pg_catalog.regclass = ANY (targets || targets_anew)",
								  2, types, values, NULL);
	dropped = ks_catalog_execute("DELETE FROM kafka.dead_letter WHERE subscription_id = $1 "
								 "AND ($2 = 0 OR targets = '{}' AND targets_anew = '{}')", 2, types, values, NULL);
	if (dropped > 0)
		ereport(NOTICE,
				(errmsg_plural("%llu dead letter of subscription \"%s\" was deleted",
							   "%llu dead letters of subscription \"%s\" were deleted",
							   (unsigned long) dropped, (unsigned long long) dropped, NameStr(s->name))));
}
