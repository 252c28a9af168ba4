"""Mode merge: what the query makes of each run is folded into the table, exactly once; windows close and go."""

import json
import random
import threading

import pytest

from conftest import wait_until
from pipelines import Pipeline, Worker
from test_append import CHANGES, pos
from test_query_targets import add_target, failed, settle, subscribe
from test_subscription import envelope

HOURS = ("SELECT date_bin('1 hour', (after->>'at')::timestamptz, '2000-01-01') AS hour, coalesce(after->>'place', '-') AS place, "
         "count(*) AS n, sum((after->>'amount')::numeric) AS total, max((after->>'amount')::numeric) AS most FROM batch GROUP BY 1, 2")
FOLD = {"n": "count", "total": "sum", "most": "max"}


@pytest.fixture
def topic(kafka):
    return kafka.create_topic()


def hours(db, **options):
    db.q("CREATE TABLE hours (hour timestamptz, place text, n bigint, total numeric, most numeric, PRIMARY KEY (hour, place))")
    if options:
        options["window"] = "hour"
    add_target(db, "hours", HOURS, mode="merge", merge=FOLD, options=options)


def event(at, place="a", amount=1, id=1):
    return {"id": id}, {"id": id, "at": at, "place": place, "amount": amount}


def test_windows(db, kafka, topic):
    """Totals per hour over several runs are those of all events; nulls are ignored."""
    subscribe(db, topic, options={"max_batch_rows": 70})
    hours(db)
    random.seed(4)
    events = [(f"2024-01-01 {random.randrange(24):02}:{random.randrange(60):02}+00", random.choice(["a", "b", None]),
               random.choice([None, 1, 2.5, 10])) for _ in range(1000)]
    for part in range(0, 1000, 250):
        kafka.produce_many(topic, [event(*e) for e in events[part:part + 250]])
    settle(db)
    db.q("CREATE TABLE e (at timestamptz, place text, amount numeric)")
    with db.connection.cursor() as c:
        c.executemany("INSERT INTO e VALUES (%s, %s, %s)", events)
    expected = db.q("SELECT date_bin('1 hour', at, '2000-01-01'), coalesce(place, '-'), count(*), sum(amount), max(amount) FROM e GROUP BY 1, 2 ORDER BY 1, 2")
    assert db.q("SELECT * FROM hours ORDER BY 1, 2") == expected


@pytest.mark.parametrize("kind", ["plain", "partitioned"])
def test_all_folds(db, kafka, topic, kind):
    """sum, min, max, count, first, last, or, and, of numbers, text, arrays and documents; by row and in groups."""
    db.q("CREATE TABLE t (k int PRIMARY KEY, s int, lo text, hi date, c bigint, f jsonb, l int[], o bool, a bool)" +
         (" PARTITION BY HASH (k); CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0)" if kind == "partitioned" else ""))
    subscribe(db, topic, options={"max_batch_rows": 3})
    add_target(db, "t", "SELECT (after->>'k')::int AS k, (after->>'x')::int AS s, after->>'t' AS lo, (after->>'d')::date AS hi, 1 AS c, "
                        "nullif(after->'j', 'null') AS f, (after->>'l')::int[] AS l, (after->>'b')::bool AS o, (after->>'b')::bool AS a FROM batch",
               mode="merge", merge=dict(s="sum", lo="min", hi="max", c="count", f="first", l="last", o="or", a="and"))
    def e(k, x, t, d, j, l, b):
        return None, dict(k=k, x=x, t=t, d=d, j=j, l=l, b=b)
    kafka.produce_many(topic, [
        e(1, 5, "m", "2024-01-05", None, "{1}", True), e(2, None, None, None, None, None, None),
        e(1, None, "c", None, {"x": 1}, "{2,3}", None), e(1, 7, "z", "2024-01-09", {"x": 2}, "{{1,2},{3,4}}", False),
        e(2, None, None, None, None, None, None), e(3, 1, "a", "2020-01-01", [1], "{}", False),
        e(1, -2, None, "2024-01-01", {"x": 3}, None, True), e(3, 1, "b", "2020-01-02", [2], "{5}", False)])
    settle(db)
    assert db.q("SELECT k, s, lo, hi::text, c, f, l::text, o, a FROM t ORDER BY k") == [
        (1, 10, "c", "2024-01-09", 4, {"x": 1}, "{{1,2},{3,4}}", True, False),
        (2, None, None, None, 2, None, None, None, None),
        (3, 2, "a", "2020-01-02", 2, [1], "{5}", False, False)]


def test_ops(db, kafka, topic):
    """A running balance: deletes count where the query reads op; tombstones, repeats and truncates never."""
    db.q("CREATE TABLE t (place text PRIMARY KEY, n int, total int)")
    subscribe(db, topic, format="debezium")
    add_target(db, "t", "SELECT coalesce(after, before)->>'place' AS place, sum(CASE op WHEN 'd' THEN -1 WHEN 'u' THEN 0 ELSE 1 END) AS n, "
                        "sum(coalesce((after->>'v')::int, 0) - coalesce((before->>'v')::int, 0)) AS total FROM batch GROUP BY 1",
               mode="merge", merge={"n": "sum", "total": "sum"})
    def row(v):
        return {"id": 1, "place": "x", "v": v}
    messages = [dict(key={"id": 1}, value=envelope("c", after=row(5)), headers=pos("00000000000000a1", "A", 0)),
                dict(key={"id": 1}, value=envelope("u", before=row(5), after=row(7)), headers=pos("00000000000000a1", "A", 1)),
                dict(key={"id": 1}, value=envelope("c", after=row(1)), headers=pos("00000000000000a1", "A", 2)),
                dict(key={"id": 1}, value=envelope("d", before=row(1)), headers=pos("00000000000000a1", "A", 3)),
                dict(key={"id": 1}, headers=pos("00000000000000a1", "A", 3)), dict(value=envelope("t"))]
    kafka.produce_many(topic, messages + messages[:4])
    settle(db)
    kafka.produce_many(topic, messages)
    settle(db)
    assert db.q("SELECT * FROM t") == [("x", 1, 7)]


def test_retain(db, kafka, topic):
    """Windows older than retain are deleted as the newest one advances, and do not come back."""
    subscribe(db, topic)
    hours(db, retain="3 hours", late="drop")
    def have():
        settle(db)
        return [h for (h,) in db.q("SELECT to_char(hour, 'DD HH24') || '=' || n FROM hours ORDER BY hour")]
    kafka.produce_many(topic, [event(f"2024-01-01 {h:02}:10+00") for h in range(6)])
    assert have() == ["01 02=1", "01 03=1", "01 04=1", "01 05=1"]
    kafka.produce_many(topic, [event("2024-01-01 01:59+00"), event("2024-01-01 02:00+00"), event("2024-01-01 05:00+00")])
    assert have() == ["01 02=2", "01 03=1", "01 04=1", "01 05=2"]
    kafka.produce_many(topic, [event("2024-01-02 00:00+00"), event("2024-01-01 05:00+00")])
    assert have() == ["02 00=1"]
    problem = db.wait("SELECT problem FROM kafka.problems WHERE problem ~ 'late'")
    assert problem == "2 late events were dropped since the worker started: their windows were closed"


def test_grace(db, kafka, topic):
    """Late events, in one run among others that are not, go to the dead letters with their window; a retry counts them."""
    subscribe(db, topic, enabled=False)
    hours(db, grace="1 hour")
    messages = [event("2024-01-01 05:30+00"), event("2024-01-01 04:10+00", "b"), event("2024-01-01 03:59+00", "late", id=7),
                event("2024-01-01 06:00+00"), event("2024-01-01 04:59+00", "late", id=8), event("2024-01-01 05:00+00", "b")]
    kafka.produce_many(topic, messages)
    db.q("SELECT kafka.resume_subscription('s')")
    settle(db)
    assert db.q("SELECT to_char(hour, 'HH24'), place, n FROM hours ORDER BY hour, place") == [
        ("04", "b", 1), ("05", "a", 1), ("05", "b", 1), ("06", "a", 1)]
    letters = db.q("SELECT \"offset\", stage, target::text, error FROM kafka.dead_letter ORDER BY 1")
    assert [l[:3] for l in letters] == [(2, "late", "hours"), (4, "late", "hours")]
    assert "its window begins at 2024-01-01 03:00:00, and those before 2024-01-01 04:00:00 are closed" in letters[0][3]
    # the first one is late in the next run, too, now by the table
    kafka.produce_many(topic, [event("2024-01-01 04:00+00", "late", id=9)])
    settle(db)
    assert db.value("SELECT count(*) FROM kafka.dead_letter") == 3
    db.q("SELECT kafka.retry_dead_letters('s')")
    db.wait("SELECT count(*) = 0 FROM kafka.dead_letter")
    assert db.q("SELECT to_char(hour, 'HH24'), n FROM hours WHERE place = 'late' ORDER BY hour") == [("03", 1), ("04", 2)]


def test_late_among_many(db, kafka, topic):
    """Late events are found in a run of thousands without holding memory for each of them."""
    subscribe(db, topic, enabled=False)
    hours(db, grace="1 hour")
    count = 8000
    late = {2500, 7999}
    kafka.produce_many(topic, [event("2024-01-01 05:00+00" if i else "2024-01-01 06:30+00") if i not in late
                               else event("2024-01-01 03:00+00", "late") for i in range(count)])
    db.q("SELECT kafka.resume_subscription('s')")
    pid = wait_until(lambda: db.value("SELECT pid FROM kafka.subscription_status"), what="a worker")
    most = 0
    def done():
        nonlocal most
        most = max(most, db.cluster.rss_kb(pid))
        return db.value("SELECT lag = 0 FROM kafka.subscription_status")
    wait_until(done, 30, 0.02, what="all events")
    assert db.q("SELECT to_char(hour, 'HH24'), place, n FROM hours ORDER BY hour") == [("05", "a", count - 3), ("06", "a", 1)]
    assert db.q("SELECT \"offset\" FROM kafka.dead_letter ORDER BY 1") == [(i,) for i in sorted(late)]
    assert most < 150 * 1024, f"{most} kB"


def test_all_are_late(db, kafka, topic):
    """The worst of runs: every other event is late."""
    subscribe(db, topic)
    hours(db, grace="1 hour", late="drop")
    kafka.produce_many(topic, [event("2024-01-01 05:00+00" if i % 2 else "2024-01-01 09:30+00") for i in range(6000)])
    settle(db)
    assert db.q("SELECT to_char(hour, 'HH24'), n FROM hours") == [("09", 3000)]


def test_message_at_fault(db, kafka, topic):
    """One event that the query cannot read is named; the others count once."""
    subscribe(db, topic, enabled=False)
    hours(db)
    kafka.produce_many(topic, [event("2024-01-01 05:30+00", amount="x" if i == 33 else 1) for i in range(100)])
    db.q("SELECT kafka.resume_subscription('s')")
    error = db.wait_state("subscription", "s", "error")["last_error"]
    assert "offset 33 cannot be applied" in error and "invalid input syntax for type numeric" in error
    assert db.value("SELECT n FROM hours") == 33
    db.q("SELECT kafka.seek_subscription('s', %s)", json.dumps({topic: {"0": 34}}))
    settle(db)
    assert db.value("SELECT n FROM hours") == 99


@pytest.mark.parametrize("query,merge,reason", [
    ("SELECT after->>'place' AS place, avg((after->>'amount')::numeric) AS n FROM batch GROUP BY 1", {"n": "sum"}, "cannot be folded"),
    ("SELECT after->>'place' AS place, count(DISTINCT after->>'id') AS n FROM batch GROUP BY 1", {"n": "sum"}, "cannot be folded"),
    ("SELECT after->>'place' AS place, count(*) AS n FROM batch GROUP BY 1 HAVING count(*) > 1", {"n": "sum"}, "HAVING"),
    ("SELECT after->>'place' AS place, count(*) AS n FROM batch GROUP BY 1 ORDER BY 2 LIMIT 1", {"n": "sum"}, "LIMIT"),
    ("SELECT after->>'place' AS place, max((after->>'amount')::numeric) AS n FROM batch GROUP BY 1", {"n": "sum"}, "cannot be folded"),
    ("SELECT place, n FROM (SELECT after->>'place' AS place, count(*) AS n FROM batch GROUP BY 1) x", {"n": "sum"}, "aggregates"),
    ("SELECT b.after->>'place' AS place, count(*) AS n FROM batch b JOIN batch c USING (topic) GROUP BY 1", {"n": "sum"}, "more than once"),
])
def test_refused(db, kafka, topic, query, merge, reason):
    import psycopg
    db.q("CREATE TABLE t (place text PRIMARY KEY, n numeric)")
    subscribe(db, topic)
    with pytest.raises(psycopg.Error, match="cannot be kept exact in mode merge") as e:
        add_target(db, "t", query, mode="merge", merge=merge)
    assert reason in str(e.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_exactly_once_under_kills(private_cluster, kafka, workers):
    """The sum over all windows is the number of events, though publisher and subscription are killed again and again."""
    p = Pipeline(private_cluster, kafka, format="debezium", table=CHANGES, tables="acct")
    try:
        p.target.q("SELECT kafka.drop_subscription('s')")
        p.target.q("SELECT kafka.create_subscription('s', 'kafka', %s, workers => %s)", [p.topic], workers)
        p.target.q("CREATE TABLE windows (w bigint PRIMARY KEY, n bigint, total numeric)")
        add_target(p.target, "windows", "SELECT (after->>'version')::bigint / 100 AS w, count(*) AS n, sum((after->>'version')::bigint) AS total "
                                        "FROM batch GROUP BY 1", mode="merge", merge={"n": "count", "total": "sum"})
        with Worker(p, batch=100):
            for victim in (p.target, p.source, p.target):
                before = p.target.value("SELECT coalesce(sum(n), 0) FROM windows")
                p.target.wait("SELECT sum(n) > %s FROM windows", before + 150)
                p.kill_worker(victim)
        p.settle()
        assert p.target.q("SELECT w, n, total FROM windows ORDER BY w") == p.source.q(
            "SELECT version / 100, count(*), sum(version) FROM journal WHERE version IS NOT NULL GROUP BY 1 ORDER BY 1")
    finally:
        p.drop()
