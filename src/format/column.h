/*
 * column.h: what both encoders prepare for a column, so that a row is encoded without a look at any catalog.
 */
#ifndef KS_COLUMN_H
#define KS_COLUMN_H

#include "event/event.h"

#include "fmgr.h"

#include "format/json_escape.h"

typedef struct KsColumn KsColumn;

/* Appends the JSON of a value that is not null. */
typedef void (*KsPutValue) (StringInfo out, KsColumn *column, Datum value);

/* From the database's encoding to UTF-8. */
typedef enum KsTextSource
{
	KS_TEXT_UTF8,				/* nothing to do */
	KS_TEXT_UNKNOWN,			/* SQL_ASCII: must be valid UTF-8 already */
	KS_TEXT_CONVERT
} KsTextSource;

struct KsColumn
{
	KsPutValue	put;
	char	   *prefix;			/* ,"name": */
	int			prefix_size;
	int			attribute;		/* index into the row */
	bool		not_null;
	bool		is_identity;	/* an old key tuple carries it */
	bool		uses_settings;	/* its text comes from an output function */
	const char *unchanged;		/* JSON for a value that WAL does not carry */
	int			unchanged_size;
	const char *missing;		/* JSON in a key-only old row */
	int			missing_size;

	const KsRelation *rel;
	const char *name;			/* as in the catalog */
	Oid			type;			/* the base type of a domain */
	int32		typmod;
	int			scale;			/* numeric: digits after the point; times: fractional digits */
	FmgrInfo	output;			/* the type's output function, if "put" needs it */
	KsColumn   *element;		/* arrays: "put" of an element */
	int16		element_size;
	bool		element_by_value;
	char		element_align;

	/* Debezium only: the pieces of the Connect schema around "optional" */
	const char *schema_type;	/* "type":"int32" and, for structs and arrays, what is inside */
	const char *schema_name;	/* ,"name":"...","version":1,... or an empty string */
	const char *schema_default; /* JSON of the column's default, NULL if none */
	const char *zero;			/* JSON of the type's zero: stands in for NOT NULL columns of key-only rows */
	const char *generated;		/* the same where the column has a default that is no constant */
};

extern KsTextSource ks_text_source;

extern void ks_columns_init(void);
extern KsColumn *ks_columns_prepare(const KsRelation *rel, const int *attributes, int count);
extern const char *ks_utf8_slow(const KsColumn *column, const char *data, Size *size);
extern char *ks_utf8_name(const char *name);
extern char *ks_json_name(const char *name);
extern void ks_need_output(KsColumn *column);
extern void ks_put_output(StringInfo out, KsColumn *column, Datum value);
extern void ks_put_text_datum(StringInfo out, KsColumn *column, Datum value);
extern void ks_cannot_encode(const KsColumn *column, const char *problem, const char *hint) __attribute__((noreturn));

/* The row that is being encoded, for error messages. */
typedef struct KsEncoding
{
	const KsRelation *rel;
	const KsRow *row;
	const KsColumn *column;
} KsEncoding;

extern KsEncoding ks_encoding;
extern void ks_encoding_context(void *arg);

/* Returns text of the database in UTF-8; *size is its length before and after.  ERROR if it cannot be converted. */
static inline const char *
ks_utf8(const KsColumn *column, const char *data, Size *size)
{
	return likely(ks_text_source == KS_TEXT_UTF8) ? data : ks_utf8_slow(column, data, size);
}

/* Appends text of the database as a JSON string. */
static inline void
ks_put_text(StringInfo out, const KsColumn *column, const char *data, Size size)
{
	data = ks_utf8(column, data, &size);
	ks_put_string(out, data, size);
}

#endif							/* KS_COLUMN_H */
