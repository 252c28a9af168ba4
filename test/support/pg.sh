#!/usr/bin/env bash
# A scratch PostgreSQL cluster under a folder of its own, on loopback, with the extension preloaded.
#
#   pg.sh init DIR ["conf line"...]         also changes the configuration of one that exists (takes effect at restart)
#   pg.sh start DIR      pg.sh stop|restart DIR [fast|immediate|smart]
#   pg.sh kill DIR                          kill -9 of the postmaster; waits until its children have left too
#   pg.sh psql DIR [psql arguments...]      pg.sh destroy DIR
#
# DIR/env holds PGHOST, PGPORT, PGUSER, PGDATABASE. DIR/data, DIR/log/postgres.log. The port stays until destroy.
# Any local user may connect as any role: scratch only.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ $# -ge 2 ] || die "usage: pg.sh init|start|stop|restart|kill|psql|destroy DIR ..."
action=$1 dir=$2
shift 2
caller_dir=$PWD

bin=$("$(pg_config_path)" --bindir) || die "no PostgreSQL: run test/support/deps.sh"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
log=$dir/log/postgres.log

postmaster() { head -n 1 "$dir/data/postmaster.pid" 2>/dev/null || true; }
# pg_ctl status would take a zombie, or another process with a recycled number, for a server.
running() {
  local pid; pid=$(postmaster)
  alive "$pid" && [ "$(readlink "/proc/$pid/cwd")" = "$dir/data" ]
}

init() {
  local line port
  if [ ! -d "$dir/data" ]; then
    mkdir -p "$dir/log"
    [ "$(id -u)" != 0 ] || chown -R postgres "$dir"
    as_pg test -x "$dir" || die "user $(pg_user) cannot enter $dir"
    # Its files are synced by the server when that matters; initdb's own need not be.
    as_pg "$bin/initdb" -D "$dir/data.new" -U postgres -E UTF8 --locale=C.UTF-8 -A trust -N >"$dir/log/initdb.log" 2>&1 ||
      { cat "$dir/log/initdb.log" >&2; die "initdb failed"; }
    port=$(free_port)
    {
      printf "port = %s\nlisten_addresses = '127.0.0.1'\n" "$port"
      # A socket path has room for 107 bytes.
      if [ ${#dir} -lt 85 ]; then printf "unix_socket_directories = '%s'\n" "$dir"; else echo "unix_socket_directories = ''"; fi
      cat <<'EOF'
shared_preload_libraries = 'pg_kafka_sync'
wal_level = logical
max_worker_processes = 32
max_replication_slots = 20
max_wal_senders = 20
max_connections = 100
fsync = on
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
log_line_prefix = '%m [%p] %b %d %a: '
EOF
    } | as_pg tee -a "$dir/data.new/postgresql.conf" >/dev/null
    printf 'PGHOST=127.0.0.1\nPGPORT=%s\nPGUSER=postgres\nPGDATABASE=postgres\n' "$port" >"$dir/env"
    as_pg mv "$dir/data.new" "$dir/data"
  fi
  for line in "$@"; do printf '%s\n' "$line" | as_pg tee -a "$dir/data/postgresql.conf" >/dev/null; done
}

start() {
  if running; then return; fi
  # The server's output goes to its log; no file descriptor of ours may stay open in it.
  if ! as_pg "$bin/pg_ctl" -D "$dir/data" -l "$log" -w -t 120 start >"$dir/log/pg_ctl.log" 2>&1 </dev/null 8>&- 9>&-; then
    cat "$dir/log/pg_ctl.log" >&2
    tail -n 30 "$log" >&2
    die "PostgreSQL in $dir did not start"
  fi
}

stop() {
  running || return 0
  as_pg "$bin/pg_ctl" -D "$dir/data" -m "$1" -w -t 60 stop >"$dir/log/pg_ctl.log" 2>&1 </dev/null ||
    { cat "$dir/log/pg_ctl.log" >&2; tail -n 30 "$log" >&2; die "PostgreSQL in $dir did not stop"; }
}

kill_hard() {
  local pid child children
  pid=$(postmaster)
  alive "$pid" || return 0
  children=$(pgrep -P "$pid" || true)
  kill -KILL "$pid"
  wait_for 10 gone "$pid" || die "process $pid does not end"
  for child in $children; do
    if ! wait_for 20 gone "$child"; then
      say "pg.sh: process $child outlived its postmaster: $(tr '\0' ' ' <"/proc/$child/cmdline" 2>/dev/null)"
      kill -KILL "$child" 2>/dev/null || true
    fi
  done
  # Until somebody has reaped the killed process, the next postmaster would take its number for a live rival.
  wait_for 5 test ! -d "/proc/$pid" || rm -f "$dir/data/postmaster.pid" "$dir"/.s.PGSQL.*.lock
}

cd / # the server's user may have no right to the current folder
case $action in
  init) init "$@" ;;
  start) start ;;
  stop) stop "${1:-fast}" ;;
  restart) stop "${1:-fast}"; start ;;
  kill) kill_hard ;;
  psql)
    set -a; . "$dir/env"; set +a
    cd "$caller_dir"
    exec "$bin/psql" -X "$@"
    ;;
  destroy)
    if [ -d "$dir/data" ]; then stop immediate; fi
    rm -rf "$dir"
    ;;
  *) die "unknown action $action" ;;
esac
