/*
 * origin_filter.c: looks replication origins up by id and remembers the answer.
 */
#include "postgres.h"

#include "access/xact.h"
#include "control/worker.h"
#include "decode/origin_filter.h"
#include "replication/origin.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

enum
{
	UNKNOWN = 0, OURS, OTHER
};

static uint8 *answers = NULL;	/* by origin id */

/* An origin was made or dropped: its id may have been given anew. */
static void
forget_answers(Datum arg, int cacheid, uint32 hashvalue)
{
	if (answers != NULL)
		memset(answers, UNKNOWN, PG_UINT16_MAX + 1);
}

/* Looks the origin's name up, in a transaction of its own where there is none. */
static bool
look_up(RepOriginId origin)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	bool		own_transaction = !IsTransactionState();
	char	   *name = NULL;
	bool		ours;

	if (own_transaction)
		StartTransactionCommand();
	ours = replorigin_by_oid(origin, true, &name) && name != NULL &&
		strncmp(name, KS_ORIGIN_PREFIX, strlen(KS_ORIGIN_PREFIX)) == 0;
	if (own_transaction)
		CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return ours;
}

bool
ks_origin_is_ours(RepOriginId origin)
{
	if (origin == InvalidRepOriginId || origin == DoNotReplicateId)
		return false;
	if (answers == NULL)
	{
		answers = MemoryContextAllocZero(TopMemoryContext, PG_UINT16_MAX + 1);
		CacheRegisterSyscacheCallback(REPLORIGIDENT, forget_answers, (Datum) 0);
	}
	if (answers[origin] == UNKNOWN)
	{
		bool		ours = look_up(origin);

		answers[origin] = ours ? OURS : OTHER;
	}
	return answers[origin] == OURS;
}
