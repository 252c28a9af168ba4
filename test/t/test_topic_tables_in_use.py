"""Topics as foreign tables under everything else that PostgreSQL does with a table."""

import psycopg
import pytest

from test_topic_tables import FOREVER, META, numbers, read, settle, settled, table, writable  # noqa: F401: fixtures


def test_team_builds_its_own(db, kafka, numbers):
    """SELECT is enough for a view table that is filled by a button; one that is kept up to date needs USAGE as well."""
    role = f"team_{db.name}"
    db.q(f"CREATE ROLE {role}; CREATE SCHEMA team AUTHORIZATION {role}; GRANT SELECT ON t TO {role}")
    button = "SELECT kafka.rebuild_subscription('mine', 'team.current')"
    try:
        with db.connect() as c:
            c.execute(f"SET ROLE {role}; SET search_path = team, public")
            c.execute("CREATE MATERIALIZED VIEW few AS SELECT id, name FROM t WHERE \"offset\" < 10")
            assert c.execute("SELECT count(*) FROM few").fetchone() == (30,)
            c.execute("CREATE TABLE current (id int PRIMARY KEY, name text, big bool)")
            create = f"SELECT kafka.create_subscription('mine', 'kafka', ARRAY['{numbers}'], format => 'json', options => '{{\"key_format\": \"text\"}}')"
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match='foreign server'):
                c.execute(create)
            db.q(f"GRANT USAGE ON FOREIGN SERVER kafka TO {role}")
            c.execute(create)
            # of another team's tables nothing, though the topic is the same
            db.q("CREATE TABLE theirs (id int PRIMARY KEY, name text, big bool)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                c.execute("SELECT kafka.add_target('mine', 'public.theirs')")
            c.execute("SELECT kafka.add_target('mine', 'current', 'SELECT id, name, id > 100 AS big FROM t', mode => 'append')")
            db.wait("SELECT count(*) = 300 FROM team.current")
            c.execute("DELETE FROM current WHERE id < 50; UPDATE current SET big = NULL")
            c.execute(button)
            db.wait("SELECT count(*) = 300 AND count(big) = 300 FROM team.current")
            db.wait("SELECT NOT EXISTS (SELECT FROM kafka.subscription_rebuild)")
            kafka.produce(numbers, {"id": 1000, "name": "later"}, "k1000")
            db.wait("SELECT big FROM team.current WHERE id = 1000")
            c.execute("REFRESH MATERIALIZED VIEW few")
            db.q(f"REVOKE SELECT ON t FROM {role}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                c.execute("REFRESH MATERIALIZED VIEW few")
    finally:
        db.q("SELECT kafka.drop_subscription('mine', true)")
        db.q(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_altered(db, kafka, numbers):
    """Plans that are kept, columns that come and go, another topic: what counts is what the table says now."""
    other = kafka.create_topic()
    kafka.produce(other, {"id": 7, "name": "other", "more": 1})
    db.q("SET plan_cache_mode = force_generic_plan")
    db.q("PREPARE p AS SELECT id, name FROM t WHERE \"partition\" = 0; PREPARE a AS SELECT * FROM t WHERE \"partition\" = 0; PREPARE i AS INSERT INTO t (id) VALUES ($1)")
    assert len(db.q("EXECUTE p")) == len(db.q("EXECUTE a")) == 100
    db.q("ALTER FOREIGN TABLE t DROP COLUMN x, ADD COLUMN more int, ADD COLUMN twice int OPTIONS (path 'id')")
    assert len(db.q("EXECUTE p")) == 100
    db.q(f"ALTER FOREIGN TABLE t OPTIONS (SET topic '{other}')")
    assert db.q("EXECUTE p") == [(7, "other")]
    assert db.q("SELECT id, more, twice FROM t") == [(7, 1, 7)]
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan must not change result type"):
        db.q("EXECUTE a")
    db.q("ALTER FOREIGN TABLE t DROP COLUMN twice; ALTER FOREIGN TABLE t ALTER COLUMN id TYPE text")
    assert db.q("SELECT id, more, (t).id, (t).more FROM t") == [("7", 1, "7", 1)]
    db.q("ALTER FOREIGN TABLE t ALTER COLUMN name OPTIONS (ADD path 'more')")
    assert db.q("SELECT name FROM t") == [("1",)]
    db.q("ALTER FOREIGN TABLE t ALTER COLUMN name OPTIONS (DROP path); ALTER FOREIGN TABLE t RENAME COLUMN more TO less")
    assert db.q("SELECT name, less FROM t") == [("other", None)]
    # a prepared INSERT goes by what the table is now, in a transaction that began before, too
    db.q("EXECUTE i('8')")
    settle(kafka, other)
    assert db.value("SELECT count(*) FROM t WHERE id = '8'") == 1
    db.q("BEGIN; EXECUTE i('9')")
    db.q(f"ALTER FOREIGN TABLE t OPTIONS (SET topic '{numbers}'); EXECUTE i('10'); COMMIT")
    settle(kafka, other, numbers)
    assert [m.json["id"] for m in kafka.consume(other)] == [7, "8", "9"]
    assert [m.json["id"] for m in kafka.consume(numbers) if isinstance(m.json["id"], str)] == ["10"]


def test_queries(db, kafka, numbers):
    """Joins of one topic with itself, conditions that cannot be Kafka's, system columns, locks, holdable and scrolling cursors."""
    db.q(f"CREATE FOREIGN TABLE t2 ({META}, id int) SERVER kafka OPTIONS (topic '{numbers}')")
    assert db.one("SELECT count(*), sum(a.id) FROM t a JOIN t2 b USING (id)") == (300, 44850)
    assert db.value('SELECT count(*) FROM t a JOIN t b ON a."partition" = b."partition" AND a."offset" = b."offset" + 1') == 297
    assert db.value('SELECT count(*) FROM (SELECT id FROM t WHERE "partition" = 0 UNION SELECT id FROM t2 WHERE "partition" < 2) u') == 200
    for condition, count, messages in (('"partition" = 1 OR id = 3', 101, 300), ('NOT "partition" = 1', 200, 300), ("\"partition\" = ANY ('{}')", 0, 0),
                                       ('"partition" = NULL', 0, 0), ('"offset" IS NULL', 0, 300), ('"offset" = ANY (ARRAY[1, NULL])', 3, 3)):
        assert db.value(f"SELECT count(*) FROM t WHERE {condition}") == count, condition
        if messages:
            assert read(db, f"SELECT * FROM t WHERE {condition}") == messages, condition
    assert db.q("SELECT DISTINCT tableoid::regclass::text FROM t") == [("t",)]
    assert len(db.q("SELECT id FROM t FOR UPDATE")) == 300
    assert db.q("SELECT id FROM t ORDER BY id DESC OFFSET 2 LIMIT 2") == [(297,), (296,)]
    assert db.value("SELECT count(*) FROM (TABLE t LIMIT 7) x") == 7
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        db.q("SELECT * FROM t TABLESAMPLE SYSTEM (1)")
    # an error in a subtransaction, while a cursor of the one around it is open
    db.q("""BEGIN; DECLARE c SCROLL CURSOR FOR SELECT id FROM t WHERE "partition" = 0; DECLARE h CURSOR WITH HOLD FOR SELECT id FROM t WHERE "partition" = 1""")
    assert db.q("FETCH 2 FROM c") == [(0,), (3,)]
    db.q("SAVEPOINT s")
    assert db.q("FETCH 2 FROM c") == [(6,), (9,)]
    with pytest.raises(psycopg.errors.DivisionByZero):
        db.q("SELECT 1 / (id - 5) FROM t")
    db.q("ROLLBACK TO s")
    assert db.q("FETCH 1 FROM c") == [(12,)] and db.q("FETCH BACKWARD 4 FROM c") == [(9,), (6,), (3,), (0,)]
    db.q("COMMIT")
    assert db.q("FETCH 2 FROM h") == [(1,), (4,)] and len(db.q("FETCH ALL FROM h")) == 98
    # in functions, with exceptions that are caught
    db.q("""CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ DECLARE n int := 0; r record; BEGIN
        FOR r IN SELECT id FROM t LOOP
            BEGIN n := n + 10 / (r.id % 2); EXCEPTION WHEN division_by_zero THEN n := n + 1; END;
            EXIT WHEN n > 500;
        END LOOP; RETURN n; END $$""")
    assert int(db.value("SELECT f()")) > 500 and int(db.value("SELECT f()")) > 500
    # beside a parallel plan
    db.q("CREATE TABLE big AS SELECT generate_series(1, 20000) % 300 AS id; ANALYZE big; SET parallel_setup_cost = 0; SET min_parallel_table_scan_size = 0;"
         "SET parallel_tuple_cost = 0")
    sql = "SELECT count(*) FROM t JOIN (SELECT id, count(*) n FROM big GROUP BY id) b USING (id)"
    assert "Gather" in str(db.q(f"EXPLAIN {sql}")) and db.value(sql) == 300


def test_parents(db, kafka, numbers):
    """A topic as the child of a table, and as one of several partitions that are left out where they cannot match."""
    db.q("CREATE TABLE parent (id int, name text); INSERT INTO parent VALUES (1000, 'local')")
    db.q(f"CREATE FOREIGN TABLE child () INHERITS (parent) SERVER kafka OPTIONS (topic '{numbers}')")
    assert db.one("SELECT count(*), max(id) FROM parent") == (301, 1000) and db.value("SELECT count(*) FROM ONLY parent") == 1
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="child"):
        db.q("UPDATE parent SET name = 'x'")
    db.q("UPDATE ONLY parent SET name = 'x'")
    db.q("ALTER TABLE parent ADD COLUMN x int")
    db.q("ALTER FOREIGN TABLE child ALTER COLUMN x OPTIONS (path 'sub.x[0]')")
    assert db.q("SELECT id, x FROM parent WHERE id IN (5, 1000) ORDER BY id") == [(5, 5), (1000, None)]
    db.q("CREATE TABLE days (id int, name text) PARTITION BY RANGE (id); CREATE TABLE recent PARTITION OF days FOR VALUES FROM (1000) TO (2000)")
    db.q(f"CREATE FOREIGN TABLE old PARTITION OF days FOR VALUES FROM (0) TO (1000) SERVER kafka OPTIONS (topic '{numbers}')")
    db.q("INSERT INTO days VALUES (1500, 'now')")
    assert db.value("SELECT count(*) FROM days") == 301
    assert "Foreign" not in str(db.q("EXPLAIN SELECT * FROM days WHERE id > 1200")) and db.value("SELECT count(*) FROM days WHERE id < 100") == 100
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="old"):
        db.q("DELETE FROM days")


def test_writing(db, kafka, writable):
    """EXPLAIN ANALYZE, chained transactions, triggers behind, COPY with a condition, from the same topic, what is dropped before the commit."""
    db.q("EXPLAIN ANALYZE INSERT INTO w (id) VALUES (1)")
    db.q("EXPLAIN INSERT INTO w (id) VALUES (-1)")
    db.q("BEGIN; INSERT INTO w (id) VALUES (2); COMMIT AND CHAIN; INSERT INTO w (id) VALUES (-2); ROLLBACK")
    db.q("CREATE TABLE seen (id int); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO seen VALUES (NEW.id); RETURN NULL; END';"
         "CREATE TRIGGER note AFTER INSERT ON w FOR EACH ROW EXECUTE FUNCTION note()")
    db.q("INSERT INTO w (id) VALUES (3)")
    with db.connect() as connection, connection.cursor() as cursor:
        with cursor.copy("COPY w (id, name) FROM STDIN WHERE id % 2 = 0") as copy:
            for n in range(4, 8):
                copy.write_row((n, "copied"))
        # a client that goes away in the middle
        with pytest.raises(KeyError):
            with cursor.copy("COPY w (id) FROM STDIN") as copy:
                copy.write("-3\n-4\n")
                raise KeyError
    assert sorted(db.q("SELECT id FROM seen")) == [(3,), (4,), (6,)]
    settle(kafka, writable)
    # reads what was committed before, so it ends
    db.q("INSERT INTO w (id, name) SELECT id + 100, 'again' FROM w")
    assert sorted(m.json["id"] for m in settled(kafka, writable)) == [1, 2, 3, 4, 6, 101, 102, 103, 104, 106]
    db.q("BEGIN; INSERT INTO w (id) VALUES (7); SET LOCAL statement_timeout = '1h'; ALTER FOREIGN TABLE w RENAME TO v; DROP FOREIGN TABLE v; COMMIT")
    assert 7 in [m.json["id"] for m in settled(kafka, writable)]


def test_limits_on_temporary_files(db, kafka, cluster, writable):
    """More than may be spilled: an error, nothing sent, no file left, and the session goes on."""
    db.q("SET work_mem = '64kB'; SET temp_file_limit = '2MB'")
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
        db.q("INSERT INTO w (id, name) SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        db.q("BEGIN")
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
            db.q("INSERT INTO w (id, name) SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i")
        db.q("SELECT 1")
    db.q("ROLLBACK")
    # in a subtransaction only what it wrote is gone
    db.q("""DO $$ BEGIN INSERT INTO w (id, name) SELECT i, 'kept' FROM generate_series(1, 100) i;
        BEGIN INSERT INTO w (id, name) SELECT -i, repeat('x', 1000) FROM generate_series(1, 20000) i;
        EXCEPTION WHEN configuration_limit_exceeded THEN INSERT INTO w (id, name) VALUES (101, 'caught'); END; END $$""")
    assert db.value("SELECT count(*) FROM pg_ls_tmpdir() WHERE name LIKE %s", f"pgsql_tmp{db.connection.info.backend_pid}.%") == 0
    assert sorted(m.json["id"] for m in settled(kafka, writable)) == list(range(1, 102))


def test_spill_that_fails(db, kafka, writable):
    """What a transaction wrote before a savepoint is sent as it was, if behind that the temporary file could not be filled."""
    db.q("SET work_mem = '64kB'; SET temp_file_limit = '32kB'")
    db.q("BEGIN; INSERT INTO w (id, name) VALUES (1, repeat('x', 60000))")
    for _ in range(2):
        db.q("SAVEPOINT s")
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
            db.q("INSERT INTO w (id, name) VALUES (2, repeat('y', 10000))")
        db.q("ROLLBACK TO s")
    db.q("SET temp_file_limit = -1; INSERT INTO w (id, name) VALUES (3, repeat('z', 10000)); COMMIT")
    messages = settled(kafka, writable)
    assert sorted((m.json["id"], m.json["name"]) for m in messages) == [(1, "x" * 60000), (3, "z" * 10000)]


def test_timeout_while_reading(db, kafka):
    """A statement_timeout ends a scan that is reading, and one that parses; nothing of it is left in the session."""
    topic = kafka.create_topic(config=FOREVER)
    kafka.produce_many(topic, [dict(value={"id": n, "fill": "x" * 1000}) for n in range(20000)])
    table(db, "t", topic, META + ", id int, fill text")
    db.q("SET statement_timeout = '300ms'")
    for _ in range(3):
        with pytest.raises(psycopg.errors.QueryCanceled):
            db.q("SELECT count(*) FROM t a, t b WHERE a.fill = b.fill")
    db.q("RESET statement_timeout")
    assert db.value("SELECT count(*) FROM t WHERE fill IS NOT NULL") == 20000
