/*
 * metadata.c: see metadata.h.
 */
#include "postgres.h"

#include "apply/metadata.h"
#include "event/message.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

static const char *const kinds[] = {"topic", "partition", "offset", "timestamp", "key", "value", "headers"};

/* The kind that a word stands for; ERROR if it is none. */
static KsMetadataKind
kind_of_word(const char *word)
{
	for (int i = 0; i < lengthof(kinds); i++)
		if (strcmp(kinds[i], word) == 0)
			return (KsMetadataKind) i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": %s", "metadata_columns", word),
			 errhint("Allowed are, by column: topic, partition, offset, timestamp, key, value, headers.")));
	return KS_META_TOPIC;
}

/* See metadata.h. */
List *
ks_metadata_parse(const char *option, KsConverter *converter)
{
	Jsonb	   *json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(option)));
	JsonbIterator *it = JsonbIteratorInit(&json->root);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	value;
	List	   *result = NIL;

	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		KsMetadataColumn *m;
		KsField		name = {0};
		char	   *text;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &value, true);
		if (value.type != jbvString)
			(void) kind_of_word("not a string");
		m = palloc0(sizeof(KsMetadataColumn));
		m->kind = kind_of_word(pnstrdup(value.val.string.val, value.val.string.len));
		result = lappend(result, m);
		if (converter == NULL)
			continue;
		text = pnstrdup(key.val.string.val, key.val.string.len);
		name.name = pg_server_to_any(text, key.val.string.len, PG_UTF8);
		name.name_size = strlen(name.name);
		m->column = ks_converter_find(converter, &name, -1);
		if (m->column == NULL || name.name_size == 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("option \"metadata_columns\" names column \"%s\", which the target does not have", text)));
	}
	return result;
}

/* Gives text to a column. */
static void
text_value(const KsMetadataColumn *m, KsFieldKind kind, const char *text, Datum *value, bool *isnull)
{
	KsField		field = {.kind = text ? kind : KS_FIELD_NULL, .data = text, .size = text ? strlen(text) : 0};

	ks_convert_text_field(m->column, &field, value, isnull);
}

/* Gives bytes to a column, NULL for NULL. */
static void
bytes_value(const KsMetadataColumn *m, const char *bytes, size_t size, Datum *value, bool *isnull)
{
	KsField		field = {.kind = bytes ? KS_FIELD_BYTES : KS_FIELD_NULL, .data = bytes, .size = size};

	ks_convert_text_field(m->column, &field, value, isnull);
}

/* Milliseconds since 1970 as text with a zone. */
static char *
timestamp_text(int64 ms)
{
	TimestampTz t = (ms - (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000) * 1000;

	return pstrdup(timestamptz_to_str(t));
}

/* See metadata.h. */
void
ks_metadata_value(const KsMetadataColumn *m, const KsMessage *message, Datum *value, bool *isnull)
{
	char		number[32];
	Jsonb	   *headers;

	switch (m->kind)
	{
		case KS_META_TOPIC:
			text_value(m, KS_FIELD_STRING, message->topic, value, isnull);
			break;
		case KS_META_PARTITION:
			snprintf(number, sizeof(number), "%d", message->partition);
			text_value(m, KS_FIELD_NUMBER, number, value, isnull);
			break;
		case KS_META_OFFSET:
			snprintf(number, sizeof(number), INT64_FORMAT, message->offset);
			text_value(m, KS_FIELD_NUMBER, number, value, isnull);
			break;
		case KS_META_TIMESTAMP:
			if (message->timestamp_ms < 0)
				text_value(m, KS_FIELD_STRING, NULL, value, isnull);
			else if (ks_column_is_number(m->column))
			{
				snprintf(number, sizeof(number), INT64_FORMAT, message->timestamp_ms);
				text_value(m, KS_FIELD_NUMBER, number, value, isnull);
			}
			else
				text_value(m, KS_FIELD_STRING, timestamp_text(message->timestamp_ms), value, isnull);
			break;
		case KS_META_KEY:
			bytes_value(m, message->key, message->key_size, value, isnull);
			break;
		case KS_META_VALUE:
			bytes_value(m, message->value, message->value_size, value, isnull);
			break;
		case KS_META_HEADERS:
			headers = ks_message_headers(message);
			text_value(m, KS_FIELD_STRING, headers ? JsonbToCString(NULL, &headers->root, VARSIZE(headers)) : NULL, value,
					   isnull);
			break;
	}
}
