/*
 * convert_array.c: JSON arrays to PostgreSQL arrays, JSON objects to hstore.
 */
#include "postgres.h"

#include "apply/convert_internal.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"

/* An array while its elements are gathered. */
typedef struct ArrayBuild
{
	KsConverter *conv;
	const KsMeaning *meaning;	/* of the elements, NULL = plain */
	KsType	   *element;
	uint8		modes;			/* of the array, so of its elements */
	int			ndims;			/* levels seen so far */
	int			dims[MAXDIM];	/* -1 = not known yet */
	bool		leaf;			/* the innermost level is known: it is dims[ndims - 1] */
	Datum	   *values;
	bool	   *nulls;
	int			count;
	int			capacity;
} ArrayBuild;

/* Reports arrays inside an array that have different lengths or depths. */
static void
not_rectangular(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
			 errmsg("arrays inside a JSON array must all have the same dimensions")));
}

/* Appends one element. */
static void
add_element(ArrayBuild *build, const KsField *field)
{
	KsConverter *conv = build->conv;
	KsType	   *type = build->element;
	Datum		value = (Datum) 0;
	bool		isnull = field->kind == KS_FIELD_NULL;

	if (build->count == build->capacity)
	{
		build->capacity = build->capacity == 0 ? 16 : build->capacity * 2;
		if (build->values == NULL)
		{
			build->values = palloc(build->capacity * sizeof(Datum));
			build->nulls = palloc(build->capacity * sizeof(bool));
		}
		else
		{
			build->values = repalloc(build->values, build->capacity * sizeof(Datum));
			build->nulls = repalloc(build->nulls, build->capacity * sizeof(bool));
		}
	}
	if (!isnull)
		value = build->meaning != NULL
			? ks_wire_value(conv, build->meaning, type, field)
			: ks_plain_value(conv, type, field);
	if (type->is_domain)
		ks_domain_check(conv, type, value, isnull);
	build->values[build->count] = value;
	build->nulls[build->count] = isnull;
	build->count++;
}

/* Gathers the elements of the JSON array at hand, "level" levels down. */
static void
add_level(ArrayBuild *build, KsJson *json, int level)
{
	/* plain elements of json types are never dimensions; those with a meaning are JSON in strings */
	bool		nested = build->meaning != NULL ||
		(build->element->class != KS_T_JSON && build->element->class != KS_T_JSONB);
	bool		first = true;
	int			length = 0;
	int			more;

	if (level >= MAXDIM)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("number of array dimensions exceeds the maximum allowed (%d)", MAXDIM)));
	if (level == build->ndims)
	{
		if (build->leaf)
			not_rectangular();
		build->ndims++;
		build->dims[level] = -1;
	}
	while ((more = ks_json_next_element(json, &first)) > 0)
	{
		KsField		field;

		length++;
		if (nested && ks_json_peek(json) == '[')
			add_level(build, json, level + 1);
		else
		{
			if (level != build->ndims - 1)
				not_rectangular();
			build->leaf = true;
			if (!ks_json_value(json, &field))
				break;
			field.modes = build->modes;
			add_element(build, &field);
		}
	}
	if (more != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid JSON in an array: %s", json->error != NULL ? json->error : "unknown error")));
	if (build->dims[level] == -1)
		build->dims[level] = length;
	else if (build->dims[level] != length)
		not_rectangular();
}

/*
 * Converts a JSON array to an array type; nested arrays are dimensions.  "element" is what the elements mean.
 */
Datum
ks_array_value(KsConverter *conv, const KsMeaning *element, KsType *type, const KsField *field)
{
	ArrayBuild	build = {0};
	KsJson		json;
	int			lower[MAXDIM];

	build.conv = conv;
	build.meaning = element;
	build.element = type->element;
	build.modes = field->modes;
	ks_json_init(&json, field->raw, field->raw_size, &conv->arena);
	(void) ks_json_peek(&json);
	add_level(&build, &json, 0);

	if (build.count == 0)
		return PointerGetDatum(construct_empty_array(type->element->declared));
	for (int i = 0; i < build.ndims; i++)
		lower[i] = 1;
	return PointerGetDatum(construct_md_array(build.values, build.nulls, build.ndims, build.dims, lower,
											  type->element->declared, type->element->len,
											  type->element->byval, type->element->align));
}

/* Appends text as a quoted hstore token. */
static void
append_hstore_token(StringInfo out, const char *text, size_t size)
{
	appendStringInfoChar(out, '"');
	for (size_t i = 0; i < size; i++)
	{
		if (text[i] == '"' || text[i] == '\\')
			appendStringInfoChar(out, '\\');
		appendStringInfoChar(out, text[i]);
	}
	appendStringInfoChar(out, '"');
}

/*
 * Converts the text of a JSON object to hstore: values are strings or null, other scalars their text.  Text that is no
 * JSON object is left to hstore's input function.
 */
Datum
ks_hstore_value(KsConverter *conv, KsType *type, const char *text, size_t size)
{
	StringInfoData out;
	KsJson		json;
	KsField		member;
	bool		first = true;
	int			more = -1;

	initStringInfo(&out);
	ks_json_init(&json, text, size, &conv->arena);
	if (ks_json_peek(&json) == '{')
	{
		while ((more = ks_json_next_member(&json, &first, &member)) > 0)
		{
			if (!ks_json_value(&json, &member))
			{
				more = -1;
				break;
			}
			ks_check_nul(&member);
			if (memchr(member.name, '\0', member.name_size) != NULL)
			{
				member.has_nul = true;
				ks_check_nul(&member);
			}
			if (out.len > 0)
				appendStringInfoString(&out, ", ");
			append_hstore_token(&out, member.name, member.name_size);
			appendStringInfoString(&out, "=>");
			if (member.kind == KS_FIELD_NULL)
				appendStringInfoString(&out, "NULL");
			else
				append_hstore_token(&out, member.data, member.size);
		}
	}
	if (more != 0 || !ks_json_finish(&json))
		return ks_input_text(conv, type, text, size);
	return ks_input_text(conv, type, out.data, out.len);
}
