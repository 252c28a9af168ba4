/*
 * test_ack_ledger.c: unit test of produce/ack_ledger.c; prints TAP.
 */
#include "produce/ack_ledger.c"

#include <stdio.h>
#include <stdlib.h>

static int	tests = 0;
static int	failures = 0;

/* One TAP line. */
static void
check(bool ok, const char *what)
{
	tests++;
	if (!ok)
		failures++;
	printf("%sok %d - %s\n", ok ? "" : "not ", tests, what);
}

/* Opens a transaction with "messages" messages and commits it at end_lsn; returns its number. */
static uint64_t
transaction(KsLedger *ledger, int messages, uint64_t end_lsn)
{
	uint64_t	number = 0;

	if (!ks_ledger_begin(ledger, &number))
		abort();
	for (int i = 0; i < messages; i++)
		ks_ledger_sent(ledger);
	ks_ledger_commit(ledger, end_lsn, (int64_t) end_lsn * 10);
	return number;
}

static void
test_order(void)
{
	KsLedger	l;
	uint64_t	a,
				b,
				c;

	ks_ledger_init(&l, 50);
	check(ks_ledger_is_empty(&l) && l.safe_lsn == 50, "a new ledger is empty and safe where it was told");
	a = transaction(&l, 2, 100);
	b = transaction(&l, 1, 200);
	c = transaction(&l, 1, 300);
	check(l.safe_lsn == 50 && l.outstanding == 4, "nothing is safe before an acknowledgement");
	check(ks_ledger_acked(&l, c, 1) && l.safe_lsn == 50, "a newer transaction alone moves nothing");
	check(ks_ledger_acked(&l, a, 1) && l.safe_lsn == 50, "half of the oldest moves nothing");
	check(ks_ledger_acked(&l, a, 1) && l.safe_lsn == 100 && l.safe_time == 1000, "the oldest moves to its own end");
	check(ks_ledger_acked(&l, b, 1) && l.safe_lsn == 300, "the gap closes: moves over all that are complete");
	check(ks_ledger_is_empty(&l) && l.outstanding == 0, "empty again");
	check(!ks_ledger_acked(&l, b, 1), "an acknowledgement of a closed transaction is refused");
	check(!ks_ledger_acked(&l, 99, 1), "and of one that was never opened");
	ks_ledger_free(&l);
}

static void
test_open_transaction(void)
{
	KsLedger	l;
	uint64_t	n = 0;

	ks_ledger_init(&l, 0);
	ks_ledger_begin(&l, &n);
	ks_ledger_sent(&l);
	check(ks_ledger_acked(&l, n, 1) && l.safe_lsn == 0 && !ks_ledger_is_empty(&l),
		  "all acknowledged, but the commit was not seen: nothing is safe");
	ks_ledger_sent(&l);
	ks_ledger_commit(&l, 70, 0);
	check(l.safe_lsn == 0, "a commit with a message under way is not safe");
	check(!ks_ledger_acked(&l, n, 2), "more acknowledgements than messages are refused");
	check(ks_ledger_acked(&l, n, 1) && l.safe_lsn == 70, "the last acknowledgement makes it safe");
	transaction(&l, 0, 90);
	check(l.safe_lsn == 90 && ks_ledger_is_empty(&l), "a transaction without messages is safe at once");
	ks_ledger_free(&l);
}

/* Many transactions under way, acknowledged in random order, against a plain model. */
static void
test_random(void)
{
	enum
	{
		N = 20000
	};
	static int	pending[N];
	KsLedger	l;
	bool		right = true;
	int			begun = 0;
	int			complete = 0;
	int			left = 0;

	srand(1);
	ks_ledger_init(&l, 0);
	while (begun < N || left > 0)
	{
		if (begun < N && (left == 0 || rand() % 5 < 3))
		{
			pending[begun] = rand() % 4;
			left += pending[begun];
			if (transaction(&l, pending[begun], (uint64_t) begun + 1) != (uint64_t) begun)
				right = false;
			begun++;
		}
		else
		{
			int			from = complete + rand() % (begun - complete);

			while (pending[from] == 0)
				from = from + 1 < begun ? from + 1 : complete;
			pending[from]--;
			left--;
			if (!ks_ledger_acked(&l, (uint64_t) from, 1))
				right = false;
		}
		while (complete < begun && pending[complete] == 0)
			complete++;
		if (l.safe_lsn != (uint64_t) complete || l.outstanding != (uint64_t) left)
			right = false;
	}
	check(right, "random order: safe exactly up to the first transaction that is not complete");
	check(l.capacity > 1024, "the ring grew on the way");
	ks_ledger_free(&l);
}

int
main(void)
{
	test_order();
	test_open_transaction();
	test_random();
	printf("1..%d\n", tests);
	return failures ? 1 : 0;
}
