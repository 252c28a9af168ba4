/*
 * topic_outbox.h: messages that wait for the end of the transaction.
 *
 * They are kept in the order in which they came, in memory up to work_mem and then in a temporary file; ROLLBACK TO drops
 * those of the subtransaction.  Before the commit they are sent, in a Kafka transaction per login.
 */
#ifndef KS_TOPIC_OUTBOX_H
#define KS_TOPIC_OUTBOX_H

#include "postgres.h"

#include "kafka/properties.h"

/* Bytes; data NULL = none. */
typedef struct KsPart
{
	const char *data;
	int32		size;
} KsPart;

typedef struct KsOutgoing
{
	int32		target;			/* of ks_outbox_target */
	int32		partition;		/* -1 = by key, or any */
	int64		timestamp_ms;	/* since 1970; 0 = when it is sent */
	KsPart		key;
	KsPart		value;
	KsPart		headers;		/* a jsonb */
	KsPart		json_null;		/* value of header pg_kafka_sync.json_null */
	KsPart		unchanged;		/* value of header pg_kafka_sync.unchanged; not kept by the outbox, whose rows are whole */
} KsOutgoing;

/* Where messages of a table go. */
typedef struct KsOutboxTarget
{
	const KsServer *server;
	Oid			role;			/* whose login it is */
	const char *topic;
	const char *table;			/* for messages */
	int64		first;			/* where in the outbox its first message is; -1 = it has none */
} KsOutboxTarget;

/* Returns the number, within this transaction, of a topic of a server with a role's login; "server" is copied. */
extern int	ks_outbox_target(const KsServer *server, Oid role, const char *topic, const char *table);
/* Adds a message, which is copied. ERROR: no room on disk. */
extern void ks_outbox_add(const KsOutgoing *message);

/* For topic_send.c, before the commit: targets, and messages from the first on; false after the last. */
extern const KsOutboxTarget *ks_outbox_targets(int *count);
extern int64 ks_outbox_size(void);
extern void ks_outbox_rewind(void);
extern bool ks_outbox_next(KsOutgoing *message);

#endif							/* KS_TOPIC_OUTBOX_H */
