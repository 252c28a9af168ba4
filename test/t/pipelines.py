"""A publisher in one database, a subscription in another, work between them, and the checks that nothing went wrong."""

import json
import threading
from collections import defaultdict

import psycopg

from conftest import wait_until

WORK = """
CREATE TABLE acct (id int PRIMARY KEY, version bigint NOT NULL, payload text);
CREATE SEQUENCE versions;
CREATE TABLE journal (n bigserial PRIMARY KEY, id int NOT NULL, version bigint);   -- what must arrive, in its order

-- Changes random rows, n times, per_transaction in each transaction; some are taken back.
CREATE PROCEDURE work(n int, keys int, per_transaction int) LANGUAGE plpgsql AS $$
DECLARE k int; v bigint;
BEGIN
    FOR i IN 1..n LOOP
        k := 1 + floor(random() * keys);
        IF random() < 0.05 THEN
            BEGIN
                INSERT INTO acct VALUES (k, -1, 'never to be seen') ON CONFLICT (id) DO UPDATE SET version = -1;
                RAISE division_by_zero;
            EXCEPTION WHEN division_by_zero THEN NULL;
            END;
        END IF;
        IF random() < 0.1 THEN
            DELETE FROM acct WHERE id = k;
            IF FOUND THEN INSERT INTO journal (id, version) VALUES (k, NULL); END IF;
        ELSE
            v := nextval('versions');
            INSERT INTO acct VALUES (k, v, md5(v::text)) ON CONFLICT (id) DO UPDATE SET version = v, payload = excluded.payload;
            INSERT INTO journal (id, version) VALUES (k, v);
        END IF;
        IF i % per_transaction = 0 THEN COMMIT; END IF;
    END LOOP;
END $$;
"""


class Pipeline:
    """Databases source and target of a cluster, table acct published by p and applied by s."""

    def __init__(self, cluster, kafka, format="json", table=WORK, tables="acct", publisher="{}", subscription="{}",
                 snapshot="never", partitions=3, server={}, prepare=None):
        self.cluster, self.kafka, self.format = cluster, kafka, format
        self.source, self.target = cluster.create_database(), cluster.create_database()
        for db in (self.source, self.target):
            db.create_server(kafka, **server)
            db.q(table)
        if prepare:
            prepare(self.source)
        self.topic = f"{self.source.name}.public.acct"
        self.source.q(f"CREATE PUBLICATION pub FOR TABLE {tables}")
        options = {"topic.creation.default.partitions": partitions, **json.loads(publisher)}
        self.source.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', format => %s, snapshot => %s, options => %s::jsonb)",
                      format, snapshot, json.dumps(options))
        self.target.q("SELECT kafka.create_subscription('s', 'kafka', %s, 'acct', %s, options => %s::jsonb)",
                      [self.topic], format, subscription)

    def drop(self):
        for db in (self.source, self.target):
            self.cluster.drop_database(db)

    def work(self, n=1000, keys=500, per_transaction=1):
        with self.source.connect() as connection:
            connection.execute("SET synchronous_commit = off")
            connection.execute(f"CALL work({n}, {keys}, {per_transaction})")

    def worker(self, db):
        found = db.dicts("SELECT * FROM kafka.worker_status()")
        assert found, "the launcher does not know it yet"
        return found[0]

    def pid(self, db):
        def runs():
            return self.worker(db)["pid"]
        return wait_until(runs, what="the worker to run")

    def kill_worker(self, db):
        """kill -9, and waits until the server has restarted itself."""
        with self.cluster.connect() as sentinel:
            self.cluster.kill_worker(self.pid(db))
            def broken():
                try:
                    sentinel.execute("SELECT 1")
                except psycopg.Error:
                    return True
            wait_until(broken, what="the server to end its backends")
        for database in (self.source, self.target):
            database.close()
        self.cluster.wait_accepting()

    def settle(self, timeout=60):
        """Until everything is in the target."""
        def reached(db, kind, name):
            assert db.value(f"SELECT kafka.wait_for_{kind}('{name}', timeout => '1 s')"), db.state(kind, name)
            return True
        wait_until(lambda: reached(self.source, "publisher", "p"), timeout, what="the publisher")
        wait_until(lambda: reached(self.target, "subscription", "s"), timeout, what="the subscription")

    def check_target(self, table="acct"):
        same_rows(self.source, self.target, table)

    def check_topic(self):
        """Every change of every key is in the topic in its order, once but for what a restart repeated."""
        expected = defaultdict(list)
        for key, version in self.source.q("SELECT id, version FROM journal ORDER BY n"):
            expected[key].append(version)
        messages = self.kafka.consume(self.topic)
        seen, got, last = set(), defaultdict(list), {}
        partition_of = {}
        for m in messages:
            key = m.json_key["id"]
            assert partition_of.setdefault(key, m.partition) == m.partition, f"key {key} is in two partitions"
            position = m.header("pg_kafka_sync.pos").decode()
            tombstone = m.value is None and self.format == "debezium"
            if (position, tombstone) in seen:
                continue
            seen.add((position, tombstone))
            _, lsn, ordinal = position.split("/")
            place = (int(lsn, 16), int(ordinal))
            assert place >= last.get(key, (0, 0)), f"key {key} goes back from {last[key]} to {place}"
            last[key] = place
            if tombstone:
                continue
            row = m.json if self.format == "json" or m.value is None else m.json["after"]
            got[key].append(None if row is None else row["version"])
        assert got.keys() == expected.keys()
        for key, versions in expected.items():
            assert got[key] == versions, f"key {key}: " + difference(versions, got[key])
        return len(messages) - len(seen)

    def check(self, timeout=60):
        self.settle(timeout)
        self.check_target()
        return self.check_topic()


def difference(expected, got):
    """Where two lists part, in words."""
    at = next((i for i, (a, b) in enumerate(zip(expected, got)) if a != b), min(len(expected), len(got)))
    return (f"{len(expected)} expected, {len(got)} there; from number {at} on expected {expected[at:at + 8]}, there {got[at:at + 8]}")


class Worker:
    """Works in a thread until stop(); a lost connection is made again."""

    def __init__(self, pipeline, keys=500, per_transaction=1, batch=200):
        self.pipeline, self.arguments = pipeline, dict(n=batch, keys=keys, per_transaction=per_transaction)
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while not self._stop.is_set():
            try:
                self.pipeline.work(**self.arguments)
            except Exception:
                self._stop.wait(0.1)

    def stop(self):
        self._stop.set()
        self.thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def same_rows(source, target, table="acct", columns="*"):
    """The two tables hold the same rows, each as often (EXCEPT ALL both ways, as text)."""
    query = f"SELECT t::text FROM (SELECT {columns} FROM {table}) t"
    a, b = sorted(source.q(query)), sorted(target.q(query))
    if a != b:
        only_a, only_b = set(a) - set(b), set(b) - set(a)
        raise AssertionError(f"{table}: {len(a)} and {len(b)} rows; only in source: {list(only_a)[:5]}; only in target: {list(only_b)[:5]}")
