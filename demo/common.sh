# Sourced by run.sh and stop.sh: where the demo lives.
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/../test/support/lib.sh"

demo=$root/demo
# PG_KAFKA_SYNC_DEMO names another folder. The server's user must be able to enter it: a private TMPDIR will not do.
scratch=${PG_KAFKA_SYNC_DEMO:-}
if [ -z "$scratch" ]; then
  scratch=${TMPDIR:-/tmp}
  as_pg test -x "$scratch" 2>/dev/null || scratch=/tmp
  scratch=${scratch%/}/pg_kafka_sync-demo
fi

# Ends the demo's servers and removes its folder; does nothing where there is none.
stop_demo() {
  [ -e "$scratch" ] || return 0
  [ -O "$scratch" ] && [ -f "$scratch/.pg_kafka_sync-demo" ] || die "$scratch is no demo of yours: remove it yourself"
  cd /
  if [ -d "$scratch/pg" ]; then "$support/pg.sh" destroy "$scratch/pg"; fi
  if [ -d "$scratch/kafka" ]; then "$support/kafka.sh" destroy "$scratch/kafka"; fi
  rm -rf "$scratch"
}
