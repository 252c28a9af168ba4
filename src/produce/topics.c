/*
 * topics.c: preparing a publisher's topics; see topics.h.
 *
 * Three steps, because no transaction is held across Kafka's answers: look at the catalogs, talk to Kafka, pin.
 */
#include "postgres.h"

#include "access/xact.h"
#include "control/worker.h"
#include "decode/publication.h"
#include "decode/relation_cache.h"
#include "kafka/admin.h"
#include "produce/problems.h"
#include "produce/publisher_catalog.h"
#include "produce/topics.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#define SPREAD_TRIES 100
#define SPREAD_PAUSE_MS 50

typedef struct BookEntry
{
	char		topic[KS_TOPIC_SIZE];
	int32		partitions;
} BookEntry;

struct KsTopicBook
{
	HTAB	   *entries;
};

/* A topic that is needed. */
typedef struct Wanted
{
	char	   *topic;
	char	   *table;			/* for messages */
	bool		keyed;
	bool		explicit_topic;
	int32		pinned;			/* 0 = not yet */
	int32		found;			/* partitions that Kafka has, 0 = no such topic */
} Wanted;

KsTopicBook *
ks_topic_book_create(void)
{
	KsTopicBook *book = palloc(sizeof(KsTopicBook));
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = KS_TOPIC_SIZE;
	ctl.entrysize = sizeof(BookEntry);
	ctl.hcxt = CurrentMemoryContext;
	book->entries = hash_create("pinned topics", 64, &ctl, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	return book;
}

int32
ks_topic_book_partitions(void *book, const char *topic)
{
	BookEntry  *entry = hash_search(((KsTopicBook *) book)->entries, topic, HASH_FIND, NULL);

	return entry ? entry->partitions : 0;
}

/* Writes a pinned count into the book. */
static void
book_topic(KsTopicBook *book, const char *topic, int32 partitions)
{
	BookEntry  *entry = hash_search(book->entries, topic, HASH_ENTER, NULL);

	entry->partitions = partitions;
}

/* Adds a topic to the list, or to what is known of it there. ERROR if two tables meet in it by accident. */
static List *
add_wanted(List *wanted, const char *topic, const char *table, bool keyed, bool explicit_topic)
{
	ListCell   *lc;
	Wanted	   *w;

	foreach(lc, wanted)
	{
		w = lfirst(lc);
		if (strcmp(w->topic, topic) != 0)
			continue;
		if (table != NULL && w->table != NULL && strcmp(table, w->table) != 0 &&
			!(explicit_topic && w->explicit_topic))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("tables \"%s\" and \"%s\" would both be published to topic \"%s\"", w->table, table, topic),
					 errhint("Give both tables that topic, or each its own, with kafka.set_topic().")));
		w->keyed = w->keyed && keyed;
		return wanted;
	}
	w = palloc0(sizeof(Wanted));
	w->topic = pstrdup(topic);
	w->table = table ? pstrdup(table) : NULL;
	w->keyed = keyed;
	w->explicit_topic = explicit_topic;
	return lappend(wanted, w);
}

/*
 * Can an update of this table leave a value out that compaction then loses?  So it is where values are stored out of
 * line, and the old row does not carry them.
 */
static bool
loses_toast(const KsEntry *entry, Relation table)
{
	Relation	toast;
	bool		used;

	if (entry->rel->nkeys == 0 || entry->rel->identity_full || !entry->update ||
		!OidIsValid(table->rd_rel->reltoastrelid))
		return false;
	toast = RelationIdGetRelation(table->rd_rel->reltoastrelid);
	if (!RelationIsValid(toast))
		return false;
	used = RelationGetNumberOfBlocks(toast) > 0;
	RelationClose(toast);
	return used;
}

/* Shows the first table that can lose values in its compacted topic, and how many there are. */
static void
show_toast(const char *table, int count)
{
	char		text[KS_DETAIL_SIZE];

	if (count > 0)
		snprintf(text, sizeof(text), "%d table%s with large values, such as %s, without REPLICA IDENTITY FULL: "
				 "an update of other columns leaves them out, and compaction can lose them", count,
				 count == 1 ? "" : "s", table);
	ks_worker_set_problem(KS_PROBLEM_TOAST, count > 0 ? text : NULL);
}

/* Step 1: the topics of all tables published now, in "context". */
static List *
collect_wanted(KsSource *source, MemoryContext context)
{
	char	   *toasted = NULL;
	int			ntoasted = 0;
	MemoryContext old;
	List	   *tables;
	List	   *wanted = NIL;
	ListCell   *lc;
	bool		exists;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	source->valid = false;
	source->lsn = InvalidXLogRecPtr;
	(void) ks_source_refresh(source);
	/* a publication that is gone now may still be there where the stream is */
	tables = ks_publication_tables(source, &exists);
	foreach(lc, tables)
	{
		KsPublishedTable *table = lfirst(lc);
		Relation	leaf = RelationIdGetRelation(linitial_oid(table->leaves));
		KsEntry		entry;

		if (!RelationIsValid(leaf))
			continue;
		ks_entry_fill(source, leaf, true, &entry);
		if (entry.published && loses_toast(&entry, leaf) && ntoasted++ == 0)
			toasted = MemoryContextStrdup(context, psprintf("%s.%s", entry.rel->schema, entry.rel->table));
		RelationClose(leaf);
		/* a table that cannot be keyed is an ERROR only when it has something to publish */
		if (entry.published &&
			(entry.rel->nkeys > 0 || source->options->bool_value[KS_OPT_ALLOW_UNKEYED]))
		{
			old = MemoryContextSwitchTo(context);
			wanted = add_wanted(wanted, entry.rel->topic, psprintf("%s.%s", entry.rel->schema, entry.rel->table),
								entry.rel->nkeys > 0, entry.explicit_topic);
			MemoryContextSwitchTo(old);
		}
		MemoryContextDelete(entry.context);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();

	MemoryContextSwitchTo(context);
	show_toast(toasted, ntoasted);
	if (ks_my_worker->wanted_topic[0] != '\0')
		wanted = add_wanted(wanted, ks_my_worker->wanted_topic, NULL, ks_my_worker->wanted_keyed, true);
	return wanted;
}

/* Options of a request that the controller takes part in. */
static rd_kafka_AdminOptions_t *
create_options(KsAdmin *admin)
{
	rd_kafka_AdminOptions_t *options = ks_admin_options(admin, RD_KAFKA_ADMIN_OP_CREATETOPICS);
	char		reason[256];

	(void) rd_kafka_AdminOptions_set_operation_timeout(options, 30000, reason, sizeof(reason));
	return options;
}

/* Sets the configs of a new topic: cleanup.policy by its kind, and whatever the publisher's options say. */
static void
set_configs(KsAdmin *admin, rd_kafka_NewTopic_t *topic, const Wanted *w, const char *configs_json, const char *what)
{
	Jsonb	   *configs = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(configs_json)));
	JsonbIterator *it = JsonbIteratorInit(&configs->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;
	rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
	bool		policy_given = false;

	while (error == 0 && (token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE && name != NULL && value.type != jbvNull)
		{
			char	   *text;

			if (value.type == jbvString)
				text = pnstrdup(value.val.string.val, value.val.string.len);
			else if (value.type == jbvBool)
				text = pstrdup(value.val.boolean ? "true" : "false");
			else if (value.type == jbvNumeric)
				text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value.val.numeric)));
			else
				continue;
			error = rd_kafka_NewTopic_set_config(topic, name, text);
			policy_given = policy_given || strcmp(name, "cleanup.policy") == 0;
		}
	}
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR && !policy_given)
		error = rd_kafka_NewTopic_set_config(topic, "cleanup.policy", w->keyed ? "compact" : "delete");
	if (error)
		ks_kafka_error(admin, error, NULL, what);
}

/* Makes a missing topic; one that somebody else made meanwhile is as good. */
static void
create_topic(KsAdmin *admin, const KsSource *source, Wanted *w)
{
	const KsOptions *options = source->options;
	char	   *what = psprintf("create topic \"%s\"", w->topic);
	char		reason[256] = "";
	int			partitions = w->pinned > 0 ? w->pinned : (int) options->int_value[KS_OPT_TOPIC_PARTITIONS];
	rd_kafka_NewTopic_t *topic;
	rd_kafka_event_t *event;
	const rd_kafka_topic_result_t **results;
	size_t		nresults;
	rd_kafka_resp_err_t error;

	if (w->pinned > 0)
		ereport(WARNING,
				(errmsg("topic \"%s\" of publisher has disappeared and is made again", w->topic),
				 errdetail("What it held is not published again.")));
	topic = rd_kafka_NewTopic_new(w->topic, partitions, (int) options->int_value[KS_OPT_TOPIC_REPLICATION],
								  reason, sizeof(reason));
	if (topic == NULL)
		ks_kafka_error(admin, RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, reason, what);
	ks_admin_own(admin, topic, (KsDestroy) rd_kafka_NewTopic_destroy);
	set_configs(admin, topic, w, options->text_value[KS_OPT_TOPIC_CONFIG], what);
	rd_kafka_CreateTopics(admin->client->rk, &topic, 1, create_options(admin), ks_admin_queue(admin));
	event = ks_admin_wait(admin, RD_KAFKA_EVENT_CREATETOPICS_RESULT, what);
	results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &nresults);
	if (nresults != 1)
		elog(ERROR, "unexpected number of results from Kafka: %zu", nresults);
	error = rd_kafka_topic_result_error(results[0]);
	if (error != 0 && error != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
		ks_kafka_error(admin, error, rd_kafka_topic_result_error_string(results[0]), what);
}

/* Fills "found" of each topic; topics that are not there, or not known everywhere yet, are left at 0. */
static void
look_up(KsAdmin *admin, List *wanted)
{
	const rd_kafka_metadata_t *metadata = ks_admin_metadata(admin, NULL);
	ListCell   *lc;

	foreach(lc, wanted)
	{
		Wanted	   *w = lfirst(lc);

		w->found = 0;
		for (int i = 0; i < metadata->topic_cnt; i++)
			if (strcmp(metadata->topics[i].topic, w->topic) == 0 && metadata->topics[i].err == 0)
				w->found = metadata->topics[i].partition_cnt;
	}
}

/* Is any topic missing? Returns the first. */
static Wanted *
first_missing(List *wanted)
{
	ListCell   *lc;

	foreach(lc, wanted)
		if (((Wanted *) lfirst(lc))->found == 0)
			return lfirst(lc);
	return NULL;
}

/* ERROR for an existing topic that unkeyed messages cannot go to. */
static void
check_policy(KsAdmin *admin, const Wanted *w)
{
	static const char *const name = "cleanup.policy";
	const rd_kafka_ConfigResource_t *resource = ks_admin_configs(admin, (const char *const *) &w->topic, 1, &name, 1)[0];
	const rd_kafka_ConfigEntry_t **entries;
	size_t		nentries;

	if (resource == NULL || rd_kafka_ConfigResource_error(resource) != 0)
		return;					/* not ours to see: the broker will tell */
	entries = rd_kafka_ConfigResource_configs(resource, &nentries);
	for (size_t i = 0; i < nentries; i++)
	{
		const char *value = rd_kafka_ConfigEntry_value(entries[i]);

		if (strcmp(rd_kafka_ConfigEntry_name(entries[i]), name) == 0 && value != NULL && strstr(value, "compact"))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("table \"%s\" has no message key, but its topic \"%s\" is compacted",
							w->table ? w->table : "?", w->topic),
					 errhint("Give the table a key, another topic with kafka.set_topic(), or set the topic's "
							 "cleanup.policy to \"delete\".")));
	}
}

/*
 * Is every topic there, and known to be fit for its table?  That is the rule when a worker starts, and a connection of its
 * own for it would take half of the start's time.
 */
static bool
all_there(const KsServer *server, KsClient *client, List *wanted)
{
	KsAdmin    *admin = ks_admin_borrow(server, client);
	bool		there = true;
	ListCell   *lc;

	PG_TRY();
	{
		look_up(admin, wanted);
	}
	PG_FINALLY();
	{
		ks_admin_close(admin);
	}
	PG_END_TRY();
	foreach(lc, wanted)
	{
		Wanted	   *w = lfirst(lc);

		there = there && w->found > 0 && w->keyed;
	}
	return there;
}

/* Step 2: topics are made and looked at. */
static void
talk_to_kafka(const KsSource *source, const KsServer *server, List *wanted)
{
	KsAdmin    *admin = ks_admin_connect(server, "read_committed");
	ListCell   *lc;

	PG_TRY();
	{
		Wanted	   *missing;

		look_up(admin, wanted);
		foreach(lc, wanted)
		{
			Wanted	   *w = lfirst(lc);

			if (w->found == 0)
				create_topic(admin, source, w);
			else if (!w->keyed)
				check_policy(admin, w);
		}
		for (int tries = 0; first_missing(wanted) != NULL && tries < SPREAD_TRIES; tries++)
		{
			if (tries > 0)
				ks_admin_pause(admin, SPREAD_PAUSE_MS);
			look_up(admin, wanted);
		}
		missing = first_missing(wanted);
		if (missing)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_ERROR),
					 errmsg("topic \"%s\" does not appear on Kafka server \"%s\"", missing->topic, server->name)));
	}
	PG_FINALLY();
	{
		ks_admin_close(admin);
	}
	PG_END_TRY();
}

/* ERROR or a problem line for a topic whose partitions are not what they were. */
static void
check_partitions(const Wanted *w, StringInfo problem)
{
	if (w->pinned == 0 || w->found == w->pinned)
		return;
	if (w->found < w->pinned)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("topic \"%s\" has %d partitions, but began with %d", w->topic, w->found, w->pinned),
				 errdetail("It must have been dropped and made again; what it held is not published again."),
				 errhint("Drop the publisher and create it again with a snapshot.")));
	if (problem->len == 0)
		appendStringInfo(problem, "topic \"%s\" has %d partitions now; keys stay on the %d it began with",
						 w->topic, w->found, w->pinned);
}

void
ks_topics_prepare(KsTopicBook *book, const KsPublisher *publisher, KsSource *source, const KsServer *server,
				  KsClient *client)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "topics", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	List	   *wanted = collect_wanted(source, context);
	KsPinnedTopic *pinned;
	KsPinnedTopic *fresh;
	int			npinned;
	int			nfresh = 0;
	StringInfoData problem;
	ListCell   *lc;

	pinned = ks_load_pinned(publisher->id, context, &npinned);
	foreach(lc, wanted)
		for (int i = 0; i < npinned; i++)
			if (strcmp(((Wanted *) lfirst(lc))->topic, pinned[i].topic) == 0)
				((Wanted *) lfirst(lc))->pinned = pinned[i].partitions;
	for (int i = 0; i < npinned; i++)
		book_topic(book, pinned[i].topic, pinned[i].partitions);

	if (wanted != NIL && !all_there(server, client, wanted))
		talk_to_kafka(source, server, wanted);

	initStringInfo(&problem);
	fresh = palloc(sizeof(KsPinnedTopic) * Max(list_length(wanted), 1));
	foreach(lc, wanted)
	{
		Wanted	   *w = lfirst(lc);

		check_partitions(w, &problem);
		if (w->pinned == 0)
		{
			fresh[nfresh].topic = w->topic;
			fresh[nfresh++].partitions = w->found;
			book_topic(book, w->topic, w->found);
		}
	}
	ks_worker_set_problem(KS_PROBLEM_PARTITIONS, problem.len ? problem.data : NULL);
	if (nfresh > 0)
		ks_store_pinned(publisher->id, fresh, nfresh);
	ks_my_worker->wanted_topic[0] = '\0';
	/* what the stream reads next is not what was read now */
	source->valid = false;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
