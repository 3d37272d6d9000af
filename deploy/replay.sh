#!/bin/sh
# Posts one record of a rejected topic again, as the callback it was. Needs kcat and curl (7.87 or later).
# Usage: replay.sh BROKERS TOPIC PARTITION OFFSET URL
#
#   MEND=COMMAND     what the body goes through on its way; without it the body is posted as it came
#   TOKEN_FILE=FILE  signs it with the first line of FILE, where callbacks are signed
set -eu

if [ $# != 5 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
brokers=$1 topic=$2 partition=$3 offset=$4 url=$5

record() {
    kcat -q -b "$brokers" -C -t "$topic" -p "$partition" -o "$offset" -c 1 -e -f "$1"
}

# The last of each name: those before may stand in what the sender wrote.
headers=$(record '%h\n')
command=$(printf '%s\n' "$headers" | sed -n 's/.*,callbridge-command=\(.*\),callbridge-sdkappid=.*/\1/p')
app=$(printf '%s\n' "$headers" | sed -n 's/.*,callbridge-sdkappid=\([0-9]*\),callbridge-received=.*/\1/p')
if [ -z "$command" ] || [ -z "$app" ]; then
    echo "there is no rejected callback at $topic [$partition] $offset" >&2
    exit 1
fi

set -- --url-query "SdkAppid=$app" --url-query "CallbackCommand=$command"
if [ -n "${TOKEN_FILE:-}" ]; then
    time=$(date +%s)
    sign=$(printf '%s%s' "$(sed -n 's/^[[:space:]]*//; s/[[:space:]]*$//; 1p' "$TOKEN_FILE")" "$time" | sha256sum | cut -d ' ' -f 1)
    set -- "$@" --url-query "Sign=$sign" --url-query "RequestTime=$time"
fi
record '%s' | sh -c "${MEND:-cat}" | curl -sS --max-time 30 -w '\n' "$@" --data-binary @- "$url"
