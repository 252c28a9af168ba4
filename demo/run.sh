#!/usr/bin/env bash
# The demo: a year of flights moves from the tables of one database through Kafka into the tables of another, live.
#
#   database ops     ops.sql, publish.sql       the normalised source of truth; all of it is published
#   database boards  boards.sql, subscribe.sql  copies keyed for reading
#   replay.sql       336,776 flights as live transactions in ops
#   progress.sh      what the terminal shows meanwhile
#   queries.sql      questions for boards
#
# Everything lives in one scratch folder until stop.sh; a second run starts clean.
set -euo pipefail
. "$(dirname "$0")/common.sh"
. "$demo/progress.sh"
expected_flights=336776
bin=$("$(pg_config_path)" --bindir)

# source table (its topic is ops.public.<table>, its subscription has the same name), target table, order to compare in
tables="airlines  airlines    carrier
airports  airports    faa
planes    planes      tailnum
weather   weather     origin,time_hour
flights   departures  carrier,flight,origin,sched_dep"

psql() { "$bin/psql" -X -q -v ON_ERROR_STOP=1 -d "$@"; } # DATABASE [psql arguments...]
value() { psql "$1" -At -c "$2"; }                       # DATABASE QUERY
step() { printf '\n%s\n' "$*"; }

finish() {
  local code=$?
  trap - EXIT
  trap '' INT TERM HUP
  case $code in
    0) ;;
    130 | 143)
      say ""
      say "Interrupted: stopping the demo."
      stop_demo
      ;;
    *)
      say ""
      if [ -f "$scratch/pg/log/postgres.log" ]; then
        say "PostgreSQL's log ends with:"
        tail -n 20 "$scratch/pg/log/postgres.log" >&2
      fi
      say ""
      say "THE DEMO FAILED. Logs: $scratch/{pg,kafka}/log. 'make demo-stop' ends what still runs."
      ;;
  esac
  exit "$code"
}

start_servers() {
  mkdir "$scratch"
  chmod 755 "$scratch"
  touch "$scratch/.pg_kafka_sync"
  "$support/kafka.sh" start "$scratch/kafka"
  # fsync: the data is scratch, and the disk is not what the demo is about.
  "$support/pg.sh" init "$scratch/pg" 'fsync = off' 'shared_buffers = 256MB' 'max_wal_size = 4GB'
  "$support/pg.sh" start "$scratch/pg"
  unset PGSERVICE PGOPTIONS PGSSLMODE
  set -a; . "$scratch/pg/env"; . "$scratch/kafka/env"; set +a
}

load() { # DATABASE TABLE[(COLUMNS)]: from standard input
  psql "$1" -c "COPY $2 FROM STDIN WITH (FORMAT csv, HEADER, NULL 'NA')"
}

create_databases() {
  psql postgres -c 'CREATE DATABASE ops' -c 'CREATE DATABASE boards'
  psql ops -f "$demo/ops.sql"
  psql boards -f "$demo/boards.sql"
  load ops airlines <"$flights_data/airlines.csv"
  load ops airports <"$flights_data/airports.csv"
  load ops planes <"$flights_data/planes.csv"
  # Without year, month, day and hour: they say again, in local time, what time_hour says.
  cut -d , -f 1,6- "$flights_data/weather.csv" |
    load ops 'weather (origin, temp, dewp, humid, wind_dir, wind_speed, wind_gust, precip, pressure, visib, time_hour)'
  psql ops -f "$demo/replay.sql" <"$flights_data/flights.csv"
}

# True when all that was committed in ops until now is committed in boards.
caught_up() { # TIMEOUT
  [ "$(value ops "SELECT kafka.wait_for_publisher('ops', timeout => '$1')")" = t ] &&
    [ "$(value boards "SELECT bool_and(kafka.wait_for_subscription(name, '$1')) FROM kafka.subscription_status")" = t ]
}

publish_and_subscribe() {
  psql ops -v bootstrap="$KAFKA_BOOTSTRAP" -f "$demo/publish.sql" >/dev/null
  # The topics are there when the snapshot is.
  [ "$(value ops "SELECT kafka.wait_for_publisher('ops', timeout => '2min')")" = t ] || die "the snapshot was not published"
  psql boards -v bootstrap="$KAFKA_BOOTSTRAP" -f "$demo/subscribe.sql" >/dev/null
  caught_up 1min || die "the snapshot did not arrive in boards"
}

# Runs the replay in the background and shows the progress until everything has arrived.
replay() {
  local pid last_applied=-1 moved_at=$SECONDS
  replay_began=$SECONDS
  # A plan made once, when flights was empty, would not do for the rest of the year.
  psql ops -c 'SET plan_cache_mode = force_custom_plan' -c 'CALL replay.run()' >"$scratch/replay.log" 2>&1 &
  pid=$!
  while alive "$pid" || ! caught_up 100ms; do
    progress
    if [ "$all_applied" != "$last_applied" ]; then last_applied=$all_applied moved_at=$SECONDS; fi
    [ $((SECONDS - moved_at)) -lt 120 ] || die "nothing has arrived in boards for two minutes"
    sleep "$interval"
  done
  wait "$pid" || { cat "$scratch/replay.log" >&2; die "the replay failed"; }
  progress
}

# Compares one table row by row, as text, over all columns of the source; shows the first differences.
compare() { # SOURCE TARGET ORDER
  local columns rows sum verdict=equal ops=$scratch/compare/$1.ops boards=$scratch/compare/$1.boards
  columns=$(value ops "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = '$1'::regclass AND attnum > 0 AND NOT attisdropped")
  psql ops -c "COPY (SELECT $columns FROM $1 ORDER BY $3) TO STDOUT" >"$ops"
  psql boards -c "COPY (SELECT $columns FROM $2 ORDER BY $3) TO STDOUT" >"$boards"
  cmp -s "$ops" "$boards" || { verdict=DIFFERENT; different=1; }
  for database in ops boards; do
    commas "$(wc -l <"$scratch/compare/$1.$database")"; rows=$REPLY
    read -r sum _ < <(md5sum "$scratch/compare/$1.$database")
    if [ $database = ops ]; then printf '  %-19s %9s  %s\n' "ops.$1" "$rows" "$sum"
    else printf '  %-19s %9s  %s  %s\n' "boards.$2" "$rows" "$sum" "$verdict"; fi
  done
  [ $verdict = equal ] || { diff "$ops" "$boards" || true; } | head -n 10
}

compare_all() {
  local source target order flights cancelled remaining
  different=
  mkdir "$scratch/compare"
  printf '  %-19s %9s  %s\n' table rows 'md5 of all rows'
  while read -r source target order; do compare "$source" "$target" "$order"; done <<<"$tables"
  rm -r "$scratch/compare"

  IFS='|' read -r flights cancelled remaining < <(value ops "
    SELECT (SELECT count(*) FROM replay.csv), (SELECT count(*) FROM replay.csv WHERE dep_time IS NULL),
           (SELECT count(*) FROM flights)")
  local line
  commas "$flights"; line="$REPLY flights replayed"
  commas "$cancelled"; line+=" - $REPLY cancelled (deleted)"
  commas "$remaining"; line+=" = $REPLY in ops"
  printf '\n  %s\n' "$line"
  [ "$flights" = $expected_flights ] || die "the data set should have $expected_flights flights"
  [ "$remaining" = $((flights - cancelled)) ] || die "ops does not hold the flights that flew"
  [ -z "$different" ] || die "source and target differ"
}

look_around() {
  commas "${applied[flights]}"
  cat <<EOF

Source and target are equal: $REPLY flight events in $took s. Both servers go on running. Look around:

  export PGHOST=$PGHOST PGPORT=$PGPORT PGUSER=$PGUSER
  psql boards -f $demo/queries.sql
  psql ops    -c "UPDATE flights SET dest = 'HAV' WHERE (carrier, flight) = ('UA', 15)"
  psql boards -c "SELECT * FROM departures WHERE dest = 'HAV' ORDER BY sched_dep LIMIT 5"
  psql ops    -x -c "TABLE kafka.publisher_status"
  psql boards -x -c "TABLE kafka.subscription_status"
  kcat -b $KAFKA_BOOTSTRAP -C -t ops.public.flights -o -1 -e -q

End it with: make demo-stop
EOF
}

stop_demo
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

step "Starting PostgreSQL and Kafka in $scratch"
start_servers
step "Creating databases ops and boards, loading airlines, airports, planes and weather into ops"
create_databases
step "Publishing ops, subscribing in boards: the reference tables arrive as a snapshot"
publish_and_subscribe
step "Replaying the flights of 2013 in ops: schedules, departures, arrivals and cancellations, hour by hour"
replay
took=$((SECONDS - replay_began))
step "Comparing source and target, row by row over all columns"
compare_all
look_around
