-- Definitions of publishers and subscriptions: what is refused, with errcode and hint, and that nothing is left half made.
\set SHOW_CONTEXT never
\pset format unaligned
\getenv kafka KAFKA_BOOTSTRAP
CREATE SERVER def FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" :'kafka');
SELECT kafka.create_topic('def', 'definitions.t', 2, if_not_exists => true);
CREATE SCHEMA def;
CREATE TABLE def.t (id int PRIMARY KEY, "Mixed Case" text, u int NOT NULL UNIQUE);
CREATE TABLE def.nokey (a int);
CREATE TABLE def.partial (a int NOT NULL);
CREATE UNIQUE INDEX ON def.partial (a) WHERE a > 0;
CREATE VIEW def.v AS SELECT * FROM def.t;
CREATE UNLOGGED TABLE def.unlogged (id int PRIMARY KEY);
CREATE PUBLICATION def FOR TABLE def.t;

-- publishers: names and values that do not exist
SELECT kafka.create_publisher('p', 'nowhere', 'def');
SELECT kafka.create_publisher('p', 'def', 'nowhere');
SELECT kafka.create_publisher('', 'def', 'def');
SELECT kafka.create_publisher(NULL, 'def', 'def');
SELECT kafka.create_publisher('p', 'def', 'def', format => 'xml');
SELECT kafka.create_publisher('p', 'def', 'def', snapshot => 'sometimes');
SELECT kafka.create_publisher('p', 'def', 'def', delivery => 'at_most_once');
SELECT kafka.create_publisher('p', 'def', 'def', topic_prefix => '');
-- options
SELECT kafka.create_publisher('p', 'def', 'def', options => '{"truncat": "skip"}');
SELECT kafka.create_publisher('p', 'def', 'def', options => '{"truncate": "never"}');
SELECT kafka.create_publisher('p', 'def', 'def', options => '{"schemas": "perhaps"}');
SELECT kafka.create_publisher('p', 'def', 'def', options => '{"topic.creation.default.partitions": -5}');
SELECT kafka.create_publisher('p', 'def', 'def', options => '{"topic.creation.default.config": "compact"}');
SELECT kafka.create_publisher('p', 'def', 'def', options => '{"topic.creation.default.config": {"a": {"b": 1}}}');
SELECT kafka.create_publisher('p', 'def', 'def', options => '[1]');
SELECT kafka.create_publisher('p', 'def', 'def', options => '{"acks": "1"}');
SELECT kafka.create_publisher('p', 'def', 'def', options => '{"linger.ms": "soon"}');
SELECT kafka.create_publisher('p', 'def', 'def', options => '{"group.id": "x"}');
-- snapshot "never" makes the slot at once, so it must come first in its transaction
BEGIN;
INSERT INTO def.nokey VALUES (1);
SELECT kafka.create_publisher('p', 'def', 'def', snapshot => 'never');
ROLLBACK;
-- ... and the slot goes with the transaction
BEGIN;
SELECT kafka.create_publisher('p', 'def', 'def', snapshot => 'never');
SELECT count(*) AS slots FROM pg_replication_slots WHERE slot_name LIKE 'pg_kafka_sync%' AND database = current_database();
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT kafka.create_publisher('p', 'def', 'def', snapshot => 'never');
ROLLBACK TO s;
SELECT count(*) AS slots FROM pg_replication_slots WHERE slot_name LIKE 'pg_kafka_sync%' AND database = current_database();
COMMIT;
SELECT count(*) AS slots FROM pg_replication_slots WHERE slot_name LIKE 'pg_kafka_sync%' AND database = current_database();
SELECT count(*) AS publishers FROM kafka.publisher;

-- a paused one has no slot, and says so
SELECT kafka.create_publisher('paused', 'def', 'def', enabled => false);
SELECT kafka.create_publisher('paused', 'def', 'def', enabled => false);
SELECT name, state, slot_name, snapshot, snapshot_state, last_error FROM kafka.publisher_status;
-- alter merges, null resets
SELECT kafka.alter_publisher('paused', '{"truncate": "event", "linger.ms": 7}');
SELECT kafka.alter_publisher('paused', '{"truncate": null, "origin": "any"}');
SELECT options FROM kafka.publisher;
SELECT kafka.alter_publisher('paused', '{"truncate": "x"}');
SELECT kafka.alter_publisher('paused', '{"publication": "nowhere"}');
SELECT kafka.alter_publisher('paused', '{"server": 5}');
SELECT kafka.alter_publisher('nobody', '{}');
-- topics and keys of tables
SELECT kafka.set_topic('paused', 'def.t', 'no/slash');
SELECT kafka.set_topic('paused', 'def.t', key => '{nope}');
SELECT kafka.set_topic('paused', 'def.t', key => '{u}');
SELECT kafka.set_topic('paused', 'def.t', key => '{id,id}');
SELECT kafka.set_topic('paused', 'kafka.publisher', 'x');
SELECT kafka.set_topic('paused', 'def.t', 'definitions.t', '{id}');
SELECT publisher, relation, topic, key FROM kafka.publisher_tables;
SELECT kafka.set_topic('paused', 'def.t');
SELECT publisher, relation, topic, key FROM kafka.publisher_tables;
-- what is in use cannot be dropped by accident, and renames are followed
DROP PUBLICATION def;
ALTER PUBLICATION def RENAME TO def2;
SELECT publication FROM kafka.publisher_status;
ALTER PUBLICATION def2 RENAME TO def;

-- subscriptions
SELECT kafka.create_subscription('s', 'nowhere', '{definitions.t}', 'def.t');
SELECT kafka.create_subscription('s', 'def', '{}', 'def.t');
SELECT kafka.create_subscription('s', 'def', '{a,a}', 'def.t');
SELECT kafka.create_subscription('s', 'def', '{"no space"}', 'def.t');
SELECT kafka.create_subscription('s', 'def', '{"^("}', 'def.t');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.v');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.unlogged');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.nokey');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.partial', key => '{a}');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.t', key => '{"Mixed Case"}');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.t', key => '{nope}');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'kafka.publisher');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.t', format => 'xml');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.t', mode => 'replace');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.t', on_error => 'ignore');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.t', workers => 0);
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.t', start => 'yesterdayish');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.t', start => '{"definitions.t": {"7": 0}}');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.t', start => '{"definitions.t": {"0": 99}}');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.t', options => '{"max_batch_rows": 0}');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.t', options => '{"partitions": "2-1"}');
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.t', options => '{"isolation.level": "read_uncommitted"}');
SELECT count(*) AS subscriptions FROM kafka.subscription;
SELECT kafka.create_subscription('s', 'def', '{definitions.t,definitions.later}', 'def.t', key => '{u}', enabled => false);
SELECT kafka.create_subscription('s', 'def', '{definitions.t}', 'def.t', enabled => false);
SELECT name, state, topics, targets, last_error FROM kafka.subscription_status;
SELECT topic, partition, next_offset, lag FROM kafka.subscription_offsets ORDER BY 1, 2;
SELECT kafka.alter_subscription('s', '{"max_batch_rows": 5, "topics": ["definitions.t"]}');
SELECT topics, options FROM kafka.subscription;
SELECT kafka.alter_subscription('s', '{"topics": "definitions.t"}');
SELECT kafka.seek_subscription('s', '{"definitions.t": {"0": 99}}');
SELECT kafka.seek_subscription('nobody', 'earliest');
SELECT kafka.wait_for_subscription('nobody');
SELECT kafka.wait_for_publisher('nobody');
SELECT kafka.wait_for_publisher('paused', timeout => '-1s');
SELECT kafka.wait_for_publisher('paused', timeout => '10ms');
DROP VIEW def.v;
DROP TABLE def.t;
DROP SERVER def;

-- each mistake has the errcode that says what it is
CREATE FUNCTION def.errcode(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE condition text;
BEGIN
  EXECUTE command;
  RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS condition = RETURNED_SQLSTATE;
  RETURN condition;
END $$;
SELECT def.errcode('SELECT kafka.' || c), c FROM (VALUES
  ($$create_publisher('p', 'nowhere', 'def')$$),
  ($$create_publisher('p', 'def', 'nowhere')$$),
  ($$create_publisher('paused', 'def', 'def')$$),
  ($$create_publisher('', 'def', 'def')$$),
  ($$create_publisher(NULL, 'def', 'def')$$),
  ($$create_publisher('p', 'def', 'def', format => 'xml')$$),
  ($$create_publisher('p', 'def', 'def', options => '{"truncat": "skip"}')$$),
  ($$create_publisher('p', 'def', 'def', options => '{"truncate": "never"}')$$),
  ($$create_publisher('p', 'def', 'def', options => '{"acks": "1"}')$$),
  ($$create_publisher('p', 'def', 'def', options => '{"linger.ms": "soon"}')$$),
  ($$set_topic('paused', 'def.t', 'no/slash')$$),
  ($$set_topic('paused', 'def.t', key => '{nope}')$$),
  ($$set_topic('paused', 'def.t', key => '{u}')$$),
  ($$set_topic('paused', 'def.t', key => '{id,id}')$$),
  ($$set_topic('paused', 'kafka.publisher', 'x')$$),
  ($$alter_publisher('nobody', '{}')$$),
  ($$drop_publisher('nobody')$$),
  ($$create_subscription('s', 'def', '{definitions.t}', 'def.t')$$),
  ($$create_subscription('x', 'def', '{a,a}', 'def.t')$$),
  ($$create_subscription('x', 'def', '{"no space"}', 'def.t')$$),
  ($$create_subscription('x', 'def', '{"^("}', 'def.t')$$),
  ($$create_subscription('x', 'def', '{definitions.t}', 'def.nowhere')$$),
  ($$create_subscription('x', 'def', '{definitions.t}', 'def.nokey')$$),
  ($$create_subscription('x', 'def', '{definitions.t}', 'def.unlogged')$$),
  ($$create_subscription('x', 'def', '{definitions.t}', 'def.t', key => '{nope}')$$),
  ($$create_subscription('x', 'def', '{definitions.t}', 'def.t', start => 'yesterdayish')$$),
  ($$create_subscription('x', 'def', '{definitions.t}', 'def.t', start => '{"definitions.t": {"0": 99}}')$$),
  ($$create_subscription('x', 'def', '{definitions.t}', 'def.t', workers => 0)$$),
  ($$seek_subscription('nobody', 'earliest')$$),
  ($$wait_for_subscription('nobody')$$),
  ($$wait_for_publisher('paused', timeout => '-1s')$$)) AS v (c);

-- rights
CREATE ROLE def_user;
GRANT USAGE ON SCHEMA def TO def_user;
SET ROLE def_user;
SELECT kafka.create_publisher('p', 'def', 'def');
SELECT kafka.create_subscription('s2', 'def', '{definitions.t}', 'def.t');
SELECT kafka.drop_publisher('paused');
SELECT kafka.pause_subscription('s');
SELECT kafka.seek_subscription('s', 'earliest');
SELECT kafka.set_owner('publisher', 'paused', 'def_user');
SELECT count(*) FROM kafka.publisher_status;
SELECT count(*) FROM kafka.subscription_offsets;
SELECT * FROM kafka.publisher;
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER def TO def_user;
SET ROLE def_user;
SELECT kafka.create_publisher('p', 'def', 'def');
SELECT kafka.create_subscription('s2', 'def', '{definitions.t}', 'def.t');
RESET ROLE;
SELECT kafka.set_owner('publisher', 'paused', 'def_user');
SELECT kafka.set_owner('subscription', 's', 'def_user');
SELECT kafka.set_owner('view', 's', 'def_user');
DROP ROLE def_user;
SET ROLE def_user;
SELECT name, owner FROM kafka.subscription_status;
RESET ROLE;

SELECT kafka.drop_subscription('s');
SELECT kafka.drop_subscription('s');
SELECT kafka.drop_subscription('s', true);
SELECT kafka.drop_publisher('paused');
SELECT kafka.drop_publisher('paused', true);
SELECT kafka.drop_topic('def', 'definitions.t');
DROP SCHEMA def CASCADE;
DROP PUBLICATION def;
DROP SERVER def;
DROP OWNED BY def_user;
DROP ROLE def_user;
-- every SQL function and view is described
SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'kafka'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'kafka'::regnamespace AND relkind IN ('r', 'v') AND obj_description(c.oid, 'pg_class') IS NULL;
-- every table has a primary key, every function a locked search_path
SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'kafka'::regnamespace AND relkind = 'r'
    AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p');
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
 WHERE pronamespace = 'kafka'::regnamespace AND l.lanname <> 'c' AND NOT coalesce(proconfig::text LIKE '%search_path=%', false);
