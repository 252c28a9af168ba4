-- Two databases that write the same tables.

-- Deletes in tables with conflict newer, for as long as older changes may still arrive.  The publisher reads in WAL what is
-- written here just before a row goes.
CREATE TABLE kafka.deleted_row (
    target            regclass NOT NULL,
    key               text[] COLLATE "C" NOT NULL,
    deleted_at        timestamptz NOT NULL,      -- when it was noted
    stamp             text,                      -- value of the column of newer that it is ordered by
    PRIMARY KEY (target, key)
);
CREATE INDEX deleted_row_age ON kafka.deleted_row (target, deleted_at);
SELECT pg_catalog.pg_extension_config_dump('kafka.deleted_row', '');
COMMENT ON TABLE kafka.deleted_row IS
    'Keys of rows that were deleted from tables with option "conflict": "newer", here or on the other side, kept for "tombstone_retention".';

CREATE FUNCTION kafka.conflict_guard() RETURNS trigger
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'ks_conflict_guard';
COMMENT ON FUNCTION kafka.conflict_guard() IS
    'Trigger function that subscriptions with option "conflict": "newer" set on their targets: gives rows that are written here a newer value of the column than the row or delete before, remembers deletes, refuses TRUNCATE. Errors: check_violation (the type of the column has no next value), not_null_violation, feature_not_supported (TRUNCATE; a trigger has changed a key), triggered_data_change_violation (a newer value was suppressed).';
REVOKE ALL ON FUNCTION kafka.conflict_guard() FROM PUBLIC;
