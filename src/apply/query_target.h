/*
 * query_target.h: the writer of a target with a query.
 *
 * What the query gives is computed as the subscription's owner, and written as the table's owner.
 */
#ifndef KS_QUERY_TARGET_H
#define KS_QUERY_TARGET_H

#include "apply/batch.h"
#include "apply/batch_relation.h"
#include "tcop/dest.h"

/* What is known of the keys of messages that look alike: which fields they have. */
typedef struct KsKeyShape
{
	int			nfields;
	char	  **names;			/* UTF-8; "" = the key is no object */
	uint32	   *sizes;
	bool	   *places;			/* by place: the column tells a field of this key */
	int			nplaces;
	int		   *attributes;		/* of these columns in the target */
	bool		exact;			/* they are all of the target's key */
	/* fields of the key that rows must repeat, since the target's columns are traced to the row */
	bool	   *in_row;
} KsKeyShape;

/* A topic, and whether its messages can give rows of the target. */
typedef struct KsTopicScope
{
	char	   *topic;
	bool		reads;
} KsTopicScope;

typedef struct KsQueryWriter
{
	KsWriter	writer;
	KsBatch    *batch;			/* what is to be written */
	KsBatchRelation *relation;
	const KsTarget *target;
	bool		upsert;
	bool		merge;
	bool		is_open;

	/* the description, in "context" */
	MemoryContext context;
	uint32		generation;		/* of the relation */
	uint32		table_version;
	KsQuery    *query;
	KsBatchView view;
	bool		row_wise;
	int			nsinks;
	KsQuerySink *sinks;
	int		   *attributes;		/* of the target, by sink */
	bool	   *keys;			/* sink is part of the target's key */
	uint8	   *cells;			/* KsCell of each attribute of a row */
	Oid			source;			/* the topic's table that the query reads; InvalidOid: none */
	Bitmapset  *used;			/* its columns that are read, by attribute number */
	Bitmapset  *typed;			/* columns of the shape that are the topic's table's: those of rows_query */
	Bitmapset  *typed_places;	/* those of places_query */
	bool		runs_code;		/* reading these may run code of users */
	Query	   *rows_query;
	int			nplaces;
	int		   *places;			/* sinks that are traced key columns */
	Query	   *places_query;
	bool		topic_in_key;
	List	   *key_shapes;		/* of KsKeyShape * */
	List	   *topics;			/* of KsTopicScope * */
	const char *only_topic;		/* the one that rows come from, where the key does not tell topics apart */
	int			window;			/* attribute with the begin of a window, -1 = none */

	/* of the run, in the batch's memory */
	int			capacity;		/* of these */
	int		   *produced;		/* rows by event */
	KsKeyShape **shapes;		/* by event; NULL: gives no rows */
} KsQueryWriter;

/* Makes the writer; lives in CurrentMemoryContext. */
extern KsWriter *ks_query_writer_create(KsRun *run, KsTargetTable *table);

/* Describes the query, adding what it reads to the relation.  ERROR if it does not fit the target.  In query_describe.c. */
extern void ks_query_describe(KsQueryWriter *w);
/*
 * What is known of keys like that of a message, which is checked to be told whole by the target's key.  ERROR if it is
 * not, or if it is null.  In query_describe.c.
 */
extern KsKeyShape *ks_query_key_shape(KsQueryWriter *w, const KsMessage *message, const KsParsed *parsed);
/* The only topic whose messages the query sees, NULL: all. */
#define ks_query_topic(w) ((w)->query->source ? (w)->query->source->topic : NULL)
/* Does the query see an event? */
extern bool ks_query_sees(const KsQueryWriter *w, const KsBatchEvent *event);
/* Can messages of a topic give rows? */
extern bool ks_query_topic_in_scope(KsQueryWriter *w, const char *topic);

/*
 * Runs the query over rows of the relation as the subscription's owner, and puts what it gives into the batch.
 */
extern void ks_query_compute(KsQueryWriter *w, Tuplestorestate *rows, int count);
/*
 * The two steps of it, for other receivers: plans the query for so many rows, in CurrentMemoryContext; runs it, as often
 * as need be in the transaction.
 */
extern PlannedStmt *ks_query_plan_rows(KsQueryWriter *w, int count);
extern void ks_query_run_rows(KsQueryWriter *w, PlannedStmt *plan, Tuplestorestate *rows, int count, DestReceiver *dest);

/* What mode merge asks of a kind of table. */
typedef struct KsMergeOps
{
	/* Folds the rows of the batch into the table. */
	void		(*fold) (KsQueryWriter *w);
	/* The newest window of the table; false: it has none. */
	bool		(*newest_window) (KsQueryWriter *w, Datum *window);
	/* Deletes the windows before one. */
	void		(*delete_windows) (KsQueryWriter *w, Datum before);
} KsMergeOps;

/* Of local tables. In merge_sink.c. */
extern const KsMergeOps ks_local_merge;
/*
 * The statement that folds rows of KS_ROWS, whose column KS_ORDER has their order, into the table that is called as "names"
 * says. In merge_sink.c.
 */
extern char *ks_merge_statement(KsQueryWriter *w, KsTargetTable *names);
#define KS_ORDER "ks_order"
/*
 * Computes the rows of a merge target, without events whose window is closed already, and writes them; deletes windows
 * that are too old.  In merge_window.c.
 */
extern void ks_merge_write(KsQueryWriter *w, const KsMergeOps *ops);

#endif							/* KS_QUERY_TARGET_H */
