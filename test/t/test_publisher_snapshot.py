"""Initial snapshots, and their hand-over to the stream."""

import threading
import time

import pytest

from conftest import wait_until
from publisher_util import check_positions, create, kill_worker, prefix, state_of, sync, table_state


def test_markers(db, kafka):
    p = prefix()
    db.q("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE empty (id int PRIMARY KEY)")
    db.q("INSERT INTO a SELECT generate_series(1, 3); INSERT INTO b SELECT generate_series(1, 3)")
    create(db, "p", "FOR TABLE a, b, empty", p, "initial", "debezium")
    sync(db, "p")
    a, b = kafka.consume(f"{p}.public.a"), kafka.consume(f"{p}.public.b")
    assert {m.json["op"] for m in a + b} == {"r"}
    assert [m.json["source"]["snapshot"] for m in a] == ["first", "true", "last_in_data_collection"]
    assert [m.json["source"]["snapshot"] for m in b] == ["first_in_data_collection", "true", "last"]
    check_positions(a)
    rows = db.dicts("SELECT * FROM kafka.publisher_tables WHERE publisher = 'p' ORDER BY topic")
    assert [(r["snapshot_state"], r["snapshot_rows"]) for r in rows] == [("done", 3), ("done", 3), ("done", 0)]


def test_only(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 1000) g")
    create(db, "p", "FOR TABLE t", p, "only")
    db.wait_state("publisher", "p", "finished")
    assert state_of(kafka.consume(f"{p}.public.t")) == table_state(db, "t")
    assert db.value("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 0
    db.q("INSERT INTO t VALUES (5000)")
    db.q("SELECT kafka.pause_publisher('p'); SELECT kafka.resume_publisher('p')")
    db.wait_state("publisher", "p", "finished")
    assert len(kafka.consume(f"{p}.public.t")) == 1000


def test_filters_lists_and_partitions(db, kafka):
    p = prefix()
    db.q("""CREATE TABLE f (id int PRIMARY KEY, n int, secret text);
            INSERT INTO f SELECT g, g, 's' FROM generate_series(1, 100) g;
            CREATE TABLE r (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
            CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (100);
            CREATE TABLE r2 (x int, v text, id int NOT NULL); ALTER TABLE r2 DROP x;
            ALTER TABLE r ATTACH PARTITION r2 FOR VALUES FROM (100) TO (200);
            INSERT INTO r SELECT g, 'v' || g FROM generate_series(1, 150) g""")
    create(db, "p", "FOR TABLE f (id, n) WHERE (id > 90), r WITH (publish_via_partition_root)", p, "initial")
    create(db, "q", "FOR TABLE r", p + "q", "initial")
    sync(db, "p")
    assert state_of(kafka.consume(f"{p}.public.f")) == {i: {"id": i, "n": i} for i in range(91, 101)}
    assert state_of(kafka.consume(f"{p}.public.r")) == table_state(db, "r")
    sync(db, "q")
    assert state_of(kafka.consume(f"{p}q.public.r1")) == table_state(db, "r1")
    assert state_of(kafka.consume(f"{p}q.public.r2")) == table_state(db, "r2")


def test_toast_in_snapshot(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL")
    db.q("INSERT INTO t SELECT g, repeat(md5(g::text), 1000) FROM generate_series(1, 20) g")
    create(db, "p", "FOR TABLE t", p, "initial")
    sync(db, "p")
    assert state_of(kafka.consume(f"{p}.public.t")) == table_state(db, "t")


def test_rights_of_the_owner(db, kafka):
    p = prefix()
    db.q("""CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE pol (id int PRIMARY KEY); CREATE PUBLICATION pub FOR TABLE t;
            CREATE PUBLICATION pub2 FOR TABLE pol; ALTER TABLE pol ENABLE ROW LEVEL SECURITY""")
    db.q("DROP ROLE IF EXISTS pub_owner_x")
    db.q("CREATE ROLE pub_owner_x LOGIN REPLICATION; GRANT USAGE ON FOREIGN SERVER kafka TO pub_owner_x")
    db.q("GRANT SELECT ON pol TO pub_owner_x; GRANT USAGE ON SCHEMA kafka TO pub_owner_x")
    try:
        with db.connect(user="pub_owner_x") as c:
            c.execute("SELECT kafka.create_publisher('p', 'kafka', 'pub', %s)", (p,))
            c.execute("SELECT kafka.create_publisher('q', 'kafka', 'pub2', %s)", (p,))
        assert 'permission denied for table "public.t"' in db.wait_state("publisher", "p", "error")["last_error"]
        assert "row-level security" in db.wait_state("publisher", "q", "error")["last_error"]
        db.q("GRANT SELECT (id) ON t TO pub_owner_x")
        db.q("SELECT kafka.resume_publisher('p')")
        db.wait_state("publisher", "p", "streaming")
    finally:
        db.q("SELECT kafka.drop_publisher('p'), kafka.drop_publisher('q')")
        db.q("DROP OWNED BY pub_owner_x")
        db.q("DROP ROLE pub_owner_x")


class Writers:
    """Sessions that change table t at random until stopped."""

    def __init__(self, db, count=3):
        self.db = db
        self.stopping = False
        self.written = 0
        self.threads = [threading.Thread(target=self.write, args=(i,)) for i in range(count)]
        self.failures = []
        for t in self.threads:
            t.start()

    def write(self, seed):
        try:
            with self.db.connect(autocommit=True) as c:
                c.execute("SELECT setseed(%s)", (seed / 10,))
                n = 0
                while not self.stopping:
                    n += 1
                    self.written += 1
                    if n % 5 == 0:
                        with c.transaction():
                            c.execute("INSERT INTO t SELECT i, 'new' || random() FROM (SELECT (random() * 3000)::int AS i "
                                      "FROM generate_series(1, 20)) x GROUP BY i ON CONFLICT (id) DO UPDATE SET v = excluded.v")
                            time.sleep(0.01)
                    elif n % 5 == 1:
                        c.execute("DELETE FROM t WHERE id = (random() * 3000)::int")
                    elif n % 5 == 2:
                        c.execute("UPDATE t SET id = id + 10000 WHERE id = (random() * 3000)::int")
                    elif n % 5 == 3:
                        c.execute("DELETE FROM t WHERE id = (SELECT id FROM t WHERE id > 10000 LIMIT 1)")
                    else:
                        c.execute("UPDATE t SET v = 'u' || random() WHERE id = (random() * 3000)::int")
        except Exception as e:
            if "deadlock" not in str(e) and "duplicate key" not in str(e):
                self.failures.append(e)

    def stop(self):
        self.stopping = True
        for t in self.threads:
            t.join()
        assert not self.failures, self.failures


@pytest.mark.parametrize("attempt", range(3))
def test_hand_over_under_writes(db, kafka, attempt):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 2000) g")
    db.q("CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other SELECT generate_series(1, 50000)")
    writers = Writers(db)
    try:
        create(db, "p", "FOR TABLE other, t", p, "initial")
        before = writers.written
        wait_until(lambda: writers.written > before + 200)
    finally:
        writers.stop()
    sync(db, "p")
    assert state_of(kafka.consume(f"{p}.public.t")) == table_state(db, "t")
    assert len(kafka.consume(f"{p}.public.other")) == 50000


def test_killed_in_the_middle(private_cluster, kafka):
    """kill -9 during the snapshot, under writes: what was sent first and deleted meanwhile must not stay."""
    db = private_cluster.create_database()
    db.create_server(kafka)
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 3000) g")
    db.q("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u SELECT generate_series(1, 300000)")
    db.q("CREATE PUBLICATION pub FOR TABLE t, u")
    db.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', %s, format => 'json')", p)
    wait_until(lambda: f"{p}.public.t" in kafka.topics() and len(kafka.consume(f"{p}.public.t")) > 0, 30)
    for round in range(2):
        kill_worker(private_cluster, db, "p")
        db.q("DELETE FROM t WHERE id %% 7 = %s", round)
        db.q("UPDATE t SET v = 'changed' WHERE id %% 11 = %s", round)
        db.q("DELETE FROM u WHERE id %% 1000 = %s", round)
    db.wait_state("publisher", "p", "streaming", 60)
    sync(db, "p")
    assert state_of(kafka.consume(f"{p}.public.t")) == table_state(db, "t")
    assert set(state_of(kafka.consume(f"{p}.public.u"))) == set(table_state(db, "u"))
