/*
 * publisher_catalog.c: catalog rows of a publisher's worker; see publisher_catalog.h.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "produce/publisher_catalog.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* Begins a transaction with SPI. */
static void
begin(void)
{
	StartTransactionCommand();
	/* what is stored here must not be lost in a crash, whatever the server's default is */
	(void) set_config_option("synchronous_commit", "local", PGC_SUSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

/* Commits it; leaves the memory context as it was before begin(). */
static void
end(MemoryContext context)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

/* Runs a statement whose first argument is the publisher's id. */
static void
execute(const char *sql, int64 id, int nargs, const Oid *more_types, const Datum *more_values)
{
	Oid			types[4] = {INT8OID};
	Datum		values[4];

	Assert(nargs <= 3);
	values[0] = Int64GetDatum(id);
	for (int i = 0; i < nargs; i++)
	{
		types[i + 1] = more_types[i];
		values[i + 1] = more_values[i];
	}
	if (SPI_execute_with_args(sql, nargs + 1, types, values, NULL, false, 0) < 0)
		elog(ERROR, "SPI_execute failed: %s", sql);
}

/* One column of a row of the last result; NULL if null. */
static char *
field(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

KsPublisher *
ks_load_publisher(int64 id, MemoryContext context)
{
	MemoryContext old = CurrentMemoryContext;
	KsPublisher *publisher;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	publisher = OidIsValid(ks_catalog_relid("publisher")) ? ks_publisher_by_id(id) : NULL;
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	return publisher;
}

void
ks_store_floor(int64 id, uint64 floor)
{
	MemoryContext old = CurrentMemoryContext;
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum((int64) floor)};

	begin();
	execute("DELETE FROM kafka.publisher_snapshot WHERE publisher_id = $1", id, 0, NULL, NULL);
	execute("UPDATE kafka.publisher SET snapshot_floor = $2, snapshot_state = 'running' WHERE id = $1",
			id, 1, types, values);
	end(old);
}

void
ks_store_snapshot_done(int64 id)
{
	MemoryContext old = CurrentMemoryContext;

	begin();
	execute("UPDATE kafka.publisher SET snapshot_state = 'done' WHERE id = $1", id, 0, NULL, NULL);
	end(old);
}

bool
ks_store_table_snapshot(int64 id, Oid relid)
{
	MemoryContext old = CurrentMemoryContext;
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(relid)};
	bool		done = false;

	begin();
	execute("SELECT state FROM kafka.publisher_snapshot WHERE publisher_id = $1 AND relation = $2", id, 1, types, values);
	if (SPI_processed > 0)
		done = strcmp(field(0, 1), "done") == 0;
	else
		execute("INSERT INTO kafka.publisher_snapshot (publisher_id, relation, snapshot, state) "
				"VALUES ($1, $2, pg_catalog.pg_current_snapshot(), 'running')", id, 1, types, values);
	end(old);
	return done;
}

void
ks_store_table_done(int64 id, Oid relid, uint64 rows)
{
	MemoryContext old = CurrentMemoryContext;
	Oid			types[2] = {OIDOID, INT8OID};
	Datum		values[2] = {ObjectIdGetDatum(relid), Int64GetDatum((int64) rows)};

	begin();
	execute("UPDATE kafka.publisher_snapshot SET state = 'done', rows = $3 WHERE publisher_id = $1 AND relation = $2",
			id, 2, types, values);
	end(old);
}

/* Parses the text form of a pg_snapshot, xmin:xmax:xip,xip... */
static void
parse_snapshot(const char *text, KsTableSnapshot *snapshot)
{
	char	   *at;
	int			capacity = 0;

	snapshot->xmin = strtou64(text, &at, 10);
	snapshot->xmax = strtou64(at + 1, &at, 10);
	while (*at != '\0' && at[1] != '\0')
	{
		if (snapshot->nxip == capacity)
		{
			capacity = capacity ? capacity * 2 : 16;
			snapshot->xip = snapshot->xip ? repalloc(snapshot->xip, sizeof(uint64) * capacity) :
				palloc(sizeof(uint64) * capacity);
		}
		snapshot->xip[snapshot->nxip++] = strtou64(at + 1, &at, 10);
	}
}

void
ks_load_table_snapshots(int64 id, KsSource *source)
{
	MemoryContext old = CurrentMemoryContext;

	begin();
	execute("SELECT relation::pg_catalog.oid, snapshot FROM kafka.publisher_snapshot WHERE publisher_id = $1 ORDER BY 1",
			id, 0, NULL, NULL);
	MemoryContextSwitchTo(source->context);
	source->nsnapshots = (int) SPI_processed;
	source->snapshots = palloc0(sizeof(KsTableSnapshot) * Max(source->nsnapshots, 1));
	for (int i = 0; i < source->nsnapshots; i++)
	{
		source->snapshots[i].relid = (Oid) strtoul(field(i, 1), NULL, 10);
		parse_snapshot(field(i, 2), &source->snapshots[i]);
	}
	end(old);
}

KsPinnedTopic *
ks_load_pinned(int64 id, MemoryContext context, int *count)
{
	MemoryContext old = CurrentMemoryContext;
	KsPinnedTopic *result;

	begin();
	execute("SELECT topic, partitions FROM kafka.publisher_topic WHERE publisher_id = $1", id, 0, NULL, NULL);
	*count = (int) SPI_processed;
	result = MemoryContextAlloc(context, sizeof(KsPinnedTopic) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
	{
		result[i].topic = MemoryContextStrdup(context, field(i, 1));
		result[i].partitions = atoi(field(i, 2));
	}
	end(old);
	return result;
}

void
ks_store_pinned(int64 id, const KsPinnedTopic *topics, int count)
{
	MemoryContext old = CurrentMemoryContext;

	begin();
	for (int i = 0; i < count; i++)
	{
		Oid			types[2] = {TEXTOID, INT4OID};
		Datum		values[2] = {CStringGetTextDatum(topics[i].topic), Int32GetDatum(topics[i].partitions)};

		execute("INSERT INTO kafka.publisher_topic (publisher_id, topic, partitions) VALUES ($1, $2, $3) "
				"ON CONFLICT DO NOTHING", id, 2, types, values);
	}
	end(old);
}
