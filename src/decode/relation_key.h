/*
 * relation_key.h: which columns are published, which identify a row, and which make the message key.
 */
#ifndef KS_RELATION_KEY_H
#define KS_RELATION_KEY_H

#include "postgres.h"

#include "access/attmap.h"
#include "decode/publication.h"
#include "event/event.h"
#include "utils/relcache.h"

/* Fills rel->columns: no dropped ones, none outside the column list, generated ones as the publication says. */
extern void ks_resolve_columns(KsRelation *rel, const KsMembership *membership);

/*
 * Fills rel->identity, rel->identity_full and rel->keys.  "table" is where the rows are, "as" the relation published
 * as, "map" their attribute map (NULL: the same).  ERROR when set_topic's key cannot be had from old rows; a table
 * that has no key at all is left without.
 */
extern void ks_resolve_key(KsRelation *rel, Relation table, Relation as, const AttrMap *map,
						   const KsMembership *membership, const KsPublisherRelation *setting);

#endif							/* KS_RELATION_KEY_H */
