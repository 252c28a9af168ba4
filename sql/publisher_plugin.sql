-- The output plugin without a publisher: prints topic, key, value and headers.
SELECT set_config('output_plugin_libraries', 'pgoutput, pg_kafka_sync', false) IS NOT NULL AS allowed
  FROM pg_settings WHERE name = 'output_plugin_libraries' UNION ALL SELECT true LIMIT 1;
SELECT 'init' FROM pg_create_logical_replication_slot('regress_plugin', 'pg_kafka_sync');

CREATE FUNCTION events(VARIADIC options text[]) RETURNS TABLE (topic text, key text, value text) LANGUAGE sql AS $$
    SELECT f[1], f[2], regexp_replace(f[3], '"source":{[^}]*},"transaction":null,|,"ts_ms":[0-9]+,"ts_us":[0-9]+,"ts_ns":[0-9]+', '', 'g')
      FROM pg_logical_slot_peek_changes('regress_plugin', NULL, NULL, VARIADIC options),
           string_to_array(data, E'\t') AS f
$$;
CREATE FUNCTION done() RETURNS void LANGUAGE sql AS $$
    SELECT pg_replication_slot_advance('regress_plugin', pg_current_wal_insert_lsn())
$$;

CREATE TABLE plugin_a (id int PRIMARY KEY, v text, n numeric(6,2));
CREATE TABLE plugin_b ("Odd Key" int, "Ünï" text, PRIMARY KEY ("Odd Key"));
CREATE PUBLICATION plugin_pub FOR TABLE plugin_a, plugin_b;
INSERT INTO plugin_a VALUES (1, 'a"b\c', 1.5), (2, NULL, NULL);
UPDATE plugin_a SET v = 'x' WHERE id = 1;
UPDATE plugin_a SET id = 3 WHERE id = 1;
DELETE FROM plugin_a WHERE id = 2;
INSERT INTO plugin_b VALUES (7, 'é');

SELECT * FROM events('publication', 'plugin_pub', 'format', 'json', 'topic_prefix', 'p');
SELECT * FROM events('publication', 'plugin_pub', 'topic_prefix', 'p', 'decimal.handling.mode', 'string');

-- positions: publisher 0, the commit, the ordinal
SELECT regexp_replace(data, '^.*\tpg_kafka_sync.pos=([0-9a-f]{16})/[0-9A-F]+/([0-9]+).*$', '\1 \2') AS position, count(*)
  FROM pg_logical_slot_peek_changes('regress_plugin', NULL, NULL, 'publication', 'plugin_pub') GROUP BY 1 ORDER BY 1;

SELECT done() IS NULL AS done;

-- filters, lists, truncate
ALTER TABLE plugin_a REPLICA IDENTITY FULL;
ALTER TABLE plugin_b RENAME TO plugin_c;
ALTER PUBLICATION plugin_pub SET TABLE plugin_a WHERE (n > 2), plugin_c ("Odd Key");
INSERT INTO plugin_a VALUES (10, 'out', 1), (11, 'in', 3);
UPDATE plugin_a SET n = 4 WHERE id = 10;
UPDATE plugin_a SET n = 0 WHERE id = 11;
INSERT INTO plugin_c VALUES (8, 'not published');
ALTER PUBLICATION plugin_pub DROP TABLE plugin_c;
INSERT INTO plugin_c VALUES (9, 'not a member');
TRUNCATE plugin_a;
SELECT * FROM events('publication', 'plugin_pub', 'format', 'json', 'topic_prefix', 'p');
SELECT * FROM events('publication', 'plugin_pub', 'topic_prefix', 'p', 'truncate', 'event', 'decimal.handling.mode', 'double');

-- what it refuses
\set VERBOSITY terse
SELECT * FROM events('format', 'json');
SELECT * FROM events('publication', 'plugin_pub', 'format', 'xml');
SELECT * FROM events('publication', 'plugin_pub', 'nothing', '1');
SELECT * FROM events('publication', 'plugin_pub', 'truncate', 'maybe');
\set VERBOSITY default

SELECT pg_drop_replication_slot('regress_plugin');
DROP PUBLICATION plugin_pub;
DROP TABLE plugin_a, plugin_c;
DROP FUNCTION events, done;
RESET output_plugin_libraries;
