/*
 * json_path.h: option "paths": columns whose values lie deeper in a JSON message.  Plain C.
 *
 *   path  = ["$"] step {step}           (the first step's dot may be left out; "$" alone is the whole value)
 *   step  = "." name | "[" digits "]"   (a member; an element, the first one is 0)
 *   name  = characters other than . [ ] " and white space | a JSON string in quotes
 *
 * This is the part of SQL/JSON's path language that names one value.
 */
#ifndef KS_JSON_PATH_H
#define KS_JSON_PATH_H

#include "format/json_scan.h"

typedef struct KsJsonPaths KsJsonPaths;

/*
 * Reads the JSON object column -> path.  Returns NULL with the cause in words in "cause", which has room for size bytes.
 */
extern KsJsonPaths *ks_json_paths_create(const char *text, char *cause, size_t size);
extern void ks_json_paths_free(KsJsonPaths *paths);

/* Can a value that is no object have what the paths name? */
extern bool ks_json_paths_take_any(const KsJsonPaths *paths);

/*
 * Scans the value at hand into list: a field for each path, null where it leads nowhere, then the members of an object
 * that no path goes into and no path has the name of.  False: json->error is set.
 */
extern bool ks_json_paths_scan(const KsJsonPaths *paths, KsJson *json, KsFieldList *list);

#endif							/* KS_JSON_PATH_H */
