-- Dead letters: messages that were set aside.  Everybody may use the table; a role sees the rows of what it owns.

CREATE TABLE kafka.dead_letter (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription_id   bigint NOT NULL REFERENCES kafka.subscription ON DELETE CASCADE,
    subscription      name NOT NULL,
    owner             regrole NOT NULL,          -- of the subscription
    target            regclass,                  -- NULL: the message was set aside for all targets there were
    targets           regclass[] NOT NULL,       -- those of them that have not got it since
    targets_anew      regclass[] NOT NULL DEFAULT '{}',   -- being read again, and it was set aside again: "targets" from then on
    at                timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    attempts          integer NOT NULL DEFAULT 1,
    last_attempt_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    stage             text NOT NULL,             -- parse | convert | query | apply | late
    sqlstate          text NOT NULL,
    error             text NOT NULL,
    detail            text,
    topic             text NOT NULL,
    partition         integer NOT NULL,
    "offset"          bigint NOT NULL,
    "timestamp"       timestamptz,               -- of the record
    op                text,                      -- c | u | d | r | t as parsed; NULL: it could not be
    key               bytea,
    value             bytea,
    headers           jsonb,                     -- array of [name, text | null | {"base64": "..."}]
    superseded        boolean NOT NULL DEFAULT false,
    retry             boolean NOT NULL DEFAULT false
);
CREATE INDEX dead_letter_place ON kafka.dead_letter (subscription_id, topic, partition, "offset");
CREATE INDEX dead_letter_key ON kafka.dead_letter (subscription_id, pg_catalog.sha256(key));
CREATE INDEX dead_letter_retry ON kafka.dead_letter (subscription_id, id) WHERE retry;
COMMENT ON TABLE kafka.dead_letter IS
    'Messages that subscriptions set aside since they could not be applied; a role sees those of subscriptions it owns. key, value and headers may be mended; kafka.retry_dead_letters applies them.';

ALTER TABLE kafka.dead_letter ENABLE ROW LEVEL SECURITY;
CREATE POLICY owner ON kafka.dead_letter
    USING (pg_catalog.pg_has_role(owner::pg_catalog.oid, 'USAGE'));
GRANT SELECT, DELETE, UPDATE (key, value, headers) ON kafka.dead_letter TO PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('kafka.dead_letter', '');
SELECT pg_catalog.pg_extension_config_dump('kafka.dead_letter_id_seq', '');

CREATE FUNCTION kafka.retry_dead_letters(subscription name, ids bigint[] DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_retry_dead_letters';
COMMENT ON FUNCTION kafka.retry_dead_letters(name, bigint[]) IS
    'Hands dead letters of a subscription (ids; NULL: all) to its worker, which applies each in a transaction of its own after this one has committed: the letter is gone then, or its attempts have grown and it has a new error. Superseded ones are left where they are, with a NOTICE. Returns how many were handed over. Errors: undefined_object (subscription, or a letter), insufficient_privilege.';
