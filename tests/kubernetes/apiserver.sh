#!/bin/bash
# The chart, the plain manifests and the sidecar against a real kube-apiserver (without a kubelet: no pod runs), in a namespace that
# enforces the Pod Security Standard "restricted". Then faults that no schema finds, each of which must be refused.
# Usage: apiserver.sh KUBE_APISERVER HELM PYTHON CRDS      (etcd and kubectl from PATH; CRDS is a folder of the Prometheus operator's)
set -euo pipefail
cd "$(dirname "$0")/../.."

apiserver=$1 helm=$2 python=$3 crds=$4
chart=deploy/helm/callbridge
dir=$(mktemp -d)
trap '{ kill -KILL $(jobs -p); wait; } 2>/dev/null; rm -rf "$dir"' EXIT

read -r etcd_port peer_port port < <(python3 -c '
import socket
sockets = [socket.socket() for _ in range(3)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in sockets])')

etcd --data-dir "$dir/etcd" --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
    --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" \
    --initial-cluster "default=http://127.0.0.1:$peer_port" >"$dir/etcd.log" 2>&1 &
openssl genrsa -out "$dir/sa.key" 2048 2>/dev/null
token=$(openssl rand -hex 16)
echo "$token,admin,admin,system:masters" >"$dir/tokens"
# There is no controller that makes the service accounts of a namespace.
"$apiserver" --etcd-servers "http://127.0.0.1:$etcd_port" --bind-address 127.0.0.1 --secure-port "$port" --cert-dir "$dir" \
    --service-account-issuer https://callbridge.test --service-account-key-file "$dir/sa.key" --service-account-signing-key-file "$dir/sa.key" \
    --token-auth-file "$dir/tokens" --authorization-mode RBAC --disable-admission-plugins ServiceAccount >"$dir/apiserver.log" 2>&1 &

export KUBECONFIG=$dir/kubeconfig
kubectl config set-cluster test --server "https://127.0.0.1:$port" --insecure-skip-tls-verify >/dev/null
kubectl config set-credentials admin --token "$token" >/dev/null
kubectl config set-context test --cluster test --user admin --namespace cb >/dev/null
kubectl config use-context test >/dev/null
# wait_for COMMAND...
wait_for() {
    for _ in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        kill -0 %2 2>/dev/null || break
        sleep 0.2
    done
    echo "FAILED: not within a minute: $*" && tail "$dir/apiserver.log" && exit 1
}
wait_for kubectl get --raw /readyz
kubectl create namespace cb >/dev/null
kubectl label namespace cb pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/warn=restricted >/dev/null
kubectl apply --server-side -f "$crds" >/dev/null
wait_for kubectl get servicemonitors,prometheusrules

passed=0
# accepted NAME COMMAND...: it succeeds, and warns of nothing.
accepted() {
    local name=$1 && shift
    "$@" >"$dir/out" 2>&1 || { echo "FAILED: $name"; cat "$dir/out"; exit 1; }
    ! grep '^Warning: \|level=WARN' "$dir/out" || { echo "FAILED: $name warns"; exit 1; }
    passed=$((passed + 1)) && echo "accepted: $name"
}
# refused NAME TEXT COMMAND...: it fails, and says TEXT.
refused() {
    local name=$1 text=$2 && shift 2
    ! "$@" >"$dir/out" 2>&1 || { echo "FAILED: $name was accepted"; cat "$dir/out"; exit 1; }
    grep -q "$text" "$dir/out" || { echo "FAILED: $name: not \"$text\" but"; cat "$dir/out"; exit 1; }
    passed=$((passed + 1)) && echo "refused: $name"
}
# pods: the pod templates of what stands on stdin, as pods: only those are enforced.
pods() {
    "$python" -c '
import sys, yaml
for d in yaml.safe_load_all(sys.stdin):
    if d and d["kind"] in ("Deployment", "StatefulSet"):
        t = d["spec"]["template"]
        t["metadata"] = {"name": "pod", "labels": t["metadata"]["labels"]}
        for v in d["spec"].get("volumeClaimTemplates", []):
            t["spec"]["volumes"].append({"name": v["metadata"]["name"], "emptyDir": {}})
        print("---\n" + yaml.dump({"apiVersion": "v1", "kind": "Pod", **t}))'
}
render() { "$helm" template callbridge "$chart" --values "$chart/ci/$1-values.yaml" "${@:2}"; }
create() { kubectl create --dry-run=server -f -; }

openssl rand -hex 16 >"$dir/tencent-token"
accepted 'the Secret of tokens' kubectl --namespace cb create secret generic callbridge-tokens --from-file=token="$dir/tencent-token"
for shape in deployment statefulset everything; do
    values="$chart/ci/$shape-values.yaml"
    accepted "$shape: its pods under restricted" create < <(render "$shape" | pods)
    accepted "$shape: its test" create < <(render "$shape" --show-only templates/tests/alive.yaml)
    accepted "$shape: install" "$helm" install "$shape" "$chart" --values "$values"
    accepted "$shape: upgrade" "$helm" upgrade "$shape" "$chart" --values "$values" --set config.workers=2,image.tag=next
    accepted "$shape: rollback" "$helm" rollback "$shape" 1
    if [ "$shape" = statefulset ]; then
        refused 'a volume of another size, which Kubernetes does not let an upgrade change' 'updates to statefulset spec' \
            "$helm" upgrade "$shape" "$chart" --values "$values" --set persistence.size=20Gi
    fi
    accepted "$shape: uninstall" "$helm" uninstall "$shape"
done
for file in deployment statefulset; do
    accepted "deploy/kubernetes/$file.yaml" kubectl apply -f "deploy/kubernetes/$file.yaml"
    accepted "deploy/kubernetes/$file.yaml, removed" kubectl delete -f "deploy/kubernetes/$file.yaml"
done
accepted 'the sidecar in a foreign Deployment' kubectl apply -k deploy/kubernetes/sidecar-example
accepted 'its pods under restricted' create < <(kubectl kustomize deploy/kubernetes/sidecar-example | pods)

pod() { render deployment "$@" | pods; }
refused 'a PDB with two keys' 'minAvailable and maxUnavailable cannot be both set' create < <(
    render deployment --show-only templates/pdb.yaml | sed 's/^  maxUnavailable: 1/&\n  minAvailable: 1/')
refused 'an interval that is no duration' 'spec.endpoints\[0\].interval' create < <(
    render everything --show-only templates/monitoring.yaml | sed 's/interval: 15s/interval: 15parsecs/')
refused 'a privileged container' 'violates PodSecurity\|allowPrivilegeEscalation' create < <(pod --set securityContext.privileged=true)
refused 'a root user' 'runAsUser=0' create < <(pod --set podSecurityContext.runAsUser=0)
refused 'a kept capability' 'unrestricted capabilities' create < <(pod --set 'securityContext.capabilities.drop={NET_RAW}')
refused 'no seccomp profile' 'seccompProfile' create < <(pod --set podSecurityContext.seccompProfile=null)
refused 'a volume of the host' 'hostPath' create < <(pod --set 'extraVolumes[0].name=host,extraVolumes[0].hostPath.path=/')
refused 'a mount without a volume' 'Not found' create < <(pod --set 'extraVolumeMounts[0].name=gone,extraVolumeMounts[0].mountPath=/gone')
refused 'a selector that does not match' 'selector. does not match' create < <(
    render deployment --show-only templates/deployment.yaml | sed '/matchLabels:/,/template:/s/instance: callbridge/instance: other/')
refused 'a preStop hook of a kind that is none' 'lifecycle\|strict decoding' create < <(
    pod | sed 's/    livenessProbe:/    lifecycle: {preStop: {sleeps: {seconds: 5}}}\n    livenessProbe:/')
refused 'a port name that is too long' 'must be no more than 15 characters' create < <(pod | sed 's/name: callbacks$/name: callbacks-of-tencent/')
echo "$passed passed, 0 failed"
