-- Targets of subscriptions, and what their queries read.

CREATE FUNCTION kafka.batch_rows(OUT topic text, OUT partition integer, OUT "offset" bigint, OUT ts timestamptz,
        OUT key jsonb, OUT op text, OUT before jsonb, OUT after jsonb, OUT headers jsonb) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_batch_rows';
COMMENT ON FUNCTION kafka.batch_rows() IS
    'The messages that a subscription is applying, for the view kafka.batch. object_not_in_prerequisite_state anywhere but in the query of a target.';

CREATE VIEW kafka.batch AS
SELECT topic, partition, "offset", ts, key, op, before, after, headers FROM kafka.batch_rows();
COMMENT ON VIEW kafka.batch IS
    'What the query of a target reads, as batch: one row per message that is being applied. ts: the record''s timestamp; key: the message key as JSON; op: c | r | u | d; before, after: the row as JSON with decoded values; headers: array of [name, text | null | {"base64": ...}]. It has rows only while a subscription applies them.';
GRANT SELECT ON kafka.batch TO PUBLIC;

-- The caller's search_path is not locked away here: it binds the names in the query. The function locks it for the rest.
CREATE FUNCTION kafka.add_target(subscription name, target regclass, query text DEFAULT NULL, mode text DEFAULT 'upsert',
        key text[] DEFAULT NULL, merge jsonb DEFAULT NULL, options jsonb DEFAULT '{}') RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'ks_add_target';
COMMENT ON FUNCTION kafka.add_target(name, regclass, text, text, text[], jsonb, jsonb) IS
    'Adds a target table to a subscription. query: one SELECT that reads batch (see kafka.batch); its columns go to the target''s columns of the same names; NULL: rows go in as they come. mode: upsert | append | merge. key: columns of a unique index of the target (NULL: its primary key; none for append). merge: {"column": "sum|min|max|count|first|last|or|and"} for each column that is not in the key, mode merge only. options: see kafka.option_reference(). Names in the query are bound with the caller''s search_path now, and follow renames; the query runs as the subscription''s owner. Errors: undefined_object, undefined_column, duplicate_object, duplicate_column, datatype_mismatch, generated_always, invalid_parameter_value, feature_not_supported, insufficient_privilege, wrong_object_type, object_not_in_prerequisite_state, and those of parsing the query.';

CREATE FUNCTION kafka.drop_target(subscription name, target regclass) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_drop_target';
COMMENT ON FUNCTION kafka.drop_target(name, regclass) IS
    'Removes a target from a subscription; the table keeps its rows. A table that was dropped is named by its number, as kafka.subscription_targets shows it. undefined_object if it is no target.';
