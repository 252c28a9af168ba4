"""Targets with queries, mode upsert: at any time the target holds what the query makes of the latest state of the topic."""

import json

import pytest

from conftest import wait_until
from test_subscription import envelope


def subscribe(db, topics, name="s", **kwargs):
    kwargs.setdefault("format", "json")
    named = "".join(f", {k} => %s" + ("::jsonb" if k == "options" else "") for k in kwargs)
    values = [json.dumps(v) if k == "options" else v for k, v in kwargs.items()]
    db.q(f"SELECT kafka.create_subscription(%s, 'kafka', %s{named})", name, topics if isinstance(topics, list) else [topics], *values)


def add_target(db, target, query=None, name="s", **kwargs):
    kwargs.setdefault("options", {})
    kwargs["options"].setdefault("hydrate", False)
    named = "".join(f", {k} => %s" + ("::jsonb" if k in ("options", "merge") else "") for k in kwargs)
    values = [json.dumps(v) if k in ("options", "merge") else v for k, v in kwargs.items()]
    db.q(f"SELECT kafka.add_target(%s, %s::regclass, query => %s{named})", name, target, query, *values)


def settle(db, name="s"):
    db.wait_for_subscription(name)


@pytest.fixture
def topic(kafka):
    return kafka.create_topic()


ROWS = "SELECT (after->>'id')::int AS id, after->>'v' AS v FROM batch"


def test_rows_follow_the_topic(db, kafka, topic):
    """A row that stops matching, deletes, tombstones, and rows that come back."""
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    subscribe(db, topic)
    add_target(db, "t", ROWS + " WHERE after->>'v' <> 'no'")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": f"v{i}"}) for i in range(100)])
    settle(db)
    assert db.value("SELECT count(*) FROM t") == 100
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "v": "no"}), ({"id": 2}, None), ({"id": 3}, {"id": 3, "v": "new"}),
                               ({"id": 4}, {"id": 4, "v": "no"}), ({"id": 4}, {"id": 4, "v": "yes"}),
                               ({"id": 5}, {"id": 5, "v": "x"}), ({"id": 5}, None), ({"id": 200}, {"id": 200, "v": "no"}),
                               ({"id": 201}, None)])
    settle(db)
    assert db.value("SELECT count(*) FROM t") == 97
    assert db.q("SELECT id, v FROM t WHERE id IN (1, 2, 3, 4, 5, 200, 201) ORDER BY id") == [(3, "new"), (4, "yes")]
    kafka.produce(topic, {"id": 1, "v": "back"}, {"id": 1})
    settle(db)
    assert db.value("SELECT v FROM t WHERE id = 1") == "back"
