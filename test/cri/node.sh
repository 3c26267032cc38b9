#!/usr/bin/env bash
# The inside of run.sh: the first process of the node. Starts what the suite needs, runs it, and
# ends, which ends everything.
#
#   node.sh SUITE HANDLER LOGS [COMMAND...]
set -euo pipefail

suite=$1 handler=$2 logs=$3
shift 3

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=$LIGHTER_CACHE/cri
daemons=$(compgen -G "$LIGHTER_CACHE/daemons/containerd-[2-9].*/usr/bin" | sort -V | tail -n 1)
export PATH=$daemons:$LIGHTER_BIN:$PATH
socket=/run/containerd-test/containerd.sock
export CONTAINERD_ADDRESS=$socket CONTAINERD_NAMESPACE=k8s.io

fail() {
    echo "test/cri: $*" >&2
    exit 1
}

# until_there PATH LOG: waits for a file that a daemon makes when it is ready.
until_there() {
    for _ in $(seq 300); do
        [ ! -e "$1" ] || return 0
        sleep 0.1
    done
    fail "no $1 after 30 s: $(tail -n 5 "$2")"
}

echo 127.0.0.1 localhost "$(hostname)" gcr.io ghcr.io registry.k8s.io >/etc/hosts

mkdir -p /etc/cni/net.d
cat >/etc/cni/net.d/10-bridge.conflist <<EOF
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "promiscMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
EOF

# Everything on this node trusts the registry and nobody else.
export SSL_CERT_FILE=$NODE/registry.pem SSL_CERT_DIR=/nonexistent
"$tools/registry" /bin/busybox "$tools/pause" "$tools/nnp" "$SSL_CERT_FILE" >"$logs/registry.log" 2>&1 </dev/null &
until_there "$SSL_CERT_FILE" "$logs/registry.log"

# The handler is also the default: many tests name none.
cat >"$NODE/config.toml" <<EOF
version = 3
root = "/var/lib/containerd-test"
state = "/run/containerd-test"
[grpc]
  address = "$socket"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "registry.k8s.io/pause:3.10"
[plugins."io.containerd.cri.v1.runtime"]
  drain_exec_sync_io_timeout = "10s"
  # Pods ask for a score below this process's own, which takes CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "$handler"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wasmtime]
  runtime_type = "io.containerd.wasmtime.v1"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = false
[plugins."io.containerd.nri.v1.nri"]
  socket_path = "/var/run/nri-test.sock"
EOF
# Tests kill it, wait until it is gone, and expect it back.
while :; do
    containerd --log-level debug --config "$NODE/config.toml" || true
    sleep 2
done >"$logs/containerd.log" 2>&1 </dev/null &
until_there "$socket" "$logs/containerd.log"
for _ in $(seq 100); do
    ctr version >/dev/null 2>&1 && break
    sleep 0.1
done

if [ $# -gt 0 ]; then
    "$@"
    exit
fi

# skipped PATTERN: the names in the suite's skip file, each changed by sed's PATTERN, joined by |.
skipped() {
    sed -n 's/^\([^#].*\)  .*/\1/p' "$here/skip-$suite.txt" | sed "$1" | paste -sd '|'
}

run_critest() {
    "$tools/critest" -ginkgo.no-color -ginkgo.skip "$(skipped 's/[][()]/\\&/g')" -ginkgo.focus "${FOCUS:-}" \
        -runtime-endpoint "unix://$socket" -image-endpoint "unix://$socket" -runtime-handler "$handler"
}

run_containerd() {
    # Go matches a name level by level.
    "$tools/cri-integration" -test.v -test.timeout 30m -test.run "${FOCUS:-}" \
        -test.skip "$(skipped 's|/|$/^|; s/.*/^&$/')" \
        -cri-endpoint "unix://$socket" -runtime-handler "$handler"
}

# What one sees while it runs: of critest a dot for each spec, of the other its tests' results.
case $suite in
critest) progress='^[•S]+|^Ran |^ *\[FAIL\]' ;;
containerd) progress='^ *--- |^panic: ' ;;
esac
begin=$SECONDS
cd "$NODE"
"run_$suite" 2>&1 </dev/null | tee "$logs/tests.log" | grep --line-buffered -aE "$progress" || true
status=${PIPESTATUS[0]}

count() {
    case $suite in
    critest) sed -nE "s/.* ([0-9]+) $1.*/\1/p" "$logs/tests.log" | tail -n 1 ;;
    containerd) grep -acE "^--- ${1:0:4}" "$logs/tests.log" || true ;;
    esac
}
if [ "$suite" = containerd ]; then
    passed=$(count PASSed) failed=$(count FAILed) skipped=$(count SKIPped)
else
    passed=$(count Passed) failed=$(count Failed) skipped=$(count Skipped)
fi
[ "$status" -eq 0 ] || echo "test/cri: failed with $handler; what was said is in $logs/tests.log"
echo "test/cri: $suite on $handler: ${passed:-0} passed, ${failed:-0} failed, ${skipped:-0} skipped," \
    "$(grep -c '^[^#]' "$here/skip-$suite.txt" || true) in skip-$suite.txt, $((SECONDS - begin)) s"
exit "$status"
