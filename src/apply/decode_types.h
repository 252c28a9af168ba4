/*
 * decode_types.h: types of fields, as declared by targets and as told by the schemas inside messages.
 */
#ifndef KS_DECODE_TYPES_H
#define KS_DECODE_TYPES_H

#include "postgres.h"

#include "nodes/pg_list.h"

typedef struct KsDeclaredType
{
	char	   *name;
	Oid			type;			/* no domain */
	int32		typmod;
	bool		given;			/* by option column_types: it overrides the others */
	char	   *where;			/* the table that declares it, for messages */
} KsDeclaredType;

/* Does Debezium encode values of these two types in the same way, as far as their typmods tell? */
extern bool ks_same_encoding(Oid a, int32 a_typmod, Oid b, int32 b_typmod);

/*
 * The fields that a schema says are encoded, with types that hold them: a list of KsDeclaredType, in
 * CurrentMemoryContext.  schema: Connect's JSON, of an event, a row or a key.  What is no such schema gives nothing.
 */
extern List *ks_types_in_schema(const char *schema, size_t size);

/* The types in option column_types: a list of KsDeclaredType.  ERROR for one that does not exist. */
extern List *ks_types_in_option(const char *column_types);

#endif							/* KS_DECODE_TYPES_H */
