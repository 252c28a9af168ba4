/*
 * batch_relation.h: the messages of a run as rows of relation kafka.batch, shared by all targets of a subscription that
 * have a query.  Each message is decoded once, and only what some query reads of it.
 */
#ifndef KS_BATCH_RELATION_H
#define KS_BATCH_RELATION_H

#include "postgres.h"

#include "apply/decode.h"
#include "apply/writer.h"
#include "query/rewrite.h"
#include "utils/tuplestore.h"

typedef struct KsBatchEvent
{
	int			message;		/* its number in the run */
	uint32		hash;			/* of topic and message key */
	int			previous;		/* event of the same key before it, -1 = none */
	char		op;				/* c u r d */
	bool		tombstone;
	bool		duplicate;		/* was applied before, says its position */
	bool		last;			/* no later event of its key in the run */
	bool		follows_delete; /* of its key, in the run */
	const char *topic;			/* as in the message: compare the pointer */
	Datum	   *values;			/* by column of the shape */
	bool	   *nulls;
	bool	   *read;			/* by column of the shape: it is one of a topic's table, and was read */
	List	   *unavailable;	/* of KsBatchField *: unchanged values that the message leaves out */

	/* the latest state of the key: what earlier events of the run know is laid below; values and nulls if they know nothing */
	Datum	   *state_values;
	bool	   *state_nulls;
	List	   *state_unavailable;
} KsBatchEvent;

/* Which events a query sees. */
typedef enum KsBatchView
{
	KS_VIEW_STATE,				/* mode upsert: the last event of each key, unless it is a delete */
	KS_VIEW_EVENTS,				/* modes append and merge: every create, update and snapshot row that is no duplicate */
	KS_VIEW_EVENTS_AND_DELETES, /* and every delete that is no tombstone */
	KS_VIEWS
} KsBatchView;

/* Rows of one topic that queries of one kind see. */
typedef struct KsTopicStore
{
	const char *topic;
	KsBatchView view;
	Tuplestorestate *rows;
	int			count;
} KsTopicStore;

typedef struct KsBatchRelation
{
	KsRun	   *run;
	KsBatchShape *shape;
	KsDecoder  *decoder;
	List	   *writers;		/* that share it; see query_target.c */
	bool		valid;			/* shape and decoder still fit the definitions of targets and queries */
	uint32		generation;		/* grows whenever they are made anew */

	/* of the run */
	const KsMessage *messages;	/* all of them; NULL: none has come yet */
	MemoryContext context;
	int			count;
	int			capacity;
	KsBatchEvent *events;
	int		   *buckets;		/* last event of each key + 1, open addressing */
	uint32		bucket_mask;
	const char *topic;			/* of the message before, and its hash */
	uint32		topic_hash;
	uint64		taken;			/* KsRun.row of the last call of ks_batch_relation_add */
	KsBatchEvent *latest;		/* and its event, NULL if it is none */
	bool		truncate;		/* the events are what came after a truncate */
	Tuplestorestate *stores[KS_VIEWS];
	int			store_counts[KS_VIEWS];
	List	   *topic_stores;	/* of KsTopicStore *, for queries over a topic's table */
	struct KsBatchLayout *layout;
	struct KsBatchSources *sources;	/* NULL: no query is over a topic's table */
} KsBatchRelation;

/* Makes a relation without a shape; lives in CurrentMemoryContext. */
extern KsBatchRelation *ks_batch_relation_create(KsRun *run);

/* Empties it for "count" messages. */
extern void ks_batch_relation_begin(KsBatchRelation *r, int count);
/*
 * Takes a row of a message, once, whoever calls it.  Returns its event, or NULL if it is none (a truncate).  ERROR for what cannot
 * be decoded.
 */
extern KsBatchEvent *ks_batch_relation_add(KsBatchRelation *r, const KsMessage *message, const KsParsed *parsed);

/*
 * Reads columns (indexes of the shape) of topics' tables of an event's message into it, once, whoever calls it.  ERROR for
 * what cannot be read.  In batch_source.c.
 */
extern void ks_batch_relation_read(KsBatchRelation *r, KsBatchEvent *event, const KsMessage *message,
								   const KsParsed *parsed, const Bitmapset *columns);
/* Makes ready what reads them, so that parsers know before the first message what of its headers is wanted. */
extern void ks_batch_relation_prepare(KsBatchRelation *r, const Bitmapset *columns);
/* Does a list of KsBatchField, none of which is a whole column, have this one? */
extern bool ks_batch_field_in(List *list, const KsBatchField *field);

/* Does a query of this kind see an event? */
extern bool ks_batch_relation_sees(const KsBatchEvent *event, KsBatchView view);
/* Rows that a query of this kind sees, of one topic or (NULL) of all; *count of them.  They belong to the relation. */
extern Tuplestorestate *ks_batch_relation_rows(KsBatchRelation *r, KsBatchView view, const char *topic, int *count);
/* Rows of the chosen events alone. */
extern Tuplestorestate *ks_batch_relation_choose(KsBatchRelation *r, const int *events, int count);

#endif							/* KS_BATCH_RELATION_H */
