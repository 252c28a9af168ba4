"""Publishers: what each change becomes, which changes, under which key, in which topic."""


import pytest

from conftest import wait_until
from publisher_util import check_positions, create, prefix, state_of, sync, table_state


def events(kafka, topic):
    """(key, op, before, after) of a debezium topic; (key, None) for tombstones."""
    return [(m.json_key, None) if m.value is None else
            (m.json_key, m.json["op"], m.json["before"], m.json["after"]) for m in kafka.consume(topic)]


def test_every_operation_debezium(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    create(db, "p", "FOR TABLE t", p, format="debezium")
    db.q("INSERT INTO t VALUES (1, 'one'), (2, 'two')")
    db.q("UPDATE t SET v = 'uno' WHERE id = 1")
    db.q("UPDATE t SET id = 3 WHERE id = 2")
    db.q("DELETE FROM t WHERE id = 1")
    sync(db, "p")
    topic = f"{p}.public.t"
    assert sorted(map(str, events(kafka, topic))) == sorted(map(str, [
        ({"id": 1}, "c", None, {"id": 1, "v": "one"}),
        ({"id": 2}, "c", None, {"id": 2, "v": "two"}),
        ({"id": 1}, "u", None, {"id": 1, "v": "uno"}),
        ({"id": 2}, "d", {"id": 2, "v": None}, None), ({"id": 2}, None),
        ({"id": 3}, "c", None, {"id": 3, "v": "two"}),
        ({"id": 1}, "d", {"id": 1, "v": None}, None), ({"id": 1}, None)]))
    messages = kafka.consume(topic)
    check_positions(messages)
    rekeyed = [m for m in messages if m.header("__debezium.newkey") or m.header("__debezium.oldkey")]
    assert [(m.json["op"], m.header("__debezium.newkey"), m.header("__debezium.oldkey")) for m in
            sorted(rekeyed, key=lambda m: m.header("pg_kafka_sync.pos"))] == [
        ("d", b'{"id":3}', None), ("c", None, b'{"id":2}')]
    assert kafka.topic_config(topic)["cleanup.policy"] == "compact"


def test_every_operation_json(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    create(db, "p", "FOR TABLE t", p)
    db.q("INSERT INTO t VALUES (1, 'one')")
    db.q("UPDATE t SET v = 'uno' WHERE id = 1")
    db.q("UPDATE t SET id = 2 WHERE id = 1")
    db.q("DELETE FROM t WHERE id = 2")
    sync(db, "p")
    messages = kafka.consume(f"{p}.public.t")
    assert sorted((m.header("pg_kafka_sync.pos").split(b"/", 1)[1], m.json_key, m.json) for m in messages
                  ) == sorted((m.header("pg_kafka_sync.pos").split(b"/", 1)[1], k, v) for m, (k, v) in zip(
                      sorted(messages, key=lambda m: m.header("pg_kafka_sync.pos")),
                      [({"id": 1}, {"id": 1, "v": "one"}), ({"id": 1}, {"id": 1, "v": "uno"}), ({"id": 1}, None),
                       ({"id": 2}, {"id": 2, "v": "uno"}), ({"id": 2}, None)]))
    assert state_of(messages) == {}


def test_timestamp_is_commit_time(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    create(db, "p", "FOR TABLE t", p)
    with db.connect(autocommit=False) as c:
        c.execute("INSERT INTO t VALUES (1)")
        wait_until(lambda: c.execute("SELECT clock_timestamp() > now() + interval '0.5 s'").fetchone()[0])
        before = c.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").fetchone()[0]
        c.commit()
        after = c.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").fetchone()[0]
    sync(db, "p")
    (message,) = kafka.consume(f"{p}.public.t")
    assert before - 1 <= message.timestamp <= after + 1


def test_rollback_and_savepoints(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    create(db, "p", "FOR TABLE t", p)
    with db.connect(autocommit=False) as c:
        c.execute("INSERT INTO t VALUES (1, 'gone')")
        c.rollback()
        c.execute("INSERT INTO t VALUES (2, 'kept')")
        c.execute("SAVEPOINT a")
        c.execute("INSERT INTO t VALUES (3, 'gone')")
        c.execute("ROLLBACK TO a")
        c.execute("SAVEPOINT b")
        c.execute("INSERT INTO t VALUES (4, 'kept too')")
        c.execute("RELEASE b")
        c.commit()
    sync(db, "p")
    assert set(state_of(kafka.consume(f"{p}.public.t"))) == {2, 4}


def test_unchanged_toast(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, n int, big text)")
    db.q("CREATE TABLE f (id int PRIMARY KEY, n int, big text)")
    db.q("ALTER TABLE t ALTER big SET STORAGE EXTERNAL; ALTER TABLE f ALTER big SET STORAGE EXTERNAL")
    db.q("ALTER TABLE f REPLICA IDENTITY FULL")
    create(db, "p", "FOR TABLE t, f", p)
    create(db, "d", "FOR TABLE t, f", p + "d", format="debezium")
    for table in ("t", "f"):
        db.q(f"INSERT INTO {table} VALUES (1, 1, repeat('x', 5000))")
        db.q(f"UPDATE {table} SET n = 2")
    sync(db, "p")
    sync(db, "d")
    assert [m.json for m in kafka.consume(f"{p}.public.t")][1] == {"id": 1, "n": 2}
    assert [m.json for m in kafka.consume(f"{p}.public.f")][1] == {"id": 1, "n": 2, "big": "x" * 5000}
    assert [m.json for m in kafka.consume(f"{p}d.public.t")][1]["after"]["big"] == "__debezium_unavailable_value"
    assert [m.json for m in kafka.consume(f"{p}d.public.f")][1]["after"]["big"] == "x" * 5000


def test_partitions_as_root(db, kafka):
    p = prefix()
    db.q("""CREATE TABLE r (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
            CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (100);
            CREATE TABLE r2 (v text, dropped int, id int NOT NULL);
            ALTER TABLE r2 DROP dropped;
            ALTER TABLE r ATTACH PARTITION r2 FOR VALUES FROM (100) TO (200)""")
    create(db, "p", "FOR TABLE r WITH (publish_via_partition_root)", p)
    db.q("INSERT INTO r VALUES (1, 'one'), (101, 'second')")
    db.q("UPDATE r SET v = 'two' WHERE id = 101")
    db.q("UPDATE r SET id = 102 WHERE id = 1")
    sync(db, "p")
    assert state_of(kafka.consume(f"{p}.public.r")) == {101: {"id": 101, "v": "two"}, 102: {"id": 102, "v": "one"}}
    assert not {f"{p}.public.r1", f"{p}.public.r2"} & kafka.topics()


def test_partitions_as_themselves(db, kafka):
    p = prefix()
    db.q("""CREATE TABLE r (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
            CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (100);
            CREATE TABLE r2 PARTITION OF r FOR VALUES FROM (100) TO (200)""")
    create(db, "p", "FOR TABLE r", p)
    db.q("INSERT INTO r VALUES (1, 'one'), (101, 'second')")
    sync(db, "p")
    assert state_of(kafka.consume(f"{p}.public.r1")) == {1: {"id": 1, "v": "one"}}
    assert state_of(kafka.consume(f"{p}.public.r2")) == {101: {"id": 101, "v": "second"}}
    assert f"{p}.public.r" not in kafka.topics()


def test_row_filter_and_column_list(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, secret text, n int)")
    db.q("ALTER TABLE t REPLICA IDENTITY FULL")
    db.q("CREATE TABLE c (id int PRIMARY KEY, secret text, n int)")
    create(db, "p", "FOR TABLE t WHERE (n > 10), c (id, n)", p)
    db.q("INSERT INTO t VALUES (1, 's', 5), (2, 's', 20)")
    db.q("UPDATE t SET n = 30 WHERE id = 1")       # comes in
    db.q("UPDATE t SET n = 1 WHERE id = 2")        # leaves
    db.q("INSERT INTO c VALUES (1, 's', 7)")
    sync(db, "p")
    messages = kafka.consume(f"{p}.public.t")
    assert state_of(messages) == {1: {"id": 1, "secret": "s", "n": 30}}
    assert len(messages) == 3
    assert state_of(kafka.consume(f"{p}.public.c")) == {1: {"id": 1, "n": 7}}


def test_alter_publication_while_running(db, kafka):
    p = prefix()
    db.q("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text)")
    create(db, "p", "FOR TABLE a", p)
    with db.connect(autocommit=True) as c:
        c.execute("INSERT INTO b VALUES (1, 'before')")
        c.execute("ALTER PUBLICATION pub_p ADD TABLE b")
        c.execute("INSERT INTO b VALUES (2, 'member')")
        c.execute("ALTER PUBLICATION pub_p SET TABLE a, b (id)")
        c.execute("INSERT INTO b VALUES (3, 'hidden')")
        c.execute("ALTER PUBLICATION pub_p DROP TABLE b")
        c.execute("INSERT INTO b VALUES (4, 'after')")
        c.execute("ALTER PUBLICATION pub_p SET (publish = 'delete')")
        c.execute("INSERT INTO a VALUES (1, 'no')")
        c.execute("ALTER PUBLICATION pub_p SET (publish = 'insert, delete')")
        c.execute("INSERT INTO a VALUES (2, 'yes')")
    sync(db, "p")
    assert state_of(kafka.consume(f"{p}.public.b")) == {2: {"id": 2, "v": "member"}, 3: {"id": 3}}
    assert state_of(kafka.consume(f"{p}.public.a")) == {2: {"id": 2, "v": "yes"}}


def test_all_tables_and_schema(db, kafka):
    p = prefix()
    db.q("CREATE SCHEMA s1; CREATE SCHEMA s2; CREATE TABLE s1.t (id int PRIMARY KEY)")
    create(db, "everything", "FOR ALL TABLES", p)
    create(db, "schema", "FOR TABLES IN SCHEMA s2", p + "s")
    db.q("CREATE TABLE s2.\"Odd name ü\" (id int PRIMARY KEY)")
    db.q("CREATE UNLOGGED TABLE s2.u (id int PRIMARY KEY); INSERT INTO s2.u VALUES (1)")
    db.q("INSERT INTO s1.t VALUES (1); INSERT INTO s2.\"Odd name ü\" VALUES (2)")
    sync(db, "everything")
    sync(db, "schema")
    assert set(state_of(kafka.consume(f"{p}.s1.t"))) == {1}
    assert set(state_of(kafka.consume(f"{p}.s2.Odd_name__"))) == {2}
    assert set(state_of(kafka.consume(f"{p}s.s2.Odd_name__"))) == {2}
    mine = {t for t in kafka.topics() if t.startswith(p)}
    assert mine == {f"{p}.s1.t", f"{p}.s2.Odd_name__", f"{p}s.s2.Odd_name__"}


def test_ddl_in_the_middle(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text, w int)")
    create(db, "p", "FOR TABLE t", p)
    db.q("INSERT INTO t VALUES (1, 'a', 1)")
    db.q("ALTER TABLE t ADD x int DEFAULT 7")
    db.q("INSERT INTO t VALUES (2, 'b', 2)")
    db.q("ALTER TABLE t DROP w; ALTER TABLE t RENAME v TO vv")
    db.q("INSERT INTO t VALUES (3, 'c')")
    with db.connect(autocommit=False) as c:
        c.execute("INSERT INTO t VALUES (4, 'd')")
        c.execute("ALTER TABLE t ALTER vv TYPE varchar(10)")
        c.execute("ALTER TABLE t ADD y text GENERATED ALWAYS AS (vv || '!') STORED")
        c.execute("INSERT INTO t VALUES (5, 'e')")
        c.commit()
    sync(db, "p")
    assert state_of(kafka.consume(f"{p}.public.t")) == {
        1: {"id": 1, "v": "a", "w": 1}, 2: {"id": 2, "v": "b", "w": 2, "x": 7}, 3: {"id": 3, "vv": "c", "x": 7},
        4: {"id": 4, "vv": "d", "x": 7}, 5: {"id": 5, "vv": "e", "x": 7}}


def test_message_keys(db, kafka):
    p = prefix()
    db.q("""CREATE TABLE pk (b int, a int, v text, PRIMARY KEY (a, b));
            CREATE TABLE ix (a int, b int NOT NULL, v text); CREATE UNIQUE INDEX ix_b ON ix (b);
            ALTER TABLE ix REPLICA IDENTITY USING INDEX ix_b;
            CREATE TABLE fk (a int, b int, v text); ALTER TABLE fk REPLICA IDENTITY FULL;
            CREATE TABLE unkeyed (a int)""")
    create(db, "p", "FOR TABLE pk, ix, fk, unkeyed WITH (publish = 'insert, update, delete')", p, format="debezium")
    db.q("SELECT kafka.set_topic('p', 'fk', key => '{b,a}')")
    db.q("INSERT INTO pk VALUES (1, 2, 'x'); INSERT INTO ix VALUES (1, 2, 'x'); INSERT INTO fk VALUES (1, 2, 'x')")
    db.q("INSERT INTO unkeyed VALUES (1)")
    db.q("UPDATE fk SET a = 3")
    sync(db, "p")
    assert kafka.consume(f"{p}.public.pk")[0].key == b'{"a":2,"b":1}'
    assert kafka.consume(f"{p}.public.ix")[0].key == b'{"b":2}'
    assert sorted(m.key for m in kafka.consume(f"{p}.public.fk")) == [b'{"b":2,"a":1}'] * 3 + [b'{"b":2,"a":3}']
    assert kafka.consume(f"{p}.public.unkeyed")[0].key is None
    assert kafka.topic_config(f"{p}.public.unkeyed")["cleanup.policy"] == "delete"
    assert kafka.topic_config(f"{p}.public.ix")["cleanup.policy"] == "compact"


def test_unkeyed_is_refused_for_json(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (a int)")
    create(db, "p", "FOR TABLE t WITH (publish = 'insert')", p)
    db.q("INSERT INTO t VALUES (1)")
    row = db.wait_state("publisher", "p", "error")
    assert 'table "public.t" has no message key' in row["last_error"]
    db.q("""SELECT kafka.alter_publisher('p', '{"allow_unkeyed": true}')""")
    # the definition at the place of the change still refuses it: only what comes later is allowed
    db.wait_state("publisher", "p", "error")


def test_key_lost_by_alter_table(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (a int, b int); ALTER TABLE t REPLICA IDENTITY FULL")
    create(db, "p", "FOR TABLE t", p)
    db.q("SELECT kafka.set_topic('p', 't', key => '{b}')")
    db.q("INSERT INTO t VALUES (1, 2)")
    sync(db, "p")
    db.q("CREATE UNIQUE INDEX i ON t (a); ALTER TABLE t ALTER a SET NOT NULL; ALTER TABLE t REPLICA IDENTITY USING INDEX i")
    db.q("INSERT INTO t VALUES (2, 3)")
    row = db.wait_state("publisher", "p", "error")
    assert "does not cover its message key" in row["last_error"] and "REPLICA IDENTITY FULL" in row["last_error"]


def test_set_topic_takes_effect_at_its_place(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    create(db, "p", "FOR TABLE t", p)
    db.q("SELECT kafka.pause_publisher('p')")
    db.wait_state("publisher", "p", "paused")
    db.q("INSERT INTO t VALUES (1, 'old place')")
    db.q("SELECT kafka.set_topic('p', 't', %s)", f"{p}-other")
    db.q("INSERT INTO t VALUES (2, 'new place')")
    db.q("SELECT kafka.resume_publisher('p')")
    sync(db, "p")
    assert set(state_of(kafka.consume(f"{p}.public.t"))) == {1}
    assert set(state_of(kafka.consume(f"{p}-other"))) == {2}


def test_alter_publisher_takes_effect_at_its_place(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, n numeric(5,2))")
    create(db, "p", "FOR TABLE t", p, format="debezium", options='{"decimal.handling.mode": "string"}')
    db.q("SELECT kafka.pause_publisher('p')")
    db.wait_state("publisher", "p", "paused")
    db.q("INSERT INTO t VALUES (1, 1.5)")
    db.q("""SELECT kafka.alter_publisher('p', '{"decimal.handling.mode": "double"}')""")
    db.q("INSERT INTO t VALUES (2, 2.5)")
    db.q("SELECT kafka.resume_publisher('p')")
    sync(db, "p")
    rows = {m.json_key["id"]: m.json["after"]["n"] for m in kafka.consume(f"{p}.public.t")}
    assert rows == {1: "1.50", 2: 2.5}


def test_two_tables_one_topic(db, kafka):
    p = prefix()
    db.q('CREATE TABLE "a-b" (id int PRIMARY KEY); CREATE TABLE "a b" (id int PRIMARY KEY); CREATE TABLE "a_b" (id int PRIMARY KEY)')
    create(db, "p", 'FOR TABLE "a-b"', p)
    db.q('ALTER PUBLICATION pub_p ADD TABLE "a b"')
    db.q('INSERT INTO "a b" VALUES (1)')
    sync(db, "p")
    db.q('ALTER PUBLICATION pub_p ADD TABLE "a_b"')
    db.q('INSERT INTO "a_b" VALUES (1)')
    row = db.wait_state("publisher", "p", "error")
    assert "would both be published to topic" in row["last_error"] and "set_topic" in row["last_error"]


def test_drop_and_recreate_table(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    create(db, "p", "FOR ALL TABLES", p)
    db.q("INSERT INTO t VALUES (1, 'a'); ALTER TABLE t RENAME TO t2; CREATE TABLE t (id int PRIMARY KEY, w int)")
    db.q("INSERT INTO t VALUES (2, 3); INSERT INTO t2 VALUES (4, 'b'); DROP TABLE t, t2; CREATE TABLE t (id int PRIMARY KEY)")
    db.q("INSERT INTO t VALUES (5)")
    sync(db, "p")
    assert state_of(kafka.consume(f"{p}.public.t")) == {1: {"id": 1, "v": "a"}, 2: {"id": 2, "w": 3}, 5: {"id": 5}}
    assert state_of(kafka.consume(f"{p}.public.t2")) == {4: {"id": 4, "v": "b"}}


def test_truncate(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    create(db, "skips", "FOR TABLE t", p, format="debezium")
    create(db, "tells", "FOR TABLE t", p + "e", format="debezium",
           options='{"truncate": "event", "topic.creation.default.partitions": 3}')
    create(db, "stops", "FOR TABLE t", p + "s", options='{"truncate": "error"}')
    db.q("INSERT INTO t VALUES (1); TRUNCATE t; INSERT INTO t VALUES (2)")
    sync(db, "skips")
    sync(db, "tells")
    assert [m.json["op"] for m in kafka.consume(f"{p}.public.t")] == ["c", "c"]
    assert db.state("publisher", "skips")["skipped_truncates"] == 1
    told = kafka.consume(f"{p}e.public.t")
    assert {m.partition for m in told if m.json["op"] == "t"} == {0, 1, 2}
    assert len(told) == 5
    assert "was truncated" in db.wait_state("publisher", "stops", "error")["last_error"]


def test_partitioning_as_java(db, kafka):
    """murmur2 over the pinned count: the same partitions as Java clients choose."""
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    create(db, "p", "FOR TABLE t", p, options='{"topic.creation.default.partitions": 7}')
    db.q("INSERT INTO t SELECT generate_series(1, 200)")
    sync(db, "p")
    messages = kafka.consume(f"{p}.public.t")
    other = kafka.create_topic(partitions=7)
    places = kafka.produce_many(other, [(m.key, m.value) for m in messages])
    assert [m.partition for m in messages] == [partition for partition, _ in places]
    assert {m.partition for m in messages} == set(range(7))


def test_pinned_partitions(db, kafka):
    p = prefix()
    topic = f"{p}.public.t"
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    kafka.create_topic(topic, 2)
    create(db, "p", "FOR TABLE t", p)
    db.q("INSERT INTO t SELECT generate_series(1, 50)")
    sync(db, "p")
    before = {m.json_key["id"]: m.partition for m in kafka.consume(topic)}
    kafka.add_partitions(topic, 5)
    db.q("SELECT kafka.pause_publisher('p')")
    db.wait_state("publisher", "p", "paused")
    db.q("SELECT kafka.resume_publisher('p')")
    db.q("UPDATE t SET id = id")
    sync(db, "p")
    after = [(m.json_key["id"], m.partition) for m in kafka.consume(topic)]
    assert len(after) == 100 and all(before[k] == partition for k, partition in after)
    db.wait("SELECT count(*) > 0 FROM kafka.problems WHERE problem LIKE '%%' || %s || '%%'", topic)


def test_unkeyed_to_compacted_topic(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (a int)")
    kafka.create_topic(f"{p}.public.t", 1, {"cleanup.policy": "compact"})
    db.q("CREATE PUBLICATION pub FOR TABLE t WITH (publish = 'insert')")
    db.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', %s, snapshot => 'never')", p)
    assert "is compacted" in db.wait_state("publisher", "p", "error")["last_error"]


def test_topic_name_too_long(db, kafka):
    p = prefix() + "x" * 200
    db.q(f"CREATE TABLE {'t' * 63} (id int PRIMARY KEY)")
    db.q("CREATE PUBLICATION pub FOR ALL TABLES")
    db.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', %s, snapshot => 'never')", p)
    assert "longer than 249" in db.wait_state("publisher", "p", "error")["last_error"]


def test_own_tables_are_never_published(db, kafka):
    p = prefix()
    create(db, "p", "FOR ALL TABLES", p)
    db.q("CREATE PUBLICATION other FOR TABLE kafka.subscription")
    create(db, "o", "FOR TABLE kafka.publisher_relation", p + "o")
    db.q("CREATE TABLE t (id int PRIMARY KEY); SELECT kafka.set_topic('o', 't', 'x')")
    sync(db, "p")
    sync(db, "o")
    assert not {t for t in kafka.topics() if t.startswith(p) and ".kafka." in t}


def test_origin_of_own_subscriptions_is_skipped(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    create(db, "p", "FOR TABLE t", p)
    create(db, "any", "FOR TABLE t", p + "a", format="debezium", options='{"origin": "any"}')
    # names that begin with pg_ cannot be made by hand
    db.q("SELECT pg_replication_origin_create('kafka_sync_test_x'), pg_replication_origin_create('foreign_x')")
    db.q("SET allow_system_table_mods = on; UPDATE pg_replication_origin SET roname = 'pg_kafka_sync_test_x' "
         "WHERE roname = 'kafka_sync_test_x'")
    try:
        with db.connect(autocommit=True) as c:
            c.execute("SELECT pg_replication_origin_session_setup('pg_kafka_sync_test_x')")
            c.execute("INSERT INTO t VALUES (1)")
            c.execute("SELECT pg_replication_origin_session_reset()")
            c.execute("SELECT pg_replication_origin_session_setup('foreign_x')")
            with c.transaction():
                c.execute("SELECT pg_replication_origin_xact_setup('0/1A2B3C', now())")
                c.execute("INSERT INTO t VALUES (2)")
            c.execute("SELECT pg_replication_origin_session_reset()")
            c.execute("INSERT INTO t VALUES (3)")
        sync(db, "p")
        sync(db, "any")
        assert set(state_of(kafka.consume(f"{p}.public.t"))) == {2, 3}
        sources = {m.json["after"]["id"]: m.json["source"] for m in kafka.consume(f"{p}a.public.t")}
        assert [(sources[i]["origin"], sources[i]["origin_lsn"]) for i in (1, 2, 3)] == [
            ("pg_kafka_sync_test_x", None), ("foreign_x", 0x1A2B3C), (None, None)]
    finally:
        db.q("SELECT pg_replication_origin_drop('pg_kafka_sync_test_x'), pg_replication_origin_drop('foreign_x')")


def test_idle_wal_is_confirmed(db, kafka):
    """A busy unpublished table must not pin WAL, and confirming it writes none."""
    db.q("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE busy (id int)")
    create(db, "p", "FOR TABLE t", prefix())
    db.q("INSERT INTO busy SELECT generate_series(1, 10000)")
    lsn = db.value("SELECT pg_current_wal_flush_lsn()")
    assert db.value("SELECT kafka.wait_for_publisher('p', %s)", lsn)
    db.wait("SELECT confirmed_flush_lsn >= %s::pg_lsn - 100 FROM pg_replication_slots WHERE slot_name = "
            "(SELECT slot_name FROM kafka.publisher_status WHERE name = 'p')", lsn)


def test_asynchronous_commit(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    create(db, "p", "FOR TABLE t", p)
    with db.connect(autocommit=True) as c:
        c.execute("SET synchronous_commit = off")
        c.execute("INSERT INTO t VALUES (1)")
    kafka.wait_messages(f"{p}.public.t", 1, 10)


def test_idle_worker_sleeps(private_cluster, kafka):
    # its own server: WAL that other tests write is read, and counts as work
    db = private_cluster.create_database()
    db.create_server(kafka)
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    create(db, "p", "FOR TABLE t", prefix())
    sync(db, "p")
    # the rounds of a second are those of its timers, as soon as it has nothing left to save or confirm
    wait_until(lambda: db.rounds_per_second("publisher", 1) < 20, what="the worker to be idle")


def test_big_row(db, kafka):
    p = prefix()
    kafka.create_topic(f"{p}.public.t", 1, {"max.message.bytes": "20000000"})
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    create(db, "p", "FOR TABLE t", p)
    db.q("INSERT INTO t VALUES (1, (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 200000) g))")
    sync(db, "p")
    (message,) = kafka.consume(f"{p}.public.t")
    assert len(message.json["v"]) == 6400000


def test_row_too_big_for_the_topic(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
    create(db, "p", "FOR TABLE t", p)
    db.q("INSERT INTO t VALUES (7, (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 100000) g))")
    row = db.wait_state("publisher", "p", "error")
    assert "public.t" in row["last_error"] and '{"id":7}' in row["last_error"] and "max.message.bytes" in row["last_error"]
    topic = f"{p}.public.t"
    db.q("SELECT kafka.alter_topic('kafka', %s, config => '{\"max.message.bytes\": \"20000000\"}')", topic)
    db.q("SELECT kafka.resume_publisher('p')")
    sync(db, "p")
    assert kafka.consume(topic)[0].json_key == {"id": 7}


def test_create_in_aborted_transaction_leaves_nothing(db, kafka):
    db.q("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION pub FOR TABLE t")
    count = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    with db.connect(autocommit=False) as c:
        c.execute("SELECT kafka.create_publisher('p', 'kafka', 'pub', snapshot => 'never')")
        assert c.execute(count).fetchone()[0] == 1
        c.rollback()
    assert db.value(count) == 0
    with db.connect(autocommit=False) as c:
        with pytest.raises(Exception, match="has already written"):
            c.execute("INSERT INTO t VALUES (1)")
            c.execute("SELECT kafka.create_publisher('p', 'kafka', 'pub', snapshot => 'never')")
        c.rollback()
    assert db.value(count) == 0
    db.q("""DO $$ BEGIN
              BEGIN
                PERFORM kafka.create_publisher('p', 'kafka', 'pub', snapshot => 'never');
                RAISE EXCEPTION 'no';
              EXCEPTION WHEN raise_exception THEN NULL; END;
            END $$""")
    assert db.value(count) == 0


def test_slot_creation_shows_whom_it_waits_for(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE PUBLICATION pub FOR TABLE t")
    with db.connect(autocommit=False) as c:
        c.execute("INSERT INTO t VALUES (2)")
        pid = c.execute("SELECT pg_backend_pid()").fetchone()[0]
        db.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', %s, format => 'json')", p)
        def shown():
            row = db.state("publisher", "p")
            return row["state"] == "waiting" and f"pid {pid}" in (row["detail"] or "")
        wait_until(shown, 30)
        c.commit()
    sync(db, "p")
    db.wait_state("publisher", "p", "streaming")
    assert set(state_of(kafka.consume(f"{p}.public.t"))) == {1, 2}


def test_many_columns_and_wide_rows(db, kafka):
    p = prefix()
    columns = ", ".join(f"c{i} int" for i in range(499))
    db.q(f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
    create(db, "p", "FOR TABLE t", p)
    db.q(f"INSERT INTO t VALUES (1{', 5' * 499})")
    db.q("UPDATE t SET c7 = NULL")
    sync(db, "p")
    assert state_of(kafka.consume(f"{p}.public.t")) == table_state(db, "t")


def test_values_that_compaction_can_lose(db, kafka):
    db.q("CREATE TABLE t (id int PRIMARY KEY, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL")
    db.q("CREATE TABLE small (id int PRIMARY KEY, big text); INSERT INTO small VALUES (1, 'x')")
    create(db, "p", "FOR TABLE t, small", prefix())
    assert not db.q("SELECT * FROM kafka.problems")
    db.q("INSERT INTO t VALUES (1, repeat('x', 5000))")
    restart = "SELECT kafka.pause_publisher('p'); SELECT kafka.resume_publisher('p')"
    db.q(restart)
    db.wait("SELECT count(*) = 1 FROM kafka.problems WHERE problem LIKE '1 table with large values, such as public.t%%'")
    db.q("ALTER TABLE t REPLICA IDENTITY FULL")
    db.q(restart)
    db.wait("SELECT count(*) = 0 FROM kafka.problems")


def test_database_of_another_encoding(cluster, make_db, kafka):
    p = prefix()
    db = make_db(options="ENCODING latin1 LOCALE 'C' TEMPLATE template0")
    db.create_server(kafka)
    db.q("CREATE TABLE \"Größe\" (id int PRIMARY KEY, \"ä\" text)")
    create(db, "p", "FOR ALL TABLES", p)
    db.q("INSERT INTO \"Größe\" VALUES (1, 'süß \u00a0')")
    sync(db, "p")
    assert state_of(kafka.consume(f"{p}.public.Gr__e")) == {1: {"id": 1, "ä": "süß \u00a0"}}


def test_set_topic_of_a_root(db, kafka):
    p = prefix()
    db.q("""CREATE TABLE r (id int, v int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
            CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (100)""")
    create(db, "p", "FOR TABLE r WITH (publish_via_partition_root)", p)
    db.q("INSERT INTO r VALUES (1, 1)")
    db.q("SELECT kafka.set_topic('p', 'r', %s)", f"{p}-root")
    db.q("INSERT INTO r VALUES (2, 2)")
    sync(db, "p")
    assert set(state_of(kafka.consume(f"{p}.public.r"))) == {1}
    assert set(state_of(kafka.consume(f"{p}-root"))) == {2}


def test_two_phase_commit(private_cluster, kafka):
    private_cluster.set(max_prepared_transactions=5)
    private_cluster.restart()
    db = private_cluster.create_database()
    db.create_server(kafka)
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    create(db, "p", "FOR TABLE t", p)
    db.q("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'a'")
    db.q("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'b'")
    db.q("INSERT INTO t VALUES (3)")
    sync(db, "p")
    assert set(state_of(kafka.consume(f"{p}.public.t"))) == {3}
    db.q("COMMIT PREPARED 'a'")
    db.q("ROLLBACK PREPARED 'b'")
    sync(db, "p")
    assert set(state_of(kafka.consume(f"{p}.public.t"))) == {1, 3}


def test_configs_of_new_topics(db, kafka):
    p = prefix()
    db.q("CREATE TABLE t (id int PRIMARY KEY)")
    create(db, "p", "FOR TABLE t", p, options='{"topic.creation.default.partitions": 2, "topic.creation.default.config": '
           '{"cleanup.policy": "compact,delete", "retention.ms": 3600000}}')
    config = kafka.topic_config(f"{p}.public.t")
    assert config["cleanup.policy"] == "compact,delete" and config["retention.ms"] == "3600000"
    assert kafka.partitions(f"{p}.public.t") == 2
