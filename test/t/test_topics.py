"""Servers, topics, ACLs, groups and kafka.produce against real brokers: waits, failures, rights."""

import base64
import threading
import time

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import ConfigResource, ResourceType

from conftest import wait_until


@pytest.fixture
def topic(db, kafka):
    name = kafka.new_topic_name()
    db.q("SELECT kafka.create_topic('kafka', %s, 3, 1, %s)", name, '{"cleanup.policy": "delete"}')
    yield name
    kafka.delete_topic(name)


@pytest.fixture
def as_bob(db, kafka):
    """A server on which the current role is Kafka's user bob."""
    db.q(f"CREATE SERVER bob FOREIGN DATA WRAPPER kafka OPTIONS (\"bootstrap.servers\" '{kafka.sasl_bootstrap}',"
         " \"security.protocol\" 'sasl_plaintext', \"sasl.mechanisms\" 'PLAIN')")
    db.q("CREATE USER MAPPING FOR CURRENT_USER SERVER bob OPTIONS (\"sasl.username\" 'bob', \"sasl.password\" 'bob-secret')")
    return "bob"


def dynamic_config(kafka, topic):
    """What is set on the topic itself, as another client sees it."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    entries = kafka.admin.describe_configs([resource])[resource].result(timeout=20)
    return {name: entry.value for name, entry in entries.items() if entry.source == 1}


def cancelled(db, sql, how):
    """Runs sql in a thread, ends it in the middle by how(pid); the error and the seconds that ending took."""
    connection = db.connect()
    pid = connection.info.backend_pid
    result = {}

    def run():
        try:
            connection.execute(sql)
        except psycopg.Error as error:
            result["error"], result["at"] = error, time.monotonic()

    thread = threading.Thread(target=run)
    thread.start()
    db.wait("SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = %s AND query = %s", pid, sql)
    began = time.monotonic()
    how(pid)
    thread.join(20)
    connection.close()
    return result["error"], result["at"] - began


# ---- unreachable and silent brokers, interrupts

CALLS = [
    "SELECT * FROM kafka.list_topics('away')",
    "SELECT * FROM kafka.produce('away', 't', 'v')",
    "SELECT kafka.create_topic('away', 't')",
    "SELECT * FROM kafka.consumer_lag('away', 'g')",
]


def create_away(db, bootstrap):
    db.q(f"CREATE SERVER away FOREIGN DATA WRAPPER kafka OPTIONS (\"bootstrap.servers\" '{bootstrap}')")


@pytest.mark.parametrize("sql", CALLS[:2])
def test_unreachable_broker_is_an_error_within_10_s(db, sql):
    create_away(db, "127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(psycopg.errors.SqlclientUnableToEstablishSqlconnection) as error:
        db.q(sql)
    assert time.monotonic() - began < 10
    assert 'could not reach a broker of Kafka server "away"' in str(error.value)
    assert "bootstrap.servers" in error.value.diag.message_hint
    assert "Connection refused" in error.value.diag.message_detail


def test_silent_broker_is_an_error_within_10_s(db, private_kafka):
    create_away(db, private_kafka.bootstrap)
    db.q("SELECT * FROM kafka.list_topics('away')")
    private_kafka.pause()
    try:
        began = time.monotonic()
        with pytest.raises(psycopg.errors.SqlclientUnableToEstablishSqlconnection):
            db.q("SELECT * FROM kafka.list_topics('away')")
        assert time.monotonic() - began < 10
    finally:
        private_kafka.resume()
    db.q("SELECT * FROM kafka.list_topics('away')")


@pytest.mark.parametrize("sql", CALLS)
def test_statement_timeout_ends_a_wait(db, sql):
    create_away(db, "127.0.0.1:1")
    with db.connect() as connection:
        connection.execute("SET statement_timeout = '300ms'")
        began = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute(sql)
        assert time.monotonic() - began < 3
        # The session is as good as before.
        connection.execute("RESET statement_timeout")
        connection.execute("SELECT * FROM kafka.list_topics('kafka')")


def test_cancel_and_terminate_end_a_wait(db):
    create_away(db, "127.0.0.1:1")
    sql = CALLS[0]
    error, seconds = cancelled(db, sql, lambda pid: db.q("SELECT pg_cancel_backend(%s)", pid))
    assert isinstance(error, psycopg.errors.QueryCanceled) and seconds < 3
    error, seconds = cancelled(db, sql, lambda pid: db.q("SELECT pg_terminate_backend(%s)", pid))
    assert seconds < 3


def test_produce_survives_a_broker_restart(db, private_kafka):
    create_away(db, private_kafka.bootstrap)
    topic = private_kafka.create_topic()
    db.q("SELECT * FROM kafka.produce('away', %s, 'one')", topic)
    private_kafka.stop()
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError):
        db.q("SELECT * FROM kafka.produce('away', %s, 'two')", topic)
    assert time.monotonic() - began < 10
    private_kafka.start()
    assert db.one("SELECT * FROM kafka.produce('away', %s, 'three')", topic)[0] == 0
    values = [m.value for m in private_kafka.consume(topic)]
    assert values[0] == b"one" and values[-1] == b"three"


def test_handles_leave_nothing_behind(db, topic):
    """Threads and file descriptors of many calls, good and bad, are gone afterwards."""
    def used(pid):
        import os
        return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))

    with db.connect() as connection:
        pid = connection.info.backend_pid
        connection.execute("SELECT * FROM kafka.describe_topic('kafka', %s)", (topic,))
        wait_until(lambda: used(pid)[0] == 1, what="the first handle to end")
        before = used(pid)
        for _ in range(30):
            connection.execute("SELECT * FROM kafka.describe_topic('kafka', %s)", (topic,))
            with pytest.raises(psycopg.errors.UndefinedObject):
                connection.execute("SELECT * FROM kafka.describe_topic('kafka', 'no.such.topic')")
        wait_until(lambda: used(pid)[0] == 1, what="all handles to end")
        assert used(pid)[1] <= before[1] + 2


# ---- configs

def test_alter_topic_keeps_what_it_does_not_name(db, kafka):
    name = kafka.create_topic(config={"cleanup.policy": "compact", "segment.bytes": "1048576", "max.message.bytes": "200000"})
    db.q("SELECT kafka.alter_topic('kafka', %s, config => %s)", name, '{"retention.ms": 60000, "segment.bytes": 2097152}')
    expected = {"cleanup.policy": "compact", "segment.bytes": "2097152", "max.message.bytes": "200000", "retention.ms": "60000"}
    assert dynamic_config(kafka, name) == expected
    db.q("SELECT kafka.alter_topic('kafka', %s, config => %s)", name, '{"segment.bytes": null, "max.message.bytes": null}')
    assert dynamic_config(kafka, name) == {"cleanup.policy": "compact", "retention.ms": "60000"}
    # One refused value changes nothing.
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        db.q("SELECT kafka.alter_topic('kafka', %s, config => %s)", name, '{"retention.ms": 1, "cleanup.policy": "burn"}')
    assert dynamic_config(kafka, name) == {"cleanup.policy": "compact", "retention.ms": "60000"}
    kafka.delete_topic(name)


def test_alter_topic_by_two_sessions_at_once(db, kafka):
    name = kafka.create_topic()
    configs = {"retention.ms": "60000", "segment.bytes": "1048576", "max.message.bytes": "200000", "flush.messages": "7",
               "file.delete.delay.ms": "5", "min.cleanable.dirty.ratio": "0.25"}
    failures = []

    def alter(config, value):
        try:
            with db.connect() as connection:
                connection.execute("SELECT kafka.alter_topic('kafka', %s, config => jsonb_build_object(%s::text, %s::text))",
                                   (name, config, value))
        except psycopg.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=alter, args=item) for item in configs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert dynamic_config(kafka, name) == configs
    kafka.delete_topic(name)


def test_partitions_of_a_published_topic_stay(db, kafka, topic):
    """Keys are spread over them: another number would break their order."""
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    db.q("CREATE PUBLICATION pub FOR TABLE t")
    db.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', enabled => false)")
    db.q("INSERT INTO kafka.publisher_topic SELECT id, %s, 3 FROM kafka.publisher", topic)
    with pytest.raises(psycopg.errors.ObjectInUse) as error:
        db.q("SELECT kafka.alter_topic('kafka', %s, 4)", topic)
    assert 'Publisher "p"' in error.value.diag.message_detail and error.value.diag.message_hint
    assert kafka.partitions(topic) == 3
    db.q("SELECT kafka.alter_topic('kafka', %s, 3, '{\"retention.ms\": 60000}')", topic)
    # The same name on another cluster, or for a publisher that is gone, is no matter.
    db.create_server(kafka, "same_cluster")
    db.q("SELECT kafka.alter_topic('same_cluster', %s, 4)", topic)
    db.q("SELECT kafka.drop_publisher('p')")
    db.q("SELECT kafka.alter_topic('kafka', %s, 5)", topic)
    assert kafka.partitions(topic) == 5


def test_topic_is_there_and_gone_when_the_call_returns(db, kafka):
    for _ in range(5):
        name = kafka.new_topic_name()
        db.q("SELECT kafka.create_topic('kafka', %s, 4)", name)
        assert db.value("SELECT count(*) FROM kafka.describe_topic('kafka', %s)", name) == 4
        assert db.one("SELECT * FROM kafka.produce('kafka', %s, 'v', 'k', partition => 3)", name) == (3, 0)
        db.q("SELECT kafka.drop_topic('kafka', %s)", name)
        with pytest.raises(psycopg.errors.UndefinedObject):
            db.q("SELECT * FROM kafka.describe_topic('kafka', %s)", name)


def test_list_topics_counts_many_partitions_at_once(db, kafka):
    name = kafka.create_topic(partitions=60)
    kafka.produce_many(name, [(str(i), "v") for i in range(500)])
    began = time.monotonic()
    assert db.value("SELECT messages FROM kafka.list_topics('kafka') WHERE topic = %s", name) == 500
    assert db.value("SELECT sum(high_watermark - low_watermark) FROM kafka.describe_topic('kafka', %s)", name) == 500
    assert time.monotonic() - began < 5
    kafka.delete_topic(name)


def test_internal_topics_are_listed_on_demand(db, kafka, topic):
    kafka.produce(topic, "v")
    consumer = Consumer(kafka._conf(group__id=f"g-{topic}"))
    consumer.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
    consumer.close()
    assert db.value("SELECT count(*) FROM kafka.list_topics('kafka') WHERE topic LIKE '\\_\\_%%'") == 0
    assert db.value("SELECT count(*) FROM kafka.list_topics('kafka', true) WHERE topic = '__consumer_offsets'") == 1


# ---- produce

def test_produce_what_a_consumer_reads(db, kafka, topic):
    headers = '[["a", "x€"], ["a", null], ["b", {"base64": "AP8="}], ["", ""]]'
    place = db.one("SELECT * FROM kafka.produce('kafka', %s, %s, %s, %s)", topic, "wert ä", "schlüssel", headers)
    assert place == db.one("SELECT partition, high_watermark - 1 FROM kafka.describe_topic('kafka', %s)"
                           " WHERE high_watermark > 0", topic)
    db.q("SELECT * FROM kafka.produce('kafka', %s, NULL::text, 'schlüssel')", topic)
    db.q("SELECT * FROM kafka.produce('kafka', %s, '', 'schlüssel', '{\"h\": \"v\"}')", topic)
    db.q("SELECT * FROM kafka.produce('kafka', %s, %s::bytea, %s::bytea, NULL, %s)", topic, b"\x00\xff", "schlüssel".encode(), place[0])
    messages = kafka.consume(topic)
    assert [m.value for m in messages] == ["wert ä".encode(), None, b"", b"\x00\xff"]
    assert {m.key for m in messages} == {"schlüssel".encode()}
    assert {m.partition for m in messages} == {place[0]}
    assert messages[0].headers == [("a", "x€".encode()), ("a", None), ("b", base64.b64decode("AP8=")), ("", b"")]
    assert messages[2].headers == [("h", b"v")]
    assert messages[1].headers == []


def test_produce_partitions_like_other_clients(db, kafka, topic):
    keys = [f'{{"id":{i}}}' for i in range(50)]
    ours = dict(db.q("SELECT k, (kafka.produce('kafka', %s, 'v', k)).partition FROM unnest(%s::text[]) k", topic, keys))
    theirs = {key: place[0] for key, place in zip(keys, kafka.produce_many(topic, [(k, "v") for k in keys]))}
    assert ours == theirs and len(set(ours.values())) == 3


def test_produce_is_outside_of_the_transaction(db, kafka, topic):
    with db.connect(autocommit=False) as connection:
        connection.execute("SELECT * FROM kafka.produce('kafka', %s, 'v')", (topic,))
        connection.rollback()
    assert [m.value for m in kafka.consume(topic)] == [b"v"]


def test_produce_never_creates_a_topic(db, private_kafka):
    private_kafka.restart("auto.create.topics.enable=true")
    create_away(db, private_kafka.bootstrap)
    for _ in range(2):
        with pytest.raises(psycopg.errors.UndefinedObject):
            db.q("SELECT * FROM kafka.produce('away', 'not.there', 'v')")
    for function in ("describe_topic", "topic_config"):
        with pytest.raises(psycopg.errors.UndefinedObject):
            db.q(f"SELECT * FROM kafka.{function}('away', 'not.there')")
    assert "not.there" not in private_kafka.topics()


def test_produce_in_another_encoding(make_db, kafka, topic):
    database = make_db(options="ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    database.create_server(kafka)
    database.q("SELECT * FROM kafka.produce('kafka', %s, %s, %s, %s)", topic, "ä", "ö", '{"h": "ü"}')
    message = kafka.consume(topic)[0]
    assert (message.value, message.key, message.headers) == ("ä".encode(), "ö".encode(), [("h", "ü".encode())])


# ---- rights

def test_acls_are_obeyed(db, kafka, topic, as_bob):
    acl = "SELECT kafka.create_acl('kafka', %s, %s, 'literal', %s, '*', %s)"
    read = "SELECT count(*) FROM kafka.describe_topic('bob', %s)"
    write = "SELECT * FROM kafka.produce('bob', %s, 'v')"
    refused = psycopg.errors.InsufficientPrivilege
    assert db.value(read, topic) == 3       # no ACL: everyone
    # Else everyone may do everything with the cluster, deleting its topics included.
    db.q(acl, "cluster", "kafka-cluster", "User:alice", "alter")
    db.q(acl, "topic", topic, "User:alice", "all")
    try:
        for sql in (read, write, "SELECT * FROM kafka.topic_config('bob', %s)", "SELECT kafka.drop_topic('bob', %s)",
                    "SELECT kafka.alter_topic('bob', %s, 5)",
                    "SELECT kafka.alter_topic('bob', %s, config => '{\"retention.ms\": 1}')",
                    "SELECT kafka.delete_records('bob', %s, 0, 0)"):
            with pytest.raises(refused) as error:
                db.q(sql, topic)
            assert "ACL" in error.value.diag.message_hint
        assert db.value("SELECT count(*) FROM kafka.list_topics('bob') WHERE topic = %s", topic) == 0
        db.q(acl, "topic", topic, "User:bob", "read")
        wait_until(lambda: db.value(read, topic) == 3)
        assert db.q("SELECT partitions, cleanup_policy FROM kafka.list_topics('bob') WHERE topic = %s", topic) == [(3, None)]
        with pytest.raises(refused):
            db.q(write, topic)
        db.q(acl, "topic", topic, "User:bob", "write")
        wait_until(lambda: db.q(write, topic))
        # Who may not alter the cluster may not give himself rights.
        with pytest.raises(refused):
            db.q("SELECT kafka.create_acl('bob', 'topic', %s, 'literal', 'User:bob', '*', 'all')", topic)
    finally:
        assert db.value("SELECT kafka.drop_acl('kafka', 'topic', %s, NULL, NULL, NULL, NULL)", topic) == 3
        db.q("SELECT kafka.drop_acl('kafka', 'cluster', NULL, NULL, 'User:alice', NULL, NULL)")
    assert db.q("SELECT * FROM kafka.list_acls('kafka', resource_name => %s)", topic) == []


def test_wrong_password_is_a_quick_error_without_secrets(db, cluster, as_bob):
    db.q("ALTER USER MAPPING FOR CURRENT_USER SERVER bob OPTIONS (SET \"sasl.password\" 'not-his-secret')")
    for sql in ("SELECT * FROM kafka.list_topics('bob')", "SELECT * FROM kafka.produce('bob', 't', 'v')"):
        began = time.monotonic()
        with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification) as error:
            db.q(sql)
        assert time.monotonic() - began < 5
        assert "not-his-secret" not in str(error.value)
    log = cluster.log()
    assert 'Kafka server "bob"' in log
    assert [line for line in log.splitlines() if "not-his-secret" in line and "ALTER USER MAPPING" not in line] == []
    # Mended, it works in the same session.
    db.q("ALTER USER MAPPING FOR CURRENT_USER SERVER bob OPTIONS (SET \"sasl.password\" 'bob-secret')")
    db.q("SELECT * FROM kafka.list_topics('bob')")


def test_roles_need_usage_and_act_with_their_own_mapping(db, kafka, as_bob, topic):
    role = f"r_{topic.split('.')[1]}"
    db.q(f"CREATE ROLE {role} LOGIN")
    try:
        with db.connect(user=role) as connection:
            for server in ("kafka", "bob"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"SELECT * FROM kafka.list_topics('{server}')")
            db.q(f"GRANT USAGE ON FOREIGN SERVER bob TO {role}")
            # The superuser's mapping is not his.
            with pytest.raises(psycopg.Error):
                connection.execute("SELECT * FROM kafka.list_topics('bob')")
            connection.execute(f"CREATE USER MAPPING FOR {role} SERVER bob OPTIONS"
                               " (\"sasl.username\" 'alice', \"sasl.password\" 'alice-secret')")
            assert connection.execute("SELECT count(*) FROM kafka.describe_topic('bob', %s)", (topic,)).fetchone() == (3,)
            # The session's producer changes with the role.
            connection.execute("SELECT * FROM kafka.produce('bob', %s, 'alice')", (topic,))
    finally:
        db.q(f"DROP OWNED BY {role}")
        db.q(f"DROP USER MAPPING IF EXISTS FOR {role} SERVER bob")
        db.q(f"DROP ROLE {role}")


# ---- groups

def test_consumer_groups_and_lag(db, kafka, topic):
    group = f"g.{topic}"
    kafka.produce_many(topic, [dict(value=str(i), partition=i % 2) for i in range(10)])
    consumer = Consumer(kafka._conf(group__id=group, enable__auto__commit=False))
    consumer.commit(offsets=[TopicPartition(topic, 0, 2), TopicPartition(topic, 1, 5)], asynchronous=False)
    lag = "SELECT partition, committed, log_end, lag FROM kafka.consumer_lag('kafka', %s) WHERE topic = %s ORDER BY 1"
    assert db.q(lag, group, topic) == [(0, 2, 5, 3), (1, 5, 5, 0)]
    assert db.q("SELECT state, members, coordinator FROM kafka.list_consumer_groups('kafka') WHERE group_id = %s",
                group) == [("empty", 0, 1)]
    consumer.subscribe([topic])
    wait_until(lambda: consumer.poll(0.2) is not None and consumer.assignment(), what="the group's assignment")
    assert db.q("SELECT state, members, is_simple FROM kafka.list_consumer_groups('kafka') WHERE group_id = %s",
                group) == [("stable", 1, False)]
    consumer.close()
    with pytest.raises(psycopg.errors.UndefinedObject):
        db.q(lag, "no.such.group", topic)


def test_lag_of_a_group_whose_topic_is_gone(db, kafka, topic):
    gone = kafka.create_topic()
    group = f"g.{topic}"
    consumer = Consumer(kafka._conf(group__id=group))
    consumer.commit(offsets=[TopicPartition(topic, 0, 0), TopicPartition(gone, 0, 0)], asynchronous=False)
    consumer.close()
    kafka.delete_topic(gone)
    rows = db.q("SELECT topic, committed, log_end, lag FROM kafka.consumer_lag('kafka', %s)", group)
    assert (topic, 0, 0, 0) in rows
    assert all(row == (gone, 0, None, None) for row in rows if row[0] != topic)
