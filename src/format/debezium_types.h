/*
 * debezium_types.h: how Debezium writes values of each PostgreSQL type, as values and as Connect schemas.
 */
#ifndef KS_DEBEZIUM_TYPES_H
#define KS_DEBEZIUM_TYPES_H

#include "control/options.h"
#include "format/column.h"

typedef enum KsDecimalMode
{
	KS_DECIMAL_PRECISE,
	KS_DECIMAL_DOUBLE,
	KS_DECIMAL_STRING
} KsDecimalMode;

typedef enum KsTimeMode
{
	KS_TIME_ADAPTIVE,
	KS_TIME_ADAPTIVE_MICROSECONDS,
	KS_TIME_CONNECT
} KsTimeMode;

typedef enum KsBinaryMode
{
	KS_BINARY_BYTES,
	KS_BINARY_BASE64,
	KS_BINARY_BASE64_URL_SAFE,
	KS_BINARY_HEX
} KsBinaryMode;

/* The options that choose between encodings. */
typedef struct KsDebeziumModes
{
	bool		schemas;
	KsDecimalMode decimal;
	KsTimeMode	time;
	bool		interval_string;
	KsBinaryMode binary;
} KsDebeziumModes;

#define KS_UNAVAILABLE "__debezium_unavailable_value"

/* debezium_types.c */
extern void ks_debezium_modes(const KsOptions *options, KsDebeziumModes *modes);
extern void ks_debezium_prepare_column(KsColumn *column, const KsDebeziumModes *modes);

/* debezium_default.c */
extern void ks_debezium_default(KsColumn *column);

/* debezium_numbers.c, debezium_values.c: one function for each way to write a value */
extern void ks_dbz_put_double(StringInfo out, double value);
extern void ks_dbz_bool(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_int2(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_int4(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_int8(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_oid(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_float4(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_float8(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_decimal(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_decimal_variable(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_decimal_double(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_decimal_string(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_money(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_money_double(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_money_string(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_date(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_time_millis(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_time_micros(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_timetz(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_timestamp_millis(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_timestamp_micros(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_timestamptz(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_interval(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_interval_string(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_bytea_base64(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_bytea_url_safe(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_bytea_hex(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_bit(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_bits(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_name(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_jsonb(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_uuid(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_hstore(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_point(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_array(StringInfo out, KsColumn *column, Datum value);
extern void ks_dbz_array_flat(StringInfo out, KsColumn *column, Datum value);

/* debezium_schema.c */
extern void ks_put_field_schema(StringInfo out, const KsColumn *column, bool optional, bool with_default,
								const char *field);
extern char *ks_debezium_key_schema(const char *name, const KsColumn *keys, int nkeys);
extern char *ks_debezium_envelope_schema(const char *name, const KsColumn *columns, int ncolumns);
extern char *ks_debezium_message_schema(void);

#endif							/* KS_DEBEZIUM_TYPES_H */
