/*
 * raw_produce BROKERS TOPIC COUNT FILE HEADERS [property=value...]: the measure of the publisher: a plain librdkafka
 * producer that sends COUNT messages out of memory, going round those of FILE (see sample.c), acks=all, idempotent.
 * HEADERS 1 sends the position header and a timestamp with each, as the publisher does; 0 only key and value.
 *
 * Prints the seconds from its start to the last acknowledgement (as a worker's are counted), those since the first
 * message, and the CPU seconds of its main thread and of librdkafka's threads.
 */
#include "tools.h"

#include <sys/resource.h>

typedef struct Sample
{
	char	   *key;
	char	   *value;
	char	   *header;
	int32_t		sizes[3];		/* in this order */
} Sample;

static long delivered = 0;
static long failed = 0;

static void
delivery_report(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	(void) rk;
	(void) opaque;
	if (message->err)
		failed++;
	else
		delivered++;
}

/* Reads the messages of a file; returns them, and how many in *count. */
static Sample *
read_samples(const char *path, long *count)
{
	FILE	   *file = fopen(path, "r");
	Sample	   *samples = NULL;
	Sample		s;

	*count = 0;
	if (file == NULL)
		die("cannot read %s", path);
	while (fread(s.sizes, sizeof(s.sizes), 1, file) == 1)
	{
		size_t		size = (size_t) s.sizes[0] + s.sizes[1] + s.sizes[2];

		s.key = malloc(size + 1);
		if (size > 0 && fread(s.key, size, 1, file) != 1)
			die("%s ends early", path);
		s.value = s.key + s.sizes[0];
		s.header = s.value + s.sizes[1];
		if (*count % 1024 == 0)
			samples = realloc(samples, (*count + 1024) * sizeof(Sample));
		samples[(*count)++] = s;
	}
	fclose(file);
	if (*count == 0)
		die("%s is empty", path);
	return samples;
}

/* Sends one message; returns librdkafka's error. */
static rd_kafka_resp_err_t
send_message(rd_kafka_t *rk, rd_kafka_topic_t *topic, const Sample *s, int headers, int64_t now_ms)
{
	if (headers)
		return rd_kafka_producev(rk, RD_KAFKA_V_RKT(topic), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
								 RD_KAFKA_V_KEY(s->key, s->sizes[0]), RD_KAFKA_V_VALUE(s->value, s->sizes[1]),
								 RD_KAFKA_V_TIMESTAMP(now_ms),
								 RD_KAFKA_V_HEADER("pg_kafka_sync.pos", s->header, s->sizes[2]), RD_KAFKA_V_END);
	if (rd_kafka_produce(topic, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY, s->value, s->sizes[1],
						 s->key, s->sizes[0], NULL) == 0)
		return RD_KAFKA_RESP_ERR_NO_ERROR;
	return rd_kafka_last_error();
}

int
main(int argc, char **argv)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *rk;
	rd_kafka_topic_t *topic;
	Sample	   *samples;
	long		nsamples,
				total;
	double		start,
				first,
				end,
				main_cpu,
				cpu;
	int64_t		now_ms;
	int			headers;
	struct rusage usage;

	if (argc < 6)
		die("usage: raw_produce BROKERS TOPIC COUNT FILE HEADERS [property=value...]");
	total = atol(argv[3]);
	headers = atoi(argv[5]);
	samples = read_samples(argv[4], &nsamples);

	start = seconds(CLOCK_MONOTONIC);
	set_property(conf, "bootstrap.servers", argv[1]);
	set_property(conf, "acks", "all");
	set_property(conf, "enable.idempotence", "true");
	set_property(conf, "partitioner", "murmur2_random");
	for (int i = 6; i < argc; i++)
	{
		char	   *equals = strchr(argv[i], '=');

		if (equals == NULL)
			die("not property=value: %s", argv[i]);
		*equals = '\0';
		set_property(conf, argv[i], equals + 1);
	}
	rd_kafka_conf_set_dr_msg_cb(conf, delivery_report);
	rk = new_handle(RD_KAFKA_PRODUCER, conf);
	topic = rd_kafka_topic_new(rk, argv[2], NULL);
	(void) count_partitions(rk, topic);

	first = seconds(CLOCK_MONOTONIC);
	now_ms = (int64_t) (seconds(CLOCK_REALTIME) * 1000);
	for (long i = 0; i < total; i++)
	{
		rd_kafka_resp_err_t error;

		while ((error = send_message(rk, topic, &samples[i % nsamples], headers, now_ms)) != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			if (error != RD_KAFKA_RESP_ERR__QUEUE_FULL)
				die("%s", rd_kafka_err2str(error));
			rd_kafka_poll(rk, 10);
		}
		if (i % 1024 == 0)
			rd_kafka_poll(rk, 0);
	}
	rd_kafka_flush(rk, 120000);
	end = seconds(CLOCK_MONOTONIC);

	main_cpu = seconds(CLOCK_THREAD_CPUTIME_ID);
	getrusage(RUSAGE_SELF, &usage);
	cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
	if (failed != 0 || delivered != total)
		die("%ld of %ld messages delivered, %ld failed", delivered, total, failed);
	printf("{\"seconds\": %.4f, \"streaming_seconds\": %.4f, \"main_cpu\": %.3f, \"threads_cpu\": %.3f}\n",
		   end - start, end - first, main_cpu, cpu - main_cpu);
	return 0;
}
