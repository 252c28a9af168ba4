/*
 * output_libraries.c: see output_libraries.h.
 */
#include "postgres.h"

#include "decode/output_libraries.h"
#include "decode/slot_create.h"
#include "utils/guc.h"

void
ks_allow_output_plugin(bool for_session)
{
	const char *setting = GetConfigOption("output_plugin_libraries", true, false);
	char	   *value;

	if (setting == NULL || strstr(setting, KS_OUTPUT_PLUGIN) != NULL)
		return;
	value = psprintf("%s%s%s", setting, setting[0] ? ", " : "", KS_OUTPUT_PLUGIN);
	(void) set_config_option("output_plugin_libraries", value, PGC_SUSET, PGC_S_SESSION,
							 for_session ? GUC_ACTION_SET : GUC_ACTION_SAVE, true, 0, false);
	pfree(value);
}
