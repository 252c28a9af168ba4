/*
 * publisher_main.c: the background worker of one publisher; composes the stages.
 */
#include "postgres.h"

#include "access/xact.h"
#include "control/worker.h"
#include "format/format.h"
#include "kafka/properties.h"
#include "produce/problems.h"
#include "produce/producer.h"
#include "produce/publisher_catalog.h"
#include "produce/snapshot.h"
#include "produce/stream.h"
#include "produce/topics.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

extern PGDLLEXPORT void ks_publisher_main(Datum arg);

/* Reads the publisher's server and user mapping. */
static KsServer *
open_server(const KsPublisher *publisher, MemoryContext context)
{
	MemoryContext old = CurrentMemoryContext;
	KsServer   *server;

	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	server = ks_server_open(NameStr(publisher->server), publisher->owner);
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	return server;
}

/* Body of the worker: prepare topics, snapshot, stream. */
static void
publish(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "publisher", ALLOCSET_DEFAULT_SIZES);
	KsPublisher *publisher = ks_load_publisher(ks_my_worker->object_id, context);
	KsProducerOwner owner = ks_stream_owner();
	KsServer   *server;
	KsSource   *source;
	KsTopicBook *book;
	KsProducer *producer;
	bool		only;

	MemoryContextSwitchTo(context);
	if (publisher == NULL)
		return;					/* dropped; the launcher learns of it */
	only = strcmp(publisher->snapshot, "only") == 0;
	if (only && strcmp(publisher->snapshot_state, "done") == 0)
	{
		ks_worker_set_state(KS_STATE_FINISHED, NULL);
		return;
	}
	ks_worker_set_problem(KS_PROBLEM_WALL_CLOCK, ks_my_worker->wall_clock ?
						  "a broker refused commit times as timestamps; messages carry the time of sending" : NULL);

	server = open_server(publisher, context);
	source = ks_source_create(publisher);
	book = ks_topic_book_create();
	source->partitions = ks_topic_book_partitions;
	source->partitions_arg = book;
	producer = ks_producer_create(server, publisher->options, &owner);

	ks_producer_connect(producer);
	ks_topics_prepare(book, publisher, source, server, ks_producer_client(producer));
	if (strcmp(publisher->snapshot, "never") != 0 && strcmp(publisher->snapshot_state, "done") != 0)
	{
		if (!only)
			ks_snapshot_prepare(publisher);
		ks_snapshot_run(publisher, source, producer);
	}
	if (only)
	{
		ks_worker_set_state(KS_STATE_FINISHED, NULL);
		return;
	}
	ks_load_table_snapshots(publisher->id, source);
	ks_stream(publisher, source, producer);
}

/* Main function of a publisher's background worker. */
void
ks_publisher_main(Datum arg)
{
	(void) ks_worker_attach(arg, KS_WORKER_PUBLISHER);
	ks_format_fix_settings();
	ks_worker_run(publish);
	proc_exit(0);
}
