#!/usr/bin/env bash
# Fetches Debezium's PostgreSQL connector and JDBC sink from Maven Central, once, as Connect plugins; after
# test/support/deps.sh, which brings Java, Kafka and the Connect runtime. Prints the plugin folder.
set -euo pipefail
. "$(dirname "$0")/../test/support/lib.sh"
here=$root/bench
version() { sed -n "s:.*<$1\.version>\(.*\)</$1\.version>.*:\1:p" "$here/connect-pom.xml"; }
plugins=$cache/connect-plugins-$(version source)-$(version sink)

exec 9>"$cache/.lock"
flock 9
if [ ! -d "$plugins" ]; then
  if ! command -v mvn >/dev/null; then
    say "installing maven"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update >/dev/null
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends maven >/dev/null
  fi
  say "fetching Debezium $(version source) and its JDBC sink $(version sink)"
  scratch=$(mktemp -d "$cache/.connect.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  for plugin in source sink; do
    for try in 1 2 3; do
      if mvn -B -q -ntp -l "$scratch/mvn.log" -f "$here/connect-pom.xml" -P "$plugin" \
        -Dmaven.repo.local="$scratch/repository" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$scratch/plugins/$plugin" </dev/null; then break; fi
      [ $try != 3 ] || { tail -n 30 "$scratch/mvn.log" >&2; exit 1; }
      sleep $((try * 3))
    done
    # What the worker itself supplies must not come twice, and no other database's driver is wanted.
    (cd "$scratch/plugins/$plugin" && rm -f kafka-clients-* connect-api-* slf4j-api-* lz4-java-* snappy-java-* zstd-jni-* \
      jackson-annotations-* jackson-core-* jackson-databind-* ojdbc* mssql-jdbc-* mysql-connector-* mariadb-*)
  done
  chmod -R a+rX "$scratch/plugins"
  mv "$scratch/plugins" "$plugins"
fi
echo "$plugins"
