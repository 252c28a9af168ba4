"""Publishers when something breaks: brokers, processes, slots, memory."""

import subprocess
import time
from pathlib import Path

import pytest

from conftest import wait_until
from publisher_util import check_log_of_outage, create, kill_worker, prefix, state_of, sync, table_state, worker_pid


def private_db(cluster, kafka):
    db = cluster.create_database()
    db.create_server(kafka)
    return db


def in_order(messages):
    """Per key, the versions of column n never go back but for repeats: after a repeat the old order comes again."""
    seen = {}
    for m in messages:
        if m.value is not None:
            seen.setdefault(m.json_key["id"], []).append(m.json["n"])
    for versions in seen.values():
        best = 0
        for v in versions:
            assert v <= best + 1, versions       # nothing was left out on the way
            best = max(best, v)
    return seen


def test_broker_down_at_start(private_cluster, private_kafka):
    db = private_db(private_cluster, private_kafka)
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE PUBLICATION pub FOR TABLE t")
    private_kafka.kill()
    db.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', %s, format => 'json')", p)
    row = db.wait_state("publisher", "p", "retrying", 40)
    assert row["last_error"]
    assert db.rounds_per_second("publisher") < 20
    assert db.state("publisher", "p")["pid"] == row["pid"]
    private_kafka.start()
    db.wait_state("publisher", "p", "streaming", 60)
    assert db.state("publisher", "p")["pid"] == row["pid"]
    db.q("INSERT INTO t VALUES (2)")
    sync(db, "p")
    assert set(state_of(private_kafka.consume(f"{p}.public.t"))) == {1, 2}


def test_broker_killed_and_restarted(private_cluster, private_kafka):
    db = private_db(private_cluster, private_kafka)
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, n int, pad text)")
    create(db, "p", "FOR TABLE t", p, options='{"topic.creation.default.partitions": 3}')
    db.q("INSERT INTO t SELECT g, 1, repeat('x', 1000) FROM generate_series(1, 1000) g")
    sync(db, "p")
    pid = worker_pid(db, "p")
    start_rss = private_cluster.rss_kb(pid)
    private_kafka.kill()
    for n in range(2, 32):
        db.q("UPDATE t SET n = %s", n)
    row = db.wait_state("publisher", "p", "retrying", 40)
    assert db.rounds_per_second("publisher") < 20
    assert private_cluster.rss_kb(pid) - start_rss < 150_000
    acked = db.state("publisher", "p")["acked_lsn"]
    assert db.state("publisher", "p")["acked_lsn"] == acked
    private_kafka.start()
    sync(db, "p", 120)
    assert db.state("publisher", "p")["pid"] == pid and row["pid"] == pid, "the worker stays"
    db.wait_state("publisher", "p", "streaming")
    messages = private_kafka.consume(f"{p}.public.t")
    in_order(messages)
    assert state_of(messages) == table_state(db, "t")
    check_log_of_outage(private_cluster, pid)


def test_silent_broker(private_cluster, private_kafka):
    """SIGSTOP: connections stay open and nothing answers."""
    db = private_db(private_cluster, private_kafka)
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, n int)")
    create(db, "p", "FOR TABLE t", p)
    private_kafka.pause()
    db.q("INSERT INTO t SELECT g, 1 FROM generate_series(1, 100) g")
    assert db.value("SELECT kafka.wait_for_publisher('p', timeout => '2s')") is False
    # it ends when it is asked to, all the same
    pid = worker_pid(db, "p")
    began = time.monotonic()
    db.q("SELECT pg_terminate_backend(%s)", pid)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10)
    assert time.monotonic() - began < 5
    private_kafka.resume()
    sync(db, "p")
    assert state_of(private_kafka.consume(f"{p}.public.t")) == table_state(db, "t")


def backlog(db, versions=20, rows=2000):
    db.q("SELECT kafka.pause_publisher('p')")
    db.wait_state("publisher", "p", "paused")
    for n in range(2, versions):
        db.q("UPDATE t SET n = %s", n)
    db.q("SELECT kafka.resume_publisher('p')")


def test_killed_in_a_backlog_twice(private_cluster, kafka):
    db = private_db(private_cluster, kafka)
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, n int)")
    create(db, "p", "FOR TABLE t", p, options='{"topic.creation.default.partitions": 3}')
    db.q("INSERT INTO t SELECT g, 1 FROM generate_series(1, 5000) g")
    sync(db, "p")
    backlog(db, 40)
    for _ in range(2):
        rows = db.state("publisher", "p")["rows"]
        wait_until(lambda: db.state("publisher", "p")["rows"] > rows, 30, 0.005)
        kill_worker(private_cluster, db, "p")
    sync(db, "p")
    messages = kafka.consume(f"{p}.public.t")
    seen = in_order(messages)
    assert all(set(v) == set(range(1, 40)) for v in seen.values()) and len(seen) == 5000
    assert state_of(messages) == table_state(db, "t")


def test_immediate_stop_in_a_backlog(private_cluster, kafka):
    db = private_db(private_cluster, kafka)
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, n int)")
    create(db, "p", "FOR TABLE t", p)
    db.q("INSERT INTO t SELECT g, 1 FROM generate_series(1, 5000) g")
    backlog(db)
    for _ in range(2):
        private_cluster.crash()
        private_cluster.start()
        db.close()
        db.q("UPDATE t SET n = n + 1")
    sync(db, "p")
    messages = kafka.consume(f"{p}.public.t")
    in_order(messages)
    assert state_of(messages) == table_state(db, "t")


def test_clean_end_repeats_nothing(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, n int)")
    create(db, "p", "FOR TABLE t", p)
    db.q("INSERT INTO t SELECT g, 1 FROM generate_series(1, 100) g")
    for n in range(3):
        sync(db, "p")
        pid = worker_pid(db, "p")
        db.q("SELECT pg_terminate_backend(%s)", pid)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10)
        db.q("UPDATE t SET n = n + 1 WHERE id = 1")
    sync(db, "p")
    assert len(kafka.consume(f"{p}.public.t")) == 103


def test_memory_of_a_large_transaction(private_cluster, kafka):
    db = private_db(private_cluster, kafka)
    p = prefix()
    db.q("CREATE TABLE t (id bigint PRIMARY KEY, a int, b text, c text)")
    create(db, "p", "FOR TABLE t", p, options='{"topic.creation.default.partitions": 4}')
    db.q("INSERT INTO t VALUES (0, 0, '', '')")
    sync(db, "p")
    pid = worker_pid(db, "p")
    start = private_cluster.rss_kb(pid)
    db.q("INSERT INTO t SELECT g, g % 1000, md5(g::text), md5(g::text) FROM generate_series(1, 2000000) g")
    top = 0
    def done():
        nonlocal top
        top = max(top, private_cluster.rss_kb(pid))
        return db.state("publisher", "p")["rows"] >= 2000001
    wait_until(done, 180, 0.05)
    assert db.state("publisher", "p")["pid"] == pid
    assert top - start < 200_000, f"{top - start} kB above {start} kB"
    assert sum(high - low for low, high in kafka.watermarks(f"{p}.public.t").values()) == 2000001
    kafka.delete_topic(f"{p}.public.t")


def test_slot_dropped(db, kafka):
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    create(db, "p", "FOR TABLE t", prefix())
    slot = db.state("publisher", "p")["slot_name"]
    db.q("SELECT kafka.pause_publisher('p')")
    db.wait_state("publisher", "p", "paused")
    wait_until(lambda: not db.value("SELECT active FROM pg_replication_slots WHERE slot_name = %s", slot), 10)
    db.q("SELECT pg_drop_replication_slot(%s)", slot)
    db.q("SELECT kafka.resume_publisher('p')")
    row = db.wait_state("publisher", "p", "error")
    assert "does not exist" in row["last_error"] and "Hint" in row["last_error"]


@pytest.mark.parametrize("private_cluster", [["max_slot_wal_keep_size = 1MB", "max_wal_size = 64MB",
                                              "min_wal_size = 32MB"]], indirect=True)
def test_slot_invalidated(private_cluster, kafka):
    db = private_db(private_cluster, kafka)
    db.q("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE junk (v text)")
    create(db, "p", "FOR TABLE t", prefix())
    db.q("SELECT kafka.pause_publisher('p')")
    db.wait_state("publisher", "p", "paused")
    def lost():
        db.q("INSERT INTO junk SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
        db.q("SELECT pg_switch_wal(); CHECKPOINT")
        return db.value("SELECT wal_status FROM pg_replication_slots") == "lost"
    wait_until(lost, 60)
    db.q("SELECT kafka.resume_publisher('p')")
    row = db.wait_state("publisher", "p", "error")
    assert "invalidated" in row["last_error"] and "Hint" in row["last_error"]


def test_publication_missing_at_its_place(db, kafka):
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    create(db, "p", "FOR TABLE t", prefix())
    db.q("DROP PUBLICATION pub_p CASCADE")
    db.q("INSERT INTO t VALUES (1)")
    row = db.wait_state("publisher", "p", "error")
    assert "does not exist at WAL position" in row["last_error"]
    db.q("CREATE PUBLICATION pub_p FOR TABLE t")
    db.q("SELECT kafka.resume_publisher('p')")
    db.wait_state("publisher", "p", "error")


def test_topic_deleted_under_it(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    create(db, "p", "FOR TABLE t", p, options='{"topic.creation.default.partitions": 3}')
    db.q("INSERT INTO t VALUES (1)")
    sync(db, "p")
    kafka.delete_topic(f"{p}.public.t")
    db.q("SELECT kafka.pause_publisher('p')")
    db.wait_state("publisher", "p", "paused")
    db.q("SELECT kafka.resume_publisher('p'); INSERT INTO t VALUES (2)")
    sync(db, "p")
    assert kafka.partitions(f"{p}.public.t") == 3
    assert set(state_of(kafka.consume(f"{p}.public.t"))) == {2}


@pytest.mark.parametrize("key, earlier", [("PRIMARY KEY", True), ("PRIMARY KEY", False), ("", False)],
                         ids=["later", "at once", "at once, unkeyed"])
def test_nothing_passes_a_message_that_was_refused(db, kafka, key, earlier):
    """What comes after it in its partition would make a subscription take it for a repeat when it is sent again."""
    p = prefix()
    topic = kafka.create_topic(f"{p}.public.t", 1, {"max.message.bytes": "100000"})
    db.q(f"CREATE TABLE t (id int {key}, n int, v text); CREATE TABLE got (id int, n int, v text)")
    # the filter lets the worker do other things than to look at what librdkafka does meanwhile
    create(db, "p", "FOR TABLE t WHERE (n = 0 OR length(md5(repeat('x', n))) > 0) WITH (publish = 'insert')", p,
           options='{"allow_unkeyed": true}')
    db.q("SELECT kafka.create_subscription('s', 'kafka', ARRAY[%s], 'got', format => 'json', mode => 'append')", topic)
    if earlier:
        db.q("INSERT INTO t VALUES (0, 0, '')")
        sync(db, "p")
    slow = 20_000_000 if earlier else 0
    db.q("""INSERT INTO t
            SELECT 1, 0, string_agg(md5(g::text), '') FROM generate_series(1, 60000) g
            UNION ALL SELECT g, %s, '' FROM generate_series(2, 3) g
            UNION ALL SELECT g, 0, '' FROM generate_series(4, 9) g
            UNION ALL SELECT g, %s, '' FROM generate_series(10, 13) g""", slow, slow)
    error = db.wait_state("publisher", "p", "error")["last_error"]
    assert "public.t" in error and "too large" in error and "max.message.bytes" in error
    db.q("SELECT kafka.alter_topic('kafka', %s, config => '{\"max.message.bytes\": \"20000000\"}')", topic)
    db.q("SELECT kafka.resume_publisher('p')")
    sync(db, "p")
    assert db.value("SELECT kafka.wait_for_subscription('s')")
    ids = "SELECT array_agg(id ORDER BY id) FROM "
    assert db.value(ids + "got") == db.value(ids + "t")


def test_unkeyed_messages_that_are_sent_again(db, kafka):
    """They go to the partitions that they went to before: elsewhere they would be no repeats, or take others for some."""
    p = prefix()
    topic = kafka.create_topic(f"{p}.public.t", 5, {"max.message.bytes": "100000"})
    db.q("CREATE TABLE t (id int, v text); CREATE TABLE got (id int, v text)")
    create(db, "p", "FOR TABLE t WITH (publish = 'insert')", p, options='{"allow_unkeyed": true}')
    db.q("SELECT kafka.create_subscription('s', 'kafka', ARRAY[%s], 'got', format => 'json', mode => 'append')", topic)
    db.q("""DO $$ BEGIN FOR i IN 1..20 LOOP INSERT INTO t SELECT i, '' FROM generate_series(1, 100); COMMIT; END LOOP; END $$""")
    sync(db, "p")
    db.q("""INSERT INTO t SELECT 100 + g / 10, '' FROM generate_series(1, 5000) g
            UNION ALL SELECT 0, string_agg(md5(g::text), '') FROM generate_series(1, 60000) g""")
    db.wait_state("publisher", "p", "error")
    db.q("SELECT kafka.alter_topic('kafka', %s, config => '{\"max.message.bytes\": \"20000000\"}')", topic)
    db.q("SELECT kafka.resume_publisher('p')")
    sync(db, "p")
    assert db.value("SELECT kafka.wait_for_subscription('s')")
    counts = "SELECT id, count(*) FROM {} GROUP BY 1 ORDER BY 1"
    assert db.q(counts.format("got")) == db.q(counts.format("t"))
    assert len({m.partition for m in kafka.consume(topic)}) == 5


def test_refused_timestamp(private_cluster, kafka):
    """A broker that refuses the commit time gets the present one, and the problem is told."""
    db = private_db(private_cluster, kafka)
    p = prefix()
    topic = kafka.create_topic(f"{p}.public.t", 1, {"message.timestamp.before.max.ms": "2000"})
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    create(db, "p", "FOR TABLE t", p)
    db.q("SELECT kafka.pause_publisher('p')")
    db.wait_state("publisher", "p", "paused")
    db.q("INSERT INTO t VALUES (1)")
    written = db.value("SELECT clock_timestamp()")
    db.wait("SELECT clock_timestamp() > %s + interval '2.5 s'", written)       # too old for the broker
    db.q("SELECT kafka.resume_publisher('p')")
    sync(db, "p")
    assert set(state_of(kafka.consume(topic))) == {1}
    db.wait("SELECT count(*) > 0 FROM kafka.problems WHERE problem LIKE '%%timestamps%%'")


def test_plain_output_plugin(db, kafka, tmp_path):
    """pg_recvlogical -P pg_kafka_sync prints the events."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION pub FOR TABLE t")
    bindir = subprocess.run([*_pg_config(), "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
    if db.value("SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'"):
        db.q("ALTER ROLE postgres IN DATABASE \"%s\" SET output_plugin_libraries = pgoutput, pg_kafka_sync" % db.name)
    common = [f"{bindir}/pg_recvlogical", "-d", db.cluster.dsn(db.name), "-S", f"plain_{db.name}"]
    subprocess.run([*common, "--create-slot", "-P", "pg_kafka_sync"], check=True)
    try:
        db.q("INSERT INTO t VALUES (1, 'ä\tb')")
        db.q("UPDATE t SET v = 'c'")
        db.q("DELETE FROM t")
        out = tmp_path / "out"
        end = db.value("SELECT pg_current_wal_lsn()::text")
        for options, count in ((["-o", "format=json", "-o", "topic_prefix=x"], 3), (["-o", "schemas=true"], 4)):
            done = subprocess.run([*common, "--start", "-f", str(out), "--endpos", end, "-o", "publication=pub",
                                   "--status-interval", "100", "--fsync-interval", "0", *options],
                                  timeout=30, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            lines = [line.split("\t") for line in out.read_text().splitlines()]
            if count == 3:
                assert [line[:3] for line in lines] == [["x.public.t", '{"id":1}', '{"id":1,"v":"ä\\tb"}'],
                                                        ["x.public.t", '{"id":1}', '{"id":1,"v":"c"}'],
                                                        ["x.public.t", '{"id":1}', "null"]]
                break
        bad = subprocess.run([*common, "--start", "-f", "-", "-n", "-o", "nothing=1", "-o", "publication=pub"],
                             timeout=30, capture_output=True, text=True)
        assert bad.returncode != 0 and "nothing" in bad.stderr
    finally:
        db.q("SELECT pg_drop_replication_slot(%s)", f"plain_{db.name}")


def _pg_config():
    import os
    import shutil
    given = os.environ.get("PG_CONFIG")
    if given:
        return [given]
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_config"))
    return [str(found[-1])] if found else [shutil.which("pg_config")]
