import time, sys
sys.path.insert(0,'/work/main/test/t')
from test_lifecycle import *
def test_lat(own, make, kafka):
    db = make(kafka)
    topic=pair(db, kafka)
    time.sleep(3)
    for i in range(6):
        t=time.time(); db.q("INSERT INTO t VALUES (%s,'x')", i+1)
        db.wait_for_publisher("p"); t1=time.time()
        n=0
        while not db.q("SELECT 1 FROM copy WHERE id=%s", i+1): time.sleep(0.002)
        print(i, f"pub {t1-t:.3f} total {time.time()-t:.3f}", flush=True)
