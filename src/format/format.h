/*
 * format.h: what the rest of the extension may want of format/ beside the tables of functions in event/.
 */
#ifndef KS_FORMAT_H
#define KS_FORMAT_H

/*
 * Fixes, for the life of this process, the settings that PostgreSQL's text of values depends on to those that the
 * formats promise: DateStyle ISO, IntervalStyle postgres, TimeZone UTC, extra_float_digits 1, bytea_output hex,
 * lc_monetary C.  For workers; encoders also work without it, at the price of setting them anew for every row that
 * has a column whose text needs them.
 */
extern void ks_format_fix_settings(void);

#endif							/* KS_FORMAT_H */
