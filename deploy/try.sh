#!/bin/sh
# Runs callbridge with a Kafka of its own that keeps nothing, and prints what to paste into another terminal.
# Usage: try.sh LISTEN ADMIN_LISTEN DATA_DIR CALLBRIDGE...
set -eu

listen=$1 admin_listen=$2 data_dir=$3
shift 3
app=1400000000
prefix=tencent-chat
blocklist=$(dirname "$0")/blocklist.example.txt

# Prints a curl line that sends a callback about one subscriber. Usage: callback COMMAND USER
callback() {
    target="$callbacks/?SdkAppid=$app&CallbackCommand=$1&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI"
    list="[{\"Subscriber_Account\":\"$2\"}]"
    account='"Official_Account":"@TOA#_try","Operator_Account":"admin"'
    body="{\"CallbackCommand\":\"$1\",$account,\"SubscribeAccountList\":$list,\"EventTime\":$(date +%s)000}"
    printf "  curl -sS -w '\\\\n' --data '%s' '%s'\n" "$body" "$target"
}

# Prints a line that shows what is in a command's topic. Usage: topic COMMAND
topic() {
    echo "  kcat -C -q -e -o beginning -b $kafka -t $prefix.$1"
}

hints() {
    after=OfficialAccount.CallbackAfterAddSubscriber
    before=OfficialAccount.CallbackBeforeAddSubscriber
    printf '\nTo try it, paste into another terminal. Somebody has subscribed, which is taken:\n\n'
    callback $after alice
    printf '\nMay mallory subscribe? No: %s\n\n' "$blocklist"
    callback $before mallory
    if command -v kcat >/dev/null; then
        printf '\nBoth as Kafka has them:\n\n'
        topic $after
        topic $before
    else
        printf '\nThere is no kcat here (Debian: apt-get install kcat), but any Kafka client reads from %s.\n' "$kafka"
        printf 'How many came, and how many Kafka has:\n\n'
        echo "  curl -sS $admin/metrics | grep -E '^callbridge_callbacks_(received|delivered)_total.* [1-9]'"
    fi
    printf '\nCtrl-C stops it.\n\n'
}

folder=$(mktemp -d)
mkfifo "$folder/stdout"
{
    # Ctrl-C is for callbridge, which has something to say at its end; this ends then.
    trap '' INT TERM
    while read -r line; do
        echo "$line"
        case $line in
        'kafka on '*) kafka=${line#kafka on } ;;
        'callbacks on '*) callbacks=${line#callbacks on } ;;
        'admin on '*) admin=${line#admin on } && hints ;;
        esac
    done
} <"$folder/stdout" &
exec 3>"$folder/stdout"
rm -r "$folder"

# In place of this shell, so that whoever stops this stops callbridge.
exec "$@" serve --embedded-broker --sdk-app-id $app --topic-prefix $prefix --blocklist "$blocklist" \
    --listen "$listen" --admin-listen "$admin_listen" --data-dir "$data_dir" >&3 3>&-
