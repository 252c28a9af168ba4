-- Format json: flat objects that lose nothing, printed by the output plugin.
\set SHOW_CONTEXT never
\pset format unaligned
SET client_min_messages = warning;
SET DateStyle = 'German';
SET TimeZone = 'America/New_York';
SET IntervalStyle = 'iso_8601';
SET extra_float_digits = 0;
SET bytea_output = 'escape';
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_settings WHERE name = 'output_plugin_libraries') THEN
    PERFORM set_config('output_plugin_libraries', current_setting('output_plugin_libraries') || ', pg_kafka_sync', false);
  END IF;
END $$;
CREATE SCHEMA fj;
SET search_path = fj, public;
CREATE PUBLICATION fj_pub FOR TABLES IN SCHEMA fj;
CREATE DOMAIN dom AS numeric(12,3);
CREATE TYPE mood AS ENUM ('sad', 'o"k', 'happy');
CREATE TYPE comp AS (a int, b text, ts timestamptz);
CREATE FUNCTION events(VARIADIC options text[] DEFAULT '{}') RETURNS TABLE (topic text, key text, value text, headers text)
LANGUAGE sql AS $$
  SELECT f[1], f[2], f[3], array_to_string(f[5:], ' ')
  FROM (SELECT string_to_array(data, E'\t') AS f
        FROM pg_logical_slot_get_changes('fj_slot', NULL, NULL, VARIADIC
             ARRAY['publication', 'fj_pub', 'topic_prefix', 'srv', 'format', 'json'] || options)) s
$$;
SELECT slot_name FROM pg_create_logical_replication_slot('fj_slot', 'pg_kafka_sync');

CREATE TABLE types (
  id int PRIMARY KEY, b bool, i2 int2, i8 int8, o oid, f4 float4, f8 float8, n numeric(12,3), nv numeric, n0 numeric(5), nn numeric(5,-2),
  m money, bit1 bit(1), bit5 bit(5), vb varbit, vb8 varbit(8), d date, t time, t3 time(3), tz timetz, ts timestamp, ts3 timestamp(3),
  tstz timestamptz, tstz0 timestamptz(0), tstz3 timestamptz(3), iv interval, by bytea, tx text, vc varchar(10), ch char(4), nm name, q "char",
  inet inet, cidr cidr, mac macaddr, mac8 macaddr8, js json, jb jsonb, u uuid, en mood, dm dom, co comp, p point, ln line, ls lseg, bx box,
  pa path, po polygon, ci circle, r4 int4range, rn numrange, rt tsrange, rtz tstzrange, rd daterange, mr int4multirange,
  lsn pg_lsn, snap pg_snapshot, tsv tsvector, tsq tsquery, v2 int2vector, xi xid, ti tid, rc regclass, jp jsonpath,
  ai int[], a2 text[], atz timestamptz[], af float8[], ab bytea[], am money[], aj jsonb[]);
INSERT INTO types VALUES (
  1, true, -32768, 9223372036854775807, 4294967295, 'NaN', '-Infinity', 123.456, -0.50, 99999, 12345,
  '-1234.5'::numeric::money, '1', '10101', '00101', '', '2024-02-29', '23:59:59.999999', '12:34:56.789', '12:34:56.789012+05:30', 'infinity', '2024-01-01 00:00:00.5',
  '1969-12-31 23:59:59.5+00', '2024-01-01 00:00:00+00', '-infinity', 'P1Y2M3DT4H5M6.789S', '\x00ff10', E'a"b\\c\n\t\x01é😀', 'vc', 'ab', 'nm', 'c',
  '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '{"a": [1, 2], "a":1}', '{"b":null,"a":1.50}', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
  'o"k', 5.5, ROW(1, 'x"y', '2024-01-01 00:00:00+00'), '(1.5,-2)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)',
  '((0,0),(1,1))', '((0,0),(1,1))', '<(0,0),1.5>', '[1,3)', '[1.0,2.5]', '[2020-01-01,2020-02-01)', '[2020-01-01 00:00+00,2020-02-01 00:00+00)',
  '[2020-01-01,2020-02-01)', '{[1,3),[5,8)}', '16/B374D848', '10:20:10,14', 'a:1 fat:2', 'fat & rat', '1 2 3', '7', '(0,1)', 'pg_class', '$.a[*]',
  '[0:2]={1,NULL,3}', '{{a,"b,c"},{NULL,"NULL"}}', '{2024-01-01 00:00:00+00,infinity}', '{0.1,NaN}', '{"\\x01"}', ARRAY[1.5::numeric::money], '{null,"{\"a\": 1}"}');
SELECT j.key AS field, j.value AS json FROM events() e, json_each(e.value::json) j;
INSERT INTO types (id, f4, f8, n, nv, m, d, t, tz, ts, tstz, iv, i8, jb, js) VALUES
  (2, 1e10, 0.1, 'NaN', 'Infinity', 92233720368547758.07::numeric::money, 'infinity', '24:00', '24:00:00-12:30', '-infinity', '0044-03-15 12:00:00+00 BC', 'P-1M2DT-3H-4M-5.5S', -9223372036854775808, 'null', ' null '),
  (3, -0.0::float4, 1e-300, 0, -12345678901234567890123456789012345678901234567890.1234567890, '-92233720368547758.08'::numeric::money, '-infinity', '00:00', '00:00:00.5-01:02:03', '4713-01-01 BC',
   '12345-06-07 01:02:03.000001+00', 'PT0S', 0, '[null]', '"null"'),
  (4, 'Infinity', 1e300, 0.100, 1e-20, 0::numeric::money, '5874897-12-31', NULL, NULL, '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', 'P178000000Y', 1, 'true', '{}');
SELECT key, (SELECT json_object_agg(j.key, j.value) FROM json_each(value::json) j WHERE j.value::text <> 'null' OR j.key IN ('jb', 'js')) AS value, headers FROM events();

-- Deletes are tombstones, a changed key is a tombstone and the new row.
CREATE TABLE keys (b text, id int, t text, PRIMARY KEY (id, b));
INSERT INTO keys VALUES ('a"', 1, NULL);
UPDATE keys SET t = 'x';
UPDATE keys SET id = 2;
DELETE FROM keys;
SELECT key, value, value = '' AS tombstone, headers FROM events();
CREATE TABLE ix (a numeric(10,2) NOT NULL, b timestamptz NOT NULL, c int);
CREATE UNIQUE INDEX ix_key ON ix (b, a);
ALTER TABLE ix REPLICA IDENTITY USING INDEX ix_key;
INSERT INTO ix VALUES (1.5, '2024-01-01 00:00:00+00', 1);
DELETE FROM ix;
SELECT key, value FROM events();

-- A column that WAL does not carry is absent; with REPLICA IDENTITY FULL it is known.
CREATE TABLE toast (id int PRIMARY KEY, i int, t text);
ALTER TABLE toast ALTER t SET STORAGE EXTERNAL;
INSERT INTO toast VALUES (1, 1, repeat('x', 3000));
SELECT length(value) FROM events();
UPDATE toast SET i = 2;
SELECT key, value, headers FROM events();
ALTER TABLE toast REPLICA IDENTITY FULL;
UPDATE toast SET i = 3;
SELECT key, length(value) FROM events();

-- There is no event for a truncate.
TRUNCATE keys;
SELECT count(*) FROM events();
TRUNCATE keys;
SELECT * FROM events('truncate', 'event');
SELECT pg_replication_slot_advance('fj_slot', pg_current_wal_lsn()) IS NOT NULL AS skipped;

-- Names, and 500 columns.
CREATE TABLE "Mixed ""q"" é" ("Ä b" int PRIMARY KEY, "c""d\e" text, "drop" int, g int GENERATED ALWAYS AS (1) STORED);
ALTER TABLE "Mixed ""q"" é" DROP COLUMN "drop";
INSERT INTO "Mixed ""q"" é" VALUES (1, 'x');
SELECT * FROM events();
DO $$ BEGIN
  EXECUTE 'CREATE TABLE wide (id int PRIMARY KEY, ' || (SELECT string_agg(format('c%s int DEFAULT %s', i, i), ', ') FROM generate_series(1, 500) i) || ')';
END $$;
INSERT INTO wide VALUES (1);
SELECT count(*), sum(j.value::int) FROM events() e, json_each_text(e.value::json) j;

SELECT pg_drop_replication_slot('fj_slot');
DROP PUBLICATION fj_pub;
SET client_min_messages = error;
DROP SCHEMA fj CASCADE;
