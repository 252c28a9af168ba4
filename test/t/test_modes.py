"""Format debezium without schemas: what bytes and times mean depends on the writer's modes, which nothing in a message
tells. Our publishers say them in headers; for others the subscription has options of the same names."""

import base64
import json

import pytest

from pipelines import same_rows
from publisher_util import create, prefix, sync

TABLE = """
    CREATE DOMAIN blob AS bytea;
    CREATE TABLE t (k bytea, n int, PRIMARY KEY (k, n), b bytea, nn bytea NOT NULL DEFAULT '\\x01', a bytea[], d blob, da blob[],
        x text, t3 time(3), t6 time, s3 timestamp(3), s6 timestamp, ta time(3)[], sa timestamp[]);
    CREATE TABLE plain (id int PRIMARY KEY, x text);
"""
BYTES = [b"\x00\xff\x7f\x80", b"\xfb\xff\xbf", b"", b"abcd", b"\xde\xad\xbe\xef\xca\xfe"]
ENCODE = {"bytes": lambda b: base64.b64encode(b).decode(), "base64": lambda b: base64.b64encode(b).decode(),
          "base64-url-safe": lambda b: base64.urlsafe_b64encode(b).decode(), "hex": lambda b: b.hex()}


def fill(db, first):
    for n, value in enumerate(BYTES, first):
        db.q("INSERT INTO t VALUES (%s, %s, %s, %s, %s, %s, %s, %s, '00:00:05.5', '00:00:05.25', '2020-01-01 00:00:05.5', '1969-12-31 23:59:59.001',"
             " '{00:00:00.007,NULL}', '{2020-01-01 00:00:01,infinity}')",
             value, n, value, value, [value, None, b"\xff"], value, [value], value.hex())


@pytest.mark.parametrize("schemas", [False, True])
@pytest.mark.parametrize("binary,time", [("bytes", "adaptive"), ("base64", "adaptive_time_microseconds"),
                                         ("base64-url-safe", "connect"), ("hex", "connect")])
def test_modes_there_and_back(make_db, kafka, binary, time, schemas):
    """Keys, arrays, domains, key changes, deletes: all come back whatever the publisher's modes, with no option to say them."""
    source, target = make_db(), make_db()
    for db in (source, target):
        db.create_server(kafka)
        db.q(TABLE)
    fill(source, 0)
    topics = prefix()
    create(source, "p", "FOR TABLE t, plain", topics, snapshot="initial", format="debezium",
           options=json.dumps({"binary.handling.mode": binary, "time.precision.mode": time, "schemas": schemas,
                               "topic.creation.default.partitions": 1}))
    fill(source, 100)
    source.q("INSERT INTO plain VALUES (1, 'x')")
    target.q("SELECT kafka.create_subscription('s', 'kafka', %s, 't')", [f"{topics}.public.t"])
    sync(source, "p")
    target.wait_for_subscription("s", 30)
    same_rows(source, target, "t")
    source.q("UPDATE t SET b = k || k, t3 = '23:59:59.999' WHERE n = 0")
    source.q("UPDATE t SET k = '\\xffee' WHERE n = 1")
    source.q("DELETE FROM t WHERE n IN (100, 101, 3)")
    sync(source, "p")
    target.wait_for_subscription("s", 30)
    same_rows(source, target, "t")
    assert target.value("SELECT count(*) FROM t") == 2 * len(BYTES) - 3

    messages = kafka.consume(f"{topics}.public.t")
    assert any(m.value is None for m in messages)
    says_binary = binary.encode() if binary in ("hex", "base64-url-safe") else None
    says_time = time.encode() if time != "adaptive" and not schemas else None
    for m in messages:
        assert (m.header("pg_kafka_sync.binary"), m.header("pg_kafka_sync.time")) == (says_binary, says_time)
    [message] = kafka.consume(f"{topics}.public.plain")
    assert message.header("pg_kafka_sync.binary") is None and message.header("pg_kafka_sync.time") is None


@pytest.mark.parametrize("binary,time,unit", [("bytes", "adaptive", 1), ("base64", "adaptive_time_microseconds", 1),
                                              ("base64-url-safe", "connect", 1000), ("hex", "connect", 1000)])
def test_modes_of_other_producers(db, kafka, binary, time, unit):
    """Without the headers the subscription's options hold; a header is stronger, and one that makes no sense is an error."""
    topic = kafka.create_topic()
    db.q("CREATE TABLE t (k bytea PRIMARY KEY, b bytea, a bytea[], t3 time(3), s6 timestamp)")
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 't', options => %s::jsonb)", [topic],
         json.dumps({"binary.handling.mode": binary, "time.precision.mode": time}))
    encode = ENCODE[binary]
    t3 = {"adaptive": 5500, "adaptive_time_microseconds": 5500000, "connect": 5500}[time]
    s6 = 1577836805500000 // unit

    def event(value, encode=encode, headers=None):
        after = {"k": encode(value), "b": encode(value), "a": [encode(value), None], "t3": t3, "s6": s6}
        kafka.produce(topic, {"op": "c", "before": None, "after": after}, {"k": encode(value)}, headers)

    for value in BYTES:
        event(value)
    db.wait_for_subscription("s", 20)
    assert sorted((bytes(k), bytes(b), [x and bytes(x) for x in a]) for k, b, a in db.q("SELECT k, b, a FROM t")) == \
        sorted((value, value, [value or b"", None]) for value in BYTES)
    assert db.q("SELECT DISTINCT t3::text, s6::text FROM t") == [("00:00:05.5", "2020-01-01 00:00:05.5")]

    # a delete, a lone tombstone
    kafka.produce(topic, {"op": "d", "before": {"k": encode(BYTES[0]), "b": None, "a": None, "t3": None, "s6": None}, "after": None},
                  {"k": encode(BYTES[0])})
    kafka.produce(topic, None, {"k": encode(BYTES[3])})
    db.wait_for_subscription("s", 20)
    assert sorted(bytes(k) for (k,) in db.q("SELECT k FROM t")) == sorted([BYTES[1], BYTES[2], BYTES[4]])

    other = "bytes" if binary == "hex" else "hex"
    event(b"cafe", ENCODE[other], [("pg_kafka_sync.binary", other.encode()), ("pg_kafka_sync.time", time.encode())])
    kafka.produce(topic, None, {"k": ENCODE[other](BYTES[1])}, [("pg_kafka_sync.binary", other.encode())])
    db.wait_for_subscription("s", 20)
    assert sorted(bytes(k) for (k,) in db.q("SELECT k FROM t")) == sorted([BYTES[2], BYTES[4], b"cafe"])

    event(b"x", headers=[("pg_kafka_sync.binary", b"octal")])
    error = db.wait_state("subscription", "s", "error")["last_error"]
    assert "header pg_kafka_sync.binary" in error, error


@pytest.mark.parametrize("by", ["header", "option"])
def test_modes_of_dead_letters(db, kafka, by):
    """A letter that is retried is read as its message would have been."""
    topic = kafka.create_topic()
    db.q("CREATE TABLE t (k bytea PRIMARY KEY, s6 timestamp, n int CONSTRAINT positive CHECK (n > 0))")
    modes = {"binary.handling.mode": "hex", "time.precision.mode": "connect"}
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 't', on_error => 'dead_letter', options => %s::jsonb)", [topic],
         json.dumps(modes if by == "option" else {}))
    headers = [("pg_kafka_sync.binary", b"hex"), ("pg_kafka_sync.time", b"connect")] if by == "header" else None
    kafka.produce(topic, {"op": "c", "before": None, "after": {"k": "cafe", "s6": 5500, "n": -1}}, {"k": "cafe"}, headers)
    db.wait_for_subscription("s", 20)
    assert db.value("SELECT count(*) FROM kafka.dead_letter") == 1 and db.q("SELECT * FROM t") == []
    db.q("ALTER TABLE t DROP CONSTRAINT positive")
    db.q("SELECT kafka.retry_dead_letters('s')")
    db.wait("SELECT NOT EXISTS (SELECT 1 FROM kafka.dead_letter)")
    assert db.q("SELECT k::text, s6::text FROM t") == [("\\xcafe", "1970-01-01 00:00:05.5")]


def test_modes_unknown_to_subscriptions(db, kafka):
    """Values are checked as a publisher's are."""
    topic = kafka.create_topic()
    db.q("CREATE TABLE t (k bytea PRIMARY KEY)")
    with pytest.raises(Exception, match='invalid value for option "binary.handling.mode": octal'):
        db.q("""SELECT kafka.create_subscription('s', 'kafka', %s, 't', options => '{"binary.handling.mode": "octal"}')""", [topic])
