/*
 * headers.c: headers of messages as jsonb: an array of [name, value], or (only taken, never given) an object; a value is
 * a string, null, or {"base64": "..."}.
 */
#include "postgres.h"

#include "common/string.h"
#include "kafka/headers.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

/* Adds a header. ERROR if its value is none. */
static void
add_header(rd_kafka_headers_t *headers, const char *name, const JsonbValue *value)
{
	if (value->type == jbvNull)
		rd_kafka_header_add(headers, name, -1, NULL, 0);
	else if (value->type == jbvString)
	{
		char	   *text = pnstrdup(value->val.string.val, value->val.string.len);

		text = pg_server_to_any(text, strlen(text), PG_UTF8);
		rd_kafka_header_add(headers, name, -1, text, strlen(text));
	}
	else
	{
		JsonbValue	base64;

		if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data) ||
			JsonContainerSize(value->val.binary.data) != 1 ||
			getKeyJsonValueFromContainer(value->val.binary.data, "base64", 6, &base64) == NULL ||
			base64.type != jbvString)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value of header \"%s\"", name),
					 errdetail("It must be a string, null, or {\"base64\": \"...\"}.")));
		else
		{
			text	   *encoded = cstring_to_text_with_len(base64.val.string.val, base64.val.string.len);
			bytea	   *bytes = DatumGetByteaPP(DirectFunctionCall2(binary_decode, PointerGetDatum(encoded),
																	CStringGetTextDatum("base64")));

			rd_kafka_header_add(headers, name, -1, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
		}
	}
}

/* ERROR: this jsonb describes no headers. */
pg_noreturn static void headers_error(void);

static void
headers_error(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for argument \"%s\"", "headers"),
			 errdetail("It must be an array of [name, value], or an object; a value is a string, null, or {\"base64\": \"...\"}.")));
}

/* Returns a header's name as a string in UTF-8. */
static char *
header_name(const JsonbValue *value)
{
	char	   *name;

	if (value == NULL || value->type != jbvString)
		headers_error();
	name = pnstrdup(value->val.string.val, value->val.string.len);
	return pg_server_to_any(name, strlen(name), PG_UTF8);
}

/* Adds the headers of a jsonb: an array of [name, value], or an object. */
static void
add_headers(rd_kafka_headers_t *headers, Jsonb *jsonb)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;

	if (!JB_ROOT_IS_OBJECT(jsonb) && (!JB_ROOT_IS_ARRAY(jsonb) || JB_ROOT_IS_SCALAR(jsonb)))
		headers_error();
	iterator = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = header_name(&value);
		else if (token == WJB_VALUE)
			add_header(headers, name, &value);
		else if (token == WJB_ELEM)
		{
			JsonbValue *item;

			if (value.type != jbvBinary || !JsonContainerIsArray(value.val.binary.data) ||
				JsonContainerSize(value.val.binary.data) != 2)
				headers_error();
			name = header_name(getIthJsonbValueFromContainer(value.val.binary.data, 0));
			item = getIthJsonbValueFromContainer(value.val.binary.data, 1);
			add_header(headers, name, item);
		}
	}
}

rd_kafka_headers_t *
ks_headers_make(Jsonb *jsonb)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(8);

	PG_TRY();
	{
		if (jsonb)
			add_headers(headers, jsonb);
	}
	PG_CATCH();
	{
		rd_kafka_headers_destroy(headers);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return headers;
}

/* Pushes a string of the server's encoding. */
static void
push_string(JsonbParseState **state, JsonbIteratorToken token, char *text, int size)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = text;
	value.val.string.len = size;
	(void) pushJsonbValue(state, token, &value);
}

/* Pushes a name or value: text where the database can hold it as that, else base64, so that nothing is lost. */
static void
push_value(JsonbParseState **state, const char *data, size_t size)
{
	char	   *string = pnstrdup(data, size);
	Datum		base64;
	char	   *encoded;
	int			n = 0;

	if (strlen(string) == size && (pg_is_ascii(string) || (GetDatabaseEncoding() == PG_UTF8 &&
													   pg_verify_mbstr(PG_UTF8, string, size, true))))
	{
		push_string(state, WJB_ELEM, string, size);
		return;
	}
	base64 = DirectFunctionCall2(binary_encode, PointerGetDatum(cstring_to_text_with_len(data, size)),
								 CStringGetTextDatum("base64"));
	/* it comes in lines */
	encoded = TextDatumGetCString(base64);
	for (const char *p = encoded; *p != '\0'; p++)
		if (*p != '\n')
			encoded[n++] = *p;
	(void) pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	push_string(state, WJB_KEY, pstrdup("base64"), 6);
	push_string(state, WJB_VALUE, encoded, n);
	(void) pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

Jsonb *
ks_headers_read(const rd_kafka_headers_t *headers)
{
	JsonbParseState *state = NULL;
	const char *name;
	const void *data;
	size_t		size;

	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &data, &size) == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
	{
		(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
		push_value(&state, name, strlen(name));
		if (data == NULL)
		{
			JsonbValue	null = {.type = jbvNull};

			(void) pushJsonbValue(&state, WJB_ELEM, &null);
		}
		else
			push_value(&state, data, size);
		(void) pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}
