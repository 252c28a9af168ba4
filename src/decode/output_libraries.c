/*
 * output_libraries.c: see output_libraries.h.
 */
#include "postgres.h"

#include "decode/output_libraries.h"
#include "decode/slot_create.h"
#include "utils/guc.h"
#include "utils/varlena.h"

void
ks_allow_output_plugin(bool for_session)
{
	const char *setting = GetConfigOption("output_plugin_libraries", true, false);
	char	   *value;
	List	   *names;
	ListCell   *lc;

	if (setting == NULL)
		return;
	if (SplitIdentifierString(pstrdup(setting), ',', &names))
		foreach(lc, names)
			if (strcmp(lfirst(lc), KS_OUTPUT_PLUGIN) == 0)
				return;
	value = psprintf("%s%s%s", setting, setting[0] ? ", " : "", KS_OUTPUT_PLUGIN);
	(void) set_config_option("output_plugin_libraries", value, PGC_SUSET, PGC_S_SESSION,
							 for_session ? GUC_ACTION_SET : GUC_ACTION_SAVE, true, 0, false);
	pfree(value);
}
