/*
 * set_aside.c: the message that failed, standing alone, goes to kafka.dead_letter or to a topic.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply_internal.h"
#include "apply/dead_letter.h"
#include "apply/sink.h"
#include "control/xact.h"
#include "event/message.h"
#include "kafka/properties.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* See apply_internal.h. */
int
ks_letter_targets(const KsApply *a, Oid *relids)
{
	int			n = 0;

	for (int i = 0; i < a->nwriters; i++)
	{
		const KsTarget *t = a->writers[i]->table->target;

		if (a->run.duplicate && !ks_target_holds_state(t))
			continue;
		if (ks_sink_has(a->writers[i]->table, &a->run, 0))
			continue;
		if (relids)
			relids[n] = t->relid;
		n++;
	}
	return n;
}

/* See apply_internal.h. */
void
ks_letter_add(KsApply *a, const KsMessage *m, const ErrorData *e)
{
	Oid		   *relids = palloc(sizeof(Oid) * Max(a->nwriters, 1));
	KsLetterTargets targets = {a->target, ks_letter_targets(a, relids), relids, a->run.rebuilding};
	bool		parsed = strcmp(a->run.stage, "parse") != 0;
	/* the row it refers to may come with the rest of what is at hand: one more attempt after that */
	bool		retry = e->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION;

	if (a->subscription->options->text_value[KS_OPT_DLQ_TOPIC] || targets.count == 0)
		return;
	/* what the other side remembers is the last message it has: the letter of one before it must not be lost */
	for (int i = 0; i < a->nwriters; i++)
		if (a->writers[i]->table->progress)
			ForceSyncCommit();
	ks_dead_letter_add(a->subscription, m, parsed ? a->parsed.op : '\0', &targets, a->run.stage, e->sqlerrcode,
					   ks_error_cause(a, e), e->detail, retry);
	if (retry)
		ks_retry_at_commit(a->subscription->id);
}

/* The words of Kafka Connect for a stage. */
static const char *
connect_stage(const char *stage)
{
	if (strcmp(stage, "parse") == 0 || strcmp(stage, "convert") == 0)
		return "VALUE_CONVERTER";
	return strcmp(stage, "query") == 0 ? "TRANSFORMATION" : "TASK_PUT";
}

/* A header for a text in UTF-8. */
static KsHeader
text_header(const char *name, const char *text)
{
	KsHeader	header;

	header.name = name;
	header.value = pg_server_to_any(text, strlen(text), PG_UTF8);
	header.size = strlen(header.value);
	return header;
}

/* See apply_internal.h. */
ErrorData *
ks_letter_send(KsApply *a, const KsMessage *m, const char *topic, const ErrorData *e, bool *moved)
{
	const KsSubscription *s = a->subscription;
	ErrorData  *volatile error = NULL;
	MemoryContext old = MemoryContextSwitchTo(a->context);

	PG_TRY();
	{
		KsHeader	headers[9];
		int			n = 0;
		KsServer   *server;

		StartTransactionCommand();
		MemoryContextSwitchTo(a->context);
		PushActiveSnapshot(GetTransactionSnapshot());
		server = ks_server_open(NameStr(s->server), s->owner);
		*moved = !ks_apply_definition_holds(s);
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(a->context);
		if (s->options->bool_value[KS_OPT_DLQ_HEADERS])
		{
			headers[n++] = text_header("__connect.errors.topic", m->topic);
			headers[n++] = text_header("__connect.errors.partition", psprintf("%d", m->partition));
			headers[n++] = text_header("__connect.errors.offset", psprintf(INT64_FORMAT, m->offset));
			headers[n++] = text_header("__connect.errors.connector.name", NameStr(s->name));
			headers[n++] = text_header("__connect.errors.task.id", "0");
			headers[n++] = text_header("__connect.errors.stage", connect_stage(a->run.stage));
			headers[n++] = text_header("__connect.errors.class.name", "pg_kafka_sync");
			headers[n++] = text_header("__connect.errors.exception.class.name", unpack_sql_state(e->sqlerrcode));
			headers[n++] = text_header("__connect.errors.exception.message", ks_dead_letter_text(ks_error_cause(a, e)));
		}
		if (!*moved)
			ks_message_send(server, s->owner, topic, m, headers, n);
	}
	PG_CATCH();
	{
		error = ks_apply_caught(a);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return error;
}
