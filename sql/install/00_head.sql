\echo Use "CREATE EXTENSION pg_kafka_sync" to load this file. \quit

-- A schema that somebody made beforehand would let its owner drop or replace what is in it.
DO $$
BEGIN
    IF EXISTS (SELECT 1 FROM pg_catalog.pg_namespace
                WHERE nspname OPERATOR(pg_catalog.=) 'kafka'
                  AND pg_catalog.pg_get_userbyid(nspowner) OPERATOR(pg_catalog.<>) current_user) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = 'schema "kafka" exists and belongs to another role',
            HINT = 'Rename it or drop it, and create the extension again.';
    END IF;
END
$$;
