/*
 * writer.h: what one target of a subscription does with a run of messages, inside a transaction that apply.c begins
 * and ends.  One kind of writer per kind of target; apply_write.c knows none of them but by this table of functions.
 *
 * Calls come in this order: open, begin, add (for each message, in order), write, close.  An ERROR anywhere rolls the
 * transaction back, and "abandon" follows.  add and write are called as the table's owner, in a security-restricted
 * operation.
 */
#ifndef KS_WRITER_H
#define KS_WRITER_H

#include "postgres.h"

#include "apply/target.h"
#include "conflict/conflict.h"
#include "event/parser.h"

/*
 * The positions that go with messages.  stage() is told which messages (from, count) the transaction covers, and whether
 * they are all there are; write() writes inside the transaction and returns false if the positions were moved by
 * somebody else; finish() tells how it ended.
 */
typedef struct KsPositions
{
	void	   *arg;
	/* Was a message applied before, says the position that its producer gave it?  If not, it is noted as the last one. */
	bool		(*repeated) (void *arg, int number);
	void		(*stage) (void *arg, int from, int count, bool all);
	bool		(*write) (void *arg);
	void		(*finish) (void *arg, bool committed);
	/* Tells offsets of a message's partition from those of other times, before it began anew. */
	int64		(*generation) (void *arg, int number);
} KsPositions;

typedef struct KsEvolution KsEvolution;

/* What the writers of a subscription share. */
typedef struct KsRun
{
	const KsSubscription *subscription;
	int			partitions;		/* that the subscription reads */
	int			current;		/* message that is being worked on, or is to blame for an error; -1 = not known */
	const char *stage;			/* what is being done: parse | convert | query | apply; a writer may refine it */
	bool		retrying;		/* a dead letter is applied: neither its position nor its time make it a duplicate or late */
	int64		letter;			/* its id; 0 = none */
	bool		rebuilding;		/* targets are being read again: dead letters are of concern to their tables after that only */
	uint64		row;			/* grows with every row that is handed to the writers */
	uint64		dropped;		/* late events that the transaction under way leaves out for good */
	uint64		conflicts[KS_CONFLICT_COUNTS];	/* that the transaction under way has decided */
	bool		duplicate;		/* the message that is being worked on was applied before, says its position */
	const KsPositions *positions;
	int			from;			/* number of the first message of the attempt, for positions */
	const KsMessage *messages;	/* that are written */
	int			nmessages;
	bool		unreachable;	/* the other side of a foreign target cannot be reached: no message is at fault */
	int			nest_level;		/* of settings, while writers work; see ks_run_settle */
	KsEvolution *evolution;		/* option "evolve": columns that targets lack; NULL = off */
	struct KsBatchRelation *relation;	/* what the queries of targets read; NULL where no target has one */
} KsRun;

typedef struct KsWriter KsWriter;

typedef struct KsWriterOps
{
	/* Opens the table for the current transaction.  ERROR: what is wrong concerns no message. */
	void		(*open) (KsWriter *w);
	/* Empties itself for "count" messages. */
	void		(*begin) (KsWriter *w, int count);
	/*
	 * Takes one message (or each row of one that has several): a row event, a delete, a tombstone, or a truncate whose place among the others is known.
	 * Memory of message and parsed lasts until the run is over, and until the next call, respectively.
	 * ERROR for what cannot be read; run->current is the message.
	 */
	void		(*add) (KsWriter *w, const KsMessage *message, const KsParsed *parsed);
	/* Writes what was added.  ERROR: run->current is the message at fault, where it is known. */
	void		(*write) (KsWriter *w);
	void		(*close) (KsWriter *w);
	/* The transaction was rolled back: forgets what was open in it. */
	void		(*abandon) (KsWriter *w);
	/* How many messages a run may have at most, to keep memory bounded; not more than wanted. */
	int			(*limit) (const KsWriter *w, int wanted);
} KsWriterOps;

struct KsWriter
{
	const KsWriterOps *ops;
	KsTargetTable *table;
	KsRun	   *run;
};

/*
 * Makes the writer for a target, which writes to the table relid: the target's own, or one that is being built to take
 * its place.  Lives in CurrentMemoryContext.
 */
extern KsWriter *ks_writer_create(KsRun *run, const KsTarget *target, Oid relid);

/*
 * Takes back what code of users has SET since the last call, so that code of another role does not run under it.  For
 * "begin", "add" and "write", where no level of settings was opened since.
 */
extern void ks_run_settle(KsRun *run);

#endif							/* KS_WRITER_H */
