"""Applying, compared with what else could: PostgreSQL's own logical replication of the same rows; and many targets."""
import time

from psycopg.types.json import Jsonb

import setting
from setting import wait_until

# One topic, five tables: stitched, by two other keys, filtered, and a total per hour.
FIVE = [
    ("customer_by_order", "id bigint PRIMARY KEY, customer_id bigint, name text",
     "SELECT (after->>'id')::bigint AS id, c.id AS customer_id, c.name FROM batch "
     "JOIN customers c ON c.id = (after->>'customer_id')::bigint", "upsert", None),
    ("orders_by_customer", "customer_id bigint, id bigint, amount numeric(12,2), updated_at timestamptz, PRIMARY KEY (customer_id, id)",
     "SELECT (after->>'customer_id')::bigint AS customer_id, (after->>'id')::bigint AS id, (after->>'amount')::numeric AS amount, "
     "(after->>'updated_at')::timestamptz AS updated_at FROM batch", "upsert", None),
    ("orders_by_status", "status text, id bigint, amount numeric(12,2), updated_at timestamptz, PRIMARY KEY (status, id)",
     "SELECT after->>'status' AS status, (after->>'id')::bigint AS id, (after->>'amount')::numeric AS amount, "
     "(after->>'updated_at')::timestamptz AS updated_at FROM batch", "upsert", None),
    ("orders_paid", "id bigint PRIMARY KEY, amount numeric(12,2)",
     "SELECT (after->>'id')::bigint AS id, (after->>'amount')::numeric AS amount FROM batch WHERE after->>'status' = 'paid'",
     "upsert", None),
    ("amount_per_hour", "hour timestamptz PRIMARY KEY, orders bigint, amount numeric",
     "SELECT date_bin('1 hour', (after->>'updated_at')::timestamptz, '2000-01-01') AS hour, count(*) AS orders, "
     "sum((after->>'amount')::numeric) AS amount FROM batch GROUP BY 1", "merge", {"orders": "count", "amount": "sum"}),
]


def native(source, target, slot, publication, count):
    """Seconds in which PostgreSQL's own subscription applies what is behind a slot to the empty table "orders"; drops both."""
    env = source.env
    before = time.time()
    target.run(f"CREATE SUBSCRIPTION {slot} CONNECTION 'host={env['PGHOST']} port={env['PGPORT']} user=postgres "
               f"dbname={env['PGDATABASE']}' PUBLICATION {publication} WITH (create_slot = false, slot_name = '{slot}', copy_data = false)")
    begin = wait_until(lambda: target.one("SELECT extract(epoch FROM min(backend_start))::float8 FROM pg_stat_activity "
                                          "WHERE backend_type = 'logical replication worker' "
                                          "AND extract(epoch FROM backend_start) >= %s", before - 1), 30, "the apply worker")
    # rows come in the order of their ids; their commit timestamps are the source's
    end = wait_until(lambda: time.time() if target.one("SELECT true FROM orders WHERE id = %s", count) else None, 240,
                     f"{count} rows to be replicated")
    applied = target.one("SELECT count(*) FROM orders")
    if applied != count:
        raise RuntimeError(f"{slot}: {applied} rows instead of {count}")
    target.run(f"DROP SUBSCRIPTION {slot}")
    return end - begin


def set_up_far(source, target):
    """A table of the other cluster, and the foreign table of postgres_fdw that leads to it."""
    env = source.env
    setting.make_table(source, "orders_far")
    target.run("CREATE EXTENSION postgres_fdw")
    target.run(f"CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{env['PGHOST']}', port '{env['PGPORT']}', "
               f"dbname '{env['PGDATABASE']}')")
    target.run("CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (user 'postgres')")
    target.run("CREATE FOREIGN TABLE orders_far (id bigint, customer_id bigint, status text, amount numeric(12,2), note text, "
               "updated_at timestamptz) SERVER far")


def subscribe_far(source, target, name, topic):
    source.run("TRUNCATE orders_far")
    source.run("CHECKPOINT")
    target.run("SELECT kafka.create_subscription(%s, 'kafka', ARRAY[%s], 'orders_far', key => '{id}', format => %s, options => %s)",
               name, topic, setting.FORMAT, Jsonb(setting.SUBSCRIPTION_OPTIONS))


def set_up_five(target):
    target.run("CREATE TABLE customers (id bigint PRIMARY KEY, name text)")
    target.run("INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(0, 49999) i")
    target.run("ANALYZE customers")
    for table, columns, *_ in FIVE:
        target.run(f"CREATE TABLE {table} ({columns}) WITH (autovacuum_enabled = off)")
    for table in ("orders_by_customer", "orders_by_status"):
        target.run(f"CREATE INDEX ON {table} (id)")


def subscribe_five(target, name, topic):
    """Makes a paused subscription that keeps all five."""
    options = {"column_types": {"amount": "numeric(12,2)"}, **setting.SUBSCRIPTION_OPTIONS}
    target.run("SELECT kafka.create_subscription(%s, 'kafka', ARRAY[%s], format => %s, options => %s, enabled => false)",
               name, topic, setting.FORMAT, Jsonb(options))
    for table, _, query, mode, merge in FIVE:
        target.run(f"TRUNCATE {table}")
        target.run("SELECT kafka.add_target(%s, %s::regclass, %s, mode => %s, merge => %s, options => '{\"hydrate\": false}')",
                   name, table, query, mode, Jsonb(merge) if merge else None)
    target.run("CHECKPOINT")


def check_five(target, count):
    counts = [target.one(f"SELECT count(*) FROM {table}") for table, *_ in FIVE[:3]] + [target.one("SELECT sum(orders) FROM amount_per_hour")]
    if any(c != count for c in counts):
        raise RuntimeError(f"{counts} rows and events instead of {count}")
