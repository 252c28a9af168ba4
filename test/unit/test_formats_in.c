/*
 * The parsers of formats csv, syslog and raw, JSON paths and flat events: what each message becomes, row by row, and what
 * is refused with which words.
 */
#include "format/json_scan.c"
#undef likely_
#undef unlikely_
#include "format/json_fields.c"
#include "format/json_path.c"
#include "format/json_parse.c"
#include "format/debezium_parse.c"
#include "format/csv_parse.c"
#include "format/syslog_parse.c"
#include "format/raw_parse.c"

#include "tap.h"

static const KsParserOptions defaults;
static char text[65536];

/* Appends a list of fields to text as name=kind:data. */
static int
show(int used, const char *part, const KsFieldList *list)
{
	if (!list->present)
		return used;
	used += snprintf(text + used, sizeof(text) - used, "%s(", part);
	for (int i = 0; i < list->count; i++)
	{
		const KsField *f = &list->fields[i];

		if (f->kind == KS_FIELD_NULL && f->optional)
			continue;
		used += snprintf(text + used, sizeof(text) - used, "%.*s=%c%.*s%s,", (int) f->name_size, f->name, "0TFNSOAB"[f->kind],
						 f->kind == KS_FIELD_NULL ? 0 : (int) f->size, f->kind == KS_FIELD_NULL ? "" : f->data,
						 f->has_nul ? "!" : "");
	}
	return used + snprintf(text + used, sizeof(text) - used, ")");
}

/* What a message is in words: operation and parts of each row, or the cause of failure. */
static const char *
parse_bytes(const KsParserOps *ops, const KsParserOptions *options, const char *key, const char *value, size_t size,
			int64_t timestamp_ms)
{
	KsMessage	message = {.topic = "t", .timestamp_ms = timestamp_ms};
	KsParser   *parser = ops->create();
	KsParsed	out = {0};
	const char *error = ops->configure(parser, options);
	char	   *copy = malloc(size > 0 ? size : 1);
	int			used = 0;

	/* of exactly that size, for the sanitizer */
	if (value != NULL)
		memcpy(copy, value, size);
	message.key = key;
	message.key_size = key != NULL ? strlen(key) : 0;
	message.value = value != NULL ? copy : NULL;
	message.value_size = size;
	text[0] = '\0';
	if (error == NULL)
		error = ops->parse(parser, &message, &out);
	while (error == NULL)
	{
		used += snprintf(text + used, sizeof(text) - used, "%s%c", used > 0 ? " " : "", out.ignore ? '-' : out.op);
		used = show(used, "k", &out.key);
		used = show(used, "b", &out.before);
		used = show(used, "a", &out.after);
		if (!out.more)
			break;
		error = ops->next(parser, &out);
	}
	if (error != NULL)
		snprintf(text, sizeof(text), "ERROR %s", error);
	free(copy);
	ops->destroy(parser);
	ks_parsed_free(&out);
	return text;
}

static void
is(const KsParserOps *ops, const KsParserOptions *options, const char *key, const char *value, const char *expected)
{
	const char *got = parse_bytes(ops, options, key, value, value != NULL ? strlen(value) : 0, INT64_C(1704103200000));

	ok(strcmp(got, expected) == 0, "%s: %s is %s (%s)", ops->name, value != NULL ? value : "NULL", expected, got);
}

static void
test_csv(void)
{
	const KsParserOps *csv = &ks_csv_parser;
	KsParserOptions header = {.csv_header = true};
	KsParserOptions named = {.csv_columns = "[\"x\",\"y\"]", .csv_delimiter = ';', .csv_quote = '\'', .csv_null = "N"};
	KsParserOptions skipped = {.csv_header = true, .csv_columns = "[\"x\"]"};

	is(csv, &defaults, NULL, "1,a", "ua(column1=S1,column2=Sa,)");
	is(csv, &defaults, "k", "1\n\n\"\"\n", "uk(=Sk,)a(column1=S1,) uk(=Sk,)a(column1=0,) uk(=Sk,)a(column1=S,)");
	is(csv, &defaults, NULL, "a\rb\r\nc", "ua(column1=Sa,) ua(column1=Sb,) ua(column1=Sc,)");
	is(csv, &defaults, NULL, "\"a\"\"\"\"b\",\"\"\"\",\"x\r\n,y\"", "ua(column1=Sa\"\"b,column2=S\",column3=Sx\r\n,y,)");
	is(csv, &defaults, NULL, "\xef\xbb\xbf" "1", "ua(column1=S1,)");
	is(csv, &defaults, "1", NULL, "dk(=S1,)");
	is(csv, &defaults, NULL, NULL, "ERROR neither key nor value");
	is(csv, &defaults, NULL, "", "ERROR empty message");
	is(csv, &defaults, NULL, ",", "ua(column1=0,column2=0,)");
	is(csv, &defaults, NULL, "a\nb,\"c\nd", "ERROR invalid CSV in line 2: unterminated quoted field");
	is(csv, &defaults, NULL, "\"a\nb\"\nc\"", "ERROR invalid CSV in line 3: quote inside an unquoted field");
	is(csv, &defaults, NULL, "\"a\" ,b", "ERROR invalid CSV in line 1: text behind a quoted field");
	is(csv, &defaults, NULL, "a\xe4", "ERROR invalid UTF-8 at byte 1");
	is(csv, &defaults, "\xff", "a", "ERROR message key: invalid UTF-8 at byte 0");
	is(csv, &header, NULL, "a,b\n1,2\n,4", "ua(a=S1,b=S2,) ua(a=0,b=S4,)");
	is(csv, &header, NULL, "a,b\n", "-");
	is(csv, &header, NULL, "a,\"b\"\"c\"\n1", "ERROR invalid CSV in line 2: it has 1 fields, and there are 2 columns");
	is(csv, &header, NULL, "a,a\n1,2", "ERROR invalid CSV in line 1: a column name comes twice");
	is(csv, &header, NULL, "a,\n1,2", "ERROR invalid CSV in line 1: a column has no name");
	is(csv, &named, NULL, "N;'N'\n'it''s';", "ua(x=0,y=SN,) ua(x=Sit's,y=S,)");
	is(csv, &named, NULL, "1", "ERROR invalid CSV in line 1: it has 1 fields, and there are 2 columns");
	is(csv, &skipped, NULL, "whatever,it,is\n1", "ua(x=S1,)");
	ok(strcmp(parse_bytes(csv, &defaults, NULL, "a\0b,c", 5, 0), "ua(column1=Sa!,column2=Sc,)") == 0, "a null character is noted (%s)", text);
	{
		char	   *wide = malloc(4000);

		memset(wide, ',', 1599);
		wide[1599] = '\0';
		ok(strncmp(parse_bytes(csv, &defaults, NULL, wide, 1599, 0), "ua(column1=0,", 13) == 0, "1600 fields");
		wide[1599] = ',';
		wide[1600] = '\0';
		is(csv, &defaults, NULL, wide, "ERROR invalid CSV in line 1: more than 1600 fields");
		free(wide);
	}
}

static void
test_syslog(void)
{
	const KsParserOps *syslog = &ks_syslog_parser;
	KsParserOptions lenient = {.syslog_lenient = true};
	KsParserOptions berlin = {.syslog_time_zone = "Europe/Berlin"};

#define PRI13 "facility=N1,severity=N5,facility_text=Suser,severity_text=Snotice,"
	is(syslog, &defaults, NULL, "<13>1 - - - - - -", "ua(" PRI13 ")");
	is(syslog, &defaults, "k", "<13>1 2003-10-11T22:14:15.003Z h a 1 m [i x=\"1\" y=\"\\\"\\\\\\]\\n\" x=\"2\"][j] \xef\xbb\xbfm \n",
	   "uk(=Sk,)a(" PRI13 "timestamp=S2003-10-11T22:14:15.003Z,hostname=Sh,app_name=Sa,procid=S1,msgid=Sm,"
	   "structured_data=O{\"i\":{\"x\":[\"1\",\"2\"],\"y\":\"\\\"\\\\]\\\\n\"},\"j\":{}},message=Sm ,)");
	is(syslog, &defaults, NULL, "21 <13>1 - - - - - - 123", "ua(" PRI13 "message=S123,)");
	is(syslog, &defaults, NULL, "22 <13>1 - - - - - - 123\n", "ua(" PRI13 "message=S123,)");
	is(syslog, &defaults, NULL, "7 <13>1 - - - - - - 123", "ERROR invalid syslog at byte 0: the octet count is not the length of the message");
	is(syslog, &defaults, NULL, "<13>Oct 11 22:14:15 h su[1]: m",
	   "ua(" PRI13 "timestamp=S2023-10-11 22:14:15 UTC,hostname=Sh,app_name=Ssu,procid=S1,message=Sm,)");
	is(syslog, &berlin, NULL, "<13>Feb  3 01:02:03.5 h m",
	   "ua(" PRI13 "timestamp=S2024-02-03 01:02:03.5 Europe/Berlin,hostname=Sh,message=Sm,)");
	is(syslog, &defaults, NULL, "<13>Oct 11 22:14:15", "ua(" PRI13 "timestamp=S2023-10-11 22:14:15 UTC,message=S,)");
	is(syslog, &defaults, NULL, "<13>Oct 11 22:14:15x", "ERROR invalid syslog at byte 19: expected a space behind the time");
	is(syslog, &defaults, NULL, "<13>Feb 30 22:14:15 h m", "ERROR invalid syslog at byte 4: no year has this date near the time of the record");
	is(syslog, &defaults, NULL, "<13>Feb 29 2023 22:14:15 h m", "ERROR invalid syslog at byte 4: there is no such date");
	is(syslog, &defaults, NULL, "<13>", "ua(" PRI13 "message=S,)");
	is(syslog, &defaults, NULL, "x", "ERROR invalid syslog at byte 0: there is neither a priority nor a time");
	is(syslog, &lenient, NULL, "x", "ua(message=Sx,)");
	is(syslog, &lenient, NULL, "", "ua(message=S,)");
	is(syslog, &lenient, NULL, "\xe4<13>", "ua(message=S\xef\xbf\xbd<13>,)");
	is(syslog, &lenient, NULL, NULL, "ERROR neither key nor value");
	is(syslog, &defaults, "k", NULL, "dk(=Sk,)");
	ok(strstr(parse_bytes(syslog, &defaults, NULL, "<13>Oct 11 22:14:15 h m", 23, -1), "no year") != NULL,
	   "a record without a time gives no year (%s)", text);

	/* the year nearest to the record, around the turn of the year and over leap years */
	{
		static const struct
		{
			int64_t		record;
			const char *message;
			const char *date;
		}			years[] = {
			{INT64_C(1703980800000), "<13>Jan  1 00:00:00 h m", "2024-01-01"},	/* 2023-12-31 */
			{INT64_C(1704067200000), "<13>Dec 31 00:00:00 h m", "2023-12-31"},	/* 2024-01-01 */
			{INT64_C(1719792000000), "<13>Jan  1 00:00:00 h m", "2024-01-01"},	/* 2024-07-01 */
			{INT64_C(1735603200000), "<13>Jan  1 00:00:00 h m", "2025-01-01"},	/* 2024-12-31 */
			{INT64_C(1677628800000), "<13>Feb 29 00:00:00 h m", "2024-02-29"},	/* 2023-03-01 */
			{INT64_C(1646092800000), "<13>Feb 29 00:00:00 h m", "no year"},	/* 2022-03-01 */
			{INT64_C(0), "<13>Dec 31 00:00:00 h m", "1969-12-31"},
		};

		for (int i = 0; i < (int) (sizeof(years) / sizeof(years[0])); i++)
			ok(strstr(parse_bytes(syslog, &defaults, NULL, years[i].message, strlen(years[i].message), years[i].record),
					  years[i].date) != NULL, "%s becomes %s (%s)", years[i].message, years[i].date, text);
	}
}

static void
test_raw(void)
{
	KsParserOptions named = {.raw_column = "payload", .key_format = KS_KEY_JSON};

	is(&ks_raw_parser, &defaults, NULL, "", "ua(value=B,)");
	is(&ks_raw_parser, &defaults, "k", "x", "uk(=Bk,)a(value=Bx,)");
	is(&ks_raw_parser, &defaults, "k", NULL, "dk(=Bk,)a(value=0,)");
	is(&ks_raw_parser, &named, "{\"id\":1}", "x", "uk(id=N1,)a(payload=Bx,)");
	is(&ks_raw_parser, &named, "{", "x", "ERROR message key: invalid JSON at byte 1: unexpected end of text");
}

/* Option "paths" with one path. */
static void
path(const char *option, const char *value, const char *expected)
{
	KsParserOptions options = {.paths = option};

	is(&ks_json_parser, &options, NULL, value, expected);
}

static void
test_paths(void)
{
	path("{\"x\":\"a.b\"}", "{\"a\":{\"b\":1,\"c\":2},\"d\":3}", "ua(x=N1,d=N3,)");
	path("{\"x\":\"$.a[1].b\",\"y\":\"a\"}", "{\"a\":[0,{\"b\":\"\\u0041\"}]}", "ua(x=SA,y=A[0,{\"b\":\"\\u0041\"}],)");
	path("{\"x\":\"a.b\"}", "{\"a\":[{\"b\":1}]}", "ua(x=0,)");
	path("{\"x\":\"a.b\"}", "{\"a\":{\"b\":1},\"a\":2}", "ua(x=0,)");
	path("{\"x\":\"a\",\"y\":\"a\"}", "{\"a\":true,\"x\":1}", "ua(x=Ttrue,y=Ttrue,)");
	path("{\"x\":\"$\"}", "[1]", "ua(x=A[1],)");
	path("{\"x\":\"[1][0]\"}", "[1,[2]]", "ua(x=N2,)");
	path("{\"x\":\"[0]\"}", "5", "ua(x=0,)");
	path("{\"x\":\"a\"}", "[1]", "ERROR message value is not a JSON object");
	path("{\"x\":\"\\\"a.b\\\".c\"}", "{\"a.b\":{\"c\":1}}", "ua(x=N1,)");
	path("{\"x\":\"a.b\"}", "{\"a\":{\"b\":1}", "ERROR invalid JSON at byte 12: unexpected end of text");
	path("{\"x\":\"a.b\",\"y\":\"a\"}", "{\"a\":{\"b\":01}}", "ERROR invalid JSON at byte 11: expected a comma or }");
	path("{\"x\":\"a.b\"}", "{\"a\":{\"b\":1}} x", "ERROR invalid JSON at byte 14: text goes on after the JSON value");
	path("{\"x\":5}", "{}", "ERROR option \"paths\": it is not a JSON object of paths");
	path("{\"x\":\"a[\"}", "{}", "ERROR option \"paths\": \"a[\" is no path of column \"x\": a path is like a.b[0].\"c d\"");
}

static void
test_flat(void)
{
	KsParserOptions flat = {.flat = true};
	const KsParserOps *dbz = &ks_debezium_parser;

	is(dbz, &flat, "{\"id\":1}", "{\"id\":1,\"__op\":\"c\"}", "ck(id=N1,)a(id=N1,__op=Sc,)");
	is(dbz, &flat, "{\"id\":1}", "{\"id\":1,\"__deleted\":\"false\"}", "uk(id=N1,)a(id=N1,__deleted=Sfalse,)");
	is(dbz, &flat, "{\"id\":1}", "{\"id\":1,\"__deleted\":\"true\",\"__op\":\"u\"}", "dk(id=N1,)b(id=N1,__deleted=Strue,__op=Su,)");
	is(dbz, &flat, "{\"id\":1}", "{\"schema\":{},\"payload\":{\"id\":1,\"__deleted\":true}}", "dk(id=N1,)b(id=N1,__deleted=Ttrue,)");
	is(dbz, &flat, "{\"id\":1}", "{\"schema\":{},\"payload\":null}", "dk(id=N1,)");
	is(dbz, &flat, "{\"id\":1}", "{\"schema\":\"public\",\"payload\":{}}", "uk(id=N1,)a(schema=Spublic,payload=O{},)");
	is(dbz, &flat, NULL, "{\"__op\":\"t\"}", "t");
	is(dbz, &flat, NULL, "{\"__op\":\"m\"}", "ERROR \"__op\" is none of \"c\", \"u\", \"r\", \"d\", \"t\"");
	is(dbz, &flat, NULL, "{\"__deleted\":1}", "ERROR \"__deleted\" is neither \"true\" nor \"false\"");
}

int
main(void)
{
	test_csv();
	test_syslog();
	test_raw();
	test_paths();
	test_flat();
	return done_testing();
}
