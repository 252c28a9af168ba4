/*
 * publication.h: what a native publication says of one table, as the built-in logical replication understands it.
 */
#ifndef KS_PUBLICATION_H
#define KS_PUBLICATION_H

#include "postgres.h"

#include "decode/source.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"

typedef struct KsMembership
{
	bool		insert;
	bool		update;
	bool		delete;
	bool		truncate;
	Oid			as_relid;		/* the relation published as: the table itself or an ancestor */
	bool		all_columns;	/* no column list */
	Bitmapset  *columns;		/* attribute numbers of as_relid, if there is a list */
	bool		generated;		/* stored generated columns are published (those listed, if there is a list) */
	char	   *filter;			/* row filter of as_relid as a node string, NULL if none */
} KsMembership;

/*
 * Looks the relation up in the source's publication, under the snapshot in force.  False if it is not published (also
 * never: the extension's own tables).  ERROR if the publication does not exist.  Results in CurrentMemoryContext.
 */
extern bool ks_publication_membership(const KsSource *source, Oid relid, KsMembership *out);

/* One published table as it is now: the relations that hold its rows. */
typedef struct KsPublishedTable
{
	Oid			relid;			/* published as */
	List	   *leaves;			/* Oids of the tables with rows; relid itself, or its partitions */
} KsPublishedTable;

/*
 * Lists all tables that are published now (list of KsPublishedTable, by Oid).  *exists tells whether there is such a
 * publication at all.
 */
extern List *ks_publication_tables(const KsSource *source, bool *exists);

#endif							/* KS_PUBLICATION_H */
