/*
 * latency BROKERS TOPIC SKIP: reads a topic from its end and measures, for each message, the time from "updated_at" in
 * its value (set with clock_timestamp() by the INSERT) to its arrival here.  Leaves out the first SKIP seconds; ends
 * when nothing has come for three seconds, or on SIGTERM.  Prints percentiles in milliseconds.
 */
#include "tools.h"

#include <signal.h>

static volatile sig_atomic_t stop = 0;

static void
handle_stop(int signal_number)
{
	(void) signal_number;
	stop = 1;
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a,
				y = *(const double *) b;

	return (x > y) - (x < y);
}

/* Finds the last "updated_at" of a value (that of the new row) and returns it as seconds since the epoch, -1 if none. */
static double
row_time(const char *value, size_t size)
{
	static const char name[] = "\"updated_at\":\"";
	const char *end = value + size,
			   *found = NULL,
			   *p = value;
	char		text[40];
	struct tm	tm = {0};
	double		second;

	while ((p = memmem(p, end - p, name, sizeof(name) - 1)) != NULL)
		found = p += sizeof(name) - 1;
	if (found == NULL || end - found < 19)
		return -1;
	snprintf(text, sizeof(text), "%.*s", (int) (end - found < 32 ? end - found : 32), found);
	if (sscanf(text, "%d-%d-%d%*c%d:%d:%lf", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &second) != 6)
		return -1;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	return timegm(&tm) + second;
}

int
main(int argc, char **argv)
{
	long		room = 1000000,
				count = 0,
				unread = 0;
	double	   *values = malloc(room * sizeof(double));
	double		start = 0,
				last = 0,
				skip;
	rd_kafka_t *rk;

	if (argc != 4)
		die("usage: latency BROKERS TOPIC SKIP");
	skip = atof(argv[3]);
	signal(SIGTERM, handle_stop);
	rk = read_topic(argv[1], argv[2], RD_KAFKA_OFFSET_END);
	/* the first empty poll shows that the partitions' ends are known */
	while (rd_kafka_consumer_poll(rk, 1500) != NULL)
		;
	puts("ready");
	fflush(stdout);
	while (!stop && (start == 0 || seconds(CLOCK_MONOTONIC) - last < 3))
	{
		rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 100);
		double		now = seconds(CLOCK_REALTIME);

		if (m == NULL)
			continue;
		if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR && m->payload != NULL)
		{
			double		at = row_time(m->payload, m->len);

			last = seconds(CLOCK_MONOTONIC);
			if (start == 0)
				start = last;
			if (at < 0)
				unread++;
			else if (last - start >= skip && count < room)
				values[count++] = (now - at) * 1000;
		}
		rd_kafka_message_destroy(m);
	}
	if (count == 0)
		die("nothing measured (%ld messages without \"updated_at\")", unread);
	qsort(values, count, sizeof(double), compare);
	printf("{\"count\": %ld, \"p50\": %.3f, \"p95\": %.3f, \"p99\": %.3f, \"max\": %.3f, \"unread\": %ld}\n", count,
		   values[count / 2], values[(long) (count * 0.95)], values[(long) (count * 0.99)], values[count - 1], unread);
	return 0;
}
