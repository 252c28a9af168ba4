/*
 * catalog.h: reading the extension's own catalog tables (sql/install/10_catalog.sql).
 *
 * The readers use systable scans, so they work under a historic snapshot inside the output plugin as well as under an
 * ordinary one: kafka.publisher and kafka.publisher_relation are user_catalog_tables.
 */
#ifndef KS_CATALOG_H
#define KS_CATALOG_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "control/options.h"
#include "nodes/pg_list.h"

typedef struct KsPublisher
{
	int64		id;
	NameData	name;
	Oid			owner;
	NameData	server;
	NameData	publication;
	char	   *topic_prefix;
	char	   *format;			/* debezium | json */
	char	   *snapshot;		/* initial | never | only */
	char	   *delivery;
	Jsonb	   *options_json;
	KsOptions  *options;
	bool		enabled;
	int32		version;		/* grows with every alter */
	NameData	slot_name;
	char	   *snapshot_state; /* none | pending | running | done */
	int64		snapshot_floor; /* FullTransactionId: next xid right after the slot was made; 0 = no slot yet */
	int64		system_identifier;
	int64		database_oid;
} KsPublisher;

/* One row of kafka.publisher_relation: what set_topic stored. */
typedef struct KsPublisherRelation
{
	Oid			relid;
	char	   *topic;			/* NULL = default */
	int			nkeys;			/* 0 = default key */
	char	  **keys;
} KsPublisherRelation;

/* How mode merge folds a value into that of the row. */
typedef enum KsMergeFunction
{
	KS_MERGE_SUM,
	KS_MERGE_MIN,
	KS_MERGE_MAX,
	KS_MERGE_COUNT,				/* as sum: the query counts, and the counts add up */
	KS_MERGE_FIRST,
	KS_MERGE_LAST,
	KS_MERGE_OR,
	KS_MERGE_AND
} KsMergeFunction;

typedef struct KsMergeColumn
{
	char	   *column;
	KsMergeFunction function;
} KsMergeColumn;

typedef struct KsTarget
{
	Oid			relid;
	char	   *mode;			/* upsert | append | merge */
	int			nkeys;			/* 0 for append */
	char	  **keys;			/* never empty for upsert and merge: resolved to the primary key when it was stored */
	char	   *query;			/* as given; NULL = plain target */
	int			nsource;		/* 0: it reads kafka.batch, or there is no query */
	char	  **source;			/* what the columns that it reads of a topic's table meant when the target was added */
	Oid			view;			/* its view, which a DROP ... CASCADE may have taken away; InvalidOid = plain target */
	Jsonb	   *merge_json;		/* NULL but for mode merge */
	Jsonb	   *options_json;
	/* only from ks_subscription_by_id */
	int			nmerge;
	KsMergeColumn *merge;		/* one for each column of the query that is not in the key */
	KsOptions  *options;
} KsTarget;

typedef struct KsSubscription
{
	int64		id;
	NameData	name;
	Oid			owner;
	NameData	server;
	int			ntopics;
	char	  **topics;
	char	   *format;
	char	   *start;
	char	   *on_error;
	int32		workers;
	Jsonb	   *options_json;
	KsOptions  *options;
	bool		enabled;
	int32		version;
	int64		system_identifier;
	int64		database_oid;
	List	   *targets;		/* of KsTarget */
} KsSubscription;

/* Oid of one of our tables by name ("publisher"), looked up in schema kafka; InvalidOid if the extension is absent. */
extern Oid	ks_catalog_relid(const char *table);
extern Oid	ks_catalog_schema(void);
/* Is relid a table of the extension's own schema (never published)? */
extern bool ks_is_own_relation(Oid relid);

/*
 * NULL if there is none.  Results in CurrentMemoryContext.  A transaction (or historic snapshot) must be active.
 * Only the readers by id parse options (ERROR for one that this version does not know, as a restored dump may hold):
 * such a definition can still be listed, altered and dropped, and hinders no other.
 */
extern KsPublisher *ks_publisher_by_id(int64 id);
extern KsPublisher *ks_publisher_row(int64 id);	/* does not parse */
extern KsPublisher *ks_publisher_by_name(const char *name);
extern KsPublisherRelation *ks_publisher_relation(int64 publisher_id, Oid relid);
extern KsSubscription *ks_subscription_by_id(int64 id);
extern KsSubscription *ks_subscription_by_name(const char *name);
/* Is a topic one of these, by its name or by a pattern that begins with ^?  Patterns leave out internal topics. */
extern bool ks_reads_topic(char **topics, int ntopics, const char *topic);
/* Names of the topics that a subscription has positions in, in no order. */
extern List *ks_subscription_topics(int64 id);
/* The version of its definition as committed now, whatever snapshot is active; -1 if it is gone. */
extern int32 ks_subscription_version(int64 id);
extern KsOptions *ks_subscription_options(const KsSubscription *s);
/* What column "merge" of a target says; ERROR naming what is wrong with it.  *count may be 0. */
extern KsMergeColumn *ks_merge_parse(Jsonb *merge, int *count);
/* Was a definition made in this database, and not restored or cloned from elsewhere? */
extern bool ks_belongs_here(int64 system_identifier, int64 database_oid);
/* All of this database; NIL if the extension is absent. */
extern List *ks_publishers(void);
extern List *ks_subscriptions(void);

#endif							/* KS_CATALOG_H */
