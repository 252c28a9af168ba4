/*
 * csv_parse.c: reads format csv: one or several lines per message, as COPY ... (FORMAT csv) writes them.  Plain C, zero
 * copy but for fields with doubled quotes.
 *
 * An unquoted field that is the null string (by default the empty one) is NULL.  A message that is null is a delete of
 * its key.  Where neither option "csv.header" nor "csv.columns" names the fields, they are the target's columns in order.
 */
#include "format/json_fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CSV_MAX_COLUMNS 1600

typedef struct CsvParser
{
	KsParser	base;
	bool		header;
	char		delimiter;
	char		quote;
	char	   *null;
	size_t		null_size;
	KsFieldList columns;		/* names by option "csv.columns" */
	KsArena		names;			/* of columns, and "column1" ... */
	KsField    *numbered;		/* names of fields without names, as VALUES gives them */
	KsFieldList heads;			/* names by the message's first line */

	/* the message at hand */
	const char *pos;
	const char *end;
	const KsFieldList *named;	/* NULL: fields go by position */
	int			line;			/* that pos is in, from 1 */
} CsvParser;

/* Returns new parser state, NULL when out of memory. */
static KsParser *
csv_create(void)
{
	CsvParser  *p = calloc(1, sizeof(CsvParser));

	if (p == NULL)
		return NULL;
	p->base.key_format = KS_KEY_TEXT;
	p->delimiter = ',';
	p->quote = '"';
	return &p->base;
}

/* Frees parser state. */
static void
csv_destroy(KsParser *parser)
{
	CsvParser  *p = (CsvParser *) parser;

	if (p == NULL)
		return;
	free(p->null);
	free(p->columns.fields);
	free(p->heads.fields);
	free(p->numbered);
	ks_arena_free(&p->names);
	ks_json_parser_destroy(parser);
}

/* Do two fields have one name? */
static bool
csv_same_name(const KsField *a, const KsField *b)
{
	return a->name_size == b->name_size && memcmp(a->name, b->name, a->name_size) == 0;
}

/* Takes the names of option "csv.columns".  Returns NULL or the cause. */
static const char *
csv_read_columns(CsvParser *p, const char *text)
{
	size_t		size = strlen(text);
	char	   *copy = ks_arena_alloc(&p->names, size + 1);
	KsParser	names = {.arena = p->names};
	const char *error;

	if (copy == NULL)
		return "out of memory";
	memcpy(copy, text, size);
	error = ks_json_names(&names, "", copy, size, &p->columns);
	p->names = names.arena;
	if (error != NULL || p->columns.count == 0)
		return "option \"csv.columns\" is not a JSON array of column names";
	for (int i = 0; i < p->columns.count; i++)
		for (int j = 0; j < i; j++)
			if (csv_same_name(&p->columns.fields[i], &p->columns.fields[j]))
				return "option \"csv.columns\" has a name twice";
	return NULL;
}

/* Takes options; see KsParserOps. */
static const char *
csv_configure(KsParser *parser, const KsParserOptions *options)
{
	CsvParser  *p = (CsvParser *) parser;

	ks_parser_key_format(parser, options, KS_KEY_TEXT);
	p->header = options->csv_header;
	if (options->csv_delimiter != '\0')
		p->delimiter = options->csv_delimiter;
	if (options->csv_quote != '\0')
		p->quote = options->csv_quote;
	if (p->delimiter == p->quote)
		return "options \"csv.delimiter\" and \"csv.quote\" are the same";
	if (strchr("\r\n", p->delimiter) != NULL || strchr("\r\n", p->quote) != NULL ||
		(unsigned char) p->delimiter >= 0x80 || (unsigned char) p->quote >= 0x80)
		return "options \"csv.delimiter\" and \"csv.quote\" must be ASCII, and no line ends";
	if (options->csv_null != NULL)
	{
		p->null = strdup(options->csv_null);
		if (p->null == NULL)
			return "out of memory";
		p->null_size = strlen(p->null);
		if (memchr(p->null, p->delimiter, p->null_size) != NULL || memchr(p->null, p->quote, p->null_size) != NULL ||
			strpbrk(p->null, "\r\n") != NULL)
			return "option \"csv.null\" has a delimiter, a quote or a line end in it";
	}
	if (options->csv_columns != NULL)
		return csv_read_columns(p, options->csv_columns);
	return NULL;
}

/* Gives field number i (from 0) its name.  False when out of memory. */
static bool
csv_number_field(CsvParser *p, KsField *field, int i)
{
	if (p->numbered == NULL && (p->numbered = calloc(CSV_MAX_COLUMNS, sizeof(KsField))) == NULL)
		return false;
	if (p->numbered[i].name == NULL)
	{
		char	   *name = ks_arena_alloc(&p->names, 16);

		if (name == NULL)
			return false;
		p->numbered[i].name_size = (uint32_t) snprintf(name, 16, "column%d", i + 1);
		p->numbered[i].name = name;
	}
	field->name = p->numbered[i].name;
	field->name_size = p->numbered[i].name_size;
	return true;
}

/* Words for what is wrong in the line at hand. */
static const char *
csv_error(CsvParser *p, int line, const char *what)
{
	snprintf(p->base.error, sizeof(p->base.error), "invalid CSV in line %d: %s", line, what);
	return p->base.error;
}

/* Reads the quoted field at pos into *field, and moves behind its closing quote.  Returns NULL or what is wrong. */
static const char *
csv_quoted_field(CsvParser *p, KsField *field)
{
	const char *begin = ++p->pos;
	const char *close;
	size_t		doubled = 0;

	for (;;)
	{
		close = memchr(p->pos, p->quote, p->end - p->pos);
		if (close == NULL)
			return "unterminated quoted field";
		p->pos = close + 1;
		if (p->pos == p->end || *p->pos != p->quote)
			break;
		doubled++;
		p->pos++;
	}
	for (const char *n = begin; (n = memchr(n, '\n', close - n)) != NULL; n++)
		p->line++;
	field->data = begin;
	field->size = (uint32_t) (close - begin);
	if (doubled > 0)
	{
		char	   *copy = ks_arena_alloc(&p->base.arena, field->size);
		char	   *out = copy;

		if (copy == NULL)
			return "out of memory";
		while (begin < close)
		{
			const char *quote = memchr(begin, p->quote, close - begin);
			size_t		plain = (quote != NULL ? quote + 1 : close) - begin;

			memcpy(out, begin, plain);
			out += plain;
			begin += plain + (quote != NULL ? 1 : 0);
		}
		field->data = copy;
		field->size = (uint32_t) (out - copy);
	}
	field->kind = KS_FIELD_STRING;
	return NULL;
}

/* Reads the unquoted field at pos into *field, and moves behind it.  Returns NULL or what is wrong. */
static const char *
csv_plain_field(CsvParser *p, KsField *field)
{
	const char *begin = p->pos;

	while (p->pos < p->end && *p->pos != p->delimiter && *p->pos != '\n' && *p->pos != '\r' && *p->pos != p->quote)
		p->pos++;
	if (p->pos < p->end && *p->pos == p->quote)
		return "quote inside an unquoted field";
	field->data = begin;
	field->size = (uint32_t) (p->pos - begin);
	field->kind = field->size == p->null_size && (field->size == 0 || memcmp(begin, p->null, field->size) == 0)
		? KS_FIELD_NULL : KS_FIELD_STRING;
	return NULL;
}

/* Moves over a line end at pos; false if there is none. */
static bool
csv_line_end(CsvParser *p)
{
	if (p->pos == p->end)
		return true;
	if (*p->pos == '\r')
	{
		p->pos++;
		if (p->pos < p->end && *p->pos == '\n')
			p->pos++;
	}
	else if (*p->pos == '\n')
		p->pos++;
	else
		return false;
	p->line++;
	return true;
}

/* Reads the line at pos into list, and moves to the next one.  Returns NULL or the cause. */
static const char *
csv_line(CsvParser *p, KsFieldList *list)
{
	int			line = p->line;

	list->count = 0;
	list->present = true;
	for (;;)
	{
		KsField    *field = ks_field_add(list);
		const char *wrong;

		if (field == NULL)
			return "out of memory";
		if (list->count > CSV_MAX_COLUMNS)
			return csv_error(p, line, "more than 1600 fields");
		if (p->pos < p->end && *p->pos == p->quote)
			wrong = csv_quoted_field(p, field);
		else
			wrong = csv_plain_field(p, field);
		if (wrong != NULL)
			return csv_error(p, line, wrong);
		field->has_nul = field->size > 0 && memchr(field->data, 0, field->size) != NULL;
		if (p->pos < p->end && *p->pos == p->delimiter)
		{
			p->pos++;
			continue;
		}
		if (!csv_line_end(p))
			return csv_error(p, line, "text behind a quoted field");
		return NULL;
	}
}

/* Reads the first line as names.  Returns NULL or the cause. */
static const char *
csv_read_header(CsvParser *p)
{
	int			line = p->line;
	const char *error = csv_line(p, &p->heads);

	if (error != NULL || p->columns.count > 0)
		return error;
	for (int i = 0; i < p->heads.count; i++)
	{
		KsField    *head = &p->heads.fields[i];

		head->name = head->data;
		head->name_size = head->size;
		if (head->size == 0)
			return csv_error(p, line, "a column has no name");
		for (int j = 0; j < i; j++)
			if (csv_same_name(head, &p->heads.fields[j]))
				return csv_error(p, line, "a column name comes twice");
	}
	p->named = &p->heads;
	return NULL;
}

/* Reads the next row; see KsParserOps. */
static const char *
csv_next(KsParser *parser, KsParsed *out)
{
	CsvParser  *p = (CsvParser *) parser;
	int			line = p->line;
	const char *error;

	out->more = false;
	error = csv_line(p, &out->after);
	if (error != NULL)
		return error;
	if (p->named != NULL && p->named->count != out->after.count)
	{
		snprintf(parser->error, sizeof(parser->error), "invalid CSV in line %d: it has %d fields, and there are %d columns",
				 line, out->after.count, p->named->count);
		return parser->error;
	}
	for (int i = 0; i < out->after.count; i++)
	{
		KsField    *field = &out->after.fields[i];

		if (p->named != NULL)
		{
			field->name = p->named->fields[i].name;
			field->name_size = p->named->fields[i].name_size;
		}
		else if (!csv_number_field(p, field, i))
			return "out of memory";
	}
	out->more = p->pos < p->end;
	return NULL;
}

/* Parses the first row of a message; see KsParserOps. */
static const char *
csv_parse(KsParser *parser, const KsMessage *message, KsParsed *out)
{
	CsvParser  *p = (CsvParser *) parser;
	const char *error;
	size_t		valid;

	ks_parsed_clear(out);
	error = ks_json_key(parser, message, false, out);
	if (error != NULL)
		return error;
	if (message->value == NULL)
	{
		if (message->key == NULL)
			return "neither key nor value";
		out->op = 'd';
		out->tombstone = true;
		return NULL;
	}
	if (message->value_size == 0)
		return "empty message";
	if (message->value_size > KS_JSON_MAX_SIZE)
		return "message is larger than 2 GB";
	valid = ks_utf8_check(message->value, message->value_size);
	if (valid < message->value_size)
	{
		snprintf(parser->error, sizeof(parser->error), "invalid UTF-8 at byte %zu", valid);
		return parser->error;
	}
	p->pos = message->value;
	p->end = message->value + message->value_size;
	p->line = 1;
	/* a byte order mark */
	if (message->value_size >= 3 && memcmp(p->pos, "\xef\xbb\xbf", 3) == 0)
		p->pos += 3;

	p->named = p->columns.count > 0 ? &p->columns : NULL;
	out->op = 'u';
	if (p->header)
	{
		error = csv_read_header(p);
		if (error != NULL)
			return error;
		/* names and no row */
		out->ignore = p->pos == p->end;
		if (out->ignore)
			return NULL;
	}
	out->order = p->named != NULL ? KS_BY_NAME : KS_BY_POSITION;
	return csv_next(parser, out);
}

const KsParserOps ks_csv_parser = {
	.name = "csv",
	.create = csv_create,
	.destroy = csv_destroy,
	.configure = csv_configure,
	.parse = csv_parse,
	.next = csv_next,
	.reset = ks_json_parser_reset,
};
