#!/usr/bin/env bash
# Writes docs/options.md from the table of options in the code (src/control/options.c), as kafka.option_reference() of a
# running server shows it. With --print it goes to standard output.
#
#   docs/generate.sh [--print] [psql arguments...]     a database that has the extension: PGHOST, PGDATABASE ... or -d, -p
#
# test/t/test_docs.py fails when the file is not what this writes.
set -euo pipefail

to=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/options.md
if [ "${1:-}" = --print ]; then to=/dev/stdout; shift; fi

text=$("${PSQL:-psql}" -X -A -t -q -v ON_ERROR_STOP=1 "$@" <<'SQL'
SET client_encoding = 'UTF8';
\set QUIET on
SELECT format(E'# Options of %ss\n\n| option | type | default | allowed | meaning |\n|---|---|---|---|---|\n%s\n', kind, string_agg(line, E'\n' ORDER BY n))
  FROM (SELECT n, kind,
               format('| `%s` | %s | %s | %s | %s |', option, type,
                      coalesce('`' || default_value || '`', ''),
                      replace(coalesce(allowed, CASE type WHEN 'boolean' THEN 'true, false'
                                                          WHEN 'object' THEN 'a JSON object'
                                                          WHEN 'array' THEN 'an array of strings'
                                                          ELSE 'a non-empty string' END), ' | ', ', '),
                      description) AS line
          FROM kafka.option_reference() WITH ORDINALITY AS o(kind, option, type, default_value, allowed, description, n)) t
 GROUP BY kind ORDER BY min(n);
SQL
)
[ -n "$text" ] || { echo "generate.sh: no options: is the extension in that database?" >&2; exit 1; }

cat >"$to" <<EOT
<!-- Written by docs/generate.sh from kafka.option_reference(). Do not edit: change src/control/options.c. -->

The keys of the \`options\` argument. In the jsonb, write numbers and booleans as such or as strings. An unknown key and a
value that is not allowed are an ERROR (\`invalid_parameter_value\`) that names the key, the value and what is allowed. A key
that is not in the table of its kind can also be one of librdkafka's own properties: see [reference.md](reference.md#properties).

$text
EOT
