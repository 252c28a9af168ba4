-- Topics as foreign tables: what is refused without asking a broker.
\set VERBOSITY default
CREATE SERVER nowhere FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');

-- Options are checked when they are given.
CREATE FOREIGN TABLE t (a int) SERVER nowhere OPTIONS (colour 'blue');
CREATE FOREIGN TABLE t (a int) SERVER nowhere OPTIONS (topic 'no spaces');
CREATE FOREIGN TABLE t (a int) SERVER nowhere OPTIONS (topic '');
CREATE FOREIGN TABLE t (a int) SERVER nowhere OPTIONS (format 'xml');
CREATE FOREIGN TABLE t (a int) SERVER nowhere OPTIONS (key_format 'yaml');
CREATE FOREIGN TABLE t (a int) SERVER nowhere OPTIONS (key 'a,,b');
CREATE FOREIGN TABLE t (a int) SERVER nowhere OPTIONS (timestamps 'sorted');
CREATE FOREIGN TABLE t (a int) SERVER nowhere OPTIONS (on_error 'ignore');
CREATE FOREIGN TABLE t (a int) SERVER nowhere OPTIONS (updatable 'perhaps');
CREATE FOREIGN TABLE t (a int) SERVER nowhere OPTIONS (use_remote_estimate '2');
CREATE FOREIGN TABLE t (a int OPTIONS (size '3')) SERVER nowhere;
CREATE FOREIGN TABLE t (a int OPTIONS (meta 'weather')) SERVER nowhere;
CREATE FOREIGN TABLE t (a int OPTIONS (path 'a..b')) SERVER nowhere;
SELECT format('CREATE FOREIGN TABLE t (a int OPTIONS (path %L)) SERVER nowhere', path)
FROM unnest('{"","[0]","a.","a b","a[x]","a[0","\"a","$","$a"}'::text[]) path
\gexec

-- What concerns several columns, or their types, when the table is used.
CREATE FOREIGN TABLE t (a int, b text) SERVER nowhere OPTIONS (topic 'x');
\set VERBOSITY terse
\set ON_ERROR_STOP 0
ALTER FOREIGN TABLE t ALTER a OPTIONS (meta 'offset');
SELECT * FROM t;
ALTER FOREIGN TABLE t ALTER a OPTIONS (SET meta 'timestamp');
SELECT * FROM t;
ALTER FOREIGN TABLE t ALTER a OPTIONS (SET meta 'headers');
SELECT * FROM t;
ALTER FOREIGN TABLE t ALTER a OPTIONS (SET meta 'op');
SELECT * FROM t;
ALTER FOREIGN TABLE t ALTER a OPTIONS (SET meta 'before');
SELECT * FROM t;
ALTER FOREIGN TABLE t ALTER a OPTIONS (SET meta 'error');
SELECT * FROM t;
ALTER FOREIGN TABLE t ALTER a OPTIONS (SET meta 'partition', ADD path 'x');
SELECT * FROM t;
ALTER FOREIGN TABLE t ALTER a OPTIONS (DROP meta, DROP path);
\set VERBOSITY default
ALTER FOREIGN TABLE t OPTIONS (ADD key 'c');
SELECT * FROM t;
ALTER FOREIGN TABLE t OPTIONS (SET key 'a, b', ADD key_format 'text');
SELECT * FROM t;
ALTER FOREIGN TABLE t OPTIONS (DROP key, DROP key_format, ADD format 'raw');
SELECT * FROM t;
ALTER FOREIGN TABLE t OPTIONS (SET format 'json', ADD on_error 'null');
SELECT * FROM t;
ALTER FOREIGN TABLE t OPTIONS (DROP on_error);

-- No broker is asked for a plan, nor for a query that needs none.
EXPLAIN (COSTS OFF) SELECT b FROM t WHERE a = 1 LIMIT 3;
SELECT * FROM t LIMIT 0;
SELECT * FROM t WHERE false;
-- The log cannot be changed, and is written in no other way than by INSERT.
UPDATE t SET a = 1;
DELETE FROM t;
TRUNCATE t;
INSERT INTO t VALUES (1, NULL) ON CONFLICT DO NOTHING;
EXPLAIN (COSTS OFF) INSERT INTO t VALUES (1);
-- What is not committed is never sent.
BEGIN;
INSERT INTO t VALUES (1), (2) RETURNING *;
ROLLBACK;
BEGIN;
SAVEPOINT s;
INSERT INTO t VALUES (1);
ROLLBACK TO s;
COMMIT;
BEGIN;
INSERT INTO t VALUES (1);
PREPARE TRANSACTION 'x';
ROLLBACK;
ALTER FOREIGN TABLE t OPTIONS (ADD updatable 'false');
INSERT INTO t VALUES (1);
ALTER FOREIGN TABLE t OPTIONS (SET updatable 'true', SET format 'debezium');
INSERT INTO t VALUES (1);
EXPLAIN INSERT INTO t VALUES (1);
DROP SERVER nowhere CASCADE;
