#!/usr/bin/env bash
# Runs a command on a cluster of one node: etcd, the control plane, kubelet and kube-proxy of
# Kubernetes, CoreDNS, metrics-server, containerd 2.1 and the shim under test.
#
#   test/kubernetes/run.sh suite [ARGUMENT]...     the tests; arguments are those of `cargo test`
#   test/kubernetes/run.sh figures                 seconds from apply to Ready
#   test/kubernetes/run.sh bash                    anything else: a command that finds kubectl
#
# With -b before it, the node does not know the handler yet.
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
export BARE=
if [ "${1-}" = -b ]; then
    BARE=1
    shift
fi
[ $# -gt 0 ] || fail "no command; the tests are: suite"
[ -x "$LIGHTER_BIN/containerd-shim-wasmtime-v1" ] || fail "no shim in $LIGHTER_BIN: make build"
built=$target/x86_64-unknown-linux-gnu/release
case $1 in
suite)
    # shellcheck disable=SC2012
    suite=$(ls -t "$built"/deps/kubernetes-* 2>/dev/null | grep -v '\.d$' | head -n 1)
    [ -x "$suite" ] || fail "the tests are not built: make test-k8s"
    set -- "$suite" "${@:2}"
    ;;
figures)
    [ -x "$built/kubernetes-figures" ] || fail "they are not built: make bench-k8s"
    set -- "$built/kubernetes-figures" "${@:2}"
    ;;
esac

"$root/test/setup/packages.sh" containernetworking-plugins
"$root/test/setup/daemons.sh"
"$here/build.sh"

rm -rf "$LOGS"
mkdir -p "$LOGS"
"$root/test/setup/node.sh" "$here/cluster.sh" "$@"
