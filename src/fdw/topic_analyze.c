/*
 * topic_analyze.c: ANALYZE of a topic: a sample of its messages, and how many rows there are.
 *
 * A log is read from one place on, not a message here and there: so each partition is cut into slices, and of each a few
 * messages in a row are read from a random place on.  Memory and reading are bounded, whatever messages weigh.
 */
#include "postgres.h"

#include "commands/vacuum.h"
#include "fdw/topic_fdw.h"
#include "fdw/topic_reader.h"
#include "fdw/topic_row.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/sampling.h"

/* A topic of so few messages is read whole; of a larger one, slices are. */
#define WHOLE 1000
#define SLICES 30
/* Messages of the first slice, which tells how large they are. */
#define FIRST_MESSAGES 100
/* For pg_class.relpages, which shares out the sample among the children of a table: messages that a page would hold. */
#define MESSAGES_PER_PAGE 50

typedef struct Sample
{
	Relation	rel;
	KsTopicReader *reader;
	KsTopicRow *row;
	MemoryContext context;		/* of the rows kept */
	MemoryContext row_context;
	HeapTuple  *rows;
	int			target;			/* rows to keep at most; becomes less if they are large */
	int			kept;
	Size		bytes;			/* of these */
	double		seen;			/* rows */
	double		read;			/* messages */
	double		bad;			/* of these: they cannot be read */
	char	   *cause;			/* of the first */
	double		covered;		/* offsets between the messages read */
	ReservoirStateData random;
} Sample;

/* Bytes that the rows kept may have. */
static Size
memory_limit(void)
{
	return (Size) maintenance_work_mem * 1024;
}

/* Drops rows at random, until half are left. */
static void
halve(Sample *sample)
{
	int			left = Max(sample->kept / 2, 1);

	while (sample->kept > left)
	{
		int			victim = (int) (sampler_random_fract(&sample->random.randstate) * sample->kept);
		HeapTuple	tuple = sample->rows[victim];

		sample->bytes -= HEAPTUPLESIZE + tuple->t_len;
		heap_freetuple(tuple);
		sample->rows[victim] = sample->rows[--sample->kept];
	}
	sample->target = left;
}

/* Keeps a row, or one that is there: each row seen is in the sample with the same probability. */
static void
keep(Sample *sample, Datum *values, bool *nulls)
{
	int			place = sample->kept;
	MemoryContext former;

	sample->seen++;
	if (sample->kept >= sample->target)
	{
		double		random = sampler_random_fract(&sample->random.randstate) * sample->seen;

		if (random >= sample->target)
			return;
		place = (int) random;
		sample->bytes -= HEAPTUPLESIZE + sample->rows[place]->t_len;
		heap_freetuple(sample->rows[place]);
	}
	else
		sample->kept++;
	former = MemoryContextSwitchTo(sample->context);
	sample->rows[place] = heap_form_tuple(RelationGetDescr(sample->rel), values, nulls);
	MemoryContextSwitchTo(former);
	sample->bytes += HEAPTUPLESIZE + sample->rows[place]->t_len;
	if (sample->bytes > memory_limit() && sample->kept > 1)
		halve(sample);
}

/* Takes the rows of a message. */
static void
take(Sample *sample, const KsMessage *message)
{
	int			natts = RelationGetDescr(sample->rel)->natts;
	MemoryContext former = MemoryContextSwitchTo(sample->row_context);

	sample->read++;
	do
	{
		Datum	   *values = palloc(sizeof(Datum) * Max(natts, 1));
		bool	   *nulls = palloc(sizeof(bool) * Max(natts, 1));
		const char *cause = ks_topic_row_try(sample->row, message, values, nulls);

		if (cause == NULL)
			keep(sample, values, nulls);
		else if (sample->bad++ == 0)
			sample->cause = MemoryContextStrdup(sample->context, cause);
	} while (ks_topic_row_has_more(sample->row));
	MemoryContextSwitchTo(former);
	MemoryContextReset(sample->row_context);
}

/* Reads what bounds say. */
static void
read_part(Sample *sample, const KsBounds *bounds)
{
	KsMessage	message;

	ks_topic_row_forget(sample->row);
	ks_topic_reader_start(sample->reader, bounds);
	while (ks_topic_reader_next(sample->reader, &message))
		take(sample, &message);
	sample->covered += ks_topic_reader_covered(sample->reader);
}

/* Messages to be read of each slice that is left, by what those read so far had to say. */
static int64
share_of(const Sample *sample, int left)
{
	double		rows_per_message = Max(sample->seen, 1) / Max(sample->read, 1);
	double		row_size = Max(sample->bytes, 1) / (double) Max(sample->kept, 1);
	double		rows = Min(sample->target, memory_limit() / row_size) - sample->kept;

	return (int64) Max(rows / rows_per_message / left, 1);
}

/* Reads the whole topic, or a part of each slice. */
static void
read_sample(Sample *sample, double messages)
{
	KsBounds	bounds;

	ks_bounds_all(&bounds);
	if (messages <= Min(WHOLE, sample->target))
	{
		read_part(sample, &bounds);
		return;
	}
	bounds.slices = SLICES;
	for (int slice = 0; slice < SLICES; slice++)
	{
		bounds.slice = slice;
		bounds.place = sampler_random_fract(&sample->random.randstate);
		bounds.most = slice == 0 ? FIRST_MESSAGES : share_of(sample, SLICES - slice);
		read_part(sample, &bounds);
	}
}

/*
 * Makes the reader of a table's topic, with its owner's login.  Though little is wanted at a time, it is not one for a few
 * messages: a queue that is small is found full where a slice ends, and then the next one waits.
 */
static KsTopicReader *
make_reader(Relation rel, const KsTopicTable *table)
{
	return ks_topic_reader_create(ks_server_of_table(table->serverid, rel->rd_rel->relowner), table->topic, false, 0);
}

/* For ANALYZE: fills rows with a sample of at most "target". */
static int
acquire_sample(Relation rel, int elevel, HeapTuple *rows, int target, double *total, double *dead)
{
	KsTopicTable *table = ks_topic_table(rel);
	Sample		sample = {.rel = rel, .context = CurrentMemoryContext, .rows = rows, .target = target};
	Bitmapset  *wanted = NULL;
	double		messages;

	for (int i = 0; i < table->natts; i++)
		wanted = bms_add_member(wanted, i);
	sample.row_context = AllocSetContextCreate(CurrentMemoryContext, "pg_kafka_sync sample", ALLOCSET_DEFAULT_SIZES);
	sample.reader = make_reader(rel, table);
	messages = ks_topic_reader_count(sample.reader);
	sample.row = ks_topic_row_create(table, RelationGetDescr(rel), wanted);
	reservoir_init_selection_state(&sample.random, Max(target, 1));
	if (messages > 0 && target > 0)
		read_sample(&sample, messages);
	ks_topic_reader_close(sample.reader);
	MemoryContextDelete(sample.row_context);

	/* offsets are more than messages where some were compacted or aborted, and rows more where a message has several */
	*total = sample.covered > 0 ? messages * (sample.seen / sample.covered) : 0;
	*dead = 0;
	if (sample.bad > 0)
		ereport(WARNING,
				(errmsg("left %.0f of the %.0f messages in the sample of \"%s\" out, which cannot be read",
						sample.bad, sample.read, RelationGetRelationName(rel)),
				 errdetail("The first: %s", sample.cause)));
	ereport(elevel,
			(errmsg("\"%s\": the log has %.0f offsets; read %.0f messages of %.0f offsets; %d rows in sample, %.0f estimated total rows",
					RelationGetRelationName(rel), messages, sample.read, sample.covered, sample.kept, *total)));
	return sample.kept;
}

/* ANALYZE asks whether it can be done, and how large the table is about. ERROR if no broker answers. */
static bool
analyze(Relation rel, AcquireSampleRowsFunc *function, BlockNumber *pages)
{
	KsTopicTable *table = ks_topic_table(rel);
	KsTopicReader *reader = make_reader(rel, table);
	double		messages = ks_topic_reader_count(reader);

	ks_topic_reader_close(reader);
	*function = acquire_sample;
	/* never 0, which would say that it was not analyzed yet */
	*pages = (BlockNumber) Min(messages / MESSAGES_PER_PAGE + 1, MaxBlockNumber);
	return true;
}

void
ks_topic_analyze_functions(FdwRoutine *routine)
{
	routine->AnalyzeForeignTable = analyze;
}
