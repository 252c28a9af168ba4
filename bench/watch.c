/*
 * watch BROKERS TOPIC COUNT TIMEOUT: looks at the topic's ends every 20 ms until COUNT messages are there.  Prints, as
 * seconds since the Unix epoch, when the first were seen (and how many those were) and when the last.
 * Exit code 1 if they were not all there in TIMEOUT seconds.
 */
#include "tools.h"

int
main(int argc, char **argv)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *rk;
	int			partitions;
	int64_t		wanted,
				count = 0,
				first_count = 0;
	double		deadline,
				first = 0,
				last = 0;

	if (argc != 5)
		die("usage: watch BROKERS TOPIC COUNT TIMEOUT");
	wanted = atol(argv[3]);
	deadline = seconds(CLOCK_MONOTONIC) + atof(argv[4]);
	set_property(conf, "bootstrap.servers", argv[1]);
	rk = new_handle(RD_KAFKA_CONSUMER, conf);
	partitions = count_partitions(rk, rd_kafka_topic_new(rk, argv[2], NULL));
	puts("ready");
	fflush(stdout);
	while (count < wanted)
	{
		count = count_messages(rk, argv[2], partitions);
		last = seconds(CLOCK_REALTIME);
		if (count > 0 && first == 0)
		{
			first = last;
			first_count = count;
		}
		if (count < wanted && seconds(CLOCK_MONOTONIC) > deadline)
			die("%ld of %ld messages in %s", (long) count, (long) wanted, argv[2]);
		if (count < wanted)
			usleep(20000);
	}
	printf("{\"first\": %.4f, \"first_count\": %ld, \"last\": %.4f, \"count\": %ld}\n", first, (long) first_count, last,
		   (long) count);
	return 0;
}
