# Sourced by run.sh: what the terminal shows during the replay. A table redrawn in place, or plain lines where the
# output is no terminal. Needs the functions psql and value of run.sh.

if [ -t 1 ] && [ "${TERM:-dumb}" != dumb ]; then in_place=1 interval=1; else in_place= interval=5; fi

# Results of the last sample.
declare -A published=() applied=() lag=() rate=()
clock=- scheduled=0 departed=0 landed=0 cancelled=0 wal_lag=0 all_applied=0 drawn=0 sampled_at=

# N with thousands separators, in REPLY.
commas() {
  local n=$1
  REPLY=
  while [ ${#n} -gt 3 ]; do REPLY=,${n: -3}$REPLY n=${n::-3}; done
  REPLY=$n$REPLY
}

# Asks where everything is: the replay's clock and the publisher in ops; in boards, for every topic, how many events
# Kafka has and how many of them are committed here.
sample() {
  local line lines name state events done_ now micros
  line=$(value ops "
    SELECT coalesce(to_char(clock AT TIME ZONE 'America/New_York', 'YYYY-MM-DD HH24:MI'), '-'),
           scheduled, departed, landed, cancelled, coalesce(lag_bytes, 0), state
      FROM replay.progress, kafka.publisher_status")
  # Positions are those at the start of the query, log ends come after it: the lag is rather over- than understated.
  lines=$(value boards "
    SELECT s.name, s.state, t.messages, sum(o.next_offset)
      FROM kafka.subscription_status s
      JOIN kafka.subscription_offsets o ON o.subscription = s.name
      JOIN kafka.list_topics('kafka1') t ON t.topic = o.topic
     GROUP BY s.name, s.state, t.messages")
  IFS='|' read -r clock scheduled departed landed cancelled wal_lag state <<<"$line"
  no_error publisher "$state"

  now=${EPOCHREALTIME/[.,]/}
  micros=$((now - ${sampled_at:-0}))
  all_applied=0
  while IFS='|' read -r name state events done_; do
    no_error "subscription $name" "$state"
    rate[$name]=0
    if [ -n "$sampled_at" ]; then rate[$name]=$(((done_ - ${applied[$name]}) * 1000000 / micros)); fi
    published[$name]=$events applied[$name]=$done_ lag[$name]=$((events - done_))
    all_applied=$((all_applied + done_))
  done <<<"$lines"
  sampled_at=$now
}

no_error() { # WHO STATE
  if [ "$2" = error ]; then
    say ""
    value ops "SELECT kind, name, problem FROM kafka.problems" >&2
    value boards "SELECT kind, name, problem FROM kafka.problems" >&2
    die "the $1 is in state error"
  fi
}

draw_table() {
  local source target order cells= number
  for number in "$scheduled" "$departed" "$landed" "$cancelled"; do
    commas "$number"; cells+=" $REPLY"
  done
  # shellcheck disable=SC2086
  printf '  New York %s %9s scheduled %8s departed %8s landed %6s cancelled\033[K\n\033[K\n' "$clock" $cells
  printf '  %-34s %11s %11s %9s %8s\033[K\n' 'topic -> table' 'published' 'applied' 'events/s' 'lag'
  while read -r source target order; do
    cells=
    for number in "${published[$source]}" "${applied[$source]}" "${rate[$source]}" "${lag[$source]}"; do
      commas "$number"; cells+=" $REPLY"
    done
    # shellcheck disable=SC2086
    printf '  %-34s %11s %11s %9s %8s\033[K\n' "ops.public.$source -> $target" $cells
  done <<<"$tables"
  commas $((wal_lag / 1024))
  printf '\033[K\n  WAL not yet acknowledged by Kafka: %s kB   time: %d s\033[K\n' "$REPLY" $((SECONDS - replay_began))
}

draw_line() {
  local cells
  commas "${published[flights]}"; cells="published $REPLY"
  commas "${applied[flights]}"; cells+="  applied $REPLY"
  commas "${rate[flights]}"; cells+="  ($REPLY/s)"
  commas "${lag[flights]}"; cells+="  lag $REPLY"
  printf '  %4d s  %16s  flights: %s\n' $((SECONDS - replay_began)) "$clock" "$cells"
}

# Takes a sample and shows it.
progress() {
  local table
  sample
  if [ -n "$in_place" ]; then
    table=$(draw_table)
    [ "$drawn" = 0 ] || printf '\033[%dA' "$drawn"
    printf '%s\n' "$table"
    drawn=$(wc -l <<<"$table")
  else
    draw_line
  fi
}
