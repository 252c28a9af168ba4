"""Targets on another PostgreSQL server: foreign tables of postgres_fdw, written by a connection of our own."""

import json
import os
import re
import shutil
import signal
import subprocess
import uuid

import psycopg
import pytest

from conftest import Cluster, wait_until
from test_query_targets import add_target, settle, subscribe


@pytest.fixture(scope="module")
def other(scratch):
    """Another server, without the extension.  Not to be stopped."""
    cluster = Cluster(scratch / f"pg-{uuid.uuid4().hex[:6]}")
    try:
        yield cluster.init("shared_preload_libraries = ''", "fsync = off").start()
    finally:
        cluster.destroy()


def link(db, far, user="postgres", **options):
    """A foreign server "far" for a database of another cluster, and a mapping for the table's owner."""
    db.q("CREATE EXTENSION IF NOT EXISTS postgres_fdw")
    db.q(f"CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{far.cluster.port}', dbname '{far.name}')")
    listed = ", ".join(f"\"{k}\" '{v}'" for k, v in {"user": user, **options}.items())
    db.q(f"CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS ({listed})")


@pytest.fixture
def far(db, other):
    """A database of the other server, which the foreign server "far" of db leads to."""
    database = other.create_database(extension=False)
    try:
        link(db, database)
        yield database
    finally:
        database.close()
        other.q("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", database.name)
        other.databases.remove(database)
        wait_until(lambda: other.q(f'DROP DATABASE "{database.name}" WITH (FORCE)') == [])


@pytest.fixture
def topic(kafka):
    return kafka.create_topic()


def table(db, far, columns="id int, v text", key="id", name="t", options=""):
    """A table of the other server, and the foreign table for it."""
    far.q(f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({key}))")
    db.q(f"CREATE FOREIGN TABLE {name} ({columns}) SERVER far OPTIONS (schema_name 'public' {options})")


def start(db, topic, **kwargs):
    subscribe(db, topic, target="t", key=["id"], **kwargs)


def rows(n, start=0, v="v"):
    return [({"id": i}, {"id": i, "v": f"{v}{i}"}) for i in range(start, start + n)]


def retrying(db, text, name="s"):
    """Until the subscription is in state retrying for a cause that contains text."""
    def holds():
        state = db.state("subscription", name)
        assert state["state"] == "retrying" and text in (state["detail"] or ""), state
        return state
    return wait_until(holds, 60, what=f"state retrying: {text}")


# ---- mode upsert

def test_upserts_deletes_and_tombstones(db, far, kafka, topic):
    table(db, far)
    kafka.produce_many(topic, rows(500))
    start(db, topic)
    settle(db)
    assert far.one("SELECT count(*), min(v), max(v) FROM t") == (500, "v0", "v99")
    kafka.produce_many(topic, [({"id": 1}, None), ({"id": 2}, {"id": 2, "v": "new"}), ({"id": 3}, None),
                               ({"id": 3}, {"id": 3, "v": "back"}), ({"id": 900}, None), ({"id": 4}, {"id": 4, "v": None})])
    settle(db)
    assert far.q("SELECT id, v FROM t WHERE id < 6 ORDER BY id") == [(0, "v0"), (2, "new"), (3, "back"), (4, None), (5, "v5")]
    # columns that a message does not have stay as they are, or become what the table there says
    far.q("ALTER TABLE t ADD w int NOT NULL DEFAULT 7")
    db.q("ALTER FOREIGN TABLE t ADD w int")
    far.q("UPDATE t SET w = 8 WHERE id = 5")
    kafka.produce_many(topic, [({"id": 5}, {"id": 5, "v": "x"}), ({"id": 600}, {"id": 600, "v": "y"})])
    settle(db)
    assert far.q("SELECT * FROM t WHERE id IN (5, 600) ORDER BY id") == [(5, "x", 8), (600, "y", 7)]


def test_names_and_types_of_the_other_side(db, far, kafka, topic):
    """Options schema_name, table_name, column_name; types that only the other side has; values of every kind."""
    far.q("""CREATE SCHEMA "S p"; CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN small AS int CHECK (VALUE < 100);
             CREATE TABLE "S p"."T""t" ("Key" bigint PRIMARY KEY, m mood, s small, n numeric(10,2), ts timestamptz, b bytea,
                j jsonb, a int[], f float8, i interval, c char(3), u uuid, x varchar(5))""")
    db.q("""CREATE FOREIGN TABLE t (id bigint OPTIONS (column_name 'Key'), m text, s int, n numeric(10,2), ts timestamptz,
                b bytea, j jsonb, a int[], f float8, i interval, c char(3), u uuid, x text)
            SERVER far OPTIONS (schema_name 'S p', table_name 'T"t')""")
    value = {"id": 1, "m": "ok", "s": 42, "n": "12.50", "ts": "2026-01-02 03:04:05.6+02", "b": "\\xdeadbeef",
             "j": {"k": [1, "\u00e4"]}, "a": "{1,NULL,3}", "f": "-Infinity", "i": "1 mon 02:03:04", "c": "ab",
             "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "x": "q'\"\\{"}
    kafka.produce(topic, value, {"id": 1})
    start(db, topic)
    settle(db)
    assert far.one("""SELECT "Key", m::text, s::int, n::text, ts::text, b::text, j::text, a::text, f::text, i::text, c, u::text, x
                      FROM "S p"."T""t" """) == \
        (1, "ok", 42, "12.50", "2026-01-02 01:04:05.6+00", "\\xdeadbeef", '{"k": [1, "\u00e4"]}', "{1,NULL,3}", "-Infinity",
         "1 mon 02:03:04", "ab ", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "q'\"\\{")
    # what does not fit there is an error, and is not cut off
    kafka.produce(topic, {"id": 2, "x": "abcdefg"}, {"id": 2})
    state = db.wait_state("subscription", "s", "error")
    assert "offset 1" in state["last_error"] and "value too long for type character varying(5)" in state["last_error"], state


def test_unchanged_values(db, far, kafka, topic):
    """A value that the message leaves out as unchanged stays; without a row there it is a failed message."""
    table(db, far)
    start(db, topic)
    kafka.produce_many(topic, rows(2))
    settle(db)
    kafka.produce(topic, {"id": 1}, {"id": 1}, headers=[("pg_kafka_sync.unchanged", b'["v"]')])
    settle(db)
    assert far.value("SELECT v FROM t WHERE id = 1") == "v1"
    kafka.produce(topic, {"id": 77}, {"id": 77}, headers=[("pg_kafka_sync.unchanged", b'["v"]')])
    assert "unchanged" in db.wait_state("subscription", "s", "error")["last_error"]


def test_truncate(db, far, kafka, topic):
    table(db, far)
    start(db, topic, format="debezium")
    kafka.produce_many(topic, [({"id": 1}, {"op": "c", "after": {"id": 1, "v": "a"}}), (None, {"op": "t"}),
                               ({"id": 2}, {"op": "c", "after": {"id": 2, "v": "b"}})])
    settle(db)
    assert far.q("SELECT * FROM t") == [(2, "b")]


def test_query_target_leaves_old_places(db, far, kafka, topic):
    """The rows of a message key are found there by a part of the target's key."""
    table(db, far, "id int, tag text, v int", "id, tag")
    subscribe(db, topic)
    add_target(db, "t", """SELECT (key->>'id')::int AS id, tag, (after->>'v')::int AS v
                           FROM batch, jsonb_array_elements_text((after->>'tags')::jsonb) AS tag""", key=["id", "tag"])
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": i, "tags": ["a", "b"]}) for i in range(50)])
    settle(db)
    assert far.value("SELECT count(*) FROM t") == 100
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "v": 10, "tags": ["b", "c"]}), ({"id": 2}, None), ({"id": 3}, {"id": 3, "tags": []})])
    settle(db)
    assert far.q("SELECT * FROM t WHERE id < 4 ORDER BY id, tag") == [(0, "a", 0), (0, "b", 0), (1, "b", 10), (1, "c", 10)]


# ---- append and merge: the other side remembers what it has

REMEMBER = {"remote_offsets": True}


def test_append_needs_remote_offsets(db, far, kafka, topic):
    table(db, far)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="remote_offsets"):
        subscribe(db, topic, target="t", mode="append")
    subscribe(db, topic)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="remote_offsets"):
        add_target(db, "t", mode="append")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="cannot be read again"):
        kafka.produce_many(topic, rows(2))
        db.q("CREATE TABLE own (id int PRIMARY KEY, v text)")
        add_target(db, "own")
        settle(db)
        add_target(db, "t", key=["id"], options={"hydrate": True})
    add_target(db, "t", key=["id"])
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="cannot be read again"):
        db.q("SELECT kafka.rebuild_subscription('s')")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="remote_offsets"):
        db.q("CREATE TABLE own2 (id int PRIMARY KEY, v text)")
        add_target(db, "own2", options=dict(REMEMBER))


def test_append_and_seek(db, far, kafka, topic):
    """Each message once; a seek back writes again what it is told to."""
    far.q("CREATE TABLE t (id int, v text)")
    db.q("CREATE FOREIGN TABLE t (id int, v text) SERVER far OPTIONS (schema_name 'public')")
    subscribe(db, topic)
    add_target(db, "t", mode="append", options=dict(REMEMBER))
    kafka.produce_many(topic, rows(300) + rows(100))
    settle(db)
    assert far.one("SELECT count(*), count(DISTINCT id) FROM t") == (400, 300)
    assert far.q("SELECT partition, next_offset FROM pg_kafka_sync_offsets") == [(0, 400)]
    db.q("SELECT kafka.seek_subscription('s', %s)", json.dumps({topic: {"0": 390}}))
    settle(db)
    assert far.value("SELECT count(*) FROM t") == 410
    db.q("SELECT kafka.pause_subscription('s')")
    db.q("SELECT kafka.resume_subscription('s')")
    kafka.produce_many(topic, rows(5))
    settle(db)
    assert far.value("SELECT count(*) FROM t") == 415


def test_merge_with_windows(db, far, kafka, topic):
    table(db, far, "day date, id int, n bigint, top int, seen text", "day, id")
    subscribe(db, topic, name="m")
    options = {**REMEMBER, "window": "day", "retain": "3 days", "late": "drop"}
    query = """SELECT (after->>'day')::date AS day, (after->>'id')::int AS id, count(*) AS n, max((after->>'v')::int) AS top,
                      max(after->>'s') AS seen FROM batch GROUP BY 1, 2"""
    add_target(db, "t", query, name="m", mode="merge", key=["day", "id"],
               merge={"n": "sum", "top": "max", "seen": "last"}, options=options)
    def event(day, id, v):
        return (None, {"day": f"2026-01-{day:02}", "id": id, "v": v, "s": f"s{v}"})
    kafka.produce_many(topic, [event(1, 1, v) for v in (5, 9, 2)] + [event(2, 1, 1)])
    settle(db, "m")
    kafka.produce_many(topic, [event(1, 1, 7), event(2, 2, 3)])
    settle(db, "m")
    assert far.q("SELECT day::text, id, n, top, seen FROM t ORDER BY 1, 2") == [
        ("2026-01-01", 1, 4, 9, "s7"), ("2026-01-02", 1, 1, 1, "s1"), ("2026-01-02", 2, 1, 3, "s3")]
    kafka.produce_many(topic, [event(5, 1, 1), event(1, 1, 100)])
    settle(db, "m")
    assert far.q("SELECT day::text, n FROM t ORDER BY 1, id") == [("2026-01-02", 1), ("2026-01-02", 1), ("2026-01-05", 1)]


@pytest.fixture
def own(private_cluster, kafka, other):
    """A database of a cluster that may be crashed, with the foreign server far; and the database there."""
    db = private_cluster.create_database()
    db.create_server(kafka)
    far = other.create_database(extension=False)
    link(db, far)
    yield db, far
    far.close()
    other.databases.remove(far)


def worker_pid(db):
    return wait_until(lambda: db.cluster.worker_pids("pg_kafka_sync subscription", db.name))[0]


def kill_worker(db):
    """kill -9 of the worker, which restarts its server."""
    ready = "database system is ready to accept connections"
    starts = db.cluster.log().count(ready)
    db.cluster.kill_worker(worker_pid(db))
    db.close()
    wait_until(lambda: db.cluster.log().count(ready) > starts, 60, what="the restart after a crash")


def restart_letter_ids(db, id):
    """The next dead letter gets this id."""
    db.q("SELECT setval(pg_get_serial_sequence('kafka.dead_letter', 'id'), %s, false)", id)


def append_target(db, far, topic, **kwargs):
    far.q("CREATE TABLE t (id int, v text)")
    db.q("CREATE FOREIGN TABLE t (id int, v text) SERVER far OPTIONS (schema_name 'public')")
    subscribe(db, topic, **kwargs)
    add_target(db, "t", mode="append", options=dict(REMEMBER))


def test_exactly_once_between_the_commits(own, kafka, other):
    """The worker dies while the other side commits, which it does in the end: nothing is written again."""
    db, far = own
    topic = kafka.create_topic(partitions=2)
    append_target(db, far, topic, options={"max_batch_rows": 50})
    db.q("CREATE TABLE here (id int PRIMARY KEY, v text)")
    add_target(db, "here")
    kafka.produce_many(topic, rows(40))
    settle(db)
    try:
        other.set(synchronous_standby_names="nobody")   # a commit there is done, but not over
        # of one partition: the successor's first batch might be of another, and not need the lock
        kafka.produce_many(topic, [dict(key=k, value=v, partition=0) for k, v in rows(100, 40)])
        far.wait("SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        kill_worker(db)
        # its successor waits for it before it decides what is there
        retrying(db, "lock")
        assert far.value("SELECT count(*) FROM t") == 40
    finally:
        other.set(synchronous_standby_names="")
    db.wait_for_subscription("s", 120)
    assert far.one("SELECT count(*), count(DISTINCT id) FROM t") == (140, 140)
    assert db.value("SELECT count(*) FROM here") == 140


def test_exactly_once_under_kills(own, kafka):
    """kill -9 of the worker, again and again, while 20,000 messages are appended."""
    db, far = own
    topic = kafka.create_topic(partitions=3)
    append_target(db, far, topic, options={"max_batch_rows": 300, "max_rows_per_second": 10000})
    kafka.produce_many(topic, rows(20000))
    for reached in (2000, 7000, 12000):
        db.wait("SELECT sum(next_offset) >= %s FROM kafka.subscription_position", reached, timeout=60)
        kill_worker(db)
    db.wait_for_subscription("s", 120)
    assert far.one("SELECT count(*), count(DISTINCT id) FROM t") == (20000, 20000)
    assert far.value("SELECT sum(next_offset) FROM pg_kafka_sync_offsets") == 20000


def test_dead_letters(db, far, kafka, topic):
    """One row that the table there refuses is set aside alone; a retry writes it, once."""
    far.q("CREATE TABLE t (id int, v text CHECK (v <> 'bad'))")
    db.q("CREATE FOREIGN TABLE t (id int, v text) SERVER far OPTIONS (schema_name 'public')")
    subscribe(db, topic, on_error="dead_letter")
    add_target(db, "t", mode="append", options=dict(REMEMBER))
    kafka.produce_many(topic, [(k, {**v, "v": "bad"} if v["id"] in (13, 77) else v) for k, v in rows(100)])
    settle(db)
    assert far.value("SELECT count(*) FROM t") == 98
    assert db.q('SELECT "offset", sqlstate, error FROM kafka.dead_letter ORDER BY 1') == [
        (n, "23514", 'new row for relation "t" violates check constraint "t_v_check"') for n in (13, 77)]
    far.q("ALTER TABLE t DROP CONSTRAINT t_v_check")
    db.q("SELECT kafka.retry_dead_letters('s')")
    db.wait("SELECT count(*) = 0 FROM kafka.dead_letter")
    assert far.one("SELECT count(*), count(DISTINCT id) FROM t") == (100, 100)
    # a database that was restored issues ids again: the other side has a letter of this id, but another one
    far.q("ALTER TABLE t ADD CHECK (v <> 'worse')")
    restart_letter_ids(db, far.value("SELECT max(generation) FROM pg_kafka_sync_offsets WHERE partition < 0"))
    kafka.produce(topic, {"id": 100, "v": "worse"}, {"id": 100})
    db.wait("SELECT count(*) = 1 FROM kafka.dead_letter")
    far.q("ALTER TABLE t DROP CONSTRAINT t_v_check")
    db.q("SELECT kafka.retry_dead_letters('s')")
    db.wait("SELECT count(*) = 0 FROM kafka.dead_letter")
    assert far.value("SELECT v FROM t WHERE id = 100") == "worse"


def test_a_letter_and_its_position_outlive_a_crash(own, kafka):
    """What the other side has committed last says that it has all before: so what was set aside before must be on disk here."""
    db, far = own
    db.cluster.set(wal_writer_delay="10s")
    far.q("CREATE TABLE t (id int, v text CHECK (v <> 'bad'))")
    db.q("CREATE FOREIGN TABLE t (id int, v text) SERVER far OPTIONS (schema_name 'public')")
    db.q("CHECKPOINT")
    topic = kafka.create_topic()
    subscribe(db, topic, on_error="dead_letter")
    add_target(db, "t", mode="append", options=dict(REMEMBER))
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "bad" if i in (2, 3, 4) else "v"}) for i in range(6)])
    far.wait("SELECT count(*) = 3 FROM t")
    kill_worker(db)
    db.wait_for_subscription("s", 60)
    assert db.q('SELECT "offset" FROM kafka.dead_letter ORDER BY 1') == [(2,), (3,), (4,)]
    assert far.one("SELECT count(*), count(DISTINCT id) FROM t") == (3, 3)
    # nor does a letter come back that was retried before the last one
    far.q("ALTER TABLE t DROP CONSTRAINT t_v_check")
    db.q("SELECT kafka.retry_dead_letters('s')")
    far.wait("SELECT count(*) = 6 FROM t")
    kill_worker(db)
    db.wait("SELECT count(*) = 0 FROM kafka.dead_letter")
    assert far.one("SELECT count(*), count(DISTINCT id) FROM t") == (6, 6)


def test_a_letter_that_one_of_two_other_sides_has(db, far, kafka, topic):
    """Retried, it was committed by the first and refused by the second at its commit; then other letters were retried."""
    for name in ("t", "u"):
        far.q(f"CREATE TABLE {name} (id int, v text CONSTRAINT {name}_good CHECK (v NOT LIKE 'bad%'))")
        db.q(f"CREATE FOREIGN TABLE {name} (id int, v text) SERVER far OPTIONS (schema_name 'public')")
    far.q("""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'refused' USING ERRCODE = '23514'; END$$;
             CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN SET CONSTRAINTS ALL DEFERRED; RETURN NEW; END$$;
             CREATE TRIGGER later BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION later();
             CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON u DEFERRABLE FOR EACH ROW WHEN (new.v = 'bad1')
             EXECUTE FUNCTION refuse()""")
    subscribe(db, topic, on_error="dead_letter")
    for name in ("t", "u"):
        add_target(db, name, mode="append", options=dict(REMEMBER))
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": f"bad{i}"}) for i in (1, 2)])
    settle(db)
    assert db.value("SELECT count(*) FROM kafka.dead_letter") == 2
    far.q("ALTER TABLE t DROP CONSTRAINT t_good; ALTER TABLE u DROP CONSTRAINT u_good")
    db.q("SELECT kafka.retry_dead_letters('s')")
    db.wait("SELECT count(*) = 1 FROM kafka.dead_letter WHERE NOT retry AND error LIKE '%%refused%%'")
    far.q("DROP TRIGGER refuse ON u")
    db.q("SELECT kafka.retry_dead_letters('s')")
    db.wait("SELECT count(*) = 0 FROM kafka.dead_letter")
    assert far.q("SELECT id FROM t ORDER BY 1") == far.q("SELECT id FROM u ORDER BY 1") == [(1,), (2,)]


def test_client_encoding_of_the_database(db, far, kafka, topic):
    """Text goes in the database's encoding, whatever clients of the database are told to use."""
    table(db, far)
    db.q(f'ALTER DATABASE "{db.name}" SET client_encoding = LATIN1')
    kafka.produce(topic, '{"id": 1, "v": "Zo\u00eb"}', '{"id": 1}')
    start(db, topic)
    settle(db)
    assert far.q("SELECT * FROM t") == [(1, "Zo\u00eb")]


# ---- the other side is away, slow, or not as it was

def test_away_and_back(db, kafka, topic, private_cluster):
    """A server that dies and comes back: nothing is lost, and other subscriptions go on meanwhile."""
    far = private_cluster.create_database(extension=False)
    link(db, far)
    table(db, far)
    start(db, topic)
    db.q("CREATE TABLE here (id int PRIMARY KEY, v text)")
    subscribe(db, topic, name="local", target="here")
    kafka.produce_many(topic, rows(10))
    settle(db)
    private_cluster.kill()
    kafka.produce_many(topic, rows(10, 10))
    retrying(db, 'server "far" cannot be reached')
    assert db.value("SELECT problem FROM kafka.problems WHERE name = 's'").startswith("state retrying")
    settle(db, "local")
    assert db.value("SELECT count(*) FROM here") == 20
    assert db.value("SELECT next_offset FROM kafka.subscription_offsets WHERE subscription = 's'") == 10
    # a worker that begins meanwhile is in the same state
    db.q("SELECT kafka.pause_subscription('s')")
    db.q("SELECT kafka.resume_subscription('s')")
    retrying(db, 'server "far" cannot be reached')
    private_cluster.start()
    db.wait_for_subscription("s", 60)
    assert far.value("SELECT count(*) FROM t") == 20
    assert db.q("SELECT * FROM kafka.problems") == []
    # silent, as behind a dead network: whoever wants to pause the subscription does not wait for it
    (backend,) = far.one("SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_kafka_sync'")
    os.kill(backend, signal.SIGSTOP)
    try:
        kafka.produce_many(topic, rows(10, 20))
        retrying(db, 'server "far" has not answered yet')
        db.q("SELECT kafka.pause_subscription('s')")
        db.q("SELECT kafka.resume_subscription('s')")
    finally:
        os.kill(backend, signal.SIGCONT)
    db.wait_for_subscription("s", 60)
    assert far.value("SELECT count(*) FROM t") == 30


def test_locked(db, far, kafka, topic):
    """A table that is locked there is waited for, 3 seconds at a time."""
    table(db, far)
    start(db, topic)
    with far.connect(autocommit=False) as blocker:
        blocker.execute("LOCK TABLE t")
        kafka.produce_many(topic, rows(10))
        retrying(db, "lock")
        assert "lock timeout" in db.state("subscription", "s")["last_error"]
    settle(db)
    assert far.value("SELECT count(*) FROM t") == 10


def test_unfit_tables(db, far, kafka, topic):
    """What is wrong with the table there is said, and taken back when it is mended."""
    db.q("CREATE FOREIGN TABLE t (id int, v text) SERVER far OPTIONS (schema_name 'public')")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="its key is not known"):
        subscribe(db, topic, target="t")
    db.q("ALTER FOREIGN TABLE t OPTIONS (ADD updatable 'false')")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="cannot be written"):
        start(db, topic)
    db.q("ALTER FOREIGN TABLE t OPTIONS (DROP updatable)")
    start(db, topic)
    kafka.produce_many(topic, rows(3))

    def says(text, statement, on=far):
        wait_until(lambda: text in (db.state("subscription", "s")["last_error"] or ""), 60, what=text)
        assert db.state("subscription", "s")["state"] == "error"
        on.q(statement)
        db.q("SELECT kafka.resume_subscription('s')")

    says("there is no such table on its server", "CREATE VIEW t AS SELECT 1 AS id, 'a'::text AS v")
    says("not an ordinary or partitioned table", "DROP VIEW t; CREATE TABLE t (id int, x text)")
    says('column "v" is missing on its server', "ALTER TABLE t RENAME x TO v")
    says("no valid, immediate unique index over the key columns", "ALTER TABLE t ADD PRIMARY KEY (id)")
    settle(db)
    assert far.value("SELECT count(*) FROM t") == 3
    # and while it is at work
    far.q("DROP TABLE t")
    kafka.produce_many(topic, rows(3, 3))
    says("there is no such table on its server", "CREATE TABLE t (id int PRIMARY KEY, v text)")
    settle(db)
    assert far.value("SELECT count(*) FROM t") == 3
    db.q("""CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
            CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION nothing()""")
    kafka.produce_many(topic, rows(3, 6))
    says("it has triggers", "DROP TRIGGER x ON t", on=db)
    settle(db)
    assert far.value("SELECT count(*) FROM t") == 6


def test_row_security_there(db, far, kafka, topic):
    """Rows that policies of the other side hide are not passed over: a delete that finds none would leave them for ever."""
    user = f"w{uuid.uuid4().hex[:8]}"
    table(db, far)
    kafka.produce_many(topic, [rows(3)[0], rows(3)[2]])
    far.q(f"""CREATE ROLE {user} LOGIN; GRANT ALL ON t TO {user}; ALTER TABLE t ENABLE ROW LEVEL SECURITY;
              CREATE POLICY visible ON t USING (v <> 'v1') WITH CHECK (true)""")
    far.q("INSERT INTO t VALUES (1, 'v1')")
    db.q(f"ALTER USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (SET user '{user}')")
    start(db, topic)
    try:
        kafka.produce_many(topic, [({"id": 1}, None)])
        assert "row-level security" in db.wait_state("subscription", "s", "error")["last_error"]
        far.q("ALTER TABLE t DISABLE ROW LEVEL SECURITY")
        db.q("SELECT kafka.resume_subscription('s')")
        settle(db)
        assert far.q("SELECT id FROM t ORDER BY id") == [(0,), (2,)]
    finally:
        db.q("SELECT kafka.drop_subscription('s')")
        far.q(f"DROP OWNED BY {user}; DROP ROLE {user}")


@pytest.mark.parametrize("column", ["citext", "folded", "text COLLATE loose"])
def test_key_that_is_looser_there(db, far, kafka, topic, column):
    """Two keys must not become one row because the other side takes them for the same."""
    far.q("CREATE EXTENSION citext; CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    far.q("CREATE DOMAIN folded AS citext")
    far.q(f"CREATE TABLE t (id {column} PRIMARY KEY, v text)")
    db.q("CREATE FOREIGN TABLE t (id text, v text) SERVER far OPTIONS (schema_name 'public')")
    start(db, topic)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": i}) for i in ("A", "a")])
    assert "texts there that differ and are equal" in db.wait_state("subscription", "s", "error")["last_error"]
    far.q("ALTER TABLE t ALTER id TYPE text COLLATE \"C\"")
    db.q("SELECT kafka.resume_subscription('s')")
    settle(db)
    assert far.q('SELECT id, v FROM t ORDER BY id COLLATE "C"') == [("A", "A"), ("a", "a")]


@pytest.mark.parametrize("there, here, values", [
    ("numeric(10,2)", "numeric", ["1.001", "1.002"]), ("cents", "numeric", ["1.001", "1.002"]),
    ("timestamp(0)", "timestamp", ["2026-01-02 03:04:05.1", "2026-01-02 03:04:05.2"]),
    ("date", "timestamp", ["2026-01-02 03:04:05", "2026-01-02 03:04:06"]),
    ("char(3)", "text", ["a", "a "]), ("varchar(1)", "text", ["a", "a "])])
def test_key_that_is_rounded_there(db, far, kafka, topic, there, here, values):
    """Two keys must not become one row because the other side stores them as the same."""
    far.q("CREATE DOMAIN amount AS numeric(10,2); CREATE DOMAIN cents AS amount CHECK (VALUE > 0)")
    far.q(f"CREATE TABLE t (id {there} PRIMARY KEY, v text)")
    db.q(f"CREATE FOREIGN TABLE t (id {here}, v text) SERVER far OPTIONS (schema_name 'public')")
    start(db, topic)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": i}) for i in values])
    assert 'key column "id" is of type' in db.wait_state("subscription", "s", "error")["last_error"]
    far.q(f"ALTER TABLE t ALTER id TYPE {here}")
    db.q("SELECT kafka.resume_subscription('s')")
    settle(db)
    assert far.q("SELECT id::text, v FROM t ORDER BY v") == [(i, i) for i in values]


def test_values_that_are_rounded_there(db, far, kafka, topic):
    """What the other side would change without an error is said before anything is written; what it refuses is an error."""
    far.q("""CREATE TABLE t (id int PRIMARY KEY, n numeric(10,2), a numeric(10,2)[], ts timestamp(0), f real, x varchar(5), c char(3),
                i numeric(5))""")
    db.q("""CREATE FOREIGN TABLE t (id int, n numeric, a numeric[], ts timestamp, f float8, x text, c text, i int)
            SERVER far OPTIONS (schema_name 'public')""")
    kafka.produce(topic, {"id": 1, "n": "1.005", "a": "{1.005}", "ts": "2026-01-02 03:04:05.6", "f": 0.1, "x": "abc", "c": "ab",
                          "i": 7}, {"id": 1})
    start(db, topic)
    for column, there, here in (("n", "numeric(10,2)", "numeric(10,2)"), ("a", "numeric(10,2)[]", "numeric(8,1)[]"),
                                ("ts", "timestamp(0) without time zone", "timestamp(0)"), ("f", "real", "real")):
        text = f'column "{column}" is of type {there} there'
        wait_until(lambda: text in (db.state("subscription", "s")["last_error"] or ""), 60, what=text)
        assert far.value("SELECT count(*) FROM t") == 0
        db.q(f"ALTER FOREIGN TABLE t ALTER {column} TYPE {here}")
        db.q("SELECT kafka.resume_subscription('s')")
    settle(db)
    assert far.one("SELECT n::text, a::text, ts::text, f, x, c, i::text FROM t") == \
        ("1.01", "{1.00}", "2026-01-02 03:04:06", pytest.approx(0.1), "abc", "ab ", "7")


# ---- who may connect as whom

SECRET = "pass-word-of-far"


@pytest.fixture
def walled(private_cluster):
    """A server that asks role guest for a password, and role free for none."""
    private_cluster.q("CREATE ROLE guest LOGIN PASSWORD %s" % repr(SECRET))
    private_cluster.q("CREATE ROLE free LOGIN")
    hba = private_cluster.directory / "data/pg_hba.conf"
    hba.write_text("host all guest 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
    private_cluster.q("SELECT pg_reload_conf()")
    far = private_cluster.create_database(extension=False)
    far.q("CREATE TABLE t (id int PRIMARY KEY, v text); GRANT ALL ON t TO guest, free; GRANT CREATE, USAGE ON SCHEMA public TO guest")
    return far


def test_passwords(db, kafka, topic, walled):
    """As postgres_fdw: an owner who is no superuser needs a password, which the other side must ask for."""
    role = f"owner_{uuid.uuid4().hex[:8]}"
    link(db, walled, "guest")
    db.q(f"""CREATE ROLE {role}; GRANT USAGE ON FOREIGN SERVER far TO {role};
             CREATE USER MAPPING FOR {role} SERVER far OPTIONS (user 'guest');
             CREATE FOREIGN TABLE t (id int, v text) SERVER far OPTIONS (schema_name 'public'); ALTER FOREIGN TABLE t OWNER TO {role}""")
    try:
        start(db, topic)
        kafka.produce_many(topic, rows(3))
        said = []

        def says(state, text, options):
            def holds():
                row = db.state("subscription", "s")
                said.append(str(row))
                assert row["state"] == state and text in row["last_error"], row
                return True
            wait_until(holds, 60, what=text)
            db.q(f"ALTER USER MAPPING FOR {role} SERVER far OPTIONS ({options})")
            db.q("SELECT kafka.resume_subscription('s')")

        says("error", 'password is required to connect to server "far"', "ADD password 'wrong-word'")
        says("retrying", "password authentication failed", f"SET user 'free', SET password '{SECRET}'")
        says("error", 'password is required to connect to server "far"', "SET user 'guest'")
        settle(db)
        assert walled.value("SELECT count(*) FROM t") == 3
        # another password, while the connection is there: the worker takes it by itself
        walled.q("ALTER ROLE guest PASSWORD 'another-word'")
        db.q(f"ALTER USER MAPPING FOR {role} SERVER far OPTIONS (SET password 'another-word')")
        kafka.produce_many(topic, rows(3, 3))
        settle(db)
        assert walled.value("SELECT count(*) FROM t") == 6
        said += [db.cluster.log(), str(db.q("SELECT * FROM kafka.problems")), str(db.q("SELECT query FROM pg_stat_activity"))]
        workers = [line for line in "\n".join(said).splitlines() if "USER MAPPING" not in line]
        for word in (SECRET, "wrong-word", "another-word"):
            assert not any(word in line for line in workers)
        # a superuser's word makes it so
        db.q(f"ALTER USER MAPPING FOR {role} SERVER far OPTIONS (SET user 'free', DROP password, ADD password_required 'false')")
        kafka.produce_many(topic, rows(3, 6))
        settle(db)
        assert walled.value("SELECT count(*) FROM t") == 9
    finally:
        db.q("SELECT kafka.drop_subscription('s', if_exists => true)")
        db.q(f"DROP OWNED BY {role}; DROP USER MAPPING IF EXISTS FOR {role} SERVER far; DROP ROLE {role}")


def test_confirmed_and_lost(db, kafka, private_cluster):
    """A server that comes back without what it had confirmed, as from a backup: told, and written again by a seek."""
    topic = kafka.create_topic(partitions=2)
    far = private_cluster.create_database(extension=False)
    link(db, far)
    append_target(db, far, topic)
    kafka.produce_many(topic, rows(40))
    settle(db)
    private_cluster.stop("immediate")
    data = private_cluster.directory / "data"
    backup = private_cluster.directory / "backup"
    subprocess.run(["cp", "-a", data, backup], check=True)
    private_cluster.start()
    kafka.produce_many(topic, rows(60, 40))
    db.wait_for_subscription("s", 60)
    assert far.value("SELECT count(*) FROM t") == 100
    private_cluster.kill()
    shutil.rmtree(data)
    backup.rename(data)
    (data / "postmaster.pid").unlink(missing_ok=True)
    private_cluster.start()
    kafka.produce_many(topic, rows(10, 100))
    detail = retrying(db, "has lost what it had confirmed")["detail"]
    assert far.value("SELECT count(*) FROM t") == 40
    db.q("SELECT " + re.search(r"kafka\.seek_subscription\(.*\)", detail).group())
    db.wait_for_subscription("s", 60)
    assert far.one("SELECT count(*), count(DISTINCT id) FROM t") == (110, 110)
