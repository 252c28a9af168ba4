"""Dead letters: a message that cannot be applied is set aside alone, and can be applied later."""

import json
import time

import psycopg
import pytest

from conftest import wait_until
from test_subscription import envelope, subscribe, table
from test_subscription_errors import BAD, DDL, GOOD


@pytest.fixture
def topic(kafka):
    return kafka.create_topic()


def letters(db, name="s"):
    return db.dicts("SELECT * FROM kafka.dead_letter WHERE subscription = %s ORDER BY id", name)


def aside(db, topic, target="t", **kwargs):
    kwargs.setdefault("on_error", "dead_letter")
    subscribe(db, topic, target, **kwargs)


def retry(db, ids=None):
    """Hands letters to the worker and waits until it has tried each; how many were handed over."""
    before = {letter["id"]: letter["attempts"] for letter in letters(db)}
    n = db.value("SELECT kafka.retry_dead_letters('s', %s)", ids)
    db.wait("SELECT NOT EXISTS (SELECT 1 FROM kafka.dead_letter WHERE retry)")
    after = {letter["id"]: letter["attempts"] for letter in letters(db)}
    changed = [i for i, attempts in before.items() if after.get(i) != attempts]
    assert len(changed) == n, (before, after)
    return n


STAGES = {"malformed json": "parse", "not an object": "parse", "two documents": "parse", "invalid utf-8": "parse",
          "deep nesting": "parse", "empty value": "parse", "empty key and tombstone": "parse",
          "null into not null": "apply", "check constraint": "apply"}


@pytest.mark.parametrize("case", BAD)
def test_bad_message(db, kafka, topic, case):
    """It alone is set aside, with its bytes; the others of its batch are applied."""
    key, value, words, column = BAD[case]
    table(db, DDL)
    headers = [("h", b"x"), ("null", None), ("bin", b"\xff\x00"), ("h", b"y")]
    sent = dict(key=key, value=value, headers=headers, timestamp=1700000000123)
    kafka.produce_many(topic, GOOD + [sent] + [({"id": 20}, {"id": 20, "v": "after", "n": 1})])
    aside(db, topic)
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == 6
    (letter,) = letters(db)
    assert (letter["topic"], letter["partition"], letter["offset"]) == (topic, 0, 5)
    assert letter["timestamp"].timestamp() == 1700000000.123
    message = kafka.consume(topic)[5]
    assert (letter["key"], letter["value"]) == (message.key, message.value)
    assert letter["headers"] == [["h", "x"], ["null", None], ["bin", {"base64": "/wA="}], ["h", "y"]]
    for word in words + ([f'"{column}"'] if column else []):
        assert word.lower() in letter["error"].lower(), letter
    assert letter["stage"] == STAGES.get(case, "convert") and len(letter["sqlstate"]) == 5
    assert letter["attempts"] == 1 and letter["target"] is None and not letter["superseded"]
    row = db.wait_state("subscription", "s", "streaming")
    assert row["dead_letters"] == 1 and row["restarts"] == 0
    assert db.q("SELECT problem FROM kafka.problems") == [("1 dead letter",)]
