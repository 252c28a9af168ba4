/*
 * fuzz_parse.c: the parsers on arbitrary bytes.  One input is: a byte that says which parts are there, two bytes with
 * the key's size, then key and value.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -Isrc test/fuzz/fuzz_parse.c -o /tmp/fuzz_parse
 *   /tmp/fuzz_parse -max_total_time=300 CORPUS
 *   gcc -g -O1 -DKS_FUZZ_MAIN -fsanitize=address,undefined -Isrc test/fuzz/fuzz_parse.c -o /tmp/fuzz_parse
 *   /tmp/fuzz_parse SECONDS [FILE ...]     without libFuzzer: mutates the files, or inputs of its own
 *
 * Beyond crashes it checks that every field lies in the message or the scratch memory, that strings are valid UTF-8,
 * and that a value's raw text is again one JSON value of the same kind.
 */
#include "format/json_scan.c"
#undef likely_
#undef unlikely_
#include "format/json_fields.c"
#include "format/json_path.c"
#include "format/json_parse.c"
#include "format/debezium_parse.c"
#include "apply/value_text.c"

#include <time.h>

#define CHECK(condition) do { if (!(condition)) { fprintf(stderr, "failed: %s, line %d\n", #condition, __LINE__); abort(); } } while (0)

/* Reads every byte, so that a sanitizer sees it, and checks UTF-8. */
static void
check_text(const char *text, size_t size)
{
	const char *p = text;
	const char *end = text + size;

	while (p < end)
	{
		int			length = (unsigned char) *p < 0x80 ? 1 : utf8_length(p, end);

		CHECK(length > 0);
		p += length;
	}
}

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
		size_t		size;

		check_text(f->name, f->name_size);
		check_text(f->data, f->size);
		ks_json_init(&json, f->raw, f->raw_size, &arena);
		CHECK(ks_json_value(&json, &again) && ks_json_finish(&json));
		CHECK(again.kind == f->kind && again.size == f->size && memcmp(again.data, f->data, f->size) == 0);
		CHECK(f->kind != KS_FIELD_STRING || f->has_nul == (memchr(f->data, 0, f->size) != NULL));
		ks_arena_free(&arena);

		(void) ks_text_int64(f->data, f->size, &number, &overflow);
		if (ks_text_decimal(f->data, f->size, &number, &scale))
			CHECK(ks_text_is_number(f->data, f->size) && scale >= 0);
		(void) ks_text_datetime(f->data, f->size, &dt);
		(void) ks_text_double(f->data, f->size, &d);
		(void) ks_text_float(f->data, f->size, &x);
		if (KS_BASE64_SIZE((size_t) f->size) <= sizeof(buffer))
			(void) ks_text_base64(f->data, f->size, true, buffer, &size);
		(void) ks_text_uuid(f->data, f->size, buffer);
	}
}

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const KsParserOps *const formats[] = {&ks_debezium_parser, &ks_json_parser};
	KsMessage	message = {0};
	size_t		key_size;
	char	   *key;
	char	   *value;

	if (size < 3)
		return 0;
	key_size = (size_t) (data[1] << 8 | data[2]) % (size - 2);
	/* copies of their own, so that reading beyond the end is noticed */
	key = malloc(key_size > 0 ? key_size : 1);
	value = malloc(size - 3 - key_size > 0 ? size - 3 - key_size : 1);
	memcpy(key, data + 3, key_size);
	memcpy(value, data + 3 + key_size, size - 3 - key_size);
	message.topic = (data[0] & 1) ? "__debezium-heartbeat.x" : "a.b.c";
	message.key = (data[0] & 2) ? NULL : key;
	message.key_size = key_size;
	message.value = (data[0] & 4) ? NULL : value;
	message.value_size = size - 3 - key_size;
	message.json_null = (data[0] & 8) ? key : NULL;
	message.json_null_size = key_size;
	message.unchanged = (data[0] & 16) ? key : NULL;
	message.unchanged_size = key_size;

	for (int i = 0; i < 2; i++)
	{
		KsParser   *parser = formats[i]->create();
		KsParsed	out = {0};
		const char *error = NULL;

		for (int round = 0; round < 2; round++)
		{
			error = formats[i]->parse(parser, &message, &out);
			if (error == NULL)
			{
				check_list(&out.key);
				check_list(&out.before);
				check_list(&out.after);
				check_text(out.schema, out.schema != NULL ? out.schema_size : 0);
				check_text(out.key_schema, out.key_schema != NULL ? out.key_schema_size : 0);
				CHECK(out.ignore || (out.op != 0 && strchr("curdt", out.op) != NULL));
				CHECK(out.ignore || out.after.present || strchr("dt", out.op) != NULL);
			}
			else
				CHECK(error[0] != '\0');
			formats[i]->reset(parser);
		}
		ks_parsed_free(&out);
		formats[i]->destroy(parser);
	}
	free(key);
	free(value);
	return 0;
}

#ifdef KS_FUZZ_MAIN
static const char *const seeds[] = {
	"\0\0\010{\"id\":1}{\"before\":null,\"after\":{\"id\":1,\"t\":\"caf\xc3\xa9 \\ud83d\\ude00\",\"n\":\"AeJA\",\"ts\":\"2020-01-01T00:00:00.123456Z\"},"
	"\"source\":{\"a\":[1,{\"b\":null}]},\"op\":\"c\",\"ts_ms\":1}",
	"\0\0\031{\"schema\":{},\"payload\":5}{\"schema\":{\"type\":\"struct\"},\"payload\":{\"op\":\"d\",\"before\":{\"id\":-1.5e3}}}",
	"\010\0\005[\"a\"]{\"a\":null,\"b\":[[true]],\"c\":\"x\\u0000\\n\",\"d\":{\"\\u0065\":1}}",
};

/* Without libFuzzer: mutates inputs for a number of seconds. */
int
main(int argc, char **argv)
{
	static uint8_t input[65536];
	time_t		end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 10);
	unsigned long runs = 0;

	srand((unsigned) time(NULL));
	while (time(NULL) < end)
	{
		size_t		size;

		if (argc > 2)
		{
			FILE	   *file = fopen(argv[2 + rand() % (argc - 2)], "rb");

			if (file == NULL)
				return 1;
			size = fread(input, 1, sizeof(input) / 2, file);
			fclose(file);
		}
		else
		{
			const char *seed = seeds[rand() % 3];

			size = 3 + strlen(seed + 3);
			memcpy(input, seed, size);
		}
		for (int n = rand() % 8; n >= 0 && size > 0; n--)
		{
			size_t		at = rand() % size;

			switch (rand() % 6)
			{
				case 0:
					input[at] = (uint8_t) rand();
					break;
				case 1:
					input[at] = (uint8_t) "{}[]\",:\\u0nul-+.eE"[rand() % 18];
					break;
				case 2:
					size = at;
					break;
				case 3:
					memmove(input + at, input + at + 1, size - at - 1);
					size--;
					break;
				case 4:
					if (size < sizeof(input) / 2)
					{
						size_t		length = rand() % (size - at) + 1;

						memmove(input + at + length, input + at, size - at);
						size += length;
					}
					break;
				default:
					input[at] ^= (uint8_t) (1 << rand() % 8);
					break;
			}
		}
		LLVMFuzzerTestOneInput(input, size);
		runs++;
	}
	printf("%lu inputs\n", runs);
	return 0;
}
#endif
