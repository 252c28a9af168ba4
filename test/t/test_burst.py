"""A burst of a million messages: the log holds what cannot be applied yet, memory stays bounded, others work undisturbed."""

import json
import random
import statistics
import threading
import time

import pytest
from confluent_kafka import Producer

from conftest import wait_until
from test_subscription import subscribe, table

MESSAGES, KEYS, RATE = 1_000_000, 50_000, 20_000


class Users:
    """Two sessions that read and write in the target's database; how long each of their transactions took, in ms."""

    def __init__(self, db):
        self.db, self.taken, self._stop = db, [], threading.Event()
        self.threads = [threading.Thread(target=self._work) for _ in range(2)]
        for thread in self.threads:
            thread.start()

    def _work(self):
        with self.db.connect() as connection:
            connection.execute("SET synchronous_commit = off")
            while not self._stop.is_set():
                key = random.randrange(KEYS)
                began = time.perf_counter()
                connection.execute("SELECT v FROM t WHERE id = %s", (key,))
                connection.execute("UPDATE account SET n = n + 1 WHERE id = %s", (key % 1000,))
                self.taken.append((time.perf_counter() - began) * 1000)
                time.sleep(0.002)

    def during(self, condition):
        """p95 of what they took while the condition was waited for."""
        start = len(self.taken)
        condition()
        return statistics.quantiles(self.taken[start:], n=20)[18]

    def stop(self):
        self._stop.set()
        for thread in self.threads:
            thread.join()


def produce_burst(kafka, topic):
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 20, "partitioner": "murmur2_random",
                         "queue.buffering.max.messages": MESSAGES, "queue.buffering.max.kbytes": 1 << 20, "compression.type": "lz4"})
    keys = [json.dumps({"id": k}) for k in range(KEYS)]
    for i in range(MESSAGES):
        k = i % KEYS
        producer.produce(topic, f'{{"id":{k},"v":{i // KEYS},"pad":"{"x" * 60}"}}', keys[k])
        if i % 10000 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0


def test_burst(db, kafka, record_property):
    topic = kafka.create_topic(partitions=4)
    table(db, "id int PRIMARY KEY, v int, pad text")
    db.q("CREATE TABLE account (id int PRIMARY KEY, n int); INSERT INTO account SELECT i, 0 FROM generate_series(0, 999) i")
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 't', 'json', workers => 2, options => %s::jsonb)", [topic],
         json.dumps({"max_rows_per_second": RATE}))
    db.wait("SELECT state = 'streaming' AND cardinality(pids) = 2 FROM kafka.subscription_status")
    most = 0

    def position():
        nonlocal most
        for pid in db.value("SELECT pids FROM kafka.subscription_status"):
            most = max(most, db.cluster.rss_kb(pid))
        return int(db.value("SELECT sum(next_offset) FROM kafka.subscription_position"))

    users = Users(db)
    try:
        quiet = users.during(lambda: wait_until(lambda: len(users.taken) > 500))
        produce_burst(kafka, topic)
        first, began = position(), time.monotonic()
        assert first < MESSAGES / 2     # there is something left to be slow with
        busy = users.during(lambda: wait_until(lambda: position() > first + 6 * RATE, 60))
        rate = (position() - first) / (time.monotonic() - began)
    finally:
        users.stop()
    record_property("measured", f"p95 {quiet:.1f} ms before, {busy:.1f} ms in the burst; {rate:.0f} messages/s, {most // 1024} MB")
    # a machine that does other things too may be late, but not by seconds; nor may it be faster than asked
    assert busy < max(10 * quiet, 100)
    assert rate < 1.3 * RATE
    db.q("SELECT kafka.alter_subscription('s', '{\"max_rows_per_second\": null}')")
    wait_until(lambda: position() == MESSAGES, 180)
    assert db.one("SELECT count(*), min(v), max(v) FROM t") == (KEYS, MESSAGES // KEYS - 1, MESSAGES // KEYS - 1)
    assert most < 150 * 1024, f"{most} kB"
    kafka.delete_topic(topic)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_wait_and_are_bounded(db, kafka, workers):
    """max_batch_wait fills batches, max_batch_rows bounds them, with one worker and with several."""
    topic = kafka.create_topic(partitions=2)
    table(db, "id int PRIMARY KEY, v int")
    db.q("""CREATE TABLE batches (xid xid8, n int);
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
              $$ BEGIN INSERT INTO public.batches VALUES (pg_current_xact_id(), 1); RETURN NULL; END $$;
            CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()""")
    subscribe(db, topic, "t", workers=workers, options={"max_batch_wait": 1500, "max_batch_rows": 50})
    db.wait("SELECT state = 'streaming' AND cardinality(pids) = %s FROM kafka.subscription_status", workers)
    for i in range(0, 20):
        kafka.produce(topic, {"id": i, "v": i}, {"id": i})
    db.wait_for_subscription("s")
    # one by one they came; together they were applied: a few transactions for each worker
    assert db.value("SELECT count(DISTINCT xid) FROM batches") <= 6
    db.q("TRUNCATE batches")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": i}) for i in range(100, 1100)])
    db.wait_for_subscription("s")
    sizes = [n for (n,) in db.q("SELECT count(*) FROM batches GROUP BY xid")]
    assert sum(sizes) == 1000 and max(sizes) == 50
