/*
 * init.c: the library's entry point; the one place that wires the stages together.
 */
#include "postgres.h"

#include "apply/format_options.h"
#include "control/shmem.h"
#include "decode/decode.h"
#include "fdw/topic_fdw.h"
#include "fdw/topic_target.h"
#include "fmgr.h"
#include "miscadmin.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

/*
 * Runs when the library is loaded: at server start (shared_preload_libraries), which is needed for workers and status,
 * or in a single backend (then SQL functions that need shared memory say so).
 */
void
_PG_init(void)
{
	ks_guc_init();
	ks_decode_init();
	ks_apply_init();
	ks_topic_import_init();
	ks_topic_target_init();
	if (!process_shared_preload_libraries_in_progress)
		return;
	ks_shmem_request();
	ks_xact_init();
	ks_utility_init();
	ks_launcher_register();
}
