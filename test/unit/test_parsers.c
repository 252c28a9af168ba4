/*
 * The parsers of formats debezium and json: operations, keys, schemas, tombstones, what is ignored and what is refused.
 */
#include "format/json_scan.c"
#undef likely_
#undef unlikely_
#include "format/json_fields.c"
#include "format/json_path.c"
#include "format/json_parse.c"
#include "format/debezium_parse.c"

#include "tap.h"

static KsParsed out;
static KsParser *parser;

/* Parses; NULL stands for none. */
static const char *
parse(const KsParserOps *ops, const char *key, const char *value)
{
	KsMessage	message = {0};

	message.topic = "shop.public.item";
	message.key = key;
	message.key_size = key != NULL ? strlen(key) : 0;
	message.value = value;
	message.value_size = value != NULL ? strlen(value) : 0;
	ops->reset(parser);
	return ops->parse(parser, &message, &out);
}

/* The list as "name=kind:data,..." or "-" if it is not present. */
static const char *
show(const KsFieldList *list)
{
	static char text[4][512];
	static int	next;
	char	   *result = text[next = (next + 1) % 4];
	int			used = 0;

	if (!list->present)
		return "-";
	result[0] = '\0';
	for (int i = 0; i < list->count; i++)
	{
		const KsField *f = &list->fields[i];

		used += snprintf(result + used, sizeof(text[0]) - used, "%s%.*s=%c%.*s", i > 0 ? "," : "",
						 (int) f->name_size, f->name, "0TFNSOAB"[f->kind], (int) f->size, f->data);
		if (f->json_null)
			used += snprintf(result + used, sizeof(text[0]) - used, "!");
	}
	return result;
}

/* A good message. */
static void
good(const KsParserOps *ops, const char *key, const char *value, char op, const char *key_fields, const char *before,
	 const char *after)
{
	const char *error = parse(ops, key, value);

	ok(error == NULL && out.op == op && !out.ignore && strcmp(show(&out.key), key_fields) == 0 &&
	   strcmp(show(&out.before), before) == 0 && strcmp(show(&out.after), after) == 0,
	   "%s: %s %s -> %c key %s before %s after %s (%s)", ops->name, key ? key : "NULL", value ? value : "NULL",
	   out.op ? out.op : '?', show(&out.key), show(&out.before), show(&out.after), error ? error : "no error");
}

static void
bad(const KsParserOps *ops, const char *key, const char *value, const char *expected)
{
	const char *error = parse(ops, key, value);

	ok(error != NULL && strcmp(error, expected) == 0, "%s: %s %s is refused: %s (%s)", ops->name,
	   key ? key : "NULL", value ? value : "NULL", expected, error ? error : "no error");
}

static void
ignored(const KsParserOps *ops, const char *key, const char *value)
{
	const char *error = parse(ops, key, value);

	ok(error == NULL && out.ignore, "%s: %s %s is ignored (%s)", ops->name, key ? key : "NULL",
	   value ? value : "NULL", error ? error : "no error");
}

#define SCHEMA "{\"type\":\"struct\",\"fields\":[]}"

int
main(void)
{
	const KsParserOps *dbz = &ks_debezium_parser;
	const KsParserOps *json = &ks_json_parser;

	parser = dbz->create();

	good(dbz, "{\"id\":1}", "{\"before\":null,\"after\":{\"id\":1,\"name\":\"a\"},\"source\":{\"lsn\":1,\"x\":[{}]},"
		 "\"transaction\":null,\"op\":\"c\",\"ts_ms\":1}", 'c', "id=N1", "-", "id=N1,name=Sa");
	good(dbz, "{\"id\":1}", "{\"op\":\"u\",\"after\":{\"id\":2},\"before\":{\"id\":1}}", 'u', "id=N1", "id=N1", "id=N2");
	good(dbz, NULL, "{\"op\":\"r\",\"after\":{}}", 'r', "-", "-", "");
	good(dbz, "{\"id\":1}", "{\"op\":\"d\",\"before\":{\"id\":1,\"v\":null},\"after\":null}", 'd', "id=N1", "id=N1,v=0null", "-");
	good(dbz, "{\"id\":1}", "{\"op\":\"d\"}", 'd', "id=N1", "-", "-");
	good(dbz, NULL, "{\"op\":\"t\",\"before\":null,\"after\":null}", 't', "-", "-", "-");
	good(dbz, "{\"id\":1}", NULL, 'd', "id=N1", "-", "-");
	ok(out.tombstone, "a null value is a tombstone");
	good(dbz, "{\"id\":1}", "{\"schema\":null,\"payload\":null}", 'd', "id=N1", "-", "-");
	ok(out.tombstone, "so is a null payload");
	good(dbz, "7", "{\"op\":\"c\",\"after\":{\"id\":7}}", 'c', "=N7", "-", "id=N7");
	good(dbz, "\"k\"", "{\"op\":\"c\",\"after\":{\"id\":7}}", 'c', "=Sk", "-", "id=N7");
	good(dbz, "null", "{\"op\":\"c\",\"after\":{\"id\":7}}", 'c', "-", "-", "id=N7");
	good(dbz, "{\"schema\":" SCHEMA ",\"payload\":{\"id\":1}}",
		 "{\"schema\":" SCHEMA ",\"payload\":{\"op\":\"c\",\"after\":{\"id\":1}}}", 'c', "id=N1", "-", "id=N1");
	ok(out.schema_size == strlen(SCHEMA) && memcmp(out.schema, SCHEMA, out.schema_size) == 0 &&
	   out.key_schema_size == strlen(SCHEMA) && memcmp(out.key_schema, SCHEMA, out.key_schema_size) == 0,
	   "schemas of value and key");
	good(dbz, "{\"payload\":{\"id\":1},\"schema\":" SCHEMA "}", "{\"op\":\"c\",\"after\":{\"id\":1}}", 'c', "id=N1", "-", "id=N1");
	ok(out.schema == NULL && out.key_schema != NULL, "a schema in the key only");
	good(dbz, "{\"id\":1}", "{\"payload\":{\"op\":\"c\",\"after\":{\"id\":1}},\"schema\":" SCHEMA "}", 'c', "id=N1", "-", "id=N1");
	ok(out.schema != NULL && out.key_schema == NULL, "a schema in the value only");
	good(dbz, "{\"schema\":{\"type\":\"int32\"},\"payload\":5}", "{\"op\":\"c\",\"after\":{\"id\":5}}", 'c', "=N5", "-", "id=N5");
	good(dbz, "{\"schema\":\"s\",\"payload\":1}", "{\"op\":\"c\",\"after\":{\"id\":5}}", 'c', "schema=Ss,payload=N1", "-", "id=N5");
	good(dbz, "{\"id\":1}", "{\"op\":\"c\",\"after\":{\"a\":{\"b\":1},\"c\":[1,2],\"d\":true,\"e\":false,\"f\":\"x\\ny\"}}",
		 'c', "id=N1", "-", "a=O{\"b\":1},c=A[1,2],d=Ttrue,e=Ffalse,f=Sx\ny");
	good(dbz, "{\"id\":1}", "{\"\\u006fp\":\"c\",\"after\":{\"id\":5}}", 'c', "id=N1", "-", "id=N5");
	good(dbz, "{\"id\":1}", "{\"op\":\"c\",\"after\":null,\"after\":{\"id\":5}}", 'c', "id=N1", "-", "id=N5");

	ignored(dbz, NULL, "{\"op\":\"m\",\"message\":{\"prefix\":\"p\",\"content\":\"\"}}");
	ignored(dbz, "{\"id\":\"1\"}", "{\"status\":\"BEGIN\",\"id\":\"571:1\",\"event_count\":null,\"data_collections\":null,\"ts_ms\":1}");
	ignored(dbz, "{\"id\":\"1\"}", "{\"schema\":" SCHEMA ",\"payload\":{\"status\":\"END\",\"id\":\"571:1\",\"event_count\":2}}");
	ignored(dbz, NULL, NULL);

	bad(dbz, "{\"id\":1}", "", "empty message");
	bad(dbz, "{\"id\":1}", "{}", "not a Debezium event: no \"op\"");
	bad(dbz, "{\"id\":1}", "{\"id\":1,\"name\":\"x\"}", "not a Debezium event: no \"op\"");
	bad(dbz, "{\"id\":1}", "{\"status\":\"BEGIN\"}", "not a Debezium event: no \"op\"");
	bad(dbz, "{\"id\":1}", "[]", "message value is not a JSON object");
	bad(dbz, "{\"id\":1}", "x", "invalid JSON at byte 0: expected a JSON value");
	bad(dbz, "{\"id\":1}", "{\"op\":\"c\",\"after\":{\"id\":1}", "invalid JSON at byte 26: unexpected end of text");
	bad(dbz, "{\"id\":1}", "{\"op\":\"c\",\"after\":{\"id\":1}}}", "invalid JSON at byte 27: text goes on after the JSON value");
	bad(dbz, "{\"id\":1}", "{\"op\":\"c\",\"after\":{\"id\":1},\"source\":{\"a\":\"\xff\"}}", "invalid JSON at byte 42: invalid UTF-8");
	bad(dbz, "{\"id\":1}", "{\"op\":\"c\"}", "no \"after\" in an event with op \"c\"");
	bad(dbz, "{\"id\":1}", "{\"op\":\"u\",\"after\":null}", "no \"after\" in an event with op \"u\"");
	bad(dbz, "{\"id\":1}", "{\"op\":\"c\",\"after\":5}", "\"after\" is neither an object nor null");
	bad(dbz, "{\"id\":1}", "{\"op\":\"c\",\"before\":\"x\"}", "\"before\" is neither an object nor null");
	bad(dbz, "{\"id\":1}", "{\"op\":1}", "\"op\" is not a string of one letter");
	bad(dbz, "{\"id\":1}", "{\"op\":\"create\"}", "\"op\" is not a string of one letter");
	bad(dbz, "{\"id\":1}", "{\"op\":\"x\"}", "unknown op \"x\" in a Debezium event");
	bad(dbz, "{\"id\":1}", "{\"op\":\"\\u0000\"}", "unknown op \"?\" in a Debezium event");
	bad(dbz, "{\"id\":1}", "{\"schema\":null,\"payload\":3}", "\"payload\" is neither an object nor null");
	bad(dbz, "", "{\"op\":\"d\"}", "message key: invalid JSON at byte 0: unexpected end of text");
	bad(dbz, "abc", "{\"op\":\"d\"}", "message key: invalid JSON at byte 0: expected a JSON value");

	good(json, "{\"id\":1}", "{\"id\":1,\"a\":\"x\",\"b\":null,\"j\":{\"k\":[]}}", 'u', "id=N1", "-", "id=N1,a=Sx,b=0null,j=O{\"k\":[]}");
	good(json, "\"k\"", "{\"op\":\"x\"}", 'u', "=Sk", "-", "op=Sx");
	good(json, "{\"id\":1}", NULL, 'd', "id=N1", "-", "-");
	ok(out.tombstone, "a null value is a tombstone");
	good(json, NULL, "{}", 'u', "-", "-", "");
	good(json, "{\"schema\":{},\"payload\":1}", NULL, 'd', "schema=O{},payload=N1", "-", "-");
	bad(json, NULL, NULL, "neither key nor value");
	bad(json, "1", "", "empty message");
	bad(json, "1", "[1]", "message value is not a JSON object");
	bad(json, "1", "null", "message value is not a JSON object");
	bad(json, "1", "{\"a\":1", "invalid JSON at byte 6: unexpected end of text");
	bad(json, "1", " 7 x", "invalid JSON at byte 3: text goes on after the JSON value");

	/* the header that tells JSON null from SQL NULL */
	{
		KsMessage	message = {0};

		message.value = "{\"a\":null,\"b\":null,\"c\":1}";
		message.value_size = strlen(message.value);
		message.json_null = "[\"\\u0062\",\"c\",\"other\"]";
		message.json_null_size = strlen(message.json_null);
		ok(json->parse(parser, &message, &out) == NULL && strcmp(show(&out.after), "a=0null,b=0null!,c=N1") == 0,
		   "json_null marks the columns it names: %s", show(&out.after));
		message.json_null = "a,b";
		message.json_null_size = 3;
		ok(json->parse(parser, &message, &out) != NULL, "a list that is no JSON array is refused");
		message.json_null = "[\"a\"";
		message.json_null_size = 4;
		ok(json->parse(parser, &message, &out) != NULL, "as is one without an end");
		message.json_null = "[\"a\"]";
		message.json_null_size = 5;
		message.unchanged = "[\"x\\u0079\", \"z\"]";
		message.unchanged_size = strlen(message.unchanged);
		ok(json->parse(parser, &message, &out) == NULL && out.unchanged.count == 2 &&
		   out.unchanged.fields[0].name_size == 2 && memcmp(out.unchanged.fields[0].name, "xy", 2) == 0 &&
		   strcmp(show(&out.after), "a=0null!,b=0null,c=N1") == 0, "the header of unchanged columns is read");
		message.unchanged = "[1]";
		message.unchanged_size = 3;
		ok(json->parse(parser, &message, &out) != NULL, "and refused if it has no names");
		message.unchanged = NULL;
		ok(json->parse(parser, &message, &out) == NULL && out.unchanged.count == 0 && !out.unchanged.present,
		   "without it nothing is unchanged");
	}

	/* many fields */
	{
		char	   *text = malloc(40 * 2000);
		int			used = sprintf(text, "{");

		for (int i = 0; i < 2000; i++)
			used += sprintf(text + used, "%s\"column_%d\":%d", i > 0 ? "," : "", i, i);
		sprintf(text + used, "}");
		ok(parse(json, NULL, text) == NULL && out.after.count == 2000 && out.after.fields[1999].size == 4, "2000 fields");
		free(text);
	}
	ks_parsed_free(&out);
	ok(out.after.fields == NULL && out.after.capacity == 0, "a freed result is empty");
	dbz->destroy(parser);
	return done_testing();
}
