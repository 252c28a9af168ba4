"""Launcher and workers: starting, ending, coming back, and what happens to them with their database, server or role."""

import json
import os
import socket
import subprocess
import time
import uuid

import psycopg
import pytest

from conftest import Cluster, Database, wait_until, SUPPORT, _run

OWN_SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'pg\\_kafka\\_sync\\_%'"
OWN_ORIGINS = "SELECT roname FROM pg_replication_origin WHERE roname LIKE 'pg\\_kafka\\_sync\\_%'"


@pytest.fixture(scope="module")
def own(scratch):
    """A cluster of this file's tests, which may be restarted."""
    cluster = Cluster(scratch / f"pg-{uuid.uuid4().hex[:6]}")
    try:
        yield cluster.init("max_prepared_transactions = 5").start()
    finally:
        for database in cluster.databases:
            database.close()
        cluster.destroy()


@pytest.fixture
def make(own):
    """make(): a database of that cluster with the extension, dropped afterwards whatever it is called by then."""
    made = []

    def make(kafka=None, **options):
        made.append(own.create_database(**options))
        if kafka:
            made[-1].create_server(kafka)
        return made[-1]

    yield make
    own.start()
    for database in made:
        if database in own.databases:
            own.drop_database(database)


@pytest.fixture(scope="module")
def black_hole():
    """host:port of something that takes connections and never answers."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(50)
        yield f"127.0.0.1:{s.getsockname()[1]}"


def unreachable(db, name="nowhere", address="127.0.0.1:1"):
    db.q(f'CREATE SERVER "{name}" FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" \'{address}\')')


def publish(db, name="p", server="kafka", table="t", **arguments):
    db.q(f"CREATE TABLE IF NOT EXISTS {table} (id int PRIMARY KEY, v text)")
    if not db.q("SELECT 1 FROM pg_publication WHERE pubname = %s", f"pub_{table}"):
        db.q(f"CREATE PUBLICATION pub_{table} FOR TABLE {table}")
    arguments = {"format": "json", "snapshot": "never", **arguments}
    db.q(f"SELECT kafka.create_publisher(%s, %s, %s{''.join(f', {k} => %s' for k in arguments)})", name, server, f"pub_{table}",
         *arguments.values())


def subscribe(db, topic, name="s", target="copy", **arguments):
    db.q(f"CREATE TABLE IF NOT EXISTS {target} (id int PRIMARY KEY, v text)")
    arguments = {"format": "json", **arguments}
    db.q(f"SELECT kafka.create_subscription(%s, 'kafka', %s, %s::regclass{''.join(f', {k} => %s' for k in arguments)})", name,
         [topic], target, *arguments.values())


def pair(db, kafka):
    """A publisher p of table t and a subscription s into table copy of the same database. The topic."""
    topic = kafka.create_topic()
    publish(db, enabled=False)
    db.q("SELECT kafka.set_topic('p', 't', %s)", topic)
    db.q("SELECT kafka.resume_publisher('p')")
    subscribe(db, topic)
    db.wait_state("publisher", "p", "streaming")
    db.wait_state("subscription", "s", "streaming")
    return topic


def flows(db, n=[0]):
    """A new row gets from t to copy."""
    n[0] += 1
    db.q("INSERT INTO t VALUES (%s, 'x')", n[0])
    db.wait("SELECT true FROM copy WHERE id = %s", n[0])


def pids(db):
    return {kind: pid for kind, pid in db.q("SELECT kind, pid FROM kafka.worker_status() WHERE pid IS NOT NULL")}


def gone(pids):
    wait_until(lambda: not [p for p in pids if os.path.exists(f"/proc/{p}")], 10, what="workers to end")


def test_all_databases_after_a_restart(own, make, kafka):
    dbs = [make(kafka) for _ in range(3)]
    for db in dbs:
        pair(db, kafka)
    own.restart()
    for db in dbs:
        flows(db)
    assert len(own.worker_pids("publisher")) == len(own.worker_pids("subscription")) == 3


def test_terminated_workers_come_back(own, make, kafka):
    db = make(kafka)
    pair(db, kafka)
    flows(db)
    before = pids(db)
    for pid in before.values():
        assert db.value("SELECT pg_terminate_backend(%s)", pid)
    db.wait("SELECT count(*) = 2 FROM kafka.worker_status() WHERE state = 'streaming' AND pid <> ALL (%s)", list(before.values()))
    flows(db)
    assert db.q("SELECT kind, restarts FROM kafka.worker_status() ORDER BY 1") == [("publisher", 1), ("subscription", 1)]
    assert db.q("SELECT * FROM kafka.problems") == []


def test_launcher_comes_back(own, make, kafka):
    db = make(kafka)
    pair(db, kafka)
    before = pids(db)
    launcher, = own.worker_pids("^pg_kafka_sync launcher")
    own.q("SELECT pg_terminate_backend(%s)", launcher)
    wait_until(lambda: own.worker_pids("^pg_kafka_sync launcher") not in ([], [launcher]), what="a new launcher")
    flows(db)
    # Workers are told and started by the new one, never twice.
    db.q("SELECT pg_terminate_backend(%s)", pids(db)["publisher"])
    db.wait("SELECT state = 'streaming' AND pid <> %s FROM kafka.publisher_status", before["publisher"])
    flows(db)
    assert len(own.worker_pids("publisher", db.name)) == len(own.worker_pids("subscription", db.name)) == 1
    db.q("SELECT kafka.pause_subscription('s')")
    db.wait_state("subscription", "s", "paused")
    gone([before["subscription"]])


def test_back_off_after_errors(own, make, kafka):
    db = make(kafka)
    topic = kafka.create_topic()
    kafka.produce(topic, "{not json", {"id": 1})
    subscribe(db, topic)
    waits = {}
    def four():
        for restarts, wait in db.q("SELECT restarts, extract(epoch FROM next_start - last_error_at) FROM kafka.worker_status()"
                                   " WHERE state = 'error' AND next_start > last_error_at AND pid IS NULL"):
            waits[restarts] = float(wait)
        return len(waits) >= 4
    wait_until(four, interval=0.02, what="four errors")
    times = [waits[r] for r in sorted(waits)]
    assert times == sorted(times) and times[-1] > 2 * times[0], times
    assert times[0] < 1.5
    assert db.value("SELECT count(*) FROM kafka.problems WHERE problem LIKE 'state error:%%'") == 1
    # at once on seek
    began = time.monotonic()
    db.q("SELECT kafka.seek_subscription('s', 'latest')")
    db.wait_state("subscription", "s", "streaming")
    assert time.monotonic() - began < times[-1]
    kafka.produce(topic, {"id": 2, "v": "x"}, {"id": 2})
    db.wait("SELECT true FROM copy WHERE id = 2")
    assert db.q("SELECT * FROM kafka.problems") == []


def test_fast_stop_with_kafka_away(own, make, black_hole):
    db = make()
    unreachable(db, "refuses")
    unreachable(db, "silent", black_hole)
    publish(db, "p1", "refuses")
    publish(db, "p2", "silent")
    for name in ("p1", "p2"):
        db.wait_state("publisher", name, "retrying")
    db.q("INSERT INTO t SELECT g FROM generate_series(1, 1000) g")
    began = time.monotonic()
    own.stop("fast")
    took = time.monotonic() - began
    own.start()
    assert took < 5, took
    for name in ("p1", "p2"):
        db.wait_state("publisher", name, "retrying")


def test_drop_database(own, make, kafka):
    for command in ("DROP DATABASE {}", "DROP DATABASE {} WITH (FORCE)"):
        db = make(kafka)
        pair(db, kafka)
        flows(db)
        ours = [*pids(db).values()]
        # without FORCE a session is in the way as ever, and the workers go on afterwards
        if "FORCE" not in command:
            with pytest.raises(psycopg.errors.ObjectInUse):
                own.q(command.format(db.name))
            flows(db)
            ours = [*pids(db).values()]
        db.close()
        own.q("SELECT 1")
        wait_until(lambda: own.q("SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'", db.name) == [(0,)])
        slots = own.q("SELECT slot_name FROM pg_replication_slots WHERE database = %s", db.name)
        assert len(slots) == 1
        own.q(command.format(db.name))
        own.databases.remove(db)
        gone(ours)
        assert own.q(OWN_SLOTS) == []
        wait_until(lambda: own.q(OWN_ORIGINS) == [], what="the origins to go")


def test_rename_database(own, make, kafka):
    db = make(kafka)
    pair(db, kafka)
    flows(db)
    db.close()
    new = db.name + '_"Neu'
    wait_until(lambda: own.q("SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'", db.name) == [(0,)])
    own.q('ALTER DATABASE "{}" RENAME TO "{}"'.format(db.name, new.replace('"', '""')))
    old, db.name = db.name, new
    flows(db)
    db.close()
    wait_until(lambda: own.q("SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'", new) == [(0,)])
    own.q('ALTER DATABASE "{}" RENAME TO "{}"'.format(new.replace('"', '""'), old))
    db.name = old
    flows(db)


def test_template(own, make, kafka):
    """A copy comes up paused, says so, and begins anew when it is resumed; the original goes on."""
    db = make(kafka)
    topic = pair(db, kafka)
    flows(db)
    db.close()
    wait_until(lambda: own.q("SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'", db.name) == [(0,)])
    copy = make(extension=False, options=f"TEMPLATE {db.name}")
    flows(db)
    for kind, name in (("publisher", "p"), ("subscription", "s")):
        assert copy.wait_state(kind, name, "paused")["pid"] is None
    problems = copy.q("SELECT kind, problem FROM kafka.problems ORDER BY 1")
    assert [k for k, _ in problems] == ["publisher", "subscription"]
    assert "history diverged" in problems[0][1] and "resume" in problems[0][1] and "resume" in problems[1][1]
    assert copy.q("SELECT slot_name FROM pg_replication_slots WHERE database = %s", copy.name) == []
    copy.q("SELECT kafka.resume_publisher('p')")
    copy.q("SELECT kafka.resume_subscription('s')")
    copy.wait_state("publisher", "p", "streaming")
    copy.wait_state("subscription", "s", "streaming")
    assert copy.q("SELECT * FROM kafka.problems") == []
    copy.q("INSERT INTO t VALUES (-1, 'of the copy')")
    copy.wait("SELECT true FROM copy WHERE id = -1")
    db.wait("SELECT true FROM copy WHERE id = -1")
    publishers = {m.header("pg_kafka_sync.pos").split(b"/")[0] for m in kafka.consume(topic)}
    assert len(publishers) == 2, "positions of the two are told apart"


def test_tablespace(own, make, kafka):
    db = make(kafka)
    pair(db, kafka)
    directory = own.directory / "space"
    subprocess.run(["install", "-d", "-o", "postgres" if os.getuid() == 0 else str(os.getuid()), directory], check=True)
    own.q(f"CREATE TABLESPACE space LOCATION '{directory}'")
    db.close()
    wait_until(lambda: own.q("SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'", db.name) == [(0,)])
    own.q(f"ALTER DATABASE {db.name} SET TABLESPACE space")
    flows(db)
    db.close()
    wait_until(lambda: own.q("SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'", db.name) == [(0,)])
    own.q(f"ALTER DATABASE {db.name} SET TABLESPACE pg_default")
    own.q("DROP TABLESPACE space")


def test_closed_database(own, make, kafka):
    """Nothing runs in a template or a database that takes no connections; its slot stays."""
    db = make(kafka)
    pair(db, kafka)
    for off, on in (("IS_TEMPLATE true", "IS_TEMPLATE false"), ("ALLOW_CONNECTIONS false", "ALLOW_CONNECTIONS true")):
        flows(db)
        ours = [*pids(db).values()]
        own.q(f"ALTER DATABASE {db.name} {off}")
        gone(ours)
        assert len(own.q(OWN_SLOTS)) == 1
        own.q(f"ALTER DATABASE {db.name} {on}")
    flows(db)


def test_only_who_may_stops_workers(own, make, kafka):
    """A command on a database that its caller has no right to leaves the workers alone."""
    db = make(kafka)
    pair(db, kafka)
    before = pids(db)
    role = f"nobody_{uuid.uuid4().hex[:8]}"
    own.q(f"CREATE ROLE {role} LOGIN")
    with own.connect(user=role) as connection:
        for command in ("DROP DATABASE {}", "DROP DATABASE {} WITH (FORCE)", "ALTER DATABASE {} RENAME TO other",
                        "CREATE DATABASE other TEMPLATE {}", "ALTER DATABASE {} SET TABLESPACE pg_default"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(command.format(db.name))
    assert pids(db) == before
    flows(db)
    own.q(f"DROP ROLE {role}")


def test_drop_extension(own, make, kafka):
    db = make(kafka)
    pair(db, kafka)
    flows(db)
    ours = [*pids(db).values()]
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        db.q("DROP EXTENSION pg_kafka_sync")
    db.q("DROP EXTENSION pg_kafka_sync CASCADE")
    gone(ours)
    wait_until(lambda: own.q(OWN_SLOTS) == [] and own.q(OWN_ORIGINS) == [], what="slots and origins to go")
    db.q("CREATE EXTENSION pg_kafka_sync")
    db.create_server(kafka)
    db.q("DROP TABLE t, copy; DROP PUBLICATION pub_t")
    pair(db, kafka)
    flows(db)


def test_drop_extension_rolled_back(own, make, kafka):
    db = make(kafka)
    pair(db, kafka)
    with db.connect(autocommit=False) as connection:
        connection.execute("DROP EXTENSION pg_kafka_sync CASCADE")
        connection.rollback()
    flows(db)


def test_drop_with_kafka_away(own, make, black_hole):
    db = make()
    unreachable(db, "refuses")
    unreachable(db, "silent", black_hole)
    publish(db, "p1", "refuses")
    publish(db, "p2", "silent")
    # a slot made by the worker, once Kafka answers
    publish(db, "p3", "silent", snapshot="initial")
    for name in ("p1", "p2", "p3"):
        db.wait_state("publisher", name, "retrying")
    assert len(own.q(OWN_SLOTS)) == 2
    ours = own.worker_pids("publisher", db.name)
    began = time.monotonic()
    with pytest.raises(psycopg.Error) as failed:
        db.q("CREATE TABLE c (id int PRIMARY KEY); SELECT kafka.create_subscription('s', 'silent', '{t}', 'c')")
    assert time.monotonic() - began < 12
    assert "silent" in str(failed.value) or "127.0.0.1" in str(failed.value)
    assert db.value("SELECT count(*) FROM kafka.subscription") == 0
    began = time.monotonic()
    for name in ("p1", "p2", "p3"):
        db.q("SELECT kafka.drop_publisher(%s)", name)
    gone(ours)
    wait_until(lambda: own.q(OWN_SLOTS) == [], 10, what="slots to go")
    assert time.monotonic() - began < 8
    assert db.q("SELECT * FROM kafka.publisher_status") == []


def test_drop_subscription_with_kafka_away(own, make, kafka):
    db = make(kafka)
    pair(db, kafka)
    flows(db)
    db.q("ALTER SERVER kafka OPTIONS (SET \"bootstrap.servers\" '127.0.0.1:1')")
    own.restart()
    db.wait_state("subscription", "s", "retrying")
    ours = [*pids(db).values()]
    began = time.monotonic()
    db.q("SELECT kafka.drop_subscription('s')")
    db.q("SELECT kafka.drop_publisher('p')")
    gone(ours)
    wait_until(lambda: own.q(OWN_SLOTS) == [] and own.q(OWN_ORIGINS) == [], 10, what="slot and origin to go")
    assert time.monotonic() - began < 8


def test_slot_goes_after_commit(own, make, kafka):
    db = make(kafka)
    pair(db, kafka)
    with db.connect(autocommit=False) as connection:
        connection.execute("SELECT kafka.drop_publisher('p')")
        connection.execute("SELECT kafka.drop_subscription('s')")
        assert len(own.q(OWN_SLOTS)) == 1
        connection.rollback()
    flows(db)
    assert len(own.q(OWN_SLOTS)) == 1 and len(own.q(OWN_ORIGINS)) == 1
    with db.connect(autocommit=False) as connection:
        connection.execute("SELECT kafka.drop_publisher('p')")
        connection.commit()
    wait_until(lambda: own.q(OWN_SLOTS) == [], 10, what="the slot to go")


def test_prepared_transactions(own, make, kafka):
    """Rows of a prepared transaction are published when it commits; definitions cannot be prepared."""
    db = make(kafka)
    pair(db, kafka)
    db.q("BEGIN; INSERT INTO t VALUES (-1); PREPARE TRANSACTION 'row'")
    flows(db)
    assert db.value("SELECT count(*) FROM copy WHERE id = -1") == 0
    db.q("COMMIT PREPARED 'row'")
    db.wait("SELECT true FROM copy WHERE id = -1")
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        db.q("BEGIN; SELECT kafka.drop_publisher('p'); PREPARE TRANSACTION 'dropped'")
    db.q("ROLLBACK")
    flows(db)


def test_enabled_off_and_on(own, make, kafka):
    db = make(kafka)
    pair(db, kafka)
    ours = [*pids(db).values()]
    own.set(pg_kafka_sync__enabled="off")
    try:
        gone(ours)
        for kind, name in (("publisher", "p"), ("subscription", "s")):
            state = db.wait_state(kind, name, "paused")
            assert "pg_kafka_sync.enabled" in state["detail"], state
        assert db.value("SELECT count(*) FROM kafka.problems WHERE problem LIKE '%%pg_kafka_sync.enabled%%'") == 2
        db.q("INSERT INTO t VALUES (-7, 'meanwhile')")
    finally:
        own.set(pg_kafka_sync__enabled="on")
    db.wait("SELECT true FROM copy WHERE id = -7")
    assert db.q("SELECT * FROM kafka.problems") == []


def test_pause_is_durable(own, make, kafka):
    db = make(kafka)
    pair(db, kafka)
    flows(db)
    db.q("SELECT kafka.pause_publisher('p')")
    db.q("SELECT kafka.pause_subscription('s')")
    for kind, name in (("publisher", "p"), ("subscription", "s")):
        db.wait_state(kind, name, "paused")
    own.restart()
    db.q("INSERT INTO t VALUES (-1, 'while paused')")
    # the launcher has looked at this database once it shows them
    for kind, name in (("publisher", "p"), ("subscription", "s")):
        db.wait("SELECT true FROM kafka.worker_status() WHERE kind = %s AND state = 'paused'", kind)
        assert db.state(kind, name)["pid"] is None
    assert len(own.q(OWN_SLOTS)) == 1
    assert db.value("SELECT count(*) FROM copy WHERE id = -1") == 0
    db.q("SELECT kafka.resume_publisher('p')")
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait("SELECT true FROM copy WHERE id = -1")


def test_pg_stat_activity(own, make, kafka, black_hole):
    db = make(kafka)
    pair(db, kafka)
    unreachable(db, "silent", black_hole)
    publish(db, "lost", "silent")
    db.wait_state("publisher", "lost", "retrying")
    rows = {name: (kind, query, wait) for name, kind, query, wait in own.q(
        "SELECT application_name, backend_type, query, wait_event_type FROM pg_stat_activity WHERE backend_type ~ 'pg_kafka_sync'")}
    assert rows["pg_kafka_sync launcher"][:2] == ("pg_kafka_sync launcher", "launcher: watching publishers and subscriptions")
    assert rows["pg_kafka_sync publisher p"][:2] == ("pg_kafka_sync publisher", "publisher p: streaming")
    assert rows["pg_kafka_sync subscription s"][:2] == ("pg_kafka_sync subscription", "subscription s: streaming")
    assert rows["pg_kafka_sync publisher lost"][1].startswith("publisher lost: retrying, ")
    waiting = own.q("SELECT DISTINCT wait_event_type FROM pg_stat_activity WHERE backend_type ~ 'pg_kafka_sync'")
    assert waiting == [("Extension",)], waiting


def test_status_is_for_owner_and_monitor(own, make, kafka):
    db = make(kafka)
    topic = pair(db, kafka)
    suffix = uuid.uuid4().hex[:8]
    owner, monitor, other = (f"{r}_{suffix}" for r in ("owner", "monitor", "other"))
    own.q(f"CREATE ROLE {owner} LOGIN; CREATE ROLE {monitor} LOGIN IN ROLE pg_monitor; CREATE ROLE {other} LOGIN")
    db.q(f"GRANT USAGE ON FOREIGN SERVER kafka TO {owner}; ALTER TABLE copy OWNER TO {owner}")
    db.q("SELECT kafka.set_owner('subscription', 's', %s::regrole)", owner)
    db.q("INSERT INTO t VALUES (1, 'x')")
    db.wait("SELECT true FROM copy WHERE id = 1")
    db.wait("SELECT count(*) = 1 FROM kafka.subscription_offsets WHERE last_stable_offset IS NOT NULL")
    seen = {}
    for role in (owner, monitor, other):
        with db.connect(user=role) as connection:
            seen[role] = [connection.execute(f"SELECT count(*) FROM kafka.{view}").fetchone()[0] for view in
                          ("publisher_status", "publisher_tables", "subscription_status", "subscription_offsets", "worker_status()", "partition_status()")]
            for table in ("publisher", "subscription", "subscription_position", "subscription_target", "publisher_topic"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"SELECT * FROM kafka.{table}")
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"DELETE FROM kafka.{table}")
    assert seen[owner] == [0, 0, 1, 1, 1, 1]
    assert seen[monitor] == [1, 1, 1, 1, 2, 1]
    assert seen[other] == [0] * 6
    db.q("SELECT kafka.drop_subscription('s')")
    db.q(f"DROP OWNED BY {owner}")
    own.q(f"DROP ROLE {owner}; DROP ROLE {monitor}; DROP ROLE {other}")


def test_renamed_server_and_publication(own, make, kafka):
    db = make(kafka)
    pair(db, kafka)
    flows(db)
    db.q("ALTER PUBLICATION pub_t RENAME TO \"Pub Neu\"")
    db.q("ALTER SERVER kafka RENAME TO \"Server Neu\"")
    assert db.state("publisher", "p")["publication"] == "Pub Neu"
    assert db.state("publisher", "p")["server"] == db.state("subscription", "s")["server"] == "Server Neu"
    flows(db)
    own.restart()
    flows(db)
    db.q("ALTER TABLE copy RENAME TO duplicate; ALTER TABLE duplicate SET SCHEMA public")
    db.q("INSERT INTO t VALUES (-5, 'x')")
    db.wait("SELECT true FROM duplicate WHERE id = -5")


def test_rename_with_a_foul_search_path(own, make, kafka):
    """Who renames a publication cannot have his own operators run with the extension's rights."""
    db = make(kafka)
    pair(db, kafka)
    role = f"mallory_{uuid.uuid4().hex[:8]}"
    own.q(f"CREATE ROLE {role} LOGIN")
    db.q(f"GRANT CREATE ON DATABASE {db.name} TO {role}; ALTER PUBLICATION pub_t OWNER TO {role}")
    with db.connect(user=role) as connection:
        connection.execute("""CREATE SCHEMA foul; CREATE TABLE foul.ran (who name);
            CREATE FUNCTION foul.plus(int, int) RETURNS int LANGUAGE plpgsql AS 'BEGIN INSERT INTO foul.ran VALUES (current_user); RETURN 1; END';
            CREATE FUNCTION foul.same(name, name) RETURNS bool LANGUAGE plpgsql AS 'BEGIN INSERT INTO foul.ran VALUES (current_user); RETURN true; END';
            CREATE OPERATOR foul.+ (leftarg = int, rightarg = int, function = foul.plus);
            CREATE OPERATOR foul.= (leftarg = name, rightarg = name, function = foul.same);
            SET search_path = foul, pg_catalog;
            ALTER PUBLICATION pub_t RENAME TO other""")
        assert connection.execute("SELECT * FROM ran").fetchall() == []
    flows(db)
    assert db.state("publisher", "p")["publication"] == "other"
    db.q(f"DROP OWNED BY {role} CASCADE")
    own.q(f"DROP ROLE {role}")


def test_options_of_another_version(own, make, kafka):
    """A definition restored with an option that this version does not know hinders nothing else, and can be mended."""
    db = make(kafka)
    pair(db, kafka)
    publish(db, "strange", table="u", enabled=False)
    db.q("""UPDATE kafka.publisher SET options = '{"from.the.future": 1}' WHERE name = 'strange'""")
    own.restart()
    flows(db)
    db.q("CREATE TABLE w (); DROP TABLE w")
    db.q("""SELECT kafka.alter_publisher('strange', '{"from.the.future": null}')""")
    db.q("SELECT kafka.resume_publisher('strange')")
    db.wait_state("publisher", "strange", "streaming")
    db.q("""UPDATE kafka.publisher SET options = '{"from.the.future": 1}', version = version + 1 WHERE name = 'strange'""")
    assert "from.the.future" in db.wait_state("publisher", "strange", "error")["last_error"]
    flows(db)
    db.q("SELECT kafka.drop_publisher('strange')")
    wait_until(lambda: len(own.q(OWN_SLOTS)) == 1, what="its slot to go")
    flows(db)


def test_option_that_is_gone(own, make, kafka):
    """An option that only a former definition has, in WAL that is still to be read, is passed over and told of once."""
    db = make(kafka)
    pair(db, kafka)
    flows(db)
    db.q("SELECT kafka.pause_publisher('p')")
    db.wait("SELECT pid IS NULL FROM kafka.publisher_status")
    for options in ('options || \'{"gone.option": "x", "gone.object": {"a": 1}}\'', "options - '{gone.option,gone.object}'::text[]"):
        db.q(f"UPDATE kafka.publisher SET options = {options}, version = version + 1")
        db.q("INSERT INTO t SELECT least(min(id), 0) - 1 FROM t")
    db.q("SELECT kafka.resume_publisher('p')")
    db.wait_for_publisher("p", 20)
    flows(db)
    assert db.state("publisher", "p")["state"] == "streaming"
    assert own.log().count('option "gone.option" is ignored') == 1 and own.log().count('option "gone.object" is ignored') == 1


def test_drop_of_what_is_used(own, make, kafka):
    db = make(kafka)
    pair(db, kafka)
    role = f"keeper_{uuid.uuid4().hex[:8]}"
    own.q(f"CREATE ROLE {role} SUPERUSER")
    for command, named in (("DROP PUBLICATION pub_t", "pub_t"), ("DROP SERVER kafka", "kafka"), ("DROP TABLE copy", "copy")):
        with pytest.raises(psycopg.errors.DependentObjectsStillExist) as refused:
            db.q(command)
        assert named in str(refused.value) and '"' in refused.value.diag.message_detail
    flows(db)
    db.q("SELECT kafka.set_owner('publisher', 'p', %s::regrole)", role)
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        db.q(f"DROP ROLE {role}")
    flows(db)
    db.q("DROP PUBLICATION pub_t CASCADE")
    db.q("INSERT INTO t VALUES (-1, 'x')")
    assert "pub_t" in db.wait_state("publisher", "p", "error")["last_error"]
    db.q("DROP TABLE copy CASCADE")
    state = db.wait_state("subscription", "s", ("error", "waiting"))
    assert db.value("SELECT count(*) FROM kafka.problems WHERE kind = 'subscription'") == 1, state
    db.q("DROP SERVER kafka CASCADE")
    db.q("SELECT kafka.drop_publisher('p')")
    db.q("SELECT kafka.drop_subscription('s')")
    wait_until(lambda: own.q(OWN_SLOTS) == [] and own.q(OWN_ORIGINS) == [], 10, what="slot and origin to go")
    own.q(f"DROP ROLE {role}")


def test_drop_role_from_another_database(own, make, kafka):
    """An owner's definitions in any database keep the role, as what it owns otherwise does; the last one's end sets it free."""
    db, other = make(kafka), make()
    topic = pair(db, kafka)
    role, heir = (f"{name}_{uuid.uuid4().hex[:8]}" for name in ("owner", "heir"))
    own.q(f"CREATE ROLE {role} SUPERUSER; CREATE ROLE {heir} SUPERUSER")

    def refused(what=2):
        with pytest.raises(psycopg.errors.DependentObjectsStillExist) as error:
            other.q(f"DROP ROLE {role}")
        assert f"{what} object{'s' * (what > 1)} in database {db.name}" in error.value.diag.message_detail

    def freed(which):
        def dropped():
            other.q(f"DROP ROLE {which}")
            return True
        wait_until(dropped, what=f"role {which} to be free")

    with db.connect(autocommit=False) as connection:
        connection.execute("SELECT kafka.set_owner('publisher', 'p', %s::regrole)", [role])
        connection.rollback()
    for kind, name in (("publisher", "p"), ("subscription", "s")):
        db.q("SELECT kafka.set_owner(%s, %s, %s::regrole)", kind, name, role)
    refused()
    # neither of these takes a definition away
    with db.connect() as connection:
        connection.execute(f"SET ROLE {role}")
        connection.execute(f"DROP OWNED BY {role}")
    refused()
    flows(db)
    db.q("SELECT kafka.set_owner('publisher', 'p', %s::regrole)", heir)
    refused(1)
    # two of the role's: the first one's end is not enough
    with db.connect() as connection:
        connection.execute(f"SET ROLE {role}")
        connection.execute("SELECT kafka.create_subscription('s2', 'kafka', %s, enabled => false)", [[topic]])
    db.q("SELECT kafka.drop_subscription('s')")
    refused(1)
    with db.connect(autocommit=False) as first, db.connect(autocommit=False) as second:
        # one is made while the other goes: whichever way that ends, the role is kept as long as it owns one
        first.execute(f"SET ROLE {role}")
        first.execute("SELECT kafka.create_subscription('s3', 'kafka', %s, enabled => false)", [[topic]])
        second.execute("SELECT kafka.drop_subscription('s2')")
        second.commit()
        first.commit()
    refused(1)
    db.q("SELECT kafka.drop_subscription('s3')")
    # the launcher's scan may have looked at the role's entry just then: its next one takes it away
    freed(role)

    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        other.q(f"DROP ROLE {heir}")
    db.q("DROP EXTENSION pg_kafka_sync CASCADE")
    freed(heir)


@pytest.mark.parametrize("private_cluster", [["max_worker_processes = 6", "max_parallel_workers = 2"]], indirect=True)
def test_no_free_background_worker(private_cluster, black_hole):
    """Too few max_worker_processes: who does not run says why, and runs as soon as a place is free."""
    db = private_cluster.create_database()
    unreachable(db)
    for i in range(6):
        publish(db, f"p{i}", "nowhere")
    db.wait("SELECT count(*) > 0 FROM kafka.publisher_status WHERE state = 'waiting' AND detail LIKE '%%max_worker_processes%%'")
    db.wait("SELECT count(*) FILTER (WHERE pid IS NOT NULL) > 2 AND count(*) = 6 FROM kafka.publisher_status")
    assert db.value("SELECT count(*) FROM kafka.problems WHERE problem LIKE '%%max_worker_processes%%'") > 0
    def runs(name):
        return db.state("publisher", name)["pid"]
    running = [f"p{i}" for i in range(6) if runs(f"p{i}")]
    waiting = [f"p{i}" for i in range(6) if not runs(f"p{i}")]
    assert waiting
    for name in running[:len(waiting)]:
        db.q("SELECT kafka.pause_publisher(%s)", name)
    for name in waiting:
        wait_until(lambda: runs(name), what=f"{name} to run")
    db.wait("SELECT count(*) = 0 FROM kafka.problems WHERE problem LIKE '%%max_worker_processes%%'")


@pytest.mark.parametrize("private_cluster", [["pg_kafka_sync.max_workers = 2"]], indirect=True)
def test_no_room_in_shared_memory(private_cluster):
    """More definitions than pg_kafka_sync.max_workers: a clear state, and room again after a drop."""
    db = private_cluster.create_database()
    unreachable(db)
    for i in range(3):
        publish(db, f"p{i}", "nowhere")
    db.wait("SELECT count(*) = 2 FROM kafka.publisher_status WHERE state = 'retrying'")
    left = db.wait("SELECT name FROM kafka.publisher_status WHERE state = 'waiting' AND detail LIKE '%%pg_kafka_sync.max_workers%%'")
    assert db.q("SELECT name FROM kafka.problems WHERE problem LIKE '%%pg_kafka_sync.max_workers%%'") == [(left,)]
    db.q("SELECT kafka.drop_publisher((SELECT name FROM kafka.publisher_status WHERE state = 'retrying' LIMIT 1))")
    db.wait_state("publisher", left, "retrying")
    assert db.q("SELECT name FROM kafka.problems WHERE problem LIKE '%%pg_kafka_sync.max_workers%%'") == []


def test_settings(own, make):
    db = make()
    settings = dict(db.q("SELECT name, context FROM pg_settings WHERE left(name, 14) = 'pg_kafka_sync.'"))
    assert settings == {"pg_kafka_sync.enabled": "sighup", "pg_kafka_sync.max_partitions": "postmaster",
                        "pg_kafka_sync.max_workers": "postmaster", "pg_kafka_sync.rebuild_wait": "superuser"}
    with pytest.raises(psycopg.Error):
        db.q("SET pg_kafka_sync.enabled = off")
    with pytest.raises(psycopg.Error):
        db.q("SET pg_kafka_sync.typo = 1")


def test_dump_and_restore(own, make, kafka, tmp_path):
    """Definitions and offsets survive; what is restored comes up paused and goes on where the dump was."""
    db = make(kafka)
    topic = pair(db, kafka)
    for _ in range(3):
        flows(db)
    db.wait_for_publisher("p")
    db.wait_for_subscription("s")
    db.q("SELECT kafka.set_topic('p', 't', %s, '{id}')", topic)
    bin = _run(os.environ.get("PG_CONFIG", "/usr/lib/postgresql/15/bin/pg_config"), "--bindir").strip()
    dump = _run(f"{bin}/pg_dump", own.dsn(db.name))
    copy = make(extension=False)
    (tmp_path / "dump.sql").write_text(dump)
    _run(f"{bin}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", tmp_path / "dump.sql", own.dsn(copy.name))
    for kind, name in (("publisher", "p"), ("subscription", "s")):
        state = copy.wait_state(kind, name, "paused")
        assert state["pid"] is None
    copy.wait("SELECT count(*) = 2 FROM kafka.problems")
    assert own.q("SELECT slot_name FROM pg_replication_slots WHERE database = %s", copy.name) == []
    for table in ("publisher", "publisher_relation", "publisher_topic", "subscription", "subscription_target", "subscription_position"):
        query = f"SELECT t::text FROM kafka.{table} t ORDER BY 1"
        if table not in ("publisher_relation", "subscription_target"):
            assert copy.q(query) == db.q(query), table
        else:
            assert len(copy.q(query)) == len(db.q(query)) == 1
    db.q("SELECT kafka.pause_subscription('s')")
    db.q("INSERT INTO t VALUES (-9, 'after the dump')")
    db.wait_for_publisher("p")
    before = copy.value("SELECT count(*) FROM copy")
    copy.q("SELECT kafka.resume_subscription('s')")
    copy.wait("SELECT true FROM copy WHERE id = -9")
    assert copy.value("SELECT count(*) FROM copy") == before + 1
    copy.q("SELECT kafka.resume_publisher('p')")
    copy.wait_state("publisher", "p", "streaming")
    copy.q("INSERT INTO t VALUES (-10, 'of the copy')")
    copy.wait("SELECT true FROM copy WHERE id = -10")


def test_standby(own, make, kafka, scratch):
    """Nothing runs on a standby. After promotion the subscription goes on; the publisher says that its slot is missing."""
    db = make(kafka)
    topic = pair(db, kafka)
    flows(db)
    standby = Cluster(scratch / f"pg-{uuid.uuid4().hex[:6]}")
    try:
        standby.init()
        bin = _run(os.environ.get("PG_CONFIG", "/usr/lib/postgresql/15/bin/pg_config"), "--bindir").strip()
        data = standby.directory / "data"
        port = standby.port
        as_pg = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        _run(*as_pg, "rm", "-rf", data)
        _run(*as_pg, f"{bin}/pg_basebackup", "-d", own.dsn(), "-D", data, "-R", "-X", "stream", "-c", "fast")
        with open(data / "postgresql.auto.conf", "a") as conf:
            conf.write(f"port = {port}\nunix_socket_directories = ''\n")
        standby.start()
        there = standby.connect(db.name)
        def caught_up():
            lsn = own.q("SELECT pg_current_wal_flush_lsn()")[0][0]
            return there.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (lsn,)).fetchone()[0]
        flows(db)
        wait_until(caught_up, what="the standby to catch up")
        assert standby.worker_pids() == []
        assert "standby" in there.execute("SELECT kafka.launcher_message()").fetchone()[0]
        assert there.execute("SELECT count(*) FROM kafka.publisher_status WHERE detail ~ 'standby'").fetchone()[0] == 1
        assert there.execute("SELECT count(*) FROM kafka.problems WHERE problem ~ 'standby'").fetchone()[0] == 2
        with pytest.raises(psycopg.Error) as refused:
            there.execute("SELECT kafka.pause_publisher('p')")
        assert refused.value.sqlstate in ("25006", "55000"), refused.value
        there.close()
        own.stop()
        standby.q("SELECT pg_promote()")
        promoted = Database(standby, db.name)
        standby.databases.append(promoted)
        error = promoted.wait_state("publisher", "p", "error")["last_error"]
        assert "slot" in error and "snapshot" in error
        promoted.wait_state("subscription", "s", "streaming")
        kafka.produce(topic, {"id": -77, "v": "later"}, {"id": -77})
        promoted.wait("SELECT true FROM copy WHERE id = -77")
        assert promoted.value("SELECT count(*) FROM copy") == promoted.value("SELECT count(*) FROM t") + 1
    finally:
        for database in standby.databases:
            database.close()
        standby.destroy()
        own.start()
