-- Servers and user mappings of the foreign-data wrapper kafka: their options are librdkafka's, and are checked.
\set VERBOSITY default
SET client_min_messages = warning;
DROP ROLE IF EXISTS fdw_plain, fdw_other;
RESET client_min_messages;
CREATE ROLE fdw_plain;
CREATE ROLE fdw_other;

-- What is not there is an error that names it, with the closest name.
CREATE SERVER s FOREIGN DATA WRAPPER kafka;
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("linger.ms" '5');
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.server" 'b:9092');
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "liger.ms" '5');
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "Linger.ms" '5');
-- Values are librdkafka's to judge, of topic scope too.
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "linger.ms" 'soon');
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "security.protocol" 'telepathy');
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "compression.level" '99');
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '');
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" ' , ');
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "max.in.flight" '6');
-- Secrets belong into user mappings, brokers on the server.
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "sasl.password" 'hush');
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "ssl.key.pem" 'hush');
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "ssl.key.password" 'hush');
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "sasl.oauthbearer.config" 'hush');
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "sasl.oauthbearer.client.secret" 'hush');
-- What a guarantee rests on is nobody's to set.
\set VERBOSITY terse
SELECT format($$CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', %I '1')$$, name)
FROM unnest('{acks,request.required.acks,enable.idempotence,partitioner,message.timeout.ms,delivery.timeout.ms,
    isolation.level,auto.offset.reset,enable.auto.commit,enable.auto.offset.store,group.id,transactional.id,
    transaction.timeout.ms,log_cb,opaque,retries,log.queue,metadata.broker.list}'::text[]) name
\gexec
\set VERBOSITY default
CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "acks" '1');

CREATE SERVER s FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "linger.ms" '5', "compression.level" '3');
ALTER SERVER s OPTIONS (ADD "liger.ms" '5');
ALTER SERVER s OPTIONS (SET "linger.ms" 'soon');
ALTER SERVER s OPTIONS (DROP "bootstrap.servers");
ALTER SERVER s OPTIONS (ADD "sasl.password" 'hush');
ALTER SERVER s OPTIONS (ADD "security.protocol" 'sasl_ssl', SET "linger.ms" '7', DROP "compression.level");
SELECT unnest(srvoptions) FROM pg_foreign_server WHERE srvname = 's';

CREATE USER MAPPING FOR CURRENT_USER SERVER s OPTIONS ("bootstrap.servers" 'elsewhere:9092');
CREATE USER MAPPING FOR CURRENT_USER SERVER s OPTIONS ("sasl.pasword" 'hush');
CREATE USER MAPPING FOR CURRENT_USER SERVER s OPTIONS (acks '1');
CREATE USER MAPPING FOR CURRENT_USER SERVER s OPTIONS ("sasl.username" 'u', "sasl.password" 'hush', "ssl.key.pem" 'k', "sasl.oauthbearer.config" 'c');
ALTER USER MAPPING FOR CURRENT_USER SERVER s OPTIONS (SET "sasl.password" 'hush, hush', DROP "ssl.key.pem");
\set VERBOSITY terse
ALTER USER MAPPING FOR CURRENT_USER SERVER s OPTIONS (ADD "sasl.mechanism.typo" 'PLAIN');
\set VERBOSITY default

-- The wrapper has no options; those of foreign tables are in topic_tables.sql.
ALTER FOREIGN DATA WRAPPER kafka OPTIONS (ADD debug 'all');
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS ("bootstrap.servers" 'b:9092');

-- A role that is no superuser may set what reads no file, loads no code and runs no program.
GRANT USAGE ON FOREIGN DATA WRAPPER kafka TO fdw_plain;
SET ROLE fdw_plain;
CREATE SERVER p FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "ssl.ca.location" '/etc/passwd');
CREATE SERVER p FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'b:9092', "sasl.username" 'u', "socket.timeout.ms" '5000', "ssl.ca.pem" 'x');
\set VERBOSITY terse
SELECT format($$ALTER SERVER p OPTIONS (ADD %I '/tmp/x')$$, name)
FROM unnest('{sasl.kerberos.kinit.cmd,sasl.kerberos.keytab,ssl.ca.location,ssl.certificate.location,ssl.keystore.location,
    ssl.crl.location,plugin.library.paths,ssl.engine.location,ssl.engine.id,debug,builtin.features,
    sasl.oauthbearer.token.endpoint.url,statistics.interval.ms}'::text[]) name
\gexec
\set VERBOSITY default
CREATE USER MAPPING FOR fdw_plain SERVER p OPTIONS ("sasl.username" 'u', "sasl.password" 'hush', "ssl.key.location" '/etc/shadow');
CREATE USER MAPPING FOR fdw_plain SERVER p OPTIONS ("linger.ms" '1');
CREATE USER MAPPING FOR fdw_plain SERVER p OPTIONS ("sasl.username" 'u', "sasl.password" 'hush');
-- USAGE on the server is needed, and a server of this wrapper.
SELECT * FROM kafka.list_topics('s');
SELECT * FROM kafka.produce('s', 't', 'v');
RESET ROLE;
SELECT * FROM kafka.list_topics('nowhere');
SELECT * FROM kafka.list_topics(NULL);
CREATE FOREIGN DATA WRAPPER fdw_dummy;
CREATE SERVER d FOREIGN DATA WRAPPER fdw_dummy;
SELECT * FROM kafka.list_topics('d');
-- A superuser may set anything else that librdkafka knows.
ALTER SERVER p OPTIONS (ADD "ssl.ca.location" '/etc/ssl/certs', ADD debug 'broker');
-- Others see no secrets.
SET ROLE fdw_other;
SELECT count(*) FROM pg_user_mappings WHERE umoptions IS NOT NULL;
RESET ROLE;

DROP SERVER s CASCADE;
DROP SERVER p CASCADE;
DROP FOREIGN DATA WRAPPER fdw_dummy CASCADE;
REVOKE ALL ON FOREIGN DATA WRAPPER kafka FROM fdw_plain;
DROP ROLE fdw_plain, fdw_other;
