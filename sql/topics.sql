-- Topics, ACLs and messages on a real broker.
\set VERBOSITY default
\getenv kafka KAFKA_BOOTSTRAP
CREATE SERVER topics FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" :'kafka');
SET client_min_messages = warning;
SELECT kafka.drop_topic('topics', 'regress.topics.' || t, if_exists => true) FROM unnest('{a,b,c}'::text[]) t;
RESET client_min_messages;

-- create
SELECT kafka.create_topic('topics', 'regress.topics.a', 3, 1, '{"cleanup.policy": "compact", "retention.ms": 86400000, "preallocate": true}');
SELECT kafka.create_topic('topics', 'regress.topics.a');
SELECT kafka.create_topic('topics', 'regress.topics.a', if_not_exists => true);
SELECT kafka.create_topic('topics', 'regress.topics.b', partitions => 2, config => NULL);
SELECT kafka.create_topic('topics', 'regress.topics.c', partitions => 0);
SELECT kafka.create_topic('topics', 'regress.topics.c', replication_factor => 7);
SELECT kafka.create_topic('topics', 'regress.topics.c', config => '{"cleanup.polic": "compact"}');
SELECT kafka.create_topic('topics', 'regress.topics.c', config => '{"cleanup.policy": ["compact"]}');
SELECT kafka.create_topic('topics', 'regress.topics.c', config => '["compact"]');
SELECT kafka.create_topic('topics', 'not a name');
SELECT kafka.create_topic('topics', '');
SELECT kafka.create_topic('topics', repeat('x', 250));
SELECT kafka.create_topic('topics', NULL);

-- look
SELECT topic, partitions, replication_factor, messages, cleanup_policy, retention_ms
FROM kafka.list_topics('topics') WHERE topic LIKE 'regress.topics.%' ORDER BY topic;
SELECT partition, array_length(replicas, 1) AS replicas, leader = ANY (isr) AS leader_in_sync, low_watermark, high_watermark
FROM kafka.describe_topic('topics', 'regress.topics.a');
SELECT * FROM kafka.topic_config('topics', 'regress.topics.a') WHERE source = 'DYNAMIC_TOPIC_CONFIG' ORDER BY name;
SELECT is_default, is_read_only, is_sensitive FROM kafka.topic_config('topics', 'regress.topics.a') WHERE name = 'max.message.bytes';
SELECT * FROM kafka.describe_topic('topics', 'regress.topics.none');
SELECT * FROM kafka.topic_config('topics', 'regress.topics.none');

-- alter changes what it names, and nothing else
SELECT kafka.alter_topic('topics', 'regress.topics.a', config => '{"min.cleanable.dirty.ratio": 0.25, "retention.ms": null}');
SELECT name, value FROM kafka.topic_config('topics', 'regress.topics.a') WHERE source = 'DYNAMIC_TOPIC_CONFIG' ORDER BY name;
SELECT kafka.alter_topic('topics', 'regress.topics.a', 5);
SELECT count(*) FROM kafka.describe_topic('topics', 'regress.topics.a');
SELECT name, value FROM kafka.topic_config('topics', 'regress.topics.a') WHERE source = 'DYNAMIC_TOPIC_CONFIG' ORDER BY name;
SELECT kafka.alter_topic('topics', 'regress.topics.a', 5, '{}');
SELECT kafka.alter_topic('topics', 'regress.topics.a', 4);
SELECT kafka.alter_topic('topics', 'regress.topics.a', -1);
SELECT kafka.alter_topic('topics', 'regress.topics.a', config => '{"retention": 1}');
SELECT kafka.alter_topic('topics', 'regress.topics.a', config => '{"retention": null}');
SELECT kafka.alter_topic('topics', 'regress.topics.a', config => '{"retention.ms": "a day"}');
SELECT kafka.alter_topic('topics', 'regress.topics.none');
SELECT kafka.alter_topic('topics', 'regress.topics.none', 2);
SELECT kafka.alter_topic('topics', 'regress.topics.none', config => '{"retention.ms": 1}');
SELECT name, value FROM kafka.topic_config('topics', 'regress.topics.a') WHERE source = 'DYNAMIC_TOPIC_CONFIG' ORDER BY name;

-- produce: partitions as Java clients choose them (murmur2 of the key)
SELECT kafka.create_topic('topics', 'regress.topics.c', 10);
SELECT key, (kafka.produce('topics', 'regress.topics.c', 'v', key)).partition
FROM unnest(ARRAY['1', '42', 'key', '{"id":1}', '{"id":2}', 'ä€', '']) key;
SELECT * FROM kafka.produce('topics', 'regress.topics.b', 'one', 'k', partition => 1);
SELECT * FROM kafka.produce('topics', 'regress.topics.b', NULL, 'k', partition => 1);
SELECT * FROM kafka.produce('topics', 'regress.topics.b', '\x00ff'::bytea, '\x01'::bytea, '[["a", "x"], ["a", null], ["b", {"base64": "AP8="}]]', 1);
SELECT * FROM kafka.produce('topics', 'regress.topics.b', '', '', '{"a": "x", "b": null}', 1);
SELECT * FROM kafka.produce('topics', 'regress.topics.b', 'five', headers => '["a"]', partition => 1);
SELECT * FROM kafka.produce('topics', 'regress.topics.b', 'five', headers => '[["a", 1]]', partition => 1);
SELECT * FROM kafka.produce('topics', 'regress.topics.b', 'five', headers => '{"a": {"base46": ""}}', partition => 1);
SELECT * FROM kafka.produce('topics', 'regress.topics.b', 'five', headers => '{"a": {"base64": "!"}}', partition => 1);
SELECT * FROM kafka.produce('topics', 'regress.topics.b', 'five', headers => '"a"', partition => 1);
SELECT * FROM kafka.produce('topics', 'regress.topics.b', 'five', partition => 2);
SELECT * FROM kafka.produce('topics', 'regress.topics.b', 'five', partition => -1);
SELECT * FROM kafka.produce('topics', 'regress.topics.none', 'five');
SELECT * FROM kafka.produce('topics', 'regress.topics.b', repeat('x', 1100000));
-- no key: any partition, and it is outside of the transaction
BEGIN;
SELECT partition IN (0, 1) AS ok FROM kafka.produce('topics', 'regress.topics.b', 'five');
ROLLBACK;
SELECT sum(high_watermark - low_watermark) FROM kafka.describe_topic('topics', 'regress.topics.b');
SELECT count(DISTINCT p) > 5 AS spread FROM (SELECT (kafka.produce('topics', 'regress.topics.c', 'x')).partition AS p FROM generate_series(1, 100)) AS s;
SELECT messages FROM kafka.list_topics('topics') WHERE topic = 'regress.topics.c';
-- a compacted topic takes no message without a key
SELECT * FROM kafka.produce('topics', 'regress.topics.a', 'x');

-- delete records
SELECT kafka.delete_records('topics', 'regress.topics.b', 1, 2);
SELECT low_watermark FROM kafka.describe_topic('topics', 'regress.topics.b') WHERE partition = 1;
SELECT kafka.delete_records('topics', 'regress.topics.b', 1, -1);
SELECT low_watermark = high_watermark AS empty FROM kafka.describe_topic('topics', 'regress.topics.b') WHERE partition = 1;
SELECT kafka.delete_records('topics', 'regress.topics.b', 1, 1000);
SELECT kafka.delete_records('topics', 'regress.topics.b', 1, -2);
SELECT kafka.delete_records('topics', 'regress.topics.b', 7, 0);
SELECT kafka.delete_records('topics', 'regress.topics.none', 0, 0);
SELECT kafka.delete_records('topics', 'regress.topics.a', 0, 0);

-- ACLs
SELECT kafka.create_acl('topics', 'topic', 'regress.topics.acl', 'literal', 'User:regress', '*', 'read');
SELECT kafka.create_acl('topics', 'TOPIC', 'regress.topics.acl', 'PREFIXED', 'User:regress', '10.0.0.1', 'WRITE', 'DENY');
SELECT kafka.create_acl('topics', 'group', 'regress', 'literal', 'User:regress', '*', 'all');
SELECT * FROM kafka.list_acls('topics', principal => 'User:regress') ORDER BY 1, 3;
SELECT * FROM kafka.list_acls('topics', resource_type => 'topic', resource_name => 'regress.topics.acl.x', pattern_type => 'match');
SELECT kafka.drop_acl('topics', 'topic', 'regress.topics.acl', 'any', 'User:regress', NULL, 'read');
SELECT kafka.drop_acl('topics', NULL, NULL, NULL, 'User:regress', NULL, NULL);
SELECT count(*) FROM kafka.list_acls('topics', principal => 'User:regress');
\set VERBOSITY terse
SELECT kafka.create_acl('topics', 'table', 'x', 'literal', 'User:regress', '*', 'read');
SELECT kafka.create_acl('topics', 'topic', 'x', 'any', 'User:regress', '*', 'read');
SELECT kafka.create_acl('topics', 'topic', 'x', 'literal', 'User:regress', '*', 'any');
\set VERBOSITY default
SELECT kafka.create_acl('topics', 'topic', 'x', 'literal', 'regress', '*', 'read');
SELECT kafka.create_acl('topics', 'topic', NULL, 'literal', 'User:regress', '*', 'read');
SELECT count(*) FROM kafka.list_acls('topics', principal => 'User:regress');

-- groups
SELECT * FROM kafka.consumer_lag('topics', 'regress.topics.none');
SELECT count(*) FROM kafka.list_consumer_groups('topics') WHERE group_id = 'regress.topics.none';

-- drop
SELECT kafka.drop_topic('topics', 'regress.topics.none');
SELECT kafka.drop_topic('topics', 'regress.topics.none', if_exists => true);
SELECT kafka.drop_topic('topics', 'regress.topics.' || t) FROM unnest('{a,b,c}'::text[]) t;
SELECT count(*) FROM kafka.list_topics('topics') WHERE topic LIKE 'regress.topics.%';
DROP SERVER topics;
