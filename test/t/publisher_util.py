"""Helpers of the publisher tests: events without what differs from run to run, and the state a topic adds up to."""

import re
import uuid

from conftest import wait_until


def prefix():
    """A topic prefix of this test's own, on the shared broker."""
    return f"p{uuid.uuid4().hex[:10]}"


def create(db, name, tables, topics, snapshot="never", format="json", options="{}", publication=None):
    """A publication for tables (SQL after CREATE PUBLICATION name) and a publisher; waits until it streams."""
    publication = publication or f"pub_{name}"
    db.q(f'CREATE PUBLICATION "{publication}" {tables}')
    db.q("SELECT kafka.create_publisher(%s, 'kafka', %s, %s, format => %s, snapshot => %s, options => %s::jsonb)",
         name, publication, topics, format, snapshot, options)
    if snapshot != "only":
        db.wait_state("publisher", name, "streaming", 60)


def sync(db, name, timeout=60):
    db.wait_for_publisher(name, timeout)


def state_of(messages, key="id"):
    """What the messages of a json topic add up to: {key: row}, an omitted column being unchanged."""
    state = {}
    for m in messages:
        k = m.json_key[key]
        if m.value is None:
            state.pop(k, None)
        else:
            state[k] = {**state.get(k, {}), **m.json}
    return state


def table_state(db, table, key="id"):
    return {row[key]: row for row in db.dicts(f"SELECT * FROM {table}")}


def check_positions(messages):
    """Every message has a position, and none comes twice; within a partition they only grow."""
    seen = set()
    last = {}
    for m in messages:
        publisher, lsn, ordinal = m.header("pg_kafka_sync.pos").decode().split("/")
        position = (publisher, int(lsn, 16), int(ordinal))
        assert position not in seen
        seen.add(position)
        assert last.get((m.partition, publisher), (0, 0)) < position[1:]
        last[m.partition, publisher] = position[1:]


def check_log_of_outage(cluster, pid, server="kafka"):
    """A worker's complaints of an outage are in the server's log once each, and so is the end of it."""
    def lines():
        return [line.split(f'Kafka server "{server}"', 1)[1] for line in cluster.log().splitlines()
                if f"[{pid}]" in line and f'Kafka server "{server}"' in line]
    wait_until(lambda: " answers again" in lines(), what="the log to tell of the recovery")
    complaints = [re.sub(r"^: (\w+): \[thrd:.*?\]", r"\1", line.split(" (after ")[0]) for line in lines() if line != " answers again"]
    assert complaints and len(complaints) == len(set(complaints)), complaints
    assert lines().count(" answers again") == 1


def worker_pid(db, name):
    return wait_until(lambda: db.state("publisher", name)["pid"], 30, what=f"publisher {name} to run")


def kill_worker(cluster, db, name):
    """kill -9 of the publisher's worker; returns when the server has restarted itself."""
    launchers = set(cluster.worker_pids("pg_kafka_sync launcher"))
    cluster.kill_worker(worker_pid(db, name))
    db.close()
    wait_until(lambda: set(cluster.worker_pids("pg_kafka_sync launcher")) - launchers, 60,
               what="the server to restart itself")
