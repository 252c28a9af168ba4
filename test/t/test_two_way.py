"""Two databases that publish the same table and subscribe to each other: option "conflict"."""

import os
import subprocess
import threading
import uuid

import psycopg
import pytest
from conftest import wait_until
from pipelines import same_rows

TABLE = """
CREATE TABLE customer (id int PRIMARY KEY, name text, email text, updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE PUBLICATION pub FOR TABLE customer;
"""


class Pair:
    """Databases a and b of one cluster; each publishes table customer and subscribes to the other's."""

    def __init__(self, cluster, kafka, a="newer:updated_at", b="newer:updated_at", table=TABLE, options={}, names=None):
        self.cluster, self.kafka = cluster, kafka
        self.a, self.b = cluster.create_database(), cluster.create_database()
        self.both = (self.a, self.b)
        # the greater name wins ties
        self.names = names or [f"{x}{uuid.uuid4().hex[:8]}" for x in "ab"]
        self.topics = [f"{name}.public.customer" for name in self.names]
        for db, name, topic in zip(self.both, self.names, self.topics):
            db.create_server(kafka)
            db.q(table)
            if topic not in kafka.topics():
                kafka.create_topic(topic, 3, {"cleanup.policy": "compact"})
        for db, name, topic, conflict in zip(self.both, self.names, reversed(self.topics), (a, b)):
            with db.connect(autocommit=False) as connection:
                connection.execute("SELECT kafka.create_publisher('p', 'kafka', 'pub', topic_prefix => %s, snapshot => 'never')", [name])
            merged = {"conflict": conflict, **({"full_before": True} if conflict == "keep" else {}), **options}
            db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 'customer', options => %s::jsonb)",
                 [topic], psycopg.types.json.Json(merged))

    def settle(self, timeout=90):
        """Until each side has what the other has written."""
        for kind, name in (("publisher", "p"), ("subscription", "s")):
            for db in self.both:
                def reached():
                    assert db.value(f"SELECT kafka.wait_for_{kind}('{name}', timeout => '2 s')"), db.state(kind, name)
                    return True
                wait_until(reached, timeout, what=f"{kind} of {db.name}")

    def check(self):
        self.settle()
        same_rows(self.a, self.b, "customer")

    def pause(self):
        for db in self.both:
            db.q("SELECT kafka.pause_subscription('s')")

    def resume(self):
        for db in self.both:
            db.q("SELECT kafka.resume_subscription('s')")

    def messages(self):
        return [db.value("SELECT sum(messages)::bigint FROM kafka.list_topics('kafka') WHERE topic = %s", topic)
                for db, topic in zip(self.both, self.topics)]

    def conflicts(self, db):
        return db.one("SELECT conflicts_applied, conflicts_kept, conflict_ties FROM kafka.subscription_status")

    def rows(self):
        self.check()
        return self.a.q("SELECT id, name FROM customer ORDER BY id")


@pytest.fixture
def pair(cluster, kafka):
    made = []

    def make(**kwargs):
        made.append(Pair(cluster, kafka, **kwargs))
        return made[-1]
    yield make
    for p in made:
        for db in p.both:
            cluster.drop_database(db)


LOAD = """
DO $$
DECLARE k int; r float8; t timestamptz;
BEGIN
    FOR i IN 1..%(n)s LOOP
        k := 1 + floor(random() * %(keys)s);
        r := random();
        -- whole seconds, so that values are often equal, and now and then one from the past
        t := date_trunc('second', clock_timestamp()) - CASE WHEN random() < 0.1 THEN interval '2 s' ELSE '0' END;
        IF r < %(deletes)s THEN
            DELETE FROM customer WHERE id = k;
        ELSE
            INSERT INTO customer VALUES (k, '%(who)s ' || i, md5(random()::text), t)
            ON CONFLICT (id) DO UPDATE SET name = excluded.name, email = excluded.email, updated_at = excluded.updated_at;
        END IF;
        COMMIT;
    END LOOP;
END $$
"""


def run_all(work, *calls):
    """Calls work(...) with each of the arguments at the same time; what they raised."""
    errors = []

    def call(arguments):
        try:
            work(*arguments)
        except Exception as e:
            errors.append(e)
    threads = [threading.Thread(target=call, args=(arguments,)) for arguments in calls]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return errors


def load(databases, sessions, **arguments):
    """Sessions in each database at the same time; their errors."""
    def work(db, number):
        with db.connect() as connection:
            connection.execute("SET synchronous_commit = off")
            connection.execute(LOAD % dict(arguments, who=f"{db.name} {number}"))
    return run_all(work, *[(db, number) for db in databases for number in range(sessions)])


def test_different_keys(pair):
    """50,000 concurrent changes on different keys; what comes does not go back."""
    p = pair()

    def work(db, first):
        with db.connect() as connection:
            connection.execute(f"INSERT INTO customer SELECT i, 'new', md5(i::text) FROM generate_series({first}, {first + 9999}) i")
            for i in range(10):
                connection.execute(f"UPDATE customer SET name = 'changed' "
                                   f"WHERE id % 10 = {i} AND id BETWEEN {first} AND {first + 9999}")
            connection.execute(f"DELETE FROM customer WHERE id BETWEEN {first} AND {first + 4999}")
    assert run_all(work, (p.a, 1), (p.b, 100001)) == []
    p.check()
    assert p.a.value("SELECT count(*) FROM customer WHERE name = 'changed'") == 10000
    counts = p.messages()
    # 10,000 inserts, 10,000 updates, 5,000 deletes with their tombstones, by each side, and nothing comes back
    assert counts == [30000, 30000]
    p.a.q("UPDATE customer SET name = 'last' WHERE id = 6000")
    p.check()
    assert p.messages() == [30001, 30000]
    assert p.a.q("TABLE kafka.problems") == p.b.q("TABLE kafka.problems") == []


def test_same_keys(pair):
    """The same keys from both sides at once, with deletes, new rows, equal and older times."""
    p = pair()
    assert load(p.both, 2, n=1000, keys=100, deletes=0.2) == []
    p.check()
    assert sum(map(sum, map(p.conflicts, p.both))) > 0
    # nothing that is remembered contradicts what is there
    for db in p.both:
        assert db.value("SELECT count(*) FROM kafka.deleted_row d JOIN customer c ON d.key = ARRAY[c.id::text] "
                        "WHERE c.updated_at <= d.stamp::timestamptz") == 0


LATE = {
    "insert": "INSERT INTO customer VALUES (1, 'again', NULL, '2026-01-02')",
    "upsert": "INSERT INTO customer VALUES (1, 'again', NULL, '2026-01-02') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
    "moved": "UPDATE customer SET id = 1, name = 'again', updated_at = '2026-01-02' WHERE id = 2",
}


@pytest.mark.parametrize("statement", LATE)
@pytest.mark.parametrize("who", ["user", "worker"])
def test_insert_while_the_key_is_deleted(pair, who, statement):
    """It waits in the unique index, so follows a delete that could not be seen when it began: it is newer all the same."""
    p = pair()
    p.a.q("INSERT INTO customer SELECT i, 'new', NULL, '2026-01-01' FROM generate_series(1, 3) i")
    # the owner's policies are not in the way
    role = f"owner of {p.a.name}"
    p.a.q(f'CREATE ROLE "{role}"; GRANT ALL ON SCHEMA public TO "{role}"; ALTER TABLE customer OWNER TO "{role}";'
          "ALTER TABLE customer ENABLE ROW LEVEL SECURITY")
    # nor is another trigger
    p.a.q("CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
          "CREATE TRIGGER nothing AFTER INSERT OR UPDATE ON customer FOR EACH ROW EXECUTE FUNCTION nothing()")
    p.check()

    def insert():
        with p.a.connect() as connection:
            connection.execute(LATE[statement])
    blocked = "SELECT count(*) = %s FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())"
    with p.a.connect() as deleter:
        if who == "user":
            deleter.execute("BEGIN; DELETE FROM customer WHERE id = 1")
        else:
            p.a.q("""CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(77); RETURN NULL; END';
                     CREATE TRIGGER hold AFTER DELETE ON customer FOR EACH ROW WHEN (OLD.id = 1) EXECUTE FUNCTION hold()""")
            deleter.execute("SELECT pg_advisory_lock(77)")
            p.b.q("DELETE FROM customer WHERE id = 1")
            p.a.wait(blocked, 1)
        thread = threading.Thread(target=insert, daemon=True)
        thread.start()
        p.a.wait(blocked, 1 if who == "user" else 2)
        deleter.execute("COMMIT" if who == "user" else "SELECT pg_advisory_unlock(77)")
        thread.join()
    rows = p.rows()
    assert rows == [(1, "again"), *([] if statement == "moved" else [(2, "new")]), (3, "new")]
    assert p.a.value("SELECT updated_at > d.stamp::timestamptz FROM customer c, kafka.deleted_row d WHERE id = 1 AND d.key = '{1}'")


def test_key_of_another_scale(pair):
    """A key that is written anew with other zeros is no other key: the delete that its update is in messages comes before its row."""
    p = pair(table=TABLE.replace("id int", "id numeric"))
    p.a.q("INSERT INTO customer VALUES (1.0, 'new', NULL, '2026-01-01'), (2.0, 'new', NULL, '2026-01-01')")
    p.settle()
    p.a.q("UPDATE customer SET id = 1.00, name = 'a', updated_at = '2026-01-02' WHERE id = 1")
    p.a.q("UPDATE customer SET id = 2.00, name = 'a' WHERE id = 2")
    p.settle()
    assert p.b.q("SELECT id::int, name FROM customer ORDER BY id") == [(1, "a"), (2, "a")]
    p.b.q("UPDATE customer SET name = 'b' WHERE id = 1")
    p.b.q("DELETE FROM customer WHERE id = 2")
    p.settle()
    assert p.a.q("SELECT id::int, name FROM customer ORDER BY id") == [(1, "b")]


def test_message_key_with_more_columns(pair):
    """An update that changes it, and not the target's key, is no delete there, though it is one in messages."""
    p = pair(table=TABLE + "ALTER TABLE customer ALTER name SET NOT NULL; CREATE UNIQUE INDEX wide ON customer (id, name);"
             "ALTER TABLE customer REPLICA IDENTITY USING INDEX wide;")
    p.a.q("SELECT kafka.set_topic('p', 'customer', key => '{id,name}')")
    p.a.q("INSERT INTO customer SELECT i, 'new', NULL, '2026-01-01' FROM generate_series(1, 20) i")
    p.check()
    p.a.q("UPDATE customer SET name = 'a' || id, updated_at = '2026-01-02'")
    assert p.rows() == [(i, f"a{i}") for i in range(1, 21)]
    p.a.q("UPDATE customer SET id = 30 WHERE id = 1")
    p.a.q("DELETE FROM customer WHERE id = 2")
    assert [id for id, _ in p.rows()] == [*range(3, 21), 30]


@pytest.mark.parametrize("conflict", ["apply", "keep"])
def test_message_key_with_more_columns_elsewhere(db, kafka, conflict):
    """Its changes are in two partitions: a delete that nobody can put in order is an error, not a row less."""
    db.q(TABLE + "ALTER TABLE customer ALTER name SET NOT NULL; ALTER TABLE customer REPLICA IDENTITY FULL;"
         "CREATE TABLE copy (LIKE customer INCLUDING ALL)")
    prefix = f"w{uuid.uuid4().hex[:8]}"
    topic = f"{prefix}.public.customer"
    kafka.create_topic(topic, 3, {"cleanup.policy": "compact"})
    with db.connect(autocommit=False) as connection:
        connection.execute("SELECT kafka.create_publisher('p', 'kafka', 'pub', topic_prefix => %s, snapshot => 'never')", [prefix])
    db.q("SELECT kafka.set_topic('p', 'customer', key => '{id,name}')")
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 'copy', options => %s::jsonb)", [topic],
         psycopg.types.json.Json({"conflict": conflict, "full_before": True}))
    db.q("INSERT INTO customer SELECT i, 'new' FROM generate_series(1, 20) i; UPDATE customer SET email = 'e'; DELETE FROM customer WHERE id = 20;"
         "UPDATE customer SET id = 30 WHERE id = 19")
    db.wait_for_publisher("p")
    db.wait_for_subscription("s")
    assert db.q("SELECT id, name, email FROM copy ORDER BY id") == db.q("SELECT id, name, email FROM customer ORDER BY id")
    db.q("UPDATE customer SET name = 'a' || id WHERE id = 1")
    state = db.wait_state("subscription", "s", "error")
    assert "the message key of a row has changed and the target's key has not, and several partitions are read" in state["last_error"]
    assert db.value("SELECT count(*) FROM copy WHERE id = 1") == 1


def test_newer_value_is_suppressed(pair):
    """A row that came after a delete must not stay without a newer value."""
    p = pair(a="apply", b="apply", options={"session_replication_role": "replica"})
    p.a.q("CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
          "CREATE TRIGGER never BEFORE UPDATE ON customer FOR EACH ROW EXECUTE FUNCTION never()")
    for db in p.both:
        db.q("SELECT kafka.alter_subscription('s', '{\"conflict\": \"newer:updated_at\"}')")
    p.a.q("INSERT INTO customer VALUES (1, 'new', NULL, '2026-01-01')")
    p.check()
    errors = []

    def insert():
        with p.a.connect() as connection:
            try:
                connection.execute(LATE["insert"])
            except psycopg.Error as e:
                errors.append(str(e))
    with p.a.connect() as deleter:
        deleter.execute("BEGIN; DELETE FROM customer WHERE id = 1")
        thread = threading.Thread(target=insert, daemon=True)
        thread.start()
        p.a.wait("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())")
        deleter.execute("COMMIT")
        thread.join()
    assert p.rows() == [] and "could not be given a newer value" in errors[0], errors


def test_key_changed_by_a_trigger(pair):
    """The trigger that looks again would not be told of it."""
    p = pair(a="apply", b="apply", options={"session_replication_role": "replica"})
    p.a.q("CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.id := NEW.id + 100; RETURN NEW; END';"
          "CREATE TRIGGER odd BEFORE UPDATE ON customer FOR EACH ROW EXECUTE FUNCTION odd()")
    p.a.q("SELECT kafka.alter_subscription('s', '{\"conflict\": \"newer:updated_at\"}')")
    p.a.q("INSERT INTO customer VALUES (1, 'a')")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="a trigger has changed the key of a row of table \"customer\""):
        p.a.q("UPDATE customer SET name = 'b'")
    p.a.q("UPDATE customer SET name = 'b', id = 2")
    assert p.a.q("SELECT id, name FROM customer") == [(102, "b")]


def test_deleted_by_a_trigger_as_it_is_inserted(pair):
    """A row that its own statement deletes or changes again is not taken for one that came too late."""
    p = pair()
    p.a.q("CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
          "IF NEW.id = 1 THEN DELETE FROM customer WHERE id = 1; ELSE UPDATE customer SET name = 'changed' WHERE id = 2; END IF; RETURN NULL; END $$;"
          "CREATE TRIGGER \"a first\" AFTER INSERT ON customer FOR EACH ROW EXECUTE FUNCTION away()")
    p.a.q("INSERT INTO customer VALUES (2, 'a'); DELETE FROM customer; INSERT INTO customer VALUES (1, 'a'), (2, 'a')")
    assert p.rows() == [(2, "changed")]


def test_worker_killed(private_cluster, kafka):
    """Whatever a kill -9 takes back comes again, and is put in the same order."""
    p = Pair(private_cluster, kafka)
    load(p.both, 1, n=100, keys=40, deletes=0.2)
    for db, kind in ((p.a, "subscription"), (p.b, "publisher")):
        pid = wait_until(lambda: private_cluster.worker_pids(f"pg_kafka_sync {kind}", db.name))[0]
        # sessions that lose their server end there
        thread = threading.Thread(target=load, args=(p.both, 2), kwargs=dict(n=600, keys=40, deletes=0.2))
        thread.start()
        written = db.value("SELECT coalesce(max(updated_at), '-infinity') FROM customer")
        db.wait("SELECT max(updated_at) > %s FROM customer", written)
        private_cluster.kill_worker(pid)
        thread.join()
        for database in p.both:
            database.close()
        private_cluster.wait_accepting()
    load(p.both, 1, n=300, keys=40, deletes=0.2)
    p.check()


def test_apply_and_keep(pair):
    """What b writes wins; what a writes arrives where b has not written meanwhile."""
    p = pair(a="apply", b="keep", table=TABLE + "ALTER TABLE customer REPLICA IDENTITY FULL;")

    def work(db, number):
        # no row comes back to what it was, and none that has gone comes again: see docs/operations.md
        with db.connect() as connection:
            connection.execute("SET synchronous_commit = off")
            for i in range(600):
                connection.execute("UPDATE customer SET name = %s WHERE id = 1 + floor(random() * 100)::int", [f"{db.name} {number} {i}"])
                if i % 40 == 0:
                    connection.execute("DELETE FROM customer WHERE id = %s", [100 + 2 * i + number])
    p.a.q("INSERT INTO customer SELECT i, 'new' FROM generate_series(1, 2000) i")
    p.check()
    assert run_all(work, (p.a, 0), (p.a, 1), (p.b, 0), (p.b, 1)) == []
    p.check()
    applied, kept, ties = p.conflicts(p.b)
    assert (applied, ties) == (0, 0) and kept > 0
    assert p.conflicts(p.a) == (0, 0, 0)

    # one conflict by hand, and then none
    p.pause()
    p.a.q("UPDATE customer SET name = 'of a' WHERE id IN (1, 2)")
    p.b.q("UPDATE customer SET name = 'of b' WHERE id = 1")
    p.a.q("INSERT INTO customer VALUES (5001, 'of a', NULL)")
    p.b.q("INSERT INTO customer VALUES (5001, 'of b', NULL)")
    p.a.q("DELETE FROM customer WHERE id = 3")
    p.b.q("UPDATE customer SET name = 'of b' WHERE id = 3")
    p.resume()
    p.check()
    assert p.a.q("SELECT id, name FROM customer WHERE id IN (1, 2, 3, 5001) ORDER BY id") == \
        [(1, "of b"), (2, "of a"), (3, "of b"), (5001, "of b")]
    p.a.q("UPDATE customer SET name = 'of a again' WHERE id IN (1, 3)")
    p.check()
    assert p.b.q("SELECT id, name FROM customer WHERE id IN (1, 3) ORDER BY id") == [(1, "of a again"), (3, "of a again")]


def test_newer_by_hand(pair):
    """One case each: the newer value wins wherever it comes from, ties go to the greater name, deletes have their place."""
    p = pair()
    p.a.q("INSERT INTO customer SELECT i, 'new', NULL, '2026-01-01' FROM generate_series(1, 20) i")
    p.check()
    p.pause()

    def put(db, id, at, name):
        db.q("UPDATE customer SET name = %s, updated_at = %s WHERE id = %s", name, at, id)
    put(p.a, 1, "2026-01-03", "a newer"), put(p.b, 1, "2026-01-02", "b older")
    put(p.a, 2, "2026-01-02", "a older"), put(p.b, 2, "2026-01-03", "b newer")
    put(p.a, 3, "2026-01-02", "a tie"), put(p.b, 3, "2026-01-02", "b tie")
    # the last of many by its value, not by its place
    put(p.b, 4, "2026-02-01", "b"), put(p.a, 4, "2026-03-01", "a"), put(p.b, 4, "2026-02-02", "b")
    # a delete is newer than what was written before it, and older than what is newer than it
    p.a.q("DELETE FROM customer WHERE id IN (5, 6, 7)")
    put(p.b, 5, "2026-01-02", "b")
    put(p.b, 6, "2100-01-01", "b later")
    p.b.q("DELETE FROM customer WHERE id = 7")
    # a new row after a delete, on one side, and an older change on the other
    p.a.q("DELETE FROM customer WHERE id = 8")
    p.a.q("INSERT INTO customer VALUES (8, 'a again', NULL, '2020-01-01')")
    put(p.b, 8, "2026-01-05", "b")
    # two new rows of a key
    p.a.q("INSERT INTO customer VALUES (30, 'a', NULL, '2026-01-01')")
    p.b.q("INSERT INTO customer VALUES (30, 'b', NULL, '2026-01-02')")
    # a key that moves away, and one that moves where another row is written
    p.a.q("UPDATE customer SET id = 40, name = 'a moved' WHERE id = 9")
    put(p.b, 9, "2026-01-02", "b")
    p.a.q("UPDATE customer SET id = 41, name = 'a moved' WHERE id = 10")
    p.b.q("INSERT INTO customer VALUES (41, 'b', NULL, '2100-01-01')")
    # without a newer value: it is given one
    p.a.q("UPDATE customer SET name = 'a, by the clock' WHERE id = 11")
    put(p.b, 11, "2026-01-02", "b")
    p.resume()
    rows = dict(p.rows())
    assert rows == {1: "a newer", 2: "b newer", 3: "b tie", 4: "a", 6: "b later", 8: "a again", 30: "b", 40: "a moved", 41: "b",
                    11: "a, by the clock", **{i: "new" for i in range(12, 21)}}
    assert p.conflicts(p.a)[2] == p.conflicts(p.b)[2] == 1
    assert p.conflicts(p.a)[1] > 0 and p.conflicts(p.b)[1] > 0
    # b's next change comes after what a had set to a time to come, though b's clock says otherwise
    p.b.q("UPDATE customer SET name = 'b after b later' WHERE id = 6")
    assert dict(p.rows())[6] == "b after b later"


@pytest.mark.parametrize("type, values", [("bigint", "1, 2, 3, 4"), ("numeric", "1, 2.50, 2.6, 10"), ("text COLLATE \"C\"", "'a', 'b', 'c', 'd'"),
                                          ("timestamp(0)", "'2026-01-01', '2026-01-02', '2026-01-03', '2026-01-04'")])
def test_types(pair, type, values):
    """Any type with an order will do; where it has no next value, a change that is not newer is refused."""
    v = values.split(", ")
    p = pair(a="newer:version", b="newer:version", table=f"""
        CREATE TABLE customer (id numeric(10,2), "K" text, name text, version {type}, PRIMARY KEY (id, "K"));
        CREATE PUBLICATION pub FOR TABLE customer;""")
    p.a.q(f"INSERT INTO customer SELECT i, 'k', 'new', {v[0]} FROM generate_series(1, 6) i")
    p.check()
    p.pause()
    p.a.q(f"UPDATE customer SET name = 'a', version = {v[2]} WHERE id = 1")
    p.b.q(f"UPDATE customer SET name = 'b', version = {v[1]} WHERE id = 1")
    p.a.q("DELETE FROM customer WHERE id IN (2, 3)")
    p.b.q("DELETE FROM customer WHERE id = 3")
    p.b.q(f"UPDATE customer SET name = 'b', version = '{'2100-01-01' if 'time' in type else v[3].strip(chr(39))}' WHERE id = 2")
    p.b.q("DELETE FROM customer WHERE id = 4")
    p.b.q(f"INSERT INTO customer VALUES (4, 'k', 'b', '{'2100-01-01' if 'time' in type else v[2].strip(chr(39))}')")
    p.a.q(f"UPDATE customer SET name = 'a', version = {v[1]} WHERE id = 4")
    p.resume()
    assert [(int(id), name) for id, name in p.rows()] == [(1, "a"), (2, "b"), (4, "b"), (5, "new"), (6, "new")]
    if type in ("bigint", "timestamp(0)"):
        p.a.q("UPDATE customer SET name = 'no version given' WHERE id = 5")
        assert p.a.value("SELECT version > min FROM customer, (SELECT min(version) FROM customer) m WHERE id = 5")
        p.check()
    else:
        with pytest.raises(psycopg.errors.CheckViolation, match='"version" of table "customer" is not newer than'):
            p.a.q("UPDATE customer SET name = 'no version given' WHERE id = 5")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="cannot be truncated"):
        p.a.q("TRUNCATE customer")


def test_deletes_are_forgotten(pair):
    p = pair(options={"tombstone_retention": "1 hour"})
    p.a.q("INSERT INTO customer SELECT i, 'new', NULL, '2026-01-01' FROM generate_series(1, 10) i")
    p.check()
    p.b.q("SELECT kafka.pause_publisher('p')")
    p.b.q("UPDATE customer SET name = 'b', updated_at = '2026-01-02' WHERE id = 1")
    p.a.q("DELETE FROM customer WHERE id <= 5")
    p.a.wait_for_publisher("p")
    p.b.wait_for_subscription("s")
    for db in p.both:
        assert db.value("SELECT count(*) FROM kafka.deleted_row WHERE target = 'customer'::regclass") == 5
    p.b.q("SELECT kafka.resume_publisher('p')")
    assert [id for id, _ in p.rows()] == [6, 7, 8, 9, 10]
    for db in p.both:
        db.q("SELECT kafka.alter_subscription('s', '{\"tombstone_retention\": \"1 ms\"}')")
        db.wait("SELECT count(*) = 0 FROM kafka.deleted_row")
    # too late: an update of a row whose delete is forgotten
    p.kafka.produce(p.topics[0], {"op": "u", "before": None, "after": {"id": 3, "name": "late", "email": None, "updated_at": "2026-01-01T00:00:00Z"},
                            "source": {"connector": "postgresql", "name": p.names[0], "ts_us": 1767225600000000}}, {"id": 3})
    p.b.wait_for_subscription("s")
    assert p.b.value("SELECT name FROM customer WHERE id = 3") == "late"
    p.b.wait("SELECT count(*) = 1 FROM kafka.problems WHERE problem LIKE '1 updates older than \"tombstone_retention\"%%'")


def test_dropped_with_the_subscription(pair):
    """Triggers and what is remembered are there as long as a subscription needs them."""
    p = pair()
    guards = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'customer'::regclass AND tgname ~ 'pg_kafka_sync' AND tgenabled = 'A'"
    p.a.q("INSERT INTO customer VALUES (1, 'a')")
    p.a.q("DELETE FROM customer")
    assert p.a.value(guards) == 3 and p.a.value("SELECT count(*) FROM kafka.deleted_row") == 1
    p.a.q("SELECT kafka.alter_subscription('s', '{\"conflict\": \"apply\"}')")
    assert p.a.value(guards) == 0 and p.a.value("SELECT count(*) FROM kafka.deleted_row") == 0
    p.a.q("SELECT kafka.alter_subscription('s', '{\"conflict\": \"newer:updated_at\"}')")
    assert p.a.value(guards) == 3
    # somebody takes them away: noticed
    p.a.q("ALTER TABLE customer DISABLE TRIGGER zz_pg_kafka_sync_conflict")
    p.b.q("INSERT INTO customer VALUES (2, 'b')")
    wait_until(lambda: "are missing or disabled" in (p.a.state("subscription", "s")["last_error"] or ""))
    p.a.q("SELECT kafka.alter_subscription('s', '{\"max_batch_rows\": 100}')")
    assert p.a.value(guards) == 3
    p.check()
    p.a.q("SELECT kafka.drop_subscription('s')")
    assert p.a.value(guards) == 0
    p.b.q("DROP EXTENSION pg_kafka_sync CASCADE")
    assert p.b.value(guards) == 0


REFUSED = [
    ('{"conflict": "older:x"}', "json", "invalid value for option \"conflict\": older:x"),
    ('{"conflict": "newer:"}', "debezium", "invalid value for option \"conflict\": newer:"),
    ('{"conflict": "newer:updated_at"}', "json", "messages of format json tell neither the old row nor who changed it"),
    ('{"conflict": "keep"}', "json", "messages of format json"),
    ('{"conflict": "newer:updated_at", "flat": true}', "debezium", "events without an envelope"),
    ('{"conflict": "keep"}', "debezium", "conflicts are found by the old row in events, which must be whole"),
    ('{"conflict": "newer:nothing"}', "debezium", "column \"nothing\" of option \"conflict\" does not exist"),
    ('{"conflict": "newer:id"}', "debezium", "column \"id\" is in the key"),
    ('{"conflict": "newer:place"}', "debezium", "is of type point, whose values have no order"),
    ('{"conflict": "newer:doubled"}', "debezium", "column \"doubled\" is generated"),
    ('{"conflict": "newer:updated_at", "on_gap": "rebuild"}', "debezium", "option \"on_gap\" is rebuild"),
    ('{"conflict": "newer:updated_at", "tombstone_retention": "-1 day"}', "debezium", "invalid value for option \"tombstone_retention\": -1 day"),
    ('{"tombstone_retention": "1 day"}', "debezium", "option \"tombstone_retention\" needs option \"conflict\" to be newer"),
    ('{"conflict": "apply", "server_name": "x"}', "debezium", "option \"server_name\" needs option \"conflict\" to be newer"),
]


def test_refused(db, kafka):
    db.q("""CREATE TABLE t (id int PRIMARY KEY, v int, place point, doubled int GENERATED ALWAYS AS (v * 2) STORED, updated_at timestamptz);
            CREATE TABLE p (id int PRIMARY KEY, updated_at timestamptz) PARTITION BY HASH (id);
            CREATE TABLE f (id float PRIMARY KEY, updated_at timestamptz)""")
    topic = kafka.create_topic()

    def create(options, format="debezium", target="t", mode="upsert"):
        db.q("SELECT kafka.create_subscription('s', 'kafka', %s, %s, %s, %s, options => %s::jsonb)", [topic], target, format, mode, options)

    def refused(match, call, *arguments, **named):
        with pytest.raises(psycopg.Error) as e:
            call(*arguments, **named)
        assert match in str(e.value)
        assert e.value.sqlstate[:2] in ("22", "0A", "42", "55"), e.value.sqlstate
    for options, format, match in REFUSED:
        refused(match, create, options, format)
    newer = '{"conflict": "newer:updated_at"}'
    refused("target \"p\" is not an ordinary table", create, newer, target="p")
    refused("is of type double precision, whose equal values can have different texts", create, newer, target="f")
    refused("rows of mode append", create, newer, mode="append")
    db.q("CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at := now(); RETURN NEW; END';"
         "CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch()")
    refused("trigger \"touch\" of target \"t\" might change rows on their way into it", create, newer)
    assert db.q("TABLE kafka.subscription") == []

    # an ordinary trigger does not fire in role replica, but what it does here must be put in order
    replica = '{"conflict": "newer:updated_at", "session_replication_role": "replica"}'
    db.q("ALTER TRIGGER touch ON t RENAME TO zz_touch")
    refused("trigger \"zz_touch\" of target \"t\" fires after the one that orders", create, replica)
    db.q("ALTER TRIGGER zz_touch ON t RENAME TO touch")
    create(replica)
    db.q("ALTER TRIGGER touch ON t RENAME TO zz_touch")
    wait_until(lambda: "\"zz_touch\" fires after" in (db.state("subscription", "s")["last_error"] or ""))
    db.q("ALTER TRIGGER zz_touch ON t RENAME TO touch")
    refused("might change rows", db.q, "SELECT kafka.alter_subscription('s', '{\"session_replication_role\": \"origin\"}')")
    refused("cannot be read again from the log", db.q, "SELECT kafka.rebuild_subscription('s')")
    db.q("CREATE TABLE u (id int PRIMARY KEY, updated_at timestamptz)")
    refused("rows that a query makes", db.q,
            "SELECT kafka.add_target('s', 'u', 'SELECT (after->>''id'')::int AS id FROM batch')")
    db.q("SELECT kafka.create_subscription('s2', 'kafka', %s, 't')", [topic])
    refused("another subscription orders changes of table \"t\" by another column", db.q,
            "SELECT kafka.alter_subscription('s2', '{\"conflict\": \"newer:v\", \"session_replication_role\": \"replica\"}')")


def test_messages_that_cannot_be_ordered(db, kafka):
    """They stop the subscription, with the reason."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text, n int)")
    topic = kafka.create_topic()
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 't', options => '{\"conflict\": \"newer:n\", \"server_name\": \"here\"}')", [topic])

    def event(op, row, before=None, name="there"):
        return {"op": op, "before": before, "after": row, "source": {"connector": "postgresql", "name": name, "ts_us": 1}}
    kafka.produce(topic, event("c", {"id": 1, "v": "a", "n": 1}), {"id": 1})
    db.wait_for_subscription("s")
    for cause, message, key in [
            ("does not tell the old value of column \"n\"", event("d", None, {"id": 1}), {"id": 1}),
            ("a truncate cannot be put in order", event("t", None), {}),
            ("the message has no value for column \"n\"", event("u", {"id": 1, "v": "b"}), {"id": 1}),
            ("the message key does not hold the target's key", event("u", {"id": 1, "v": "b", "n": 2}), {"v": "b"}),
            ("leaves the value out as unchanged", event("u", {"id": 1, "v": "__debezium_unavailable_value", "n": 2}), {"id": 1}),
            ("both databases are called \"here\"", event("u", {"id": 1, "v": "b", "n": 1}, name="here"), {"id": 1})]:
        _, offset = kafka.produce(topic, message, key)
        wait_until(lambda: cause in (db.state("subscription", "s")["last_error"] or ""), what=cause)
        db.q("SELECT kafka.seek_subscription('s', %s)", '{"%s": {"0": %d}}' % (topic, offset + 1))
        db.wait_for_subscription("s")
    _, offset = kafka.produce(topic, event("d", None), {"id": 1}, headers=[("pg_kafka_sync.deleted", b"=\xff")])
    wait_until(lambda: "invalid byte sequence" in (db.state("subscription", "s")["last_error"] or ""))
    db.q("SELECT kafka.seek_subscription('s', %s)", '{"%s": {"0": %d}}' % (topic, offset + 1))
    assert db.q("TABLE t") == [(1, "a", 1)]
    # the tombstone that another publisher writes behind a delete is not one more
    kafka.produce(topic, None, {"id": 1})
    db.wait_for_subscription("s")
    assert db.q("TABLE t") == [(1, "a", 1)]


def test_rights_and_dump(make_db, kafka):
    """Who may write the table need not know of the triggers, nor his snapshot of what is remembered; a dump carries both."""
    db, copy = make_db(), make_db(extension=False)
    db.create_server(kafka)
    role = f"app_{uuid.uuid4().hex[:8]}"
    db.q(TABLE + f"CREATE ROLE {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON customer TO {role}")
    try:
        db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 'customer', options => '{\"conflict\": \"newer:updated_at\"}')",
             [kafka.create_topic()])
        with db.connect() as connection:
            connection.execute(f"SET ROLE {role}")
            connection.execute("INSERT INTO customer VALUES (1), (2), (3)")
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            for _ in range(2):
                connection.execute("DELETE FROM customer WHERE id = 1")
                connection.execute("INSERT INTO customer VALUES (1, 'again', NULL, '2000-01-01')")
            connection.execute("COMMIT")
            connection.execute("DELETE FROM customer WHERE id = 2")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT * FROM kafka.deleted_row")
        remembered = db.q("SELECT key, stamp FROM kafka.deleted_row ORDER BY key")
        assert [key for key, _ in remembered] == [["1"], ["2"]]
        assert db.value("SELECT updated_at > %s FROM customer WHERE id = 1", remembered[0][1])

        bin = subprocess.run([os.environ.get("PG_CONFIG", "/usr/lib/postgresql/15/bin/pg_config"), "--bindir"], check=True,
                             capture_output=True, text=True).stdout.strip()
        dump = subprocess.run([f"{bin}/pg_dump", "-d", db.cluster.dsn(db.name)], check=True, capture_output=True, text=True).stdout
        subprocess.run([f"{bin}/psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", db.cluster.dsn(copy.name)], check=True,
                       input=dump, capture_output=True, text=True)
        assert copy.q("SELECT key, stamp FROM kafka.deleted_row ORDER BY key") == remembered
        copy.q("DELETE FROM customer WHERE id = 3")
        assert copy.value("SELECT count(*) FROM kafka.deleted_row") == 3
        copy.q("SELECT kafka.drop_subscription('s')")
        assert copy.q("SELECT tgname FROM pg_trigger WHERE tgrelid = 'customer'::regclass") == copy.q("TABLE kafka.deleted_row") == []
    finally:
        for database in (db, copy):
            database.q(f"DROP OWNED BY {role}")
        db.q(f"DROP ROLE {role}")


def event(op, row, name, before=None):
    return {"op": op, "before": before, "after": row, "source": {"connector": "postgresql", "name": name, "ts_us": 1}}


def test_repeats_with_keep(db, kafka):
    """What a publisher writes again is no new row of a key that was deleted here meanwhile."""
    topic = kafka.create_topic()
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 't', options => '{\"conflict\": \"keep\", \"full_before\": true}')", [topic])
    for round in range(2):
        for i in (1, 2):
            kafka.produce(topic, event("c", {"id": i, "v": "a"}, "a"), {"id": i}, headers=[("pg_kafka_sync.pos", f"a1/1/{i}")])
        db.wait_for_subscription("s")
        assert db.q("SELECT id FROM t ORDER BY id") == [(1,), (2,)][round:]
        db.q("DELETE FROM t WHERE id = 1")


def test_two_subscriptions(db, kafka):
    """The delete of a key without a row, and a new row of the key that comes from elsewhere at the same time."""
    topics = [kafka.create_topic(), kafka.create_topic()]
    db.q("""CREATE TABLE t (id int PRIMARY KEY, v text, n int);
            CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
            CREATE TRIGGER hold AFTER INSERT ON t FOR EACH ROW WHEN (NEW.v = 'hold') EXECUTE FUNCTION hold()""")
    for i, topic in enumerate(topics):
        db.q("SELECT kafka.create_subscription(%s, 'kafka', %s, 't', options => '{\"conflict\": \"newer:n\"}')", f"s{i}", [topic])
    with db.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(1)")
        # one transaction: the delete is remembered, and then it waits
        db.q("SELECT kafka.pause_subscription('s0')")
        kafka.produce(topics[0], event("d", None, "b"), {"id": 1}, headers=[("pg_kafka_sync.deleted", "=5")])
        kafka.produce(topics[0], event("c", {"id": 9, "v": "hold", "n": 1}, "b"), {"id": 9})
        db.q("SELECT kafka.resume_subscription('s0')")
        db.wait("SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        kafka.produce(topics[1], event("c", {"id": 1, "v": "older than the delete", "n": 4}, "c"), {"id": 1})
        kafka.produce(topics[1], event("c", {"id": 2, "v": "apart", "n": 4}, "c"), {"id": 2})
        assert db.value("SELECT kafka.wait_for_subscription('s1', timeout => '1 s')") is False
    for i in range(2):
        db.wait_for_subscription(f"s{i}")
    assert db.q("SELECT id FROM t ORDER BY id") == [(2,), (9,)]
    assert db.q("SELECT key, stamp FROM kafka.deleted_row") == [(["1"], "5")]
