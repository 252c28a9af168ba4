-- Clusters and credentials: the foreign-data wrapper kafka.

CREATE FUNCTION kafka.fdw_validator(options text[], catalog oid) RETURNS void
    LANGUAGE c STRICT
    AS 'MODULE_PATHNAME', 'ks_fdw_validator';
COMMENT ON FUNCTION kafka.fdw_validator(text[], oid) IS
    'Checks the options of servers and user mappings of foreign-data wrapper kafka with librdkafka, and those of foreign tables; called by CREATE and ALTER SERVER, USER MAPPING, FOREIGN TABLE. ERROR names the option or property that is unknown, malformed, reserved, a secret outside of a user mapping, or not the current role''s to set.';
REVOKE ALL ON FUNCTION kafka.fdw_validator(text[], oid) FROM PUBLIC;

CREATE FUNCTION kafka.fdw_handler() RETURNS fdw_handler
    LANGUAGE c STRICT
    AS 'MODULE_PATHNAME', 'ks_fdw_handler';
COMMENT ON FUNCTION kafka.fdw_handler() IS
    'The functions of foreign-data wrapper kafka for PostgreSQL''s planner and executor: foreign tables are topics. Not to be called.';

CREATE FOREIGN DATA WRAPPER kafka HANDLER kafka.fdw_handler VALIDATOR kafka.fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER kafka IS
    'Kafka clusters: options of servers and user mappings are librdkafka''s properties; "bootstrap.servers" is required, secrets belong into user mappings. Its foreign tables are topics.';
