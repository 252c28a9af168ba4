"""The writer below SQL keeps what SQL would: generated columns, domains, large values; and nobody is taken for us."""

import psycopg
import pytest

from test_subscription import subscribe


def test_generated_columns(db, kafka):
    topic = kafka.create_topic()
    db.q("CREATE TABLE g (id int PRIMARY KEY, pad int NOT NULL, b text, twice int GENERATED ALWAYS AS (id * 2) STORED, "
         "kind text GENERATED ALWAYS AS ('const') STORED)")
    big = "x" * 900_000
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "pad": 1, "b": big})])
    subscribe(db, topic, "g")
    db.wait_for_subscription("s")
    assert db.q("SELECT id, pad, length(b), twice, kind FROM g") == [(1, 1, 900_000, 2, "const")]
    # an update and then an insert in one batch
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "pad": 2, "b": None}), ({"id": 2}, {"id": 2, "pad": 2, "b": big})])
    db.wait_for_subscription("s")
    assert db.q("SELECT id, pad, length(b), twice, kind FROM g ORDER BY id") == [
        (1, 2, None, 2, "const"), (2, 2, 900_000, 4, "const")]


def test_domain_not_null(db, kafka):
    topic = kafka.create_topic()
    db.q("CREATE DOMAIN nn AS int NOT NULL")
    db.q("CREATE TABLE d (id int PRIMARY KEY, v nn)")
    kafka.produce_many(topic, [({"id": 1}, {"id": 1})])
    subscribe(db, topic, "d")
    row = db.wait_state("subscription", "s", "error")
    assert "does not allow null values" in row["last_error"]
    assert db.value("SELECT count(*) FROM d") == 0


def test_somebody_elses_kafka_schema(cluster, make_db):
    """Tables that only look like ours are never written as superuser, nor read."""
    other = cluster.create_database(extension=False)
    other.q("CREATE ROLE mallory LOGIN")
    try:
        other.q(f'GRANT CREATE ON DATABASE "{other.name}" TO mallory')
        with other.connect(user="mallory") as c:
            c.execute("CREATE SCHEMA kafka")
            c.execute("CREATE TABLE kafka.publisher (publication name, server name, version int)")
            c.execute("CREATE TABLE kafka.subscription (server name)")
            c.execute("CREATE TABLE kafka.subscription_target (target oid)")
            c.execute("CREATE FUNCTION kafka.f() RETURNS trigger LANGUAGE plpgsql AS "
                      "'BEGIN ALTER ROLE mallory SUPERUSER; RETURN NULL; END'")
            c.execute("CREATE TRIGGER t AFTER UPDATE ON kafka.publisher EXECUTE FUNCTION kafka.f()")
            c.execute("CREATE PUBLICATION p")
            c.execute("ALTER PUBLICATION p RENAME TO q")
            c.execute("DROP PUBLICATION q")
        assert other.value("SELECT NOT rolsuper FROM pg_roles WHERE rolname = 'mallory'")
        with pytest.raises(psycopg.Error, match='schema "kafka" exists and belongs to another role'):
            other.q("CREATE EXTENSION pg_kafka_sync")
        other.q("DROP OWNED BY mallory CASCADE")
    finally:
        cluster.drop_database(other)
        cluster.q("DROP ROLE mallory")
