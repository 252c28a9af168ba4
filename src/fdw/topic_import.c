/*
 * topic_import.c: IMPORT FOREIGN SCHEMA: foreign tables of a server's topics, from samples of their messages.
 *
 * The kind of import is chosen by option "format".  A table says in its comment what it was made of; comments cannot be
 * part of what a wrapper returns to PostgreSQL, so they are made when the command is done.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/heap.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/comment.h"
#include "commands/defrem.h"
#include "control/hooks.h"
#include "fdw/topic_fdw.h"
#include "fdw/topic_guess.h"
#include "fdw/topic_reader.h"
#include "kafka/admin.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/scansup.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

/* The remote schema that has all topics, under their whole names. */
#define ALL_TOPICS "topics"
#define DEFAULT_SAMPLE 100
#define MAX_SAMPLE 100000

typedef struct ImportOptions
{
	const char *format;			/* NULL = guess */
	int			sample;			/* messages looked at, per topic */
} ImportOptions;

/* A topic and the name of its table. */
typedef struct Import
{
	char	   *topic;			/* in UTF-8 */
	char	   *table;			/* in the server's encoding */
} Import;

typedef struct Comment
{
	char	   *table;
	char	   *text;
} Comment;

/* Comments to be made by the command that runs; in a context of their own. */
static MemoryContext comments_context = NULL;
static List *comments = NIL;
static char *comments_server = NULL;

/* Reads the options of the command. */
static ImportOptions
read_options(const ImportForeignSchemaStmt *stmt)
{
	ImportOptions options = {NULL, DEFAULT_SAMPLE};
	ListCell   *cell;

	foreach(cell, stmt->options)
	{
		DefElem    *option = lfirst(cell);
		const char *value = defGetString(option);

		if (strcmp(option->defname, "format") == 0)
		{
			if (strcmp(value, "json") == 0 || strcmp(value, "debezium") == 0 || strcmp(value, "raw") == 0)
				options.format = value;
			else if (strcmp(value, "auto") != 0)
				ereport(ERROR,
						(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
						 errmsg("invalid value for option \"%s\": \"%s\"", "format", value),
						 errdetail("It must be auto, json, debezium, or raw.")));
		}
		else if (strcmp(option->defname, "sample") == 0)
		{
			char	   *end;
			long		number = strtol(value, &end, 10);

			if (*end != '\0' || end == value || number < 1 || number > MAX_SAMPLE)
				ereport(ERROR,
						(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
						 errmsg("invalid value for option \"%s\": \"%s\"", "sample", value),
						 errdetail("It must be a number of messages from 1 to %d.", MAX_SAMPLE)));
			options.sample = (int) number;
		}
		else
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("invalid option \"%s\"", option->defname),
					 errhint("Options of IMPORT FOREIGN SCHEMA are: format, sample.")));
	}
	return options;
}

/* Is the table named in LIMIT TO? */
static bool
is_named(const ImportForeignSchemaStmt *stmt, const char *table)
{
	ListCell   *cell;

	if (stmt->list_type != FDW_IMPORT_SCHEMA_LIMIT_TO)
		return false;
	foreach(cell, stmt->table_list)
		if (strcmp(((RangeVar *) lfirst(cell))->relname, table) == 0)
			return true;
	return false;
}

/* Orders topics by name. */
static int
compare_topics(const ListCell *a, const ListCell *b)
{
	return strcmp(((Import *) lfirst(a))->topic, ((Import *) lfirst(b))->topic);
}

/* ERROR for a table in LIMIT TO that no topic is. */
static void
check_named(const ImportForeignSchemaStmt *stmt, List *imports)
{
	ListCell   *cell;

	if (stmt->list_type != FDW_IMPORT_SCHEMA_LIMIT_TO)
		return;
	foreach(cell, stmt->table_list)
	{
		const char *name = ((RangeVar *) lfirst(cell))->relname;
		ListCell   *found;
		bool		exists = false;

		foreach(found, imports)
			exists |= strcmp(((Import *) lfirst(found))->table, name) == 0;
		if (!exists)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("there is no topic for table \"%s\" in \"%s\" on Kafka server \"%s\"",
							name, stmt->remote_schema, stmt->server_name)));
	}
}

/* Returns the topics that the command is about. ERROR if it names what is not there. */
static List *
find_topics(const ImportForeignSchemaStmt *stmt, KsAdmin *admin)
{
	const rd_kafka_metadata_t *metadata = ks_admin_metadata(admin, NULL);
	const char *prefix = strcmp(stmt->remote_schema, ALL_TOPICS) == 0 ? "" : psprintf("%s.", stmt->remote_schema);
	List	   *imports = NIL;
	bool		any = prefix[0] == '\0';

	for (int i = 0; i < metadata->topic_cnt; i++)
	{
		const char *topic = metadata->topics[i].topic;
		const char *table = topic + strlen(prefix);
		Import	   *import;

		if (strncmp(topic, prefix, strlen(prefix)) != 0 || table[0] == '\0')
			continue;
		any = true;
		if (!IsImportableForeignTable(table, unconstify(ImportForeignSchemaStmt *, stmt)) ||
			(strncmp(topic, "__", 2) == 0 && !is_named(stmt, table)))
			continue;
		if (metadata->topics[i].err)
		{
			ereport(WARNING,
					(errmsg("topic \"%s\" is not imported: %s", topic, rd_kafka_err2str(metadata->topics[i].err))));
			continue;
		}
		if (strlen(table) >= NAMEDATALEN)
		{
			ereport(WARNING,
					(errmsg("topic \"%s\" is not imported: its name is too long for a table's", topic),
					 errhint("Make the foreign table yourself, with option topic; or import a schema whose name is the beginning of the topic's.")));
			continue;
		}
		import = palloc(sizeof(Import));
		import->topic = pstrdup(topic);
		import->table = pstrdup(table);
		imports = lappend(imports, import);
	}
	if (!any)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_SCHEMA_NOT_FOUND),
				 errmsg("no topic on Kafka server \"%s\" has a name that begins with \"%s\"", stmt->server_name, prefix),
				 errhint("Import from \"%s\" for all topics under their whole names.", ALL_TOPICS)));
	check_named(stmt, imports);
	list_sort(imports, compare_topics);
	return imports;
}

/* Reads the last messages of a topic. */
static void
take_sample(KsServer *server, const char *topic, int sample, KsGuess *guess, int *partitions)
{
	KsTopicReader *reader = ks_topic_reader_create(server, topic, false, sample);
	KsBounds	bounds;
	KsMessage	message;

	ks_bounds_all(&bounds);
	bounds.last = sample;
	ks_topic_reader_start(reader, &bounds);
	while (ks_topic_reader_next(reader, &message))
		ks_guess_message(guess, &message);
	*partitions = reader->nranges;
	ks_topic_reader_close(reader);
}

/* Can a name (in UTF-8) be written in the server's encoding? */
static bool
has_equivalent(const char *utf8)
{
	int			encoding = GetDatabaseEncoding();
	int			size = strlen(utf8);
	Oid			conversion;
	unsigned char *copy;
	int			capacity = size * MAX_CONVERSION_GROWTH + 2;

	if (!pg_verify_mbstr(PG_UTF8, utf8, size, true))
		return false;
	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return true;
	conversion = FindDefaultConversionProc(PG_UTF8, encoding);
	if (!OidIsValid(conversion))
		return false;
	copy = palloc(capacity);
	return pg_do_encoding_conversion_buf(conversion, PG_UTF8, encoding, (unsigned char *) unconstify(char *, utf8), size,
										 copy, capacity, true) == size;
}

/* A name for messages in any encoding: other characters than ASCII's are question marks. */
static char *
ascii_name(const char *utf8)
{
	StringInfoData text;

	initStringInfo(&text);
	for (const char *p = utf8; *p != '\0'; p++)
		if (!IS_HIGHBIT_SET(*p))
			appendStringInfoChar(&text, *p);
		else if ((*p & 0xC0) == 0xC0)	/* the first byte of a character */
			appendStringInfoChar(&text, '?');
	return text.data;
}

/* Leaves out fields whose name a column cannot have, with a WARNING, and keys of such fields. */
static void
drop_unwritable(const Import *import, KsGuess *guess)
{
	List	   *kept = NIL;
	ListCell   *cell;

	foreach(cell, guess->fields)
	{
		const char *name = ((KsGuessedField *) lfirst(cell))->name;

		if (has_equivalent(name))
			kept = lappend(kept, lfirst(cell));
		else
			ereport(WARNING,
					(errmsg("field \"%s\" of topic \"%s\" is left out: its name cannot be written in encoding %s",
							ascii_name(name), import->topic, GetDatabaseEncodingName())));
	}
	guess->fields = kept;
	foreach(cell, guess->key_fields)
		if (!has_equivalent(lfirst(cell)))
		{
			guess->key_fields = NIL;
			break;
		}
}

/* A name in the server's encoding, short enough. */
static char *
column_name(const char *utf8)
{
	char	   *name = pstrdup(pg_any_to_server(utf8, strlen(utf8), PG_UTF8));

	truncate_identifier(name, strlen(name), false);
	return name;
}

/* Is the name one of the list? */
static bool
is_taken(List *names, const char *name)
{
	ListCell   *cell;

	foreach(cell, names)
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	return false;
}

/* Can a column have the name? */
static bool
is_free(List *names, const char *name)
{
	return !is_taken(names, name) && SystemAttributeByName(name) == NULL;
}

/* Begins a column's definition. */
static void
put_column(StringInfo out, List **names, const char *name, const char *type)
{
	appendStringInfo(out, "%s\n    %s %s", *names ? "," : "", quote_identifier(name), type);
	*names = lappend(*names, pstrdup(name));
}

/* Adds a column for what Kafka knows of a message, under a name that no field has. */
static void
put_meta(StringInfo out, List **names, const KsGuess *guess, const char *meta, const char *type)
{
	char	   *name = pstrdup(meta);
	bool		taken = true;

	while (taken)
	{
		ListCell   *cell;

		taken = false;
		foreach(cell, guess->fields)
			taken |= strcmp(column_name(((KsGuessedField *) lfirst(cell))->name), name) == 0;
		if (taken)
			name = psprintf("_%s", name);
	}
	put_column(out, names, name, type);
	appendStringInfo(out, " OPTIONS (meta %s)", quote_literal_cstr(meta));
}

/* Adds a column for a field. */
static void
put_field(StringInfo out, List **names, const KsGuessedField *field)
{
	char	   *whole = pg_any_to_server(field->name, strlen(field->name), PG_UTF8);
	char	   *name = column_name(field->name);

	for (int n = 2; !is_free(*names, name); n++)
	{
		char	   *suffix = psprintf("_%d", n);

		name = column_name(field->name);
		name[pg_mbcliplen(name, strlen(name), NAMEDATALEN - 1 - strlen(suffix))] = '\0';
		name = psprintf("%s%s", name, suffix);
	}
	put_column(out, names, name, field->type);
	if (strcmp(name, whole) != 0)
	{
		StringInfoData path;

		initStringInfo(&path);
		escape_json(&path, whole);
		appendStringInfo(out, " OPTIONS (path %s)", quote_literal_cstr(path.data));
	}
}

/* Appends the columns. */
static void
put_columns(StringInfo out, const KsGuess *guess)
{
	List	   *names = NIL;
	ListCell   *cell;
	bool		object_keys = guess->keys > 0 && guess->object_keys == guess->keys;

	put_meta(out, &names, guess, "partition", "integer");
	put_meta(out, &names, guess, "offset", "bigint");
	put_meta(out, &names, guess, "timestamp", "timestamp with time zone");
	put_meta(out, &names, guess, "key", object_keys ? "jsonb" : guess->text_keys == guess->keys ? "text" : "bytea");
	if (strcmp(guess->format, "debezium") == 0)
		put_meta(out, &names, guess, "op", "text");
	if (strcmp(guess->format, "raw") == 0)
		put_meta(out, &names, guess, "value", guess->texts == guess->values ? "text" : "bytea");
	foreach(cell, guess->fields)
		put_field(out, &names, lfirst(cell));
}

/* Appends option "key", where keys are made of columns of the value. */
static void
put_key(StringInfo out, const KsGuess *guess)
{
	StringInfoData list;
	ListCell   *cell;

	if (guess->key_fields == NIL)
		return;
	initStringInfo(&list);
	foreach(cell, guess->key_fields)
	{
		char	   *name = column_name(lfirst(cell));

		if (strcmp(name, pg_any_to_server(lfirst(cell), strlen(lfirst(cell)), PG_UTF8)) != 0 ||
			SystemAttributeByName(name) != NULL)
			return;				/* a name that was changed is not worth a guess */
		appendStringInfo(&list, "%s%s", list.len ? ", " : "", quote_identifier(name));
	}
	appendStringInfo(out, ", key %s", quote_literal_cstr(list.data));
}

/* Returns the command that makes the table. */
static char *
make_command(const ImportForeignSchemaStmt *stmt, const Import *import, const KsGuess *guess)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfo(&out, "CREATE FOREIGN TABLE %s (", quote_identifier(import->table));
	put_columns(&out, guess);
	appendStringInfo(&out, "\n) SERVER %s OPTIONS (topic %s, format %s", quote_identifier(stmt->server_name),
					 quote_literal_cstr(import->topic), quote_literal_cstr(guess->format));
	put_key(&out, guess);
	appendStringInfoChar(&out, ')');
	return out.data;
}

/* Notes what the table is to say of itself. */
static void
note_comment(const Import *import, const KsGuess *guess, int partitions)
{
	MemoryContext former = MemoryContextSwitchTo(comments_context);
	Comment    *comment = palloc(sizeof(Comment));
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "Topic %s with %d partition%s. ", import->topic, partitions, partitions == 1 ? "" : "s");
	if (guess->messages == 0)
		appendStringInfoString(&text, "It had no messages: the columns are a guess.");
	else
		appendStringInfo(&text, "Format %s and columns %s the last %d message%s%s.", guess->format,
						 guess->schemas && strcmp(guess->format, "debezium") == 0 ? "from the schemas of" : "guessed from",
						 guess->messages, guess->messages == 1 ? "" : "s",
						 guess->too_many ? "; members beyond the first 500 were left out" : "");
	comment->table = pstrdup(import->table);
	comment->text = text.data;
	comments = lappend(comments, comment);
	MemoryContextSwitchTo(former);
}

/* Looks at a topic and returns the command for its table. */
static char *
import_topic(const ImportForeignSchemaStmt *stmt, KsServer *server, const Import *import, const ImportOptions *options)
{
	KsGuess    *guess = ks_guess_begin(options->format);
	char	   *volatile command = NULL;
	int			partitions;

	PG_TRY();
	{
		take_sample(server, import->topic, options->sample, guess, &partitions);
		ks_guess_end(guess);
		drop_unwritable(import, guess);
		command = make_command(stmt, import, guess);
		note_comment(import, guess, partitions);
	}
	PG_FINALLY();
	{
		ks_guess_free(guess);
	}
	PG_END_TRY();
	return command;
}

/* Is an error one of the topic alone: that it is gone, or not ours to read? */
static bool
is_of_topic(int sqlstate)
{
	return sqlstate == ERRCODE_UNDEFINED_OBJECT || sqlstate == ERRCODE_INSUFFICIENT_PRIVILEGE ||
		sqlstate == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
}

/* As import_topic; NULL, after a WARNING, for a topic that cannot be read, unless the command names it. */
static char *
try_topic(const ImportForeignSchemaStmt *stmt, KsServer *server, const Import *import, const ImportOptions *options)
{
	MemoryContext former = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext context;
	char	   *volatile command = NULL;

	if (is_named(stmt, import->table))
		return import_topic(stmt, server, import, options);
	/* the reader ends with it */
	context = AllocSetContextCreate(former, "pg_kafka_sync import of a topic", ALLOCSET_DEFAULT_SIZES);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		command = MemoryContextStrdup(former, import_topic(stmt, server, import, options));
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (!is_of_topic(error->sqlerrcode))
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("topic \"%s\" is not imported: %s", import->topic, error->message),
				 error->detail ? errdetail("%s", error->detail) : 0,
				 error->hint ? errhint("%s", error->hint) : 0));
	}
	PG_END_TRY();
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(former);
	MemoryContextDelete(context);
	return command;
}

/* Returns what find_topics does, with a connection of its own. */
static List *
topics_of_server(const ImportForeignSchemaStmt *stmt, const KsServer *server)
{
	KsAdmin    *admin = ks_admin_connect(server, "read_committed");
	List	   *volatile imports = NIL;

	PG_TRY();
	{
		imports = find_topics(stmt, admin);
	}
	PG_FINALLY();
	{
		ks_admin_close(admin);
	}
	PG_END_TRY();
	return imports;
}

/* ImportForeignSchema of the wrapper: returns CREATE FOREIGN TABLE commands. */
List *
ks_topic_import(ImportForeignSchemaStmt *stmt, Oid serverid)
{
	ImportOptions options = read_options(stmt);
	KsServer   *server = ks_server_of_table(serverid, GetUserId());
	List	   *commands = NIL;
	ListCell   *cell;

	if (comments_context == NULL)
		comments_context = AllocSetContextCreate(TopMemoryContext, "pg_kafka_sync import", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(comments_context);
	comments = NIL;
	comments_server = MemoryContextStrdup(comments_context, stmt->server_name);
	foreach(cell, topics_of_server(stmt, server))
	{
		char	   *command;

		CHECK_FOR_INTERRUPTS();
		command = try_topic(stmt, server, lfirst(cell), &options);
		if (command)
			commands = lappend(commands, command);
	}
	return commands;
}

/* When an IMPORT FOREIGN SCHEMA is done: makes the comments of its tables. */
static void
import_done(ImportForeignSchemaStmt *stmt)
{
	List	   *todo = comments;
	ListCell   *cell;

	comments = NIL;
	/* some may be left of a command that failed */
	if (todo == NIL || strcmp(stmt->server_name, comments_server) != 0)
		return;
	CommandCounterIncrement();
	foreach(cell, todo)
	{
		Comment    *comment = lfirst(cell);
		Oid			relid = RangeVarGetRelid(makeRangeVar(stmt->local_schema, comment->table, -1), NoLock, true);

		if (OidIsValid(relid))
			CreateComments(relid, RelationRelationId, 0, comment->text);
	}
	MemoryContextReset(comments_context);
}

void
ks_topic_import_init(void)
{
	ks_import_done_hook = import_done;
}
