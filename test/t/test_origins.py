"""Replication origins of subscriptions that were dropped."""

from conftest import wait_until
from publisher_util import create, prefix, sync

OURS = "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'pg_kafka_sync_' || (SELECT oid FROM pg_database WHERE datname = current_database()) || '\\_%%'"


def test_rows_of_a_dropped_subscription_are_not_published(db, kafka):
    """They may lie in WAL that a publisher has yet to read: their origin stays until it has."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    p = prefix()
    create(db, "p", "FOR TABLE t", p)
    db.q("SELECT kafka.pause_publisher('p')")
    db.wait("SELECT pid IS NULL FROM kafka.publisher_status")

    topic = kafka.create_topic()
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 't', 'json')", [topic])
    for i in range(5):
        kafka.produce(topic, {"id": i, "v": "from elsewhere"}, {"id": i})
    db.wait_for_subscription("s", 20)
    db.q("SELECT kafka.drop_subscription('s')")
    db.wait("SELECT count(*) = 1 FROM kafka.dropped_origin")
    db.q("INSERT INTO t VALUES (100, 'own')")
    # scans come and go, the origin stays
    db.q("SELECT kafka.alter_publisher('p', '{\"linger.ms\": 1}')")
    assert db.value(OURS) == 1

    db.q("SELECT kafka.resume_publisher('p')")
    sync(db, "p")
    assert [m.json["id"] for m in kafka.consume(f"{p}.public.t")] == [100]

    # once nothing before the drop can be read again it goes
    def gone():
        db.q("INSERT INTO t SELECT max(id) + 1 FROM t")
        db.q("CHECKPOINT")
        sync(db, "p")
        db.q("SELECT kafka.alter_publisher('p', '{}')")
        return db.value(OURS) == 0
    wait_until(gone, 30, 0.2, what="the origin to go")
    assert db.value("SELECT count(*) FROM kafka.dropped_origin") == 0


def test_origin_goes_at_once_without_publishers(db, kafka):
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    topic = kafka.create_topic()
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 't', 'json')", [topic])
    kafka.produce(topic, {"id": 1}, {"id": 1})
    db.wait_for_subscription("s", 20)
    assert db.value(OURS) == 1
    db.q("SELECT kafka.drop_subscription('s')")
    db.wait(OURS.replace("count(*)", "count(*) = 0"))
    assert db.value("SELECT count(*) FROM kafka.dropped_origin") == 0


def test_option_origin_holds_from_its_place_on(db, kafka):
    """Not from the time when the worker that reads so far was started."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    p = prefix()
    create(db, "p", "FOR TABLE t", p, options='{"origin": "any"}')
    db.q("SELECT kafka.pause_publisher('p')")
    db.wait("SELECT pid IS NULL FROM kafka.publisher_status")
    topic = kafka.create_topic()
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 't', 'json')", [topic])

    def apply(i, origin):
        kafka.produce(topic, {"id": i, "v": "from elsewhere"}, {"id": i})
        db.wait_for_subscription("s", 20)
        db.q("SELECT kafka.alter_publisher('p', jsonb_build_object('origin', %s::text))", origin)
    apply(1, "none")
    apply(2, "any")
    apply(3, "none")
    apply(4, None)
    db.q("SELECT kafka.resume_publisher('p')")
    sync(db, "p")
    assert [m.json["id"] for m in kafka.consume(f"{p}.public.t")] == [1, 3]
