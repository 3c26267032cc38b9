#!/usr/bin/env bash
# Runs a test on a cluster of one node: etcd, the control plane, kubelet and kube-proxy of
# Kubernetes, containerd 2.1 and the shim under test.
#
#   test/kubernetes/run.sh service     a test: service.sh beside this script
#   test/kubernetes/run.sh bash        anything else: a command that finds kubectl
#
# The node is this machine in namespaces of its own (test/setup/node.sh), and ends with this
# script; logs stay in target/kubernetes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export LIGHTER_CACHE=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}
target=${CARGO_TARGET_DIR:-$root/target}
export LIGHTER_BIN=${LIGHTER_BIN:-$target/dist}
export LOGS=$target/kubernetes

fail() {
    echo "test/kubernetes: $*" >&2
    exit 1
}
[ $# -gt 0 ] || fail "which test? service, or a command"
[ -x "$LIGHTER_BIN/containerd-shim-wasmtime-v1" ] || fail "no shim in $LIGHTER_BIN: make build"
if [ -x "$here/$1.sh" ]; then
    set -- "$here/$1.sh" "${@:2}"
fi

"$root/test/setup/packages.sh" containernetworking-plugins
"$root/test/setup/daemons.sh"
"$here/build.sh"

rm -rf "$LOGS"
mkdir -p "$LOGS"
"$root/test/setup/node.sh" "$here/cluster.sh" "$@"
