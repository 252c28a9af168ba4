/*
 * connection.c: see connection.h.
 *
 * libpq is used without blocking: what its blocking calls would wait for, the latch is waited for with.  Options that say
 * nothing of it get keepalives, so that a network that has gone is noticed in about a minute.
 */
#include "postgres.h"

#include <pthread.h>
#include <signal.h>

#include "commands/defrem.h"
#include "compat/pg_compat.h"
#include "control/definitions.h"
#include "control/worker.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "remote/connection.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define CONNECT_TIMEOUT 10		/* seconds, unless the server has an option connect_timeout */
#define LOCK_WAIT "3s"			/* as with local tables */
#define SILENCE_MS 3000			/* then the state says what is waited for, and who waits for us is let pass */
#define LOOK_MS 500
#define IDLE_MS 500				/* a connection that was not used for so long may be gone */

/* See connection.h. */
KsRemote *
ks_remote_create(int64 subscription_id)
{
	KsRemote   *r = palloc0(sizeof(KsRemote));

	r->subscription_id = subscription_id;
	return r;
}

/* Is a server or user mapping's option one that libpq knows, and not one that we set? */
static bool
is_libpq_option(const char *name)
{
	static PQconninfoOption *options = NULL;	/* for the life of the process */

	if (options == NULL)
		options = PQconndefaults();
	if (options == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	if (strcmp(name, "client_encoding") == 0 || strcmp(name, "fallback_application_name") == 0)
		return false;
	for (PQconninfoOption *o = options; o->keyword; o++)
		if (strcmp(o->keyword, name) == 0)
			return strchr(o->dispchar, 'D') == NULL;
	return false;
}

/* What libpq is to connect with. */
typedef struct Parameters
{
	int			count;
	const char **names;
	const char **values;
} Parameters;

static void
add_parameter(Parameters *p, const char *name, const char *value)
{
	p->names[p->count] = name;
	p->values[p->count++] = value;
}

/* Adds the options of a server or user mapping that are libpq's. */
static void
add_options(Parameters *p, List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst(lc);

		if (is_libpq_option(def->defname))
			add_parameter(p, def->defname, defGetString(def));
	}
}

/* The value that libpq will take for a name, the last one; "" if there is none. */
static const char *
parameter(const Parameters *p, const char *name)
{
	for (int i = p->count - 1; i >= 0; i--)
		if (strcmp(p->names[i], name) == 0)
			return p->values[i];
	return "";
}

/* All that is needed to connect.  Later ones of a name replace former ones. */
static Parameters
collect_parameters(const ForeignServer *server, const UserMapping *user)
{
	Parameters	p = {0};
	int			most = list_length(server->options) + list_length(user->options) + 8;

	p.names = palloc0(sizeof(char *) * most);
	p.values = palloc0(sizeof(char *) * most);
	add_parameter(&p, "keepalives_idle", "20");
	add_parameter(&p, "keepalives_interval", "10");
	add_parameter(&p, "keepalives_count", "3");
	add_parameter(&p, "tcp_user_timeout", "60000");
	add_options(&p, server->options);
	add_options(&p, user->options);
	add_parameter(&p, "fallback_application_name", "pg_kafka_sync");
	add_parameter(&p, "client_encoding", GetDatabaseEncodingName());
	return p;
}

/*
 * Does a user mapping without a password do for this role?  Only a superuser's word makes it so: else roles would get in
 * as whom the server's operating-system user may get in, by peer or trust authentication, .pgpass or a certificate.
 */
static bool
password_required(const UserMapping *user)
{
	ListCell   *lc;

	if (superuser_arg(user->userid))
		return false;
	foreach(lc, user->options)
	{
		DefElem    *def = lfirst(lc);

		if (strcmp(def->defname, "password_required") == 0)
			return defGetBoolean(def);
	}
	return true;
}

/* ERROR unless a password was given, and (conn not NULL) was asked for. */
static void
check_password(const KsRemote *r, const UserMapping *user, const Parameters *p, PGconn *conn)
{
	if (!password_required(user))
		return;
	if (parameter(p, "password")[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required to connect to server \"%s\"", r->server),
				 errdetail("The table's owner is no superuser, and must have a password in the user mapping.")));
	if (conn && !PQconnectionUsedPassword(conn))
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required to connect to server \"%s\"", r->server),
				 errdetail("The table's owner is no superuser, and the server did not request the password."),
				 errhint("The server's authentication method must be changed, or password_required=false set in the user "
						 "mapping by a superuser.")));
}

/* ERROR: the other side cannot be reached; cause may end with a newline. */
pg_noreturn static void
cannot_reach(KsRemote *r, const char *cause)
{
	char	   *text = pstrdup(cause);

	for (char *end = text + strlen(text); end > text && end[-1] == '\n'; end--)
		end[-1] = '\0';
	*r->unreachable = true;
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("server \"%s\" cannot be reached: %s", r->server, text)));
}

/*
 * Waits for the socket, in state retrying if it takes long.  ERROR if somebody waits for us meanwhile, or "until" (0 =
 * none) is over.
 */
static void
wait_for_socket(KsRemote *r, PGconn *conn, int events, TimestampTz since, TimestampTz until)
{
	TimestampTz now = GetCurrentTimestamp();
	long		ms = LOOK_MS;
	int			rc;

	if (until)
		ms = Min(ms, TimestampDifferenceMilliseconds(now, until) + 1);
	rc = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | events, PQsocket(conn), ms,
						   ks_wait_event("KafkaForeignServer"));
	if (rc & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	if (!(rc & WL_TIMEOUT))
		return;
	now = GetCurrentTimestamp();
	if (until && now >= until)
		cannot_reach(r, "timeout expired");
	if (!TimestampDifferenceExceeds(since, now, SILENCE_MS))
		return;
	if (ks_subscription_lock_wanted(r->subscription_id))
		cannot_reach(r, "it does not answer, and somebody waits for the subscription");
	ks_worker_set_state(KS_STATE_RETRYING, psprintf("server \"%s\" has not answered yet", r->server));
}

/* Makes the connection, in steps that never block. */
static void
poll_connection(KsRemote *r, PGconn *conn, const Parameters *p)
{
	TimestampTz since = GetCurrentTimestamp();
	int			seconds = atoi(parameter(p, "connect_timeout"));
	TimestampTz until = TimestampTzPlusMilliseconds(since, 1000 * (int64) (seconds > 0 ? Max(seconds, 2) : CONNECT_TIMEOUT));
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	while (PQstatus(conn) != CONNECTION_BAD && status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED)
	{
		wait_for_socket(r, conn, status == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE, since, until);
		status = PQconnectPoll(conn);
	}
	if (PQstatus(conn) != CONNECTION_OK)
		cannot_reach(r, PQerrorMessage(conn));
}

/* What the other side tells beside results is of no concern to us. */
static void
ignore_notice(void *arg, const PGresult *notice)
{
}

/* A text of an error, or NULL. */
static char *
error_field(const PGresult *result, int code)
{
	char	   *text = result ? PQresultErrorField(result, code) : NULL;

	return text ? pstrdup(text) : NULL;
}

/* Is the other side, or its state, what an error is about, so that the same may succeed later? */
static bool
will_pass(const KsRemote *r, int sqlstate)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	return PQstatus(r->conn) == CONNECTION_BAD || category == ERRCODE_CONNECTION_EXCEPTION ||
		category == ERRCODE_OPERATOR_INTERVENTION || category == ERRCODE_INSUFFICIENT_RESOURCES ||
		sqlstate == ERRCODE_READ_ONLY_SQL_TRANSACTION || sqlstate == ERRCODE_IDLE_IN_TRANSACTION_SESSION_TIMEOUT;
}

/* Ends with the error of a result. */
pg_noreturn static void
raise_error(KsRemote *r)
{
	char	   *code = error_field(r->result, PG_DIAG_SQLSTATE);
	char	   *message = error_field(r->result, PG_DIAG_MESSAGE_PRIMARY);
	char	   *detail = error_field(r->result, PG_DIAG_MESSAGE_DETAIL);
	char	   *hint = error_field(r->result, PG_DIAG_MESSAGE_HINT);
	char	   *column = error_field(r->result, PG_DIAG_COLUMN_NAME);
	char	   *constraint = error_field(r->result, PG_DIAG_CONSTRAINT_NAME);
	int			sqlstate = ERRCODE_CONNECTION_FAILURE;

	if (code && strlen(code) == 5)
		sqlstate = MAKE_SQLSTATE(code[0], code[1], code[2], code[3], code[4]);
	if (message == NULL)
		message = pstrdup(PQerrorMessage(r->conn));
	PQclear(r->result);
	r->result = NULL;
	if (will_pass(r, sqlstate))
		cannot_reach(r, message);
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("%s", message),
			 detail ? errdetail("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0,
			 errcontext("writing to server \"%s\"", r->server),
			 column ? err_generic_string(PG_DIAG_COLUMN_NAME, column) : 0,
			 constraint ? err_generic_string(PG_DIAG_CONSTRAINT_NAME, constraint) : 0));
}

/* Sends what libpq holds, and reads the results of what was sent; returns the last one, or the first that is an error. */
static PGresult *
finish_statement(KsRemote *r, bool sent)
{
	TimestampTz since = GetCurrentTimestamp();
	bool		failed = false;

	if (r->result)
		PQclear(r->result);
	r->result = NULL;
	if (!sent)
		raise_error(r);
	for (;;)
	{
		int			pending = PQflush(r->conn);

		if (pending < 0)
			raise_error(r);
		if (pending == 0)
			break;
		wait_for_socket(r, r->conn, WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE, since, 0);
		/* else both sides could wait for each other */
		if (!PQconsumeInput(r->conn))
			raise_error(r);
	}
	for (;;)
	{
		PGresult   *next;

		while (PQisBusy(r->conn))
		{
			wait_for_socket(r, r->conn, WL_SOCKET_READABLE, since, 0);
			if (!PQconsumeInput(r->conn))
				raise_error(r);
		}
		next = PQgetResult(r->conn);
		if (next == NULL)
			break;
		if (failed)
		{
			PQclear(next);
			continue;
		}
		PQclear(r->result);
		r->result = next;
		failed = PQresultStatus(next) != PGRES_COMMAND_OK && PQresultStatus(next) != PGRES_TUPLES_OK;
		/* nothing we send copies, but a connection that cannot get out of it is of no use */
		if (PQresultStatus(next) == PGRES_COPY_IN || PQresultStatus(next) == PGRES_COPY_OUT)
			cannot_reach(r, "unexpected COPY");
	}
	if (failed || r->result == NULL)
		raise_error(r);
	r->used_at = GetCurrentTimestamp();
	return r->result;
}

/* See connection.h. */
PGresult *
ks_remote_execute(KsRemote *r, const char *sql, int nparams, const Oid *types, const char *const *values,
				  const int *lengths, const int *formats)
{
	return finish_statement(r, PQsendQueryParams(r->conn, sql, nparams, types, values, lengths, formats, 0));
}

/* See connection.h. */
PGresult *
ks_remote_command(KsRemote *r, const char *sql)
{
	return finish_statement(r, PQsendQuery(r->conn, sql));
}

/*
 * Is the connection there, and its last transaction over?  One that was lost while it was idle is no reason to wait, so
 * the other side is asked if it was not for some time.
 */
static bool
is_usable(KsRemote *r)
{
	MemoryContext old = CurrentMemoryContext;
	volatile bool usable = true;
	bool		rolling_back = r->rolling_back;

	if (!rolling_back && !TimestampDifferenceExceeds(r->used_at, GetCurrentTimestamp(), IDLE_MS))
		return true;
	r->rolling_back = false;
	PG_TRY();
	{
		if (rolling_back)
			(void) finish_statement(r, true);
		else
			(void) ks_remote_command(r, "SELECT");
	}
	PG_CATCH();
	{
		if (PQstatus(r->conn) != CONNECTION_BAD)
			PG_RE_THROW();
		MemoryContextSwitchTo(old);
		FlushErrorState();
		*r->unreachable = false;
		usable = false;
	}
	PG_END_TRY();
	return usable;
}

/* Fixes what statements depend on. */
static void
prepare_session(KsRemote *r)
{
	/*
	 * Values are exchanged as text of these settings, and names are looked up nowhere but where we say.  Rows that a policy
	 * would hide are an error: a delete would pass them over.  What the other side has confirmed must not be lost by it,
	 * since the positions have moved by then.
	 */
	(void) ks_remote_command(r, "SET search_path = pg_catalog; SET timezone = 'UTC'; SET datestyle = ISO; "
							 "SET intervalstyle = postgres; SET extra_float_digits = 3; SET bytea_output = hex; "
							 "SET lc_monetary = 'C'; SET row_security = off; SET lock_timeout = '" LOCK_WAIT "'; "
							 "SELECT pg_catalog.set_config('synchronous_commit', 'on', false) "
							 "WHERE pg_catalog.current_setting('synchronous_commit') = 'off'");
}

/* See connection.h. */
bool
ks_remote_connect(KsRemote *r, Oid serverid, Oid userid, bool *flag)
{
	ForeignServer *server;
	UserMapping *user;
	Parameters	p;
	PGconn	   *volatile conn = NULL;
	MemoryContext context = GetMemoryChunkContext(r);

	r->unreachable = flag;
	if (r->conn && is_usable(r))
		return false;
	ks_remote_close(r);
	server = GetForeignServer(serverid);
	user = GetUserMapping(userid, serverid);
	if (r->server)
		pfree(r->server);
	r->server = MemoryContextStrdup(context, server->servername);
	p = collect_parameters(server, user);
	check_password(r, user, &p, NULL);

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to server \"%s\": too many open files", r->server),
				 errhint("Raise \"max_files_per_process\" or the limit of the operating system.")));
	PG_TRY();
	{
		conn = PQconnectStartParams(p.names, p.values, false);
		if (conn == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("out of memory")));
		poll_connection(r, conn, &p);
		check_password(r, user, &p, conn);
		if (PQsetnonblocking(conn, 1) != 0)
			cannot_reach(r, PQerrorMessage(conn));
		PQsetNoticeReceiver(conn, ignore_notice, NULL);
	}
	PG_CATCH();
	{
		PQfinish(conn);
		ReleaseExternalFD();
		PG_RE_THROW();
	}
	PG_END_TRY();
	r->conn = conn;

	PG_TRY();
	{
		prepare_session(r);
	}
	PG_CATCH();
	{
		ks_remote_close(r);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return true;
}

/* See connection.h. */
void
ks_remote_begin(KsRemote *r)
{
	(void) ks_remote_command(r, "START TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE; SET CONSTRAINTS ALL IMMEDIATE");
}

/* See connection.h. */
void
ks_remote_commit(KsRemote *r)
{
	PGresult   *result = ks_remote_command(r, "COMMIT");

	if (strcmp(PQcmdStatus(result), "COMMIT") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_TRANSACTION_ROLLBACK),
				 errmsg("server \"%s\" has rolled the transaction back", r->server)));
}

/* Body of a thread that asks a server to stop a statement: a call that may block for long. */
static void *
cancel_body(void *arg)
{
	PGcancel   *cancel = arg;
	char		text[256];

	(void) PQcancel(cancel, text, sizeof(text));
	PQfreeCancel(cancel);
	return NULL;
}

/* Asks the other side to stop what it does, without waiting for it; should that fail, it ends by itself. */
static void
cancel_statement(PGconn *conn)
{
	PGcancel   *cancel = PQgetCancel(conn);
	sigset_t	all;
	sigset_t	former;
	pthread_attr_t attributes;
	pthread_t	thread;

	if (cancel == NULL)
		return;
	sigfillset(&all);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_sigmask(SIG_BLOCK, &all, &former);
	if (pthread_create(&thread, &attributes, cancel_body, cancel) != 0)
		PQfreeCancel(cancel);
	pthread_sigmask(SIG_SETMASK, &former, NULL);
	pthread_attr_destroy(&attributes);
}

/* See connection.h. */
void
ks_remote_close(KsRemote *r)
{
	PQclear(r->result);
	r->result = NULL;
	if (r->conn == NULL)
		return;
	if (PQtransactionStatus(r->conn) == PQTRANS_ACTIVE && !r->rolling_back)
		cancel_statement(r->conn);
	PQfinish(r->conn);
	r->conn = NULL;
	r->rolling_back = false;
	ReleaseExternalFD();
}

/* See connection.h.  The answer to ROLLBACK is waited for when the connection is used again. */
void
ks_remote_abandon(KsRemote *r)
{
	PGTransactionStatusType status = r->conn ? PQtransactionStatus(r->conn) : PQTRANS_IDLE;

	if (r->conn && (PQstatus(r->conn) != CONNECTION_OK || status == PQTRANS_ACTIVE || status == PQTRANS_UNKNOWN))
		ks_remote_close(r);
	if (r->conn && (status == PQTRANS_INTRANS || status == PQTRANS_INERROR))
	{
		r->rolling_back = PQsendQuery(r->conn, "ROLLBACK") && PQflush(r->conn) >= 0;
		if (!r->rolling_back)
			ks_remote_close(r);
	}
	PQclear(r->result);
	r->result = NULL;
}
