"""Targets that are topics: from topic to topic, exactly once."""

import json
import random
from collections import defaultdict

import psycopg
import pytest

from conftest import wait_until
from test_foreign_targets import restart_letter_ids
from test_query_targets import add_target, settle, subscribe
from test_topic_tables import settled, table

PROGRESS = "__pg_kafka_sync_progress"


@pytest.fixture
def topics(kafka):
    """An input of 3 partitions, an output of 4."""
    return kafka.create_topic(partitions=3), kafka.create_topic(partitions=4)


def out_table(db, topic, columns="id int, v text", name="out", key="id", **options):
    table(db, name, topic, columns, **({"key": key} if key else {}), **options)


def state(messages):
    """The latest value of each key; keys whose last message is a tombstone are gone."""
    latest = {}
    for m in messages:
        latest[m.key] = m.json
    return {json.loads(k)["id"]: v for k, v in latest.items() if v is not None}


def rows(numbers, **more):
    return [({"id": i}, {"id": i, "v": f"v{i}", **more}) for i in numbers]


def refused(db, sql, *params, error=psycopg.errors.ObjectNotInPrerequisiteState):
    with pytest.raises(error) as raised:
        db.q(sql, *params)
    return str(raised.value)


# ---- what is written

def test_filter(db, kafka, topics):
    """Mode upsert: the output's latest state is the query of the input's; what stops matching is a tombstone."""
    source, target = topics
    out_table(db, target)
    subscribe(db, source)
    add_target(db, "out", "SELECT (after->>'id')::int AS id, after->>'v' AS v FROM batch WHERE after->>'v' <> 'no'")
    kafka.produce_many(source, rows(range(100)))
    settle(db)
    messages = settled(kafka, target)
    assert state(messages) == {i: {"id": i, "v": f"v{i}"} for i in range(100)} and len(messages) == 100
    kafka.produce_many(source, [({"id": 1}, {"id": 1, "v": "no"}), ({"id": 2}, None), ({"id": 3}, {"id": 3, "v": "new"})])
    settle(db)
    latest = state(settled(kafka, target))
    assert latest.keys() == set(range(100)) - {1, 2} and latest[3] == {"id": 3, "v": "new"}
    # keys go to the partitions that Java clients choose, as kafka.produce does
    spread = {m.key: m.partition for m in settled(kafka, target)}
    assert len(set(spread.values())) == 4
    for key, partition in list(spread.items())[:20]:
        assert db.one("SELECT * FROM kafka.produce('kafka', %s, 'x', %s)", target, key.decode())[0] == partition


def test_plain(db, kafka, topics):
    """Without a query, and what messages do not say is not said."""
    source, target = topics
    out_table(db, target, "id int, v text, extra text, deep int OPTIONS (path 'a.b'), at timestamptz OPTIONS (meta 'timestamp')")
    subscribe(db, source, target="out")
    kafka.produce_many(source, [dict(key={"id": 1}, value={"id": 1, "v": "a", "extra": None}),
                                dict(key={"id": 2}, value={"id": 2, "deep": 7}),
                                dict(key={"id": 3}, value={"id": 3, "extra": "e"},
                                     headers=[("pg_kafka_sync.unchanged", b'["v"]')]),
                                dict(key={"id": 4}, value=None)])
    settle(db)
    got = {m.json_key["id"]: m for m in settled(kafka, target)}
    assert {i: m.json for i, m in got.items()} == {1: {"id": 1, "v": "a", "extra": None}, 2: {"id": 2, "a": {"b": 7}},
                                                   3: {"id": 3, "extra": "e"}, 4: None}
    assert [i for i, m in got.items() if m.headers] == [3] and got[3].headers == [("pg_kafka_sync.unchanged", b'["v"]')]


def test_row_that_comes_again_in_part(db, kafka, topics):
    """Deleted and created again in one batch, without all columns: what the former row had is gone for readers, too."""
    source, target = topics
    out_table(db, target, "id int, v text, extra text")
    subscribe(db, source, target="out")
    kafka.produce(source, {"id": 1, "v": "a", "extra": "e"}, {"id": 1})
    settle(db)
    db.q("SELECT kafka.pause_subscription('s')")
    kafka.produce_many(source, [({"id": 1}, None), ({"id": 1}, {"id": 1, "v": "b"})])
    db.q("SELECT kafka.resume_subscription('s')")
    settle(db)
    assert [m.json for m in settled(kafka, target)] == [{"id": 1, "v": "a", "extra": "e"}, None, {"id": 1, "v": "b"}]


def test_enrich_and_local_targets(db, kafka, topics, make_db):
    """A join, mode append, and a local table beside it; the output read into a table is what SQL says."""
    source, target = topics
    db.q("""CREATE TABLE names (id int PRIMARY KEY, name text); INSERT INTO names SELECT i, 'name' || i FROM generate_series(0, 9) i;
            CREATE TABLE orders (id int PRIMARY KEY, customer int, amount numeric(10,2))""")
    out_table(db, target, "id int, name text, amount numeric(10,2), seen text OPTIONS (path 'meta.topic')", key=None)
    subscribe(db, source)
    add_target(db, "orders")
    add_target(db, "out", "SELECT (after->>'id')::int AS id, n.name, (after->>'amount')::numeric AS amount, topic AS seen "
               "FROM batch JOIN names n ON n.id = (after->>'customer')::int", mode="append")
    kafka.produce_many(source, [({"id": i % 40}, {"id": i % 40, "customer": i % 12, "amount": i / 4}) for i in range(200)])
    settle(db)
    events = [m.json for m in settled(kafka, target)]
    assert sorted((e["id"], e["name"], float(e["amount"])) for e in events) == sorted(
        (i % 40, f"name{i % 12}", i / 4) for i in range(200) if i % 12 < 10)
    assert all(e["meta"] == {"topic": source} for e in events)
    # the latest of each order, by a subscription of another database
    upserts = kafka.create_topic(partitions=2)
    out_table(db, upserts, "id int, name text, amount numeric(10,2)", name="latest")
    add_target(db, "latest", "SELECT (after->>'id')::int AS id, n.name, (after->>'amount')::numeric AS amount "
               "FROM batch JOIN names n ON n.id = (after->>'customer')::int")
    kafka.produce_many(source, [({"id": i}, {"id": i, "customer": i % 12, "amount": i / 4}) for i in range(300)])
    kafka.produce_many(source, [({"id": i}, None) for i in range(0, 300, 7)])
    settle(db)
    settled(kafka, upserts)
    other = make_db()
    other.create_server(kafka)
    other.q("CREATE TABLE latest (id int PRIMARY KEY, name text, amount numeric(10,2))")
    subscribe(other, upserts, target="latest")
    settle(other)
    assert sorted(other.q("SELECT * FROM latest")) == sorted(
        db.q("SELECT o.id, n.name, o.amount FROM orders o JOIN names n ON n.id = o.customer"))


def test_formats_of_keys_and_values(db, kafka, topics):
    """A column that is the key as a whole, and format raw."""
    source, _ = topics
    text, raw = kafka.create_topic(), kafka.create_topic()
    table(db, "text", text, "k text OPTIONS (meta 'key'), v text")
    table(db, "raw", raw, "k text OPTIONS (meta 'key'), v text", format="raw")
    subscribe(db, source)
    for name in ("text", "raw"):
        add_target(db, name, "SELECT key->>'id' AS k, after->>'v' AS v FROM batch WHERE after->>'v' <> 'no'")
    kafka.produce_many(source, rows(range(3)) + [({"id": 0}, {"id": 0, "v": "no"})])
    settle(db)
    assert sorted({m.key: m.json for m in settled(kafka, text)}.items()) == [(b"0", None), (b"1", {"v": "v1"}), (b"2", {"v": "v2"})]
    assert sorted({m.key: m.value for m in settled(kafka, raw)}.items(), key=lambda p: p[0]) == [(b"0", None), (b"1", b"v1"), (b"2", b"v2")]


# ---- exactly once

@pytest.fixture
def own(private_cluster, kafka):
    """A database of a cluster that may be crashed."""
    db = private_cluster.create_database()
    db.create_server(kafka)
    return db


def worker_pid(db):
    pids = db.cluster.worker_pids("pg_kafka_sync subscription", db.name)
    return pids[0] if pids else None


def kill_worker(db):
    """kill -9, and until the server has restarted itself."""
    ready = "database system is ready to accept connections"
    starts = db.cluster.log().count(ready)
    db.cluster.kill_worker(wait_until(lambda: worker_pid(db), what="the worker"))
    db.close()
    wait_until(lambda: db.cluster.log().count(ready) > starts, 60, what="the restart after a crash")


def check_once(kafka, topic, count):
    got = [m.json["id"] for m in settled(kafka, topic)]
    assert len(got) == len(set(got)) == count, f"{len(got)} messages, {len(set(got))} different ones, of {count}"


def test_killed(own, kafka, topics):
    """kill -9 of the worker and of the server, again and again: each message is there once."""
    source, target = topics
    out_table(own, target, key=None)
    own.q("CREATE TABLE local (id int PRIMARY KEY, v text)")
    subscribe(own, source, options={"max_batch_rows": 200, "max_rows_per_second": 12000})
    add_target(own, "out", mode="append")
    add_target(own, "local")
    kafka.produce_many(source, rows(range(20000)))
    for part in range(1, 6):
        own.wait("SELECT sum(next_offset) >= %s FROM kafka.subscription_position", part * 2500 + random.randrange(500), timeout=60)
        if part == 3:
            own.cluster.kill()
            own.cluster.start()
        else:
            kill_worker(own)
    own.wait_for_subscription("s", 120)
    check_once(kafka, target, 20000)
    assert own.value("SELECT count(*) FROM local") == 20000


def test_broker_killed(db, private_kafka, kafka):
    """The broker of the output goes and comes, while messages of another one flow; nothing is lost or twice."""
    source = kafka.create_topic(partitions=3)
    target = private_kafka.create_topic(partitions=2)
    db.create_server(private_kafka, "other")
    out_table(db, target, key=None, server="other")
    subscribe(db, source, options={"max_batch_rows": 200, "max_rows_per_second": 12000})
    add_target(db, "out", mode="append")
    kafka.produce_many(source, rows(range(20000)))
    db.wait("SELECT sum(next_offset) >= 5000 FROM kafka.subscription_position", timeout=60)
    private_kafka.kill()
    row = db.wait_state("subscription", "s", "retrying", timeout=60)
    assert "Kafka server \"other\"" in row["last_error"], row
    private_kafka.start()
    db.wait_for_subscription("s", 120)
    check_once(private_kafka, target, 20000)


def test_several_workers(own, kafka, topics):
    """Each has a producer of its own; their number changes, and they are killed, meanwhile."""
    source, target = topics
    out_table(own, target, key=None)
    subscribe(own, source, workers=2, options={"max_batch_rows": 200, "max_rows_per_second": 4000})
    add_target(own, "out", mode="append")
    kafka.produce_many(source, rows(range(10000)))
    own.wait("SELECT sum(next_offset) >= 2000 FROM kafka.subscription_position")
    kill_worker(own)
    own.wait("SELECT sum(next_offset) >= 4000 FROM kafka.subscription_position")
    own.q("SELECT kafka.alter_subscription('s', '{\"workers\": 3}')")
    own.wait("SELECT sum(next_offset) >= 6000 FROM kafka.subscription_position")
    own.q("SELECT kafka.alter_subscription('s', '{\"workers\": 1}')")
    own.wait_for_subscription("s", 120)
    check_once(kafka, target, 10000)


def take_back(db, positions):
    """Has the local transactions since then never been committed, as far as positions go."""
    with db.connect() as connection:
        for row in positions:
            connection.execute("""UPDATE kafka.subscription_position SET next_offset = %(next_offset)s, last_offset = %(last_offset)s,
                last_timestamp = %(last_timestamp)s, last_checksum = %(last_checksum)s WHERE topic = %(topic)s AND partition = %(partition)s""", row)


def test_between_the_commits(db, kafka, topics):
    """The output is committed, the local transaction is not: what the topic has is not written again."""
    source, target = topics
    out_table(db, target, key=None)
    out_table(db, kafka.create_topic(), name="other", key=None)
    subscribe(db, source)
    add_target(db, "out", mode="append")
    kafka.produce_many(source, rows(range(100)))
    settle(db)
    before = db.dicts("SELECT * FROM kafka.subscription_position")
    kafka.produce_many(source, rows(range(100, 150)))
    settle(db)
    db.q("SELECT kafka.pause_subscription('s')")
    take_back(db, before)
    # a target that lacks them gets them all the same
    add_target(db, "other", mode="append")
    db.q("SELECT kafka.resume_subscription('s')")
    kafka.produce_many(source, rows(range(150, 160)))
    settle(db)
    check_once(kafka, target, 160)
    assert sorted(row[0] for row in db.q("SELECT id FROM other")) == list(range(100, 160))
    # by a seek it is meant
    db.q("SELECT kafka.seek_subscription('s', 'earliest', force => true)")
    settle(db)
    counts = defaultdict(int)
    for m in settled(kafka, target):
        counts[m.json["id"]] += 1
    assert set(counts.values()) == {2} and len(counts) == 160


def test_progress_survives_compaction(own, kafka, topics):
    """Positions in a topic of which compaction leaves the last of each key only."""
    source, target = topics
    progress = kafka.create_topic(config={"cleanup.policy": "compact", "segment.ms": "200", "min.cleanable.dirty.ratio": "0.01",
                                          "max.compaction.lag.ms": "100", "delete.retention.ms": "100"})
    out_table(own, target, key=None)
    subscribe(own, source, options={"max_batch_rows": 50})
    add_target(own, "out", mode="append", options={"progress.topic": progress})
    kafka.produce_many(source, rows(range(4000)))
    settle(own)
    before = own.dicts("SELECT * FROM kafka.subscription_position")
    kafka.produce_many(source, rows(range(4000, 4100)))
    settle(own)
    end = kafka.watermarks(progress)[0][1]
    wait_until(lambda: len(kafka.consume(progress)) < end / 3, 60, what="compaction")
    own.q("SELECT kafka.pause_subscription('s')")
    take_back(own, before)
    own.q("SELECT kafka.resume_subscription('s')")
    kafka.produce_many(source, rows(range(4100, 4110)))
    settle(own)
    check_once(kafka, target, 4110)
    latest = {m.key: m.json for m in settled(kafka, progress)}
    assert sum(v["offset"] for v in latest.values()) == 4110


# ---- what goes wrong

def test_dead_letters(db, kafka, topics):
    """Of a run with a bad message nothing is in the topic; the message alone is set aside, and retried once."""
    source, target = topics
    out_table(db, target, "id int, v int", key=None)
    subscribe(db, source, on_error="stop")
    add_target(db, "out", "SELECT (after->>'id')::int AS id, (after->>'v')::int AS v FROM batch", mode="append")
    kafka.produce_many(source, [({"id": i}, {"id": i, "v": "bad" if i == 50 else i}) for i in range(100)])
    row = db.wait_state("subscription", "s", "error")
    assert "invalid input syntax for type integer" in row["last_error"]
    # aborted transactions would be there for readers of uncommitted messages
    assert len(kafka.consume(target, isolation="read_uncommitted")) == len(settled(kafka, target)) < 100
    db.q("SELECT kafka.alter_subscription('s', '{\"on_error\": \"dead_letter\"}')")
    settle(db)
    assert sorted(m.json["id"] for m in settled(kafka, target)) == sorted(set(range(100)) - {50})
    letter = db.value("SELECT id FROM kafka.dead_letter")
    db.q("UPDATE kafka.dead_letter SET value = '{\"id\": 50, \"v\": 5}'")
    assert db.value("SELECT kafka.retry_dead_letters('s')") == 1
    db.wait("SELECT count(*) = 0 FROM kafka.dead_letter")
    assert [m.json for m in settled(kafka, target) if m.json["id"] == 50] == [{"id": 50, "v": 5}]
    wait_until(lambda: letter in [m.json["generation"] for m in kafka.consume(PROGRESS) if m.value and m.json_key[-1] < 0],
               what="the letter's record")
    # a database that was restored issues ids again: the topic has a letter of this id, but another one
    restart_letter_ids(db, letter)
    kafka.produce(source, {"id": 100, "v": "bad"}, {"id": 100})
    db.wait("SELECT count(*) = 1 FROM kafka.dead_letter WHERE id = %s", letter)
    db.q("UPDATE kafka.dead_letter SET value = '{\"id\": 100, \"v\": 6}'")
    db.q("SELECT kafka.retry_dead_letters('s')")
    db.wait("SELECT count(*) = 0 FROM kafka.dead_letter")
    assert [m.json for m in settled(kafka, target) if m.json["id"] == 100] == [{"id": 100, "v": 6}]


def test_too_large(db, kafka):
    """A message that the broker does not take is the one at fault."""
    source = kafka.create_topic()
    target = kafka.create_topic(config={"max.message.bytes": "20000"})
    out_table(db, target, key=None)
    subscribe(db, source, on_error="dead_letter")
    add_target(db, "out", "SELECT (after->>'id')::int AS id, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, (after->>'v')::int) i) AS v FROM batch", mode="append")
    kafka.produce_many(source, [({"id": i}, {"id": i, "v": 5000 if i == 5 else 5}) for i in range(10)])
    settle(db)
    assert [m.json["id"] for m in settled(kafka, target)] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert "Message size too large" in str(db.one("SELECT error, detail FROM kafka.dead_letter"))


def test_no_topic(db, kafka):
    source, target = kafka.create_topic(), kafka.new_topic_name()
    out_table(db, target)
    subscribe(db, source, target="out")
    kafka.produce_many(source, rows(range(3)))
    row = db.wait_state("subscription", "s", "error")
    assert f'topic "{target}" does not exist' in row["last_error"]
    assert f"kafka.create_topic(''kafka'', ''{target}'')" in db.cluster.log() or f"kafka.create_topic('kafka', '{target}')" in db.cluster.log()
    assert target not in kafka.topics()
    kafka.create_topic(target)
    settle(db)
    assert state(settled(kafka, target)).keys() == {0, 1, 2}


def test_rights(db, kafka, topics):
    """The login of the table's owner, which lacks one right after another."""
    source, target = topics
    db.q(f"""CREATE SERVER sasl FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '{kafka.sasl_bootstrap}',
        "security.protocol" 'SASL_PLAINTEXT', "sasl.mechanisms" 'PLAIN');
        CREATE USER MAPPING FOR postgres SERVER sasl OPTIONS ("sasl.username" 'bob', "sasl.password" 'bob-secret')""")
    out_table(db, target, server="sasl")
    progress = kafka.create_topic(config={"cleanup.policy": "compact"})
    subscribe(db, source)
    grant = "SELECT kafka.create_acl('kafka', %s, %s, %s, 'User:bob', '*', %s)"
    made = [("topic", target, "literal", "describe"), ("topic", progress, "literal", "describe"), ("topic", progress, "literal", "read"),
            ("topic", progress, "literal", "write")]
    try:
        for acl in made:
            db.q(grant, *acl)
        add_target(db, "out", options={"progress.topic": progress})
        kafka.produce_many(source, rows(range(10)))
        def complains(*words):
            def said():
                row = db.state("subscription", "s")
                assert row["state"] in ("error", "retrying") and all(w in (row["last_error"] or "") for w in words), row
                return True
            wait_until(said, 60)
        complains("Kafka server \"sasl\"", "opic authorization failed")
        assert settled(kafka, target) == []
        db.q(grant, "topic", target, "literal", "write")
        settle(db)
        assert state(settled(kafka, target)).keys() == set(range(10))
    finally:
        for topic in (target, progress):
            db.q("SELECT kafka.drop_acl('kafka', 'topic', %s, NULL, NULL, NULL, NULL)", topic)


def test_refused(db, kafka, topics):
    source, target = topics
    subscribe(db, [source, "^loop[.].*"])
    target_sql = "SELECT kafka.add_target('s', %s::regclass, query => %s, mode => %s, merge => %s, options => '{\"hydrate\": false}')"
    query = "SELECT (after->>'id')::int AS id, after->>'v' AS v FROM batch"
    # loops
    for name, topic in (("loop1", source), ("loop2", "loop.x")):
        out_table(db, topic, name=name)
        assert f'reads topic "{topic}" itself' in refused(db, target_sql, name, query, "upsert", None)
    # without keys, or with such as can be written in several ways
    out_table(db, target, name="unkeyed", key=None)
    assert "have no key" in refused(db, target_sql, "unkeyed", query, "upsert", None)
    out_table(db, target, "id numeric, v text", name="scales")
    assert "written in several ways" in refused(db, target_sql, "scales", query, "upsert", None)
    out_table(db, target)
    assert "must be the columns" in refused(db, "SELECT kafka.add_target('s', 'out', query => %s, key => '{v}')", query,
                                            error=psycopg.errors.InvalidColumnReference)
    assert "cannot be asked" in refused(db, target_sql, "out", query, "merge", '{"v": "last"}')
    # a key that the message key does not tell
    table(db, "wide", target, "id int, v text", key="id,v")
    assert "is not told by the message key" in refused(
        db, target_sql, "wide", "SELECT (after->>'id')::int AS id, upper(after->>'v') AS v FROM batch", "upsert", None)
    # columns that Kafka gives
    table(db, "meta", target, "id int, v text, p int OPTIONS (meta 'partition'), o bigint OPTIONS (meta 'offset')", key="id")
    refused(db, target_sql, "meta", "SELECT (after->>'id')::int AS id, 1 AS p FROM batch", "upsert", None,
            error=psycopg.errors.FeatureNotSupported)
    refused(db, target_sql, "meta", "SELECT (after->>'id')::int AS id, 1::bigint AS o FROM batch", "append", None,
            error=psycopg.errors.GeneratedAlways)
    # formats that are only read
    out_table(db, target, name="debezium", format="debezium")
    refused(db, target_sql, "debezium", query, "append", None, error=psycopg.errors.FeatureNotSupported)
    db.q("CREATE TABLE local (id int PRIMARY KEY, v text)")
    assert "targets that are topics only" in refused(
        db, "SELECT kafka.add_target('s', 'local', options => '{\"progress.topic\": \"x\"}')", error=psycopg.errors.InvalidParameterValue)
    # later
    add_target(db, "out")
    assert "cannot be read again" in refused(db, "SELECT kafka.rebuild_subscription('s')", error=psycopg.errors.FeatureNotSupported)
    db.q("SELECT kafka.alter_subscription('s', %s::jsonb)", json.dumps({"topics": [source, target]}))
    row = db.wait_state("subscription", "s", "error")
    assert f'reads topic "{target}" itself' in row["last_error"]


def test_same_cluster_by_another_name(db, kafka, topics):
    """A loop by a server that says where the brokers are in other words."""
    source, target = topics
    db.create_server(kafka, "alias")
    db.q(f"ALTER SERVER alias OPTIONS (SET \"bootstrap.servers\" '{kafka.bootstrap.replace('127.0.0.1', 'localhost')}')")
    out_table(db, source, server="alias")
    subscribe(db, source)
    add_target(db, "out")
    row = db.wait_state("subscription", "s", "error")
    assert f'reads topic "{source}" itself' in row["last_error"]


def test_truncate(db, kafka, topics):
    source = kafka.create_topic()
    _, target = topics
    out_table(db, target)
    subscribe(db, source, target="out", format="debezium")
    kafka.produce(source, {"before": None, "after": None, "op": "t", "source": {}}, None)
    row = db.wait_state("subscription", "s", "error")
    assert "a truncate cannot be written to a topic" in row["last_error"]


def test_key_that_is_not_told(db, kafka, topics):
    """The key's columns are fields, but not all of them are the message key's: seen when messages come."""
    source, target = topics
    table(db, "wide", target, "id int, v text", key="id,v")
    subscribe(db, source)
    add_target(db, "wide", "SELECT (after->>'id')::int AS id, after->>'v' AS v FROM batch")
    kafka.produce_many(source, rows(range(3)))
    row = db.wait_state("subscription", "s", "error")
    assert "the message key tells only a part of the key" in row["last_error"]
    assert settled(kafka, target) == []
