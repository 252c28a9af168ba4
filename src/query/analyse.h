/*
 * analyse.h: what the query of a target does with relation kafka.batch: what it reads, which of its columns tell which
 * message key a row comes from, and whether what it computes can be kept up to date.
 *
 * The query is that of a view (add_target makes one); it is taken as PostgreSQL stored it, so names are bound already.
 */
#ifndef KS_ANALYSE_H
#define KS_ANALYSE_H

#include "postgres.h"

#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"
#include "query/source.h"

/* A field of key, before or after that an expression reads. */
typedef struct KsBatchField
{
	KsBatchColumn column;
	char	   *name;			/* NULL: all of the column */
} KsBatchField;

/* One column that the query returns. */
typedef struct KsQueryColumn
{
	char	   *name;
	int			resno;
	List	   *reads;			/* of KsBatchField *: of key, before and after */
	bool		mixed;			/* also reads other columns or relations, or calls a volatile function */

	/*
	 * Traced: the value tells a part of where the message came from, one to one.  field.column is KEY or AFTER (with
	 * the field's name; KEY without a name is the whole message key), or TOPIC.
	 */
	bool		traced;
	bool		lossy;			/* would be traced but for casts that may make one value of several */
	bool		or_key;			/* the message key tells it where the row does not */
	KsBatchField field;			/* where it is traced or lossy */
	Node	   *expr;			/* traced, lossy: the expression, with batch as varno 1, level 0 */
} KsQueryColumn;

typedef struct KsQuery
{
	Query	   *query;			/* a copy, as stored, but for kafka.batch in the place of "source" */
	KsSource   *source;			/* the topic's table whose columns batch has, NULL: none */
	int			references;		/* to kafka.batch */
	const char *not_row_wise;	/* why it is not a row-wise query, NULL if it is */
	const char *not_mergeable;	/* why not even the rows of mode merge can come of it, NULL if they can */
	bool		aggregates;		/* has aggregates or GROUP BY */
	Bitmapset  *columns;		/* of batch that are read: KsBatchColumn */
	List	   *reads;			/* KsBatchField * that are read anywhere */
	List	   *conditions;		/* those of them that decide which rows there are: WHERE, joins */
	List	   *topic_conditions;	/* expressions over topic alone that must hold, with batch as varno 1 */
	int			ncolumns;
	KsQueryColumn *output;
} KsQuery;

/* Oid of relation kafka.batch; InvalidOid if it is not there. */
extern Oid	ks_batch_relid(void);

/*
 * Analyses the query of a view, which is that of a target of the subscription.  Result in CurrentMemoryContext.  ERROR: it
 * is no view, or names a topic's table that reads messages otherwise than the subscription.  Whether a mode can do with it
 * is for ks_query_check to say.
 */
extern KsQuery *ks_query_analyse(Oid view, const KsSubscription *subscription);

/*
 * Columns that are not traced any more once they are stored in the table's columns of their names, whose types are
 * others, become lossy.  For the queries of mode upsert.
 */
extern void ks_query_assign(KsQuery *query, Oid table);

/*
 * ERROR, with the reason and a way out, unless the query can be kept exact as a target with this mode (upsert, append,
 * merge) and key.  "fold" gives the fold of each column that is not part of the key for mode merge ("sum", ...; NULL =
 * none); it may be NULL.
 */
extern void ks_query_check(const KsQuery *query, const char *mode, int nkeys, char **keys,
						   const char *(*fold) (void *arg, const char *column), void *fold_arg);

/* The column that the query returns by this name, NULL if there is none. */
extern KsQueryColumn *ks_query_column(const KsQuery *query, const char *name);

/*
 * Can messages of this topic give rows at all?  False where a condition of the query on "topic" alone says no.  Functions
 * in it are run as "reader", the subscription's owner, whoever is the current user.
 */
extern bool ks_query_reads_topic(const KsQuery *query, const char *topic, Oid reader);

/*
 * ERROR if rows of several of these topics (char *) would share the target's key without that it tells topics apart.
 * Returns the only topic that gives rows, NULL where there is none yet, or where the key tells.  Mode upsert.  "reader" as
 * above.
 */
extern const char *ks_query_check_topics(const KsQuery *query, int nkeys, char **keys, List *topics, Oid reader);

/* Does a list of KsBatchField hold this field, or all of its column? */
extern bool ks_reads_field(List *reads, KsBatchColumn column, const char *name);

/*
 * If a node is operand->>'name' or operand->'name' of jsonb (or #>>, #> with one name), returns the operand and sets *name
 * and *as_text (->>, #>>); NULL otherwise.
 */
extern Node *ks_field_access(Node *node, char **name, bool *as_text);

/* Is a column of batch a document with fields: key, before, after? */
extern bool ks_is_document(int column);

#endif							/* KS_ANALYSE_H */
