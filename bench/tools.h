/*
 * tools.h: what the small programs of the benchmark share.  Plain librdkafka, nothing of the extension.
 */
#ifndef BENCH_TOOLS_H
#define BENCH_TOOLS_H

#define _GNU_SOURCE
#include <librdkafka/rdkafka.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define die(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))

/* Seconds of a clock, as a fraction. */
static inline double
seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* Sets one property; ends the program if librdkafka refuses it. */
static inline void
set_property(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		error[512];

	if (rd_kafka_conf_set(conf, name, value, error, sizeof(error)) != RD_KAFKA_CONF_OK)
		die("%s", error);
}

/* Makes a handle of a configuration; ends the program if that fails. */
static inline rd_kafka_t *
new_handle(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
	char		error[512];
	rd_kafka_t *rk = rd_kafka_new(type, conf, error, sizeof(error));

	if (rk == NULL)
		die("%s", error);
	return rk;
}

/* Returns how many partitions a topic has, waiting up to a minute for it to be there. */
static inline int
count_partitions(rd_kafka_t *rk, rd_kafka_topic_t *topic)
{
	double		deadline = seconds(CLOCK_MONOTONIC) + 60;

	while (seconds(CLOCK_MONOTONIC) < deadline)
	{
		const struct rd_kafka_metadata *metadata;
		int			count = 0;

		if (rd_kafka_metadata(rk, 0, topic, &metadata, 10000) == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			if (metadata->topics[0].err == RD_KAFKA_RESP_ERR_NO_ERROR)
				count = metadata->topics[0].partition_cnt;
			rd_kafka_metadata_destroy(metadata);
		}
		if (count > 0)
			return count;
		usleep(20000);
	}
	die("topic %s is not there", rd_kafka_topic_name(topic));
}

/* Starts reading all partitions of a topic from an offset (RD_KAFKA_OFFSET_BEGINNING, RD_KAFKA_OFFSET_END). */
static inline rd_kafka_t *
read_topic(const char *brokers, const char *topic_name, int64_t start)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(4);
	rd_kafka_topic_t *topic;
	rd_kafka_t *rk;
	int			partitions;

	set_property(conf, "bootstrap.servers", brokers);
	set_property(conf, "group.id", "bench");
	set_property(conf, "enable.auto.commit", "false");
	set_property(conf, "fetch.wait.max.ms", "100");
	set_property(conf, "fetch.min.bytes", "1");
	rk = new_handle(RD_KAFKA_CONSUMER, conf);
	rd_kafka_poll_set_consumer(rk);
	topic = rd_kafka_topic_new(rk, topic_name, NULL);
	partitions = count_partitions(rk, topic);
	rd_kafka_topic_destroy(topic);
	for (int p = 0; p < partitions; p++)
		rd_kafka_topic_partition_list_add(list, topic_name, p)->offset = start;
	if (rd_kafka_assign(rk, list) != RD_KAFKA_RESP_ERR_NO_ERROR)
		die("cannot read %s", topic_name);
	rd_kafka_topic_partition_list_destroy(list);
	return rk;
}

/* Sums up the sizes of the partitions of a topic (end offset minus first), -1 if the broker does not tell. */
static inline int64_t
count_messages(rd_kafka_t *rk, const char *topic, int partitions)
{
	int64_t		sum = 0;

	for (int p = 0; p < partitions; p++)
	{
		int64_t		first,
					end;

		if (rd_kafka_query_watermark_offsets(rk, topic, p, &first, &end, 10000) != RD_KAFKA_RESP_ERR_NO_ERROR)
			return -1;
		sum += end - first;
	}
	return sum;
}

#endif							/* BENCH_TOOLS_H */
