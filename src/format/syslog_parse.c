/*
 * syslog_parse.c: reads format syslog: RFC 5424, and RFC 3164 as it is met in the wild.  Plain C.
 *
 * The two are told apart by the version behind the priority.  Tolerated around both: an octet count (RFC 6587), a line
 * end or NUL at the end, a byte order mark.  Of RFC 3164, also: no host name, no tag, no time, no priority if there is a
 * time, a year or fraction in the time, and RFC 3339's times (rsyslog's forward and file formats).
 *
 * A target needs not have all the fields.
 */
#include "format/json_fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYSLOG_MAX_PARAMS 1024
#define SYSLOG_MAX_ELEMENTS 256

typedef struct SyslogParser
{
	KsParser	base;
	bool		lenient;
	char	   *zone;			/* option "syslog.time_zone", NULL: UTC */
	KsFieldList params;			/* of the structured data element at hand */

	/* the message at hand */
	const char *start;
	const char *pos;
	const char *end;
} SyslogParser;

/* What was read of a message; data NULL = nothing. */
typedef struct SyslogText
{
	const char *data;
	size_t		size;
} SyslogText;

typedef struct SyslogEvent
{
	int			priority;		/* -1: none */
	bool		rfc5424;
	SyslogText	timestamp;
	SyslogText	hostname;
	SyslogText	app_name;
	SyslogText	procid;
	SyslogText	msgid;
	SyslogText	structured_data;	/* JSON */
	SyslogText	message;
} SyslogEvent;

/* Returns new parser state, NULL when out of memory. */
static KsParser *
syslog_create(void)
{
	SyslogParser *p = calloc(1, sizeof(SyslogParser));

	if (p == NULL)
		return NULL;
	p->base.key_format = KS_KEY_TEXT;
	return &p->base;
}

/* Frees parser state. */
static void
syslog_destroy(KsParser *parser)
{
	SyslogParser *p = (SyslogParser *) parser;

	if (p == NULL)
		return;
	free(p->zone);
	free(p->params.fields);
	ks_json_parser_destroy(parser);
}

/* Takes options; see KsParserOps. */
static const char *
syslog_configure(KsParser *parser, const KsParserOptions *options)
{
	SyslogParser *p = (SyslogParser *) parser;

	ks_parser_key_format(parser, options, KS_KEY_TEXT);
	p->lenient = options->syslog_lenient;
	if (options->syslog_time_zone != NULL && (p->zone = strdup(options->syslog_time_zone)) == NULL)
		return "out of memory";
	return NULL;
}

/* Words for what is wrong at pos. */
static const char *
syslog_error(SyslogParser *p, const char *what)
{
	snprintf(p->base.error, sizeof(p->base.error), "invalid syslog at byte %zu: %s", (size_t) (p->pos - p->start), what);
	return p->base.error;
}

static inline bool
syslog_digit(const char *p, const char *end)
{
	return p < end && *p >= '0' && *p <= '9';
}

/* Reads exactly n digits at p (which has them if they are there) into *value; false if they are not digits. */
static bool
syslog_digits(const char *p, const char *end, int n, int *value)
{
	*value = 0;
	if (end - p < n)
		return false;
	for (int i = 0; i < n; i++)
	{
		if (!syslog_digit(p + i, end))
			return false;
		*value = *value * 10 + (p[i] - '0');
	}
	return true;
}

/* Reads "hh:mm:ss" and a fraction at p; returns the position behind it, NULL if it is none. */
static const char *
syslog_clock(const char *p, const char *end)
{
	int			hour;
	int			minute;
	int			second;

	if (!syslog_digits(p, end, 2, &hour) || hour > 23 || end - p < 8 || p[2] != ':' ||
		!syslog_digits(p + 3, end, 2, &minute) || minute > 59 || p[5] != ':' ||
		!syslog_digits(p + 6, end, 2, &second) || second > 60)
		return NULL;
	p += 8;
	if (p + 1 < end && *p == '.' && syslog_digit(p + 1, end))
		for (p++; syslog_digit(p, end); p++)
			;
	return p;
}

/* Days from 1970-01-01 to a date of the Gregorian calendar. */
static int64_t
syslog_days(int year, int month, int day)
{
	int64_t		y = month <= 2 ? year - 1 : year;
	int64_t		era = y / 400;
	int64_t		of_era = y - era * 400;
	int64_t		of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;

	return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static int
syslog_month_days(int year, int month)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool		leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

	return days[month - 1] + (month == 2 && leap ? 1 : 0);
}

/* Reads RFC 3339's time at p; returns the position behind it, NULL if it is none. */
static const char *
syslog_rfc3339(const char *p, const char *end)
{
	int			year;
	int			month;
	int			day;
	int			hours;
	int			minutes;

	if (end - p < 20 || !syslog_digits(p, end, 4, &year) || year == 0 || p[4] != '-' ||
		!syslog_digits(p + 5, end, 2, &month) || month < 1 || month > 12 || p[7] != '-' ||
		!syslog_digits(p + 8, end, 2, &day) || day < 1 || day > syslog_month_days(year, month) || p[10] != 'T')
		return NULL;
	p = syslog_clock(p + 11, end);
	if (p == NULL || p == end)
		return NULL;
	if (*p == 'Z')
		return p + 1;
	if ((*p != '+' && *p != '-') || end - p < 6 || !syslog_digits(p + 1, end, 2, &hours) || hours > 15 ||
		p[3] != ':' || !syslog_digits(p + 4, end, 2, &minutes) || minutes > 59)
		return NULL;
	return p + 6;
}

/* Reads the next token, which a space or the end of the text ends; "-" gives nothing.  Returns NULL or the cause. */
static const char *
syslog_token(SyslogParser *p, SyslogText *token, const char *what)
{
	const char *space = memchr(p->pos, ' ', p->end - p->pos);
	const char *stop = space != NULL ? space : p->end;

	if (stop == p->pos)
		return syslog_error(p, what);
	if (stop - p->pos != 1 || *p->pos != '-')
	{
		token->data = p->pos;
		token->size = stop - p->pos;
	}
	p->pos = space != NULL ? space + 1 : p->end;
	return NULL;
}

/* Appends text as a JSON string; an escape of structured data ("unescape") is undone first.  The caller made room. */
static char *
syslog_put_string(char *out, const char *text, size_t size, bool unescape)
{
	*out++ = '"';
	for (size_t i = 0; i < size; i++)
	{
		unsigned char c = (unsigned char) text[i];

		if (unescape && c == '\\' && i + 1 < size && strchr("\"\\]", text[i + 1]) != NULL && text[i + 1] != '\0')
			c = (unsigned char) text[++i];
		if (c == '"' || c == '\\')
		{
			*out++ = '\\';
			*out++ = (char) c;
		}
		else if (c < ' ')
			out += sprintf(out, "\\u%04x", c);
		else
			*out++ = (char) c;
	}
	*out++ = '"';
	return out;
}

/* Reads an SD-NAME at pos.  False if there is none. */
static bool
syslog_sd_name(SyslogParser *p, SyslogText *name)
{
	name->data = p->pos;
	while (p->pos < p->end && (unsigned char) *p->pos > ' ' && *p->pos != '=' && *p->pos != ']' && *p->pos != '"')
		p->pos++;
	name->size = p->pos - name->data;
	return name->size > 0;
}

/* Reads the parameters of an element, up to its closing bracket, into p->params.  Returns NULL or the cause. */
static const char *
syslog_params(SyslogParser *p)
{
	p->params.count = 0;
	while (p->pos < p->end && *p->pos == ' ')
	{
		SyslogText	name;
		KsField    *param;

		p->pos++;
		if (!syslog_sd_name(p, &name))
			return syslog_error(p, "expected the name of a parameter");
		if (p->end - p->pos < 2 || p->pos[0] != '=' || p->pos[1] != '"')
			return syslog_error(p, "expected =\" behind the name of a parameter");
		p->pos += 2;
		if (p->params.count == SYSLOG_MAX_PARAMS)
			return syslog_error(p, "more than 1024 parameters");
		param = ks_field_add(&p->params);
		if (param == NULL)
			return "out of memory";
		param->name = name.data;
		param->name_size = (uint32_t) name.size;
		param->data = p->pos;
		while (p->pos < p->end && *p->pos != '"')
			p->pos += *p->pos == '\\' && p->end - p->pos > 1 ? 2 : 1;
		if (p->pos >= p->end)
		{
			p->pos = p->end;
			return syslog_error(p, "unterminated value of a parameter");
		}
		param->size = (uint32_t) (p->pos - param->data);
		p->pos++;
	}
	if (p->pos == p->end || *p->pos != ']')
		return syslog_error(p, "expected ] behind the parameters");
	p->pos++;
	return NULL;
}

/* Writes the parameters as a JSON object; the values of a name that comes again make an array. */
static char *
syslog_put_params(char *out, KsFieldList *params)
{
	bool		comma = false;

	*out++ = '{';
	for (int i = 0; i < params->count; i++)
	{
		KsField    *param = &params->fields[i];
		bool		again = false;

		if (param->optional)	/* written with the first of its name */
			continue;
		if (comma)
			*out++ = ',';
		comma = true;
		out = syslog_put_string(out, param->name, param->name_size, false);
		*out++ = ':';
		for (int j = i + 1; j < params->count && !again; j++)
			again = params->fields[j].name_size == param->name_size &&
				memcmp(params->fields[j].name, param->name, param->name_size) == 0;
		if (again)
			*out++ = '[';
		out = syslog_put_string(out, param->data, param->size, true);
		for (int j = i + 1; j < params->count && again; j++)
		{
			KsField    *other = &params->fields[j];

			if (other->name_size != param->name_size || memcmp(other->name, param->name, param->name_size) != 0)
				continue;
			*out++ = ',';
			out = syslog_put_string(out, other->data, other->size, true);
			other->optional = true;
		}
		if (again)
			*out++ = ']';
	}
	*out++ = '}';
	return out;
}

/* Reads structured data into JSON: {"id": {"name": "value"}}.  Returns NULL or the cause. */
static const char *
syslog_structured_data(SyslogParser *p, SyslogText *result)
{
	SyslogText	ids[SYSLOG_MAX_ELEMENTS];
	int			count = 0;
	char	   *json;
	char	   *out;

	if (p->pos < p->end && *p->pos == '-')
	{
		p->pos++;
		return NULL;
	}
	if (p->pos == p->end || *p->pos != '[')
		return syslog_error(p, "expected structured data or -");
	/* one byte becomes six at most, and names, quotes and brackets have their counterparts */
	if ((size_t) (p->end - p->pos) > KS_JSON_MAX_SIZE / 8)
		return syslog_error(p, "structured data is too large");
	out = json = ks_arena_alloc(&p->base.arena, (size_t) (p->end - p->pos) * 6 + 16);
	if (json == NULL)
		return "out of memory";
	*out++ = '{';
	while (p->pos < p->end && *p->pos == '[')
	{
		const char *error;

		p->pos++;
		if (count == SYSLOG_MAX_ELEMENTS)
			return syslog_error(p, "more than 256 elements of structured data");
		if (!syslog_sd_name(p, &ids[count]))
			return syslog_error(p, "expected the name of an element");
		for (int i = 0; i < count; i++)
			if (ids[i].size == ids[count].size && memcmp(ids[i].data, ids[count].data, ids[i].size) == 0)
				return syslog_error(p, "an element of structured data comes twice");
		error = syslog_params(p);
		if (error != NULL)
			return error;
		if (count > 0)
			*out++ = ',';
		out = syslog_put_string(out, ids[count].data, ids[count].size, false);
		*out++ = ':';
		out = syslog_put_params(out, &p->params);
		count++;
	}
	*out++ = '}';
	result->data = json;
	result->size = out - json;
	return NULL;
}

/* Reads what follows priority and version of RFC 5424.  Returns NULL or the cause. */
static const char *
syslog_read_5424(SyslogParser *p, SyslogEvent *event)
{
	const char *error;

	event->rfc5424 = true;
	error = syslog_token(p, &event->timestamp, "expected a time or -");
	if (error != NULL)
		return error;
	if (event->timestamp.data != NULL &&
		syslog_rfc3339(event->timestamp.data, event->timestamp.data + event->timestamp.size) !=
		event->timestamp.data + event->timestamp.size)
	{
		p->pos = event->timestamp.data;
		return syslog_error(p, "expected a time like 2003-10-11T22:14:15.003Z");
	}
	if ((error = syslog_token(p, &event->hostname, "expected a host name or -")) != NULL ||
		(error = syslog_token(p, &event->app_name, "expected an application's name or -")) != NULL ||
		(error = syslog_token(p, &event->procid, "expected a process id or -")) != NULL ||
		(error = syslog_token(p, &event->msgid, "expected a message id or -")) != NULL ||
		(error = syslog_structured_data(p, &event->structured_data)) != NULL)
		return error;
	if (p->pos == p->end)
		return NULL;
	if (*p->pos != ' ')
		return syslog_error(p, "expected a space behind the structured data");
	p->pos++;
	if (p->end - p->pos >= 3 && memcmp(p->pos, "\xef\xbb\xbf", 3) == 0)
		p->pos += 3;
	event->message.data = p->pos;
	event->message.size = p->end - p->pos;
	return NULL;
}

/*
 * The year of a date without one: that which brings it nearest to the time of the record, in milliseconds.  0 if the
 * date is in none of three years (February 29), or the record has no time.
 */
static int
syslog_year(int month, int day, int64_t record_ms)
{
	int64_t		today = record_ms / 86400000;
	int			year = (int) (1970 + (today + 0.5) / 365.2425);
	int			best = 0;
	int64_t		best_distance = 0;

	if (record_ms < 0 || year > 9998)
		return 0;
	for (int y = year - 1; y <= year + 1; y++)
	{
		int64_t		distance;

		if (day > syslog_month_days(y, month))
			continue;
		distance = syslog_days(y, month, day) - today;
		if (distance < 0)
			distance = -distance;
		if (best == 0 || distance < best_distance)
		{
			best = y;
			best_distance = distance;
		}
	}
	return best;
}

/*
 * Reads RFC 3164's time at pos: "Oct 11 22:14:15", also with a year and a fraction, or RFC 3339's.  True and nothing in
 * *time if there is none; false with *error.
 */
static bool
syslog_time_3164(SyslogParser *p, int64_t record_ms, SyslogText *time, const char **error)
{
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	const char *end = p->end;
	const char *q = syslog_rfc3339(p->pos, end);
	const char *clock;
	const char *zone = p->zone != NULL ? p->zone : "UTC";
	int			month = 0;
	int			day = 0;
	int			year = 0;
	char	   *text;
	size_t		room;

	if (q != NULL)
	{
		time->data = p->pos;
		time->size = q - p->pos;
		p->pos = q;
		return true;
	}
	if (end - p->pos < 14)
		return true;
	for (int i = 0; i < 12; i++)
		if (memcmp(p->pos, months + 3 * i, 3) == 0)
			month = i + 1;
	q = p->pos + 3;
	if (month == 0 || *q != ' ')
		return true;
	q++;
	if (*q == ' ')
		q++;
	for (int n = 0; n < 2 && syslog_digit(q, end); n++)
		day = day * 10 + (*q++ - '0');
	if (day < 1 || day > 31 || q == end || *q != ' ')
		return true;
	q++;
	if (syslog_digits(q, end, 4, &year) && end - q > 5 && q[4] == ' ')
		q += 5;
	else
		year = 0;
	clock = q;
	q = syslog_clock(clock, end);
	if (q == NULL)
		return true;

	if (year == 0)
		year = syslog_year(month, day, record_ms);
	if (year == 0 || day > syslog_month_days(year, month))
	{
		*error = syslog_error(p, year == 0 ? "no year has this date near the time of the record" : "there is no such date");
		return false;
	}
	room = 16 + (q - clock) + 1 + strlen(zone) + 1;
	text = ks_arena_alloc(&p->base.arena, room);
	if (text == NULL)
	{
		*error = "out of memory";
		return false;
	}
	time->data = text;
	time->size = snprintf(text, room, "%04d-%02d-%02d %.*s %s", year, month, day, (int) (q - clock), clock, zone);
	p->pos = q;
	return true;
}

/*
 * Reads a tag at pos, "su:" or "sshd[123]:", and moves behind it and a space; stays where there is none.
 */
static void
syslog_tag(SyslogParser *p, SyslogEvent *event)
{
	const char *q = p->pos;
	const char *bracket = NULL;
	const char *stop;

	while (q < p->end && (unsigned char) *q > ' ' && *q != ':' && *q != '[')
		q++;
	stop = q;
	if (q == p->pos || q == p->end)
		return;
	if (*q == '[')
	{
		bracket = q + 1;
		while (q < p->end && (unsigned char) *q > ' ' && *q != ']')
			q++;
		if (q == p->end || *q != ']' || q == bracket)
			return;
		q++;
	}
	else if (*q != ':')
		return;
	if (q < p->end && *q == ':')
		q++;
	/* "http://" is none */
	if (q < p->end && *q != ' ')
		return;
	event->app_name.data = p->pos;
	event->app_name.size = stop - p->pos;
	if (bracket != NULL)
	{
		event->procid.data = bracket;
		event->procid.size = (const char *) memchr(bracket, ']', q - bracket) - bracket;
	}
	p->pos = q < p->end ? q + 1 : q;
}

/* Reads what follows the priority (which may be missing) of RFC 3164.  Returns NULL or the cause. */
static const char *
syslog_read_3164(SyslogParser *p, int64_t record_ms, SyslogEvent *event)
{
	const char *error = NULL;

	if (!syslog_time_3164(p, record_ms, &event->timestamp, &error))
		return error;
	if (event->timestamp.data == NULL)
	{
		if (event->priority < 0)
			return syslog_error(p, "there is neither a priority nor a time");
	}
	else
	{
		const char *space;

		if (p->pos < p->end && *p->pos == ':')
			p->pos++;
		if (p->pos < p->end && *p->pos != ' ')
			return syslog_error(p, "expected a space behind the time");
		while (p->pos < p->end && *p->pos == ' ')
			p->pos++;
		/* a host name, unless that is a tag already */
		space = memchr(p->pos, ' ', p->end - p->pos);
		if (space != NULL && space[-1] != ':' && memchr(p->pos, '[', space - p->pos) == NULL)
		{
			event->hostname.data = p->pos;
			event->hostname.size = space - p->pos;
			p->pos = space + 1;
		}
	}
	syslog_tag(p, event);
	event->message.data = p->pos;
	event->message.size = p->end - p->pos;
	return NULL;
}

/* Moves over an octet count, which must be right.  Returns NULL or the cause. */
static const char *
syslog_octet_count(SyslogParser *p)
{
	const char *q = p->pos;
	size_t		count = 0;

	while (q - p->pos < 9 && syslog_digit(q, p->end))
		count = count * 10 + (*q++ - '0');
	if (q == p->pos || p->end - q < 2 || q[0] != ' ' || q[1] != '<')
		return NULL;
	q++;
	/* a line end may have been counted, which is cut off by now */
	if (count < (size_t) (p->end - q) || count > (size_t) (p->end - q) + 2)
		return syslog_error(p, "the octet count is not the length of the message");
	p->pos = q;
	return NULL;
}

/* Reads "<priority>" at pos into *priority, -1 if there is none.  Returns NULL or the cause. */
static const char *
syslog_priority(SyslogParser *p, int *priority)
{
	const char *q = p->pos + 1;

	*priority = -1;
	if (p->pos == p->end || *p->pos != '<')
		return NULL;
	*priority = 0;
	while (q - p->pos < 4 && syslog_digit(q, p->end))
		*priority = *priority * 10 + (*q++ - '0');
	if (q == p->pos + 1 || q == p->end || *q != '>' || *priority > 191)
		return syslog_error(p, "expected a priority from <0> to <191>");
	p->pos = q + 1;
	return NULL;
}

/* Reads the text in p.  Returns NULL or the cause. */
static const char *
syslog_read(SyslogParser *p, int64_t record_ms, SyslogEvent *event)
{
	const char *error;
	const char *q;

	event->priority = -1;
	if ((error = syslog_octet_count(p)) != NULL ||
		(error = syslog_priority(p, &event->priority)) != NULL)
		return error;
	for (q = p->pos; q - p->pos < 3 && syslog_digit(q, p->end); q++)
		;
	if (event->priority < 0 || q == p->pos || q == p->end || *q != ' ')
		return syslog_read_3164(p, record_ms, event);
	if (q - p->pos != 1 || *p->pos != '1')
		return syslog_error(p, "the version is not 1");
	p->pos = q + 1;
	return syslog_read_5424(p, event);
}

/* Adds a field that the target needs not have.  False when out of memory. */
static bool
syslog_put(KsFieldList *list, const char *name, KsFieldKind kind, const char *data, size_t size)
{
	KsField    *field = ks_field_add(list);

	if (field == NULL)
		return false;
	field->name = name;
	field->name_size = (uint32_t) strlen(name);
	field->kind = data != NULL ? kind : KS_FIELD_NULL;
	field->optional = true;
	field->data = data;
	field->size = (uint32_t) size;
	field->raw = kind == KS_FIELD_STRING ? NULL : data;
	field->raw_size = kind == KS_FIELD_STRING ? 0 : (uint32_t) size;
	field->has_nul = kind == KS_FIELD_STRING && size > 0 && memchr(data, 0, size) != NULL;
	return true;
}

/* Gives an event's fields to list.  False when out of memory. */
static bool
syslog_put_event(KsFieldList *list, const SyslogEvent *event)
{
	static const char *const facilities[] = {
		"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp", "audit",
		"alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"
	};
	static const char *const severities[] = {"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"};
	static const char *const numbers[] = {
		"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20",
		"21", "22", "23"
	};
	const char *facility = event->priority < 0 ? NULL : numbers[event->priority / 8];
	const char *severity = event->priority < 0 ? NULL : numbers[event->priority % 8];
	const char *facility_text = facility == NULL ? NULL : facilities[event->priority / 8];
	const char *severity_text = severity == NULL ? NULL : severities[event->priority % 8];

#define PUT_WORD(name, kind, word) syslog_put(list, name, kind, word, word != NULL ? strlen(word) : 0)
#define PUT_TEXT(field) syslog_put(list, #field, KS_FIELD_STRING, event->field.data, event->field.size)
	return PUT_WORD("facility", KS_FIELD_NUMBER, facility) &&
		PUT_WORD("severity", KS_FIELD_NUMBER, severity) &&
		PUT_WORD("facility_text", KS_FIELD_STRING, facility_text) &&
		PUT_WORD("severity_text", KS_FIELD_STRING, severity_text) &&
		PUT_TEXT(timestamp) && PUT_TEXT(hostname) && PUT_TEXT(app_name) && PUT_TEXT(procid) && PUT_TEXT(msgid) &&
		syslog_put(list, "structured_data", KS_FIELD_OBJECT, event->structured_data.data, event->structured_data.size) &&
		PUT_TEXT(message);
#undef PUT_WORD
#undef PUT_TEXT
}

/* Returns the text with U+FFFD for what is not UTF-8, and for NUL; NULL when out of memory. */
static const char *
syslog_mend(KsArena *arena, const char *text, size_t *size)
{
	const char *end = text + *size;
	char	   *result = ks_arena_alloc(arena, *size * 3 + 1);
	char	   *out = result;

	if (result == NULL)
		return NULL;
	while (text < end)
	{
		size_t		valid = ks_utf8_check(text, end - text);
		const char *nul = memchr(text, 0, valid);

		if (nul != NULL)
			valid = nul - text;
		memcpy(out, text, valid);
		out += valid;
		text += valid;
		if (text < end)
		{
			memcpy(out, "\xef\xbf\xbd", 3);
			out += 3;
			text++;
		}
	}
	*size = out - result;
	return result;
}

/* Parses one message; see KsParserOps. */
static const char *
syslog_parse(KsParser *parser, const KsMessage *message, KsParsed *out)
{
	SyslogParser *p = (SyslogParser *) parser;
	SyslogEvent event = {0};
	const char *error;
	const char *text = message->value;
	size_t		size = message->value_size;
	size_t		valid;

	ks_parsed_clear(out);
	error = ks_json_key(parser, message, false, out);
	if (error != NULL)
		return error;
	if (text == NULL)
	{
		if (message->key == NULL)
			return "neither key nor value";
		out->op = 'd';
		out->tombstone = true;
		return NULL;
	}
	if (size > KS_JSON_MAX_SIZE / 3)
		return "message is larger than 700 MB";
	while (size > 0 && text[size - 1] == '\0')
		size--;
	if (size > 0 && text[size - 1] == '\n')
		size--;
	if (size > 0 && text[size - 1] == '\r')
		size--;
	if (size == 0 && !p->lenient)
		return "empty message";
	valid = ks_utf8_check(text, size);
	if (p->lenient && (valid < size || memchr(text, 0, size) != NULL))
	{
		text = syslog_mend(&parser->arena, text, &size);
		if (text == NULL)
			return "out of memory";
	}
	else if (valid < size)
	{
		snprintf(parser->error, sizeof(parser->error), "invalid UTF-8 at byte %zu", valid);
		return parser->error;
	}
	p->start = p->pos = text;
	p->end = text + size;
	if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
		p->pos += 3;
	error = syslog_read(p, message->timestamp_ms, &event);
	if (error != NULL)
	{
		if (!p->lenient)
			return error;
		memset(&event, 0, sizeof(event));
		event.priority = -1;
		event.message.data = text;
		event.message.size = size;
	}
	out->op = 'u';
	out->after.present = true;
	if (!syslog_put_event(&out->after, &event))
		return "out of memory";
	return NULL;
}

const KsParserOps ks_syslog_parser = {
	.name = "syslog",
	.create = syslog_create,
	.destroy = syslog_destroy,
	.configure = syslog_configure,
	.parse = syslog_parse,
	.reset = ks_json_parser_reset,
};
