"""Dead letters: a message that cannot be applied is set aside alone, and can be applied later."""

import json
import re
import subprocess
import time
import uuid
from pathlib import Path

import psycopg
import pytest

from conftest import wait_until
from test_subscription import envelope, subscribe, table
from test_subscription_errors import BAD, DDL, GOOD

MINUTE_AGO = int(time.time() - 60) * 1000        # older ones would be deleted by the topic's retention


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


def test_bad_messages(db, kafka, topic):
    """Each alone is set aside, with its bytes; the others of the batch are applied."""
    table(db, DDL)
    headers = [("h", b"x"), ("null", None), ("bin", b"\xff\x00"), ("h", b"y")]
    sent = []
    for i, (key, value, _, _) in enumerate(BAD.values()):
        sent += [({"id": 100 + i}, {"id": 100 + i, "v": "good", "n": 1}),
                 dict(key=key, value=value, headers=headers, timestamp=MINUTE_AGO + i)]
    kafka.produce_many(topic, GOOD + sent + [({"id": 20}, {"id": 20, "v": "after", "n": 1})])
    aside(db, topic)
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == len(GOOD) + len(BAD) + 1
    messages = kafka.consume(topic)
    found = letters(db)
    assert [letter["offset"] for letter in found] == [len(GOOD) + 1 + 2 * i for i in range(len(BAD))]
    for i, (letter, (case, (_, _, words, column))) in enumerate(zip(found, BAD.items())):
        message = messages[letter["offset"]]
        assert (letter["topic"], letter["partition"]) == (topic, 0)
        assert round(letter["timestamp"].timestamp() * 1000) == MINUTE_AGO + i
        assert (letter["key"], letter["value"]) == (message.key, message.value), case
        assert letter["headers"] == [["h", "x"], ["null", None], ["bin", {"base64": "/wA="}], ["h", "y"]]
        for word in words + ([f'"{column}"'] if column else []):
            assert word.lower() in letter["error"].lower(), letter
        assert letter["stage"] == STAGES.get(case, "convert") and len(letter["sqlstate"]) == 5, letter
        assert letter["attempts"] == 1 and letter["target"] is None and not letter["superseded"]
    row = db.wait_state("subscription", "s", "streaming")
    assert row["dead_letters"] == len(BAD) and row["restarts"] == 0
    assert db.q("SELECT problem FROM kafka.problems") == [(f"{len(BAD)} dead letters",)]


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
    db.q("SELECT kafka.pause_subscription('s')")
    wait_until(lambda: db.state("subscription", "s")["pid"] is None)
    db.q("""SELECT kafka.alter_subscription('s', '{"on_error": "stop"}'); SELECT kafka.resume_subscription('s')""")
    kafka.produce(topic, "no json", {"id": 2})
    db.wait_state("subscription", "s", "error")
    assert len(letters(db)) == 1


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
    table(db, "id int, code text PRIMARY KEY")
    messages = [[({"id": i}, envelope("c", after={"id": i, "code": f"c{i}"})),
                 ({"id": i}, envelope("d", before={"id": i, "code": None})), ({"id": i}, None)] for i in (1, 2)]
    kafka.produce_many(topic, sum(messages, []) + [({"id": 2}, envelope("c", after={"id": 2, "code": "c2"}))])
    aside(db, topic, format="debezium", options={"full_before": True})
    db.wait_for_subscription("s")
    assert [(letter["offset"], letter["op"], letter["superseded"]) for letter in letters(db)] == [
        (1, "d", False), (4, "d", True)]
    db.q("""UPDATE kafka.dead_letter SET value = convert_to(jsonb_set(convert_from(value, 'UTF8')::jsonb, '{before,code}',
                to_jsonb('c' || (convert_from(key, 'UTF8')::jsonb ->> 'id')))::text, 'UTF8')""")
    assert retry(db) == 1
    assert db.q("TABLE t") == [(2, "c2")]


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


def test_whole_batches(db, kafka):
    """Bad messages everywhere: first, last, next to each other, in several partitions; order of a key is kept."""
    topic = kafka.create_topic(partitions=3)
    table(db, DDL)
    messages = [({"id": i % 500}, {"id": i % 500, "v": str(i), "n": 5000 if i % 97 < 3 or i == 2999 else 1})
                for i in range(3000)]
    kafka.produce_many(topic, messages)
    aside(db, topic)
    db.wait_for_subscription("s")
    good = {m["id"]: m["v"] for _, m in messages if m["n"] == 1}
    assert dict(db.q("SELECT id, v FROM t")) == good
    bad = {m["v"]: m["id"] for _, m in messages if m["n"] != 1}
    found = {json.loads(bytes(letter["value"]))["v"]: letter["superseded"] for letter in letters(db)}
    assert len(letters(db)) == len(bad) and found == {v: int(v) < int(good[i]) for v, i in bad.items()}
    assert 0 < sum(found.values()) < len(found)


@pytest.mark.parametrize("kind", ["direct", "sql", "bytes"])
def test_many(db, kafka, topic, kind):
    """1,000 bad ones among 50,000, found below SQL, in set-wise SQL, and in reading."""
    table(db, DDL)
    if kind == "sql":
        db.q("""CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
                CREATE TRIGGER same BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION same()""")
    bad = "many" if kind == "bytes" else 5000
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "x", "n": bad if i % 50 == 7 else 1}) for i in range(50000)])
    began = time.monotonic()
    aside(db, topic)
    db.wait_for_subscription("s", 120)
    seconds = time.monotonic() - began
    assert db.value("SELECT count(*) FROM t") == 49000
    assert db.one("SELECT count(*), count(DISTINCT \"offset\"), bool_and(\"offset\" % 50 = 7) FROM kafka.dead_letter") == (
        1000, 1000, True)
    print(f"{kind}: {seconds:.1f} s")
    assert seconds < 60
    db.q("ALTER TABLE t DROP CONSTRAINT t_n_check; ALTER TABLE t ALTER n TYPE text")
    assert db.value("SELECT kafka.retry_dead_letters('s')") == 1000
    db.wait("SELECT count(*) = 50000 FROM t", timeout=60)
    db.wait("SELECT NOT EXISTS (SELECT 1 FROM kafka.dead_letter)")


@pytest.fixture
def roles(db):
    made = [f"{r}{db.name[2:]}" for r in ("alice", "bob", "eve")]
    for role in made:
        db.q(f'CREATE ROLE "{role}"; GRANT USAGE ON FOREIGN SERVER kafka TO "{role}"; GRANT ALL ON SCHEMA public TO "{role}"')
    yield made
    db.q("SELECT kafka.drop_subscription(name) FROM kafka.subscription")
    for role in made:
        db.q(f'DROP OWNED BY "{role}" CASCADE; DROP ROLE "{role}"')


def test_owners(db, kafka, roles):
    """A role sees, mends, deletes and retries what it owns, and nothing else; pg_monitor sees only the count."""
    connections = []
    for role in roles:
        c = db.connect()
        c.execute(f'SET SESSION AUTHORIZATION "{role}"')
        connections.append(c)
    alice, bob, eve = connections
    for c, name in ((alice, "a"), (bob, "b")):
        topic = kafka.create_topic()
        kafka.produce_many(topic, [({"id": 1}, "no json"), ({"id": 2}, "no json")])
        c.execute(f"CREATE TABLE t{name} (id int PRIMARY KEY)")
        c.execute("SELECT kafka.create_subscription(%s, 'kafka', %s, %s::regclass, 'json', on_error => 'dead_letter')",
                  (name, [topic], f"t{name}"))
        db.wait_for_subscription(name)
    own = "SELECT subscription, count(*) FROM kafka.dead_letter GROUP BY 1"
    assert alice.execute(own).fetchall() == [("a", 2)]
    assert bob.execute(own).fetchall() == [("b", 2)]
    assert eve.execute(own).fetchall() == []
    assert alice.execute("UPDATE kafka.dead_letter SET value = '{}'").rowcount == 2
    assert alice.execute("DELETE FROM kafka.dead_letter WHERE \"offset\" = 0").rowcount == 1
    for statement in ("UPDATE kafka.dead_letter SET error = ''", "UPDATE kafka.dead_letter SET target = 'ta'",
                      "UPDATE kafka.dead_letter SET superseded = false", "TRUNCATE kafka.dead_letter",
                      "INSERT INTO kafka.dead_letter DEFAULT VALUES", "SELECT kafka.retry_dead_letters('b')"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            alice.execute(statement)
    other = bob.execute("SELECT min(id) FROM kafka.dead_letter").fetchone()[0]
    with pytest.raises(psycopg.errors.UndefinedObject):
        alice.execute("SELECT kafka.retry_dead_letters('a', %s)", ([other],))
    db.q(f'GRANT pg_monitor TO "{roles[2]}"')
    assert eve.execute("SELECT name, dead_letters FROM kafka.subscription_status ORDER BY 1").fetchall() == [("a", 1), ("b", 2)]
    assert eve.execute(own).fetchall() == []
    db.q("SELECT kafka.set_owner('subscription', 'b', %s)", roles[0])
    db.q(f'ALTER TABLE tb OWNER TO "{roles[0]}"')
    assert sorted(alice.execute(own).fetchall()) == [("a", 1), ("b", 2)]
    assert bob.execute(own).fetchall() == []
    assert alice.execute("SELECT kafka.retry_dead_letters('b')").fetchone() == (2,)
    db.wait("SELECT bool_and(attempts = 2) FROM kafka.dead_letter WHERE subscription = 'b'")
    for c in connections:
        c.close()


def test_drop(db, kafka, topic):
    table(db)
    kafka.produce_many(topic, [(None, "no json")] * 3)
    aside(db, topic)
    db.wait_for_subscription("s")
    notices = []
    with db.connect() as c:
        c.add_notice_handler(lambda d: notices.append(d.message_primary))
        c.execute("SELECT kafka.drop_subscription('s')")
    assert notices == ['3 dead letters of subscription "s" were deleted']
    assert db.value("SELECT count(*) FROM kafka.dead_letter") == 0


def test_dump_and_publication(db, make_db, kafka, topic):
    """Letters are in a dump, and in no publication."""
    db.q("CREATE PUBLICATION everything FOR ALL TABLES")
    prefix = topic + "p"
    db.q("SELECT kafka.create_publisher('p', 'kafka', 'everything', %s, snapshot => 'never', format => 'json')", prefix)
    table(db)
    kafka.produce_many(topic, [({"id": 1}, "no json"), ({"id": 2}, b"\xff\x00")])
    aside(db, topic)
    db.wait_for_subscription("s")
    db.q("UPDATE kafka.dead_letter SET value = '{}' WHERE \"offset\" = 0")
    db.wait_for_publisher("p")
    assert [t for t in kafka.topics() if t.startswith(prefix + ".kafka")] == []
    assert db.q("SELECT relation::text FROM kafka.publisher_tables WHERE relation::text ~ 'kafka'") == []
    db.q("SELECT kafka.drop_publisher('p'); SELECT kafka.pause_subscription('s')")
    other = make_db(extension=False)
    bin = db.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
    dump = subprocess.run([f"{bin}/pg_dump", db.cluster.dsn(db.name)], capture_output=True, check=True).stdout
    done = subprocess.run([f"{bin}/psql", "-qv", "ON_ERROR_STOP=1", other.cluster.dsn(other.name)], input=dump, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert letters(other) == letters(db) and len(letters(db)) == 2
    assert other.value("SELECT nextval('kafka.dead_letter_id_seq')") > max(letter["id"] for letter in letters(db))


def test_killed(private_cluster, kafka, topic):
    """kill -9 while letters are written and retried: none twice, none lost."""
    db = private_cluster.create_database()
    db.create_server(kafka)
    table(db, DDL)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "x", "n": 5000 if i % 4 == 0 else 1}) for i in range(4000)])
    aside(db, topic, options={"max_batch_rows": 200})

    def kill(when):
        db.wait(when)
        ready = "database system is ready to accept connections"
        starts = private_cluster.log().count(ready)
        private_cluster.kill_worker(wait_until(lambda: private_cluster.worker_pids("pg_kafka_sync subscription", db.name))[0])
        db.close()
        wait_until(lambda: private_cluster.log().count(ready) > starts, 60, what="the restart after a crash")

    kill("SELECT count(*) > 100 FROM kafka.dead_letter")
    kill("SELECT count(*) > 500 FROM kafka.dead_letter")
    db.wait_for_subscription("s", 60)
    assert db.one('SELECT count(*), count(DISTINCT "offset"), max(attempts) FROM kafka.dead_letter') == (1000, 1000, 1)
    assert db.value("SELECT count(*) FROM t") == 3000
    db.q("ALTER TABLE t DROP CONSTRAINT t_n_check; CREATE TABLE audit (id int);"
         "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.audit VALUES (NEW.id); RETURN NULL; END $$;"
         "CREATE TRIGGER audit AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION audit()")
    db.q("SELECT kafka.retry_dead_letters('s')")
    kill("SELECT count(*) < 800 FROM kafka.dead_letter")
    db.wait("SELECT count(*) = 0 FROM kafka.dead_letter")
    assert db.value("SELECT count(*) FROM t") == 4000
    assert db.one("SELECT count(*), count(DISTINCT id) FROM audit") == (1000, 1000)


CONNECT = "__connect.errors."


def test_to_a_topic(db, kafka, topic):
    """Messages as they are, with Kafka Connect's headers; one that carries such a header keeps it."""
    dead = kafka.new_topic_name("dead")
    table(db, DDL)
    sent = [dict(key={"id": 1}, value=b"no json \xff", headers=[("h", b"\x00"), ("h", None)], timestamp=MINUTE_AGO + 1),
            dict(key=None, value={"id": 2, "n": 5000}, timestamp=MINUTE_AGO + 2),
            dict(key={"id": 3}, value={"id": 3}),
            dict(key={"id": 4}, value="x", headers=[(CONNECT + "topic", b"mine")])]
    kafka.produce_many(topic, sent)
    aside(db, topic, options={"errors.deadletterqueue.topic.name": dead})
    row = db.wait_state("subscription", "s", "error")           # there is no such topic: it waits for it
    for words in (dead, "does not exist", f"kafka.create_topic('kafka', '{dead}')"):
        assert words in row["last_error"]
    assert dead not in kafka.topics()
    db.q("SELECT kafka.create_topic('kafka', %s)", dead)
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")
    assert db.q("SELECT id FROM t") == [(3,)] and letters(db) == []
    messages = sorted(kafka.consume(dead), key=lambda m: int(m.header(CONNECT + "offset")))
    source = kafka.consume(topic)
    assert [(m.key, m.value, m.timestamp) for m in messages] == [
        (source[i].key, source[i].value, source[i].timestamp) for i in (0, 1, 3)]
    first = messages[0].headers
    assert first[:2] == [("h", b"\x00"), ("h", None)]
    assert dict(first[2:]) == {CONNECT + "topic": topic.encode(), CONNECT + "partition": b"0", CONNECT + "offset": b"0",
                               CONNECT + "connector.name": b"s", CONNECT + "task.id": b"0",
                               CONNECT + "stage": b"VALUE_CONVERTER", CONNECT + "class.name": b"pg_kafka_sync",
                               CONNECT + "exception.class.name": b"22P02",
                               CONNECT + "exception.message": dict(first)[CONNECT + "exception.message"]}
    assert b"JSON" in dict(first)[CONNECT + "exception.message"]
    assert messages[1].header(CONNECT + "stage") == b"TASK_PUT"
    assert messages[1].header(CONNECT + "exception.class.name") == b"23514"
    assert [v for n, v in messages[2].headers if n == CONNECT + "topic"] == [b"mine"]
    # without the headers
    db.q("""SELECT kafka.pause_subscription('s')""")
    wait_until(lambda: db.state("subscription", "s")["pid"] is None)
    db.q("""SELECT kafka.alter_subscription('s', '{"errors.deadletterqueue.context.headers.enable": false}');
            SELECT kafka.resume_subscription('s')""")
    kafka.produce(topic, "no", {"id": 5}, headers=[("h", b"1")])
    db.wait_for_subscription("s")
    assert [m.headers for m in kafka.consume(dead) if m.json_key == {"id": 5}] == [[("h", b"1")]]


def test_topic_of_its_own(db, kafka, topic):
    table(db)
    for topics in ([topic], ["^" + topic]):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="reads topic"):
            aside(db, topics, options={"errors.deadletterqueue.topic.name": topic})
    aside(db, topic, options={"errors.deadletterqueue.topic.name": topic + "x"})
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="reads topic"):
        db.q("SELECT kafka.alter_subscription('s', %s::jsonb)", json.dumps({"topics": [topic, topic + "x"]}))


def test_workers(db, kafka):
    """Several workers of one subscription: the first one retries for all."""
    topic = kafka.create_topic(partitions=4)
    table(db, DDL)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "n": 5000 if i % 2 else 1}) for i in range(40)])
    aside(db, topic, workers=2)
    db.wait_for_subscription("s")
    assert len(letters(db)) == 20
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "new", "n": 1}) for i in range(20)])
    db.wait_for_subscription("s")
    assert sum(letter["superseded"] for letter in letters(db)) == 10
    db.q("ALTER TABLE t DROP CONSTRAINT t_n_check")
    assert retry(db) == 10
    assert db.one("SELECT count(*), count(*) FILTER (WHERE v = 'new'), count(*) FILTER (WHERE n = 5000) FROM t") == (40, 20, 10)


def test_several_targets(db, kafka, topic):
    """What one target refuses is set aside for all, naming that one; a retry writes all of them."""
    table(db)
    table(db, "id int PRIMARY KEY, v text CHECK (v <> 'bad')", "u")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": "bad" if i == 2 else "x"}) for i in range(4)])
    aside(db, topic, enabled=False)
    db.q("SELECT kafka.add_target('s', 'u'); SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")
    ids = "SELECT array_agg(id ORDER BY id) FROM "
    assert db.value(ids + "t") == db.value(ids + "u") == [0, 1, 3]
    (letter,) = letters(db)
    assert letter["target"] is None and "target public.u: " in letter["error"]
    db.q("ALTER TABLE u DROP CONSTRAINT u_v_check")
    assert retry(db) == 1
    assert db.value(ids + "t") == db.value(ids + "u") == [0, 1, 2, 3]


def test_drop_target(db, kafka, topic):
    """Letters for one target go with it, those for all stay."""
    table(db)
    table(db, name="u")
    kafka.produce_many(topic, [(None, "no json")] * 2)
    aside(db, topic, enabled=False)
    db.q("SELECT kafka.add_target('s', 'u'); SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")
    db.q("UPDATE kafka.dead_letter SET target = 'u', targets = '{u}' WHERE \"offset\" = 0")
    notices = []
    with db.connect() as c:
        c.add_notice_handler(lambda d: notices.append(d.message_primary))
        c.execute("SELECT kafka.drop_target('s', 'u')")
    assert notices == ['1 dead letter of subscription "s" was deleted']
    assert [letter["offset"] for letter in letters(db)] == [1]
    assert db.q("SELECT targets::text FROM kafka.dead_letter") == [("{t}",)]


def test_letter_for_one_target(db, kafka, topic):
    """Retried there and nowhere else; the target is none any more: an error of the letter."""
    table(db)
    table(db, name="u")
    table(db, name="w")
    kafka.produce(topic, '{"id": 1', {"id": 1})
    aside(db, topic, enabled=False)
    db.q("SELECT kafka.add_target('s', 'u'); SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")
    db.q("UPDATE kafka.dead_letter SET value = '{\"id\": 1}', target = 'w', targets = '{w}'")
    retry(db)
    assert "does not write to the letter's target" in letters(db)[0]["error"]
    db.q("UPDATE kafka.dead_letter SET target = 'u', targets = '{u}'")
    retry(db)
    assert letters(db) == [] and db.q("TABLE t") == [] and db.q("SELECT id FROM u") == [(1,)]


def events(db, kafka, topic, *names, refuses):
    """Targets that take events one by one, and four messages, of which the third is refused by one of them."""
    for name in names:
        db.q(f"CREATE TABLE {name} (id int, CONSTRAINT no{name} CHECK (id <> 2))" if name == refuses else f"CREATE TABLE {name} (id int)")
    kafka.produce_many(topic, [({"id": i}, {"id": i}) for i in range(4)])
    aside(db, topic, None, enabled=False)
    for name in names:
        db.q("SELECT kafka.add_target('s', %s::regclass, mode => 'append')", name)
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")


def rebuild(db, *names):
    """Reads targets again from the log, all at once."""
    db.q("SELECT kafka.pause_subscription('s')")
    for name in names:
        db.q("SELECT kafka.rebuild_subscription('s', %s::regclass)", name)
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait("SELECT NOT EXISTS (SELECT FROM kafka.subscription_rebuild)", timeout=60)
    db.wait_for_subscription("s")


def stands_for(db):
    """Of each letter: the one target that it was set aside for, and those that have not got it."""
    assert db.value("SELECT count(*) FROM kafka.dead_letter WHERE targets_anew <> '{}'") == 0
    return db.q("SELECT target::text, ARRAY(SELECT x::text FROM unnest(targets) x ORDER BY 1) FROM kafka.dead_letter ORDER BY id")


def once(db, *names):
    for name in names:
        assert db.value(f"SELECT array_agg(id ORDER BY id) FROM {name}") == [0, 1, 2, 3], name


def test_rebuilt_targets_have_it(db, kafka, topic):
    """All targets were read again: none lacks the message, so the letter is gone."""
    events(db, kafka, topic, "a", "b", refuses="a")
    assert stands_for(db) == [(None, ["a", "b"])]
    db.q("ALTER TABLE a DROP CONSTRAINT noa")
    rebuild(db, "a", "b")
    once(db, "a", "b")
    assert letters(db) == []


def test_rebuilt_target_has_it(db, kafka, topic):
    """One of them was: it is not given the message a second time."""
    events(db, kafka, topic, "a", "b", refuses="a")
    rebuild(db, "b")
    assert stands_for(db) == [(None, ["a"])]
    rebuild(db, "a")                            # it fails again: a letter for this one alone
    assert stands_for(db) == [("a", ["a"])]
    db.q("ALTER TABLE a DROP CONSTRAINT noa")
    assert retry(db) == 1
    once(db, "a", "b")
    assert letters(db) == []


def test_new_target_has_it(db, kafka, topic):
    """A target that came later has read the message from the log, or is not concerned."""
    events(db, kafka, topic, "a", "b", refuses="a")
    db.q("CREATE TABLE c (id int); SELECT kafka.add_target('s', 'c', mode => 'append')")
    db.wait("SELECT NOT EXISTS (SELECT FROM kafka.subscription_rebuild)", timeout=60)
    db.wait_for_subscription("s")
    once(db, "c")
    db.q("CREATE TABLE late (id int); SELECT kafka.add_target('s', 'late', mode => 'append', options => '{\"hydrate\": false}')")
    assert stands_for(db) == [(None, ["a", "b"])]
    db.q("ALTER TABLE a DROP CONSTRAINT noa")
    assert retry(db) == 1
    once(db, "a", "b", "c")
    assert letters(db) == [] and db.q("TABLE late") == []


def test_set_aside_by_a_rebuild(db, kafka, topic):
    """Two of three targets are read again, and one refuses the message by now: the third has it already."""
    events(db, kafka, topic, "a", "b", "c", refuses=None)
    once(db, "a", "b", "c")
    db.q("ALTER TABLE b ADD CONSTRAINT nob CHECK (id <> 2) NOT VALID")
    rebuild(db, "b", "c")
    assert stands_for(db) == [(None, ["b", "c"])]
    assert db.q("SELECT id FROM c WHERE id = 2") == []
    db.q("ALTER TABLE b DROP CONSTRAINT nob")
    assert retry(db) == 1
    once(db, "a", "b", "c")
    assert letters(db) == []


def test_retry_while_a_target_is_rebuilt(db, kafka, topic):
    """The other target is given the message; what the rebuild finds is not mixed with it."""
    events(db, kafka, topic, "a", "b", refuses="a")
    db.q("SELECT kafka.alter_subscription('s', '{\"max_rows_per_second\": 1}')")
    kafka.produce_many(topic, [({"id": i}, {"id": i}) for i in range(4, 7)])
    db.wait_for_subscription("s")
    db.q("SELECT kafka.rebuild_subscription('s', 'a')")
    db.wait("SELECT targets_anew::text = '{a}' FROM kafka.dead_letter WHERE target IS NOT NULL")
    db.q("SELECT kafka.retry_dead_letters('s')")
    db.wait("SELECT targets::text = '{a}' FROM kafka.dead_letter WHERE target IS NULL")
    db.q("SELECT kafka.alter_subscription('s', '{\"max_rows_per_second\": 0}')")
    db.wait("SELECT NOT EXISTS (SELECT FROM kafka.subscription_rebuild)", timeout=60)
    db.wait("SELECT NOT EXISTS (SELECT FROM kafka.dead_letter WHERE retry)")
    assert stands_for(db) == [("a", ["a"])]
    db.q("ALTER TABLE a DROP CONSTRAINT noa")
    assert retry(db) == 1
    assert db.value("SELECT array_agg(id ORDER BY id) FROM a") == db.value("SELECT array_agg(id ORDER BY id) FROM b") == list(range(7))


def test_alter_while_running(db, kafka, topic):
    """on_error holds from the commit on: a worker that has not heard of it yet sets nothing aside any more."""
    table(db)
    aside(db, topic)
    db.wait_state("subscription", "s", "streaming")
    for i in range(3):
        db.q("""SELECT kafka.alter_subscription('s', '{"on_error": "stop"}')""")
        kafka.produce(topic, "no json", {"id": i})
        db.wait_state("subscription", "s", "error")
        assert len(letters(db)) == i
        db.q("""SELECT kafka.alter_subscription('s', '{"on_error": "dead_letter"}')""")
        db.wait_for_subscription("s")
        assert len(letters(db)) == i + 1


def test_topic_and_offset(db, kafka, topic):
    """The offset cannot be written for a while: what is set aside in a topic is there at least once, and nothing is lost."""
    table(db)
    kafka.produce_many(topic, [({"id": i}, "no json" if i % 2 else {"id": i}) for i in range(10)])
    dead = kafka.create_topic()
    aside(db, topic, options={"errors.deadletterqueue.topic.name": dead}, enabled=False)
    with db.connect(autocommit=False) as locker:
        locker.execute("LOCK TABLE kafka.subscription_position IN SHARE MODE")
        db.q("SELECT kafka.resume_subscription('s')")
        db.wait_state("subscription", "s", ["retrying", "error"])
        locker.rollback()
    db.wait_for_subscription("s")
    offsets = [int(m.header(CONNECT + "offset")) for m in kafka.consume(dead)]
    assert sorted(set(offsets)) == [1, 3, 5, 7, 9]
    assert db.value("SELECT count(*) FROM t") == 5


def test_topic_while_kafka_is_away(db, private_kafka):
    """The message waits until the broker is back; it is not dropped, and the worker stays."""
    kafka = private_kafka
    db.create_server(kafka, "mine")
    topic, dead = kafka.create_topic(), kafka.create_topic()
    table(db)
    db.q("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
         " PERFORM pg_advisory_xact_lock_shared(4711); RAISE 'no'; END $$;"
         "CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION no()")
    db.q("SELECT kafka.create_subscription('s', 'mine', %s, 't', 'json', on_error => 'dead_letter', options => %s::jsonb)",
         [topic], json.dumps({"errors.deadletterqueue.topic.name": dead}))
    with db.connect() as locker:
        locker.execute("SELECT pg_advisory_lock(4711)")
        kafka.produce(topic, {"id": 1}, {"id": 1})
        db.wait("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'advisory'")
        kafka.kill()
    pid = db.wait_state("subscription", "s", "retrying")["pid"]
    kafka.start()
    wait_until(lambda: [m.key for m in kafka.consume(dead)] == [b'{"id": 1}'], 60)
    db.wait("SELECT next_offset = 1 FROM kafka.subscription_position", timeout=60)
    assert db.state("subscription", "s")["pid"] == pid


def test_query_that_raises(db, kafka, topic):
    """A query that fails for one row: that message alone; a row that its table refuses is told apart."""
    for name in "ab":
        table(db, f"id int PRIMARY KEY, q int CONSTRAINT {name}_small CHECK (q < 1000)", name)
    kafka.produce_many(topic, [({"id": i}, {"id": i, "n": 0 if i == 3 else 5000 if i == 5 else i}) for i in range(1, 9)])
    aside(db, topic, None, enabled=False)
    db.q("""SELECT kafka.add_target('s', 'a', $$ SELECT (after->>'id')::int AS id, 10 / (after->>'n')::int AS q FROM batch $$);
            SELECT kafka.add_target('s', 'b', $$ SELECT (after->>'id')::int AS id, (after->>'n')::int AS q FROM batch $$);
            SELECT kafka.resume_subscription('s')""")
    db.wait_for_subscription("s")
    ids = "SELECT array_agg(id ORDER BY id) FROM "
    assert db.value(ids + "a") == db.value(ids + "b") == [1, 2, 4, 6, 7, 8]
    assert [(letter["offset"], letter["stage"], letter["sqlstate"], letter["error"].split(": ")[0]) for letter in letters(db)] == [
        (2, "query", "22012", "target public.a"), (4, "apply", "23514", "target public.b")]
    db.q("""UPDATE kafka.dead_letter SET value = '{"id": 3, "n": 2}' WHERE stage = 'query'; ALTER TABLE b DROP CONSTRAINT b_small""")
    assert retry(db) == 2
    assert db.q("SELECT a.id, a.q, b.q FROM a JOIN b USING (id) WHERE id IN (3, 5)") == [(3, 5, 2), (5, 0, 5000)]


def test_superseded_for_some_targets(db, kafka, topic):
    """A target that takes every event gets a superseded letter all the same; one that holds the latest state does not."""
    table(db, DDL)
    table(db, "id int, v text, n int", "log")
    kafka.produce(topic, {"id": 1, "v": "old", "n": 5000}, {"id": 1})
    aside(db, topic, enabled=False)
    db.q("SELECT kafka.add_target('s', 'log', mode => 'append'); SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")
    kafka.produce(topic, {"id": 1, "v": "new", "n": 1}, {"id": 1})
    db.wait_for_subscription("s")
    assert [letter["superseded"] for letter in letters(db)] == [True]
    assert db.q("SELECT v FROM log") == [("new",)]
    assert db.value("SELECT kafka.retry_dead_letters('s')") == 1
    db.wait("SELECT NOT EXISTS (SELECT 1 FROM kafka.dead_letter)")
    assert db.q("SELECT v FROM log ORDER BY n") == [("new",), ("old",)]
    assert db.q("SELECT v FROM t") == [("new",)]


def test_search_path_of_users(db, kafka, topic):
    """Code of users that runs while messages are read cannot choose what our statements mean."""
    role = f"mallory{db.name[2:]}"
    db.q(f"""CREATE ROLE "{role}"; GRANT ALL ON SCHEMA public TO "{role}"; CREATE TABLE caught (who text);
             GRANT INSERT, SELECT ON caught TO PUBLIC; CREATE SCHEMA evil AUTHORIZATION "{role}" """)
    try:
        with db.connect() as c:
            c.execute(f'SET SESSION AUTHORIZATION "{role}"')
            c.execute("""
                CREATE FUNCTION evil.eq(bytea, bytea) RETURNS bool LANGUAGE plpgsql AS
                    $$ BEGIN INSERT INTO public.caught VALUES (current_user); RETURN true; END $$;
                CREATE FUNCTION evil.eq(bigint, bigint) RETURNS bool LANGUAGE plpgsql AS
                    $$ BEGIN INSERT INTO public.caught VALUES (current_user); RETURN true; END $$;
                CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = bytea, RIGHTARG = bytea);
                CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = bigint, RIGHTARG = bigint);
                CREATE FUNCTION evil.set(text) RETURNS bool LANGUAGE plpgsql AS
                    $$ BEGIN PERFORM set_config('search_path', 'evil, pg_catalog', false); RETURN true; END $$;
                CREATE DOMAIN evil.word AS text CHECK (evil.set(VALUE));
                CREATE TABLE t (id int PRIMARY KEY, v evil.word, n int CHECK (n < 1000))""")
        kafka.produce(topic, {"id": 1, "v": "x", "n": 5000}, {"id": 1})
        aside(db, topic)
        db.wait_for_subscription("s")
        assert len(letters(db)) == 1
        kafka.produce(topic, {"id": 1, "v": "y", "n": 1}, {"id": 1})
        db.wait_for_subscription("s")
        assert [letter["superseded"] for letter in letters(db)] == [True]
        assert db.q("SELECT id, v::text FROM t") == [(1, "y")] and db.q("TABLE caught") == []
    finally:
        db.q("SELECT kafka.drop_subscription('s', true)")
        db.q(f'DROP OWNED BY "{role}" CASCADE; DROP ROLE "{role}"')


def test_tutorial(make_db, kafka):
    """docs/tutorial-dead-letters.md as it stands there, in one session of psql."""
    page = (Path(__file__).resolve().parents[2] / "docs/tutorial-dead-letters.md").read_text()
    blocks = re.findall(r"^```sql\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", page, flags=re.S | re.M)
    db = make_db(extension=False)
    prefix = f"shop{uuid.uuid4().hex[:8]}"
    script = "\\pset footer off\n" + "".join(
        re.sub(r"\bshop\b", prefix, sql.replace("localhost:9092", kafka.bootstrap)) + "\n\\echo == next\n" for sql, _ in blocks)
    bin = db.value("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
    run = subprocess.run([f"{bin}/psql", "-X", "-q", db.cluster.dsn(db.name)], input=script, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, timeout=120)
    outputs = run.stdout.split("== next\n")
    assert len(outputs) == len(blocks) + 1 and "ERROR" not in run.stdout, run.stdout
    for (sql, expected), output in zip(blocks, outputs):
        for part in filter(None, expected.rstrip().split("\n\n")):
            assert part.strip("\n") in output, f"{sql}\nexpected:\n{part}\nthere:\n{output}"
