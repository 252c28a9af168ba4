/*
 * fuzz_parse.c: the parsers on arbitrary bytes.  test/run fuzz compiles it, for one format at a time, and runs it on the
 * inputs of test/fuzz/corpus for a while:
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -DFORMAT=csv -Isrc test/fuzz/fuzz_parse.c -o /tmp/fuzz_csv
 *   /tmp/fuzz_csv -max_total_time=600 SCRATCH test/fuzz/corpus/csv
 *
 * FORMAT is debezium, json, csv, syslog or raw.  Of an input, the first byte says which parts of the message there are,
 * the second which options are set, two more have the key's size; then follow key and value.
 *
 * Beyond crashes and leaks it checks that every field lies in the message or the scratch memory, that strings are valid
 * UTF-8, and that a value's raw text is again one JSON value of the same kind.
 */
#include "format/json_scan.c"
#undef likely_
#undef unlikely_
#include "format/json_fields.c"
#include "format/json_path.c"
#include "format/json_parse.c"
#include "format/debezium_parse.c"
#undef TEXT_IS
#include "format/csv_parse.c"
#include "format/syslog_parse.c"
#include "format/raw_parse.c"
#include "apply/value_text.c"

#ifndef FORMAT
#define FORMAT debezium
#endif
#define PASTE(a, b, c) a##b##c
#define PARSER_OF(format) PASTE(ks_, format, _parser)

#define CHECK(condition) do { if (!(condition)) { fprintf(stderr, "failed: %s, line %d\n", #condition, __LINE__); abort(); } } while (0)

/* Reads every byte, so that a sanitizer sees it, and checks UTF-8. */
static void
check_text(const char *text, size_t size)
{
	const char *p = text;
	const char *end = size > 0 ? text + size : text;

	while (p < end)
	{
		int			length = (unsigned char) *p < 0x80 ? 1 : utf8_length(p, end);

		CHECK(length > 0);
		p += length;
	}
}

static volatile size_t bytes_read;

static void
check_list(const KsFieldList *list)
{
	unsigned char buffer[4096];

	for (int i = 0; list->present && i < list->count; i++)
	{
		const KsField *f = &list->fields[i];
		KsArena		arena = {0};
		KsJson		json;
		KsField		again;
		int64_t		number;
		int32_t		scale;
		bool		overflow;
		KsDateTime	dt;
		double		d;
		float		x;
		size_t		decoded;

		check_text(f->name, f->name_size);
		if (f->kind == KS_FIELD_BYTES)
		{
			for (uint32_t n = 0; n < f->size; n++)
				bytes_read += (unsigned char) f->data[n];
			continue;
		}
		if (f->kind == KS_FIELD_NULL && f->raw == NULL)
			continue;
		check_text(f->data, f->size);
		CHECK(f->kind != KS_FIELD_STRING || f->has_nul == (f->size > 0 && memchr(f->data, 0, f->size) != NULL));
		if (f->raw == NULL)
		{
			CHECK(f->kind == KS_FIELD_STRING);
			continue;
		}
		ks_json_init(&json, f->raw, f->raw_size, &arena);
		CHECK(ks_json_value(&json, &again) && ks_json_finish(&json));
		CHECK(again.kind == f->kind && again.size == f->size && memcmp(again.data, f->data, f->size) == 0);
		ks_arena_free(&arena);

		(void) ks_text_int64(f->data, f->size, &number, &overflow);
		if (ks_text_decimal(f->data, f->size, &number, &scale))
			CHECK(ks_text_is_number(f->data, f->size) && scale >= 0);
		(void) ks_text_datetime(f->data, f->size, &dt);
		(void) ks_text_double(f->data, f->size, &d);
		(void) ks_text_float(f->data, f->size, &x);
		if (KS_BASE64_SIZE((size_t) f->size) <= sizeof(buffer))
			(void) ks_text_base64(f->data, f->size, true, buffer, &decoded);
		(void) ks_text_uuid(f->data, f->size, buffer);
	}
}

/* Options by the bits of a byte. */
static void
choose_options(KsParserOptions *options, uint8_t bits)
{
	options->key_format = (KsKeyFormat) (bits & 3);
	options->flat = (bits & 4) != 0;
	options->paths = (bits & 4) == 0 ? NULL : (bits & 8) != 0
		? "{\"a\":\"a\",\"b\":\"b.c\",\"n\":\"b.d[1].e\",\"x\":\"$\",\"y\":\"[0][0]\",\"z\":\"[2].\\\"q.r\\\"\"}" : "{\"id\":\"a.b\",\"t\":\"a.c[0]\"}";
	options->connector = (bits & 8) != 0 ? "mysql" : NULL;
	options->csv_header = (bits & 4) != 0;
	options->csv_columns = (bits & 8) != 0 ? "[\"a\",\"b\",\"c\"]" : NULL;
	options->csv_delimiter = (bits & 16) != 0 ? ';' : '\0';
	options->csv_quote = (bits & 32) != 0 ? '\'' : '\0';
	options->csv_null = (bits & 64) != 0 ? "NULL" : NULL;
	options->raw_column = (bits & 4) != 0 ? "a" : NULL;
	options->syslog_lenient = (bits & 4) != 0;
	options->syslog_time_zone = (bits & 8) != 0 ? "Europe/Berlin" : NULL;
}

/* Parses one message twice, as if it came again. */
static void
parse_twice(const KsParserOps *ops, uint8_t bits, const KsMessage *message)
{
	KsParserOptions options = {0};
	KsParser   *parser = ops->create();
	KsParsed	out = {0};
	bool		lenient;

	choose_options(&options, bits);
	CHECK(ops->configure(parser, &options) == NULL);
	lenient = ops == &ks_syslog_parser && options.syslog_lenient && (options.key_format == KS_KEY_BYTES || message->key == NULL);
	for (int round = 0; round < 2; round++)
	{
		const char *error = ops->parse(parser, message, &out);
		int			rows = 0;

		CHECK(error == NULL || error[0] != '\0');
		CHECK(error == NULL || !lenient || (message->key == NULL && message->value == NULL));
		while (error == NULL)
		{
			check_list(&out.key);
			check_list(&out.before);
			check_list(&out.after);
			check_text(out.schema, out.schema != NULL ? out.schema_size : 0);
			check_text(out.key_schema, out.key_schema != NULL ? out.key_schema_size : 0);
			check_text(out.connector, out.connector_size);
			CHECK(out.ignore || (out.op != 0 && strchr("curdt", out.op) != NULL));
			CHECK(out.ignore || out.after.present || strchr("dt", out.op) != NULL);
			CHECK(out.order != KS_IS_VALUE || out.after.count == 1);
			/* each row has a byte at least */
			CHECK((size_t) ++rows <= message->value_size + 1);
			if (!out.more)
				break;
			CHECK(ops->next != NULL);
			error = ops->next(parser, &out);
		}
		ops->reset(parser);
	}
	ks_parsed_free(&out);
	ops->destroy(parser);
}

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	KsMessage	message = {0};
	size_t		key_size;
	size_t		value_size;
	char	   *key;
	char	   *value;

	if (size < 4)
		return 0;
	key_size = (size_t) (data[2] << 8 | data[3]) % (size - 3);
	value_size = size - 4 - key_size;
	/* copies of their own, so that reading beyond the end is noticed */
	key = malloc(key_size > 0 ? key_size : 1);
	value = malloc(value_size > 0 ? value_size : 1);
	memcpy(key, data + 4, key_size);
	memcpy(value, data + 4 + key_size, value_size);
	message.topic = (data[0] & 1) ? "__debezium-heartbeat.x" : "a.b.c";
	message.key = (data[0] & 2) ? NULL : key;
	message.key_size = key_size;
	message.value = (data[0] & 4) ? NULL : value;
	message.value_size = (data[0] & 4) ? 0 : value_size;
	message.json_null = (data[0] & 8) ? key : NULL;
	message.json_null_size = key_size;
	message.unchanged = (data[0] & 16) ? key : NULL;
	message.unchanged_size = key_size;
	message.timestamp_ms = (data[0] & 32) ? -1 : INT64_C(1697061600000) << ((data[0] >> 6) * 6);

	parse_twice(&PARSER_OF(FORMAT), data[1], &message);
	free(key);
	free(value);
	return 0;
}
