-- Rebuilding targets from the log.

-- What is to be read again from the log, and how far it is.  A target that is in here is not written by the subscription
-- itself.  Rows are read into the table kafka.rebuild_<id>, or, for a new target ("hydrate"), into the target.
CREATE TABLE kafka.subscription_rebuild (
    id                bigint PRIMARY KEY,
    subscription_id   bigint NOT NULL REFERENCES kafka.subscription ON DELETE CASCADE,
    target            regclass NOT NULL,
    kind              text NOT NULL,         -- rebuild | hydrate
    state             text NOT NULL,         -- pending | running
    force             boolean NOT NULL,      -- partitions may have lost their beginning
    definition        text,                  -- of the target when its copy was made
    requested_at      timestamptz NOT NULL,
    started_at        timestamptz,
    UNIQUE (subscription_id, target),
    FOREIGN KEY (subscription_id, target) REFERENCES kafka.subscription_target ON DELETE CASCADE
);

-- Like kafka.subscription_position, of what is read again.  Dumped, since new targets hold what was read so far; copies are
-- made anew after a restore.
CREATE TABLE kafka.rebuild_position (
    subscription_id   bigint NOT NULL REFERENCES kafka.subscription ON DELETE CASCADE,
    topic             text NOT NULL,
    partition         integer NOT NULL,
    next_offset       bigint NOT NULL,
    start_offset      bigint NOT NULL,
    last_offset       bigint,
    last_timestamp    timestamptz,
    last_checksum     bigint,
    applied_at        timestamptz,
    producers         jsonb,
    end_offset        bigint,                -- of the log when reading began
    PRIMARY KEY (subscription_id, topic, partition)
) WITH (fillfactor = 50);

SELECT pg_catalog.pg_extension_config_dump('kafka.subscription_rebuild', '');
SELECT pg_catalog.pg_extension_config_dump('kafka.rebuild_position', '');

COMMENT ON TABLE kafka.subscription_rebuild IS 'Targets that are being read again from the log, see kafka.rebuild_subscription.';
COMMENT ON TABLE kafka.rebuild_position IS 'Next offset of each partition of what is being read again.';

CREATE FUNCTION kafka.rebuild_removed() RETURNS trigger
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_rebuild_removed';
COMMENT ON FUNCTION kafka.rebuild_removed() IS
    'Trigger function: drops the copy that was being built for a target.';
REVOKE ALL ON FUNCTION kafka.rebuild_removed() FROM PUBLIC;
CREATE TRIGGER rebuild_removed AFTER DELETE ON kafka.subscription_rebuild
    FOR EACH ROW EXECUTE FUNCTION kafka.rebuild_removed();

CREATE FUNCTION kafka.rebuild_subscription(name name, target regclass DEFAULT NULL, force boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_rebuild_subscription';
COMMENT ON FUNCTION kafka.rebuild_subscription(name, regclass, boolean) IS
    'Reads one target of a subscription (NULL: all of them) again from the beginning of its topics, beside the old rows, which stay until the new ones are complete and take their place in one short transaction. Returns at once; kafka.subscription_status shows the progress. Refused where a partition has gone or lost its beginning, and for append and merge from a compacted topic, unless force, which also begins a rebuild under way anew. Errors: undefined_object, insufficient_privilege, object_not_in_prerequisite_state, connection errors within 10 s.';
