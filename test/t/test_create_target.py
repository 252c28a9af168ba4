"""Option "create_target": the worker makes the table that the messages need, and it is a target like any other from then on."""

import json
import re
import subprocess

import psycopg
import pytest

from conftest import wait_until
from pipelines import same_rows
from publisher_util import create, prefix, sync
from test_evolve import as_role, column_types, roles  # noqa: F401
from test_subscription import envelope, topic  # noqa: F401

CREATE = {"create_target": True}


def subscribe(db, topic, format="json", name="s", topics=None, role=None, **kwargs):
    options = {**CREATE, **kwargs.pop("options", {})}
    named = "".join(f", {k} => %s" for k in kwargs)
    sql = f"SELECT kafka.create_subscription(%s, 'kafka', %s, format => %s, options => %s::jsonb{named})"
    params = (name, topics or [topic], format, json.dumps(options), *kwargs.values())
    as_role(db, role, sql, *params) if role else db.q(sql, *params)


def targets(db):
    return db.q("SELECT target::text, mode, key FROM kafka.subscription_target")


def key_of(db, table):
    return [n for (n,) in db.q("SELECT attname::text FROM pg_index, unnest(indkey) WITH ORDINALITY k(n, i) JOIN pg_attribute a ON attnum = k.n "
                               "WHERE indrelid = %s::regclass AND indisprimary AND attrelid = indrelid ORDER BY k.i", table)]


def failed(db, *words):
    def says():
        error = db.state("subscription", "s")["last_error"] or ""
        return all(word in error for word in words) and error
    return wait_until(says, what=f"an error with {words}")


def test_from_schemas(make_db, kafka):
    """Our own publisher with schemas; two databases make the same table, in the schema of the same name, keys in their order."""
    source, one, two = make_db(), make_db(), make_db()
    for db in (source, one, two):
        db.create_server(kafka)
        db.q("CREATE SCHEMA shop")
    ddl = "(at timestamp, id int, \"Total\" numeric(10,2), t text, a int[], PRIMARY KEY (id, at))"
    source.q(f"CREATE TABLE shop.\"Orders\" {ddl}; INSERT INTO shop.\"Orders\" SELECT '2024-01-01', i, i / 3.0, 'x', ARRAY[i, NULL] FROM generate_series(1, 500) i")
    topics = prefix()
    create(source, "p", 'FOR TABLE shop."Orders"', topics, snapshot="initial", format="debezium", options='{"schemas": true}')
    sync(source, "p")
    for db in (one, two):
        subscribe(db, f"{topics}.shop.Orders", "debezium", options={"evolve": True}, workers=2)
        db.wait_for_subscription("s")
        assert column_types(db, 'shop."Orders"') == {
            "at": "timestamp without time zone", "id": "integer", "Total": "numeric(10,2)", "t": "text", "a": "integer[]"}
        assert key_of(db, 'shop."Orders"') == ["id", "at"]
        same_rows(source, db, 'shop."Orders"')
        assert targets(db) == [('shop."Orders"', "upsert", ["id", "at"])]
        # the request is gone, what else was asked for stays
        assert db.value("SELECT options FROM kafka.subscription") == {"evolve": True}
        db.wait_state("subscription", "s", "streaming")
    assert 'created table shop."Orders" as its target' in one.cluster.log()
    source.q('ALTER TABLE shop."Orders" ADD COLUMN later date; UPDATE shop."Orders" SET later = \'2024-02-29\' WHERE id < 10; DELETE FROM shop."Orders" WHERE id > 400')
    sync(source, "p")
    for db in (one, two):
        db.wait_for_subscription("s")
        same_rows(source, db, 'shop."Orders"')


def test_empty_topic(db, kafka, topic):
    """State waiting says so; tombstones and truncates tell nothing; the first row does, and nothing before it is lost."""
    subscribe(db, topic, "debezium", options={"column_types": {"id": "bigint", "d": "date"}})
    row = db.wait_state("subscription", "s", "waiting")
    db.wait("SELECT detail = 'the first message is waited for, to create the target' FROM kafka.subscription_status")
    assert row["targets"] is None
    kafka.produce_many(topic, [({"id": 7}, None), (None, {"op": "t", "source": {"ts_ms": 1}, "ts_ms": 1})])
    kafka.produce_many(topic, [({"id": i}, envelope("c", after={"id": i, "d": 19000 + i})) for i in range(3)])
    db.wait_for_subscription("s")
    table = topic.split(".")[-1]
    assert db.q(f'SELECT id, d::text FROM "{table}" ORDER BY id') == [(0, "2022-01-08"), (1, "2022-01-09"), (2, "2022-01-10")]
    assert column_types(db, f'"{table}"') == {"id": "bigint", "d": "date"}


def test_topic_that_does_not_exist_yet(db, kafka):
    name = kafka.new_topic_name()
    subscribe(db, name)
    db.wait("SELECT state = 'retrying' AND detail ~ 'does not exist' FROM kafka.subscription_status")
    kafka.create_topic(name)
    kafka.produce(name, {"id": 1}, {"id": 1})
    db.wait_for_subscription("s", 60)
    assert db.value("SELECT count(*) FROM kafka.subscription_target") == 1


def test_types_that_are_not_known(db, kafka, topic):
    """State error with the way out; the topic's foreign table, or column_types, is one."""
    kafka.produce(topic, envelope("c", after={"id": 1, "ts": 1500, "n": None}), {"id": 1})
    subscribe(db, topic, "debezium", options={"create_target.name": "public.made"})
    error = failed(db, f'topic "{topic}", partition 0, offset 0', '"id"', "nothing tells its type")
    assert "created" not in error and db.value("SELECT to_regclass('made')") is None
    db.q(f"CREATE FOREIGN TABLE f (id int, ts timestamp(3)) SERVER kafka OPTIONS (topic '{topic}', format 'debezium')")
    db.q("SELECT kafka.resume_subscription('s')")
    failed(db, '"n"', "nothing tells its type")
    db.q("""SELECT kafka.alter_subscription('s', '{"column_types": {"n": "numeric(5,1)"}}')""")
    db.wait_for_subscription("s")
    assert column_types(db, "made") == {"id": "integer", "ts": "timestamp(3) without time zone", "n": "numeric(5,1)"}
    assert db.q("SELECT id, ts::text, n FROM made") == [(1, "1970-01-01 00:00:01.5", None)]


def test_json_key_and_append(db, kafka):
    """Values that stand for themselves; the key of the call, or none."""
    one, two, three = kafka.create_topic(), kafka.create_topic(), kafka.create_topic()
    messages = [('"k"', {"id": 1, "a": None, "b": True}), ('"k"', {"id": 2, "a": "x", "o": {"y": 1}}), ('"k"', {"id": 2, "a": "z"})]
    for t in (one, two, three):
        kafka.produce_many(t, messages)
    subscribe(db, one, options={"create_target.name": "one"}, key=["id"])
    subscribe(db, two, name="s2", options={"create_target.name": '"Two"'}, mode="append")
    for name in ("s", "s2"):
        db.wait_for_subscription(name)
    assert column_types(db, "one") == {"id": "numeric", "b": "boolean", "a": "text", "o": "jsonb"} and key_of(db, "one") == ["id"]
    assert db.q("SELECT id, a, b, o FROM one ORDER BY id") == [(1, None, True, None), (2, "z", None, {"y": 1})]
    assert key_of(db, '"Two"') == [] and db.value('SELECT count(*) FROM "Two"') == 3
    assert sorted(targets(db)) == [('"Two"', "append", []), ("one", "upsert", ["id"])]
    # a bare key names no column
    db.q("SELECT kafka.drop_subscription('s')")
    subscribe(db, three, options={"create_target.name": "three"})
    failed(db, "bare value")
    db.q("""SELECT kafka.alter_subscription('s', '{"create_target.key": ["id"]}')""")
    db.wait_for_subscription("s")
    assert key_of(db, "three") == ["id"]


def test_csv_header(db, kafka, topic):
    kafka.produce(topic, "id,v\n1,x\n2,y")
    subscribe(db, topic, "csv", options={"csv.header": True, "create_target.name": "c", "column_types": {"id": "int"}}, key=["id"])
    db.wait_for_subscription("s")
    assert db.q("SELECT * FROM c ORDER BY id") == [(1, "x"), (2, "y")] and column_types(db, "c") == {"id": "integer", "v": "text"}


def test_place(db, kafka):
    """The name: of the option, the source's table, or the topic; the schema: the source's if it exists, or the caller's."""
    db.q("CREATE SCHEMA first; CREATE SCHEMA other")
    db.q("SET search_path = nosuch, first, public")
    names = {}
    for schema, table in (("other", "a"), ("absent", "b"), ("pg_catalog", "c"), (None, None)):
        topic = names[table] = kafka.create_topic()
        source = {"ts_ms": 1, **({"schema": schema, "table": table} if table else {})}
        kafka.produce(topic, {**envelope("c", after={"id": 1}), "source": source}, {"id": 1})
        subscribe(db, topic, "debezium", name=f"s_{table}", options={"column_types": {"id": "int"}})
    assert db.value("SHOW search_path") == "nosuch, first, public"
    db.q("RESET search_path")
    for table in ("a", "b", None):
        db.wait_for_subscription(f"s_{table}")
    assert {t.replace('"', "") for t, *_ in targets(db)} == {"other.a", "first.b", f"first.{names[None].split('.')[-1]}"}
    error = wait_until(lambda: db.state("subscription", "s_c")["last_error"])
    assert 'cannot create the target in schema "pg_catalog"' in error


BAD_REQUESTS = {
    "topics": (dict(topics=["a", "b"]), "several topics"), "pattern": (dict(topics=["^a"]), "pattern"), "format": (dict(format="raw"), "format raw"),
    "metadata": (dict(options={"metadata_columns": {"o": "offset"}}), "metadata_columns"), "mode": (dict(mode="merge"), "create_target.mode|merge"),
    "name": (dict(options={"create_target.name": "a.b.c"}), "create_target.name"), "schema": (dict(options={"create_target.name": "nosuch.b"}), "does not exist"),
    "ours": (dict(options={"create_target.name": "kafka.b"}), 'in schema "kafka"'), "exists": (dict(options={"create_target.name": "there"}), "exists already"),
    "alone": (dict(options={"create_target": False, "create_target.name": "a"}), "need option \"create_target\""),
    "target": (dict(target="there"), "argument target"), "append": (dict(mode="append", key=["id"]), "key"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests(db, case):
    """Refused at the call, with the way out."""
    arguments, words = BAD_REQUESTS[case]
    db.q("CREATE TABLE there (id int PRIMARY KEY)")
    with pytest.raises(psycopg.Error) as e:
        subscribe(db, "t", **arguments)
    assert re.search(words, e.value.diag.message_primary), e.value.diag.message_primary
    assert e.value.diag.message_hint


def test_rights(db, kafka, topic, roles):
    """The table is the subscription's owner's, who needs CREATE on the schema, when it is asked for and when it is made."""
    sub, tab = roles
    db.q("CREATE SCHEMA closed")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as e:
        subscribe(db, topic, options={"create_target.name": "closed.t"}, role=sub)
    assert "GRANT USAGE, CREATE ON SCHEMA closed" in e.value.diag.message_hint
    db.q(f'GRANT USAGE, CREATE ON SCHEMA closed TO "{sub}"')
    subscribe(db, topic, options={"create_target.name": "closed.t"}, role=sub)
    db.wait_state("subscription", "s", "waiting")
    db.q(f'REVOKE CREATE ON SCHEMA closed FROM "{sub}"')
    kafka.produce(topic, {"id": 1}, {"id": 1})
    failed(db, f'"{sub}" may not create tables in schema "closed"')
    db.q(f'GRANT CREATE ON SCHEMA closed TO "{sub}"')
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")
    assert db.value("SELECT relowner::regrole::text FROM pg_class WHERE oid = 'closed.t'::regclass").strip('"') == sub


def test_target_comes_another_way(db, kafka, topic):
    """kafka.add_target ends the request; with a target it is refused."""
    subscribe(db, topic)
    db.q("CREATE TABLE t (id int PRIMARY KEY); SELECT kafka.add_target('s', 't')")
    assert db.value("SELECT options FROM kafka.subscription") == {}
    kafka.produce(topic, {"id": 1}, {"id": 1})
    db.wait_for_subscription("s")
    assert db.q("SELECT id FROM t") == [(1,)]
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        db.q("""SELECT kafka.alter_subscription('s', '{"create_target": true}')""")
    # without one it can be asked for again, and reads on from where the other was
    db.q("SELECT kafka.drop_target('s', 't')")
    with pytest.raises(psycopg.errors.InvalidSchemaName):
        db.q("""SELECT kafka.alter_subscription('s', '{"create_target": true}')""")
    db.q("""SELECT kafka.alter_subscription('s', '{"create_target": true, "create_target.name": "public.again"}')""")
    kafka.produce(topic, {"id": 2}, {"id": 2})
    db.wait_for_subscription("s")
    assert db.q("SELECT id FROM again") == [(2,)]


def test_kill_9_and_dump(private_cluster, kafka):
    """A crash while the table is made leaves neither it nor half a target; both survive dump and restore."""
    cluster, db = private_cluster, private_cluster.create_database()
    db.create_server(kafka)
    topic = kafka.create_topic()
    db.q("CREATE FUNCTION hold() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); END $$;"
         "CREATE EVENT TRIGGER hold ON ddl_command_end WHEN tag IN ('CREATE TABLE') EXECUTE FUNCTION hold()")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "x"}) for i in range(100)])
    db.q("SELECT pg_advisory_lock(1)")
    subscribe(db, topic, options={"create_target.name": "made"})
    holding = "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND NOT granted AND backend_type ~ 'subscription'"
    pid = wait_until(lambda: db.q(holding), what="the worker in CREATE TABLE")[0][0]
    ready = "database system is ready to accept connections"
    starts = cluster.log().count(ready)
    cluster.kill_worker(pid)
    db.close()
    wait_until(lambda: cluster.log().count(ready) > starts, 60, what="the restart after a crash")
    db.wait_for_subscription("s")
    assert db.one("SELECT count(*), count(v) FROM made") == (100, 100)
    assert targets(db) == [("made", "upsert", ["id"])]
    db.q("DROP EVENT TRIGGER hold")
    copy = cluster.create_database(extension=False)
    subprocess.run(f'pg_dump "{cluster.dsn(db.name)}" | psql -qX -v ON_ERROR_STOP=1 "{cluster.dsn(copy.name)}"', shell=True, check=True)
    assert targets(copy) == [("made", "upsert", ["id"])] and copy.value("SELECT options FROM kafka.subscription") == {}
