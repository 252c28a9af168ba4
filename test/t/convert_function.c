/*
 * convert_function.c: the parsers and apply/convert.c as one SQL function, for test_convert.py, which compiles it:
 *
 *   convert_message(target regclass, format text, column_types text, key bytea, value bytea, json_null bytea) -> text[]
 *
 * The operation, then name and value of each column: of after, of before for a delete, of the key for a tombstone.
 */
#include "postgres.h"

#include "access/table.h"
#include "apply/convert.h"
#include "catalog/pg_type.h"
#include "compat/pg_compat.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(convert_message);

/* The bytes of a text or bytea argument, NULL for NULL. */
static char *
argument(FunctionCallInfo fcinfo, int n, size_t *size)
{
	char	   *result;

	*size = 0;
	if (PG_ARGISNULL(n))
		return NULL;
	*size = VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(n));
	/* of exactly that size, for checkers of memory */
	result = palloc(Max(*size, 1));
	memcpy(result, VARDATA_ANY(PG_GETARG_TEXT_PP(n)), *size);
	return result;
}

Datum
convert_message(PG_FUNCTION_ARGS)
{
	ArrayBuildState *result = NULL;
	Relation	rel = table_open(PG_GETARG_OID(0), AccessShareLock);
	KsMessage	message = {0};
	KsParsed	out = {0};
	const KsParserOps *ops;
	KsParser   *parser;
	KsFieldList *list;
	KsConverter *conv;
	char	   *format = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *column_types = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	const char *error;
	char		op[2] = {0};

	message.topic = "a.b.c";
	message.key = argument(fcinfo, 3, &message.key_size);
	message.value = argument(fcinfo, 4, &message.value_size);
	message.json_null = argument(fcinfo, 5, &message.json_null_size);
	ks_converter_fix_settings();
	conv = ks_converter_create(RelationGetDescr(rel), format, column_types, 0);
	ops = strcmp(format, "json") == 0 ? &ks_json_parser : &ks_debezium_parser;
	parser = ops->create();
	error = ops->parse(parser, &message, &out);
	if (error != NULL)
		ereport(ERROR, (errmsg("%s", error)));

	list = out.tombstone ? &out.key : out.op == 'd' ? &out.before : &out.after;
	ks_converter_use_schema(conv, out.tombstone ? out.key_schema : out.schema,
							out.tombstone ? out.key_schema_size : out.schema_size);
	ks_converter_use_connector(conv, out.connector, out.connector_size);
	op[0] = out.op;
	result = accumArrayResult(result, CStringGetTextDatum(op), false, TEXTOID, CurrentMemoryContext);
	for (int i = 0; i < list->count; i++)
	{
		KsColumnConverter *column = ks_converter_find(conv, &list->fields[i], i);
		Form_pg_attribute attribute;
		Datum		value;
		bool		isnull;
		bool		unavailable;
		char	   *text = "(unavailable)";

		if (column == NULL)
			continue;
		ks_convert_field(column, &list->fields[i], &value, &isnull, &unavailable);
		attribute = TupleDescAttr(RelationGetDescr(rel), ks_column_index(column));
		if (!isnull && !unavailable)
		{
			Oid			output;
			bool		varlena;

			getTypeOutputInfo(attribute->atttypid, &output, &varlena);
			text = OidOutputFunctionCall(output, value);
		}
		result = accumArrayResult(result, CStringGetTextDatum(NameStr(attribute->attname)), false, TEXTOID,
								  CurrentMemoryContext);
		result = accumArrayResult(result, isnull ? (Datum) 0 : CStringGetTextDatum(text), isnull, TEXTOID,
								  CurrentMemoryContext);
	}
	ks_parsed_free(&out);
	ops->destroy(parser);
	ks_converter_free(conv);
	table_close(rel, AccessShareLock);
	PG_RETURN_DATUM(makeArrayResult(result, CurrentMemoryContext));
}
