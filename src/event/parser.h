/*
 * parser.h: a table of functions per wire format for reading: from the bytes of one message to named fields.
 *
 * Parsers are plain C on bytes (no catalog access, no palloc per field beyond the result arrays, zero copy: slices
 * point into the message or into the parser's scratch buffer), so that they can be fuzzed outside of PostgreSQL.
 * They never trust input: malformed JSON, invalid UTF-8, depth, truncation are reported, never crash.
 * Turning a field into a Datum of a target column's type is apply/convert.c's work.
 */
#ifndef KS_PARSER_H
#define KS_PARSER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * How a value was written where neither its JSON type nor the column's SQL type tells: the writer's "binary.handling.mode"
 * and "time.precision.mode", as bits.  None of a kind: not known, or the default.
 */
#define KS_MODE_BASE64 1		/* bytes in base64, of either alphabet */
#define KS_MODE_HEX 2			/* bytes in hexadecimal digits */
#define KS_MODE_BINARY (KS_MODE_BASE64 | KS_MODE_HEX)
#define KS_MODE_TIME_ADAPTIVE 4 /* times and timestamps in milliseconds or microseconds, by their precision */
#define KS_MODE_TIME_MICROS 8	/* times in microseconds, timestamps as before */
#define KS_MODE_TIME_CONNECT 16 /* both in milliseconds */
#define KS_MODE_TIME (KS_MODE_TIME_ADAPTIVE | KS_MODE_TIME_MICROS | KS_MODE_TIME_CONNECT)

/* One Kafka message as the consumer hands it on; all borrowed until the batch is done. */
typedef struct KsMessage
{
	const char *topic;
	int32_t		partition;
	int64_t		offset;
	int64_t		timestamp_ms;	/* -1 if none */
	const char *key;			/* NULL if none */
	size_t		key_size;
	const char *value;			/* NULL = tombstone */
	size_t		value_size;
	void	   *native;			/* the consumer's own handle of the message; NULL: a dead letter */
	const char *json_null;		/* value of header pg_kafka_sync.json_null, NULL if none: a JSON array of column names */
	size_t		json_null_size;
	const char *unchanged;		/* value of header pg_kafka_sync.unchanged, NULL if none: a JSON array of column names */
	size_t		unchanged_size;
	uint8_t		modes;			/* KS_MODE_...: what the subscription's options say, for messages that do not say it */
	/* Returns the value of a header, NULL if there is none; itself NULL where there are no headers. */
	const char *(*find_header) (const struct KsMessage *message, const char *name, size_t *size);
	const void *headers_of;		/* find_header's own: librdkafka's message, or a dead letter's headers as jsonb */
} KsMessage;

/*
 * Modes that a column of some target depends on (KS_MODE_BINARY, KS_MODE_TIME).  Reading headers costs a tenth of what
 * a row costs, so parsers ask for these only where they are wanted.  In format/debezium_parse.c.
 */
extern uint8_t ks_modes_wanted;
/* The mode of this name as a bit, or 0: values of "binary.handling.mode" and "time.precision.mode". */
extern uint8_t ks_binary_mode(const char *name, size_t size);
extern uint8_t ks_time_mode(const char *name, size_t size);

typedef enum KsFieldKind
{
	KS_FIELD_NULL,
	KS_FIELD_TRUE,
	KS_FIELD_FALSE,
	KS_FIELD_NUMBER,			/* text of the number */
	KS_FIELD_STRING,			/* unescaped UTF-8, no NUL inside unless has_nul */
	KS_FIELD_OBJECT,			/* raw JSON text */
	KS_FIELD_ARRAY,				/* raw JSON text */
	KS_FIELD_BYTES				/* bytes that nobody has looked at; raw is NULL */
} KsFieldKind;

typedef struct KsField
{
	const char *name;			/* unescaped */
	uint32_t	name_size;
	KsFieldKind kind;
	bool		has_nul;
	const char *data;			/* NUMBER, STRING, OBJECT, ARRAY, BYTES */
	uint32_t	size;
	uint32_t	raw_size;
	const char *raw;			/* the value as it stands in the JSON text, strings with quotes and escapes; NULL: no JSON */
	bool		json_null;		/* kind NULL: the value is JSON null, not SQL NULL (named in KsMessage.json_null) */
	uint8_t		modes;			/* KS_MODE_... */
	bool		optional;		/* it does not matter where the target has no such column */
} KsField;

typedef struct KsFieldList
{
	KsField    *fields;			/* grown by the parser, reused from message to message */
	int			count;
	int			capacity;
	bool		present;		/* false: the part was absent or null */
} KsFieldList;

/* How the fields of a row find their columns. */
typedef enum KsFieldOrder
{
	KS_BY_NAME,
	KS_BY_POSITION,				/* the fields are the target's columns in order; their names (column1 ...) are made up */
	KS_IS_VALUE					/* the one field is the message's value; its name is made up */
} KsFieldOrder;

/*
 * One parsed message.  Zeroed by its owner before the first use; the parser grows the arrays in it with malloc and
 * reuses them from message to message; ks_parsed_free() frees them.
 *
 * A key that is a JSON scalar is one field with an empty name.  "schema" and "key_schema" are what the message itself
 * says of its fields ("schema"/"payload" form, value and key independently): Connect types and semantic names.
 * "truncate" and "message" events have no field lists.
 */
typedef struct KsParsed
{
	char		op;				/* c u d r t m; 'd' for a tombstone; plain json: 'u' */
	bool		tombstone;
	bool		ignore;			/* nothing to apply (transaction metadata, heartbeat, op m) */
	KsFieldList key;			/* fields of the message key */
	KsFieldList before;
	KsFieldList after;
	KsFieldList unchanged;		/* format json: columns left out since they are unchanged; only the names */
	const char *schema;			/* raw JSON text of the value's "schema", NULL if none */
	size_t		schema_size;
	const char *key_schema;		/* same of the key */
	size_t		key_schema_size;
	KsFieldOrder order;			/* of "after" */
	bool		more;			/* the message has another row: see KsParserOps.next */
	const char *connector;		/* Debezium's connector that made the event, NULL if it is not told */
	size_t		connector_size;
	const char *server;			/* Debezium's source.name, NULL if it is not told */
	size_t		server_size;
	const char *commit_time;	/* digits of source.ts_us or (commit_in_ms) ts_ms, NULL if there are none */
	size_t		commit_time_size;
	bool		commit_in_ms;
} KsParsed;

/* Frees the arrays of a KsParsed and zeroes it.  In format/json_fields.c. */
extern void ks_parsed_free(KsParsed *parsed);

typedef struct KsParser KsParser;

typedef enum KsKeyFormat
{
	KS_KEY_DEFAULT,				/* json, but text for csv and syslog, bytes for raw */
	KS_KEY_JSON,
	KS_KEY_TEXT,
	KS_KEY_BYTES
} KsKeyFormat;

/* What options say of parsing; all text in UTF-8 and borrowed.  Zeroed means defaults. */
typedef struct KsParserOptions
{
	KsKeyFormat key_format;
	const char *paths;			/* json: JSON object column -> path, see format/json_path.h */
	bool		flat;			/* debezium: rows without the envelope */
	const char *connector;		/* debezium: which connector made the events, where they do not tell */
	bool		csv_header;		/* the first line of each message names the columns (or is skipped, with csv_columns) */
	const char *csv_columns;	/* JSON array of names */
	char		csv_delimiter;	/* 0: comma */
	char		csv_quote;		/* 0: double quote */
	const char *csv_null;		/* an unquoted field that is NULL; NULL: the empty one */
	const char *raw_column;		/* name of the field, NULL: "value", and KsParsed.order is KS_IS_VALUE */
	bool		syslog_lenient; /* what is no syslog is a message all the same */
	const char *syslog_time_zone;	/* of RFC 3164's timestamps; NULL: UTC */
} KsParserOptions;

typedef struct KsParserOps
{
	const char *name;			/* value of create_subscription(format) */
	KsParser   *(*create) (void);	/* malloc'ed state, freed by destroy; NULL when out of memory */
	void		(*destroy) (KsParser *parser);
	/* Takes options, once, before the first message.  Returns NULL, or what is wrong with them (in parser memory). */
	const char *(*configure) (KsParser *parser, const KsParserOptions *options);
	/*
	 * Parses one message into *out (which points into message and parser memory until the next "reset").
	 * Returns NULL, or the cause of failure in words (static or in parser memory), e.g. "invalid JSON at byte 12: ...".
	 */
	const char *(*parse) (KsParser *parser, const KsMessage *message, KsParsed *out);
	/*
	 * While out->more: goes on to the next row of the same message, in the same way.  The rows before stay valid but
	 * for the arrays of *out.  NULL for formats with one row per message.
	 */
	const char *(*next) (KsParser *parser, KsParsed *out);
	/* Frees what all messages since the last reset took from the parser's scratch memory. */
	void		(*reset) (KsParser *parser);
} KsParserOps;

extern const KsParserOps ks_debezium_parser;
extern const KsParserOps ks_json_parser;
extern const KsParserOps ks_csv_parser;
extern const KsParserOps ks_raw_parser;
extern const KsParserOps ks_syslog_parser;

/* Returns the parser of a format's name, or NULL.  In format/registry.c. */
extern const KsParserOps *ks_parser_ops(const char *format);

#endif							/* KS_PARSER_H */
