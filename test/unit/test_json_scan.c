/*
 * The JSON scanner: what it takes, what it refuses and where, unescaping, depth, the end of the buffer.
 */
#include "format/json_scan.c"

#include "tap.h"

/* Copies text to the end of an allocation, so that reading on is noticed, and scans one value and the end. */
static bool
scan(const char *text, size_t size, KsArena *arena, KsField *value, KsJson *json, char **copy)
{
	*copy = malloc(size > 0 ? size : 1);
	memcpy(*copy, text, size);
	ks_json_init(json, *copy, size, arena);
	return ks_json_value(json, value) && ks_json_finish(json);
}

static void
good(const char *text)
{
	KsArena		arena = {0};
	KsField		value;
	KsJson		json;
	char	   *copy;
	bool		result = scan(text, strlen(text), &arena, &value, &json, &copy);

	ok(result, "takes %.60s (%s)", text, json.error ? json.error : "");
	free(copy);
	ks_arena_free(&arena);
}

static void
bad(const char *text, size_t at, const char *error)
{
	KsArena		arena = {0};
	KsField		value;
	KsJson		json;
	char	   *copy;
	bool		result = scan(text, strlen(text), &arena, &value, &json, &copy);

	ok(!result && json.error_at == at && strcmp(json.error, error) == 0, "refuses %.60s at %zu: %s (got %zu: %s)",
	   text, at, error, json.error_at, json.error ? json.error : "");
	/* skipping checks as much as scanning does */
	ks_json_init(&json, copy, strlen(text), &arena);
	ok(!(ks_json_skip(&json) && ks_json_finish(&json)), "skipping refuses it, too");
	free(copy);
	ks_arena_free(&arena);
}

static void
string(const char *text, const char *content, size_t size, bool has_nul)
{
	KsArena		arena = {0};
	KsField		value = {0};
	KsJson		json;
	char	   *copy;
	bool		result = scan(text, strlen(text), &arena, &value, &json, &copy);

	ok(result && value.kind == KS_FIELD_STRING && value.size == size && memcmp(value.data, content, size) == 0 &&
	   value.has_nul == has_nul && value.raw_size == strlen(text), "content of %.60s", text);
	free(copy);
	ks_arena_free(&arena);
}

static void
kind(const char *text, KsFieldKind expected, const char *data)
{
	KsArena		arena = {0};
	KsField		value = {0};
	KsJson		json;
	char	   *copy;
	bool		result = scan(text, strlen(text), &arena, &value, &json, &copy);

	ok(result && value.kind == expected && value.size == strlen(data) && memcmp(value.data, data, value.size) == 0,
	   "kind of %s", text);
	free(copy);
	ks_arena_free(&arena);
}

static void
nested(int depth, bool expected)
{
	KsArena		arena = {0};
	KsField		value;
	KsJson		json;
	char	   *text = malloc(2 * depth);

	memset(text, '[', depth);
	memset(text + depth, ']', depth);
	ks_json_init(&json, text, 2 * depth, &arena);
	ok((ks_json_value(&json, &value) && ks_json_finish(&json)) == expected, "%d levels %s", depth,
	   expected ? "are accepted" : "are refused");
	free(text);
}

/* Every prefix of valid JSON that is not valid itself is refused without reading beyond it. */
static void
prefixes(const char *text)
{
	KsArena		arena = {0};
	int			accepted = 0;

	for (size_t size = 0; size < strlen(text); size++)
	{
		KsField		value;
		KsJson		json;
		char	   *copy;

		if (scan(text, size, &arena, &value, &json, &copy))
			accepted++;
		free(copy);
		ks_arena_reset(&arena);
	}
	ok(accepted == 0, "no prefix of %.40s is accepted", text);
	ks_arena_free(&arena);
}

int
main(void)
{
	good("{}");
	good("[]");
	good(" \t\r\n{ \"a\" : [ 1 , { } , [ ] , null ] , \"b\" : \"x\" } \n");
	good("0");
	good("-0");
	good("-0.0e-0");
	good("1E+9");
	good("123456789012345678901234567890.5");
	good("\"\"");
	good("[[],[[]],{\"a\":{}},\"\"]");
	good("{\"a\":1,\"a\":2}");
	good("\"\x7f\"");

	bad("", 0, "unexpected end of text");
	bad("  ", 2, "unexpected end of text");
	bad("{", 1, "unexpected end of text");
	bad("{]", 1, "expected a member name");
	bad("[}", 1, "expected a JSON value");
	bad("[1}", 2, "expected a comma or ]");
	bad("{\"a\":1]", 6, "expected a comma or }");
	bad("[1,]", 3, "expected a JSON value");
	bad("[,1]", 1, "expected a JSON value");
	bad("{\"a\":1,}", 7, "expected a member name");
	bad("{\"a\"}", 4, "expected a colon");
	bad("{\"a\" 1}", 5, "expected a colon");
	bad("{\"a\":}", 5, "expected a JSON value");
	bad("{a:1}", 1, "expected a member name");
	bad("{'a':1}", 1, "expected a member name");
	bad("{1:1}", 1, "expected a member name");
	bad("[1 2]", 3, "expected a comma or ]");
	bad("1 2", 2, "text goes on after the JSON value");
	bad("{} x", 3, "text goes on after the JSON value");
	bad("01", 1, "text goes on after the JSON value");
	bad("1.", 2, "unexpected end of text");
	bad("1.x", 2, "expected a digit");
	bad(".5", 0, "expected a JSON value");
	bad("+1", 0, "expected a JSON value");
	bad("-", 1, "unexpected end of text");
	bad("-x", 1, "expected a digit");
	bad("1e", 2, "unexpected end of text");
	bad("1e+", 3, "unexpected end of text");
	bad("0x10", 1, "text goes on after the JSON value");
	bad("NaN", 0, "expected a JSON value");
	bad("Infinity", 0, "expected a JSON value");
	bad("tru", 0, "expected a JSON value");
	bad("trux", 0, "expected a JSON value");
	bad("nulll", 4, "text goes on after the JSON value");
	bad("True", 0, "expected a JSON value");
	bad("\"abc", 4, "unterminated string");
	bad("\"abcdefghijklmnopqrstuvw", 24, "unterminated string");
	bad("\"a\nb\"", 2, "control character in a string");
	bad("\"abcdefghijklmnopqrs\x1f\"", 20, "control character in a string");
	bad("\"\\x\"", 1, "invalid escape sequence");
	bad("\"\\", 2, "unexpected end of text");
	bad("\"\\u12g4\"", 1, "\\u is not followed by four hexadecimal digits");
	bad("\"\\u12", 1, "\\u is not followed by four hexadecimal digits");
	bad("\"\\ud800\"", 1, "unpaired surrogate");
	bad("\"\\ud800\\u0041\"", 1, "unpaired surrogate");
	bad("\"\\ud800\\n1234567\"", 1, "unpaired surrogate");
	bad("\"\\udc00\"", 1, "unpaired surrogate");
	bad("\"\x80\"", 1, "invalid UTF-8");
	bad("\"\xc0\x80\"", 1, "invalid UTF-8");
	bad("\"\xc1\xbf\"", 1, "invalid UTF-8");
	bad("\"\xc3\"", 1, "invalid UTF-8");
	bad("\"\xe0\x9f\xbf\"", 1, "invalid UTF-8");
	bad("\"\xed\xa0\x80\"", 1, "invalid UTF-8");
	bad("\"\xe2\x82\"", 1, "invalid UTF-8");
	bad("\"\xf0\x8f\xbf\xbf\"", 1, "invalid UTF-8");
	bad("\"\xf4\x90\x80\x80\"", 1, "invalid UTF-8");
	bad("\"\xf5\x80\x80\x80\"", 1, "invalid UTF-8");
	bad("\"\xff\"", 1, "invalid UTF-8");
	bad("\"ok \xc3\xa9 0123456789abcdef \xfe\"", 24, "invalid UTF-8");
	bad("\xef\xbb\xbf{}", 0, "expected a JSON value");

	string("\"\"", "", 0, false);
	string("\"plain\"", "plain", 5, false);
	string("\"a\\\"b\\\\c\\/d\\b\\f\\n\\r\\t\"", "a\"b\\c/d\b\f\n\r\t", 12, false);
	string("\"\\u0041\\u00e9\\u20AC\\ud83d\\ude00\"", "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 10, false);
	string("\"\\u0000\"", "\0", 1, true);
	string("\"a\\u0000b\"", "a\0b", 3, true);
	string("\"\\uffff\\udbff\\udfff\"", "\xef\xbf\xbf\xf4\x8f\xbf\xbf", 7, false);
	string("\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 0123456789abcdef\"", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 0123456789abcdef", 26, false);
	string("\"0123456789abcdef0123456789abcde\\n\"", "0123456789abcdef0123456789abcde\n", 32, false);

	kind("null", KS_FIELD_NULL, "null");
	kind("true", KS_FIELD_TRUE, "true");
	kind("false", KS_FIELD_FALSE, "false");
	kind("-12.50e3", KS_FIELD_NUMBER, "-12.50e3");
	kind("{\"a\": [1]}", KS_FIELD_OBJECT, "{\"a\": [1]}");
	kind("[1, 2]", KS_FIELD_ARRAY, "[1, 2]");

	nested(1, true);
	nested(64, true);
	nested(65, true);
	nested(KS_JSON_MAX_DEPTH, true);
	nested(KS_JSON_MAX_DEPTH + 1, false);
	nested(1000000, false);

	prefixes("{\"id\":-1.5e+10,\"name\":\"caf\xc3\xa9 \\ud83d\\ude00\",\"x\":[true,false,null,{}],\"long\":\"0123456789abcdef0123456789\"}");

	/* iteration */
	{
		const char *text = " { \"a\" : 1 , \"\\u0062\" : [ 2 , \"x\" ] , \"c\" : { } } ";
		KsArena		arena = {0};
		KsJson		json;
		KsField		member;
		KsField		element;
		bool		first = true;
		bool		first_element = true;

		ks_json_init(&json, text, strlen(text), &arena);
		ok(ks_json_peek(&json) == '{', "an object");
		ok(ks_json_next_member(&json, &first, &member) == 1 && member.name_size == 1 && member.name[0] == 'a' &&
		   ks_json_value(&json, &member) && member.kind == KS_FIELD_NUMBER, "first member");
		ok(ks_json_next_member(&json, &first, &member) == 1 && member.name_size == 1 && member.name[0] == 'b',
		   "an escaped name");
		ok(ks_json_peek(&json) == '[' && ks_json_next_element(&json, &first_element) == 1 &&
		   ks_json_value(&json, &element) && ks_json_next_element(&json, &first_element) == 1 &&
		   ks_json_value(&json, &element) && element.kind == KS_FIELD_STRING &&
		   ks_json_next_element(&json, &first_element) == 0, "elements");
		ok(ks_json_next_member(&json, &first, &member) == 1 && ks_json_skip(&json), "a member skipped");
		ok(ks_json_next_member(&json, &first, &member) == 0 && ks_json_finish(&json), "the end");
		ks_arena_free(&arena);
	}

	/* the arena */
	{
		KsArena		arena = {0};
		char	   *a = ks_arena_alloc(&arena, 10);
		char	   *big = ks_arena_alloc(&arena, 1000000);

		memset(a, 1, 10);
		memset(big, 2, 1000000);
		ks_arena_reset(&arena);
		ok(arena.chunks != NULL && arena.chunks->next == NULL && arena.chunks->size == ARENA_CHUNK,
		   "a reset keeps one ordinary chunk");
		ok(ks_arena_alloc(&arena, 10) == a, "and uses it again");
		ks_arena_free(&arena);
		ok(ks_arena_alloc(&arena, 0) != NULL, "an empty allocation is no failure");
		ks_arena_free(&arena);
	}
	return done_testing();
}
