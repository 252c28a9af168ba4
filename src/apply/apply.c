/*
 * apply.c: transactions: messages and offsets together, and what to do when one fails.
 *
 * An attempt that fails is rolled back whole and made again with fewer messages, until those before the one at fault are
 * committed and it stands alone.  Nothing is lost by that: messages stay in memory until their transaction committed.
 * Rows are read and written as the table's owner, in a security-restricted operation.  Nothing of it may be left to the
 * end of the transaction, which is ours again: deferrable constraints are checked with the batch.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply.h"
#include "apply/local_sink.h"
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

/* Writes under the subscription's replication origin from now on, so that publishers can tell. */
static void
setup_origin(const KsSubscription *s)
{
	char		name[NAMEDATALEN];
	RepOriginId origin;

	ks_origin_name(name, MyDatabaseId, s->id);
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
ks_apply_create(const KsSubscription *subscription, KsPositions positions)
{
	KsApply    *a = palloc0(sizeof(KsApply));
	MemoryContext old = CurrentMemoryContext;

	a->subscription = subscription;
	a->positions = positions;
	a->limit = PG_INT32_MAX;
	a->context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync apply", ALLOCSET_SMALL_SIZES);
	a->target = ks_target_create(subscription, linitial(subscription->targets));
	a->batch = ks_batch_create(a->target, subscription);
	setup_origin(subscription);

	/* what is wrong with the target is told at once, not with the first message */
	begin();
	ks_target_open(a->target);
	ks_target_close(a->target);
	commit();
	MemoryContextSwitchTo(old);
	return a;
}

/* Reads and writes the rows of messages in the current transaction, as the table's owner. */
static void
write_rows(KsApply *a, const KsMessage *messages, int count)
{
	static ConstraintsSetStmt all_immediate = {.type = T_ConstraintsSetStmt};
	KsTargetTable *t = a->target;
	Oid			save_user;
	int			save_context;
	int			nest_level;

	a->opening = true;
	ks_target_open(t);
	a->opening = false;
	AfterTriggerSetState(&all_immediate);
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(t->owner, save_context | SECURITY_RESTRICTED_OPERATION);
	nest_level = NewGUCNestLevel();

	ks_batch_build(a->batch, messages, count);
	ks_local_apply(a->batch);
	a->batch->current = -1;

	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(save_user, save_context);
	ks_target_close(t);
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
	a->batch->current = -1;
	PG_TRY();
	{
		begin();
		ks_subscription_lock(a->subscription->id, false);
		if (count > 0)
			write_rows(a, messages + from, count);
		a->batch->current = -1;
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
		a->target->rel = NULL;
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
	int			culprit = a->batch->current;

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
			a->skipped_truncates += a->batch->skipped_truncates;
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
