/*
 * topic_guess.c: see topic_guess.h.
 *
 * What every message of the sample is, the topic is: one that is no JSON object makes it raw.  A column takes the
 * narrowest type that all values seen have, where "narrow" stops at what a later value is likely to have, too.
 */
#include "postgres.h"

#include "apply/connect_types.h"
#include "apply/value_text.h"
#include "fdw/topic_guess.h"
#include "format/json_fields.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Columns that a table is given at most. */
#define MAX_FIELDS 500

/* Kinds of values that were seen. */
#define SEEN_BOOL 1
#define SEEN_BIGINT 2
#define SEEN_NUMBER 4
#define SEEN_DATE 8
#define SEEN_TIMESTAMP 16
#define SEEN_TIMESTAMPTZ 32
#define SEEN_UUID 64
#define SEEN_TEXT 128
#define SEEN_NESTED 256

KsGuess *
ks_guess_begin(const char *wanted)
{
	KsGuess    *guess = palloc0(sizeof(KsGuess));
	KsParserOptions options = {0};

	guess->context = CurrentMemoryContext;
	guess->wanted = wanted;
	guess->json = ks_json_parser.create();
	guess->debezium = ks_debezium_parser.create();
	if (guess->json == NULL || guess->debezium == NULL ||
		ks_json_parser.configure(guess->json, &options) != NULL ||
		ks_debezium_parser.configure(guess->debezium, &options) != NULL)
	{
		ks_guess_free(guess);
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	}
	return guess;
}

void
ks_guess_free(KsGuess *guess)
{
	if (guess->json)
		ks_json_parser.destroy(guess->json);
	if (guess->debezium)
		ks_debezium_parser.destroy(guess->debezium);
	guess->json = guess->debezium = NULL;
	ks_parsed_free(&guess->parsed);
}

/* Says what kind of value a string looks like. */
static int
kind_of_string(const KsField *field)
{
	KsDateTime	dt;
	unsigned char uuid[16];
	int			year;
	int			month;
	int			day;

	if (field->has_nul)
		return SEEN_TEXT;
	if (ks_text_datetime(field->data, field->size, &dt))
		return dt.has_zone ? SEEN_TIMESTAMPTZ : SEEN_TIMESTAMP;
	if (ks_text_date(field->data, field->size, &year, &month, &day))
		return SEEN_DATE;
	if (field->size == 36 && ks_text_uuid(field->data, field->size, uuid))
		return SEEN_UUID;
	return SEEN_TEXT;
}

/* Says what kind of value a field has. */
static int
kind_of(const KsField *field)
{
	int64_t		value;
	bool		overflow;

	switch (field->kind)
	{
		case KS_FIELD_TRUE:
		case KS_FIELD_FALSE:
			return SEEN_BOOL;
		case KS_FIELD_NUMBER:
			return ks_text_int64(field->data, field->size, &value, &overflow) ? SEEN_BIGINT : SEEN_NUMBER;
		case KS_FIELD_STRING:
			return kind_of_string(field);
		case KS_FIELD_OBJECT:
		case KS_FIELD_ARRAY:
			return SEEN_NESTED;
		default:
			return 0;
	}
}

/* Returns the field of a name, made if it is new; NULL if there are too many. */
static KsGuessedField *
find_field(KsGuess *guess, List **fields, const char *name, size_t size)
{
	KsGuessedField *field;
	ListCell   *cell;

	foreach(cell, *fields)
	{
		field = lfirst(cell);
		if (strlen(field->name) == size && memcmp(field->name, name, size) == 0)
			return field;
	}
	if (memchr(name, '\0', size) != NULL || size == 0)
		return NULL;
	if (list_length(*fields) >= MAX_FIELDS)
	{
		guess->too_many++;
		return NULL;
	}
	field = palloc0(sizeof(KsGuessedField));
	field->name = pnstrdup(name, size);
	*fields = lappend(*fields, field);
	return field;
}

/* Takes the fields of a row. */
static void
take_fields(KsGuess *guess, List **fields, const KsFieldList *list)
{
	for (int i = 0; list->present && i < list->count; i++)
	{
		KsGuessedField *field = find_field(guess, fields, list->fields[i].name, list->fields[i].name_size);

		if (field)
			field->seen |= kind_of(&list->fields[i]);
	}
}

/* The schema that an event brings with it. */
static void
take_schema(KsGuess *guess, const char *text, size_t size)
{
	ListCell   *cell;

	guess->schemas = true;
	foreach(cell, ks_connect_columns(text, size))
	{
		const KsConnectColumn *column = lfirst(cell);
		KsGuessedField *field = find_field(guess, &guess->event_fields, column->name, strlen(column->name));

		if (field && field->schema_type == NULL && OidIsValid(column->type))
			field->schema_type = format_type_with_typemod(column->type, column->typmod);
	}
}

/* Are these bytes text that PostgreSQL can hold? */
static bool
is_text(const char *data, size_t size)
{
	return memchr(data, '\0', size) == NULL && pg_verify_mbstr(PG_UTF8, data, size, true);
}

/* Notes the members of a key; keys that differ have none in common. */
static void
take_key_fields(KsGuess *guess, const KsFieldList *list)
{
	ListCell   *cell;
	int			i = 0;

	if (guess->object_keys == 1)
	{
		for (i = 0; i < list->count; i++)
			guess->key_fields = lappend(guess->key_fields, pnstrdup(list->fields[i].name, list->fields[i].name_size));
		return;
	}
	if (list_length(guess->key_fields) == list->count)
	{
		foreach(cell, guess->key_fields)
		{
			if (strlen(lfirst(cell)) != list->fields[i].name_size ||
				memcmp(lfirst(cell), list->fields[i].name, list->fields[i].name_size) != 0)
				break;
			i++;
		}
		if (i == list->count)
			return;
	}
	guess->key_fields = NIL;
}

/* Looks at the key of a message. */
static void
take_key(KsGuess *guess, const KsMessage *m)
{
	if (m->key == NULL)
		return;
	guess->keys++;
	guess->text_keys += is_text(m->key, m->key_size);
	ks_json_parser_reset(guess->json);
	ks_parsed_clear(&guess->parsed);
	if (ks_json_key(guess->json, m, true, &guess->parsed) == NULL && guess->parsed.key.present &&
		!(guess->parsed.key.count == 1 && guess->parsed.key.fields[0].name_size == 0))
	{
		guess->object_keys++;
		take_key_fields(guess, &guess->parsed.key);
	}
}

void
ks_guess_message(KsGuess *guess, const KsMessage *m)
{
	MemoryContext former = MemoryContextSwitchTo(guess->context);
	KsMessage	message = *m;

	guess->messages++;
	take_key(guess, m);
	if (m->value != NULL)
	{
		guess->values++;
		guess->texts += is_text(m->value, m->value_size);
		message.key = NULL;
		message.key_size = 0;
		ks_debezium_parser.reset(guess->debezium);
		if (ks_debezium_parser.parse(guess->debezium, &message, &guess->parsed) == NULL)
		{
			guess->events++;
			if (guess->parsed.schema)
				take_schema(guess, guess->parsed.schema, guess->parsed.schema_size);
			take_fields(guess, &guess->event_fields, &guess->parsed.after);
		}
		ks_json_parser.reset(guess->json);
		if (ks_json_parser.parse(guess->json, &message, &guess->parsed) == NULL)
		{
			guess->objects++;
			take_fields(guess, &guess->json_fields, &guess->parsed.after);
		}
	}
	MemoryContextSwitchTo(former);
}

/* The SQL type for kinds of values. */
static const char *
type_for(int seen)
{
	switch (seen)
	{
		case SEEN_BOOL:
			return "boolean";
		case SEEN_BIGINT:
			return "bigint";
		case SEEN_NUMBER:
		case SEEN_NUMBER | SEEN_BIGINT:
			return "numeric";
		case SEEN_DATE:
			return "date";
		case SEEN_TIMESTAMP:
			return "timestamp";
		case SEEN_TIMESTAMPTZ:
			return "timestamp with time zone";
		case SEEN_UUID:
			return "uuid";
		default:
			return (seen & SEEN_NESTED) ? "jsonb" : "text";
	}
}

/* Does the key consist of fields of the value? */
static bool
key_is_in_fields(const KsGuess *guess)
{
	ListCell   *key;

	foreach(key, guess->key_fields)
	{
		ListCell   *cell;
		bool		found = false;

		foreach(cell, guess->fields)
			found |= strcmp(((KsGuessedField *) lfirst(cell))->name, lfirst(key)) == 0;
		if (!found)
			return false;
	}
	return true;
}

void
ks_guess_end(KsGuess *guess)
{
	ListCell   *cell;

	if (guess->wanted)
		guess->format = guess->wanted;
	else if (guess->values > 0 && guess->events == guess->values)
		guess->format = "debezium";
	else if (guess->values > 0 && guess->objects == guess->values)
		guess->format = "json";
	else
		guess->format = "raw";
	guess->fields = strcmp(guess->format, "debezium") == 0 ? guess->event_fields :
		strcmp(guess->format, "json") == 0 ? guess->json_fields : NIL;
	foreach(cell, guess->fields)
	{
		KsGuessedField *field = lfirst(cell);

		field->type = field->schema_type ? field->schema_type : type_for(field->seen);
	}
	if (guess->object_keys < guess->keys || !key_is_in_fields(guess))
		guess->key_fields = NIL;
}
