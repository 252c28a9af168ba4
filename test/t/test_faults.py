"""Faults end to end: brokers and workers that die, hang or come late. Nothing is lost, and keys keep their order."""

import os
import random
import time
import uuid

import pytest

from conftest import Cluster, Kafka, wait_until
from pipelines import Pipeline, Worker

# Slow enough to be interrupted: about 20,000 rows/s.
SLOW_PUBLISHER = '{"linger.ms": 50, "queue.buffering.max.messages": 1000}'
SLOW_SUBSCRIPTION = '{"max_rows_per_second": 20000}'


@pytest.fixture(scope="module")
def faulty(scratch):
    """A cluster and a broker that the tests of this file may kill."""
    cluster, kafka = Cluster(scratch / f"pg-{uuid.uuid4().hex[:6]}"), Kafka(scratch / f"kafka-{uuid.uuid4().hex[:6]}")
    try:
        yield cluster.init("restart_after_crash = on").start(), kafka.start()
    finally:
        kafka.destroy()
        for database in cluster.databases:
            database.close()
        cluster.destroy()


@pytest.fixture
def make_pipeline(faulty, request):
    made = []

    def make(*args, **kwargs):
        made.append(Pipeline(*faulty, *args, **kwargs))
        return made[-1]

    yield make
    cluster, kafka = faulty
    kafka.resume()
    kafka.start()
    cluster.start()
    cluster.wait_accepting()
    for pipeline in made:
        pipeline.drop()


def rows(pipeline, db):
    return pipeline.worker(db)["rows"]


def in_topic(pipeline):
    if pipeline.topic not in pipeline.kafka.topics():
        return 0
    return sum(end for _, end in pipeline.kafka.watermarks(pipeline.topic).values())


@pytest.mark.parametrize("format", ["json", "debezium"])
def test_publisher_killed_in_backlog(faulty, make_pipeline, format):
    cluster, kafka = faulty
    p = make_pipeline(format, publisher=SLOW_PUBLISHER)
    p.source.q("SELECT kafka.pause_publisher('p')")
    p.source.wait_state("publisher", "p", "paused")
    p.work(15000, keys=2000, per_transaction=1)
    p.work(30000, keys=2000, per_transaction=10000)
    changes = p.source.value("SELECT count(*) FROM journal")
    p.source.q("SELECT kafka.resume_publisher('p')")
    for after in (5000, 12000):
        wait_until(lambda: rows(p, p.source) >= after, interval=0.01, what=f"{after} rows")
        p.kill_worker(p.source)
        assert in_topic(p) < 2 * changes
    repeats = p.check()
    assert 0 < repeats < changes
    assert p.source.value("SELECT state FROM kafka.publisher_status") == "streaming"


@pytest.mark.parametrize("format", ["json", "debezium"])
def test_subscriber_killed_in_backlog(faulty, make_pipeline, format):
    cluster, kafka = faulty
    p = make_pipeline(format, subscription=SLOW_SUBSCRIPTION)
    p.target.q("SELECT kafka.pause_subscription('s')")
    p.work(40000, keys=2000, per_transaction=50)
    p.source.wait_for_publisher("p")
    p.target.q("SELECT kafka.resume_subscription('s')")
    for after in (5000, 12000):
        wait_until(lambda: rows(p, p.target) >= after, interval=0.01, what=f"{after} rows")
        p.kill_worker(p.target)
        lag = p.target.value("SELECT sum(next_offset) FROM kafka.subscription_offsets")
        assert lag < in_topic(p)
    p.check()


def test_server_stopped_immediately(faulty, make_pipeline):
    """pg_ctl -m immediate stop and start, with work, backlogs on both sides, and while the snapshot is read."""
    cluster, kafka = faulty
    p = make_pipeline(publisher=SLOW_PUBLISHER, subscription=SLOW_SUBSCRIPTION)
    with Worker(p, per_transaction=3):
        for _ in range(3):
            before = in_topic(p)
            wait_until(lambda: in_topic(p) > before + 1000, what="rows to flow")
            cluster.crash()
            cluster.start()
            cluster.wait_accepting()
    p.check()


def test_postmaster_killed(faulty, make_pipeline):
    """kill -9 of the postmaster: workers end by themselves, and the next server goes on."""
    cluster, kafka = faulty
    p = make_pipeline()
    with Worker(p, per_transaction=3):
        wait_until(lambda: in_topic(p) > 1000, what="rows to flow")
        pids = cluster.worker_pids()
        assert len(pids) == 3
        began = time.monotonic()
        cluster.kill()
        assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}/environ")]
        assert time.monotonic() - began < 15
        cluster.start()
    p.check()


def test_faults_in_random_order(faulty, make_pipeline):
    """Workers ended, killed, paused, the server restarted and crashed, one after the other, while rows change."""
    cluster, kafka = faulty
    p = make_pipeline("debezium", server={"socket__timeout__ms": 4000})
    seed = time.time_ns() % 1000000
    dice = random.Random(seed)

    def end(db):
        cluster.q("SELECT pg_terminate_backend(%s)", p.pid(db))

    def pause():
        for db, call in ((p.source, "publisher('p')"), (p.target, "subscription('s')")):
            db.q(f"SELECT kafka.pause_{call}")
            db.q(f"SELECT kafka.resume_{call}")

    faults = {"end publisher": lambda: end(p.source), "end subscription": lambda: end(p.target),
              "kill publisher": lambda: p.kill_worker(p.source), "kill subscription": lambda: p.kill_worker(p.target),
              "pause": pause, "restart": cluster.restart, "crash": cluster.crash, "silence": kafka.pause,
              "alter": lambda: p.source.q("SELECT kafka.alter_publisher('p', %s::jsonb)", f'{{"linger.ms": {dice.randint(0, 30)}}}')}
    order = [name for name in faults for _ in range(2)]
    dice.shuffle(order)
    print(f"seed {seed}: {', '.join(order)}")
    with Worker(p, per_transaction=3):
        for name in order:
            faults[name]()
            cluster.start()
            kafka.resume()
            before = in_topic(p)
            wait_until(lambda: in_topic(p) > before, what=f"rows to flow after {name}")
    p.check()


def test_broker_down_at_start(faulty, make_pipeline):
    cluster, kafka = faulty
    p = make_pipeline(snapshot="initial")
    p.settle()
    kafka.stop()
    cluster.restart()
    p.work(2000, per_transaction=5)
    for db, kind, name in ((p.source, "publisher", "p"), (p.target, "subscription", "s")):
        state = db.wait_state(kind, name, "retrying")
        assert "127.0.0.1" in state["detail"] or "broker" in state["detail"], state
        assert db.value("SELECT count(*) FROM kafka.problems WHERE problem LIKE 'state retrying%%'") == 1
    pids = [p.pid(p.source), p.pid(p.target)]
    kafka.start()
    p.settle()
    assert pids == [p.pid(p.source), p.pid(p.target)], "the workers stayed"
    p.check()
    for db in (p.source, p.target):
        assert db.q("SELECT * FROM kafka.problems") == []


def test_broker_killed_and_restarted(faulty, make_pipeline):
    cluster, kafka = faulty
    p = make_pipeline("debezium", publisher=SLOW_PUBLISHER)
    pids = [p.pid(p.source), p.pid(p.target)]
    with Worker(p, per_transaction=5):
        wait_until(lambda: in_topic(p) > 1000, what="rows to flow")
        kafka.kill()
        p.source.wait_state("publisher", "p", "retrying")
        p.target.wait_state("subscription", "s", "retrying")
        kafka.start()
        p.source.wait_state("publisher", "p", "streaming")
        p.target.wait_state("subscription", "s", "streaming")
    repeats = p.check()
    assert repeats == 0, "the idempotent producer writes once"
    assert pids == [p.pid(p.source), p.pid(p.target)], "the workers stayed"


def test_broker_silent_then_back(faulty, make_pipeline):
    """Alive but silent: the workers say so, do not spin, and their memory is bounded however much waits."""
    cluster, kafka = faulty
    p = make_pipeline(server={"socket__timeout__ms": 5000})
    p.work(1000, per_transaction=10)
    p.settle()
    sides = ((p.source, "publisher", "p"), (p.target, "subscription", "s"))
    rss = [cluster.rss_kb(p.pid(db)) for db, *_ in sides]
    kafka.pause()
    p.source.q("INSERT INTO acct SELECT g, g, repeat('x', 4000) FROM generate_series(10000, 69999) g")
    p.source.q("INSERT INTO journal (id, version) SELECT g, g FROM generate_series(10000, 69999) g")
    for db, kind, name in sides:
        db.wait_state(kind, name, "retrying")
    first = [p.worker(db)["loops"] for db, *_ in sides]
    began = time.monotonic()
    # a span to count in, not a wait for something
    wait_until(lambda: time.monotonic() - began > 3)
    for (db, kind, name), loops, start in zip(sides, first, rss):
        spent = time.monotonic() - began
        assert p.worker(db)["loops"] - loops < 20 * spent, f"{kind} spins"
        assert cluster.rss_kb(p.pid(db)) - start < 200 * 1024, f"{kind} grows"
        assert db.state(kind, name)["state"] == "retrying"
    kafka.resume()
    p.check(timeout=120)


def test_fast_stop_while_broker_is_silent(faulty, make_pipeline):
    cluster, kafka = faulty
    p = make_pipeline(snapshot="initial")
    p.settle()
    kafka.pause()
    with Worker(p, per_transaction=10, batch=2000):
        p.source.wait("SELECT count(*) > 3000 FROM journal")
        began = time.monotonic()
        cluster.stop("fast")
        took = time.monotonic() - began
    kafka.resume()
    cluster.start()
    assert took < 5, f"{took:.1f} s"
    p.check()


@pytest.mark.parametrize("format", ["json", "debezium"])
def test_crashes_in_snapshot(faulty, make_pipeline, format):
    """The server is stopped and the worker killed while the snapshot is read and rows change."""
    cluster, kafka = faulty
    def prepare(source):
        source.q("INSERT INTO acct SELECT g, 0, repeat('x', 100) FROM generate_series(1, 60000) g")
    p = make_pipeline(format, publisher=SLOW_PUBLISHER, snapshot="initial", prepare=prepare)
    with Worker(p, keys=60000, per_transaction=3):
        for crash in (cluster.crash, lambda: p.kill_worker(p.source), cluster.crash):
            before = in_topic(p)
            p.source.wait_state("publisher", "p", "snapshot")
            wait_until(lambda: in_topic(p) > before + 5000, interval=0.02, what="rows of the snapshot to flow")
            assert p.source.state("publisher", "p")["state"] == "snapshot"
            crash()
            cluster.start()
            cluster.wait_accepting()
    p.settle()
    p.check_target()
    assert p.source.value("SELECT snapshot_state FROM kafka.publisher_status") == "done"


def test_large_transaction(faulty, make_pipeline):
    """2,000,000 rows in one transaction: the publisher stays within 200 MB of where it began."""
    cluster, kafka = faulty
    p = make_pipeline(publisher="{}")
    p.target.q("SELECT kafka.pause_subscription('s')")
    p.work(100)
    p.source.wait_for_publisher("p")
    pid = p.pid(p.source)
    start = peak = cluster.rss_kb(pid)
    with p.source.connect() as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("INSERT INTO acct SELECT g, g, repeat('x', 100) FROM generate_series(1000001, 3000000) g")
    def done():
        nonlocal peak
        peak = max(peak, cluster.rss_kb(pid))
        return p.source.value("SELECT kafka.wait_for_publisher('p', timeout => '100 ms')")
    wait_until(done, 120, what="the publisher")
    assert pid == p.pid(p.source)
    assert peak - start < 200 * 1024, f"{(peak - start) // 1024} MB above its start"
    assert in_topic(p) == 2000000 + p.source.value("SELECT count(*) FROM journal")
