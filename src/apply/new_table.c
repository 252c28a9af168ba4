/*
 * new_table.c: see new_table.h.
 *
 * Format debezium: one event tells all columns.  Elsewhere a null tells nothing, so all messages at hand are asked; what is
 * null in all of them is left out.
 */
#include "postgres.h"

#include "access/xact.h"
#include "apply/apply_internal.h"
#include "apply/connect_schema.h"
#include "apply/connect_types.h"
#include "apply/decode.h"
#include "apply/format_options.h"
#include "apply/new_column.h"
#include "apply/new_table.h"
#include "catalog/namespace.h"
#include "compat/pg_compat.h"
#include "control/create_target.h"
#include "control/definitions.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

typedef struct NewTable
{
	const KsSubscription *subscription;
	const KsMessage *message;	/* that is being read */
	bool		debezium;
	int			rows;			/* that were read */
	char	   *schema;
	char	   *name;
	List	   *columns;		/* KsNewColumn */
	List	   *key;			/* names */
	bool		key_unnamed;	/* the message key is a bare value */
} NewTable;

/* ERROR: the message at hand does not tell what the table must be. */
static void
cannot(const NewTable *t, int code, const char *cause, const char *hint)
{
	ereport(ERROR,
			(errcode(code),
			 errmsg("subscription \"%s\": the target cannot be made from the message at topic \"%s\", partition %d, offset " INT64_FORMAT ": %s",
					NameStr(t->subscription->name), t->message->topic, t->message->partition, t->message->offset, cause),
			 errhint("%s", hint)));
}

/* The column of a name, NULL if there is none. */
static const KsNewColumn *
find_column(const NewTable *t, const char *name)
{
	ListCell   *lc;

	foreach(lc, t->columns)
		if (strcmp(((KsNewColumn *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	return NULL;
}

/* Adds columns for those fields of a row or key that have none yet. */
static void
add_columns(NewTable *t, const KsFieldList *fields, const char *schema_text, size_t schema_size)
{
	List	   *schema = schema_text ? ks_connect_columns(schema_text, schema_size) : NIL;

	for (int i = 0; i < fields->count; i++)
	{
		const KsField *field = &fields->fields[i];
		KsNewColumn *column = palloc(sizeof(KsNewColumn));

		if (field->optional)
			continue;
		switch (ks_new_column(t->subscription, t->message->topic, schema, field, t->debezium, column))
		{
			case KS_NEW_COLUMN:
				if (find_column(t, column->name) == NULL)
					t->columns = lappend(t->columns, column);
				break;
			case KS_NEW_NOTHING:
				break;
			case KS_NEW_REFUSED:
				if (t->subscription->options->bool_value[KS_OPT_IGNORE_UNKNOWN])
					break;
				cannot(t, ERRCODE_UNDEFINED_COLUMN, psprintf("column \"%s\": %s", column->name, column->why), column->hint);
		}
	}
}

/* Takes the names of the message key's fields for the table's key. */
static void
read_key(NewTable *t, const KsParsed *parsed)
{
	const KsFieldList *key = &parsed->key;

	for (int i = 0; key->present && i < key->count; i++)
	{
		int			size;
		char	   *name = ks_decode_string(pnstrdup(key->fields[i].name, key->fields[i].name_size), key->fields[i].name_size,
											&size);

		if (size == 0)
			t->key_unnamed = true;
		else
			t->key = lappend(t->key, name);
	}
	if (key->present && !t->key_unnamed)
		add_columns(t, key, parsed->key_schema, parsed->key_schema_size);
}

/* A string of the event's block "source", in the server's encoding; NULL if there is none. */
static char *
read_source(KsArena *arena, const KsMessage *m, const char *name)
{
	KsField		event = {.kind = KS_FIELD_OBJECT, .raw = m->value, .raw_size = m->value_size};
	KsField		payload = ks_schema_member(arena, &event, "payload");
	KsField		source = ks_schema_member(arena, payload.kind == KS_FIELD_OBJECT ? &payload : &event, "source");
	KsField		value;
	int			size;

	if (source.kind != KS_FIELD_OBJECT)
		return NULL;
	value = ks_schema_member(arena, &source, name);
	if (value.kind != KS_FIELD_STRING || value.size == 0 || value.has_nul)
		return NULL;
	return ks_decode_string(pnstrdup(value.data, value.size), value.size, &size);
}

/* Finds the table's name: that of the options, of the source's table, or the last part of the topic's. */
static void
read_name(NewTable *t)
{
	const KsOptions *options = t->subscription->options;
	const char *dot = strrchr(t->message->topic, '.');
	char	   *source_schema = NULL;
	char	   *source_table = NULL;

	ks_create_target_name(options, &t->schema, &t->name);
	if (t->debezium)
	{
		KsArena		arena = {0};

		source_schema = read_source(&arena, t->message, "schema");
		source_table = read_source(&arena, t->message, "table");
		ks_arena_free(&arena);
	}
	/* who names the table has it where he makes tables */
	if (t->schema == NULL && t->name == NULL && source_schema && OidIsValid(get_namespace_oid(source_schema, true)))
		t->schema = source_schema;
	if (t->schema == NULL)
		t->schema = options->text_value[KS_OPT_CREATE_TARGET_SCHEMA];
	if (t->schema == NULL)
		cannot(t, ERRCODE_UNDEFINED_SCHEMA, "it names no schema that exists", "Name the table in option \"create_target.name\".");
	if (t->name == NULL)
		t->name = source_table ? source_table : pstrdup(dot && dot[1] ? dot + 1 : t->message->topic);
	if (strlen(t->name) >= NAMEDATALEN)
		cannot(t, ERRCODE_NAME_TOO_LONG, psprintf("table name \"%s\" is longer than %d bytes", t->name, NAMEDATALEN - 1),
			   "Name the table in option \"create_target.name\".");
}

/* Reads one message that was parsed. */
static void
read_message(NewTable *t, const KsParserOps *ops, KsParser *parser, KsParsed *parsed)
{
	bool		first = t->rows == 0;
	const char *cause;

	if (first)
	{
		read_name(t);
		t->key = ks_create_target_key(t->subscription->options);
	}
	for (;;)
	{
		if (parsed->after.present)
			add_columns(t, &parsed->after, parsed->schema, parsed->schema_size);
		t->rows++;
		if (!parsed->more)
			break;
		cause = ops->next(parser, parsed);
		if (cause)
			cannot(t, ERRCODE_INVALID_TEXT_REPRESENTATION, cause, "Skip the message with kafka.seek_subscription.");
	}
	if (first && t->key == NIL && strcmp(t->subscription->options->text_value[KS_OPT_CREATE_TARGET_MODE], "upsert") == 0)
		read_key(t, parsed);
}

/* ERROR unless the table's key is known, and its columns are. */
static void
check_key(const NewTable *t)
{
	ListCell   *lc;

	if (strcmp(t->subscription->options->text_value[KS_OPT_CREATE_TARGET_MODE], "upsert") != 0)
		return;
	if (t->key == NIL)
		cannot(t, ERRCODE_INVALID_COLUMN_REFERENCE,
			   t->key_unnamed ? "its key is a bare value: it names no column" : "it has no key",
			   "Name the key's columns in option \"create_target.key\", or set \"create_target.mode\" to append.");
	foreach(lc, t->key)
		if (find_column(t, lfirst(lc)) == NULL)
			cannot(t, ERRCODE_UNDEFINED_COLUMN, psprintf("it has no value for key column \"%s\"", (char *) lfirst(lc)),
				   "Name its type in option \"column_types\", or other columns in option \"create_target.key\".");
}

/* Asks the messages.  False: none tells. */
static bool
read_messages(NewTable *t, const KsMessage *messages, int count)
{
	const KsParserOps *ops = ks_parser_ops(t->subscription->format);
	KsParser   *parser = ks_parser_create(ops, t->subscription->options);
	KsParsed	parsed = {0};
	const KsMessage *told = NULL;

	/* an ERROR ends the process, and what the parser took with it */
	for (int i = 0; i < count && !(t->debezium && t->rows > 0); i++)
	{
		const char *cause;

		t->message = &messages[i];
		ops->reset(parser);
		cause = ops->parse(parser, t->message, &parsed);
		if (cause && strcmp(t->subscription->on_error, "stop") == 0 && t->rows == 0)
			cannot(t, ERRCODE_INVALID_TEXT_REPRESENTATION, cause, "Skip the message with kafka.seek_subscription.");
		if (cause || parsed.ignore || parsed.op == 'm' || parsed.op == 't' || !parsed.after.present || parsed.after.count == 0)
			continue;
		read_message(t, ops, parser, &parsed);
		told = told ? told : t->message;
	}
	ks_parsed_free(&parsed);
	ops->destroy(parser);
	t->message = told;
	return told != NULL;
}

/* The command. */
static char *
command_for(const NewTable *t)
{
	StringInfoData out;
	ListCell   *lc;

	initStringInfo(&out);
	appendStringInfo(&out, "CREATE TABLE %s (", quote_qualified_identifier(t->schema, t->name));
	foreach(lc, t->columns)
		appendStringInfo(&out, "%s%s", foreach_current_index(lc) ? ", " : "", ks_new_column_definition(lfirst(lc)));
	if (t->key && strcmp(t->subscription->options->text_value[KS_OPT_CREATE_TARGET_MODE], "upsert") == 0)
	{
		appendStringInfoString(&out, ", PRIMARY KEY (");
		foreach(lc, t->key)
			appendStringInfo(&out, "%s%s", foreach_current_index(lc) ? ", " : "", quote_identifier(lfirst(lc)));
		appendStringInfoChar(&out, ')');
	}
	appendStringInfoChar(&out, ')');
	return out.data;
}

/* Runs the command as the subscription's owner.  Returns the table. */
static Oid
create_table(const NewTable *t)
{
	Oid			save_user;
	int			save_context;
	int			nest_level;
	Oid			relid;
	char	   *command = command_for(t);

	ks_create_target_check_place(t->schema, t->name, t->subscription->owner);
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(t->subscription->owner, save_context | SECURITY_RESTRICTED_OPERATION);
	nest_level = NewGUCNestLevel();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not run: %s", command);
	SPI_finish();
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(save_user, save_context);
	CommandCounterIncrement();
	relid = get_relname_relid(t->name, get_namespace_oid(t->schema, false));
	if (!OidIsValid(relid))
		elog(ERROR, "table %s was not made", quote_qualified_identifier(t->schema, t->name));
	return relid;
}

/* See new_table.h. */
KsNewTableResult
ks_new_table_make(const KsSubscription *s, const KsMessage *messages, int count)
{
	NewTable	t = {.subscription = s, .debezium = strcmp(s->format, "debezium") == 0};
	MemoryContext old = CurrentMemoryContext;
	char	   *name;

	ks_apply_begin();
	/* who changes the definition waits for us, or we see what he did */
	ks_subscription_lock(s->id, true);
	if (ks_subscription_version(s->id) != s->version)
	{
		AbortCurrentTransaction();
		MemoryContextSwitchTo(old);
		return KS_TABLE_MOVED;
	}
	if (!read_messages(&t, messages, count))
	{
		AbortCurrentTransaction();
		MemoryContextSwitchTo(old);
		return KS_TABLE_NONE;
	}
	check_key(&t);
	ks_create_target_store(s, create_table(&t));
	name = MemoryContextStrdup(old, quote_qualified_identifier(t.schema, t.name));
	ks_apply_commit();
	MemoryContextSwitchTo(old);
	ereport(LOG,
			(errmsg("subscription \"%s\": created table %s as its target", NameStr(s->name), name),
			 errhidestmt(true)));
	return KS_TABLE_MADE;
}
