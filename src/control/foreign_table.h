/*
 * foreign_table.h: foreign tables as targets: which wrapper they belong to, and what may be asked of them.
 */
#ifndef KS_FOREIGN_TABLE_H
#define KS_FOREIGN_TABLE_H

#include "postgres.h"

#include "control/options.h"
#include "utils/rel.h"

/* Kinds of relations, by how they are written. */
typedef enum KsTableKind
{
	KS_TABLE_LOCAL,
	KS_TABLE_POSTGRES,			/* of postgres_fdw: by a connection of our own */
	KS_TABLE_KAFKA,				/* of our own wrapper: a topic */
	KS_TABLE_GENERIC			/* of any other wrapper that can write */
} KsTableKind;

/* The kind of a relation. */
extern KsTableKind ks_table_kind(Oid relid);

/*
 * ERROR unless the foreign table can be a target in this mode with these options: its wrapper writes, and append and merge
 * are for those whose other side remembers how far it has come.
 */
extern void ks_foreign_check(Relation rel, const char *mode, const KsOptions *options);

/* ERROR if its wrapper (a generic one) tells the row to change by columns that do not include the whole key. */
extern void ks_foreign_check_identity(Relation rel, List *key);

/* ERROR, naming the table, if it is a foreign one, which cannot be read again from the log. */
extern void ks_foreign_refuse_rebuild(Oid relid, const char *hint);

#endif							/* KS_FOREIGN_TABLE_H */
