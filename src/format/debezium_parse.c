/*
 * debezium_parse.c: reads Debezium's change events in JSON, with and without schemas.  Plain C, zero copy.
 *
 * Only op, before and after are looked into; source, transaction and times are checked and skipped.
 */
#include "format/json_fields.h"

#include <stdio.h>
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

/* Parses one message, but for its headers.  Returns NULL or the cause. */
static const char *
parse_event(KsParser *parser, const KsMessage *message, KsParsed *out)
{
	static const char heartbeat[] = "__debezium-heartbeat";
	Envelope	env = {0};
	KsJson		json;
	const char *error;

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

/* Says of the fields of a part how they were written. */
static void
mark_modes(KsFieldList *list, uint8_t modes)
{
	for (int i = 0; i < list->count; i++)
		list->fields[i].modes = modes;
}

/* Parses one message; see KsParserOps. */
static const char *
debezium_parse(KsParser *parser, const KsMessage *message, KsParsed *out)
{
	uint8_t		modes = message->modes;
	const char *error;

	ks_parsed_clear(out);
	error = header_mode(parser, message, "pg_kafka_sync.binary", KS_MODE_BINARY, ks_binary_mode, &modes);
	if (error == NULL)
		error = header_mode(parser, message, "pg_kafka_sync.time", KS_MODE_TIME, ks_time_mode, &modes);
	if (error == NULL)
		error = parse_event(parser, message, out);
	if (error == NULL && modes != 0)
	{
		mark_modes(&out->key, modes);
		mark_modes(&out->before, modes);
		mark_modes(&out->after, modes);
	}
	return error;
}

const KsParserOps ks_debezium_parser = {
	.name = "debezium",
	.create = ks_json_parser_create,
	.destroy = ks_json_parser_destroy,
	.parse = debezium_parse,
	.reset = ks_json_parser_reset,
};
