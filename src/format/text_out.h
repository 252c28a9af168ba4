/*
 * text_out.h: PostgreSQL's text of common types under the fixed settings, written without output functions and
 * independent of the session's settings.  Nothing here needs JSON escaping but the backslash of bytea.
 */
#ifndef KS_TEXT_OUT_H
#define KS_TEXT_OUT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "utils/date.h"
#include "utils/uuid.h"

/* How years outside 1 to 9999 are written. */
typedef enum KsYearStyle
{
	KS_YEAR_POSTGRES,			/* 12345-01-01, 0044-03-15 BC (the suffix is the caller's) */
	KS_YEAR_ISO					/* +12345-01-01, -0043-03-15 */
} KsYearStyle;

extern const char ks_two_digits[201];

/* Writes a number from 0 to 99 as two digits; returns where it ends. */
static inline char *
ks_write_two(char *p, unsigned n)
{
	memcpy(p, ks_two_digits + n * 2, 2);
	return p + 2;
}

/* At most this many bytes are written by ks_write_day and ks_write_clock. */
#define KS_DAY_SIZE 16
#define KS_CLOCK_SIZE 16

extern char *ks_write_day(char *p, int32 day, KsYearStyle style, bool *is_bc);
extern char *ks_write_clock(char *p, int64 micros, int min_digits);
extern void ks_split_timestamp(Timestamp value, int32 *day, int64 *micros);

extern void ks_put_int64(StringInfo out, int64 value);
extern void ks_put_uint64(StringInfo out, uint64 value);
extern void ks_put_float4(StringInfo out, float4 value);
extern void ks_put_float8(StringInfo out, float8 value);
extern void ks_put_date(StringInfo out, DateADT value);
extern void ks_put_time(StringInfo out, TimeADT value);
extern void ks_put_timetz(StringInfo out, const TimeTzADT *value);
extern void ks_put_timestamp(StringInfo out, Timestamp value, bool with_zone);
extern void ks_put_interval(StringInfo out, const Interval *value);
extern void ks_put_uuid(StringInfo out, const pg_uuid_t *value);
extern void ks_put_hex(StringInfo out, const char *data, Size n);
extern void ks_put_base64(StringInfo out, const unsigned char *data, Size n, bool url_safe);
extern void ks_put_money(StringInfo out, int64 value);

extern bool ks_settings_fixed(void);
extern int	ks_settings_begin(void);
extern void ks_settings_end(int level);

#endif							/* KS_TEXT_OUT_H */
