#!/bin/sh
# Starts Kafka once and stores the classes that it loads, so that each later start takes a third less (class data sharing).
# Usage: archive.sh LIBS ARCHIVE
set -eu

libs=$1 archive=$2
folder=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill -9 "$server" 2>/dev/null || true; fi; rm -rf "$folder" "$archive.new"' EXIT
trap 'exit 130' INT TERM
rm -f "$archive.new"

# In place of this shell. Usage: kafka OPTION... CLASS ARGUMENT...
kafka() {
    exec java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$libs/*" "$@"
}

fail() {
    echo "Kafka does not start, so its classes are not stored; the tests do without them:"
    grep -E 'ERROR|Exception|Caused by' "$folder/log" | tail -n 5
    exit 1
}

cat >"$folder/server.properties" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:31093
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:31092,CONTROLLER://127.0.0.1:31093
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
offsets.topic.replication.factor=1
log.dirs=$folder/data
EOF
(kafka kafka.tools.StorageTool format -t MkU3OEVBNTcwNTJENDM2Qk -c "$folder/server.properties") >"$folder/log" 2>&1 || fail
kafka -XX:ArchiveClassesAtExit="$archive.new" kafka.Kafka "$folder/server.properties" >"$folder/log" 2>&1 &
server=$!

# Whether something holds within a minute. Usage: within_a_minute COMMAND...
within_a_minute() {
    for _second in $(seq 60); do
        if "$@"; then return 0; fi
        sleep 1
    done
    return 1
}
has_started() { grep -q 'Kafka Server started' "$folder/log"; }
has_ended() { ! kill -0 "$server" 2>/dev/null; }

within_a_minute eval 'has_started || has_ended'
kill "$server" 2>/dev/null || true
# It writes the archive at its end.
if within_a_minute has_ended && has_started; then
    mv -f "$archive.new" "$archive"
else
    fail
fi
