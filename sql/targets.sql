-- Targets of subscriptions: what add_target refuses, with the reason, and what it stores.
\set SHOW_CONTEXT never
\set VERBOSITY default
\pset format unaligned
\getenv kafka KAFKA_BOOTSTRAP
SET client_min_messages = warning;
CREATE SERVER targets FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" :'kafka');
SELECT kafka.create_topic('targets', 'targets.t', 1, if_not_exists => true);
CREATE SCHEMA tg;
CREATE TABLE tg.plain (id int PRIMARY KEY, a text);
CREATE TABLE tg.t (id int PRIMARY KEY, a text, n bigint, g int GENERATED ALWAYS AS (id * 2) STORED, d date DEFAULT current_date);
CREATE TABLE tg.log (id int, a text);
CREATE TABLE tg.hours (hour timestamptz, place text, n bigint, total numeric, hot bool, PRIMARY KEY (hour, place));
CREATE TABLE tg.names (code text PRIMARY KEY, name text);
CREATE VIEW tg.v AS SELECT 1 AS id;
CREATE SERVER tg_files FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'nowhere:9');
CREATE FOREIGN TABLE tg.f (id int) SERVER tg_files;
SELECT kafka.create_subscription('tg', 'targets', '{targets.t}', enabled => false);
SELECT state, targets FROM kafka.subscription_status WHERE name = 'tg';

-- batch has rows only where messages are applied
SELECT * FROM kafka.batch;
\d kafka.batch
-- arguments
SELECT kafka.add_target('nobody', 'tg.t');
SELECT kafka.add_target('tg', NULL);
SELECT kafka.add_target('tg', 'tg.v');
SELECT kafka.add_target('tg', 'tg.f');
SELECT kafka.add_target('tg', 'tg.log');
SELECT kafka.add_target('tg', 'kafka.publisher');
SELECT kafka.add_target('tg', 'tg.t', mode => 'replace');
SELECT kafka.add_target('tg', 'tg.t', key => '{a}');
SELECT kafka.add_target('tg', 'tg.log', mode => 'append', key => '{id}');
SELECT kafka.add_target('tg', 'tg.hours', mode => 'merge');
SELECT kafka.create_subscription('other', 'targets', '{targets.t}', 'tg.hours', mode => 'merge');
SELECT kafka.add_target('tg', 'tg.t', merge => '{"n": "sum"}');
-- the query: one SELECT
SELECT kafka.add_target('tg', 'tg.t', '');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT 1; SELECT 2');
SELECT kafka.add_target('tg', 'tg.t', 'DROP TABLE tg.t');
SELECT kafka.add_target('tg', 'tg.t', 'INSERT INTO tg.t SELECT 1');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT 1 AS id INTO tg.u FROM batch');
SELECT kafka.add_target('tg', 'tg.t', 'WITH x AS (DELETE FROM tg.t RETURNING id) SELECT id FROM x, batch');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT (after->>''id'')::int AS id FROM batch FOR UPDATE');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT nope FROM batch');
SELECT kafka.add_target('tg', 'tg.t', 'SELEC 1');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT $1 AS id FROM batch');
CREATE TEMP TABLE tt (id int);
SELECT kafka.add_target('tg', 'tg.t', 'SELECT tt.id FROM batch JOIN tt ON tt.id = (after->>''id'')::int');
DROP TABLE tt;
-- its columns go to those of the same name
SELECT kafka.add_target('tg', 'tg.t', 'SELECT (after->>''id'')::int FROM batch');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT (after->>''id'')::int AS id, 1 AS z FROM batch');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT (after->>''id'')::int AS id, 1 AS ctid FROM batch');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT (after->>''id'')::int AS id, ''a'' AS a, ''b'' AS a FROM batch');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT (after->>''id'')::int AS id, 1 AS g FROM batch');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT after->>''id'' AS id FROM batch');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT after->>''a'' AS a FROM batch');
-- merge: a function that suits for each column that is not in the key
\set q '\'SELECT date_bin(\'\'1 hour\'\', ts, \'\'2000-01-01\'\') AS hour, after->>\'\'place\'\' AS place, count(*) AS n, sum((after->>\'\'amount\'\')::numeric) AS total FROM batch GROUP BY 1, 2\''
SELECT kafka.add_target('tg', 'tg.hours', :q, mode => 'merge');
SELECT kafka.add_target('tg', 'tg.hours', :q, mode => 'merge', merge => '["n"]');
SELECT kafka.add_target('tg', 'tg.hours', :q, mode => 'merge', merge => '{"n": "avg", "total": "sum"}');
SELECT kafka.add_target('tg', 'tg.hours', :q, mode => 'merge', merge => '{"n": 1, "total": "sum"}');
SELECT kafka.add_target('tg', 'tg.hours', :q, mode => 'merge', merge => '{"n": "sum"}');
SELECT kafka.add_target('tg', 'tg.hours', :q, mode => 'merge', merge => '{"n": "sum", "total": "sum", "hot": "or"}');
SELECT kafka.add_target('tg', 'tg.hours', :q, mode => 'merge', merge => '{"n": "sum", "total": "sum", "place": "max"}');
SELECT kafka.add_target('tg', 'tg.hours', :q, mode => 'merge', merge => '{"n": "or", "total": "sum"}');
-- options
\set m 'mode => \'merge\', merge => \'{"n": "count", "total": "sum"}\''
SELECT kafka.add_target('tg', 'tg.hours', :q, :m, options => '{"retian": "1 day"}');
SELECT kafka.add_target('tg', 'tg.hours', :q, :m, options => '{"linger.ms": 5}');
SELECT kafka.add_target('tg', 'tg.hours', :q, :m, options => '{"retain": "1 day"}');
SELECT kafka.add_target('tg', 'tg.hours', :q, :m, options => '{"retain": "1 dya", "window": "hour"}');
SELECT kafka.add_target('tg', 'tg.hours', :q, :m, options => '{"grace": "-1 day", "window": "hour"}');
SELECT kafka.add_target('tg', 'tg.hours', :q, :m, options => '{"retain": "1 day", "window": "place"}');
SELECT kafka.add_target('tg', 'tg.hours', :q, :m, options => '{"late": "drop"}');
SELECT kafka.add_target('tg', 'tg.hours', :q, :m, options => '{"grace": "1 day", "window": "hour", "late": "keep"}');
SELECT kafka.add_target('tg', 'tg.t', options => '{"retain": "1 day", "window": "d"}');
SELECT kafka.add_target('tg', 'tg.t', options => '{"hydrate": "perhaps"}');
-- nothing of that is left
SELECT count(*) AS targets FROM kafka.subscription_target;
SELECT count(*) AS views FROM pg_class WHERE relname LIKE 'target_query_%';

-- what is stored; names come from the caller's search_path, batch is ours even where a table has that name
CREATE TABLE tg.batch (id int);
SET search_path = tg, public;
SELECT kafka.add_target('tg', 'plain');
SELECT kafka.add_target('tg', 'plain');
SELECT kafka.add_target('tg', 't', $$SELECT (after->>'id')::int AS id, names.name AS a, 7::smallint AS n
  FROM batch JOIN names ON code = after->>'code'$$);
SELECT kafka.add_target('tg', 'log', 'SELECT (after->>''id'')::int AS id, op::varchar(5) AS a FROM batch b', mode => 'append');
SELECT kafka.add_target('tg', 'hours', :q, :m, options => '{"retain": "30 days", "grace": "1 hour", "window": "hour", "late": "drop"}');
RESET search_path;
SELECT subscription, target, mode, key, query IS NOT NULL AS query, merge, options, view IS NOT NULL AS view
  FROM kafka.subscription_targets ORDER BY target::text;
SELECT targets FROM kafka.subscription_status WHERE name = 'tg';
SELECT pg_get_viewdef(view) FROM kafka.subscription_targets WHERE view IS NOT NULL ORDER BY target::text;
-- CTEs of that name are the query's own
SELECT kafka.drop_target('tg', 'tg.t');
SELECT kafka.add_target('tg', 'tg.t', 'WITH batch AS (SELECT 1 AS id FROM batch) SELECT id FROM batch');
SELECT kafka.add_target('tg', 'tg.t', $$WITH batch AS (SELECT 7 AS n) SELECT (b.after->>'id')::int AS id, batch.n FROM kafka.batch b, batch$$);
SELECT pg_get_viewdef(view) FROM kafka.subscription_targets WHERE target = 'tg.t'::regclass;
SELECT kafka.drop_target('tg', 'tg.t');
SELECT kafka.add_target('tg', 'tg.t', $$SELECT (after->>'id')::int AS id, x.n
  FROM batch, (WITH RECURSIVE c AS (TABLE batch), batch AS (SELECT 2 AS n) SELECT n FROM c) x$$);
SELECT pg_get_viewdef(view) FROM kafka.subscription_targets WHERE target = 'tg.t'::regclass;
-- what cannot be kept exact
SELECT kafka.drop_target('tg', 'tg.t');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT 1 AS id');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT (after->>''id'')::int AS id, count(*) AS n FROM batch GROUP BY 1');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT (after->>''id'')::int AS id FROM batch LIMIT 5');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT length(after->>''id'') AS id FROM batch');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT (a.after->>''id'')::int AS id FROM batch a, batch b');
SELECT kafka.drop_target('tg', 'tg.hours');
SELECT kafka.add_target('tg', 'tg.hours', replace(:q, 'sum(', 'avg('), mode => 'merge', merge => '{"n": "sum", "total": "sum"}');
SELECT kafka.add_target('tg', 'tg.hours', :q, :m);
SELECT kafka.add_target('tg', 'tg.t', $$SELECT (after->>'id')::int AS id FROM batch$$);
-- the foreign table of a topic in the place of batch
SELECT kafka.drop_target('tg', 'tg.t');
CREATE FOREIGN TABLE tg.s (gone int, id int, a text OPTIONS (path 'x.a'), n numeric(4,1), "offset" bigint OPTIONS (meta 'offset'),
  e text OPTIONS (meta 'error')) SERVER targets OPTIONS (topic 'targets.t', format 'debezium');
ALTER FOREIGN TABLE tg.s DROP gone;
CREATE FOREIGN TABLE tg.other (id int) SERVER targets;
CREATE FOREIGN TABLE tg.json (id int) SERVER targets OPTIONS (topic 'targets.t');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT id FROM tg.other');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT s.id FROM tg.s, tg.other');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT s.id FROM tg.s, batch');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT id FROM tg.json');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT id, e AS a FROM tg.s');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT n::int AS id FROM tg.s');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT id, sum(n) AS n FROM tg.s GROUP BY 1');
SELECT kafka.add_target('tg', 'tg.t', 'SELECT id, a, "offset" AS n FROM tg.s WHERE a > ''b''');
SELECT pg_get_viewdef(view), source FROM kafka.subscription_target WHERE target = 'tg.t'::regclass;
\set VERBOSITY terse
DROP FOREIGN TABLE tg.s;
ALTER FOREIGN TABLE tg.s DROP a;
\set VERBOSITY default
-- drop_target
SELECT kafka.drop_target('tg', 'tg.names');
SELECT kafka.drop_target('tg', NULL);
SELECT kafka.drop_target('nobody', 'tg.t');
SELECT kafka.drop_target('tg', 'tg.log');
SELECT count(*) AS targets, count(view) AS views FROM kafka.subscription_targets;
SELECT count(*) AS views FROM pg_class WHERE relname LIKE 'target_query_%';
-- what is used cannot be dropped in silence
DROP TABLE tg.plain;
SELECT kafka.drop_subscription('tg');
SELECT count(*) AS views FROM pg_class WHERE relname LIKE 'target_query_%';
DROP SCHEMA tg CASCADE;
SELECT kafka.drop_topic('targets', 'targets.t');
DROP SERVER tg_files;
DROP SERVER targets;
