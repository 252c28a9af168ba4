/*
 * message.h: what stages behind the consumer may ask of a message beyond its bytes.  In consume/message.c.
 */
#ifndef KS_MESSAGE_H
#define KS_MESSAGE_H

#include "postgres.h"

#include "control/options.h"
#include "event/event.h"
#include "event/parser.h"
#include "utils/jsonb.h"

struct KsServer;

/* KS_MODE_...: what a subscription's options say of messages that do not say it themselves. */
extern uint8 ks_message_modes(const KsOptions *options);

/* All headers of a message as an array of [name, text | null | {"base64": "..."}], in CurrentMemoryContext; NULL: none. */
extern Jsonb *ks_message_headers(const KsMessage *message);

/*
 * Sends a message that the consumer handed out to another topic, with its own key, value, timestamp and headers and with
 * further ones, where it has none of that name; returns when it is acknowledged.  Logs in as userid.  ERROR as
 * kafka.produce; undefined_object: there is no such topic.
 */
extern void ks_message_send(const struct KsServer *server, Oid userid, const char *topic, const KsMessage *message,
							const KsHeader *headers, int nheaders);

#endif							/* KS_MESSAGE_H */
