/* log_limit: one line per cause and minute, and how many were left out. */
#include "kafka/log_limit.c"

#include "tap.h"

int
main(void)
{
	uint32_t	n;
	char		text[64];

	ok(ks_log_limit("FAIL", "[thrd:a]: b:9092/1: Connect failed: refused (after 0ms in state CONNECT)", 1000, &n) && n == 0,
	   "the first is logged");
	ok(!ks_log_limit("FAIL", "[thrd:a]: b:9092/1: Connect failed: refused (after 7ms in state CONNECT, 3 identical)", 2000, &n),
	   "the same is not, whatever it says of time");
	ok(!ks_log_limit("FAIL", "[thrd:other]: b:9092/1: Connect failed: refused", 60999, &n), "nor from another thread");
	ok(ks_log_limit("ERROR", "[thrd:a]: b:9092/1: Connect failed: refused", 3000, &n), "another facility is another cause");
	ok(ks_log_limit("FAIL", "[thrd:a]: c:9092/2: Connect failed: refused", 3000, &n), "so is another broker");
	ok(ks_log_limit("FAIL", "[thrd:a]: b:9092/1: Connect failed: refused (after 1ms)", 61000, &n) && n == 2,
	   "after a minute it is logged again, with the number left out");
	ok(ks_log_limit("FAIL", "[thrd:a]: b:9092/1: Connect failed: refused (after 1ms)", 121000, &n) && n == 0,
	   "which begins anew");
	ok(ks_log_limit("FAIL", "[thrd:a]: b:9092/1: Connect failed: refused", 5, &n), "a clock that went back keeps nothing quiet");
	ks_log_limit_reset();
	ok(ks_log_limit("FAIL", "[thrd:a]: b:9092/1: Connect failed: refused", 6, &n) && n == 0, "after a reset all is news");
	for (int i = 0; i < 100; i++)
	{
		snprintf(text, sizeof(text), "cause %d", i);
		if (!ks_log_limit("X", text, 1000 + i, &n))
			break;
	}
	ok(strcmp(text, "cause 99") == 0, "more causes than there is room for are all logged");
	ok(!ks_log_limit("X", "cause 99", 2000, &n) && !ks_log_limit("X", "cause 90", 2000, &n), "and the youngest are known");
	ok(ks_log_limit("X", "", 3000, &n) && ks_log_limit("", "[thrd:", 3000, &n), "odd lines are lines");
	return done_testing();
}
