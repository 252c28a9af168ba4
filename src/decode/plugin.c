/*
 * plugin.c: the output plugin's callbacks.
 *
 * In a publisher they feed its pipeline; anywhere else (pg_recvlogical, SQL functions) they print.  A transaction is
 * replayed only after its commit, so nothing of an aborted or unfinished one is ever seen here.
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat/decode_compat.h"
#include "control/worker.h"
#include "decode/emit.h"
#include "decode/origin_filter.h"
#include "decode/pipeline.h"
#include "decode/plugin_options.h"
#include "decode/print_sink.h"
#include "decode/relation_cache.h"
#include "format/column.h"
#include "replication/output_plugin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#define SERVE_EVERY 1024		/* unpublished changes between two looks at the sink */

extern PGDLLEXPORT void _PG_output_plugin_init(OutputPluginCallbacks *cb);

typedef struct KsPlugin
{
	KsSource   *source;
	KsSink	   *sink;
	KsRelationCache *cache;
	KsEmitter  *emitter;
	MemoryContext row_context;
	uint32		unpublished;	/* changes since the sink was served */
	bool		own_origin;		/* the transaction in hand is one of our subscriptions' */
	Oid			stamped;		/* table whose next change is that which "stamp" was noted for */
	StringInfoData stamp;		/* what a delete is ordered by, see KS_HEADER_DELETED */
	uint64		full_xid;		/* of the transaction in hand; 0 = not asked yet */
} KsPlugin;

static KsPipeline pipeline;

void
ks_pipeline_attach(const KsPipeline *p)
{
	pipeline = *p;
}

static void
plugin_startup(LogicalDecodingContext *ctx, OutputPluginOptions *options, bool is_init)
{
	KsPlugin   *plugin = palloc0(sizeof(KsPlugin));

	options->output_type = OUTPUT_PLUGIN_TEXTUAL_OUTPUT;
	options->receive_rewrites = false;
	ctx->output_plugin_private = plugin;
	if (is_init)
		return;
	if (pipeline.source != NULL)
	{
		plugin->source = pipeline.source;
		plugin->sink = pipeline.sink;
	}
	else
	{
		plugin->source = ks_source_create(ks_plugin_options(ctx->output_plugin_options));
		plugin->sink = ks_print_sink_create(ctx);
	}
	plugin->row_context = AllocSetContextCreate(plugin->source->context, "row", ALLOCSET_DEFAULT_SIZES);
	plugin->cache = ks_relation_cache_create(plugin->source);
	plugin->emitter = ks_emitter_create(plugin->source, plugin->sink);
	{
		MemoryContext old = MemoryContextSwitchTo(plugin->source->context);

		initStringInfo(&plugin->stamp);
		MemoryContextSwitchTo(old);
	}
}

static void
plugin_begin(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	KsPlugin   *plugin = ctx->output_plugin_private;
	KsEmitOrigin origin;

	memset(&origin, 0, sizeof(origin));
	origin.xid = txn->xid;
	origin.commit_lsn = txn->final_lsn;
	origin.position_lsn = txn->final_lsn;
	origin.commit_time = txn->xact_time.commit_time;
	origin.origin = txn->origin_id;
	origin.origin_lsn = txn->origin_lsn;
	origin.snapshot = "false";
	plugin->full_xid = 0;
	plugin->stamped = InvalidOid;
	plugin->own_origin = ks_origin_is_ours(txn->origin_id);
	ks_emit_begin(plugin->emitter, &origin);
}

static void
plugin_commit(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, XLogRecPtr commit_lsn)
{
	KsPlugin   *plugin = ctx->output_plugin_private;

	(void) ks_emit_commit(plugin->emitter, txn->end_lsn);
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()) && ks_my_worker != NULL)
		elog(ERROR, "a transaction id was assigned while decoding");
}

/*
 * Is the change of a transaction that the table's initial rows already show?  The transaction's id alone decides,
 * never an LSN: a transaction can be visible long after its commit record was written.
 */
static bool
is_in_snapshot(KsPlugin *plugin, KsEntry *entry, TransactionId xid)
{
	if (entry->snapshot == NULL)
		return false;
	if (entry->judged_xid != xid)
	{
		if (plugin->full_xid == 0)
		{
			/* decoded xids are in the past, and less than 2^31 of them */
			FullTransactionId next = ReadNextFullTransactionId();
			uint32		epoch = EpochFromFullTransactionId(next);

			if (xid > XidFromFullTransactionId(next))
				epoch--;
			plugin->full_xid = U64FromFullTransactionId(FullTransactionIdFromEpochAndXid(epoch, xid));
		}
		entry->dropped = ks_snapshot_sees(entry->snapshot, plugin->full_xid);
		entry->judged_xid = xid;
	}
	return entry->dropped;
}

/*
 * Takes values that an update left unchanged in TOAST from the old row where it has them, and marks the others.
 * Values that WAL carries are never on-disk TOAST pointers.
 */
static void
resolve_unchanged(const KsEntry *entry, const KsRow *before, bool before_is_key, KsRow *after)
{
	for (int n = 0; n < entry->nvarlena; n++)
	{
		int			i = entry->varlena[n];

		after->unchanged[i] = false;
		if (after->nulls[i] || !VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(after->values[i])))
			continue;
		if (before != NULL && !before->nulls[i] && (!before_is_key || bms_is_member(i, entry->rel->identity)))
			after->values[i] = before->values[i];
		else
			after->unchanged[i] = true;
	}
}

/* An update: under a row filter it can also be an insert, a delete, or nothing. */
static void
change_update(KsPlugin *plugin, KsEntry *entry, HeapTuple oldtuple, HeapTuple newtuple, XLogRecPtr lsn)
{
	bool		before_is_key = !entry->rel->identity_full;
	KsRow	   *before = NULL;
	bool		was_in = true;
	bool		is_in = true;

	ks_entry_deform(entry, newtuple, &entry->after);
	if (oldtuple)
	{
		ks_entry_deform(entry, oldtuple, &entry->before);
		before = &entry->before;
	}
	resolve_unchanged(entry, before, before_is_key, &entry->after);
	if (entry->filter)
	{
		is_in = ks_row_filter_match(entry->filter, &entry->after);
		was_in = before != NULL ? ks_row_filter_match(entry->filter, before) : is_in;
	}
	if (was_in && is_in)
		ks_emit_update(plugin->emitter, entry->rel, before, before_is_key, &entry->after, lsn);
	else if (is_in)
		ks_emit_insert(plugin->emitter, entry->rel, KS_OP_CREATE, &entry->after, lsn);
	else if (was_in)
		ks_emit_delete(plugin->emitter, entry->rel, before, before_is_key, lsn);
	for (int n = 0; n < entry->nvarlena; n++)
		entry->after.unchanged[entry->varlena[n]] = false;
}

/* A change that has no event: keeps the sink alive meanwhile. */
static void
skip_change(KsPlugin *plugin)
{
	if (++plugin->unpublished < SERVE_EVERY)
		return;
	plugin->unpublished = 0;
	if (plugin->sink->serve)
		plugin->sink->serve(plugin->sink);
}

/*
 * A row of kafka.deleted_row: noted by conflict/guard.c, the last trigger before a row goes, so the next change of that
 * table in this transaction is the delete, or the update of the key, that it is about.  apply/conflict_sink.c does it
 * likewise; what it notes of keys without a row comes last.
 */
static void
note_delete(KsPlugin *plugin, Relation relation, HeapTuple tuple)
{
	TupleDesc	desc = RelationGetDescr(relation);
	bool		isnull;
	Datum		target = heap_getattr(tuple, 1, desc, &isnull);
	Datum		stamp = heap_getattr(tuple, 4, desc, &isnull);

	plugin->stamped = DatumGetObjectId(target);
	resetStringInfo(&plugin->stamp);
	if (!isnull)
		appendStringInfo(&plugin->stamp, "=%s", ks_utf8_name(TextDatumGetCString(stamp)));
}

/* Is the transaction in hand left out for its origin, by the definition at the change in hand? */
static bool
is_left_out(KsPlugin *plugin)
{
	if (!plugin->own_origin)
		return false;
	if (!plugin->source->valid)
		(void) ks_source_refresh(plugin->source);
	return strcmp(plugin->source->options->text_value[KS_OPT_ORIGIN], "any") != 0;
}

static void
plugin_change(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, Relation relation, ReorderBufferChange *change)
{
	KsPlugin   *plugin = ctx->output_plugin_private;
	MemoryContext old = MemoryContextSwitchTo(plugin->row_context);
	HeapTuple	newtuple = ks_change_new_tuple(change);
	HeapTuple	oldtuple = ks_change_old_tuple(change);
	KsEntry    *entry;

	plugin->source->lsn = change->lsn;
	if (is_left_out(plugin))
	{
		skip_change(plugin);
		MemoryContextSwitchTo(old);
		MemoryContextReset(plugin->row_context);
		return;
	}
	if (plugin->stamped == RelationGetRelid(relation))
		ks_emit_delete_stamp(plugin->emitter, &plugin->stamp);
	entry = ks_relation_cache_lookup(plugin->cache, relation);
	if (entry->deleted_rows && newtuple != NULL)
		note_delete(plugin, relation, newtuple);
	else if (!entry->published || is_in_snapshot(plugin, entry, txn->xid))
		skip_change(plugin);
	else
		switch (change->action)
		{
			case REORDER_BUFFER_CHANGE_INSERT:
				if (!entry->insert || newtuple == NULL)
					break;
				ks_entry_deform(entry, newtuple, &entry->after);
				if (entry->filter == NULL || ks_row_filter_match(entry->filter, &entry->after))
					ks_emit_insert(plugin->emitter, entry->rel, KS_OP_CREATE, &entry->after, change->lsn);
				break;
			case REORDER_BUFFER_CHANGE_UPDATE:
				if (entry->update && newtuple != NULL)
					change_update(plugin, entry, oldtuple, newtuple, change->lsn);
				break;
			case REORDER_BUFFER_CHANGE_DELETE:
				/* without a replica identity WAL has no old row; such deletes are refused while it is published */
				if (!entry->delete || oldtuple == NULL)
					break;
				ks_entry_deform(entry, oldtuple, &entry->before);
				if (entry->filter == NULL || ks_row_filter_match(entry->filter, &entry->before))
					ks_emit_delete(plugin->emitter, entry->rel, &entry->before, !entry->rel->identity_full,
								   change->lsn);
				break;
			default:
				break;
		}
	if (plugin->stamped == RelationGetRelid(relation))
	{
		plugin->stamped = InvalidOid;
		ks_emit_delete_stamp(plugin->emitter, NULL);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(plugin->row_context);
}

/* One truncated table, by option "truncate". */
static void
truncate_table(KsPlugin *plugin, KsEntry *entry, XLogRecPtr lsn)
{
	const char *mode = plugin->source->options->text_value[KS_OPT_TRUNCATE];

	if (strcmp(mode, "event") == 0)
		ks_emit_truncate(plugin->emitter, entry->rel, lsn);
	else if (strcmp(mode, "error") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.%s\" was truncated at WAL position %X/%X", entry->rel->schema, entry->rel->table,
						LSN_FORMAT_ARGS(lsn)),
				 errdetail("Option \"truncate\" is \"error\"."),
				 errhint("Set option \"truncate\" to \"skip\" or \"event\" with kafka.alter_publisher().")));
	else if (ks_my_worker != NULL)
		pg_atomic_fetch_add_u64(&ks_my_worker->skipped_truncates, 1);
}

/* A partition was truncated alone, but is published as its root, which has no event for that. */
static void
truncate_partition(KsPlugin *plugin, KsEntry *entry, XLogRecPtr lsn)
{
	if (strcmp(plugin->source->options->text_value[KS_OPT_TRUNCATE], "error") == 0)
		truncate_table(plugin, entry, lsn);
	else if (ks_my_worker != NULL)
		pg_atomic_fetch_add_u64(&ks_my_worker->skipped_truncates, 1);
}

/* Is a relation among those truncated together? */
static bool
is_among(Oid relid, int nrelations, Relation relations[])
{
	for (int i = 0; i < nrelations; i++)
		if (RelationGetRelid(relations[i]) == relid)
			return true;
	return false;
}

static void
plugin_truncate(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, int nrelations, Relation relations[],
				ReorderBufferChange *change)
{
	KsPlugin   *plugin = ctx->output_plugin_private;
	MemoryContext old = MemoryContextSwitchTo(plugin->row_context);

	plugin->source->lsn = change->lsn;
	for (int i = 0; i < nrelations && !is_left_out(plugin); i++)
	{
		KsEntry    *entry;

		if (!is_publishable_relation(relations[i]))
			continue;
		entry = ks_relation_cache_lookup(plugin->cache, relations[i]);
		if (!entry->published || !entry->truncate || is_in_snapshot(plugin, entry, txn->xid))
			continue;
		if (entry->as_relid == entry->relid)
			truncate_table(plugin, entry, change->lsn);
		else if (!is_among(entry->as_relid, nrelations, relations))
			truncate_partition(plugin, entry, change->lsn);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(plugin->row_context);
}

/*
 * Leaves out what our subscriptions wrote while it is read, which saves the reorder buffer.  Only where the definition in
 * force here is known: after a start, or a change of it, the next change that is replayed tells, see is_left_out().
 */
static bool
plugin_filter_by_origin(LogicalDecodingContext *ctx, RepOriginId origin_id)
{
	KsPlugin   *plugin = ctx->output_plugin_private;
	const KsSource *source = plugin->source;

	/* NULL: the slot is being made */
	if (source == NULL || !source->valid || source->options == NULL)
		return false;
	return strcmp(source->options->text_value[KS_OPT_ORIGIN], "any") != 0 && ks_origin_is_ours(origin_id);
}

static void
plugin_shutdown(LogicalDecodingContext *ctx)
{
	KsPlugin   *plugin = ctx->output_plugin_private;

	if (plugin->source != NULL && plugin->source != pipeline.source)
		MemoryContextDelete(plugin->source->context);
}

/* The server's entry point to the output plugin. */
void
_PG_output_plugin_init(OutputPluginCallbacks *cb)
{
	cb->startup_cb = plugin_startup;
	cb->begin_cb = plugin_begin;
	cb->change_cb = plugin_change;
	cb->truncate_cb = plugin_truncate;
	cb->commit_cb = plugin_commit;
	cb->filter_by_origin_cb = plugin_filter_by_origin;
	cb->shutdown_cb = plugin_shutdown;
}
