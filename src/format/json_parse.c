/*
 * json_parse.c: reads format json: the value is one flat object per row, a null value a delete, the key an object or
 * a scalar.  With option "paths" the value may be any JSON.  Plain C, zero copy.
 */
#include "format/json_fields.h"
#include "format/json_path.h"

#include <stdio.h>
#include <string.h>

/* Marks the columns that header pg_kafka_sync.json_null says to be JSON null.  Returns NULL or the cause. */
static const char *
mark_json_nulls(KsParser *parser, const KsMessage *message, KsParsed *out)
{
	const char *error = ks_json_names(parser, "pg_kafka_sync.json_null", message->json_null, message->json_null_size,
									  &out->unchanged);

	if (error != NULL)
		return error;
	for (int n = 0; n < out->unchanged.count; n++)
	{
		const KsField *name = &out->unchanged.fields[n];

		for (int i = 0; i < out->after.count; i++)
		{
			KsField    *field = &out->after.fields[i];

			if (field->kind == KS_FIELD_NULL && field->name_size == name->name_size &&
				memcmp(field->name, name->name, name->name_size) == 0)
				field->json_null = true;
		}
	}
	/* the list was only borrowed */
	out->unchanged.count = 0;
	out->unchanged.present = false;
	return NULL;
}

/* Reads what the headers say about the row.  Returns NULL or the cause. */
static const char *
read_headers(KsParser *parser, const KsMessage *message, KsParsed *out)
{
	const char *error = NULL;

	if (message->json_null != NULL)
		error = mark_json_nulls(parser, message, out);
	if (error == NULL && message->unchanged != NULL)
		error = ks_json_names(parser, "pg_kafka_sync.unchanged", message->unchanged, message->unchanged_size,
							  &out->unchanged);
	return error;
}

/* Parses one message; see KsParserOps. */
static const char *
json_parse(KsParser *parser, const KsMessage *message, KsParsed *out)
{
	KsJson		json;
	const char *error;

	ks_parsed_clear(out);
	error = ks_json_key(parser, message, false, out);
	if (error != NULL)
		return error;
	if (message->value == NULL)
	{
		if (message->key == NULL)
			return "neither key nor value";
		out->op = 'd';
		out->tombstone = true;
		return NULL;
	}
	if (message->value_size == 0)
		return "empty message";

	ks_json_init(&json, message->value, message->value_size, &parser->arena);
	if (parser->paths != NULL && (ks_json_peek(&json) == '{' || ks_json_paths_take_any(parser->paths)))
	{
		if (!ks_json_paths_scan(parser->paths, &json, &out->after) || !ks_json_finish(&json))
			return ks_json_failure(parser, &json, "");
		out->op = 'u';
		return read_headers(parser, message, out);
	}
	if (ks_json_peek(&json) == '{')
	{
		if (!ks_json_fields(&json, &out->after) || !ks_json_finish(&json))
			return ks_json_failure(parser, &json, "");
		out->op = 'u';
		return read_headers(parser, message, out);
	}
	if (!ks_json_skip(&json) || !ks_json_finish(&json))
		return ks_json_failure(parser, &json, "");
	return "message value is not a JSON object";
}

/* Takes options; see KsParserOps. */
static const char *
json_configure(KsParser *parser, const KsParserOptions *options)
{
	char		cause[sizeof(parser->error) - 32];

	ks_parser_key_format(parser, options, KS_KEY_JSON);
	if (options->paths == NULL)
		return NULL;
	parser->paths = ks_json_paths_create(options->paths, cause, sizeof(cause));
	if (parser->paths != NULL)
		return NULL;
	snprintf(parser->error, sizeof(parser->error), "option \"paths\": %s", cause);
	return parser->error;
}

const KsParserOps ks_json_parser = {
	.name = "json",
	.create = ks_json_parser_create,
	.destroy = ks_json_parser_destroy,
	.configure = json_configure,
	.parse = json_parse,
	.reset = ks_json_parser_reset,
};
