"""What can no longer be read, or is not what it was, is never passed over in silence."""

import json
import threading

import pytest

from conftest import wait_until
from kafka_proxy import Proxy
from test_subscription import subscribe, table


def messages(v, n, start=0):
    return [({"id": i}, {"id": i, "v": v}) for i in range(start, start + n)]


def pause(db):
    db.q("SELECT kafka.pause_subscription('s')")
    wait_until(lambda: db.state("subscription", "s")["pids"] == [])


def resume(db):
    db.q("SELECT kafka.resume_subscription('s')")


def recreate(kafka, topic, **kwargs):
    kafka.delete_topic(topic)
    def created():
        kafka.create_topic(topic, **kwargs)
        return True
    wait_until(created)


def error(db, *words, timeout=60):
    row = db.wait_state("subscription", "s", "error", timeout=timeout)
    for word in words:
        assert word in row["last_error"], row["last_error"]
    assert db.value("SELECT count(*) FROM kafka.problems WHERE name = 's' AND problem LIKE 'state error%%'") == 1
    return row


@pytest.mark.parametrize("count", [5, 10, 30], ids=["shorter", "same", "longer"])
@pytest.mark.parametrize("running", [False, True], ids=["down", "running"])
def test_recreated(db, kafka, count, running):
    """A topic deleted and made anew, however long it has grown, with the worker running or not."""
    topic = kafka.create_topic()
    table(db)
    subscribe(db, topic, "t")
    kafka.produce_many(topic, messages("old", 10))
    db.wait_for_subscription("s")
    if not running:
        pause(db)
    recreate(kafka, topic)
    kafka.produce_many(topic, messages("new", count, 100))
    if not running:
        resume(db)
    error(db, f'topic "{topic}", partition 0', "offset", "rebuild")
    # trying again does not help
    restarts = db.state("subscription", "s")["restarts"]
    db.wait("SELECT restarts > %s AND state = 'error' FROM kafka.subscription_status", restarts + 1)
    db.q("SELECT kafka.seek_subscription('s', 'earliest')")
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t WHERE v = 'new'") == count


def test_recreated_and_silent(db, private_kafka):
    """Brokers that do not answer when a record is read again do not vouch for what was applied since."""
    kafka = private_kafka
    db.create_server(kafka, "mine", socket__timeout__ms="3000")
    topic = kafka.create_topic()
    table(db)
    kafka.produce_many(topic, messages("old", 10))
    db.q("SELECT kafka.create_subscription('s', 'mine', %s, 't', 'json')", [topic])
    db.wait_for_subscription("s")
    recreate(kafka, topic)
    kafka.produce_many(topic, messages("new", 30, 100))
    # it may have been seen at once, while the new log was shorter
    db.wait("SELECT EXISTS (SELECT FROM t WHERE v = 'new') OR EXISTS (SELECT FROM kafka.subscription_status WHERE state = 'error')")
    kafka.pause()
    try:
        db.wait_state("subscription", "s", ["retrying", "error"], timeout=60)
    finally:
        kafka.resume()
    error(db, f'topic "{topic}", partition 0', "offset", "rebuild")


def test_recreated_and_begun_anew(db, kafka):
    """What was read of the new one does not vouch for it to a worker that begins before it was noticed."""
    topic = kafka.create_topic()
    table(db)
    subscribe(db, topic, "t")
    kafka.produce_many(topic, messages("old", 10))
    db.wait_for_subscription("s")
    recreate(kafka, topic)
    kafka.produce_many(topic, messages("new", 3000, 100))
    # it may have been seen at once, while the new log was shorter
    db.wait("SELECT EXISTS (SELECT FROM t WHERE v = 'new') OR EXISTS (SELECT FROM kafka.subscription_status WHERE state = 'error')")
    db.q("SELECT kafka.alter_subscription('s', '{\"max_batch_rows\": 999}')")
    error(db, f'topic "{topic}", partition 0', "offset", "rebuild")
    db.q("SELECT kafka.seek_subscription('s', 'earliest')")
    db.wait("SELECT count(*) = 3000 FROM t WHERE v = 'new'")
    db.wait_for_subscription("s")
    assert db.value("SELECT anchor_offset IS NULL OR anchor_offset >= 0 FROM kafka.subscription_position")


def test_recreated_before_the_first_message(db, kafka):
    """The place where a subscription began is known by the message before it."""
    topic = kafka.create_topic()
    table(db)
    kafka.produce_many(topic, messages("old", 10))
    subscribe(db, topic, "t", start="latest")
    db.wait("SELECT last_offset = 9 FROM kafka.subscription_position")
    pause(db)
    recreate(kafka, topic)
    kafka.produce_many(topic, messages("new", 30))
    resume(db)
    error(db, f'topic "{topic}", partition 0', "offset 10", "deleted and created again")
    assert db.value("SELECT count(*) FROM t") == 0


def test_recreated_before_anything_was_read(db, kafka):
    """Nothing was read of the old one, and the new one is read from its beginning: nothing is missing."""
    topic = kafka.create_topic()
    table(db)
    subscribe(db, topic, "t")
    db.wait_state("subscription", "s", "streaming")
    pause(db)
    recreate(kafka, topic)
    kafka.produce_many(topic, messages("new", 5))
    resume(db)
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == 5


def test_recreated_while_the_first_messages_wait(db, kafka):
    """Messages that were read of the old one, and not applied, do not count as read of the new one."""
    topic = kafka.create_topic()
    table(db)
    subscribe(db, topic, "t")
    db.wait_state("subscription", "s", "streaming")
    with db.connect() as other:
        other.execute("BEGIN; INSERT INTO t VALUES (0, 'mine')")
        kafka.produce_many(topic, messages("old", 5))
        db.wait("SELECT state = 'retrying' AND detail LIKE '%%lock%%' FROM kafka.subscription_status")
        recreate(kafka, topic)
        kafka.produce_many(topic, messages("new", 3000, 100))
        db.wait("""SELECT (SELECT max(high_watermark) = 3000 FROM kafka.subscription_offsets)
                          OR EXISTS (SELECT FROM kafka.subscription_status WHERE state = 'error')""")
        other.execute("ROLLBACK")
    # it has gone on with the new one's beginning, or says that it has not
    db.wait("""SELECT (SELECT count(*) = 3000 FROM t WHERE v = 'new')
                      OR EXISTS (SELECT FROM kafka.subscription_status WHERE state = 'error' AND last_error LIKE '%%cannot be read on%%')""")


def test_retention(db, kafka):
    """The log lost messages that were not read, while the worker was away."""
    topic = kafka.create_topic()
    table(db)
    kafka.produce(topic, {"id": 1, "v": "x"}, {"id": 1})
    subscribe(db, topic, "t")
    db.wait_for_subscription("s")
    pause(db)
    kafka.produce_many(topic, messages("y", 10))
    db.q("SELECT kafka.alter_topic('kafka', %s, config => '{\"retention.ms\": 100}')", topic)
    wait_until(lambda: kafka.watermarks(topic)[0][0] == 11)
    resume(db)
    error(db, f'topic "{topic}", partition 0', "offset 1:", "the log begins at offset 11 only", "rebuild")


def test_retention_while_reading(db, kafka):
    """And while it lags behind."""
    topic = kafka.create_topic()
    table(db)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "x" * 20000}) for i in range(3000)])     # 60 MB
    subscribe(db, topic, "t", options={"max_rows_per_second": 200})
    db.wait("SELECT next_offset > 0 FROM kafka.subscription_position")
    db.q("SELECT kafka.delete_records('kafka', %s, 0, 2900)", topic)
    error(db, f'topic "{topic}", partition 0')


def compacted(kafka, **config):
    return kafka.create_topic(config={"cleanup.policy": "compact", **config})


def backdate(db, interval):
    """As if nobody had read for so long."""
    db.q("UPDATE kafka.subscription_position SET read_at = read_at - %s::interval", interval)


def test_compacted_unread_for_too_long(db, kafka):
    topic = compacted(kafka, **{"delete.retention.ms": "3600000"})
    table(db)
    kafka.produce_many(topic, messages("x", 10))
    subscribe(db, topic, "t")
    db.wait_for_subscription("s")
    db.wait("SELECT clock_timestamp() - read_at < interval '1 min' FROM kafka.subscription_position")
    pause(db)
    # nothing was written meanwhile: nothing can have been missed
    backdate(db, "2 hours")
    resume(db)
    db.wait("SELECT clock_timestamp() - read_at < interval '1 min' FROM kafka.subscription_position")
    pause(db)
    # not for too long
    backdate(db, "50 minutes")
    kafka.produce_many(topic, messages("y", 5))
    resume(db)
    db.wait_for_subscription("s")
    pause(db)
    backdate(db, "61 minutes")
    kafka.produce_many(topic, messages("z", 5))
    resume(db)
    error(db, f'topic "{topic}", partition 0', "offset 15", "delete.retention.ms (3600000)", "ends at offset 20", "rebuild")
    assert db.value("SELECT count(*) FROM t WHERE v = 'z'") == 0
    # whoever knows better goes on
    db.q("SELECT kafka.seek_subscription('s', %s)", json.dumps({topic: {"0": 15}}))
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t WHERE v = 'z'") == 5


def test_tombstone_that_was_never_seen(db, kafka):
    """What it is about: a delete, and its tombstone, come and go while the subscription is away."""
    topic = compacted(kafka, **{"delete.retention.ms": "0", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001",
                                "min.compaction.lag.ms": "0"})
    table(db)
    kafka.produce_many(topic, messages("x", 3))
    subscribe(db, topic, "t")
    db.wait_for_subscription("s")
    db.wait("SELECT count(*) = 1 FROM kafka.problems WHERE problem LIKE 'delete.retention.ms of topic%%'")
    pause(db)
    kafka.produce(topic, None, {"id": 1})
    def cleaned():
        kafka.produce(topic, {"id": 2, "v": "y"}, {"id": 2})        # rolls segments
        return not [m for m in kafka.consume(topic) if m.json_key == {"id": 1}]
    wait_until(cleaned, 60, 0.3)
    backdate(db, "1 min")
    resume(db)
    error(db, "compaction may have removed deletes")


def test_end_is_not_what_it_was(db, kafka):
    """While no broker answers nothing is known of what a compacted topic loses, whatever librdkafka repeats of its end."""
    prefix = kafka.new_topic_name("p")
    topic = kafka.create_topic(f"{prefix}.one", config={"cleanup.policy": "compact", "delete.retention.ms": "60000"})
    table(db)
    kafka.produce_many(topic, messages("x", 10))
    silent = threading.Event()
    read_at = "SELECT read_at FROM kafka.subscription_position WHERE topic = %s"
    with Proxy(kafka, lambda api, version, frame: [] if silent.is_set() else [frame]) as proxy, db.connect() as other:
        db.q(f"""CREATE SERVER proxy FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '{proxy.bootstrap}', "socket.timeout.ms" '3000')""")
        db.q("SELECT kafka.create_subscription('s', 'proxy', %s, 't', 'json')", ["^" + prefix.replace(".", "\\.")])
        db.wait_for_subscription("s")
        wait_until(lambda: db.value(read_at, topic))
        silent.set()
        since = db.value("SELECT pg_catalog.clock_timestamp()")
        kafka.produce_many(topic, messages("y", 5, 10))
        db.wait_state("subscription", "s", "retrying", timeout=60)
        # an eighth of delete.retention.ms: what was read sooner is not noted
        db.wait("SELECT pg_catalog.clock_timestamp() > %s + interval '9 s'", since)
        # nothing is applied
        other.execute("BEGIN; LOCK TABLE t")
        silent.clear()
        db.wait("SELECT high_watermark = 15 FROM kafka.subscription_offsets WHERE topic = %s", topic, timeout=60)
        # the first one is found before ends are looked at, the next one after
        for name in ("two", "three"):
            kafka.create_topic(f"{prefix}.{name}")
            db.wait("SELECT EXISTS (SELECT FROM kafka.subscription_position WHERE topic = %s)", f"{prefix}.{name}")
        assert db.value(read_at, topic) <= since
        other.execute("ROLLBACK")
        db.wait("SELECT count(*) = 15 FROM t")
        # and then it is asked for
        db.wait("SELECT read_at > %s FROM kafka.subscription_position WHERE topic = %s", since, topic)
    assert db.value("SELECT count(*) FROM kafka.problems WHERE problem LIKE 'state error%%'") == 0


def test_not_compacted(db, kafka):
    """Without compaction nothing goes but what retention takes."""
    topic = kafka.create_topic(config={"delete.retention.ms": "1000"})
    table(db)
    kafka.produce_many(topic, messages("x", 10))
    subscribe(db, topic, "t")
    db.wait_for_subscription("s")
    pause(db)
    backdate(db, "2 days")
    kafka.produce_many(topic, messages("y", 5))
    resume(db)
    db.wait_for_subscription("s")
    assert db.q("SELECT * FROM kafka.problems") == []


def test_configuration_not_to_be_seen(db, kafka):
    """Without describe_configs it works, and says what it cannot notice."""
    topic = compacted(kafka)
    group = f"g-{topic}"
    table(db)
    for resource, name, operation in (("topic", topic, "describe"), ("topic", topic, "read"), ("group", group, "read")):
        db.q("SELECT kafka.create_acl('kafka', %s, %s, 'literal', 'User:bob', '*', %s, 'allow')", resource, name, operation)
    db.q(f"""CREATE SERVER limited FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '{kafka.sasl_bootstrap}',
             "security.protocol" 'sasl_plaintext', "sasl.mechanism" 'PLAIN');
             CREATE USER MAPPING FOR CURRENT_USER SERVER limited OPTIONS ("sasl.username" 'bob', "sasl.password" 'bob-secret')""")
    kafka.produce_many(topic, messages("x", 10))
    db.q("SELECT kafka.create_subscription('s', 'limited', %s, 't', 'json', options => %s::jsonb)", [topic],
         json.dumps({"group.id": group}))
    db.wait_for_subscription("s")
    db.wait("SELECT count(*) = 1 FROM kafka.problems WHERE problem LIKE %s AND problem LIKE '%%describe_configs%%'", f'%"{topic}"%')


def test_topics_come_and_go(db, kafka):
    """Of a pattern: one that ends does not stop the others, and is a problem only if it was not read to its end."""
    prefix = kafka.new_topic_name("p")
    table(db)
    for name in ("one", "two"):
        kafka.create_topic(f"{prefix}.{name}")
        kafka.produce_many(f"{prefix}.{name}", messages(name, 5, 0 if name == "one" else 5))
    subscribe(db, "^" + prefix.replace(".", "\\.") + "\\.", "t", workers=2)
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == 10
    kafka.delete_topic(f"{prefix}.one")
    kafka.create_topic(f"{prefix}.three")
    kafka.produce_many(f"{prefix}.three", messages("three", 5, 10))
    db.wait("SELECT count(*) = 15 FROM t")
    db.wait("SELECT lag = 0 AND state = 'streaming' FROM kafka.subscription_status")
    assert db.q("SELECT * FROM kafka.problems") == []
    # held back by an open transaction, so not read
    held = kafka.open_transaction(f"{prefix}.two", messages("held", 1))
    kafka.produce(f"{prefix}.two", {"id": 1, "v": "behind"}, {"id": 1})
    db.wait("SELECT high_watermark > next_offset FROM kafka.subscription_offsets WHERE topic = %s", f"{prefix}.two")
    kafka.delete_topic(f"{prefix}.two")
    db.wait("SELECT count(*) = 1 FROM kafka.problems WHERE problem LIKE %s", f"topic \"{prefix}.two\"%gone%")
    del held


@pytest.mark.parametrize("workers", [1, 2])
def test_on_gap_rebuild(db, kafka, workers):
    """With "on_gap": "rebuild" the targets become what the log holds now, whatever the gap was."""
    topic = kafka.create_topic(partitions=2)
    table(db)
    subscribe(db, topic, "t", options={"on_gap": "rebuild"}, workers=workers)
    kafka.produce_many(topic, messages("old", 20))
    db.wait_for_subscription("s")
    pause(db)
    # a topic that is another one
    recreate(kafka, topic, partitions=2)
    kafka.produce_many(topic, messages("new", 30, 10))
    resume(db)
    db.wait("SELECT count(*) = 30 AND bool_and(v = 'new') FROM t", timeout=60)
    db.wait("SELECT state = 'streaming' AND cardinality(pids) = %s FROM kafka.subscription_status", workers, timeout=60)
    # messages that retention took
    pause(db)
    kafka.produce_many(topic, messages("gone", 40, 100))
    for partition, (low, high) in kafka.watermarks(topic).items():
        db.q("SELECT kafka.delete_records('kafka', %s, %s, %s)", topic, partition, high)
    kafka.produce_many(topic, messages("left", 5, 200))
    resume(db)
    db.wait("SELECT count(*) = 5 AND bool_and(v = 'left') FROM t", timeout=60)
    # and it goes on
    kafka.produce_many(topic, messages("more", 5, 300))
    db.wait("SELECT count(*) = 10 FROM t")
    db.wait("SELECT count(*) = 0 FROM kafka.problems")


def test_on_gap_rebuild_after_a_long_absence(db, kafka):
    topic = compacted(kafka, **{"delete.retention.ms": "3600000"})
    table(db)
    kafka.produce_many(topic, messages("x", 10))
    subscribe(db, topic, "t", options={"on_gap": "rebuild"})
    db.wait_for_subscription("s")
    pause(db)
    backdate(db, "2 hours")
    db.q("INSERT INTO t VALUES (1000, 'as if its delete had been missed')")
    kafka.produce_many(topic, messages("y", 5))
    resume(db)
    db.wait("SELECT count(*) = 10 AND count(*) FILTER (WHERE v = 'y') = 5 FROM t", timeout=60)
    db.wait_for_subscription("s")
    db.wait_state("subscription", "s", "streaming")
