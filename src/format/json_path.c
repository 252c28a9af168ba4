/*
 * json_path.c: see json_path.h.  Paths are kept as a tree, so that a message is scanned once whatever their number.
 */
#include "format/json_path.h"

#include "format/json_fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STEPS 64
#define MAX_PATHS 1600
#define MAX_INDEX 100000000

/* One step of one or several paths. */
typedef struct PathNode
{
	char	   *name;			/* of a member, NULL: element "index", or the root */
	uint32_t	name_size;
	long		index;
	int			nchildren;
	struct PathNode **children;
	int			ncolumns;
	int		   *columns;		/* paths that end here */
} PathNode;

typedef struct PathColumn
{
	char	   *name;
	uint32_t	name_size;
} PathColumn;

struct KsJsonPaths
{
	PathNode	root;
	int			ncolumns;
	PathColumn *columns;
};

/* Frees what a node has. */
static void
free_node(PathNode *node)
{
	for (int i = 0; i < node->nchildren; i++)
	{
		free_node(node->children[i]);
		free(node->children[i]);
	}
	free(node->children);
	free(node->columns);
	free(node->name);
}

/* Frees paths. */
void
ks_json_paths_free(KsJsonPaths *paths)
{
	if (paths == NULL)
		return;
	free_node(&paths->root);
	for (int i = 0; i < paths->ncolumns; i++)
		free(paths->columns[i].name);
	free(paths->columns);
	free(paths);
}

/* Returns a copy of bytes with a NUL behind them, NULL when out of memory. */
static char *
copy_name(const char *data, size_t size)
{
	char	   *copy = malloc(size + 1);

	if (copy != NULL)
	{
		memcpy(copy, data, size);
		copy[size] = '\0';
	}
	return copy;
}

/* The child for a member (name) or an element (name NULL), NULL if there is none. */
static PathNode *
find_child(const PathNode *node, const char *name, size_t name_size, long index)
{
	for (int i = 0; i < node->nchildren; i++)
	{
		PathNode   *child = node->children[i];

		if (name == NULL ? child->name == NULL && child->index == index :
			child->name != NULL && child->name_size == name_size && memcmp(child->name, name, name_size) == 0)
			return child;
	}
	return NULL;
}

/* The same, made if need be; NULL when out of memory. */
static PathNode *
make_child(PathNode *node, const char *name, size_t name_size, long index)
{
	PathNode   *child = find_child(node, name, name_size, index);
	PathNode  **children;

	if (child != NULL)
		return child;
	children = realloc(node->children, (node->nchildren + 1) * sizeof(PathNode *));
	if (children == NULL)
		return NULL;
	node->children = children;
	child = calloc(1, sizeof(PathNode));
	if (child == NULL)
		return NULL;
	if (name != NULL && (child->name = copy_name(name, name_size)) == NULL)
	{
		free(child);
		return NULL;
	}
	child->name_size = (uint32_t) name_size;
	child->index = index;
	node->children[node->nchildren++] = child;
	return child;
}

/* Reads "[digits]" at *pos; -1 if it is none. */
static long
read_index(const char **pos, const char *end)
{
	const char *p = *pos + 1;
	long		index = 0;

	if (p == end || *p < '0' || *p > '9')
		return -1;
	for (; p < end && *p >= '0' && *p <= '9'; p++)
		if ((index = index * 10 + (*p - '0')) > MAX_INDEX)
			return -1;
	if (p == end || *p != ']')
		return -1;
	*pos = p + 1;
	return index;
}

/* Reads a member's name at *pos, in quotes or not.  False if there is none. */
static bool
read_name(const char **pos, const char *end, KsArena *arena, const char **name, size_t *size)
{
	const char *p = *pos;

	if (p < end && *p == '"')
	{
		KsJson		json;
		KsField		value;

		ks_json_init(&json, p, end - p, arena);
		if (!ks_json_value(&json, &value))
			return false;
		*name = value.data;
		*size = value.size;
		*pos = json.pos;
		return true;
	}
	while (p < end && strchr(".[]\" \t\r\n", *p) == NULL)
		p++;
	*name = *pos;
	*size = p - *pos;
	*pos = p;
	return *size > 0;
}

/* How much of a text to show; whole characters. */
static int
words_size(const char *text, uint32_t size)
{
	return (int) ks_utf8_check(text, size < 64 ? size : 64);
}

/* Adds one path (a member of the option) to the tree.  False, with words in "cause", if it is none. */
static bool
add_path(KsJsonPaths *paths, KsArena *arena, const KsField *path, char *cause, size_t cause_size)
{
	const char *pos = path->data;
	const char *end = pos + path->size;
	PathNode   *node = &paths->root;
	int			steps = 0;
	int		   *columns;
	bool		bare = pos < end && *pos != '$' && *pos != '[';	/* the first dot may be left out */

	if (pos == end)
		goto bad;
	if (*pos == '$')
		pos++;
	while (pos < end)
	{
		const char *name = NULL;
		size_t		name_size = 0;
		long		index = -1;

		if (*pos == '[')
		{
			if ((index = read_index(&pos, end)) < 0)
				goto bad;
		}
		else if (*pos == '.' || bare)
		{
			if (!bare)
				pos++;
			bare = false;
			if (!read_name(&pos, end, arena, &name, &name_size))
				goto bad;
		}
		else
			goto bad;
		if (++steps > MAX_STEPS)
			goto bad;
		if ((node = make_child(node, name, name_size, index)) == NULL)
			goto memory;
	}
	columns = realloc(node->columns, (node->ncolumns + 1) * sizeof(int));
	if (columns == NULL)
		goto memory;
	node->columns = columns;
	node->columns[node->ncolumns++] = paths->ncolumns;
	if ((paths->columns[paths->ncolumns].name = copy_name(path->name, path->name_size)) == NULL)
		goto memory;
	paths->columns[paths->ncolumns++].name_size = path->name_size;
	return true;

bad:
	snprintf(cause, cause_size, "\"%.*s\" is no path of column \"%.*s\": a path is like a.b[0].\"c d\"",
			 words_size(path->data, path->size), path->data, words_size(path->name, path->name_size), path->name);
	return false;

memory:
	snprintf(cause, cause_size, "out of memory");
	return false;
}

/* Reads option "paths". */
KsJsonPaths *
ks_json_paths_create(const char *text, char *cause, size_t size)
{
	KsJsonPaths *paths = calloc(1, sizeof(KsJsonPaths));
	KsArena		arena = {0};
	KsJson		json;
	KsField		member;
	bool		first = true;
	int			more = -1;

	snprintf(cause, size, "out of memory");
	if (paths == NULL || (paths->columns = calloc(MAX_PATHS, sizeof(PathColumn))) == NULL)
		goto fail;
	ks_json_init(&json, text, strlen(text), &arena);
	snprintf(cause, size, "it is not a JSON object of paths");
	if (ks_json_peek(&json) != '{')
		goto fail;
	while ((more = ks_json_next_member(&json, &first, &member)) > 0)
	{
		if (!ks_json_value(&json, &member) || member.kind != KS_FIELD_STRING)
			goto fail;
		if (paths->ncolumns == MAX_PATHS)
		{
			snprintf(cause, size, "there are more than %d paths", MAX_PATHS);
			goto fail;
		}
		if (!add_path(paths, &arena, &member, cause, size))
			goto fail;
	}
	if (more < 0 || !ks_json_finish(&json))
		goto fail;
	ks_arena_free(&arena);
	return paths;

fail:
	ks_arena_free(&arena);
	ks_json_paths_free(paths);
	return NULL;
}

/* Is there a path that does not begin with a member? */
bool
ks_json_paths_take_any(const KsJsonPaths *paths)
{
	bool		any = paths->root.ncolumns > 0;

	for (int i = 0; i < paths->root.nchildren; i++)
		any = any || paths->root.children[i]->name == NULL;
	return any;
}

/* Forgets what was found below a node: of members that come twice, the last one counts. */
static void
clear_node(const PathNode *node, KsFieldList *list)
{
	for (int i = 0; i < node->ncolumns; i++)
	{
		KsField    *field = &list->fields[node->columns[i]];
		KsField		empty = {.name = field->name, .name_size = field->name_size};

		*field = empty;
	}
	for (int i = 0; i < node->nchildren; i++)
		clear_node(node->children[i], list);
}

/* Is a member called like a column that has a path? */
static bool
is_path_column(const KsJsonPaths *paths, const KsField *member)
{
	for (int i = 0; i < paths->ncolumns; i++)
		if (paths->columns[i].name_size == member->name_size &&
			memcmp(paths->columns[i].name, member->name, member->name_size) == 0)
			return true;
	return false;
}

/* Scans a member of the whole value that no path goes into. */
static bool
other_member(const KsJsonPaths *paths, KsJson *json, KsFieldList *list, const KsField *member)
{
	KsField    *field;

	if (is_path_column(paths, member))
		return ks_json_skip(json);
	field = ks_field_add(list);
	if (field == NULL)
	{
		json->error = "out of memory";
		json->error_at = json->pos - json->start;
		return false;
	}
	field->name = member->name;
	field->name_size = member->name_size;
	if (!ks_json_value(json, field))
		return false;
	/* where some column has the whole value, nothing is lost */
	field->optional = paths->root.ncolumns > 0;
	return true;
}

static bool scan_node(const KsJsonPaths *paths, const PathNode *node, KsJson *json, KsFieldList *list);

/* Goes into the value at hand for the children of a node.  The steps of a path bound the recursion. */
static bool
scan_children(const KsJsonPaths *paths, const PathNode *node, KsJson *json, KsFieldList *list)
{
	int			c = ks_json_peek(json);
	bool		first = true;
	int			more;

	if (c == '{')
	{
		KsField		member;

		while ((more = ks_json_next_member(json, &first, &member)) > 0)
		{
			PathNode   *child = find_child(node, member.name, member.name_size, -1);

			if (child != NULL ? !scan_node(paths, child, json, list) :
				node == &paths->root ? !other_member(paths, json, list, &member) :
				!ks_json_skip(json))
				return false;
		}
		return more == 0;
	}
	if (c == '[')
	{
		for (long index = 0; (more = ks_json_next_element(json, &first)) > 0; index++)
		{
			PathNode   *child = find_child(node, NULL, 0, index);

			if (child != NULL ? !scan_node(paths, child, json, list) : !ks_json_skip(json))
				return false;
		}
		return more == 0;
	}
	return ks_json_skip(json);
}

/* Scans the value at hand for the paths that end at a node and those that go on from there. */
static bool
scan_node(const KsJsonPaths *paths, const PathNode *node, KsJson *json, KsFieldList *list)
{
	KsField		value;
	KsJson		inner;

	clear_node(node, list);
	if (node->ncolumns == 0)
		return scan_children(paths, node, json, list);
	if (!ks_json_value(json, &value))
		return false;
	for (int i = 0; i < node->ncolumns; i++)
	{
		int			column = node->columns[i];

		value.name = paths->columns[column].name;
		value.name_size = paths->columns[column].name_size;
		list->fields[column] = value;
	}
	if (node->nchildren == 0 && node != &paths->root)
		return true;
	/* checked as part of the whole, gone into once more */
	ks_json_init(&inner, value.raw, value.raw_size, json->arena);
	if (!scan_children(paths, node, &inner, list))
	{
		json->error = inner.error;
		json->error_at = (value.raw - json->start) + inner.error_at;
		return false;
	}
	return true;
}

/* Scans a message's value; see json_path.h. */
bool
ks_json_paths_scan(const KsJsonPaths *paths, KsJson *json, KsFieldList *list)
{
	list->count = 0;
	list->present = true;
	for (int i = 0; i < paths->ncolumns; i++)
	{
		KsField    *field = ks_field_add(list);

		if (field == NULL)
		{
			json->error = "out of memory";
			return false;
		}
		field->name = paths->columns[i].name;
		field->name_size = paths->columns[i].name_size;
	}
	return scan_node(paths, &paths->root, json, list);
}
