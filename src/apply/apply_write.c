/*
 * apply_write.c: one attempt's way into the targets, inside a transaction that apply.c begins and ends: their tables and
 * other sides are opened, messages are read once and handed to all writers, which write; what is apart from the
 * transaction commits last.
 *
 * Rows are read and written as their table's owner, in a security-restricted operation.  Nothing of it may be left to the
 * end of the transaction, which is ours again: deferrable constraints are checked with the batch.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply_internal.h"
#include "apply/dead_letter.h"
#include "apply/evolve.h"
#include "apply/sink.h"
#include "commands/trigger.h"
#include "control/worker.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"

/* Becomes the owner of a writer's table, for code of users that may run meanwhile. */
static void
become_owner(const KsWriter *w, int context)
{
	SetUserIdAndSecContext(w->table->owner, context | SECURITY_RESTRICTED_OPERATION);
}

/* Raises a parser's cause, if there is one. */
static void
check_parsed(const char *cause)
{
	if (cause)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("%s", cause)));
}

/*
 * Parses messages, and hands each row of each to all writers that are active.  state: some target that these messages go
 * to, or went to before, holds the latest state of a key.
 */
static void
read_messages(KsApply *a, const KsMessage *messages, int count, bool state, int context)
{
	uint32		rows = 0;

	for (int i = 0; i < count; i++)
	{
		a->run.current = i;
		a->run.stage = "parse";
		a->parsed.op = '\0';
		a->placed = false;
		a->run.duplicate = a->dedupes && !a->run.retrying && a->positions.repeated(a->positions.arg, a->run.from + i);
		a->placed = a->dedupes && !a->run.retrying;
		a->parser_ops->reset(a->parser);
		check_parsed(a->parser_ops->parse(a->parser, &messages[i], &a->parsed));
		if (a->parsed.ignore || a->parsed.op == 'm')
			continue;
		/* the place of a truncate among the rows of its own partition is known, that among those of others is not */
		if (a->parsed.op == 't' && a->run.partitions > 1)
		{
			a->skipping++;
			continue;
		}
		for (;;)
		{
			a->run.stage = "convert";
			a->run.row++;
			for (int w = 0; w < a->nactive; w++)
			{
				a->at = a->active[w];
				if (a->nactive > 1)
					become_owner(a->active[w], context);
				a->active[w]->ops->add(a->active[w], &messages[i], &a->parsed);
				if (a->nactive > 1 && a->active[w]->table->runs_code)
					ks_run_settle(&a->run);
			}
			a->at = NULL;
			if ((++rows & 1023) == 0)
				CHECK_FOR_INTERRUPTS();
			if (!a->parsed.more)
				break;
			a->run.stage = "parse";
			check_parsed(a->parser_ops->next(a->parser, &a->parsed));
		}
		if (state)
			ks_dead_letters_overtake(&messages[i], &a->parsed);
	}
	a->run.current = -1;
}

/* Opens the active writers' tables and sinks in the current transaction. */
static void
open_writers(KsApply *a)
{
	a->opening = true;
	for (int i = 0; i < a->nactive; i++)
	{
		KsTargetTable *t = a->active[i]->table;

		a->at = a->active[i];
		a->active[i]->ops->open(a->active[i]);
		if (t->sink->open)
			t->sink->open(t, &a->run);
	}
	a->nopen = a->nactive;
	a->at = NULL;
	a->opening = false;
}

/*
 * Leaves out the writers whose other side has the first message already, since it committed and we did not; sets a->count,
 * for how many messages, from the first on, the same holds.
 */
static void
leave_out(KsApply *a)
{
	int			n = 0;

	for (int w = 0; w < a->nactive; w++)
	{
		KsWriter   *writer = a->active[w];
		KsTargetTable *t = writer->table;
		bool		has = ks_sink_has(t, &a->run, 0);
		int			same = 1;

		while (t->progress && same < a->count && ks_sink_has(t, &a->run, same) == has)
			same++;
		if (t->progress)
			a->count = same;
		if (has)
		{
			writer->ops->close(writer);
			writer->ops->abandon(writer);
		}
		else
			a->active[n++] = writer;
	}
	a->nactive = a->nopen = n;
	a->run.nmessages = a->count;
}

/* See apply_internal.h. */
void
ks_apply_write(KsApply *a, const KsMessage *messages, int count)
{
	static ConstraintsSetStmt all_immediate = {.type = T_ConstraintsSetStmt};
	Oid			save_user;
	int			save_context;
	bool		state = false;

	if (a->run.evolution)
		ks_evolution_begin(a->run.evolution);
	a->count = a->run.nmessages = count;
	a->run.messages = messages;
	open_writers(a);
	for (int i = 0; i < a->nactive; i++)
		state = state || ks_target_holds_state(a->active[i]->table->target);
	leave_out(a);
	count = a->count;
	AfterTriggerSetState(&all_immediate);
	GetUserIdAndSecContext(&save_user, &save_context);
	if (a->nactive > 0)
		become_owner(a->active[0], save_context);
	a->run.nest_level = NewGUCNestLevel();

	for (int i = 0; i < a->nactive; i++)
		a->active[i]->ops->begin(a->active[i], count);
	read_messages(a, messages, count, state, save_context);
	ks_run_settle(&a->run);
	ks_dead_letters_mark(a->subscription);
	for (int i = 0; i < a->nactive; i++)
	{
		become_owner(a->active[i], save_context);
		a->run.stage = a->active[i]->table->target->query ? "query" : "apply";
		a->at = a->active[i];
		a->active[i]->ops->write(a->active[i]);
		ks_run_settle(&a->run);
		a->at = NULL;
		a->run.current = -1;
	}

	AtEOXact_GUC(false, a->run.nest_level);
	SetUserIdAndSecContext(save_user, save_context);
	for (int i = 0; i < a->nactive; i++)
		a->active[i]->ops->close(a->active[i]);
}

/* See apply_internal.h. */
void
ks_apply_commit_sinks(KsApply *a)
{
	a->run.current = -1;
	for (int i = 0; i < a->nopen; i++)
	{
		KsTargetTable *t = a->active[i]->table;

		a->at = a->active[i];
		if (t->sink->commit)
			t->sink->commit(t, &a->run);
	}
	a->at = NULL;
}

/* See apply_internal.h. */
void
ks_apply_abandon(KsApply *a)
{
	for (int i = 0; i < a->nwriters; i++)
		a->writers[i]->ops->abandon(a->writers[i]);
	a->nopen = 0;
}

/* See apply_internal.h. */
void
ks_apply_note_trouble(KsApply *a, const ErrorData *e)
{
	char	   *text = e->detail ? psprintf("%s: %s", e->message, e->detail) : e->message;

	strlcpy(a->trouble, text, sizeof(a->trouble));
	a->outages++;
	ks_worker_note_error(text);
}

/* See apply_internal.h. */
void
ks_apply_clear_trouble(KsApply *a)
{
	a->trouble[0] = '\0';
	a->outages = 0;
}

/* See apply.h. */
void
ks_apply_probe(KsApply *a)
{
	ErrorData  *volatile error = NULL;
	MemoryContext old = CurrentMemoryContext;

	a->nactive = 0;
	for (int i = 0; i < a->nwriters; i++)
		if (a->writers[i]->table->sink->open)
			a->active[a->nactive++] = a->writers[i];
	if (a->nactive == 0)
		return;
	a->run.unreachable = false;
	a->run.messages = NULL;
	a->run.nmessages = 0;
	MemoryContextReset(a->context);
	PG_TRY();
	{
		ks_apply_begin();
		open_writers(a);
		AbortCurrentTransaction();
	}
	PG_CATCH();
	{
		error = ks_apply_caught(a);
	}
	PG_END_TRY();
	ks_apply_abandon(a);
	MemoryContextSwitchTo(old);
	if (error == NULL)
		ks_apply_clear_trouble(a);
	else if (a->run.unreachable)
		ks_apply_note_trouble(a, error);
	else
		ks_rethrow(error);
}
