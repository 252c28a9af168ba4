#!/usr/bin/env bash
# A scratch one-node Apache Kafka (KRaft) under a folder of its own, on loopback.
#
#   kafka.sh start|restart DIR [broker property...]    kafka.sh stop|kill|pause|resume|destroy DIR
#   kafka.sh tool DIR CLASS [args...]                  one of Kafka's own tools, e.g. TopicCommand --list
#
# DIR/env holds KAFKA_BOOTSTRAP (no login, a super user) and KAFKA_SASL_BOOTSTRAP (SASL_PLAINTEXT, PLAIN; users admin,
# alice, bob with password <user>-secret; admin is a super user, the others get what ACLs grant, or all where a
# resource has none). DIR/pid, DIR/log. Ports, data and given properties last until destroy.
# KAFKA_JOIN=DIR2 and KAFKA_NODE=N at its first start make it broker N of the cluster of the one in DIR2, which is broker 1
# and the only controller.
# KAFKA_HEAP and KAFKA_OPTS_EXTRA replace the JVM options (benchmarks want a bigger heap and the full compiler).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ $# -ge 2 ] || die "usage: kafka.sh start|stop|kill|restart|pause|resume|destroy|tool DIR ..."
action=$1 dir=$2
shift 2

class_path="$kafka_jars/*"
java=$(java_path)
[ -n "$java" ] && [ -d "$kafka_jars" ] || die "no Java 17 or no Kafka jars: run test/support/deps.sh"

pid() { cat "$dir/pid" 2>/dev/null || true; }

# The pid file may outlive a reboot: only a process that runs this folder's configuration is ours.
running() {
  local pid; pid=$(pid)
  alive "$pid" && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -F "$dir/server.properties" >/dev/null
}

configure() {
  local plain sasl controller property
  mkdir -p "$dir/data" "$dir/log" "$dir/tmp"
  plain=$(free_port) sasl=$(free_port "$plain") controller=$(free_port "$plain" "$sasl")
  cat >"$dir/log4j2.properties" <<'EOF'
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %m (%c{1})%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
# says every allowed and denied request otherwise
logger.authorizer.name = kafka.authorizer.logger
logger.authorizer.level = warn
EOF
  cat >"$dir/server.properties.new" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:$plain,SASL_PLAINTEXT://127.0.0.1:$sasl,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$plain,SASL_PLAINTEXT://127.0.0.1:$sasl
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
  user_admin="admin-secret" user_alice="alice-secret" user_bob="bob-secret";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:admin
allow.everyone.if.no.acl.found=true
log.dirs=$dir/data
auto.create.topics.enable=false
delete.topic.enable=true
num.partitions=1
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=5
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# so that tests of compaction and retention need not wait for minutes
log.cleaner.backoff.ms=500
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=1000
log.initial.task.delay.ms=500
# a broker that comes back after kill -9 waits until its former self has expired
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=4000
EOF
  if [ -n "${KAFKA_JOIN:-}" ]; then # the last of several values holds
    cat >>"$dir/server.properties.new" <<EOF
process.roles=broker
node.id=$KAFKA_NODE
$(grep '^controller.quorum.voters=' "$KAFKA_JOIN/server.properties")
listeners=PLAINTEXT://127.0.0.1:$plain,SASL_PLAINTEXT://127.0.0.1:$sasl
EOF
  fi
  for property in "$@"; do printf '%s\n' "$property" >>"$dir/server.properties.new"; done
  printf 'KAFKA_BOOTSTRAP=127.0.0.1:%s\nKAFKA_SASL_BOOTSTRAP=127.0.0.1:%s\n' "$plain" "$sasl" >"$dir/env"
  "$java" -XX:TieredStopAtLevel=1 "$tmp" -cp "$class_path" -Dlog4j2.configurationFile="$dir/log4j2.properties" \
    kafka.tools.StorageTool format --cluster-id pgkafkasyncscratchAAAA --config "$dir/server.properties.new" \
    >"$dir/log/format.log" 2>&1 </dev/null || { cat "$dir/log/format.log" >&2; die "formatting failed"; }
  mv "$dir/server.properties.new" "$dir/server.properties"
}

ready_or_dead() {
  tail -c +"$log_start" "$dir/log/server.log" | grep 'Kafka Server started' >/dev/null || ! alive "$(pid)"
}

start() {
  if running; then return; fi
  mkdir -p "$dir"
  if [ ! -f "$dir/server.properties" ]; then
    configure "$@"
  else
    local property
    for property in "$@"; do # an override of a property given before
      sed -i "/^${property%%=*}=/d" "$dir/server.properties"
      printf '%s\n' "$property" >>"$dir/server.properties"
    done
  fi
  touch "$dir/log/server.log"
  log_start=$(($(stat -c %s "$dir/log/server.log") + 1))
  # A session of its own: ctrl-c in the terminal is for the script, which then stops Kafka in order.
  # shellcheck disable=SC2086
  setsid "$java" ${KAFKA_HEAP:--Xms256m -Xmx768m} ${KAFKA_OPTS_EXTRA:--XX:TieredStopAtLevel=1 -XX:+UseSerialGC} \
    "$tmp" -Xshare:auto -Djava.awt.headless=true -Dlog4j2.configurationFile="$dir/log4j2.properties" -cp "$class_path" \
    kafka.Kafka "$dir/server.properties" >>"$dir/log/server.log" 2>&1 </dev/null 8>&- 9>&- &
  echo $! >"$dir/pid"
  if ! wait_for 60 ready_or_dead || ! alive "$(pid)"; then
    tail -n 40 "$dir/log/server.log" >&2
    die "Kafka in $dir did not start"
  fi
}

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
tmp=-Djava.io.tmpdir=$dir/tmp # libraries that jars unpack end with the folder
case $action in
  start) start "$@" ;;
  stop) stop_server TERM ;;
  kill) stop_server KILL ;;
  restart) stop_server TERM; start "$@" ;;
  pause) running && kill -STOP "$(pid)" ;;
  resume) running && kill -CONT "$(pid)" ;;
  destroy) stop_server KILL; rm -rf "$dir" ;;
  tool)
    . "$dir/env"
    class=$1; shift
    case $class in *.*) ;; *) class=org.apache.kafka.tools.$class ;; esac
    "$java" -XX:TieredStopAtLevel=1 "$tmp" -Dlog4j2.level=error -cp "$class_path" "$class" --bootstrap-server "$KAFKA_BOOTSTRAP" "$@"
    ;;
  *) die "unknown action $action" ;;
esac
