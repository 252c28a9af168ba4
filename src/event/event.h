/*
 * event.h: the one structure that crosses the publishing stages, from decode to encode to produce.
 *
 * A KsChange is one row change (or snapshot row) of one published relation, as it was at its own point in WAL.
 * It borrows everything it points to; it is valid only during the call that it is passed to.
 */
#ifndef KS_EVENT_H
#define KS_EVENT_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"

/* The operation letters are Debezium's. */
typedef enum KsOp
{
	KS_OP_CREATE = 'c',
	KS_OP_UPDATE = 'u',
	KS_OP_DELETE = 'd',
	KS_OP_READ = 'r',			/* snapshot row */
	KS_OP_TRUNCATE = 't',
	KS_OP_MESSAGE = 'm'
} KsOp;

/* A message header: name and bytes, both borrowed. */
typedef struct KsHeader
{
	const char *name;
	const char *value;
	Size		size;
} KsHeader;

/*
 * One published relation.  Made by decode/relation_cache.c (or the snapshot reader), rebuilt after invalidation.
 * "columns" are the attribute indexes (attnum - 1) that are published, in attribute order: column lists, generated
 * and dropped columns are already resolved.  "keys" are attribute indexes in the key's own order (primary key
 * definition order), empty when the relation is unkeyed.
 */
typedef struct KsRelation
{
	Oid			relid;			/* the relation published as (the root with publish_via_partition_root) */
	char	   *schema;
	char	   *table;
	TupleDesc	desc;
	int			ncolumns;
	int		   *columns;
	int			nkeys;
	int		   *keys;
	bool		identity_full;	/* old tuples carry all columns */
	Bitmapset  *identity;		/* attribute indexes that an old key tuple carries (all of them with FULL) */
	char	   *topic;
	int32		partitions;		/* pinned partition count of the topic, 0 = not known yet */
	void	   *codec;			/* what the encoder prepared for this relation, in "context" */
	KsHeader   *headers;		/* that the encoder wants in every record of this relation, tombstones too */
	int			nheaders;
	void	   *sink_topic;		/* the sink's own handle of "topic", NULL = not looked up yet */
	MemoryContext context;		/* lives as long as this struct */
} KsRelation;

/* One row, indexed by attribute index of rel->desc. */
typedef struct KsRow
{
	Datum	   *values;
	bool	   *nulls;
	bool	   *unchanged;		/* value is an unchanged TOAST value that WAL does not carry; values[] undefined */
} KsRow;

typedef struct KsChange
{
	const KsRelation *rel;		/* NULL for KS_OP_MESSAGE */
	KsOp		op;
	const KsRow *before;		/* NULL if WAL has none */
	bool		before_is_key;	/* "before" has only the rel->identity columns */
	const KsRow *after;			/* NULL for deletes */
	TransactionId xid;
	XLogRecPtr	lsn;			/* of the change */
	XLogRecPtr	commit_lsn;		/* start of the commit record; snapshot: insert position when it was taken */
	XLogRecPtr	prev_commit_lsn;	/* last commit this publisher streamed before, Invalid if none: Debezium's "sequence" */
	TimestampTz commit_time;	/* snapshot rows: time of reading */
	uint64		ordinal;		/* of the event in its transaction, from 0 */
	const char *snapshot;		/* Debezium's source.snapshot: "false", "true", "first", "last" ... */
	uint16		origin;			/* replication origin id of the transaction, 0 = local */
	XLogRecPtr	origin_lsn;		/* its commit there, Invalid if it was not told */
	/* KS_OP_MESSAGE only */
	const char *prefix;
	const char *content;
	Size		content_size;
} KsChange;

#define KS_MAX_HEADERS 8
#define KS_HEADER_POS "pg_kafka_sync.pos"
#define KS_HEADER_JSON_NULL "pg_kafka_sync.json_null"
#define KS_HEADER_UNCHANGED "pg_kafka_sync.unchanged"
#define KS_HEADER_BINARY "pg_kafka_sync.binary" /* "binary.handling.mode" of the record, where it is not the default */
#define KS_HEADER_DELETED "pg_kafka_sync.deleted" /* what a delete is ordered by: '=' and its text; empty: null */
#define KS_HEADER_TIME "pg_kafka_sync.time" /* "time.precision.mode", likewise */

/*
 * One Kafka message to be sent; all borrowed.  value NULL = tombstone, key NULL = unkeyed.
 */
typedef struct KsRecord
{
	const KsRelation *rel;
	const char *topic;
	int32		partitions;		/* pinned count that the key is hashed over */
	int32		partition;		/* -1 = by key */
	const char *key;
	Size		key_size;
	const char *value;
	Size		value_size;
	int			nheaders;
	KsHeader	headers[KS_MAX_HEADERS];
	int64		timestamp_ms;	/* since the Unix epoch */
} KsRecord;

/* Where encoded records go: produce/producer.c, or decode/print_sink.c for pg_recvlogical. */
typedef struct KsSink
{
	void		(*begin) (struct KsSink *sink, TransactionId xid);
	void		(*emit) (struct KsSink *sink, const KsRecord *record);
	void		(*commit) (struct KsSink *sink, XLogRecPtr commit_lsn, XLogRecPtr end_lsn, TimestampTz commit_time);
	void		(*serve) (struct KsSink *sink); /* called now and then while nothing is emitted; may be NULL */
} KsSink;

#endif							/* KS_EVENT_H */
