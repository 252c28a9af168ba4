/*
 * connect_types.h: SQL types for the columns that Kafka Connect's schemas describe.
 */
#ifndef KS_CONNECT_TYPES_H
#define KS_CONNECT_TYPES_H

#include "postgres.h"

#include "nodes/pg_list.h"

typedef struct KsConnectColumn
{
	char	   *name;			/* in UTF-8; "" for a scalar */
	Oid			type;			/* of pg_catalog, which holds its values; InvalidOid: the schema does not tell */
	int32		typmod;
	bool		encoded;		/* values are not what their JSON type says */
	const char *doubt;			/* why "type" may not be what the values are, NULL = it is */
} KsConnectColumn;

/*
 * The columns of a schema as Connect's JSON, of an event, a row or a key: a list of KsConnectColumn, in
 * CurrentMemoryContext.  What is no such schema gives nothing.
 */
extern List *ks_connect_columns(const char *schema, size_t size);

/* The type that holds values with one of Debezium's or Connect's semantic names, InvalidOid if the name is none. */
extern Oid	ks_connect_type_of_name(const char *name, size_t size);

#endif							/* KS_CONNECT_TYPES_H */
