/*
 * debezium_types.c: which encoding, schema, stand-in and placeholder each PostgreSQL type has.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "format/debezium_types.h"
#include "format/text_out.h"

#define TEXT_UNCHANGED "\"" KS_UNAVAILABLE "\""

/* varbit without a length */
#define UNLIMITED_BITS PG_INT32_MAX

/* ,"name":"N","version":1 */
#define NAMED(name) ",\"name\":\"" name "\",\"version\":1"

/* A type whose encoding no option and no modifier changes. */
typedef struct FixedType
{
	Oid			type;
	KsPutValue	put;			/* NULL: the output function's text */
	const char *connect_type;
	const char *connect_name;
	const char *zero;
	const char *generated;		/* where it differs from zero */
} FixedType;

static const FixedType fixed_types[] = {
	{BOOLOID, ks_dbz_bool, "boolean", "", "false", NULL},
	{INT2OID, ks_dbz_int2, "int16", "", "0", NULL},
	{INT4OID, ks_dbz_int4, "int32", "", "0", NULL},
	{INT8OID, ks_dbz_int8, "int64", "", "0", NULL},
	{OIDOID, ks_dbz_oid, "int64", "", "0", NULL},
	{FLOAT4OID, ks_dbz_float4, "float", "", "0.0", NULL},
	{FLOAT8OID, ks_dbz_float8, "double", "", "0.0", NULL},
	{TEXTOID, ks_put_text_datum, "string", "", "\"\"", NULL},
	{VARCHAROID, ks_put_text_datum, "string", "", "\"\"", NULL},
	{BPCHAROID, ks_put_text_datum, "string", "", "\"\"", NULL},
	{NAMEOID, ks_dbz_name, "string", "", "\"\"", NULL},
	{JSONOID, ks_put_text_datum, "string", NAMED("io.debezium.data.Json"), "\"\"", "\"{}\""},
	{JSONBOID, ks_dbz_jsonb, "string", NAMED("io.debezium.data.Json"), "\"\"", "\"{}\""},
	{XMLOID, NULL, "string", NAMED("io.debezium.data.Xml"), "\"\"", NULL},
	{UUIDOID, ks_dbz_uuid, "string", NAMED("io.debezium.data.Uuid"), "\"\"",
	"\"00000000-0000-0000-0000-000000000000\""},
	{TSVECTOROID, NULL, "string", NAMED("io.debezium.data.Tsvector"), "\"\"", NULL},
	{TIMETZOID, ks_dbz_timetz, "string", NAMED("io.debezium.time.ZonedTime"), "\"00:00:00Z\"", NULL},
	{TIMESTAMPTZOID, ks_dbz_timestamptz, "string", NAMED("io.debezium.time.ZonedTimestamp"),
	"\"1970-01-01T00:00:00Z\"", NULL},
};

/* Reads the options that choose between encodings. */
void
ks_debezium_modes(const KsOptions *options, KsDebeziumModes *modes)
{
	const char *decimal = options->text_value[KS_OPT_DECIMAL_MODE];
	const char *time = options->text_value[KS_OPT_TIME_MODE];
	const char *interval = options->text_value[KS_OPT_INTERVAL_MODE];
	const char *binary = options->text_value[KS_OPT_BINARY_MODE];

	memset(modes, 0, sizeof(*modes));
	modes->schemas = options->bool_value[KS_OPT_SCHEMAS];
	if (decimal != NULL && strcmp(decimal, "double") == 0)
		modes->decimal = KS_DECIMAL_DOUBLE;
	else if (decimal != NULL && strcmp(decimal, "string") == 0)
		modes->decimal = KS_DECIMAL_STRING;
	if (time != NULL && strcmp(time, "adaptive_time_microseconds") == 0)
		modes->time = KS_TIME_ADAPTIVE_MICROSECONDS;
	else if (time != NULL && strcmp(time, "connect") == 0)
		modes->time = KS_TIME_CONNECT;
	modes->interval_string = interval != NULL && strcmp(interval, "string") == 0;
	if (binary != NULL && strcmp(binary, "base64") == 0)
		modes->binary = KS_BINARY_BASE64;
	else if (binary != NULL && strcmp(binary, "base64-url-safe") == 0)
		modes->binary = KS_BINARY_BASE64_URL_SAFE;
	else if (binary != NULL && strcmp(binary, "hex") == 0)
		modes->binary = KS_BINARY_HEX;
}

/* Sets how a column is written and the first and last part of its schema. */
static void
set_type(KsColumn *column, KsPutValue put, const char *connect_type, const char *connect_name, const char *zero)
{
	column->put = put;
	column->schema_type = psprintf("\"type\":\"%s\"", connect_type);
	column->schema_name = connect_name;
	column->zero = zero;
	column->generated = zero;
}

/* A text that stands for itself in the database's encoding, from the type's output function. */
static void
set_output_text(KsColumn *column, const char *connect_name)
{
	ks_need_output(column);
	set_type(column, ks_put_output, "string", connect_name, "\"\"");
}

/* The base64 of the placeholder, as a JSON string. */
static char *
unavailable_base64(bool url_safe)
{
	StringInfoData buf;

	initStringInfo(&buf);
	ks_put_char(&buf, '"');
	ks_put_base64(&buf, (const unsigned char *) KS_UNAVAILABLE, strlen(KS_UNAVAILABLE), url_safe);
	ks_put_char(&buf, '"');
	ks_terminate(&buf);
	return buf.data;
}

/* numeric: by its declared precision and scale and decimal.handling.mode. */
static void
set_numeric(KsColumn *column, const KsDebeziumModes *modes)
{
	if (modes->decimal == KS_DECIMAL_DOUBLE)
		set_type(column, ks_dbz_decimal_double, "double", "", "0.0");
	else if (modes->decimal == KS_DECIMAL_STRING)
		set_type(column, ks_dbz_decimal_string, "string", "", "\"0\"");
	else if (column->typmod < (int32) VARHDRSZ)
	{
		set_type(column, ks_dbz_decimal_variable, "struct", NAMED("io.debezium.data.VariableScaleDecimal")
				 ",\"doc\":\"Variable scaled decimal\"", "{\"scale\":0,\"value\":\"AA==\"}");
		column->schema_type = "\"type\":\"struct\",\"fields\":[{\"type\":\"int32\",\"optional\":false,\"field\":\"scale\"},"
			"{\"type\":\"bytes\",\"optional\":false,\"field\":\"value\"}]";
	}
	else
	{
		int32		typmod = column->typmod - VARHDRSZ;

		/* 11 bits, signed since PostgreSQL 15. */
		column->scale = ((typmod & 0x7ff) ^ 1024) - 1024;
		set_type(column, ks_dbz_decimal, "bytes",
				 psprintf(NAMED("org.apache.kafka.connect.data.Decimal")
						  ",\"parameters\":{\"scale\":\"%d\",\"connect.decimal.precision\":\"%d\"}",
						  column->scale, (typmod >> 16) & 0xffff), "\"AA==\"");
	}
}

/* money: always two digits after the point. */
static void
set_money(KsColumn *column, const KsDebeziumModes *modes)
{
	if (modes->decimal == KS_DECIMAL_DOUBLE)
		set_type(column, ks_dbz_money_double, "double", "", "0.0");
	else if (modes->decimal == KS_DECIMAL_STRING)
		set_type(column, ks_dbz_money_string, "string", "", "\"0.00\"");
	else
		set_type(column, ks_dbz_money, "bytes", NAMED("org.apache.kafka.connect.data.Decimal")
				 ",\"parameters\":{\"scale\":\"2\"}", "\"AA==\"");
}

/* date, time and timestamp: by precision and time.precision.mode. */
static void
set_time(KsColumn *column, const KsDebeziumModes *modes)
{
	int			precision = column->typmod >= 0 ? column->typmod : MAX_TIMESTAMP_PRECISION;
	bool		connect = modes->time == KS_TIME_CONNECT;

	switch (column->type)
	{
		case DATEOID:
			set_type(column, ks_dbz_date, "int32",
					 connect ? NAMED("org.apache.kafka.connect.data.Date") : NAMED("io.debezium.time.Date"), "0");
			break;
		case TIMEOID:
			if (connect)
				set_type(column, ks_dbz_time_millis, "int32", NAMED("org.apache.kafka.connect.data.Time"), "0");
			else if (precision <= 3 && modes->time == KS_TIME_ADAPTIVE)
				set_type(column, ks_dbz_time_millis, "int32", NAMED("io.debezium.time.Time"), "0");
			else
				set_type(column, ks_dbz_time_micros, "int64", NAMED("io.debezium.time.MicroTime"), "0");
			break;
		default:
			if (connect)
				set_type(column, ks_dbz_timestamp_millis, "int64", NAMED("org.apache.kafka.connect.data.Timestamp"),
						 "0");
			else if (precision <= 3)
				set_type(column, ks_dbz_timestamp_millis, "int64", NAMED("io.debezium.time.Timestamp"), "0");
			else
				set_type(column, ks_dbz_timestamp_micros, "int64", NAMED("io.debezium.time.MicroTimestamp"), "0");
			break;
	}
}

/* bytea: by binary.handling.mode. */
static void
set_bytea(KsColumn *column, const KsDebeziumModes *modes)
{
	switch (modes->binary)
	{
		case KS_BINARY_BYTES:
			set_type(column, ks_dbz_bytea_base64, "bytes", "", "\"\"");
			column->unchanged = unavailable_base64(false);
			break;
		case KS_BINARY_BASE64:
			set_type(column, ks_dbz_bytea_base64, "string", "", "\"\"");
			column->unchanged = unavailable_base64(false);
			break;
		case KS_BINARY_BASE64_URL_SAFE:
			set_type(column, ks_dbz_bytea_url_safe, "string", "", "\"\"");
			column->unchanged = unavailable_base64(true);
			break;
		case KS_BINARY_HEX:
			set_type(column, ks_dbz_bytea_hex, "string", "", "\"\"");
			break;
	}
}

/* bit(1) is a boolean, other bit strings are bytes. */
static void
set_bits(KsColumn *column)
{
	if (column->type == BITOID && column->typmod <= 1)
		set_type(column, ks_dbz_bit, "boolean", "", "false");
	else
	{
		set_type(column, ks_dbz_bits, "bytes",
				 psprintf(NAMED("io.debezium.data.Bits") ",\"parameters\":{\"length\":\"%d\"}",
						  column->typmod >= 0 ? column->typmod : UNLIMITED_BITS), "\"\"");
	}
}

/* The labels of an enum in their order, joined by commas; only schemas want them. */
static char *
enum_labels(Oid type)
{
	StringInfoData labels;
	ScanKeyData key;
	Relation	catalog = table_open(EnumRelationId, AccessShareLock);
	Relation	index = index_open(EnumTypIdSortOrderIndexId, AccessShareLock);
	SysScanDesc scan;
	HeapTuple	tuple;

	initStringInfo(&labels);
	ScanKeyInit(&key, Anum_pg_enum_enumtypid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(type));
	scan = systable_beginscan_ordered(catalog, index, NULL, 1, &key);
	while ((tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		char	   *label = ks_utf8_name(NameStr(((Form_pg_enum) GETSTRUCT(tuple))->enumlabel));

		if (labels.len > 0)
			ks_put_char(&labels, ',');
		ks_put_escaped(&labels, label, strlen(label));
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(catalog, AccessShareLock);
	ks_terminate(&labels);
	return labels.data;
}

/* True for a base type of this name that an extension made. */
static bool
is_extension_type(const char *typname, Oid type, const char *name)
{
	return type >= FirstGenbkiObjectId && strcmp(typname, name) == 0;
}

/* Types known by name (those of extensions), enums, and everything else: its text. */
static void
set_other(KsColumn *column, const KsDebeziumModes *modes)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(column->type));
	Form_pg_type type;
	char		kind;
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", column->type);
	type = (Form_pg_type) GETSTRUCT(tuple);
	kind = type->typtype;
	name = pstrdup(NameStr(type->typname));
	ReleaseSysCache(tuple);

	if (kind == TYPTYPE_ENUM)
		set_output_text(column, !modes->schemas ? "" :
						psprintf(NAMED("io.debezium.data.Enum") ",\"parameters\":{\"allowed\":\"%s\"}",
								 enum_labels(column->type)));
	else if (kind == TYPTYPE_BASE && is_extension_type(name, column->type, "citext"))
		set_type(column, ks_put_text_datum, "string", "", "\"\"");
	else if (kind == TYPTYPE_BASE && is_extension_type(name, column->type, "ltree"))
		set_output_text(column, NAMED("io.debezium.data.Ltree"));
	else if (kind == TYPTYPE_BASE && is_extension_type(name, column->type, "hstore"))
	{
		set_output_text(column, NAMED("io.debezium.data.Json"));
		column->put = ks_dbz_hstore;
		column->unchanged = "\"{\\\"" KS_UNAVAILABLE "\\\":\\\"" KS_UNAVAILABLE "\\\"}\"";
		column->zero = column->generated = "\"{}\"";
	}
	else
		set_output_text(column, "");
}

/* What Debezium writes for an array that WAL does not carry: its form depends on the type of the elements. */
static const char *
unchanged_array(const KsColumn *element)
{
	StringInfoData codes;

	switch (element->type)
	{
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case JSONOID:
		case JSONBOID:
			return "[" TEXT_UNCHANGED "]";
		case BYTEAOID:
			return psprintf("[%s]", element->unchanged);
		case UUIDOID:
			/* The version 3 UUID of the placeholder's bytes. */
			return "[\"b68a35a7-17ad-35b3-af2a-ae46edb4545a\"]";
		case INT4OID:
		case INT8OID:
		case DATEOID:
			initStringInfo(&codes);
			for (const char *c = KS_UNAVAILABLE; *c != '\0'; c++)
				appendStringInfo(&codes, "%c%d", codes.len == 0 ? '[' : ',', *c);
			appendStringInfoChar(&codes, ']');
			return codes.data;
		default:
			return TEXT_UNCHANGED;
	}
}

/* An array of elements of the given type. */
static void
set_array(KsColumn *column, Oid element_type, const KsDebeziumModes *modes)
{
	KsColumn   *element = palloc0(sizeof(KsColumn));
	StringInfoData items;

	element->rel = column->rel;
	element->name = column->name;
	element->typmod = column->typmod;
	element->type = getBaseTypeAndTypmod(element_type, &element->typmod);
	get_typlenbyvalalign(element_type, &column->element_size, &column->element_by_value, &column->element_align);
	ks_debezium_prepare_column(element, modes);
	column->element = element;
	column->uses_settings = element->uses_settings;

	initStringInfo(&items);
	ks_put_literal(&items, "\"type\":\"array\",\"items\":");
	ks_put_field_schema(&items, element, true, false, NULL);
	ks_terminate(&items);
	set_type(column, modes->schemas ? ks_dbz_array_flat : ks_dbz_array, "array", "", "[]");
	column->schema_type = items.data;

	column->unchanged = unchanged_array(element);
}

/*
 * Prepares a column (whose type, typmod and names are set) for Debezium's encodings, in the current memory context.
 * Reads catalogs.
 */
void
ks_debezium_prepare_column(KsColumn *column, const KsDebeziumModes *modes)
{
	Oid			element_type;

	column->unchanged = TEXT_UNCHANGED;
	switch (column->type)
	{
		case NUMERICOID:
			set_numeric(column, modes);
			break;
		case CASHOID:
			set_money(column, modes);
			break;
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
			set_time(column, modes);
			break;
		case INTERVALOID:
			if (modes->interval_string)
				set_type(column, ks_dbz_interval_string, "string", NAMED("io.debezium.time.Interval"),
						 "\"P0Y0M0DT0H0M0S\"");
			else
				set_type(column, ks_dbz_interval, "int64", NAMED("io.debezium.time.MicroDuration"), "0");
			break;
		case BYTEAOID:
			set_bytea(column, modes);
			break;
		case BITOID:
		case VARBITOID:
			set_bits(column);
			break;
		case POINTOID:
			set_type(column, ks_dbz_point, "struct", NAMED("io.debezium.data.geometry.Point")
					 ",\"doc\":\"Geometry (POINT)\"",
					 "{\"x\":0.0,\"y\":0.0,\"wkb\":\"AQEAAAAAAAAAAAAAAAAAAAAAAAAA\",\"srid\":null}");
			column->schema_type = "\"type\":\"struct\",\"fields\":[{\"type\":\"double\",\"optional\":false,\"field\":\"x\"},"
				"{\"type\":\"double\",\"optional\":false,\"field\":\"y\"},"
				"{\"type\":\"bytes\",\"optional\":true,\"field\":\"wkb\"},"
				"{\"type\":\"int32\",\"optional\":true,\"field\":\"srid\"}]";
			break;
		case INT2VECTOROID:
		case OIDVECTOROID:
			/* Arrays only by their make: they begin at 0 and are written without braces. */
			set_output_text(column, "");
			break;
		default:
			for (int i = 0; i < (int) lengthof(fixed_types); i++)
			{
				const FixedType *fixed = &fixed_types[i];

				if (fixed->type != column->type)
					continue;
				if (fixed->put == NULL)
					set_output_text(column, fixed->connect_name);
				else
					set_type(column, fixed->put, fixed->connect_type, fixed->connect_name, fixed->zero);
				if (fixed->generated != NULL)
					column->generated = fixed->generated;
				if (column->type == TIMESTAMPTZOID)
					column->scale = column->typmod >= 0 ? column->typmod : MAX_TIMESTAMP_PRECISION;
				break;
			}
			if (column->put != NULL)
				break;
			element_type = get_element_type(column->type);
			if (OidIsValid(element_type))
				set_array(column, element_type, modes);
			else
				set_other(column, modes);
			break;
	}
	column->unchanged_size = strlen(column->unchanged);
}
