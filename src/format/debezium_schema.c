/*
 * debezium_schema.c: the Connect schemas that go with keys and envelopes where option "schemas" is true.
 */
#include "postgres.h"

#include "format/debezium_types.h"

#define FIELD(type, optional, name) "{\"type\":\"" type "\",\"optional\":" optional ",\"field\":\"" name "\"}"

/* The struct "source", the same for every table. */
static const char source_schema[] =
"{\"type\":\"struct\",\"fields\":["
FIELD("string", "false", "version") ","
FIELD("string", "false", "connector") ","
FIELD("string", "false", "name") ","
FIELD("int64", "false", "ts_ms") ","
"{\"type\":\"string\",\"optional\":true,\"name\":\"io.debezium.data.Enum\",\"version\":1,\"parameters\":{\"allowed\":"
"\"true,first,first_in_data_collection,last_in_data_collection,last,false,incremental\"},\"default\":\"false\","
"\"field\":\"snapshot\"},"
FIELD("string", "false", "db") ","
FIELD("string", "true", "sequence") ","
FIELD("int64", "true", "ts_us") ","
FIELD("int64", "true", "ts_ns") ","
FIELD("string", "false", "schema") ","
FIELD("string", "false", "table") ","
FIELD("int64", "true", "txId") ","
FIELD("int64", "true", "lsn") ","
FIELD("int64", "true", "xmin") ","
FIELD("string", "true", "origin") ","
FIELD("int64", "true", "origin_lsn")
"],\"optional\":false,\"name\":\"io.debezium.connector.postgresql.Source\",\"version\":1,\"field\":\"source\"}";

static const char transaction_schema[] =
"{\"type\":\"struct\",\"fields\":["
FIELD("string", "false", "id") ","
FIELD("int64", "false", "total_order") ","
FIELD("int64", "false", "data_collection_order")
"],\"optional\":true,\"name\":\"event.block\",\"version\":1,\"field\":\"transaction\"}";

/*
 * Appends the schema of a column.  "field" is the JSON of the field's name, NULL for the elements of an array.
 */
void
ks_put_field_schema(StringInfo out, const KsColumn *column, bool optional, bool with_default, const char *field)
{
	ks_put_char(out, '{');
	ks_put(out, column->schema_type, strlen(column->schema_type));
	if (optional)
		ks_put_literal(out, ",\"optional\":true");
	else
		ks_put_literal(out, ",\"optional\":false");
	ks_put(out, column->schema_name, strlen(column->schema_name));
	if (with_default && column->schema_default != NULL)
	{
		ks_put_literal(out, ",\"default\":");
		ks_put(out, column->schema_default, strlen(column->schema_default));
	}
	if (field != NULL)
	{
		ks_put_literal(out, ",\"field\":");
		ks_put(out, field, strlen(field));
	}
	ks_put_char(out, '}');
}

/* Appends the fields of a row or key, in brackets. */
static void
put_fields(StringInfo out, const KsColumn *columns, int ncolumns)
{
	ks_put_char(out, '[');
	for (int i = 0; i < ncolumns; i++)
	{
		if (i > 0)
			ks_put_char(out, ',');
		ks_put_field_schema(out, &columns[i], !columns[i].not_null, true, ks_json_name(columns[i].name));
	}
	ks_put_char(out, ']');
}

/* Appends "name":"<name><suffix>", the name being UTF-8. */
static void
put_schema_name(StringInfo out, const char *name, const char *suffix)
{
	ks_put_literal(out, "\"name\":\"");
	ks_put_escaped(out, name, strlen(name));
	ks_put_escaped(out, suffix, strlen(suffix));
	ks_put_char(out, '"');
}

/* Returns the schema of a table's keys; "name" is <prefix>.<schema>.<table> in UTF-8. */
char *
ks_debezium_key_schema(const char *name, const KsColumn *keys, int nkeys)
{
	StringInfoData out;

	initStringInfo(&out);
	ks_put_literal(&out, "{\"type\":\"struct\",\"fields\":");
	put_fields(&out, keys, nkeys);
	ks_put_literal(&out, ",\"optional\":false,");
	put_schema_name(&out, name, ".Key");
	ks_put_char(&out, '}');
	ks_terminate(&out);
	return out.data;
}

/* Returns the schema of a table's envelopes; "name" as above. */
char *
ks_debezium_envelope_schema(const char *name, const KsColumn *columns, int ncolumns)
{
	StringInfoData out;

	initStringInfo(&out);
	ks_put_literal(&out, "{\"type\":\"struct\",\"fields\":[");
	for (int i = 0; i < 2; i++)
	{
		ks_put_literal(&out, "{\"type\":\"struct\",\"fields\":");
		put_fields(&out, columns, ncolumns);
		ks_put_literal(&out, ",\"optional\":true,");
		put_schema_name(&out, name, ".Value");
		if (i == 0)
			ks_put_literal(&out, ",\"field\":\"before\"},");
		else
			ks_put_literal(&out, ",\"field\":\"after\"},");
	}
	ks_put(&out, source_schema, sizeof(source_schema) - 1);
	ks_put_char(&out, ',');
	ks_put(&out, transaction_schema, sizeof(transaction_schema) - 1);
	ks_put_literal(&out, "," FIELD("string", "false", "op") "," FIELD("int64", "true", "ts_ms") ","
				   FIELD("int64", "true", "ts_us") "," FIELD("int64", "true", "ts_ns") "],\"optional\":false,");
	put_schema_name(&out, name, ".Envelope");
	ks_put_literal(&out, ",\"version\":2}");
	ks_terminate(&out);
	return out.data;
}

/* Returns the schema of logical messages. */
char *
ks_debezium_message_schema(void)
{
	StringInfoData out;

	initStringInfo(&out);
	ks_put_literal(&out, "{\"type\":\"struct\",\"fields\":[" FIELD("string", "false", "op") ","
				   FIELD("int64", "true", "ts_ms") ",");
	ks_put(&out, source_schema, sizeof(source_schema) - 1);
	ks_put_char(&out, ',');
	ks_put(&out, transaction_schema, sizeof(transaction_schema) - 1);
	ks_put_literal(&out, ",{\"type\":\"struct\",\"fields\":[" FIELD("string", "true", "prefix") ","
				   FIELD("bytes", "true", "content") "],\"optional\":true,"
				   "\"name\":\"io.debezium.connector.postgresql.Message\",\"version\":1,\"field\":\"message\"}"
				   "],\"optional\":false,\"name\":\"io.debezium.connector.postgresql.MessageValue\",\"version\":1}");
	ks_terminate(&out);
	return out.data;
}
