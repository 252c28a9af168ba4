/*
 * moved_key.c: deletes that are one half of an update of the message key.
 *
 * Publishers, and Debezium, tell such an update as a delete of the old key, with the new one in a header, a tombstone, and a
 * create.  Where the target's key stays, since its columns are some of the message key's, or the same number with other zeros,
 * all of them are about one row; and with several partitions nobody knows which of them comes first.
 */
#include "postgres.h"

#include "apply/batch.h"
#include "apply/format_options.h"
#include "event/event.h"

#define NEW_KEY_HEADER "__debezium.newkey"

/* See batch.h. */
bool
ks_key_stays(KsBatch *b, const Datum *key)
{
	KsTargetTable *t = b->target;
	const KsSubscription *s = b->run->subscription;
	const KsParserOps *ops = ks_parser_ops(s->format);
	KsMessage	message = *b->message;
	Datum	   *values;
	const char *cause;
	int			known = 0;

	if (message.find_header == NULL)
		return false;
	message.key = message.find_header(b->message, NEW_KEY_HEADER, &message.key_size);
	message.value = NULL;
	message.value_size = 0;
	if (message.key == NULL)
		return false;
	if (b->key_parser == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(t->parent);

		b->key_parser = ks_parser_create(ops, s->options);
		b->key_parsed = palloc0(sizeof(KsParsed));
		MemoryContextSwitchTo(old);
	}
	ops->reset(b->key_parser);
	cause = ops->parse(b->key_parser, &message, b->key_parsed);
	if (cause)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("header %s is malformed: %s", NEW_KEY_HEADER, cause)));
	values = palloc(sizeof(Datum) * b->natts);
	ks_converter_use_schema(t->converter, b->key_parsed->key_schema, b->key_parsed->key_schema_size);
	for (int i = 0; b->key_parsed->key.present && i < b->key_parsed->key.count; i++)
	{
		KsColumnConverter *column = ks_converter_find(t->converter, &b->key_parsed->key.fields[i], i);
		int			index = column ? ks_column_index(column) : -1;
		bool		isnull;
		bool		missing = false;

		if (column == NULL || !t->columns[index].key)
			continue;
		ks_convert_field(column, &b->key_parsed->key.fields[i], &values[index], &isnull, &missing);
		known += !isnull && !missing;
	}
	return known == t->nkeys && ks_target_same_key(t, key, values);
}

/* See batch.h. */
void
ks_check_moved_key(KsBatch *b, const Datum *key)
{
	if (b->run->partitions > 1 && ks_key_stays(b, key))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the message key of a row has changed and the target's key has not, and several partitions are read: "
						"the order of the row's changes is not known"),
				 errhint("Publish the table to a topic of one partition, or with the target's key as message key "
						 "(kafka.set_topic(key)).")));
}
