#!/usr/bin/env bash
# Builds what `make bench-http` compares Lighter with, into $LIGHTER_CACHE/peer/bin:
#
#   containerd-shim-peerwasmtime-v1   the peer, a shim on the crate containerd-shim-wasm
#   wasmtime                          Wasmtime's command line, for `wasmtime serve` and `run`
#   peer-hello                        a hyper server without a guest
#
# Takes half an hour on two cores, once: says and does nothing when what is there was built
# from the same source.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}
out=$cache/peer
bin=$out/bin
log=$out/build.log

# The release whose engine Lighter has.
wasmtime=48.0.8
# What running, serving and compiling ahead of time need, with the engine's features that
# Lighter has too.
features=run,serve,compile,cranelift,parallel-compilation,pooling-allocator,component-model
features+=,component-model-async,threads,gc,gc-drc,addr2line,backtrace,demangle

fail() {
    echo "peer/build.sh: $*" >&2
    exit 1
}

"$here/../../setup/packages.sh" protobuf-compiler wrk

mkdir -p "$bin"
# Two runs may share the cache.
exec 9>"$out/.lock"
flock 9

# The caller's folder is that of another workspace, whose features are others.
export CARGO_TARGET_DIR=$out/target
if command -v rustup >/dev/null; then
    export RUSTUP_TOOLCHAIN=${RUSTUP_TOOLCHAIN:-1.95.0}
fi
# cargo reads the settings of the folder that it is called in: Lighter's are not the peers'.
cd /

# build NAME KEY COMMAND...: runs the command when it was not yet run with this key.
build() {
    local name=$1 key=$2 begin=$SECONDS
    shift 2
    [ "$(cat "$out/.$name.key" 2>/dev/null)" != "$key" ] || return 0
    echo "peer/build.sh: $name, some fifteen minutes (progress in $log)"
    "$@" >"$log" 2>&1 9>&- || {
        tail -n 30 "$log" >&2
        fail "this command failed: $*"
    }
    printf '%s\n' "$key" >"$out/.$name.key"
    echo "peer/build.sh: $name took $((SECONDS - begin)) s"
}

peers() {
    cargo build --release --locked --manifest-path "$here/Cargo.toml" &&
        install -t "$bin" "$CARGO_TARGET_DIR"/release/{containerd-shim-peerwasmtime-v1,peer-hello}
}

command_line() {
    cargo install wasmtime-cli --version "$wasmtime" --locked --bin wasmtime \
        --no-default-features --features "$features" --no-track --force --root "$out"
}

sources=$(cat "$here"/Cargo.* "$here"/*/Cargo.toml "$here"/*/src/*.rs | sha256sum)
build wasmtime "$wasmtime $features" command_line
build peers "$sources" peers
rm -rf "$CARGO_TARGET_DIR"
