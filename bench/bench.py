"""The measurements of `make bench` and, with peers, `make bench-peers`; started by run.sh, which says more."""
import os
import signal
import subprocess
import sys
import time
from statistics import median

from psycopg.types.json import Jsonb

import setting
import targets
from peers import Debezium, JdbcSink
from report import Report, Series
from setting import BROKERS, PARTITIONS, RUNS, SCRATCH, Background, Cluster, MemoryWatch, Profile, make_table, tool, wait_until

BULK = int(os.environ.get("BENCH_ROWS") or 1_000_000)
SINGLE = int(os.environ.get("BENCH_TRANSACTIONS") or 300_000)
SECONDS = int(os.environ.get("BENCH_SECONDS") or 30)
RATE = 1000
SKIP = 3                # seconds of a latency run before it counts
SAMPLE = SCRATCH / "data/sample"

ROW = ("g, g % 50000, (ARRAY['new','paid','shipped','done'])[1 + g % 4], (g % 100000)::numeric / 100, "
       "repeat(md5(g::text), 3), clock_timestamp()")

source = Cluster("source")
target = Cluster("target")
peers = bool(os.environ.get("BENCH_PLUGINS"))
report = Report(os.environ["BENCH_RESULTS"])
first_seen = []         # seconds from a publisher's start to its first message


def progress(text):
    print(f"  ... {text}", file=sys.stderr, flush=True)


# ---- publishers

def create_topic(topic):
    source.run("SELECT kafka.create_topic('kafka', %s, %s, 1, %s)", topic, PARTITIONS, Jsonb({"cleanup.policy": "compact"}))


def drop_topic(topic):
    source.run("SELECT kafka.drop_topic('kafka', %s)", topic)


def create_publisher(name, publication, snapshot="never", enabled=True):
    options = {"topic.creation.default.partitions": PARTITIONS, **setting.OPTIONS}
    source.run("SELECT kafka.create_publisher(%s, 'kafka', %s, topic_prefix => %s, format => %s, snapshot => %s, "
               "options => %s, enabled => %s)", name, publication, name, setting.FORMAT, snapshot, Jsonb(options), enabled)


def publisher(name):
    """(state, pid, start as seconds since the epoch, last error)"""
    return source.rows("SELECT state, pid, extract(epoch FROM started_at)::float8, last_error FROM kafka.publisher_status "
                       "WHERE name = %s", name)[0]


def waiting_publisher(name, publication):
    """A publisher that has a slot from here on, and is paused."""
    create_publisher(name, publication)
    source.run("SELECT kafka.pause_publisher(%s)", name)
    wait_until(lambda: publisher(name)[:2] == ("paused", None), 30, f"publisher {name} to pause")


def started(status, name, before):
    """Waits until a worker has begun; its pid and when that was."""
    def begun():
        state, pid, at, error = status(name)
        if state == "error":
            raise RuntimeError(f"{name}: {error}")
        return (pid, at) if pid and at and at >= before else None
    return wait_until(begun, 30, f"worker of {name} to start")


def measure_publisher(name, table, start, count):
    """Calls start() and waits until count messages are in the table's topic: (seconds since the worker began, its CPU)."""
    topic = f"{name}.public.{table}"
    watch = Background("watch", BROKERS, topic, count, 240)
    before = time.time()
    start()
    pid, at = started(publisher, name, before - 1)
    profile = Profile(pid, name)
    seen = watch.result(300)
    cpu = setting.cpu_seconds(pid)
    profile.end()
    if seen["count"] != count:
        raise RuntimeError(f"{topic} holds {seen['count']} messages instead of {count}")
    first_seen.append(seen["first"] - at)
    return seen["last"] - at, cpu


def drain(name, table, count):
    seconds, cpu = measure_publisher(name, table, lambda: source.run("SELECT kafka.resume_publisher(%s)", name), count)
    if not source.one("SELECT kafka.wait_for_publisher(%s)", name):
        raise RuntimeError(f"{name} has sent everything but does not say so")
    source.run("SELECT kafka.drop_publisher(%s)", name)
    return seconds, cpu


def raw(count, headers=0):
    """The same with a plain producer: (seconds, CPU)."""
    topic = f"raw.{time.monotonic_ns()}"
    create_topic(topic)             # just as the publisher's
    properties = [f"{k}={v}" for k, v in setting.PRODUCER.items()]
    done = tool("raw_produce", BROKERS, topic, count, SAMPLE, headers, *properties)
    drop_topic(topic)
    return done["seconds"], (done["main_cpu"], done["threads_cpu"])


def decode_alone(slot, publication):
    """Seconds to decode what is behind a slot in a backend, and its CPU: pgoutput, its output counted and thrown away."""
    pid = source.connection.info.backend_pid
    begin, cpu = time.monotonic(), setting.cpu_seconds(pid)
    source.one("SELECT count(*) FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL, 'proto_version', '1', "
               "'publication_names', %s)", slot, publication)
    seconds = time.monotonic() - begin
    return seconds, setting.cpu_since(pid, cpu)


def create_slot(name):
    source.run("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", name)


def drop_slot(name):
    source.run("SELECT pg_drop_replication_slot(%s)", name)


def measure_drains(what, table, count, load, warm_up=False, natives=False):
    """Publisher, raw producer and peers drain one and the same stretch of WAL; keeps the last topic for "apply", and with
    natives a slot for each run of logical replication."""
    publication = f"{table}_pub"
    names = [f"{what}{run}" for run in range(RUNS + warm_up)]
    series = {"pg_kafka_sync": Series(), "raw librdkafka": Series(), "raw with headers": Series(), "Debezium": Series(),
              "decoding alone": Series()}
    for name in names:
        waiting_publisher(name, publication)
        create_topic(f"{name}.public.{table}")
        if peers and not (warm_up and name == names[0]):
            create_slot(f"dbz_{name}")
    create_slot(f"decode_{what}")
    if natives:
        for run in range(RUNS):
            create_slot(f"native{run}")
    load()
    source.run("CHECKPOINT")
    report.data[f"message bytes {what}"] = None
    for number, name in enumerate(names, 1 - warm_up):
        topic = f"{name}.public.{table}"
        if number == 0:         # the broker's code is compiled by it
            progress("warming up")
            drain(name, table, count)
            first_seen.clear()
        else:
            progress(f"draining {count} rows, {what} {number} of {RUNS}")
            series["pg_kafka_sync"].add(count, *drain(name, table, count))
        if report.data[f"message bytes {what}"] is None:
            report.data[f"message bytes {what}"] = tool("sample", BROKERS, topic, 20000, SAMPLE)["bytes"]
        if number == 0:
            raw(count)
            drop_topic(topic)
            continue
        series["raw librdkafka"].add(count, *raw(count))
        series["raw with headers"].add(count, *raw(count, headers=1))
        series["decoding alone"].add(count, *decode_alone(f"decode_{what}", publication))
        if peers:
            create_topic(f"dbz_{name}.public.{table}")
            series["Debezium"].add(count, Debezium(source, f"dbz_{name}", table).drain(count))
            drop_topic(f"dbz_{name}.public.{table}")
        if number < RUNS:
            drop_topic(topic)
    drop_slot(f"decode_{what}")
    return series, f"{names[-1]}.public.{table}"


def load_bulk():
    progress(f"loading {BULK} rows, 1,000 a transaction")
    source.run("CALL load('orders', 1, %s, 1000)", BULK)


def load_single():
    progress(f"loading {SINGLE} rows, one a transaction")
    source.run("CALL load('orders_single', 1, %s, 1)", SINGLE)


# ---- snapshot

def snapshot(run):
    name, topic = f"snapshot{run}", f"snapshot{run}.public.orders"
    create_topic(topic)
    seconds, cpu = measure_publisher(name, "orders", lambda: create_publisher(name, "orders_pub", snapshot="only"), BULK)
    source.run("SELECT kafka.drop_publisher(%s)", name)
    if not SAMPLE.exists():
        tool("sample", BROKERS, topic, 20000, SAMPLE)
    drop_topic(topic)
    return seconds, cpu


def measure_snapshots():
    series = {"pg_kafka_sync": Series(), "Debezium": Series()}
    for run in range(RUNS):
        progress(f"snapshot of {BULK} rows, {run + 1} of {RUNS}")
        series["pg_kafka_sync"].add(BULK, *snapshot(run))
        if peers:
            create_topic(f"dbz_snap{run}.public.orders")
            series["Debezium"].add(BULK, Debezium(source, f"dbz_snap{run}", "orders").snapshot(BULK))
            drop_topic(f"dbz_snap{run}.public.orders")
    return series


# ---- subscriptions

def subscription(name):
    return target.rows("SELECT state, pid, extract(epoch FROM started_at)::float8, last_error FROM kafka.subscription_status "
                       "WHERE name = %s", name)[0]


def create_subscription(name, topic, table):
    target.run("SELECT kafka.create_subscription(%s, 'kafka', ARRAY[%s], %s::regclass, format => %s, options => %s)", name,
               topic, table, setting.FORMAT, Jsonb(setting.SUBSCRIPTION_OPTIONS))


def empty_target(table):
    target.run(f"TRUNCATE {table}")
    target.run("CHECKPOINT")


def apply(name, topic, count, empty=True):
    """Seconds from the worker's start to the commit of the last row, and the worker's CPU; not empty: the rows are there."""
    if empty:
        empty_target("orders")
    before = time.time()
    create_subscription(name, topic, "orders")
    seconds, cpu = until_applied(name, before)
    applied = target.one("SELECT count(*) FROM orders")
    if applied != count:
        raise RuntimeError(f"{name}: {applied} rows instead of {count}")
    target.run("SELECT kafka.drop_subscription(%s)", name)
    return seconds, cpu


def apply_five(name, topic, count):
    """The same for five targets with queries."""
    targets.subscribe_five(target, name, topic)
    before = time.time()
    target.run("SELECT kafka.resume_subscription(%s)", name)
    seconds, cpu = until_applied(name, before)
    targets.check_five(target, count)
    target.run("SELECT kafka.drop_subscription(%s)", name)
    return seconds, cpu


def apply_far(name, topic, count):
    """The same for a table of another server."""
    before = time.time()
    targets.subscribe_far(source, target, name, topic)
    seconds, cpu = until_applied(name, before)
    applied = source.one("SELECT count(*) FROM orders_far")
    if applied != count:
        raise RuntimeError(f"{name}: {applied} rows instead of {count}")
    target.run("SELECT kafka.drop_subscription(%s)", name)
    return seconds, cpu


def until_applied(name, before):
    """Seconds from the worker's start to its last commit, and its CPU."""
    pid, at = started(subscription, name, before - 1)
    profile = Profile(pid, name)
    if not target.one("SELECT kafka.wait_for_subscription(%s, '240s')", name):
        raise RuntimeError(f"{name}: not applied in time: {subscription(name)}")
    cpu = setting.cpu_seconds(pid)
    profile.end()
    # the position is committed with the rows: its last commit is theirs
    end = target.one("SELECT extract(epoch FROM max(pg_xact_commit_timestamp(p.xmin)))::float8 "
                     "FROM kafka.subscription_position p JOIN kafka.subscription s ON s.id = p.subscription_id "
                     "WHERE s.name = %s", name)
    return end - at, cpu


def copy(path):
    """Seconds of COPY of the same rows into the same empty table, and its CPU."""
    empty_target("orders")
    pid = target.connection.info.backend_pid
    begin, cpu = time.monotonic(), setting.cpu_seconds(pid)
    target.run(f"COPY orders FROM '{path}'")
    seconds = time.monotonic() - begin
    return seconds, setting.cpu_since(pid, cpu)


def update_all():
    """Seconds in which PostgreSQL itself writes all rows anew: what rows that are there cost it more than new ones."""
    begin = time.monotonic()
    target.run("UPDATE orders SET customer_id = customer_id, status = status, amount = amount, note = note, updated_at = updated_at")
    return time.monotonic() - begin


def measure_apply(topic):
    path = SCRATCH / "data/orders.copy"
    source.run(f"COPY orders TO '{path}'")
    series = {"pg_kafka_sync": Series(), "COPY": Series(), "logical replication": Series(), "Debezium JDBC sink": Series()}
    again, update, far, room, again_room = (Series() for _ in range(5))
    targets.set_up_far(source, target)
    sink_topic = None
    if peers:
        # The sink needs messages with schemas: Debezium's own snapshot.
        progress("writing a topic for the JDBC sink")
        create_topic("dbz_sink.public.orders")
        Debezium(source, "dbz_sink", "orders", schemas=True).snapshot(BULK)
        sink_topic = "dbz_sink.public.orders"
    for run in range(RUNS):
        progress(f"applying {BULK} rows, {run + 1} of {RUNS}")
        series["pg_kafka_sync"].add(BULK, *apply(f"apply{run}", topic, BULK))
        target.run("CHECKPOINT")
        far.add(BULK, *apply_far(f"far{run}", topic, BULK))
        target.run("CHECKPOINT")
        again.add(BULK, *apply(f"again{run}", topic, BULK, empty=False))
        target.run("CHECKPOINT")
        update.add(BULK, update_all())
        # the same where pages have room for a second version of each row, as tables have that are mostly updated
        target.run("ALTER TABLE orders SET (fillfactor = 45)")
        room.add(BULK, *apply(f"room{run}", topic, BULK))
        target.run("CHECKPOINT")
        again_room.add(BULK, *apply(f"again_room{run}", topic, BULK, empty=False))
        target.run("ALTER TABLE orders RESET (fillfactor)")
        target.run("CHECKPOINT")
        series["COPY"].add(BULK, *copy(path))
        empty_target("orders")
        series["logical replication"].add(BULK, targets.native(source, target, f"native{run}", "orders_pub", BULK))
        if sink_topic:
            empty_target("orders")
            series["Debezium JDBC sink"].add(BULK, JdbcSink(target, f"sink{run}", sink_topic, "orders").drain(BULK))
    if sink_topic:
        drop_topic(sink_topic)
    drop_topic(topic)
    path.unlink()
    return series, again, update, far, room, again_room


def measure_five(topic):
    targets.set_up_five(target)
    series = Series()
    for run in range(RUNS):
        progress(f"applying {SINGLE} rows to five targets, {run + 1} of {RUNS}")
        series.add(SINGLE, *apply_five(f"five{run}", topic, SINGLE))
    return series


# ---- latency

def steady_load(seconds):
    """pgbench that inserts RATE rows a second, each in its own transaction; what that took, in ms."""
    script, log = SCRATCH / "data/steady.sql", SCRATCH / "data/steady"
    script.write_text(f"INSERT INTO live SELECT {ROW} FROM (SELECT nextval('live_ids') AS g) s;\n")
    done = subprocess.run([setting.PG_BIN / "pgbench", "-n", "-f", script, "-R", str(RATE), "-c", "8", "-j", "1",
                           "-T", str(seconds), "-l", f"--log-prefix={log}", "-h", source.env["PGHOST"],
                           "-p", source.env["PGPORT"], "-U", "postgres", source.env["PGDATABASE"]],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds + 60)
    if done.returncode != 0:
        raise RuntimeError(done.stdout)
    values = []
    for path in log.parent.glob("steady.*[0-9]"):
        lines = [line.split() for line in path.read_text().splitlines()]
        begin = min(int(f[4]) for f in lines) + SKIP
        # the third number counts from when the transaction was due, the last one is how late it began
        values += [(int(f[2]) - int(f[6])) / 1000 for f in lines if int(f[4]) >= begin]
        path.unlink()
    return values


def percentiles(values):
    values = sorted(values)
    at = {f"p{p}": values[int(len(values) * p / 100)] for p in (50, 95, 99)}
    return {"count": len(values), **at, "max": values[-1]}


def commit_times(cluster, table):
    """{id: commit of its row, in ms since the epoch}"""
    return dict(cluster.rows(f"SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 * 1000 FROM {table}"))


def to_target(skip=SKIP):
    """Percentiles of the time from a row's commit in the source to its commit in the target, but for the first seconds."""
    committed, applied = commit_times(source, "live"), commit_times(target, "live")
    if committed.keys() != applied.keys():
        raise RuntimeError(f"{len(committed)} rows in the source, {len(applied)} in the target")
    begin = min(committed.values()) + skip * 1000
    return percentiles([applied[i] - at for i, at in committed.items() if at >= begin])


def measure_latency():
    """(of the INSERTs themselves, to a consumer, to the target's row) at a steady rate, and what CPU it took."""
    progress(f"{RATE} rows a second for {SECONDS} s")
    create_topic("live.public.live")
    create_publisher("live", "live_pub")
    create_subscription("live", "live.public.live", "live")
    for status in (publisher, subscription):
        wait_until(lambda: status("live")[0] == "streaming", 30, "workers to stream")
    consumer = Background("latency", BROKERS, "live.public.live", SKIP)
    pids = [publisher("live")[1], subscription("live")[1], int((SCRATCH / "kafka/pid").read_text())]
    profiles = [Profile(pid, f"live_{kind}") for pid, kind in zip(pids, ("publisher", "subscription"))]
    cpu = [setting.cpu_seconds(pid) for pid in pids]
    inserts = percentiles(steady_load(SECONDS + SKIP))
    cpu = [sum(setting.cpu_since(pid, before)) for pid, before in zip(pids, cpu)]
    for profile in profiles:
        profile.end()
    figures = consumer.result(60)
    if not target.one("SELECT kafka.wait_for_subscription('live')"):
        raise RuntimeError("the target is behind")
    rows = to_target()
    target.run("SELECT kafka.drop_subscription('live')")
    source.run("SELECT kafka.drop_publisher('live')")
    drop_topic("live.public.live")
    return inserts, figures, rows, [c / (SECONDS + SKIP) * 100 for c in cpu]


def measure_peer_latency():
    """The same with Debezium and its JDBC sink, after a while in which the JVM warms up."""
    progress("the same with Debezium and its JDBC sink")
    warm = 15
    for cluster in (source, target):
        cluster.run("TRUNCATE live")
    create_topic("dbz_live.public.live")
    create_topic("dbz_raw.public.live")
    with Debezium(source, "dbz_raw", "live").streaming():
        consumer = Background("latency", BROKERS, "dbz_raw.public.live", warm)
        steady_load(SECONDS + warm)
        figures = consumer.result(60)
    source.run("TRUNCATE live")
    sink = JdbcSink(target, "sink_live", "dbz_live.public.live", "live")
    with Debezium(source, "dbz_live", "live", schemas=True, sink=sink).streaming():
        steady_load(SECONDS + warm)
        wanted = source.one("SELECT count(*) FROM live")
        wait_until(lambda: target.one("SELECT count(*) FROM live") == wanted, 120, "the JDBC sink to catch up")
    rows = to_target(warm)
    for topic in ("dbz_live.public.live", "dbz_raw.public.live"):
        drop_topic(topic)
    return figures, rows


# ---- all together

def set_up():
    source.use_database("ops")
    target.use_database("boards")
    for table in ("orders", "orders_single", "live"):
        make_table(source, table)
        source.run(f"CREATE PUBLICATION {table}_pub FOR TABLE {table}")
    for table in ("orders", "live"):
        make_table(target, table)
    source.run("CREATE SEQUENCE live_ids CACHE 100")
    source.run(f"""
        CREATE PROCEDURE load(tab regclass, first bigint, total bigint, size int) LANGUAGE plpgsql AS $$
        BEGIN
            SET synchronous_commit = off;
            FOR i IN first .. first + total - 1 BY size LOOP
                EXECUTE format($sql$INSERT INTO %s SELECT {ROW.replace("%", "%%")} FROM generate_series($1, $2) g$sql$, tab)
                  USING i, least(i + size, first + total) - 1;
                COMMIT;
            END LOOP;
            -- what was not waited for must be on disk when the drains begin
            SET synchronous_commit = on;
            PERFORM pg_logical_emit_message(true, 'bench', '');
            COMMIT;
        END $$""")


def main():
    wanted = (os.environ.get("BENCH_ONLY") or "drain transactions snapshot apply targets latency").split()
    begin = time.monotonic()
    memory = MemoryWatch(source, target)
    versions = (f"pg_kafka_sync bench, {time.strftime('%F %T')}: PostgreSQL {source.one('SHOW server_version')}, "
                f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, format {setting.FORMAT}, {RUNS} runs each: median (min..max)")
    report.say(versions)
    set_up()

    drains = topic = None
    if "drain" in wanted or "apply" in wanted:
        drains, topic = measure_drains("bulk", "orders", BULK, load_bulk, warm_up=True, natives="apply" in wanted)
    elif "snapshot" in wanted:
        load_bulk()
    report.say()
    if "drain" in wanted:
        report.say(f"messages of {report.data['message bytes bulk']:.0f} bytes (key and value); "
                   + " ".join(f"{name}={value}" for name, value in setting.PRODUCER.items()))
        report.throughput(f"(a) drain {BULK} rows, 1,000 a transaction", drains, "raw librdkafka", 0.65, "Debezium", 10)
        report.say(f"    {'first message after':<40}{median(first_seen):.2f} s, counted in")
    if "snapshot" in wanted:
        report.absolute(f"(d) initial snapshot of {BULK} rows", measure_snapshots(), 250_000, "Debezium")
    if "apply" in wanted:
        series, again, update, far, room, again_room = measure_apply(topic)
        report.throughput(f"(b) apply {BULK} rows to an empty table", series, "COPY", 0.4, "logical replication", 1)
        report.share(f"apply {BULK} rows to an empty table of another server (postgres_fdw)", far, series["pg_kafka_sync"],
                     "a local table", 0.4)
        report.share(f"apply {BULK} rows that are all there", again, series["pg_kafka_sync"], "rows that are not", 0.8)
        report.say(f"    {'one UPDATE of all rows':<26}{str(update):<34}ratio {update.median / series['COPY'].median:.2f}  of COPY")
        report.share(f"apply {BULK} rows that are all there, in a table with fillfactor 45", again_room, room, "rows that are not", 0.8)
    if "transactions" in wanted or "targets" in wanted:
        series, topic = measure_drains("single", "orders_single", SINGLE, load_single)
        if "transactions" in wanted:
            report.throughput(f"(a) drain {SINGLE} one-row transactions", series, "raw librdkafka", 0.65, "Debezium", 10)
        if "targets" in wanted:
            report.absolute(f"apply {SINGLE} rows to five targets with queries", {"pg_kafka_sync": measure_five(topic)}, 50_000)
        drop_topic(topic)
    if "latency" in wanted:
        inserts, consumer, rows, cpu = measure_latency()
        report.say(f"(c) latency at {RATE} rows/s for {SECONDS} s")
        report.latency("the INSERT's own round trip", inserts)
        report.latency("INSERT to consumer", consumer, 15)
        report.latency("commit to commit in the target", rows, 20)
        report.say(f"    {'CPU while at it':<38}publisher {cpu[0]:.0f} %, subscription {cpu[1]:.0f} %, broker {cpu[2]:.0f} % of a core")
        if peers:
            consumer, rows = measure_peer_latency()
            report.latency("Debezium: INSERT to consumer", consumer)
            report.latency("Debezium and JDBC sink: to the target", rows)
    report.memory(memory.peaks(), 150)
    if peers and Debezium.peak_mb:
        report.say(f"    {'Kafka Connect':<26}{Debezium.peak_mb:.0f} MB resident")
    report.say(f"took {time.monotonic() - begin:.0f} s")
    report.end()


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
try:
    main()
finally:
    # the small programs and Connect workers that an error left behind
    setting.stop_all()
