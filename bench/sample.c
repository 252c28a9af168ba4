/*
 * sample BROKERS TOPIC COUNT FILE: writes COUNT messages, spread evenly over what is in the topic, to FILE: for each the
 * sizes of key, value and first header's value as int32 and then their bytes.  raw_produce.c sends them.
 */
#include "tools.h"

static void
put(FILE *file, const void *bytes, int32_t size)
{
	if (size > 0 && fwrite(bytes, size, 1, file) != 1)
		die("cannot write");
}

int
main(int argc, char **argv)
{
	rd_kafka_t *rk;
	rd_kafka_topic_t *topic;
	int64_t		total,
				seen = 0,
				every;
	double		deadline = seconds(CLOCK_MONOTONIC) + 120;
	double		bytes = 0;
	long		kept = 0;
	FILE	   *file;

	if (argc != 5)
		die("usage: sample BROKERS TOPIC COUNT FILE");
	rk = read_topic(argv[1], argv[2], RD_KAFKA_OFFSET_BEGINNING);
	topic = rd_kafka_topic_new(rk, argv[2], NULL);
	total = count_messages(rk, argv[2], count_partitions(rk, topic));
	every = total / atol(argv[3]) > 0 ? total / atol(argv[3]) : 1;
	file = fopen(argv[4], "w");
	if (file == NULL || total <= 0)
		die("nothing to sample, or cannot write %s", argv[4]);
	while (seen < total && seconds(CLOCK_MONOTONIC) < deadline)
	{
		rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 1000);

		if (m == NULL)
			continue;
		if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR && seen++ % every == 0)
		{
			rd_kafka_headers_t *headers;
			const char *name;
			const void *header = NULL;
			size_t		header_size = 0;
			int32_t		sizes[3];

			if (rd_kafka_message_headers(m, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR)
				(void) rd_kafka_header_get_all(headers, 0, &name, &header, &header_size);
			sizes[0] = m->key_len;
			sizes[1] = m->len;
			sizes[2] = header_size;
			put(file, sizes, sizeof(sizes));
			put(file, m->key, sizes[0]);
			put(file, m->payload, sizes[1]);
			put(file, header, sizes[2]);
			bytes += m->key_len + m->len;
			kept++;
		}
		rd_kafka_message_destroy(m);
	}
	if (fclose(file) != 0 || seen < total)
		die("read %ld of %ld messages of %s", (long) seen, (long) total, argv[2]);
	printf("{\"messages\": %ld, \"bytes\": %.1f}\n", kept, bytes / kept);
	return 0;
}
