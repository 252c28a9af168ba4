/*
 * format_options.h: from a subscription's options to a parser that has taken them.
 */
#ifndef KS_FORMAT_OPTIONS_H
#define KS_FORMAT_OPTIONS_H

#include "postgres.h"

#include "control/options.h"
#include "event/parser.h"

/*
 * Makes the parser of a format, with a subscription's options.  To be freed with ops->destroy().  ERROR: memory, or an
 * option that is not right.
 */
extern KsParser *ks_parser_create(const KsParserOps *ops, const KsOptions *options);

/* Wires what control/ asks of this folder (control/hooks.h). */
extern void ks_apply_init(void);

#endif							/* KS_FORMAT_OPTIONS_H */
