/*
 * metadata.h: option "metadata_columns": columns of a target that take what Kafka knows of a message.
 */
#ifndef KS_METADATA_H
#define KS_METADATA_H

#include "postgres.h"

#include "apply/convert.h"
#include "nodes/pg_list.h"

typedef enum KsMetadataKind
{
	KS_META_TOPIC,
	KS_META_PARTITION,
	KS_META_OFFSET,
	KS_META_TIMESTAMP,
	KS_META_KEY,
	KS_META_VALUE,
	KS_META_HEADERS
} KsMetadataKind;

typedef struct KsMetadataColumn
{
	KsMetadataKind kind;
	KsColumnConverter *column;	/* NULL without a converter */
} KsMetadataColumn;

/*
 * Reads the option's text into a list of KsMetadataColumn.  ERROR: a word that is none of the kinds, or a column that the
 * converter's table has not.  converter NULL: columns are not looked up.
 */
extern List *ks_metadata_parse(const char *option, KsConverter *converter);

/* What the message says for a column; ERROR where it is no value of the column's type.  In CurrentMemoryContext. */
extern void ks_metadata_value(const KsMetadataColumn *column, const KsMessage *message, Datum *value, bool *isnull);

#endif							/* KS_METADATA_H */
