/*
 * source.c: the definition in force; see source.h.
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "decode/source.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#define MAX_TOPIC_LENGTH 249

/*
 * The options of a definition.  One older than that which the worker began with may have a key that has been removed
 * from the extension, and from the definition, since: it can mean nothing any more, and nobody could mend it in WAL.
 */
static const KsOptions *
definition_options(const KsSource *source, const KsPublisher *definition)
{
	KsOptions  *options;
	List	   *unknown;
	ListCell   *lc;

	if (definition->options_json == NULL)
		return definition->options;
	if (definition->version >= source->fallback->version)
		return ks_options_parse(KS_PUBLISHER, definition->format, definition->options_json, InvalidOid);
	options = ks_options_parse_old(KS_PUBLISHER, definition->format, definition->options_json, &unknown);
	foreach(lc, unknown)
		ereport(LOG,
				(errmsg("publisher \"%s\": option \"%s\" is ignored, which a former definition has that WAL still refers to",
						NameStr(definition->name), (char *) lfirst(lc)),
				 errdetail("This version of the extension does not know it.")));
	return options;
}

/* Takes over a definition: everything made with the former one is freed. */
static void
install_definition(KsSource *source, const KsPublisher *definition)
{
	MemoryContext old;
	KsEncoderConfig config;
	const KsEncoderOps *ops = ks_encoder_ops(definition->format);

	if (ops == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("format \"%s\" of publisher \"%s\" is not supported", definition->format,
						NameStr(definition->name))));
	if (source->definition_context)
		MemoryContextDelete(source->definition_context);
	source->definition_context = AllocSetContextCreate(source->context, "publisher definition", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(source->definition_context);
	source->publication = pstrdup(NameStr(definition->publication));
	source->topic_prefix = pstrdup(definition->topic_prefix);
	source->options = definition_options(source, definition);
	source->version = definition->version;

	memset(&config, 0, sizeof(config));
	config.publisher = pstrdup(NameStr(definition->name));
	config.publisher_id = (uint64) definition->id;
	config.topic_prefix = source->topic_prefix;
	config.database = get_database_name(MyDatabaseId);
	config.options = source->options;
	source->encoder = ops->create(&config);
	source->encoder->ops = ops;
	MemoryContextSwitchTo(old);
	source->generation++;
}

KsSource *
ks_source_create(const KsPublisher *fallback)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "publisher source", ALLOCSET_DEFAULT_SIZES);
	KsSource   *source = MemoryContextAllocZero(context, sizeof(KsSource));

	source->context = context;
	source->publisher_id = fallback->id;
	source->fallback = fallback;
	return source;
}

bool
ks_source_refresh(KsSource *source)
{
	const KsPublisher *definition = NULL;

	if (source->valid)
		return false;
	if (source->publisher_id != 0)
	{
		source->catalog_relid = ks_catalog_relid("publisher");
		if (OidIsValid(source->catalog_relid))
			definition = ks_publisher_row(source->publisher_id);
	}
	if (definition == NULL)
		definition = source->fallback;
	source->valid = true;
	if (source->definition_context != NULL && definition->version == source->version)
		return false;
	install_definition(source, definition);
	return true;
}

bool
ks_snapshot_sees(const KsTableSnapshot *snapshot, uint64 full_xid)
{
	int			low = 0;
	int			high = snapshot->nxip;

	if (full_xid < snapshot->xmin)
		return true;
	if (full_xid >= snapshot->xmax)
		return false;
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (snapshot->xip[middle] == full_xid)
			return false;
		if (snapshot->xip[middle] < full_xid)
			low = middle + 1;
		else
			high = middle;
	}
	return true;
}

const KsTableSnapshot *
ks_source_snapshot(const KsSource *source, Oid relid)
{
	for (int i = 0; i < source->nsnapshots; i++)
		if (source->snapshots[i].relid == relid)
			return &source->snapshots[i];
	return NULL;
}

/* Appends text with every character that Kafka does not allow in a topic's name replaced by '_'. */
static void
append_sanitised(StringInfo out, const char *text)
{
	while (*text)
	{
		char		c = *text;

		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
			c == '.' || c == '_' || c == '-')
			appendStringInfoChar(out, c);
		else
			appendStringInfoChar(out, '_');
		text += Min(strlen(text), (Size) pg_encoding_mblen(GetDatabaseEncoding(), text));
	}
}

void
ks_source_topic(const KsSource *source, const char *schema, const char *table,
				const KsPublisherRelation *setting, StringInfo out)
{
	if (setting != NULL && setting->topic != NULL)
		appendStringInfoString(out, setting->topic);
	else
	{
		append_sanitised(out, source->topic_prefix);
		appendStringInfoChar(out, '.');
		append_sanitised(out, schema);
		appendStringInfoChar(out, '.');
		append_sanitised(out, table);
	}
	if (out->len > MAX_TOPIC_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("topic name of table \"%s.%s\" is longer than %d characters", schema, table, MAX_TOPIC_LENGTH),
				 errdetail("The name would be \"%s\".", out->data),
				 errhint("Give the table a topic of its own with kafka.set_topic().")));
}
