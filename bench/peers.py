"""Debezium's PostgreSQL connector and its JDBC sink, in a Kafka Connect standalone worker, tuned for speed."""
import contextlib
import os
import socket
import time
from pathlib import Path

import setting
from setting import BROKERS, SCRATCH, Background, wait_until

LOGGING = """<Configuration status="WARN"><Appenders><Console name="out"><PatternLayout pattern="%d %p %c{1} %m%n"/></Console>
</Appenders><Loggers><Root level="INFO"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"""


def properties(path, values):
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return path


@contextlib.contextmanager
def connect_worker(name, connectors, schemas):
    """Runs a standalone worker with connectors (name -> properties); notes its peak memory when it ends."""
    directory = SCRATCH / f"connect-{name}"
    directory.mkdir()
    (directory / "log4j2.xml").write_text(LOGGING)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = [properties(directory / "worker.properties", {
        "bootstrap.servers": BROKERS,
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "key.converter.schemas.enable": str(schemas).lower(),
        "value.converter.schemas.enable": str(schemas).lower(),
        "offset.storage.file.filename": directory / "offsets",
        "plugin.path": os.environ["BENCH_PLUGINS"],
        "plugin.discovery": "service_load",
        "listeners": f"http://127.0.0.1:{port}",
    })]
    files += [properties(directory / f"{connector}.properties", {"name": connector, **values})
              for connector, values in connectors.items()]
    with open(directory / "log", "w") as log:
        process = setting.start([os.environ["BENCH_JAVA"], "-Xms256m", "-Xmx2g",
                                 f"-Dlog4j2.configurationFile={directory}/log4j2.xml", "-cp",
                                 f"{os.environ['BENCH_KAFKA_JARS']}/*", "org.apache.kafka.connect.cli.ConnectStandalone", *files],
                                stdout=log, stderr=log)
    try:
        yield process
    except Exception:
        print("\n".join((directory / "log").read_text(errors="replace").splitlines()[-20:]))
        raise
    finally:
        if process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
            Debezium.peak_mb = max(Debezium.peak_mb, peak)
        process.terminate()
        try:
            process.wait(20)
        except Exception:
            process.kill()
            process.wait(10)


class Debezium:
    """One connector with a slot and a topic prefix of its own name, for one table."""
    peak_mb = 0                 # of all Connect workers so far

    def __init__(self, cluster, name, table, schemas=False, sink=None):
        self.cluster, self.name, self.table, self.schemas, self.sink = cluster, name, table, schemas, sink
        self.topic = f"{name}.public.{table}"

    def properties(self, mode):
        env = self.cluster.env
        values = {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector", "tasks.max": 1,
            "database.hostname": env["PGHOST"], "database.port": env["PGPORT"], "database.user": "postgres",
            "database.password": "none", "database.dbname": env["PGDATABASE"], "topic.prefix": self.name,
            "plugin.name": "pgoutput", "slot.name": self.name, "publication.name": f"{self.table}_pub",
            "publication.autocreate.mode": "disabled", "table.include.list": f"public.{self.table}", "snapshot.mode": mode,
            "max.batch.size": 16384, "max.queue.size": 65536, "poll.interval.ms": 10, "snapshot.fetch.size": 20000,
            "producer.override.linger.ms": 5, "producer.override.batch.size": 524288,
            "producer.override.buffer.memory": 134217728, "producer.override.compression.type": "lz4",
        }
        if self.schemas:        # as small as the sink can do with
            values |= {"transforms": "flat", "transforms.flat.type": "io.debezium.transforms.ExtractNewRecordState",
                       "transforms.flat.delete.tombstone.handling.mode": "tombstone"}
        return values

    def worker(self, mode):
        connectors = {self.name: self.properties(mode)}
        if self.sink:
            connectors[self.sink.name] = self.sink.properties()
        return connect_worker(self.name, connectors, self.schemas)

    def drop_slot(self):
        self.cluster.run("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", self.name)

    def fill(self, mode, count):
        """Seconds that count messages take, reckoned from the first ones on: start-up does not count."""
        watch = Background("watch", BROKERS, self.topic, count, 300)
        with self.worker(mode):
            seen = watch.result(320)
        self.drop_slot()
        return (seen["last"] - seen["first"]) * count / (count - seen["first_count"])

    def drain(self, count):
        """What is behind the slot of this name."""
        return self.fill("no_data", count)

    def snapshot(self, count):
        return self.fill("initial_only", count)

    @contextlib.contextmanager
    def streaming(self):
        """Runs it, from now on."""
        self.cluster.run("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", self.name)
        with self.worker("no_data"):
            wait_until(lambda: self.cluster.one("SELECT active FROM pg_replication_slots WHERE slot_name = %s", self.name), 60,
                       "Debezium to stream")
            time.sleep(5)       # the sink has nothing to show that it is ready
            yield
        self.drop_slot()


class JdbcSink:
    """One sink connector, one task, that upserts a topic into a table."""

    def __init__(self, cluster, name, topic, table):
        self.cluster, self.name, self.topic, self.table = cluster, name, topic, table

    def properties(self):
        env = self.cluster.env
        return {
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector", "tasks.max": 1, "topics": self.topic,
            "connection.url": f"jdbc:postgresql://{env['PGHOST']}:{env['PGPORT']}/{env['PGDATABASE']}?reWriteBatchedInserts=true",
            "connection.username": "postgres", "connection.password": "none", "insert.mode": "upsert", "delete.enabled": "true",
            "primary.key.mode": "record_key", "primary.key.fields": "id", "schema.evolution": "none",
            "collection.name.format": self.table, "batch.size": 5000, "use.reduction.buffer": "true",
            "dialect.postgres.unnest.insert.enabled": "true", "consumer.override.max.poll.records": 5000,
            "consumer.override.auto.offset.reset": "earliest", "consumer.override.max.partition.fetch.bytes": 16777216,
            "consumer.override.fetch.max.bytes": 67108864,
        }

    def drain(self, count):
        """Seconds that count rows take, from the first commit to the last."""
        with connect_worker(self.name, {self.name: self.properties()}, schemas=True):
            def complete():
                # counting is not for free: only when the table has about its size
                if self.cluster.one("SELECT pg_relation_size(%s::regclass)", self.table) / count < 140:
                    time.sleep(0.2)
                    return False
                return self.cluster.one(f"SELECT count(*) FROM {self.table}") >= count
            wait_until(complete, 300, "the JDBC sink")
        return self.cluster.one("SELECT extract(epoch FROM max(t) - min(t))::float8 FROM (SELECT "
                                f"pg_xact_commit_timestamp(xmin) AS t FROM {self.table} GROUP BY xmin) x")
