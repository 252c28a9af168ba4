-- Types of extensions that Debezium knows by name.
\set SHOW_CONTEXT never
\pset format unaligned
SET client_min_messages = warning;
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_settings WHERE name = 'output_plugin_libraries') THEN
    PERFORM set_config('output_plugin_libraries', current_setting('output_plugin_libraries') || ', pg_kafka_sync', false);
  END IF;
END $$;
CREATE SCHEMA fe;
SET search_path = fe, public;
CREATE EXTENSION hstore SCHEMA fe;
CREATE EXTENSION citext SCHEMA fe;
CREATE EXTENSION ltree SCHEMA fe;
CREATE PUBLICATION fe_pub FOR TABLES IN SCHEMA fe;
SELECT slot_name FROM pg_create_logical_replication_slot('fe_slot', 'pg_kafka_sync');
CREATE TABLE t (id citext PRIMARY KEY, h hstore, l ltree, lq lquery, hs hstore[], ls ltree[], i int);
ALTER TABLE t ALTER h SET STORAGE EXTERNAL;
INSERT INTO t VALUES ('Aé', 'a=>1, b=>NULL, "q\"u\\o"=>"é=>,"', 'a.b.c', '*.b', ARRAY['a=>1'::hstore, ''], '{a.b,c}', 1), ('B', '', '', NULL, NULL, NULL, 1);
INSERT INTO t VALUES ('C', hstore('k', repeat('x', 3000)));
UPDATE t SET i = 2 WHERE id = 'C';
SELECT split_part(data, E'\t', 2) AS key, left((split_part(data, E'\t', 3)::json -> 'after')::text, 200) AS after
  FROM pg_logical_slot_peek_changes('fe_slot', NULL, NULL, 'publication', 'fe_pub');
SELECT split_part(data, E'\t', 2) AS key, left(split_part(data, E'\t', 3), 200) AS value
  FROM pg_logical_slot_peek_changes('fe_slot', NULL, NULL, 'publication', 'fe_pub', 'format', 'json');
SELECT json_array_elements(split_part(data, E'\t', 3)::json #> '{schema,fields,1,fields}') AS schema
  FROM pg_logical_slot_peek_changes('fe_slot', NULL, 1, 'publication', 'fe_pub', 'schemas', 'true') LIMIT 7;
SELECT pg_drop_replication_slot('fe_slot');
DROP PUBLICATION fe_pub;
SET client_min_messages = error;
DROP SCHEMA fe CASCADE;
