/*
 * apply.c: transactions: messages and offsets together, and what to do when one fails.
 *
 * An attempt that fails is rolled back whole and made again with fewer messages, until those before the one at fault are
 * committed and it stands alone.  Nothing is lost by that: messages stay in memory until their transaction committed.
 * Rows are read and written as their table's owner, in a security-restricted operation.  Nothing of it may be left to the
 * end of the transaction, which is ours again: deferrable constraints are checked with the batch.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply.h"
#include "commands/trigger.h"
#include "compat/executor_compat.h"
#include "control/definitions.h"
#include "control/worker.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/origin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define MAX_RETRIES 20

/* See apply.h.  Publishers can tell by the origin what we wrote. */
void
ks_apply_setup_origin(const KsSubscription *s)
{
	char		name[NAMEDATALEN];
	RepOriginId origin;

	ks_origin_name(name, MyDatabaseId, s->id, ks_my_worker->ordinal);
	StartTransactionCommand();
	origin = replorigin_by_name(name, true);
	if (origin == InvalidRepOriginId)
		origin = replorigin_create(name);
	ks_replorigin_session_setup(origin);
	replorigin_session_origin = origin;
	CommitTransactionCommand();
}

/* Begins a transaction for applying. */
static void
begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/* Commits it, under our origin. */
static void
commit(void)
{
	PopActiveSnapshot();
	replorigin_session_origin_lsn = InvalidXLogRecPtr;
	replorigin_session_origin_timestamp = 0;
	CommitTransactionCommand();
}

/* See apply.h. */
KsApply *
ks_apply_create(const KsSubscription *subscription, const KsApplyTarget *targets, int ntargets, KsPositions positions)
{
	KsApply    *a = palloc0(sizeof(KsApply));
	MemoryContext old = CurrentMemoryContext;

	a->subscription = subscription;
	a->run.subscription = subscription;
	a->run.current = -1;
	a->positions = positions;
	a->limit = PG_INT32_MAX;
	a->context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync apply", ALLOCSET_SMALL_SIZES);
	a->parser_ops = ks_parser_ops(subscription->format);
	if (a->parser_ops == NULL)
		elog(ERROR, "no parser of format %s", subscription->format);
	a->parser = a->parser_ops->create();
	if (a->parser == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	a->writers = palloc(sizeof(KsWriter *) * ntargets);
	for (int i = 0; i < ntargets; i++)
		a->writers[a->nwriters++] = ks_writer_create(&a->run, targets[i].target, targets[i].relid);

	/* what is wrong with a target is told at once, not with the first message */
	begin();
	for (int i = 0; i < a->nwriters; i++)
	{
		a->writers[i]->ops->open(a->writers[i]);
		a->writers[i]->ops->close(a->writers[i]);
	}
	commit();
	MemoryContextSwitchTo(old);
	return a;
}

/* See apply.h. */
int
ks_apply_limit(const KsApply *a, int wanted)
{
	/* together they may take what one of them may */
	for (int i = 0; i < a->nwriters; i++)
		wanted = Min(wanted, Max(1, a->writers[i]->ops->limit(a->writers[i], wanted * a->nwriters) / a->nwriters));
	return wanted;
}

/* Becomes the owner of a writer's table, for code of users that may run meanwhile. */
static void
become_owner(const KsWriter *w, int context)
{
	SetUserIdAndSecContext(w->table->owner, context | SECURITY_RESTRICTED_OPERATION);
}

/* Parses messages, and hands each to all writers. */
static void
read_messages(KsApply *a, const KsMessage *messages, int count, int context)
{
	for (int i = 0; i < count; i++)
	{
		const char *cause;

		a->run.current = i;
		a->parser_ops->reset(a->parser);
		cause = a->parser_ops->parse(a->parser, &messages[i], &a->parsed);
		if (cause)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
					 errmsg("%s", cause)));
		if (a->parsed.ignore || a->parsed.op == 'm')
			continue;
		/* the place of a truncate among the rows of its own partition is known, that among those of others is not */
		if (a->parsed.op == 't' && a->run.partitions > 1)
		{
			a->skipping++;
			continue;
		}
		for (int w = 0; w < a->nwriters; w++)
		{
			if (a->nwriters > 1)
				become_owner(a->writers[w], context);
			a->writers[w]->ops->add(a->writers[w], &messages[i], &a->parsed);
		}
		if ((i & 1023) == 1023)
			CHECK_FOR_INTERRUPTS();
	}
	a->run.current = -1;
}

/* Reads and writes the rows of messages in the current transaction, each table's as its owner. */
static void
write_rows(KsApply *a, const KsMessage *messages, int count)
{
	static ConstraintsSetStmt all_immediate = {.type = T_ConstraintsSetStmt};
	Oid			save_user;
	int			save_context;
	int			nest_level;

	a->opening = true;
	for (int i = 0; i < a->nwriters; i++)
		a->writers[i]->ops->open(a->writers[i]);
	a->opening = false;
	AfterTriggerSetState(&all_immediate);
	GetUserIdAndSecContext(&save_user, &save_context);
	become_owner(a->writers[0], save_context);
	nest_level = NewGUCNestLevel();

	for (int i = 0; i < a->nwriters; i++)
		a->writers[i]->ops->begin(a->writers[i], count);
	read_messages(a, messages, count, save_context);
	for (int i = 0; i < a->nwriters; i++)
	{
		become_owner(a->writers[i], save_context);
		a->writers[i]->ops->write(a->writers[i]);
		a->run.current = -1;
	}

	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(save_user, save_context);
	for (int i = 0; i < a->nwriters; i++)
		a->writers[i]->ops->close(a->writers[i]);
}

/*
 * One attempt.  Returns NULL when it committed, else the error, in a->context, everything rolled back.  *moved: the
 * positions are not ours to move any more (rolled back, too).
 */
static ErrorData *
attempt(KsApply *a, const KsMessage *messages, int from, int count, bool all, bool *moved)
{
	ErrorData  *volatile error = NULL;
	MemoryContext old = CurrentMemoryContext;
	bool		ours;

	*moved = false;
	a->opening = false;
	a->skipping = 0;
	a->run.current = -1;
	PG_TRY();
	{
		begin();
		ks_subscription_lock(a->subscription->id, false);
		if (count > 0 && a->nwriters > 0)
			write_rows(a, messages + from, count);
		a->positions.stage(a->positions.arg, from, count, all);
		ours = a->positions.write(a->positions.arg);
		if (ours)
			commit();
		else
		{
			AbortCurrentTransaction();
			*moved = true;
		}
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(a->context);
		error = CopyErrorData();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		for (int i = 0; i < a->nwriters; i++)
			a->writers[i]->ops->abandon(a->writers[i]);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	a->positions.finish(a->positions.arg, error == NULL && !*moved);
	return error;
}

/* Others were in the way: the same again may succeed. */
static bool
is_transient(const ErrorData *e)
{
	return e->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		e->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		e->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
}

/* The server, and no message, is at fault. */
static bool
is_general(const ErrorData *e)
{
	int			category = ERRCODE_TO_CATEGORY(e->sqlerrcode);

	return category == ERRCODE_INSUFFICIENT_RESOURCES || category == ERRCODE_OPERATOR_INTERVENTION ||
		category == ERRCODE_SYSTEM_ERROR || category == ERRCODE_CONNECTION_EXCEPTION ||
		category == ERRCODE_CONFIG_FILE_ERROR;
}

/* Ends with the error of a message that cannot be applied. */
static void
fail(KsApply *a, const KsMessage *m, ErrorData *e)
{
	char	   *cause = e->message;
	char	   *skip = psprintf("{\"%s\":{\"%d\":" INT64_FORMAT "}}", m->topic, m->partition, m->offset + 1);
	char	   *hint;

	if (e->column_name && strstr(e->message, psprintf("\"%s\"", e->column_name)) == NULL)
		cause = psprintf("column \"%s\": %s", e->column_name, e->message);
	hint = psprintf("%s%sMend the cause and the subscription goes on, or skip the message with "
					"kafka.seek_subscription(%s, %s).",
					e->hint ? e->hint : "", e->hint ? " " : "", quote_literal_cstr(NameStr(a->subscription->name)),
					quote_literal_cstr(skip));
	ereport(ERROR,
			(errcode(e->sqlerrcode),
			 errmsg("subscription \"%s\": message at topic \"%s\", partition %d, offset " INT64_FORMAT " cannot be applied: %s",
					NameStr(a->subscription->name), m->topic, m->partition, m->offset, cause),
			 e->detail ? errdetail("%s", e->detail) : 0,
			 errhint("%s", hint),
			 e->context ? errcontext("%s", e->context) : 0));
}

/* Raises an error that concerns no single message again. */
static void
rethrow(ErrorData *e)
{
	ereport(ERROR,
			(errcode(e->sqlerrcode),
			 errmsg("%s", e->message),
			 e->detail ? errdetail("%s", e->detail) : 0,
			 e->hint ? errhint("%s", e->hint) : 0,
			 e->context ? errcontext("%s", e->context) : 0));
}

/* A message that refers to a row which is not there: how long has it waited, and may it go on? */
static bool
may_wait(KsApply *a)
{
	TimestampTz now = GetCurrentTimestamp();

	if (a->waiting_since == 0)
		a->waiting_since = now;
	return !TimestampDifferenceExceeds(a->waiting_since, now, a->subscription->options->int_value[KS_OPT_FK_WAIT]);
}

/*
 * After a failed attempt with "count" messages: fewer next time, or wait, or give up.  Returns true to try again at once.
 */
static bool
after_failure(KsApply *a, const KsMessage *m, int count, ErrorData *e)
{
	int			culprit = a->run.current;

	if (is_transient(e))
	{
		if (++a->retries > MAX_RETRIES)
			rethrow(e);
		return false;
	}
	/* two writers of the same key: the row is there now */
	if (e->sqlerrcode == ERRCODE_UNIQUE_VIOLATION && a->retries == 0)
	{
		a->retries++;
		return true;
	}
	if (count == 0 || a->opening || is_general(e))
		rethrow(e);
	if (count > 1)
	{
		if (culprit > 0 && culprit < count)
			a->limit = culprit;
		else
			a->limit = culprit == 0 ? 1 : count / 2;
		return true;
	}
	a->limit = PG_INT32_MAX;
	/* the row it refers to may come by another way, or later in this very batch: next time, all of it */
	if (e->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION && may_wait(a))
		return false;
	fail(a, m, e);
	return false;
}

/* See apply.h. */
KsApplyResult
ks_apply(KsApply *a, const KsMessage *messages, int count, int *done)
{
	MemoryContextReset(a->context);
	*done = 0;
	do
	{
		int			n = Min(count - *done, a->limit);
		bool		moved;
		ErrorData  *error = attempt(a, messages, *done, n, *done + n == count, &moved);

		if (moved)
			return KS_APPLY_MOVED;
		if (error == NULL)
		{
			a->skipped_truncates += a->skipping;
			*done += n;
			a->waiting_since = 0;
			a->retries = 0;
			/* a little more at a time, and in the end as much as there is */
			a->limit = a->limit > PG_INT32_MAX / 4 ? PG_INT32_MAX : a->limit * 4;
		}
		else if (!after_failure(a, messages + *done, n, error))
			return KS_APPLY_WAIT;
		CHECK_FOR_INTERRUPTS();
	} while (*done < count);
	pgstat_report_stat(false);
	return KS_APPLY_DONE;
}
