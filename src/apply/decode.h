/*
 * decode.h: fields of messages as the queries of targets see them: decoded, so that a date is a date in PostgreSQL's
 * text and not a number of days; as text, or as a part of a JSON document.
 *
 * What a field means is decided by the schema inside the message, then option "column_types", then the declared type of
 * a target's column of the same name.  What none of them knows stays as it is.
 */
#ifndef KS_DECODE_H
#define KS_DECODE_H

#include "postgres.h"

#include "apply/convert.h"
#include "utils/jsonb.h"

typedef struct KsDecoder KsDecoder;

/*
 * Makes a decoder; lives in a child of CurrentMemoryContext.  column_types: the option's JSON text, NULL = none.  Needs
 * ks_decoder_reset before it is used.
 */
extern KsDecoder *ks_decoder_create(const char *format, const char *column_types);
/* Forgets what was declared, but for the option; in a transaction.  ERROR: the option names a type that does not exist. */
extern void ks_decoder_reset(KsDecoder *decoder);
/*
 * Declares the type of a field.  ERROR, with the hint column_types, if another declaration says that its values are
 * encoded in another way; "where" names the table for that.
 */
extern void ks_decoder_declare(KsDecoder *decoder, const char *name, Oid type, int32 typmod, const char *where);

/* Makes ready what decodes, so that parsers know before the first message what of its headers is wanted. */
extern void ks_decoder_prepare(KsDecoder *decoder);

/* Says which schema the fields decoded next were written with, NULL for none. */
extern void ks_decoder_use_schema(KsDecoder *decoder, const char *schema, size_t size);

/* Says which of Debezium's connectors made the events decoded next: KsParsed.connector. */
extern void ks_decoder_use_connector(KsDecoder *decoder, const char *connector, size_t size);

/* What is known of a field by its name, NULL for nothing.  Valid while the generation stays the same. */
extern KsColumnConverter *ks_decoder_find(KsDecoder *decoder, const KsField *field);
/* Grows whenever what ks_decoder_find has returned is not valid any more. */
extern uint32 ks_decoder_generation(const KsDecoder *decoder);

/*
 * Decode a field that ks_decoder_find knows as "column".  False: it is the placeholder of an unchanged value.  ERROR:
 * it cannot be read.  Results are in CurrentMemoryContext.  Text: as ->> gives it, *value undefined where *isnull.
 */
extern bool ks_decode_text(KsDecoder *decoder, KsColumnConverter *column, const KsField *field, Datum *value, bool *isnull);
extern bool ks_decode_json(KsDecoder *decoder, KsColumnConverter *column, const KsField *field, JsonbValue *value);

/* A field's name, or other UTF-8, in the server's encoding. */
extern char *ks_decode_string(const char *utf8, size_t size, int *result_size);

#endif							/* KS_DECODE_H */
