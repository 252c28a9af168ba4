/*
 * topic_sink.c: see topic_sink.h.
 *
 * Rows become messages in memory when they are written, and are sent, in one Kafka transaction with the positions of what
 * they were made of, when all else that could refuse the local commit is done.  So a run that fails never reaches Kafka,
 * and a Kafka transaction is open for a moment only.  After a crash between the two commits the positions say which
 * messages the topic has.  The transactional id is that of target and worker: the first transaction of a worker ends what
 * a former one, or one that still runs though nobody knows, had begun, and what that sends later is refused.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "apply/local_sink.h"
#include "apply/progress.h"
#include "control/worker.h"
#include "fdw/topic_encode.h"
#include "fdw/topic_send.h"
#include "fdw/topic_sink.h"
#include "fdw/topic_target.h"
#include "kafka/admin.h"
#include "kafka/progress_topic.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define WAIT_NAME "KafkaTarget"
/* A transaction takes as long as sending a batch; another's open one holds up who reads positions for no longer. */
#define TRANSACTION_MS 60000
#define COMMIT_MS 10000
#define ABORT_MS 3000
#define CLUSTER_MS 5000
/* A run that makes more is halved. */
#define MAX_BYTES (64 * 1024 * 1024)

/* What outlives descriptions: target->sink_state.  One of a table, in this process. */
typedef struct TopicSink
{
	Oid			relid;
	KsProgress *progress;		/* of the target: what the topic has, of all workers */
	KsProgress *tried;			/* what this process has written, or tried to */
	MemoryContext context;		/* of messages; reset per run */
	KsTransactional *producer;	/* NULL: to be made */
	KsServer   *server;			/* of the producer; NULL: none was made */
	char	   *topic;
	int			count;
	int			capacity;
	KsOutgoing *messages;
	int		   *numbers;		/* message of the run that each was made of */
	Size		bytes;
	dlist_node	node;
} TopicSink;

/* What is made anew with the target's description: target->sink_description. */
typedef struct TopicDescription
{
	KsTopicTable *table;
	KsTopicEncoder *encoder;
	List	   *key;			/* attribute indexes; NIL: mode append */
	bool	   *left_out;		/* of the row at hand */
	bool	   *unchanged;
} TopicDescription;

static dlist_head sinks = DLIST_STATIC_INIT(sinks);	/* of this process */

/* Gives the producer up, and what it has not committed, as far as that can be done soon. */
static void
drop_producer(TopicSink *sink)
{
	KsTransactional *producer = sink->producer;

	if (producer == NULL)
		return;
	sink->producer = NULL;
	PG_TRY();
	{
		ks_transactional_abort(producer, ABORT_MS);
	}
	PG_CATCH();
	{
		/* a transaction that is not aborted ends by its timeout */
		FlushErrorState();
	}
	PG_END_TRY();
	ks_transactional_destroy(producer);
}

/*
 * The process ends, perhaps between begin and commit: what is open would hold up readers of committed messages until its
 * timeout.  No interrupt is served meanwhile.
 */
static void
abort_at_exit(int code, Datum arg)
{
	dlist_iter	iter;

	(void) code;
	(void) arg;
	dlist_foreach(iter, &sinks)
	{
		TopicSink  *sink = dlist_container(TopicSink, node, iter.cur);

		if (sink->producer && sink->producer->begun)
			drop_producer(sink);
	}
}

/* Returns the target's state, made if need be. */
static TopicSink *
sink_of(KsTargetTable *t)
{
	static bool registered = false;
	TopicSink  *sink = t->sink_state;
	MemoryContext old;
	dlist_iter	iter;

	if (sink)
		return sink;
	dlist_foreach(iter, &sinks)
	{
		sink = dlist_container(TopicSink, node, iter.cur);
		if (sink->relid != t->relid)
			continue;
		t->progress = sink->progress;
		return t->sink_state = sink;
	}
	if (!registered)
		before_shmem_exit(abort_at_exit, (Datum) 0);
	registered = true;
	old = MemoryContextSwitchTo(TopMemoryContext);
	sink = palloc0(sizeof(TopicSink));
	sink->context = AllocSetContextCreate(TopMemoryContext, "pg_kafka_sync messages", 64 * 1024, 1024 * 1024, 8 * 1024 * 1024);
	sink->relid = t->relid;
	t->progress = sink->progress = ks_progress_create();
	sink->tried = ks_progress_create();
	MemoryContextSwitchTo(old);
	dlist_push_tail(&sinks, &sink->node);
	return t->sink_state = sink;
}

/* Forgets the messages of the run. */
static void
clear(TopicSink *sink)
{
	MemoryContextReset(sink->context);
	sink->count = sink->capacity = 0;
	sink->messages = NULL;
	sink->numbers = NULL;
	sink->bytes = 0;
}

/* KsSinkOps.describe */
static void
describe(KsTargetTable *t)
{
	TopicDescription *d = palloc0(sizeof(TopicDescription));
	ListCell   *lc;
	bool		same;

	(void) sink_of(t);
	d->table = ks_topic_table(t->rel);
	d->key = ks_topic_target_key(d->table, t->rel, t->target->mode);
	d->encoder = ks_topic_encoder_create(d->table, RelationGetDescr(t->rel));
	d->left_out = palloc0(sizeof(bool) * Max(t->natts, 1));
	d->unchanged = palloc0(sizeof(bool) * Max(t->natts, 1));
	same = list_length(d->key) == t->nkeys;
	foreach(lc, d->key)
		same = same && t->columns[lfirst_int(lc)].key;
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" cannot write to foreign table %s: its message key is made of other columns now",
						t->subscription, t->qualified),
				 errhint("Set its option \"key\" back, or drop the target with kafka.drop_target and add it again.")));
	t->sink_description = d;
}

/* Does the producer send to where the table says now? */
static bool
producer_fits(const TopicSink *sink, const KsServer *server, const char *topic)
{
	if (sink->producer == NULL || strcmp(sink->topic, topic) != 0)
		return false;
	return ks_server_same(sink->server, server);
}

/* The beginning of the keys of a target's records in the progress topic. */
static char *
record_prefix(const KsTargetTable *t, const KsRun *run)
{
	return psprintf("[\"subscription\",\"" UINT64_FORMAT "\",%u," INT64_FORMAT ",%u,", GetSystemIdentifier(),
					MyDatabaseId, run->subscription->id, t->relid);
}

/* Key of the record of a partition, or of its dead letters. */
static char *
position_key(const char *prefix, const KsProgressItem *item)
{
	return psprintf("%s\"position\",\"%s\",%d]", prefix, item->topic, item->partition);
}

/* ERROR: somebody else has written for us. */
pg_noreturn static void
other_writer(const KsTargetTable *t, const TopicSink *sink, const char *topic, int32 partition)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("target %s of subscription \"%s\" is written by another server too", t->qualified, t->subscription),
			 errdetail("Topic \"%s\" on Kafka server \"%s\" has messages of topic \"%s\", partition %d that were not written here.",
					   sink->topic, sink->server->name, topic, (int) partition),
			 errhint("A copy of this database runs somewhere: drop the subscription there.")));
}

/* Takes a record of the progress topic, which can tell no more of what this process writes than what that has tried to. */
static void
take_record(KsTargetTable *t, const TopicSink *sink, const char *prefix, const KsProgressRecord *r)
{
	static const char begin[] = "\"position\",\"";
	const char *rest = r->key + strlen(prefix);
	const char *end = strrchr(rest, '"');
	const KsProgress *tried = sink->tried;
	long long	generation;
	long long	next;
	char	   *topic;
	int32		partition;

	if (strncmp(rest, begin, strlen(begin)) != 0 || end < rest + strlen(begin) || end[1] != ',' ||
		sscanf(r->value, "{\"generation\":%lld,\"offset\":%lld}", &generation, &next) != 2)
		return;
	topic = pnstrdup(rest + strlen(begin), end - rest - strlen(begin));
	partition = atoi(end + 2);
	for (int i = 0; i < tried->count; i++)
		if (tried->items[i].partition == partition && strcmp(tried->items[i].topic, topic) == 0 &&
			tried->items[i].generation == generation && tried->items[i].next < next)
			other_writer(t, sink, topic, partition);
	ks_progress_set(t->progress, topic, partition, generation, next);
}

/* Reads which messages the topic has. */
static void
read_progress(KsTargetTable *t, TopicSink *sink, KsRun *run)
{
	const char *topic = t->target->options->text_value[KS_OPT_PROGRESS_TOPIC];
	char	   *prefix = record_prefix(t, run);
	List	   *records = ks_progress_topic_read(sink->server, topic, prefix, WAIT_NAME);
	ListCell   *lc;

	ks_progress_reset(t->progress);
	foreach(lc, records)
		take_record(t, sink, prefix, lfirst(lc));
	ks_progress_settle(t->progress);
	t->progress->stale = false;
}

/*
 * ERROR if the topic is one that the subscription reads, by another server of the same cluster.
 */
static void
check_cluster(const TopicDescription *d, const TopicSink *sink, const KsRun *run)
{
	const KsSubscription *s = run->subscription;
	KsAdmin    *admin = ks_admin_connect(ks_server_open(NameStr(s->server), s->owner), "read_committed");
	char	   *theirs = rd_kafka_clusterid(admin->client->rk, CLUSTER_MS);
	char	   *ours = rd_kafka_clusterid(sink->producer->client->rk, CLUSTER_MS);
	bool		same = theirs && ours && strcmp(theirs, ours) == 0;

	if (theirs)
		rd_kafka_mem_free(admin->client->rk, theirs);
	if (ours)
		rd_kafka_mem_free(sink->producer->client->rk, ours);
	ks_admin_close(admin);
	if (same)
		ks_topic_target_loop_error(d->table, s);
}

/* ERROR, with what to do about it, unless the topic is there. */
static void
check_topic(const TopicSink *sink)
{
	PG_TRY();
	{
		ks_transactional_check_topic(sink->producer, sink->topic);
	}
	PG_CATCH();
	{
		if (geterrcode() == ERRCODE_UNDEFINED_OBJECT)
			errhint("Create the topic with kafka.create_topic(%s, %s).", quote_literal_cstr(sink->server->name),
					quote_literal_cstr(sink->topic));
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Makes the producer, and has it take over. */
static void
connect_sink(KsTargetTable *t, TopicSink *sink, const KsServer *server, KsRun *run)
{
	TopicDescription *d = t->sink_description;
	MemoryContext old;
	char		id[128];
	bool		namesake = ks_topic_target_loops(d->table, run->subscription);

	if (sink->topic && strcmp(sink->topic, d->table->topic) != 0)
		ks_progress_reset(sink->tried);
	old = MemoryContextSwitchTo(TopMemoryContext);
	if (sink->topic)
		pfree(sink->topic);
	sink->topic = pstrdup(d->table->topic);
	MemoryContextSwitchTo(old);
	snprintf(id, sizeof(id), "pg_kafka_sync.target." UINT64_FORMAT ".%u." INT64_FORMAT ".%u.%d", GetSystemIdentifier(),
			 MyDatabaseId, run->subscription->id, t->relid, (int) ks_my_worker->ordinal);
	sink->producer = ks_transactional_create(server, id, TRANSACTION_MS, WAIT_NAME);
	sink->server = sink->producer->server;
	ks_transactional_init(sink->producer);
	if (namesake)
		check_cluster(d, sink, run);
	check_topic(sink);
	read_progress(t, sink, run);
}

/* KsSinkOps.open */
static void
open_sink(KsTargetTable *t, KsRun *run)
{
	TopicDescription *d = t->sink_description;
	TopicSink  *sink = sink_of(t);
	KsServer   *server = ks_server_of_table(d->table->serverid, t->owner);

	clear(sink);
	if (!t->progress->stale && producer_fits(sink, server, d->table->topic))
		return;
	t->progress->stale = true;
	drop_producer(sink);
	PG_TRY();
	{
		connect_sink(t, sink, server, run);
	}
	PG_CATCH();
	{
		run->unreachable = ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_CONNECTION_EXCEPTION;
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* A copy of a part in the sink's memory. */
static KsPart
copy_part(TopicSink *sink, KsPart part)
{
	KsPart		copy = {NULL, part.size};
	char	   *data;

	if (part.data == NULL)
		return part;
	data = palloc(Max(part.size, 1));
	memcpy(data, part.data, part.size);
	copy.data = data;
	sink->bytes += part.size;
	return copy;
}

/* Keeps a message that was made of one of the run. */
static void
keep(TopicSink *sink, const KsOutgoing *m, int number)
{
	MemoryContext old = MemoryContextSwitchTo(sink->context);
	KsOutgoing *copy;

	if (sink->count == sink->capacity)
	{
		sink->capacity = Max(1024, sink->capacity * 2);
		sink->messages = sink->messages ? repalloc_huge(sink->messages, sizeof(KsOutgoing) * sink->capacity) :
			palloc(sizeof(KsOutgoing) * sink->capacity);
		sink->numbers = sink->numbers ? repalloc_huge(sink->numbers, sizeof(int) * sink->capacity) :
			palloc(sizeof(int) * sink->capacity);
	}
	sink->numbers[sink->count] = number;
	copy = &sink->messages[sink->count++];
	*copy = *m;
	copy->key = copy_part(sink, m->key);
	copy->value = copy_part(sink, m->value);
	copy->headers = copy_part(sink, m->headers);
	copy->json_null = copy_part(sink, m->json_null);
	copy->unchanged = copy_part(sink, m->unchanged);
	sink->bytes += sizeof(KsOutgoing) + sizeof(int);
	MemoryContextSwitchTo(old);
}

/* Makes the message that a row has gone. */
static void
make_tombstone(TopicDescription *d, const KsBatchRow *row, KsOutgoing *m)
{
	ks_topic_encode_tombstone(d->encoder, row->values, row->nulls, m);
}

/* Makes the message of a row. */
static void
make_message(KsBatch *b, TopicDescription *d, const KsBatchRow *row, KsOutgoing *m)
{
	KsTargetTable *t = b->target;

	if (!row->upsert)
	{
		make_tombstone(d, row, m);
		return;
	}
	for (int i = 0; i < t->natts; i++)
	{
		d->left_out[i] = row->cells[i] != KS_CELL_VALUE;
		d->unchanged[i] = row->cells[i] == KS_CELL_KEEP;
		if (row->cells[i] == KS_CELL_VALUE && !row->nulls[i] && !d->table->columns[i].is_dropped &&
			d->table->columns[i].meta != KS_COL_NONE)
			ks_topic_target_column_check(d->table, i, t->target->mode);
	}
	ks_topic_encode_row(d->encoder, row->values, row->nulls, d->left_out, row->keeps ? d->unchanged : NULL, m);
}

/* Rows in the order of their last message; those of one in the order in which they came. */
static int
compare_rows(const void *a, const void *b)
{
	const KsBatchRow *left = *(KsBatchRow *const *) a;
	const KsBatchRow *right = *(KsBatchRow *const *) b;

	if (left->message != right->message)
		return left->message < right->message ? -1 : 1;
	return left < right ? -1 : left > right;
}

/* KsSinkOps.apply */
static void
apply(KsBatch *b)
{
	TopicDescription *d = b->target->sink_description;
	TopicSink  *sink = b->target->sink_state;
	KsBatchRow **rows;

	if (b->truncate)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a truncate cannot be written to a topic"),
				 errdetail("It is not known which message keys the topic has.")));
	clear(sink);
	if (b->nrows == 0)
		return;
	rows = MemoryContextAllocExtended(sink->context, sizeof(KsBatchRow *) * b->nrows, MCXT_ALLOC_HUGE);
	for (int i = 0; i < b->nrows; i++)
		rows[i] = &b->rows[i];
	qsort(rows, b->nrows, sizeof(KsBatchRow *), compare_rows);
	for (int i = 0; i < b->nrows; i++)
	{
		KsOutgoing	m;

		if (!rows[i]->upsert && !rows[i]->remove)
			continue;
		b->run->current = rows[i]->message;
		/* readers leave what a message does not say as it is: of a row that went before it came again, it is not */
		if (rows[i]->remove && rows[i]->upsert && !rows[i]->complete)
		{
			if (rows[i]->keeps)
				ks_missing_value(b->target, rows[i]);
			make_tombstone(d, rows[i], &m);
			keep(sink, &m, rows[i]->message);
		}
		make_message(b, d, rows[i], &m);
		keep(sink, &m, rows[i]->message);
		if (sink->bytes > MAX_BYTES && b->run->nmessages > 1)
		{
			b->run->current = -1;
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("the run makes too many messages for topic \"%s\"", sink->topic)));
		}
		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	b->run->current = -1;
}

/* KsSinkOps.existing_keys */
static void
existing_keys(KsTargetTable *t, const int *attributes, int n, Datum **parts, int count, KsKeyFound found, void *arg)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the message key tells only a part of the key of foreign table %s", t->qualified),
			 errdetail("Rows that the message has left behind would have to be looked for, and a topic cannot be asked."),
			 errhint("Make the key of the foreign table of the fields of the message key alone.")));
}

/* Adds the positions that have changed to the Kafka transaction. */
static void
put_progress(KsTargetTable *t, TopicSink *sink, KsRun *run)
{
	const char *topic = t->target->options->text_value[KS_OPT_PROGRESS_TOPIC];
	char	   *prefix = record_prefix(t, run);
	KsProgress *p = t->progress;

	ks_sink_advance(t, run);
	for (int i = 0; i < p->count; i++)
	{
		const KsProgressItem *item = &p->items[i];

		if (!item->changed)
			continue;
		ks_progress_set(sink->tried, item->topic, item->partition, item->generation, item->next);
		ks_progress_topic_put(sink->producer, topic, position_key(prefix, item),
							  psprintf("{\"generation\":" INT64_FORMAT ",\"offset\":" INT64_FORMAT "}", item->generation,
									   item->next));
	}
}

/* Was a message not accepted for what it is? */
static bool
is_message_fault(const KsTransactional *p)
{
	switch (p->failure)
	{
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_MSG:
		case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
		case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			return true;
		default:
			return false;
	}
}

/* Sends the messages and positions, and commits them. */
static void
send_all(KsTargetTable *t, TopicSink *sink, KsRun *run)
{
	KsTransactional *producer = sink->producer;
	char		reason[512];

	check_topic(sink);
	ks_transactional_begin(producer);
	for (int i = 0; i < sink->count; i++)
		ks_outgoing_send(producer, sink->topic, &sink->messages[i], sink->numbers[i] + 1);
	put_progress(t, sink, run);
	ks_transactional_wait(producer);
	if (!ks_transactional_commit(producer, COMMIT_MS, reason, sizeof(reason)))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("Kafka server \"%s\" did not say in time whether messages are committed", sink->server->name),
				 errdetail("Kafka says: %s", reason)));
}

/* KsSinkOps.commit */
static void
commit(KsTargetTable *t, KsRun *run)
{
	TopicSink  *sink = t->sink_state;

	/* where nothing comes of messages, that they are read again after a crash is no matter */
	if (sink->count == 0)
		return;
	PG_TRY();
	{
		send_all(t, sink, run);
	}
	PG_CATCH();
	{
		/* whatever else it is, no message is to blame */
		run->unreachable = !is_message_fault(sink->producer);
		if (!run->unreachable && sink->producer->nfailed == 1 && sink->producer->failed_number > 0)
			run->current = (int) sink->producer->failed_number - 1;
		/* what is committed is asked for before anything is sent again */
		t->progress->stale = true;
		PG_RE_THROW();
	}
	PG_END_TRY();
	ks_progress_settle(t->progress);
	clear(sink);
}

/* KsSinkOps.abandon */
static void
abandon(KsTargetTable *t)
{
	TopicSink  *sink = t->sink_state;

	if (sink == NULL)
		return;
	clear(sink);
	if (t->progress->stale)
		drop_producer(sink);
}

const KsSinkOps ks_topic_sink = {
	.describe = describe,
	.open = open_sink,
	.apply = apply,
	.existing_keys = existing_keys,
	.commit = commit,
	.abandon = abandon,
};
