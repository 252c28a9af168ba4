"""Bad input: the subscription stops with a clear error at exactly that message, and goes on once it is mended or skipped."""

import json

import psycopg
import pytest

from conftest import wait_until
from test_subscription import envelope, subscribe, table


@pytest.fixture
def topic(kafka):
    return kafka.create_topic()


GOOD = [({"id": i}, {"id": i, "v": "x", "n": i}) for i in range(5)]
DDL = "id int PRIMARY KEY, v text NOT NULL DEFAULT 'd', n int CHECK (n < 1000)"

# name: (key, value, what the error must say, column or None)
BAD = {
    "malformed json": ({"id": 9}, b'{"id": 9, "v": "x", ', ["JSON"], None),
    "not an object": ({"id": 9}, b"[1, 2]", [], None),
    "two documents": ({"id": 9}, b'{"id": 9} {"id": 10}', [], None),
    "wrong type": ({"id": 9}, {"id": 9, "n": "many"}, ["many"], "n"),
    "out of range": ({"id": 9}, {"id": 9, "n": 2**40}, ["range"], "n"),
    "missing key": (None, {"v": "x"}, ["key"], "id"),
    "null key": (None, {"id": None, "v": "x"}, ["null"], "id"),
    "unknown column": ({"id": 9}, {"id": 9, "nosuch": 1}, ["does not exist"], "nosuch"),
    "null into not null": ({"id": 9}, {"id": 9, "v": None}, ["null"], "v"),
    "check constraint": ({"id": 9}, {"id": 9, "n": 1000}, ["check constraint"], None),
    "invalid utf-8": ({"id": 9}, b'{"id": 9, "v": "a\xff\xfeb"}', ["UTF-8"], None),
    "nul character": ({"id": 9}, b'{"id": 9, "v": "a\\u0000b"}', [], "v"),
    "empty value": ({"id": 9}, b"", [], None),
    "empty key and tombstone": (b"", None, [], None),
    "deep nesting": ({"id": 9}, b'{"v":' + b"[" * 100000, [], None),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_message(db, kafka, topic, case):
    key, value, words, column = BAD[case]
    table(db, DDL)
    kafka.produce_many(topic, GOOD + [(key, value)] + [({"id": 20}, {"id": 20, "v": "after", "n": 1})])
    subscribe(db, topic, "t")
    error = db.wait_state("subscription", "s", "error")["last_error"]
    assert f'topic "{topic}", partition 0, offset 5' in error
    for word in words + ([f'"{column}"'] if column else []):
        assert word.lower() in error.lower(), error
    assert db.value("SELECT count(*) FROM t") == 5      # all before it are there, nothing of it or after it
    assert db.value("SELECT next_offset FROM kafka.subscription_position") == 5


def test_skip_a_bad_message(db, kafka, topic):
    table(db, DDL)
    kafka.produce_many(topic, GOOD + [({"id": 9}, b"{"), ({"id": 20}, {"id": 20, "v": "after", "n": 1})])
    subscribe(db, topic, "t")
    row = db.wait_state("subscription", "s", "error")
    # tried again with a back-off, and the offset stays
    db.wait("SELECT restarts > %s AND state = 'error' FROM kafka.subscription_status", row["restarts"])
    assert db.value("SELECT next_offset FROM kafka.subscription_position") == 5
    hint = db.state("subscription", "s")["last_error"].split("message with ")[1].rstrip(".")
    assert hint.startswith("kafka.seek_subscription('s', ")
    db.q(f"SELECT {hint}")
    db.wait_for_subscription("s")
    assert [i for (i,) in db.q("SELECT id FROM t ORDER BY id")] == [0, 1, 2, 3, 4, 20]


def test_goes_on_once_mended(db, kafka, topic):
    table(db, DDL)
    kafka.produce_many(topic, GOOD + [({"id": 9}, {"id": 9, "extra": "e"}), ({"id": 10}, {"id": 10, "v": None, "n": 5000})])
    subscribe(db, topic, "t")
    assert '"extra"' in db.wait_state("subscription", "s", "error")["last_error"]
    db.q("ALTER TABLE t ADD COLUMN extra text")
    db.q("SELECT kafka.resume_subscription('s')")
    wait_until(lambda: "offset 6" in (db.state("subscription", "s")["last_error"] or ""))
    assert db.q("SELECT extra FROM t WHERE id = 9") == [("e",)]
    db.q("ALTER TABLE t ALTER COLUMN v DROP NOT NULL, DROP CONSTRAINT t_n_check")
    db.wait_for_subscription("s")       # by itself, after the back-off
    assert db.q("SELECT v, n FROM t WHERE id = 10") == [(None, 5000)]
    db.wait_state("subscription", "s", "streaming")


def test_ignore_unknown_columns(db, kafka, topic):
    table(db)
    kafka.produce(topic, {"id": 1, "v": "x", "nosuch": {"deep": [1]}}, {"id": 1, "other": 2})
    subscribe(db, topic, "t", options={"ignore_unknown_columns": True})
    db.wait_for_subscription("s")
    assert db.q("SELECT * FROM t") == [(1, "x")]


def test_error_deep_in_a_batch(db, kafka, topic):
    """One of 20,000 is at fault, by a constraint that only the whole statement notices."""
    db.q("CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p SELECT generate_series(0, 99)")
    table(db, "id int PRIMARY KEY, v int REFERENCES p")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": 100 if i == 12345 else i % 100}) for i in range(20000)])
    subscribe(db, topic, "t", options={"fk_wait": 100})
    row = db.wait_state("subscription", "s", "error", timeout=60)
    assert "offset 12345" in row["last_error"]
    assert db.one("SELECT count(*), max(id) FROM t") == (12345, 12344)
    db.q("INSERT INTO p VALUES (100)")
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == 20000


def test_error_deep_in_a_batch_by_sql(db, kafka, topic):
    """The same where rows are written by SQL."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v < 1000)) PARTITION BY RANGE (id)")
    db.q("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10000); CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10000) TO (20000)")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": 1000 if i == 7777 else i % 100}) for i in range(20000)])
    subscribe(db, topic, "t")
    row = db.wait_state("subscription", "s", "error", timeout=60)
    assert "offset 7777" in row["last_error"] and "check constraint" in row["last_error"]
    assert db.one("SELECT count(*), max(id) FROM t") == (7777, 7776)
    db.q("SELECT kafka.seek_subscription('s', %s)", json.dumps({topic: {"0": 7778}}))
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == 19999


def test_debezium_without_row(db, kafka, topic):
    table(db)
    kafka.produce(topic, {"op": "c", "before": None, "after": None, "source": {}}, {"id": 1})
    subscribe(db, topic, "t", format="debezium")
    assert "after" in db.wait_state("subscription", "s", "error")["last_error"]


def test_delete_without_the_targets_key(db, kafka, topic):
    """The target's key is not the source's, and the source has no REPLICA IDENTITY FULL: no delete gets lost in silence."""
    table(db, "id int, code text PRIMARY KEY")
    kafka.produce_many(topic, [({"id": 1}, envelope("c", after={"id": 1, "code": "x"})),
                               ({"id": 1}, envelope("d", before={"id": 1, "code": ""}))])
    subscribe(db, topic, "t", format="debezium")
    error = db.wait_state("subscription", "s", "error")["last_error"]
    assert "offset 1" in error and '"code"' in error and "REPLICA IDENTITY FULL" in error
    assert db.value("SELECT count(*) FROM t") == 1


@pytest.mark.parametrize("before", [
    {"id": 5, "origin": ""}, {"id": 5, "origin": None}, {"id": 5, "origin": "default"}, {"id": 5, "origin": "real"}])
@pytest.mark.parametrize("op", ["d", "u"])
def test_old_row_that_may_be_a_key_only(db, kafka, topic, before, op):
    """A default in the old row cannot be told from a value: neither is a delete lost nor a wrong row deleted."""
    table(db, "id int, origin text, PRIMARY KEY (origin, id)")
    db.q("INSERT INTO t VALUES (5, 'default')")
    kafka.produce_many(topic, [({"id": 5}, envelope("c", after={"id": 5, "origin": "real"})),
                               ({"id": 5}, envelope(op, before=before, after=None if op == "d" else {"id": 5, "origin": "moved"}))])
    subscribe(db, topic, "t", format="debezium")
    error = db.wait_state("subscription", "s", "error")["last_error"]
    for words in ("offset 1", '"origin", "id"', "REPLICA IDENTITY FULL", '"full_before"', "kafka.set_topic"):
        assert words in error
    assert db.q("SELECT origin FROM t ORDER BY 1") == [("default",), ("real",)]
    if before["origin"] == "real":      # as the option says: goes on
        db.q("SELECT kafka.alter_subscription('s', '{\"full_before\": true}')")
        db.wait_for_subscription("s")
        assert db.q("SELECT origin FROM t ORDER BY 1") == [("default",)] + ([("moved",)] if op == "u" else [])


def test_old_row_without_the_targets_key(db, kafka, topic):
    """Option full_before, but the events show that it is not so."""
    table(db, "id int, code text PRIMARY KEY")
    kafka.produce_many(topic, [({"id": 1}, envelope("c", after={"id": 1, "code": "x"})),
                               ({"id": 1}, envelope("u", after={"id": 1, "code": "y"})),
                               ({"id": 1}, envelope("d", before={"id": 1, "code": None}))])
    subscribe(db, topic, "t", format="debezium", options={"full_before": True})
    error = db.wait_state("subscription", "s", "error")["last_error"]
    assert "offset 1" in error and "no old row" in error and "REPLICA IDENTITY FULL" in error
    db.q("SELECT kafka.seek_subscription('s', %s)", json.dumps({topic: {"0": 2}}))
    wait_until(lambda: "offset 2" in (db.state("subscription", "s")["last_error"] or ""))
    assert 'no value for column "code"' in db.state("subscription", "s")["last_error"]
    assert db.q("SELECT code FROM t") == [("x",)]


@pytest.mark.parametrize("event", [envelope("d", before={"id": 1, "code": "a"}),
                                   envelope("u", before={"id": 1, "code": "a"}, after={"id": 1, "code": "b"})], ids="du")
@pytest.mark.parametrize("key", [{"id": 1}, None])
def test_target_key_across_partitions(db, kafka, event, key):
    """A row moved to another message key, and partition: the late delete of the former must not take it away."""
    topic = kafka.create_topic(partitions=2)
    table(db, "id int, code text PRIMARY KEY")
    kafka.produce(topic, envelope("c", after={"id": 2, "code": "a"}), {"id": 2} if key else None, partition=0)
    subscribe(db, topic, "t", format="debezium", options={"full_before": True})
    db.wait_for_subscription("s")
    kafka.produce(topic, event, key, partition=1)
    error = db.wait_state("subscription", "s", "error")["last_error"]
    for words in ("partition 1, offset 0", '"code"', "partitions", "kafka.set_topic"):
        assert words in error
    assert db.q("SELECT * FROM t") == [(2, "a")]


def test_target_dropped(db, kafka, topic):
    table(db)
    kafka.produce(topic, {"id": 1, "v": "x"}, {"id": 1})
    subscribe(db, topic, "t")
    db.wait_for_subscription("s")
    try:
        db.q("DROP TABLE t")
    except psycopg.Error as e:
        assert '"s"' in str(e)          # refused, naming the subscription
        return
    kafka.produce(topic, {"id": 2, "v": "x"}, {"id": 2})
    row = db.wait_state("subscription", "s", "error")
    assert "does not exist" in row["last_error"]


def test_target_loses_its_key(db, kafka, topic):
    table(db)
    kafka.produce(topic, {"id": 1, "v": "x"}, {"id": 1})
    subscribe(db, topic, "t")
    db.wait_for_subscription("s")
    db.q("ALTER TABLE t DROP CONSTRAINT t_pkey")
    kafka.produce(topic, {"id": 2, "v": "x"}, {"id": 2})
    assert "unique index" in db.wait_state("subscription", "s", "error")["last_error"]
    db.q("ALTER TABLE t ADD PRIMARY KEY (id)")
    db.wait_for_subscription("s")


def test_owner_without_rights(db, kafka, topic):
    roles = [f"{r}{db.name[2:]}" for r in ("alice", "bob")]
    for role in roles:
        db.q(f'CREATE ROLE "{role}"')
    try:
        table(db)
        db.q(f'ALTER TABLE t OWNER TO "{roles[0]}"; GRANT "{roles[0]}" TO "{roles[1]}"; GRANT USAGE ON FOREIGN SERVER kafka TO "{roles[1]}"')
        db.q(f'GRANT USAGE ON SCHEMA kafka TO "{roles[1]}"')
        with db.connect() as c:
            c.execute(f'SET SESSION AUTHORIZATION "{roles[1]}"')
            c.execute("SELECT kafka.create_subscription('s', 'kafka', %s, 't', 'json')", ([topic],))
        kafka.produce(topic, {"id": 1, "v": "x"}, {"id": 1})
        db.wait_for_subscription("s")
        db.q(f'REVOKE "{roles[0]}" FROM "{roles[1]}"')
        kafka.produce(topic, {"id": 2, "v": "x"}, {"id": 2})
        row = db.wait_state("subscription", "s", "error")
        assert roles[0] in row["last_error"] and roles[1] in row["last_error"]
        db.q(f'GRANT "{roles[0]}" TO "{roles[1]}"')
        db.wait_for_subscription("s")
        db.q("ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        kafka.produce(topic, {"id": 3, "v": "x"}, {"id": 3})
        assert "row-level security" in db.wait_state("subscription", "s", "error")["last_error"]
        db.q("ALTER TABLE t NO FORCE ROW LEVEL SECURITY")
        db.wait_for_subscription("s")
        assert db.value("SELECT count(*) FROM t") == 3
    finally:
        db.q("SELECT kafka.drop_subscription('s', true)")
        db.q(f'DROP OWNED BY "{roles[0]}", "{roles[1]}" CASCADE; DROP ROLE "{roles[0]}", "{roles[1]}"')


def test_lock_conflicts_are_retried(db, kafka, topic):
    """A deadlock with another session is not the message's fault."""
    table(db)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "a"}) for i in range(2)])
    subscribe(db, topic, "t")
    db.wait_for_subscription("s")
    with db.connect(autocommit=False) as other:
        other.execute("SET deadlock_timeout = '1h'")    # so that the worker is the one to give way
        other.execute("UPDATE t SET v = 'other' WHERE id = 1")
        kafka.produce_many(topic, [({"id": 0}, {"id": 0, "v": "b"}), ({"id": 1}, {"id": 1, "v": "b"})])
        db.wait("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")
        other.execute("UPDATE t SET v = 'other' WHERE id = 0")
        other.commit()
    db.wait_for_subscription("s")
    assert db.q("SELECT DISTINCT v FROM t") == [("b",)]
    assert db.state("subscription", "s")["restarts"] == 0


def test_retention_passed_the_offset(db, kafka, topic):
    table(db)
    subscribe(db, topic, "t")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "x"}) for i in range(10)])
    db.wait_for_subscription("s")
    db.q("SELECT kafka.pause_subscription('s')")
    wait_until(lambda: db.state("subscription", "s")["pid"] is None)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "x"}) for i in range(10, 20)])
    db.q("SELECT kafka.delete_records('kafka', %s, 0, 15)", topic)
    db.q("SELECT kafka.resume_subscription('s')")
    row = db.wait_state("subscription", "s", "error")
    assert topic in row["last_error"] and "offset 10" in row["last_error"] and "begins at offset 15" in row["last_error"]
    assert "seek" in row["last_error"]
    db.q("SELECT kafka.seek_subscription('s', 'earliest', true)")
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == 15


def test_recreated_topic(db, kafka, topic):
    """A topic deleted and made anew is not read on at the old offset, however long it has grown."""
    table(db)
    subscribe(db, topic, "t")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "old"}) for i in range(10)])
    db.wait_for_subscription("s")
    db.q("SELECT kafka.pause_subscription('s')")
    wait_until(lambda: db.state("subscription", "s")["pid"] is None)
    kafka.delete_topic(topic)
    def recreated():
        kafka.create_topic(topic)
        return True
    wait_until(recreated)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "new"}) for i in range(30)])
    db.q("SELECT kafka.resume_subscription('s')")
    row = db.wait_state("subscription", "s", "error")
    assert "deleted and created again" in row["last_error"]
    assert db.value("SELECT count(*) FROM t WHERE v = 'new'") == 0
    db.q("SELECT kafka.seek_subscription('s', 'earliest')")
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t WHERE v = 'new'") == 30


def test_recreated_topic_while_reading(db, kafka, topic):
    table(db)
    subscribe(db, topic, "t")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "old"}) for i in range(10)])
    db.wait_for_subscription("s")
    kafka.delete_topic(topic)
    def recreated():
        kafka.create_topic(topic)
        return True
    wait_until(recreated)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "new"}) for i in range(5)])
    row = db.wait_state("subscription", "s", "error", timeout=60)
    assert topic in row["last_error"]
    db.q("SELECT kafka.seek_subscription('s', 'earliest')")
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t WHERE v = 'new'") == 5
