"""Where a benchmark runs: the servers that run.sh started, the small programs, and how to talk to them."""
import json
import os
import subprocess
import time
from pathlib import Path

import psycopg

RUNS = int(os.environ.get("BENCH_RUNS") or 3)
FORMAT = os.environ.get("BENCH_FORMAT") or "debezium"
OPTIONS = json.loads(os.environ.get("BENCH_OPTIONS") or "{}")
SUBSCRIPTION_OPTIONS = json.loads(os.environ.get("BENCH_SUBSCRIPTION_OPTIONS") or "{}")
SCRATCH = Path(os.environ["BENCH_SCRATCH"])
PG_BIN = Path(os.environ["BENCH_PG_BIN"])
PROFILE = os.environ.get("BENCH_PROFILE")
PARTITIONS = 3
CLOCK_TICK = os.sysconf("SC_CLK_TCK")


def read_env(name):
    return dict(line.split("=", 1) for line in (SCRATCH / name / "env").read_text().splitlines() if "=" in line)


BROKERS = read_env("kafka")["KAFKA_BOOTSTRAP"]

# The settings of the publisher's producer (src/produce/producer.c), for the raw one.
PRODUCER = {
    "compression.codec": "lz4", "linger.ms": "2", "queue.buffering.max.messages": "100000",
    "queue.buffering.max.kbytes": "262144", "message.max.bytes": "104857600", "message.timeout.ms": "0",
    "socket.nagle.disable": "true",
}
PRODUCER.update({k: str(v) for k, v in OPTIONS.items() if "." in k and not k.startswith(("topic.", "snapshot."))
                 and not k.endswith(".mode")})


class Cluster:
    def __init__(self, name):
        self.env = read_env(name)
        self.postmaster = int((SCRATCH / name / "data/postmaster.pid").read_text().split()[0])
        self.connection = self.connect("postgres")

    def connect(self, dbname):
        return psycopg.connect(host=self.env["PGHOST"], port=self.env["PGPORT"], user="postgres", dbname=dbname,
                               autocommit=True)

    def use_database(self, name):
        """Makes a database with the extension and a server "kafka", and works in it from now on."""
        self.connection.execute(f"CREATE DATABASE {name}")
        self.connection.close()
        self.env["PGDATABASE"] = name
        self.connection = self.connect(name)
        self.connection.execute("CREATE EXTENSION pg_kafka_sync")
        self.connection.execute("CREATE SERVER kafka FOREIGN DATA WRAPPER kafka "
                                f"OPTIONS (\"bootstrap.servers\" '{BROKERS}')")

    def run(self, sql, *parameters):
        self.connection.execute(sql, parameters or None)

    def one(self, sql, *parameters):
        """The only value of a query's only row."""
        row = self.connection.execute(sql, parameters or None).fetchone()
        return row[0] if row else None

    def rows(self, sql, *parameters):
        return self.connection.execute(sql, parameters or None).fetchall()


def make_table(cluster, name):
    cluster.run(f"CREATE TABLE {name} (id bigint PRIMARY KEY, customer_id bigint, status text, amount numeric(12,2), "
                "note text, updated_at timestamptz) WITH (autovacuum_enabled = off)")


def tool(name, *arguments):
    """Runs one of the small programs to its end; its JSON."""
    done = subprocess.run([SCRATCH / "bin" / name, *map(str, arguments)], stdout=subprocess.PIPE, text=True, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"{name} {arguments}: exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


_started = []


def start(command, **arguments):
    """Popen that stop_all() knows of."""
    _started.append(subprocess.Popen([str(word) for word in command], **arguments))
    return _started[-1]


def stop_all():
    """Ends what is still running, as after an error."""
    for process in _started:
        if process.poll() is None:
            process.terminate()
    for process in _started:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


class Background:
    """One of the small programs beside what is measured; it says "ready" when it has begun."""

    def __init__(self, name, *arguments):
        self.name = name
        self.process = start([SCRATCH / "bin" / name, *arguments], stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{name} {arguments} did not begin")

    def result(self, timeout):
        out, _ = self.process.communicate(timeout=timeout)
        if self.process.returncode != 0:
            raise RuntimeError(f"{self.name}: exit code {self.process.returncode}")
        return json.loads(out.splitlines()[-1])


class MemoryWatch:
    """Samples the memory of all workers until read."""

    def __init__(self, *clusters):
        self.process = start([SCRATCH / "bin/memory", "pg_kafka_sync", *(c.postmaster for c in clusters)],
                             stdout=subprocess.PIPE, text=True)

    def peaks(self):
        """[(title, anonymous, without shared memory, resident)] in MB, one for each process seen."""
        self.process.terminate()
        out, _ = self.process.communicate(timeout=10)
        return [(f[0], *(int(kb) / 1024 for kb in f[1:])) for f in (line.split("\t") for line in out.splitlines())]


def wait_until(condition, timeout, what):
    """Polls until the condition gives something true, and returns that."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(0.05)
    return value


def cpu_seconds(pid):
    """CPU seconds so far of a process's main thread and of its other threads, ended ones too; None if it has ended."""
    def used(path):
        fields = Path(path).read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICK
    try:
        main, all_threads = used(f"/proc/{pid}/task/{pid}/stat"), used(f"/proc/{pid}/stat")
    except OSError:
        return None
    return main, max(all_threads - main, 0.0)


def cpu_since(pid, before):
    """What has been used since cpu_seconds(pid) gave that."""
    return tuple(max(now - then, 0.0) for now, then in zip(cpu_seconds(pid) or before, before))


class Profile:
    """Records where a worker spends its time, if asked to; see BENCH_PROFILE in run.sh."""

    def __init__(self, pid, name):
        self.process = None
        if PROFILE and pid:
            Path(PROFILE).mkdir(parents=True, exist_ok=True)
            self.process = start(["perf", "record", "-q", "--call-graph", "dwarf,4096", "-F", "499", "-e", "cpu-clock", "-p", pid, "-o",
                                  f"{PROFILE}/{name}.data"], stderr=subprocess.DEVNULL)

    def end(self):
        if self.process:
            self.process.send_signal(2)
            self.process.wait(30)
