# Sourced by run.sh and stop.sh: where the demo lives, and how it ends.
. "$(dirname "${BASH_SOURCE[0]}")/../test/support/lib.sh"

demo=$root/demo
# PG_KAFKA_SYNC_DEMO names another folder. PostgreSQL's user must be able to enter it: a private TMPDIR will not do.
scratch=${PG_KAFKA_SYNC_DEMO:-}
if [ -z "$scratch" ]; then
  scratch=${TMPDIR:-/tmp}
  as_pg test -x "$scratch" 2>/dev/null || scratch=/tmp
  scratch=${scratch%/}/pg_kafka_sync-demo
fi

# Ends the servers and removes the folder; does nothing where there is none.
stop_demo() {
  [ -e "$scratch" ] || return 0
  { [ -O "$scratch" ] && [ -f "$scratch/.pg_kafka_sync" ]; } || die "$scratch is not a demo of yours: left alone"
  cd /
  "$support/pg.sh" destroy "$scratch/pg"
  "$support/kafka.sh" destroy "$scratch/kafka"
  rm -rf "$scratch"
}
