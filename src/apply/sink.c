/*
 * sink.c: which sink a relation needs, and what sinks share.
 */
#include "postgres.h"

#include "apply/progress.h"
#include "apply/sink.h"
#include "fdw/topic_sink.h"

/* See sink.h. */
const KsSinkOps *
ks_sink_for(Oid relid)
{
	switch (ks_table_kind(relid))
	{
		case KS_TABLE_LOCAL:
			return &ks_local_sink;
		case KS_TABLE_POSTGRES:
			return &ks_postgres_sink;
		case KS_TABLE_KAFKA:
			return &ks_topic_sink;
		case KS_TABLE_GENERIC:
			return &ks_foreign_sink;
	}
	return NULL;
}

/* Number by which the offsets of a message's partition are told from those of other times. */
static int64
generation_of(const KsRun *run, int i)
{
	return run->positions->generation(run->positions->arg, run->from + i);
}

/* See sink.h. */
void
ks_sink_advance(KsTargetTable *t, KsRun *run)
{
	if (run->letter != 0)
		ks_progress_set_letter(t->progress, &run->messages[0], run->letter);
	else
		for (int i = 0; i < run->nmessages; i++)
			ks_progress_set(t->progress, run->messages[i].topic, run->messages[i].partition, generation_of(run, i),
							run->messages[i].offset + 1);
}

/* See sink.h. */
bool
ks_sink_has(KsTargetTable *t, const KsRun *run, int i)
{
	/* stale: it may be what was tried, and not what is there */
	if (t->progress == NULL || t->progress->stale)
		return false;
	if (run->letter != 0)
		return ks_progress_has_letter(t->progress, &run->messages[i], run->letter);
	return ks_progress_has(t->progress, &run->messages[i], generation_of(run, i));
}

/* See existing_keys.h. */
void
ks_existing_keys(KsTargetTable *t, const int *attributes, int n, Datum **parts, int count, KsKeyFound found, void *arg)
{
	if (count > 0)
		t->sink->existing_keys(t, attributes, n, parts, count, found, arg);
}
