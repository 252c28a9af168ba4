/*
 * source.h: a topic's foreign table in the place of kafka.batch.
 *
 * A target's query may name the foreign table of one of the subscription's topics.  Such a query is read as one over
 * kafka.batch whose columns are those of the table: variables of the table become variables of kafka.batch with
 * attribute numbers above KS_SOURCE_COLUMN(0), and KsSource says what of batch each of them tells.  So there is one way of
 * analysing and tracing; rewrite.c makes typed columns of them.
 */
#ifndef KS_SOURCE_H
#define KS_SOURCE_H

#include "postgres.h"

#include "control/catalog.h"
#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"
#include "query/batch_column.h"

/* Attribute number, in an analysed query, of a column of the table by its own; batch's are far below. */
#define KS_SOURCE_COLUMN(attnum) (10000 + (attnum))
#define KS_IS_SOURCE_COLUMN(attno) ((attno) > KS_SOURCE_COLUMN(0))

/* What a column of the table tells, in terms of batch. */
typedef struct KsSourceColumn
{
	KsBatchColumn column;		/* 0: nothing that a query could read, see refusal */
	char	   *name;			/* of the field of key, before or after; NULL: all of it */
	bool		whole;			/* the field, not something inside of it */
	bool		or_key;			/* of option "key": the message key tells it where the row does not */
	const char *refusal;		/* why it cannot be read */
	char	   *meaning;		/* in words that stay the same as long as the meaning does; NULL: not readable */
} KsSourceColumn;

typedef struct KsSource
{
	Oid			relid;
	char	   *qualified;		/* its name, for messages */
	char	   *topic;			/* in the server's encoding */
	int			natts;
	KsSourceColumn *columns;	/* by attribute index */
	Bitmapset  *used;			/* attribute numbers that the query reads; noted by the analysis */
	bool		system;			/* it reads a system column */
} KsSource;

/*
 * Looks for topics' tables in a query, which is changed where one of them stands for the messages of the subscription.
 * Returns that, or NULL: kafka.batch it is, or nothing.  *reason: why the query is of no use, else NULL.
 * "references": how often kafka.batch stands in it.  ERROR: the table is not read as the subscription reads its messages.
 */
extern KsSource *ks_source_find(Query *query, const KsSubscription *subscription, int references, const char **reason);

/* Why the query cannot read what it reads of the table, once that is noted; NULL if it can. */
extern const char *ks_source_refusal(const KsSource *source);

/* What is meant by the columns of the table that the query reads: a list of char *, to be compared with that of later. */
extern List *ks_source_meaning(const KsSource *source);

/* ERROR, as PostgreSQL says it, unless the role may read the columns that the query reads. */
extern void ks_source_check_rights(Oid relid, const Bitmapset *used, Oid role);

#endif							/* KS_SOURCE_H */
