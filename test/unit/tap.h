/*
 * tap.h: what unit tests need to print TAP.  A test ends with "return done_testing();".
 */
#ifndef KS_TAP_H
#define KS_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int	tap_count;
static int	tap_failed;

/* Prints one result; the name is a format. Returns the result. */
static inline bool __attribute__((format(printf, 2, 3)))
ok(bool passed, const char *name,...)
{
	char		text[1000];
	va_list		args;

	va_start(args, name);
	vsnprintf(text, sizeof(text), name, args);
	va_end(args);
	/* a name is one line */
	for (char *c = text; *c != '\0'; c++)
		if ((unsigned char) *c < ' ' || *c == 0x7f)
			*c = '.';
	printf("%sok %d - %s\n", passed ? "" : "not ", ++tap_count, text);
	if (!passed)
		tap_failed++;
	return passed;
}

/* Prints the plan; returns the exit code. */
static inline int
done_testing(void)
{
	printf("1..%d\n", tap_count);
	return tap_failed > 0 ? 1 : 0;
}

#endif							/* KS_TAP_H */
