/*
 * column.c: preparing columns, text of the database as UTF-8, and errors that say which value of which row it was.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "format/column.h"

KsTextSource ks_text_source = KS_TEXT_UTF8;
KsEncoding	ks_encoding;

static Oid	conversion = InvalidOid;

/*
 * Finds out how text of this database becomes UTF-8.  Needs a transaction; ERROR if there is no such conversion.
 */
void
ks_columns_init(void)
{
	int			encoding = GetDatabaseEncoding();

	if (encoding == PG_UTF8)
		ks_text_source = KS_TEXT_UTF8;
	else if (encoding == PG_SQL_ASCII)
		ks_text_source = KS_TEXT_UNKNOWN;
	else
	{
		conversion = FindDefaultConversionProc(encoding, PG_UTF8);
		if (!OidIsValid(conversion))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("no conversion from database encoding %s to UTF8", pg_encoding_to_char(encoding))));
		ks_text_source = KS_TEXT_CONVERT;
	}
}

/*
 * ks_utf8 where the database is not in UTF-8: returns the bytes as they are if they are valid (SQL_ASCII), or
 * converted in the current memory context.  ERROR naming the column otherwise.
 */
const char *
ks_utf8_slow(const KsColumn *column, const char *data, Size *size)
{
	Size		capacity;
	unsigned char *result;
	int			done;

	if (*size == 0)
		return data;
	if (ks_text_source == KS_TEXT_UNKNOWN)
	{
		if (!pg_verify_mbstr(PG_UTF8, data, (int) *size, true))
			ks_cannot_encode(column, "is not valid UTF-8 in a database of encoding SQL_ASCII",
							 "Messages are UTF-8: store the text as UTF-8, or the column as bytea.");
		return data;
	}
	capacity = *size * MAX_CONVERSION_GROWTH + 2;
	if (capacity > MaxAllocSize)
		ks_cannot_encode(column, "is too long to be converted to UTF-8", NULL);
	result = palloc(capacity);
	done = pg_do_encoding_conversion_buf(conversion, GetDatabaseEncoding(), PG_UTF8,
										 (unsigned char *) unconstify(char *, data), (int) *size,
										 result, (int) capacity, true);
	if (done != (int) *size)
		ks_cannot_encode(column, psprintf("holds a character of encoding %s that UTF-8 has no equivalent of",
										  GetDatabaseEncodingName()), NULL);
	*size = strlen((char *) result);
	return (char *) result;
}

/* Returns a name (of a column, table, ...) in UTF-8, in the current memory context. */
char *
ks_utf8_name(const char *name)
{
	KsColumn	column = {.name = name};
	Size		size = strlen(name);
	const char *text = ks_utf8(&column, name, &size);

	return pnstrdup(text, size);
}

/* Returns a name as a JSON string, quotes included, in the current memory context. */
char *
ks_json_name(const char *name)
{
	StringInfoData buf;
	char	   *text = ks_utf8_name(name);

	initStringInfo(&buf);
	ks_put_string(&buf, text, strlen(text));
	ks_terminate(&buf);
	return buf.data;
}

/*
 * Makes the KsColumns of the given attributes in the current memory context, all but what depends on the format.
 */
KsColumn *
ks_columns_prepare(const KsRelation *rel, const int *attributes, int count)
{
	KsColumn   *columns = palloc0(sizeof(KsColumn) * Max(count, 1));

	/* Forget a row that an error has left behind. */
	memset(&ks_encoding, 0, sizeof(ks_encoding));
	for (int i = 0; i < count; i++)
	{
		KsColumn   *column = &columns[i];
		Form_pg_attribute att = TupleDescAttr(rel->desc, attributes[i]);

		column->rel = rel;
		column->attribute = attributes[i];
		column->name = pstrdup(NameStr(att->attname));
		column->prefix = psprintf(",%s:", ks_json_name(column->name));
		column->prefix_size = strlen(column->prefix);
		column->not_null = att->attnotnull;
		column->is_identity = bms_is_member(attributes[i], rel->identity);
		column->typmod = att->atttypmod;
		column->type = getBaseTypeAndTypmod(att->atttypid, &column->typmod);
	}
	return columns;
}

/* Looks up the output function of the column's type, for the life of the current memory context. */
void
ks_need_output(KsColumn *column)
{
	Oid			function;
	bool		is_varlena;

	getTypeOutputInfo(column->type, &function, &is_varlena);
	fmgr_info_cxt(function, &column->output, CurrentMemoryContext);
	column->uses_settings = true;
}

/* Appends whatever the type's output function says, as a JSON string. */
void
ks_put_output(StringInfo out, KsColumn *column, Datum value)
{
	char	   *text = OutputFunctionCall(&column->output, value);

	ks_put_text(out, column, text, strlen(text));
}

/* Appends a value whose storage is its text: text, varchar, char(n), json, xml. */
void
ks_put_text_datum(StringInfo out, KsColumn *column, Datum value)
{
	struct varlena *datum = PG_DETOAST_DATUM_PACKED(value);

	ks_put_text(out, column, VARDATA_ANY(datum), VARSIZE_ANY_EXHDR(datum));
}

/* Returns the key of the row that is being encoded, as PostgreSQL's errors write keys, or NULL if it has none. */
static char *
describe_row(void)
{
	const KsRelation *rel = ks_encoding.rel;
	const KsRow *row = ks_encoding.row;
	StringInfoData names;
	StringInfoData values;

	if (rel == NULL || row == NULL || rel->nkeys == 0)
		return NULL;
	initStringInfo(&names);
	initStringInfo(&values);
	for (int i = 0; i < rel->nkeys; i++)
	{
		int			attribute = rel->keys[i];
		Form_pg_attribute att = TupleDescAttr(rel->desc, attribute);
		const char *separator = i > 0 ? ", " : "";

		appendStringInfo(&names, "%s%s", separator, NameStr(att->attname));
		if (row->unchanged != NULL && row->unchanged[attribute])
			appendStringInfo(&values, "%s?", separator);
		else if (row->nulls[attribute])
			appendStringInfo(&values, "%snull", separator);
		else
		{
			Oid			function;
			bool		is_varlena;

			getTypeOutputInfo(att->atttypid, &function, &is_varlena);
			appendStringInfo(&values, "%s%s", separator, OidOutputFunctionCall(function, row->values[attribute]));
		}
	}
	return psprintf("(%s)=(%s)", names.data, values.data);
}

/*
 * Raises the error for a value that cannot be sent: "problem" goes on after the names of column and table, "hint"
 * (a sentence, or NULL) names what can carry it.
 */
void
ks_cannot_encode(const KsColumn *column, const char *problem, const char *hint)
{
	char	   *row = describe_row();

	if (column->rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNTRANSLATABLE_CHARACTER),
				 errmsg("name \"%s\" %s", column->name, problem)));
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("value of column \"%s\" of table \"%s.%s\" %s", column->name, column->rel->schema,
					column->rel->table, problem),
			 row != NULL ? errdetail("The key of the row is %s.", row) : 0,
			 hint != NULL ? errhint("%s", hint) : 0));
}

/* Error context callback: says which column of which table was being encoded. */
void
ks_encoding_context(void *arg)
{
	if (ks_encoding.rel != NULL && ks_encoding.column != NULL)
		errcontext("encoding column \"%s\" of table \"%s.%s\"", ks_encoding.column->name, ks_encoding.rel->schema,
				   ks_encoding.rel->table);
}
