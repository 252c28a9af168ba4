/*
 * registry.c: wire formats by the names that create_publisher and create_subscription know.
 */
#include "postgres.h"

#include "event/codec.h"
#include "event/parser.h"

static const KsEncoderOps *const encoders[] = {&ks_debezium_encoder, &ks_json_encoder};
static const KsParserOps *const parsers[] = {&ks_debezium_parser, &ks_json_parser, &ks_csv_parser,
	&ks_syslog_parser, &ks_raw_parser};

/* Returns the encoder of a format's name, or NULL. */
const KsEncoderOps *
ks_encoder_ops(const char *format)
{
	for (int i = 0; i < (int) lengthof(encoders); i++)
	{
		if (strcmp(encoders[i]->name, format) == 0)
			return encoders[i];
	}
	return NULL;
}

/* Returns the parser of a format's name, or NULL. */
const KsParserOps *
ks_parser_ops(const char *format)
{
	for (int i = 0; i < (int) lengthof(parsers); i++)
	{
		if (strcmp(parsers[i]->name, format) == 0)
			return parsers[i];
	}
	return NULL;
}
