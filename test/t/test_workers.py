"""Several workers of one subscription divide its partitions among them: nothing is lost, nothing is applied twice, the
messages of a key keep their order."""


import json

import psycopg
import pytest

from conftest import wait_until
from test_subscription import subscribe, table
from test_subscription_faults import assert_exactly_once, audited, rows

WORKERS = "SELECT ordinal, pid, state, rows FROM kafka.worker_status() WHERE kind = 'subscription' ORDER BY 1"


def workers(db):
    return db.dicts(WORKERS)


def alter(db, **options):
    db.q("SELECT kafka.alter_subscription('s', %s::jsonb)", json.dumps(options))


def wait_workers(db, count):
    def there():
        found = workers(db)
        assert [w["ordinal"] for w in found] == list(range(count)), found
        assert all(w["state"] == "streaming" for w in found), found
        return found
    return wait_until(there)


def test_partitions_are_divided(db, kafka):
    topic = kafka.create_topic(partitions=4)
    audited(db)
    kafka.produce_many(topic, rows(20000))
    subscribe(db, topic, "t", workers=3)
    db.wait_for_subscription("s")
    assert_exactly_once(db, 20000)
    found = wait_workers(db, 3)
    assert all(w["rows"] > 0 for w in found) and sum(w["rows"] for w in found) == 20000
    # one row per subscription, of all its workers
    def shown():
        row = db.state("subscription", "s")
        assert (row["state"], row["workers"], row["lag"], row["rows"]) == ("streaming", 3, 0, 20000), row
        assert row["pids"] == [w["pid"] for w in found] and row["pid"] == found[0]["pid"]
        return True
    wait_until(shown)
    assert db.value("SELECT count(*) FROM kafka.subscription_offsets WHERE lag = 0") == 4
    assert db.q("SELECT * FROM kafka.problems") == []
    # each of them tells who it is, and has an origin of its own, which goes with it
    assert db.value("SELECT count(DISTINCT backend_type || application_name) FROM pg_stat_activity WHERE pid = ANY (%s)",
                    [w["pid"] for w in found]) == 3
    origins = "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'pg\\_kafka\\_sync\\_' || " \
              "(SELECT oid FROM pg_database WHERE datname = current_database()) || '\\_%'"
    assert db.value(origins) == 3
    alter(db, workers=1)
    wait_workers(db, 1)
    db.wait(origins.replace("count(*)", "count(*) = 1"))
    db.q("SELECT kafka.drop_subscription('s')")
    db.wait(origins.replace("count(*)", "count(*) = 0"))


def test_more_workers_than_partitions(db, kafka):
    """One without partitions is up to date; one gets those that are added."""
    topic = kafka.create_topic(partitions=1)
    audited(db)
    subscribe(db, topic, "t", workers=3)
    kafka.produce_many(topic, rows(10))
    db.wait_for_subscription("s")
    wait_workers(db, 3)
    db.wait("SELECT lag = 0 FROM kafka.subscription_status")
    kafka.add_partitions(topic, 3)
    kafka.produce_many(topic, [dict(key={"id": i}, value={"id": i, "v": i}, partition=i % 3) for i in range(10, 310)])
    db.wait("SELECT count(*) = 310 FROM t")
    assert_exactly_once(db, 310)
    assert all(w["rows"] > 0 for w in workers(db))


def test_many_topics_are_divided(db, kafka):
    """Topics of one partition each do not all go to the first worker."""
    topics = [kafka.create_topic() for _ in range(12)]
    audited(db)
    subscribe(db, topics, "t", workers=2)
    for n, topic in enumerate(topics):
        kafka.produce_many(topic, rows(10, n * 10))
    db.wait_for_subscription("s")
    assert_exactly_once(db, 120)
    assert all(w["rows"] > 0 for w in workers(db))


def test_count_changes_in_a_backlog(db, kafka):
    """Workers come and go in the middle of a backlog: each key's versions are applied in their order, each once."""
    topic = kafka.create_topic(partitions=6)
    table(db, "id int PRIMARY KEY, v int")
    db.q("""CREATE TABLE seen (n bigserial, id int, v int);
            CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS
              $$ BEGIN INSERT INTO public.seen (id, v) VALUES (NEW.id, NEW.v); RETURN NULL; END $$;
            CREATE TRIGGER seen AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION seen()""")
    # a key comes once in a batch of 200
    kafka.produce_many(topic, [({"id": i % 2000}, {"id": i % 2000, "v": i // 2000}) for i in range(60000)])
    subscribe(db, topic, "t", workers=1, options={"max_batch_rows": 200, "max_rows_per_second": 20000})
    for reached, count in ((3000, 3), (15000, 2), (25000, 6), (40000, 1)):
        db.wait("SELECT sum(next_offset) >= %s FROM kafka.subscription_position", reached)
        alter(db, workers=count)
    db.wait_for_subscription("s", 60)
    wait_workers(db, 1)
    assert db.value("SELECT count(*) FROM seen") == 60000
    assert db.value("SELECT count(*) FROM (SELECT v <= lag(v) OVER (PARTITION BY id ORDER BY n) AS back FROM seen) s "
                    "WHERE back") == 0
    assert db.one("SELECT count(*), min(v), max(v) FROM t") == (2000, 29, 29)
    assert db.state("subscription", "s")["last_error"] is None


def test_one_ends_the_others_go_on(db, kafka):
    topic = kafka.create_topic(partitions=3)
    audited(db)
    kafka.produce_many(topic, rows(30000))
    subscribe(db, topic, "t", workers=3, options={"max_batch_rows": 200, "max_rows_per_second": 15000})
    db.wait("SELECT min(next_offset) >= 500 FROM kafka.subscription_position")
    before = {w["ordinal"]: w["pid"] for w in workers(db)}
    db.q("SELECT pg_terminate_backend(%s)", before[1])
    wait_until(lambda: workers(db)[1]["pid"] not in (None, before[1]))
    db.wait_for_subscription("s")
    assert_exactly_once(db, 30000)
    after = {w["ordinal"]: w["pid"] for w in workers(db)}
    assert after[0] == before[0] and after[2] == before[2]


def test_one_in_error_the_others_go_on(db, kafka):
    topic = kafka.create_topic(partitions=3)
    audited(db)
    subscribe(db, topic, "t", workers=3)
    kafka.produce(topic, b"no json", {"id": 1}, partition=1)
    row = db.wait_state("subscription", "s", "error")
    assert f'topic "{topic}", partition 1, offset 0' in row["last_error"]
    kafka.produce_many(topic, [dict(key={"id": i}, value={"id": i, "v": i}, partition=0 if i < 50 else 2) for i in range(100)])
    db.wait("SELECT count(*) = 100 FROM t")
    row = db.state("subscription", "s")
    assert row["state"] == "error" and row["rows"] == 100
    assert len(db.q("SELECT * FROM kafka.problems")) == 1
    assert db.value("SELECT kafka.wait_for_subscription('s', '1 s')") is False
    db.q("SELECT kafka.seek_subscription('s', %s)", f'{{"{topic}": {{"1": 1}}}}')
    db.wait_for_subscription("s")
    db.wait_state("subscription", "s", "streaming")
    assert db.q("SELECT * FROM kafka.problems") == []


def test_same_rows_from_two_partitions(db, kafka):
    """Two workers that write the same rows in opposite order get into each other's way, and both get through."""
    topic = kafka.create_topic(partitions=2)
    audited(db)
    messages = []
    for turn in range(10):
        keys = list(range(300))
        messages += [dict(key={"id": k}, value={"id": k, "v": turn}, partition=0) for k in keys]
        messages += [dict(key={"id": k}, value={"id": k, "v": turn}, partition=1) for k in reversed(keys)]
    kafka.produce_many(topic, messages)
    subscribe(db, topic, "t", workers=2, options={"max_batch_rows": 150})
    db.wait_for_subscription("s")
    assert db.one("SELECT count(*), min(v), max(v) FROM t") == (300, 9, 9)
    assert db.value("SELECT sum(next_offset) FROM kafka.subscription_position") == 6000
    assert db.state("subscription", "s")["restarts"] == 0


def test_seek_pause_resume(db, kafka):
    topic = kafka.create_topic(partitions=4)
    table(db, "id int PRIMARY KEY, v int")
    kafka.produce_many(topic, rows(1000))
    subscribe(db, topic, "t", workers=2, enabled=False)
    assert db.state("subscription", "s")["state"] == "paused"
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")
    db.q("TRUNCATE t")
    db.q("SELECT kafka.seek_subscription('s', 'earliest')")
    db.wait_for_subscription("s")
    assert db.value("SELECT count(*) FROM t") == 1000
    db.q("SELECT kafka.pause_subscription('s')")
    wait_until(lambda: all(w["pid"] is None for w in workers(db)))
    row = db.wait_state("subscription", "s", "paused")
    assert row["pids"] == [] and row["pid"] is None


def test_rate_is_shared(db, kafka):
    topic = kafka.create_topic(partitions=4)
    table(db, "id int PRIMARY KEY, v int")
    kafka.produce_many(topic, rows(600))
    subscribe(db, topic, "t", workers=2, options={"max_rows_per_second": 300})
    db.wait("SELECT count(*) > 0 FROM t")
    began = db.value("SELECT clock_timestamp()")
    db.wait_for_subscription("s")
    assert 1 < (db.value("SELECT clock_timestamp()") - began).total_seconds() < 10


def test_publisher_knows_all_of_them(db, kafka):
    """Rows that any of the workers wrote are not published again."""
    topic = kafka.create_topic(partitions=4)
    table(db, "id int PRIMARY KEY, v int")
    db.q("CREATE PUBLICATION pub FOR TABLE t")
    db.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', format => 'json', snapshot => 'never')")
    subscribe(db, topic, "t", workers=3)
    kafka.produce_many(topic, rows(200))
    db.wait_for_subscription("s")
    db.q("INSERT INTO t VALUES (1000, 0)")
    db.wait_for_publisher("p")
    assert [m.json_key["id"] for m in kafka.consume(f"{db.name}.public.t")] == [1000]


@pytest.mark.parametrize("count", [0, -1, 100000])
def test_bad_counts(db, kafka, count):
    topic = kafka.create_topic()
    table(db)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"invalid number of workers: {count}"):
        subscribe(db, topic, "t", workers=count)
    subscribe(db, topic, "t", enabled=False)
    for value in (count, "many", 1.5, None, [2]):
        if value is None:
            alter(db, workers=2)
            alter(db, workers=None)     # the default
            assert db.state("subscription", "s")["workers"] == 1
            continue
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="workers"):
            alter(db, workers=value)


@pytest.mark.parametrize("private_cluster", [["pg_kafka_sync.max_workers = 3"]], indirect=True)
def test_no_room(private_cluster, kafka):
    """One that finds no place in shared memory is told, and gets it when it is free."""
    db = private_cluster.create_database()
    db.create_server(kafka)
    topic = kafka.create_topic(partitions=3)
    table(db, "id int PRIMARY KEY, v int")
    subscribe(db, topic, "t", workers=2)
    wait_workers(db, 2)
    subscribe(db, topic, "t", name="second", workers=2)
    db.wait("SELECT count(*) = 1 FROM kafka.problems WHERE name = 'second' AND problem LIKE 'no room%%'")
    assert db.state("subscription", "second")["state"] == "waiting"
    kafka.produce_many(topic, rows(100))
    db.wait_for_subscription("s")
    alter(db, workers=1)
    db.wait_for_subscription("second")
    db.wait_state("subscription", "second", "streaming")


def test_databases_share_a_topic(db, make_db, kafka):
    """Two databases with a part of the partitions each; an open range takes those that are added."""
    topic = kafka.create_topic(partitions=4)
    other = make_db()
    other.create_server(kafka)
    for database, spec in ((db, "0-1"), (other, "2-")):
        audited(database)
        subscribe(database, topic, "t", workers=2, options={"partitions": spec, "group.id": f"shared-{topic}"})
    kafka.produce_many(topic, rows(2000))
    for database in (db, other):
        database.wait_for_subscription("s")
    ids = [{i for (i,) in database.q("SELECT id FROM t")} for database in (db, other)]
    assert not ids[0] & ids[1] and ids[0] | ids[1] == set(range(2000))
    kafka.add_partitions(topic, 5)
    kafka.produce(topic, {"id": 5000, "v": 0}, {"id": 5000}, partition=4)
    other.wait("SELECT count(*) = 1 FROM t WHERE id = 5000")
    assert db.value("SELECT count(*) FROM kafka.subscription_position") == 2
    # one group shows them all
    db.wait("SELECT count(*) = 5 AND sum(lag) = 0 FROM kafka.consumer_lag('kafka', %s)", f"shared-{topic}")


def test_positions_fill_their_page(db, kafka):
    """Many small transactions while an old snapshot keeps their dead row versions: positions leave their page and are
    found by the index all the same."""
    topic = kafka.create_topic(partitions=2)
    audited(db)
    with db.connect(autocommit=False) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM t")
        kafka.produce_many(topic, rows(800))
        subscribe(db, topic, "t", options={"max_batch_rows": 1})
        db.wait_for_subscription("s")
        assert db.value("SELECT pg_relation_size('kafka.subscription_position')") > 8192
    assert_exactly_once(db, 800)
    with db.connect() as connection:
        connection.execute("SET enable_seqscan = off")
        assert connection.execute("SELECT sum(next_offset) FROM kafka.subscription_position WHERE subscription_id = "
                                  "(SELECT id FROM kafka.subscription)").fetchone()[0] == 800
    kafka.produce_many(topic, rows(10, 800))
    db.wait_for_subscription("s")
    assert_exactly_once(db, 810)
