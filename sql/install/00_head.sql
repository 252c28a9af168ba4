\echo Use "CREATE EXTENSION pg_kafka_sync" to load this file. \quit
