-- Publishers: tables to topics.

CREATE FUNCTION kafka.create_publisher(name name, server name, publication name, topic_prefix text DEFAULT NULL,
        format text DEFAULT 'debezium', snapshot text DEFAULT 'initial', delivery text DEFAULT 'at_least_once',
        options jsonb DEFAULT '{}', enabled boolean DEFAULT true) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_create_publisher';
COMMENT ON FUNCTION kafka.create_publisher(name, name, name, text, text, text, text, jsonb, boolean) IS
    'Publishes the tables of a publication to topics <topic_prefix>.<schema>.<table> (prefix: by default the database''s name) through a replication slot and a background worker. format: debezium | json. snapshot: initial (rows first, then changes) | never (changes from this call on; must come before the transaction''s first write) | only (rows, then finished). delivery: at_least_once. options: see kafka.option_reference(). enabled = false defines it paused, without a slot. Needs REPLICATION and USAGE on the server. Errors: undefined_object (server, publication), duplicate_object, invalid_parameter_value, insufficient_privilege, object_not_in_prerequisite_state (wal_level, preloading).';

CREATE FUNCTION kafka.alter_publisher(name name, options jsonb) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_alter_publisher';
COMMENT ON FUNCTION kafka.alter_publisher(name, jsonb) IS
    'Merges options into those of a publisher; JSON null resets one; also takes "publication" and "server". What changes the events takes effect at this transaction''s own place in WAL. A publisher in state error is tried again at once.';

CREATE FUNCTION kafka.drop_publisher(name name, if_exists boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_drop_publisher';
COMMENT ON FUNCTION kafka.drop_publisher(name, boolean) IS
    'Drops a publisher; its replication slot goes shortly after the commit. Its topics stay. Needs no broker.';

CREATE FUNCTION kafka.pause_publisher(name name) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_pause_publisher';
COMMENT ON FUNCTION kafka.pause_publisher(name) IS
    'Stops a publisher durably. Its slot stays and keeps WAL, so that nothing is lost.';

CREATE FUNCTION kafka.resume_publisher(name name) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_resume_publisher';
COMMENT ON FUNCTION kafka.resume_publisher(name) IS
    'Starts a paused publisher, or tries one in state error at once. One that was restored or cloned from elsewhere begins anew here, with its snapshot mode.';

CREATE FUNCTION kafka.set_topic(publisher name, relation regclass, topic text DEFAULT NULL, key text[] DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_set_topic';
COMMENT ON FUNCTION kafka.set_topic(name, regclass, text, text[]) IS
    'Sets the topic (NULL: <topic_prefix>.<schema>.<table>) and the message key''s columns (NULL: primary key or replica identity) of one published table, from this transaction''s place in WAL on. The replica identity must cover the key: else object_not_in_prerequisite_state with the hint REPLICA IDENTITY FULL.';

CREATE FUNCTION kafka.wait_for_publisher(name name, lsn pg_lsn DEFAULT NULL, timeout interval DEFAULT '30s') RETURNS boolean
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_wait_for_publisher';
COMMENT ON FUNCTION kafka.wait_for_publisher(name, pg_lsn, interval) IS
    'Waits until every transaction whose commit record ends at or before lsn (NULL: now) is acknowledged by Kafka: true; false on timeout. Interruptible. undefined_object for an unknown publisher.';
