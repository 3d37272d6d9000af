#!/bin/bash
# The Debian package under a real systemd: installed, started through its socket, restarted and upgraded under load, also with a Kafka that
# is frozen, hung, broken, purged.
# systemd runs as process 1 of a container with a network of its own. As root; needs mmdebstrap and systemd-nspawn (systemd-container).
# Usage: nspawn.sh DEB DIR
set -euo pipefail

deb=$1 dir=$2 root=$2/root
mkdir -p "$dir"
if [ ! -d "$root" ]; then
    mmdebstrap --variant=minbase --include=systemd,systemd-sysv,dbus,init-system-helpers,ca-certificates,procps,iproute2,curl bookworm "$root.new"
    for unit in getty.target console-getty.service systemd-logind.service apt-daily.timer apt-daily-upgrade.timer; do
        ln -sf /dev/null "$root.new/etc/systemd/system/$unit"
    done
    mv "$root.new" "$root"
fi
cp "$deb" "$root/root/callbridge.deb"

# Nothing of an earlier run remains: the root is read, and changes go to memory.
systemd-nspawn -D "$root" --volatile=overlay --private-network --register=no --keep-unit --boot </dev/null >"$dir/boot.log" 2>&1 &
nspawn=$!
trap 'kill -KILL $(pgrep -P $nspawn) $nspawn 2>/dev/null; wait 2>/dev/null || true' EXIT
in_container() { nsenter -t "$(pgrep -P $nspawn | head -1)" -m -p -u -i -n -C "$@"; }
wait_until() { # WHAT COMMAND...
    local what=$1 && shift
    for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done
    echo "FAILED: not within a minute: $what"
    in_container journalctl --no-pager -n 60 -u callbridge.service -u callbridge.socket || tail "$dir/boot.log"
    exit 1
}
passed=0
ok() { passed=$((passed + 1)) && echo "ok: $1"; }
is() { [ "$(in_container systemctl show -P "$1" callbridge.service)" = "$2" ]; }
target='http://127.0.0.1:8080/?SdkAppid=1400000000&CallbackCommand=State.StateChange&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI'
# post URL [OPTION...]: the status and the seconds of each callback; 000 is no response. A connection for each, so that each needs the
# socket; the sender gives up after 2 s.
post() {
    in_container curl -s -o /dev/null -w '%{http_code} %{time_total}\n' --max-time 2 -H 'Connection: close' --data '{"CallbackCommand":"State.StateChange"}' "${@:2}" "$1"
}

wait_until 'systemd runs' in_container systemctl is-system-running --quiet
in_container ip link set lo up
in_container dpkg -i /root/callbridge.deb >"$dir/dpkg.log" 2>&1
! in_container systemctl is-active --quiet callbridge.service callbridge.socket
ok 'the package is installed, and starts nothing'

# Kafka is away, which the journal bears.
in_container sed -i 's/^"bootstrap.servers" = .*/"bootstrap.servers" = "127.0.0.1:9092"/' /etc/callbridge/callbridge.toml
in_container sh -c 'printf "%032d\n" 7 >/etc/callbridge/tencent-token; chmod 600 /etc/callbridge/tencent-token'
in_container mkdir -p /etc/systemd/system/callbridge.service.d
in_container sh -c 'printf "[Service]\nLoadCredential=tencent-token:/etc/callbridge/tencent-token\nWatchdogSec=3\n" >/etc/systemd/system/callbridge.service.d/test.conf'
in_container systemctl daemon-reload
in_container systemctl enable --quiet --now callbridge.socket callbridge.service
wait_until 'the service is ready' is ActiveState active
[[ $(post "$target") = 200\ * ]]
ok 'it is ready, and takes a callback through its socket'

uid=$(in_container sh -c 'stat -c %u /proc/$(systemctl show -P MainPID callbridge.service)')
[ "$uid" -gt 61000 ] && [ "$(in_container stat -Lc %u:%a /var/lib/callbridge)" = "$uid:700" ]
in_container cat /run/credentials/callbridge.service/tencent-token | grep -q 7
ok "it runs as user $uid, with a journal and a token of its own"

# restart_under_load: load of at most 500 a second, for 25 seconds at least, and ten restarts meanwhile, and what is in "$@".
restart_under_load() {
    local sender senders=()
    for sender in 1 2 3 4 5; do
        post "$target&n=[1-2500]" --rate 100/s >"$dir/responses-$sender" &
        senders+=($!)
    done
    for _ in $(seq 10); do in_container systemctl restart callbridge.service; done
    "$@"
    kill -0 "${senders[@]}" || { echo 'FAILED: the load ended before the restarts'; exit 1; }
    # It fails where the last callback of a sender did; each is counted.
    wait "${senders[@]}" || true
    cut -d' ' -f1 "$dir"/responses-* | sort | uniq -c >"$dir/statuses"
    read -r count status <"$dir/statuses"
    [ "$(wc -l <"$dir/statuses")" = 1 ] && [ "$status" = 200 ] && [ "$count" = 12500 ] ||
        { echo 'FAILED: callbacks by status, where 000 is no response within 2 s:'; cat "$dir/statuses"; exit 1; }
    slowest=$(cut -d' ' -f2 "$dir"/responses-* | sort -n | tail -1)
}
upgrade() {
    in_container dpkg -i /root/callbridge.deb >>"$dir/dpkg.log" 2>&1
    wait_until 'it is ready after the upgrade' is ActiveState active
}
restart_under_load upgrade
ok "ten restarts and an upgrade: $count callbacks, each answered 200 within 2 s, the slowest in $slowest s"

# A broker that takes connections and says nothing: the kernel's end of a socket that nobody accepts from.
in_container sh -c 'printf "[Socket]\nListenStream=127.0.0.1:9092\nBacklog=4096\n" >/etc/systemd/system/frozen.socket'
in_container sh -c 'printf "[Service]\nExecStart=/bin/sleep infinity\n" >/etc/systemd/system/frozen.service'
in_container systemctl daemon-reload
in_container systemctl start frozen.socket
restart_under_load true
awk -v slowest="$slowest" 'BEGIN { exit !(slowest < 1.9) }' || { echo "FAILED: one was answered after $slowest s"; exit 1; }
ok "with Kafka frozen, ten restarts: $count callbacks, each answered 200, the slowest in $slowest s"
in_container systemctl stop frozen.socket frozen.service

restarts=$(in_container systemctl show -P NRestarts callbridge.service)
in_container systemctl kill --signal STOP callbridge.service
wait_until 'the watchdog restarts it' is NRestarts $((restarts + 1))
wait_until 'it is ready again' is ActiveState active
ok 'the watchdog restarts a process that hangs'

# That callbridge ends so when its disk fails is tested in crashes:: and disk_faults::.
in_container tee /etc/systemd/system/callbridge.service.d/disk.conf >/dev/null <<'END'
[Service]
ExecStart=
ExecStart=/bin/sh -c "exit 74"
END
in_container systemctl daemon-reload
in_container systemctl reset-failed callbridge.service
in_container systemctl restart --no-block callbridge.service
restarted_twice() { [ "$(in_container systemctl show -P NRestarts callbridge.service)" -ge 2 ]; }
wait_until 'it is restarted twice' restarted_twice
wait_until 'it has ended with 74' is ExecMainStatus 74
in_container rm /etc/systemd/system/callbridge.service.d/disk.conf
in_container systemctl daemon-reload
in_container systemctl restart callbridge.service
ok 'a process that ends with 74 is started again'

in_container sed -i 's/^ack = .*/ack = "never"/' /etc/callbridge/callbridge.toml
in_container systemctl restart callbridge.service || true
wait_until 'it has failed' is ActiveState failed
is ExecMainStatus 78 && is NRestarts 0
ok 'a wrong configuration ends with 78, and it stays down'

in_container dpkg --purge callbridge >>"$dir/dpkg.log" 2>&1
! in_container systemctl cat callbridge.socket >/dev/null 2>&1
[ -z "$(in_container find /etc/systemd/system -name 'callbridge.s*' -type l)" ]
in_container test -d /var/lib/private/callbridge
ok 'a purge leaves the journal, and no unit'
echo "$passed passed, 0 failed"
