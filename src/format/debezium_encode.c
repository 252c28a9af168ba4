/*
 * debezium_encode.c: keys and envelopes as Debezium's PostgreSQL connector writes them.
 *
 * An envelope is a few variable numbers between long constant pieces: those that depend on the table are made when it
 * is prepared, those that depend on the transaction when its first row comes, those on the clock now and then.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "replication/origin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "event/codec.h"
#include "format/debezium_types.h"
#include "format/text_out.h"

/* What consumers see as the connector's version. */
#define SOURCE_VERSION "1.0"

/* The clock is read once for this many rows of a transaction. */
#define ROWS_PER_CLOCK 16

#define UNIX_EPOCH_MICROS ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* What has been prepared for a relation (in its own memory context). */
typedef struct DbzRelation
{
	int			ncolumns;
	KsColumn   *columns;
	int			nkeys;
	KsColumn   *keys;
	bool		uses_settings;	/* a column or key has text from an output function */
	char	   *key_head;		/* {"schema":...,"payload": or nothing */
	int			key_head_size;
	char	   *head;			/* the same of the value, and {"before": */
	int			head_size;
	char	   *schema;			/* names as JSON strings */
	char	   *table;
	uint64		id;				/* of this preparation: the source block is made for it */
} DbzRelation;

typedef struct DbzEncoder
{
	KsEncoder	base;
	KsDebeziumModes modes;
	MemoryContext context;
	uint64		relations;		/* prepared so far */
	char	   *prefix;			/* UTF-8 */
	char	   *source_head;	/* "source":{"version":...,"ts_ms": */
	char	   *database;		/* as a JSON string */
	char	   *message_head;	/* {"schema":...,"payload": of logical messages */

	/* The transaction and relation that the pieces of "source" below were made for. */
	bool		source_valid;
	uint64		source_relation;
	TransactionId xid;
	XLogRecPtr	commit_lsn;
	XLogRecPtr	prev_commit_lsn;
	TimestampTz commit_time;
	uint16		origin;
	XLogRecPtr	origin_lsn;
	char		snapshot[32];
	StringInfoData before_sequence_lsn; /* ,"source":{ ... "sequence":"[ ... \" */
	StringInfoData before_lsn;	/* \"]" ... "lsn": */
	StringInfoData after_lsn;	/* ,"xmin":null ... },"transaction":null,"op":" */

	int			rows_to_clock;
	StringInfoData clock;		/* ","ts_ms":...} */
} DbzEncoder;

/* Makes encoder state in the current memory context. */
static KsEncoder *
dbz_create(const KsEncoderConfig *config)
{
	DbzEncoder *encoder = palloc0(sizeof(DbzEncoder));

	encoder->base.ops = &ks_debezium_encoder;
	encoder->base.config = *config;
	encoder->context = CurrentMemoryContext;
	ks_debezium_modes(config->options, &encoder->modes);
	initStringInfo(&encoder->before_sequence_lsn);
	initStringInfo(&encoder->before_lsn);
	initStringInfo(&encoder->after_lsn);
	initStringInfo(&encoder->clock);
	return &encoder->base;
}

/* Makes, at the first use in a transaction, the constants that may need an encoding conversion. */
static void
prepare_encoder(DbzEncoder *encoder)
{
	MemoryContext old;

	if (encoder->source_head != NULL)
		return;
	ks_columns_init();
	old = MemoryContextSwitchTo(encoder->context);
	encoder->prefix = ks_utf8_name(encoder->base.config.topic_prefix);
	encoder->database = ks_json_name(encoder->base.config.database);
	encoder->message_head = encoder->modes.schemas ?
		psprintf("{\"schema\":%s,\"payload\":", ks_debezium_message_schema()) : "";
	encoder->source_head = psprintf(",\"source\":{\"version\":\"" SOURCE_VERSION "\",\"connector\":\"postgresql\","
									"\"name\":%s,\"ts_ms\":", ks_json_name(encoder->base.config.topic_prefix));
	MemoryContextSwitchTo(old);
}

/* Prepares the columns of a row or key. */
static KsColumn *
prepare_columns(DbzEncoder *encoder, const KsRelation *rel, const int *attributes, int count, bool *uses_settings)
{
	KsColumn   *columns = ks_columns_prepare(rel, attributes, count);

	for (int i = 0; i < count; i++)
	{
		ks_debezium_prepare_column(&columns[i], &encoder->modes);
		ks_debezium_default(&columns[i]);
		*uses_settings |= columns[i].uses_settings;
	}
	return columns;
}

/* Does any of the columns hold values of one of two types, in arrays or not? */
static bool
has_type(const KsColumn *columns, int ncolumns, Oid one, Oid other)
{
	for (int i = 0; i < ncolumns; i++)
	{
		Oid			type = columns[i].element != NULL ? columns[i].element->type : columns[i].type;

		if (type == one || type == other)
			return true;
	}
	return false;
}

/* Adds a header to every record of a relation. */
static void
add_mode_header(KsRelation *rel, const char *name, const char *mode)
{
	KsHeader   *header = &rel->headers[rel->nheaders++];

	header->name = name;
	header->value = pstrdup(mode);
	header->size = strlen(mode);
}

/*
 * Names, in headers of every record, the modes that nothing in a message tells: so that a subscription does not read one
 * encoding as another.  Schemas tell units, but not what bytes in a string are.
 */
static void
add_mode_headers(DbzEncoder *encoder, KsRelation *rel, const DbzRelation *state)
{
	const KsDebeziumModes *modes = &encoder->modes;
	bool		binary = (modes->binary == KS_BINARY_HEX || modes->binary == KS_BINARY_BASE64_URL_SAFE) &&
		(has_type(state->columns, state->ncolumns, BYTEAOID, BYTEAOID) ||
		 has_type(state->keys, state->nkeys, BYTEAOID, BYTEAOID));
	bool		time = modes->time != KS_TIME_ADAPTIVE && !modes->schemas &&
		(has_type(state->columns, state->ncolumns, TIMEOID, TIMESTAMPOID) ||
		 has_type(state->keys, state->nkeys, TIMEOID, TIMESTAMPOID));

	rel->nheaders = 0;
	rel->headers = palloc(sizeof(KsHeader) * 2);
	if (binary)
		add_mode_header(rel, KS_HEADER_BINARY, encoder->base.config.options->text_value[KS_OPT_BINARY_MODE]);
	if (time)
		add_mode_header(rel, KS_HEADER_TIME, encoder->base.config.options->text_value[KS_OPT_TIME_MODE]);
}

/* Fills rel->codec; ERROR for names that cannot be converted to UTF-8. */
static void
dbz_prepare_relation(KsEncoder *base, KsRelation *rel)
{
	DbzEncoder *encoder = (DbzEncoder *) base;
	MemoryContext old;
	DbzRelation *state;

	prepare_encoder(encoder);
	old = MemoryContextSwitchTo(rel->context);
	state = palloc0(sizeof(DbzRelation));
	state->id = ++encoder->relations;
	state->ncolumns = rel->ncolumns;
	state->columns = prepare_columns(encoder, rel, rel->columns, rel->ncolumns, &state->uses_settings);
	state->nkeys = rel->nkeys;
	state->keys = prepare_columns(encoder, rel, rel->keys, rel->nkeys, &state->uses_settings);
	state->schema = ks_json_name(rel->schema);
	state->table = ks_json_name(rel->table);
	if (encoder->modes.schemas)
	{
		char	   *name = psprintf("%s.%s.%s", encoder->prefix, ks_utf8_name(rel->schema), ks_utf8_name(rel->table));

		state->key_head = psprintf("{\"schema\":%s,\"payload\":",
								   ks_debezium_key_schema(name, state->keys, state->nkeys));
		state->head = psprintf("{\"schema\":%s,\"payload\":{\"before\":",
							   ks_debezium_envelope_schema(name, state->columns, state->ncolumns));
	}
	else
	{
		state->key_head = "";
		state->head = "{\"before\":";
	}
	state->key_head_size = strlen(state->key_head);
	state->head_size = strlen(state->head);
	add_mode_headers(encoder, rel, state);
	rel->codec = state;
	MemoryContextSwitchTo(old);
}

/* Appends a row: all columns, or of a row that has only the identity the rest as null or stand-in. */
static void
put_row(StringInfo out, KsColumn *columns, int ncolumns, const KsRow *row, const KsRow *older, bool only_identity)
{
	if (ncolumns == 0)
	{
		ks_put_literal(out, "{}");
		return;
	}
	for (int i = 0; i < ncolumns; i++)
	{
		KsColumn   *column = &columns[i];
		int			attribute = column->attribute;

		ks_put(out, column->prefix, column->prefix_size);
		if (i == 0)
			out->data[out->len - column->prefix_size] = '{';
		ks_encoding.column = column;
		if (only_identity && !column->is_identity)
			ks_put(out, column->missing, column->missing_size);
		else if (unlikely(row->unchanged != NULL && row->unchanged[attribute]))
		{
			if (older == NULL || (older->unchanged != NULL && older->unchanged[attribute]))
				ks_put(out, column->unchanged, column->unchanged_size);
			else if (older->nulls[attribute])
				ks_put_literal(out, "null");
			else
				column->put(out, column, older->values[attribute]);
		}
		else if (row->nulls[attribute])
			ks_put_literal(out, "null");
		else
			column->put(out, column, row->values[attribute]);
	}
	ks_put_char(out, '}');
}

/* Appends the message key of a row. */
static void
dbz_encode_key(KsEncoder *base, const KsRelation *rel, const KsRow *row, StringInfo out)
{
	DbzEncoder *encoder = (DbzEncoder *) base;
	DbzRelation *state = rel->codec;
	ErrorContextCallback callback = {.callback = ks_encoding_context, .previous = error_context_stack};
	int			level = state->uses_settings ? ks_settings_begin() : 0;

	error_context_stack = &callback;
	ks_encoding.rel = rel;
	ks_encoding.row = row;
	for (int i = 0; i < state->nkeys; i++)
	{
		if (unlikely(row->unchanged != NULL && row->unchanged[state->keys[i].attribute]))
			ks_cannot_encode(&state->keys[i], "is part of the message key, but WAL does not carry it",
							 "Use ALTER TABLE ... REPLICA IDENTITY FULL.");
	}
	if (encoder->modes.schemas)
		ks_put(out, state->key_head, state->key_head_size);
	put_row(out, state->keys, state->nkeys, row, NULL, false);
	if (encoder->modes.schemas)
		ks_put_char(out, '}');
	ks_terminate(out);
	ks_settings_end(level);
	ks_encoding.rel = NULL;
	error_context_stack = callback.previous;
}

/* Makes the pieces of "source" around the change's LSN anew if the transaction or the table is another one. */
static void
prepare_source(DbzEncoder *encoder, const KsChange *change)
{
	static const DbzRelation no_relation = {.schema = "\"\"", .table = "\"\""};
	const DbzRelation *state = change->rel != NULL ? change->rel->codec : &no_relation;
	int64		micros = change->commit_time + UNIX_EPOCH_MICROS;
	const char *snapshot = change->snapshot != NULL ? change->snapshot : "false";
	StringInfo	out = &encoder->before_sequence_lsn;
	char	   *origin = NULL;

	if (encoder->source_valid && encoder->source_relation == state->id &&
		encoder->commit_lsn == change->commit_lsn && encoder->xid == change->xid &&
		encoder->commit_time == change->commit_time && encoder->prev_commit_lsn == change->prev_commit_lsn &&
		encoder->origin == change->origin && encoder->origin_lsn == change->origin_lsn &&
		strcmp(encoder->snapshot, snapshot) == 0)
		return;

	encoder->source_valid = false;
	encoder->rows_to_clock = 0;
	encoder->source_relation = state->id;
	encoder->commit_lsn = change->commit_lsn;
	encoder->xid = change->xid;
	encoder->commit_time = change->commit_time;
	encoder->prev_commit_lsn = change->prev_commit_lsn;
	encoder->origin = change->origin;
	encoder->origin_lsn = change->origin_lsn;
	strlcpy(encoder->snapshot, snapshot, sizeof(encoder->snapshot));

	resetStringInfo(out);
	ks_put(out, encoder->source_head, strlen(encoder->source_head));
	ks_put_int64(out, micros / 1000);
	ks_put_literal(out, ",\"snapshot\":\"");
	ks_put(out, snapshot, strlen(snapshot));
	ks_put_literal(out, "\",\"db\":");
	ks_put(out, encoder->database, strlen(encoder->database));
	ks_put_literal(out, ",\"sequence\":\"[");
	if (change->prev_commit_lsn == InvalidXLogRecPtr)
		ks_put_literal(out, "null,\\\"");
	else
	{
		ks_put_literal(out, "\\\"");
		ks_put_uint64(out, change->prev_commit_lsn);
		ks_put_literal(out, "\\\",\\\"");
	}

	out = &encoder->before_lsn;
	resetStringInfo(out);
	ks_put_literal(out, "\\\"]\",\"ts_us\":");
	ks_put_int64(out, micros);
	ks_put_literal(out, ",\"ts_ns\":");
	ks_put_int64(out, micros);
	ks_put_literal(out, "000,\"schema\":");
	ks_put(out, state->schema, strlen(state->schema));
	ks_put_literal(out, ",\"table\":");
	ks_put(out, state->table, strlen(state->table));
	if (TransactionIdIsValid(change->xid))
	{
		ks_put_literal(out, ",\"txId\":");
		ks_put_uint64(out, change->xid);
	}
	else
		ks_put_literal(out, ",\"txId\":null");
	ks_put_literal(out, ",\"lsn\":");

	out = &encoder->after_lsn;
	resetStringInfo(out);
	ks_put_literal(out, ",\"xmin\":null,\"origin\":");
	if (change->origin != InvalidRepOriginId && replorigin_by_oid(change->origin, true, &origin))
	{
		char	   *name = ks_json_name(origin);

		ks_put(out, name, strlen(name));
	}
	else
		ks_put_literal(out, "null");
	ks_put_literal(out, ",\"origin_lsn\":");
	if (change->origin_lsn != InvalidXLogRecPtr)
		ks_put_uint64(out, change->origin_lsn);
	else
		ks_put_literal(out, "null");
	ks_put_literal(out, "},\"transaction\":null");
	encoder->source_valid = true;
}

/* Reads the clock: the time of processing. */
static void
prepare_clock(DbzEncoder *encoder)
{
	StringInfo	out = &encoder->clock;
	int64		micros;

	if (encoder->rows_to_clock-- > 0)
		return;
	encoder->rows_to_clock = ROWS_PER_CLOCK - 1;
	micros = GetCurrentTimestamp() + UNIX_EPOCH_MICROS;
	resetStringInfo(out);
	ks_put_literal(out, "\",\"ts_ms\":");
	ks_put_int64(out, micros / 1000);
	ks_put_literal(out, ",\"ts_us\":");
	ks_put_int64(out, micros);
	ks_put_literal(out, ",\"ts_ns\":");
	ks_put_int64(out, micros);
	ks_put_literal(out, "000}");
}

/* Appends ,"source":{...},"transaction":null */
static void
put_source(DbzEncoder *encoder, StringInfo out, const KsChange *change)
{
	char		lsn[MAXINT8LEN + 1];
	int			size = pg_ulltoa_n(change->lsn != InvalidXLogRecPtr ? change->lsn : change->commit_lsn, lsn);

	ks_put(out, encoder->before_sequence_lsn.data, encoder->before_sequence_lsn.len);
	ks_put(out, lsn, size);
	ks_put(out, encoder->before_lsn.data, encoder->before_lsn.len);
	ks_put(out, lsn, size);
	ks_put(out, encoder->after_lsn.data, encoder->after_lsn.len);
}

/* A logical message: no rows, other fields in another order. */
static void
encode_message(DbzEncoder *encoder, const KsChange *change, StringInfo out)
{
	KsColumn	name = {.name = "prefix"};

	ks_put(out, encoder->message_head, strlen(encoder->message_head));
	ks_put_literal(out, "{\"op\":\"m\",\"ts_ms\":");
	ks_put_int64(out, (GetCurrentTimestamp() + UNIX_EPOCH_MICROS) / 1000);
	put_source(encoder, out, change);
	ks_put_literal(out, ",\"message\":{\"prefix\":");
	ks_put_text(out, &name, change->prefix, strlen(change->prefix));
	ks_put_literal(out, ",\"content\":\"");
	ks_put_base64(out, (const unsigned char *) change->content, change->content_size, false);
	ks_put_literal(out, "\"}}");
	if (encoder->modes.schemas)
		ks_put_char(out, '}');
	ks_terminate(out);
}

/* Appends the envelope of a change; always has a value, never headers. */
static bool
dbz_encode_value(KsEncoder *base, const KsChange *change, StringInfo out, KsHeader *headers, int *nheaders)
{
	DbzEncoder *encoder = (DbzEncoder *) base;
	const KsRelation *rel = change->rel;
	DbzRelation *state;
	ErrorContextCallback callback = {.callback = ks_encoding_context, .previous = error_context_stack};
	int			level;

	if (change->op == KS_OP_MESSAGE)
	{
		prepare_encoder(encoder);
		prepare_source(encoder, change);
		encode_message(encoder, change, out);
		return true;
	}
	state = rel->codec;
	prepare_source(encoder, change);
	prepare_clock(encoder);
	level = state->uses_settings ? ks_settings_begin() : 0;

	error_context_stack = &callback;
	ks_encoding.rel = rel;
	ks_encoding.row = change->after != NULL ? change->after : change->before;
	ks_put(out, state->head, state->head_size);
	if (change->before != NULL)
		put_row(out, state->columns, state->ncolumns, change->before, NULL, change->before_is_key);
	else
		ks_put_literal(out, "null");
	ks_put_literal(out, ",\"after\":");
	if (change->after != NULL)
		put_row(out, state->columns, state->ncolumns, change->after,
				change->before_is_key ? NULL : change->before, false);
	else
		ks_put_literal(out, "null");
	ks_encoding.rel = NULL;
	error_context_stack = callback.previous;

	put_source(encoder, out, change);
	ks_put_literal(out, ",\"op\":\"");
	ks_put_char(out, (char) change->op);
	ks_put(out, encoder->clock.data, encoder->clock.len);
	if (encoder->modes.schemas)
		ks_put_char(out, '}');
	ks_terminate(out);
	ks_settings_end(level);
	return true;
}

const KsEncoderOps ks_debezium_encoder = {
	.name = "debezium",
	.create = dbz_create,
	.prepare_relation = dbz_prepare_relation,
	.encode_key = dbz_encode_key,
	.encode_value = dbz_encode_value,
	.delete_then_tombstone = true,
	.rekey_headers = true,
};
