/*
 * new_column.h: the column that a field of a message would need in a table that has none for it.
 */
#ifndef KS_NEW_COLUMN_H
#define KS_NEW_COLUMN_H

#include "postgres.h"

#include "control/catalog.h"
#include "event/parser.h"

typedef enum KsNewVerdict
{
	KS_NEW_COLUMN,				/* name, type and typmod are known */
	KS_NEW_NOTHING,				/* the field is null and its type not known: there is nothing to store yet */
	KS_NEW_REFUSED				/* why, and hint: the way out */
} KsNewVerdict;

typedef struct KsNewColumn
{
	char	   *name;			/* in the server's encoding */
	Oid			type;
	int32		typmod;
	const char *why;
	const char *hint;
} KsNewColumn;

/*
 * What a field of a message of the topic needs.  schema: the KsConnectColumns of the schema that it came with.
 * needed: it holds a value even though it is null here.  The type comes from option "column_types", the schema, or the
 * topic's foreign table; where JSON values and text stand for themselves, from what the value is.  Nothing is guessed that
 * another value of the same field could not keep.  In a transaction; results are in CurrentMemoryContext.
 */
extern KsNewVerdict ks_new_column(const KsSubscription *subscription, const char *topic, List *schema, const KsField *field,
								  bool needed, KsNewColumn *column);

/* "name type", as commands have it. */
extern char *ks_new_column_definition(const KsNewColumn *column);

#endif							/* KS_NEW_COLUMN_H */
