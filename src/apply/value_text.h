/*
 * value_text.h: values in text, on bytes that nobody vouches for.  Plain C; no allocation.
 */
#ifndef KS_VALUE_TEXT_H
#define KS_VALUE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Parses an optional sign and digits, nothing else.  False: not that, or beyond 64 bits (*overflow). */
extern bool ks_text_int64(const char *text, size_t size, int64_t *value, bool *overflow);

/* Parses [-]digits[.digits] of at most 18 digits as unscaled and scale. */
extern bool ks_text_decimal(const char *text, size_t size, int64_t *unscaled, int32_t *scale);

/* Looks like a decimal number in text, of any length, with or without exponent? */
extern bool ks_text_is_number(const char *text, size_t size);

/* Parses [+-]year-month-day (ISO 8601, at least four digits of year, year 0 is 1 BC).  False if it is not that. */
extern bool ks_text_date(const char *text, size_t size, int *year, int *month, int *day);

typedef struct KsDateTime
{
	int			year;
	int			month;
	int			day;
	int64_t		usec;			/* of the day; a fraction finer than microseconds is rounded, so it may be a whole day */
	bool		has_zone;
	int			offset;			/* seconds east of UTC */
} KsDateTime;

/* Parses date, 'T' or a space, hh:mm:ss[.fraction][Z|+hh[:mm[:ss]]].  False if it is not that. */
extern bool ks_text_datetime(const char *text, size_t size, KsDateTime *result);

/* Upper bound of the bytes that base64 text of this size decodes to. */
#define KS_BASE64_SIZE(size) ((size) / 4 * 3)
/*
 * Decodes padded base64 (RFC 4648) into out, which has KS_BASE64_SIZE(size) bytes; with "url_safe" of either alphabet.
 * False if it is not that, also when bits behind the end are not zero.
 */
extern bool ks_text_base64(const char *text, size_t size, bool url_safe, unsigned char *out, size_t *out_size);

/* Decodes hexadecimal digits into out (size / 2 bytes).  False if it is not that. */
extern bool ks_text_hex(const char *text, size_t size, unsigned char *out);

/* Parses a UUID in its canonical form into 16 bytes. */
extern bool ks_text_uuid(const char *text, size_t size, unsigned char *out);

/* Parses [-]digits[.digits] that a double (or float) gives exactly by one division.  False: use strtod. */
extern bool ks_text_double(const char *text, size_t size, double *value);
extern bool ks_text_float(const char *text, size_t size, float *value);

#endif							/* KS_VALUE_TEXT_H */
