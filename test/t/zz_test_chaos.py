import random, time
from test_faults import *
@pytest.mark.timeout(900)
@pytest.mark.parametrize("format", ["debezium", "json"])
def test_chaos(faulty, make_pipeline, format):
    cluster, kafka = faulty
    p = make_pipeline(format, server={"socket__timeout__ms": 4000}, snapshot="initial", publisher=SLOW_PUBLISHER if format=="json" else "{}")
    r = random.Random(time.time())
    def term(db):
        cluster.q("SELECT pg_terminate_backend(%s)", p.pid(db))
    def pause_resume():
        p.source.q("SELECT kafka.pause_publisher('p')"); p.target.q("SELECT kafka.pause_subscription('s')")
        time.sleep(r.random())
        p.source.q("SELECT kafka.resume_publisher('p')"); p.target.q("SELECT kafka.resume_subscription('s')")
    def crash(): cluster.crash(); cluster.start()
    def freeze(): kafka.pause(); time.sleep(r.random()*6); kafka.resume()
    def kk(): kafka.kill(); kafka.start()
    def alter(): p.source.q("SELECT kafka.alter_publisher('p', %s::jsonb)", '{"linger.ms": %d}' % r.randint(0,40))
    def ckpt(): cluster.q("CHECKPOINT"); cluster.q("SELECT pg_switch_wal()")
    def big(): p.source.q("INSERT INTO acct SELECT g, 0, 'big' FROM generate_series(1000000,1020000) g ON CONFLICT DO NOTHING")
    acts=[lambda: term(p.source), lambda: term(p.target), lambda: p.kill_worker(p.source), lambda: p.kill_worker(p.target), pause_resume, crash, cluster.restart, freeze, kk, alter, ckpt]
    names="term-pub term-sub kill-pub kill-sub pause crash restart freeze kafka-kill alter ckpt".split()
    end=time.time()+150
    with Worker(p, per_transaction=3, keys=300):
        while time.time()<end:
            i=r.randrange(len(acts))
            print(f"{time.time():.1f}", names[i], flush=True)
            try: acts[i]()
            except Exception as e: print("   ", str(e)[:100].replace("\n"," "))
            time.sleep(r.random()*1.5)
            cluster.start()
    print("changes", p.source.value("SELECT count(*) FROM journal"))
    print("repeats", p.check(timeout=120))
    print(p.source.q("SELECT * FROM kafka.problems"), p.target.q("SELECT * FROM kafka.problems"))
