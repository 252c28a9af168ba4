"""Topics as foreign tables: reading, writing, importing."""

import datetime
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from conftest import wait_until
from kafka_proxy import FETCH, LIST_OFFSETS, PRODUCE, Proxy, with_error

META = ('"partition" int OPTIONS (meta \'partition\'), "offset" bigint OPTIONS (meta \'offset\'), '
        '"timestamp" timestamptz OPTIONS (meta \'timestamp\'), key text OPTIONS (meta \'key\')')

# for timestamps of long ago
FOREVER = {"retention.ms": "-1"}


def table(db, name, topic, columns, server="kafka", **options):
    listed = "".join(f", {k} '{v}'" for k, v in options.items())
    db.q(f'CREATE FOREIGN TABLE {name} ({columns}) SERVER {server} OPTIONS (topic \'{topic}\'{listed})')


def plan(db, sql, *params):
    """The topic's node of EXPLAIN (ANALYZE, VERBOSE)."""
    def find(node):
        if node["Node Type"] == "Foreign Scan":
            return node
        return next(filter(None, map(find, node.get("Plans", []))), None)
    return find(db.q(f"EXPLAIN (ANALYZE, VERBOSE, FORMAT JSON) {sql}", *params)[0][0][0]["Plan"])


def read(db, sql, *params):
    """How many messages were read for a query."""
    return plan(db, sql, *params)["Messages Read"]


def ms(offset):
    return 1700000000000 + offset * 1000


def at(offset):
    return datetime.datetime.fromtimestamp(ms(offset) / 1000, datetime.timezone.utc).isoformat()


@pytest.fixture
def numbers(db, kafka):
    """3 partitions of 100 messages: {"id": n, "name": "n<n>", "sub": {"x": [n]}}, a second apart."""
    topic = kafka.create_topic(partitions=3, config=FOREVER)
    kafka.produce_many(topic, [dict(value={"id": n, "name": f"n{n}", "sub": {"x": [n]}}, key=f"k{n}", partition=n % 3,
                                    timestamp=ms(n // 3)) for n in range(300)])
    table(db, "t", topic, META + ", id int, name text, x int OPTIONS (path 'sub.x[0]')")
    return topic


# ---- reading

def test_columns(db, kafka):
    topic = kafka.create_topic(config=FOREVER)
    kafka.produce(topic, {"id": 1, "a.b": "dot", "j": {"k": [1, {"l": True}]}, "amount": 1.50, "at": "2024-02-29T12:00:00Z"},
                  key=b"\x00\xff", headers=[("h", b"v"), ("n", None), ("b", b"\xff\x00")], timestamp=ms(0))
    kafka.produce(topic, None, key="k")
    table(db, "t", topic, """topic text OPTIONS (meta 'topic'), p bigint OPTIONS (meta 'partition'), "offset" bigint OPTIONS (meta 'offset'),
        ts timestamptz OPTIONS (meta 'timestamp'), key bytea OPTIONS (meta 'key'), headers jsonb OPTIONS (meta 'headers'),
        value text OPTIONS (meta 'value'), whole jsonb OPTIONS (meta 'value'), "ID" bigint OPTIONS (path 'id'),
        dot text OPTIONS (path '"a.b"'), l bool OPTIONS (path '$.j.k[1].l'), j jsonb, amount numeric, at timestamptz,
        missing text, none text OPTIONS (path 'j.k[7].l')""")
    first, second = db.dicts('SELECT * FROM t ORDER BY "offset"')
    assert first["topic"] == topic and (first["p"], first["offset"]) == (0, 0)
    assert first["ts"] == datetime.datetime.fromtimestamp(1700000000, datetime.timezone.utc)
    assert bytes(first["key"]) == b"\x00\xff"
    assert first["headers"] == [["h", "v"], ["n", None], ["b", {"base64": "/wA="}]]
    assert json.loads(first["value"]) == first["whole"] and first["whole"]["id"] == 1
    assert (first["ID"], first["dot"], first["l"], first["j"]) == (1, "dot", True, {"k": [1, {"l": True}]})
    assert str(first["amount"]) == "1.5" and first["at"] == datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc)
    assert first["missing"] is first["none"] is None
    # a tombstone is a row without a value
    assert bytes(second["key"]) == b"k"
    assert {second[c] for c in ("value", "whole", "ID", "dot", "l", "j", "amount", "at", "headers")} == {None}


def test_settings_of_the_session_do_not_matter(db, kafka):
    topic = kafka.create_topic()
    kafka.produce(topic, {"ts": "2024-01-02 03:04:05", "d": "2024-01-02", "i": "-1 days -02:03:04", "m": "$1,234.50"})
    table(db, "t", topic, "ts timestamptz, d date, i interval, m money")
    db.q("SET timezone = 'America/New_York'; SET datestyle = 'SQL, DMY'; SET intervalstyle = sql_standard")
    assert db.one("SELECT ts = '2024-01-02 03:04:05+00', d = make_date(2024, 1, 2), i = make_interval(days => -1, hours => -2, mins => -3, secs => -4),"
                  " m::numeric FROM t") == (True, True, True, 1234.5)
    assert db.value("SHOW datestyle") == "SQL, DMY"


def test_pushdown(db, kafka, numbers):
    assert read(db, "SELECT * FROM t") == 300
    assert read(db, 'SELECT * FROM t WHERE "partition" = 1') == 100
    assert read(db, 'SELECT * FROM t WHERE 1 >= "partition"') == 200
    assert read(db, 'SELECT * FROM t WHERE "partition" IN (0, 2)') == 200
    assert read(db, 'SELECT * FROM t WHERE "partition" IN (0, 7) AND "partition" = ANY (\'{0,1}\')') == 100
    assert read(db, 'SELECT * FROM t WHERE "partition" > 2') == 0
    assert read(db, 'SELECT * FROM t WHERE "offset" = 7') == 3
    assert read(db, 'SELECT * FROM t WHERE "offset" < 7') == 21
    assert read(db, 'SELECT * FROM t WHERE "offset" <= 7::smallint') == 24
    assert read(db, 'SELECT * FROM t WHERE "offset" > 90') == 27
    assert read(db, 'SELECT * FROM t WHERE "offset" >= 90') == 30
    assert read(db, 'SELECT * FROM t WHERE "offset" BETWEEN 10 AND 19 AND "partition" = 2') == 10
    assert read(db, 'SELECT * FROM t WHERE "offset" IN (3, 5)') == 9
    assert read(db, 'SELECT * FROM t WHERE "offset" > 5 AND "offset" < 3') == 0
    assert read(db, f"SELECT * FROM t WHERE \"timestamp\" >= '{at(90)}'") == 30
    assert read(db, f"SELECT * FROM t WHERE \"timestamp\" > '{at(90)}'") == 27
    assert read(db, "SELECT * FROM t WHERE \"timestamp\" > 'infinity'") == 0
    assert read(db, "SELECT * FROM t WHERE \"timestamp\" >= now()") == 0
    # and what is read is what was asked for
    assert db.value('SELECT count(*) FROM t WHERE "offset" IN (3, 5)') == 6
    assert db.value(f"SELECT count(*) FROM t WHERE \"timestamp\" BETWEEN '{at(10)}' AND '{at(19)}'") == 30
    assert sorted(db.q('SELECT id FROM t WHERE "partition" = 1 AND "offset" = 50')) == [(151,)]
    # other conditions are not Kafka's
    node = plan(db, "SELECT * FROM t WHERE id = 7 AND \"partition\" = 1")
    assert node["Messages Read"] == 100 and node["Kafka Conditions"] == "(partition = 1)", node
    assert node["Offsets Read"] == ["1: 0 to 100 (100 messages)"]
    assert node["Kafka Topic"] == numbers


def test_explain_asks_no_broker(db, kafka):
    db.q("CREATE SERVER nowhere FOREIGN DATA WRAPPER kafka OPTIONS (\"bootstrap.servers\" '127.0.0.1:1')")
    table(db, "t", "x", META, server="nowhere")
    text = "\n".join(row[0] for row in db.q("EXPLAIN SELECT * FROM t WHERE \"partition\" = 3 AND \"timestamp\" > now() LIMIT 3"))
    assert "Kafka Topic: x" in text and "Kafka Conditions:" in text and "Messages Read" not in text, text


def test_end_by_timestamp(db, kafka, numbers):
    """Only in a log whose timestamps are in order may reading end at one."""
    until = f"SELECT * FROM %s WHERE \"timestamp\" < '{at(10)}'"
    assert read(db, until % "t") == 300
    db.q("ALTER FOREIGN TABLE t OPTIONS (ADD timestamps 'ordered')")
    assert read(db, until % "t") == 30
    assert read(db, f"SELECT * FROM t WHERE \"timestamp\" BETWEEN '{at(5)}' AND '{at(6)}'") == 6
    assert read(db, f"SELECT * FROM t WHERE \"timestamp\" = '{at(5)}'") == 3
    # that brokers stamp messages now does not mean that they always have
    topic = kafka.create_topic(config=FOREVER)
    for t in (9, 1):
        kafka.produce(topic, {}, timestamp=ms(t))
    db.q("SELECT kafka.alter_topic('kafka', %s, config => '{\"message.timestamp.type\": \"LogAppendTime\"}')", topic)
    table(db, "a", topic, META)
    assert db.value(f"SELECT \"offset\" FROM a WHERE \"timestamp\" < '{at(5)}'") == 1


def test_timestamps_out_of_order(db, kafka):
    topic = kafka.create_topic(config=FOREVER)
    kafka.produce_many(topic, [dict(value={"id": n}, timestamp=ms(t)) for n, t in enumerate([5, 1, 9, 3, 7, 2])])
    table(db, "t", topic, META + ", id int")
    for operator, found in ((">= ", [0, 2, 4]), ("<", [1, 3, 5]), ("=", [0])):
        assert [n for (n,) in db.q(f"SELECT id FROM t WHERE \"timestamp\" {operator} '{at(5)}' ORDER BY id")] == found


def test_limit_stops_early(db, kafka):
    topic = kafka.create_topic()
    kafka.produce_many(topic, [dict(value={"id": n, "fill": "x" * 500}) for n in range(30000)])
    table(db, "t", topic, META + ", id int, fill text")
    assert read(db, "SELECT * FROM t LIMIT 5") == 5
    with db.connect() as connection:
        connection.execute("SELECT 1 FROM t LIMIT 1")
        # a cursor reads on where it was
        with connection.transaction(), connection.cursor("c") as cursor:
            cursor.execute("SELECT id FROM t")
            assert [n for (n,) in cursor.fetchmany(3)] == [0, 1, 2]
            assert [n for (n,) in cursor.fetchmany(20000)] == list(range(3, 20003))
    assert db.value("SELECT count(*) FROM t WHERE fill = repeat('x', 500)") == 30000


def test_parameters(db, kafka, numbers):
    """Values known only at execution: generic plans, joins, subqueries, functions."""
    db.q("SET plan_cache_mode = force_generic_plan")
    db.q('PREPARE p(int, bigint) AS SELECT count(*) FROM t WHERE "partition" = $1 AND "offset" >= $2')
    assert db.value("EXECUTE p(1, 40)") == 60 and db.value("EXECUTE p(2, 90)") == 10 and db.value("EXECUTE p(NULL, 1)") == 0
    node = plan(db, "EXECUTE p(0, 95)")
    assert node["Messages Read"] == 5 and "$2" in node["Kafka Conditions"]
    db.q("CREATE TABLE place (p int, o bigint); INSERT INTO place VALUES (0, 98), (1, 99), (2, 50)")
    assert read(db, 'SELECT * FROM t WHERE "offset" > (SELECT max(o) - 5 FROM place)') == 15
    join = 'SELECT p, "offset", id FROM place JOIN t ON "partition" = p AND "offset" >= o'
    db.q("SET enable_hashjoin = off; SET enable_mergejoin = off; ANALYZE place")
    node = plan(db, join)
    assert node["Messages Read"] == 53 and node["Actual Loops"] == 3, node
    assert sorted(db.q(join)) == sorted([(0, o, o * 3) for o in (98, 99)] + [(1, 99, 298)] + [(2, o, o * 3 + 2) for o in range(50, 100)])
    lateral = ('SELECT p, x.id FROM place, LATERAL (SELECT id FROM t WHERE "partition" = p AND "offset" >= o '
               'ORDER BY "offset" LIMIT 1) x ORDER BY p')
    assert db.q(lateral) == [(0, 294), (1, 298), (2, 152)]


def test_rescans(db, kafka, numbers):
    """Scans that begin anew, hundreds of times, each find what is theirs: nothing of the scan before, nothing missing."""
    db.q("CREATE TABLE want (p int, a bigint, b bigint)")
    db.q("INSERT INTO want SELECT i % 3, i * 7 % 90, i * 7 % 90 + i % 11 FROM generate_series(1, 200) i; ANALYZE want")
    rows = db.q("""SELECT p, a, b, x.n, x.s FROM want, LATERAL (SELECT count(*) n, sum(id) s FROM
        (SELECT * FROM t WHERE "partition" = p AND "offset" BETWEEN a AND b OFFSET 0) y) x""")
    assert len(rows) == 200
    for p, a, b, n, s in rows:
        assert (n, s) == (b - a + 1, sum(o * 3 + p for o in range(a, b + 1))), (p, a, b)
    # left in the middle of what was fetched
    rows = db.q("""SELECT p, a, x.o FROM want, LATERAL (SELECT "offset" o FROM t WHERE "partition" = p AND "offset" >= a LIMIT 2) x""")
    assert len(rows) == 400 and all(a <= o <= a + 1 for _, a, o in rows)


def test_ends_behind_anything(db, kafka):
    """Aborted and compacted messages, control records, an open transaction, new messages while reading."""
    topic = kafka.create_topic(partitions=2)
    kafka.transaction(topic, [dict(value={"id": n}, partition=0) for n in range(10)])
    kafka.transaction(topic, [dict(value={"id": -1}, partition=0) for n in range(500)], commit=False)
    kafka.transaction(topic, [dict(value={"id": -2}, partition=1) for n in range(5)], commit=False)
    table(db, "t", topic, META + ", id int")
    assert read(db, "SELECT * FROM t") == 10
    assert db.q("SELECT id FROM t ORDER BY id") == [(n,) for n in range(10)]
    # the messages of an open transaction, and whatever follows them, are not committed yet
    from confluent_kafka import Producer
    producer = Producer(kafka._conf(transactional__id=topic))
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b'{"id": 100}', partition=0)
    producer.flush(30)
    kafka.produce(topic, {"id": 101}, partition=0)
    assert db.value("SELECT max(id) FROM t") == 9
    producer.commit_transaction(30)
    assert db.value("SELECT max(id) FROM t") == 101
    # a scan that has begun sees nothing that comes later
    with db.connect() as connection, connection.transaction(), connection.cursor("c") as cursor:
        cursor.execute("SELECT id FROM t WHERE \"partition\" = 0")
        assert cursor.fetchone() == (0,)
        kafka.produce_many(topic, [dict(value={"id": 200}, partition=0) for _ in range(100)])
        assert len(cursor.fetchall()) == 11


def test_compacted(db, kafka):
    topic = kafka.create_topic(config={"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01",
                                       "min.compaction.lag.ms": "0", "delete.retention.ms": "60000"})
    kafka.produce_many(topic, [dict(value={"id": n}, key="same") for n in range(100)])

    def compacted():
        time.sleep(0.2)
        kafka.produce(topic, {"id": -1}, key="other")
        return len(kafka.consume(topic)) < 50
    wait_until(compacted, 60)
    table(db, "t", topic, META + ", id int")
    messages = kafka.consume(topic)
    assert db.q('SELECT "offset", id FROM t ORDER BY 1') == [(m.offset, m.json["id"]) for m in messages]


def test_debezium(db, kafka):
    topic = kafka.create_topic()

    def event(op, before=None, after=None):
        return {"op": op, "before": before, "after": after, "source": {"table": "x"}, "ts_ms": 1}
    placeholder = "__debezium_unavailable_value"
    kafka.produce(topic, event("c", None, {"id": 1, "d": 19000, "n": "EtY=", "t": "a"}), key={"id": 1})
    kafka.produce(topic, event("u", {"id": 1, "t": "a"}, {"id": 1, "d": None, "n": "EtY=", "t": placeholder}), key={"id": 1})
    kafka.produce(topic, event("d", {"id": 1, "t": "b"}), key={"schema": None, "payload": {"id": 1}})
    kafka.produce(topic, None, key={"id": 1})
    schema = {"type": "struct", "fields": [{"field": "after", "type": "struct", "fields": [
        {"field": "id", "type": "int32"}, {"field": "d", "type": "int64", "name": "io.debezium.time.MicroTimestamp"}]}]}
    kafka.produce(topic, {"schema": schema, "payload": event("c", None, {"id": 2, "d": 1000000})}, key={"id": 2})
    table(db, "t", topic, """id int, d date, n numeric(10,2), "T" text OPTIONS (path 't'), op text OPTIONS (meta 'op'),
        before jsonb OPTIONS (meta 'before'), old text OPTIONS (meta 'before', path 't'), unchanged text[] OPTIONS (meta 'unchanged'),
        "offset" bigint OPTIONS (meta 'offset')""", format="debezium", key="id")
    day = datetime.date(2022, 1, 8)
    from decimal import Decimal
    assert db.q("SELECT * FROM t WHERE \"offset\" < 4 ORDER BY \"offset\"") == [
        (1, day, Decimal("48.22"), "a", "c", None, None, None, 0),
        (1, None, Decimal("48.22"), None, "u", {"id": 1, "t": "a"}, "a", ["T"], 1),
        (1, None, None, None, "d", {"id": 1, "t": "b"}, "b", None, 2),
        (1, None, None, None, None, None, None, None, 3)]
    db.q("ALTER FOREIGN TABLE t ALTER d TYPE timestamp")
    assert db.q("SELECT id, d FROM t WHERE \"offset\" = 4") == [(2, datetime.datetime(1970, 1, 1, 0, 0, 1))]


def test_own_publisher(db, kafka, make_db):
    """What a publisher writes reads back as it was, in both formats."""
    db.q("CREATE TABLE src (id int PRIMARY KEY, t text, n numeric, ts timestamptz, j jsonb, b bytea, i interval, a int[])")
    db.q("INSERT INTO src VALUES (1, 'ä', 1.50, '2024-01-01 00:00+00', '{\"a\": null}', '\\x00ff', '1 day', '{1,NULL}'), (2, NULL, NULL, NULL, 'null', NULL, NULL, NULL)")
    db.q("CREATE PUBLICATION pub FOR TABLE src")
    for form, columns in (("json", "id int, t text, n numeric, ts timestamptz, j jsonb, b bytea, i interval, a int[]"),
                          ("debezium", "id int, t text, n numeric, ts timestamptz, j jsonb, b bytea, i interval, a int[]")):
        prefix = kafka.new_topic_name(form)
        options = '{"decimal.handling.mode": "string"}' if form == "debezium" else "{}"
        db.q("SELECT kafka.create_publisher(%s, 'kafka', 'pub', %s, format => %s, options => %s)", form, prefix, form, options)
        db.wait_state("publisher", form, "streaming")
        db.wait_for_publisher(form)
        table(db, f"t_{form}", f"{prefix}.public.src", columns, format=form, key="id")
        if form == "json":
            assert db.q(f"SELECT t.*::text FROM t_{form} t ORDER BY id") == db.q("SELECT s.*::text FROM src s ORDER BY id")
        else:
            assert db.q(f"SELECT id, t, ts, b, a FROM t_{form} t ORDER BY id") == db.q("SELECT id, t, ts, b, a FROM src ORDER BY id")
        db.q("SELECT kafka.drop_publisher(%s)", form)


def test_modes_of_keys(db, kafka):
    """Deletes and tombstones, which have nothing but a key, are read as their headers, or the table's options, say."""
    db.q("CREATE TABLE src (b bytea, at timestamp, n int, PRIMARY KEY (b, at))")
    db.q("CREATE PUBLICATION pub FOR TABLE src")
    options = '{"binary.handling.mode": "hex", "time.precision.mode": "connect"}'
    prefix = kafka.new_topic_name()
    db.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', %s, options => %s)", prefix, options)
    db.wait_state("publisher", "p", "streaming")
    db.q("INSERT INTO src VALUES ('\\x1234', '2024-02-29 12:00:00', 1)")
    db.q("DELETE FROM src")
    db.wait_for_publisher("p")
    topic = f"{prefix}.public.src"
    columns = """b bytea, at timestamp, "offset" bigint OPTIONS (meta 'offset'),
        kb bytea OPTIONS (meta 'key', path 'b'), kat timestamp OPTIONS (meta 'key', path 'at')"""
    table(db, "t", topic, columns, format="debezium", key="b, at")
    at = datetime.datetime(2024, 2, 29, 12)
    row = (b"\x12\x34", at, b"\x12\x34", at)
    assert db.q('SELECT b, at, kb, kat FROM t ORDER BY "offset"') == [row] * 3
    assert db.q('SELECT kb, kat FROM t ORDER BY "offset"') == [row[2:]] * 3
    db.q("SELECT kafka.drop_publisher('p')")

    # of others, whose messages have no such headers
    other = kafka.create_topic()
    key = {"b": "1234", "at": 1709208000000}
    kafka.produce(other, {"op": "c", "before": None, "after": key, "source": {}}, key=key)
    kafka.produce(other, {"op": "d", "before": key, "after": None, "source": {}}, key=key)
    kafka.produce(other, None, key=key)
    db.q("DROP FOREIGN TABLE t")
    table(db, "t", other, columns, format="debezium", key="b, at")
    db.q("""ALTER FOREIGN TABLE t OPTIONS (ADD "binary.handling.mode" 'hex', ADD "time.precision.mode" 'connect')""")
    assert db.q('SELECT b, at, kb, kat FROM t ORDER BY "offset"') == [row] * 3
    with pytest.raises(psycopg.Error, match='invalid value for option "time.precision.mode"'):
        db.q("""ALTER FOREIGN TABLE t OPTIONS (SET "time.precision.mode" 'exact')""")

    # the connector of the event before is not that of a tombstone
    mixed = kafka.create_topic()
    kafka.produce(mixed, {"op": "c", "before": None, "after": {"at": None}, "source": {"connector": "mysql"}})
    kafka.produce(mixed, None, key={"at": 1709208000000000})
    table(db, "m", mixed, 'at timestamp, kat timestamp OPTIONS (meta \'key\', path \'at\'), "offset" bigint OPTIONS (meta \'offset\')',
          format="debezium", key="at")
    assert db.q('SELECT at, kat FROM m ORDER BY "offset"') == [(None, None), (at, at)]


def test_raw_and_keys(db, kafka):
    topic = kafka.create_topic()
    kafka.produce(topic, "plain text ä", key="42")
    kafka.produce(topic, '"quoted"', key='"17"')
    table(db, "r", topic, "line text, key int OPTIONS (meta 'key'), o bigint OPTIONS (meta 'offset')", format="raw")
    assert db.q("SELECT line, key FROM r WHERE o = 0") == [("plain text ä", 42)]
    table(db, "j", topic, "b bytea, key text OPTIONS (meta 'key'), o bigint OPTIONS (meta 'offset')", format="raw", key_format="json")
    assert [(bytes(b), k) for b, k in db.q("SELECT b, key FROM j ORDER BY o")] == [("plain text ä".encode(), "42"), (b'"quoted"', "17")]
    kafka.produce(topic, b"\xff\xfe")
    with pytest.raises(psycopg.errors.CharacterNotInRepertoire, match=rf'topic "{topic}", partition 0, offset 2 .*column "line"'):
        db.q("SELECT line FROM r")
    assert bytes(db.value("SELECT b FROM j WHERE o = 2")) == b"\xff\xfe"


def test_bad_messages(db, kafka):
    topic = kafka.create_topic()
    kafka.produce(topic, {"id": 1})
    kafka.produce(topic, {"id": "many"})
    kafka.produce(topic, "{broken")
    kafka.produce(topic, {"id": 4})
    table(db, "t", topic, META + ", id int, raw bytea OPTIONS (meta 'value')")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation,
                       match=rf'message at topic "{topic}", partition 0, offset 1 cannot be read: column "id": invalid input syntax'):
        db.q("SELECT id FROM t")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=r"offset 2 cannot be read: invalid JSON at byte"):
        db.q('SELECT id FROM t WHERE "offset" <> 1 AND "offset" > 1')
    # what is not asked for is not looked at
    assert db.value("SELECT count(*) FROM t") == 4
    db.q("ALTER FOREIGN TABLE t OPTIONS (ADD on_error 'null')")
    with pytest.raises(psycopg.Error, match="no column that would tell of an error"):
        db.q("SELECT id FROM t")
    db.q("ALTER FOREIGN TABLE t ADD COLUMN error text OPTIONS (meta 'error')")
    rows = db.q('SELECT id, raw, error FROM t ORDER BY "offset"')
    assert [r[0] for r in rows] == [1, None, None, 4] and bytes(rows[2][1]) == b"{broken"
    assert rows[0][2] is rows[3][2] is None and 'column "id"' in rows[1][2] and "invalid JSON" in rows[2][2]
    assert db.value("SELECT count(*) FROM t WHERE error IS NOT NULL") == 2


def test_bad_messages_and_parallel_plans(db, kafka):
    topic = kafka.create_topic()
    for value in ({"id": 1}, {"id": "many"}, {"id": 3}):
        kafka.produce(topic, value)
    table(db, "t", topic, META + ", id int, error text OPTIONS (meta 'error')", on_error="null")
    db.q("CREATE TABLE big AS SELECT generate_series(1, 5000) id; ANALYZE big")
    db.q("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0")
    assert "Gather" in str(db.q("EXPLAIN SELECT count(*) FROM big"))
    for query in ("SELECT count(*), count(t.id) FROM {} CROSS JOIN t", "SELECT (SELECT count(*) FROM {}) * count(*), 5000 * count(id) FROM t",
                  "SELECT count(*), count(i) FROM {}, (SELECT id i FROM t LIMIT 9) s", "SELECT count(*), count(i) FROM (SELECT id i FROM t LIMIT 9) s, {}"):
        for source in ("big", "(SELECT id FROM big OFFSET 0) b", "(SELECT id FROM big) b"):
            sql = query.format(source)
            try:
                assert db.one(sql) == (15000, 10000)
            except psycopg.errors.InvalidTextRepresentation as error:
                # a part that was planned before the topic was seen
                assert "max_parallel_workers_per_gather" in error.diag.message_hint and "Gather" in str(db.q("EXPLAIN " + sql))
                assert "SELECT count(*) FROM" in sql or "OFFSET" in sql
    assert db.one("SELECT count(*), count(t.id) FROM big CROSS JOIN t") == (15000, 10000)
    if db.connection.info.server_version < 170000:
        db.q(f"SET {'force' if db.connection.info.server_version < 160000 else 'debug'}_parallel_{'mode' if db.connection.info.server_version < 160000 else 'query'} = on")
        # not planned with the topic: the function's query runs inside of a parallel one
        db.q("CREATE FUNCTION bad() RETURNS bigint LANGUAGE plpgsql PARALLEL RESTRICTED AS 'BEGIN RETURN (SELECT count(id) FROM t); END'")
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match='offset 1 cannot be read: column "id"') as raised:
            db.q("SELECT bad() FROM big LIMIT 1")
        assert "max_parallel_workers_per_gather" in raised.value.diag.message_hint
    db.q("SET max_parallel_workers_per_gather = 0")
    assert db.one("SELECT count(*), count(t.id) FROM big CROSS JOIN t") == (15000, 10000)


def test_nothing_there(db, kafka):
    table(db, "t", "no.such.topic", META)
    with pytest.raises(psycopg.errors.UndefinedObject, match='topic "no.such.topic" does not exist'):
        db.q("SELECT * FROM t")
    topic = kafka.create_topic(partitions=2)
    table(db, "e", topic, META)
    assert db.q("SELECT * FROM e") == []
    db.q("CREATE SERVER nowhere FOREIGN DATA WRAPPER kafka OPTIONS (\"bootstrap.servers\" '127.0.0.1:1')")
    table(db, "n", "x", META, server="nowhere")
    began = time.monotonic()
    with pytest.raises(psycopg.errors.SqlclientUnableToEstablishSqlconnection, match="could not reach a broker") as error:
        db.q("SELECT * FROM n")
    assert time.monotonic() - began < 15 and "bootstrap.servers" in error.value.diag.message_hint
    db.q("SET statement_timeout = '500ms'")
    began = time.monotonic()
    with pytest.raises(psycopg.errors.QueryCanceled):
        db.q("SELECT * FROM n")
    assert time.monotonic() - began < 6     # not when the 8 s are over


def test_deleted_while_reading(db, kafka):
    topic = kafka.create_topic()
    kafka.produce_many(topic, [dict(value={"id": n, "fill": "x" * 2000}) for n in range(40000)], compression__type="none")
    table(db, "t", topic, META + ", id int")
    with db.connect() as connection, connection.transaction(), connection.cursor("c") as cursor:
        cursor.execute("SELECT id FROM t")
        assert cursor.fetchone() == (0,)
        db.q("SELECT kafka.delete_records('kafka', %s, 0, 39999)", topic)
        with pytest.raises(psycopg.Error, match="were deleted while they were being read"):
            cursor.fetchall()
    assert db.q("SELECT id FROM t") == [(39999,)]


def test_broker_gone_while_reading(private_kafka, make_db):
    db = make_db()
    db.create_server(private_kafka)
    topic = private_kafka.create_topic()
    private_kafka.produce_many(topic, [dict(value={"id": n, "fill": "x" * 2000}) for n in range(40000)], compression__type="none")
    table(db, "t", topic, META + ", id int")
    with db.connect() as connection:
        with connection.transaction(), connection.cursor("c") as cursor:
            cursor.execute("SELECT id FROM t")
            assert cursor.fetchone() == (0,)
            private_kafka.pause()
            began = time.monotonic()
            threading.Timer(1, connection.cancel).start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                cursor.fetchall()
            assert time.monotonic() - began < 6     # not when the brokers are given up
    private_kafka.resume()
    with db.connect() as connection:
        with connection.transaction(), connection.cursor("c") as cursor:
            cursor.execute("SELECT id FROM t")
            assert cursor.fetchone() == (0,)
            private_kafka.kill()
            with pytest.raises(psycopg.errors.SqlclientUnableToEstablishSqlconnection):
                cursor.fetchall()


def test_messages_that_come_while_brokers_are_asked(db, kafka):
    """A broker that was silent is asked whether it is there; what it sends meanwhile is not lost."""
    topic = kafka.create_topic()
    kafka.produce_many(topic, [dict(value={"id": n, "fill": "x" * 2000}) for n in range(3000)], compression__type="none")
    state = {"silent": False, "asked": 0, "held": []}

    def answered(api, version, frame):
        if not state["silent"]:
            return [frame]
        if api == FETCH:
            state["held"].append(frame)
            return []
        if api != LIST_OFFSETS or topic.encode() not in frame:
            return [frame]
        # messages first, and then an error that has the question asked again after a while
        frames, state["held"], state["silent"] = state["held"], [], False
        state["asked"] += 1
        return [*frames, with_error(frame, version, topic, 0, 6)]

    with Proxy(kafka, answered) as proxy:
        db.q(f"""CREATE SERVER proxy FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '{proxy.bootstrap}', "queued.max.messages.kbytes" '1024')""")
        table(db, "t", topic, META + ", id int", server="proxy")
        with db.connect() as connection, connection.transaction(), connection.cursor("c") as cursor:
            connection.execute("SET statement_timeout = '60s'")
            cursor.execute("SELECT id FROM t")
            assert cursor.fetchone() == (0,)
            state["silent"] = True
            assert [n for (n,) in cursor.fetchall()] == list(range(1, 3000))
    assert state["asked"] == 1 and state["held"] == []


def test_memory(db, kafka, cluster):
    topic = kafka.create_topic()
    kafka.produce_many(topic, [dict(value={"id": n, "fill": str(n) * 100}) for n in range(150000)])
    table(db, "t", topic, META + ", id int, fill text")
    with db.connect() as connection:
        pid = connection.info.backend_pid
        connection.execute("SELECT count(*), max(length(fill)) FROM t WHERE \"offset\" < 1000")
        before = cluster.rss_kb(pid)
        assert connection.execute("SELECT count(*), sum(id) FROM t WHERE fill IS NOT NULL").fetchone() == (150000, 150000 * 149999 // 2)
        assert cluster.rss_kb(pid) - before < 100 * 1024
    # of a session that is left nothing stays open
    with db.connect() as connection:
        threads = lambda: len(list(__import__("pathlib").Path(f"/proc/{connection.info.backend_pid}/task").iterdir()))
        for _ in range(20):
            connection.execute("SELECT 1 FROM t LIMIT 1")
            with pytest.raises(psycopg.Error):
                connection.execute("SELECT 1/(id - id) FROM t")
        wait_until(lambda: threads() < 5, 10)


def test_estimates(db, kafka, numbers):
    def rows(sql):
        return db.q(f"EXPLAIN (FORMAT JSON) {sql}")[0][0][0]["Plan"]["Plan Rows"]
    assert rows("SELECT * FROM t") == 100000
    db.q("ALTER FOREIGN TABLE t OPTIONS (ADD use_remote_estimate 'true')")
    assert rows("SELECT * FROM t") == 300


def analyzed(db, name):
    """What ANALYZE VERBOSE says: offsets in the log, messages read, of offsets, rows kept, rows estimated. And warnings."""
    said = []
    with db.connect() as connection:
        connection.execute("SET default_statistics_target = 10")        # 3,000 rows
        connection.add_notice_handler(lambda d: said.append((d.severity, d.message_primary, d.message_detail)))
        connection.execute(f"ANALYZE VERBOSE {name}")
    (numbers,) = [list(map(int, re.findall(r"(?<![\w.])\d+", text.split(":", 1)[1]))) for _, text, _ in said if "offsets; read" in text]
    return numbers, [(text, detail) for severity, text, detail in said if severity == "WARNING"]


def test_analyze(db, kafka, numbers):
    def rows(sql):
        return db.q(f"EXPLAIN (FORMAT JSON) {sql}")[0][0][0]["Plan"]["Plan Rows"]
    assert rows("SELECT * FROM t") == 100000
    db.q("ALTER FOREIGN TABLE t ADD COLUMN gone int, ADD COLUMN late text; ALTER FOREIGN TABLE t DROP COLUMN gone")
    assert analyzed(db, "t") == ([300, 300, 300, 300, 300], [])
    assert db.one("SELECT reltuples, relpages > 0 FROM pg_class WHERE oid = 't'::regclass") == (300, True)
    assert rows("SELECT * FROM t") == 300 and rows("SELECT * FROM t WHERE id = 7") == 1
    assert 50 < rows("SELECT * FROM t WHERE id < 75") < 100 and rows('SELECT * FROM t WHERE "partition" = 2') == 100
    assert rows("SELECT * FROM t WHERE late IS NULL") == 300
    # a sort of a few rows by a key beside many
    assert db.one("SELECT n_distinct, null_frac FROM pg_stats WHERE tablename = 't' AND attname = 'name'") == (-1, 0)
    # compacted or aborted messages, and marks of transactions, are no rows; a line of a message is one
    topic = kafka.create_topic(partitions=2)
    kafka.transaction(topic, [dict(value="1,a\n2,b\n3,c", partition=0) for _ in range(100)])
    kafka.transaction(topic, [dict(value="0,x", partition=0) for _ in range(500)], commit=False)
    settle(kafka, topic)
    table(db, "c", topic, "id int, v text", format="csv")
    assert analyzed(db, "c") == ([602, 100, 602, 300, 300], [])
    # an empty one is taken to be filled some day
    table(db, "e", kafka.create_topic(), META)
    assert analyzed(db, "e") == ([0, 0, 0, 0, 0], []) and rows("SELECT * FROM e") == 100000
    # what cannot be read is left out, and said
    kafka.produce(topic, "word,x", partition=1)
    numbers, warnings = analyzed(db, "c")
    assert numbers == [603, 101, 603, 300, 300] and 'column "id"' in warnings[0][1] and "left 1 of the 101 messages" in warnings[0][0]
    db.q("ALTER FOREIGN TABLE c ADD error text OPTIONS (meta 'error'), OPTIONS (ADD on_error 'null')")
    assert analyzed(db, "c") == ([603, 101, 603, 301, 301], [])


def test_analyze_reads_a_sample(db, kafka):
    """Of a large topic, from all over its partitions; of large messages no more than memory allows."""
    topic = kafka.create_topic(partitions=3)
    kafka.produce_many(topic, [dict(value={"id": n, "last": n % 5}, partition=0 if n % 4 else n % 3) for n in range(60000)])
    table(db, "t", topic, "id int, last int, \"partition\" int OPTIONS (meta 'partition')")
    (offsets, read_, covered, kept, rows), warnings = analyzed(db, "t")
    assert (offsets, rows, warnings) == (60000, 60000, []) and 2000 <= kept <= 3000 and kept <= read_ == covered <= 3200, (read_, covered, kept)
    bounds = db.value("SELECT histogram_bounds::text::int[] FROM pg_stats WHERE tablename = 't' AND attname = 'id'")
    assert len(bounds) == 11 and all(i * 6000 - 3500 < b < i * 6000 + 3500 for i, b in enumerate(bounds)), bounds
    most, often = db.one("SELECT most_common_vals::text, most_common_freqs[1] FROM pg_stats WHERE tablename = 't' AND attname = 'partition'")
    assert most.startswith("{0,") and 0.75 < often < 0.9
    large = kafka.create_topic()
    kafka.produce_many(large, [dict(value={"id": n, "fill": f"{n:04}" * 7500}) for n in range(1500)])
    table(db, "l", large, "id int, fill text")
    db.q("ALTER DATABASE %s SET maintenance_work_mem = '2MB'" % db.name)
    (offsets, read_, covered, kept, rows), warnings = analyzed(db, "l")
    assert (offsets, rows, warnings) == (1500, 1500, []) and 10 < kept <= 70 and read_ <= 200, (read_, kept)


def test_analyze_of_others(db, kafka, numbers):
    """With the owner's login; as a part of its parent; interrupted."""
    db.q("DROP ROLE IF EXISTS topic_owner; CREATE ROLE topic_owner LOGIN")
    try:
        db.q(f"""CREATE SERVER sasl FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '{kafka.sasl_bootstrap}',
            "security.protocol" 'SASL_PLAINTEXT', "sasl.mechanisms" 'PLAIN')""")
        db.q("CREATE USER MAPPING FOR topic_owner SERVER sasl OPTIONS (\"sasl.username\" 'alice', \"sasl.password\" 'alice-secret')")
        table(db, "s", numbers, "id int", server="sasl")
        db.q("ALTER FOREIGN TABLE s OWNER TO topic_owner")
        assert analyzed(db, "s")[0] == [300] * 5
        with pytest.raises(psycopg.errors.FdwUnableToCreateExecution):
            db.q("SELECT * FROM s")
    finally:
        db.q("DROP OWNED BY topic_owner CASCADE; DROP ROLE topic_owner")
    db.q("CREATE TABLE parted (id int, name text) PARTITION BY RANGE (id); CREATE TABLE one PARTITION OF parted FOR VALUES FROM (1000) TO (2000)")
    db.q(f"CREATE FOREIGN TABLE other PARTITION OF parted DEFAULT SERVER kafka OPTIONS (topic '{numbers}')")
    db.q("INSERT INTO one SELECT generate_series(1000, 1099); ANALYZE parted")
    assert db.value("SELECT reltuples FROM pg_class WHERE relname = 'parted'") == 400
    assert db.value("SELECT null_frac FROM pg_stats WHERE tablename = 'parted' AND attname = 'name' AND inherited") == 0.25
    db.q("CREATE SERVER nowhere FOREIGN DATA WRAPPER kafka OPTIONS (\"bootstrap.servers\" '127.0.0.1:1')")
    table(db, "n", "x", META, server="nowhere")
    db.q("SET statement_timeout = '500ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        db.q("ANALYZE n")
    # an ANALYZE of all goes past topics
    db.q("RESET statement_timeout; ANALYZE")


def test_rights(db, kafka, cluster, numbers):
    """SELECT on the table is all that a reader needs; the login is that of whose rights count."""
    for role in ("topic_reader", "topic_owner"):
        db.q(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN")
    try:
        with db.connect(user="topic_reader") as reader:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute("SELECT id FROM t")
            db.q("GRANT SELECT ON t TO topic_reader")
            assert reader.execute("SELECT count(*) FROM t").fetchone() == (300,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute("INSERT INTO t (id) VALUES (1)")
            # a server made by a superuser, USAGE given: tables of one's own
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(f"CREATE FOREIGN TABLE pg_temp.x (id int) SERVER kafka OPTIONS (topic '{numbers}')")
            db.q("GRANT USAGE ON FOREIGN SERVER kafka TO topic_owner; GRANT CREATE ON SCHEMA public TO topic_owner")
            with db.connect(user="topic_owner") as owner:
                owner.execute(f"CREATE FOREIGN TABLE mine (id int) SERVER kafka OPTIONS (topic '{numbers}')")
                assert owner.execute("SELECT count(*) FROM mine").fetchone() == (300,)
            # logins: only alice's is right; a view reads with its owner's
            db.q(f"""CREATE SERVER sasl FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '{kafka.sasl_bootstrap}',
                "security.protocol" 'SASL_PLAINTEXT', "sasl.mechanisms" 'PLAIN')""")
            db.q("CREATE USER MAPPING FOR topic_owner SERVER sasl OPTIONS (\"sasl.username\" 'alice', \"sasl.password\" 'alice-secret')")
            db.q("CREATE USER MAPPING FOR topic_reader SERVER sasl OPTIONS (\"sasl.username\" 'bob', \"sasl.password\" 'wrong-secret')")
            table(db, "s", numbers, "id int", server="sasl")
            db.q("GRANT SELECT ON s TO topic_owner, topic_reader; CREATE VIEW v AS SELECT * FROM s; ALTER VIEW v OWNER TO topic_owner")
            db.q("GRANT SELECT ON v TO topic_reader")
            with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification) as error:
                reader.execute("SELECT count(*) FROM s")
            assert "wrong-secret" not in str(error.value.diag.message_detail)
            assert reader.execute("SELECT count(*) FROM v").fetchone() == (300,)
    finally:
        db.q("DROP OWNED BY topic_reader, topic_owner CASCADE; DROP ROLE topic_reader, topic_owner")


# ---- writing

def settle(kafka, *topics):
    """Until readers of committed messages see all there is: Kafka writes its marks a moment after a commit."""
    for topic in topics:
        wait_until(lambda: kafka.watermarks(topic) == kafka.watermarks(topic, "read_committed"), what=f"{topic} to settle")


def settled(kafka, topic):
    settle(kafka, topic)
    return kafka.consume(topic)


@pytest.fixture
def writable(db, kafka):
    topic = kafka.create_topic(partitions=2, config=FOREVER)
    table(db, "w", topic, META + ", headers jsonb OPTIONS (meta 'headers'), id int, name text, "
          "x int OPTIONS (path 'sub.x'), y text OPTIONS (path 'sub.deep.y'), j jsonb")
    return topic


def test_insert(db, kafka, writable):
    db.q("""INSERT INTO w (id, name, x, y, j, key, headers, "partition", "timestamp") VALUES
        (1, 'ä', 5, 'z', '{"a": [1]}', 'k1', '[["h", "v"], ["n", null]]', 1, '2024-02-29 12:00:00+00')""")
    assert db.q("INSERT INTO w (id, j) VALUES (2, 'null'), (3, NULL) RETURNING id, \"offset\"") == [(2, None), (3, None)]
    messages = sorted(settled(kafka, writable), key=lambda m: m.json["id"])
    assert messages[0].json == {"id": 1, "name": "ä", "j": {"a": [1]}, "sub": {"x": 5, "deep": {"y": "z"}}}
    assert (messages[0].partition, messages[0].key, messages[0].headers) == (1, b"k1", [("h", b"v"), ("n", None)])
    assert messages[0].timestamp == 1709208000000
    assert messages[1].json == {"id": 2, "name": None, "j": None, "sub": {"x": None, "deep": {"y": None}}}
    assert messages[1].headers == [("pg_kafka_sync.json_null", b'["j"]')] and messages[1].key is None
    assert messages[2].headers == [] and abs(messages[2].timestamp / 1000 - time.time()) < 60
    # and reads back
    assert db.q("SELECT id, name, x, y, j::text, key FROM w ORDER BY id") == [
        (1, "ä", 5, "z", '{"a": [1]}', "k1"), (2, None, None, None, "null", None), (3, None, None, None, None, None)]


def test_what_transactions_leave(db, kafka, writable):
    def ids(isolation="read_committed"):
        if isolation == "read_committed":
            settle(kafka, writable)
        return sorted(m.json["id"] for m in kafka.consume(writable, isolation=isolation))
    # nothing is sent before the commit, nor after a rollback
    with db.connect(autocommit=False) as connection:
        connection.execute("INSERT INTO w (id) VALUES (1)")
        assert ids("read_uncommitted") == [] and connection.execute("SELECT count(*) FROM w").fetchone() == (0,)
        connection.rollback()
        assert ids("read_uncommitted") == []
    # subtransactions: rolled back alone, in another, released, by an error, by an exception block
    db.q("""BEGIN; INSERT INTO w (id) VALUES (1);
        SAVEPOINT a; INSERT INTO w (id) VALUES (-1); ROLLBACK TO a;
        SAVEPOINT b; INSERT INTO w (id) VALUES (2); SAVEPOINT c; INSERT INTO w (id) VALUES (-2); ROLLBACK TO c;
        INSERT INTO w (id) VALUES (3); RELEASE c; RELEASE b;
        SAVEPOINT d; SAVEPOINT e; INSERT INTO w (id) VALUES (-3); RELEASE e; INSERT INTO w (id) VALUES (-4); ROLLBACK TO d;
        INSERT INTO w (id) VALUES (4); RELEASE d;
        DO $$ BEGIN INSERT INTO w (id) VALUES (-5), (-6), (1/0); EXCEPTION WHEN division_by_zero THEN INSERT INTO w (id) VALUES (5); END $$;
        COMMIT""")
    assert ids() == [1, 2, 3, 4, 5]
    with pytest.raises(psycopg.errors.DivisionByZero):
        db.q("INSERT INTO w (id) SELECT 100 / (i - 50) FROM generate_series(1, 60) i")
    with pytest.raises(psycopg.errors.DivisionByZero):
        db.q("BEGIN; INSERT INTO w (id) VALUES (-7); SELECT 1/0; COMMIT")
    db.q("ROLLBACK")
    assert ids() == [1, 2, 3, 4, 5] and ids("read_uncommitted") == [1, 2, 3, 4, 5]
    # a transaction that wrote nothing in the end
    db.q("BEGIN; SAVEPOINT a; INSERT INTO w (id) VALUES (-8); ROLLBACK TO a; COMMIT")
    # procedures, prepared statements, COPY
    db.q("DO $$ BEGIN FOR i IN 6..8 LOOP INSERT INTO w (id) VALUES (i); COMMIT; END LOOP; END $$")
    db.q("PREPARE p AS INSERT INTO w (id) VALUES ($1)")
    db.q("EXECUTE p(9)")
    with db.connect() as connection, connection.cursor() as cursor:
        with cursor.copy("COPY w (id, name) FROM STDIN") as copy:
            for n in range(10, 20):
                copy.write_row((n, "copied"))
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            with cursor.copy("COPY w (id) FROM STDIN") as copy:
                copy.write("100\nword\n")
    assert ids() == list(range(1, 20))
    assert db.value("SELECT count(*) FROM w WHERE name = 'copied'") == 10


def test_spilled(db, kafka, cluster, writable):
    """What does not fit into work_mem goes to disk, and is dropped with its subtransaction there."""
    db.q("SET work_mem = '64kB'")
    db.q("""BEGIN; INSERT INTO w (id, name) SELECT i, repeat('a', 100) FROM generate_series(1, 200) i;
        SAVEPOINT a; INSERT INTO w (id, name) SELECT -i, repeat('b', 100) FROM generate_series(1, 5000) i; ROLLBACK TO a;
        INSERT INTO w (id, name) SELECT i, repeat('c', 50) FROM generate_series(201, 3000) i;
        SAVEPOINT b; INSERT INTO w (id, name) SELECT -i, repeat('d', 500) FROM generate_series(1, 10) i; ROLLBACK TO b;
        INSERT INTO w (id, name) VALUES (3001, 'last')""")
    pid = db.connection.info.backend_pid
    assert db.value("SELECT count(*) > 0 FROM pg_ls_tmpdir() WHERE name LIKE %s", f"pgsql_tmp{pid}.%")
    db.q("COMMIT")
    assert db.value("SELECT count(*) FROM pg_ls_tmpdir() WHERE name LIKE %s", f"pgsql_tmp{pid}.%") == 0
    values = {m.json["id"]: m.json["name"] for m in settled(kafka, writable)}
    assert sorted(values) == list(range(1, 3002)) and values[200] == "a" * 100 and values[201] == "c" * 50 and values[3001] == "last"


def test_volume(db, kafka, cluster, writable):
    with db.connect() as connection:
        pid = connection.info.backend_pid
        connection.execute("INSERT INTO w (id) VALUES (0)")
        before = cluster.rss_kb(pid)
        peak = [0]
        done = threading.Event()

        def watch():
            while not done.wait(0.05):
                peak[0] = max(peak[0], cluster.rss_kb(pid))
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            connection.execute("INSERT INTO w (id, name, key) SELECT i, repeat('x', 100), i::text FROM generate_series(1, 300000) i")
        finally:
            done.set()
            watcher.join()
    assert 0 < peak[0] - before < 64 * 1024, (before, peak)
    settle(kafka, writable)
    assert db.one("SELECT count(*), count(DISTINCT id), sum(id) FROM w") == (300001, 300001, 300000 * 300001 // 2)


def test_keys_and_formats(db, kafka):
    topics = [kafka.create_topic() for _ in range(5)]
    table(db, "a", topics[0], "id int, r text, v text", key="id, r")
    db.q("INSERT INTO a VALUES (1, 'x', 'v')")
    table(db, "b", topics[1], "id int, v text", key="v", key_format="text")
    db.q("INSERT INTO b VALUES (1, 'wörd')")
    table(db, "c", topics[2], "k jsonb OPTIONS (meta 'key'), id int", key_format="json")
    db.q("""INSERT INTO c VALUES ('{"a": 1}', 1), ('"s"', 2)""")
    table(db, "d", topics[3], "k bytea OPTIONS (meta 'key'), line text", format="raw")
    db.q("INSERT INTO d VALUES ('\\x00ff', 'eine Zeile'), ('k', NULL)")
    table(db, "e", topics[4], "k text OPTIONS (meta 'key'), b bytea", format="raw", key_format="json")
    db.q("INSERT INTO e VALUES ('k\"', '\\xff00')")
    seen = [[(m.key, m.value) for m in settled(kafka, topic)] for topic in topics]
    assert seen == [[(b'{"id":1,"r":"x"}', b'{"id":1,"r":"x","v":"v"}')], [("wörd".encode(), '{"id":1,"v":"wörd"}'.encode())],
                    [(b'{"a": 1}', b'{"id":1}'), (b'"s"', b'{"id":2}')],
                    [(b"\x00ff"[:1] + b"\xff", b"eine Zeile"), (b"k", None)], [(b'"k\\""', b"\xff\x00")]]
    for name in "abcde":
        assert db.value(f"SELECT count(*) FROM {name}") == len(seen["abcde".index(name)])
    assert db.q("SELECT * FROM a") == [(1, "x", "v")] and db.q("SELECT k FROM e") == [('k"',)]
    # a tombstone's key columns come from its key
    kafka.produce(topics[0], None, key={"id": 7, "r": "y"})
    assert db.q("SELECT * FROM a WHERE id = 7") == [(7, "y", None)]
    with pytest.raises(psycopg.errors.NotNullViolation, match="message key"):
        db.q("INSERT INTO a VALUES (1, NULL, 'v')")


def test_into_a_subscription(db, kafka):
    """What is inserted into a topic's table with a key is a row for a subscription."""
    topic = kafka.create_topic()
    table(db, "w", topic, "id int, name text, at timestamptz, n numeric(10,2), b bytea", key="id")
    db.q("CREATE TABLE target (id int PRIMARY KEY, name text, at timestamptz, n numeric(10,2), b bytea)")
    db.q("SELECT kafka.create_subscription('s', 'kafka', ARRAY[%s], 'target', format => 'json')", topic)
    db.q("SET timezone = 'Asia/Tokyo'; SET bytea_output = escape")
    db.q("INSERT INTO w VALUES (1, 'a', '2024-01-01 00:00+00', 1.50, '\\x00ff'), (2, 'b', NULL, NULL, NULL), (1, 'c', 'infinity', 2, NULL)")
    db.wait_for_subscription("s")
    assert db.q("SELECT id, name, at::text, n::text FROM target ORDER BY id") == [(1, "c", "infinity", "2.00"), (2, "b", None, None)]


def test_as_a_table(db, kafka, writable):
    """Defaults, triggers, generated columns, views, partitions."""
    db.q("ALTER FOREIGN TABLE w ALTER name SET DEFAULT 'none', ADD COLUMN twice int GENERATED ALWAYS AS (id * 2) STORED")
    db.q("""CREATE FUNCTION up() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.id < 0 THEN RETURN NULL; END IF; NEW.name := upper(NEW.name); RETURN NEW; END';
        CREATE TRIGGER up BEFORE INSERT ON w FOR EACH ROW EXECUTE FUNCTION up();
        CREATE VIEW v AS SELECT id, name FROM w WHERE id > 0 WITH CHECK OPTION""")
    db.q("INSERT INTO w (id) VALUES (1), (-1); INSERT INTO v VALUES (2, 'view')")
    with pytest.raises(psycopg.errors.WithCheckOptionViolation):
        db.q("INSERT INTO v VALUES (0, 'no')")
    found = sorted((m.json["id"], m.json["name"], m.json["twice"]) for m in settled(kafka, writable))
    assert found == [(1, "NONE", 2), (2, "VIEW", 4)]
    topic = kafka.create_topic()
    db.q(f"""CREATE TABLE parted (id int, name text) PARTITION BY LIST (id); CREATE TABLE one PARTITION OF parted FOR VALUES IN (1);
        CREATE FOREIGN TABLE other PARTITION OF parted DEFAULT SERVER kafka OPTIONS (topic '{topic}')""")
    db.q("INSERT INTO parted SELECT i % 3, i FROM generate_series(1, 9) i")
    assert [m.json for m in settled(kafka, topic)] == [{"id": i % 3, "name": str(i)} for i in range(1, 10) if i % 3 != 1]
    assert db.value("SELECT count(*) FROM parted") == 9


def test_refused(db, kafka, writable):
    for sql in ("UPDATE w SET id = 1", "DELETE FROM w", "MERGE INTO w USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE"):
        with pytest.raises(psycopg.Error, match='foreign table "w"|relation "w"'):
            db.q(sql)
    with pytest.raises(psycopg.Error, match="cannot truncate foreign table"):
        db.q("TRUNCATE w")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="ON CONFLICT"):
        db.q("INSERT INTO w (id) VALUES (1) ON CONFLICT DO NOTHING")
    for column, value in (("offset", "1"), ("partition", "-1"), ("headers", "'1'"), ("timestamp", "'infinity'")):
        with pytest.raises(psycopg.Error, match=column):
            db.q(f'INSERT INTO w ("{column}") VALUES ({value})')
    db.q("ALTER FOREIGN TABLE w ADD COLUMN whole text OPTIONS (meta 'value')")
    with pytest.raises(psycopg.errors.GeneratedAlways, match='column "whole"'):
        db.q("INSERT INTO w (whole) VALUES ('{}')")
    with pytest.raises(psycopg.errors.UndefinedObject, match="no partition 9"):
        db.q('INSERT INTO w (id, "partition") VALUES (1, 9)')
    db.q("ALTER FOREIGN TABLE w OPTIONS (ADD updatable 'false')")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="does not allow inserts"):
        db.q("INSERT INTO w (id) VALUES (1)")
    for column in ("a text OPTIONS (path 'x[0].y')", "a text, b text OPTIONS (path 'a.b')", "a text, b text OPTIONS (path 'a')"):
        db.q("DROP FOREIGN TABLE IF EXISTS o")
        table(db, "o", writable, column)
        with pytest.raises(psycopg.errors.FeatureNotSupported, match='cannot insert into foreign table "o"'):
            db.q("INSERT INTO o VALUES ('x')")
    db.q("ALTER FOREIGN TABLE o OPTIONS (ADD format 'debezium')")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="o"):
        db.q("INSERT INTO o VALUES ('x')")
    table(db, "missing", "no.such.topic", "id int")
    with pytest.raises(psycopg.errors.UndefinedObject, match='topic "no.such.topic" does not exist'):
        db.q("INSERT INTO missing VALUES (1)")
    assert kafka.consume(writable, isolation="read_uncommitted") == []


@pytest.mark.parametrize("private_cluster", ["max_prepared_transactions = 5"], indirect=True)
def test_prepare(private_cluster, kafka):
    db = private_cluster.create_database()
    db.create_server(kafka)
    topic = kafka.create_topic()
    table(db, "w", topic, "id int")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="cannot PREPARE a transaction that has written to a topic"):
        db.q("BEGIN; INSERT INTO w VALUES (1); PREPARE TRANSACTION 'x'")
    db.q("ROLLBACK")
    db.q("BEGIN; SAVEPOINT a; INSERT INTO w VALUES (1); ROLLBACK TO a; PREPARE TRANSACTION 'x'")
    db.q("COMMIT PREPARED 'x'")
    db.q("BEGIN; SELECT * FROM w; PREPARE TRANSACTION 'y'")
    db.q("ROLLBACK PREPARED 'y'")
    assert settled(kafka, topic) == []


def test_message_refused_by_the_broker(db, kafka):
    """One message too many: none of the transaction is there, and the session goes on."""
    topic = kafka.create_topic(config={"max.message.bytes": "10000"})
    table(db, "w", topic, "id int, fill text")
    db.q("CREATE TABLE local (id int)")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match=f'could not send messages to topic "{topic}"') as error:
        db.q("BEGIN; INSERT INTO local VALUES (1); INSERT INTO w SELECT i, '' FROM generate_series(1, 1000) i; "
             "INSERT INTO w SELECT 1001, string_agg(md5(i::text), '') FROM generate_series(1, 1000) i; COMMIT")
    assert "max.message.bytes" in error.value.diag.message_hint
    assert db.q("SELECT * FROM local") == [] and settled(kafka, topic) == []
    db.q("INSERT INTO w VALUES (1, 'short')")
    assert [m.json["id"] for m in settled(kafka, topic)] == [1]


def test_serializable(db, kafka, writable):
    """A transaction that cannot be serialized has sent nothing."""
    db.q("CREATE TABLE dots (id int PRIMARY KEY, colour text); INSERT INTO dots VALUES (1, 'black'), (2, 'white')")
    with db.connect(autocommit=False) as one, db.connect(autocommit=False) as two:
        for connection in (one, two):
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        one.execute("SELECT count(*) FROM dots WHERE colour = 'white'").fetchone()
        two.execute("SELECT count(*) FROM dots WHERE colour = 'black'").fetchone()
        one.execute("UPDATE dots SET colour = 'white' WHERE id = 1")
        one.execute("INSERT INTO w (id) VALUES (1)")
        two.execute("UPDATE dots SET colour = 'black' WHERE id = 2")
        two.execute("INSERT INTO w (id) VALUES (2)")
        one.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            two.commit()
    assert [m.json["id"] for m in settled(kafka, writable)] == [1]


def test_broker_gone_at_commit(private_kafka, make_db):
    """Before anything is sent, in the middle of it, with and without a producer from before: an error, and nothing is to be seen."""
    db = make_db()
    db.create_server(private_kafka)
    topic, other = private_kafka.create_topic(), private_kafka.create_topic()
    table(db, "w", topic, "id int")
    db.q("CREATE TABLE local (id int); INSERT INTO w VALUES (0)")
    sent, passes = threading.Event(), threading.Event()

    def answered(api, version, frame):
        """The broker has got messages, and its sender hears of no more of them."""
        if api == PRODUCE and not passes.is_set():
            sent.set()
            return []
        return [frame]

    def commit():
        with pytest.raises(psycopg.errors.SqlclientUnableToEstablishSqlconnection, match="could not reach a broker"):
            db.q("COMMIT")

    def first():
        """A session that has no producer yet."""
        with db.connect() as connection, pytest.raises(psycopg.errors.SqlclientUnableToEstablishSqlconnection):
            connection.execute("INSERT INTO w VALUES (2)")

    def cancelled():
        with db.connect() as connection, pytest.raises(psycopg.errors.QueryCanceled):
            threading.Timer(1, connection.cancel).start()
            connection.execute("INSERT INTO w VALUES (3)")

    def within(seconds, body):
        began = time.monotonic()
        body()
        assert time.monotonic() - began < seconds, body

    with Proxy(private_kafka, answered) as proxy, db.connect() as halfway:
        db.q(f"""CREATE SERVER slow FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '{proxy.bootstrap}')""")
        table(db, "half", other, "id int, name text", server="slow")
        db.q("BEGIN; INSERT INTO w SELECT generate_series(1, 100); INSERT INTO local VALUES (1)")

        def send():
            with pytest.raises(psycopg.errors.SqlclientUnableToEstablishSqlconnection, match="could not reach a broker"):
                halfway.execute("WITH l AS (INSERT INTO local VALUES (2)) INSERT INTO half SELECT i, md5(i::text) FROM generate_series(1, 10000) i")
        with ThreadPoolExecutor() as pool:
            futures = [pool.submit(send)]
            assert sent.wait(30)
            private_kafka.kill()
            futures += [pool.submit(within, 30, commit), pool.submit(within, 20, first), pool.submit(within, 7, cancelled)]
            for future in futures:
                future.result()
        assert db.q("SELECT * FROM local") == []
        private_kafka.restart()
        assert [m.json["id"] for m in settled(private_kafka, topic)] == [0]
        db.q("INSERT INTO w VALUES (4)")
        settle(private_kafka, topic)
        assert db.q("SELECT id FROM w ORDER BY id") == [(0,), (4,)]
        # what was sent halfway is there, and not to be seen; its transaction would be open for a minute, but the session's next ends it
        assert private_kafka.watermarks(other)[0][1] > 0 and private_kafka.consume(other) == []
        passes.set()
        halfway.execute("INSERT INTO half VALUES (0, 'again')")
        settle(private_kafka, other)
        assert db.q("SELECT id, name FROM half") == [(0, "again")]


def test_killed_session_leaves_nothing(private_cluster, kafka):
    """A crash before the end: nothing is visible, and what follows is not held up for longer than the transaction may take."""
    db = private_cluster.create_database()
    db.create_server(kafka)
    topic = kafka.create_topic()
    table(db, "w", topic, "id int")
    with db.connect(autocommit=False) as connection:
        connection.execute("INSERT INTO w SELECT generate_series(1, 100000)")
        private_cluster.kill_worker(connection.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
    private_cluster.wait_accepting()
    wait_until(lambda: db.value("SELECT count(*) FROM w") == 0, 30)
    db.q("INSERT INTO w VALUES (1)")
    assert [m.json["id"] for m in settled(kafka, topic)] == [1]


def test_several_topics_in_one_transaction(db, kafka):
    """What comes back for one topic's messages is not taken for an answer about the next."""
    first, second, third = (kafka.create_topic() for _ in range(3))
    for name, topic in (("w1", first), ("w2", second), ("w3", third)):
        table(db, name, topic, "id int")
    db.q("INSERT INTO w1 SELECT generate_series(1, 10000); INSERT INTO w2 VALUES (1); INSERT INTO w1 VALUES (0)")
    settle(kafka, first, second)
    assert db.value("SELECT count(*) FROM w1") == 10001 and db.value("SELECT count(*) FROM w2") == 1
    # a topic whose messages were all taken back is not even looked at
    table(db, "gone", "no-such-topic", "id int")
    with db.connect(autocommit=False) as c:
        c.execute("INSERT INTO w3 VALUES (1); SAVEPOINT s; INSERT INTO gone VALUES (1); INSERT INTO w3 VALUES (2); ROLLBACK TO s")
        c.execute("INSERT INTO w2 VALUES (2); INSERT INTO w3 VALUES (3)")
        c.commit()
    settle(kafka, second, third)
    assert db.q("SELECT id FROM w3 ORDER BY id") == [(1,), (3,)] and db.q("SELECT id FROM w2 ORDER BY id") == [(1,), (2,)]
    # and one that is not there is found before anything is sent
    marks = kafka.watermarks(first)
    with pytest.raises(psycopg.Error, match='topic "no-such-topic" does not exist'):
        db.q("INSERT INTO w1 VALUES (1); INSERT INTO gone VALUES (1)")
    assert kafka.watermarks(first) == marks


def test_terminated_while_sending(db, kafka):
    """The transaction that was begun in Kafka is aborted at once, and does not hold up readers until its timeout."""
    for attempt in range(5):
        topic = kafka.create_topic()
        table(db, f"w{attempt}", topic, "id int, name text")
        with db.connect(autocommit=False) as connection, ThreadPoolExecutor(1) as threads:
            connection.execute(f"INSERT INTO w{attempt} SELECT i, md5(i::text) || repeat('x', 500) FROM generate_series(1, 150000) i")
            pid = connection.info.backend_pid
            commit = threads.submit(connection.commit)
            wait_until(lambda: kafka.watermarks(topic)[0][1] > 0, 20)
            db.q("SELECT pg_terminate_backend(%s)", pid)
            try:
                commit.result()
            except psycopg.OperationalError:
                break
        # all was sent before the session could be ended: then all is there, and the next one has to show it
        wait_until(lambda: db.value(f"SELECT count(*) FROM w{attempt}") == 150000, 20)
    else:
        pytest.fail("no session was ended while it sent")
    wait_until(lambda: kafka.watermarks(topic) == kafka.watermarks(topic, "read_committed"), 10)
    assert db.value(f"SELECT count(*) FROM w{attempt}") == 0


def test_rights_to_write(db, kafka, cluster, writable):
    db.q("DROP ROLE IF EXISTS topic_writer; CREATE ROLE topic_writer LOGIN")
    try:
        with db.connect(user="topic_writer") as writer:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                writer.execute("INSERT INTO w (id) VALUES (1)")
            db.q("GRANT INSERT (id) ON w TO topic_writer")
            writer.execute("INSERT INTO w (id) VALUES (1)")
            for sql in ("INSERT INTO w (id, name) VALUES (1, 'x')", "SELECT id FROM w"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    writer.execute(sql)
            # logins: the view's owner has one, its user has a wrong one; one transaction with both
            db.q(f"""CREATE SERVER sasl FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '{kafka.sasl_bootstrap}',
                "security.protocol" 'SASL_PLAINTEXT', "sasl.mechanisms" 'PLAIN')""")
            db.q("CREATE USER MAPPING FOR postgres SERVER sasl OPTIONS (\"sasl.username\" 'admin', \"sasl.password\" 'admin-secret')")
            db.q("CREATE USER MAPPING FOR topic_writer SERVER sasl OPTIONS (\"sasl.username\" 'bob', \"sasl.password\" 'wrong-secret')")
            table(db, "s", writable, "id int", server="sasl")
            db.q("CREATE VIEW v AS SELECT * FROM s; GRANT INSERT ON s, v TO topic_writer")
            writer.execute("INSERT INTO v VALUES (2)")
            with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification) as error:
                writer.execute("INSERT INTO s VALUES (3)")
            assert "wrong-secret" not in str(error.value)
            with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification):
                with writer.transaction():
                    writer.execute("INSERT INTO v VALUES (4)")
                    writer.execute("INSERT INTO s VALUES (5)")
            with writer.transaction():
                writer.execute("INSERT INTO v VALUES (6)")
                writer.execute("INSERT INTO w (id) VALUES (7)")
        assert sorted(m.json["id"] for m in settled(kafka, writable)) == [1, 2, 6, 7]
    finally:
        db.q("DROP OWNED BY topic_writer CASCADE; DROP ROLE topic_writer")


# ---- importing

def columns(db, name):
    return dict(db.q("SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", name))


META_TYPES = {"partition": "integer", "offset": "bigint", "timestamp": "timestamp with time zone"}


def test_import(db, kafka):
    prefix = kafka.new_topic_name("imp")
    names = {kind: kafka.create_topic(f"{prefix}.{kind}", partitions=2) for kind in ("json", "events", "schemas", "lines", "bytes", "empty", "mixed")}
    kafka.produce_many(names["json"], [dict(key={"id": n}, value={
        "id": n, "big": 2 ** 70, "n": 1.5 if n else 1, "b": True, "d": "2024-01-01", "ts": "2024-01-01T00:00:00", "tz": "2024-01-01T00:00:00Z",
        "u": "123e4567-e89b-12d3-a456-426614174000", "t": "2024-01-01" if n else "x", "o": {"a": 1}, "l": [1], "none": None,
        "x": n if n else "text", "offset": 5, "Name": "q", "long" * 20: 1}) for n in range(30)])
    event = {"before": None, "after": {"id": 1, "at": 1700000000000000, "name": "x"}, "op": "c", "source": {}}
    kafka.produce(names["events"], event, key={"id": 1})
    fields = [{"field": "id", "type": "int32"}, {"field": "at", "type": "int64", "name": "io.debezium.time.MicroTimestamp"},
              {"field": "amount", "type": "bytes", "name": "org.apache.kafka.connect.data.Decimal",
               "parameters": {"scale": "2", "connect.decimal.precision": "10"}}, {"field": "name", "type": "string"}]
    kafka.produce(names["schemas"], {"schema": {"type": "struct", "fields": [{"field": "after", "type": "struct", "fields": fields},
                                                                              {"field": "op", "type": "string"}]},
                                     "payload": {**event, "after": {**event["after"], "amount": "EtY="}}},
                  key={"schema": {"type": "struct", "fields": [fields[0]]}, "payload": {"id": 1}})
    kafka.produce(names["lines"], "one line", key="k")
    kafka.produce(names["bytes"], b"\xff\x00", key=b"\xff")
    kafka.produce(names["mixed"], {"a": 1})
    kafka.produce(names["mixed"], "no object")
    db.q("CREATE SCHEMA c")
    db.q(f'IMPORT FOREIGN SCHEMA "{prefix}" FROM SERVER kafka INTO c')
    assert {n for (n,) in db.q("SELECT relname FROM pg_class WHERE relnamespace = 'c'::regnamespace")} == set(names)
    assert columns(db, "c.json") == {**{k: v for k, v in META_TYPES.items() if k != "offset"}, "_offset": "bigint", "key": "jsonb",
        "id": "bigint", "big": "numeric", "n": "numeric", "b": "boolean", "d": "date", "ts": "timestamp without time zone",
        "tz": "timestamp with time zone", "u": "uuid", "t": "text", "o": "jsonb", "l": "jsonb", "none": "text", "x": "text",
        "offset": "bigint", "Name": "text", ("long" * 20)[:63]: "bigint"}
    assert columns(db, "c.events") == {**META_TYPES, "key": "jsonb", "op": "text", "id": "bigint", "at": "bigint", "name": "text"}
    assert columns(db, "c.schemas") == {**META_TYPES, "key": "jsonb", "op": "text", "id": "integer", "at": "timestamp without time zone",
                                        "amount": "numeric(10,2)", "name": "text"}
    assert columns(db, "c.lines") == {**META_TYPES, "key": "text", "value": "text"}
    assert columns(db, "c.bytes") == {**META_TYPES, "key": "bytea", "value": "bytea"}
    assert columns(db, "c.mixed") == {**META_TYPES, "key": "text", "value": "text"}
    assert columns(db, "c.empty") == {**META_TYPES, "key": "text", "value": "text"}
    # they can be read
    assert db.q(f'SELECT id, n::text, key, "Name", "{"long" * 20}" FROM c.json WHERE id = 7') == [(7, "1.5", {"id": 7}, "q", 1)]
    assert db.q("SELECT id, at::text, amount::text, op FROM c.schemas") == [(1, "2023-11-14 22:13:20", "48.22", "c")]
    assert db.q("SELECT key, value FROM c.lines") == [("k", "one line")] and bytes(db.value("SELECT value FROM c.bytes")) == b"\xff\x00"
    kafka.produce(names["json"], None, key={"id": 99})
    assert db.q("SELECT id FROM c.json WHERE b IS NULL") == [(99,)]
    # and say what they were made of
    comments = dict(db.q("SELECT relname::text, obj_description(oid, 'pg_class') FROM pg_class WHERE relnamespace = 'c'::regnamespace"))
    assert comments["json"] == f"Topic {names['json']} with 2 partitions. Format json and columns guessed from the last 30 messages."
    assert comments["schemas"].endswith("from the schemas of the last 1 message.") and "no messages" in comments["empty"]


def test_import_some(db, kafka):
    prefix = kafka.new_topic_name("some")
    for name in ("a", "b", "c.d", "e" * 70):
        kafka.produce(kafka.create_topic(f"{prefix}.{name}"), {"id": 1})
    db.q("CREATE SCHEMA x; CREATE SCHEMA y; CREATE SCHEMA z")

    def tables(schema):
        return {n for (n,) in db.q("SELECT relname::text FROM pg_class WHERE relnamespace = %s::regnamespace", schema)}
    db.q(f'IMPORT FOREIGN SCHEMA "{prefix}" LIMIT TO (a, "c.d") FROM SERVER kafka INTO x')
    assert tables("x") == {"a", "c.d"} and db.value('SELECT id FROM x."c.d"') == 1
    notices = []
    db.connection.add_notice_handler(lambda d: notices.append(d.message_primary))
    db.q(f'IMPORT FOREIGN SCHEMA "{prefix}" EXCEPT (a) FROM SERVER kafka INTO y OPTIONS (format \'raw\', sample \'1\')')
    assert tables("y") == {"b", "c.d"} and columns(db, "y.b")["value"] == "text"
    assert any("name is too long" in n for n in notices), notices
    # all topics, by their whole names
    db.q(f'IMPORT FOREIGN SCHEMA topics LIMIT TO ("{prefix}.a") FROM SERVER kafka INTO z')
    assert tables("z") == {f"{prefix}.a"}
    for sql, error in ((f'IMPORT FOREIGN SCHEMA "{prefix}" LIMIT TO (nothing) FROM SERVER kafka INTO z', 'no topic for table "nothing"'),
                       ('IMPORT FOREIGN SCHEMA "no.such.prefix" FROM SERVER kafka INTO z', "begins with"),
                       (f'IMPORT FOREIGN SCHEMA "{prefix}" FROM SERVER kafka INTO z OPTIONS (format \'avro\')', "auto, json"),
                       (f'IMPORT FOREIGN SCHEMA "{prefix}" FROM SERVER kafka INTO z OPTIONS (sample \'0\')', "number of messages"),
                       (f'IMPORT FOREIGN SCHEMA "{prefix}" FROM SERVER kafka INTO z OPTIONS (colour \'0\')', 'invalid option "colour"')):
        with pytest.raises(psycopg.Error) as raised:
            db.q(sql)
        assert error in str(raised.value)
    # an import of everything leaves internal topics out
    kafka.create_topic(f"__{prefix}")
    everything = kafka.topics()
    db.q("CREATE SCHEMA w")
    limit = ", ".join(f'"{t}"' for t in everything if not t.startswith((prefix, f"__{prefix}")) and len(t) < 64) or '"x"'
    db.q(f"IMPORT FOREIGN SCHEMA topics EXCEPT ({limit}) FROM SERVER kafka INTO w")
    assert tables("w") == {f"{prefix}.{n}" for n in ("a", "b", "c.d")}


def test_import_by_others(db, kafka):
    """USAGE on the server is enough, with one's own login."""
    prefix = kafka.new_topic_name("mine")
    kafka.produce(kafka.create_topic(f"{prefix}.t"), {"id": 1})
    db.q("DROP ROLE IF EXISTS topic_importer; CREATE ROLE topic_importer LOGIN; CREATE SCHEMA c AUTHORIZATION topic_importer")
    try:
        with db.connect(user="topic_importer") as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f'IMPORT FOREIGN SCHEMA "{prefix}" FROM SERVER kafka INTO c')
            db.q("GRANT USAGE ON FOREIGN SERVER kafka TO topic_importer")
            connection.execute(f'IMPORT FOREIGN SCHEMA "{prefix}" FROM SERVER kafka INTO c')
            assert connection.execute("SELECT id FROM c.t").fetchall() == [(1,)]
    finally:
        db.q("DROP OWNED BY topic_importer CASCADE; DROP ROLE topic_importer")


def test_import_around_what_cannot_be(db, kafka, make_db):
    prefix = kafka.new_topic_name("odd")
    topics = [kafka.create_topic(f"{prefix}.{name}") for name in ("a", "b", "c")]
    for topic in topics:
        kafka.produce(topic, {"id": 1, "ctid": 5, "ctid_2": 6, "xmin": "x"}, key={"ctid": 5})
    db.q("CREATE SCHEMA c")
    db.q(f'IMPORT FOREIGN SCHEMA "{prefix}" LIMIT TO (a) FROM SERVER kafka INTO c')
    assert db.one("SELECT id, ctid_2, ctid_2_2, xmin_2 FROM c.a") == (1, 5, 6, "x")
    # a topic that may not be read is left out, unless it is named
    db.q(f"""CREATE SERVER bob FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '{kafka.sasl_bootstrap}',
        "security.protocol" 'sasl_plaintext', "sasl.mechanisms" 'PLAIN')""")
    db.q("""CREATE USER MAPPING FOR CURRENT_USER SERVER bob OPTIONS ("sasl.username" 'bob', "sasl.password" 'bob-secret')""")
    acl = "SELECT kafka.create_acl('kafka', 'topic', %s, 'literal', 'User:bob', '*', %s)"
    for topic in topics:
        db.q(acl, topic, "read" if topic != topics[1] else "describe")
    notices = []
    db.connection.add_notice_handler(lambda d: notices.append(d.message_primary))
    db.q("CREATE SCHEMA s")

    def imported():
        db.q(f'DROP SCHEMA s CASCADE; CREATE SCHEMA s; IMPORT FOREIGN SCHEMA "{prefix}" FROM SERVER bob INTO s')
        return db.q("SELECT relname::text FROM pg_class WHERE relnamespace = 's'::regnamespace ORDER BY 1") == [("a",), ("c",)]
    wait_until(imported, 10)
    assert any(f'topic "{topics[1]}" is not imported' in n for n in notices), notices
    assert db.value("SELECT obj_description('s.c'::regclass)").startswith("Topic")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.q(f'IMPORT FOREIGN SCHEMA "{prefix}" LIMIT TO (b) FROM SERVER bob INTO s')
    for topic in topics:
        db.q("SELECT kafka.drop_acl('kafka', 'topic', %s, NULL, NULL, NULL, NULL)", topic)
    # a name that the database cannot write
    latin = make_db(options="ENCODING latin1 LOCALE 'C' TEMPLATE template0")
    latin.create_server(kafka)
    kafka.produce(topics[0], {"id": 2, "größe": 3, "price €": 4}, key={"price €": 4})
    latin.connection.add_notice_handler(lambda d: notices.append(d.message_primary))
    latin.q(f'CREATE SCHEMA c; IMPORT FOREIGN SCHEMA "{prefix}" LIMIT TO (a) FROM SERVER kafka INTO c')
    assert latin.one('SELECT "größe" FROM c.a WHERE id = 2') == (3,) and "price" not in str(columns(latin, "c.a"))
    assert any(f'field "price ?" of topic "{topics[0]}" is left out' in n for n in notices), notices


def test_csv_and_syslog(db, kafka):
    topic = kafka.create_topic()
    kafka.produce(topic, '1,one,\n2,"two, quoted",2024-01-01\n', key="k")
    kafka.produce(topic, "3,three,2024-03-01")
    kafka.produce(topic, None, key="gone")
    table(db, "c", topic, 'id int, key text OPTIONS (meta \'key\'), t text, d date, "offset" bigint OPTIONS (meta \'offset\')', format="csv")
    day = datetime.date
    assert db.q('SELECT * FROM c ORDER BY "offset", id') == [
        (1, "k", "one", None, 0), (2, "k", "two, quoted", day(2024, 1, 1), 0), (3, None, "three", day(2024, 3, 1), 1), (None, "gone", None, None, 2)]
    assert db.value("SELECT count(*) FROM c") == 4 and read(db, "SELECT * FROM c") == 3
    # a scan that is left within a message and begins anew
    assert db.q("SELECT x, (SELECT id FROM c WHERE x > 0 LIMIT 1) FROM generate_series(1, 3) x") == [(n, 1) for n in (1, 2, 3)]
    kafka.produce(topic, "4,too,2024-03-01,many")
    with pytest.raises(psycopg.Error, match=r"offset 3 cannot be read: the line has 4 fields, and the table 3 columns"):
        db.q("SELECT * FROM c")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match='cannot insert into foreign table "c"'):
        db.q("INSERT INTO c VALUES (1)")
    named = kafka.create_topic()
    kafka.produce(named, "t;id\nx;7\n\\N;8")
    table(db, "h", named, "id int, t text", format="csv", **{'"csv.header"': "true", '"csv.delimiter"': ";", '"csv.null"': "\\N"})
    assert db.q("SELECT * FROM h ORDER BY id") == [(7, "x"), (8, None)]
    logs = kafka.create_topic()
    kafka.produce(logs, '<34>1 2024-10-11T22:14:15.003Z web1 su 77 ID47 [ex@1 user="bob"] failed for bob')
    table(db, "s", logs, "severity int, hostname text, timestamp timestamptz, message text, who text OPTIONS (path 'structured_data.\"ex@1\".user')",
          format="syslog")
    assert db.q("SELECT severity, hostname, timestamp = '2024-10-11 22:14:15.003+00', message, who FROM s") == [
        (2, "web1", True, "failed for bob", "bob")]


def test_large_messages(db, kafka):
    """A server that allows large messages: written, read as a table, and by a subscription."""
    db.create_server(kafka, "large", message__max__bytes="8000000")
    topic = kafka.create_topic(config={"max.message.bytes": "8000000"})
    table(db, "w", topic, "id int, fill text", server="large", key="id")
    db.q("CREATE TABLE target (id int PRIMARY KEY, fill text); SELECT kafka.create_subscription('s', 'large', ARRAY['%s'], 'target', format => 'json')" % topic)
    db.q("INSERT INTO w SELECT i, (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 100000 + i)) FROM generate_series(1, 3) i")
    settle(kafka, topic)
    assert db.q("SELECT id, length(fill) FROM w ORDER BY id") == [(i, 32 * (100000 + i)) for i in (1, 2, 3)]
    db.wait_for_subscription("s")
    assert db.q("SELECT id, md5(fill) FROM target ORDER BY id") == db.q("SELECT id, md5(fill) FROM w ORDER BY id")


def test_flat_debezium(db, kafka):
    topic = kafka.create_topic()
    kafka.produce(topic, {"id": 1, "name": "a", "__deleted": "false"}, key={"id": 1})
    kafka.produce(topic, {"id": 1, "name": None, "__deleted": "true"}, key={"id": 1})
    table(db, "t", topic, "id int, name text, op text OPTIONS (meta 'op')", format="debezium", flat="true", key="id")
    assert [(op, i) for i, _, op in db.q("SELECT * FROM t")][1] == ("d", 1)
    assert db.q("SELECT id, name FROM t LIMIT 1") == [(1, "a")]
