"""Fixtures for tests that need real servers: PostgreSQL clusters and Kafka brokers, shared or private.

Under test/run the shared servers are the runner's; pytest alone (after test/support/deps.sh and build.sh) starts its own.

    def test_something(db, kafka):            # a fresh database with the extension and a server named kafka
        db.q("SELECT kafka.create_topic('kafka', %s)", kafka.new_topic_name())

Whoever crashes or stops a server takes private_cluster, private_kafka.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import psycopg
import psycopg.rows
import psycopg.sql
import pytest
from confluent_kafka import (OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition)
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

SUPPORT = Path(__file__).resolve().parents[1] / "support"


def _terminated(signum, frame):
    # so that fixtures stop what they started
    raise KeyboardInterrupt


signal.signal(signal.SIGTERM, _terminated)


class Timeout(AssertionError):
    pass


def wait_until(cond, timeout=30, interval=0.05, what=None):
    """Polls until cond() is true, and returns what it returned; an AssertionError after timeout seconds.

    An assertion or a database or Kafka error inside cond counts as not yet, and is shown if time runs out.
    """
    deadline = time.monotonic() + timeout
    last = error = None
    while True:
        try:
            error = None
            last = cond()
            if last:
                return last
        except (AssertionError, psycopg.Error, KafkaException) as e:
            error = e
        if time.monotonic() > deadline:
            what = what or getattr(cond, "__name__", "the condition")
            raise Timeout(f"waited {timeout} s for {what}; last: {error if error is not None else last!r}") from error
        time.sleep(interval)


def _run(*args):
    done = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, args))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _env(directory):
    return dict(line.split("=", 1) for line in (Path(directory) / "env").read_text().splitlines())


class Database:
    """One database of a cluster. q, one, value use one autocommit connection that is remade when it is lost."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        self._connection = None

    def connect(self, **kwargs):
        return self.cluster.connect(self.name, **kwargs)

    @property
    def connection(self):
        if self._connection is None or self._connection.closed or self._connection.broken:
            self._connection = self.connect()
        return self._connection

    def q(self, sql, *params):
        """Runs one statement (or, without parameters, several); rows as tuples, [] where there are none."""
        cursor = self.connection.execute(sql, params or None)
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []

    def one(self, sql, *params):
        rows = self.q(sql, *params)
        assert len(rows) == 1, f"{len(rows)} rows of {sql}"
        return rows[0]

    def value(self, sql, *params):
        return self.one(sql, *params)[0]

    def dicts(self, sql, *params):
        cursor = self.connection.cursor(row_factory=psycopg.rows.dict_row)
        return cursor.execute(sql, params or None).fetchall()

    def wait(self, sql, *params, timeout=30):
        """Until the first column of the first row is true."""
        def holds():
            rows = self.q(sql, *params)
            return rows and rows[0][0]
        return wait_until(holds, timeout, what=sql)

    def wait_for_publisher(self, name, timeout=60):
        assert self.value(f"SELECT kafka.wait_for_publisher(%s, timeout => '{timeout} s')", name), self.state("publisher", name)

    def wait_for_subscription(self, name, timeout=60):
        assert self.value(f"SELECT kafka.wait_for_subscription(%s, timeout => '{timeout} s')", name), self.state("subscription", name)

    def state(self, kind, name):
        rows = self.dicts(f"SELECT * FROM kafka.{kind}_status WHERE name = %s", name)
        return rows[0] if rows else None

    def wait_state(self, kind, name, state, timeout=30):
        """Until a publisher or subscription is in one of the states; its status row."""
        states = [state] if isinstance(state, str) else list(state)
        def reached():
            row = self.state(kind, name)
            assert row and row["state"] in states, row
            return row
        return wait_until(reached, timeout, what=f"{kind} {name} to be {' or '.join(states)}")

    def rounds_per_second(self, kind, seconds=3):
        """How often a worker of a kind goes through its main loop, measured over a while."""
        sql = "SELECT max(loops) FROM kafka.worker_status() WHERE kind = %s"
        first, began = self.value(sql, kind), time.monotonic()
        wait_until(lambda: time.monotonic() - began > seconds, seconds + 30)
        return (self.value(sql, kind) - first) / (time.monotonic() - began)

    def create_server(self, kafka, name="kafka", **options):
        """A server of the kafka wrapper; dots of librdkafka's names are written as double underscores."""
        options = {"bootstrap.servers": kafka.bootstrap, **{k.replace("__", "."): v for k, v in options.items()}}
        listed = ", ".join(f"\"{k}\" '{v}'" for k, v in options.items())
        self.q(f'CREATE SERVER "{name}" FOREIGN DATA WRAPPER kafka OPTIONS ({listed})')

    def close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Cluster:
    """A PostgreSQL cluster made by test/support/pg.sh."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.databases = []

    def init(self, *conf):
        _run(SUPPORT / "pg.sh", "init", self.directory, *conf)
        return self

    def start(self):
        _run(SUPPORT / "pg.sh", "start", self.directory)
        return self

    def stop(self, mode="fast"):
        for database in self.databases:
            database.close()
        _run(SUPPORT / "pg.sh", "stop", self.directory, mode)

    def restart(self, mode="fast"):
        self.stop(mode)
        self.start()

    def crash(self):
        """Stops at once, without a checkpoint; the next start recovers from WAL."""
        self.stop("immediate")

    def kill(self):
        """kill -9 of the postmaster; returns when its children have left by themselves."""
        for database in self.databases:
            database.close()
        _run(SUPPORT / "pg.sh", "kill", self.directory)

    def destroy(self):
        _run(SUPPORT / "pg.sh", "destroy", self.directory)

    @property
    def env(self):
        return _env(self.directory)

    @property
    def port(self):
        return int(self.env["PGPORT"])

    @property
    def postmaster_pid(self):
        return int((self.directory / "data/postmaster.pid").read_text().split()[0])

    def dsn(self, dbname="postgres", **kwargs):
        return psycopg.conninfo.make_conninfo(host="127.0.0.1", port=self.port, user=kwargs.pop("user", "postgres"),
                                              dbname=dbname, connect_timeout=20, **kwargs)

    def connect(self, dbname="postgres", autocommit=True, **kwargs):
        return psycopg.connect(self.dsn(dbname, **kwargs), autocommit=autocommit)

    def wait_accepting(self, timeout=60):
        """Until a connection can be made, as after a crash of a backend."""
        def accepts():
            self.connect().close()
            return True
        wait_until(accepts, timeout, what="PostgreSQL to accept connections")

    def q(self, sql, *params, dbname="postgres"):
        with self.connect(dbname) as connection:
            cursor = connection.execute(sql, params or None)
            return cursor.fetchall() if cursor.description else []

    def set(self, **settings):
        """ALTER SYSTEM and reload; dots of setting names are written as double underscores."""
        with self.connect() as connection:
            for name, value in settings.items():
                connection.execute(psycopg.sql.SQL("ALTER SYSTEM SET {} = {}").format(
                    psycopg.sql.Identifier(*name.split("__")), psycopg.sql.Literal(value)))
            connection.execute("SELECT pg_reload_conf()")

    def create_database(self, name=None, extension=True, options=""):
        name = name or f"t_{uuid.uuid4().hex[:10]}"
        self.q(f'CREATE DATABASE "{name}" {options}')
        database = Database(self, name)
        self.databases.append(database)
        if extension:
            database.q("CREATE EXTENSION pg_kafka_sync")
        return database

    def drop_database(self, database):
        database.close()
        self.databases.remove(database)
        # What a test leaves behind is not the next one's concern: end its workers and remove its slots first.
        with self.connect() as connection:
            connection.execute(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false')
            def dropped():
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database.name,))
                for (slot,) in connection.execute(
                        "SELECT slot_name FROM pg_replication_slots WHERE database = %s", (database.name,)).fetchall():
                    connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
                connection.execute(f'DROP DATABASE IF EXISTS "{database.name}" WITH (FORCE)')
                return True
            wait_until(dropped, 30, 0.2, what=f"DROP DATABASE {database.name}")

    def worker_pids(self, pattern="pg_kafka_sync", dbname=None):
        """Pids of background workers whose backend_type or application_name matches the regular expression."""
        return [pid for (pid,) in self.q(
            "SELECT pid FROM pg_stat_activity WHERE (backend_type ~ %s OR application_name ~ %s)"
            " AND backend_type <> 'client backend' AND (%s::text IS NULL OR datname = %s) ORDER BY pid",
            pattern, pattern, dbname, dbname)]

    def kill_worker(self, pid):
        """kill -9 of one process of this cluster; returns when the postmaster has noticed, and restarted all the others."""
        ready = "database system is ready to accept connections"
        starts = self.log().count(ready)
        parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        assert parent == self.postmaster_pid, f"{pid} is no process of {self.directory}"
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.log().count(ready) > starts, 60, what="the restart after a crash")

    def rss_kb(self, pid):
        """Resident memory without shared buffers (RssAnon), in kB."""
        return int(re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])

    @property
    def log_path(self):
        return self.directory / "log/postgres.log"

    def log(self):
        return self.log_path.read_text(errors="replace")


class Message(NamedTuple):
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list          # [(name, bytes or None)]
    timestamp: int         # milliseconds

    @property
    def json(self):
        return None if self.value is None else json.loads(self.value)

    @property
    def json_key(self):
        return None if self.key is None else json.loads(self.key)

    def header(self, name):
        return dict(self.headers).get(name)


def _bytes(value):
    if value is None or isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode()


class Kafka:
    """A broker made by test/support/kafka.sh, and the plain clients that tests look at it with."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self._admin = None

    def _script(self, action, *args):
        _run(SUPPORT / "kafka.sh", action, self.directory, *args)

    def start(self, *properties):
        self._script("start", *properties)
        return self

    def join(self, first, node, *properties):
        """Starts as broker number node of the cluster of another one, which is number 1 and the controller."""
        _run("env", f"KAFKA_JOIN={first.directory}", f"KAFKA_NODE={node}", "KAFKA_HEAP=-Xms128m -Xmx512m",
             SUPPORT / "kafka.sh", "start", self.directory, *properties)
        return self

    def stop(self):
        self._script("stop")

    def kill(self):
        """kill -9."""
        self._script("kill")

    def restart(self, *properties):
        self._script("restart", *properties)

    def pause(self):
        """Alive but silent (SIGSTOP), as behind a dead network."""
        self._script("pause")

    def resume(self):
        self._script("resume")

    def destroy(self):
        self._admin = None
        self._script("destroy")

    @property
    def bootstrap(self):
        return _env(self.directory)["KAFKA_BOOTSTRAP"]

    @property
    def sasl_bootstrap(self):
        return _env(self.directory)["KAFKA_SASL_BOOTSTRAP"]

    def _conf(self, user=None, **conf):
        conf = {"bootstrap.servers": self.sasl_bootstrap if user else self.bootstrap, "log_level": 2,
                **{k.replace("__", "."): v for k, v in conf.items()}}
        if user:
            conf.update({"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
                         "sasl.username": user, "sasl.password": f"{user}-secret"})
        return conf

    @property
    def admin(self):
        if self._admin is None:
            self._admin = AdminClient(self._conf())
        return self._admin

    def new_topic_name(self, prefix="t"):
        return f"{prefix}.{uuid.uuid4().hex[:12]}"

    def create_topic(self, topic=None, partitions=1, config=None):
        topic = topic or self.new_topic_name()
        future = self.admin.create_topics([NewTopic(topic, partitions, 1, config=config or {})])[topic]
        future.result(timeout=30)
        wait_until(lambda: topic in self.topics(), what=f"topic {topic}")
        return topic

    def delete_topic(self, topic):
        self.admin.delete_topics([topic])[topic].result(timeout=30)
        wait_until(lambda: topic not in self.topics(), what=f"topic {topic} to go")

    def add_partitions(self, topic, total):
        self.admin.create_partitions([NewPartitions(topic, total)])[topic].result(timeout=30)
        wait_until(lambda: self.partitions(topic) == total, what=f"{total} partitions of {topic}")

    def topics(self):
        return set(self.admin.list_topics(timeout=20).topics)

    def partitions(self, topic):
        return len(self.admin.list_topics(topic, timeout=20).topics[topic].partitions)

    def topic_config(self, topic):
        resource = ConfigResource(ResourceType.TOPIC, topic)
        entries = self.admin.describe_configs([resource])[resource].result(timeout=20)
        return {name: entry.value for name, entry in entries.items()}

    def produce(self, topic, value=None, key=None, headers=None, partition=None, timestamp=None, user=None):
        """One message, acknowledged; bytes, str or anything JSON for key and value. (partition, offset)"""
        return self.produce_many(topic, [dict(value=value, key=key, headers=headers, partition=partition,
                                              timestamp=timestamp)], user=user)[0]

    def produce_many(self, topic, messages, user=None, **conf):
        """Messages as dictionaries of produce's arguments, or (key, value) pairs. [(partition, offset)] in their order."""
        producer = Producer(self._conf(user, linger__ms=5, partitioner="murmur2_random", **conf))
        places = self._send(producer, topic, messages)
        assert producer.flush(60) == 0, "messages were not acknowledged"
        return self._checked(places)

    def transaction(self, topic, messages, commit=True, transactional_id=None):
        """The messages in one Kafka transaction, committed or aborted."""
        producer = Producer(self._conf(transactional__id=transactional_id or uuid.uuid4().hex, linger__ms=5,
                                       partitioner="murmur2_random"))
        producer.init_transactions(30)
        producer.begin_transaction()
        places = self._send(producer, topic, messages)
        producer.flush(30)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
        return self._checked(places)

    def open_transaction(self, topic, messages, transactional_id=None, timeout_ms=60000):
        """Messages sent in a transaction left open: they hold back the last stable offset. The producer, to end it."""
        producer = Producer(self._conf(transactional__id=transactional_id or uuid.uuid4().hex,
                                       transaction__timeout__ms=timeout_ms, partitioner="murmur2_random"))
        producer.init_transactions(30)
        producer.begin_transaction()
        places = self._send(producer, topic, messages)
        producer.flush(30)
        self._checked(places)
        return producer

    @staticmethod
    def _send(producer, topic, messages):
        places = []
        for number, message in enumerate(messages):
            if not isinstance(message, dict):
                message = dict(key=message[0], value=message[1])
            places.append(None)

            def delivered(error, sent, number=number):
                places[number] = error or (sent.partition(), sent.offset())

            arguments = {"headers": message.get("headers"), "partition": message.get("partition"),
                         "timestamp": message.get("timestamp")}
            arguments = {k: v for k, v in arguments.items() if v is not None}
            while True:
                try:
                    producer.produce(topic, value=_bytes(message.get("value")), key=_bytes(message.get("key")),
                                     on_delivery=delivered, **arguments)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        return places

    @staticmethod
    def _checked(places):
        for place in places:
            if place is None or isinstance(place, KafkaError):
                raise KafkaException(place or KafkaError(KafkaError._MSG_TIMED_OUT))
        return places

    def watermarks(self, topic, isolation="read_uncommitted"):
        """{partition: (first offset, end offset)}"""
        consumer = Consumer(self._conf(group__id="watermarks", isolation__level=isolation))
        try:
            return {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=20, cached=False)
                    for p in range(self.partitions(topic))}
        finally:
            consumer.close()

    def consume(self, topic, timeout=60, user=None, isolation="read_committed", start=OFFSET_BEGINNING):
        """All messages that are in the topic now, as a list of Message, each partition in its order."""
        consumer = Consumer(self._conf(user, group__id=f"test-{uuid.uuid4().hex}", isolation__level=isolation,
                                       enable__auto__commit=False, enable__partition__eof=True, fetch__wait__max__ms=10,
                                       auto__offset__reset="earliest"))
        messages = []
        try:
            # The end of a partition event comes at the last stable offset, past control records too.
            open_partitions = set(range(len(consumer.list_topics(topic, timeout=20).topics[topic].partitions)))
            consumer.assign([TopicPartition(topic, p, start) for p in open_partitions])
            deadline = time.monotonic() + timeout
            while open_partitions:
                assert time.monotonic() < deadline, f"{topic} not read to its end in {timeout} s"
                for message in consumer.consume(1000, 0.03):
                    error = message.error()
                    if error is None:
                        if message.partition() in open_partitions:
                            messages.append(Message(message.partition(), message.offset(), message.key(), message.value(),
                                                    message.headers() or [], message.timestamp()[1]))
                    elif error.code() == KafkaError._PARTITION_EOF:
                        open_partitions.discard(message.partition())
                    else:
                        raise KafkaException(error)
        finally:
            consumer.close()
        messages.sort(key=lambda m: (m.partition, m.offset))
        return messages

    def wait_messages(self, topic, count, timeout=60):
        """consume, once at least count messages are there."""
        def arrived():
            messages = self.consume(topic, timeout) if topic in self.topics() else []
            assert len(messages) >= count, f"{len(messages)} of {count} messages in {topic}"
            return messages
        return wait_until(arrived, timeout, 0.2, what=f"{count} messages in {topic}")

    def log(self):
        return (self.directory / "log/server.log").read_text(errors="replace")


class MariaDB:
    """A MariaDB server made by test/support/mariadb.sh."""

    def __init__(self, directory):
        self.directory = Path(directory)

    def _script(self, action, *args):
        return _run(SUPPORT / "mariadb.sh", action, self.directory, *args)

    def start(self, *options):
        self._script("start", *options)
        return self

    def stop(self):
        self._script("stop")

    def kill(self):
        """kill -9."""
        self._script("kill")

    def pause(self):
        """Alive but silent (SIGSTOP)."""
        self._script("pause")

    def resume(self):
        self._script("resume")

    def destroy(self):
        self._script("destroy")

    @property
    def env(self):
        return _env(self.directory)

    def q(self, sql):
        """Runs statements; rows as lists of strings (None for NULL)."""
        lines = self._script("sql", "-N", "--batch", "-e", sql).splitlines()
        return [[None if v == "NULL" else v for v in line.split("\t")] for line in lines]

    def create_database(self):
        name = f"t_{uuid.uuid4().hex[:10]}"
        self.q(f"CREATE DATABASE {name}")
        return name


# ---- fixtures

@pytest.fixture(scope="session")
def scratch():
    """Where servers of this session live: short, for the socket's path, and open to the server's user."""
    given = os.environ.get("PG_KAFKA_SYNC_TEST_SCRATCH")
    directory = Path(given) if given else Path(tempfile.mkdtemp(prefix="pgks."))
    directory.chmod(0o755)
    yield directory
    if not given:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka(scratch):
    """The shared broker. Not to be stopped."""
    given = os.environ.get("PG_KAFKA_SYNC_TEST_KAFKA")
    if given and (Path(given) / "env").exists():
        yield Kafka(given)
        return
    kafka = Kafka(scratch / "kafka")
    try:
        yield kafka.start()
    finally:
        kafka.destroy()


@pytest.fixture(scope="session")
def cluster(scratch):
    """The shared cluster. Not to be stopped, nor its processes killed."""
    given = os.environ.get("PG_KAFKA_SYNC_TEST_PG")
    if given and (Path(given) / "env").exists():
        yield Cluster(given)
        return
    cluster = Cluster(scratch / "pg")
    try:
        yield cluster.init().start()
    finally:
        cluster.destroy()


@pytest.fixture
def db(cluster, kafka):
    """A fresh database of the shared cluster with the extension and a server named kafka."""
    database = cluster.create_database()
    try:
        database.create_server(kafka)
        yield database
    finally:
        cluster.drop_database(database)


@pytest.fixture
def make_db(cluster):
    """make_db(name=None, extension=True, options=''): further databases of the shared cluster, dropped afterwards."""
    made = []

    def make(name=None, extension=True, options=""):
        made.append(cluster.create_database(name, extension, options))
        return made[-1]

    yield make
    for database in reversed(made):
        cluster.drop_database(database)


@pytest.fixture
def private_cluster(scratch, request):
    """A cluster of this test's own, running; it may be stopped, crashed, reconfigured."""
    conf = getattr(request, "param", [])
    cluster = Cluster(scratch / f"pg-{uuid.uuid4().hex[:6]}")
    try:
        yield cluster.init(*([conf] if isinstance(conf, str) else conf)).start()
    finally:
        for database in cluster.databases:
            database.close()
        _keep_log(cluster.log_path, request)
        cluster.destroy()


@pytest.fixture
def private_kafka(scratch, request):
    """A broker of this test's own, running; it may be stopped, killed, paused."""
    kafka = Kafka(scratch / f"kafka-{uuid.uuid4().hex[:6]}")
    try:
        yield kafka.start(*getattr(request, "param", []))
    finally:
        _keep_log(kafka.directory / "log/server.log", request)
        kafka.destroy()


@pytest.fixture(scope="module")
def mariadb(scratch):
    """A MariaDB server for the tests of a file: who stops it starts it again."""
    server = MariaDB(scratch / f"mariadb-{uuid.uuid4().hex[:6]}")
    try:
        yield server.start()
    finally:
        server.destroy()


# ---- logs of a failed test

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        item.failed_once = True
        for name in {"private_cluster", "cluster"} & set(getattr(item, "funcargs", ())):
            log = item.funcargs[name].log_path
            if log.exists():
                report.sections.append((f"last lines of {log}", "\n".join(item.funcargs[name].log().splitlines()[-40:])))


def _keep_log(path, request):
    """Private servers are removed with their test; of a failed one the log stays beside them."""
    if getattr(request.node, "failed_once", False) and path.exists():
        kept = path.parents[2] / "log"
        kept.mkdir(exist_ok=True)
        shutil.copy(path, kept / f"{request.node.name}.{path.name}".replace("/", "_"))
