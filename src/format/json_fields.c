/*
 * json_fields.c: see json_fields.h.
 */
#include "format/json_fields.h"
#include "format/json_path.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Returns new parser state, NULL when out of memory. */
KsParser *
ks_json_parser_create(void)
{
	return calloc(1, sizeof(KsParser));
}

/* Frees parser state. */
void
ks_json_parser_destroy(KsParser *parser)
{
	if (parser == NULL)
		return;
	ks_arena_free(&parser->arena);
	ks_json_paths_free(parser->paths);
	free(parser->connector);
	free(parser);
}

/* Gives back the scratch memory of the messages parsed so far. */
void
ks_json_parser_reset(KsParser *parser)
{
	ks_arena_reset(&parser->arena);
}

/* Empties a result but keeps its arrays. */
void
ks_parsed_clear(KsParsed *out)
{
	out->op = 0;
	out->tombstone = false;
	out->ignore = false;
	out->key.count = out->before.count = out->after.count = out->unchanged.count = 0;
	out->key.present = out->before.present = out->after.present = out->unchanged.present = false;
	out->schema = out->key_schema = NULL;
	out->schema_size = out->key_schema_size = 0;
	out->order = KS_BY_NAME;
	out->more = false;
	out->connector = NULL;
	out->connector_size = 0;
	out->server = out->commit_time = NULL;
	out->server_size = out->commit_time_size = 0;
}

/* Notes how keys are written. */
void
ks_parser_key_format(KsParser *parser, const KsParserOptions *options, KsKeyFormat format_default)
{
	parser->key_format = options->key_format != KS_KEY_DEFAULT ? options->key_format : format_default;
}

/* Frees the arrays of a result and zeroes it. */
void
ks_parsed_free(KsParsed *parsed)
{
	free(parsed->key.fields);
	free(parsed->before.fields);
	free(parsed->after.fields);
	free(parsed->unchanged.fields);
	memset(parsed, 0, sizeof(KsParsed));
}

/* Returns a new field at the list's end, not initialised, NULL when out of memory. */
static inline KsField *
add_field(KsFieldList *list)
{
	if (list->count == list->capacity)
	{
		int			capacity = list->capacity == 0 ? 16 : list->capacity * 2;
		KsField    *fields;

		if (capacity <= 0 || (size_t) capacity > SIZE_MAX / sizeof(KsField))
			return NULL;
		fields = realloc(list->fields, capacity * sizeof(KsField));
		if (fields == NULL)
			return NULL;
		list->fields = fields;
		list->capacity = capacity;
	}
	return &list->fields[list->count++];
}

/* Returns a new field at the list's end, all zero. */
KsField *
ks_field_add(KsFieldList *list)
{
	KsField    *field = add_field(list);

	if (field != NULL)
		memset(field, 0, sizeof(KsField));
	return field;
}

/* Notes that memory ran out. */
static bool
out_of_memory(KsJson *json)
{
	json->error = "out of memory";
	json->error_at = json->pos - json->start;
	return false;
}

/* Scans an object's members into a list. */
bool
ks_json_fields(KsJson *json, KsFieldList *list)
{
	bool		first = true;

	list->count = 0;
	list->present = true;
	for (;;)
	{
		KsField    *field = add_field(list);
		int			more;

		if (field == NULL)
			return out_of_memory(json);
		more = ks_json_next_member(json, &first, field);
		if (more <= 0)
		{
			list->count--;
			return more == 0;
		}
		if (!ks_json_value(json, field))
			return false;
	}
}

/* Says what is wrong with a header. */
static const char *
bad_names(KsParser *parser, const char *header)
{
	snprintf(parser->error, sizeof(parser->error), "header %s is not a JSON array of column names", header);
	return parser->error;
}

/* See json_fields.h. */
const char *
ks_json_names(KsParser *parser, const char *header, const char *text, size_t size, KsFieldList *list)
{
	KsJson		json;
	char		part[64];
	bool		first = true;
	int			more;

	list->count = 0;
	list->present = true;
	ks_json_init(&json, text, size, &parser->arena);
	if (ks_json_peek(&json) != '[')
		return bad_names(parser, header);
	while ((more = ks_json_next_element(&json, &first)) > 0)
	{
		KsField    *field = add_field(list);

		if (field == NULL)
			return "out of memory";
		if (!ks_json_value(&json, field))
			break;
		if (field->kind != KS_FIELD_STRING)
			return bad_names(parser, header);
		field->name = field->data;
		field->name_size = field->size;
	}
	if (more == 0 && ks_json_finish(&json))
		return NULL;
	snprintf(part, sizeof(part), "header %s: ", header);
	return ks_json_failure(parser, &json, part);
}

/* Scans any value into a list: an object's members, or a scalar as the one nameless field; null is no field. */
static bool
scan_key(KsJson *json, KsFieldList *list)
{
	KsField    *field;

	if (ks_json_peek(json) == '{')
		return ks_json_fields(json, list);
	list->count = 0;
	field = add_field(list);
	if (field == NULL)
		return out_of_memory(json);
	field->name = "";
	field->name_size = 0;
	if (!ks_json_value(json, field))
		return false;
	list->present = field->kind != KS_FIELD_NULL;
	if (!list->present)
		list->count = 0;
	return true;
}

/* A key that is not JSON: one nameless field. */
static const char *
plain_key(KsParser *parser, const KsMessage *message, KsParsed *out)
{
	KsField    *field;
	bool		text = parser->key_format == KS_KEY_TEXT;

	if (message->key_size > KS_JSON_MAX_SIZE)
		return "message key is larger than 2 GB";
	if (text && ks_utf8_check(message->key, message->key_size) < message->key_size)
	{
		snprintf(parser->error, sizeof(parser->error), "message key: invalid UTF-8 at byte %zu",
				 ks_utf8_check(message->key, message->key_size));
		return parser->error;
	}
	out->key.count = 0;
	field = ks_field_add(&out->key);
	if (field == NULL)
		return "out of memory";
	out->key.present = true;
	field->name = "";
	field->kind = text ? KS_FIELD_STRING : KS_FIELD_BYTES;
	field->data = message->key;
	field->size = (uint32_t) message->key_size;
	field->has_nul = memchr(message->key, 0, message->key_size) != NULL;
	return NULL;
}

/* Parses a message key. */
const char *
ks_json_key(KsParser *parser, const KsMessage *message, bool unwrap, KsParsed *out)
{
	KsJson		json;
	const KsField *fields;

	if (message->key == NULL)
		return NULL;
	if (parser->key_format > KS_KEY_JSON)
		return plain_key(parser, message, out);
	ks_json_init(&json, message->key, message->key_size, &parser->arena);
	if (!scan_key(&json, &out->key) || !ks_json_finish(&json))
		return ks_json_failure(parser, &json, "message key: ");
	if (!unwrap || out->key.count != 2)
		return NULL;

	/*
	 * The wrapped form has these two members and nothing else, and its schema is an object or null; a table whose key
	 * columns have these very names has a scalar there.
	 */
	fields = out->key.fields;
	for (int i = 0; i < 2; i++)
	{
		const KsField *schema = &fields[i];
		const KsField *payload = &fields[1 - i];

		if (!KS_NAME_IS(schema, "schema") || !KS_NAME_IS(payload, "payload"))
			continue;
		if (schema->kind == KS_FIELD_OBJECT)
		{
			out->key_schema = schema->raw;
			out->key_schema_size = schema->raw_size;
		}
		else if (schema->kind != KS_FIELD_NULL)
			return NULL;
		/* the payload was checked as part of the whole; it is scanned once more for its members */
		ks_json_init(&json, payload->raw, payload->raw_size, &parser->arena);
		if (!scan_key(&json, &out->key))
			return ks_json_failure(parser, &json, "message key: ");
		return NULL;
	}
	return NULL;
}

/* Words for a scanner's error. */
const char *
ks_json_failure(KsParser *parser, const KsJson *json, const char *part)
{
	snprintf(parser->error, sizeof(parser->error), "%sinvalid JSON at byte %zu: %s",
			 part, json->error_at, json->error != NULL ? json->error : "unknown error");
	return parser->error;
}
