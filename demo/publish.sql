-- In ops: every table of schema public becomes a topic, ops.public.<table>, keyed by its primary key.
CREATE EXTENSION pg_kafka_sync;
CREATE SERVER kafka1 FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" :'bootstrap');
CREATE PUBLICATION ops FOR TABLES IN SCHEMA public;
SELECT kafka.create_publisher('ops', 'kafka1', 'ops', options => '{"topic.creation.default.partitions": 3}');
