#!/usr/bin/env bash
# Builds the extension with the PostgreSQL and librdkafka of other Debian releases and runs a smoke test on each.
#
#   versions.sh [trixie|sid ...]         default: both
#
# A release is bootstrapped once into the cache (2 GB each); remove $cache/releases for newer packages. Each server
# runs in a chroot as user postgres, on a socket in there; all reach one scratch Kafka over loopback. Needs root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
exec </dev/null
[ "$(id -u)" = 0 ] || die "must be root"
[ $# -gt 0 ] || set -- trixie sid

major_of() {
  case $1 in bookworm) echo 15 ;; trixie) echo 17 ;; sid) echo 18 ;; *) die "no release $1: trixie, sid" ;; esac
}
for release; do major_of "$release" >/dev/null; done

passed=0 failed=0 chroot= bin= completed=
scratch=$(mktemp -d "${TMPDIR:-/tmp}/pgks-versions.XXXXXX")
chmod 755 "$scratch"

in_chroot() { chroot "$chroot" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
as_server() { chroot --userspec=postgres:postgres "$chroot" env -i PATH=/usr/bin:/bin LC_ALL=C.UTF-8 "$@"; }

pg_ctl() { as_server "$bin/pg_ctl" -D /srv/pg/data -l /srv/pg/log -w -t 60 "$@" >>"$scratch/pg_ctl.log" 2>&1 8>&- 9>&-; }

finish() {
  local code=$?
  trap '' INT TERM HUP
  trap - EXIT
  set +e
  if [ -n "$chroot" ] && [ -e "$chroot/srv/pg/data/postmaster.pid" ]; then pg_ctl -m immediate stop; fi
  [ ! -e "$scratch/kafka/server.properties" ] || "$support/kafka.sh" stop "$scratch/kafka" >&2
  [ -n "$completed" ] || { say "versions.sh: broken off"; failed=$((failed + 1)); }
  if [ "$failed" = 0 ]; then rm -rf "$scratch"; else rm -rf "$scratch/kafka/data"; echo "logs: $scratch"; fi
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ] || [ "$code" != 0 ] || code=1
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- releases

bootstrap() { # RELEASE
  local release=$1 new major
  [ ! -d "$cache/releases/$release" ] || return 0
  major=$(major_of "$release")
  command -v debootstrap >/dev/null || { apt-get -q -y update; apt-get -q -y -o DPkg::Lock::Timeout=300 install debootstrap; } >&2
  say "bootstrapping Debian $release"
  new=$cache/releases/.$release.new
  rm -rf "$new"
  chroot=$new
  {
    debootstrap --variant=minbase --include=ca-certificates "$release" "$new"
    printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d"
    chmod 755 "$new/usr/sbin/policy-rc.d"
    mkdir -p "$new/etc/postgresql-common/createcluster.d"
    echo 'create_main_cluster = false' >"$new/etc/postgresql-common/createcluster.d/pg_kafka_sync.conf"
    # It fails where /proc is not mounted, and makes nothing that is needed here.
    in_chroot dpkg-divert --local --rename --add /usr/bin/systemd-tmpfiles
    ln -sf true "$new/usr/bin/systemd-tmpfiles"
    in_chroot apt-get -q -y install --no-install-recommends gcc libc6-dev make librdkafka-dev \
      "postgresql-$major" "postgresql-server-dev-$major"
    in_chroot apt-get clean
  } >"$scratch/bootstrap-$release.log" 2>&1 || { tail -n 30 "$scratch/bootstrap-$release.log" >&2; die "no Debian $release"; }
  mv "$new" "$cache/releases/$release"
}

# ---- checks

result() { # NAME, status as of the command before
  if [ "$2" = 0 ]; then passed=$((passed + 1)); echo "ok $release: $1"; else failed=$((failed + 1)); echo "not ok $release: $1"; fi
}

sql() { # DATABASE [psql arguments...]
  as_server "$bin/psql" -X -q -At -v ON_ERROR_STOP=1 -h /srv/pg -U postgres -d "$@" 2>&1
}

# is NAME EXPECTED DATABASE QUERY: the query's output is what is expected
is() {
  local got
  got=$(sql "$3" -c "$4") || true
  if [ "$got" = "$2" ]; then result "$1" 0; else result "$1" 1; diff <(echo "$2") <(echo "$got") | head -n 20 || true; fi
}

# becomes NAME DATABASE QUERY: true within a minute
becomes() {
  local deadline=$((SECONDS + 60)) got
  until got=$(sql "$2" -c "$3") && [ "$got" = t ]; do
    if [ $SECONDS -ge $deadline ]; then result "$1" 1; echo "$got"; return; fi
    sleep 0.2
  done
  result "$1" 0
}

runs() { # NAME COMMAND...
  local name=$1 code=0
  shift
  "$@" >"$scratch/out" 2>&1 || code=$?
  result "$name" $code
  [ $code = 0 ] || tail -n 20 "$scratch/out"
}

script() { # NAME DATABASE: the SQL on standard input runs without an error
  cat >"$chroot/srv/pg/script.sql"
  runs "$1" sql "$2" -v bootstrap="$KAFKA_BOOTSTRAP" -f /srv/pg/script.sql
}

# same NAME: all changes have arrived, and the tables of both databases hold the same rows
same() {
  local name=$1 table source target code=0
  {
    [ "$(sql source -c "SELECT kafka.wait_for_publisher('p', timeout => '60 s')")" = t ] &&
      for table in $tables; do
        [ "$(sql target -c "SELECT kafka.wait_for_subscription('$table', '60 s')")" = t ] || code=1
      done
  } || code=1
  for table in $tables; do
    source=$(sql source -c "SELECT t FROM $table t ORDER BY t::text COLLATE \"C\"") || code=1
    target=$(sql target -c "SELECT t FROM $table t ORDER BY t::text COLLATE \"C\"") || code=1
    [ "$source" = "$target" ] && [ -n "$source" ] ||
      { code=1; echo "$table:"; diff <(echo "$source") <(echo "$target") | head -n 10 || true; }
  done
  result "$name" $code
  if [ $code != 0 ]; then
    sql source -c 'SELECT * FROM kafka.publisher_status' || true
    sql target -c 'SELECT * FROM kafka.subscription_status' || true
  fi
}

kill_worker() { # DATABASE: kill -9, then until the server has restarted itself
  local pid
  pid=$(sql "$1" -c 'SELECT pid FROM kafka.worker_status() WHERE pid IS NOT NULL LIMIT 1')
  [ -n "$pid" ] && [ "$(readlink "/proc/$pid/root")" = "$chroot" ] || return
  kill -KILL "$pid"
  wait_for 20 grep -q "PID $pid) was terminated by signal 9" "$chroot/srv/pg/log" &&
    wait_for 60 eval 'sql postgres -c "SELECT 1" >/dev/null'
}

build() {
  rm -rf "$chroot/srv/build"
  mkdir "$chroot/srv/build"
  tar -C "$root" --exclude='*.o' --exclude='pg_kafka_sync--1.0.sql' -c Makefile pg_kafka_sync.control sql src |
    tar -C "$chroot/srv/build" --no-same-owner -x
  in_chroot make --no-print-directory -s -C /srv/build -j"$(nproc)" PG_CONFIG="$bin/pg_config" COPT=-Werror with_llvm=no all install
}

start_server() {
  rm -rf "$chroot/srv/pg"
  install -d -o "$(stat -c %u "$chroot/var/lib/postgresql")" -g "$(stat -c %g "$chroot/var/lib/postgresql")" "$chroot/srv/pg"
  as_server "$bin/initdb" -D /srv/pg/data -U postgres -E UTF8 --locale=C.UTF-8 -A trust -N || return
  cat >>"$chroot/srv/pg/data/postgresql.conf" <<'EOF'
listen_addresses = ''
unix_socket_directories = '/srv/pg'
shared_preload_libraries = 'pg_kafka_sync'
wal_level = logical
max_worker_processes = 20
timezone = 'UTC'
EOF
  pg_ctl start || { cat "$chroot/srv/pg/log"; return 1; }
}

# ---- the smoke test

tables='plain wide parted'

smoke() { # RELEASE
  local major
  release=$1 major=$(major_of "$1")
  chroot=$cache/releases/$release bin=/usr/lib/postgresql/$major/bin
  echo
  echo "== $release: $(in_chroot dpkg-query -W -f '${Package} ${Version}, ' "postgresql-$major" librdkafka1 gcc)"
  pg_ctl -m immediate stop || true # of a run that was killed

  runs 'builds without warnings' build
  runs 'server starts' start_server
  sql postgres -c 'CREATE DATABASE source' -c 'CREATE DATABASE target' -c 'CREATE ROLE plain_role' >/dev/null || true

  script 'tables and a publisher' source <<EOF
CREATE EXTENSION pg_kafka_sync;
CREATE SERVER kafka FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" :'bootstrap');
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE plain (id int PRIMARY KEY, t text, n numeric, a int[], j jsonb, ts timestamptz, d date, i interval, u uuid,
    b bytea, f float8, m mood, v varchar(9) DEFAULT 'x', g int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE parted (id int, r text, x bigint, PRIMARY KEY (r, id)) PARTITION BY LIST (r);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
CREATE TABLE parted_b PARTITION OF parted DEFAULT;
INSERT INTO plain SELECT i, repeat('ä', i), i / 7.0, ARRAY[i, NULL], jsonb_build_object('i', i),
    '2024-02-29 12:00:00.123456+02'::timestamptz + i * interval '1 hour', '2024-02-29'::date + i, i * interval '1 day 1 s',
    md5(i::text)::uuid, decode(md5(i::text), 'hex'), 1 / i::float8, 'ok' FROM generate_series(1, 500) i;
INSERT INTO parted SELECT i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END, i FROM generate_series(1, 500) i;
CREATE TABLE wide (id int PRIMARY KEY, big text, f float8);
ALTER TABLE wide REPLICA IDENTITY FULL;
INSERT INTO wide SELECT k, string_agg(md5(i::text), ''), k FROM generate_series(1, 9) k, generate_series(1, 1000) i GROUP BY k;
CREATE PUBLICATION pub FOR TABLE plain, wide, parted WITH (publish_via_partition_root = true);
SELECT kafka.create_publisher('p', 'kafka', 'pub', '$release', snapshot => 'initial',
    options => '{"topic.creation.default.partitions": 3}');
EOF
  becomes 'snapshot ends' source "SELECT state = 'streaming' FROM kafka.publisher_status"

  script 'subscriptions' target <<EOF
CREATE EXTENSION pg_kafka_sync;
CREATE SERVER kafka FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" :'bootstrap');
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE plain (id int PRIMARY KEY, t text, n numeric, a int[], j jsonb, ts timestamptz, d date, i interval, u uuid,
    b bytea, f float8, m mood, v varchar(9), g int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE parted (id int, r text, x bigint, PRIMARY KEY (r, id)) PARTITION BY LIST (r);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
CREATE TABLE parted_b PARTITION OF parted DEFAULT;
SELECT kafka.create_subscription('plain', 'kafka', '{$release.public.plain}', 'plain');
CREATE TABLE wide (id int PRIMARY KEY, big text, f float8);
SELECT kafka.create_subscription('wide', 'kafka', '{$release.public.wide}', 'wide');
SELECT kafka.create_subscription('parted', 'kafka', '{$release.public.parted}', 'parted');
EOF
  same 'snapshot arrives'

  script 'changes' source <<'EOF'
UPDATE plain SET t = 'changed', n = -n, m = 'sad' WHERE id % 3 = 0;
UPDATE plain SET id = id + 1000 WHERE id <= 10;
DELETE FROM plain WHERE id BETWEEN 100 AND 150;
INSERT INTO plain (id) VALUES (5000);
UPDATE wide SET f = -f WHERE id < 5;
DELETE FROM wide WHERE id = 1;
BEGIN; SAVEPOINT s; INSERT INTO plain (id) VALUES (7000); ROLLBACK TO s; INSERT INTO plain (id) VALUES (7001); COMMIT;
UPDATE parted SET r = 'c', x = -x WHERE id < 50;
DELETE FROM parted WHERE id > 400;
EOF
  same 'changes arrive'

  if [ "$major" -ge 17 ]; then
    becomes 'waits have names' postgres "SELECT count(*) >= 4 FROM pg_stat_activity
        WHERE backend_type LIKE 'pg_kafka_sync%' AND wait_event_type = 'Extension' AND wait_event LIKE 'Kafka%'"
  fi
  if [ "$major" -ge 18 ]; then # generated columns are virtual unless they say otherwise: published by none
    script 'a virtual column' source <<'EOF'
ALTER TABLE plain ADD COLUMN virt int GENERATED ALWAYS AS (id + 1);
UPDATE plain SET t = 'virtual' WHERE id = 5000;
EOF
    runs 'a virtual column at the target' sql target -c 'ALTER TABLE plain ADD COLUMN virt int GENERATED ALWAYS AS (id + 1)'
    runs 'changes of it' sql source -c "UPDATE plain SET t = 'virtual too' WHERE id IN (20, 5000)"
    same 'changes arrive in a table with a virtual column'
    runs 'stored columns are published' sql source -c 'ALTER PUBLICATION pub SET (publish_generated_columns = stored)' \
      -c "UPDATE plain SET t = 'stored' WHERE id IN (21, 5000)"
    same 'changes arrive with stored generated columns'
  fi

  script 'topics' source <<EOF
SELECT kafka.create_topic('kafka', '$release.t', 2, 1, '{"retention.ms": 1000000, "cleanup.policy": "compact,delete"}');
SELECT kafka.alter_topic('kafka', '$release.t', 3, '{"max.message.bytes": 99999}');
SELECT kafka.alter_topic('kafka', '$release.t', config => '{"retention.ms": 2000000}');
SELECT kafka.alter_topic('kafka', '$release.t', config => '{"cleanup.policy": null}');
SELECT kafka.produce('kafka', '$release.t', 'value', 'key');
EOF
  is 'alter_topic changes only what it names' "max.message.bytes=99999
retention.ms=2000000" source "SELECT name || '=' || value FROM kafka.topic_config('kafka', '$release.t')
    WHERE source = 'DYNAMIC_TOPIC_CONFIG' ORDER BY name"
  is 'list_topics' "$release.public.parted|3|1
$release.public.plain|3|1
$release.public.wide|3|1
$release.t|3|1" source "SELECT topic, partitions, replication_factor FROM kafka.list_topics('kafka') WHERE topic LIKE '$release.%' ORDER BY topic"
  is 'produced' 1 source "SELECT sum(high_watermark) FROM kafka.describe_topic('kafka', '$release.t')"
  is 'list_consumer_groups' t source "SELECT count(*) >= 0 FROM kafka.list_consumer_groups('kafka')"
  script 'ACLs and drop_topic' source <<EOF
SELECT kafka.create_acl('kafka', 'topic', '$release.', 'prefixed', 'User:alice', '*', 'read');
DO \$\$ BEGIN ASSERT (SELECT count(*) = 1 FROM kafka.list_acls('kafka', 'topic', '$release.', 'prefixed')); END \$\$;
SELECT kafka.drop_acl('kafka', 'topic', '$release.', 'prefixed', 'User:alice', '*', 'read');
SELECT kafka.delete_records('kafka', '$release.t', 0, -1);
SELECT kafka.drop_topic('kafka', '$release.t');
EOF

  script 'rights' target <<'EOF'
GRANT USAGE ON FOREIGN SERVER kafka TO plain_role;
CREATE TABLE other (id int PRIMARY KEY);
SET ROLE plain_role;
DO $$ BEGIN
    PERFORM kafka.create_subscription('o', 'kafka', '{none}', 'other');
    RAISE 'no error';
EXCEPTION WHEN insufficient_privilege THEN NULL; END $$;
RESET ROLE;
SELECT kafka.set_owner('subscription', 'plain', 'plain_role');
SELECT kafka.set_owner('subscription', 'plain', 'postgres');
EOF

  runs 'restart' pg_ctl -m fast restart
  runs 'changes after it' sql source -c "UPDATE plain SET t = 'after restart' WHERE id % 5 = 0"
  same 'changes arrive after a restart'

  runs 'kill -9 of the publisher' kill_worker source
  runs 'changes after it' sql source -c "UPDATE plain SET t = 'after a crash' WHERE id % 7 = 0"
  same 'changes arrive after a crash of the publisher'

  runs 'kill -9 of a subscription' kill_worker target
  runs 'changes after it' sql source -c "UPDATE parted SET x = x + 1; DELETE FROM plain WHERE id % 11 = 0"
  same 'changes arrive after a crash of a subscription'

  is 'no problems' '' source 'SELECT * FROM kafka.problems'
  is 'no problems at the target' '' target 'SELECT * FROM kafka.problems'

  script 'subscriptions and extension are dropped at the target' target <<'EOF'
SELECT kafka.drop_subscription(name) FROM kafka.subscription;
DROP SERVER kafka;
DROP EXTENSION pg_kafka_sync;
EOF
  runs 'publisher is dropped' sql source -c "SELECT kafka.drop_publisher('p')"
  becomes 'its slot goes' source 'SELECT count(*) = 0 FROM pg_replication_slots'
  runs 'extension is dropped' sql source -c 'DROP SERVER kafka' -c 'DROP EXTENSION pg_kafka_sync'
  runs 'databases are dropped' sql postgres -c 'DROP DATABASE source' -c 'DROP DATABASE target'
  runs 'server stops' pg_ctl -m fast stop
  cp "$chroot/srv/pg/log" "$scratch/postgres-$release.log"
  runs 'no crash but the two' crashes_are 2
}

crashes_are() { # NUMBER: in the server's log; shows them
  grep -E 'terminated by signal|PANIC|TRAP' "$chroot/srv/pg/log"
  [ "$(grep -cE 'terminated by signal' "$chroot/srv/pg/log")" = "$1" ] && ! grep -qE 'PANIC|TRAP' "$chroot/srv/pg/log"
}

umask 022
mkdir -p "$cache/releases"
exec 9>"$cache/releases/.lock"
flock 9
for release; do bootstrap "$release"; done
chroot=
"$support/kafka.sh" start "$scratch/kafka"
. "$scratch/kafka/env"
for name; do smoke "$name"; done
completed=1
