/*
 * row_group.h: rows of a batch for SQL: grouped by which columns they have, and given to statements as a relation of typed
 * rows, KS_ROWS.
 */
#ifndef KS_ROW_GROUP_H
#define KS_ROW_GROUP_H

#include "apply/batch.h"
#include "nodes/pg_list.h"
#include "utils/tuplestore.h"

#define KS_ROWS "ks_rows"

/* Rows that have values for the same columns. */
typedef struct KsRowGroup
{
	bool	   *columns;		/* by attribute */
	bool		insert;			/* may be new rows; else they must be there */
	int			count;
	int		   *rows;
	int			capacity;
} KsRowGroup;

/* Parameters of a statement, none of which is null. */
typedef struct KsParameters
{
	int			count;
	int			capacity;
	Oid		   *types;
	Datum	   *values;
} KsParameters;

/* Puts row number "row" of a batch into the group that it belongs to, made if need be. */
extern void ks_row_group_add(KsBatch *batch, List **groups, int row, bool insert);

/*
 * Runs a statement through SPI, which sees what is stored as a relation of this name.  Returns SPI's result, and leaves it
 * connected.
 */
extern int	ks_relation_execute(const char *name, TupleDesc desc, Tuplestorestate *store, int count, const char *statement,
								const KsParameters *parameters, bool read_only);

/*
 * Runs a statement through SPI over the given rows, of which it sees the columns chosen (by attribute) as KS_ROWS, with
 * these parameters (NULL: none).  expected: SPI's result.  Returns the number of rows that it wrote.
 */
extern uint64 ks_rows_execute(KsBatch *batch, const char *statement, const KsParameters *parameters, int expected,
							  const bool *columns, const int *rows, int count);

/* What runs such a statement: this, or another server's. */
typedef uint64 (*KsRowsExecute) (KsBatch *batch, const char *statement, const KsParameters *parameters, int expected,
								 const bool *columns, const int *rows, int count);

/* Appends "t.k = r.k AND ..." for the key, compared as its index or type has it. */
extern void ks_append_key_condition(StringInfo sql, KsTargetTable *target);
/* Appends the names of the columns chosen. */
extern void ks_append_columns(StringInfo sql, KsTargetTable *target, const bool *columns);
/* Appends "c = source.c, ..." for the columns chosen that are no key; returns how many. */
extern int	ks_append_assignments(StringInfo sql, KsTargetTable *target, const bool *columns, const char *source);

#endif							/* KS_ROW_GROUP_H */
