/*
 * format_options.c: see format_options.h.
 */
#include "postgres.h"

#include "apply/format_options.h"
#include "apply/metadata.h"
#include "control/hooks.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

/* Options that only some formats have. */
static const struct
{
	KsOptionId	id;
	const char *name;
	const char *format;
}			format_options[] =
{
	{KS_OPT_PATHS, "paths", "json"},
	{KS_OPT_FLAT, "flat", "debezium"},
	{KS_OPT_SOURCE_CONNECTOR, "source.connector", "debezium"},
	{KS_OPT_CSV_HEADER, "csv.header", "csv"},
	{KS_OPT_CSV_COLUMNS, "csv.columns", "csv"},
	{KS_OPT_CSV_DELIMITER, "csv.delimiter", "csv"},
	{KS_OPT_CSV_QUOTE, "csv.quote", "csv"},
	{KS_OPT_CSV_NULL, "csv.null", "csv"},
	{KS_OPT_RAW_COLUMN, "raw.column", "raw"},
	{KS_OPT_SYSLOG_LENIENT, "syslog.lenient", "syslog"},
	{KS_OPT_SYSLOG_TIME_ZONE, "syslog.time_zone", "syslog"},
};

/* An option's text in UTF-8, NULL for NULL. */
static const char *
utf8_option(const KsOptions *options, KsOptionId id)
{
	const char *text = options->text_value[id];

	return text ? pg_server_to_any(text, strlen(text), PG_UTF8) : NULL;
}

/* An option of one character. */
static char
character_option(const KsOptions *options, KsOptionId id, const char *name)
{
	const char *text = options->text_value[id];

	if (strlen(text) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": %s", name, text),
				 errhint("Allowed is one ASCII character.")));
	return text[0];
}

/* See format_options.h. */
KsParser *
ks_parser_create(const KsParserOps *ops, const KsOptions *options)
{
	KsParserOptions o = {0};
	const char *key_format = options->text_value[KS_OPT_KEY_FORMAT];
	const char *cause;
	KsParser   *parser;

	if (key_format)
		o.key_format = strcmp(key_format, "json") == 0 ? KS_KEY_JSON :
			strcmp(key_format, "text") == 0 ? KS_KEY_TEXT : KS_KEY_BYTES;
	if (options->given[KS_OPT_PATHS])
		o.paths = utf8_option(options, KS_OPT_PATHS);
	o.flat = options->bool_value[KS_OPT_FLAT];
	o.connector = utf8_option(options, KS_OPT_SOURCE_CONNECTOR);
	o.csv_header = options->bool_value[KS_OPT_CSV_HEADER];
	o.csv_columns = utf8_option(options, KS_OPT_CSV_COLUMNS);
	o.csv_delimiter = character_option(options, KS_OPT_CSV_DELIMITER, "csv.delimiter");
	o.csv_quote = character_option(options, KS_OPT_CSV_QUOTE, "csv.quote");
	o.csv_null = utf8_option(options, KS_OPT_CSV_NULL);
	o.raw_column = utf8_option(options, KS_OPT_RAW_COLUMN);
	o.syslog_lenient = options->bool_value[KS_OPT_SYSLOG_LENIENT];
	o.syslog_time_zone = utf8_option(options, KS_OPT_SYSLOG_TIME_ZONE);

	parser = ops->create();
	if (parser == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	cause = ops->configure(parser, &o);
	if (cause != NULL)
	{
		cause = pg_any_to_server(pstrdup(cause), strlen(cause), PG_UTF8);
		ops->destroy(parser);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s", cause)));
	}
	return parser;
}

/* Is it an offset such as +02, -0530 or +05:30? */
static bool
is_offset(const char *zone)
{
	return (zone[0] == '+' || zone[0] == '-') && strlen(zone) > 2 && strspn(zone + 1, "0123456789:") == strlen(zone + 1);
}

/*
 * ERROR unless the words are a zone (and not, say, BC), and a time with them behind it is a timestamp; those errors are
 * told in our words.
 */
static void
check_time_zone(const char *zone)
{
	char	   *text = psprintf("2000-01-01 00:00:00 %s", zone);
	MemoryContext old = CurrentMemoryContext;
	volatile bool valid = true;

	PG_TRY();
	{
		if (!is_offset(zone))
			(void) DirectFunctionCall2(timestamp_zone, CStringGetTextDatum(zone), TimestampGetDatum(0));
		(void) DirectFunctionCall3(timestamptz_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_DATA_EXCEPTION && geterrcode() != ERRCODE_INVALID_PARAMETER_VALUE)
			PG_RE_THROW();
		FlushErrorState();
		valid = false;
	}
	PG_END_TRY();
	if (!valid)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": %s", "syslog.time_zone", zone),
				 errhint("Allowed is a time zone as in a timestamp, such as Europe/Berlin, CET or +02.")));
}

/* See control/hooks.h. */
static void
format_check(const char *format, const KsOptions *options)
{
	const KsParserOps *ops = ks_parser_ops(format);

	for (int i = 0; i < lengthof(format_options); i++)
		if (options->given[format_options[i].id] && strcmp(format_options[i].format, format) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" is for format %s, not for %s", format_options[i].name, format_options[i].format,
							format)));
	ops->destroy(ks_parser_create(ops, options));
	(void) ks_metadata_parse(options->text_value[KS_OPT_METADATA_COLUMNS], NULL);
	if (options->given[KS_OPT_SYSLOG_TIME_ZONE])
		check_time_zone(options->text_value[KS_OPT_SYSLOG_TIME_ZONE]);
}

/* See format_options.h. */
void
ks_apply_init(void)
{
	ks_format_check_hook = format_check;
}
