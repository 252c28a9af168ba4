/*
 * topic_fdw.h: the functions that PostgreSQL calls for foreign tables, by file.
 */
#ifndef KS_TOPIC_FDW_H
#define KS_TOPIC_FDW_H

#include "foreign/fdwapi.h"

extern void ks_topic_scan_functions(FdwRoutine *routine);
extern void ks_topic_insert_functions(FdwRoutine *routine);
extern void ks_topic_analyze_functions(FdwRoutine *routine);
extern List *ks_topic_import(ImportForeignSchemaStmt *stmt, Oid serverid);
/* Wires what control/ asks of this folder (control/hooks.h). */
extern void ks_topic_import_init(void);

#endif							/* KS_TOPIC_FDW_H */
