/*
 * topic_guess.h: from a sample of a topic's messages to its format and columns.
 */
#ifndef KS_TOPIC_GUESS_H
#define KS_TOPIC_GUESS_H

#include "event/parser.h"
#include "nodes/pg_list.h"

/* A field seen in messages, in the order of its first appearance. */
typedef struct KsGuessedField
{
	char	   *name;			/* in UTF-8 */
	const char *type;			/* SQL type; set by ks_guess_end */
	char	   *schema_type;	/* what the messages' own schema says, NULL = nothing */
	int			seen;			/* kinds of values, as bits */
} KsGuessedField;

typedef struct KsGuess
{
	MemoryContext context;
	const char *wanted;			/* format to be taken, NULL = guess */
	const char *format;			/* set by ks_guess_end */
	int			messages;
	int			values;			/* that are not null */
	int			objects;		/* values that are JSON objects */
	int			events;			/* values that are Debezium's events */
	int			texts;			/* values that are text in UTF-8 */
	int			keys;
	int			object_keys;
	int			text_keys;
	bool		schemas;		/* events with schemas were seen */
	List	   *json_fields;	/* of KsGuessedField */
	List	   *event_fields;
	List	   *key_fields;		/* names (char *) of the members of all keys that are objects; NIL if keys differ */
	List	   *fields;			/* those of the format; set by ks_guess_end */
	int			too_many;		/* fields beyond what a table may have */
	struct KsParser *json;
	struct KsParser *debezium;
	KsParsed	parsed;
} KsGuess;

/* Begins a guess in CurrentMemoryContext; end it, also on ERROR. */
extern KsGuess *ks_guess_begin(const char *wanted);
/* Looks at a message. */
extern void ks_guess_message(KsGuess *guess, const KsMessage *message);
/* Makes up its mind. */
extern void ks_guess_end(KsGuess *guess);
/* Frees what is not palloc'ed. */
extern void ks_guess_free(KsGuess *guess);

#endif							/* KS_TOPIC_GUESS_H */
