"""Foreign tables of any wrapper as targets: mysql_fdw with a MariaDB server, which has no transactions and loses values;
and postgres_fdw by another name, which has both."""

import shutil
import subprocess
import threading
from pathlib import Path

import psycopg
import pytest

from conftest import wait_until
from pipelines import same_rows
from test_subscription import envelope, subscribe, table

MYSQL = "sql_mode 'ANSI_QUOTES,STRICT_ALL_TABLES', character_set 'utf8mb4'"


def attach(db, mariadb, options=MYSQL, owner="PUBLIC"):
    """Server my in a database, and a database of its own in MariaDB, whose name is returned."""
    env = mariadb.env
    db.q(f"CREATE EXTENSION IF NOT EXISTS mysql_fdw;"
         f"CREATE SERVER my FOREIGN DATA WRAPPER mysql_fdw OPTIONS (host '{env['MARIADB_HOST']}', port '{env['MARIADB_PORT']}'"
         f"{', ' + options if options else ''});"
         f"CREATE USER MAPPING FOR {owner} SERVER my"
         f" OPTIONS (username '{env['MARIADB_USER']}', password '{env['MARIADB_PASSWORD']}')")
    return mariadb.create_database()


def foreign(db, mariadb, remote, there, here, name="t"):
    """A table in MariaDB and the foreign table that stands for it."""
    mariadb.q(f"CREATE TABLE {remote}.{name} ({there})")
    db.q(f"CREATE FOREIGN TABLE {name} ({here}) SERVER my OPTIONS (dbname '{remote}', table_name '{name}')")


@pytest.fixture
def my(db, mariadb):
    """A database whose foreign table t (id, v, u) is in MariaDB's database my.remote."""
    db.remote = attach(db, mariadb)
    foreign(db, mariadb, db.remote, "id int PRIMARY KEY, v varchar(20), u int UNIQUE", "id int, v text, u int")
    return db


@pytest.fixture
def topic(kafka):
    return kafka.create_topic()


def send(kafka, topic, *rows):
    """Each row is (id, fields), fields None for a tombstone."""
    kafka.produce_many(topic, [({"id": i}, None if fields is None else {"id": i, **fields}) for i, fields in rows])


def rows(db, columns="id, v", name="t"):
    return db.q(f"SELECT {columns} FROM {name} ORDER BY 1")


def start(db, topic, target="t", **kwargs):
    subscribe(db, topic, target, key=kwargs.pop("key", ["id"]), **kwargs)


def letters(db):
    return db.value("SELECT count(*) FROM kafka.dead_letter")


def position(db, name="s"):
    return db.value("SELECT sum(next_offset) FROM kafka.subscription_offsets WHERE subscription = %s", name)


def test_upsert_delete(my, kafka, mariadb, topic):
    send(kafka, topic, (1, {"v": "one"}), (2, {"v": "two"}), (3, {"v": None}), (2, {"v": "zwei ü€😀"}))
    start(my, topic)
    my.wait_for_subscription("s")
    assert rows(my) == [(1, "one"), (2, "zwei ü€😀"), (3, None)]
    send(kafka, topic, (1, None), (3, {"v": "three"}), (4, {"v": "four"}), (4, None), (5, {"v": "a", "u": 1}), (9, None))
    my.wait_for_subscription("s")
    assert rows(my) == [(2, "zwei ü€😀"), (3, "three"), (5, "a")]
    assert mariadb.q(f"SELECT hex(v) FROM {my.remote}.t WHERE id = 2") == [["zwei ü€😀".encode().hex().upper()]]
    # what comes again after a delete, with fewer columns, has nothing of its former self; else columns are left alone
    send(kafka, topic, (5, None), (5, {"v": "b"}), (3, {"u": 7}))
    my.wait_for_subscription("s")
    assert rows(my, "id, v, u") == [(2, "zwei ü€😀", None), (3, "three", 7), (5, "b", None)]


TYPES = """CREATE TABLE item (id bigint PRIMARY KEY, name text, price numeric(12,2), exact numeric(30,10), at timestamp(0),
    day date, hour time(0), flag boolean, data bytea, f float8, doc jsonb, n smallint, u uuid)"""
# what mysql_fdw rounds, or does not know, goes as text
FOREIGN_TYPES = """id bigint, name text, price numeric(12,2), exact text, at timestamp(0), day date, hour time(0), flag boolean,
    data bytea, f float8, doc json, n smallint, u text"""
MARIADB_TYPES = """id bigint PRIMARY KEY, name mediumtext, price decimal(12,2), exact decimal(30,10), at datetime, day date,
    hour time, flag tinyint(1), data longblob, f double, doc json, n smallint, u char(36)"""
COLUMNS = "id, name, price, exact::text, at, day, hour, flag, data, f, doc::jsonb, n, u::text"

# Changes of 60 rows: all columns, some, a value that stays out of line, keys that move, deletes.
CHANGES = """
CREATE FUNCTION wide() RETURNS text LANGUAGE sql AS
    $$SELECT CASE WHEN random() < 0.3 THEN 'Ω' || (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 200))
                  WHEN random() < 0.1 THEN NULL ELSE E'it''s \\\\ ' || random() END$$;
CREATE PROCEDURE change(times int) LANGUAGE plpgsql AS $$
DECLARE k bigint; r float8;
BEGIN
    FOR i IN 1..times LOOP
        k := 1 + floor(random() * 60);
        r := random();
        IF r < 0.4 THEN
            INSERT INTO item VALUES (k, wide(), random() * 1e9, random() * 1e19::numeric, '2000-01-01'::timestamp + random() * '20 years'::interval,
                '1990-01-01'::date + (random() * 20000)::int, random() * '23:59:59'::interval, random() < 0.5,
                decode(md5(random()::text), 'hex') || '\\x0027225c'::bytea, (random() - 0.5) * 1e10, jsonb_build_object('a', random(), 'ü', NULL),
                (random() * 60000 - 30000)::smallint, gen_random_uuid())
            ON CONFLICT (id) DO UPDATE SET name = excluded.name, price = excluded.price, exact = excluded.exact, u = excluded.u,
                data = NULL, doc = excluded.doc;
        ELSIF r < 0.65 THEN UPDATE item SET n = n / 2, flag = NOT flag, day = NULL WHERE id = k;
        ELSIF r < 0.75 THEN UPDATE item SET name = wide() WHERE id = k;
        ELSIF r < 0.85 THEN UPDATE item SET id = id + 60 WHERE id = k AND NOT EXISTS (SELECT FROM item WHERE id = k + 60);
        ELSE DELETE FROM item WHERE id IN (k, k + 60) AND random() < 0.7;
        END IF;
        IF random() < 0.3 THEN COMMIT; END IF;
    END LOOP;
END $$;
"""


@pytest.mark.parametrize("format", ["json", "debezium"])
def test_changes_of_all_types(make_db, my, kafka, mariadb, format):
    """A published table is in MariaDB, value by value: its snapshot, and then what changes."""
    source = make_db()
    source.create_server(kafka)
    source.q(TYPES)
    source.q(CHANGES)
    source.q("ALTER TABLE item REPLICA IDENTITY FULL; CREATE PUBLICATION pub FOR TABLE item")
    source.q("CALL change(200)")
    foreign(my, mariadb, my.remote, MARIADB_TYPES, FOREIGN_TYPES, "item")
    source.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', format => %s)", format)
    source.wait_for_publisher("p")
    start(my, f"{source.name}.public.item", "item", format=format, options={"column_types": {"exact": "numeric(30,10)"}})
    my.wait_for_subscription("s")
    same_rows(source, my, "item", COLUMNS)
    for _ in range(4):
        source.q("CALL change(150)")
    source.wait_for_publisher("p")
    my.wait_for_subscription("s")
    same_rows(source, my, "item", COLUMNS)
    assert int(mariadb.q(f"SELECT count(*) FROM {my.remote}.item")[0][0]) == source.value("SELECT count(*) FROM item") > 0


def test_unchanged_value(my, kafka, topic):
    """What a message leaves out as unchanged stays; without a row that has it the message fails."""
    def event(i, v):
        return {"id": i}, envelope("u", after={"id": i, "v": v, "u": i})
    kafka.produce_many(topic, [event(1, "kept")])
    start(my, topic, format="debezium", on_error="dead_letter")
    my.wait_for_subscription("s")
    kafka.produce_many(topic, [event(1, "__debezium_unavailable_value"), event(2, "__debezium_unavailable_value"), event(3, "x")])
    my.wait_for_subscription("s")
    assert rows(my, "id, v, u") == [(1, "kept", 1), (3, "x", 3)]
    assert "no such row" in my.value("SELECT error FROM kafka.dead_letter")


def test_truncate(my, kafka, topic):
    kafka.produce_many(topic, [({"id": i}, envelope("c", after={"id": i, "v": "x", "u": None})) for i in range(10)])
    start(my, topic, format="debezium")
    my.wait_for_subscription("s")
    assert len(rows(my)) == 10
    kafka.produce_many(topic, [(None, envelope("t")), ({"id": 3}, envelope("c", after={"id": 3, "v": "new", "u": None}))])
    my.wait_for_subscription("s")
    assert rows(my) == [(3, "new")]


def test_query(db, kafka, mariadb, topic):
    """Mode upsert with a query; rows are written as the table's owner, whose user mapping is the only one."""
    db.q("CREATE ROLE my_owner; GRANT CREATE ON SCHEMA public TO my_owner; CREATE TABLE rate (cur text PRIMARY KEY, factor int);"
         "INSERT INTO rate VALUES ('a', 1), ('b', 10)")
    try:
        remote = attach(db, mariadb, owner="my_owner")
        foreign(db, mariadb, remote, "id int PRIMARY KEY, total int", "id int, total int")
        db.q("ALTER TABLE t OWNER TO my_owner")
        db.q("SELECT kafka.create_subscription('s', 'kafka', %s, format => 'json')", [topic])
        db.q("SELECT kafka.add_target('s', 't', $$SELECT (key->>'id')::int AS id, (after->>'n')::int * factor AS total"
             " FROM kafka.batch JOIN rate ON cur = after->>'cur' WHERE after->>'show' = 'yes'$$, key => ARRAY['id'])")
        send(kafka, topic, *((i, {"n": i, "cur": "ab"[i % 2], "show": "yes"}) for i in range(6)))
        db.wait_for_subscription("s")
        db.q("SET ROLE my_owner")
        assert rows(db, "id, total") == [(0, 0), (1, 10), (2, 2), (3, 30), (4, 4), (5, 50)]
        send(kafka, topic, (0, None), (1, {"n": 1, "cur": "b", "show": "no"}), (2, {"n": 2, "cur": "b", "show": "yes"}),
             (3, {"n": 3, "cur": "c", "show": "yes"}))
        db.q("RESET ROLE")
        db.wait_for_subscription("s")
        db.q("SET ROLE my_owner")
        assert rows(db, "id, total") == [(2, 20), (4, 4), (5, 50)]
    finally:
        db.q("RESET ROLE; SELECT kafka.drop_subscription('s', true); DROP OWNED BY my_owner CASCADE; DROP ROLE my_owner")


def test_refused_row(my, kafka, mariadb, topic):
    """A row that MariaDB refuses stops the subscription, which names it; those before it are there."""
    send(kafka, topic, *((i, {"v": "x" * (21 if i == 25 else 20)}) for i in range(40)))
    start(my, topic)
    row = my.wait_state("subscription", "s", "error")
    assert f'topic "{topic}", partition 0, offset 25' in row["last_error"] and "Data too long" in row["last_error"], row
    assert position(my) == 25
    mariadb.q(f"ALTER TABLE {my.remote}.t MODIFY v varchar(30)")
    my.q("SELECT kafka.resume_subscription('s')")
    my.wait_for_subscription("s")
    assert [i for i, _ in rows(my)] == list(range(40))


def test_refused_rows_set_aside(my, kafka, mariadb, topic):
    """With dead letters, exactly those that are refused; the row that was there before stays, though nothing is rolled back."""
    send(kafka, topic, (5, {"v": "before"}))
    start(my, topic, on_error="dead_letter")
    my.wait_for_subscription("s")
    send(kafka, topic, *((i, {"v": "x" * (21 if i in (5, 13) else 3), "u": 7 if i in (8, 19) else None}) for i in range(30)))
    my.wait_for_subscription("s")
    assert rows(my) == [(i, "before" if i == 5 else "xxx") for i in range(30) if i not in (13, 19)]
    errors = [e for (e,) in my.q('SELECT error FROM kafka.dead_letter ORDER BY "offset"')]
    assert len(errors) == 3 and "Data too long" in errors[0] and "Data too long" in errors[1] and "Duplicate entry" in errors[2]
    send(kafka, topic, (8, None))
    mariadb.q(f"ALTER TABLE {my.remote}.t MODIFY v varchar(30)")
    my.wait_for_subscription("s")
    my.q("SELECT kafka.retry_dead_letters('s')")
    my.wait("SELECT count(*) = 0 FROM kafka.dead_letter")
    assert rows(my, "id, v, u") == [(i, "x" * (21 if i in (5, 13) else 3), 7 if i == 19 else None) for i in range(30) if i != 8]


@pytest.mark.parametrize("options, there, here, value, words", [
    ("", "varchar(5)", "text", '"too long"', "Written was too long, read back too l."),
    ("", "tinyint", "int", "1000", "Written was 1000, read back 127."),
    (MYSQL, "decimal(30,10)", "numeric", "12345678901234567.89", "Written was 12345678901234567.89"),
    (MYSQL, "datetime(6)", "timestamp", '"2024-01-02 03:04:05.678"', "read back 2024-01-02 03:04:05."),
])
def test_loss_is_noticed(db, kafka, mariadb, topic, options, there, here, value, words):
    """What the wrapper or the other side cuts off without a word is an error, and not lost in silence."""
    remote = attach(db, mariadb, options)
    foreign(db, mariadb, remote, f"id int PRIMARY KEY, v {there}", f"id int, v {here}")
    kafka.produce_many(topic, [({"id": 1}, f'{{"id": 1, "v": {value}}}')])
    start(db, topic, on_error="dead_letter")
    db.wait_for_subscription("s")
    error, detail = db.one("SELECT error, detail FROM kafka.dead_letter")
    assert 'column "v": foreign table public.t has another value than was written' in error and words in detail, (error, detail)


def test_outage(my, kafka, mariadb, topic):
    """MariaDB is killed while messages flow: nothing is lost or set aside, others go on."""
    other = kafka.create_topic()
    table(my, name="here")
    subscribe(my, other, "here", "other")
    start(my, topic, on_error="dead_letter", options={"max_batch_rows": 20})
    wanted, stop = {}, threading.Event()

    def produce():
        n = 0
        while not stop.is_set():
            changes = [(k % 200, f"{k}") for k in range(n, n + 25)]
            send(kafka, topic, *((k, {"v": v}) for k, v in changes))
            wanted.update(changes)
            n += 25
            stop.wait(0.05)

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        for _ in range(2):
            before = position(my)
            my.wait("SELECT sum(next_offset) > %s FROM kafka.subscription_offsets WHERE subscription = 's'", before)
            mariadb.kill()
            row = my.wait_state("subscription", "s", "retrying")
            assert "MySQL" in row["last_error"] and "MySQL" in row["detail"], row
            at = position(my)
            send(kafka, other, (1, {"v": "x"}))
            my.wait_for_subscription("other")
            assert position(my) == at and my.state("subscription", "other")["state"] == "streaming"
            mariadb.start()
        mariadb.pause()
        send(kafka, other, (2, {"v": "x"}))
        my.wait_for_subscription("other")
    finally:
        stop.set()
        thread.join()
        mariadb.resume()
        mariadb.start()
    my.wait_for_subscription("s")
    assert dict(rows(my)) == wanted and letters(my) == 0
    my.wait_state("subscription", "s", "streaming")


def test_beside_a_local_target(my, kafka, mariadb, topic):
    """Targets of one subscription move together: what one of them cannot take, none of them has."""
    my.q("CREATE TABLE here (id int PRIMARY KEY, v text, u int)")
    my.q("SELECT kafka.create_subscription('s', 'kafka', %s, 'here', 'json')", [topic])
    my.q("SELECT kafka.add_target('s', 't', key => ARRAY['id'])")
    send(kafka, topic, (1, {"v": "x"}), (2, {"v": "y"}), (1, None))
    my.wait_for_subscription("s")
    assert rows(my) == rows(my, name="here") == [(2, "y")]
    mariadb.kill()
    try:
        send(kafka, topic, (2, {"v": "z"}), (3, {"v": "x"}))
        my.wait_state("subscription", "s", "retrying")
        assert rows(my, name="here") == [(2, "y")] and position(my) == 3
    finally:
        mariadb.start()
    my.close()  # this session's mysql_fdw finds its connection lost only when it uses it
    my.wait_for_subscription("s")
    assert rows(my) == rows(my, name="here") == [(2, "z"), (3, "x")]
    send(kafka, topic, (4, {"v": "x" * 21}))
    row = my.wait_state("subscription", "s", "error")
    assert "target public.t" in row["last_error"] and "Data too long" in row["last_error"] and position(my) == 5
    assert rows(my) == rows(my, name="here") == [(2, "z"), (3, "x")]


def test_set_up_wrongly(my, kafka, mariadb, topic):
    """What is wrong with the table, the server or the rights concerns no message."""
    start(my, topic, on_error="dead_letter")
    send(kafka, topic, (1, {"v": "x"}))
    my.wait_for_subscription("s")
    mariadb.q(f"RENAME TABLE {my.remote}.t TO {my.remote}.elsewhere")
    send(kafka, topic, (2, {"v": "x"}))
    row = my.wait_state("subscription", "s", "retrying")
    assert "t' doesn't exist" in row["last_error"], row
    mariadb.q(f"RENAME TABLE {my.remote}.elsewhere TO {my.remote}.t")
    my.wait_for_subscription("s")
    my.q("DROP USER MAPPING FOR PUBLIC SERVER my")
    send(kafka, topic, (3, {"v": "x"}))
    row = my.wait_state("subscription", "s", "error")
    assert "user mapping not found" in row["last_error"], row
    assert letters(my) == 0 and position(my) == 2


def test_killed_worker(private_cluster, kafka, mariadb, topic):
    """kill -9 while it writes: what MariaDB has already is written again, and comes out the same."""
    db = private_cluster.create_database()
    db.create_server(kafka)
    db.remote = attach(db, mariadb)
    foreign(db, mariadb, db.remote, "id int PRIMARY KEY, v varchar(20), u int UNIQUE", "id int, v text, u int")
    wanted = {}
    changes = [(k * 7 % 150, None if k % 11 == 0 else {"v": f"{k}"}) for k in range(1500)]
    send(kafka, topic, *changes)
    for k, fields in changes:
        wanted.pop(k, None)
        if fields:
            wanted[k] = fields["v"]
    start(db, topic, options={"max_batch_rows": 40, "max_rows_per_second": 400})
    for _ in range(2):
        def progress():
            at = position(db)
            return wait_until(lambda: position(db) > at)
        wait_until(progress)
        pid = wait_until(lambda: db.state("subscription", "s")["pid"])
        private_cluster.kill_worker(pid)
        db.close()
        private_cluster.wait_accepting()
    db.q("""SELECT kafka.alter_subscription('s', '{"max_rows_per_second": 0}')""")
    db.wait_for_subscription("s")
    assert dict(rows(db)) == wanted


def test_refused_targets(my, kafka, mariadb, topic, tmp_path):
    def refused(message, target="t", **kwargs):
        with pytest.raises(psycopg.Error, match=message) as e:
            subscribe(my, topic, target, **kwargs)
        return e.value.diag
    assert "Name the columns" in refused("its key is not known").message_hint
    assert "mysql_fdw" in refused('cannot be written by key column "u"', key=["u"]).message_detail
    assert "mysql_fdw" in refused('cannot be written by key column "u"', key=["id", "u"]).message_detail
    assert "written again" in refused("no mode append", mode="append").message_detail
    my.q("CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;"
         "CREATE FOREIGN TABLE f (id int, v text) SERVER files OPTIONS (filename '/dev/null')")
    assert "file_fdw" in refused('foreign table "f" cannot be written', "f", key=["id"]).message_detail
    my.q("SELECT kafka.create_subscription('s', 'kafka', %s, format => 'json')", [topic])
    with pytest.raises(psycopg.Error, match="no mode merge"):
        my.q("SELECT kafka.add_target('s', 't', $$SELECT (key->>'id')::int AS id, 1 AS u FROM kafka.batch$$, 'merge', ARRAY['id'],"
             """ '{"u": "sum"}')""")
    with pytest.raises(psycopg.Error, match='foreign table "f" cannot be written'):
        my.q("SELECT kafka.add_target('s', 'f', key => ARRAY['id'])")
    with pytest.raises(psycopg.Error, match="cannot be read again from the log"):
        my.q("SELECT kafka.add_target('s', 't', key => ARRAY['id']); SELECT kafka.rebuild_subscription('s')")


# ---- a wrapper of which nothing is known

@pytest.fixture(scope="module")
def wrapper(scratch):
    """The library of wrapped_fdw.c."""
    path = scratch / "wrapped_fdw.so"
    include = subprocess.run([shutil.which("pg_config"), "--includedir-server"], check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["gcc", "-std=gnu99", "-O1", "-Wall", "-fPIC", "-shared", f"-I{include}",
                    str(Path(__file__).parent / "wrapped_fdw.c"), "-o", str(path)], check=True)
    yield path
    path.unlink()


@pytest.fixture
def wrapped(db, make_db, wrapper):
    """A database whose foreign table t (a, b, v) is in another one, wrapped.remote."""
    db.remote = make_db(extension=False)
    db.remote.q("CREATE TABLE t (a int, b text, v text, n int DEFAULT 7, PRIMARY KEY (a, b))")
    db.q(f"CREATE EXTENSION postgres_fdw; CREATE FUNCTION wrapped_fdw_handler() RETURNS fdw_handler LANGUAGE c AS '{wrapper}';"
         f"CREATE FOREIGN DATA WRAPPER wrapped HANDLER wrapped_fdw_handler VALIDATOR postgres_fdw_validator;"
         f"CREATE SERVER there FOREIGN DATA WRAPPER wrapped OPTIONS (host '127.0.0.1', port '{db.cluster.port}',"
         f" dbname '{db.remote.name}'); CREATE USER MAPPING FOR PUBLIC SERVER there OPTIONS (user 'postgres');"
         f"CREATE FOREIGN TABLE t (a int, b text COLLATE \"C\", v text) SERVER there OPTIONS (batch_size '100')")
    return db


def test_composite_key(wrapped, kafka, topic):
    db = wrapped
    def event(op, a, b, v=None):
        row = {"a": a, "b": b, "v": v}
        return {"a": a, "b": b}, envelope(op, before=row if op == "d" else None, after=None if op == "d" else row)
    kafka.produce_many(topic, [event("c", a, b, f"{a}{b}") for a in range(50) for b in ("x", "X", "x ")])
    start(db, topic, key=["b", "a"], format="debezium")
    db.wait_for_subscription("s")
    assert db.remote.value("SELECT count(*) FROM t WHERE v = a || b AND n = 7") == 150
    kafka.produce_many(topic, [event("d", a, "x") for a in range(40)] + [event("u", 41, "X", "new"), event("c", 99, "y", "y")])
    db.wait_for_subscription("s")
    assert db.remote.q("SELECT b, count(*), count(*) FILTER (WHERE v = a || b) FROM t GROUP BY b ORDER BY b COLLATE \"C\"") == [
        ("X", 50, 49), ("x", 10, 10), ("x ", 50, 50), ("y", 1, 0)]
    kafka.produce_many(topic, [(None, envelope("t")), event("c", 1, "z", "z")])
    db.wait_for_subscription("s")
    assert db.remote.q("SELECT a, b, v, n FROM t") == [(1, "z", "z", 7)]
    # a trigger of the foreign table has its way, as one of a local table has
    db.q("CREATE FUNCTION decide() RETURNS trigger LANGUAGE plpgsql AS"
         " $$BEGIN IF new.a = 3 THEN RETURN NULL; END IF; new.v := upper(new.v); RETURN new; END$$;"
         "CREATE TRIGGER decide BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION decide();"
         "CREATE TABLE statements (n int);"
         "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.statements VALUES (1); RETURN NULL; END';"
         "CREATE TRIGGER note AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION note()")
    kafka.produce_many(topic, [event("c", a, "z", "w") for a in (2, 3)])
    db.wait_for_subscription("s")
    assert db.remote.q("SELECT a, v FROM t ORDER BY a") == [(1, "z"), (2, "W")]
    kafka.produce_many(topic, [event("d", 2, "z")])
    db.wait_for_subscription("s")
    assert db.remote.q("SELECT a FROM t") == [(1,)] and db.value("SELECT count(*) FROM statements") <= 2


def test_rows_of_a_message_key(wrapped, kafka, topic):
    """A query that gives several rows for a message: those that it gives no more are found by a part of the key, and go."""
    db = wrapped
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, format => 'json')", [topic])
    db.q("SELECT kafka.add_target('s', 't', $$SELECT (key->>'id')::int AS a, x.k AS b, x.v AS v FROM kafka.batch,"
         " jsonb_each_text(after->'m') x (k, v)$$, key => ARRAY['a', 'b'])")
    send(kafka, topic, *((i, {"m": {"p": i, "q": "x"}}) for i in range(1100)))
    db.wait_for_subscription("s")
    assert db.remote.value("SELECT count(*) FROM t") == 2200
    send(kafka, topic, (1, {"m": {"q": "y", "r": 1}}), (2, None), *((i, {"m": {"p": "new"}}) for i in range(10, 1100)))
    db.wait_for_subscription("s")
    assert db.remote.q("SELECT a, b, v FROM t WHERE a < 3 ORDER BY 1, 2") == [(0, "p", "0"), (0, "q", "x"), (1, "q", "y"), (1, "r", "1")]
    assert db.remote.value("SELECT count(*) FROM t WHERE a >= 10 AND b = 'p' AND v = 'new'") == 1090
    assert db.remote.value("SELECT count(*) FROM t") == 1090 + 7 * 2 + 4


def test_hidden_row(wrapped, kafka, topic):
    """A row that does not stay, as behind a view or a trigger, is an error of its message."""
    db = wrapped
    db.remote.q("CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
                "CREATE TRIGGER drop_it BEFORE INSERT ON t FOR EACH ROW WHEN (new.a = 5) EXECUTE FUNCTION drop_it()")
    kafka.produce_many(topic, [({"a": a, "b": "x"}, {"a": a, "b": "x", "v": "v"}) for a in range(10)])
    start(db, topic, key=["a", "b"], on_error="dead_letter")
    db.wait_for_subscription("s")
    assert "does not have a row that was written" in db.value("SELECT error FROM kafka.dead_letter")
    assert db.remote.value("SELECT array_agg(a ORDER BY a) FROM t") == [a for a in range(10) if a != 5]
