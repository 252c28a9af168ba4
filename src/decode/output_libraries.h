/*
 * output_libraries.h: minors since 2026 take only output plugins that the GUC output_plugin_libraries names.
 */
#ifndef KS_OUTPUT_LIBRARIES_H
#define KS_OUTPUT_LIBRARIES_H

#include "postgres.h"

/*
 * Adds this library to output_plugin_libraries, where that exists: for the session, or only until the caller's GUC
 * nest level ends.
 */
extern void ks_allow_output_plugin(bool for_session);

#endif							/* KS_OUTPUT_LIBRARIES_H */
