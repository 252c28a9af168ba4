/*
 * json_fields.h: what the parsers of JSON formats share: their state, lists of fields, message keys.  Plain C.
 */
#ifndef KS_JSON_FIELDS_H
#define KS_JSON_FIELDS_H

#include "format/json_scan.h"

struct KsJsonPaths;

/* The state of all parsers begins with this. */
struct KsParser
{
	KsArena		arena;
	char		error[256];
	KsKeyFormat key_format;
	struct KsJsonPaths *paths;	/* json: option "paths", NULL = none */
	bool		flat;			/* debezium */
	char	   *connector;		/* debezium */
};

extern KsParser *ks_json_parser_create(void);
extern void ks_json_parser_destroy(KsParser *parser);
extern void ks_json_parser_reset(KsParser *parser);

/* What configure() has to do for all formats: notes how keys are written. */
extern void ks_parser_key_format(KsParser *parser, const KsParserOptions *options, KsKeyFormat format_default);

/* Returns a new field at the list's end, all zero, NULL when out of memory. */
extern KsField *ks_field_add(KsFieldList *list);

/* Begins a message: empties *out but keeps its arrays. */
extern void ks_parsed_clear(KsParsed *out);

/* Scans the object at hand ('{' seen) into list.  False: json->error is set. */
extern bool ks_json_fields(KsJson *json, KsFieldList *list);

/*
 * Scans a header that is a JSON array of column names into the names of list.  header: its name, for the cause that is
 * returned; NULL if all is well.
 */
extern const char *ks_json_names(KsParser *parser, const char *header, const char *text, size_t size, KsFieldList *list);

/*
 * Parses a message key: an object, or a scalar as one field with an empty name; absent and null keys leave out->key
 * not present.  With "unwrap", {"schema":...,"payload":...} stands for its payload.  Keys that are not JSON, as
 * parser->key_format says, are one nameless field.  Returns NULL or the cause.
 */
extern const char *ks_json_key(KsParser *parser, const KsMessage *message, bool unwrap, KsParsed *out);

/*
 * How the values of an event of Debezium's were written, as its headers tell where a column depends on it (ks_modes_wanted),
 * else as message->modes says: KS_MODE_... in *modes.  Returns NULL or the cause.  In format/debezium_parse.c.
 */
extern const char *ks_debezium_message_modes(KsParser *parser, const KsMessage *message, uint8_t *modes);
/* Says so of the fields of a part. */
extern void ks_mark_modes(KsFieldList *list, uint8_t modes);

/* Says in words, in parser memory, what the scanner stumbled over; "part" is "" or ends with a space. */
extern const char *ks_json_failure(KsParser *parser, const KsJson *json, const char *part);

/* Is a member's name this literal? */
#define KS_NAME_IS(field, literal) \
	((field)->name_size == sizeof(literal) - 1 && memcmp((field)->name, literal, sizeof(literal) - 1) == 0)

#endif							/* KS_JSON_FIELDS_H */
