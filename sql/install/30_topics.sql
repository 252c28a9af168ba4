-- Topics, ACLs and consumer groups of a Kafka server, from SQL.  All act at once, outside the transaction, as the Kafka
-- user of the current role's user mapping; all need USAGE on the server.

CREATE FUNCTION kafka.create_topic(server name, topic text, partitions integer DEFAULT -1,
        replication_factor integer DEFAULT -1, config jsonb DEFAULT '{}', if_not_exists boolean DEFAULT false)
    RETURNS void LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'ks_create_topic';
COMMENT ON FUNCTION kafka.create_topic(name, text, integer, integer, jsonb, boolean) IS
    'Creates a topic at once; -1 partitions or replication factor: the broker''s default; config: a jsonb object of Kafka topic configs, {"cleanup.policy": "compact", "retention.ms": 86400000}. ERROR if it exists (a NOTICE with if_not_exists), or Kafka refuses.';

CREATE FUNCTION kafka.alter_topic(server name, topic text, partitions integer DEFAULT NULL, config jsonb DEFAULT '{}')
    RETURNS void LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'ks_alter_topic';
COMMENT ON FUNCTION kafka.alter_topic(name, text, integer, jsonb) IS
    'Changes at once what it names: partitions (the new number, only up; NULL leaves it) and the configs in the jsonb object (null resets one to the broker''s default); other configs stay. ERROR for an unknown topic or config, and for the partitions of a topic that a publisher spreads keys over.';

CREATE FUNCTION kafka.drop_topic(server name, topic text, if_exists boolean DEFAULT false)
    RETURNS void LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'ks_drop_topic';
COMMENT ON FUNCTION kafka.drop_topic(name, text, boolean) IS
    'Deletes a topic and all its messages at once; there is no way back. ERROR if it does not exist (a NOTICE with if_exists), or Kafka refuses.';

CREATE FUNCTION kafka.list_topics(server name, include_internal boolean DEFAULT false,
        OUT topic text, OUT partitions integer, OUT replication_factor integer, OUT messages bigint,
        OUT cleanup_policy text, OUT retention_ms bigint)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 100
    AS 'MODULE_PATHNAME', 'ks_list_topics';
COMMENT ON FUNCTION kafka.list_topics(name, boolean) IS
    'Returns the topics that the server''s Kafka user may see, internal ones (__*) on demand. messages: offsets between the partitions'' low and high watermarks, so an upper bound where a topic is compacted or written in transactions; NULL where a partition has no leader. retention_ms: milliseconds, -1 = for ever. NULL configs: no right to see them.';

CREATE FUNCTION kafka.describe_topic(server name, topic text,
        OUT partition integer, OUT leader integer, OUT replicas integer[], OUT isr integer[],
        OUT low_watermark bigint, OUT high_watermark bigint)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 10
    AS 'MODULE_PATHNAME', 'ks_describe_topic';
COMMENT ON FUNCTION kafka.describe_topic(name, text) IS
    'Returns the partitions of a topic: broker ids of leader, replicas and in-sync replicas, the first offset and the one after the last. leader and watermarks are NULL while there is no leader. ERROR if there is no such topic.';

CREATE FUNCTION kafka.topic_config(server name, topic text,
        OUT name text, OUT value text, OUT source text, OUT is_default boolean, OUT is_read_only boolean,
        OUT is_sensitive boolean)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 40
    AS 'MODULE_PATHNAME', 'ks_topic_config';
COMMENT ON FUNCTION kafka.topic_config(name, text) IS
    'Returns the configs of a topic; source says where a value comes from (DYNAMIC_TOPIC_CONFIG: set on the topic itself); sensitive values are NULL. ERROR if there is no such topic.';

CREATE FUNCTION kafka.delete_records(server name, topic text, partition integer, before_offset bigint)
    RETURNS void LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'ks_delete_records';
COMMENT ON FUNCTION kafka.delete_records(name, text, integer, bigint) IS
    'Deletes the messages of a partition before an offset at once (-1: all there are); the low watermark moves there. ERROR for a topic that is only compacted, and for an offset past the end.';

CREATE FUNCTION kafka.create_acl(server name, resource_type text, resource_name text, pattern_type text,
        principal text, host text, operation text, permission text DEFAULT 'allow')
    RETURNS void LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'ks_create_acl';
COMMENT ON FUNCTION kafka.create_acl(name, text, text, text, text, text, text, text) IS
    'Creates a Kafka ACL at once. resource_type: topic, group, cluster (its name is kafka-cluster); pattern_type: literal, prefixed; principal: User:alice; host: an address or *; operation: all, read, write, create, delete, alter, describe, describe_configs, alter_configs, cluster_action, idempotent_write; permission: allow, deny. ERROR if the cluster has no authorizer, or refuses.';

CREATE FUNCTION kafka.drop_acl(server name, resource_type text, resource_name text, pattern_type text,
        principal text, host text, operation text, permission text DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'ks_drop_acl';
COMMENT ON FUNCTION kafka.drop_acl(name, text, text, text, text, text, text, text) IS
    'Drops at once the ACLs that match every argument (NULL or any: all; pattern_type match: those that affect the named resource) and returns their number.';

CREATE FUNCTION kafka.list_acls(server name, INOUT resource_type text DEFAULT NULL,
        INOUT resource_name text DEFAULT NULL, INOUT pattern_type text DEFAULT NULL,
        INOUT principal text DEFAULT NULL, INOUT host text DEFAULT NULL, INOUT operation text DEFAULT NULL,
        INOUT permission text DEFAULT NULL)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 20
    AS 'MODULE_PATHNAME', 'ks_list_acls';
COMMENT ON FUNCTION kafka.list_acls(name, text, text, text, text, text, text, text) IS
    'Returns the ACLs that match every argument (NULL: all), in the words that kafka.create_acl takes.';

CREATE FUNCTION kafka.list_consumer_groups(server name,
        OUT group_id text, OUT state text, OUT is_simple boolean, OUT members integer, OUT coordinator integer)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 20
    AS 'MODULE_PATHNAME', 'ks_list_consumer_groups';
COMMENT ON FUNCTION kafka.list_consumer_groups(name) IS
    'Returns the consumer groups that the server''s Kafka user may see: state (stable, empty, dead, ...), whether it only stores offsets (is_simple), its members, the broker id of its coordinator; NULL where a group cannot be described.';

CREATE FUNCTION kafka.consumer_lag(server name, group_id text,
        OUT topic text, OUT partition integer, OUT committed bigint, OUT log_end bigint, OUT lag bigint)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 20
    AS 'MODULE_PATHNAME', 'ks_consumer_lag';
COMMENT ON FUNCTION kafka.consumer_lag(name, text) IS
    'Returns the partitions that a group has committed offsets of, the partition''s high watermark, and the messages between; NULL where the partition is gone. ERROR if there is no such group.';

CREATE FUNCTION kafka.produce(server name, topic text, value text, key text DEFAULT NULL, headers jsonb DEFAULT NULL,
        INOUT partition integer DEFAULT NULL, OUT "offset" bigint)
    RETURNS record LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'ks_produce_text';
COMMENT ON FUNCTION kafka.produce(name, text, text, text, jsonb, integer) IS
    'Sends one message (value NULL: a tombstone) at once, outside the transaction, and returns where it is stored once all in-sync replicas have it. Text is sent as UTF-8. Partition NULL: murmur2 of the key, as Java clients do, or any without a key. headers: array of [name, text | null | {"base64": ...}], or an object. ERROR if the topic does not exist, or the message is not acknowledged within 8 s (then it may be stored all the same).';

CREATE FUNCTION kafka.produce(server name, topic text, value bytea, key bytea DEFAULT NULL, headers jsonb DEFAULT NULL,
        INOUT partition integer DEFAULT NULL, OUT "offset" bigint)
    RETURNS record LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'ks_produce_bytea';
COMMENT ON FUNCTION kafka.produce(name, text, bytea, bytea, jsonb, integer) IS
    'As kafka.produce of text, with value and key as bytes.';
