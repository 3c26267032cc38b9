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
# The node is this machine in namespaces of its own (test/setup/node.sh). containerd's suite kills
# every containerd that it sees, and that is the private one. All of it ends with this script;
# logs stay in target/cri/SUITE-HANDLER.
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

"$root/test/setup/packages.sh" containernetworking-plugins lsof procps
"$root/test/setup/daemons.sh"
"$here/build.sh" "$suite"

logs=$target/cri/$suite-$handler
rm -rf "$logs"
mkdir -p "$logs"
exec "$root/test/setup/node.sh" "$here/node.sh" "$suite" "$handler" "$logs" "$@"
