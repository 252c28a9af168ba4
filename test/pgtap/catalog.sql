-- What holds for every object of the extension, those of later versions too, and the signatures that users rely on.
BEGIN;
SELECT no_plan();

CREATE TEMP VIEW own AS
SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
WHERE e.extname = 'pg_kafka_sync' AND d.deptype = 'e';
CREATE TEMP VIEW functions AS
SELECT p.* FROM pg_proc p JOIN own ON classid = 'pg_proc'::regclass AND objid = p.oid;
CREATE TEMP VIEW relations AS
SELECT c.* FROM pg_class c JOIN own ON classid = 'pg_class'::regclass AND objid = c.oid;

SELECT has_schema('kafka');
SELECT cmp_ok((SELECT count(*) FROM functions), '>=', 40::bigint, 'functions are found');
SELECT cmp_ok((SELECT count(*) FROM relations WHERE relkind = 'r'), '>=', 8::bigint, 'tables are found');
SELECT is_empty($$SELECT oid::regprocedure FROM functions WHERE pronamespace <> 'kafka'::regnamespace$$, 'functions are in schema kafka');

SELECT is_empty($$SELECT oid::regprocedure FROM functions WHERE obj_description(oid, 'pg_proc') IS NULL$$, 'functions have comments');
SELECT is_empty($$SELECT oid::regclass FROM relations WHERE relkind IN ('r', 'v') AND obj_description(oid, 'pg_class') IS NULL$$,
                'tables and views have comments');
SELECT is_empty($$SELECT oid::regclass FROM relations c WHERE relkind = 'r'
                  AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary)$$,
                'tables have primary keys: FOR ALL TABLES must not forbid updates of them');

SELECT is_empty($$SELECT oid::regprocedure FROM functions WHERE prosecdef$$, 'no function is SECURITY DEFINER');
-- add_target and create_subscription bind names as the caller sees them, then lock it; the others look up no names of users
SELECT set_eq($$SELECT DISTINCT proname::text FROM functions
                WHERE NOT EXISTS (SELECT FROM unnest(proconfig) AS setting WHERE setting LIKE 'search\_path=%')$$,
              ARRAY['new_id', 'fdw_validator', 'fdw_handler', 'create_topic', 'alter_topic', 'drop_topic', 'list_topics', 'describe_topic',
                    'topic_config', 'delete_records', 'create_acl', 'drop_acl', 'list_acls', 'list_consumer_groups', 'consumer_lag',
                    'produce', 'create_subscription', 'add_target', 'conflict_guard'],
              'all other functions have a locked search_path');
SELECT is_empty($$SELECT oid::regclass FROM relations WHERE relkind IN ('r', 'v') AND NOT relrowsecurity
                  AND has_table_privilege('public', oid, 'INSERT, UPDATE, DELETE, TRUNCATE')$$,
                'nobody writes our tables but kafka.dead_letter, each role its own');
SELECT set_eq($$SELECT oid::regclass::text FROM relations WHERE relrowsecurity$$, ARRAY['kafka.dead_letter'], 'row security of dead letters');

-- DESIGN, section 2: names, arguments and results
SELECT function_returns('kafka', name, string_to_array(args, ','), result)
FROM (VALUES
    ('create_topic', 'name,text,integer,integer,jsonb,boolean', 'void'),
    ('alter_topic', 'name,text,integer,jsonb', 'void'),
    ('drop_topic', 'name,text,boolean', 'void'),
    ('list_topics', 'name,boolean', 'setof record'),
    ('describe_topic', 'name,text', 'setof record'),
    ('topic_config', 'name,text', 'setof record'),
    ('delete_records', 'name,text,integer,bigint', 'void'),
    ('list_consumer_groups', 'name', 'setof record'),
    ('consumer_lag', 'name,text', 'setof record'),
    ('produce', 'name,text,text,text,jsonb,integer', 'record'),
    ('produce', 'name,text,bytea,bytea,jsonb,integer', 'record'),
    ('create_publisher', 'name,name,name,text,text,text,text,jsonb,boolean', 'void'),
    ('alter_publisher', 'name,jsonb', 'void'),
    ('drop_publisher', 'name,boolean', 'void'),
    ('pause_publisher', 'name', 'void'),
    ('resume_publisher', 'name', 'void'),
    ('set_topic', 'name,regclass,text,text[]', 'void'),
    ('wait_for_publisher', 'name,pg_lsn,interval', 'boolean'),
    ('create_subscription', 'name,name,text[],regclass,text,text,text[],text,text,integer,jsonb,boolean', 'void'),
    ('add_target', 'name,regclass,text,text,text[],jsonb,jsonb', 'void'),
    ('drop_target', 'name,regclass', 'void'),
    ('alter_subscription', 'name,jsonb', 'void'),
    ('drop_subscription', 'name,boolean', 'void'),
    ('pause_subscription', 'name', 'void'),
    ('resume_subscription', 'name', 'void'),
    ('seek_subscription', 'name,text,boolean', 'void'),
    ('rebuild_subscription', 'name,regclass,boolean', 'void'),
    ('retry_dead_letters', 'name,bigint[]', 'bigint'),
    ('wait_for_subscription', 'name,interval', 'boolean'),
    ('set_owner', 'text,text,regrole', 'void')) AS design (name, args, result);

SELECT has_view('kafka', name, 'view kafka.' || name)
FROM unnest(ARRAY['publisher_status', 'publisher_tables', 'subscription_status', 'subscription_offsets', 'problems']) AS name;
SELECT is_empty($$SELECT name FROM unnest(ARRAY['publisher_status', 'publisher_tables', 'subscription_status', 'subscription_offsets',
                  'problems']) AS name WHERE NOT has_table_privilege('pg_monitor', 'kafka.' || name, 'SELECT')$$, 'pg_monitor reads status');

SELECT * FROM finish();
ROLLBACK;
