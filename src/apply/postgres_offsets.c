/*
 * postgres_offsets.c: the next offsets of a subscription's partitions in a table beside the target, written in the
 * transaction of the rows.
 *
 * A transaction locks its partitions' rows before it writes anything.  So one that a former worker left behind, whose
 * COMMIT may still be on its way, is waited for before it is decided what the other side has.
 *
 * A server that takes the place of another, a standby for one, may lack the last transactions that were confirmed.  What
 * this process has seen committed is compared with what a new connection finds.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "apply/postgres_sink.h"
#include "apply/progress.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#define KEY "system_identifier = $1 AND database_oid = $2 AND subscription_id = $3 AND target = $4"

/* Appends an element to the text of an array. */
static void
append_element(StringInfo array, const char *text)
{
	appendStringInfoChar(array, array->len == 0 ? '{' : ',');
	appendStringInfoChar(array, '"');
	for (const char *c = text; *c; c++)
	{
		if (*c == '"' || *c == '\\')
			appendStringInfoChar(array, '\\');
		appendStringInfoChar(array, *c);
	}
	appendStringInfoChar(array, '"');
}

/* Parameters: the key's columns, then arrays of topic, partition, generation, next offset. */
typedef struct Rows
{
	char	   *key[4];
	int			count;
	StringInfoData columns[4];
} Rows;

static void
begin_rows(Rows *r, KsPostgresSink *s)
{
	r->key[0] = psprintf(INT64_FORMAT, (int64) GetSystemIdentifier());
	r->key[1] = psprintf("%u", MyDatabaseId);
	r->key[2] = psprintf(INT64_FORMAT, s->remote->subscription_id);
	r->key[3] = psprintf("%u", s->target->target->relid);
	r->count = 0;
	for (int i = 0; i < lengthof(r->columns); i++)
		initStringInfo(&r->columns[i]);
}

static void
add_row(Rows *r, const char *topic, int32 partition, int64 generation, int64 next)
{
	append_element(&r->columns[0], topic);
	append_element(&r->columns[1], psprintf("%d", partition));
	append_element(&r->columns[2], psprintf(INT64_FORMAT, generation));
	append_element(&r->columns[3], psprintf(INT64_FORMAT, next));
	r->count++;
}

/* Runs a statement with the key and the first n of the columns. */
static PGresult *
run(KsPostgresSink *s, Rows *r, const char *sql, int n)
{
	const char *values[8];

	for (int i = 0; i < 4; i++)
		values[i] = r->key[i];
	for (int i = 0; i < n; i++)
	{
		appendStringInfoString(&r->columns[i], r->columns[i].len == 0 ? "{}" : "}");
		values[4 + i] = r->columns[i].data;
	}
	return ks_remote_execute(s->remote, psprintf(sql, s->offsets), 4 + n, NULL, values, NULL, NULL);
}

/* See postgres_sink.h. */
void
ks_postgres_create_offsets(KsPostgresSink *s)
{
	const char *values[1] = {s->offsets};
	PGresult   *result = ks_remote_execute(s->remote, "SELECT pg_catalog.to_regclass($1)", 1, NULL, values, NULL, NULL);

	if (!PQgetisnull(result, 0, 0))
		return;
	(void) ks_remote_command(s->remote,
							 psprintf("CREATE TABLE IF NOT EXISTS %s (system_identifier bigint, database_oid bigint, "
									  "subscription_id bigint, target bigint, topic text, partition integer, "
									  "generation bigint NOT NULL, next_offset bigint NOT NULL, "
									  "PRIMARY KEY (system_identifier, database_oid, subscription_id, target, topic, partition)) "
									  "WITH (fillfactor = 50)", s->offsets));
}

/* See postgres_sink.h. */
void
ks_postgres_load_offsets(KsPostgresSink *s, KsRun *run_)
{
	KsProgress *p = s->target->progress;
	Rows		r;
	PGresult   *result;
	const char *topic = NULL;
	int32		partition = 0;

	/* the partitions of the run; a probe has none */
	ks_progress_reset(p);
	begin_rows(&r, s);
	for (int i = 0; i < run_->nmessages; i++)
	{
		const KsMessage *m = &run_->messages[i];
		int32		number = run_->letter != 0 ? KS_LETTERS_OF(m->partition) : m->partition;

		if (topic && number == partition && strcmp(m->topic, topic) == 0)
			continue;
		topic = m->topic;
		partition = number;
		if (!ks_progress_known(p, topic, partition))
		{
			ks_progress_set(p, topic, partition, 0, 0);
			add_row(&r, topic, partition, 0, 0);
		}
	}
	p->stale = false;
	if (r.count == 0)
		return;
	(void) run(s, &r, "INSERT INTO %s (system_identifier, database_oid, subscription_id, target, topic, partition, generation, "
			   "next_offset) SELECT $1::bigint, $2::bigint, $3::bigint, $4::bigint, n.topic, n.partition, n.generation, n.next "
			   "FROM unnest($5::text[], $6::integer[], $7::bigint[], $8::bigint[]) n (topic, partition, generation, next) "
			   "ORDER BY n.topic, n.partition ON CONFLICT DO NOTHING", 4);
	begin_rows(&r, s);
	for (int i = 0; i < p->count; i++)
		add_row(&r, p->items[i].topic, p->items[i].partition, 0, 0);
	result = run(s, &r, "SELECT o.topic, o.partition, o.generation, o.next_offset FROM %s o WHERE " KEY
				 " AND (o.topic, o.partition) IN (SELECT n.topic, n.partition "
				 "FROM unnest($5::text[], $6::integer[]) n (topic, partition)) ORDER BY o.topic, o.partition FOR UPDATE", 2);
	for (int row = 0; row < PQntuples(result); row++)
		ks_progress_set(p, PQgetvalue(result, row, 0), atoi(PQgetvalue(result, row, 1)),
						strtoll(PQgetvalue(result, row, 2), NULL, 10), strtoll(PQgetvalue(result, row, 3), NULL, 10));
	ks_progress_settle(p);
}

/* See postgres_sink.h. */
void
ks_postgres_store_offsets(KsPostgresSink *s, KsRun *run_)
{
	KsProgress *p = s->target->progress;
	Rows		r;

	ks_sink_advance(s->target, run_);
	begin_rows(&r, s);
	for (int i = 0; i < p->count; i++)
		if (p->items[i].changed)
			add_row(&r, p->items[i].topic, p->items[i].partition, p->items[i].generation, p->items[i].next);
	if (r.count == 0)
		return;
	(void) run(s, &r, "UPDATE %s o SET generation = n.generation, next_offset = n.next "
			   "FROM unnest($5::text[], $6::integer[], $7::bigint[], $8::bigint[]) n (topic, partition, generation, next) "
			   "WHERE " KEY " AND o.topic = n.topic AND o.partition = n.partition", 4);
}

/* See postgres_sink.h. */
void
ks_postgres_confirm_offsets(KsPostgresSink *s)
{
	KsProgress *p = s->target->progress;

	for (int i = 0; i < p->count; i++)
		if (p->items[i].changed && p->items[i].partition >= 0)
			ks_progress_set(s->confirmed, p->items[i].topic, p->items[i].partition, p->items[i].generation, p->items[i].next);
}

/* Appends, for a seek, from where on the other side lacks what it had confirmed of the partitions of a topic. */
static void
append_lost(StringInfo lost, const KsProgress *p, const PGresult *result, const char *topic)
{
	bool		any = false;

	for (int row = 0; row < PQntuples(result); row++)
		for (int i = 0; i < p->count; i++)
		{
			const KsProgressItem *item = &p->items[i];
			int64		next = strtoll(PQgetvalue(result, row, 3), NULL, 10);

			if (strcmp(item->topic, topic) != 0 || strcmp(PQgetvalue(result, row, 0), topic) != 0 ||
				atoi(PQgetvalue(result, row, 1)) != item->partition ||
				strtoll(PQgetvalue(result, row, 2), NULL, 10) != item->generation || next >= item->next)
				continue;
			if (any)
				appendStringInfoString(lost, ", ");
			else
				appendStringInfo(lost, "%s\"%s\": {", lost->len > 0 ? ", " : "", topic);
			any = true;
			appendStringInfo(lost, "\"%d\": " INT64_FORMAT, (int) item->partition, next);
		}
	if (any)
		appendStringInfoChar(lost, '}');
}

/* See postgres_sink.h.  All partitions, those of the run or not: who seeks back starts another process, which knows of none. */
void
ks_postgres_check_offsets(KsPostgresSink *s, KsRun *run_)
{
	KsProgress *p = s->confirmed;
	StringInfoData lost;
	PGresult   *result;
	Rows		r;

	if (p->count == 0)
		return;
	initStringInfo(&lost);
	begin_rows(&r, s);
	result = run(s, &r, "SELECT topic, partition, generation, next_offset FROM %s WHERE " KEY " AND partition >= 0 "
				 "ORDER BY topic, partition", 0);
	for (int row = 0; row < PQntuples(result); row++)
		if (row == 0 || strcmp(PQgetvalue(result, row, 0), PQgetvalue(result, row - 1, 0)) != 0)
			append_lost(&lost, p, result, PQgetvalue(result, row, 0));
	if (lost.len == 0)
		return;
	/* no message is at fault, and the process that knows of it must stay */
	run_->unreachable = true;
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("server \"%s\" has lost what it had confirmed, as a standby has that was behind when it was promoted",
					s->remote->server),
			 errdetail("Write it again with kafka.seek_subscription(%s, %s).",
					   quote_literal_cstr(s->target->subscription), quote_literal_cstr(psprintf("{%s}", lost.data)))));
}
