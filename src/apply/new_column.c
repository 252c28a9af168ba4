/*
 * new_column.c: see new_column.h.
 */
#include "postgres.h"

#include "apply/connect_types.h"
#include "apply/decode.h"
#include "apply/decode_types.h"
#include "apply/new_column.h"
#include "catalog/heap.h"
#include "catalog/pg_type.h"
#include "fdw/topic_lookup.h"
#include "utils/builtins.h"

/* Refuses a column. */
static KsNewVerdict
refuse(KsNewColumn *column, const char *why, const char *hint)
{
	column->why = why;
	column->hint = hint;
	return KS_NEW_REFUSED;
}

/* Reads the field's name. False: it can be no column's. */
static bool
read_name(const KsField *field, KsNewColumn *column)
{
	static const char rename[] =
		"Have the writer rename the field, set option \"ignore_unknown_columns\", or use a target with a query.";
	int			size;

	column->name = pnstrdup("", 0);
	if (memchr(field->name, '\0', field->name_size) != NULL)
		return refuse(column, "its name has a null character", rename) != KS_NEW_REFUSED;
	column->name = ks_decode_string(pnstrdup(field->name, field->name_size), field->name_size, &size);
	if (size == 0)
		return refuse(column, "it has no name", rename) != KS_NEW_REFUSED;
	if (size >= NAMEDATALEN)
		return refuse(column, psprintf("its name is longer than %d bytes", NAMEDATALEN - 1), rename) != KS_NEW_REFUSED;
	if (SystemAttributeByName(column->name) != NULL)
		return refuse(column, "its name is that of a system column", rename) != KS_NEW_REFUSED;
	return true;
}

/* The type of values that stand for themselves; InvalidOid where they may not, or have none. */
static Oid
natural_type(const char *format, const KsField *field)
{
	if (strcmp(format, "debezium") == 0)
		return InvalidOid;
	switch (field->kind)
	{
		case KS_FIELD_TRUE:
		case KS_FIELD_FALSE:
			return BOOLOID;
		case KS_FIELD_NUMBER:
			return NUMERICOID;
		case KS_FIELD_STRING:
			return TEXTOID;
		case KS_FIELD_OBJECT:
		case KS_FIELD_ARRAY:
			return JSONBOID;
		default:
			return InvalidOid;
	}
}

/* What option "column_types" says. False: nothing. */
static bool
find_in_option(const KsSubscription *s, KsNewColumn *column)
{
	ListCell   *lc;

	foreach(lc, ks_types_in_option(s->options->text_value[KS_OPT_COLUMN_TYPES]))
	{
		const KsDeclaredType *t = lfirst(lc);

		if (strcmp(t->name, column->name) != 0)
			continue;
		column->type = t->type;
		column->typmod = t->typmod;
		return true;
	}
	return false;
}

/* See new_column.h. */
KsNewVerdict
ks_new_column(const KsSubscription *s, const char *topic, List *schema, const KsField *field, bool needed,
			  KsNewColumn *column)
{
	const KsConnectColumn *described = NULL;
	bool		nothing = field->kind == KS_FIELD_NULL && !needed;
	ListCell   *lc;

	memset(column, 0, sizeof(KsNewColumn));
	column->typmod = -1;
	/* nulls may come with every message: do not look far */
	if (nothing && schema == NIL)
		return KS_NEW_NOTHING;
	if (!read_name(field, column))
		return KS_NEW_REFUSED;
	if (find_in_option(s, column))
		return KS_NEW_COLUMN;
	foreach(lc, schema)
		if (strlen(((KsConnectColumn *) lfirst(lc))->name) == field->name_size &&
			memcmp(((KsConnectColumn *) lfirst(lc))->name, field->name, field->name_size) == 0)
			described = lfirst(lc);
	if (described && OidIsValid(described->type) && described->doubt == NULL)
	{
		column->type = described->type;
		column->typmod = described->typmod;
		return KS_NEW_COLUMN;
	}
	if (nothing)
		return KS_NEW_NOTHING;
	switch (ks_topic_lookup(NameStr(s->server), s->owner, topic, s->format, field->name, field->name_size, &column->type,
							&column->typmod))
	{
		case KS_LOOKUP_FOUND:
			return KS_NEW_COLUMN;
		case KS_LOOKUP_DISPUTED:
			return refuse(column, "the topic's foreign tables do not agree on its type",
						  "Name its type in option \"column_types\".");
		case KS_LOOKUP_NONE:
			break;
	}
	column->type = needed ? InvalidOid : natural_type(s->format, field);
	if (OidIsValid(column->type))
		return KS_NEW_COLUMN;
	return refuse(column, described && described->doubt ? described->doubt : "nothing tells its type",
				  "Name its type in option \"column_types\", have the writer send schemas (option \"schemas\" of a publisher), "
				  "or add the column.");
}

/* See new_column.h. */
char *
ks_new_column_definition(const KsNewColumn *column)
{
	return psprintf("%s %s", quote_identifier(column->name), format_type_with_typemod(column->type, column->typmod));
}
