/*
 * topic_table.h: a topic as a foreign table: what its options and columns say.
 */
#ifndef KS_TOPIC_TABLE_H
#define KS_TOPIC_TABLE_H

#include "postgres.h"

#include "event/parser.h"
#include "kafka/properties.h"
#include "utils/rel.h"

/* Where a column's values come from: option "meta", or (KS_COL_NONE) a field of the message's value. */
typedef enum KsMeta
{
	KS_COL_NONE,
	KS_COL_TOPIC,
	KS_COL_PARTITION,
	KS_COL_OFFSET,
	KS_COL_TIMESTAMP,
	KS_COL_KEY,
	KS_COL_HEADERS,
	KS_COL_VALUE,
	KS_COL_OP,
	KS_COL_BEFORE,
	KS_COL_UNCHANGED,
	KS_COL_ERROR
} KsMeta;

/* A step of a path: a member of an object, or an element of an array. */
typedef struct KsPathStep
{
	char	   *name;			/* in UTF-8; NULL: an element */
	int			index;			/* of the element, from 0 */
} KsPathStep;

typedef struct KsTopicColumn
{
	char	   *name;			/* as in the catalog */
	Oid			type;
	KsMeta		meta;
	bool		is_dropped;
	int			npath;			/* steps to descend, of which the first is a member; 0 = the whole (only with meta) */
	KsPathStep *path;
} KsTopicColumn;

typedef enum KsTopicKey
{
	KS_TOPIC_KEY_DEFAULT,				/* text for a key column; json for the columns of option "key" */
	KS_TOPIC_KEY_TEXT,
	KS_TOPIC_KEY_JSON,
	KS_TOPIC_KEY_BYTES
} KsTopicKey;

typedef struct KsTopicTable
{
	Oid			relid;
	Oid			serverid;
	char	   *schema;
	char	   *name;
	char	   *topic;			/* in UTF-8 */
	char	   *format;
	const KsParserOps *parser;	/* NULL: format raw, whose value is one column's */
	KsParserOptions parser_options;
	bool		is_json;		/* values are JSON: fields have insides */
	uint8		modes;			/* KS_MODE_...: how values were written, where messages do not say it */
	KsTopicKey key_format;
	int			nkeys;			/* option "key": attribute indexes of the columns that make the message key */
	int		   *keys;
	bool		ordered;		/* option "timestamps": the log is in the order of its timestamps */
	bool		remote_estimate;
	bool		updatable;
	bool		null_on_error;
	int			natts;
	KsTopicColumn *columns;		/* by attribute index (attnum - 1) */
} KsTopicTable;

/*
 * Returns what a foreign table says, in CurrentMemoryContext.  ERROR, naming table and column, where options do not fit
 * each other or a column's type.
 */
extern KsTopicTable *ks_topic_table(Relation rel);

/* The column that is the message key as a whole; -1: there is none. */
extern int	ks_topic_key_column(const KsTopicTable *table);

/* For the validator: ERROR for an option that a foreign table, or its columns, cannot have. */
extern void ks_topic_table_option_check(const char *name, const char *value);
extern void ks_topic_column_option_check(const char *name, const char *value);

/* Reads option "path" (text in UTF-8), in the syntax of option "paths" of subscriptions.  NULL: it is none. */
extern KsPathStep *ks_path_read(const char *text, int *count);

/* Name of the table for messages. */
extern char *ks_topic_table_name(const KsTopicTable *table);

#endif							/* KS_TOPIC_TABLE_H */
