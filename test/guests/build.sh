#!/usr/bin/env bash
# Compiles the guests beside this script into $LIGHTER_CACHE/guests. What has been built from
# the same source by the same command is left alone; when everything has, says nothing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}/guests

# Debian's own rustc has the wasm32-wasi library; rustup's comes first in PATH.
rustc=(/usr/bin/rustc --edition 2021 --target wasm32-wasi -O -C panic=abort)
clang=(clang --target=wasm32-wasi -O2 -Wall -Wextra -Werror)
gcc=(gcc -O2 -Wall -Wextra -Werror)

# Core modules that are also wrapped as components of wasi:cli.
components=(hello exit files env-args cat sleep trap)

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

mkdir -p "$out"
# Two test runs may share the cache.
exec 9>"$out/.lock"
flock 9

# stale TARGET KEY: whether the target was not yet built with this key.
stale() {
    [ ! -e "$out/$1" ] || [ "$(cat "$out/.$1.key" 2>/dev/null)" != "$2" ]
}

# build TARGET SOURCE... -- COMMAND...: runs the command, whose last argument becomes the
# target's file, when the sources' contents or the command are new.
build() {
    local target=$1 key sources=()
    shift
    while [ "$1" != -- ]; do
        sources+=("$1")
        shift
    done
    shift
    key=$(cat "${sources[@]}" | sha256sum | cut -d ' ' -f 1)" ${*//$root/.}"
    stale "$target" "$key" || return 0
    echo "build.sh: $target"
    rm -f "$out/$target"
    "$@" "$out/.$target.new" || fail "$target: this command failed: $*"
    mv "$out/.$target.new" "$out/$target"
    printf '%s\n' "$key" >"$out/.$target.key"
}

# Text to Wasm and module to component, from the test kit: $GUEST_TOOL when that names its
# binary, else built when it is first needed.
guest_tool=${GUEST_TOOL:-}
guest_tool() {
    if [ -z "$guest_tool" ]; then
        guest_tool=$(cd "$root" && cargo build --release -p lighter-testkit --bin guest-tool \
            --message-format json-render-diagnostics 9>&- |
            sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
        [ -x "$guest_tool" ] || fail "cargo did not say where guest-tool is"
    fi
    "$guest_tool" "$@"
}

truncate_to_60() {
    head -c 60 "$1" >"$2"
}

shopt -s nullglob
for source in "$here"/*.rs; do
    name=$(basename "$source" .rs)
    build "$name.wasm" "$source" -- "${rustc[@]}" -C strip=symbols "$source" -o
done
for source in "$here"/*.c; do
    name=$(basename "$source" .c)
    build "$name.wasm" "$source" -- "${clang[@]}" "$source" -o
done
for source in "$here"/*.wat; do
    name=$(basename "$source" .wat)
    build "$name.wasm" "$source" -- guest_tool wat "$source"
done
for name in "${components[@]}"; do
    build "$name-component.wasm" "$out/$name.wasm" -- guest_tool component "$out/$name.wasm"
done
build truncated.wasm "$out/hello.wasm" -- truncate_to_60 "$out/hello.wasm"
build not-wasm.wasm "$here/not-wasm.txt" -- cp "$here/not-wasm.txt"

native=$here/native
for name in signals ids; do
    build "$name" "$native/$name.c" "$native/status.h" -- "${gcc[@]}" -static "$native/$name.c" -o
done
build fds "$native/fds.c" -- "${gcc[@]}" -static "$native/fds.c" -o
# The linker warns that a static program loads name services at run time: that is the point.
build nss-probe "$native/nss-probe.c" -- \
    "${gcc[@]}" -static -Wl,--no-warnings "$native/nss-probe.c" -o
build libnss_evil.so.2 "$native/libnss_evil.c" -- \
    "${gcc[@]}" -shared -fPIC -nostdlib "$native/libnss_evil.c" -o
build nsswitch.conf "$native/nsswitch.conf" -- cp "$native/nsswitch.conf"
