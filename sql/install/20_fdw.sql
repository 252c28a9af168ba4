-- Clusters and credentials: the foreign-data wrapper kafka.

CREATE FUNCTION kafka.fdw_validator(options text[], catalog oid) RETURNS void
    LANGUAGE c STRICT
    AS 'MODULE_PATHNAME', 'ks_fdw_validator';
COMMENT ON FUNCTION kafka.fdw_validator(text[], oid) IS
    'Checks the options of servers and user mappings of foreign-data wrapper kafka with librdkafka; called by CREATE and ALTER SERVER, CREATE and ALTER USER MAPPING. ERROR names the property that is unknown, malformed, reserved, a secret outside of a user mapping, or not the current role''s to set.';
REVOKE ALL ON FUNCTION kafka.fdw_validator(text[], oid) FROM PUBLIC;

CREATE FOREIGN DATA WRAPPER kafka VALIDATOR kafka.fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER kafka IS
    'Kafka clusters: options of servers and user mappings are librdkafka''s properties; "bootstrap.servers" is required, secrets belong into user mappings.';
