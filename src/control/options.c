/*
 * options.c: one table declares every key of the "options" jsonb; parsing and checking come from it, and
 * kafka.option_reference() shows it.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "control/options.h"
#include "control/shmem.h"
#include "fmgr.h"
#include "funcapi.h"
#include "kafka/properties.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

typedef enum KsOptionType
{
	KS_TYPE_BOOL,
	KS_TYPE_INT,
	KS_TYPE_TEXT,
	KS_TYPE_ENUM,
	KS_TYPE_OBJECT,
	KS_TYPE_STRING,				/* may be empty */
	KS_TYPE_NAMES				/* array of strings */
} KsOptionType;

typedef struct KsOptionDef
{
	KsOptionId	id;
	const char *name;
	KsObjectKind kind;
	KsOptionType type;
	const char *default_value;	/* as text; NULL = none */
	int64		min;
	int64		max;
	const char *allowed;		/* enums: words separated by " | " */
	const char *doc;
} KsOptionDef;

static const KsOptionDef option_table[] = {
	{KS_OPT_ALLOW_UNKEYED, "allow_unkeyed", KS_PUBLISHER, KS_TYPE_BOOL, NULL, 0, 0, NULL,
	"Publish tables that have no usable key, with null message keys; default true for format debezium, false for json."},
	{KS_OPT_TOPIC_PARTITIONS, "topic.creation.default.partitions", KS_PUBLISHER, KS_TYPE_INT, "-1", -1, 100000, NULL,
	"Partitions of topics that the publisher creates; -1 is the broker's default."},
	{KS_OPT_TOPIC_REPLICATION, "topic.creation.default.replication.factor", KS_PUBLISHER, KS_TYPE_INT, "-1", -1, 32767, NULL,
	"Replication factor of topics that the publisher creates; -1 is the broker's default."},
	{KS_OPT_TOPIC_CONFIG, "topic.creation.default.config", KS_PUBLISHER, KS_TYPE_OBJECT, "{}", 0, 0, NULL,
	"Kafka topic configs of topics that the publisher creates; cleanup.policy is compact for keyed tables unless named here."},
	{KS_OPT_TRUNCATE, "truncate", KS_PUBLISHER, KS_TYPE_ENUM, "skip", 0, 0, "skip | event | error",
	"What TRUNCATE becomes: nothing (counted), one event t in every partition, or an error."},
	{KS_OPT_ORIGIN, "origin", KS_PUBLISHER, KS_TYPE_ENUM, "none", 0, 0, "none | any",
	"Whether rows that this extension's subscriptions applied are published."},
	{KS_OPT_SCHEMAS, "schemas", KS_PUBLISHER, KS_TYPE_BOOL, "false", 0, 0, NULL,
	"Format debezium: put Connect's schema into every message."},
	{KS_OPT_DECIMAL_MODE, "decimal.handling.mode", KS_PUBLISHER, KS_TYPE_ENUM, "precise", 0, 0, "precise | double | string",
	"Format debezium: encoding of numeric and money."},
	{KS_OPT_TIME_MODE, "time.precision.mode", KS_PUBLISHER, KS_TYPE_ENUM, "adaptive", 0, 0,
		"adaptive | adaptive_time_microseconds | connect",
	"Format debezium: units of date, time and timestamp."},
	{KS_OPT_INTERVAL_MODE, "interval.handling.mode", KS_PUBLISHER, KS_TYPE_ENUM, "numeric", 0, 0, "numeric | string",
	"Format debezium: intervals as microseconds or as ISO 8601 text."},
	{KS_OPT_BINARY_MODE, "binary.handling.mode", KS_PUBLISHER, KS_TYPE_ENUM, "bytes", 0, 0,
		"bytes | base64 | base64-url-safe | hex",
	"Format debezium: encoding of bytea."},
	{KS_OPT_MAX_BATCH_ROWS, "max_batch_rows", KS_SUBSCRIPTION, KS_TYPE_INT, "10000", 1, 1000000, NULL,
	"Most messages that one transaction applies."},
	{KS_OPT_MAX_BATCH_WAIT, "max_batch_wait", KS_SUBSCRIPTION, KS_TYPE_INT, "0", 0, 60000, NULL,
	"Milliseconds to wait for a batch to fill; 0 applies what is there."},
	{KS_OPT_MAX_ROWS_PER_SECOND, "max_rows_per_second", KS_SUBSCRIPTION, KS_TYPE_INT, "0", 0, 1000000000, NULL,
	"Upper limit of the apply rate; 0 is none."},
	{KS_OPT_COLUMN_TYPES, "column_types", KS_SUBSCRIPTION, KS_TYPE_OBJECT, "{}", 0, 0, NULL,
	"SQL types of fields whose message does not tell scale or unit, by column name."},
	{KS_OPT_IGNORE_UNKNOWN, "ignore_unknown_columns", KS_SUBSCRIPTION, KS_TYPE_BOOL, "false", 0, 0, NULL,
	"Leave out fields that the target has no column for, instead of stopping with an error."},
	{KS_OPT_EVOLVE, "evolve", KS_SUBSCRIPTION, KS_TYPE_BOOL, "false", 0, 0, NULL,
		"Add columns to targets without queries for new fields, whose types come from column_types, the messages' schemas, the "
	"topic's foreign table or, but for format debezium, the JSON values themselves."},
	{KS_OPT_CREATE_TARGET, "create_target", KS_SUBSCRIPTION, KS_TYPE_BOOL, "false", 0, 0, NULL,
		"Create the target when the first message comes, with columns and types as for evolve, and the message key as primary "
	"key; for one topic, while there is no target. The options create_target and create_target.* are gone when it is there."},
	{KS_OPT_CREATE_TARGET_NAME, "create_target.name", KS_SUBSCRIPTION, KS_TYPE_TEXT, NULL, 0, 0, NULL,
		"Name of that table, may be with a schema; default is that of the source's table in events of Debezium, else the last "
	"part of the topic's name."},
	{KS_OPT_CREATE_TARGET_SCHEMA, "create_target.schema", KS_SUBSCRIPTION, KS_TYPE_TEXT, NULL, 0, 0, NULL,
		"Its schema, if neither create_target.name nor (where it exists) an event's source tells it; kafka.create_subscription "
	"sets it to the first of the caller's search_path."},
	{KS_OPT_CREATE_TARGET_MODE, "create_target.mode", KS_SUBSCRIPTION, KS_TYPE_ENUM, "upsert", 0, 0, "upsert | append",
	"Its mode; kafka.create_subscription sets it to its argument mode."},
	{KS_OPT_CREATE_TARGET_KEY, "create_target.key", KS_SUBSCRIPTION, KS_TYPE_NAMES, NULL, 0, 0, NULL,
		"Columns of its primary key, default is the fields of the message key; kafka.create_subscription sets it to its argument "
	"key."},
	{KS_OPT_FULL_BEFORE, "full_before", KS_SUBSCRIPTION, KS_TYPE_BOOL, "false", 0, 0, NULL,
		"Format debezium: the old row in events is whole (REPLICA IDENTITY FULL on all source tables), so that it tells the "
	"target's key where the message key does not."},
	{KS_OPT_BINARY_MODE, "binary.handling.mode", KS_SUBSCRIPTION, KS_TYPE_ENUM, "bytes", 0, 0,
		"bytes | base64 | base64-url-safe | hex",
		"Format debezium: how the writer encodes bytes, where neither a schema nor header pg_kafka_sync.binary tells; to be set "
	"for a Debezium with that mode."},
	{KS_OPT_TIME_MODE, "time.precision.mode", KS_SUBSCRIPTION, KS_TYPE_ENUM, "adaptive", 0, 0,
		"adaptive | adaptive_time_microseconds | connect",
		"Format debezium: units of the writer's times and timestamps, where neither a schema nor header pg_kafka_sync.time tells; "
	"to be set for a Debezium with that mode."},
	{KS_OPT_FK_WAIT, "fk_wait", KS_SUBSCRIPTION, KS_TYPE_INT, "30000", 0, 86400000, NULL,
	"Milliseconds that a foreign-key violation is retried before it counts as an error."},
	{KS_OPT_REPLICATION_ROLE, "session_replication_role", KS_SUBSCRIPTION, KS_TYPE_ENUM, "origin", 0, 0, "origin | replica",
	"replica: only ENABLE REPLICA triggers fire and foreign keys are not checked, as in native logical replication."},
	{KS_OPT_GROUP_ID, "group.id", KS_SUBSCRIPTION, KS_TYPE_TEXT, NULL, 0, 0, NULL,
	"Kafka consumer group that shows the offsets to Kafka's tools; default is the subscription's name."},
	{KS_OPT_ON_GAP, "on_gap", KS_SUBSCRIPTION, KS_TYPE_ENUM, "error", 0, 0, "error | rebuild",
	"Messages may have been lost before they were read: stop with an error, or rebuild all targets from what the log holds."},
	{KS_OPT_DEDUPE, "dedupe", KS_SUBSCRIPTION, KS_TYPE_ENUM, "on", 0, 0, "on | off",
		"Modes append and merge, and conflict keep: leave out messages that a publisher wrote again after a crash, by their header "
	"pg_kafka_sync.pos."},
	{KS_OPT_DEDUPE_HEADER, "dedupe_header", KS_SUBSCRIPTION, KS_TYPE_TEXT, NULL, 0, 0, NULL,
		"The header that tells repeats, for messages of other producers: a number that grows within a partition, or a "
	"producer's name, a slash and a number that grows with each of its messages."},
	{KS_OPT_PARTITIONS, "partitions", KS_SUBSCRIPTION, KS_TYPE_TEXT, NULL, 0, 0, NULL,
	"Partitions that this subscription reads, such as 0-2,5, or 3- for all from 3 on; default is all."},
	{KS_OPT_MAX_DEAD_LETTERS, "max_dead_letters", KS_SUBSCRIPTION, KS_TYPE_INT, "1000", 0, 1000000, NULL,
		"Dead letters that kafka.dead_letter may hold of this subscription, which stops before the next one; 0 is the most, "
	"1000000."},
	{KS_OPT_DLQ_TOPIC, "errors.deadletterqueue.topic.name", KS_SUBSCRIPTION, KS_TYPE_TEXT, NULL, 0, 0, NULL,
	"Topic that messages are set aside to with on_error dead_letter, instead of kafka.dead_letter; it must exist."},
	{KS_OPT_DLQ_HEADERS, "errors.deadletterqueue.context.headers.enable", KS_SUBSCRIPTION, KS_TYPE_BOOL, "true", 0, 0, NULL,
	"Add headers __connect.errors.* that say what failed to messages in that topic."},
	{KS_OPT_HYDRATE, "hydrate", KS_TARGET, KS_TYPE_BOOL, "true", 0, 0, NULL,
		"A target that is added to a subscription that has moved is filled from where the subscription began; false: it begins "
	"with the next message."},
	{KS_OPT_REMOTE_OFFSETS, "remote_offsets", KS_TARGET, KS_TYPE_BOOL, "false", 0, 0, NULL,
		"Foreign tables of postgres_fdw: keep the next offsets in a table pg_kafka_sync_offsets beside the target, on its server, "
	"which makes writing exactly once; modes append and merge need it."},
	{KS_OPT_WINDOW, "window", KS_TARGET, KS_TYPE_TEXT, NULL, 0, 0, NULL,
	"Mode merge: the key column that holds the begin of a row's window, a date or a timestamp."},
	{KS_OPT_RETAIN, "retain", KS_TARGET, KS_TYPE_TEXT, NULL, 0, 0, NULL,
	"Mode merge: windows older than this interval, such as 30 days, are deleted; needs window."},
	{KS_OPT_GRACE, "grace", KS_TARGET, KS_TYPE_TEXT, NULL, 0, 0, NULL,
	"Mode merge: windows older than this interval, such as 1 hour, take no more events; needs window."},
	{KS_OPT_LATE, "late", KS_TARGET, KS_TYPE_ENUM, "dead_letter", 0, 0, "dead_letter | drop",
	"Mode merge: what becomes of events of such windows: they go to the dead letters, or are dropped and counted."},
	{KS_OPT_PROGRESS_TOPIC, "progress.topic", KS_TARGET, KS_TYPE_TEXT, "__pg_kafka_sync_progress", 0, 0, NULL,
		"Targets that are topics: the compacted topic, on their Kafka server, that says which messages they have; it is made if "
	"it is missing."},
	{KS_OPT_KEY_FORMAT, "key_format", KS_SUBSCRIPTION, KS_TYPE_ENUM, NULL, 0, 0, "json | text | bytes",
		"What message keys are: JSON, or one value for the target's only key column; default is json for formats debezium and "
	"json, text for csv and syslog, bytes for raw."},
	{KS_OPT_METADATA_COLUMNS, "metadata_columns", KS_SUBSCRIPTION, KS_TYPE_OBJECT, "{}", 0, 0, NULL,
		"Columns of the target that take what Kafka knows of a message, by column name: topic, partition, offset, timestamp, "
	"key, value or headers."},
	{KS_OPT_PATHS, "paths", KS_SUBSCRIPTION, KS_TYPE_OBJECT, "{}", 0, 0, NULL,
	"Format json: columns whose values lie deeper in the message, by column name, such as {\"city\": \"address.city\", \"first\": \"items[0].id\"}."},
	{KS_OPT_FLAT, "flat", KS_SUBSCRIPTION, KS_TYPE_BOOL, "false", 0, 0, NULL,
	"Format debezium: events are rows without an envelope, as ExtractNewRecordState leaves them."},
	{KS_OPT_SOURCE_CONNECTOR, "source.connector", KS_SUBSCRIPTION, KS_TYPE_TEXT, NULL, 0, 0, NULL,
		"Format debezium: the connector that made the events, such as postgresql, mysql or oracle, where they neither tell it nor "
	"have schemas."},
	{KS_OPT_CSV_HEADER, "csv.header", KS_SUBSCRIPTION, KS_TYPE_BOOL, "false", 0, 0, NULL,
	"Format csv: the first line of each message names the columns; with csv.columns it is skipped."},
	{KS_OPT_CSV_COLUMNS, "csv.columns", KS_SUBSCRIPTION, KS_TYPE_NAMES, NULL, 0, 0, NULL,
	"Format csv: names of the fields; default, without csv.header, is the target's columns in order."},
	{KS_OPT_CSV_DELIMITER, "csv.delimiter", KS_SUBSCRIPTION, KS_TYPE_TEXT, ",", 0, 0, NULL,
	"Format csv: the character between fields."},
	{KS_OPT_CSV_QUOTE, "csv.quote", KS_SUBSCRIPTION, KS_TYPE_TEXT, "\"", 0, 0, NULL,
	"Format csv: the character around fields; it is doubled inside them."},
	{KS_OPT_CSV_NULL, "csv.null", KS_SUBSCRIPTION, KS_TYPE_STRING, "", 0, 0, NULL,
	"Format csv: a field without quotes that is NULL."},
	{KS_OPT_RAW_COLUMN, "raw.column", KS_SUBSCRIPTION, KS_TYPE_TEXT, NULL, 0, 0, NULL,
		"Format raw: the column that takes the message's value; default is the target's only column beside key and metadata, or "
	"the one named value."},
	{KS_OPT_SYSLOG_LENIENT, "syslog.lenient", KS_SUBSCRIPTION, KS_TYPE_BOOL, "false", 0, 0, NULL,
		"Format syslog: what is no syslog becomes a row with the text in column message, and characters that cannot be stored "
	"become U+FFFD, instead of stopping with an error."},
	{KS_OPT_SYSLOG_TIME_ZONE, "syslog.time_zone", KS_SUBSCRIPTION, KS_TYPE_TEXT, "UTC", 0, 0, NULL,
	"Format syslog: the time zone of RFC 3164's times, which have none."},
	{KS_OPT_CONFLICT, "conflict", KS_SUBSCRIPTION, KS_TYPE_TEXT, "apply", 0, 0, NULL,
		"A row that two databases change: apply (what comes overwrites what is there), newer:<column> (the greater value of that "
	"column wins), or keep (what is there wins)."},
	{KS_OPT_TOMBSTONE_RETENTION, "tombstone_retention", KS_SUBSCRIPTION, KS_TYPE_TEXT, "1 day", 0, 0, NULL,
	"With conflict newer: for how long deletes are remembered, so that older changes that arrive later find them."},
	{KS_OPT_SERVER_NAME, "server_name", KS_SUBSCRIPTION, KS_TYPE_TEXT, NULL, 0, 0, NULL,
		"With conflict newer: the name of this database in ties, which the greater name wins; default is the topic_prefix of the "
	"publisher that publishes the target, which the other side reads as source.name."},
};

/* Returns the declaration of a key for a kind of object, or NULL. */
static const KsOptionDef *
find_option(KsObjectKind kind, const char *name)
{
	for (int i = 0; i < lengthof(option_table); i++)
		if (option_table[i].kind == kind && strcmp(option_table[i].name, name) == 0)
			return &option_table[i];
	return NULL;
}

/* Is word one of the words of "a | b | c"? */
static bool
in_words(const char *word, const char *words)
{
	size_t		size = strlen(word);

	for (const char *w = words; w != NULL; w = strstr(w, " | ") ? strstr(w, " | ") + 3 : NULL)
		if (strncmp(w, word, size) == 0 && (w[size] == '\0' || w[size] == ' '))
			return size > 0;
	return false;
}

static void
bad_value(const KsOptionDef *def, const char *value)
{
	char	   *allowed;

	switch (def->type)
	{
		case KS_TYPE_BOOL:
			allowed = pstrdup("true or false");
			break;
		case KS_TYPE_INT:
			allowed = psprintf("an integer from " INT64_FORMAT " to " INT64_FORMAT, def->min, def->max);
			break;
		case KS_TYPE_ENUM:
			allowed = psprintf("one of: %s", def->allowed);
			break;
		case KS_TYPE_OBJECT:
			allowed = pstrdup("a JSON object");
			break;
		case KS_TYPE_STRING:
			allowed = pstrdup("a string");
			break;
		case KS_TYPE_NAMES:
			allowed = pstrdup("an array of strings");
			break;
		default:
			allowed = pstrdup("a non-empty string");
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": %s", def->name, value),
			 errhint("Allowed is %s.", allowed)));
}

/* Text of a scalar jsonb value ("true", "12", "abc"), or of a container as JSON; NULL for JSON null. */
static char *
jsonb_value_text(JsonbValue *v)
{
	switch (v->type)
	{
		case jbvNull:
			return NULL;
		case jbvString:
			return pnstrdup(v->val.string.val, v->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
		case jbvBool:
			return pstrdup(v->val.boolean ? "true" : "false");
		default:
			{
				Jsonb	   *j = JsonbValueToJsonb(v);

				return JsonbToCString(NULL, &j->root, VARSIZE(j));
			}
	}
}

/*
 * Stores the text of a value into its field of the result; ERROR when it does not fit the declaration.  is_object,
 * is_array: it is the JSON text of one.
 */
static void
set_option(KsOptions *options, const KsOptionDef *def, const char *text, bool is_object, bool is_array)
{
	char	   *end;

	options->text_value[def->id] = pstrdup(text);
	if (is_object != (def->type == KS_TYPE_OBJECT) || is_array != (def->type == KS_TYPE_NAMES))
		bad_value(def, text);
	switch (def->type)
	{
		case KS_TYPE_BOOL:
			if (!parse_bool(text, &options->bool_value[def->id]))
				bad_value(def, text);
			break;
		case KS_TYPE_INT:
			errno = 0;
			options->int_value[def->id] = strtoi64(text, &end, 10);
			if (errno != 0 || *end != '\0' || end == text ||
				options->int_value[def->id] < def->min || options->int_value[def->id] > def->max)
				bad_value(def, text);
			break;
		case KS_TYPE_ENUM:
			if (!in_words(text, def->allowed))
				bad_value(def, text);
			break;
		case KS_TYPE_TEXT:
			if (text[0] == '\0')
				bad_value(def, text);
			break;
		case KS_TYPE_OBJECT:
		case KS_TYPE_STRING:
		case KS_TYPE_NAMES:
			break;
	}
}

/* The word for a kind of object. */
static const char *
kind_name(KsObjectKind kind)
{
	return kind == KS_PUBLISHER ? "publisher" : kind == KS_SUBSCRIPTION ? "subscription" : "target";
}

static void
unknown_option(KsObjectKind kind, const char *name)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < lengthof(option_table); i++)
		if (option_table[i].kind == kind)
			appendStringInfo(&list, "%s%s", list.len ? ", " : "", option_table[i].name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown option \"%s\"", name),
			 errhint("Known options of a %s are: %s%s.", kind_name(kind), list.data,
					 kind == KS_TARGET ? "" : "; and librdkafka's own properties")));
}

/* Checks values that the type alone does not: the objects' members. */
static void
check_object(const KsOptionDef *def, JsonbContainer *object)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbValue	v;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_VALUE && (v.type == jbvBinary || v.type == jbvNull))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"%s\": its members must be strings, numbers or booleans", def->name)));
}

/* ERROR unless all elements of an array are strings. */
static void
check_names(const KsOptionDef *def, JsonbContainer *array, const char *text)
{
	JsonbIterator *it = JsonbIteratorInit(array);
	JsonbValue	v;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_ELEM && v.type != jbvString)
			bad_value(def, text);
}

/*
 * Parses and checks "options"; see options.h.  unknown: where keys that are not known go, NULL = they are an ERROR.
 */
static KsOptions *
parse_options(KsObjectKind kind, const char *format, Jsonb *json, Oid check_role, List **unknown)
{
	KsOptions  *options = palloc0(sizeof(KsOptions));
	JsonbIterator *it;
	JsonbValue	key;
	JsonbValue	value;
	JsonbIteratorToken token;

	options->kind = kind;
	for (int i = 0; i < lengthof(option_table); i++)
		if (option_table[i].kind == kind && option_table[i].default_value)
			set_option(options, &option_table[i], option_table[i].default_value,
					   option_table[i].type == KS_TYPE_OBJECT, false);
	if (kind == KS_PUBLISHER)
		options->bool_value[KS_OPT_ALLOW_UNKEYED] = strcmp(format, "debezium") == 0;

	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object")));
	options->properties = palloc0(sizeof(KsProperty) * Max(JB_ROOT_COUNT(json), 1));

	it = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		char	   *name;
		char	   *text;
		const KsOptionDef *def;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(key.val.string.val, key.val.string.len);
		(void) JsonbIteratorNext(&it, &value, true);
		text = jsonb_value_text(&value);
		if (text == NULL)
			continue;			/* null = default */
		def = find_option(kind, name);
		if (def)
		{
			bool		is_object = value.type == jbvBinary && JsonContainerIsObject(value.val.binary.data);
			bool		is_array = value.type == jbvBinary && !is_object;

			set_option(options, def, text, is_object, is_array);
			if (is_object)
				check_object(def, value.val.binary.data);
			else if (is_array)
				check_names(def, value.val.binary.data, text);
			options->given[def->id] = true;
			continue;
		}
		if (kind == KS_TARGET || !ks_property_known(name) || value.type == jbvBinary)
		{
			if (unknown == NULL)
				unknown_option(kind, name);
			*unknown = lappend(*unknown, name);
			continue;
		}
		if (OidIsValid(check_role))
			ks_property_check(name, text, KS_PLACE_OPTIONS, check_role);
		options->properties[options->nproperties].name = name;
		options->properties[options->nproperties].value = text;
		options->nproperties++;
	}
	return options;
}

/* See options.h. */
KsOptions *
ks_options_parse(KsObjectKind kind, const char *format, Jsonb *json, Oid check_role)
{
	return parse_options(kind, format, json, check_role, NULL);
}

/* See options.h. */
KsOptions *
ks_options_parse_old(KsObjectKind kind, const char *format, Jsonb *json, List **unknown)
{
	*unknown = NIL;
	return parse_options(kind, format, json, InvalidOid, unknown);
}

/* Is a partition named by option "partitions"?  See options.h. */
bool
ks_partition_selected(const char *spec, int32 partition)
{
	const char *p = spec;
	bool		selected = false;

	if (spec == NULL)
		return true;
	for (;;)
	{
		char	   *end;
		long		first = strtol(p, &end, 10);
		long		last = first;
		bool		valid = end != p && *p >= '0' && *p <= '9';

		if (valid && *end == '-')
		{
			p = end + 1;
			last = strtol(p, &end, 10);
			valid = end != p && *p >= '0' && *p <= '9' && last >= first;
			if (*p == '\0')
			{
				/* no end: what is added later, too */
				last = PG_INT32_MAX;
				valid = true;
			}
		}
		if (!valid || last > PG_INT32_MAX || (*end != ',' && *end != '\0'))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"partitions\": %s", spec),
					 errhint("Allowed are numbers and ranges, such as 0-2,5 or 3-.")));
		selected = selected || (partition >= first && partition <= last);
		if (*end == '\0')
			return selected;
		p = end + 1;
	}
}

PG_FUNCTION_INFO_V1(ks_option_reference);

/* kafka.option_reference(): the table above as rows (kind, name, type, default, allowed, description). */
Datum
ks_option_reference(PG_FUNCTION_ARGS)
{
	static const char *const types[] = {"boolean", "integer", "text", "enum", "object", "text", "array"};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < lengthof(option_table); i++)
	{
		const KsOptionDef *d = &option_table[i];
		Datum		values[6];
		bool		nulls[6] = {false};

		values[0] = CStringGetTextDatum(kind_name(d->kind));
		values[1] = CStringGetTextDatum(d->name);
		values[2] = CStringGetTextDatum(types[d->type]);
		nulls[3] = d->default_value == NULL;
		if (!nulls[3])
			values[3] = CStringGetTextDatum(d->default_value);
		nulls[4] = d->type != KS_TYPE_ENUM && d->type != KS_TYPE_INT;
		if (d->type == KS_TYPE_ENUM)
			values[4] = CStringGetTextDatum(d->allowed);
		else if (d->type == KS_TYPE_INT)
			values[4] = CStringGetTextDatum(psprintf(INT64_FORMAT " to " INT64_FORMAT, d->min, d->max));
		values[5] = CStringGetTextDatum(d->doc);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
