#!/usr/bin/env bash
# Measures the extension beside what it could reach at most (make bench) and beside its peers (make bench-peers):
#
#   bench/run.sh [--peers]
#
# after test/support/deps.sh and build.sh. Starts a Kafka and two PostgreSQL clusters of its own and stops them again.
#   BENCH_RUNS       how often each pair is measured, in turns (3); medians are compared
#   BENCH_ONLY       a choice of: drain transactions snapshot apply targets latency (all)
#   BENCH_FORMAT     debezium (default) or json
#   BENCH_OPTIONS    options (JSON) of every publisher; librdkafka properties among them go to the raw producer too
#   BENCH_SUBSCRIPTION_OPTIONS   the same for subscriptions
#   BENCH_PROFILE    a folder: perf records of the workers go there
#   KEEP=1           leaves the scratch folder, with the servers' logs
# Results: the terminal, and bench/results/<time>.txt and .json.
set -euo pipefail
. "$(cd "$(dirname "$0")" && pwd)/../test/support/lib.sh"
exec </dev/null
bench=$root/bench peers=
case ${1:-} in --peers) peers=1 ;; '') ;; *) die "usage: bench/run.sh [--peers]" ;; esac

scratch=$(mktemp -d "${TMPDIR:-/tmp}/pgks-bench.XXXXXX")
chmod 755 "$scratch"
child=

finish() {
  local code=$? dir
  trap '' INT TERM HUP
  trap - EXIT
  set +e
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null
    wait_for 20 eval '! alive "$child"' || kill -KILL "$child" 2>/dev/null
  fi
  for dir in source target; do
    [ ! -d "$scratch/$dir" ] || "$support/pg.sh" stop "$scratch/$dir" fast || "$support/pg.sh" stop "$scratch/$dir" immediate
  done
  [ ! -d "$scratch/kafka" ] || "$support/kafka.sh" stop "$scratch/kafka"
  if [ -n "${KEEP:-}" ]; then say "kept: $scratch"; else rm -rf "$scratch"; fi
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

run() { # in the background, so that a signal to this script is handled at once
  "$@" &
  child=$!
  local code=0
  wait "$child" || code=$?
  child=
  return $code
}

plugins=
if [ -n "$peers" ]; then plugins=$("$bench/peers-deps.sh"); fi

mkdir "$scratch/bin" "$scratch/data"
chmod 777 "$scratch/data"
for tool in "$bench"/*.c; do
  gcc -O2 -Wall -Wextra -o "$scratch/bin/$(basename "$tool" .c)" "$tool" -lrdkafka
done

say "starting Kafka and two PostgreSQL clusters"
# The broker of a benchmark is no test broker: a real heap and compiler, and the usual, rare housekeeping.
export KAFKA_HEAP="-Xms1g -Xmx1g" KAFKA_OPTS_EXTRA="-XX:+UseG1GC"
run "$support/kafka.sh" start "$scratch/kafka" log.cleaner.backoff.ms=15000 log.retention.check.interval.ms=300000 \
  log.initial.task.delay.ms=30000 offsets.topic.num.partitions=1
for cluster in source target; do
  run "$support/pg.sh" init "$scratch/$cluster" "shared_buffers = 1GB" "max_wal_size = 16GB" "checkpoint_timeout = 1h" \
    "track_commit_timestamp = on" "max_replication_slots = 50" ${BENCH_PG_CONF:+"$BENCH_PG_CONF"}
  run "$support/pg.sh" start "$scratch/$cluster"
done

mkdir -p "$bench/results"
export BENCH_SCRATCH=$scratch BENCH_PLUGINS=$plugins BENCH_JAVA=$(java_path) BENCH_KAFKA_JARS=$kafka_jars
export BENCH_PG_BIN=$("$(pg_config_path)" --bindir) BENCH_RESULTS=$bench/results/$(date +%Y%m%d-%H%M%S)
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
run "$venv/bin/python" "$bench/bench.py"
