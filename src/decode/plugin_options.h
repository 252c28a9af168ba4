/*
 * plugin_options.h: options of the plain output plugin, as a publisher's definition.
 */
#ifndef KS_PLUGIN_OPTIONS_H
#define KS_PLUGIN_OPTIONS_H

#include "postgres.h"

#include "control/catalog.h"
#include "nodes/pg_list.h"

/*
 * Makes a definition of "publication" (required), "format", "topic_prefix" and publisher options, from a list of
 * DefElem.  ERROR for what create_publisher would refuse.  In CurrentMemoryContext.
 */
extern KsPublisher *ks_plugin_options(List *options);

#endif							/* KS_PLUGIN_OPTIONS_H */
