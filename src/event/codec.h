/*
 * codec.h: a table of functions per wire format, the only thing that decode/ and produce/ know of a format.
 *
 * Encoders append bytes in UTF-8 to the given buffer; they convert from the database encoding themselves where it
 * differs.  They are on the hot path: no palloc per value where it can be avoided, specialised output for common
 * types, everything that depends only on the relation is prepared once.  They run in a short-lived memory context
 * that the caller resets per row.  They read no user tables and take no xid (system catalogs may be read in
 * prepare_relation, which runs inside a transaction with the right (historic) snapshot).
 * A value that the format cannot carry is an ERROR naming table, column and the option that can carry it.
 */
#ifndef KS_CODEC_H
#define KS_CODEC_H

#include "event/event.h"
#include "control/options.h"

/* What an encoder must know of its publisher; lives as long as the encoder. */
typedef struct KsEncoderConfig
{
	const char *publisher;		/* name */
	uint64		publisher_id;
	const char *topic_prefix;	/* Debezium's logical server name */
	const char *database;
	const KsOptions *options;	/* effective options, see control/options.h */
} KsEncoderConfig;

typedef struct KsEncoder KsEncoder;

typedef struct KsEncoderOps
{
	const char *name;			/* value of create_publisher(format) */
	/* Returns new encoder state in CurrentMemoryContext. */
	KsEncoder  *(*create) (const KsEncoderConfig *config);
	/* Fills rel->codec and rel->headers, allocated in rel->context. ERROR for a relation the format cannot carry. */
	void		(*prepare_relation) (KsEncoder *encoder, KsRelation *rel);
	/* Appends the message key of "row" (which has at least the key columns). */
	void		(*encode_key) (KsEncoder *encoder, const KsRelation *rel, const KsRow *row, StringInfo out);
	/*
	 * Appends the message value.  Returns false when the format has no value for this op and the record must be a
	 * tombstone (json deletes).  May append headers (bytes valid until the next call) to headers/nheaders.
	 */
	bool		(*encode_value) (KsEncoder *encoder, const KsChange *change, StringInfo out,
								 KsHeader *headers, int *nheaders);
	bool		delete_then_tombstone;	/* a delete is an event and then a tombstone (debezium) */
	bool		rekey_headers;	/* key change: headers __debezium.newkey / __debezium.oldkey on d and c */
} KsEncoderOps;

/* Every encoder begins with this. */
struct KsEncoder
{
	const KsEncoderOps *ops;
	KsEncoderConfig config;
};

extern const KsEncoderOps ks_debezium_encoder;
extern const KsEncoderOps ks_json_encoder;

/* Returns the encoder of a format's name, or NULL.  In format/registry.c. */
extern const KsEncoderOps *ks_encoder_ops(const char *format);

#endif							/* KS_CODEC_H */
