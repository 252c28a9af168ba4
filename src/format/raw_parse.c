/*
 * raw_parse.c: reads format raw: the value is one field, the key another, and nobody looks into them.
 *
 * A null value is a delete of its key; "after" has its null all the same, for targets whose rows are not found by the
 * message's key.
 */
#include "format/json_fields.h"

#include <stdlib.h>
#include <string.h>

typedef struct RawParser
{
	KsParser	base;
	char	   *column;			/* option "raw.column" */
} RawParser;

/* Returns new parser state, NULL when out of memory. */
static KsParser *
raw_create(void)
{
	RawParser  *p = calloc(1, sizeof(RawParser));

	if (p == NULL)
		return NULL;
	p->base.key_format = KS_KEY_BYTES;
	return &p->base;
}

/* Frees parser state. */
static void
raw_destroy(KsParser *parser)
{
	if (parser == NULL)
		return;
	free(((RawParser *) parser)->column);
	ks_json_parser_destroy(parser);
}

/* Takes options; see KsParserOps. */
static const char *
raw_configure(KsParser *parser, const KsParserOptions *options)
{
	RawParser  *p = (RawParser *) parser;

	ks_parser_key_format(parser, options, KS_KEY_BYTES);
	if (options->raw_column != NULL && (p->column = strdup(options->raw_column)) == NULL)
		return "out of memory";
	return NULL;
}

/* Parses one message; see KsParserOps. */
static const char *
raw_parse(KsParser *parser, const KsMessage *message, KsParsed *out)
{
	RawParser  *p = (RawParser *) parser;
	const char *error;
	KsField    *field;

	ks_parsed_clear(out);
	error = ks_json_key(parser, message, false, out);
	if (error != NULL)
		return error;
	if (message->value_size > KS_JSON_MAX_SIZE)
		return "message is larger than 2 GB";
	field = ks_field_add(&out->after);
	if (field == NULL)
		return "out of memory";
	out->after.present = true;
	out->order = p->column != NULL ? KS_BY_NAME : KS_IS_VALUE;
	field->name = p->column != NULL ? p->column : "value";
	field->name_size = (uint32_t) strlen(field->name);
	if (message->value == NULL)
	{
		field->kind = KS_FIELD_NULL;
		out->op = 'd';
		out->tombstone = true;
		return NULL;
	}
	field->kind = KS_FIELD_BYTES;
	field->data = message->value;
	field->size = (uint32_t) message->value_size;
	out->op = 'u';
	return NULL;
}

const KsParserOps ks_raw_parser = {
	.name = "raw",
	.create = raw_create,
	.destroy = raw_destroy,
	.configure = raw_configure,
	.parse = raw_parse,
	.reset = ks_json_parser_reset,
};
