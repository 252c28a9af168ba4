/*
 * numeric_digits.h: reading the stored form of numeric without going through its output function.
 *
 * The stored form (a header word, then base-10000 digits) is what pg_upgrade carries from version to version, so it
 * is as stable as anything in PostgreSQL.
 */
#ifndef KS_NUMERIC_DIGITS_H
#define KS_NUMERIC_DIGITS_H

#include "postgres.h"

#include "lib/stringinfo.h"

typedef enum KsNumericKind
{
	KS_NUMERIC_FINITE,
	KS_NUMERIC_NAN,
	KS_NUMERIC_INFINITY,
	KS_NUMERIC_MINUS_INFINITY
} KsNumericKind;

/* A numeric taken apart; "digits" points into the datum and may be unaligned. */
typedef struct KsNumeric
{
	KsNumericKind kind;
	bool		negative;
	int			dscale;			/* decimal digits shown after the point */
	int			weight;			/* of the first digit, as a power of 10000 */
	int			ndigits;
	const char *digits;			/* int16 each, base 10000 */
} KsNumeric;

extern void ks_numeric_read(Datum value, KsNumeric *num);
extern void ks_numeric_put_text(StringInfo out, const KsNumeric *num);
extern int	ks_numeric_minimal_scale(const KsNumeric *num);
extern int	ks_numeric_unscaled(const KsNumeric *num, int scale, unsigned char *small, int small_size,
								unsigned char **bytes);
extern int	ks_int64_bytes(int64 value, unsigned char *bytes);

#endif							/* KS_NUMERIC_DIGITS_H */
