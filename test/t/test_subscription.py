"""Subscriptions: what a topic says is what the target holds. Formats json and debezium, one local target."""

import datetime
import decimal
import json
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from conftest import wait_until


def subscribe(db, topic, target, name="s", **kwargs):
    kwargs.setdefault("format", "json")
    named = "".join(f", {k} => %s" + ("::jsonb" if k == "options" else "") for k in kwargs)
    values = [json.dumps(v) if k == "options" else v for k, v in kwargs.items()]
    topics = topic if isinstance(topic, list) else [topic]
    db.q(f"SELECT kafka.create_subscription(%s, 'kafka', %s, %s::regclass{named})", name, topics, target, *values)
    return name


def envelope(op, before=None, after=None):
    return {"before": before, "after": after, "source": {"ts_ms": 1}, "transaction": None, "op": op, "ts_ms": 1}


@pytest.fixture
def topic(kafka):
    return kafka.create_topic()


def table(db, ddl="id int PRIMARY KEY, v text", name="t"):
    db.q(f"CREATE TABLE {name} ({ddl})")
    return name


def test_upsert_delete_json(db, kafka, topic):
    table(db)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": f"v{i}"}) for i in range(100)])
    subscribe(db, topic, "t")
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == 100
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "v": "new"}), ({"id": 2}, None), ({"id": 3}, None),
                               ({"id": 3}, {"id": 3, "v": "again"}), ({"id": 200}, {"id": 200, "v": None}),
                               ({"id": 201}, {"id": 201, "v": "gone"}), ({"id": 201}, None)])
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == 100
    assert db.q("SELECT id, v FROM t WHERE id IN (1, 2, 3, 200, 201) ORDER BY id") == [(1, "new"), (3, "again"), (200, None)]
    row = db.wait_state("subscription", "s", "streaming")
    assert row["rows"] == 107
    db.wait("SELECT lag = 0 AND next_offset = 107 AND last_stable_offset = 107 FROM kafka.subscription_offsets")


def test_debezium_events(db, kafka, topic):
    table(db, "id int PRIMARY KEY, a text, b numeric(10,2), ts timestamp(3)")
    kafka.produce_many(topic, [
        ({"id": 1}, envelope("r", after={"id": 1, "a": "x", "b": "AeJA", "ts": 0})),
        ({"id": 2}, envelope("c", after={"id": 2, "a": "y", "b": None, "ts": 1500})),
        ({"id": 3}, envelope("c", after={"id": 3, "a": "z", "b": None, "ts": None})),
        ({"id": 2}, envelope("u", after={"id": 2, "a": "yy", "b": "/w==", "ts": None})),
        ({"id": 3}, envelope("d", before={"id": 3, "a": None, "b": None, "ts": None})),
        ({"id": 3}, None),
    ])
    subscribe(db, topic, "t", format="debezium")
    db.wait_for_subscription("s")
    assert db.q("SELECT * FROM t ORDER BY id") == [
        (1, "x", decimal.Decimal("1234.56"), datetime.datetime(1970, 1, 1)),
        (2, "yy", decimal.Decimal("-0.01"), None)]


def test_debezium_key_moves(db, kafka, topic):
    """An update whose old row had another target key leaves its old place."""
    table(db, "a int, b int, v text, PRIMARY KEY (b, a)")
    subscribe(db, topic, "t", format="debezium", options={"full_before": True})
    kafka.produce_many(topic, [
        ({"id": 1}, envelope("c", after={"a": 1, "b": 1, "v": "x"})),
        ({"id": 1}, envelope("u", before={"a": 1, "b": 1, "v": "x"}, after={"a": 1, "b": 2, "v": "y"})),
        ({"id": 2}, envelope("c", after={"a": 5, "b": 5, "v": "z"})),
        ({"id": 2}, envelope("d", before={"a": 5, "b": 5, "v": "z"})),
    ])
    db.wait_for_subscription("s")
    assert db.q("SELECT a, b, v FROM t") == [(1, 2, "y")]


def test_target_key_from_the_whole_old_row(db, kafka, topic):
    """The message key lacks the target's key; REPLICA IDENTITY FULL is asserted: zeros are values, tombstones nothing more."""
    table(db, "id int, origin text, v text, PRIMARY KEY (origin, id)")
    kafka.produce_many(topic, [
        ({"id": 5}, envelope("c", after={"id": 5, "origin": "", "v": "x"})),
        ({"id": 6}, envelope("c", after={"id": 6, "origin": "o", "v": "x"})),
        ({"id": 7}, envelope("c", after={"id": 7, "origin": "o", "v": "x"})),
        ({"id": 5}, envelope("d", before={"id": 5, "origin": "", "v": "x"})), ({"id": 5}, None),
        ({"id": 6}, envelope("d", before={"id": 6, "origin": "o", "v": "x"})), ({"id": 6}, None),
        ({"id": 7}, envelope("u", before={"id": 7, "origin": "o", "v": "x"}, after={"id": 7, "origin": "p", "v": "y"})),
    ])
    subscribe(db, topic, "t", format="debezium", options={"full_before": True})
    db.wait_for_subscription("s")
    assert db.q("SELECT id, origin, v FROM t") == [(7, "p", "y")]


def test_old_rows_of_unkeyed_tables(db, kafka, topic):
    """A source without any key has REPLICA IDENTITY FULL: PostgreSQL demands it."""
    table(db, "code text PRIMARY KEY, v int")
    kafka.produce_many(topic, [(None, envelope("c", after={"code": c, "v": 0})) for c in "abc"] + [
        (None, envelope("d", before={"code": "a", "v": 0})),
        (None, envelope("u", before={"code": "b", "v": 0}, after={"code": "d", "v": 1}))])
    subscribe(db, topic, "t", format="debezium")
    db.wait_for_subscription("s")
    assert db.q("SELECT code, v FROM t ORDER BY 1") == [("c", 0), ("d", 1)]


@pytest.mark.parametrize("partitioned", [False, True])
def test_unchanged_values_json(db, kafka, topic, partitioned):
    """json: the header says which columns are unchanged; nothing is guessed from what other messages had."""
    if partitioned:
        db.q("CREATE TABLE t (id int PRIMARY KEY, big text, n int) PARTITION BY RANGE (id)")
        db.q("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100)")
    else:
        table(db, "id int PRIMARY KEY, big text, n int")
    unchanged = [("pg_kafka_sync.unchanged", b'["big"]')]
    kafka.produce(topic, {"id": 1, "big": "B" * 5000, "n": 1}, {"id": 1})
    kafka.produce(topic, {"id": 1, "n": 2}, {"id": 1}, headers=unchanged)
    kafka.produce(topic, {"id": 2, "n": 2}, {"id": 2}, headers=[("pg_kafka_sync.pos", b"0000000000000001/1/1")])
    subscribe(db, topic, "t")
    db.wait_for_subscription("s")
    kafka.produce(topic, {"id": 1, "n": 3}, {"id": 1}, headers=unchanged)
    db.wait_for_subscription("s")
    assert db.q("SELECT id, length(big), n FROM t ORDER BY id") == [(1, 5000, 3), (2, None, 2)]
    kafka.produce(topic, {"id": 3, "n": 2}, {"id": 3}, headers=unchanged)
    error = db.wait_state("subscription", "s", "error")["last_error"]
    assert '"big"' in error and "REPLICA IDENTITY FULL" in error and "offset 4" in error
    db.q("INSERT INTO t VALUES (3, 'filled in', 0)")
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")
    assert db.q("SELECT big, n FROM t WHERE id = 3") == [("filled in", 2)]


def test_unchanged_value_meets_fresh_subscription(db, kafka, make_db):
    """Publisher and subscription: the row's long value was written before either of them."""
    target = make_db()
    target.create_server(kafka)
    for d in (db, target):
        d.q("CREATE TABLE t (id int PRIMARY KEY, n int, big text)")
    db.q("ALTER TABLE t ALTER big SET STORAGE EXTERNAL; INSERT INTO t VALUES (1, 1, repeat('x', 5000))")
    db.q("CREATE PUBLICATION pub FOR TABLE t")
    db.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', format => 'json', snapshot => 'never')")
    db.q("UPDATE t SET n = 2")
    db.wait_for_publisher("p")
    topic = f"{db.name}.public.t"
    subscribe(target, topic, "t")
    error = target.wait_state("subscription", "s", "error")["last_error"]
    assert '"big"' in error and target.value("SELECT count(*) FROM t") == 0
    assert kafka.wait_messages(topic, 1)[0].header("pg_kafka_sync.unchanged") in (b'["big"]', '["big"]')
    target.q("INSERT INTO t VALUES (1, 0, 'old')")
    target.q("SELECT kafka.resume_subscription('s')")
    target.wait_for_subscription("s")
    assert target.q("SELECT * FROM t") == [(1, 2, "old")]


def test_partial_rows_by_sql(db, kafka, topic):
    """Written by SQL: absent NOT NULL columns do no harm where the row is there, but do in a new one."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL, b int, c int NOT NULL DEFAULT 7) PARTITION BY RANGE (id)")
    db.q("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100)")
    db.q("INSERT INTO t VALUES (1, 'a', 1, 1), (2, 'a', 1, 1)")
    subscribe(db, topic, "t")
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "b": 2}), ({"id": 2}, {"id": 2}), ({"id": 3}, {"id": 3, "a": "new", "b": 3}),
                               ({"id": 1}, {"id": 1, "c": 5}), ({"id": 2}, {"id": 2, "a": "x", "b": 4})])
    db.wait_for_subscription("s")
    assert db.q("SELECT * FROM t ORDER BY id") == [(1, "a", 2, 5), (2, "x", 4, 1), (3, "new", 3, 7)]
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "b": 20}), ({"id": 9}, {"id": 9, "b": 2}), ({"id": 3}, {"id": 3, "b": 30})])
    error = db.wait_state("subscription", "s", "error")["last_error"]
    assert "offset 6" in error and '"a"' in error
    db.q("INSERT INTO t VALUES (9, 'here now')")
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")
    assert db.q("SELECT id, a, b FROM t ORDER BY id") == [(1, "a", 20), (2, "x", 4), (3, "new", 30), (9, "here now", 2)]


def test_unavailable_value_is_kept(db, kafka, topic):
    table(db, "id int PRIMARY KEY, big text, n int")
    placeholder = "__debezium_unavailable_value"
    subscribe(db, topic, "t", format="debezium")
    kafka.produce(topic, envelope("c", after={"id": 1, "big": "B" * 5000, "n": 1}), {"id": 1})
    db.wait_for_subscription("s")
    kafka.produce_many(topic, [({"id": 1}, envelope("u", after={"id": 1, "big": placeholder, "n": 2})),
                               ({"id": 2}, envelope("c", after={"id": 2, "big": "second", "n": 1})),
                               ({"id": 2}, envelope("u", after={"id": 2, "big": placeholder, "n": 7}))])
    db.wait_for_subscription("s")
    assert db.q("SELECT id, length(big), n FROM t ORDER BY id") == [(1, 5000, 2), (2, 6, 7)]
    kafka.produce(topic, envelope("u", after={"id": 3, "big": placeholder, "n": 2}), {"id": 3})
    row = db.wait_state("subscription", "s", "error")
    assert '"big"' in row["last_error"] and "REPLICA IDENTITY FULL" in row["last_error"]


def test_absent_columns(db, kafka, topic):
    """json: an absent column stays as it is; in a new row it has its default."""
    table(db, "id int PRIMARY KEY, a text, b text DEFAULT 'dflt', c timestamptz DEFAULT now()")
    subscribe(db, topic, "t")
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "a": "x"}), ({"id": 1}, {"id": 1, "b": "set"}),
                               ({"id": 2}, {"id": 2, "b": "own"})])
    db.wait_for_subscription("s")
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "a": "z"}), ({"id": 3}, {"id": 3})])
    db.wait_for_subscription("s")
    assert db.q("SELECT id, a, b, c IS NULL FROM t ORDER BY id") == [
        (1, "z", "set", False), (2, None, "own", False), (3, None, "dflt", False)]


def test_names_and_kinds_of_columns(db, kafka, topic):
    db.q('CREATE SCHEMA "Odd ""Schema"')
    db.q('''CREATE TABLE "Odd ""Schema"."Ta ble" ("Id" int, "drop me" int, "ke""y" text, "Value" int,
            twice int GENERATED ALWAYS AS ("Value" * 2) STORED, n int GENERATED ALWAYS AS IDENTITY,
            d int GENERATED BY DEFAULT AS IDENTITY, late text, PRIMARY KEY ("ke""y", "Id"))''')
    db.q('ALTER TABLE "Odd ""Schema"."Ta ble" DROP COLUMN "drop me"')
    subscribe(db, topic, '"Odd ""Schema"."Ta ble"')
    row = {"Id": 1, 'ke"y': "ä", "Value": 21, "twice": 0, "n": 77, "d": 78, "late": "ok"}
    kafka.produce(topic, row, {"Id": 1, 'ke"y': "ä"})
    db.wait_for_subscription("s")
    assert db.q('SELECT "Id", "ke""y", "Value", twice, n, d, late FROM "Odd ""Schema"."Ta ble"') == [(1, "ä", 21, 42, 77, 78, "ok")]
    kafka.produce(topic, {**row, "Value": 4, "n": 79}, {"Id": 1, 'ke"y': "ä"})
    db.wait_for_subscription("s")
    assert db.q('SELECT twice, n FROM "Odd ""Schema"."Ta ble"') == [(8, 79)]
    kafka.produce(topic, None, {"Id": 1, 'ke"y': "ä"})
    db.wait_for_subscription("s")
    assert db.value('SELECT count(*) FROM "Odd ""Schema"."Ta ble"') == 0


def test_500_columns(db, kafka, topic):
    columns = [f"c{i}" for i in range(499)]
    table(db, "id int PRIMARY KEY, " + ", ".join(f"{c} text" for c in columns))
    subscribe(db, topic, "t")
    kafka.produce_many(topic, [({"id": i}, {"id": i, **{c: f"{c}-{i}" for c in columns}}) for i in range(300)])
    db.wait_for_subscription("s")
    assert db.one("SELECT count(*), min(c498), max(c498) FROM t") == (300, "c498-0", "c498-99")


def test_start_positions(db, kafka, topic):
    began = int(time.time()) - 60
    stamp = datetime.datetime.fromtimestamp(began + 5, datetime.timezone.utc).isoformat()
    kafka.produce_many(topic, [dict(key={"id": i}, value={"id": i, "v": "x"}, timestamp=(began + i) * 1000) for i in range(10)])
    for name, start in [("earliest", "earliest"), ("latest", "latest"), ("stamp", stamp),
                        ("exact", json.dumps({topic: {"0": 7}}))]:
        table(db, name=f"t_{name}")
        subscribe(db, topic, f"t_{name}", name=name, start=start)
        db.wait_for_subscription(name)
    kafka.produce(topic, {"id": 10, "v": "x"}, {"id": 10})
    for name, expected in [("earliest", list(range(11))), ("latest", [10]), ("stamp", list(range(5, 11))),
                           ("exact", list(range(7, 11)))]:
        db.wait_for_subscription(name)
        assert [i for (i,) in db.q(f"SELECT id FROM t_{name} ORDER BY id")] == expected, name


def test_read_committed_and_caught_up(db, kafka, topic):
    table(db)
    kafka.transaction(topic, [({"id": 1}, {"id": 1, "v": "committed"})])
    kafka.transaction(topic, [({"id": 2}, {"id": 2, "v": "aborted"})], commit=False)
    subscribe(db, topic, "t")
    db.wait_for_subscription("s")       # behind the markers of both
    assert db.q("SELECT id FROM t") == [(1,)]
    end = kafka.watermarks(topic, "read_committed")[0][1]
    assert end == 4
    db.wait("SELECT next_offset = 4 AND lag = 0 FROM kafka.subscription_offsets")
    assert db.value("SELECT next_offset FROM kafka.subscription_position") == 4

    producer = kafka.open_transaction(topic, [({"id": 3}, {"id": 3, "v": "open"})])
    kafka.produce(topic, {"id": 4, "v": "behind it"}, {"id": 4})
    db.wait_for_subscription("s")       # to the last stable offset
    assert db.q("SELECT id FROM t ORDER BY id") == [(1,)]
    db.wait("SELECT high_watermark = 6 AND last_stable_offset = 4 AND lag = 0 FROM kafka.subscription_offsets")
    producer.commit_transaction(30)
    db.wait_for_subscription("s")
    assert db.q("SELECT id FROM t ORDER BY id") == [(1,), (3,), (4,)]
    db.wait("SELECT next_offset = 7 AND lag = 0 FROM kafka.subscription_offsets")


def test_pause_resume_seek_drop(db, kafka, topic):
    table(db)
    subscribe(db, topic, "t")
    kafka.produce(topic, {"id": 1, "v": "x"}, {"id": 1})
    db.wait_for_subscription("s")
    db.q("SELECT kafka.pause_subscription('s')")
    db.wait_state("subscription", "s", "paused")
    wait_until(lambda: db.state("subscription", "s")["pid"] is None)
    kafka.produce(topic, {"id": 2, "v": "x"}, {"id": 2})
    assert db.value("SELECT kafka.wait_for_subscription('s', '300 ms')") is False
    assert db.q("SELECT id FROM t") == [(1,)]
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")
    assert db.q("SELECT id FROM t ORDER BY id") == [(1,), (2,)]
    db.q("TRUNCATE t")
    db.q("SELECT kafka.seek_subscription('s', 'earliest')")
    db.wait_for_subscription("s")
    assert db.q("SELECT id FROM t ORDER BY id") == [(1,), (2,)]
    db.q("SELECT kafka.drop_subscription('s')")
    wait_until(lambda: not db.cluster.worker_pids("subscription s$", db.name))
    assert db.value("SELECT count(*) FROM kafka.subscription_position") == 0
    db.wait("SELECT count(*) = 0 FROM pg_replication_origin WHERE roname LIKE %s",
            f"pg_kafka_sync_{db.value('SELECT oid FROM pg_database WHERE datname = current_database()')}_%")


def test_origin_is_set(db, kafka, topic):
    """Applied rows carry the subscription's replication origin: test_decoding's only-local leaves them out."""
    table(db)
    slot = "o" + db.name[2:]
    db.q("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", slot)
    try:
        subscribe(db, topic, "t")
        kafka.produce(topic, {"id": 1, "v": "applied"}, {"id": 1})
        db.wait_for_subscription("s")
        db.q("INSERT INTO t VALUES (2, 'local')")
        peek = "SELECT data FROM pg_logical_slot_peek_changes(%s, NULL, NULL, 'only-local', %s) WHERE data LIKE 'table public.t:%%'"
        assert len(db.q(peek, slot, "0")) == 2
        assert len(db.q(peek, slot, "1")) == 1
    finally:
        db.q("SELECT pg_drop_replication_slot(%s)", slot)


def test_partitions(db, kafka):
    topic = kafka.create_topic(partitions=4)
    table(db)
    subscribe(db, topic, "t")
    kafka.produce_many(topic, [({"id": i % 500}, {"id": i % 500, "v": str(i)}) for i in range(5000)])
    db.wait_for_subscription("s")
    assert db.one("SELECT count(*), sum(v::int) FROM t") == (500, sum(range(4500, 5000)))
    assert db.value("SELECT sum(next_offset) FROM kafka.subscription_position") == 5000
    # new partitions are noticed and begin at their beginning
    kafka.add_partitions(topic, 6)
    kafka.produce_many(topic, [dict(key={"id": 1000 + p}, value={"id": 1000 + p, "v": "new"}, partition=p) for p in (4, 5)])
    db.wait("SELECT count(*) = 2 FROM t WHERE id >= 1000")
    assert db.value("SELECT count(*) FROM kafka.subscription_position") == 6


def test_patterns(db, kafka):
    prefix = kafka.new_topic_name("p")
    table(db)
    kafka.create_topic(f"{prefix}.one")
    kafka.produce(f"{prefix}.one", {"id": 1, "v": "one"}, {"id": 1})
    subscribe(db, "^" + prefix.replace(".", "\\.") + "\\.", "t")
    db.wait_for_subscription("s")
    assert db.q("SELECT id FROM t") == [(1,)]
    kafka.create_topic(f"{prefix}.two")
    kafka.produce(f"{prefix}.two", {"id": 2, "v": "two"}, {"id": 2})
    db.wait("SELECT count(*) = 2 FROM t")


def test_missing_topic(db, kafka):
    topic = kafka.new_topic_name()
    table(db)
    subscribe(db, topic, "t")
    row = db.wait_state("subscription", "s", "retrying")
    assert topic in row["detail"]
    assert topic not in kafka.topics()
    kafka.create_topic(topic)
    kafka.produce(topic, {"id": 1, "v": "x"}, {"id": 1})
    db.wait("SELECT count(*) = 1 FROM t")
    db.wait_state("subscription", "s", "streaming")


def test_group_shows_offsets(db, kafka, topic):
    table(db)
    subscribe(db, topic, "t", options={"group.id": f"g-{topic}"})
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "x"}) for i in range(5)])
    db.wait_for_subscription("s")
    db.wait("SELECT committed = 5 AND lag = 0 FROM kafka.consumer_lag('kafka', %s)", f"g-{topic}")


def test_rate_limit(db, kafka, topic):
    table(db)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "x"}) for i in range(300)])
    subscribe(db, topic, "t", options={"max_rows_per_second": 200})
    began = db.value("SELECT clock_timestamp()")
    db.wait_for_subscription("s")
    assert 0.9 < (db.value("SELECT clock_timestamp()") - began).total_seconds() < 10
    assert db.value("SELECT count(*) FROM t") == 300


def test_wide_values(db, kafka, topic):
    """A value of 900 kB goes through; unchanged it is kept."""
    table(db)
    subscribe(db, topic, "t")
    kafka.produce(topic, json.dumps({"id": 1, "v": "é" * 450_000}, ensure_ascii=False), {"id": 1})
    db.wait_for_subscription("s")
    assert db.one("SELECT length(v), octet_length(v) FROM t") == (450_000, 900_000)


def test_partitioned_target_and_triggers(db, kafka, topic):
    """Targets that only SQL can write: partitions, BEFORE and statement triggers."""
    db.q("CREATE TABLE t (id int, region text, v text DEFAULT 'd', PRIMARY KEY (region, id)) PARTITION BY LIST (region)")
    db.q("CREATE TABLE t_a PARTITION OF t FOR VALUES IN ('a')")
    db.q("CREATE TABLE t_b PARTITION OF t FOR VALUES IN ('b')")
    db.q("""CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := NEW.v || '!'; RETURN NEW; END $$;
            CREATE TRIGGER tr BEFORE INSERT OR UPDATE ON t_b FOR EACH ROW EXECUTE FUNCTION f()""")
    subscribe(db, topic, "t")
    kafka.produce_many(topic, [({"id": i, "region": r}, {"id": i, "region": r, "v": "x"}) for i in range(50) for r in "ab"])
    db.wait_for_subscription("s")
    assert db.q("SELECT region, v, count(*) FROM t GROUP BY 1, 2 ORDER BY 1") == [("a", "x", 50), ("b", "x!", 50)]
    kafka.produce_many(topic, [({"id": 1, "region": "a"}, None), ({"id": 2, "region": "a"}, {"id": 2, "region": "a"}),
                               ({"id": 3, "region": "a"}, {"id": 3, "region": "a", "v": "new"}),
                               ({"id": 99, "region": "a"}, {"id": 99, "region": "a"})])
    db.wait_for_subscription("s")
    assert db.q("SELECT id, v FROM t WHERE region = 'a' AND id IN (1, 2, 3, 99) ORDER BY id") == [(2, "x"), (3, "new"), (99, "d")]


def test_triggers_fire_as_the_owner(db, kafka, topic):
    """AFTER triggers, deferred ones too, run as the table's owner and cannot get out of that role."""
    role = "r" + db.name[2:]
    db.q(f'CREATE ROLE "{role}"')
    try:
        table(db)
        db.q("CREATE TABLE log (who text, superuser text, what text)")
        db.q(f'ALTER TABLE t OWNER TO "{role}"; ALTER TABLE log OWNER TO "{role}"')
        db.q("""CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN INSERT INTO public.log VALUES (current_user, current_setting('is_superuser'), TG_NAME); RETURN NULL; END $$;
                CREATE TRIGGER now AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
                CREATE CONSTRAINT TRIGGER later AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
                    FOR EACH ROW EXECUTE FUNCTION f()""")
        subscribe(db, topic, "t")
        kafka.produce(topic, {"id": 1, "v": "x"}, {"id": 1})
        db.wait_for_subscription("s")
        assert sorted(db.q("SELECT who, what FROM log")) == [(role, "later"), (role, "now")]
        db.q("""CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RESET ROLE; SET SESSION AUTHORIZATION DEFAULT; RETURN NULL; END $$""")
        kafka.produce(topic, {"id": 2, "v": "x"}, {"id": 2})
        row = db.wait_state("subscription", "s", "error")
        assert "security-restricted operation" in row["last_error"]
    finally:
        db.q("SELECT kafka.drop_subscription('s', true)")
        db.q(f'DROP OWNED BY "{role}" CASCADE; DROP ROLE "{role}"')


@pytest.mark.parametrize("pattern", [False, True])
def test_first_row_comes_soon(make_db, kafka, pattern):
    """A new worker reads as soon as it is there; librdkafka by itself looks for the leaders of partitions once a second."""
    took = []
    for _ in range(5):
        db = make_db()
        db.create_server(kafka)
        table(db)
        topic = kafka.create_topic(partitions=2)
        kafka.produce_many(topic, [({"id": 1}, {"id": 1, "v": "x"})])
        db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 't', 'json')", ["^" + topic.replace(".", "\\.") if pattern else topic])
        began = time.monotonic()
        wait_until(lambda: db.q("SELECT 1 FROM t"), interval=0.01)
        took.append(time.monotonic() - began)
        # and the end of the partition without messages is known as soon as it is met
        db.wait("SELECT lag = 0 FROM kafka.subscription_status")
    assert sorted(took)[2] < 0.8, took


def test_two_create_the_same(db, kafka, topic):
    """The second waits for the first, and is told so plainly, or makes it when the first one's is taken back."""
    table(db)
    for end in ("rollback", "commit"):
        with db.connect(autocommit=False) as first, db.connect() as second, ThreadPoolExecutor(1) as pool:
            create = "SELECT kafka.create_subscription('twin', 'kafka', %s, enabled => false)"
            first.execute(create, [[topic]])
            pid = second.info.backend_pid
            waiting = pool.submit(second.execute, create, [[topic]])
            db.wait("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", pid)
            getattr(first, end)()
            if end == "rollback":
                waiting.result(30)
                db.q("SELECT kafka.drop_subscription('twin')")
            else:
                with pytest.raises(psycopg.errors.DuplicateObject, match='subscription "twin" already exists'):
                    waiting.result(30)
    assert db.value("SELECT count(*) FROM kafka.subscription_status WHERE name = 'twin'") == 1


def test_truncate_event(db, kafka, topic):
    table(db)
    subscribe(db, topic, "t", format="debezium")
    kafka.produce_many(topic, [({"id": i}, envelope("c", after={"id": i, "v": "x"})) for i in range(3)])
    db.wait_for_subscription("s")
    kafka.produce_many(topic, [({"id": 7}, envelope("c", after={"id": 7, "v": "x"})), (None, envelope("t")),
                               ({"id": 8}, envelope("c", after={"id": 8, "v": "x"}))])
    db.wait_for_subscription("s")
    assert db.q("SELECT id FROM t") == [(8,)]


def test_alter_table_while_running(db, kafka, topic):
    table(db)
    subscribe(db, topic, "t")
    kafka.produce(topic, {"id": 1, "v": "x"}, {"id": 1})
    db.wait_for_subscription("s")
    db.q("ALTER TABLE t ADD COLUMN extra int, ALTER COLUMN id TYPE bigint")
    kafka.produce(topic, {"id": 2**40, "v": "y", "extra": 5}, {"id": 2**40})
    db.wait_for_subscription("s")
    db.q("ALTER TABLE t DROP COLUMN v")
    db.q("ALTER TABLE t RENAME TO u")
    kafka.produce(topic, {"id": 3, "extra": 6}, {"id": 3})
    db.wait_for_subscription("s")
    assert db.q("SELECT id, extra FROM u ORDER BY id") == [(1, None), (3, 6), (2**40, 5)]


def test_concurrent_writers(db, kafka, topic):
    """Other sessions write the same keys meanwhile: nothing fails, the last message wins."""
    table(db)
    subscribe(db, topic, "t")
    with db.connect(autocommit=False) as other:
        other.execute("INSERT INTO t VALUES (5, 'other')")
        kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "m"}) for i in range(10)])
        assert db.value("SELECT kafka.wait_for_subscription('s', '500 ms')") is False
        other.commit()
    db.wait_for_subscription("s")
    assert db.q("SELECT DISTINCT v FROM t") == [("m",)]


def test_secondary_unique_values_move(db, kafka, topic):
    """Two rows exchange a unique value through a third: works in batches as it did one by one."""
    table(db, "id int PRIMARY KEY, u text UNIQUE")
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "u": "a"}), ({"id": 2}, {"id": 2, "u": "b"})])
    subscribe(db, topic, "t")
    db.wait_for_subscription("s")
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "u": "tmp"}), ({"id": 2}, {"id": 2, "u": "a"}),
                               ({"id": 1}, {"id": 1, "u": "b"})])
    db.wait_for_subscription("s")
    assert db.q("SELECT id, u FROM t ORDER BY id") == [(1, "b"), (2, "a")]


def test_foreign_key_waits(db, kafka, topic):
    db.q("CREATE TABLE parent (id int PRIMARY KEY)")
    table(db, "id int PRIMARY KEY, p int REFERENCES parent")
    subscribe(db, topic, "t")
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "p": None}), ({"id": 2}, {"id": 2, "p": 7}), ({"id": 3}, {"id": 3, "p": None})])
    db.wait("SELECT count(*) = 1 FROM t")
    db.wait_state("subscription", "s", "retrying")
    db.q("INSERT INTO parent VALUES (7)")
    db.wait_for_subscription("s")
    assert db.q("SELECT id, p FROM t ORDER BY id") == [(1, None), (2, 7), (3, None)]
    db.q("SELECT kafka.alter_subscription('s', '{\"fk_wait\": 300}')")
    kafka.produce(topic, {"id": 4, "p": 8}, {"id": 4})
    row = db.wait_state("subscription", "s", "error")
    assert "offset 3" in row["last_error"] and "foreign key" in row["last_error"]


def test_deferrable_self_reference(db, kafka, topic):
    """A row and the one it refers to, in any order, in one batch."""
    table(db, "id int PRIMARY KEY, p int REFERENCES t DEFERRABLE INITIALLY DEFERRED")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "p": 1000 - i}) for i in range(1001)])
    subscribe(db, topic, "t")
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == 1001
    kafka.produce_many(topic, [({"id": i}, None) for i in range(1001)])
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == 0


def test_replica_role(db, kafka, topic):
    """session_replication_role = replica: no foreign keys, no ordinary triggers."""
    db.q("CREATE TABLE p (id int PRIMARY KEY)")
    table(db, "id int PRIMARY KEY, p int REFERENCES p")
    subscribe(db, topic, "t", options={"session_replication_role": "replica"})
    kafka.produce(topic, {"id": 1, "p": 7}, {"id": 1})
    db.wait_for_subscription("s")
    assert db.q("SELECT id, p FROM t") == [(1, 7)]


def test_composite_keys_and_types(db, kafka, topic):
    """Keys whose types have no hash function, a domain, an enum; case-insensitive equality decides which rows are one."""
    db.q("CREATE EXTENSION citext; CREATE TYPE color AS ENUM ('red', 'green'); CREATE DOMAIN small AS int CHECK (VALUE < 100)")
    table(db, "b varbit, c citext, e color, s small, m money, v text, PRIMARY KEY (b, c, e, s, m)")
    subscribe(db, topic, "t")
    def message(c, v):
        key = {"b": "101", "c": c, "e": "red", "s": 5, "m": "$1.50"}
        return key, v and {**key, "v": v}
    kafka.produce_many(topic, [message("One", "1"), message("ONE", "2"), message("two", "3"), message("TWO", None)])
    db.wait_for_subscription("s")
    assert db.q("SELECT c, v FROM t") == [("One", "2")] or db.q("SELECT c, v FROM t") == [("ONE", "2")]
    kafka.produce_many(topic, [message("one", None)])
    db.wait_for_subscription("s")
    assert db.q("SELECT * FROM t") == []
