#!/usr/bin/env bash
# A scratch MariaDB server under a folder of its own, on loopback.
#
#   mariadb.sh start|restart DIR [server option...]    mariadb.sh stop|kill|pause|resume|destroy DIR
#   mariadb.sh sql DIR [client arguments...]           its own client, as the user below; statements from stdin or -e
#
# DIR/env holds MARIADB_HOST, MARIADB_PORT, MARIADB_USER, MARIADB_PASSWORD (of a user with all rights). DIR/pid, DIR/log.
# Port, data and given options last until destroy.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ $# -ge 2 ] || die "usage: mariadb.sh start|restart|stop|kill|pause|resume|sql|destroy DIR ..."
action=$1 dir=$2
shift 2

PATH=$PATH:/usr/sbin
command -v mariadbd mariadb-install-db mariadb >/dev/null || die "no MariaDB: run test/support/deps.sh"

pid() { cat "$dir/pid" 2>/dev/null || true; }

# The pid file may outlive a reboot: only a process that runs with this folder's configuration is ours.
running() {
  local pid; pid=$(pid)
  alive "$pid" && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -F "$dir/mariadb.cnf" >/dev/null
}

client() { mariadb --defaults-file="$dir/client.cnf" "$@"; }

configure() {
  local port option
  mkdir -p "$dir/log" "$dir/tmp"
  port=$(free_port)
  {
    printf '[mariadbd]\ndatadir=%s/data\nport=%s\npid-file=%s/pid\ntmpdir=%s/tmp\n' "$dir" "$port" "$dir" "$dir"
    cat <<'CNF'
# in the data folder: a path of its own might be too long for one
socket=mariadb.sock
bind-address=127.0.0.1
skip-name-resolve
character-set-server=utf8mb4
collation-server=utf8mb4_bin
sql-mode=STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION
innodb-buffer-pool-size=64M
innodb-log-file-size=64M
innodb-lock-wait-timeout=10
performance-schema=OFF
skip-log-bin
# survives kill -9, though not a machine that goes down
innodb-flush-log-at-trx-commit=2
CNF
    for option in "$@"; do printf '%s\n' "$option"; done
  } >"$dir/mariadb.cnf"
  printf '[client]\nhost=127.0.0.1\nport=%s\nuser=tester\npassword=tester-secret\n' "$port" >"$dir/client.cnf"
  # the server that makes the system tables runs without its grant tables until they are flushed
  printf "FLUSH PRIVILEGES;\nCREATE USER tester@'127.0.0.1' IDENTIFIED BY 'tester-secret';\nGRANT ALL ON *.* TO tester@'127.0.0.1' WITH GRANT OPTION;\n" \
    >"$dir/users.sql"
  rm -rf "$dir/data.new"
  [ "$(id -u)" != 0 ] || chown -R "$(pg_user)" "$dir"
  as_pg test -x "$dir" || die "user $(pg_user) cannot enter $dir"
  if ! as_pg mariadb-install-db --defaults-file="$dir/mariadb.cnf" --datadir="$dir/data.new" --extra-file="$dir/users.sql" \
    --auth-root-authentication-method=normal --skip-test-db >"$dir/log/install.log" 2>&1 </dev/null; then
    tail -n 40 "$dir/log/install.log" >&2
    die "mariadb-install-db failed"
  fi
  printf 'MARIADB_HOST=127.0.0.1\nMARIADB_PORT=%s\nMARIADB_USER=tester\nMARIADB_PASSWORD=tester-secret\n' "$port" >"$dir/env"
  as_pg mv "$dir/data.new" "$dir/data"
}

answers() { client -e 'DO 0' >/dev/null 2>&1; }
answers_or_dead() { ! alive "$launcher" || answers; }

start() {
  local option launcher
  if running; then return; fi
  mkdir -p "$dir"
  if [ ! -d "$dir/data" ]; then
    configure "$@"
  else
    for option in "$@"; do # an override of an option given before: the last of several holds
      printf '%s\n' "$option" >>"$dir/mariadb.cnf"
    done
  fi
  rm -f "$dir/pid"
  # A session of its own: ctrl-c in the terminal is for the script, which then stops the server in order.
  as_pg setsid mariadbd --defaults-file="$dir/mariadb.cnf" >>"$dir/log/mariadb.log" 2>&1 </dev/null 8>&- 9>&- &
  launcher=$!
  if ! wait_for 60 answers_or_dead || ! running; then
    tail -n 40 "$dir/log/mariadb.log" >&2
    kill "$launcher" 2>/dev/null || true
    die "MariaDB in $dir did not start"
  fi
}

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
case $action in
  start) start "$@" ;;
  stop) stop_server TERM ;;
  kill) stop_server KILL ;;
  restart) stop_server TERM; start "$@" ;;
  pause) running && kill -STOP "$(pid)" ;;
  resume) running && kill -CONT "$(pid)" ;;
  sql) client "$@" ;;
  destroy) stop_server KILL; rm -rf "$dir" ;;
  *) die "unknown action $action" ;;
esac
