/*
 * debezium_parse.c: reads Debezium's change events in JSON, with and without schemas.  Plain C, zero copy.
 *
 * Only op, before, after and what source says of who made the event are looked into; the rest is checked and skipped.
 * With option "flat", events are rows as Debezium's ExtractNewRecordState leaves them.
 */
#include "format/json_fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint8_t		ks_modes_wanted = 0;

/* What was seen of an envelope's members. */
typedef struct Envelope
{
	bool		has_op;
	bool		has_payload;	/* the {"schema":...,"payload":...} form */
	bool		payload_null;
	bool		has_status;		/* "status" is BEGIN or END: transaction metadata */
	bool		has_id;
	const char *error;			/* cause that is not the scanner's */
} Envelope;

/* Scans before or after: an object or null.  False: json->error or env->error is set. */
static bool
scan_row(KsJson *json, KsFieldList *list, Envelope *env, const char *error)
{
	KsField		value;

	if (ks_json_peek(json) == '{')
		return ks_json_fields(json, list);
	if (!ks_json_value(json, &value))
		return false;
	list->count = 0;
	list->present = false;
	if (value.kind != KS_FIELD_NULL)
	{
		env->error = error;
		return false;
	}
	return true;
}

/* Takes a member of "source" that is of interest: who made the event, and when. */
static void
read_source(const KsField *member, KsParsed *out)
{
	if (member->kind == KS_FIELD_STRING && KS_NAME_IS(member, "connector"))
	{
		out->connector = member->data;
		out->connector_size = member->size;
	}
	else if (member->kind == KS_FIELD_STRING && KS_NAME_IS(member, "name"))
	{
		out->server = member->data;
		out->server_size = member->size;
	}
	else if (member->kind == KS_FIELD_NUMBER &&
			 (KS_NAME_IS(member, "ts_us") || (out->commit_time == NULL && KS_NAME_IS(member, "ts_ms"))))
	{
		out->commit_time = member->data;
		out->commit_time_size = member->size;
		out->commit_in_ms = KS_NAME_IS(member, "ts_ms");
	}
}

/* Scans "source". */
static bool
scan_source(KsJson *json, KsParsed *out)
{
	bool		first = true;
	KsField		member;
	int			more;

	if (ks_json_peek(json) != '{')
		return ks_json_skip(json);
	while ((more = ks_json_next_member(json, &first, &member)) > 0)
	{
		/* "connector", "name", "ts_us", "ts_ms" */
		if (member.name_size != 9 && member.name_size != 4 && member.name_size != 5)
		{
			if (!ks_json_skip(json))
				return false;
			continue;
		}
		if (!ks_json_value(json, &member))
			return false;
		read_source(&member, out);
	}
	return more == 0;
}

/* Scans the members of an envelope ('{' seen); "wrapped": it is the payload of the form with schemas. */
static bool
scan_envelope(KsJson *json, KsParsed *out, Envelope *env, bool wrapped)
{
	bool		first = true;
	KsField		member;
	int			more;

	while ((more = ks_json_next_member(json, &first, &member)) > 0)
	{
		switch (member.name_size)
		{
			case 2:
				if (KS_NAME_IS(&member, "op"))
				{
					if (!ks_json_value(json, &member))
						return false;
					if (member.kind != KS_FIELD_STRING || member.size != 1)
					{
						env->error = "\"op\" is not a string of one letter";
						return false;
					}
					out->op = member.data[0];
					env->has_op = true;
					continue;
				}
				if (KS_NAME_IS(&member, "id"))
					env->has_id = true;
				break;
			case 5:
				if (KS_NAME_IS(&member, "after"))
				{
					if (!scan_row(json, &out->after, env, "\"after\" is neither an object nor null"))
						return false;
					continue;
				}
				break;
			case 6:
				if (KS_NAME_IS(&member, "before"))
				{
					if (!scan_row(json, &out->before, env, "\"before\" is neither an object nor null"))
						return false;
					continue;
				}
				if (KS_NAME_IS(&member, "status"))
				{
					if (!ks_json_value(json, &member))
						return false;
					env->has_status = member.kind == KS_FIELD_STRING &&
						((member.size == 5 && memcmp(member.data, "BEGIN", 5) == 0) ||
						 (member.size == 3 && memcmp(member.data, "END", 3) == 0));
					continue;
				}
				if (KS_NAME_IS(&member, "source"))
				{
					if (!scan_source(json, out))
						return false;
					continue;
				}
				if (!wrapped && KS_NAME_IS(&member, "schema"))
				{
					if (!ks_json_value(json, &member))
						return false;
					if (member.kind == KS_FIELD_OBJECT)
					{
						out->schema = member.raw;
						out->schema_size = member.raw_size;
					}
					continue;
				}
				break;
			case 7:
				if (!wrapped && KS_NAME_IS(&member, "payload"))
				{
					env->has_payload = true;
					env->payload_null = false;
					if (ks_json_peek(json) == '{')
					{
						if (!scan_envelope(json, out, env, true))
							return false;
						continue;
					}
					if (!ks_json_value(json, &member))
						return false;
					if (member.kind != KS_FIELD_NULL)
					{
						env->error = "\"payload\" is neither an object nor null";
						return false;
					}
					env->payload_null = true;
					continue;
				}
				break;
			default:
				break;
		}
		if (!ks_json_skip(json))
			return false;
	}
	return more == 0;
}

/* A null value: the tombstone after a delete.  Without a key there is nothing it could refer to. */
static const char *
tombstone(KsParsed *out)
{
	out->op = 'd';
	out->tombstone = true;
	out->ignore = !out->key.present;
	out->before.present = out->after.present = false;
	return NULL;
}

/* Scans {"schema":...,"payload":row}, a flat event with its schema, from the row that was taken for its members. */
static const char *
unwrap_flat(KsParser *parser, KsParsed *out)
{
	const KsField *fields = out->after.fields;

	for (int i = 0; out->after.count == 2 && i < 2; i++)
	{
		const KsField *schema = &fields[i];
		const KsField *payload = &fields[1 - i];
		KsJson		json;

		/* as with keys: a table whose columns have these very names has no objects there */
		if (!KS_NAME_IS(schema, "schema") || !KS_NAME_IS(payload, "payload") ||
			schema->kind != KS_FIELD_OBJECT || (payload->kind != KS_FIELD_OBJECT && payload->kind != KS_FIELD_NULL))
			continue;
		out->schema = schema->raw;
		out->schema_size = schema->raw_size;
		if (payload->kind == KS_FIELD_NULL)
			return tombstone(out);
		ks_json_init(&json, payload->raw, payload->raw_size, &parser->arena);
		(void) ks_json_peek(&json);
		if (!ks_json_fields(&json, &out->after))
			return ks_json_failure(parser, &json, "");
		break;
	}
	return NULL;
}

/* What the fields that ExtractNewRecordState adds say of a flat event.  Returns NULL or the cause. */
static const char *
read_added_fields(KsParser *parser, KsParsed *out)
{
	bool		deleted = false;

	out->op = 'u';
	for (int i = 0; i < out->after.count; i++)
	{
		KsField    *field = &out->after.fields[i];

		if (field->name_size < 3 || memcmp(field->name, "__", 2) != 0)
			continue;
		field->optional = true;
		if (KS_NAME_IS(field, "__deleted"))
		{
			if (field->kind == KS_FIELD_TRUE || (field->kind == KS_FIELD_STRING && field->size == 4 &&
												 memcmp(field->data, "true", 4) == 0))
				deleted = true;
			else if (field->kind != KS_FIELD_FALSE && field->kind != KS_FIELD_NULL &&
					 !(field->kind == KS_FIELD_STRING && field->size == 5 && memcmp(field->data, "false", 5) == 0))
				return "\"__deleted\" is neither \"true\" nor \"false\"";
		}
		else if (KS_NAME_IS(field, "__op"))
		{
			if (field->kind != KS_FIELD_STRING || field->size != 1 || strchr("curdt", field->data[0]) == NULL ||
				field->data[0] == '\0')
				return "\"__op\" is none of \"c\", \"u\", \"r\", \"d\", \"t\"";
			out->op = field->data[0];
		}
		else if ((KS_NAME_IS(field, "__connector") || KS_NAME_IS(field, "__source_connector")) &&
				 field->kind == KS_FIELD_STRING)
		{
			out->connector = field->data;
			out->connector_size = field->size;
		}
	}
	if (deleted)
		out->op = 'd';
	if (out->op == 't')
		out->after.present = false;
	if (out->op == 'd')
	{
		/* the row is the one that was deleted; both lists keep their arrays */
		KsFieldList row = out->after;

		out->after = out->before;
		out->before = row;
		out->after.present = false;
	}
	return NULL;
}

/* Reads an event without envelope. */
static const char *
parse_flat(KsParser *parser, KsJson *json, KsParsed *out)
{
	const char *error;

	if (!ks_json_fields(json, &out->after) || !ks_json_finish(json))
		return ks_json_failure(parser, json, "");
	error = unwrap_flat(parser, out);
	if (error != NULL || out->tombstone)
		return error;
	return read_added_fields(parser, out);
}

/* Names the connector where the message does not, and option "source.connector" does. */
static void
default_connector(KsParser *parser, KsParsed *out)
{
	if (out->connector == NULL && parser->connector != NULL)
	{
		out->connector = parser->connector;
		out->connector_size = strlen(parser->connector);
	}
	else if (out->connector == NULL && parser->flat)
	{
		/* nobody's: what values without a schema mean is not known */
		out->connector = "";
		out->connector_size = 0;
	}
}

/* Parses one message, but for its headers.  Returns NULL or the cause. */
static const char *
parse_event(KsParser *parser, const KsMessage *message, KsParsed *out)
{
	static const char heartbeat[] = "__debezium-heartbeat";
	Envelope	env = {0};
	KsJson		json;
	const char *error;

	default_connector(parser, out);
	error = ks_json_key(parser, message, true, out);
	if (error != NULL)
		return error;
	if (message->value == NULL)
		return tombstone(out);
	if (message->value_size == 0)
		return "empty message";

	ks_json_init(&json, message->value, message->value_size, &parser->arena);
	if (ks_json_peek(&json) != '{')
	{
		if (!ks_json_skip(&json) || !ks_json_finish(&json))
			return ks_json_failure(parser, &json, "");
		return "message value is not a JSON object";
	}
	if (parser->flat)
	{
		out->ignore = message->topic != NULL && strncmp(message->topic, heartbeat, sizeof(heartbeat) - 1) == 0;
		return parse_flat(parser, &json, out);
	}
	if (!scan_envelope(&json, out, &env, false) || !ks_json_finish(&json))
		return env.error != NULL ? env.error : ks_json_failure(parser, &json, "");
	if (!env.has_payload)
		out->schema = NULL;

	if (!env.has_op)
	{
		if (env.payload_null)
			return tombstone(out);
		if ((env.has_status && env.has_id) ||
			(message->topic != NULL && strncmp(message->topic, heartbeat, sizeof(heartbeat) - 1) == 0))
		{
			out->ignore = true;
			return NULL;
		}
		return "not a Debezium event: no \"op\"";
	}
	switch (out->op)
	{
		case 'c':
		case 'u':
		case 'r':
			if (!out->after.present)
			{
				snprintf(parser->error, sizeof(parser->error), "no \"after\" in an event with op \"%c\"", out->op);
				return parser->error;
			}
			return NULL;
		case 'd':
			out->after.present = false;
			return NULL;
		case 't':
			out->before.present = out->after.present = false;
			return NULL;
		case 'm':
			out->before.present = out->after.present = false;
			out->ignore = true;
			return NULL;
		default:
			snprintf(parser->error, sizeof(parser->error), "unknown op \"%.1s\" in a Debezium event",
					 out->op >= ' ' && out->op <= '~' ? &out->op : "?");
			return parser->error;
	}
}

/* Is text this literal? */
#define TEXT_IS(text, size, literal) ((size) == sizeof(literal) - 1 && memcmp(text, literal, sizeof(literal) - 1) == 0)

/* See parser.h. */
uint8_t
ks_binary_mode(const char *name, size_t size)
{
	if (TEXT_IS(name, size, "hex"))
		return KS_MODE_HEX;
	if (TEXT_IS(name, size, "bytes") || TEXT_IS(name, size, "base64") || TEXT_IS(name, size, "base64-url-safe"))
		return KS_MODE_BASE64;
	return 0;
}

/* See parser.h. */
uint8_t
ks_time_mode(const char *name, size_t size)
{
	if (TEXT_IS(name, size, "connect"))
		return KS_MODE_TIME_CONNECT;
	if (TEXT_IS(name, size, "adaptive_time_microseconds"))
		return KS_MODE_TIME_MICROS;
	if (TEXT_IS(name, size, "adaptive"))
		return KS_MODE_TIME_ADAPTIVE;
	return 0;
}

/* Takes a mode from a header, if there is one, in place of the bits "kind".  Returns NULL or the cause. */
static const char *
header_mode(KsParser *parser, const KsMessage *message, const char *header, uint8_t kind,
			uint8_t (*mode_of) (const char *name, size_t size), uint8_t *modes)
{
	size_t		size;
	const char *value;
	uint8_t		mode;

	if ((ks_modes_wanted & kind) == 0 || message->find_header == NULL)
		return NULL;
	value = message->find_header(message, header, &size);
	if (value == NULL)
		return NULL;
	mode = mode_of(value, size);
	if (mode == 0)
	{
		snprintf(parser->error, sizeof(parser->error), "header %s names a mode that is not known", header);
		return parser->error;
	}
	*modes = (*modes & ~kind) | mode;
	return NULL;
}

/* See json_fields.h. */
const char *
ks_debezium_message_modes(KsParser *parser, const KsMessage *message, uint8_t *modes)
{
	const char *error;

	*modes = message->modes;
	error = header_mode(parser, message, "pg_kafka_sync.binary", KS_MODE_BINARY, ks_binary_mode, modes);
	return error != NULL ? error :
		header_mode(parser, message, "pg_kafka_sync.time", KS_MODE_TIME, ks_time_mode, modes);
}

/* See json_fields.h. */
void
ks_mark_modes(KsFieldList *list, uint8_t modes)
{
	for (int i = 0; i < list->count; i++)
		list->fields[i].modes = modes;
}

/* Parses one message; see KsParserOps. */
static const char *
debezium_parse(KsParser *parser, const KsMessage *message, KsParsed *out)
{
	uint8_t		modes;
	const char *error;

	ks_parsed_clear(out);
	error = ks_debezium_message_modes(parser, message, &modes);
	if (error == NULL)
		error = parse_event(parser, message, out);
	if (error == NULL && modes != 0)
	{
		ks_mark_modes(&out->key, modes);
		ks_mark_modes(&out->before, modes);
		ks_mark_modes(&out->after, modes);
	}
	return error;
}

/* Takes options; see KsParserOps. */
static const char *
debezium_configure(KsParser *parser, const KsParserOptions *options)
{
	ks_parser_key_format(parser, options, KS_KEY_JSON);
	parser->flat = options->flat;
	if (options->connector != NULL && (parser->connector = strdup(options->connector)) == NULL)
		return "out of memory";
	return NULL;
}

const KsParserOps ks_debezium_parser = {
	.name = "debezium",
	.create = ks_json_parser_create,
	.destroy = ks_json_parser_destroy,
	.configure = debezium_configure,
	.parse = debezium_parse,
	.reset = ks_json_parser_reset,
};
