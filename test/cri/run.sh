#!/usr/bin/env bash
# Runs a suite of others against a private containerd, whose pods run on the shim under test or,
# for comparison, on runc:
#
#   test/cri/run.sh critest|containerd [wasmtime|runc] [COMMAND...]
#
# critest is the suite of the Kubernetes CRI (sigs.k8s.io/cri-tools), containerd the CRI
# integration suite of containerd itself.
#
#   FOCUS='execSync' test/cri/run.sh critest         only these specs, at once
#   test/cri/run.sh critest wasmtime bash            a shell instead of the suite
#
# The node is this machine in namespaces of its own: processes, mounts, network, cgroups.
# containerd's suite kills every containerd that it sees, and that is the private one. All of it
# ends with this script; logs stay in target/cri/SUITE-HANDLER.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export LIGHTER_CACHE=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}
target=${CARGO_TARGET_DIR:-$root/target}
export LIGHTER_BIN=${LIGHTER_BIN:-$target/dist}

fail() {
    echo "test/cri: $*" >&2
    exit 1
}

suite=${1:-critest}
handler=${2:-wasmtime}
shift "$(($# < 2 ? $# : 2))"
case $suite in
critest | containerd) ;;
*) fail "no suite $suite: critest or containerd" ;;
esac
case $handler in
wasmtime) [ -x "$LIGHTER_BIN/containerd-shim-wasmtime-v1" ] || fail "no shim in $LIGHTER_BIN: make build" ;;
runc) ;;
*) fail "no handler $handler: wasmtime or runc" ;;
esac
[ "$(id -u)" -eq 0 ] || fail "containers need root"
[ -d /sys/fs/cgroup/memory ] || fail "needs cgroup v1, as all tests do yet"

"$root/test/setup/packages.sh" containernetworking-plugins lsof procps
"$root/test/setup/daemons.sh"
"$here/build.sh" "$suite"

logs=$target/cri/$suite-$handler
rm -rf "$logs"
mkdir -p "$logs"
place=$(mktemp -d /tmp/lighter-cri.XXXXXX)
name=${place##*/}

# cgroups: the folders of the node's cgroups, one a hierarchy, below this script's own.
cgroups() {
    local controllers path hierarchy
    while IFS=: read -r _ controllers path; do
        hierarchy=/sys/fs/cgroup/${controllers#name=}
        if [ -z "$controllers" ]; then
            hierarchy=/sys/fs/cgroup/unified
        fi
        if [ -d "$hierarchy" ]; then
            echo "$hierarchy${path%/}/$name"
        fi
    done </proc/self/cgroup
}
mapfile -t cgroups < <(cgroups)

node=
clean() {
    if [ -n "$node" ]; then
        # unshare hears nothing else. It takes the namespace's init with it, and that all others.
        kill -KILL "$node" 2>/dev/null || true
        wait "$node" 2>/dev/null || true
    fi
    local cgroup
    for cgroup in "${cgroups[@]}"; do
        for _ in $(seq 50); do
            find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [ -d "$cgroup" ] || break
            sleep 0.1
        done
        [ ! -d "$cgroup" ] || echo "test/cri: $cgroup is still in use" >&2
    done
    rm -rf "$place"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

for cgroup in "${cgroups[@]}"; do
    mkdir "$cgroup"
    case $cgroup in
    */cgroup/cpuset/*)
        cat "${cgroup%/*}/cpuset.cpus" >"$cgroup/cpuset.cpus"
        cat "${cgroup%/*}/cpuset.mems" >"$cgroup/cpuset.mems"
        ;;
    esac
done

(
    for cgroup in "${cgroups[@]}"; do
        echo "$BASHPID" >"$cgroup/cgroup.procs"
    done
    exec unshare --mount --pid --net --ipc --uts --cgroup --mount-proc --fork --kill-child \
        "$here/node.sh" "$suite" "$handler" "$place" "$logs" "$@"
) <&0 &
node=$!
status=0
wait "$node" || status=$?
node=
exit "$status"
