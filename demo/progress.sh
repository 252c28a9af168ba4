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

# Reads where everything is: the replay's clock, the publisher in ops, one row per subscription in boards.
sample() {
  local line name state ahead behind done_ now micros
  line=$(value ops "
    SELECT coalesce(to_char(clock AT TIME ZONE 'America/New_York', 'YYYY-MM-DD HH24:MI'), '-'),
           scheduled, departed, landed, cancelled, coalesce(lag_bytes, 0), state
      FROM replay.progress, kafka.publisher_status")
  IFS='|' read -r clock scheduled departed landed cancelled wal_lag state <<<"$line"
  no_error publisher "$state"

  now=${EPOCHREALTIME/[.,]/}
  micros=$((now - ${sampled_at:-0}))
  all_applied=0
  while IFS='|' read -r name state ahead behind done_; do
    no_error "subscription $name" "$state"
    rate[$name]=0
    if [ -n "$sampled_at" ]; then rate[$name]=$(((done_ - ${applied[$name]}) * 1000000 / micros)); fi
    published[$name]=$ahead applied[$name]=$done_ lag[$name]=$behind
    all_applied=$((all_applied + done_))
  done < <(value boards "
    SELECT s.name, s.state, sum(greatest(o.high_watermark, o.next_offset)),
           sum(greatest(o.high_watermark - o.next_offset, 0)), s.rows
      FROM kafka.subscription_status s
      JOIN kafka.subscription_offsets o ON o.subscription = s.name
     GROUP BY s.name, s.state, s.rows")
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
  local source target order cells number
  commas "$scheduled"; cells="$REPLY scheduled"
  commas "$departed"; cells+=", $REPLY departed"
  commas "$landed"; cells+=", $REPLY landed"
  commas "$cancelled"; cells+=", $REPLY cancelled"
  printf '  New York %s   %s\033[K\n\033[K\n' "$clock" "$cells"
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
