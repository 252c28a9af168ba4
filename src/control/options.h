/*
 * options.h: the "options" jsonb of publishers, subscriptions and targets: one table declares every key, its type, default and
 * allowed values; parsing, checking and docs come from it (control/options.c).
 */
#ifndef KS_OPTIONS_H
#define KS_OPTIONS_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

typedef enum KsObjectKind
{
	KS_PUBLISHER = 1,
	KS_SUBSCRIPTION = 2,
	KS_TARGET = 3				/* of a subscription */
} KsObjectKind;

/* Keys; the order is that of the table in options.c. */
typedef enum KsOptionId
{
	/* publishers */
	KS_OPT_ALLOW_UNKEYED,		/* "allow_unkeyed" bool; default true for debezium, false for json */
	KS_OPT_TOPIC_PARTITIONS,	/* "topic.creation.default.partitions" int, -1 = broker default */
	KS_OPT_TOPIC_REPLICATION,	/* "topic.creation.default.replication.factor" int, -1 = broker default */
	KS_OPT_TOPIC_CONFIG,		/* "topic.creation.default.config" object of Kafka topic configs */
	KS_OPT_TRUNCATE,			/* "truncate": skip | event | error */
	KS_OPT_ORIGIN,				/* "origin": none | any; none = skip what our subscriptions applied */
	KS_OPT_SCHEMAS,				/* "schemas" bool: Debezium's JSON with embedded schemas */
	KS_OPT_DECIMAL_MODE,		/* "decimal.handling.mode": precise | double | string */
	KS_OPT_TIME_MODE,			/* "time.precision.mode": adaptive | adaptive_time_microseconds | connect */
	KS_OPT_INTERVAL_MODE,		/* "interval.handling.mode": numeric | string */
	KS_OPT_BINARY_MODE,			/* "binary.handling.mode": bytes | base64 | base64-url-safe | hex */
	/* subscriptions; KS_OPT_TIME_MODE and KS_OPT_BINARY_MODE too, as what the writer's are */
	KS_OPT_MAX_BATCH_ROWS,		/* "max_batch_rows" int */
	KS_OPT_MAX_BATCH_WAIT,		/* "max_batch_wait" int ms */
	KS_OPT_MAX_ROWS_PER_SECOND, /* "max_rows_per_second" int, 0 = no limit */
	KS_OPT_COLUMN_TYPES,		/* "column_types" object column -> SQL type */
	KS_OPT_IGNORE_UNKNOWN,		/* "ignore_unknown_columns" bool, default false: an unknown column is an error */
	KS_OPT_EVOLVE,				/* "evolve" bool: columns are added to plain targets */
	KS_OPT_CREATE_TARGET,		/* "create_target" bool: the worker makes the target */
	KS_OPT_CREATE_TARGET_NAME,	/* "create_target.name" string, may be qualified */
	KS_OPT_CREATE_TARGET_SCHEMA,	/* "create_target.schema" string */
	KS_OPT_CREATE_TARGET_MODE,	/* "create_target.mode": upsert | append */
	KS_OPT_CREATE_TARGET_KEY,	/* "create_target.key" array of names */
	KS_OPT_FULL_BEFORE,			/* "full_before" bool: format debezium's "before" is the whole old row */
	KS_OPT_FK_WAIT,				/* "fk_wait" int ms */
	KS_OPT_REPLICATION_ROLE,	/* "session_replication_role": origin | replica */
	KS_OPT_GROUP_ID,			/* "group.id" string */
	KS_OPT_ON_GAP,				/* "on_gap": error | rebuild */
	KS_OPT_DEDUPE,				/* "dedupe": on | off */
	KS_OPT_DEDUPE_HEADER,		/* "dedupe_header" string */
	KS_OPT_PARTITIONS,			/* "partitions" string such as 0-2 */
	KS_OPT_MAX_DEAD_LETTERS,	/* "max_dead_letters" int, 0 = as many as there may be */
	KS_OPT_DLQ_TOPIC,			/* "errors.deadletterqueue.topic.name" string */
	KS_OPT_DLQ_HEADERS,			/* "errors.deadletterqueue.context.headers.enable" bool */
	/* targets */
	KS_OPT_HYDRATE,				/* "hydrate" bool, default true: a target added later gets what was read before */
	KS_OPT_WINDOW,				/* "window" name of the key column that holds a window's begin (merge) */
	KS_OPT_RETAIN,				/* "retain" interval text: older windows are deleted (merge) */
	KS_OPT_GRACE,				/* "grace" interval text: older windows are closed (merge) */
	KS_OPT_LATE,				/* "late": dead_letter | drop, for events of closed windows (merge) */
	KS_OPT_PROGRESS_TOPIC,		/* "progress.topic" string: where positions of a target that is a topic are kept */
	KS_OPT_KEY_FORMAT,			/* "key_format": json | text | bytes */
	KS_OPT_METADATA_COLUMNS,	/* "metadata_columns" object column -> what of the message */
	KS_OPT_PATHS,				/* "paths" object column -> path */
	KS_OPT_FLAT,				/* "flat" bool: Debezium's events without envelope */
	KS_OPT_SOURCE_CONNECTOR,	/* "source.connector" string: whose events, where they do not tell */
	KS_OPT_CSV_HEADER,			/* "csv.header" bool */
	KS_OPT_CSV_COLUMNS,			/* "csv.columns" array of names */
	KS_OPT_CSV_DELIMITER,		/* "csv.delimiter" one character */
	KS_OPT_CSV_QUOTE,			/* "csv.quote" one character */
	KS_OPT_CSV_NULL,			/* "csv.null" string */
	KS_OPT_RAW_COLUMN,			/* "raw.column" string */
	KS_OPT_SYSLOG_LENIENT,		/* "syslog.lenient" bool */
	KS_OPT_SYSLOG_TIME_ZONE,	/* "syslog.time_zone" string */
	KS_OPT_CONFLICT,			/* "conflict": apply | newer:<column> | keep */
	KS_OPT_TOMBSTONE_RETENTION, /* "tombstone_retention" interval text: for how long deletes are remembered */
	KS_OPT_SERVER_NAME,			/* "server_name" string: this database's name, by which ties are decided */
	KS_OPT_REMOTE_OFFSETS,		/* "remote_offsets" bool */
	KS_OPT_COUNT
} KsOptionId;

typedef struct KsProperty
{
	char	   *name;
	char	   *value;
} KsProperty;

/* Effective options: the defaults overlaid with the jsonb; librdkafka properties that were given are apart. */
typedef struct KsOptions
{
	KsObjectKind kind;
	bool		given[KS_OPT_COUNT];
	bool		bool_value[KS_OPT_COUNT];
	int64		int_value[KS_OPT_COUNT];
	char	   *text_value[KS_OPT_COUNT];	/* strings and enums; objects and arrays as JSON text */
	int			nproperties;
	KsProperty *properties;		/* librdkafka properties passed through */
} KsOptions;

/*
 * Parses and checks "options" of an object of this kind and format; ERROR (naming key, value and what is allowed) for
 * anything unknown.  check_role: the role whose right to set librdkafka properties is checked, InvalidOid = no check
 * (already checked when stored).  Targets have no format (NULL), and no librdkafka properties.  Result in CurrentMemoryContext.
 */
extern KsOptions *ks_options_parse(KsObjectKind kind, const char *format, Jsonb *options, Oid check_role);

/*
 * The same of a definition that is not in force any more: a key that is not known now, but was when it was stored, goes
 * to *unknown (a list of names) instead of being an ERROR.
 */
extern KsOptions *ks_options_parse_old(KsObjectKind kind, const char *format, Jsonb *options, List **unknown);

/*
 * Is a partition named by option "partitions" (such as "0-2,5")?  spec NULL = all.  ERROR for a malformed spec.
 */
extern bool ks_partition_selected(const char *spec, int32 partition);

#endif							/* KS_OPTIONS_H */
