/*
 * json_parse.c: reads format json: the value is one flat object per row, a null value a delete, the key an object or
 * a scalar.  Plain C, zero copy.
 */
#include "format/json_fields.h"

#include <string.h>

/*
 * Marks the columns that the header pg_kafka_sync.json_null (a JSON array of names) says to be JSON null.
 * Returns NULL or the cause.
 */
static const char *
mark_json_nulls(KsParser *parser, const KsMessage *message, KsFieldList *list)
{
	KsJson		json;
	KsField		name;
	bool		first = true;
	int			more;

	ks_json_init(&json, message->json_null, message->json_null_size, &parser->arena);
	if (ks_json_peek(&json) != '[')
		return "header pg_kafka_sync.json_null is not a JSON array of column names";
	while ((more = ks_json_next_element(&json, &first)) > 0)
	{
		if (!ks_json_value(&json, &name))
			break;
		if (name.kind != KS_FIELD_STRING)
			return "header pg_kafka_sync.json_null is not a JSON array of column names";
		for (int i = 0; i < list->count; i++)
		{
			KsField    *field = &list->fields[i];

			if (field->kind == KS_FIELD_NULL && field->name_size == name.size &&
				memcmp(field->name, name.data, name.size) == 0)
				field->json_null = true;
		}
	}
	if (more != 0 || !ks_json_finish(&json))
		return ks_json_failure(parser, &json, "header pg_kafka_sync.json_null: ");
	return NULL;
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
	if (ks_json_peek(&json) == '{')
	{
		if (!ks_json_fields(&json, &out->after) || !ks_json_finish(&json))
			return ks_json_failure(parser, &json, "");
		out->op = 'u';
		return message->json_null != NULL ? mark_json_nulls(parser, message, &out->after) : NULL;
	}
	if (!ks_json_skip(&json) || !ks_json_finish(&json))
		return ks_json_failure(parser, &json, "");
	return "message value is not a JSON object";
}

const KsParserOps ks_json_parser = {
	.name = "json",
	.create = ks_json_parser_create,
	.destroy = ks_json_parser_destroy,
	.parse = json_parse,
	.reset = ks_json_parser_reset,
};
