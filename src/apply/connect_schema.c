/*
 * connect_schema.c: see connect_schema.h.
 */
#include "postgres.h"

#include "apply/connect_schema.h"

/* See connect_schema.h. */
bool
ks_schema_is(const KsField *field, const char *text)
{
	size_t		size = strlen(text);

	return field->kind == KS_FIELD_STRING && field->size == size && memcmp(field->data, text, size) == 0;
}

/* See connect_schema.h. */
KsField
ks_schema_member(KsArena *arena, const KsField *object, const char *name)
{
	KsField		member = {0};
	KsJson		json;
	bool		first = true;

	ks_json_init(&json, object->raw, object->raw_size, arena);
	if (ks_json_peek(&json) == '{')
		while (ks_json_next_member(&json, &first, &member) > 0)
		{
			bool		found = member.name_size == strlen(name) && memcmp(member.name, name, member.name_size) == 0;

			if (!ks_json_value(&json, &member))
				break;
			if (found)
				return member;
		}
	memset(&member, 0, sizeof(member));
	return member;
}

/* See connect_schema.h. */
const char *
ks_schema_read(KsJson *json, KsSchemaNode *node)
{
	bool		first = true;
	KsField		member;
	int			more;

	memset(node, 0, sizeof(KsSchemaNode));
	if (ks_json_peek(json) != '{')
		return "not a JSON object";
	while ((more = ks_json_next_member(json, &first, &member)) > 0)
	{
		if (!ks_json_value(json, &member))
			break;
		if (member.name_size == 4 && memcmp(member.name, "type", 4) == 0)
			node->type = member;
		else if (member.name_size == 4 && memcmp(member.name, "name", 4) == 0)
			node->name = member;
		else if (member.name_size == 5 && memcmp(member.name, "field", 5) == 0)
			node->field = member;
		else if (member.name_size == 6 && memcmp(member.name, "fields", 6) == 0)
			node->fields = member;
		else if (member.name_size == 5 && memcmp(member.name, "items", 5) == 0)
			node->items = member;
		else if (member.name_size == 10 && memcmp(member.name, "parameters", 10) == 0)
			node->parameters = member;
	}
	if (more == 0)
		return NULL;
	return json->error != NULL ? json->error : "unknown error";
}

/* See connect_schema.h. */
KsField
ks_schema_text_parameter(KsArena *arena, const KsSchemaNode *node, const char *name)
{
	KsField		none = {0};

	return node->parameters.kind == KS_FIELD_OBJECT ? ks_schema_member(arena, &node->parameters, name) : none;
}

/* See connect_schema.h. */
int32
ks_schema_parameter(KsArena *arena, const KsSchemaNode *node, const char *name, int32 missing)
{
	KsField		value = ks_schema_text_parameter(arena, node, name);
	char		text[16];

	if ((value.kind != KS_FIELD_STRING && value.kind != KS_FIELD_NUMBER) || value.size >= sizeof(text))
		return missing;
	memcpy(text, value.data, value.size);
	text[value.size] = '\0';
	return atoi(text);
}

/* See connect_schema.h. */
const char *
ks_schema_rows(KsArena *arena, const char *text, size_t size, KsSchemaNode *top, KsField *fields)
{
	KsSchemaNode row = {0};
	KsJson		json;
	bool		first = true;
	bool		has_op = false;
	const char *cause;

	memset(fields, 0, sizeof(KsField));
	ks_json_init(&json, text, size, arena);
	cause = ks_schema_read(&json, top);
	if (cause || !ks_schema_is(&top->type, "struct"))
		return cause;
	if (top->fields.kind != KS_FIELD_ARRAY)
		return "a struct has no fields";

	/* an event? */
	ks_json_init(&json, top->fields.raw, top->fields.raw_size, arena);
	(void) ks_json_peek(&json);
	while (ks_json_next_element(&json, &first) > 0)
	{
		KsSchemaNode node;

		cause = ks_schema_read(&json, &node);
		if (cause)
			return cause;
		has_op |= ks_schema_is(&node.field, "op");
		if ((ks_schema_is(&node.field, "after") ||
			 (ks_schema_is(&node.field, "before") && row.fields.kind == KS_FIELD_NULL)) &&
			node.fields.kind == KS_FIELD_ARRAY)
			row = node;
	}
	*fields = has_op && row.fields.kind == KS_FIELD_ARRAY ? row.fields : top->fields;
	return NULL;
}
