"""Brokers and workers that die: nothing is lost, nothing is applied twice."""

import json
import os
import signal
import time

import pytest

from conftest import wait_until
from publisher_util import check_log_of_outage
from test_subscription import subscribe, table


def audited(db, name="t"):
    """A table whose every insert and update leaves a trace: a message applied twice would leave two."""
    table(db, "id int PRIMARY KEY, v int", name)
    db.q(f"""CREATE TABLE audit (id int, v int);
             CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO public.audit VALUES (NEW.id, NEW.v); RETURN NULL; END $$;
             CREATE TRIGGER audit AFTER INSERT OR UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION audit()""")


def assert_exactly_once(db, count):
    assert db.one("SELECT count(*), count(DISTINCT id) FROM audit") == (count, count)
    assert db.value("SELECT count(*) FROM t") == count
    assert db.value("SELECT sum(next_offset) FROM kafka.subscription_position") == count


@pytest.fixture
def own(private_cluster, kafka):
    """A database of a cluster that may be crashed."""
    db = private_cluster.create_database()
    db.create_server(kafka)
    return db


def rows(n, start=0):
    return [({"id": i}, {"id": i, "v": i}) for i in range(start, start + n)]


def worker_pid(db):
    pids = db.cluster.worker_pids("pg_kafka_sync subscription", db.name)
    return pids[0] if pids else None


def test_kill_worker_in_a_backlog(own, kafka):
    """kill -9 of the worker, twice, in the middle of a backlog; the server restarts itself."""
    topic = kafka.create_topic(partitions=3)
    audited(own)
    kafka.produce_many(topic, rows(60000))
    subscribe(own, topic, "t", options={"max_batch_rows": 500, "max_rows_per_second": 30000})
    for reached in (5000, 25000):
        own.wait("SELECT sum(next_offset) >= %s FROM kafka.subscription_position", reached)
        ready = "database system is ready to accept connections"
        starts = own.cluster.log().count(ready)
        own.cluster.kill_worker(wait_until(lambda: worker_pid(own)))
        own.close()
        wait_until(lambda: own.cluster.log().count(ready) > starts, 60, what="the restart after a crash")
    own.wait_for_subscription("s", 120)
    assert_exactly_once(own, 60000)


def test_immediate_stop_in_a_backlog(own, kafka):
    topic = kafka.create_topic(partitions=3)
    audited(own)
    kafka.produce_many(topic, rows(40000))
    subscribe(own, topic, "t", options={"max_batch_rows": 500, "max_rows_per_second": 30000})
    own.wait("SELECT sum(next_offset) >= 5000 FROM kafka.subscription_position")
    own.cluster.crash()
    own.cluster.start()
    own.wait("SELECT sum(next_offset) >= 15000 FROM kafka.subscription_position")
    own.cluster.kill()
    own.cluster.start()
    own.wait_for_subscription("s", 120)
    assert_exactly_once(own, 40000)


def test_terminate_worker(db, kafka):
    """pg_terminate_backend: ends at once, comes back, goes on."""
    topic = kafka.create_topic()
    audited(db)
    kafka.produce_many(topic, rows(20000))
    subscribe(db, topic, "t", options={"max_batch_rows": 500, "max_rows_per_second": 20000})
    db.wait("SELECT sum(next_offset) >= 3000 FROM kafka.subscription_position")
    pid = worker_pid(db)
    began = time.monotonic()
    db.q("SELECT pg_terminate_backend(%s)", pid)
    wait_until(lambda: worker_pid(db) != pid, 10)
    assert time.monotonic() - began < 5
    db.wait_for_subscription("s")
    assert_exactly_once(db, 20000)


def test_seek_while_running(db, kafka):
    """A seek in the middle of a backlog: the worker never overwrites the position with its own."""
    topic = kafka.create_topic()
    table(db, "id int PRIMARY KEY, v int")
    kafka.produce_many(topic, rows(30000))
    subscribe(db, topic, "t", options={"max_batch_rows": 200, "max_rows_per_second": 20000})
    db.wait("SELECT next_offset >= 2000 FROM kafka.subscription_position")
    db.q("SELECT kafka.seek_subscription('s', %s)", json.dumps({topic: {"0": 29000}}))
    db.wait_for_subscription("s")
    assert db.one("SELECT count(*) FILTER (WHERE id >= 29000), max(id) FROM t") == (1000, 29999)
    assert db.value("SELECT count(*) FROM t") < 29000
    assert db.value("SELECT next_offset FROM kafka.subscription_position") == 30000


def test_broker_down_and_back(db, private_kafka):
    """Killed in mid-stream and started again: retrying, the same worker, no busy loop, nothing lost."""
    kafka = private_kafka
    db.create_server(kafka, "mine")
    topic = kafka.create_topic()
    audited(db)
    kafka.produce_many(topic, rows(1000))
    db.q("SELECT kafka.create_subscription('s', 'mine', %s, 't', 'json')", [topic])
    db.wait_for_subscription("s")
    pid = db.wait_state("subscription", "s", "streaming")["pid"]
    kafka.kill()
    row = db.wait_state("subscription", "s", "retrying")
    assert row["pid"] == pid and row["detail"] and row["last_error"]
    assert db.rounds_per_second("subscription") < 33
    with pytest.raises(Exception):
        db.q("SELECT kafka.wait_for_subscription('s', '1 s')")  # cannot know the log ends
    kafka.start()
    kafka.produce_many(topic, rows(1000, 1000))
    db.wait("SELECT count(*) = 2000 FROM t", timeout=60)
    row = db.wait_state("subscription", "s", "streaming")
    assert row["pid"] == pid
    assert_exactly_once(db, 2000)
    check_log_of_outage(db.cluster, pid, "mine")


def test_broker_down_at_start(db, private_kafka):
    kafka = private_kafka
    db.create_server(kafka, "mine")
    topic = kafka.create_topic()
    audited(db)
    kafka.produce_many(topic, rows(100))
    db.q("SELECT kafka.create_subscription('s', 'mine', %s, 't', 'json', enabled => false)", [topic])
    kafka.stop()
    db.q("SELECT kafka.resume_subscription('s')")
    pid = db.wait_state("subscription", "s", "retrying")["pid"]
    began = time.monotonic()
    db.q("SELECT kafka.pause_subscription('s')")        # a worker in trouble still listens
    wait_until(lambda: worker_pid(db) is None, 10)
    assert time.monotonic() - began < 5
    db.q("SELECT kafka.resume_subscription('s')")
    pid = db.wait_state("subscription", "s", "retrying")["pid"]
    kafka.start()
    db.wait("SELECT count(*) = 100 FROM t", timeout=60)
    assert db.wait_state("subscription", "s", "streaming")["pid"] == pid
    assert_exactly_once(db, 100)


def test_broker_silent(db, private_kafka):
    """Stopped without a word (SIGSTOP), then back."""
    kafka = private_kafka
    db.create_server(kafka, "mine", socket__timeout__ms="3000")
    topic = kafka.create_topic()
    audited(db)
    kafka.produce_many(topic, rows(100))
    db.q("SELECT kafka.create_subscription('s', 'mine', %s, 't', 'json')", [topic])
    db.wait_for_subscription("s")
    pid = worker_pid(db)
    kafka.pause()
    try:
        db.wait_state("subscription", "s", "retrying", timeout=60)
    finally:
        kafka.resume()
    kafka.produce_many(topic, rows(100, 100))
    db.wait("SELECT count(*) = 200 FROM t", timeout=60)
    assert worker_pid(db) == pid
    assert_exactly_once(db, 200)


def test_memory_is_bounded(db, kafka):
    """A backlog far larger than the worker's memory, applied slowly: the log holds what cannot be read yet."""
    topic = kafka.create_topic(partitions=2)
    table(db)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "x" * 20000}) for i in range(10000)])     # 200 MB
    subscribe(db, topic, "t", options={"max_rows_per_second": 2000})
    pid = wait_until(lambda: worker_pid(db))
    most = 0

    def done():
        nonlocal most
        most = max(most, db.cluster.rss_kb(pid))
        return db.value("SELECT sum(next_offset) = 10000 FROM kafka.subscription_position")
    wait_until(done, 120)
    assert most < 150 * 1024
