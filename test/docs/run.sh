#!/usr/bin/env bash
# Executes the commands of the README and the tutorials on real daemons.
#
#   test/docs/run.sh [PAGE...]              blocks marked `sh runnable`, with containerd and dockerd
#   test/docs/run.sh --cluster [PAGE...]    blocks marked `sh cluster`, on a cluster of one node
#
# The node is this machine in namespaces of its own (test/setup/node.sh), and ends with this
# script. What the daemons said stays in target/docs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export LIGHTER_CACHE=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}
export TARGET=${CARGO_TARGET_DIR:-$root/target}
export LIGHTER_BIN=${LIGHTER_BIN:-$TARGET/dist}
export GUEST_TOOL=${GUEST_TOOL:-$TARGET/x86_64-unknown-linux-gnu/release/guest-tool}

fail() {
    echo "test/docs: $*" >&2
    exit 1
}

kind=runnable
if [ "${1-}" = --cluster ]; then
    kind=cluster
    shift
fi
[ -x "$LIGHTER_BIN/lighter" ] || fail "no programs in $LIGHTER_BIN: make build"
# Where a clone is in the tutorials; its target directory may be elsewhere.
export CLONE=$root

"$root/test/setup/packages.sh"
"$root/test/setup/daemons.sh"

"$here/cli.py" "$LIGHTER_BIN/lighter" --check
if [ "$kind" = cluster ]; then
    "$root/deploy/release.sh" "$TARGET/package" >/dev/null
    # -b: the node does not know the handler, until the tutorial installs it.
    exec "$root/test/kubernetes/run.sh" -b "$here/blocks.py" cluster "$@"
fi

[ -x "$GUEST_TOOL" ] || fail "no guest-tool at $GUEST_TOOL: make test-build"
# What a reader has and Debian 12 has not.
tools=$LIGHTER_CACHE/docs-tools
"$root/test/guests/tools.sh" "$tools" rust
if ! GOTOOLCHAIN=local go tool dist list 2>/dev/null | grep -qx wasip1/wasm; then
    "$root/test/guests/tools.sh" "$tools" go
fi
if ! command -v npm >/dev/null; then
    "$root/test/guests/tools.sh" "$tools" python
fi
export LOGS=$TARGET/docs
rm -rf "$LOGS"
mkdir -p "$LOGS"

# The node has a network of its own; pip, npm and cargo need the machine's. The file leads there.
outside=$(mktemp /tmp/lighter-docs.XXXXXX)
export OUTSIDE=$outside
trap 'rm -f "$outside"' EXIT
# shellcheck disable=SC2016 # the inner shell expands them
unshare --mount --propagation private bash -c \
    'mount --bind /proc/self/ns/net "$OUTSIDE" && "$0" "$@"' \
    "$root/test/setup/node.sh" "$here/daemons.sh" "$here/blocks.py" runnable "$@"
