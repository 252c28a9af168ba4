/*
 * swap_compat.h: the fields of pg_class that belong to a relation's storage and differ between versions.
 */
#ifndef KS_SWAP_COMPAT_H
#define KS_SWAP_COMPAT_H

#include "postgres.h"

#include "catalog/pg_class.h"
#include "utils/relcache.h"

/* Exchanges what two rows of pg_class say about the pages of their storage. 18 counts the frozen ones too. */
static inline void
ks_swap_page_counts(Form_pg_class a, Form_pg_class b)
{
	int32		pages = a->relpages;
	int32		visible = a->relallvisible;

	a->relpages = b->relpages;
	b->relpages = pages;
	a->relallvisible = b->relallvisible;
	b->relallvisible = visible;
#if PG_VERSION_NUM >= 180000
	{
		int32		frozen = a->relallfrozen;

		a->relallfrozen = b->relallfrozen;
		b->relallfrozen = frozen;
	}
#endif
}

/* Forgets the open files of a relation that got other ones. From 17 on the relation cache does so by itself. */
static inline void
ks_close_smgr(Oid relid)
{
#if PG_VERSION_NUM < 170000
	RelationCloseSmgrByOid(relid);
#else
	(void) relid;
#endif
}

#endif							/* KS_SWAP_COMPAT_H */
