/*
 * connection.h: a connection of our own to another PostgreSQL server, as a foreign server of postgres_fdw and a user mapping
 * describe it, with the checks that postgres_fdw makes: nobody gets in there by what the server's own operating-system user
 * may.  Every wait is one on the latch, can be interrupted, and shows as state retrying when it grows long.
 */
#ifndef KS_REMOTE_CONNECTION_H
#define KS_REMOTE_CONNECTION_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "libpq-fe.h"

typedef struct KsRemote
{
	PGconn	   *conn;			/* NULL = not connected */
	PGresult   *result;			/* of the last statement, until the next one */
	char	   *server;			/* name, for messages */
	int64		subscription_id;	/* whoever waits for its lock is not to wait for the other side, too */
	bool	   *unreachable;	/* set before an ERROR if no statement is at fault */
	TimestampTz used_at;		/* when it last answered */
	bool		rolling_back;	/* the answer to ROLLBACK has not been read yet */
} KsRemote;

/* Makes one that is not connected, in CurrentMemoryContext. */
extern KsRemote *ks_remote_create(int64 subscription_id);

/*
 * Connects to the foreign server with the user mapping of a role, unless it is connected; returns true if it had to.
 * *unreachable is set before an ERROR, from now on, if nothing but the connection or the other server is at fault.
 */
extern bool ks_remote_connect(KsRemote *remote, Oid serverid, Oid userid, bool *unreachable);

/* Begins a transaction. */
extern void ks_remote_begin(KsRemote *remote);
/* Commits it. ERROR if it did not commit, or if that is not known (unreachable). */
extern void ks_remote_commit(KsRemote *remote);
/* Gives up what is under way: rolls back, or closes the connection.  Waits for nothing, and never an ERROR. */
extern void ks_remote_abandon(KsRemote *remote);
/* Closes the connection, if there is one; the other side stops what it does. */
extern void ks_remote_close(KsRemote *remote);

/*
 * Runs a statement with parameters (types: of the other side, 0 = as it sees fit; formats: 1 = binary), results as text.
 * Returns its result, which is the connection's.  ERROR with the other side's own words.
 */
extern PGresult *ks_remote_execute(KsRemote *remote, const char *sql, int nparams, const Oid *types,
								   const char *const *values, const int *lengths, const int *formats);
/* Runs statements without parameters, one or several; returns the last result. */
extern PGresult *ks_remote_command(KsRemote *remote, const char *sql);

#endif							/* KS_REMOTE_CONNECTION_H */
