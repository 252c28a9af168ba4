"""A cluster of three brokers, of which one dies: another leads its partitions, and the subscription follows."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka.admin import NewTopic

from conftest import Kafka, wait_until
from test_subscription_faults import assert_exactly_once, audited, rows


@pytest.fixture
def brokers(private_kafka, scratch):
    """{number: broker}; 1 is the controller, and not to be killed."""
    found = {1: private_kafka}
    try:
        for node in (2, 3):
            found[node] = Kafka(scratch / f"kafka-{uuid.uuid4().hex[:6]}")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: found[node].join(private_kafka, node), (2, 3)))
        wait_until(lambda: len(private_kafka.admin.list_topics(timeout=20).brokers) == 3)
        yield found
    finally:
        for node in (2, 3):
            if node in found:
                found[node].destroy()


def partitions(kafka, topic):
    return [p for _, p in sorted(kafka.admin.list_topics(topic, timeout=20).topics[topic].partitions.items())]


def leaders(kafka, topic):
    return [p.leader for p in partitions(kafka, topic)]


def test_leader_dies(db, brokers):
    """Nothing is lost, nothing comes twice, and the workers stay, whichever of the two leaders dies."""
    first = brokers[1]
    topic = first.new_topic_name()
    first.admin.create_topics([NewTopic(topic, 4, replica_assignment=[[2, 3], [3, 2], [2, 3], [3, 2]],
                                        config={"min.insync.replicas": "1"})])[topic].result(timeout=30)
    wait_until(lambda: leaders(first, topic) == [2, 3, 2, 3])
    audited(db)
    bootstrap = ",".join(b.bootstrap for b in brokers.values())
    db.q(f"""CREATE SERVER cluster FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '{bootstrap}')""")
    db.q("SELECT kafka.create_subscription('s', 'cluster', %s, 't', 'json', workers => 2)", [topic])
    db.wait("SELECT state = 'streaming' AND cardinality(pids) = 2 FROM kafka.subscription_status")
    pids = db.state("subscription", "s")["pids"]

    sent = 0
    stop = threading.Event()

    def work():
        nonlocal sent
        while not stop.is_set():
            first.produce_many(topic, rows(200, sent), acks="all", enable__idempotence=True)
            sent += 200
            time.sleep(0.05)

    def moves_on():
        """Every partition, by what was sent from now on."""
        # brokers may not agree yet on who leads
        ends = {p: high for p, (_, high) in wait_until(lambda: first.watermarks(topic)).items()}
        for p, end in ends.items():
            db.wait("SELECT next_offset > %s FROM kafka.subscription_position WHERE partition = %s", end + 50, p, timeout=60)

    producer = threading.Thread(target=work)
    producer.start()
    try:
        moves_on()
        brokers[2].kill()
        wait_until(lambda: leaders(first, topic) == [3, 3, 3, 3])
        moves_on()
        brokers[2].start()
        wait_until(lambda: all(len(p.isrs) == 2 for p in partitions(first, topic)), 60)
        brokers[3].kill()
        wait_until(lambda: leaders(first, topic) == [2, 2, 2, 2])
        moves_on()
    finally:
        stop.set()
        producer.join()
    db.wait("SELECT count(*) = %s FROM t", sent, timeout=60)
    assert_exactly_once(db, sent)
    row = db.wait_state("subscription", "s", "streaming")
    assert row["pids"] == pids and row["restarts"] == 0
