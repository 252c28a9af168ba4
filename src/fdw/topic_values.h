/*
 * topic_values.h: values of the columns of a topic's table, out of a message that was parsed.
 *
 * One meaning of path, meta and type, whoever reads: a SELECT from the table (topic_row.c), or the query of a target that
 * names it (apply/batch_relation.c).
 */
#ifndef KS_TOPIC_VALUES_H
#define KS_TOPIC_VALUES_H

#include "apply/convert.h"
#include "compat/pg_compat.h"
#include "fdw/topic_table.h"
#include "format/json_scan.h"

/* How a column gets its value. */
typedef struct KsTopicValue
{
	const KsTopicColumn *column;
	int			index;
	int			hint;			/* place of its field in the message before */
	int			place;			/* among the table's fields, for formats without names */
	bool		is_key;			/* of option "key": if the value lacks it, it is taken from the key */
	bool		is_bytea;
	bool		is_json;
	void	   *domain_cache;	/* with is_bytea and a domain */
} KsTopicValue;

/* What the columns of a table share. */
typedef struct KsTopicValues
{
	const KsTopicTable *table;
	MemoryContext context;
	MemoryContextCallback callback;
	KsConverter *converter;		/* of the format's values */
	KsConverter *plain;			/* of values that stand for themselves */
	KsArena		arena;
	bool		is_debezium;
	int			nfields;		/* columns that are fields of the value */
} KsTopicValues;

/* Makes what reads columns of a table with this descriptor.  Lives in CurrentMemoryContext. */
extern KsTopicValues *ks_topic_values_create(const KsTopicTable *table, TupleDesc desc);

/* Fills in how a column gets its value. */
extern void ks_topic_value_describe(const KsTopicTable *table, int index, KsTopicValue *c);

/* ERROR unless a message whose fields have no names has as many as there are columns for them. */
extern void ks_topic_values_check(const KsTopicValues *v, const KsParsed *parsed);

/* Forgets what the message before took from the scratch memory. */
extern void ks_topic_values_reset(KsTopicValues *v);

/*
 * What Kafka knows of a message: topic, partition, offset, timestamp, headers.  Cannot fail; leaves value and isnull as
 * they are where the column is none of these.
 */
extern void ks_topic_value_place(const KsTopicValue *c, const KsMessage *m, Datum *value, bool *isnull);

/*
 * What is in value and key; sets value and isnull where there is something, to be null before.  "parsed" is what the
 * format's parser found in the value, "key" (with key_schema) what it is in the key.  *unavailable is set where the
 * message leaves the value out since it did not change.  ERROR if it cannot be read.
 */
extern void ks_topic_value_content(KsTopicValues *v, KsTopicValue *c, const KsMessage *m, const KsParsed *parsed,
								   const KsParsed *key, Datum *value, bool *isnull, bool *unavailable);

/*
 * A column of the value as the message key alone tells it, where that has the field.  or_scalar: a key that is no object
 * is this field.
 */
extern void ks_topic_value_in_key(KsTopicValues *v, KsTopicValue *c, const KsMessage *m, const KsParsed *key,
								  bool or_scalar, Datum *value, bool *isnull);

/* Bytes of Kafka as a column's value: bytea as they are, json if they are that, else text for the type's input. */
extern void ks_topic_value_bytes(KsTopicValues *v, KsTopicValue *c, bool as_json, const char *data, size_t size,
								 Datum *value, bool *isnull, bool *unavailable);

/* ERROR: a message is not what the table says, for the cause in words. */
pg_noreturn extern void ks_topic_parse_error(const char *cause);

#endif							/* KS_TOPIC_VALUES_H */
