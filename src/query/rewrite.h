/*
 * rewrite.h: from the query of a target, as its view holds it, to plans over the messages of a run.
 *
 * kafka.batch is replaced by an ephemeral relation that has batch's columns, the number of the message, and one text
 * column for each field that some query reads as text: after->>'id' becomes a column, so that no document has to be
 * built and searched for it.  A column of a topic's foreign table becomes a column of its own type.
 */
#ifndef KS_REWRITE_H
#define KS_REWRITE_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "fdw/topic_table.h"
#include "nodes/plannodes.h"
#include "query/analyse.h"

/* Columns of the ephemeral relation: those of batch, then these, then fields. */
#define KS_BATCH_ROW (KS_BATCH_COLUMNS + 1)
#define KS_BATCH_FIXED KS_BATCH_ROW

/* A topic's foreign table that some query reads. */
typedef struct KsShapeSource
{
	Oid			relid;
	KsTopicTable *table;
	TupleDesc	desc;
} KsShapeSource;

/* A field that is a column: a text, or (source) a column of a topic's table. */
typedef struct KsShapeField
{
	KsBatchColumn column;		/* key, before or after */
	char	   *name;			/* NULL: not one of its fields (source) */
	bool		or_scalar;		/* a key that is no object stands for this field */
	KsShapeSource *source;		/* NULL: a text */
	int			attribute;		/* of the source, by index */
	bool		in_key;			/* a column of the value, as the message key tells it */
} KsShapeField;

/* What the ephemeral relation must hold for the queries of a subscription. */
typedef struct KsBatchShape
{
	MemoryContext context;
	List	   *fields;			/* of KsShapeField *, in the order of their columns */
	List	   *sources;		/* of KsShapeSource * */
	Bitmapset  *typed;			/* indexes of fields with a source that were asked for since this was emptied */
	Bitmapset  *columns;		/* of batch, that are read as a whole */
	TupleDesc	desc;			/* NULL: to be made anew */
} KsBatchShape;

/* A column of the target that a query fills. */
typedef struct KsQuerySink
{
	const KsQueryColumn *column;
	Oid			type;
	int32		typmod;
	Oid			collation;
} KsQuerySink;

/* Makes an empty shape, which lives in a child of CurrentMemoryContext. */
extern KsBatchShape *ks_shape_create(void);
/* Forgets all fields and columns. */
extern void ks_shape_reset(KsBatchShape *shape);
/* The row type of the ephemeral relation, in the shape's memory. */
extern TupleDesc ks_shape_desc(KsBatchShape *shape);
/* A field of the shape, whose column has this index. */
#define ks_shape_field(shape, index) ((KsShapeField *) list_nth((shape)->fields, (index) - KS_BATCH_FIXED))

/*
 * The query over the ephemeral relation, with one column for each sink, cast as an assignment does, and (row_wise) the
 * number of the message behind them.  What it reads is added to the shape.
 */
extern Query *ks_query_over_messages(const KsQuery *query, KsBatchShape *shape, const KsQuerySink *sinks, int nsinks);

/*
 * A query for the traced columns among the sinks, made of the message key alone: where rows of that key are.  One
 * column for each of them (in the order of the sinks) and the number of the message.
 */
extern Query *ks_query_of_places(const KsQuery *query, KsBatchShape *shape, const KsQuerySink *sinks, int nsinks);

/* Plans such a query for this many rows; as the current user, who must be the one to run it. */
extern PlannedStmt *ks_query_plan(const Query *query, KsBatchShape *shape, double rows);

struct _DestReceiver;
struct Tuplestorestate;
/* Runs a plan over rows of the shape; every result goes to dest. */
extern void ks_query_run(PlannedStmt *plan, KsBatchShape *shape, struct Tuplestorestate *rows, double count,
						 struct _DestReceiver *dest);

#endif							/* KS_REWRITE_H */
