-- Format debezium: keys and values as the connector writes them, printed by the output plugin.
\set SHOW_CONTEXT never
\pset format unaligned
SET client_min_messages = warning;
-- The formats do not depend on the session.
SET DateStyle = 'German';
SET TimeZone = 'America/New_York';
SET IntervalStyle = 'iso_8601';
SET extra_float_digits = 0;
SET bytea_output = 'escape';
-- Newer minors take only output plugins that are named.
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_settings WHERE name = 'output_plugin_libraries') THEN
    PERFORM set_config('output_plugin_libraries', current_setting('output_plugin_libraries') || ', pg_kafka_sync', false);
  END IF;
END $$;
CREATE SCHEMA fd;
SET search_path = fd, public;
CREATE PUBLICATION fd_pub FOR TABLES IN SCHEMA fd;
CREATE DOMAIN dom AS numeric(12,3);
CREATE TYPE mood AS ENUM ('sad', 'o"k', 'happy');
CREATE TYPE comp AS (a int, b text, ts timestamptz);

-- What the slot holds: topic, key, value without what changes from run to run, and the headers beside the position.
CREATE FUNCTION events(VARIADIC options text[] DEFAULT '{}') RETURNS TABLE (topic text, key text, value text, headers text)
LANGUAGE sql AS $$
  SELECT f[1], f[2],
         regexp_replace(regexp_replace(f[3], '"source":\{.*\},"transaction"', '"source":{},"transaction"'),
                        ',"ts_ms":\d+,"ts_us":\d+,"ts_ns":\d+000\}', '}'),
         array_to_string(f[5:], ' ')
  FROM (SELECT string_to_array(data, E'\t') AS f
        FROM pg_logical_slot_get_changes('fd_slot', NULL, NULL, VARIADIC
             ARRAY['publication', 'fd_pub', 'topic_prefix', 'srv'] || options)) s
$$;
-- The columns of the rows after (or before), one a line.
CREATE FUNCTION fields(part text, VARIADIC options text[] DEFAULT '{}') RETURNS TABLE (field text, json text)
LANGUAGE sql AS $$
  SELECT j.key, j.value::text FROM events(VARIADIC options) e, json_each(e.value::json -> part) j
  WHERE j.value::text <> 'null'
$$;
SELECT slot_name FROM pg_create_logical_replication_slot('fd_slot', 'pg_kafka_sync');

-- Every built-in type, with the values that are known from the connector.
CREATE TABLE types (
  id int PRIMARY KEY, b bool, i2 int2, i8 int8, o oid, f4 float4, f8 float8, n numeric(12,3), nv numeric, n0 numeric(5), nn numeric(5,-2),
  m money, bit1 bit(1), bit5 bit(5), vb varbit, vb8 varbit(8), d date, t time, t3 time(3), tz timetz, ts timestamp, ts3 timestamp(3),
  tstz timestamptz, tstz0 timestamptz(0), tstz3 timestamptz(3), iv interval, by bytea, tx text, vc varchar(10), ch char(4), nm name, q "char",
  inet inet, cidr cidr, mac macaddr, mac8 macaddr8, js json, jb jsonb, u uuid, en mood, dm dom, co comp, p point, ln line, ls lseg, bx box,
  pa path, po polygon, ci circle, r4 int4range, r8 int8range, rn numrange, rt tsrange, rtz tstzrange, rd daterange, mr int4multirange,
  lsn pg_lsn, snap pg_snapshot, tsv tsvector, tsq tsquery, v2 int2vector, vo oidvector, xi xid, x8 xid8, ti tid, rc regclass, jp jsonpath);
INSERT INTO types VALUES (
  1, true, -32768, 9223372036854775807, 4294967295, 'NaN', '-Infinity', 123.456, -0.5, 99999, 12345,
  '-0.01'::numeric::money, '1', '10101', '101', '', '2024-02-29', '23:59:59.999999', '12:34:56.789', '12:34:56.789012+05:30', 'infinity', '2024-01-01 00:00:00.5',
  '1969-12-31 23:59:59.5+00', '2024-01-01 00:00:00+00', '-infinity', 'P1Y2M3DT4H5M6.789S', '\x00ff10', E'a"b\\c\n\t\x01é😀', 'vc', 'ab', 'nm', 'c',
  '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '{"a": [1, 2]}', '{"b":null,"a":1.50}', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
  'o"k', 5.5, ROW(1, 'x"y', '2024-01-01 00:00:00+00'), '(1.5,-2)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)',
  '((0,0),(1,1))', '((0,0),(1,1))', '<(0,0),1.5>', '[1,3)', '[1,3)', '[1.0,2.5]', '[2020-01-01,2020-02-01)', '[2020-01-01 00:00+00,2020-02-01 00:00+00)',
  '[2020-01-01,2020-02-01)', '{[1,3),[5,8)}', '16/B374D848', '10:20:10,14', 'a:1 fat:2', 'fat & rat', '1 2 3', '1 2', '7', '8', '(0,1)', 'pg_class', '$.a[*]');
SELECT * FROM fields('after');
-- The other edges.
INSERT INTO types (id, f4, f8, n, nv, m, bit5, d, t, tz, ts, ts3, tstz, iv, i8, jb, js) VALUES
  (2, 1e10, 1e-5, -999999999.999, 100, 92233720368547758.07::numeric::money, '00000', 'infinity', '24:00', '24:00:00+00', '-infinity', 'infinity',
   '0044-03-15 12:00:00+00 BC', 'P-1M2DT-3H-4M-5.5S', -9223372036854775808, 'null', ' null '),
  (3, 1234567, 123456789, 0, -12345678901234567890123456789012345678901234567890.123456789, 0::numeric::money, NULL, '-infinity', '00:00', '00:00:00.5-01',
   '4713-01-01 BC', '-infinity', '12345-06-07 01:02:03.000001+00', 'PT0S', 0, '[]', '"x"'),
  (4, 'Infinity', 1e7, 0.128, 0.0000010, '-92233720368547758.08'::numeric::money, NULL, '5874897-12-31', NULL, NULL, '294247-01-10 04:00:54.775806', '294276-12-31 23:59:59.999',
   '294276-12-31 23:59:59.999999+00', 'PT-0.5S', 1, 'true', '{}');
SELECT * FROM fields('after');

-- The modes.
CREATE TABLE modes (id int PRIMARY KEY, n numeric(12,3), nv numeric, m money, t time(3), t6 time, d date, ts timestamp, ts3 timestamp(3), iv interval, by bytea);
INSERT INTO modes VALUES (1, 'NaN', '-Infinity', '-1234.56'::numeric::money, '12:34:56.789', '12:34:56.789012', '2024-02-29', '2024-01-01 00:00:00.123456', '1969-12-31 23:59:59.999', 'P1Y2M3DT4H5M6.789S', '\xfbff00');
INSERT INTO modes VALUES (2, 1.5, 1e20, 1::numeric::money, NULL, NULL, NULL, '1969-12-31 23:59:59.999999', NULL, 'P-1Y-2M3DT-0.5S', '');
BEGIN;
CREATE FUNCTION peek(VARIADIC options text[] DEFAULT '{}') RETURNS SETOF text LANGUAGE sql AS $$
  SELECT (split_part(data, E'\t', 3)::json -> 'after')::text FROM pg_logical_slot_peek_changes('fd_slot', NULL, NULL, VARIADIC
         ARRAY['publication', 'fd_pub', 'topic_prefix', 'srv'] || options)
$$;
COMMIT;
SELECT peek('decimal.handling.mode', 'string');
SELECT peek('decimal.handling.mode', 'double', 'interval.handling.mode', 'string', 'binary.handling.mode', 'hex', 'time.precision.mode', 'connect');
SELECT peek('decimal.handling.mode', 'string', 'binary.handling.mode', 'base64-url-safe', 'time.precision.mode', 'adaptive_time_microseconds');
-- What the default cannot carry is an error.
SELECT * FROM events();
SELECT pg_replication_slot_advance('fd_slot', pg_current_wal_lsn()) IS NOT NULL AS skipped;
INSERT INTO modes (id, ts) VALUES (3, '294276-12-31');
SELECT * FROM events();
SELECT peek('time.precision.mode', 'connect');
SELECT pg_replication_slot_advance('fd_slot', pg_current_wal_lsn()) IS NOT NULL AS skipped;
INSERT INTO modes (id, iv) VALUES (4, 'P1000000Y');
SELECT * FROM events();
SELECT peek('interval.handling.mode', 'string');
SELECT pg_replication_slot_advance('fd_slot', pg_current_wal_lsn()) IS NOT NULL AS skipped;

-- Arrays.
CREATE TABLE arrays (id int PRIMARY KEY, i int[], t text[], n numeric(10,2)[], nv numeric[], tz timestamptz[], ts3 timestamp(3)[], e mood[], b bytea[], p point[], c comp[], d dom[], bo bool[], f float8[], r int4range[]);
INSERT INTO arrays VALUES (1, '{1,NULL,3}', '{"a",NULL,"x,\"y"}', '{1.5,-2}', '{1.50}', '{2024-01-01 00:00:00+00,infinity}', '{2024-01-01}', '{sad,"o\"k"}', '{"\\x01"}', '{"(1,2)"}',
  ARRAY[ROW(1,'x',NULL)::comp], '{1.5}', '{t,f,NULL}', '{NaN,1}', '{"[1,3)"}'), (2, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}');
INSERT INTO arrays (id, i, t) VALUES (3, '{{1,2},{NULL,4}}', '{{{a}}}');
SELECT * FROM fields('after');
INSERT INTO arrays (id, i) VALUES (4, '[0:1]={1,2}');
SELECT * FROM events();
SELECT pg_replication_slot_advance('fd_slot', pg_current_wal_lsn()) IS NOT NULL AS skipped;

-- The envelope and the source.
CREATE TABLE env (id int PRIMARY KEY);
INSERT INTO env VALUES (1);
SELECT split_part(data, E'\t', 3)::json -> 'schema' AS schema
  FROM pg_logical_slot_peek_changes('fd_slot', NULL, NULL, 'publication', 'fd_pub', 'topic_prefix', 'srv', 'schemas', 'true');
SELECT regexp_replace(replace(split_part(data, E'\t', 3), current_database(), 'DB'), '\d{3,}', 'N', 'g') AS value
  FROM pg_logical_slot_get_changes('fd_slot', NULL, NULL, 'publication', 'fd_pub', 'topic_prefix', 'srv');

-- Identities: what is known of the old row, and what stands in for the rest.
CREATE TABLE ident (
  b int, id serial, x text NOT NULL DEFAULT 'x', n numeric(10,2) NOT NULL DEFAULT 7, i int NOT NULL, ts timestamptz NOT NULL DEFAULT now(), v varchar(5) NOT NULL DEFAULT 'abc',
  e mood NOT NULL DEFAULT 'happy', o int DEFAULT 3, u uuid NOT NULL DEFAULT gen_random_uuid(), j jsonb NOT NULL DEFAULT '{"a": 1}', by bytea NOT NULL, a int[] NOT NULL DEFAULT '{1,2}',
  p point NOT NULL, f float8 NOT NULL DEFAULT -0.5, nan numeric(5,2) NOT NULL DEFAULT 'NaN', bad varchar(2) NOT NULL DEFAULT 'toolong', iv interval NOT NULL, bt bit(3) NOT NULL, b1 bit(1) NOT NULL,
  d date NOT NULL DEFAULT '2020-01-01', tz timetz NOT NULL, nv numeric NOT NULL, PRIMARY KEY (id, b));
INSERT INTO ident (b, i, ts, u, by, p, nan, bad, iv, bt, b1, tz, nv) VALUES (1, 1, '2024-01-01', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '', '(1,2)', 0, 'ab', 'P1D', '101', '1', '12:00+02', 1);
UPDATE ident SET i = 2;
DELETE FROM ident;
SELECT topic, key, value FROM events();
CREATE TABLE keys (id int PRIMARY KEY, t text);
INSERT INTO keys VALUES (1, 'a');
UPDATE keys SET id = 2;
ALTER TABLE keys REPLICA IDENTITY FULL;
UPDATE keys SET t = 'b';
DELETE FROM keys;
CREATE TABLE nokey (t text);
ALTER TABLE nokey REPLICA IDENTITY FULL;
INSERT INTO nokey VALUES ('a');
DELETE FROM nokey;
SELECT * FROM events();
SELECT slot_name FROM pg_create_logical_replication_slot('fd_slot2', 'pg_kafka_sync');
TRUNCATE keys;
SELECT regexp_replace(split_part(data, E'\t', 3), '"source".*"op"', '"source":{},"op"') ~ '^\{"before":null,"after":null,"source":\{\},"op":"t"' AS truncated
  FROM pg_logical_slot_get_changes('fd_slot2', NULL, NULL, 'publication', 'fd_pub', 'truncate', 'event');
SELECT pg_drop_replication_slot('fd_slot2');
SELECT count(*) FROM events();

-- Unchanged TOAST values.
CREATE TABLE toast (id int PRIMARY KEY, i int, t text, b bytea, a text[], ia int[], ua uuid[], n numeric, jb jsonb);
ALTER TABLE toast ALTER t SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL, ALTER a SET STORAGE EXTERNAL, ALTER ia SET STORAGE EXTERNAL, ALTER ua SET STORAGE EXTERNAL, ALTER jb SET STORAGE EXTERNAL, ALTER n SET STORAGE EXTERNAL;
INSERT INTO toast VALUES (1, 1, repeat('x', 3000), decode(repeat('00', 3000), 'hex'), array_fill('x'::text, ARRAY[1000]), array_fill(1, ARRAY[1000]),
  array_fill('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, ARRAY[300]), repeat('1', 6000)::numeric, jsonb_build_object('a', repeat('x', 3000)));
SELECT length(value) > 20000 AS whole FROM events();
UPDATE toast SET i = 2;
SELECT key, value FROM events();
ALTER TABLE toast REPLICA IDENTITY FULL;
UPDATE toast SET i = 3;
SELECT key, value LIKE '%unavailable%' AS unavailable, length(value) > 40000 AS both_whole FROM events();

-- Names, dropped columns, column lists.
CREATE TABLE "Mixed ""q"" é" ("Ä b" int PRIMARY KEY, "c""d\e" text, "drop" int, g int GENERATED ALWAYS AS (1) STORED);
ALTER TABLE "Mixed ""q"" é" DROP COLUMN "drop";
INSERT INTO "Mixed ""q"" é" VALUES (1, 'x');
SELECT * FROM events();

-- Schemas.
CREATE TABLE schemas (
  id serial PRIMARY KEY, b bool, i2 int2 NOT NULL DEFAULT 5, i8 int8, o oid, f4 float4, f8 float8, n numeric(12,3), nv numeric, m money, bit1 bit(1), bit5 bit(5), vb varbit, d date, t time,
  t3 time(3), tz timetz, ts timestamp, ts3 timestamp(3), tstz timestamptz, iv interval, by bytea, tx text NOT NULL DEFAULT 'a"b', js json, jb jsonb, xm xml, u uuid, en mood, dm dom, co comp, p point, a int[], ta text[], ea mood[], tsv tsvector);
INSERT INTO schemas (id) VALUES (1);
SELECT split_part(data, E'\t', 2)::json -> 'schema' AS schema FROM pg_logical_slot_peek_changes('fd_slot', NULL, NULL, 'publication', 'fd_pub', 'topic_prefix', 'srv', 'schemas', 'true');
SELECT json_array_elements(split_part(data, E'\t', 3)::json #> '{schema,fields,1,fields}') FROM pg_logical_slot_peek_changes('fd_slot', NULL, NULL, 'publication', 'fd_pub', 'topic_prefix', 'srv', 'schemas', 'true');
SELECT topic, key, value::json -> 'payload' AS payload FROM events('schemas', 'true', 'decimal.handling.mode', 'string', 'time.precision.mode', 'connect', 'interval.handling.mode', 'string', 'binary.handling.mode', 'hex');
INSERT INTO schemas (id, a) VALUES (2, '{{1}}');
SELECT * FROM events('schemas', 'true');

SELECT pg_drop_replication_slot('fd_slot');
DROP PUBLICATION fd_pub;
SET client_min_messages = error;
DROP SCHEMA fd CASCADE;
