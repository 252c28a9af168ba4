"""Targets of subscriptions: add_target, drop_target, and what becomes of their queries with the objects that they use."""

import json
import os
import uuid

import psycopg
import pytest

from conftest import _run

VIEWS = "SELECT count(*) FROM pg_class WHERE relname LIKE 'target\\_query\\_%%'"
NO_TARGET = "SELECT state = 'waiting' AND detail LIKE '%%no target%%' FROM kafka.subscription_status"
ERROR = "SELECT state = 'error' AND last_error LIKE %s FROM kafka.subscription_status"
DEFINITION = "SELECT pg_get_viewdef(view) FROM kafka.subscription_targets WHERE view IS NOT NULL"
QUERY = "SELECT (after->>'id')::int AS id, n.name AS v FROM batch JOIN names n ON n.code = after->>'code'"


@pytest.fixture
def topic(kafka):
    return kafka.create_topic()


@pytest.fixture
def role(cluster):
    """role(attributes): the name of a new role."""
    def role(attributes=""):
        name = f"r_{uuid.uuid4().hex[:8]}"
        cluster.q(f"CREATE ROLE {name} {attributes}")
        return name

    return role


def subscribe(db, topic, name="s", **arguments):
    named = "".join(f", {k} => %s" for k in arguments)
    db.q(f"SELECT kafka.create_subscription(%s, 'kafka', %s, format => 'json'{named})", name, [topic], *arguments.values())


def add(db, target, query=None, name="s", **arguments):
    arguments = {"query": query, **arguments}
    named = "".join(f", {k} => %s" + ("::jsonb" if k in ("merge", "options") else "") for k in arguments)
    values = [json.dumps(v) if isinstance(v, dict) else v for v in arguments.values()]
    db.q(f"SELECT kafka.add_target(%s, %s::regclass{named})", name, target, *values)


def tables(db):
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    db.q("CREATE TABLE names (code text PRIMARY KEY, name text)")
    db.q("INSERT INTO names VALUES ('a', 'Anna'), ('b', 'Bert')")


def test_targets_come_and_go(db, kafka, topic):
    """A subscription without targets does not move; with the first it begins; each change of the list reaches the worker."""
    tables(db)
    db.q("CREATE TABLE u (LIKE t INCLUDING ALL)")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": f"v{i}"}) for i in range(10)])
    subscribe(db, topic)
    db.wait(NO_TARGET)
    assert db.value("SELECT sum(next_offset) FROM kafka.subscription_offsets") == 0
    add(db, "t")
    add(db, "u", options={"hydrate": False})
    db.wait_for_subscription("s")
    db.q("SELECT kafka.drop_target('s', 't')")
    kafka.produce(topic, {"id": 10, "v": "x"}, {"id": 10})
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == 10
    assert db.value("SELECT max(id) FROM u") == 10
    assert db.value("SELECT targets::text FROM kafka.subscription_status") == "{u}"
    db.q("SELECT kafka.drop_target('s', 'u')")
    db.wait(NO_TARGET)
    assert db.q("TABLE kafka.subscription_targets") == []


def test_changes_hold_at_once(db, kafka, topic):
    """What a definition says when a function has committed holds for every message that comes after."""
    tables(db)
    db.q("CREATE TABLE u (LIKE t INCLUDING ALL)")
    subscribe(db, topic)
    add(db, "t")
    n = 0
    for turn in range(6):
        db.wait_for_subscription("s")
        before = db.value("SELECT count(*) FROM t")
        # the worker that runs knows nothing of it yet
        if turn % 2:
            db.q("SELECT kafka.drop_target('s', 'u')")
        else:
            add(db, "u", options={"hydrate": False})
        kafka.produce(topic, {"id": n, "v": "x"}, {"id": n})
        n += 1
        db.wait_for_subscription("s")
        assert db.value("SELECT count(*) FROM t") == before + 1
        assert db.value("SELECT count(*) FROM u") == turn // 2 + 1
    db.q("SELECT kafka.pause_subscription('s')")
    kafka.produce(topic, {"id": n, "v": "x"}, {"id": n})
    db.wait("SELECT state = 'paused' AND pid IS NULL FROM kafka.subscription_status")
    assert db.value("SELECT count(*) FROM t") == n


def test_added_later(db, kafka, topic):
    """A target that is added to a subscription that has moved gets what the others have, unless told not to."""
    tables(db)
    db.q("CREATE TABLE u (LIKE t INCLUDING ALL); CREATE TABLE w (LIKE t INCLUDING ALL)")
    kafka.produce_many(topic, [({"id": i}, {"id": i, "v": f"v{i}"}) for i in range(10)])
    subscribe(db, topic)
    add(db, "t")
    db.wait_for_subscription("s")
    add(db, "u")
    add(db, "w", options={"hydrate": False})
    db.wait("SELECT count(*) = 10 FROM u")
    kafka.produce(topic, {"id": 10, "v": "x"}, {"id": 10})
    for table, count in (("t", 11), ("u", 11), ("w", 1)):
        db.wait(f"SELECT count(*) = {count} FROM {table}")
    db.q("SELECT kafka.drop_target('s', 'u')")
    db.q("SELECT kafka.delete_records('kafka', %s, 0, 5)", topic)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refused:
        add(db, "u")
    assert "lost its beginning" in str(refused.value) and "hydrate" in refused.value.diag.message_hint
    add(db, "u", options={"hydrate": False})


def test_renames(db, topic):
    """What the query uses can be renamed and moved; the query follows."""
    tables(db)
    db.q("CREATE SCHEMA ref; CREATE SCHEMA elsewhere")
    db.q("ALTER TABLE names SET SCHEMA ref")
    subscribe(db, topic, enabled=False)
    with pytest.raises(psycopg.errors.UndefinedTable) as refused:
        add(db, "t", QUERY)
    assert "names" in str(refused.value)
    db.q("SET search_path = elsewhere, ref, public")
    add(db, "t", QUERY)
    assert db.value("SHOW search_path") == "elsewhere, ref, public"
    db.q("RESET search_path")
    db.q("CREATE TABLE elsewhere.names (code text, name int); CREATE TABLE names (code text, name int)")
    db.q("ALTER TABLE ref.names RENAME TO people; ALTER TABLE ref.people RENAME name TO full_name; "
         "ALTER SCHEMA ref RENAME TO reference; ALTER TABLE t RENAME TO target")
    definition = db.value(DEFINITION)
    assert "n.full_name AS v" in definition and "reference.people n" in definition, definition
    assert db.q("SELECT target::text, query FROM kafka.subscription_targets") == [("target", QUERY)]
    # columns that it does not use may come and go, those that it uses may not
    db.q("ALTER TABLE reference.people ADD z int; ALTER TABLE reference.people DROP z")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist) as refused:
        db.q("ALTER TABLE reference.people DROP full_name")
    assert "target_query_" in refused.value.diag.message_detail


def test_rights(db, topic, role):
    """The query reads with the rights of the subscription's owner, whoever adds it."""
    tables(db)
    alice, bob, watcher = role(), role(), role("IN ROLE pg_monitor")
    db.q(f"GRANT USAGE ON FOREIGN SERVER kafka TO {alice}; ALTER TABLE t OWNER TO {alice}; GRANT CREATE ON SCHEMA public TO {alice}")
    db.q(f"SET ROLE {alice}")
    subscribe(db, topic, enabled=False)
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
        add(db, "t", QUERY)
    assert "names" in str(refused.value) and f'run as role "{alice}"' in refused.value.diag.context
    db.q(f"SET ROLE {bob}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
        add(db, "t", QUERY)
    assert "must be owner" in str(refused.value)
    db.q("RESET ROLE")
    # a superuser who adds it does not lend its rights
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        add(db, "t", QUERY)
    assert db.value(VIEWS) == 0
    db.q(f"GRANT SELECT ON names TO {alice}")
    db.q("ALTER TABLE names ENABLE ROW LEVEL SECURITY")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
        add(db, "t", QUERY)
    assert "row-level security" in str(refused.value)
    db.q("ALTER TABLE names DISABLE ROW LEVEL SECURITY")
    # nor does one who may not write the table
    db.q("CREATE TABLE mine (id int PRIMARY KEY)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
        add(db, "mine")
    assert alice in str(refused.value)
    add(db, "t", QUERY)
    assert db.value("SELECT relowner::regrole::text FROM pg_class WHERE relname LIKE 'target\\_query\\_%%'") == alice
    for name, sees in ((alice, 1), (bob, 0), (watcher, 1)):
        db.q(f"SET ROLE {name}")
        assert len(db.q("TABLE kafka.subscription_targets")) == sees
    db.q(f"SET ROLE {bob}")
    for command in ("SELECT kafka.drop_target('s', 't')", "DROP VIEW kafka.{}", "SELECT * FROM kafka.{}"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.q(command.format(db.value("SELECT relname FROM pg_class WHERE relname LIKE 'target\\_query\\_%%'")))
    db.q(f"SET ROLE {alice}")
    db.q("SELECT kafka.drop_target('s', 't')")
    db.q("RESET ROLE")
    assert db.value(VIEWS) == 0


def test_code_of_others_at_the_call(db, topic, role):
    """Functions that planning runs, run as the owner, and cannot become the superuser who adds the target."""
    tables(db)
    alice = role()
    db.q(f"GRANT USAGE ON FOREIGN SERVER kafka TO {alice}; GRANT CREATE ON SCHEMA public TO {alice}; "
         f"ALTER TABLE t OWNER TO {alice}")
    db.q(f"SET ROLE {alice}")
    db.q("CREATE FUNCTION spy(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN "
         "RAISE WARNING 'ran as %', current_user; RETURN t; END$$")
    subscribe(db, topic, enabled=False)
    db.q("RESET ROLE")
    seen = []
    db.connection.add_notice_handler(lambda d: seen.append(d.message_primary))
    add(db, "t", "SELECT (after->>'id')::int AS id, spy('x') AS v FROM batch")
    assert f"ran as {alice}" in seen and "ran as postgres" not in seen
    db.q(f"SET ROLE {alice}")
    db.q("CREATE OR REPLACE FUNCTION spy(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN "
         "PERFORM set_config('role', 'postgres', false); RETURN t; END$$")
    db.q("RESET ROLE; CREATE TABLE t2 (LIKE t INCLUDING ALL)")
    db.q(f"ALTER TABLE t2 OWNER TO {alice}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
        add(db, "t2", "SELECT (after->>'id')::int AS id, spy('x') AS v FROM batch")
    assert "security-restricted operation" in str(refused.value)


def test_owner(db, topic, role):
    """set_owner moves the views too, to somebody who has the rights."""
    tables(db)
    alice = role()
    subscribe(db, topic, enabled=False)
    add(db, "t", QUERY)
    db.q(f"GRANT USAGE ON FOREIGN SERVER kafka TO {alice}")
    owner = "SELECT relowner::regrole::text FROM pg_class WHERE relname LIKE 'target\\_query\\_%%'"
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
        db.q("SELECT kafka.set_owner('subscription', 's', %s::regrole)", alice)
    assert "names" in str(refused.value)
    assert db.value(owner) == "postgres"
    db.q(f"GRANT SELECT ON names TO {alice}")
    db.q("SELECT kafka.set_owner('subscription', 's', %s::regrole)", alice)
    assert db.value(owner) == alice
    with pytest.raises(psycopg.errors.DependentObjectsStillExist) as refused:
        db.q(f"DROP OWNED BY {alice}")
    assert 'subscription "s"' in refused.value.diag.message_detail
    # a view that another command took elsewhere comes back
    bob = role()
    db.q(f"GRANT USAGE ON FOREIGN SERVER kafka TO {bob}; GRANT SELECT ON names TO {bob}; REASSIGN OWNED BY {alice} TO postgres")
    db.q("SELECT kafka.set_owner('subscription', 's', %s::regrole)", bob)
    assert db.value(owner) == bob
    db.q("SELECT kafka.drop_subscription('s')")
    assert db.value(VIEWS) == 0


def test_drop_of_what_a_query_uses(db, kafka, topic):
    """Refused with the list; CASCADE takes the query away, and the subscription says so until the target is mended."""
    tables(db)
    subscribe(db, topic)
    add(db, "t", QUERY)
    view = db.value("SELECT view::text FROM kafka.subscription_targets")
    db.wait_state("subscription", "s", "streaming")     # a DROP may deadlock with a worker that opens all it uses
    for command in ("DROP TABLE names", f"DROP VIEW {view}", "DROP TABLE t", "ALTER TABLE names DROP name", "DROP EXTENSION pg_kafka_sync"):
        with pytest.raises(psycopg.errors.DependentObjectsStillExist) as refused:
            db.q(command)
        assert view in str(refused.value) + refused.value.diag.message_detail or '"s"' in refused.value.diag.message_detail
    db.q("BEGIN; DROP TABLE names CASCADE; ROLLBACK")
    assert db.value(VIEWS) == 1
    db.q("DROP TABLE names CASCADE")
    assert db.value(VIEWS) == 0
    db.wait(ERROR, '%the query of target "t" is gone%')
    assert "is gone" in db.value("SELECT problem FROM kafka.problems")
    assert db.value("SELECT view::text ~ '^[0-9]+$' FROM kafka.subscription_targets")
    db.q("SELECT kafka.drop_target('s', 't')")
    add(db, "t")
    kafka.produce(topic, {"id": 1, "v": "x"}, {"id": 1})
    db.wait_for_subscription("s")
    assert db.q("TABLE t") == [(1, "x")]
    # the target itself: it is named by its number then
    db.q("DROP TABLE t CASCADE")
    db.wait(ERROR, "%does not exist any more%")
    gone = db.value("SELECT target::text FROM kafka.subscription_targets")
    assert gone.isdigit()
    db.q("SELECT kafka.drop_target('s', %s::regclass)", gone)
    db.wait(NO_TARGET)
    # somebody's view on the query's view
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    add(db, "t", "SELECT (after->>'id')::int AS id FROM batch", options={"hydrate": False})
    db.q(f"CREATE VIEW mine AS SELECT * FROM {db.value('SELECT view::text FROM kafka.subscription_targets')}")
    for command in ("SELECT kafka.drop_target('s', 't')", "SELECT kafka.drop_subscription('s')"):
        with pytest.raises(psycopg.errors.DependentObjectsStillExist) as refused:
            db.q(command)
        assert "public.mine" in refused.value.diag.message_detail
    db.q("DROP VIEW mine; SELECT kafka.drop_subscription('s')")
    assert db.value(VIEWS) == 0


def test_dump_and_restore(cluster, make_db, db, topic, tmp_path, role):
    """Targets with all that belongs to them go with pg_dump; the view is bound as it was, and still the owner's."""
    alice = role()
    tables(db)
    db.q("CREATE TABLE hours (hour timestamptz PRIMARY KEY, n bigint); CREATE TABLE log (id int)")
    db.q("CREATE SCHEMA ref; ALTER TABLE names SET SCHEMA ref")
    db.q(f"GRANT USAGE ON FOREIGN SERVER kafka TO {alice}; GRANT USAGE ON SCHEMA ref TO {alice}; GRANT SELECT ON ref.names TO {alice}")
    for table in ("t", "hours", "log"):
        db.q(f"ALTER TABLE {table} OWNER TO {alice}")
    subscribe(db, topic, enabled=False)
    db.q("SELECT kafka.set_owner('subscription', 's', %s::regrole)", alice)
    db.q("SET search_path = ref, public")
    add(db, "t", QUERY)
    add(db, "hours", "SELECT date_bin('1 hour', ts, '2000-01-01') AS hour, count(*) AS n FROM batch GROUP BY 1", mode="merge",
        merge={"n": "sum"}, options={"retain": "1 day", "window": "hour"})
    add(db, "log", mode="append")
    db.q("RESET search_path")
    rows = ("SELECT subscription, target::text, mode, key, query, merge, options, pg_get_viewdef(view), "
            "(SELECT relowner::regrole::text FROM pg_class WHERE oid = view) FROM kafka.subscription_targets ORDER BY target::text")
    before = db.q(rows)
    assert len(before) == 3 and before[0][-1] == alice
    bin = _run(os.environ.get("PG_CONFIG", "/usr/lib/postgresql/15/bin/pg_config"), "--bindir").strip()
    copy = make_db(extension=False)
    (tmp_path / "dump.sql").write_text(_run(f"{bin}/pg_dump", cluster.dsn(db.name)))
    _run(f"{bin}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", tmp_path / "dump.sql", cluster.dsn(copy.name))
    assert copy.q(rows) == before
    copy.wait_state("subscription", "s", "paused")
    # the views of the restored targets are known as such
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        copy.q("DROP TABLE ref.names")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        copy.q("DROP VIEW kafka." + copy.value("SELECT relname FROM pg_class WHERE relname LIKE 'target\\_query\\_%%' LIMIT 1"))
    copy.q("SELECT kafka.drop_target('s', 't')")
    assert copy.value(VIEWS) == 1
    copy.q("SELECT kafka.drop_subscription('s')")
    assert copy.value(VIEWS) == 0


def test_notice_of_published_targets(db, topic):
    """A publisher of tables that a subscription writes, of which some have a query, says so."""
    tables(db)
    db.q("CREATE TABLE u (LIKE t INCLUDING ALL)")
    subscribe(db, topic, enabled=False)
    add(db, "t", QUERY)
    add(db, "u")
    db.q("CREATE PUBLICATION pub FOR TABLE t, u, names")
    seen = []
    db.connection.add_notice_handler(lambda d: seen.append(d.message_primary + (d.message_detail or "")))
    db.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', enabled => false)")
    assert sum('"s"' in notice for notice in seen) == 2, seen


def test_compacted_past(db, kafka):
    """Appending and merging from the past of a compacted topic, which may lack events, only when asked for."""
    topic = kafka.create_topic(config={"cleanup.policy": "compact"})
    db.q("CREATE TABLE log (id int); CREATE TABLE n (id int PRIMARY KEY, n bigint)")
    subscribe(db, topic, "before", enabled=False)
    query = "SELECT (after->>'id')::int AS id, count(*) AS n FROM batch GROUP BY 1"
    add(db, "log", name="before", mode="append")
    kafka.produce(topic, {"id": 1}, {"id": 1})
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refused:
        db.q("SELECT kafka.create_subscription('x', 'kafka', %s, 'log', 'json', 'append', enabled => false)", [topic])
    assert "compacted" in str(refused.value)
    db.q("SELECT kafka.create_subscription('y', 'kafka', %s, 'log', 'json', 'append', start => 'latest', enabled => false)", [topic])
    subscribe(db, topic, enabled=False)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refused:
        add(db, "n", query, mode="merge", merge={"n": "sum"})
    assert topic in str(refused.value) and "hydrate" in refused.value.diag.message_hint
    add(db, "n", query, mode="merge", merge={"n": "sum"}, options={"hydrate": False})
    assert db.q("SELECT name FROM kafka.subscription_status ORDER BY 1") == [("before",), ("s",), ("y",)]


ORDERS = """
CREATE TABLE orders (id int PRIMARY KEY, customer_id int NOT NULL, location text NOT NULL, amount numeric(10,2) NOT NULL,
                     ordered_at timestamptz NOT NULL);
CREATE TABLE journal (hour timestamptz, amount numeric);    -- an event each
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    INSERT INTO journal VALUES (date_bin('1 hour', new.ordered_at, '2000-01-01Z'), new.amount); RETURN NULL;
END$$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note();
CREATE PROCEDURE work(n int, keys int) LANGUAGE plpgsql AS $$
DECLARE k int; place text;
BEGIN
    FOR i IN 1..n LOOP
        k := 1 + floor(random() * keys);
        place := (ARRAY['Washington D.C.', 'Boston', 'Berlin', 'Paris'])[1 + floor(random() * 4)];
        IF random() < 0.2 THEN DELETE FROM orders WHERE id = k;
        ELSE
            INSERT INTO orders VALUES (k, 1 + floor(random() * 5), place, floor(random() * 1000) / 100,
                                       '2026-03-01Z'::timestamptz + random() * interval '6 hours')
            ON CONFLICT (id) DO UPDATE SET customer_id = excluded.customer_id, location = excluded.location,
                amount = excluded.amount;
        END IF;
        IF random() < 0.2 THEN COMMIT; END IF;
    END LOOP;
END $$;
CREATE TABLE customers (id int PRIMARY KEY, name text);
INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 4) i;  -- the fifth is not known
"""

FIVE = {  # target: columns of the table, the query over batch, the same over the source
    "customer_by_order": ("order_id int PRIMARY KEY, customer text",
        "SELECT (after->>'id')::int AS order_id, c.name AS customer FROM batch JOIN customers c ON c.id = (after->>'customer_id')::int",
        "SELECT o.id, c.name FROM orders o JOIN customers c ON c.id = o.customer_id"),
    "orders_by_customer": ("customer_id int, order_id int, amount numeric, ordered_at timestamptz, PRIMARY KEY (customer_id, order_id)",
        "SELECT (after->>'customer_id')::int AS customer_id, (after->>'id')::int AS order_id, (after->>'amount')::numeric AS amount, "
        "(after->>'ordered_at')::timestamptz AS ordered_at FROM batch",
        "SELECT customer_id, id, amount, ordered_at FROM orders"),
    "orders_by_location": ("location text, order_id int, customer text, PRIMARY KEY (location, order_id)",
        "SELECT after->>'location' AS location, (after->>'id')::int AS order_id, c.name AS customer "
        "FROM batch LEFT JOIN customers c ON c.id = (after->>'customer_id')::int",
        "SELECT location, o.id, name FROM orders o LEFT JOIN customers c ON c.id = o.customer_id"),
    "washington": ("order_id int PRIMARY KEY, amount numeric",
        "SELECT (after->>'id')::int AS order_id, (after->>'amount')::numeric AS amount FROM batch "
        "WHERE after->>'location' = 'Washington D.C.'",
        "SELECT id, amount FROM orders WHERE location = 'Washington D.C.'"),
    "per_hour": ("hour timestamptz PRIMARY KEY, events bigint, total numeric",
        "SELECT date_bin('1 hour', (after->>'ordered_at')::timestamptz, '2000-01-01Z') AS hour, count(*) AS events, "
        "sum((after->>'amount')::numeric) AS total FROM batch GROUP BY 1",
        "SELECT hour, count(*), sum(amount) FROM journal GROUP BY 1"),
}


@pytest.mark.parametrize("format", ["debezium", "json"])
def test_article_five_tables(db, format):
    """One topic of orders to five tables, while orders come, change place and customer, and go."""
    db.q(ORDERS)
    db.q("CREATE PUBLICATION pub FOR TABLE orders")
    options = {"topic.creation.default.config": {"cleanup.policy": "delete"}, "topic.creation.default.partitions": 3}
    if format == "debezium":
        options["decimal.handling.mode"] = "string"
    db.q("CALL work(300, 100)")
    db.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', format => %s, options => %s::jsonb)", format, json.dumps(options))
    db.wait_for_publisher("p")
    # what was before the snapshot is there once per row
    db.q("DELETE FROM journal; INSERT INTO journal SELECT date_bin('1 hour', ordered_at, '2000-01-01Z'), amount FROM orders")
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, format => %s, options => '{\"max_batch_rows\": 70}', enabled => false)",
         [f"{db.name}.public.orders"], format)
    for target, (columns, query, _) in FIVE.items():
        db.q(f"CREATE TABLE {target} ({columns})")
        merge = {"mode": "merge", "merge": {"events": "sum", "total": "sum"}} if target == "per_hour" else {}
        add(db, target, query, **merge)
    db.q("SELECT kafka.resume_subscription('s')")
    for _ in range(3):
        db.q("CALL work(500, 100)")
        db.wait_for_publisher("p")
        db.wait_for_subscription("s")
        for target, (_, _, source) in FIVE.items():
            for a, b in ((source, f"TABLE {target}"), (f"TABLE {target}", source)):
                assert db.q(f"({a}) EXCEPT ALL ({b})") == [], target
    assert db.value("SELECT count(*) FROM washington") > 5
