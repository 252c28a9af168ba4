/*
 * convert_internal.h: what the files of apply/convert*.c share.
 *
 *   convert.c         converters, columns, finding a field's column, one field to one Datum
 *   convert_schema.c  schemas inside messages: from Connect types and semantic names to KsMeaning
 *   convert_wire.c    values in Debezium's encodings, by meaning
 *   convert_plain.c   values that stand for themselves: JSON scalars and PostgreSQL text
 *   convert_array.c   JSON arrays to PostgreSQL arrays, JSON objects to hstore
 *   value_text.c      plain C on bytes: integers, decimals, dates, base64
 */
#ifndef KS_CONVERT_INTERNAL_H
#define KS_CONVERT_INTERNAL_H

#include "apply/convert.h"

#include "fmgr.h"
#include "format/json_scan.h"
#include "utils/numeric.h"

/* Base types that are handled by their own code; everything else is KS_T_OTHER: its input function on text. */
typedef enum KsTypeClass
{
	KS_T_OTHER,
	KS_T_BOOL,
	KS_T_INT2,
	KS_T_INT4,
	KS_T_INT8,
	KS_T_OID,
	KS_T_FLOAT4,
	KS_T_FLOAT8,
	KS_T_NUMERIC,
	KS_T_MONEY,
	KS_T_TEXT,
	KS_T_VARCHAR,
	KS_T_NAME,
	KS_T_BYTEA,
	KS_T_BIT,
	KS_T_VARBIT,
	KS_T_DATE,
	KS_T_TIME,
	KS_T_TIMETZ,
	KS_T_TIMESTAMP,
	KS_T_TIMESTAMPTZ,
	KS_T_INTERVAL,
	KS_T_UUID,
	KS_T_JSON,
	KS_T_JSONB,
	KS_T_POINT,
	KS_T_HSTORE,
	KS_T_ARRAY,
	KS_T_COUNT
} KsTypeClass;

/* A SQL type, ready to take values. */
typedef struct KsType
{
	Oid			declared;		/* may be a domain */
	Oid			base;
	int32		typmod;			/* of the base type */
	KsTypeClass class;
	bool		is_domain;
	void	   *domain_cache;
	FmgrInfo	input;
	Oid			ioparam;
	int16		len;
	bool		byval;
	char		align;
	struct KsType *element;		/* arrays */
} KsType;

/* What a value in a message means. */
typedef enum KsMeaningKind
{
	KS_M_PLAIN,					/* it stands for itself: JSON scalars, PostgreSQL text, raw JSON */
	KS_M_DATE,					/* days since 1970-01-01 */
	KS_M_TIME,					/* units since midnight */
	KS_M_TIMESTAMP,				/* units since 1970-01-01 */
	KS_M_ZONED_TIMESTAMP,		/* ISO 8601 text with zone */
	KS_M_DURATION,				/* units; or ISO 8601 text */
	KS_M_DECIMAL,				/* base64 of the big-endian unscaled value; or struct {scale, value} */
	KS_M_BYTES,					/* base64, or as the field's modes say */
	KS_M_HEX,					/* hexadecimal digits, likewise */
	KS_M_BITS,					/* base64 of little-endian bytes; or boolean */
	KS_M_JSON,					/* string that holds JSON text */
	KS_M_HSTORE,				/* string that holds a JSON object, or the object */
	KS_M_POINT,					/* struct {x, y, ...} */
	KS_M_ARRAY
} KsMeaningKind;

#define KS_SCALE_UNKNOWN PG_INT32_MIN

typedef struct KsMeaning
{
	KsMeaningKind kind;
	int32		unit;			/* TIME, TIMESTAMP, DURATION: units per second (1000, 1000000, 1000000000), 0 = not known */
	int32		scale;			/* DECIMAL, or KS_SCALE_UNKNOWN */
	int32		length;			/* BITS: number of bits, 0 = not known */
	bool		certain;		/* the schema says so: a string can be no other decimal, and modes say nothing */
	bool		guessed;		/* TIMESTAMP: the unit is that of the target's precision, which may not be the source's */
	struct KsMeaning *element;	/* ARRAY */
} KsMeaning;

/* A schema text seen in messages, and what it says of each column (NULL = nothing). */
typedef struct KsSchema
{
	struct KsSchema *next;
	char	   *text;
	size_t		size;
	uint32		hash;
	KsMeaning **meanings;		/* by attribute index */
} KsSchema;

/* Debezium's connectors, as far as their values differ where there is no schema. */
typedef enum KsDialect
{
	KS_DIALECT_POSTGRESQL,
	KS_DIALECT_MYSQL,			/* and MariaDB */
	KS_DIALECT_ORACLE,
	KS_DIALECT_OTHER,
	KS_DIALECT_COUNT
} KsDialect;

struct KsColumnConverter
{
	KsConverter *converter;
	int			index;
	char	   *name;			/* in the server's encoding */
	char	   *wire_name;		/* in UTF-8 */
	uint32		wire_name_size;
	KsType	   *target;
	KsType	   *source;			/* option column_types, NULL if not given */
	KsMeaning  *named;			/* option column_types has a semantic name, NULL if not */
	KsMeaning  *meaning[KS_DIALECT_COUNT];	/* without a schema */
};

struct KsConverter
{
	MemoryContext context;
	bool		debezium;
	bool		text;			/* formats whose strings are PostgreSQL's text of values, also for json */
	bool		recode;			/* the server's encoding is not UTF-8 */
	int			natts;
	int			key_column;
	KsColumnConverter **columns;	/* by attribute index, NULL = dropped */
	KsColumnConverter **hints;	/* by position in a message, natts of them */
	KsColumnConverter **hash;	/* open addressing by wire name */
	uint32		hash_mask;
	KsType	   *natural[KS_T_COUNT];	/* types that wire values are decoded to, made when first needed */
	FmgrInfo	natural_output[KS_T_COUNT];

	MemoryContext schema_context;
	KsSchema   *schemas;
	int			nschemas;
	KsSchema   *recent[2];		/* value and key schemas come in turns */
	KsSchema   *schema;			/* of the fields converted next, NULL = none */
	KsDialect	dialect;		/* of the same */

	const KsColumnConverter *current;	/* being converted */
	KsArena		arena;			/* unescaped strings inside arrays and structs */
	char		scratch[1024];	/* C strings for input functions */
};

/* convert.c */
/* Makes a type ready in the converter's context. */
extern KsType *ks_type_make(KsConverter *conv, Oid typid, int32 typmod);
/* Checks domain constraints of a converted value. */
extern void ks_domain_check(KsConverter *conv, KsType *type, Datum value, bool isnull);

/* convert_schema.c */
extern KsMeaning *ks_meaning_of_type(KsConverter *conv, const KsType *source, const KsType *target);
/* The same for a column of the target whose source is another database, and nobody says what its type is there. */
extern KsMeaning *ks_meaning_of_dialect(KsConverter *conv, KsDialect dialect, const KsType *target);
/* The meaning that a semantic name stands for, NULL if it is not known. */
extern KsMeaning *ks_meaning_of_name(const char *name, size_t size);
extern KsSchema *ks_schema_parse(KsConverter *conv, const char *text, size_t size);

/* convert_wire.c */
/* Converts a non-null field by its meaning. */
extern Datum ks_wire_value(KsConverter *conv, const KsMeaning *meaning, KsType *type, const KsField *field);

/* convert_plain.c */
extern Datum ks_plain_value(KsConverter *conv, KsType *type, const KsField *field);
/* A field of bytes: as they are for bytea, else as UTF-8 text of the value. */
extern Datum ks_bytes_value(KsConverter *conv, KsType *type, const KsField *field);
/* Calls the input function on UTF-8 text. */
extern Datum ks_input_text(KsConverter *conv, KsType *type, const char *text, size_t size);
/* Reports a number for a type whose values are no numbers: its unit is anyone's guess. */
extern void ks_unknown_unit(KsConverter *conv, const KsType *type, const KsField *field) __attribute__((noreturn));
/* Builds unscaled * 10^-scale and fits it to the typmod of a numeric type. */
extern Datum ks_make_numeric(const KsType *type, int64 unscaled, int32 scale);
/* Rounds a finite timestamp to the typmod. */
extern int64 ks_round_timestamp(const KsType *type, int64 value);
/* Returns UTF-8 text as a C string in the server's encoding; valid until the next call, at most. */
extern char *ks_server_cstring(KsConverter *conv, const char *text, size_t size);
/* ERROR if a string has a NUL character in it. */
extern void ks_check_nul(const KsField *field);
/* Reports that a field cannot become a value of the type. */
extern void ks_wrong_kind(const KsType *type, const KsField *field) __attribute__((noreturn));

/* convert_array.c */
extern Datum ks_array_value(KsConverter *conv, const KsMeaning *element, KsType *type, const KsField *field);
extern Datum ks_hstore_value(KsConverter *conv, KsType *type, const char *json, size_t size);

#endif							/* KS_CONVERT_INTERNAL_H */
