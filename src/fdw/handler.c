/*
 * handler.c: the handler of the foreign-data wrapper "kafka".
 */
#include "postgres.h"

#include "fdw/topic_fdw.h"
#include "fmgr.h"

PG_FUNCTION_INFO_V1(ks_fdw_handler);

/* kafka.fdw_handler(): returns the table of functions. */
Datum
ks_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	ks_topic_scan_functions(routine);
	ks_topic_insert_functions(routine);
	ks_topic_analyze_functions(routine);
	routine->ImportForeignSchema = ks_topic_import;
	PG_RETURN_POINTER(routine);
}
