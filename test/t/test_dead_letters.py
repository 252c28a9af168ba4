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


def test_stop_is_the_default(db, kafka, topic):
    table(db)
    kafka.produce(topic, "no json", {"id": 1})
    subscribe(db, topic, "t")
    db.wait_state("subscription", "s", "error")
    assert letters(db) == []
    db.q("""SELECT kafka.alter_subscription('s', '{"on_error": "dead_letter"}')""")
    db.wait_for_subscription("s")
    assert len(letters(db)) == 1
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="stop, dead_letter"):
        db.q("""SELECT kafka.alter_subscription('s', '{"on_error": "skip"}')""")
    db.q("""SELECT kafka.alter_subscription('s', '{"on_error": "stop"}')""")
    kafka.produce(topic, "no json", {"id": 2})
    db.wait_state("subscription", "s", "error")


CAUSES = {"unique": ("ALTER TABLE t ADD UNIQUE (v)", "23505", "ALTER TABLE t DROP CONSTRAINT t_v_key"),
          "check": ("ALTER TABLE t ADD CHECK (id <> 5)", "23514", "ALTER TABLE t DROP CONSTRAINT t_id_check"),
          "foreign key": ("CREATE TABLE parent (v text PRIMARY KEY); INSERT INTO parent VALUES ('a'), ('b');"
                          "ALTER TABLE t ADD FOREIGN KEY (v) REFERENCES parent", "23503", "INSERT INTO parent VALUES ('bad')"),
          "trigger after": ("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                            "IF NEW.id = 5 THEN RAISE 'not five'; END IF; RETURN NEW; END $$;"
                            "CREATE TRIGGER no AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION no()", "P0001",
                            "DROP TRIGGER no ON t"),
          "trigger before": ("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                             "IF NEW.id = 5 THEN RAISE division_by_zero; END IF; RETURN NEW; END $$;"
                             "CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION no()", "22012",
                             "DROP TRIGGER no ON t")}


@pytest.mark.parametrize("case", CAUSES)
def test_cause_in_the_database(db, kafka, topic, case):
    """Rows that the target refuses; applied once the cause is mended."""
    cause, sqlstate, mend = CAUSES[case]
    table(db)
    db.q(cause)
    values = {i: "bad" if i == 5 else "ab"[i % 2] + ("" if case == "foreign key" else str(i)) for i in range(200)}
    if case == "unique":
        values[4] = "bad"
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": v}) for i, v in values.items()])
    aside(db, topic, options={"fk_wait": 300})
    db.wait_for_subscription("s")
    db.wait("SELECT NOT EXISTS (SELECT 1 FROM kafka.dead_letter WHERE retry)")
    (letter,) = letters(db)
    assert letter["sqlstate"] == sqlstate and letter["stage"] == "apply" and letter["offset"] == 5
    assert db.q("SELECT id FROM generate_series(0, 199) id EXCEPT SELECT id FROM t") == [(5,)]
    assert retry(db) == 1                       # the cause is still there
    (again,) = letters(db)
    assert again["attempts"] == letter["attempts"] + 1 and again["last_attempt_at"] > letter["last_attempt_at"]
    db.q(mend)
    assert retry(db, [letter["id"]]) == 1
    assert letters(db) == [] and db.q("SELECT v FROM t WHERE id = 5") == [("bad",)]
    assert db.q("TABLE kafka.problems") == []
    assert db.state("subscription", "s")["restarts"] == 0


def test_foreign_key_waits_first(db, kafka, topic):
    """The row that is referred to comes by another way in time: no letter. One that never comes: a letter."""
    db.q("CREATE TABLE parent (id int PRIMARY KEY)")
    table(db, "id int PRIMARY KEY, p int REFERENCES parent")
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "p": 1}), ({"id": 2}, {"id": 2, "p": None})])
    aside(db, topic)                            # fk_wait is 30 s
    db.wait("SELECT state = 'retrying' FROM kafka.subscription_status")
    assert letters(db) == []
    db.q("INSERT INTO parent VALUES (1)")
    db.wait_for_subscription("s", 10)
    assert letters(db) == [] and db.value("SELECT count(*) FROM t") == 2


def test_foreign_keys_wait_together(db, kafka):
    """Many orphans wait for fk_wait once; a row whose parent comes later in the same batch is applied."""
    topics = [kafka.create_topic(), kafka.create_topic()]
    db.q("CREATE TABLE parent (id int PRIMARY KEY)")
    table(db, "id int PRIMARY KEY, p int REFERENCES t")
    messages = [({"id": i}, {"id": i, "p": -1}) for i in range(20)] + [({"id": 50}, {"id": 50, "p": 300})]
    kafka.produce_many(topics[0], messages + [({"id": i}, {"id": i, "p": None}) for i in range(200, 400)])
    aside(db, topics[:1], options={"fk_wait": 1500})
    began = time.monotonic()
    db.wait_for_subscription("s")
    assert time.monotonic() - began < 15
    db.wait("SELECT NOT EXISTS (SELECT 1 FROM kafka.dead_letter WHERE retry)")
    assert [letter["offset"] for letter in letters(db)] == list(range(20))
    assert db.value("SELECT count(*) FROM t") == 201


def test_mend_the_value(db, kafka, topic):
    """Changed in SQL, then applied; with a condition that the worker checks like any other."""
    table(db, DDL)
    kafka.produce_many(topic, [({"id": 1}, '{"id": 1, "v": "x", "n": 5'), ({"id": 2}, {"id": 2, "n": 5000})])
    aside(db, topic)
    db.wait_for_subscription("s")
    db.q("UPDATE kafka.dead_letter SET value = value || '}' WHERE \"offset\" = 0")
    db.q("UPDATE kafka.dead_letter SET value = convert_to(jsonb_set(convert_from(value, 'UTF8')::jsonb, '{n}', '7')::text, 'UTF8')"
         " WHERE \"offset\" = 1")
    assert retry(db) == 2
    assert db.q("SELECT * FROM t ORDER BY id") == [(1, "x", 5), (2, "d", 7)] and letters(db) == []


def test_retry_of_what_is_not_there(db, kafka, topic):
    table(db)
    kafka.produce(topic, "no json")
    aside(db, topic)
    db.wait_for_subscription("s")
    (letter,) = letters(db)
    with pytest.raises(psycopg.errors.UndefinedObject, match='no dead letter with id -1, 0'):
        db.q("SELECT kafka.retry_dead_letters('s', %s)", [0, letter["id"], -1])
    with pytest.raises(psycopg.errors.UndefinedObject, match='"nosuch"'):
        db.q("SELECT kafka.retry_dead_letters('nosuch')")
    assert db.value("SELECT kafka.retry_dead_letters('s', '{}')") == 0
    # one that is paused keeps them until it runs
    db.q("SELECT kafka.pause_subscription('s')")
    db.wait_state("subscription", "s", "paused")
    db.q("SELECT kafka.retry_dead_letters('s')")
    assert letters(db)[0]["retry"]
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait("SELECT attempts = 2 AND NOT retry FROM kafka.dead_letter")
    # and a transaction that is rolled back hands over nothing
    with db.connect(autocommit=False) as c:
        c.execute("SELECT kafka.retry_dead_letters('s')")
        c.rollback()
    assert not letters(db)[0]["retry"]


def test_superseded(db, kafka, topic):
    """An older message never overwrites a newer one, also after a restart; what is not overtaken is applied in order."""
    table(db, DDL)
    def bad(i, n):
        return ({"id": i}, {"id": i, "v": f"bad{n}", "n": 5000})
    kafka.produce_many(topic, [bad(1, 0), bad(2, 1), bad(2, 2), bad(3, 3), bad(4, 4), (None, b"{"),
                               ({"id": 1}, {"id": 1, "v": "new", "n": 1}), ({"id": 9}, {"id": 9})])
    aside(db, topic)
    db.wait_for_subscription("s")
    assert [(letter["offset"], letter["superseded"]) for letter in letters(db)] == [
        (0, True), (1, False), (2, False), (3, False), (4, False), (5, False)]
    db.q("SELECT pg_terminate_backend(pid) FROM kafka.subscription_status")     # what it knew, it reads again
    kafka.produce(topic, None, {"id": 3})                                       # a delete is newer, too
    db.wait_for_subscription("s")
    assert [letter["offset"] for letter in letters(db) if letter["superseded"]] == [0, 3]
    assert db.value("SELECT problem FROM kafka.problems") == "6 dead letters, 2 of them superseded"
    db.q("ALTER TABLE t DROP CONSTRAINT t_n_check")
    notices = []
    with db.connect() as c:
        c.add_notice_handler(lambda d: notices.append(d.message_primary))
        assert c.execute("SELECT kafka.retry_dead_letters('s')").fetchone() == (4,)
    assert notices == ["2 dead letters are superseded and not retried"]
    db.wait("SELECT NOT EXISTS (SELECT 1 FROM kafka.dead_letter WHERE retry)")
    assert db.q("SELECT * FROM t ORDER BY id") == [(1, "new", 1), (2, "bad2", 5000), (4, "bad4", 5000), (9, "d", None)]
    assert [letter["offset"] for letter in letters(db)] == [0, 3, 5]
    assert retry(db, [letters(db)[0]["id"]]) == 0


def test_superseded_by_a_retried_letter(db, kafka, topic):
    """Of two letters of one key the newer is applied: the older is superseded then."""
    table(db, DDL)
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "v": f"v{i}", "n": 5000}) for i in range(3)])
    aside(db, topic)
    db.wait_for_subscription("s")
    db.q("ALTER TABLE t DROP CONSTRAINT t_n_check")
    assert retry(db, [letters(db)[1]["id"]]) == 1
    assert [(letter["offset"], letter["superseded"]) for letter in letters(db)] == [(0, True), (2, False)]
    assert retry(db) == 1
    assert db.q("SELECT v FROM t") == [("v2",)] and [letter["offset"] for letter in letters(db)] == [0]


def test_read_again(db, kafka, topic):
    """After a seek the same message is the same letter, and older messages of its key do not supersede it."""
    table(db, DDL)
    kafka.produce_many(topic, [({"id": 1}, {"id": 1, "v": "old", "n": 1}), ({"id": 1}, {"id": 1, "v": "x", "n": 5000})])
    aside(db, topic)
    db.wait_for_subscription("s")
    (letter,) = letters(db)
    db.q("SELECT kafka.seek_subscription('s', 'earliest')")
    db.wait_for_subscription("s")
    (again,) = letters(db)
    assert again["id"] == letter["id"] and again["attempts"] == 2 and not again["superseded"]


def test_delete_and_its_tombstone(db, kafka, topic):
    """Debezium's tombstone does not supersede the delete that came before it; a new row does."""
    table(db)
    db.q("""CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no delete'; END $$;
            CREATE TRIGGER no BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION no()""")
    create = [({"id": i}, envelope("c", after={"id": i, "v": "x"})) for i in (1, 2)]
    delete = [m for i in (1, 2) for m in [({"id": i}, envelope("d", before={"id": i, "v": "x"})), ({"id": i}, None)]]
    kafka.produce_many(topic, create + delete + [({"id": 2}, envelope("c", after={"id": 2, "v": "again"}))])
    aside(db, topic, format="debezium")
    db.wait_for_subscription("s")
    assert [(letter["offset"], letter["op"], letter["superseded"]) for letter in letters(db)] == [
        (2, "d", False), (3, "d", False), (4, "d", True), (5, "d", True)]
    db.q("DROP TRIGGER no ON t")
    assert retry(db) == 2
    assert db.q("TABLE t") == [(2, "again")]


def test_max_dead_letters(db, kafka, topic):
    """One more stops the subscription; nothing is lost."""
    table(db, DDL)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "n": 5000 if i < 5 else 1}) for i in range(10)])
    aside(db, topic, options={"max_dead_letters": 3})
    row = db.wait_state("subscription", "s", "error")
    for words in ('"max_dead_letters"', "3 dead letters", "offset 3", "retry_dead_letters"):
        assert words in row["last_error"]
    assert row["dead_letters"] == 3
    assert db.value("SELECT next_offset FROM kafka.subscription_position") == 3
    db.q("DELETE FROM kafka.dead_letter WHERE \"offset\" = 0")      # room for one
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait("SELECT next_offset = 4 FROM kafka.subscription_position")
    db.q("""SELECT kafka.alter_subscription('s', '{"max_dead_letters": 0}')""")
    db.wait_for_subscription("s")
    assert [letter["offset"] for letter in letters(db)] == [1, 2, 3, 4]
    assert db.value("SELECT count(*) FROM t") == 5
