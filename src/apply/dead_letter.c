/*
 * dead_letter.c: kafka.dead_letter as the worker writes it, and what it keeps of it in memory.
 *
 * An older message must not overwrite a newer one when it is tried again.  So the hashes of the letters' keys are held
 * in memory, and a message that is applied while a letter of its topic and key is there marks that letter in the same
 * transaction.  The table has the last word: it is compared there, byte by byte.
 */
#include "postgres.h"

#include "apply/dead_letter.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat/pg_compat.h"
#include "control/definitions.h"
#include "event/message.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define TEXT_BYTES 8192
#define LETTER_VALUES 17

/* What is kept of one letter. */
typedef struct Letter
{
	int64		id;
	uint64		hash;			/* of topic and key */
	int32		partition;
	int64		offset;
	int64		timestamp_ms;	/* -1 = none */
	char		op;
	bool		gone;			/* marked by the transaction under way */
	struct Letter *next;		/* of the same hash, or of the transaction under way */
} Letter;

typedef struct Entry
{
	uint64		hash;
	Letter	   *first;
} Entry;

/* One of the current transaction's messages, and a letter that it may overtake. */
typedef struct Overtaking
{
	Letter	   *letter;
	const KsMessage *message;
} Overtaking;

/* Of this process's subscription; in TopMemoryContext. */
static struct
{
	MemoryContext context;
	HTAB	   *keys;			/* Entry by hash; the letters that can be overtaken */
	int64		nkeys;
	int64		count;			/* all letters, as last known */
	int64		added;			/* by the transaction under way */
	Letter	   *fresh;			/* by the transaction under way: not in "keys" yet */
	int			noverting;
	int			overtakings_size;
	Overtaking *overtakings;
	bool		marked;
} letters;

/* See dead_letter.h. */
bool
ks_target_holds_state(const KsTarget *target)
{
	return strcmp(target->mode, "upsert") == 0;
}

/* See dead_letter.h. */
Datum
ks_oid_array(const Oid *relids, int count)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		values[i] = ObjectIdGetDatum(relids[i]);
	return PointerGetDatum(construct_array(values, count, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

/* See dead_letter.h. */
Oid *
ks_read_oid_array(Datum array, int *count)
{
	Datum	   *values;
	bool	   *nulls;
	Oid		   *relids;

	deconstruct_array(DatumGetArrayTypeP(array), OIDOID, sizeof(Oid), true, TYPALIGN_INT, &values, &nulls, count);
	relids = palloc(sizeof(Oid) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		relids[i] = nulls[i] ? InvalidOid : DatumGetObjectId(values[i]);
	return relids;
}

/* Can an applied message overtake a letter for these targets? */
static bool
can_be_overtaken(const KsSubscription *s, const Oid *relids, int count)
{
	ListCell   *lc;

	foreach(lc, s->targets)
	{
		KsTarget   *t = lfirst(lc);

		for (int i = 0; i < count; i++)
			if (t->relid == relids[i] && ks_target_holds_state(t))
				return true;
	}
	return false;
}

/* Hash of a topic and a key. */
static uint64
hash_of(const char *topic, const char *key, Size key_size)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) topic, strlen(topic), 0);

	return hash_bytes_extended((const unsigned char *) key, key_size, hash);
}

/* Files a letter under its key. */
static void
file_letter(Letter *letter)
{
	bool		found;
	Entry	   *entry = hash_search(letters.keys, &letter->hash, HASH_ENTER, &found);

	if (found)
		for (const Letter *other = entry->first; other; other = other->next)
			if (other->id == letter->id)
			{
				pfree(letter);
				return;
			}
	letter->next = found ? entry->first : NULL;
	entry->first = letter;
	letters.nkeys++;
}

/* Takes a letter out of the file. */
static void
remove_letter(Letter *letter)
{
	Entry	   *entry = hash_search(letters.keys, &letter->hash, HASH_FIND, NULL);
	Letter	  **link;

	if (entry == NULL)
		return;
	for (link = &entry->first; *link && *link != letter; link = &(*link)->next)
		;
	if (*link == NULL)
		return;
	*link = letter->next;
	letters.nkeys--;
	if (entry->first == NULL)
		(void) hash_search(letters.keys, &letter->hash, HASH_REMOVE, NULL);
	pfree(letter);
}

/* Milliseconds since the Unix epoch of a timestamptz, and back. */
static int64
ms_of_timestamp(TimestampTz t)
{
	return (t + ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * USECS_PER_DAY) / 1000;
}

static TimestampTz
timestamp_of_ms(int64 ms)
{
	return ms * 1000 - ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * USECS_PER_DAY;
}

/* What is in force around our own statements. */
typedef struct Surroundings
{
	KsIdentity	identity;
	int			nest_level;
} Surroundings;

/*
 * Begins to use SPI as the bootstrap superuser.  Code of users may have run in this transaction: the search_path that it
 * left behind must not choose our operators.
 */
static void
connect_as_superuser(Surroundings *saved)
{
	ks_become_superuser(&saved->identity);
	saved->nest_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

/* Ends it. */
static void
disconnect(const Surroundings *saved)
{
	SPI_finish();
	AtEOXact_GUC(false, saved->nest_level);
	ks_become_caller(&saved->identity);
}

/* Runs a statement that is prepared once in a process; returns SPI's code, which is checked for failure. */
static int
run(SPIPlanPtr *plan, const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	int			rc;

	if (*plan == NULL)
	{
		SPIPlanPtr	prepared = SPI_prepare(sql, nargs, types);

		if (prepared == NULL || SPI_keepplan(prepared) != 0)
			elog(ERROR, "could not prepare: %s", sql);
		*plan = prepared;
	}
	rc = SPI_execute_plan(*plan, values, nulls, false, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	return rc;
}

/* Counts the letters of a subscription, up to "most". */
static int64
count_letters(const KsSubscription *s, int64 most)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(s->id), Int64GetDatum(most)};
	bool		isnull;

	(void) run(&plan, "SELECT pg_catalog.count(*) FROM (SELECT FROM kafka.dead_letter WHERE subscription_id = $1 LIMIT $2) l",
			   2, types, values, NULL);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* Value of a column of a row that SPI returned, 0 if null. */
static Datum
column(HeapTuple tuple, TupleDesc desc, int number, bool *isnull)
{
	return SPI_getbinval(tuple, desc, number, isnull);
}

/* See dead_letter.h. */
void
ks_dead_letters_load(const KsSubscription *s)
{
	HASHCTL		control = {.keysize = sizeof(uint64), .entrysize = sizeof(Entry)};
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(s->id)};
	Portal		portal;
	Surroundings saved;

	if (letters.context)
		MemoryContextDelete(letters.context);
	memset(&letters, 0, sizeof(letters));
	letters.context = AllocSetContextCreate(TopMemoryContext, "pg_kafka_sync dead letters", ALLOCSET_DEFAULT_SIZES);
	control.hcxt = letters.context;
	letters.keys = hash_create("pg_kafka_sync dead letters", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	connect_as_superuser(&saved);
	portal = SPI_cursor_open_with_args(NULL, "SELECT id, topic, key, partition, \"offset\", timestamp, op, "
									   "(targets || targets_anew)::pg_catalog.oid[], superseded "
									   "FROM kafka.dead_letter WHERE subscription_id = $1",
									   1, types, values, NULL, true, 0);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, 1000);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			HeapTuple	tuple = SPI_tuptable->vals[i];
			TupleDesc	desc = SPI_tuptable->tupdesc;
			bool		isnull;
			Letter	   *letter;
			Datum		key;
			Datum		value;
			Oid		   *relids;
			int			nrelids;
			bytea	   *bytes;

			letters.count++;
			relids = ks_read_oid_array(column(tuple, desc, 8, &isnull), &nrelids);
			key = column(tuple, desc, 3, &isnull);
			if (isnull || DatumGetBool(column(tuple, desc, 9, &isnull)) || !can_be_overtaken(s, relids, nrelids))
				continue;
			bytes = DatumGetByteaPP(key);
			letter = MemoryContextAllocZero(letters.context, sizeof(Letter));
			letter->id = DatumGetInt64(column(tuple, desc, 1, &isnull));
			letter->hash = hash_of(TextDatumGetCString(column(tuple, desc, 2, &isnull)), VARDATA_ANY(bytes),
								   VARSIZE_ANY_EXHDR(bytes));
			letter->partition = DatumGetInt32(column(tuple, desc, 4, &isnull));
			letter->offset = DatumGetInt64(column(tuple, desc, 5, &isnull));
			value = column(tuple, desc, 6, &isnull);
			letter->timestamp_ms = isnull ? -1 : ms_of_timestamp(DatumGetTimestampTz(value));
			value = column(tuple, desc, 7, &isnull);
			letter->op = isnull ? '\0' : *TextDatumGetCString(value);
			file_letter(letter);
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	disconnect(&saved);
}

/* See dead_letter.h. */
char *
ks_dead_letter_text(const char *text)
{
	int			size = strlen(text);
	char	   *copy;

	if (size > TEXT_BYTES)
		size = pg_mbcliplen(text, size, TEXT_BYTES);
	copy = pnstrdup(text, size);
	/* what a message holds may have got into an error text as it is */
	if (!pg_verifymbstr(copy, size, true))
		for (int i = 0; i < size; i++)
			if (IS_HIGHBIT_SET(copy[i]))
				copy[i] = '?';
	return copy;
}

/* Bytes as a Datum, or null. */
static Datum
bytes_datum(const char *data, Size size, char *null)
{
	bytea	   *result;

	*null = data ? ' ' : 'n';
	if (data == NULL)
		return (Datum) 0;
	result = palloc(size + VARHDRSZ);
	SET_VARSIZE(result, size + VARHDRSZ);
	memcpy(VARDATA(result), data, size);
	return PointerGetDatum(result);
}

/* ERROR if the subscription may have no further letter. */
static void
check_room(const KsSubscription *s, const KsMessage *m, const char *error)
{
	int64		limit = s->options->int_value[KS_OPT_MAX_DEAD_LETTERS];
	int64		known = letters.count + letters.added;

	if (limit == 0)
		limit = KS_DEAD_LETTERS_MAX;
	/* some may have been deleted; with several workers, others may have been added */
	if (known < limit && s->workers == 1)
		return;
	letters.count = count_letters(s, limit) - letters.added;
	if (letters.count + letters.added < limit)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("subscription \"%s\" has " INT64_FORMAT " dead letters, as many as option \"max_dead_letters\" allows",
					NameStr(s->name), limit),
			 errdetail("The next would be topic \"%s\", partition %d, offset " INT64_FORMAT ": %s",
					   m->topic, m->partition, m->offset, error),
			 errhint("Nothing is lost: it goes on from this message. Mend the cause and call kafka.retry_dead_letters(), "
					 "delete letters from kafka.dead_letter, or raise the option.")));
}

/* Adds another attempt to a letter that is there already, as after a seek.  False: there is none. */
static bool
update_letter(Oid *types, Datum *values, const char *nulls)
{
	static SPIPlanPtr plan = NULL;

	(void) run(&plan,
			   "UPDATE kafka.dead_letter SET targets = CASE WHEN $17 THEN targets ELSE targets || "
			   "ARRAY(SELECT n FROM pg_catalog.unnest($16::pg_catalog.regclass[]) n WHERE n <> ALL (targets)) END, "
			   "targets_anew = CASE WHEN $17 THEN targets_anew || "
			   "ARRAY(SELECT n FROM pg_catalog.unnest($16::pg_catalog.regclass[]) n WHERE n <> ALL (targets_anew)) "
			   "ELSE targets_anew END, attempts = attempts + 1, last_attempt_at = pg_catalog.clock_timestamp(), "
			   "stage = $3, sqlstate = $4, error = $5, detail = $6, superseded = false, retry = $15 "
			   "WHERE subscription_id = $1 AND target IS NOT DISTINCT FROM $2::pg_catalog.regclass AND topic = $7 "
			   "AND partition = $8 AND \"offset\" = $9 AND timestamp IS NOT DISTINCT FROM $10 "
			   "AND key IS NOT DISTINCT FROM $11 AND value IS NOT DISTINCT FROM $12 AND headers IS NOT DISTINCT FROM $13 "
			   "AND op IS NOT DISTINCT FROM $14 RETURNING id",
			   LETTER_VALUES, types, values, nulls);
	return SPI_processed > 0;
}

/* See dead_letter.h. */
void
ks_dead_letter_add(const KsSubscription *s, const KsMessage *m, char op, const KsLetterTargets *targets,
				   const char *stage, int sqlstate, const char *error, const char *detail, bool retry)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[LETTER_VALUES] = {INT8OID, OIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, INT8OID, TIMESTAMPTZOID,
	BYTEAOID, BYTEAOID, JSONBOID, TEXTOID, BOOLOID, OIDARRAYOID, BOOLOID};
	char		nulls[LETTER_VALUES];
	Datum		values[LETTER_VALUES];
	Jsonb	   *headers = ks_message_headers(m);
	Surroundings saved;
	bool		known;
	char		operation[2] = {op, '\0'};
	int64		id;
	bool		isnull;

	connect_as_superuser(&saved);
	memset(nulls, ' ', sizeof(nulls));
	values[0] = Int64GetDatum(s->id);
	values[1] = ObjectIdGetDatum(targets->only);
	nulls[1] = OidIsValid(targets->only) ? ' ' : 'n';
	values[2] = CStringGetTextDatum(stage);
	values[3] = CStringGetTextDatum(unpack_sql_state(sqlstate));
	values[4] = CStringGetTextDatum(ks_dead_letter_text(error));
	values[5] = detail ? CStringGetTextDatum(ks_dead_letter_text(detail)) : (Datum) 0;
	nulls[5] = detail ? ' ' : 'n';
	values[6] = CStringGetTextDatum(m->topic);
	values[7] = Int32GetDatum(m->partition);
	values[8] = Int64GetDatum(m->offset);
	values[9] = TimestampTzGetDatum(timestamp_of_ms(m->timestamp_ms));
	nulls[9] = m->timestamp_ms >= 0 ? ' ' : 'n';
	values[10] = bytes_datum(m->key, m->key_size, &nulls[10]);
	values[11] = bytes_datum(m->value, m->value_size, &nulls[11]);
	values[12] = headers ? JsonbPGetDatum(headers) : (Datum) 0;
	nulls[12] = headers ? ' ' : 'n';
	values[13] = CStringGetTextDatum(operation);
	nulls[13] = op ? ' ' : 'n';
	values[14] = BoolGetDatum(retry);
	values[15] = ks_oid_array(targets->relids, targets->count);
	values[16] = BoolGetDatum(targets->anew);

	known = update_letter(types, values, nulls);
	if (!known)
	{
		check_room(s, m, error);
		(void) run(&plan,
				   "INSERT INTO kafka.dead_letter (subscription_id, subscription, owner, target, stage, sqlstate, error, "
				   "detail, topic, partition, \"offset\", timestamp, key, value, headers, op, retry, "
				   "targets, targets_anew) SELECT id, name, owner, $2::pg_catalog.regclass, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, "
				   "CASE WHEN $17 THEN '{}' ELSE $16::pg_catalog.regclass[] END, "
				   "CASE WHEN $17 THEN $16::pg_catalog.regclass[] ELSE '{}' END "
				   "FROM kafka.subscription WHERE id = $1 RETURNING id",
				   LETTER_VALUES, types, values, nulls);
		letters.added++;
	}
	if (SPI_processed > 0 && m->key && can_be_overtaken(s, targets->relids, targets->count))
	{
		Letter	   *letter = MemoryContextAllocZero(letters.context, sizeof(Letter));

		id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		letter->id = id;
		letter->hash = hash_of(m->topic, m->key, m->key_size);
		letter->partition = m->partition;
		letter->offset = m->offset;
		letter->timestamp_ms = m->timestamp_ms;
		letter->op = op;
		letter->next = letters.fresh;
		letters.fresh = letter;
	}
	disconnect(&saved);
}

/*
 * Is a message newer than a letter of its key?  Within a partition the offset tells (it may be an older one that is read
 * again); between partitions, as after their number has grown, the timestamp.  The tombstone that Debezium sends after a
 * delete says nothing that this delete does not.
 */
static bool
is_newer(const KsMessage *message, const KsParsed *parsed, const Letter *letter)
{
	if (parsed->tombstone && letter->op == 'd')
		return false;
	if (message->partition == letter->partition)
		return message->offset > letter->offset;
	return message->timestamp_ms >= letter->timestamp_ms;
}

/* See dead_letter.h. */
void
ks_dead_letters_overtake(const KsMessage *message, const KsParsed *parsed)
{
	uint64		hash;
	Entry	   *entry;

	if (letters.nkeys == 0 || message->key == NULL)
		return;
	hash = hash_of(message->topic, message->key, message->key_size);
	entry = hash_search(letters.keys, &hash, HASH_FIND, NULL);
	if (entry == NULL)
		return;
	for (Letter *letter = entry->first; letter; letter = letter->next)
	{
		if (letter->gone || !is_newer(message, parsed, letter))
			continue;
		if (letters.noverting == letters.overtakings_size)
		{
			letters.overtakings_size = Max(64, letters.overtakings_size * 2);
			letters.overtakings = letters.overtakings ?
				repalloc(letters.overtakings, sizeof(Overtaking) * letters.overtakings_size) :
				MemoryContextAlloc(letters.context, sizeof(Overtaking) * letters.overtakings_size);
		}
		letters.overtakings[letters.noverting].letter = letter;
		letters.overtakings[letters.noverting++].message = message;
		letter->gone = true;
	}
}

/* See dead_letter.h. */
void
ks_dead_letters_mark(const KsSubscription *s)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[3] = {INT8OID, INT8ARRAYOID, BYTEAARRAYOID};
	Datum		values[3];
	Datum	   *ids;
	Datum	   *keys;
	Surroundings saved;
	char		null;

	if (letters.noverting == 0)
		return;
	connect_as_superuser(&saved);
	ids = palloc(sizeof(Datum) * letters.noverting);
	keys = palloc(sizeof(Datum) * letters.noverting);
	for (int i = 0; i < letters.noverting; i++)
	{
		const KsMessage *m = letters.overtakings[i].message;

		ids[i] = Int64GetDatum(letters.overtakings[i].letter->id);
		keys[i] = bytes_datum(m->key, m->key_size, &null);
	}
	values[0] = Int64GetDatum(s->id);
	values[1] = PointerGetDatum(construct_array(ids, letters.noverting, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[2] = PointerGetDatum(construct_array(keys, letters.noverting, BYTEAOID, -1, false, TYPALIGN_INT));
	(void) run(&plan, "UPDATE kafka.dead_letter d SET superseded = true "
			   "FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS v(id, key) "
			   "WHERE d.id = v.id AND d.subscription_id = $1 AND d.key = v.key AND NOT d.superseded",
			   3, types, values, NULL);
	disconnect(&saved);
}

/* See dead_letter.h. */
void
ks_dead_letters_overtaken_by(const KsSubscription *s, const KsMessage *m)
{
	Oid			types[5] = {INT8OID, TEXTOID, INT4OID, INT8OID, BYTEAOID};
	Datum		values[5];
	char		null;

	if (m->key == NULL)
		return;
	values[0] = Int64GetDatum(s->id);
	values[1] = CStringGetTextDatum(m->topic);
	values[2] = Int32GetDatum(m->partition);
	values[3] = Int64GetDatum(m->offset);
	values[4] = bytes_datum(m->key, m->key_size, &null);
	(void) ks_catalog_execute("UPDATE kafka.dead_letter SET superseded = true WHERE subscription_id = $1 AND topic = $2 "
							  "AND partition = $3 AND \"offset\" < $4 AND pg_catalog.sha256(key) = pg_catalog.sha256($5) "
							  "AND key = $5 AND NOT superseded", 5, types, values, NULL);
}

/* Deletes letters that stand for no target any more. */
static void
delete_settled(const KsSubscription *s)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(s->id)};

	(void) ks_catalog_execute("DELETE FROM kafka.dead_letter WHERE subscription_id = $1 AND targets = '{}' AND targets_anew = '{}'",
							  1, types, values, NULL);
}

/* See dead_letter.h. */
void
ks_dead_letters_begin_rebuild(const KsSubscription *s)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(s->id)};

	(void) ks_catalog_execute("UPDATE kafka.dead_letter SET targets_anew = '{}' WHERE subscription_id = $1 AND targets_anew <> '{}'",
							  1, types, values, NULL);
	delete_settled(s);
}

/* See dead_letter.h. */
void
ks_dead_letters_end_rebuild(const KsSubscription *s, int64 id)
{
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(s->id), Int64GetDatum(id)};

	(void) ks_catalog_execute("UPDATE kafka.dead_letter d SET targets = pg_catalog.array_remove(d.targets, b.target) "
							  "FROM kafka.rebuild_position p, kafka.subscription_rebuild b "
							  "WHERE d.subscription_id = $1 AND p.subscription_id = $1 AND b.id = $2 "
							  "AND d.topic = p.topic AND d.partition = p.partition "
							  "AND d.\"offset\" >= p.start_offset AND d.\"offset\" < p.next_offset "
							  "AND b.target = ANY (d.targets)", 2, types, values, NULL);
	(void) ks_catalog_execute("UPDATE kafka.dead_letter d SET targets_anew = pg_catalog.array_remove(d.targets_anew, b.target), "
							  "targets = pg_catalog.array_append(pg_catalog.array_remove(d.targets, b.target), b.target) "
							  "FROM kafka.subscription_rebuild b WHERE d.subscription_id = $1 AND b.id = $2 "
							  "AND b.target = ANY (d.targets_anew)", 2, types, values, NULL);
	delete_settled(s);
}

/* See dead_letter.h. */
void
ks_dead_letters_finish(bool committed)
{
	Letter	   *letter = letters.fresh;

	/* where the table did not agree, its letter is another one's or gone: there is nothing to wait for either */
	for (int i = 0; i < letters.noverting; i++)
	{
		letters.overtakings[i].letter->gone = false;
		if (committed)
			remove_letter(letters.overtakings[i].letter);
	}
	letters.noverting = 0;
	letters.fresh = NULL;
	while (letter)
	{
		Letter	   *next = letter->next;

		if (committed)
			file_letter(letter);
		else
			pfree(letter);
		letter = next;
	}
	if (committed)
		letters.count += letters.added;
	letters.added = 0;
}
