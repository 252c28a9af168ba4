"""Targets with queries, mode upsert: at any time the target holds what the query makes of the latest state of the topic."""

import contextlib
import json

import psycopg
import pytest

from conftest import wait_until
from test_subscription import envelope


def subscribe(db, topics, name="s", **kwargs):
    kwargs.setdefault("format", "json")
    named = "".join(f", {k} => %s" + ("::jsonb" if k == "options" else "") for k in kwargs)
    values = [json.dumps(v) if k == "options" else v for k, v in kwargs.items()]
    db.q(f"SELECT kafka.create_subscription(%s, 'kafka', %s{named})", name, topics if isinstance(topics, list) else [topics], *values)


def add_target(db, target, query=None, name="s", **kwargs):
    kwargs.setdefault("options", {})
    kwargs["options"].setdefault("hydrate", False)
    named = "".join(f", {k} => %s" + ("::jsonb" if k in ("options", "merge") else "") for k in kwargs)
    values = [json.dumps(v) if k in ("options", "merge") else v for k, v in kwargs.items()]
    db.q(f"SELECT kafka.add_target(%s, %s::regclass, query => %s{named})", name, target, query, *values)


def settle(db, name="s"):
    db.wait_for_subscription(name)


@pytest.fixture
def topic(kafka):
    return kafka.create_topic()


ROWS = "SELECT (after->>'id')::int AS id, after->>'v' AS v FROM batch"


def test_rows_follow_the_topic(db, kafka, topic):
    """A row that stops matching, deletes, tombstones, and rows that come back."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    subscribe(db, topic)
    add_target(db, "t", ROWS + " WHERE after->>'v' <> 'no'")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": f"v{i}"}) for i in range(100)])
    settle(db)
    assert db.value("SELECT count(*) FROM t") == 100
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "v": "no"}), ({"id": 2}, None), ({"id": 3}, {"id": 3, "v": "new"}),
                               ({"id": 4}, {"id": 4, "v": "no"}), ({"id": 4}, {"id": 4, "v": "yes"}),
                               ({"id": 5}, {"id": 5, "v": "x"}), ({"id": 5}, None), ({"id": 200}, {"id": 200, "v": "no"}),
                               ({"id": 201}, None)])
    settle(db)
    assert db.value("SELECT count(*) FROM t") == 97
    assert db.q("SELECT id, v FROM t WHERE id IN (1, 2, 3, 4, 5, 200, 201) ORDER BY id") == [(3, "new"), (4, "yes")]
    kafka.produce(topic, {"id": 1, "v": "back"}, {"id": 1})
    settle(db)
    assert db.value("SELECT v FROM t WHERE id = 1") == "back"


# ---- the article's example

ORDERS = """
CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL, place text, amount numeric(10,2), at timestamptz, note text);
"""
VIEWS = {
    "customer_by_order": ("order_id int PRIMARY KEY, customer int, name text",
                          "SELECT (after->>'id')::int AS order_id, (after->>'customer')::int AS customer, c.name "
                          "FROM batch JOIN customers c ON c.id = (after->>'customer')::int",
                          "SELECT o.id, customer, c.name FROM orders o JOIN customers c ON c.id = customer"),
    "orders_by_customer": ("customer int, order_id int, amount numeric(10,2), PRIMARY KEY (customer, order_id)",
                           "SELECT (after->>'customer')::int AS customer, (after->>'id')::int AS order_id, "
                           "(after->>'amount')::numeric AS amount FROM batch",
                           "SELECT customer, id, amount FROM orders"),
    "orders_by_place": ("place text, order_id bigint, at timestamptz, PRIMARY KEY (place, order_id)",
                        "SELECT coalesce(after->>'place', 'nowhere') AS place, (after->>'id')::bigint AS order_id, "
                        "(after->>'at')::timestamptz AS at FROM batch",
                        "SELECT coalesce(place, 'nowhere'), id, at FROM orders"),
    "washington": ("order_id int PRIMARY KEY, doc jsonb, amount numeric",
                   "SELECT (after->>'id')::int AS order_id, after - 'at' - 'note' AS doc, (after->'amount')::numeric AS amount FROM batch "
                   "WHERE after->>'place' = 'Washington D.C.' AND (after->'amount')::numeric > 10",
                   "SELECT id, jsonb_build_object('id', id, 'customer', customer, 'place', place, 'amount', amount), amount "
                   "FROM orders WHERE place = 'Washington D.C.' AND amount > 10"),
}
CHANGES = """
DO $$
DECLARE k int;
BEGIN
    FOR i IN 1..400 LOOP
        k := 1 + floor(random() * 150);
        IF random() < 0.15 THEN
            DELETE FROM orders WHERE id = k;
        ELSIF random() < 0.05 THEN
            UPDATE orders SET id = id + 1000 WHERE id = k AND NOT EXISTS (SELECT FROM orders WHERE id = k + 1000);
        ELSE
            INSERT INTO orders VALUES (k, 1 + floor(random() * 12),
                (ARRAY['Washington D.C.', 'Paris', NULL, 'Lagos'])[1 + floor(random() * 4)],
                round((random() * 50)::numeric, 2), '2024-01-01'::timestamptz + random() * interval '1 day', repeat('x', 10))
            ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, place = excluded.place, amount = excluded.amount, at = excluded.at;
        END IF;
        IF i % 7 = 0 THEN COMMIT; END IF;
    END LOOP;
END $$
"""


def same(source, target, table, query):
    a = sorted(source.q(f"SELECT t::text FROM ({query}) t"))
    b = sorted(target.q(f"SELECT t::text FROM {table} t"))
    assert a == b, f"{table}: only expected {list(set(a) - set(b))[:5]}, only there {list(set(b) - set(a))[:5]}"


@pytest.mark.parametrize("format", ["json", "debezium", "debezium with schemas"])
def test_one_topic_many_tables(cluster, kafka, format):
    """The article's tables, from one topic, stay what their queries say; and a plain copy beside them."""
    source, target = cluster.create_database(), cluster.create_database()
    try:
        for db in (source, target):
            db.create_server(kafka)
            db.q("CREATE TABLE customers (id int PRIMARY KEY, name text); INSERT INTO customers SELECT i, 'c' || i FROM generate_series(1, 10) i")
        source.q(ORDERS)
        target.q(ORDERS.replace("orders", "copy"))
        source.q(CHANGES)
        source.q("CREATE PUBLICATION pub FOR TABLE orders")
        options = {"topic.creation.default.partitions": 3}
        if "schemas" in format:
            options["schemas"] = True
        source.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', format => %s, options => %s::jsonb)",
                 format.split()[0], json.dumps(options))
        subscribe(target, f"{source.name}.public.orders", format=format.split()[0])
        if "schemas" not in format:
            add_target(target, "copy")
        for table, (columns, query, _) in VIEWS.items():
            target.q(f"CREATE TABLE {table} ({columns})")
            add_target(target, table, query)
        for _ in range(4):
            source.q(CHANGES)
        source.wait_for_publisher("p")
        settle(target)
        for table, (_, _, query) in VIEWS.items():
            same(source, target, table, query)
        if "schemas" not in format:
            same(source, target, "copy", "SELECT * FROM orders")
        # the end of it all
        source.q("DELETE FROM orders")
        source.wait_for_publisher("p")
        settle(target)
        for table in VIEWS:
            assert target.value(f"SELECT count(*) FROM {table}") == 0, table
    finally:
        for db in (source, target):
            cluster.drop_database(db)


# ---- where rows are left

def test_superset_of_the_message_key(db, kafka, topic):
    """The target's key holds more than the message key: the old place is found by it, in one run and in several, by
    index, in a partitioned table, and without any index that begins with it."""
    db.q("CREATE TABLE indexed (place text, id int, PRIMARY KEY (place, id)); CREATE INDEX ON indexed (id);"
         "CREATE TABLE bare (place text, id int, PRIMARY KEY (place, id));"
         "CREATE TABLE parted (place text, id int, PRIMARY KEY (place, id)) PARTITION BY HASH (place);"
         "CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
         "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1)")
    tables = ["indexed", "bare", "parted"]
    subscribe(db, topic)
    for table in tables:
        add_target(db, table, "SELECT after->>'place' AS place, (after->>'id')::int AS id FROM batch WHERE after->>'place' <> 'nowhere'")
    def rows():
        return [sorted(db.q(f"SELECT * FROM {t}")) for t in tables]
    def at(id, place):
        return {"id": id}, {"id": id, "place": place}
    kafka.produce_many(topic, [at(1, "a"), at(2, "a"), at(3, "b"), at(4, "b")])
    settle(db)
    assert rows() == [[("a", 1), ("a", 2), ("b", 3), ("b", 4)]] * 3
    kafka.produce_many(topic, [at(1, "b"), at(2, "x"), at(2, "y"), at(2, "a"), at(3, "nowhere"), ({"id": 4}, None), at(5, "c"), at(5, "d")])
    settle(db)
    assert rows() == [[("a", 2), ("b", 1), ("d", 5)]] * 3
    kafka.produce_many(topic, [({"id": 1}, None), ({"id": 2}, None), ({"id": 5}, None)])
    settle(db)
    assert rows() == [[]] * 3


def test_several_rows_of_a_message(db, kafka, topic):
    """A row per line of an order; lines that are gone leave."""
    db.q("CREATE TABLE lines (id int, line int, item text, PRIMARY KEY (id, line))")
    subscribe(db, topic)
    add_target(db, "lines", "SELECT (after->>'id')::int AS id, n AS line, item "
                            "FROM batch, jsonb_array_elements_text(after->'items') WITH ORDINALITY AS x(item, n)")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "items": [f"{i}a", f"{i}b", f"{i}c"]}) for i in (1, 2, 3)])
    settle(db)
    assert db.value("SELECT count(*) FROM lines") == 9
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "items": ["z"]}), ({"id": 2}, {"id": 2, "items": []}), ({"id": 3}, None)])
    settle(db)
    assert db.q("SELECT * FROM lines") == [(1, 1, "z")]


def test_keys_that_are_no_objects(db, kafka, topic):
    """Scalar keys: by the only traced field, and by the key itself; composite keys; keys that are only in the key."""
    other = kafka.create_topic()
    db.q("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (k text PRIMARY KEY, v text);"
         "CREATE TABLE c (x int, y text, v text, PRIMARY KEY (x, y))")
    subscribe(db, topic)
    add_target(db, "a", ROWS)
    add_target(db, "b", "SELECT key #>> '{}' AS k, after->>'v' AS v FROM batch")
    kafka.produce_many(topic, [("1", {"id": 1, "v": "x"}), ("2", {"id": 2, "v": "y"}), ("1", None)])
    settle(db)
    assert db.q("SELECT * FROM a") == [(2, "y")] and db.q("SELECT * FROM b") == [("2", "y")]
    subscribe(db, other, "s2")
    add_target(db, "c", "SELECT (key->>'x')::int AS x, key->>'y' AS y, after->>'v' AS v FROM batch", "s2")
    kafka.produce_many(other, [({"x": 1, "y": "a"}, {"v": "x"}), ({"x": 1, "y": "b"}, {"v": "x"}), ({"x": 1, "y": "a"}, None)])
    settle(db, "s2")
    assert db.q("SELECT * FROM c") == [(1, "b", "x")]


def test_key_in_two_partitions(db, kafka):
    """As after their number has grown: in one run, too, the key's rows are those of one message, and leave with it."""
    topic = kafka.create_topic(partitions=2)
    db.q("CREATE TABLE lines (id int, line int, item text, PRIMARY KEY (id, item))")
    subscribe(db, topic, enabled=False, options={"max_batch_wait": 800})     # both partitions in one run
    add_target(db, "lines", "SELECT (after->>'id')::int AS id, n AS line, item "
                            "FROM batch, jsonb_array_elements_text(after->'items') WITH ORDINALITY AS x(item, n)")
    for i in range(10):
        kafka.produce(topic, {"id": i, "items": ["a", "b", "c"]}, {"id": i}, partition=0)
        kafka.produce(topic, {"id": i, "items": ["d", "e"]}, {"id": i}, partition=1)
    db.q("SELECT kafka.resume_subscription('s')")
    settle(db)
    assert set(db.q("SELECT string_agg(item, '' ORDER BY line) FROM lines GROUP BY id")) <= {("abc",), ("de",)}
    assert db.value("SELECT count(DISTINCT id) FROM lines") == 10


def test_compacted_topic(db, kafka, topic):
    """What compaction leaves: a lone tombstone of a key removes what was made of it long ago."""
    db.q("CREATE TABLE t (place text, id int, PRIMARY KEY (place, id)); CREATE INDEX ON t (id)")
    subscribe(db, topic, format="debezium")
    add_target(db, "t", "SELECT after->>'place' AS place, (after->>'id')::int AS id FROM batch")
    kafka.produce_many(topic, [({"id": i}, envelope("c", after={"id": i, "place": "a"})) for i in (1, 2, 3)])
    settle(db)
    kafka.produce_many(topic, [({"id": 1}, None), ({"id": 2}, envelope("d", before={"id": 2, "place": None})), ({"id": 2}, None),
                               ({"id": 4}, None), ({"id": 3}, envelope("u", after={"id": 3, "place": "b"}))])
    settle(db)
    assert db.q("SELECT * FROM t") == [("b", 3)]


def test_truncate(db, kafka, topic):
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    subscribe(db, topic, format="debezium")
    add_target(db, "t", ROWS)
    kafka.produce_many(topic, [({"id": 1}, envelope("c", after={"id": 1, "v": "a"}))])
    settle(db)
    kafka.produce_many(topic, [({"id": 2}, envelope("c", after={"id": 2, "v": "a"})), (None, envelope("t")),
                               ({"id": 3}, envelope("c", after={"id": 3, "v": "b"}))])
    settle(db)
    assert db.q("SELECT * FROM t") == [(3, "b")]


def test_several_topics(db, kafka):
    """A query that chooses its topic is left alone by messages of others; one that does not must tell topics apart."""
    one, two = kafka.create_topic(), kafka.create_topic()
    db.q("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (topic text, id int, v text, PRIMARY KEY (topic, id));"
         "CREATE TABLE c (id int PRIMARY KEY, v text)")
    subscribe(db, [one, two])
    add_target(db, "a", ROWS + f" WHERE topic = '{one}'")
    add_target(db, "b", ROWS.replace("SELECT", "SELECT topic,"))
    kafka.produce_many(one, [({"id": 1}, {"id": 1, "v": "one"}), ({"id": 2}, {"id": 2, "v": "one"})])
    settle(db)
    kafka.produce_many(two, [({"id": 1}, {"id": 1, "v": "two"}), ({"id": 2}, None)])
    settle(db)
    assert db.q("SELECT * FROM a ORDER BY 1") == [(1, "one"), (2, "one")]
    assert sorted(db.q("SELECT * FROM b")) == sorted([(one, 1, "one"), (one, 2, "one"), (two, 1, "two")])
    with pytest.raises(psycopg.Error, match="nothing in the target's key tells apart rows of one message key"):
        add_target(db, "c", ROWS)
    # a topic that comes later
    prefix = one.split(".")[1][:4] + "x"
    subscribe(db, f"^{prefix}", "s2")
    add_target(db, "c", ROWS, "s2")
    late = [kafka.create_topic(f"{prefix}{i}") for i in (1, 2)]
    for t in late:
        kafka.produce(t, {"id": 1, "v": t}, {"id": 1})
    error = db.wait_state("subscription", "s2", "error", timeout=60)["last_error"]
    assert "message key" in error and "tells apart" in error
    assert db.value("SELECT count(*) FROM c") <= 1


# ---- what is refused

REFUSED = [
    ("SELECT (after->>'id')::int AS id, count(*)::text AS v FROM batch GROUP BY 1", "aggregates"),
    ("SELECT DISTINCT (after->>'id')::int AS id, after->>'v' AS v FROM batch", "DISTINCT"),
    ("SELECT (after->>'id')::int AS id, (row_number() OVER ())::text AS v FROM batch", "window functions"),
    (ROWS + " LIMIT 5", "LIMIT"),
    (ROWS + " UNION ALL " + ROWS, "UNION"),
    ("SELECT (b.after->>'id')::int AS id, c.after->>'v' AS v FROM batch b JOIN batch c USING (key)", "more than once"),
    ("SELECT r.id, after->>'v' AS v FROM ref r LEFT JOIN batch ON (after->>'id')::int = r.id", "outer join"),
    ("SELECT r.id, r.v FROM ref r WHERE EXISTS (SELECT FROM batch WHERE (after->>'id')::int = r.id)", "FROM"),
    ("WITH b AS (SELECT * FROM batch) SELECT (after->>'id')::int AS id, after->>'v' AS v FROM b", "WITH"),
    ("SELECT r.id, r.v FROM ref r", "does not read"),
    ("SELECT length(after->>'id') AS id, after->>'v' AS v FROM batch", "plain part of the message key"),
    ("SELECT r.id, after->>'v' AS v FROM ref r JOIN batch ON r.v = after->>'v'", "plain part of the message key"),
    ("SELECT (after->>'id')::int AS id, b::text AS v FROM batch b", "as a whole"),
    ("SELECT (j.after->>'id')::int AS id, to_jsonb(j)->'after'->>'v' AS v FROM (batch JOIN (SELECT 'x' AS topic) x USING (topic)) AS j", "join or subquery"),
    ("SELECT (s.after->>'id')::int AS id, to_jsonb(s)->'after'->>'v' AS v FROM (SELECT * FROM batch) AS s", "join or subquery"),
    ("SELECT (j.after->>'id')::int AS id, to_jsonb(j)->>'v' AS v FROM ((SELECT after, key FROM batch) s CROSS JOIN ref) AS j", "join or subquery"),
]


@pytest.mark.parametrize("query,reason", REFUSED, ids=[r for _, r in REFUSED])
def test_refused(db, kafka, topic, query, reason):
    """What cannot be kept exact is refused when it is asked for, with the reason."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE ref (id int, v text)")
    subscribe(db, topic)
    with pytest.raises(psycopg.Error, match="cannot be kept exact in mode upsert") as e:
        add_target(db, "t", query)
    assert reason in str(e.value) and e.value.diag.message_hint


CASTS = [("(key->'k')::int", "int"), ("(key->>'k')::timestamptz::date", "date"), ("(key->>'k')::timestamp::time", "time"), ("(key->>'k')::numeric::int", "int"),
         ("(key->>'k')::timestamptz::text::date", "date"), ("(key->>'k')::varchar(3)", "text"), ("(key->>'k')::numeric(4,1)", "numeric"),
         ("(after->>'k')::numeric::int", "int"), ("(key->'k')::numeric::bigint", "bigint"), ("(key->>'k')::shade::int", "int"),
         ("(key->>'k')::numeric", "int"), ("(key->>'k')::timestamptz", "date"), ("(key->>'k')::float8", "float8")]


def test_casts_that_are_not_one_to_one(db, kafka, topic):
    """Messages with different keys must not share a row: casts that may make one value of several are refused, also those
    of an assignment; others are not."""
    db.q("CREATE TYPE shade AS ENUM ('light', 'dark'); CREATE FUNCTION shade_int(shade) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';"
         "CREATE CAST (shade AS int) WITH FUNCTION shade_int(shade)")
    subscribe(db, topic, enabled=False)
    for i, (cast, type) in enumerate(CASTS):
        db.q(f"CREATE TABLE c{i} (k {type} PRIMARY KEY); CREATE TABLE d{i} (id int, k {type}, PRIMARY KEY (k, id))")
        query = f"SELECT {cast} AS k FROM batch"
        with pytest.raises(psycopg.Error, match='key column "k" is cast in a way that can make one value of several') as e:
            add_target(db, f"c{i}", query)
        assert "Cast the field's text once" in e.value.diag.message_hint
        # beside a column that tells the message key the same cast does no harm, but where the message key has the field
        query = query.replace("SELECT", "SELECT (after->>'id')::int AS id,")
        if "key->" in query:
            with pytest.raises(psycopg.Error, match="make one value of several"):
                add_target(db, f"d{i}", query)
        add_target(db, f"d{i}", query.replace("key->", "after->"))
    for i, (cast, type) in enumerate([("(key->>'k')::int", "bigint"), ("(key->>'k')::smallint::int::bigint", "numeric(10)"), ("(key->'k')::numeric", "numeric"),
                                      ("(key->>'k')::bigint", "int"), ("(key->'k')::text::int", "int"), ("key->>'k'", "varchar(10)"),
                                      ("(key->>'k')::varchar", "char(4)"), ("(key->>'k')::int", "text"), ("(key->>'k')::uuid", "uuid"),
                                      ("(key->>'k')::date", "timestamptz"), ("(key->'k')::bool", "bool")]):
        db.q(f"CREATE TABLE e{i} (k {type} PRIMARY KEY)")
        add_target(db, f"e{i}", f"SELECT {cast} AS k FROM batch")


def test_notice_without_an_index(db, kafka, topic):
    """A key with more columns than tell the message key needs an index that begins with those."""
    db.q("CREATE TABLE t (place text, id int, PRIMARY KEY (place, id)); CREATE TABLE u (place text, id int, PRIMARY KEY (id, place));"
         "CREATE TABLE v (place text, id int, PRIMARY KEY (place, id)); CREATE INDEX ON v (id) WHERE place <> '';"
         "CREATE TABLE w (place text, id int, PRIMARY KEY (place, id)); CREATE INDEX ON w (id)")
    subscribe(db, topic)
    notices = []
    handler = lambda d: notices.append((d.message_primary, d.message_hint))
    db.connection.add_notice_handler(handler)
    try:
        for table in "tuvw":
            add_target(db, table, "SELECT upper(after->>'place') AS place, (after->>'id')::int AS id FROM batch")
    finally:
        db.connection.remove_notice_handler(handler)
    assert notices == [(f'no index of target "{t}" begins with the columns that tell the message key', f"CREATE INDEX ON public.{t} (id).") for t in "tv"]


def failed(db, kafka, topic, message, offset=None):
    """The error after a message that cannot be applied."""
    key, value, *headers = message
    place = kafka.produce(topic, value, key, *headers)
    row = db.wait_state("subscription", "s", "error")
    assert f'topic "{topic}", partition 0, offset {place[1]} cannot be applied' in row["last_error"], row["last_error"]
    return row["last_error"]


MESSAGES = [
    ((None, {"id": 1, "v": "x"}), "the message has no key"),
    (({"id": 1, "part": 2}, {"id": 1, "part": 2}), 'field "part" of the message key is not told by the key of target'),
    (({"id": 1}, {"id": 2, "v": "x"}), 'field "id" is 1 in the message key, but 2 in the row'),
    (({"id": 1}, {"v": "x"}), 'field "id" is 1 in the message key, but missing in the row'),
    (({"id": "x"}, {"id": "x", "v": "x"}), "invalid input syntax for type integer"),
    (({"other": 1}, {"id": 1, "v": "x"}), 'field "other" of the message key is not told'),
    (({"id": 1}, {"id": 1, "v": "boom"}), "division by zero"),
    (({"id": 1}, {"id": 1, "v": "twice"}), "gives two rows with the same key"),
    (({"id": 1}, {"id": 1, "v": "toolong" * 10}), "value too long for type character varying(20)"),
]


@pytest.mark.parametrize("message,reason", MESSAGES, ids=[r for _, r in MESSAGES])
def test_message_at_fault(db, kafka, topic, message, reason):
    """One message among others: those before it are applied, it is named, and seek goes on after it."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v varchar(20)); CREATE TABLE ref (v text); INSERT INTO ref VALUES ('twice'), ('twice');"
         "CREATE TABLE copy (id int PRIMARY KEY, v text)")
    subscribe(db, topic, enabled=False)
    add_target(db, "copy", ROWS)
    add_target(db, "t", "SELECT (after->>'id')::int AS id, after->>'v' AS v FROM batch LEFT JOIN ref ON ref.v = after->>'v' "
                        "WHERE 1 / CASE after->>'v' WHEN 'boom' THEN 0 ELSE 1 END = 1")
    good = [({"id": i}, {"id": i, "v": f"v{i}"}) for i in range(100, 150)]
    kafka.produce_many(topic, good[:30])
    db.q("SELECT kafka.resume_subscription('s')")
    error = failed(db, kafka, topic, message)
    assert reason in error, error
    kafka.produce_many(topic, good[30:])
    db.wait("SELECT count(*) = 30 FROM t")
    assert db.value("SELECT count(*) FROM copy") == 30
    db.q("SELECT kafka.seek_subscription('s', %s)", json.dumps({topic: {"0": 31}}))
    settle(db)
    assert db.value("SELECT count(*) FROM t") == 50 == db.value("SELECT count(*) FROM copy")


# ---- unchanged values

def test_unchanged_values(db, kafka, topic):
    """A value that the message leaves out stays, or fails the message where more than itself depends on it."""
    unchanged = [("pg_kafka_sync.unchanged", '["big"]')]
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text, big text)")
    subscribe(db, topic)
    add_target(db, "t", "SELECT (after->>'id')::int AS id, after->>'v' AS v, upper(after->>'big') AS big FROM batch")
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "v": "a", "big": "b"}), ({"id": 2}, {"id": 2, "v": "a", "big": "c"})])
    settle(db)
    # also laid over an earlier message of the same run
    kafka.produce_many(topic, [dict(key={"id": 1}, value={"id": 1, "v": "new"}, headers=unchanged),
                               dict(key={"id": 3}, value={"id": 3, "v": "c", "big": "x"}),
                               dict(key={"id": 3}, value={"id": 3, "v": "d"}, headers=unchanged)])
    settle(db)
    assert db.q("SELECT * FROM t ORDER BY id") == [(1, "new", "B"), (2, "a", "C"), (3, "d", "X")]
    error = failed(db, kafka, topic, ({"id": 9}, {"id": 9, "v": "x"}, unchanged))
    assert 'column "big"' in error and "no such row" in error


@pytest.mark.parametrize("query,reason", [
    ("SELECT (after->>'id')::int AS id, after->>'v' AS v FROM batch WHERE after->>'big' <> ''", "a condition of the query depends on it"),
    ("SELECT (after->>'id')::int AS id, after->>'v' || (after->>'big') AS v FROM batch", "made of it and of others"),
    ("SELECT (after->>'id')::int AS id, after::text AS v FROM batch", "made of it and of others"),
    ("SELECT (after->>'id')::int AS id, r.v FROM batch JOIN ref r ON r.v = after->>'big'", "a condition of the query depends on it"),
])
def test_unchanged_value_is_needed(db, kafka, topic, query, reason):
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE ref (v text)")
    subscribe(db, topic, format="debezium")
    add_target(db, "t", query)
    value = envelope("u", after={"id": 1, "v": "x", "big": "__debezium_unavailable_value"})
    error = failed(db, kafka, topic, ({"id": 1}, value))
    assert 'field "big": the message leaves the value out as unchanged' in error and reason in error


def test_unchanged_value_that_nobody_reads(db, kafka, topic):
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    subscribe(db, topic, format="debezium")
    add_target(db, "t", ROWS)
    kafka.produce(topic, envelope("u", after={"id": 1, "v": "x", "big": "__debezium_unavailable_value"}), {"id": 1})
    settle(db)
    assert db.q("SELECT * FROM t") == [(1, "x")]


# ---- rights, transactions, memory

def test_rights(db, kafka, topic):
    """The query runs as the subscription's owner, and what the table does as the table's owner."""
    suffix = db.name
    db.q(f"CREATE ROLE reader_{suffix}; CREATE ROLE writer_{suffix}; GRANT writer_{suffix} TO reader_{suffix};"
         f"GRANT USAGE ON FOREIGN SERVER kafka TO reader_{suffix}; GRANT CREATE ON SCHEMA public TO writer_{suffix};"
         "CREATE TABLE ref (id int, v text); INSERT INTO ref VALUES (1, 'secret');"
         "CREATE TABLE t (id int PRIMARY KEY, who_reads text, v text, who_writes text DEFAULT current_user);"
         f"ALTER TABLE t OWNER TO writer_{suffix}; GRANT SELECT ON ref TO reader_{suffix}")
    try:
        with db.connect() as c:
            c.execute(f"SET ROLE reader_{suffix}")
            c.execute("SELECT kafka.create_subscription('s', 'kafka', %s, format => 'json')", ([topic],))
            c.execute("SELECT kafka.add_target('s', 't', 'SELECT (after->>''id'')::int AS id, current_user AS who_reads, ref.v "
                      "FROM batch JOIN ref ON ref.id = (after->>''id'')::int')")
        kafka.produce(topic, {"id": 1}, {"id": 1})
        settle(db)
        assert db.q("SELECT * FROM t") == [(1, f"reader_{suffix}", "secret", f"writer_{suffix}")]
        db.q(f"REVOKE SELECT ON ref FROM reader_{suffix}")
        kafka.produce(topic, {"id": 1}, {"id": 1})
        assert "permission denied for table ref" in db.wait_state("subscription", "s", "error")["last_error"]
        db.q(f"GRANT SELECT ON ref TO reader_{suffix}")
        db.q("SELECT kafka.resume_subscription('s')")
        settle(db)
    finally:
        db.q("SELECT kafka.drop_subscription('s', true)")
        db.q(f"DROP OWNED BY reader_{suffix}, writer_{suffix} CASCADE; DROP ROLE reader_{suffix}, writer_{suffix}")


# tries to make the role a superuser, wherever it is run as one
EVIL = """
CREATE FUNCTION public.rise_{0}() RETURNS void LANGUAGE plpgsql AS $$BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN EXECUTE 'ALTER ROLE evil_{0} SUPERUSER'; END IF; END$$;
CREATE FUNCTION public.rise_{0}(v int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN
    PERFORM public.rise_{0}(); RETURN true; END$$;
CREATE FUNCTION public.rise_{0}(v text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN
    PERFORM public.rise_{0}(); RETURN true; END$$;
"""


@contextlib.contextmanager
def evil(db):
    """A role with such functions, rise_<role's suffix>; it must not have become a superuser."""
    name = f"evil_{db.name}"
    db.q(f"CREATE ROLE {name}; GRANT USAGE ON FOREIGN SERVER kafka TO {name}; GRANT CREATE ON SCHEMA public TO {name}")
    try:
        with db.connect() as c:
            c.execute(f"SET ROLE {name}")
            c.execute(EVIL.format(db.name))
        yield name
        assert db.value("SELECT rolsuper FROM pg_roles WHERE rolname = %s", name) is False
    finally:
        db.q("SELECT kafka.drop_subscription(name, true) FROM kafka.subscription")
        db.q(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def test_condition_on_the_topic_runs_as_owner(db, kafka, topic):
    """Immutable functions of a condition on the topic are run when a target is opened, and at a topic's first message."""
    with evil(db) as name:
        with db.connect() as c:
            c.execute(f"SET ROLE {name}; CREATE TABLE t (id int PRIMARY KEY)")
            c.execute("SELECT kafka.create_subscription('s', 'kafka', %s, format => 'json')", ([topic],))
        # nor as the superuser who adds it
        add_target(db, "t", f"SELECT (after->>'id')::int AS id FROM batch WHERE public.rise_{db.name}(topic)")
        kafka.produce(topic, {"id": 1}, {"id": 1})
        settle(db)
        assert db.q("SELECT id FROM t") == [(1,)]


def test_settings_of_one_target_end_with_it(db, kafka, topic):
    """What the code of one target's owner SETs is not in force for the next one's, nor for the query's."""
    leak = "coalesce(current_setting('ks.leak', true), '')"
    with evil(db) as name:
        with db.connect() as c:
            c.execute(f"SET ROLE {name}")
            c.execute("CREATE FUNCTION leak() RETURNS boolean LANGUAGE sql AS $$SELECT set_config('ks.leak', current_user, false) <> ''$$")
            c.execute("CREATE FUNCTION leak_row() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM public.leak(); RETURN NEW; END$$")
            c.execute("CREATE DOMAIN leaky AS text CHECK (public.leak())")
            c.execute("CREATE TABLE a (id int PRIMARY KEY, v leaky)")
            c.execute("CREATE TRIGGER a BEFORE INSERT OR UPDATE ON a FOR EACH ROW EXECUTE FUNCTION leak_row()")
        db.q(f"CREATE DOMAIN heard AS text CHECK ({leak} = '')")
        db.q(f"CREATE TABLE b (id int PRIMARY KEY, v heard, writer text DEFAULT {leak})")
        db.q(f"CREATE TABLE c (id int PRIMARY KEY, reader text, writer text DEFAULT {leak})")
        subscribe(db, topic)
        add_target(db, "a")
        add_target(db, "b")
        add_target(db, "c", f"SELECT (after->>'id')::int AS id, {leak} AS reader FROM batch")
        kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "v"}) for i in range(20)])
        settle(db)
        assert db.value("SELECT count(*) FROM a") == 20
        assert db.q("SELECT DISTINCT v::text, writer FROM b") == [("v", "")]
        assert db.q("SELECT DISTINCT reader, writer FROM c") == [("", "")]


def test_one_transaction(db, kafka, topic):
    """All targets of a run move in one transaction."""
    db.q("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text); CREATE TABLE c (id int PRIMARY KEY, v text)")
    subscribe(db, topic)
    add_target(db, "a", ROWS)
    add_target(db, "b", ROWS + " WHERE (after->>'id')::int < 10000")
    add_target(db, "c")
    for part in range(3):
        kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "v"}) for i in range(part * 500, part * 500 + 500)])
    settle(db)
    assert db.q("SELECT count(*), count(DISTINCT a.xmin::text) <= 3 + count(*) / 4 FROM a JOIN b USING (id) JOIN c USING (id) "
                "WHERE a.xmin = b.xmin AND b.xmin = c.xmin") == [(1500, True)]


def test_targets_that_disagree_on_types(db, kafka, topic):
    """Two declarations of how a field is encoded: refused, until column_types decides."""
    db.q("CREATE TABLE a (id int PRIMARY KEY, at timestamp(3)); CREATE TABLE b (id int PRIMARY KEY, at timestamp)")
    subscribe(db, topic, format="debezium")
    add_target(db, "a", "SELECT (after->>'id')::int AS id, (after->>'at')::timestamp AS at FROM batch")
    add_target(db, "b", "SELECT (after->>'id')::int AS id, (after->>'at')::timestamp AS at FROM batch")
    assert 'targets disagree on how to decode field "at"' in db.wait_state("subscription", "s", "error")["last_error"]
    db.q("SELECT kafka.alter_subscription('s', %s::jsonb)", json.dumps({"column_types": {"at": "timestamp(3)"}}))
    kafka.produce(topic, envelope("c", after={"id": 1, "at": 1500}), {"id": 1})
    settle(db)
    assert db.value("SELECT at::text FROM a") == "1970-01-01 00:00:01.5" == db.value("SELECT at::text FROM b")


def test_column_types_of_one_target(db, kafka, topic):
    """column_types may name what only a query reads, or only one of several tables has."""
    db.q("CREATE TABLE a (id int PRIMARY KEY, total numeric); CREATE TABLE b (id int PRIMARY KEY, amount text); CREATE TABLE c (id int PRIMARY KEY)")
    subscribe(db, topic, format="debezium", options={"column_types": {"amount": "numeric(10,2)"}, "ignore_unknown_columns": True})
    add_target(db, "a", "SELECT (after->>'id')::int AS id, (after->>'amount')::numeric AS total FROM batch")
    add_target(db, "b")
    add_target(db, "c")
    kafka.produce(topic, envelope("c", after={"id": 1, "amount": "AeJA"}), {"id": 1})
    settle(db)
    assert db.q("SELECT total::text, amount FROM a JOIN b USING (id) JOIN c USING (id)") == [("1234.56", "1234.56")]


def test_alter_while_running(db, kafka, topic):
    """Columns added, renamed and dropped, a renamed reference table: names are bound, types follow."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text, x int); CREATE TABLE ref (id int, v text); INSERT INTO ref VALUES (1, 'one')")
    subscribe(db, topic)
    add_target(db, "t", "SELECT (after->>'id')::int AS id, ref.v FROM batch JOIN ref ON ref.id = (after->>'id')::int")
    kafka.produce(topic, {"id": 1}, {"id": 1})
    settle(db)
    db.q("ALTER TABLE ref RENAME TO lookup; ALTER TABLE lookup RENAME COLUMN v TO w; ALTER TABLE t DROP COLUMN x; ALTER TABLE t ADD COLUMN y int DEFAULT 7;"
         "UPDATE lookup SET w = 'uno'; ALTER TABLE t ALTER COLUMN id TYPE bigint")
    kafka.produce(topic, {"id": 1}, {"id": 1})
    settle(db)
    assert db.q("SELECT id, v, y FROM t") == [(1, "uno", 7)]
    db.q("ALTER TABLE t RENAME COLUMN v TO z")
    kafka.produce(topic, {"id": 1}, {"id": 1})
    assert 'has no column "v" that can be written' in db.wait_state("subscription", "s", "error")["last_error"]
    db.q("ALTER TABLE t RENAME COLUMN z TO v; SELECT kafka.resume_subscription('s')")
    settle(db)


def test_memory(private_cluster, kafka):
    """Messages with many rows each are applied in runs that fit into memory."""
    db = private_cluster.create_database()
    db.create_server(kafka)
    topic = kafka.create_topic()
    db.q("CREATE TABLE t (id int, n int, v text, PRIMARY KEY (id, n))")
    subscribe(db, topic, enabled=False)
    add_target(db, "t", "SELECT (after->>'id')::int AS id, n, repeat('x', 500) AS v FROM batch, generate_series(1, 200) n")
    kafka.produce_many(topic, [({"id": i}, {"id": i}) for i in range(3000)])
    db.q("SELECT kafka.resume_subscription('s')")
    pid = wait_until(lambda: db.value("SELECT pid FROM kafka.subscription_status"), what="a worker")
    most = 0
    def done():
        nonlocal most
        most = max(most, private_cluster.rss_kb(pid))
        return db.value("SELECT lag = 0 FROM kafka.subscription_status")
    wait_until(done, 60, what="all rows")
    assert db.value("SELECT count(*) FROM t") == 600000
    assert most < 300000, f"{most} kB"
