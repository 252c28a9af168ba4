"""Mode append: a row per event, exactly once, whatever the publisher repeats and whoever is killed."""

import json

import psycopg
import pytest

from conftest import wait_until
from pipelines import WORK, Pipeline, Worker
from test_query_targets import add_target, failed, settle, subscribe
from test_subscription import envelope


@pytest.fixture
def topic(kafka):
    return kafka.create_topic()


def pos(publisher, lsn, ordinal):
    return [("pg_kafka_sync.pos", f"{publisher}/{lsn}/{ordinal}")]


def test_events(db, kafka, topic):
    """Creates, updates and snapshot rows; deletes only where the query reads op; tombstones and truncates never."""
    db.q("CREATE TABLE plain (id int, v text, n bigserial PRIMARY KEY); CREATE TABLE q (id text, v text);"
         "CREATE TABLE ops (op text, id int, at bigint, headers jsonb)")
    subscribe(db, topic, format="debezium")
    add_target(db, "plain", mode="append")
    add_target(db, "q", "SELECT upper(after->>'v') AS v, after->>'id' AS id FROM batch WHERE after->>'v' <> 'no'", mode="append")
    add_target(db, "ops", "SELECT op, coalesce(after->>'id', before->>'id')::int AS id, \"offset\" AS at, headers FROM batch", mode="append")
    row = {"id": 1, "v": "a"}
    kafka.produce_many(topic, [
        ({"id": 1}, envelope("r", after=row)), ({"id": 1}, envelope("u", after={**row, "v": "b"})),
        dict(key={"id": 1}, value=envelope("u", after={**row, "v": "no"}), headers=[("h", "x"), ("bytes", b"\xff")]),
        ({"id": 1}, envelope("d", before=row)), ({"id": 1}, None), (None, envelope("t")),
        ({"id": 1}, envelope("c", after={**row, "v": "c"}))])
    settle(db)
    assert db.q("SELECT id, v FROM plain ORDER BY n") == [(1, "a"), (1, "b"), (1, "no"), (1, "c")]
    assert db.q("SELECT * FROM q") == [("1", "A"), ("1", "B"), ("1", "C")]
    assert db.q("SELECT op, id, at FROM ops") == [("r", 1, 0), ("u", 1, 1), ("u", 1, 2), ("d", 1, 3), ("c", 1, 6)]
    assert db.value("SELECT headers FROM ops WHERE at = 2") == [["h", "x"], ["bytes", {"base64": "/w=="}]]


def test_partitioned_and_triggers(db, kafka, topic):
    """By SQL where the table wants it; defaults, identity and generated columns are filled."""
    db.q("CREATE TABLE t (n int GENERATED ALWAYS AS IDENTITY, id int, twice int GENERATED ALWAYS AS (id * 2) STORED,"
         "                at timestamptz DEFAULT now()) PARTITION BY RANGE (id);"
         "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (50); CREATE TABLE t2 PARTITION OF t DEFAULT")
    subscribe(db, topic)
    add_target(db, "t", "SELECT (after->>'id')::int AS id FROM batch", mode="append")
    kafka.produce_many(topic, [(None, {"id": i % 100}) for i in range(300)])
    settle(db)
    assert db.one("SELECT count(*), count(DISTINCT n), sum(twice), count(at) FROM t1") == (150, 150, 3 * 2 * sum(range(50)), 150)
    assert db.value("SELECT count(*) FROM t2") == 150


def test_repeats(db, kafka, topic):
    """What an at-least-once publisher wrote again is left out, in one run, across runs and restarts; upserts need no such thing."""
    db.q("CREATE TABLE log (id int, v text); CREATE TABLE t (id int PRIMARY KEY, v text)")
    subscribe(db, topic)
    add_target(db, "log", mode="append")
    add_target(db, "t")
    def events(*numbers, publisher="00000000000000a1"):
        return [dict(key={"id": lsn * 10 + n}, value={"id": lsn * 10 + n, "v": publisher[-2:]}, headers=pos(publisher, f"{lsn:X}", n)) for lsn, n in numbers]
    kafka.produce_many(topic, events((1, 0), (1, 1), (10, 0), (10, 0), (10, 1)))
    settle(db)
    assert sorted(db.q("SELECT id FROM log")) == [(10,), (11,), (100,), (101,)]
    # another publisher has positions of its own; A is 10, so text order would mislead
    kafka.produce_many(topic, events((9, 0), publisher="00000000000000b2") + events((1, 1), (10, 0), (10, 1), (10, 2), (11, 0)))
    settle(db)
    db.q("SELECT kafka.pause_subscription('s')")
    kafka.produce_many(topic, events((10, 2), (11, 0), (11, 10), (11, 9)) + events((9, 0), (9, 1), publisher="00000000000000b2"))
    kafka.produce(topic, {"id": 7, "v": "without"}, {"id": 7})
    db.q("SELECT kafka.resume_subscription('s')")
    settle(db)
    assert sorted(db.q("SELECT id, v FROM log")) == sorted([(10, "a1"), (11, "a1"), (100, "a1"), (101, "a1"), (90, "b2"), (102, "a1"),
                                                            (110, "a1"), (120, "a1"), (91, "b2"), (7, "without")])
    assert db.value("SELECT producers FROM kafka.subscription_position") == {"00000000000000a1": "B/10", "00000000000000b2": "9/1"}
    # what is sought again is no repeat
    db.q("TRUNCATE log; SELECT kafka.seek_subscription('s', 'earliest')")
    settle(db)
    assert db.value("SELECT count(*) FROM log") == 10


def test_repeats_after_joining_late(db, kafka, topic):
    """A target that is filled from the log and joins knows what it has seen, though the others never had to."""
    db.q("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE log (id int)")
    subscribe(db, topic)
    add_target(db, "t")
    events = [dict(key={"id": i}, value={"id": i}, headers=pos("00000000000000a1", "1", i)) for i in range(20)]
    kafka.produce_many(topic, events)
    settle(db)
    assert db.value("SELECT producers FROM kafka.subscription_position") is None
    add_target(db, "log", mode="append", options={"hydrate": True})
    db.wait("SELECT count(*) = 20 FROM log", timeout=60)
    db.wait("SELECT producers IS NOT NULL FROM kafka.subscription_position", timeout=60)
    kafka.produce_many(topic, events[5:] + [dict(key={"id": 99}, value={"id": 99}, headers=pos("00000000000000a1", "1", 99))])
    settle(db)
    assert sorted(db.q("SELECT id FROM log")) == [(i,) for i in range(20)] + [(99,)]


def test_foreign_producers(db, kafka, topic):
    """Option dedupe_header; off; and a header that says nonsense."""
    db.q("CREATE TABLE log (id int)")
    subscribe(db, topic, options={"dedupe_header": "seq"})
    add_target(db, "log", mode="append")
    def event(id, seq):
        return dict(value={"id": id}, headers=[("seq", seq)])
    kafka.produce_many(topic, [event(1, "5"), event(2, "7"), event(2, "7"), event(1, "5"), event(3, "a/1"), event(3, "a/1"), event(4, "a/2")])
    settle(db)
    assert db.q("SELECT * FROM log") == [(1,), (2,), (3,), (4,)]
    error = failed(db, kafka, topic, (None, {"id": 1}, [("seq", "seven")]))
    assert 'header "seq" is no position' in error
    db.q("SELECT kafka.alter_subscription('s', '{\"dedupe\": \"off\"}')")
    kafka.produce_many(topic, [event(9, "1")])
    settle(db)
    assert db.q("SELECT * FROM log OFFSET 4") == [(1,), (9,)]


def test_bad_message(db, kafka, topic):
    """A message at fault: those before it are there once, and so are those after it."""
    db.q("CREATE TABLE log (id int CHECK (id <> 50))")
    subscribe(db, topic, enabled=False)
    add_target(db, "log", mode="append")
    kafka.produce_many(topic, [dict(value={"id": i}, headers=pos("00000000000000a1", "1", i)) for i in range(100)])
    db.q("SELECT kafka.resume_subscription('s')")
    assert "offset 50 cannot be applied" in db.wait_state("subscription", "s", "error")["last_error"]
    assert db.value("SELECT count(*) FROM log") == 50
    db.q("ALTER TABLE log DROP CONSTRAINT log_id_check; SELECT kafka.resume_subscription('s')")
    settle(db)
    assert sorted(db.q("SELECT id FROM log")) == [(i,) for i in range(100)]


def test_unchanged_value(db, kafka, topic):
    """A row cannot be appended without a value that the message leaves out, unless nothing reads it."""
    db.q("CREATE TABLE log (id int, big text); CREATE TABLE q (id int)")
    subscribe(db, topic)
    add_target(db, "q", "SELECT (after->>'id')::int AS id FROM batch", mode="append")
    unchanged = [("pg_kafka_sync.unchanged", '["big"]')]
    kafka.produce(topic, {"id": 1}, {"id": 1}, unchanged)
    settle(db)
    assert db.q("SELECT * FROM q") == [(1,)]
    db.q("SELECT kafka.pause_subscription('s')")
    add_target(db, "log", mode="append")
    db.q("SELECT kafka.resume_subscription('s')")
    error = failed(db, kafka, topic, ({"id": 1}, {"id": 1}, unchanged))
    assert 'column "big": the message leaves the value out as unchanged' in error


CHANGES = WORK.replace("CREATE TABLE acct (id int PRIMARY KEY, version bigint NOT NULL, payload text);",
                       "CREATE TABLE acct (id int PRIMARY KEY, version bigint NOT NULL, payload text); CREATE TABLE seen (version bigint, op text);")


@pytest.mark.parametrize("killed", ["publisher", "subscription"])
def test_exactly_once_under_kills(private_cluster, kafka, killed):
    """Every version of every row is appended once, though workers are killed again and again."""
    p = Pipeline(private_cluster, kafka, format="debezium", table=CHANGES, tables="acct")
    try:
        p.target.q("SELECT kafka.add_target('s', 'seen', $$SELECT (after->>'version')::bigint AS version, op FROM batch$$, mode => 'append', options => '{\"hydrate\": false}')")
        with Worker(p, batch=100):
            for _ in range(3):
                before = p.target.value("SELECT count(*) FROM seen")
                p.target.wait("SELECT count(*) > %s FROM seen", before + 150)
                p.kill_worker(p.source if killed == "publisher" else p.target)
        p.settle()
        expected = p.source.q("SELECT version FROM journal WHERE version IS NOT NULL ORDER BY 1")
        seen = p.target.q("SELECT version FROM seen WHERE op <> 'd' ORDER BY 1")
        assert len(seen) == len(expected) and seen == expected
        assert p.target.value("SELECT count(*) FROM seen WHERE op = 'd'") == p.source.value("SELECT count(*) FROM journal WHERE version IS NULL")
    finally:
        p.drop()


def test_repeat_of_a_dead_letter(db, kafka, topic):
    """What a publisher writes again of a message that was set aside is no second letter, except for targets that hold a state."""
    db.q("CREATE TABLE log (id int CHECK (id <> 2))")
    subscribe(db, topic, on_error="dead_letter")
    add_target(db, "log", mode="append")
    def send(*numbers):
        kafka.produce_many(topic, [dict(key={"id": n}, value={"id": n}, headers=pos("a1", "1", n)) for n in numbers])
        settle(db)
    send(1, 2, 2, 3)
    send(1, 2, 3, 4)
    kafka.produce_many(topic, [dict(key={"id": 9}, value={"id": 9}, headers=[("pg_kafka_sync.pos", "x")])] * 2)
    settle(db)
    letters = "SELECT \"offset\", targets::text FROM kafka.dead_letter ORDER BY id"
    assert db.q(letters) == [(1, "{log}"), (8, "{log}"), (9, "{log}")]
    db.q("DELETE FROM kafka.dead_letter WHERE \"offset\" >= 8; CREATE TABLE t (id int PRIMARY KEY CHECK (id <> 5))")
    add_target(db, "t")
    send(2, 5, 5)
    assert db.q(letters) == [(1, "{log}"), (11, "{log,t}"), (12, "{t}")]
    db.q("ALTER TABLE log DROP CONSTRAINT log_id_check; ALTER TABLE t DROP CONSTRAINT t_id_check; SELECT kafka.retry_dead_letters('s')")
    db.wait("SELECT count(*) = 0 FROM kafka.dead_letter")
    assert db.q("SELECT id FROM log ORDER BY id") == [(1,), (2,), (3,), (4,), (5,)]
    assert db.q("SELECT id FROM t ORDER BY id") == [(2,), (5,)]
