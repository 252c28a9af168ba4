/*
 * wrapped_fdw.c: postgres_fdw by another name, for test_foreign_generic.py, which compiles it: a wrapper that nothing is
 * known of, with transactions, batches and TRUNCATE.
 */
#include "postgres.h"

#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(wrapped_fdw_handler);

Datum
wrapped_fdw_handler(PG_FUNCTION_ARGS)
{
	PGFunction	handler = load_external_function("$libdir/postgres_fdw", "postgres_fdw_handler", true, NULL);

	return DirectFunctionCall1(handler, (Datum) 0);
}
