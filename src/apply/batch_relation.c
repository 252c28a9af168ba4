/*
 * batch_relation.c: kafka.batch_rows(), which the queries of targets read as "batch".
 */
#include "postgres.h"

#include "fmgr.h"

PG_FUNCTION_INFO_V1(ks_batch_rows);

/* kafka.batch_rows(): ERROR where no messages are being applied. */
Datum
ks_batch_rows(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("relation kafka.batch cannot be read here"),
			 errhint("It has rows only while a subscription applies them, in the query of a target: see kafka.add_target.")));
}
