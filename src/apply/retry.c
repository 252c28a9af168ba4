/*
 * retry.c: dead letters that somebody wants to be applied after all.
 *
 * They go the way that every message goes: same origin, same rights, same writers.  Each has a transaction of its own, in
 * which its row is locked: so it is applied and deleted, or neither, and nobody changes it meanwhile.  A letter that a
 * newer message of its key has overtaken is not applied to targets that hold the latest state of a key.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply_internal.h"
#include "apply/dead_letter.h"
#include "apply/evolve.h"
#include "apply/sink.h"
#include "catalog/pg_type.h"
#include "control/definitions.h"
#include "control/worker.h"
#include "event/message.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define AT_A_TIME 200

/* The targets that messages are applied to now, as oid[].  Others may be being read again. */
static Datum
live_targets(const KsApply *a)
{
	Oid		   *relids = palloc(sizeof(Oid) * Max(a->nwriters, 1));

	for (int i = 0; i < a->nwriters; i++)
		relids[i] = a->writers[i]->table->target->relid;
	return ks_oid_array(relids, a->nwriters);
}

/*
 * Reads ids of letters that wait to be retried into ids; returns their number.  Those that are left to targets which are
 * being read again wait for the end of that.
 */
static int
read_ids(KsApply *a, int64 *ids)
{
	Oid			types[3] = {INT8OID, INT8OID, OIDARRAYOID};
	Datum		values[3];
	int			n;
	bool		isnull;

	ks_apply_begin();
	values[0] = Int64GetDatum(a->subscription->id);
	values[1] = Int64GetDatum(AT_A_TIME);
	values[2] = live_targets(a);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT id FROM kafka.dead_letter d WHERE subscription_id = $1 AND retry "
							  "AND (targets && $3::pg_catalog.regclass[] OR NOT EXISTS (SELECT FROM kafka.subscription_rebuild b "
							  "WHERE b.subscription_id = $1 AND b.target = ANY (d.targets || d.targets_anew))) "
							  "ORDER BY id LIMIT $2", 3, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kafka.dead_letter");
	n = (int) SPI_processed;
	for (int i = 0; i < n; i++)
		ids[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	ks_apply_commit();
	return n;
}

/* KsMessage.find_header for a letter, whose headers are jsonb: the last one of the name. */
static const char *
find_header(const KsMessage *message, const char *name, size_t *size)
{
	Jsonb	   *headers = (Jsonb *) message->headers_of;
	const char *found = NULL;

	*size = 0;
	for (uint32 i = 0; headers && JB_ROOT_IS_ARRAY(headers) && !JB_ROOT_IS_SCALAR(headers) && i < JB_ROOT_COUNT(headers); i++)
	{
		JsonbValue *pair = getIthJsonbValueFromContainer(&headers->root, i);
		JsonbValue *key;
		JsonbValue *value;
		JsonbValue	base64;

		if (pair->type != jbvBinary || !JsonContainerIsArray(pair->val.binary.data) ||
			JsonContainerSize(pair->val.binary.data) != 2)
			continue;
		key = getIthJsonbValueFromContainer(pair->val.binary.data, 0);
		value = getIthJsonbValueFromContainer(pair->val.binary.data, 1);
		if (key->type != jbvString || key->val.string.len != strlen(name) ||
			memcmp(key->val.string.val, name, strlen(name)) != 0)
			continue;
		found = NULL;
		if (value->type == jbvString)
		{
			found = pnstrdup(value->val.string.val, value->val.string.len);
			found = pg_server_to_any(found, strlen(found), PG_UTF8);
			*size = strlen(found);
		}
		else if (value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data) &&
				 getKeyJsonValueFromContainer(value->val.binary.data, "base64", 6, &base64) && base64.type == jbvString)
		{
			bytea	   *bytes = DatumGetByteaPP(DirectFunctionCall2(binary_decode,
																	PointerGetDatum(cstring_to_text_with_len(base64.val.string.val,
																											 base64.val.string.len)),
																	CStringGetTextDatum("base64")));

			found = VARDATA_ANY(bytes);
			*size = VARSIZE_ANY_EXHDR(bytes);
		}
	}
	return found;
}

/* Bytes of a column, NULL if null. */
static const char *
read_bytes(HeapTuple tuple, TupleDesc desc, int number, size_t *size)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, number, &isnull);
	bytea	   *bytes;

	*size = 0;
	if (isnull)
		return NULL;
	bytes = DatumGetByteaP(value);
	*size = VARSIZE(bytes) - VARHDRSZ;
	return VARDATA(bytes);
}

/*
 * Locks a letter and makes a message of it, in the current transaction's memory.  False: it is gone, or is not to be
 * retried any more.
 */
static bool
lock_letter(KsApply *a, int64 id, KsMessage *m, Oid **targets, int *ntargets, bool *superseded)
{
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(a->subscription->id), Int64GetDatum(id)};
	MemoryContext transaction = CurrentMemoryContext;
	MemoryContext spi;
	HeapTuple	tuple;
	TupleDesc	desc;
	Datum		value;
	bool		isnull;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT topic, partition, \"offset\", "
							  "(extract(epoch FROM timestamp) * 1000)::pg_catalog.int8, key, value, headers, targets::pg_catalog.oid[], "
							  "superseded FROM kafka.dead_letter WHERE subscription_id = $1 AND id = $2 AND retry FOR UPDATE",
							  2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kafka.dead_letter");
	if (SPI_processed == 0)
	{
		SPI_finish();
		return false;
	}
	spi = MemoryContextSwitchTo(transaction);
	desc = CreateTupleDescCopy(SPI_tuptable->tupdesc);
	tuple = heap_copytuple(SPI_tuptable->vals[0]);
	memset(m, 0, sizeof(KsMessage));
	m->topic = TextDatumGetCString(SPI_getbinval(tuple, desc, 1, &isnull));
	m->partition = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &isnull));
	m->offset = DatumGetInt64(SPI_getbinval(tuple, desc, 3, &isnull));
	value = SPI_getbinval(tuple, desc, 4, &isnull);
	m->timestamp_ms = isnull ? -1 : DatumGetInt64(value);
	m->key = read_bytes(tuple, desc, 5, &m->key_size);
	m->value = read_bytes(tuple, desc, 6, &m->value_size);
	value = SPI_getbinval(tuple, desc, 7, &isnull);
	m->headers_of = isnull ? NULL : DatumGetJsonbP(value);
	m->find_header = find_header;
	m->modes = ks_message_modes(a->subscription->options);
	if (m->value)
	{
		m->json_null = find_header(m, KS_HEADER_JSON_NULL, &m->json_null_size);
		m->unchanged = find_header(m, KS_HEADER_UNCHANGED, &m->unchanged_size);
	}
	*targets = ks_read_oid_array(SPI_getbinval(tuple, desc, 8, &isnull), ntargets);
	*superseded = DatumGetBool(SPI_getbinval(tuple, desc, 9, &isnull));
	MemoryContextSwitchTo(spi);
	SPI_finish();
	return true;
}

/* Has the writers that the letter is for write it; ERROR if its targets are none of the subscription's any more. */
static void
choose_writers(KsApply *a, const Oid *targets, int ntargets, bool superseded)
{
	bool		found = false;

	a->nactive = 0;
	for (int i = 0; i < a->nwriters; i++)
	{
		const KsTarget *t = a->writers[i]->table->target;
		bool		meant = false;

		for (int n = 0; n < ntargets; n++)
			meant = meant || targets[n] == t->relid;
		if (!meant)
			continue;
		found = true;
		if (!superseded || !ks_target_holds_state(t))
			a->active[a->nactive++] = a->writers[i];
	}
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the subscription does not write to the letter's target any more")));
}

/* Does one of the active writers' targets hold the latest state of a key? */
static bool
some_hold_state(const KsApply *a)
{
	for (int i = 0; i < a->nactive; i++)
		if (ks_target_holds_state(a->active[i]->table->target))
			return true;
	return false;
}

/* A letter was applied: it is gone, unless targets are left that were not at hand. */
static void
settle_letter(const KsApply *a, int64 id)
{
	Oid			types[2] = {INT8OID, OIDARRAYOID};
	Datum		values[2] = {Int64GetDatum(id), live_targets(a)};

	(void) ks_catalog_execute("UPDATE kafka.dead_letter d SET targets = ARRAY(SELECT t FROM pg_catalog.unnest(d.targets) t "
							  "WHERE t <> ALL ($2::pg_catalog.regclass[]) AND EXISTS (SELECT FROM kafka.subscription_target s "
							  "WHERE s.subscription_id = d.subscription_id AND s.target = t)) WHERE id = $1",
							  2, types, values, NULL);
	(void) ks_catalog_execute("DELETE FROM kafka.dead_letter WHERE id = $1 AND targets = '{}' AND targets_anew = '{}'",
							  1, types, values, NULL);
}

/* A letter is left as it is. */
static void
leave_letter(int64 id)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(id)};

	(void) ks_catalog_execute("UPDATE kafka.dead_letter SET retry = false WHERE id = $1", 1, types, values, NULL);
}

/* Where a letter's message was; it outlives the attempt. */
typedef struct Place
{
	char		topic[256];		/* "": not known */
	int32		partition;
	int64		offset;
} Place;

/* One attempt; returns the error, in a->context, everything rolled back, or NULL. */
static ErrorData *
attempt_letter(KsApply *a, int64 id, Place *place)
{
	ErrorData  *volatile error = NULL;
	MemoryContext old = CurrentMemoryContext;

	a->opening = false;
	a->skipping = 0;
	a->run.current = -1;
	a->at = NULL;
	a->run.stage = "parse";
	a->run.retrying = true;
	place->topic[0] = '\0';
	a->run.letter = id;
	a->run.unreachable = false;
	a->nopen = 0;
	PG_TRY();
	{
		KsMessage	message;
		Oid		   *targets;
		int			ntargets;
		bool		superseded;

		ks_apply_begin();
		ks_subscription_lock(a->subscription->id, false);
		if (ks_subscription_version(a->subscription->id) == a->subscription->version &&
			lock_letter(a, id, &message, &targets, &ntargets, &superseded))
		{
			strlcpy(place->topic, message.topic, sizeof(place->topic));
			place->partition = message.partition;
			place->offset = message.offset;
			choose_writers(a, targets, ntargets, superseded);
			if (a->nactive > 0)
			{
				ks_apply_write(a, &message, 1);
				if (some_hold_state(a))
					ks_dead_letters_overtaken_by(a->subscription, &message);
				settle_letter(a, id);
				/* the other side remembers the last letter only: none may come back after the next one was retried */
				for (int i = 0; i < a->nwriters; i++)
					if (a->writers[i]->table->progress)
						ForceSyncCommit();
			}
			else
				leave_letter(id);
		}
		ks_apply_commit_sinks(a);
		ks_apply_commit();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		error = ks_apply_caught(a);
		ks_apply_abandon(a);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	a->run.retrying = false;
	a->run.letter = 0;
	ks_dead_letters_finish(error == NULL);
	if (error == NULL)
		a->skipped_truncates += a->skipping;
	return error;
}

/*
 * The targets whose other side has a letter, though we do not know of it since the attempt failed after they had committed;
 * returns their number.
 */
static int
given_targets(KsApply *a, int64 id, Place *place, Oid *relids)
{
	KsMessage	message = {0};
	int			n = 0;

	if (place->topic[0] == '\0')
		return 0;
	message.topic = place->topic;
	message.partition = place->partition;
	message.offset = place->offset;
	a->run.messages = &message;
	a->run.nmessages = 1;
	a->run.letter = id;
	for (int i = 0; i < a->nwriters; i++)
		if (ks_sink_has(a->writers[i]->table, &a->run, 0))
			relids[n++] = a->writers[i]->table->target->relid;
	a->run.letter = 0;
	a->run.messages = NULL;
	a->run.nmessages = 0;
	return n;
}

/* Takes targets that have a letter off it: their other side remembers the last letter only. */
static void
note_given(KsApply *a, int64 id, Place *place)
{
	MemoryContext old = CurrentMemoryContext;
	Oid			types[2] = {INT8OID, OIDARRAYOID};
	Oid		   *relids = palloc(sizeof(Oid) * Max(a->nwriters, 1));
	int			n = given_targets(a, id, place, relids);
	Datum		values[2];

	if (n == 0)
		return;
	ks_apply_begin();
	values[0] = Int64GetDatum(id);
	values[1] = ks_oid_array(relids, n);
	(void) ks_catalog_execute("UPDATE kafka.dead_letter d SET targets = ARRAY(SELECT t FROM pg_catalog.unnest(d.targets) t "
							  "WHERE t <> ALL ($2::pg_catalog.regclass[])) WHERE id = $1", 2, types, values, NULL);
	ForceSyncCommit();
	ks_apply_commit();
	MemoryContextSwitchTo(old);
}

/* Notes the error of an attempt in the letter. */
static void
note_failure(KsApply *a, int64 id, const ErrorData *e)
{
	MemoryContext old = CurrentMemoryContext;
	Oid			types[5] = {INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	char		nulls[5] = {' ', ' ', ' ', ' ', ' '};
	Datum		values[5];

	ks_apply_begin();
	values[0] = Int64GetDatum(id);
	values[1] = CStringGetTextDatum(a->run.stage);
	values[2] = CStringGetTextDatum(unpack_sql_state(e->sqlerrcode));
	values[3] = CStringGetTextDatum(ks_dead_letter_text(ks_error_cause(a, e)));
	values[4] = e->detail ? CStringGetTextDatum(ks_dead_letter_text(e->detail)) : (Datum) 0;
	nulls[4] = e->detail ? ' ' : 'n';
	(void) ks_catalog_execute("UPDATE kafka.dead_letter SET retry = false, attempts = attempts + 1, "
							  "last_attempt_at = pg_catalog.clock_timestamp(), stage = $2, sqlstate = $3, error = $4, "
							  "detail = $5 WHERE id = $1", 5, types, values, nulls);
	ks_apply_commit();
	MemoryContextSwitchTo(old);
}

/* See apply.h. */
KsRetryResult
ks_apply_retry(KsApply *a)
{
	MemoryContext old = CurrentMemoryContext;
	int64		ids[AT_A_TIME];
	int			n = read_ids(a, ids);

	MemoryContextSwitchTo(old);
	for (int i = 0; i < n; i++)
	{
		ErrorData  *error;
		bool		moved;
		Place		place;

		MemoryContextReset(a->context);
		if (ks_evolution_waits(a->run.evolution))
			return KS_RETRY_WAIT;
		while ((error = attempt_letter(a, ids[i], &place)) != NULL && ks_evolution_pending(a->run.evolution))
		{
			error = ks_evolve(a, &moved);
			if (moved)
				return KS_RETRY_WAIT;
			if (error)
				break;
		}
		if (error == NULL && a->run.evolution)
			ks_evolution_succeeded(a->run.evolution);
		if (error)
			note_given(a, ids[i], &place);
		if (error && ks_is_transient(error) && ++a->letter_retries <= KS_MAX_RETRIES)
			return KS_RETRY_WAIT;
		if (error && a->run.unreachable)
			return KS_RETRY_WAIT;
		a->letter_retries = 0;
		if (error && (a->opening || ks_is_general(error)))
			ks_rethrow(error);
		if (error)
			note_failure(a, ids[i], error);
		CHECK_FOR_INTERRUPTS();
	}
	if (n > 0)
		pgstat_report_stat(false);
	return n == AT_A_TIME ? KS_RETRY_MORE : KS_RETRY_DONE;
}
