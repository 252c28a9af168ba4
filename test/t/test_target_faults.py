"""Faults on the target's side: what concerns no single message never makes a dead letter, and nothing is lost."""

import os
import time
from pathlib import Path

import psycopg
import pytest

from conftest import wait_until
from test_subscription import subscribe, table


@pytest.fixture
def topic(kafka):
    return kafka.create_topic()


@pytest.fixture
def running(db, kafka, topic):
    """A subscription that sets bad messages aside, with one message applied."""
    table(db)
    subscribe(db, topic, "t", on_error="dead_letter", options={"fk_wait": 0})
    send(kafka, topic, 0)
    db.wait_for_subscription("s")
    return db


def send(kafka, topic, *ids, v="x"):
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": v}) for i in ids])


def letters(db):
    return db.value("SELECT count(*) FROM kafka.dead_letter")


def assert_error(db, *words):
    """State error, with these words, and no dead letter."""
    def reached():
        row = db.state("subscription", "s")
        assert row["state"] == "error" and row["last_error"]
        for word in words:
            assert word in row["last_error"], row
        return True
    wait_until(reached, what=f"an error with {words}")
    assert letters(db) == 0


def ids(db):
    return [i for (i,) in db.q("SELECT id FROM t ORDER BY id")]


def test_dropped(running, kafka, topic):
    db = running
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="uses it"):
        db.q("DROP TABLE t")
    db.q("DROP TABLE t CASCADE")
    send(kafka, topic, 1, 2)
    assert_error(db, "does not exist any more")
    assert db.value("SELECT sum(next_offset) FROM kafka.subscription_position") == 1


def test_renamed(running, kafka, topic):
    """Goes on: the table is meant, not its name."""
    db = running
    db.q("CREATE SCHEMA other; ALTER TABLE t RENAME TO u; ALTER TABLE u SET SCHEMA other; ALTER TABLE other.u RENAME v TO w;"
         "ALTER TABLE other.u ADD v text")
    send(kafka, topic, 1)
    db.wait_for_subscription("s")
    assert db.q("SELECT id, w, v FROM other.u ORDER BY id") == [(0, "x", None), (1, None, "x")]
    assert db.state("subscription", "s")["targets"] == ["other.u"] and letters(db) == 0


def test_altered(running, kafka, topic):
    """While it runs: types, columns, constraints. What a message cannot fill is its own fault, and can be retried."""
    db = running
    db.q("ALTER TABLE t ALTER id TYPE bigint, ADD extra int NOT NULL DEFAULT 7")
    send(kafka, topic, 2**40)
    db.wait_for_subscription("s")
    assert db.q("SELECT id, extra FROM t ORDER BY id") == [(0, 7), (2**40, 7)]
    db.q("ALTER TABLE t DROP v")
    send(kafka, topic, 1, 2)
    db.wait_for_subscription("s")
    assert letters(db) == 2 and len(ids(db)) == 2
    db.q("ALTER TABLE t ADD v text; SELECT kafka.retry_dead_letters('s')")
    db.wait("SELECT count(*) = 4 FROM t")
    db.q("ALTER TABLE t DROP CONSTRAINT t_pkey")
    send(kafka, topic, 3)
    db.wait_state("subscription", "s", "error")
    assert "unique index" in db.state("subscription", "s")["last_error"] and letters(db) == 0
    db.q("ALTER TABLE t ADD PRIMARY KEY (id)")
    db.wait_for_subscription("s")
    assert ids(db) == [0, 1, 2, 3, 2**40]


def test_locked_for_long(running, kafka, topic):
    """The worker waits in state retrying, and who wants to pause it need not wait for the lock; others go on."""
    db = running
    other_topic = kafka.create_topic()
    table(db, name="u")
    subscribe(db, other_topic, "u", "other")
    with db.connect(autocommit=False) as locker:
        locker.execute("LOCK TABLE t")
        send(kafka, topic, 1, 2)
        row = db.wait_state("subscription", "s", "retrying")
        assert "lock" in row["detail"] and "lock timeout" in row["last_error"]
        send(kafka, other_topic, 1)
        db.wait_for_subscription("other")
        began = time.monotonic()
        db.q("SELECT kafka.pause_subscription('s')")
        wait_until(lambda: db.state("subscription", "s")["pid"] is None)
        assert time.monotonic() - began < 8
        db.q("SELECT kafka.resume_subscription('s')")
        db.wait("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass")
        locker.rollback()
    db.wait_for_subscription("s")
    assert ids(db) == [0, 1, 2] and letters(db) == 0
    db.wait_state("subscription", "s", "streaming")


def test_row_locked_for_long(running, kafka, topic):
    db = running
    with db.connect(autocommit=False) as locker:
        locker.execute("SELECT * FROM t WHERE id = 0 FOR UPDATE")
        send(kafka, topic, 1)
        send(kafka, topic, 0, v="new")
        db.wait_state("subscription", "s", "retrying")
        locker.rollback()
    db.wait_for_subscription("s")
    assert db.q("SELECT id, v FROM t ORDER BY id") == [(0, "new"), (1, "x")] and letters(db) == 0
    assert db.state("subscription", "s")["restarts"] == 0


def test_deadlock_with_a_user(running, kafka, topic):
    db = running
    send(kafka, topic, 1)
    db.wait_for_subscription("s")
    with db.connect(autocommit=False) as other:
        other.execute("SET deadlock_timeout = '1h'")    # the worker is the one to give way
        other.execute("UPDATE t SET v = 'other' WHERE id = 1")
        send(kafka, topic, 0, 1, v="new")
        db.wait("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")
        other.execute("UPDATE t SET v = 'other' WHERE id = 0")
        other.commit()
    db.wait_for_subscription("s")
    assert db.q("SELECT DISTINCT v FROM t") == [("new",)] and letters(db) == 0
    assert db.state("subscription", "s")["restarts"] == 0


def test_two_writers_of_a_key(running, kafka, topic):
    """A row that somebody else inserts at the same moment is no unique violation of the message."""
    db = running
    with db.connect(autocommit=False) as other:
        other.execute("INSERT INTO t VALUES (1, 'other')")
        send(kafka, topic, 1, v="message")
        db.wait("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")
        other.commit()
    db.wait_for_subscription("s")
    assert db.q("SELECT v FROM t WHERE id = 1") == [("message",)] and letters(db) == 0


def test_right_of_a_trigger(running, kafka, topic):
    """A right that is missing is no message's fault, and so is a table that a trigger does not find."""
    db = running
    role = f"writer{db.name[2:]}"
    db.q(f"""CREATE ROLE "{role}"; CREATE TABLE audit (id int);
             CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO public.audit VALUES (NEW.id); RETURN NULL; END $$;
             CREATE TRIGGER audit AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION audit();
             GRANT ALL ON SCHEMA public TO "{role}"; ALTER TABLE t OWNER TO "{role}" """)
    try:
        send(kafka, topic, 1)
        assert_error(db, "permission denied for table audit", "offset 1")
        db.q(f'GRANT INSERT ON audit TO "{role}"')
        db.wait_for_subscription("s")
        db.q("ALTER TABLE audit RENAME TO audit2")
        send(kafka, topic, 2)
        assert_error(db, '"public.audit" does not exist', "offset 2")
        db.q("ALTER TABLE audit2 RENAME TO audit")
        db.wait_for_subscription("s")
        assert db.q("SELECT id FROM audit ORDER BY 1") == [(1,), (2,)]
    finally:
        db.q("SELECT kafka.drop_subscription('s')")
        db.q(f'DROP OWNED BY "{role}" CASCADE; DROP ROLE "{role}"')


def test_owner_loses_the_role(running, kafka, topic):
    """The subscription's owner may no longer act as the table's owner."""
    db = running
    roles = [f"{r}{db.name[2:]}" for r in ("alice", "bob")]
    db.q("".join(f'CREATE ROLE "{role}"; GRANT USAGE ON FOREIGN SERVER kafka TO "{role}";' for role in roles))
    try:
        db.q(f'GRANT "{roles[0]}" TO "{roles[1]}"; ALTER TABLE t OWNER TO "{roles[0]}"')
        db.q("SELECT kafka.set_owner('subscription', 's', %s)", roles[1])
        send(kafka, topic, 1)
        db.wait_for_subscription("s")
        db.q(f'REVOKE "{roles[0]}" FROM "{roles[1]}"')
        send(kafka, topic, 2)
        assert_error(db, "may not act as the table's owner")
        db.q(f'GRANT "{roles[0]}" TO "{roles[1]}"; REVOKE INSERT ON t FROM "{roles[0]}"')
        assert_error(db, "no INSERT, UPDATE, DELETE and SELECT right")
        db.q(f'GRANT INSERT ON t TO "{roles[0]}"')
        db.wait_for_subscription("s")
        assert ids(db) == [0, 1, 2]
    finally:
        db.q("SELECT kafka.drop_subscription('s')")
        db.q(f'DROP OWNED BY "{roles[0]}", "{roles[1]}" CASCADE; DROP ROLE "{roles[0]}", "{roles[1]}"')


def test_disk_full(private_cluster, kafka, topic):
    """The table cannot grow: error until there is room again, no dead letters, nothing lost."""
    db = private_cluster.create_database()
    db.create_server(kafka)
    table(db)
    db.q("CHECKPOINT")
    # a device that is always full in the place of the table's (empty) file, until it is taken away again
    file = Path(db.value("SHOW data_directory")) / db.value("SELECT pg_relation_filepath('t')")
    kept = file.with_name(file.name + ".kept")
    file.rename(kept)
    os.symlink("/dev/full", file)
    send(kafka, topic, 1, 2, 3)
    subscribe(db, topic, "t", on_error="dead_letter")
    assert_error(db, "No space left on device")
    assert db.value("SELECT next_offset FROM kafka.subscription_position") == 0
    restarts = db.state("subscription", "s")["restarts"]
    db.wait("SELECT restarts > %s FROM kafka.subscription_status", restarts)
    assert_error(db, "No space left on device")
    kept.rename(file)
    db.close()          # this session may have the device open
    db.wait_for_subscription("s")
    assert ids(db) == [1, 2, 3] and letters(db) == 0


def test_letter_that_meets_a_fault(running, kafka, topic):
    """A retried letter waits for a lock like any message; a general error stops the subscription and keeps the request."""
    db = running
    kafka.produce(topic, "no json", {"id": 5})
    db.wait_for_subscription("s")
    db.q("""UPDATE kafka.dead_letter SET value = '{"id": 5, "v": "mended"}'""")
    with db.connect(autocommit=False) as locker:
        locker.execute("LOCK TABLE t")
        db.q("SELECT kafka.retry_dead_letters('s')")
        db.wait("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass")
        locker.rollback()
    db.wait("SELECT count(*) = 0 FROM kafka.dead_letter")
    kafka.produce(topic, "no json", {"id": 6})
    db.wait_for_subscription("s")
    db.q("""UPDATE kafka.dead_letter SET value = '{"id": 6, "v": "mended"}'; ALTER TABLE t DROP CONSTRAINT t_pkey;
            SELECT kafka.retry_dead_letters('s')""")
    db.wait_state("subscription", "s", "error")
    assert db.one("SELECT retry, attempts FROM kafka.dead_letter") == (True, 1)
    db.q("ALTER TABLE t ADD PRIMARY KEY (id)")
    db.wait("SELECT count(*) = 0 FROM kafka.dead_letter")
    assert ids(db) == [0, 5, 6]
