/*
 * connect_schema.h: the schemas that Kafka Connect's JSON converter puts into messages, as they stand in the text.
 *
 * convert_schema.c makes meanings of them, connect_types.c SQL types.
 */
#ifndef KS_CONNECT_SCHEMA_H
#define KS_CONNECT_SCHEMA_H

#include "postgres.h"

#include "event/parser.h"
#include "format/json_scan.h"

/* The members of a schema that matter. */
typedef struct KsSchemaNode
{
	KsField		type;			/* kind NULL where absent, in all of these */
	KsField		name;
	KsField		field;
	KsField		fields;
	KsField		items;
	KsField		parameters;
} KsSchemaNode;

/* Is it this string? */
extern bool ks_schema_is(const KsField *field, const char *text);

/* Reads a member of an object by name; kind NULL if there is none. */
extern KsField ks_schema_member(KsArena *arena, const KsField *object, const char *name);

/* Reads the schema at hand.  Returns what is wrong with it, or NULL. */
extern const char *ks_schema_read(KsJson *json, KsSchemaNode *node);

/* A parameter (Connect writes all of them as strings), kind NULL if there is none; and one that is an integer. */
extern KsField ks_schema_text_parameter(KsArena *arena, const KsSchemaNode *node, const char *name);
extern int32 ks_schema_parameter(KsArena *arena, const KsSchemaNode *node, const char *name, int32 missing);

/*
 * Reads a whole schema, of an event (its "after" or "before" have the columns), of a row or key, or of a scalar key.
 * *fields is the array of the columns' schemas; of kind NULL for a scalar.  Returns what is wrong with it, or NULL.
 */
extern const char *ks_schema_rows(KsArena *arena, const char *text, size_t size, KsSchemaNode *top, KsField *fields);

#endif							/* KS_CONNECT_SCHEMA_H */
