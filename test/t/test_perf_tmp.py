import time, json
from test_rebuild import rebuild, rebuilt
from test_subscription import subscribe
def test_perf(db, kafka):
    topic = kafka.create_topic(partitions=3)
    for name in ("t",):
        db.q(f"CREATE TABLE {name} (id int PRIMARY KEY, customer int, amount numeric(10,2), state text, note text, ts timestamptz)")
        db.q(f"CREATE INDEX ON {name} (customer); CREATE INDEX ON {name} (state, ts)")
    n = 1000000
    for start in range(0, n, 100000):
        kafka.produce_many(topic, [({"id": i}, {"id": i, "customer": i % 5000, "amount": "12.50", "state": "open",
            "note": "some note text of a row %d" % i, "ts": "2026-01-01 00:00:%02d+00" % (i % 60)}) for i in range(start, start + 100000)])
    db.q(f"CREATE PUBLICATION nothing")
    for round in range(2):
        db.q("TRUNCATE t"); db.q("CHECKPOINT")
        t0 = time.time()
        if round == 0:
            subscribe(db, topic, "t")
        else:
            db.q("SELECT kafka.seek_subscription('s', 'earliest')")
        db.wait_for_subscription("s", 300)
        t1 = time.time()
        assert db.value("SELECT count(*) FROM t") == n
        db.q("CHECKPOINT")
        t2 = time.time()
        rebuild(db)
        rebuilt(db, timeout=300)
        t3 = time.time()
        open("/tmp/rebuild/perf.txt","a").write(f"round {round}: apply {n/(t1-t0):.0f}/s, rebuild {n/(t3-t2):.0f}/s, ratio {(t1-t0)/(t3-t2):.2f}\n")
        assert db.value("SELECT count(*) FROM t") == n
