/*
 * message.c: what a message has beyond key and value, as librdkafka keeps it until the message is released.
 */
#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "event/message.h"
#include "kafka/headers.h"
#include "kafka/produce_now.h"

/* Headers as librdkafka holds them, NULL if there are none.  They belong to the message. */
static rd_kafka_headers_t *
native_headers(const KsMessage *message)
{
	rd_kafka_headers_t *headers;

	if (message->native == NULL || rd_kafka_message_headers(message->headers_of, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return NULL;
	return headers;
}

/* See event/message.h. */
Jsonb *
ks_message_headers(const KsMessage *message)
{
	rd_kafka_headers_t *headers = native_headers(message);

	if (message->native == NULL)
		return (Jsonb *) message->headers_of;
	return headers ? ks_headers_read(headers) : NULL;
}

/* The bit of a mode that is given in the options; 0 if it is not given. */
static uint8
option_mode(const KsOptions *options, KsOptionId id, uint8_t (*mode_of) (const char *name, size_t size))
{
	return options->given[id] ? mode_of(options->text_value[id], strlen(options->text_value[id])) : 0;
}

/* See event/message.h. */
uint8
ks_message_modes(const KsOptions *options)
{
	return option_mode(options, KS_OPT_BINARY_MODE, ks_binary_mode) | option_mode(options, KS_OPT_TIME_MODE, ks_time_mode);
}

/* See event/message.h. */
void
ks_message_send(const KsServer *server, Oid userid, const char *topic, const KsMessage *message,
				const KsHeader *headers, int nheaders)
{
	rd_kafka_headers_t *own = native_headers(message);
	rd_kafka_headers_t *all = own ? rd_kafka_headers_copy(own) : rd_kafka_headers_new(nheaders);
	const void *value;
	size_t		size;

	for (int i = 0; i < nheaders; i++)
		if (rd_kafka_header_get_last(all, headers[i].name, &value, &size) != RD_KAFKA_RESP_ERR_NO_ERROR)
			rd_kafka_header_add(all, headers[i].name, -1, headers[i].value, headers[i].size);
	ks_produce_now(server, userid, topic, message->key, message->key_size, message->value, message->value_size,
				   all, message->timestamp_ms);
}
