-- Catalog: definitions and positions.  pg_dump carries definitions and offsets (extension config tables); names or
-- reg* types instead of OIDs, so that a dump can be restored elsewhere.

CREATE FUNCTION kafka.new_id() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'ks_new_id';
COMMENT ON FUNCTION kafka.new_id() IS
    'Returns a random positive 63-bit identifier, unique among clusters for all practical purposes (it is part of event positions).';
REVOKE ALL ON FUNCTION kafka.new_id() FROM PUBLIC;

-- user_catalog_table: the output plugin reads these as they were at the WAL position it decodes.
CREATE TABLE kafka.publisher (
    id                bigint PRIMARY KEY,
    name              name NOT NULL UNIQUE,
    owner             regrole NOT NULL,
    server            name NOT NULL,
    publication       name NOT NULL,
    topic_prefix      text NOT NULL,
    format            text NOT NULL,
    snapshot          text NOT NULL,
    delivery          text NOT NULL,
    options           jsonb NOT NULL,
    enabled           boolean NOT NULL,
    version           integer NOT NULL,
    slot_name         name NOT NULL,
    snapshot_state    text NOT NULL,     -- none | pending | running | done
    snapshot_floor    bigint NOT NULL,   -- next full xid just after the slot was made, 0 = no slot yet
    system_identifier bigint NOT NULL,   -- positions mean something only there
    database_oid      bigint NOT NULL
) WITH (user_catalog_table = true);

CREATE TABLE kafka.publisher_relation (
    publisher_id      bigint NOT NULL REFERENCES kafka.publisher ON UPDATE CASCADE ON DELETE CASCADE,
    relation          regclass NOT NULL,
    topic             text,
    key               text[],
    PRIMARY KEY (publisher_id, relation)
) WITH (user_catalog_table = true);

-- The partition count each topic began with, for the life of the publisher.
CREATE TABLE kafka.publisher_topic (
    publisher_id      bigint NOT NULL REFERENCES kafka.publisher ON UPDATE CASCADE ON DELETE CASCADE,
    topic             text NOT NULL,
    partitions        integer NOT NULL,
    PRIMARY KEY (publisher_id, topic)
);

-- Snapshot progress; "snapshot" is the first one that rows of this table were read and possibly sent with: a streamed
-- transaction that it sees is dropped for this table.
CREATE TABLE kafka.publisher_snapshot (
    publisher_id      bigint NOT NULL REFERENCES kafka.publisher ON UPDATE CASCADE ON DELETE CASCADE,
    relation          regclass NOT NULL,
    snapshot          pg_snapshot NOT NULL,
    state             text NOT NULL,     -- running | done
    rows              bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (publisher_id, relation)
);

CREATE TABLE kafka.subscription (
    id                bigint PRIMARY KEY,
    name              name NOT NULL UNIQUE,
    owner             regrole NOT NULL,
    server            name NOT NULL,
    topics            text[] NOT NULL,
    format            text NOT NULL,
    start             text NOT NULL,
    on_error          text NOT NULL,
    workers           integer NOT NULL,
    options           jsonb NOT NULL,
    enabled           boolean NOT NULL,
    version           integer NOT NULL,
    system_identifier bigint NOT NULL,   -- a clone does not start by itself
    database_oid      bigint NOT NULL
);

CREATE TABLE kafka.subscription_target (
    subscription_id   bigint NOT NULL REFERENCES kafka.subscription ON DELETE CASCADE,
    target            regclass NOT NULL,
    mode              text NOT NULL,
    key               text[] NOT NULL,
    query             text,              -- as it was given
    merge             jsonb,
    options           jsonb NOT NULL DEFAULT '{}',
    view              regclass,          -- the query as PostgreSQL bound it: survives renames, and pg_dump carries it
    source            text[],            -- what the columns meant that it reads of a topic's foreign table: ALTER may change that
    PRIMARY KEY (subscription_id, target)
);

-- Moves in the same transaction as the rows: this, not the Kafka group, decides where a subscription goes on.
CREATE TABLE kafka.subscription_position (
    subscription_id   bigint NOT NULL REFERENCES kafka.subscription ON DELETE CASCADE,
    topic             text NOT NULL,
    partition         integer NOT NULL,
    next_offset       bigint NOT NULL,
    start_offset      bigint NOT NULL,
    last_offset       bigint,            -- of the last message applied,
    last_timestamp    timestamptz,       -- its record timestamp
    last_checksum     bigint,            -- and CRC-32C of its key and value: a recreated topic is noticed by them
    applied_at        timestamptz,
    producers         jsonb,             -- last position of each producer in this partition: its repeats are left out
    read_at           timestamptz,       -- all that was in the log by then was read, as last noted
    topic_id          text,              -- of the topic that was read, where librdkafka tells it
    generation        bigint NOT NULL DEFAULT kafka.new_id(),  -- another one when it begins anew: foreign targets tell by it
    anchor_offset     bigint,            -- of a message from a little earlier: what was read since may be of a recreated topic,
    anchor_timestamp  timestamptz,       -- as long as this one was not found in the log again
    anchor_checksum   bigint,
    PRIMARY KEY (subscription_id, topic, partition)
) WITH (fillfactor = 50);

-- Replication origins of dropped subscriptions, for as long as a publisher may still meet their rows in WAL.
CREATE TABLE kafka.dropped_origin (
    origin            text PRIMARY KEY,
    dropped_lsn       pg_lsn NOT NULL    -- all that was written under it lies before
);

-- The launcher looks again whenever a definition changed, also by a restored dump.
CREATE FUNCTION kafka.definitions_changed() RETURNS trigger
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_definitions_changed';
COMMENT ON FUNCTION kafka.definitions_changed() IS
    'Trigger function: asks the launcher, at commit, to look at this database''s publishers and subscriptions.';
REVOKE ALL ON FUNCTION kafka.definitions_changed() FROM PUBLIC;
CREATE TRIGGER definitions_changed AFTER INSERT OR UPDATE OR DELETE ON kafka.publisher
    FOR EACH STATEMENT EXECUTE FUNCTION kafka.definitions_changed();
CREATE TRIGGER definitions_changed AFTER INSERT OR UPDATE OR DELETE ON kafka.subscription
    FOR EACH STATEMENT EXECUTE FUNCTION kafka.definitions_changed();

-- A role that owns one cannot be dropped, from whichever database.
CREATE FUNCTION kafka.owner_changed() RETURNS trigger
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_owner_changed';
COMMENT ON FUNCTION kafka.owner_changed() IS
    'Trigger function: notes in pg_shdepend that publishers and subscriptions depend on the roles that own them.';
REVOKE ALL ON FUNCTION kafka.owner_changed() FROM PUBLIC;
CREATE TRIGGER owner_changed AFTER INSERT OR UPDATE OF owner OR DELETE ON kafka.publisher
    FOR EACH ROW EXECUTE FUNCTION kafka.owner_changed();
CREATE TRIGGER owner_changed AFTER INSERT OR UPDATE OF owner OR DELETE ON kafka.subscription
    FOR EACH ROW EXECUTE FUNCTION kafka.owner_changed();

SELECT pg_catalog.pg_extension_config_dump('kafka.publisher', '');
SELECT pg_catalog.pg_extension_config_dump('kafka.publisher_relation', '');
SELECT pg_catalog.pg_extension_config_dump('kafka.publisher_topic', '');
SELECT pg_catalog.pg_extension_config_dump('kafka.subscription', '');
SELECT pg_catalog.pg_extension_config_dump('kafka.subscription_target', '');
SELECT pg_catalog.pg_extension_config_dump('kafka.subscription_position', '');

COMMENT ON TABLE kafka.publisher IS 'Publishers, one row each; use the functions to change them, and kafka.publisher_status to watch them.';
COMMENT ON TABLE kafka.publisher_relation IS 'Topic and message key of single tables of a publisher, set with kafka.set_topic.';
COMMENT ON TABLE kafka.publisher_topic IS 'Partition count that each topic of a publisher began with; keys are hashed over it for ever.';
COMMENT ON TABLE kafka.publisher_snapshot IS 'Initial snapshot of each table of a publisher: the snapshot it was read with, and how far it is.';
COMMENT ON TABLE kafka.subscription IS 'Subscriptions, one row each; use the functions to change them, and kafka.subscription_status to watch them.';
COMMENT ON TABLE kafka.subscription_target IS 'Target tables of subscriptions; use the functions to change them, and kafka.subscription_targets to see them.';
COMMENT ON TABLE kafka.dropped_origin IS 'Replication origins of dropped subscriptions that publishers still need to know their rows by.';
COMMENT ON TABLE kafka.subscription_position IS 'Next offset of each partition of a subscription; committed together with the rows.';
