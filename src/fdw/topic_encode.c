/*
 * topic_encode.c: see topic_encode.h.
 *
 * JSON is written by the encoder of format json.  It writes flat objects; paths that lead deeper make a tree of them,
 * each of which the encoder takes for a row of its own.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "event/codec.h"
#include "fdw/topic_encode.h"
#include "format/json_escape.h"
#include "format/text_out.h"
#include "kafka/headers.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* An object in the value: members that are columns, then members that are objects. */
typedef struct Object
{
	const char *name;			/* in its parent, in UTF-8 */
	KsRelation	relation;		/* its own columns, as if they were a table's */
	List	   *children;		/* of Object */
} Object;

struct KsTopicEncoder
{
	const KsTopicTable *table;
	MemoryContext context;
	MemoryContext row_context;
	KsEncoder  *json;
	TupleDesc	wire;			/* names are those of the members */
	Object	   *root;
	KsRelation	key;			/* columns of option "key"; none: no such option */
	KsRelation	key_column;		/* with key_format json, the column with meta key */
	FmgrInfo   *outputs;		/* by attribute, where values go as text */
};

/* ERROR: a table that cannot be written. */
pg_noreturn static void
cannot_write(const KsTopicTable *table, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot insert into foreign table \"%s\"", table->name),
			 errdetail("%s", detail),
			 hint ? errhint("%s", hint) : 0));
}

/* Does one path lead to the other's place, or through it? */
static bool
paths_clash(const KsTopicColumn *a, const KsTopicColumn *b)
{
	for (int i = 0; i < Min(a->npath, b->npath); i++)
		if (strcmp(a->path[i].name, b->path[i].name) != 0)
			return false;
	return true;
}

void
ks_topic_encoder_check(const KsTopicTable *table)
{
	if (strcmp(table->format, "debezium") == 0)
		cannot_write(table, "Events of format debezium tell of changes in a database's table; there is none behind these rows.",
					 "Use format json, or publish a table with kafka.create_publisher.");
	if (table->parser != NULL && strcmp(table->format, "json") != 0)
		cannot_write(table, psprintf("Format %s is only read.", table->format), "Use format json or raw.");
	for (int i = 0; i < table->natts; i++)
	{
		const KsTopicColumn *column = &table->columns[i];

		if (column->is_dropped || column->meta != KS_COL_NONE)
			continue;
		for (int p = 0; p < column->npath; p++)
		{
			const char *name = column->path[p].name;

			if (name == NULL)
				cannot_write(table, psprintf("The path of column \"%s\" leads into an array.", column->name), NULL);
			if (strlen(pg_any_to_server(name, strlen(name), PG_UTF8)) >= NAMEDATALEN)
				cannot_write(table, psprintf("The path of column \"%s\" has a name longer than %d bytes.",
											 column->name, NAMEDATALEN - 1), NULL);
		}
		for (int other = 0; other < i; other++)
			if (!table->columns[other].is_dropped && table->columns[other].meta == KS_COL_NONE &&
				paths_clash(column, &table->columns[other]))
				cannot_write(table, psprintf("The paths of columns \"%s\" and \"%s\" lead to the same place.",
											 table->columns[other].name, column->name), NULL);
	}
}

/* Begins a relation for the encoder. */
static void
begin_relation(KsTopicEncoder *encoder, KsRelation *relation)
{
	relation->relid = encoder->table->relid;
	relation->schema = encoder->table->schema;
	relation->table = encoder->table->name;
	relation->desc = encoder->wire;
	relation->columns = palloc(sizeof(int) * Max(encoder->table->natts, 1));
	relation->context = encoder->context;
}

/* Makes an object. */
static Object *
make_node(KsTopicEncoder *encoder, const char *name)
{
	Object	   *node = palloc0(sizeof(Object));

	node->name = name;
	begin_relation(encoder, &node->relation);
	return node;
}

/* Adds a column to the tree. */
static void
add_to_tree(KsTopicEncoder *encoder, int index)
{
	const KsTopicColumn *column = &encoder->table->columns[index];
	Object	   *node = encoder->root;

	for (int i = 0; i < column->npath - 1; i++)
	{
		Object	   *next = NULL;
		ListCell   *cell;

		foreach(cell, node->children)
			if (strcmp(((Object *) lfirst(cell))->name, column->path[i].name) == 0)
				next = lfirst(cell);
		if (next == NULL)
		{
			next = make_node(encoder, column->path[i].name);
			node->children = lappend(node->children, next);
		}
		node = next;
	}
	node->relation.columns[node->relation.ncolumns++] = index;
}

/* Prepares the tree's relations. */
static void
prepare_tree(KsTopicEncoder *encoder, Object *node)
{
	ListCell   *cell;

	encoder->json->ops->prepare_relation(encoder->json, &node->relation);
	foreach(cell, node->children)
		prepare_tree(encoder, lfirst(cell));
}

KsTopicEncoder *
ks_topic_encoder_create(const KsTopicTable *table, TupleDesc desc)
{
	KsTopicEncoder *encoder = palloc0(sizeof(KsTopicEncoder));
	KsEncoderConfig config = {0};

	ks_topic_encoder_check(table);
	encoder->table = table;
	encoder->context = CurrentMemoryContext;
	encoder->row_context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync message", ALLOCSET_DEFAULT_SIZES);
	encoder->wire = CreateTupleDescCopy(desc);
	encoder->outputs = palloc0(sizeof(FmgrInfo) * Max(table->natts, 1));
	encoder->json = ks_json_encoder.create(&config);
	encoder->root = make_node(encoder, NULL);
	begin_relation(encoder, &encoder->key);
	begin_relation(encoder, &encoder->key_column);
	for (int i = 0; i < table->natts; i++)
	{
		const KsTopicColumn *column = &table->columns[i];

		if (column->is_dropped)
			continue;
		if (column->meta == KS_COL_NONE)
		{
			const char *name = column->path[column->npath - 1].name;

			namestrcpy(&TupleDescAttr(encoder->wire, i)->attname, pg_any_to_server(name, strlen(name), PG_UTF8));
			add_to_tree(encoder, i);
		}
		else if (column->meta == KS_COL_KEY && column->npath == 0 && table->key_format == KS_TOPIC_KEY_JSON)
			encoder->key_column.columns[encoder->key_column.ncolumns++] = i;
	}
	if (table->nkeys > 0 && table->key_format != KS_TOPIC_KEY_TEXT)
	{
		encoder->key.keys = table->keys;
		encoder->key.nkeys = table->nkeys;
	}
	prepare_tree(encoder, encoder->root);
	encoder->json->ops->prepare_relation(encoder->json, &encoder->key);
	encoder->json->ops->prepare_relation(encoder->json, &encoder->key_column);
	return encoder;
}

/* Ends a message part that was appended to a buffer. */
static KsPart
part_of(const StringInfo buffer)
{
	KsPart		part = {buffer->data, buffer->len};

	return part;
}

/* Has the object of a node any member? */
static bool
has_members(const Object *node, const KsRow *row)
{
	ListCell   *cell;

	if (row->unchanged == NULL)
		return true;
	for (int i = 0; i < node->relation.ncolumns; i++)
		if (!row->unchanged[node->relation.columns[i]])
			return true;
	foreach(cell, node->children)
		if (has_members(lfirst(cell), row))
			return true;
	return false;
}

/* Appends the object of a node; headers of the root's members only. */
static void
put_node(KsTopicEncoder *encoder, const Object *node, const KsRow *row, StringInfo out, KsHeader *headers, int *nheaders)
{
	KsChange	change = {.rel = &node->relation, .op = KS_OP_CREATE, .after = row};
	KsHeader	nested[KS_MAX_HEADERS];
	int			nnested = 0;
	ListCell   *cell;

	(void) encoder->json->ops->encode_value(encoder->json, &change, out, headers, nheaders);
	if (node->children == NIL)
		return;
	/* the encoder's own buffers are those of the next object */
	for (int i = 0; i < *nheaders; i++)
		headers[i].value = pnstrdup(headers[i].value, headers[i].size);
	out->len--;					/* its closing bracket */
	foreach(cell, node->children)
	{
		const Object *child = lfirst(cell);

		if (!has_members(child, row))
			continue;
		if (out->data[out->len - 1] != '{')
			ks_put_char(out, ',');
		ks_put_string(out, child->name, strlen(child->name));
		ks_put_char(out, ':');
		put_node(encoder, child, row, out, nested, &nnested);
	}
	ks_put_char(out, '}');
}

/* Returns a value as bytes: bytea as it is, everything else as its text in UTF-8. */
static KsPart
bytes_of(KsTopicEncoder *encoder, int index, Datum value)
{
	KsPart		part;
	FmgrInfo   *output = &encoder->outputs[index];
	Oid			type = encoder->table->columns[index].type;
	char	   *text;

	if (getBaseType(type) == BYTEAOID)
	{
		bytea	   *bytes = DatumGetByteaPP(value);

		part.data = VARDATA_ANY(bytes);
		part.size = VARSIZE_ANY_EXHDR(bytes);
		return part;
	}
	if (!OidIsValid(output->fn_oid))
	{
		Oid			function;
		bool		is_varlena;

		getTypeOutputInfo(type, &function, &is_varlena);
		fmgr_info_cxt(function, output, encoder->context);
	}
	text = OutputFunctionCall(output, value);
	part.data = pg_server_to_any(text, strlen(text), PG_UTF8);
	part.size = strlen(part.data);
	return part;
}

/* The message key of option "key". */
static KsPart
key_of_columns(KsTopicEncoder *encoder, const KsRow *row)
{
	const KsTopicTable *table = encoder->table;
	StringInfoData out;

	for (int i = 0; i < table->nkeys; i++)
		if (row->nulls[table->keys[i]])
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("column \"%s\" of foreign table \"%s\" must not be null", table->columns[table->keys[i]].name,
							table->name),
					 errdetail("It is part of the message key.")));
	if (table->key_format == KS_TOPIC_KEY_TEXT)
		return bytes_of(encoder, table->keys[0], row->values[table->keys[0]]);
	initStringInfo(&out);
	encoder->json->ops->encode_key(encoder->json, &encoder->key, row, &out);
	return part_of(&out);
}

/* The message key that a column with meta key gives. */
static KsPart
key_of_column(KsTopicEncoder *encoder, int index, const KsRow *row)
{
	KsChange	change = {.rel = &encoder->key_column, .op = KS_OP_CREATE, .after = row};
	KsHeader	headers[KS_MAX_HEADERS];
	int			nheaders = 0;
	StringInfoData out;
	StringInfoData name;
	const char *utf8;
	KsPart		part;

	if (encoder->table->key_format != KS_TOPIC_KEY_JSON)
		return bytes_of(encoder, index, row->values[index]);
	/* {"name":value} without what is around the value */
	initStringInfo(&out);
	initStringInfo(&name);
	(void) encoder->json->ops->encode_value(encoder->json, &change, &out, headers, &nheaders);
	utf8 = pg_server_to_any(encoder->table->columns[index].name, strlen(encoder->table->columns[index].name), PG_UTF8);
	ks_put_string(&name, utf8, strlen(utf8));
	part.data = out.data + name.len + 2;
	part.size = out.len - name.len - 3;
	return part;
}

/* ERROR: this column's value cannot be chosen. */
pg_noreturn static void
not_writable(const KsTopicTable *table, const KsTopicColumn *column)
{
	ereport(ERROR,
			(errcode(ERRCODE_GENERATED_ALWAYS),
			 errmsg("cannot insert a value into column \"%s\" of foreign table \"%s\"", column->name, table->name),
			 column->meta == KS_COL_VALUE ?
			 errdetail("The value is made of the other columns.") :
			 errdetail("Kafka gives it, or the message as a whole.")));
}

/* Reads the columns that are not part of the value. */
static void
read_meta(KsTopicEncoder *encoder, const KsRow *row, KsOutgoing *m)
{
	const KsTopicTable *table = encoder->table;

	for (int i = 0; i < table->natts; i++)
	{
		const KsTopicColumn *column = &table->columns[i];
		Datum		value = row->values[i];

		if (column->is_dropped || column->meta == KS_COL_NONE || row->nulls[i])
			continue;
		switch (column->meta)
		{
			case KS_COL_PARTITION:
				{
					int64		partition = column->type == INT4OID ? DatumGetInt32(value) : DatumGetInt64(value);

					if (partition < 0 || partition > PG_INT32_MAX)
						ereport(ERROR,
								(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
								 errmsg("partition %lld is out of range", (long long) partition)));
					m->partition = (int32) partition;
					break;
				}
			case KS_COL_TIMESTAMP:
				{
					int64		ms = DatumGetTimestampTz(value) / 1000 +
					(int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000;

					if (TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(value)) || ms <= 0)
						ereport(ERROR,
								(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
								 errmsg("a message's timestamp must be after 1970-01-01")));
					m->timestamp_ms = ms;
					break;
				}
			case KS_COL_KEY:
				if (column->npath > 0)
					not_writable(table, column);
				m->key = key_of_column(encoder, i, row);
				break;
			case KS_COL_HEADERS:
				{
					Jsonb	   *headers = DatumGetJsonbPCopy(value);

					rd_kafka_headers_destroy(ks_headers_make(headers));	/* an error is one of this statement */
					m->headers.data = (char *) headers;
					m->headers.size = VARSIZE(headers);
					break;
				}
			case KS_COL_VALUE:
				if (table->parser != NULL)
					not_writable(table, column);
				m->value = bytes_of(encoder, i, value);
				break;
			default:
				not_writable(table, column);
		}
	}
}

/* The names of unchanged columns, as readers of format json look for them in header pg_kafka_sync.unchanged. */
static KsPart
names_of_unchanged(KsTopicEncoder *encoder, const bool *unchanged)
{
	StringInfoData out;
	KsPart		none = {NULL, 0};

	initStringInfo(&out);
	for (int i = 0; i < encoder->table->natts; i++)
	{
		const KsTopicColumn *column = &encoder->table->columns[i];

		if (!unchanged[i] || column->is_dropped)
			continue;
		if (column->npath != 1 || column->meta != KS_COL_NONE)
			ereport(ERROR,
					(errcode(ERRCODE_NO_DATA_FOUND),
					 errmsg("column \"%s\": the message leaves the value out as unchanged", column->name),
					 errhint("Set REPLICA IDENTITY FULL on the source table, and publish its rows again.")));
		ks_put_char(&out, out.len == 0 ? '[' : ',');
		ks_put_string(&out, column->path[0].name, strlen(column->path[0].name));
	}
	if (out.len == 0)
		return none;
	ks_put_char(&out, ']');
	return part_of(&out);
}

/* Makes a message of a row, in the row's context. */
static void
encode(KsTopicEncoder *encoder, const KsRow *row, const bool *unchanged, KsOutgoing *m)
{
	const KsTopicTable *table = encoder->table;

	read_meta(encoder, row, m);
	if (table->nkeys > 0 && m->key.data == NULL)
		m->key = key_of_columns(encoder, row);
	if (unchanged)
		m->unchanged = names_of_unchanged(encoder, unchanged);
	if (table->parser != NULL)
	{
		StringInfoData out;
		KsHeader	headers[KS_MAX_HEADERS];
		int			nheaders = 0;

		initStringInfo(&out);
		put_node(encoder, encoder->root, row, &out, headers, &nheaders);
		m->value = part_of(&out);
		for (int i = 0; i < nheaders; i++)
			if (strcmp(headers[i].name, KS_HEADER_JSON_NULL) == 0)
			{
				m->json_null.data = pnstrdup(headers[i].value, headers[i].size);
				m->json_null.size = headers[i].size;
			}
	}
}

/* Makes a message of a row, or (tombstone) of its key. */
static void
encode_row(KsTopicEncoder *encoder, const KsRow *row, const bool *unchanged, bool tombstone, KsOutgoing *m)
{
	MemoryContext former;
	int			level;

	MemoryContextReset(encoder->row_context);
	former = MemoryContextSwitchTo(encoder->row_context);
	memset(m, 0, sizeof(KsOutgoing));
	m->partition = -1;
	level = ks_settings_begin();
	if (!tombstone)
		encode(encoder, row, unchanged, m);
	else if (encoder->table->nkeys > 0)
		m->key = key_of_columns(encoder, row);
	else
		m->key = key_of_column(encoder, ks_topic_key_column(encoder->table), row);
	ks_settings_end(level);
	MemoryContextSwitchTo(former);
}

void
ks_topic_encode(KsTopicEncoder *encoder, TupleTableSlot *slot, KsOutgoing *m)
{
	KsRow		row = {slot->tts_values, slot->tts_isnull, NULL};

	slot_getallattrs(slot);
	encode_row(encoder, &row, NULL, false, m);
}

void
ks_topic_encode_row(KsTopicEncoder *encoder, Datum *values, bool *nulls, bool *left_out, const bool *unchanged,
					KsOutgoing *m)
{
	KsRow		row = {values, nulls, left_out};

	encode_row(encoder, &row, unchanged, false, m);
}

void
ks_topic_encode_tombstone(KsTopicEncoder *encoder, Datum *values, bool *nulls, KsOutgoing *m)
{
	KsRow		row = {values, nulls, NULL};

	encode_row(encoder, &row, NULL, true, m);
}
