/*
 * convert.h: from a field of a message to a Datum of a target column's type.
 *
 * A converter belongs to one target table and one message format.  It is made inside a transaction (it reads
 * pg_type) and is good until the table's definition changes; then make a new one.  Conversion itself needs a
 * transaction only where the column's input function or domain constraint does.
 *
 * What a field means is decided by, in this order: the schema inside the message, the option "column_types", the
 * declared type and typmod of the target column.
 */
#ifndef KS_CONVERT_H
#define KS_CONVERT_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "event/parser.h"

typedef struct KsConverter KsConverter;
typedef struct KsColumnConverter KsColumnConverter;

/*
 * Sets what text input and output depend on for the whole process, once, in the worker's main function: DateStyle ISO,
 * IntervalStyle postgres, TimeZone UTC, extra_float_digits 1, bytea_output hex, lc_monetary C, xmloption content.
 */
extern void ks_converter_fix_settings(void);

/*
 * Makes a converter for the columns of "target", in its own child of CurrentMemoryContext ("target" is not kept).
 * format: debezium | json | csv | syslog | raw.  column_types: the option's JSON text {"column": "SQL type"}, NULL =
 * none; also Debezium's and Connect's semantic names, such as io.debezium.time.NanoTimestamp.
 * key_column: attribute index (attnum - 1) of the only key column, to which a scalar message key (a field with an
 * empty name) is mapped; -1 = no such column.
 * ERROR: column_types names a column or a type that does not exist.
 */
extern KsConverter *ks_converter_create(TupleDesc target, const char *format, const char *column_types, int key_column);
extern void ks_converter_free(KsConverter *converter);

/*
 * Says which schema the fields converted next were written with: KsParsed.schema for before and after,
 * KsParsed.key_schema for the key, NULL for none.  Call it per message (and part); it is cheap when nothing changed.
 * The text need not outlive the call.  ERROR if it is no schema.
 */
extern void ks_converter_use_schema(KsConverter *converter, const char *schema, size_t size);

/*
 * Says which of Debezium's connectors made the events converted next, NULL (not told) meaning PostgreSQL's: without a
 * schema and column_types, values of some types are not understood where another one made them.
 */
extern void ks_converter_use_connector(KsConverter *converter, const char *connector, size_t size);

/*
 * Returns the column that a field belongs to by its name, NULL if the table has none.  "position" is the field's
 * place in its list, a hint that makes the lookup one comparison when messages look alike.
 */
extern KsColumnConverter *ks_converter_find(KsConverter *converter, const KsField *field, int position);
/* Returns the column of an attribute index, NULL for a dropped one. */
extern KsColumnConverter *ks_converter_column(KsConverter *converter, int index);
/* Names the column of an attribute index for messages, where that is not the name of its field. */
extern void ks_converter_name_column(KsConverter *converter, int index, const char *name);
/* Attribute index (attnum - 1) of a column. */
extern int	ks_column_index(const KsColumnConverter *column);

/*
 * Converts one field; the Datum is in CurrentMemoryContext, and points into neither the message nor the converter.
 * *unavailable: the field is the placeholder of an unchanged TOAST value, *value is undefined.
 * ERROR (with the column in ErrorData.column_name): wrong syntax, out of range, too long, not in the database's
 * encoding, unknown scale or unit, domain constraint.
 */
extern void ks_convert_field(KsColumnConverter *column, const KsField *field,
							 Datum *value, bool *isnull, bool *unavailable);

/* Do values of the column, under the schema in use, stand for themselves: JSON scalars, PostgreSQL text, raw JSON? */
extern bool ks_column_is_plain(const KsColumnConverter *column);
/* The type of the column, without domains. */
extern Oid	ks_column_type(const KsColumnConverter *column);

/* Is the field, in format debezium, the placeholder of an unchanged TOAST value? */
extern bool ks_is_placeholder(const KsField *field);
/* The same for text and bytes that are no part of a message's format, but PostgreSQL's text of values. */
extern void ks_convert_text_field(KsColumnConverter *column, const KsField *field, Datum *value, bool *isnull);

/* Is the column's type one of numbers? */
extern bool ks_column_is_number(const KsColumnConverter *column);

#endif							/* KS_CONVERT_H */
