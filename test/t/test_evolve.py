"""Option "evolve": columns that messages have and a target lacks are added to it."""

import json

import psycopg
import pytest

from conftest import wait_until
from pipelines import same_rows
from publisher_util import create, prefix, sync
from test_formats_in import MYSQL, keyed, rows, stopped, wrapped
from test_subscription import envelope, subscribe, table, topic  # noqa: F401

EVOLVE = {"evolve": True}

# what a source's column is, and what the target's becomes
TYPES = {
    "i": ("int", "integer"), "si": ("smallint", "smallint"), "bi": ("bigint", "bigint"), "n": ("numeric(10,2)", "numeric(10,2)"),
    "bare": ("numeric", "numeric"), "txt": ("text", "text"), "vc": ("varchar(20)", "text"), "b": ("boolean", "boolean"), "d": ("date", "date"),
    "tm": ("time", "time without time zone"), "ts": ("timestamp", "timestamp without time zone"),
    "ms": ("timestamp(3)", "timestamp without time zone"), "tz": ("timestamptz", "timestamp with time zone"), "u": ("uuid", "uuid"),
    "j": ("jsonb", "jsonb"), "by": ("bytea", "bytea"), "dp": ("double precision", "double precision"), "r": ("real", "real"),
    "iv": ("interval", "interval"), "a": ("int[]", "integer[]"), "na": ("numeric(8,3)[]", "numeric(8,3)[]"), "ta": ("text[]", "text[]"),
    "da": ("date[]", "date[]"), "e": ("mood", "text"), "ttz": ("timetz", "time with time zone"), "m": ("money", "numeric"),
    "x": ("xml", "xml"), "p": ("point", "point"), "i4": ("inet", "text"), "vb": ("bit varying", "bit varying"), "Odd \"name\"é": ("text", "text"),
}
VALUES = ("(1, 5, -3, 9007199254740993, 1234.56, 1e40, 'a', 'vc', true, '2024-02-29', '12:34:56.789012', '2024-02-29 12:00:00.123456', "
          "'2024-02-29 12:00:00.123', '2024-02-29 12:00+02', '2f4ef7a7-7d4c-4d2a-9c0f-0d8f5a0d5a11', '{\"a\": [1, null]}', '\\x00ff', 0.1, 1.5, "
          "'1 day 02:03:04.5', '{1,NULL,3}', '{1.125,NULL}', '{a,\"b c\",NULL}', '{2024-02-29}', 'ok', '12:00:00+00', '12.34', '<a>1</a>', "
          "'(1.5,2)', '10.0.0.1/32', B'10110', 'odd')")


def column_types(db, name="t"):
    return dict(db.q("SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute "
                     "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum", name))


def quoted(names):
    return ", ".join('"' + name.replace('"', '""') + '"' for name in names)


def test_types_there_and_back(make_db, kafka):
    """Columns of every common type, added to the source while it is published, arrive with their values."""
    source, target = make_db(), make_db()
    for db in (source, target):
        db.create_server(kafka)
        db.q("CREATE TABLE t (id int PRIMARY KEY)")
    topics = prefix()
    source.q("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    create(source, "p", "FOR TABLE t", topics, format="debezium", options='{"schemas": true}')
    subscribe(target, f"{topics}.public.t", "t", format="debezium", options=EVOLVE)
    source.q("INSERT INTO t VALUES (0)")
    sync(source, "p")
    target.wait_for_subscription("s")
    for name, (type, _) in TYPES.items():
        source.q(f"ALTER TABLE t ADD COLUMN {quoted([name])} {type}")
    source.q(f"INSERT INTO t VALUES {VALUES}")
    source.q("INSERT INTO t (id) VALUES (2)")
    sync(source, "p")
    target.wait_for_subscription("s")
    assert column_types(target) == {"id": "integer", **{name: type for name, (_, type) in TYPES.items()}}
    exact = [name for name in TYPES if name not in ("m", "iv")]
    same_rows(source, target, "t", "id, " + quoted(exact) + ", iv = '1 day 02:03:04.5', m::numeric")
    assert target.value("SELECT bool_and(NOT attnotnull) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 1")
    assert target.value("SELECT columns_added FROM kafka.subscription_status") == len(TYPES)
    log = target.cluster.log()
    for name, (_, type) in TYPES.items():
        assert f'subscription "s": added column "{name}" of type {type} to table public.t' in log
    # a column that goes stays as it is; a later one comes
    source.q("ALTER TABLE t DROP COLUMN n, ADD COLUMN later int DEFAULT 7")
    source.q("UPDATE t SET txt = 'changed' WHERE id = 1")
    sync(source, "p")
    target.wait_for_subscription("s")
    assert target.q("SELECT id, txt, n::text, later FROM t ORDER BY id") == [(0, None, None, None), (1, "changed", "1234.56", 7), (2, None, None, None)]
    # another type does not alter the column
    source.q("ALTER TABLE t ALTER later TYPE text")
    source.q("INSERT INTO t (id, later) VALUES (3, 'seven')")
    error = target.wait_state("subscription", "s", "error")["last_error"]
    assert '"later"' in error and "seven" in error and column_types(target)["later"] == "integer"


def event(fields, row, source=MYSQL, op="c"):
    return wrapped(fields, {"op": op, "before": None, "after": row, "source": source, "ts_ms": 1, "transaction": None})


def test_schemas_of_mysql_and_oracle(db, kafka, topic):
    """Connect's types and names; what the connector tells of the source's columns."""
    def column(type, of=None, length=None):
        parameters = {k: v for k, v in (("__debezium.source.column.type", of), ("__debezium.source.column.length", length)) if v}
        return {**type, "parameters": {**type.get("parameters", {}), **parameters}}
    decimal = {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal"}
    fields = [("id", {"type": "int32"}), ("active", {"type": "int16"}),
              ("since", {"type": "int64", "name": "io.debezium.time.Timestamp", "version": 1}),
              ("seen", {"type": "string", "name": "io.debezium.time.ZonedTimestamp", "version": 1}),
              ("born", {"type": "int32", "name": "io.debezium.time.Date"}), ("at", {"type": "int64", "name": "io.debezium.time.MicroTime"}),
              ("balance", {**decimal, "parameters": {"scale": "2"}}),
              ("big", {**decimal, "parameters": {"scale": "0", "connect.decimal.precision": "20"}}),
              ("flags", column({"type": "bytes", "name": "io.debezium.data.Bits", "parameters": {"length": "5"}}, "BIT", "5")),
              ("kind", {"type": "string", "name": "io.debezium.data.EnumSet", "parameters": {"allowed": "a,b"}}),
              ("doc", {"type": "string", "name": "io.debezium.data.Json"}), ("year", {"type": "int32", "name": "io.debezium.time.Year"}),
              ("photo", {"type": "bytes"}), ("name", column({"type": "string"}, "VARCHAR", "255")),
              ("nested", {"type": "struct", "name": "x.Nested", "fields": [{"type": "int32", "field": "a"}]}),
              ("map", {"type": "map", "keys": {"type": "string"}, "values": {"type": "string"}}),
              ("ANY_NUMBER", {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal", "fields": [
                  {"type": "int32", "field": "scale"}, {"type": "bytes", "field": "value"}]}),
              ("SPAN", {"type": "int64", "name": "io.debezium.time.MicroDuration"})]
    row = {"id": 1, "active": 1, "since": 1529476623000, "seen": "2018-06-20T13:37:03Z", "born": 17702, "at": 3723000001, "balance": "AeJA",
           "big": "AP//////////", "flags": "FQ==", "kind": "a,b", "doc": '{"a": 1}', "year": 2018, "photo": "AP8=", "name": "Anne",
           "nested": {"a": 1}, "map": {"k": "v"}, "ANY_NUMBER": {"scale": 1, "value": "+w=="}, "SPAN": 93784000000}
    kafka.produce(topic, event(fields, row), keyed("id", "int32", 1))
    table(db, "id int PRIMARY KEY")
    subscribe(db, topic, "t", format="debezium", options=EVOLVE)
    db.wait_for_subscription("s")
    assert column_types(db) == {
        "id": "integer", "active": "smallint", "since": "timestamp without time zone", "seen": "timestamp with time zone", "born": "date",
        "at": "time without time zone", "balance": "numeric", "big": "numeric(20,0)", "flags": "bit(5)", "kind": "text", "doc": "jsonb",
        "year": "integer", "photo": "bytea", "name": "character varying(255)", "nested": "jsonb", "map": "jsonb", "ANY_NUMBER": "numeric",
        "SPAN": "interval"}
    assert db.one('SELECT since::text, born::text, at::text, balance::text, big::text, flags::text, doc, year, photo, nested, map, "ANY_NUMBER"::text, '
                  '"SPAN"::text FROM t') == ("2018-06-20 06:37:03", "2018-06-20", "01:02:03.000001", "1234.56", str(2**64 - 1), "10101", {"a": 1},
                                             2018, b"\0\xff", {"a": 1}, {"k": "v"}, "-0.5", "26:03:04")


def with_schema(name, schema, value, key=2):
    return event([("id", {"type": "int32"}), (name, schema)], {"id": key, name: value})


REFUSED = {
    "no schema": (envelope("c", after={"id": 2, "x": 19000}), ['"x"', "nothing tells its type"]),
    "no schema, text": (envelope("c", after={"id": 2, "x": "AeJA"}), ['"x"', "nothing tells its type"]),
    "not in the schema": (wrapped([("id", {"type": "int32"})], envelope("c", after={"id": 2, "x": 1})), ['"x"', "nothing tells"]),
    "bits": (with_schema("x", {"type": "bytes", "name": "io.debezium.data.Bits", "parameters": {"length": "5"}}, "FQ=="), ['"x"', "bits"]),
    "unknown unit": (with_schema("x", {"type": "int64", "name": "com.example.Lightyears"}, 1), ['"x"', "name that is not known"]),
    "long name": (with_schema("é" * 32, {"type": "int32"}, 1), ["longer than 63 bytes"]),
    "system column": (with_schema("ctid", {"type": "int32"}, 1), ['"ctid"', "system column"]),
    "no name": (with_schema("", {"type": "int32"}, 1), ["no name"]),
    "nul": (with_schema("a\0b", {"type": "int32"}, 1), ["null character"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(db, kafka, topic, case):
    """What cannot be known, or be a column, stops the subscription there, with nothing added, not even for other fields."""
    value, words = REFUSED[case]
    table(db, "id int, id2 int, PRIMARY KEY (id)")
    if "schema" in value:
        value["payload"]["after"]["fine"] = 1
        for part in value["schema"]["fields"][:2]:
            part["fields"].append({"type": "int32", "field": "fine"})
    kafka.produce_many(topic, [({"id": 1}, envelope("c", after={"id": 1})), ({"id": 2}, value), ({"id": 3}, envelope("c", after={"id": 3}))])
    if case == "no name":
        db.q("DROP TABLE t; CREATE TABLE t (id int, id2 int DEFAULT 0, PRIMARY KEY (id, id2))")
        subscribe(db, topic, "t", format="debezium", options=EVOLVE, mode="append")
    else:
        subscribe(db, topic, "t", format="debezium", options=EVOLVE)
    error = stopped(db, topic, 1)
    for word in words:
        assert word in error, error
    assert list(column_types(db)) == ["id", "id2"]
    # with ignore_unknown_columns, what cannot be added is left out
    db.q("""SELECT kafka.alter_subscription('s', '{"ignore_unknown_columns": true}')""")
    db.wait_for_subscription("s")
    assert rows(db, "id") == [(1,), (2,), (3,)]
    assert list(column_types(db)) == ["id", "id2"] + (["fine"] if "schema" in value else [])


def test_type_from_option_or_foreign_table(db, kafka, topic):
    """Where the message does not tell: option column_types, then the topic's foreign table, of someone who is trusted."""
    table(db, "id int PRIMARY KEY")
    kafka.produce(topic, envelope("c", after={"id": 1, "d": 19000, "ts": 1500, "w": None}), {"id": 1})
    subscribe(db, topic, "t", format="debezium", options={**EVOLVE, "column_types": {"d": "date"}})
    assert '"ts"' in stopped(db, topic, 0)
    db.q("CREATE ROLE stranger; GRANT USAGE ON FOREIGN SERVER kafka TO stranger; CREATE SCHEMA s AUTHORIZATION stranger")
    try:
        db.q(f"CREATE FOREIGN TABLE g (ts int) SERVER kafka OPTIONS (topic '{topic}', format 'debezium');"
             f"CREATE FOREIGN TABLE f (id int, at timestamp(3) OPTIONS (path 'ts')) SERVER kafka OPTIONS (topic '{topic}', format 'debezium')")
        db.q("SELECT kafka.resume_subscription('s')")
        assert "do not agree" in wait_until(lambda: "agree" in (e := db.state("subscription", "s")["last_error"]) and e)
        # a stranger's table does not count, nor is it waited for: the code of his type would run with the rights of others
        db.q("DROP FOREIGN TABLE g; CREATE DOMAIN s.d AS int; ALTER DOMAIN s.d OWNER TO stranger;"
             f"CREATE FOREIGN TABLE s.f (ts s.d) SERVER kafka OPTIONS (topic '{topic}', format 'debezium');"
             "ALTER FOREIGN TABLE s.f OWNER TO stranger")
        with db.connect(autocommit=False) as connection:
            connection.execute("SET ROLE stranger; ALTER FOREIGN TABLE s.f ADD COLUMN x int")
            db.q("SELECT kafka.resume_subscription('s')")
            db.wait_for_subscription("s")
    finally:
        db.q("DROP OWNED BY stranger CASCADE; DROP ROLE stranger")
    assert column_types(db) == {"id": "integer", "d": "date", "ts": "timestamp(3) without time zone"}
    assert db.one("SELECT d::text, ts::text FROM t") == ("2022-01-08", "1970-01-01 00:00:01.5")


def test_json(db, kafka, topic):
    """JSON values stand for themselves: numbers are numeric. A null adds nothing, and nothing is lost by that."""
    table(db, "id int PRIMARY KEY")
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "n": None}), ({"id": 2}, {"id": 2, "n": 12345678901234567890.5, "b": True, "s": "2024-01-01"}),
                               ({"id": 3}, {"id": 3, "o": {"a": [1]}, "l": [1, "x"], "n": 0.1})])
    subscribe(db, topic, "t", options=EVOLVE)
    db.wait_for_subscription("s")
    assert column_types(db) == {"id": "integer", "n": "numeric", "b": "boolean", "s": "text", "o": "jsonb", "l": "jsonb"}
    assert db.q("SELECT id, n::float8, b, s, o, l FROM t ORDER BY id") == [
        (1, None, None, None, None, None), (2, 12345678901234567890.5, True, "2024-01-01", None, None), (3, 0.1, None, None, {"a": [1]}, [1, "x"])]
    kafka.produce(topic, {"id": 4, "n": "not a number"}, {"id": 4})
    assert '"n"' in stopped(db, topic, 3)
    assert column_types(db)["n"] == "numeric"


def test_csv_header_and_append(db, kafka, topic):
    table(db, "at timestamptz DEFAULT now()")
    kafka.produce_many(topic, [(None, "id,v\n1,x\n2,y"), (None, "id,w\n3,z")])
    subscribe(db, topic, "t", format="csv", mode="append", options={**EVOLVE, "csv.header": True, "column_types": {"id": "bigint"}})
    db.wait_for_subscription("s")
    assert {n: t for n, t in column_types(db).items() if n != "at"} == {"id": "bigint", "v": "text", "w": "text"}
    assert rows(db, "id, v, w") == [(1, "x", None), (2, "y", None), (3, None, "z")]


def test_unchanged_values(db, kafka, topic):
    """A field of which the message says no more than that it is unchanged has to be known otherwise."""
    table(db, "id int PRIMARY KEY")
    unchanged = [("pg_kafka_sync.unchanged", b'["big"]')]
    kafka.produce(topic, {"id": 1}, {"id": 1})
    kafka.produce(topic, {"id": 1, "n": 2}, {"id": 1}, headers=unchanged)
    subscribe(db, topic, "t", options=EVOLVE)
    assert '"big"' in stopped(db, topic, 1)
    db.q("""SELECT kafka.alter_subscription('s', '{"column_types": {"big": "text"}}')""")
    db.wait_for_subscription("s")
    assert db.q("SELECT id, n, big FROM t") == [(1, 2, None)]


def test_targets_of_all_kinds(db, kafka, topic):
    """Partitioned, published, with a view and with a trigger; one with a query has what the query gives and no more."""
    db.q("CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100);"
         "CREATE TABLE u (id int PRIMARY KEY); CREATE VIEW v AS SELECT * FROM u; CREATE PUBLICATION pub FOR TABLE u;"
         "CREATE TABLE q (id int PRIMARY KEY, x numeric)")
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, NULL, 'json', options => '{\"evolve\": true}', enabled => false)", [topic])
    for name in ("t", "u"):
        db.q("SELECT kafka.add_target('s', %s)", name)
    db.q("SELECT kafka.add_target('s', 'q', query => $$SELECT (after->>'id')::int AS id, (after->>'x')::numeric AS x FROM kafka.batch$$)")
    db.q("SELECT kafka.resume_subscription('s')")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "x": i, "y": f"y{i}"}) for i in range(5)])
    db.wait_for_subscription("s")
    for name in ("t", "u", "t1"):
        assert column_types(db, name) == {"id": "integer", "x": "numeric", "y": "text"}
        assert rows(db, "id, x, y", name) == [(i, i, f"y{i}") for i in range(5)]
    assert column_types(db, "q") == {"id": "integer", "x": "numeric"} and rows(db, "id", "v") == [(i,) for i in range(5)]


def test_too_many_columns(db, kafka, topic):
    table(db, "id int PRIMARY KEY, " + ", ".join(f"c{i} bool" for i in range(1599)))
    kafka.produce_many(topic, [({"id": 1}, {"id": 1}), ({"id": 2}, {"id": 2, "more": 1})])
    subscribe(db, topic, "t", options=EVOLVE)
    error = stopped(db, topic, 1)
    assert '"more"' in error and "1600 columns" in error


def test_two_workers(db, kafka):
    """Both meet the same new columns at once; each column is added once."""
    topic = kafka.create_topic(partitions=2)
    table(db, "id int PRIMARY KEY")
    subscribe(db, topic, "t", workers=2, options=EVOLVE)
    for n in range(4):
        kafka.produce_many(topic, [dict(key={"id": i}, value={"id": i, f"c{n}": i, f"d{n}": "x"}, partition=i % 2)
                                   for i in range(n * 100, n * 100 + 100)])
    db.wait_for_subscription("s")
    assert column_types(db).keys() == {"id", *(f"{c}{n}" for c in "cd" for n in range(4))}
    assert db.value("SELECT count(*) FROM t WHERE num_nonnulls(c0, c1, c2, c3) = 1 AND num_nonnulls(d0, d1, d2, d3) = 1") == 400
    assert db.value("SELECT columns_added FROM kafka.subscription_status") == 8
    assert db.value("SELECT state FROM kafka.subscription_status") == "streaming"


def test_kill_9(private_cluster, kafka):
    """A crash while columns are added and rows written: all rows are there once, each column once."""
    cluster, db = private_cluster, private_cluster.create_database()
    db.create_server(kafka)
    topic = kafka.create_topic(partitions=2)
    db.q("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE seen (id int)")
    db.q("CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (NEW.id); RETURN NULL; END $$;"
         "CREATE TRIGGER seen AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION seen()")
    kafka.produce_many(topic, [dict(key={"id": i}, value={"id": i, **({f"c{i // 100}": i} if i >= 100 else {})}, partition=i % 2)
                               for i in range(1500)])
    subscribe(db, topic, "t", options={**EVOLVE, "max_batch_rows": 50})
    for columns in (4, 9):
        db.wait("SELECT count(*) > %s FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0", columns)
        ready = "database system is ready to accept connections"
        starts = cluster.log().count(ready)
        cluster.kill_worker(wait_until(lambda: cluster.worker_pids("pg_kafka_sync subscription", db.name))[0])
        db.close()
        wait_until(lambda: cluster.log().count(ready) > starts, 60, what="the restart after a crash")
    db.wait_for_subscription("s")
    assert column_types(db).keys() == {"id", *(f"c{n}" for n in range(1, 15))}
    assert db.value("SELECT count(*) FROM t WHERE num_nonnulls(" + ", ".join(f"c{n}" for n in range(1, 15)) + ") = (id >= 100)::int") == 1500
    assert db.one("SELECT count(*), count(DISTINCT id) FROM seen") == (1500, 1500)


@pytest.fixture
def roles(db, kafka):
    """The subscription's owner, and the table's, whom he may become."""
    names = [f"r_{db.name}_{n}" for n in ("sub", "tab")]
    db.q("".join(f'CREATE ROLE "{n}";' for n in names))
    db.q(f'GRANT USAGE ON FOREIGN SERVER kafka TO "{names[0]}"; GRANT "{names[1]}" TO "{names[0]}"; CREATE SCHEMA own AUTHORIZATION "{names[1]}"')
    yield names
    db.q("SELECT kafka.drop_subscription(name) FROM kafka.subscription")
    db.q(f'DROP OWNED BY "{names[0]}", "{names[1]}" CASCADE; DROP ROLE "{names[0]}", "{names[1]}"')


def as_role(db, role, sql, *params):
    with db.connect() as connection:
        connection.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(role)))
        return connection.execute(sql, params)


def test_rights(db, kafka, topic, roles):
    """Columns are added as the table's owner, who needs a right to their types; event triggers see him."""
    sub, tab = roles
    db.q(f"""CREATE TABLE own.t (id int PRIMARY KEY); ALTER TABLE own.t OWNER TO "{tab}"; CREATE TABLE ddl (who text, tag text);
             GRANT INSERT ON ddl TO "{tab}";
             CREATE FUNCTION ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO public.ddl VALUES (current_user, tg_tag); END $$;
             CREATE EVENT TRIGGER ddl ON ddl_command_end WHEN tag IN ('ALTER TABLE') EXECUTE FUNCTION ddl();
             CREATE DOMAIN secret AS int; REVOKE USAGE ON TYPE secret FROM PUBLIC""")
    kafka.produce_many(topic, [({"id": 1}, {"id": 1}), ({"id": 2}, {"id": 2, "x": 1})])
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 'own.t', 'json', options => %s, enabled => false)", [topic],
         json.dumps({**EVOLVE, "column_types": {"x": "public.secret"}}))
    db.q("SELECT kafka.set_owner('subscription', 's', %s)", sub)
    db.q("SELECT kafka.resume_subscription('s')")
    error = stopped(db, topic, 1)
    assert 'cannot add column "x" to table own.t' in error and "permission denied for type" in error
    assert list(column_types(db, "own.t")) == ["id"]
    db.q(f'GRANT USAGE ON TYPE secret TO "{tab}"')
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")
    assert db.q("SELECT id, x FROM own.t ORDER BY id") == [(1, None), (2, 1)]
    assert db.q("SELECT * FROM ddl") == [(tab, "ALTER TABLE")]
    # the subscription's owner loses the right to act as the table's: that is told, and nothing is added
    db.q(f'REVOKE "{tab}" FROM "{sub}"')
    kafka.produce(topic, {"id": 3, "y": 1}, {"id": 3})
    assert "may not act as the table's owner" in db.wait_state("subscription", "s", "error")["last_error"]
    assert list(column_types(db, "own.t")) == ["id", "x"]


def test_locked_table(db, kafka, topic):
    """A reader's lock is waited for, a second at a time, with other readers let through between; the subscription can be paused."""
    table(db, "id int PRIMARY KEY")
    subscribe(db, topic, "t", options=EVOLVE)
    db.wait_state("subscription", "s", "streaming")
    with db.connect() as holder, holder.transaction():
        holder.execute("SELECT * FROM t")
        kafka.produce_many(topic, [({"id": 1}, {"id": 1, "x": 1})])
        row = db.wait_state("subscription", "s", "retrying")
        assert 'cannot add column "x" to table public.t' in row["last_error"] and "lock timeout" in row["last_error"]
        with db.connect() as reader:
            reader.execute("SET lock_timeout = '3s'")
            assert reader.execute("SELECT count(*) FROM t").fetchone() == (0,)
        assert list(column_types(db)) == ["id"]
        db.q("SELECT kafka.pause_subscription('s')")
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")
    assert db.q("SELECT id, x FROM t") == [(1, 1)]


def test_dead_letters(db, kafka, topic):
    """A field that cannot be added makes a letter; a retry adds what it can by then."""
    table(db, "id int PRIMARY KEY")
    kafka.produce_many(topic, [({"id": i}, envelope("c", after={"id": i, **({"d": 19000} if i == 5 else {})})) for i in range(10)])
    subscribe(db, topic, "t", format="debezium", on_error="dead_letter", options=EVOLVE)
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == 9
    stage, error = db.one("SELECT stage, error FROM kafka.dead_letter")
    assert stage == "convert" and '"d"' in error and "nothing tells its type" in error
    db.q("""SELECT kafka.alter_subscription('s', '{"column_types": {"d": "date"}}')""")
    db.q("SELECT kafka.retry_dead_letters('s')")
    db.wait("SELECT NOT EXISTS (SELECT FROM kafka.dead_letter)")
    assert db.one("SELECT d::text FROM t WHERE id = 5") == ("2022-01-08",) and column_types(db)["d"] == "date"


def test_rebuild(db, kafka, topic):
    """After columns were added, and while they are: the copy in the making is begun anew with them."""
    table(db, "id int PRIMARY KEY")
    kafka.produce_many(topic, [({"id": i}, {"id": i, **({"x": i} if i > 500 else {})}) for i in range(1000)])
    subscribe(db, topic, "t", options=EVOLVE)
    db.wait_for_subscription("s")

    def rebuild():
        db.q("SELECT kafka.rebuild_subscription('s')")
        db.wait("SELECT NOT EXISTS (SELECT FROM kafka.subscription_rebuild)", timeout=60)
        db.wait_for_subscription("s")
        assert db.one("SELECT count(*), count(x) FROM t") == (1000, 499)
    rebuild()
    assert db.value("SELECT columns_added FROM kafka.subscription_status") == 1
    db.q("ALTER TABLE t DROP COLUMN x")
    rebuild()
    assert list(column_types(db)) == ["id", "x"]
    assert db.q("SELECT relname FROM pg_class WHERE relnamespace = 'kafka'::regnamespace AND relname ~ '^rebuild_\\d'") == []
