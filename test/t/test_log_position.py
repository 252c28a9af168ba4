"""What "start" of a subscription means: the offsets that are stored before create and seek return."""

import json
import time

import psycopg
import pytest


@pytest.fixture
def topic(db, kafka):
    """Two partitions; partition 0 holds offsets 3 to 9, a second apart in record time, from 1000 s after the epoch."""
    name = kafka.create_topic(partitions=2, config={"retention.ms": "-1"})
    kafka.produce_many(name, [dict(key=f'{{"id":{i}}}', value=f'{{"id":{i}}}', partition=0, timestamp=(1000 + i) * 1000)
                              for i in range(10)])
    db.q("SELECT kafka.delete_records('kafka', %s, 0, 3)", name)
    db.q("CREATE TABLE target (id int PRIMARY KEY)")
    yield name
    kafka.delete_topic(name)


def start_of(db, topics, start):
    """{(topic, partition): offset} of a subscription that is not running."""
    topics = [topics] if isinstance(topics, str) else topics
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 'target', 'json', start => %s, enabled => false)", topics, start)
    try:
        return {(t, p): o for t, p, o in db.q("SELECT topic, partition, next_offset FROM kafka.subscription_position")}
    finally:
        db.q("SELECT kafka.drop_subscription('s')")


def test_earliest_and_latest(db, topic):
    assert start_of(db, topic, "earliest") == {(topic, 0): 3, (topic, 1): 0}
    assert start_of(db, topic, "latest") == {(topic, 0): 10, (topic, 1): 0}


@pytest.mark.parametrize("seconds, offset", [(0, 3), (1005, 5), (1004.5, 5), (1009, 9), (1009.001, 10), (10 ** 9, 10)])
def test_timestamp(db, topic, seconds, offset):
    start = db.value("SELECT to_timestamp(%s::float8)::text", seconds)
    assert start_of(db, topic, start) == {(topic, 0): offset, (topic, 1): 0}


def test_infinite_timestamps(db, topic):
    assert start_of(db, topic, "-infinity")[topic, 0] == 3
    assert start_of(db, topic, "infinity")[topic, 0] == 10


def test_offsets(db, topic):
    for offset in (3, 7, 10):
        assert start_of(db, topic, json.dumps({topic: {"0": offset}})) == {(topic, 0): offset, (topic, 1): 0}
    for offset in (2, 11, -1):
        with pytest.raises(psycopg.errors.NumericValueOutOfRange) as error:
            start_of(db, topic, json.dumps({topic: {"0": offset}}))
        assert error.value.diag.message_detail == "The partition begins at 3 and ends at 10."


@pytest.mark.parametrize("start, error", [
    ("sometime", psycopg.errors.InvalidParameterValue),
    ("{", psycopg.errors.InvalidParameterValue),
    ('{"TOPIC": 3}', psycopg.errors.InvalidParameterValue),
    ('{"TOPIC": {"0": "3"}}', psycopg.errors.InvalidParameterValue),
    ('{"TOPIC": {"0": 3.5}}', psycopg.errors.InvalidParameterValue),
    ('{"TOPIC": {"2": 0}}', psycopg.errors.UndefinedObject),
    ('{"TOPIC": {"x": 0}}', psycopg.errors.UndefinedObject),
    ('{"TOPIC": {"-1": 0}}', psycopg.errors.UndefinedObject),
    ('{"no.such.topic": {"0": 0}}', psycopg.errors.UndefinedObject),
])
def test_malformed_start_leaves_nothing(db, topic, start, error):
    with pytest.raises(error):
        start_of(db, topic, start.replace("TOPIC", topic))
    assert db.value("SELECT count(*) FROM kafka.subscription") == 0
    assert db.value("SELECT count(*) FROM kafka.subscription_position") == 0


def test_latest_is_the_last_stable_offset(db, kafka, topic):
    producer = kafka.open_transaction(topic, [dict(value="{}", partition=0)] * 3)
    try:
        assert start_of(db, topic, "latest")[topic, 0] == 10
        assert start_of(db, topic, "infinity")[topic, 0] == 10
        # What lies between it and the high watermark may be named.
        assert start_of(db, topic, json.dumps({topic: {"0": 12}}))[topic, 0] == 12
        with pytest.raises(psycopg.errors.NumericValueOutOfRange):
            start_of(db, topic, json.dumps({topic: {"0": 14}}))
    finally:
        producer.commit_transaction(30)
    assert start_of(db, topic, "latest")[topic, 0] == 14


def test_patterns(db, kafka, topic):
    prefix = topic.replace(".", "-")
    others = [kafka.create_topic(f"{prefix}.{name}") for name in ("a1", "a2", "b1")]
    internal = kafka.create_topic(f"__{prefix}.a3")
    try:
        assert start_of(db, f"^{prefix}\\.a", "earliest") == {(others[0], 0): 0, (others[1], 0): 0}
        assert set(start_of(db, [f"^.*{prefix}", topic], "earliest")) == {(t, 0) for t in others} | {(topic, 0), (topic, 1)}
        # Named and matched: once.
        assert set(start_of(db, [others[2], f"^{prefix}"], "earliest")) == {(t, 0) for t in others}
        with pytest.raises(psycopg.errors.InvalidRegularExpression):
            start_of(db, "^[", "earliest")
        assert start_of(db, "^no-such-topic$", "earliest") == {}
    finally:
        for name in others + [internal]:
            kafka.delete_topic(name)


def test_start_with_no_broker_is_an_error_within_10_s(db, topic):
    db.q("CREATE SERVER away FOREIGN DATA WRAPPER kafka OPTIONS (\"bootstrap.servers\" '127.0.0.1:1')")
    began = time.monotonic()
    with pytest.raises(psycopg.errors.SqlclientUnableToEstablishSqlconnection):
        db.q("SELECT kafka.create_subscription('s', 'away', %s, 'target', 'json', enabled => false)", [topic])
    assert time.monotonic() - began < 10
    assert db.value("SELECT count(*) FROM kafka.subscription") == 0
