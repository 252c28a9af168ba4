/*
 * apply.c: transactions: messages and offsets together, and what to do when one fails.
 *
 * An attempt that fails is rolled back whole and made again with fewer messages, until those before the one at fault are
 * committed and it stands alone.  Nothing is lost by that: messages stay in memory until their transaction committed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply_internal.h"
#include "apply/dead_letter.h"
#include "apply/evolve.h"
#include "apply/format_options.h"
#include "apply/sink.h"
#include "catalog/pg_type.h"
#include "compat/executor_compat.h"
#include "control/definitions.h"
#include "control/worker.h"
#include "control/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/origin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define LOCK_WAIT "3s"
#define RUN_AFTER_FAULT 32		/* messages tried at least after one was set aside */

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

/*
 * See apply_internal.h.  Waits for locks have an end, so that nobody who wants to pause or alter the subscription waits
 * for long behind somebody who has locked the target.
 */
void
ks_apply_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) set_config_option("lock_timeout", LOCK_WAIT, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
}

/* See apply_internal.h. */
void
ks_apply_commit(void)
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
	a->run.positions = &a->positions;
	a->limit = PG_INT32_MAX;
	a->context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync apply", ALLOCSET_SMALL_SIZES);
	a->run.stage = "parse";
	if (subscription->options->bool_value[KS_OPT_EVOLVE])
		a->run.evolution = ks_evolution_create();
	a->parser_ops = ks_parser_ops(subscription->format);
	if (a->parser_ops == NULL)
		elog(ERROR, "no parser of format %s", subscription->format);
	for (int i = 0; i < ntargets; i++)
		a->dedupes = a->dedupes || strcmp(targets[i].target->mode, "upsert") != 0 ||
			strcmp(subscription->options->text_value[KS_OPT_CONFLICT], "keep") == 0;
	a->dedupes = a->dedupes && strcmp(subscription->options->text_value[KS_OPT_DEDUPE], "on") == 0;
	a->writers = palloc(sizeof(KsWriter *) * ntargets);
	a->active = palloc(sizeof(KsWriter *) * ntargets);
	if (ntargets == 1 && list_length(subscription->targets) > 1)
		a->target = targets[0].target->relid;
	for (int i = 0; i < ntargets; i++)
		a->writers[a->nwriters++] = ks_writer_create(&a->run, targets[i].target, targets[i].relid);

	/* what is wrong with options or a target is told at once, not with the first message */
	ks_apply_begin();
	ks_dead_letters_load(subscription);
	a->parser = ks_parser_create(a->parser_ops, subscription->options);
	for (int i = 0; i < a->nwriters; i++)
	{
		a->writers[i]->ops->open(a->writers[i]);
		a->writers[i]->ops->close(a->writers[i]);
	}
	ks_apply_commit();
	MemoryContextSwitchTo(old);
	ks_apply_probe(a);
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

/* See apply_internal.h. */
bool
ks_apply_definition_holds(const KsSubscription *s)
{
	return ks_subscription_version(s->id) == s->version;
}

/*
 * One attempt: applies messages, or (letter) sets the only one aside for that error, and moves past them.  Returns NULL
 * when it committed, else the error, in a->context, everything rolled back.  *moved: the positions are not ours to move
 * any more, or the definition has changed (rolled back, too).
 */
static ErrorData *
attempt(KsApply *a, const KsMessage *messages, int from, int count, bool all, const ErrorData *letter, bool *moved)
{
	ErrorData  *volatile error = NULL;
	MemoryContext old = CurrentMemoryContext;
	bool		ours;

	*moved = false;
	a->opening = false;
	a->skipping = 0;
	a->nopen = 0;
	a->count = count;
	a->run.from = from;
	a->run.messages = messages + from;
	a->run.nmessages = count;
	a->run.unreachable = false;
	a->run.dropped = 0;
	memset(a->run.conflicts, 0, sizeof(a->run.conflicts));
	a->run.current = -1;
	if (letter == NULL)
	{
		a->at = NULL;
		a->placed = false;
		a->run.duplicate = false;
	}
	a->nactive = a->nwriters;
	memcpy(a->active, a->writers, sizeof(KsWriter *) * a->nwriters);
	PG_TRY();
	{
		ks_apply_begin();
		ks_subscription_lock(a->subscription->id, false);
		/* once a change of the definition has committed, nothing is applied by the former one */
		ours = ks_apply_definition_holds(a->subscription);
		if (ours && letter)
		{
			/* what comes again of a message that was set aside is a repeat, too; its header was read before */
			a->run.duplicate = a->placed && a->positions.repeated(a->positions.arg, from);
			ks_letter_add(a, messages + from, letter);
		}
		else if (ours && count > 0 && a->nwriters > 0)
			ks_apply_write(a, messages + from, count);
		if (ours)
		{
			a->positions.stage(a->positions.arg, from, a->count, all && a->count == count);
			ours = a->positions.write(a->positions.arg);
		}
		if (ours)
		{
			ks_apply_commit_sinks(a);
			ks_apply_commit();
		}
		else
		{
			AbortCurrentTransaction();
			ks_apply_abandon(a);
			*moved = true;
		}
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
	ks_dead_letters_finish(error == NULL && !*moved);
	a->positions.finish(a->positions.arg, error == NULL && !*moved);
	return error;
}

/* See apply_internal.h. */
ErrorData *
ks_apply_caught(KsApply *a)
{
	ErrorData  *error;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(a->context);
	error = CopyErrorData();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	RESUME_INTERRUPTS();
	return error;
}

/* See apply_internal.h. */
bool
ks_is_transient(const ErrorData *e)
{
	return e->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		e->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		e->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
}

/* See apply_internal.h. */
bool
ks_is_general(const ErrorData *e)
{
	int			category = ERRCODE_TO_CATEGORY(e->sqlerrcode);

	return category == ERRCODE_INSUFFICIENT_RESOURCES || category == ERRCODE_OPERATOR_INTERVENTION ||
		category == ERRCODE_SYSTEM_ERROR || category == ERRCODE_CONNECTION_EXCEPTION ||
		category == ERRCODE_CONFIG_FILE_ERROR || category == ERRCODE_INTERNAL_ERROR ||
		category == ERRCODE_INVALID_TRANSACTION_STATE;
}

/*
 * Does an error that a message met tell of what is set up wrongly, rather than of the message?  A right that is missing
 * does, and so does a table, column or function that is missing when rows are written: a trigger's or query's.
 */
static bool
is_set_up_wrongly(const KsApply *a, const ErrorData *e)
{
	return e->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE ||
		(ERRCODE_TO_CATEGORY(e->sqlerrcode) == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION &&
		 strcmp(a->run.stage, "parse") != 0 && strcmp(a->run.stage, "convert") != 0);
}

/* See apply_internal.h. */
char *
ks_error_cause(const KsApply *a, const ErrorData *e)
{
	char	   *cause = e->message;

	if (e->column_name && strstr(cause, psprintf("\"%s\"", e->column_name)) == NULL)
		cause = psprintf("column \"%s\": %s", e->column_name, cause);
	if (a->at && a->nwriters > 1)
		cause = psprintf("target %s: %s", a->at->table->qualified, cause);
	return cause;
}

/* Ends with the error of a message that cannot be applied. */
static void
fail(KsApply *a, const KsMessage *m, ErrorData *e)
{
	char	   *skip = psprintf("{\"%s\":{\"%d\":" INT64_FORMAT "}}", m->topic, m->partition, m->offset + 1);
	char	   *hint;

	hint = psprintf("%s%sMend the cause and the subscription goes on, or skip the message with "
					"kafka.seek_subscription(%s, %s).",
					e->hint ? e->hint : "", e->hint ? " " : "", quote_literal_cstr(NameStr(a->subscription->name)),
					quote_literal_cstr(skip));
	ereport(ERROR,
			(errcode(e->sqlerrcode),
			 errmsg("subscription \"%s\": message at topic \"%s\", partition %d, offset " INT64_FORMAT " cannot be applied: %s",
					NameStr(a->subscription->name), m->topic, m->partition, m->offset, ks_error_cause(a, e)),
			 e->detail ? errdetail("%s", e->detail) : 0,
			 errhint("%s", hint),
			 e->context ? errcontext("%s", e->context) : 0));
}

/* See apply_internal.h. */
void
ks_rethrow(ErrorData *e)
{
	ereport(ERROR,
			(errcode(e->sqlerrcode),
			 errmsg("%s", e->message),
			 e->detail ? errdetail("%s", e->detail) : 0,
			 e->hint ? errhint("%s", e->hint) : 0,
			 e->context ? errcontext("%s", e->context) : 0));
}

/*
 * A message that refers to a row which is not there: may it wait on?  All messages that were at hand when the first of
 * them began to wait have waited since then, so that many in a row do not wait one after the other.
 */
static bool
may_wait(KsApply *a, int left)
{
	TimestampTz now = GetCurrentTimestamp();

	if (a->waiting_since == 0)
	{
		a->waiting_since = now;
		a->waiting = left;
	}
	return !TimestampDifferenceExceeds(a->waiting_since, now, a->subscription->options->int_value[KS_OPT_FK_WAIT]);
}

/*
 * Sets the message at "from" aside, for the error e, and moves past it.  WAIT: Kafka, or something else that a topic for
 * dead letters needs, is not there now.
 */
static KsApplyResult
set_aside(KsApply *a, const KsMessage *messages, int from, bool all, const ErrorData *e)
{
	const KsMessage *m = &messages[from];
	const char *topic = a->subscription->options->text_value[KS_OPT_DLQ_TOPIC];
	ErrorData  *failure;
	bool		moved = false;

	if (topic && !a->sent && ks_letter_targets(a, NULL) > 0)
	{
		ErrorData  *error = ks_letter_send(a, m, topic, e, &moved);

		if (moved)
			return KS_APPLY_MOVED;
		if (error && ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_CONNECTION_EXCEPTION)
		{
			ks_worker_note_error(error->message);
			return KS_APPLY_WAIT;
		}
		if (error && error->sqlerrcode == ERRCODE_UNDEFINED_OBJECT)
			error->hint = psprintf("Create the topic with kafka.create_topic(%s, %s).",
								   quote_literal_cstr(NameStr(a->subscription->server)), quote_literal_cstr(topic));
		if (error)
			ks_rethrow(error);
		a->sent = true;
	}

	failure = attempt(a, messages, from, 1, all, e, &moved);
	if (moved)
		return KS_APPLY_MOVED;
	if (failure && ks_is_transient(failure))
		return KS_APPLY_WAIT;
	if (failure)
		ks_rethrow(failure);
	if (ks_letter_targets(a, NULL) == 0)
		return KS_APPLY_DONE;
	ereport(LOG,
			(errcode(e->sqlerrcode),
			 errmsg("subscription \"%s\": message at topic \"%s\", partition %d, offset " INT64_FORMAT " was set aside: %s",
					NameStr(a->subscription->name), m->topic, m->partition, m->offset, ks_error_cause(a, e)),
			 errhidestmt(true)));
	return KS_APPLY_DONE;
}

typedef enum Verdict
{
	APPLY_AGAIN,
	APPLY_LATER,
	APPLY_NOT
} Verdict;

/*
 * After a failed attempt with "count" messages, of "left" that are at hand: fewer next time, or later, or the one that
 * stands alone is at fault.  ERROR: the subscription cannot go on.
 */
static Verdict
after_failure(KsApply *a, const KsMessage *m, int count, int left, ErrorData *e)
{
	int			culprit = a->run.current;

	if (a->run.unreachable)
	{
		ks_apply_note_trouble(a, e);
		return APPLY_LATER;
	}
	if (ks_is_transient(e))
	{
		/* somebody may hold a lock for as long as he likes */
		if (e->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
			ks_worker_note_error(e->message);
		else if (++a->retries > KS_MAX_RETRIES)
			ks_rethrow(e);
		return APPLY_LATER;
	}
	/*
	 * Two writers of the same key: the row is there now.  And a foreign-data wrapper may say the same of a connection that it
	 * has lost as of a row that is refused: if so, it will not get it back.
	 */
	if (!a->again && (e->sqlerrcode == ERRCODE_UNIQUE_VIOLATION ||
					  (count == 1 && ERRCODE_TO_CATEGORY(e->sqlerrcode) == ERRCODE_TO_CATEGORY(ERRCODE_FDW_ERROR))))
	{
		a->again = true;
		return APPLY_AGAIN;
	}
	if (count == 0 || a->opening || ks_is_general(e))
		ks_rethrow(e);
	if (count > 1)
	{
		bool		known = culprit >= 0 && culprit < count;

		a->suspects = known ? culprit + 1 : count;
		a->limit = known ? Max(culprit, 1) : count / 2;
		/* when it stands alone, another writer may be in its way again */
		if (a->limit == 1)
			a->again = false;
		return APPLY_AGAIN;
	}
	a->limit = PG_INT32_MAX;
	a->suspects = 0;
	/* the row it refers to may come by another way, or later in this very batch: next time, all of it */
	if (e->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION && may_wait(a, left))
		return APPLY_LATER;
	if (strcmp(a->subscription->on_error, "dead_letter") != 0 || is_set_up_wrongly(a, e))
		fail(a, m, e);
	return APPLY_NOT;
}

/* n messages are done with, "set_aside" or applied: what does the next attempt take? */
static void
advance(KsApply *a, int n, bool set_aside)
{
	a->waiting -= Min(a->waiting, n);
	if (a->waiting == 0)
		a->waiting_since = 0;
	a->retries = 0;
	a->sent = false;
	a->suspects -= Min(a->suspects, n);
	if (set_aside)
	{
		/* where faults are frequent, long runs are made for nothing */
		a->limit = Max(RUN_AFTER_FAULT, 2 * Min(a->since_fault, PG_INT32_MAX / 4));
		a->since_fault = 0;
		a->again = false;
		return;
	}
	a->since_fault += Min(n, PG_INT32_MAX - a->since_fault);
	if (a->suspects > 0)
		a->limit = Max(a->suspects / 2, 1);
	/* when it stands alone, another writer may be in its way again */
	if (a->suspects <= 1)
		a->again = false;
	if (a->suspects == 0)
	{
		/* a little more at a time, and in the end as much as there is */
		a->limit = a->limit > PG_INT32_MAX / 4 ? PG_INT32_MAX : a->limit * 4;
	}
}

/* See apply.h. */
KsApplyResult
ks_apply(KsApply *a, const KsMessage *messages, int count, int *done)
{
	MemoryContextReset(a->context);
	*done = 0;
	if (ks_evolution_waits(a->run.evolution))
		return KS_APPLY_WAIT;
	do
	{
		int			n = Min(count - *done, a->limit);
		bool		all = *done + n == count;
		bool		moved;
		ErrorData  *error = attempt(a, messages, *done, n, all, NULL, &moved);

		if (moved)
			return KS_APPLY_MOVED;
		n = a->count;			/* some target may have had the first ones already */
		if (error == NULL)
		{
			if (n > 0)
				ks_apply_clear_trouble(a);
			a->skipped_truncates += a->skipping;
			a->dropped += a->run.dropped;
			if (a->run.evolution)
				ks_evolution_succeeded(a->run.evolution);
			for (int i = 0; i < KS_CONFLICT_COUNTS; i++)
				if (a->run.conflicts[i] > 0)
					pg_atomic_fetch_add_u64(&ks_my_worker->conflicts[i], a->run.conflicts[i]);
			*done += n;
			advance(a, n, false);
		}
		else
		{
			KsApplyResult result;

			if (ks_evolution_pending(a->run.evolution))
			{
				error = ks_evolve(a, &moved);
				if (moved)
					return KS_APPLY_MOVED;
				if (error == NULL)
					continue;
			}
			switch (after_failure(a, messages + *done, n, count - *done, error))
			{
				case APPLY_AGAIN:
					break;
				case APPLY_LATER:
					return KS_APPLY_WAIT;
				case APPLY_NOT:
					result = set_aside(a, messages, *done, all, error);
					if (result != KS_APPLY_DONE)
						return result;
					*done += n;
					advance(a, n, true);
					MemoryContextReset(a->context);
					break;
			}
		}
		CHECK_FOR_INTERRUPTS();
	} while (*done < count);
	pgstat_report_stat(false);
	return KS_APPLY_DONE;
}
