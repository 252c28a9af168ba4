/*
 * postgres_sink.h: tables of other PostgreSQL servers as targets: what the files postgres_*.c share.
 *
 * A foreign table of postgres_fdw says where the table is; rows go there by a connection of our own (remote/), since
 * postgres_fdw cannot do ON CONFLICT DO UPDATE, nor delete a set of keys, at once.
 */
#ifndef KS_POSTGRES_SINK_H
#define KS_POSTGRES_SINK_H

#include "apply/progress.h"
#include "apply/row_group.h"
#include "apply/sink.h"
#include "remote/connection.h"

/* How values of a column are sent. */
typedef struct KsPostgresColumn
{
	char	   *type;			/* what it is there, as in a cast; NULL: there is no such column */
	bool		binary;			/* in the type's binary form, which is the same there; else as text */
	FmgrInfo	send;			/* or output */
	Oid			array;			/* type of the parameter */
} KsPostgresColumn;

typedef struct KsPostgresSink
{
	KsTargetTable *target;
	KsRemote   *remote;
	KsProgress *confirmed;		/* the next offsets that this process has seen committed there, NULL = none are kept */
	bool		described;		/* what follows is that of the target's present description */

	/* in the memory of the target's description */
	Oid			serverid;
	KsTargetTable *names;		/* the target, as it and its columns are called there */
	char	   *schema;
	bool		advanced;		/* target->progress is what it will be if the commit succeeds */
	char	   *offsets;		/* qualified name of the table with offsets, NULL = none is kept */

	/* of the connection */
	bool		looked;			/* at the table there */
	bool		checked;		/* the other side has all that it confirmed */
	MemoryContext context;
	KsPostgresColumn *columns;
} KsPostgresSink;

/* Looks at the table on the other side, outside of a transaction there.  ERROR if it cannot be written. In postgres_look.c. */
extern void ks_postgres_look(KsPostgresSink *sink);
/* Runs a statement, which sees the rows as KS_ROWS. KsRowsExecute. In postgres_rows.c. */
extern uint64 ks_postgres_execute(KsBatch *batch, const char *statement, const KsParameters *parameters, int expected,
								  const bool *columns, const int *rows, int count);
/* KsSinkOps.existing_keys. In postgres_rows.c. */
extern void ks_postgres_existing_keys(KsTargetTable *target, const int *attributes, int n, Datum **parts, int count,
									  KsKeyFound found, void *arg);
/* A value that came as text; the type's input function makes it. In postgres_rows.c. */
extern Datum ks_postgres_value(const KsTargetTable *target, int attribute, char *text);
/* Locks the offsets of a run's partitions, and reads them into the target's progress; writes them. In postgres_offsets.c. */
extern void ks_postgres_load_offsets(KsPostgresSink *sink, KsRun *run);
extern void ks_postgres_store_offsets(KsPostgresSink *sink, KsRun *run);
/* What was stored is committed there now; ERROR if the other side does not have it any more. In postgres_offsets.c. */
extern void ks_postgres_confirm_offsets(KsPostgresSink *sink);
extern void ks_postgres_check_offsets(KsPostgresSink *sink, KsRun *run);
/* Makes the table that they are in, unless it is there.  In postgres_offsets.c. */
extern void ks_postgres_create_offsets(KsPostgresSink *sink);

#endif							/* KS_POSTGRES_SINK_H */
