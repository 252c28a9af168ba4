/*
 * fdw.c: the validator of the foreign-data wrapper "kafka": servers are clusters, user mappings are credentials, foreign
 * tables are topics (fdw/).
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fdw/topic_table.h"
#include "fmgr.h"
#include "kafka/properties.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"

PG_FUNCTION_INFO_V1(ks_fdw_validator);

/*
 * Takes all options that the object will have, as text[] of name=value, and the catalog that it is in; the role is the
 * one that runs the command.  ERROR for anything that ks_property_check() refuses, a server without brokers, and
 * options that there are not.
 */
Datum
ks_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	KsPropertyPlace place = KS_PLACE_SERVER;
	bool		has_brokers = false;
	ListCell   *cell;

	if (catalog == UserMappingRelationId)
		place = KS_PLACE_USER_MAPPING;
	else if (catalog == ForeignTableRelationId || catalog == AttributeRelationId)
	{
		foreach(cell, options)
		{
			DefElem    *option = (DefElem *) lfirst(cell);

			if (catalog == ForeignTableRelationId)
				ks_topic_table_option_check(option->defname, defGetString(option));
			else
				ks_topic_column_option_check(option->defname, defGetString(option));
		}
		PG_RETURN_VOID();
	}
	else if (catalog != ForeignServerRelationId)
	{
		if (options != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("invalid option \"%s\"", ((DefElem *) linitial(options))->defname),
					 errhint("Foreign-data wrapper \"kafka\" itself has no options.")));
		PG_RETURN_VOID();
	}

	foreach(cell, options)
	{
		DefElem    *option = (DefElem *) lfirst(cell);

		if (strcmp(option->defname, "bootstrap.servers") == 0)
			has_brokers = true;
		ks_property_check(option->defname, defGetString(option), place, GetUserId());
	}
	if (catalog == ForeignServerRelationId && !has_brokers)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("option \"bootstrap.servers\" is required"),
				 errhint("For example: OPTIONS (\"bootstrap.servers\" 'host1:9092,host2:9092').")));
	PG_RETURN_VOID();
}
