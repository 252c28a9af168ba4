/*
 * print_sink.c: prints records as lines "topic <tab> key <tab> value <tab> name=header ...", "null" for none.
 */
#include "postgres.h"

#include "decode/print_sink.h"
#include "mb/pg_wchar.h"
#include "replication/output_plugin.h"

typedef struct PrintSink
{
	KsSink		sink;
	LogicalDecodingContext *ctx;
} PrintSink;

/* Appends UTF-8 bytes in the database's encoding. */
static void
append_bytes(StringInfo out, const char *data, Size size)
{
	char	   *converted;

	if (data == NULL)
	{
		appendStringInfoString(out, "null");
		return;
	}
	converted = pg_any_to_server(data, size, PG_UTF8);
	if (converted == data)
		appendBinaryStringInfo(out, data, size);
	else
		appendStringInfoString(out, converted);
}

static void
print_begin(KsSink *sink, TransactionId xid)
{
	(void) sink;
	(void) xid;
}

static void
print_emit(KsSink *sink, const KsRecord *record)
{
	LogicalDecodingContext *ctx = ((PrintSink *) sink)->ctx;

	OutputPluginPrepareWrite(ctx, true);
	appendStringInfoString(ctx->out, record->topic);
	appendStringInfoChar(ctx->out, '\t');
	append_bytes(ctx->out, record->key, record->key_size);
	appendStringInfoChar(ctx->out, '\t');
	append_bytes(ctx->out, record->value, record->value_size);
	for (int i = 0; i < record->nheaders; i++)
	{
		appendStringInfo(ctx->out, "\t%s=", record->headers[i].name);
		append_bytes(ctx->out, record->headers[i].value, record->headers[i].size);
	}
	OutputPluginWrite(ctx, true);
}

static void
print_commit(KsSink *sink, XLogRecPtr commit_lsn, XLogRecPtr end_lsn, TimestampTz commit_time)
{
	(void) sink;
	(void) commit_lsn;
	(void) end_lsn;
	(void) commit_time;
}

KsSink *
ks_print_sink_create(LogicalDecodingContext *ctx)
{
	PrintSink  *sink = palloc0(sizeof(PrintSink));

	sink->sink.begin = print_begin;
	sink->sink.emit = print_emit;
	sink->sink.commit = print_commit;
	sink->ctx = ctx;
	return &sink->sink;
}
