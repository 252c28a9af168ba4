"""Queries of targets that name the topic's foreign table instead of batch: typed columns, and everything that holds for
queries over batch."""

import json
import os

import psycopg
import pytest
from conftest import _run
from test_query_targets import CHANGES, ORDERS, VIEWS, add_target, failed, same, settle, subscribe
from test_subscription import envelope
from test_topic_tables import FOREVER, META, table


@pytest.fixture
def topic(kafka):
    return kafka.create_topic()


# ---- the same as over batch

# of test_query_targets' VIEWS, over the foreign table
TYPED = {
    "customer_by_order": "SELECT s.id AS order_id, s.customer, c.name FROM stream s JOIN customers c ON c.id = s.customer",
    "orders_by_customer": "SELECT customer, id AS order_id, amount FROM stream",
    "orders_by_place": "SELECT coalesce(place, 'nowhere') AS place, id AS order_id, at FROM stream",
    "washington": "SELECT id AS order_id, jsonb_build_object('id', id, 'customer', customer, 'place', place, 'amount', amount) AS doc, "
                  "amount FROM (SELECT * FROM stream WHERE amount > 10) AS s WHERE place = 'Washington D.C.'",
}
COLUMNS = "note text, id int, customer int, place text, amount numeric(10,2), at timestamptz"


@pytest.mark.parametrize("format", ["json", "debezium", "debezium with schemas"])
def test_same_as_over_batch(cluster, kafka, format):
    """The article's tables, made over batch and over the topic's table, stay what their queries say, and their logs of events
    and counts are the same."""
    source, target = cluster.create_database(), cluster.create_database()
    try:
        for db in (source, target):
            db.create_server(kafka)
            db.q("CREATE TABLE customers (id int PRIMARY KEY, name text); INSERT INTO customers SELECT i, 'c' || i FROM generate_series(1, 10) i")
        source.q(ORDERS)
        source.q(CHANGES)
        source.q("CREATE PUBLICATION pub FOR TABLE orders")
        options = {"topic.creation.default.partitions": 3, "schemas": True} if "schemas" in format else {"topic.creation.default.partitions": 3}
        source.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', format => %s, options => %s::jsonb)", format.split()[0], json.dumps(options))
        topic = f"{source.name}.public.orders"
        op = ", op text OPTIONS (meta 'op')" if "debezium" in format else ""
        table(target, "stream", topic, f"{META}{op}, {COLUMNS}", format=format.split()[0])
        subscribe(target, topic, format=format.split()[0], enabled=False)
        for name, (columns, query, _) in VIEWS.items():
            target.q(f"CREATE TABLE {name} ({columns}); CREATE TABLE typed_{name} ({columns})")
            add_target(target, name, query)
            add_target(target, f"typed_{name}", TYPED[name])
        log = "p int, o bigint, k jsonb, op text, id int, amount numeric, at timestamptz"
        target.q(f"CREATE TABLE log ({log}); CREATE TABLE typed_log ({log});"
                 "CREATE TABLE sums (day date, place text, n bigint, amount numeric, PRIMARY KEY (day, place)); CREATE TABLE typed_sums (LIKE sums INCLUDING ALL)")
        add_target(target, "log", 'SELECT "partition" AS p, "offset" AS o, key AS k, op, (after->>\'id\')::int AS id, '
                                  "(after->>'amount')::numeric AS amount, (after->>'at')::timestamptz AS at FROM batch"
                                  + ("" if op else " WHERE op <> 'd'"), mode="append")
        add_target(target, "typed_log", 'SELECT "partition" AS p, "offset" AS o, coalesce(key::jsonb->\'payload\', key::jsonb) AS k, '
                                        + ("op" if op else "'u' AS op") + ", id, amount, at FROM stream", mode="append")
        merge = dict(mode="merge", merge={"n": "count", "amount": "sum"}, options={"window": "day", "grace": "10000 days"})
        add_target(target, "sums", "SELECT (after->>'at')::timestamptz::date AS day, coalesce(after->>'place', '') AS place, count(*) AS n, "
                                   "sum((after->>'amount')::numeric) AS amount FROM batch GROUP BY 1, 2", **merge)
        add_target(target, "typed_sums", "SELECT at::date AS day, coalesce(place, '') AS place, count(*) AS n, sum(amount) AS amount "
                                         "FROM stream GROUP BY 1, 2", **merge)
        target.q("SELECT kafka.resume_subscription('s')")
        for _ in range(4):
            source.q(CHANGES)
        source.wait_for_publisher("p")
        settle(target)
        for name, (_, _, query) in VIEWS.items():
            same(source, target, name, query)
            same(source, target, f"typed_{name}", query)
        # the topic may have been compacted meanwhile
        assert target.value("SELECT count(*) FROM log") > 50
        for name in ("log", "sums"):
            assert target.q(f"(TABLE {name} EXCEPT ALL TABLE typed_{name}) UNION ALL (TABLE typed_{name} EXCEPT ALL TABLE {name})") == [], name
        assert target.value("SELECT count(*) FROM log") == target.value("SELECT count(*) FROM typed_log")
        source.q("DELETE FROM orders")
        source.wait_for_publisher("p")
        settle(target)
        for name in VIEWS:
            assert target.value(f"SELECT count(*) FROM typed_{name}") == 0, name
    finally:
        for db in (source, target):
            cluster.drop_database(db)


# ---- columns mean what SELECT gives

JSON_COLUMNS = META + """, topic text OPTIONS (meta 'topic'), headers jsonb OPTIONS (meta 'headers'), raw_key bytea OPTIONS (meta 'key'),
    doc jsonb OPTIONS (meta 'value'), id int, n numeric(6,2), at timestamptz, tags text[], deep text OPTIONS (path 'a.b[1].c'),
    "some name" date OPTIONS (path '"some name"'), j jsonb, kid int OPTIONS (meta 'key', path 'id'), kdeep text OPTIONS (meta 'key', path 'sub.x'),
    small positive, code char(4), flag bool, missing text"""
JSON_MESSAGES = [
    ({"id": 1, "sub": {"x": "y"}}, {"id": 1, "n": 1.005, "at": "2024-02-29T12:00:00Z", "tags": ["a", 'b"c', None], "a": {"b": [1, {"c": "deep"}]},
                                    "some name": "2024-01-02", "j": {"x": [1, None]}, "small": 5, "code": "ab", "flag": True}),
    ({"id": 2}, {"id": 2.0, "n": "7", "at": None, "tags": [], "a": {"b": []}, "j": None, "flag": "yes", "other": 1}),
    ({"id": 3}, {}),
]
DEBEZIUM_COLUMNS = META + """, op text OPTIONS (meta 'op'), letter "char" OPTIONS (meta 'op'), before jsonb OPTIONS (meta 'before'),
    old_d date OPTIONS (meta 'before', path 'd'), id int, d date, n numeric(10,2), ts timestamp(3), tz timestamptz, bytes bytea OPTIONS (path 'b'),
    j jsonb, iv interval, days date[], kid int OPTIONS (meta 'key', path 'id')"""
ROW = {"id": 1, "d": 19000, "n": "AeJA", "ts": 1500, "tz": "2024-01-01T00:00:00Z", "b": "AQI=", "j": '{"a": 1}', "iv": 1000000, "days": [1, 2]}
DEBEZIUM_MESSAGES = [({"id": 1}, envelope("c", after=ROW)), ({"id": 1}, envelope("u", before=ROW, after={**ROW, "d": None})),
                     ({"id": 1}, envelope("d", before=ROW)), ({"id": 2}, envelope("r", after={"id": 2}))]
FORMATS = [
    ("json", {}, {"key": "id"}, JSON_COLUMNS, JSON_MESSAGES),
    ("debezium", {}, {"key": "id"}, DEBEZIUM_COLUMNS, DEBEZIUM_MESSAGES),
    ("csv", {}, {}, META + ", id int, name text, at date", [("1", b'1,"a, b",2024-01-01\n2,,\n'), ("2", b"3,x,2024-01-02")]),
    ("csv", {"csv.columns": ["id", "name"], "csv.delimiter": ";", "csv.null": "-"},
     {'"csv.columns"': '["id", "name"]', '"csv.delimiter"': ";", '"csv.null"': "-"}, META + ", name text, id int", [("1", b"1;-\n2;b")]),
    ("syslog", {}, {}, META + ", severity int, hostname text, message text, doc text OPTIONS (meta 'value')",
     [("h", b"<34>1 2003-10-11T22:14:15.003Z host app - ID47 - hello"), (None, b"<13>Oct 11 22:14:15 other su: failed")]),
    ("raw", {}, {}, META + ", value bytea", [("k", b"\x00\xff"), (None, b"x")]),
    ("raw", {}, {}, META + ", doc jsonb", [("k", b'{"a": 1}'), (None, b"7")]),
]


def test_columns_as_in_select(db, kafka):
    """Each column of the table is in mode append what SELECT from the table gives, whatever the format."""
    db.q("CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
    for n, (format, options, table_options, columns, messages) in enumerate(FORMATS):
        topic = kafka.create_topic()
        table(db, f"stream{n}", topic, columns, format=format, **table_options)
        db.q(f"CREATE TABLE t{n} AS TABLE stream{n} WITH NO DATA")
        subscribe(db, topic, f"s{n}", format=format, options=options)
        add_target(db, f"t{n}", f"SELECT * FROM stream{n}", f"s{n}", mode="append")
        for i, (key, value) in enumerate(messages):
            kafka.produce(topic, value, key, [("h", b"v"), ("n", None)] if i == 0 else None)
    for n, (format, *_, messages) in enumerate(FORMATS):
        settle(db, f"s{n}")
        # text tells what jsonb and numeric keep to themselves
        read, kept = (sorted(db.q(f"SELECT x::text FROM {name}{n} x")) for name in ("stream", "t"))
        assert len(read) >= len(messages) and kept == read, (n, format)


def test_names_types_and_joins(db, kafka, topic):
    """Aliases, subqueries, joins by USING that merge columns of two types, LATERAL; two targets share the table."""
    db.q("CREATE TABLE a (id bigint PRIMARY KEY, name text, v text, n int); CREATE TABLE b (id int, line int, item text, PRIMARY KEY (id, line));"
         "CREATE TABLE c (id int PRIMARY KEY, v text); CREATE TABLE names (id bigint PRIMARY KEY, name text); INSERT INTO names VALUES (1, 'one'), (2, 'two')")
    table(db, "stream", topic, "v text, id int, items jsonb")
    subscribe(db, topic)
    add_target(db, "a", "SELECT s.id, name, v, (SELECT count(*) FROM names n WHERE n.id <= s.id) AS n "
                        "FROM stream AS s JOIN names USING (id) WHERE upper(v) <> 'NO'")
    add_target(db, "b", "SELECT x.key AS id, n AS line, item FROM (SELECT id AS key, items AS i FROM stream) AS x, "
                        "LATERAL jsonb_array_elements_text(x.i) WITH ORDINALITY AS y(item, n)")
    add_target(db, "c", "SELECT j.id, j.v FROM (names RIGHT JOIN stream USING (id)) AS j WHERE j.name IS NULL")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": f"v{i}", "items": [f"{i}a", f"{i}b"]}) for i in (1, 2, 3)])
    settle(db)
    assert db.q("TABLE a ORDER BY 1") == [(1, "one", "v1", 1), (2, "two", "v2", 2)]
    assert db.q("SELECT string_agg(item, '' ORDER BY id, line) FROM b") == [("1a1b2a2b3a3b",)]
    assert db.q("TABLE c") == [(3, "v3")]
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "v": "no", "items": ["z"]}), ({"id": 2}, None), ({"id": 3}, {"id": 3, "v": "x"})])
    settle(db)
    assert db.q("TABLE a") == [] and db.q("TABLE b") == [(1, 1, "z")] and db.q("TABLE c") == [(3, "x")]


def test_modes_of_the_first_message(db, kafka, topic):
    """What a header says of bytes and times is heard from the first message on, over the table and over batch."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text, at text); CREATE TABLE b (LIKE t INCLUDING ALL)")
    table(db, "stream", topic, "id int, b bytea, at timestamp(3)", format="debezium")
    subscribe(db, topic, format="debezium", enabled=False, options={"column_types": {"b": "bytea", "at": "timestamp(3)"}})
    modes = [("pg_kafka_sync.binary", "hex"), ("pg_kafka_sync.time", "adaptive_time_microseconds")]
    kafka.produce(topic, envelope("c", after={"id": 1, "b": "0102", "at": 1500}), {"id": 1}, modes)
    add_target(db, "t", "SELECT id, encode(b, 'base64') AS v, at::text FROM stream")
    db.q("SELECT kafka.resume_subscription('s')")
    settle(db)
    assert db.q("TABLE t") == [(1, "AQI=", "1970-01-01 00:00:01.5")]
    subscribe(db, topic, "other", format="debezium", options={"column_types": {"b": "bytea", "at": "timestamp(3)"}})
    add_target(db, "b", "SELECT (after->>'id')::int AS id, encode((after->>'b')::bytea, 'base64') AS v, after->>'at' AS at FROM batch", "other")
    settle(db, "other")
    assert db.q("TABLE b") == db.q("TABLE t")


# ---- message keys

def test_keys(db, kafka):
    """Rows are traced by columns of the value, of option key, of the key and of its fields, and by keys that are no objects."""
    def stream(name, columns, target, query, messages, **options):
        topic = kafka.create_topic()
        sub = f"s_{name}"
        key_format = {"key_format": options["key_format"]} if options.get("key_format") == "text" else {}
        table(db, name, topic, columns, **options)
        subscribe(db, topic, sub, options=key_format)
        db.q(f"CREATE TABLE t_{name} ({target})")
        add_target(db, f"t_{name}", query.format(name), sub)
        kafka.produce_many(topic, messages)
        settle(db, sub)
        return db.q(f"TABLE t_{name} ORDER BY 1")
    rows = "id int PRIMARY KEY, v text"
    some = [("1", {"id": 1, "v": "x"}), ("2", {"id": 2, "v": "y"}), ("1", None)]
    assert stream("scalar", "id int, v text", rows, "SELECT id, v FROM {}", some) == [(2, "y")]
    # only the key has it
    objects = [({"id": 1}, {"v": "x"}), ({"id": 2}, {"v": "y"}), ({"id": 1}, None)]
    assert stream("option", "id int, v text", rows, "SELECT id, v FROM {}", objects, key="id") == [(2, "y")]
    assert stream("text", "id text, v text", "id text PRIMARY KEY, v text", "SELECT id, v FROM {}",
                  [("a", {"v": "x"}), ("b", {"v": "y"}), ("a", None)], key="id", key_format="text") == [("b", "y")]
    assert stream("part", "k int OPTIONS (meta 'key', path 'id'), v text", rows, "SELECT k AS id, v FROM {}", objects) == [(2, "y")]
    assert stream("whole", "k text OPTIONS (meta 'key'), v text", "k text PRIMARY KEY, v text", "SELECT k, v FROM {}", objects) == [('{"id": 2}', "y")]
    assert stream("document", "k jsonb OPTIONS (meta 'key'), v text", rows, "SELECT (k->>'id')::int AS id, v FROM {}", objects) == [(2, "y")]
    # more columns than the message key has
    assert stream("more", "id int, v text", "v text, id int, PRIMARY KEY (v, id)", "SELECT upper(v) AS v, id FROM {}",
                  [({"id": i}, {"id": i, "v": v}) for i, v in ((1, "a"), (2, "a"), (1, "b"))]) == [("A", 2), ("B", 1)]
    assert stream("topics", "topic text OPTIONS (meta 'topic'), id int, v text", "id int, t text, PRIMARY KEY (t, id)",
                  "SELECT topic AS t, id FROM {} WHERE v <> 'no'", [({"id": i}, {"id": i, "v": v}) for i, v in ((1, "a"), (2, "a"), (3, "a"), (1, "no"))]
                  + [({"id": 2}, None)])[0][0] == 3
    # fields of other names
    assert stream("path", "key int OPTIONS (path 'id'), v text", rows, "SELECT key AS id, v FROM {}",
                  [({"id": i}, {"id": i, "v": v}) for i, v in ((1, "a"), (2, "b"))] + [({"id": 1}, None)]) == [(2, "b")]


LOSSY = ["numeric(4,1)", "timestamptz(0)", "char(5)", "float8"]
EXACT = ["bigint", "numeric", "varchar(10)", "uuid", "date", "timestamptz", "text", "exact"]


def test_types_that_do_not_tell_keys(db, kafka, topic):
    """A column whose type makes one value of several does not trace a row."""
    db.q("CREATE DOMAIN exact AS bigint CHECK (VALUE > 0)")
    subscribe(db, topic, enabled=False)
    for i, type in enumerate(LOSSY + EXACT):
        table(db, f"f{i}", topic, f"k {type}")
        db.q(f"CREATE TABLE t{i} (k {type} PRIMARY KEY)")
        if type in LOSSY:
            with pytest.raises(psycopg.Error, match='key column "k" is cast in a way that can make one value of several'):
                add_target(db, f"t{i}", f"SELECT k FROM f{i}")
        else:
            add_target(db, f"t{i}", f"SELECT k FROM f{i}")


def test_key_and_row_differ(db, kafka, topic):
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    table(db, "stream", topic, "id int, v text")
    subscribe(db, topic)
    add_target(db, "t", "SELECT id, v FROM stream")
    assert 'field "id" is 1 in the message key, but 2 in the row' in failed(db, kafka, topic, ({"id": 1}, {"id": 2}))


# ---- what cannot be read

def test_dead_letters(db, kafka, topic):
    """A letter names the column that is not of its type, and the target that reads it."""
    db.q("CREATE TABLE a (id int PRIMARY KEY, amount numeric); CREATE TABLE b (id int PRIMARY KEY, city text); CREATE TABLE c (id int PRIMARY KEY, k text)")
    table(db, "stream", topic, "id int, amount numeric(6,2) OPTIONS (path 'total.amount'), city varchar(5), k jsonb OPTIONS (meta 'key')")
    subscribe(db, topic, on_error="dead_letter")
    add_target(db, "a", "SELECT id, amount FROM stream")
    add_target(db, "b", "SELECT id, city FROM stream")
    add_target(db, "c", "SELECT id, after->>'k' AS k FROM (SELECT (after->>'id')::int AS id, after FROM batch) x")
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "total": {"amount": "much"}, "city": "Paris"}), ({"id": 2}, {"id": 2, "city": "Washington"}),
                               ({"id": 3}, {"id": 3, "total": {"amount": 3}, "city": "Rome"}),
                               ({"id": 4}, {"id": 4, "total": {"amount": 10000}}), ({"id": 4}, {"id": 4, "total": {"amount": 1}})])
    settle(db)
    letters = db.q('SELECT "offset", stage, error FROM kafka.dead_letter ORDER BY 1, 3')
    assert [(o, s) for o, s, _ in letters] == [(0, "convert"), (1, "convert"), (3, "convert")], letters
    assert letters[0][2].startswith('target public.a: column "amount": ') and letters[2][2].startswith('target public.a: column "amount": ')
    assert letters[1][2].startswith('target public.b: column "city": value too long')
    assert db.q("TABLE a ORDER BY 1") == [(3, 3), (4, 1)]
    assert db.q("SELECT id FROM c ORDER BY 1") == [(3,), (4,)]
    db.q("UPDATE kafka.dead_letter SET value = '{\"id\": 1, \"total\": {\"amount\": 1.5}}' WHERE \"offset\" = 0; SELECT kafka.retry_dead_letters('s')")
    db.wait("SELECT NOT EXISTS (SELECT 1 FROM kafka.dead_letter WHERE retry)")
    assert db.value("SELECT count(*) FROM kafka.dead_letter") == 2
    assert db.q("SELECT amount::text FROM a WHERE id = 1") == [("1.50",)]


# ---- unchanged values

UNCHANGED = [("pg_kafka_sync.unchanged", '["big"]')]
PLACEHOLDER = "__debezium_unavailable_value"


@pytest.mark.parametrize("format", ["json", "debezium"])
def test_unchanged_values(db, kafka, topic, format):
    """A value that the message leaves out stays; also laid over an earlier message of the same run."""
    def change(key, row, all=True):
        if format == "json":
            return dict(key=key, value=row, headers=[] if all else UNCHANGED)
        return dict(key=key, value=envelope("u", after=row if all else {**row, "big": PLACEHOLDER}))
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text, big text, deep text); CREATE TABLE u (id int PRIMARY KEY, big text)")
    table(db, "stream", topic, "id int, v text, big jsonb, deep text OPTIONS (path 'big.x')", format=format)
    subscribe(db, topic, format=format)
    add_target(db, "t", "SELECT id, v, big->>'y' AS big, deep FROM stream")
    add_target(db, "u", "SELECT id, big::text FROM stream")
    big = {"x": "X", "y": "Y"}
    kafka.produce_many(topic, [change({"id": i}, {"id": i, "v": "a", "big": big}) for i in (1, 2)])
    settle(db)
    kafka.produce_many(topic, [change({"id": 1}, {"id": 1, "v": "new"}, False), change({"id": 3}, {"id": 3, "v": "c", "big": {"x": 1, "y": 2}}),
                               change({"id": 3}, {"id": 3, "v": "d"}, False), change({"id": 3}, {"id": 3, "v": "e"}, False)])
    settle(db)
    assert db.q("SELECT * FROM t ORDER BY id") == [(1, "new", "Y", "X"), (2, "a", "Y", "X"), (3, "e", "2", "1")]
    assert db.q("SELECT big FROM u WHERE id = 3") == [('{"x": 1, "y": 2}',)]
    message = change({"id": 9}, {"id": 9, "v": "x"}, False)
    error = failed(db, kafka, topic, (message["key"], message["value"], message.get("headers")))
    assert "leaves the value out as unchanged, and the target has no such row" in error


NEEDED = [
    ("SELECT id, v FROM stream WHERE big <> ''", "a condition of the query depends on it"),
    ("SELECT id, v || big AS v FROM stream", "made of it and of others"),
    ("SELECT id, whole AS v FROM stream", "made of it and of others"),
    ("SELECT id, big AS v FROM stream", "the query reads it"),      # mode append
]


@pytest.mark.parametrize("format", ["json", "debezium"])
def test_unchanged_value_is_needed(db, kafka, format):
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    row = {"id": 1, "v": "x"}
    message = ({"id": 1}, row, UNCHANGED) if format == "json" else ({"id": 1}, envelope("u", after={**row, "big": PLACEHOLDER}))
    for query, reason in NEEDED:
        topic = kafka.create_topic()
        table(db, "stream", topic, "id int, v text, big text, whole text OPTIONS (meta 'value')", format=format)
        subscribe(db, topic, format=format)
        add_target(db, "t", query, mode="append" if reason == NEEDED[-1][1] else "upsert")
        error = failed(db, kafka, topic, message)
        assert 'field "big": the message leaves the value out as unchanged' in error and reason in error
        db.q("SELECT kafka.drop_subscription('s')")
        db.q("DROP FOREIGN TABLE stream")


# ---- what is refused

REFUSED = [
    ("SELECT a.id, b.v FROM stream a JOIN stream b USING (id)", "more than once"),
    ("SELECT id, after->>'v' AS v FROM stream, batch", "more than once"),
    ("SELECT s.id, o.v FROM stream s JOIN second o USING (id)", "more than once"),
    ("SELECT s.id, o.v FROM stream s JOIN other o USING (id)", "joins public.other, a whole topic"),
    ("SELECT (after->>'id')::int AS id, o.v FROM batch JOIN other o ON o.v = after->>'v'", "joins public.other, a whole topic"),
    ("SELECT id, v FROM other", "which subscription \"s\" does not read"),
    ("SELECT id, v FROM elsewhere", "of server \"kafka2\", which subscription \"s\" does not read"),
    ("SELECT id, v FROM stream UNION ALL SELECT id, v FROM ref", "UNION"),
    ("SELECT id, count(*)::text AS v FROM stream GROUP BY 1", "aggregates"),
    ("SELECT r.id, s.v FROM ref r LEFT JOIN stream s ON s.id = r.id", "public.stream is on the side of an outer join"),
    ("SELECT r.id, r.v FROM ref r WHERE EXISTS (SELECT FROM stream s WHERE s.id = r.id)", "public.stream does not stand in its FROM"),
    ("WITH s AS (SELECT id, v FROM stream) SELECT id, v FROM s", "in WITH"),
    ("SELECT id, s::text AS v FROM stream s", "uses a row of public.stream"),
    ("SELECT id, tableoid::text AS v FROM stream", "reads a system column of public.stream"),
    ("SELECT id, problem AS v FROM stream", 'reads column "problem" of public.stream: what cannot be read'),
    ("SELECT id, same::text AS v FROM stream WHERE same IS NULL", 'reads column "same" of public.stream: unchanged values'),
    ("SELECT length(v) AS id, v FROM stream", "plain part of the message key"),
    ("SELECT deep AS id, v FROM stream", "plain part of the message key"),
    ("SELECT id, v FROM parent", "has tables that inherit from it"),
    ("SELECT id, v FROM seen", "reads public.stream, a topic, by way of view public.seen"),
    ("SELECT (after->>'id')::int AS id, o.v FROM batch LEFT JOIN others o ON o.v = after->>'v'", "reads public.other, a topic, by way of view public.others"),
]


def test_refused(db, kafka):
    """What cannot be kept exact is refused when it is asked for, with the reason."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE ref (id int, v text)")
    db.create_server(kafka, "kafka2")
    one, two = kafka.new_topic_name(), kafka.new_topic_name()
    table(db, "stream", one, "id int, v text, deep int OPTIONS (path 'a.id'), problem text OPTIONS (meta 'error'), same text[] OPTIONS (meta 'unchanged')")
    table(db, "second", two, "id int, v text")
    table(db, "other", "other", "id int, v text")
    table(db, "elsewhere", one, "id int, v text", server="kafka2")
    table(db, "parent", one, "id int, v text")
    db.q("CREATE TABLE child () INHERITS (parent); CREATE VIEW seen AS SELECT * FROM stream;"
         "CREATE VIEW whole AS SELECT * FROM other; CREATE VIEW others AS SELECT v, (SELECT count(*) FROM whole) FROM ref")
    subscribe(db, [one, f"^{two}$"], enabled=False)
    for query, reason in REFUSED:
        with pytest.raises(psycopg.Error, match="cannot be kept exact in mode upsert") as e:
            add_target(db, "t", query)
        assert reason in str(e.value) and e.value.diag.message_hint, query
    assert db.value("SELECT count(*) FROM kafka.subscription_targets") == 0


OPTIONS = [
    ("json", {}, {"format": "debezium"}, "Its format is debezium, and the subscription's json"),
    ("csv", {"csv.delimiter": ";"}, {"format": "csv"}, 'Option "csv.delimiter" is "," there, and ";" of the subscription'),
    ("csv", {"csv.columns": ["id", "v"]}, {"format": "csv", '"csv.columns"': '["v","id"]'}, 'Option "csv.columns"'),
    ("csv", {}, {"format": "csv", '"csv.header"': "true"}, 'Option "csv.header"'),
    ("csv", {"csv.null": "-"}, {"format": "csv"}, 'Option "csv.null"'),
    ("debezium", {"flat": True}, {"format": "debezium"}, 'Option "flat"'),
    ("debezium", {}, {"format": "debezium", '"source.connector"': "mysql"}, 'Option "source.connector"'),
    ("debezium", {"binary.handling.mode": "hex"}, {"format": "debezium"}, 'Option "binary.handling.mode"'),
    ("syslog", {"syslog.lenient": True}, {"format": "syslog"}, 'Option "syslog.lenient"'),
    ("syslog", {"syslog.time_zone": "CET"}, {"format": "syslog"}, 'Option "syslog.time_zone"'),
    ("json", {"paths": {"v": "a.v"}}, {"format": "json"}, 'option "paths"'),
    ("json", {"key_format": "text"}, {"format": "json", "key": "id"}, 'Option "key_format" is "json" there, and "text" of the subscription'),
    ("json", {}, {"format": "json", "key": "id", "key_format": "text"}, 'Option "key_format"'),
]


def test_options_that_differ(db, topic):
    """A table that reads messages in another way than the subscription is refused, with what differs."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    for i, (format, options, table_options, detail) in enumerate(OPTIONS):
        table(db, f"f{i}", topic, "id int, v text", **table_options)
        subscribe(db, topic, f"s{i}", format=format, options=options, enabled=False)
        with pytest.raises(psycopg.Error, match=f"foreign table public.f{i} does not read its topic as subscription") as e:
            add_target(db, "t", f"SELECT id, v FROM f{i}", f"s{i}")
        assert detail in e.value.diag.message_detail and "the same" in e.value.diag.message_hint


# ---- several topics

def test_several_topics(db, kafka):
    """A query sees the messages of its table's topic alone, also of topics that come later, and what is wrong in others does
    not concern it."""
    one, two = kafka.create_topic(config=FOREVER), kafka.create_topic()
    db.q("CREATE TABLE a (id int PRIMARY KEY, n int); CREATE TABLE b (id int PRIMARY KEY, v text); CREATE TABLE c (topic text, id int, PRIMARY KEY (topic, id));"
         "CREATE TABLE hours (hour timestamptz PRIMARY KEY, n bigint)")
    table(db, "first", one, "id int, n int, ts timestamptz OPTIONS (meta 'timestamp')")
    table(db, "second", two, "id int, v text")
    subscribe(db, [one, f"^{two}"])
    add_target(db, "a", "SELECT id, n FROM first")
    add_target(db, "b", "SELECT id, v FROM second")
    add_target(db, "c", "SELECT topic, (after->>'id')::int AS id FROM batch")
    add_target(db, "hours", "SELECT date_bin('1 hour', ts, '2000-01-01') AS hour, count(n) AS n FROM first GROUP BY 1", mode="merge", merge={"n": "count"},
               options={"window": "hour", "grace": "1 hour"})
    kafka.produce_many(two, [({"id": 1}, {"id": 1, "v": "x", "n": "no number"}), (None, None)][:1])
    hour = 1700000000000 // 3600000 * 3600000
    kafka.produce_many(one, [dict(key={"id": i}, value={"id": i, "n": i, "v": "y"}, timestamp=hour + h * 3600000) for i, h in ((1, 0), (2, 9), (3, 1), (4, 8))])
    settle(db)
    kafka.produce_many(two, [({"id": 2}, {"id": 2, "v": "y", "n": []}), ({"id": 1}, None)])
    settle(db)
    assert db.q("TABLE a ORDER BY 1") == [(1, 1), (2, 2), (3, 3), (4, 4)] and db.q("TABLE b") == [(2, "y")]
    assert db.value("SELECT count(*) FROM c") == 5
    assert db.q("SELECT array_agg(n ORDER BY hour) FROM hours") == [([1, 1, 1],)]
    assert db.q('SELECT stage, "offset" FROM kafka.dead_letter') == [("late", 2)]


# ---- the table changes

def test_names_follow(db, kafka, topic):
    """Renames, a new column, other owners' options: nothing of that changes what the query means.  DROP is refused."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    table(db, "stream", topic, "dropped text, id int, v text OPTIONS (path 'v')")
    db.q("ALTER FOREIGN TABLE stream DROP dropped")
    subscribe(db, topic)
    add_target(db, "t", "SELECT id, v FROM stream")
    kafka.produce(topic, {"id": 1, "v": "a"}, {"id": 1})
    settle(db)
    db.q("CREATE SCHEMA streams; ALTER FOREIGN TABLE stream SET SCHEMA streams; ALTER FOREIGN TABLE streams.stream RENAME TO orders;"
         "ALTER FOREIGN TABLE streams.orders RENAME v TO w; ALTER FOREIGN TABLE streams.orders ADD extra date;"
         "ALTER FOREIGN TABLE streams.orders OPTIONS (ADD updatable 'false')")
    kafka.produce(topic, {"id": 2, "v": "b", "extra": "no date"}, {"id": 2})
    settle(db)
    assert db.q("TABLE t ORDER BY 1") == [(1, "a"), (2, "b")]
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="streams.orders"):
        db.q("DROP FOREIGN TABLE streams.orders")
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        db.q("ALTER FOREIGN TABLE streams.orders ALTER w TYPE varchar(3)")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        db.q("ALTER FOREIGN TABLE streams.orders DROP w")
    db.q("DROP FOREIGN TABLE streams.orders CASCADE")
    assert "is gone" in db.wait_state("subscription", "s", "error")["last_error"]
    db.q("SELECT kafka.drop_target('s', 't')")


CHANGED = [
    ("OPTIONS (SET topic '{two}')", "OPTIONS (SET topic '{one}')", "does not mean any more what it did when target", "It was read as topic {one}, and would be read as topic {two}"),
    ("OPTIONS (SET topic 'none')", "OPTIONS (SET topic '{one}')", 'is topic "none" of server "kafka", which subscription "s" does not read', None),
    ("OPTIONS (ADD format 'debezium')", "OPTIONS (DROP format)", 'does not read its topic as subscription "s" does', "Its format is debezium"),
    ("ALTER v OPTIONS (SET path 'w')", "ALTER v OPTIONS (SET path 'v')", "does not mean any more", "It was read as field v as text, and would be read as field w as text"),
    ("ALTER v OPTIONS (DROP path, ADD meta 'key')", "ALTER v OPTIONS (ADD path 'v', DROP meta)", "does not mean any more", "and would be read as key as text"),
    ("RENAME id TO number", "RENAME number TO id", "does not mean any more", "It was read as field id as integer, and would be read as field number as integer"),
]


def test_meaning_changes(db, kafka, topic):
    """What ALTER makes of the table is noticed before another message is applied: state error, and on when it is as before."""
    two = kafka.create_topic()
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    table(db, "stream", topic, "id int, v text OPTIONS (path 'v')")
    subscribe(db, [topic, two])
    add_target(db, "t", "SELECT id, v FROM stream")
    for i, (change, back, message, detail) in enumerate(CHANGED):
        kafka.produce(topic, {"id": i, "v": f"v{i}"}, {"id": i})
        settle(db)
        db.q(f"ALTER FOREIGN TABLE stream {change.format(one=topic, two=two)}")
        kafka.produce(topic, {"id": 100, "v": f"v{i}", "w": "other"}, {"id": 100})
        error = db.wait_state("subscription", "s", "error")["last_error"]
        assert message in error, error
        assert db.value("SELECT count(*) FROM t") == i + min(i, 1) + 1
        assert detail is None or detail.format(one=topic, two=two) in db.cluster.log()
        db.q(f"ALTER FOREIGN TABLE stream {back.format(one=topic, two=two)}; SELECT kafka.resume_subscription('s')")
        settle(db)
        assert db.value("SELECT v FROM t WHERE id = 100") == f"v{i}"
    # or made anew
    db.q("ALTER FOREIGN TABLE stream ALTER v OPTIONS (SET path 'w')")
    kafka.produce(topic, {"id": 100, "v": "v", "w": "other"}, {"id": 100})
    db.wait_state("subscription", "s", "error")
    db.q("SELECT kafka.drop_target('s', 't')")
    add_target(db, "t", "SELECT id, v FROM stream", options={"hydrate": True})
    db.wait("SELECT v = 'other' FROM t WHERE id = 100")


# ---- rights

def test_rights(db, kafka, topic):
    """The subscription's owner needs SELECT on what the query reads of the table, and no more; conversions run as it."""
    reader = f"reader_{db.name}"
    db.q(f"CREATE ROLE {reader}; GRANT USAGE ON FOREIGN SERVER kafka TO {reader}; GRANT CREATE ON SCHEMA public TO {reader};"
         "CREATE DOMAIN told AS text CHECK (VALUE <> 'who' OR current_user::text = 'nobody');"
         f"CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t OWNER TO {reader}")
    table(db, "stream", topic, "id int, v told, secret text")
    add = "SELECT kafka.add_target('s', 't', 'SELECT id, v FROM stream')"
    try:
        with db.connect() as c:
            c.execute(f"SET ROLE {reader}")
            c.execute("SELECT kafka.create_subscription('s', 'kafka', %s, format => 'json')", ([topic],))
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="stream"):
                c.execute(add)
        db.q(f"GRANT SELECT (id, v) ON stream TO {reader}")
        # a superuser who adds it has no rights to lend
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="stream"):
            db.q("SELECT kafka.add_target('s', 't', 'SELECT id, secret AS v FROM stream')")
        with db.connect() as c:
            c.execute(f"SET ROLE {reader}")
            c.execute(add)
        kafka.produce(topic, {"id": 1, "v": "x", "secret": "s"}, {"id": 1})
        settle(db)
        assert db.q("TABLE t") == [(1, "x")]
        db.q(f"REVOKE SELECT (v) ON stream FROM {reader}")
        kafka.produce(topic, {"id": 1, "v": "y"}, {"id": 1})
        assert "permission denied for foreign table stream" in db.wait_state("subscription", "s", "error")["last_error"]
        db.q(f"GRANT SELECT ON stream TO {reader}; SELECT kafka.resume_subscription('s')")
        settle(db)
        assert db.q("TABLE t") == [(1, "y")]
        assert 'column "v"' in failed(db, kafka, topic, ({"id": 2}, {"id": 2, "v": "who"}))
        other = f"other_{db.name}"
        db.q(f"CREATE ROLE {other} NOINHERIT; GRANT {reader} TO {other}; GRANT USAGE ON FOREIGN SERVER kafka TO {other}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.q(f"SELECT kafka.set_owner('subscription', 's', '{other}'::regrole)")
        db.q(f"DROP OWNED BY {other}; DROP ROLE {other}")
    finally:
        db.q("SELECT kafka.drop_subscription('s', true)")
        db.q(f"DROP OWNED BY {reader} CASCADE; DROP ROLE {reader}")


def test_code_of_types_runs_as_owner(db, kafka, topic):
    """A domain's check is the subscription's owner's to run, whoever owns the target's table and the foreign table."""
    suffix = db.name
    db.q(f"CREATE ROLE reader_{suffix}; CREATE ROLE writer_{suffix}; GRANT writer_{suffix} TO reader_{suffix};"
         f"GRANT USAGE ON FOREIGN SERVER kafka TO reader_{suffix};"
         f"CREATE DOMAIN seen AS text CHECK (current_user = 'reader_{suffix}');"
         f"CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t OWNER TO writer_{suffix}; CREATE TABLE u (id int PRIMARY KEY)")
    table(db, "stream", topic, "id int, v seen")
    try:
        db.q(f"GRANT SELECT ON stream TO reader_{suffix}; GRANT CREATE, USAGE ON SCHEMA public TO writer_{suffix}")
        with db.connect() as c:
            c.execute(f"SET ROLE reader_{suffix}")
            c.execute("SELECT kafka.create_subscription('s', 'kafka', %s, format => 'json')", ([topic],))
            c.execute("SELECT kafka.add_target('s', 't', 'SELECT id, v FROM stream')")
        kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "x"}) for i in range(5)])
        settle(db)
        assert db.value("SELECT count(*) FROM t") == 5
    finally:
        db.q("SELECT kafka.drop_subscription('s', true)")
        db.q(f"DROP OWNED BY reader_{suffix}, writer_{suffix} CASCADE; DROP ROLE reader_{suffix}, writer_{suffix}")


# ---- dump, rebuild

def test_dump_and_restore(cluster, kafka, make_db, db, topic, tmp_path):
    """The definition goes with pg_dump, what the table meant with it, although its columns have other numbers then."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    table(db, "stream", topic, "dropped text, id int, v text, other int")
    db.q("ALTER FOREIGN TABLE stream DROP dropped")
    subscribe(db, topic)
    add_target(db, "t", "SELECT id, v FROM stream")
    kafka.produce(topic, {"id": 1, "v": "a"}, {"id": 1})
    settle(db)
    db.q("SELECT kafka.pause_subscription('s')")
    bin = _run(os.environ.get("PG_CONFIG", "/usr/lib/postgresql/15/bin/pg_config"), "--bindir").strip()
    copy = make_db(extension=False)
    (tmp_path / "dump.sql").write_text(_run(f"{bin}/pg_dump", cluster.dsn(db.name)))
    _run(f"{bin}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", tmp_path / "dump.sql", cluster.dsn(copy.name))
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        copy.q("DROP FOREIGN TABLE stream")
    kafka.produce(topic, {"id": 2, "v": "b"}, {"id": 2})
    copy.q("SELECT kafka.resume_subscription('s')")
    settle(copy)
    assert copy.q("TABLE t ORDER BY 1") == [(1, "a"), (2, "b")]


def test_hydrate_and_rebuild(db, kafka, topic):
    """A target that is added later has what the others have; a rebuild makes it again."""
    db.q("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (v text, id int, PRIMARY KEY (v, id)); CREATE INDEX ON b (id)")
    table(db, "stream", topic, "id int, v text")
    subscribe(db, topic)
    add_target(db, "a", "SELECT (after->>'id')::int AS id, after->>'v' AS v FROM batch")
    kafka.produce_many(topic, [({"id": i % 50}, {"id": i % 50, "v": f"v{i}"} if i % 7 else None) for i in range(200)])
    settle(db)
    add_target(db, "b", "SELECT upper(v) AS v, id FROM stream", options={"hydrate": True})
    read, differ = "SELECT NOT EXISTS (SELECT FROM kafka.subscription_rebuild)", "SELECT id, upper(v) FROM a EXCEPT SELECT id, v FROM b"
    db.wait(read)
    assert db.q(differ) == [] and db.value("SELECT count(*) FROM a") == db.value("SELECT count(*) FROM b") > 0
    db.q("UPDATE b SET v = 'wrong'")
    db.q("SELECT kafka.rebuild_subscription('s', 'b')")
    db.wait(read)
    assert db.q(differ) == [] and db.value("SELECT count(*) FROM a") == db.value("SELECT count(*) FROM b")
