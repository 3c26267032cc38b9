#!/usr/bin/env bash
# Compiles the guests beside this script into $LIGHTER_CACHE/guests. What has been built from
# the same source by the same command is left alone; when everything has, says nothing.
#
#   build.sh [FILE...]    all guests, or those files of them
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}/guests

# Debian's own rustc has the wasm32-wasi library; rustup's comes first in PATH.
rustc=(/usr/bin/rustc --edition 2021 --target wasm32-wasi -O -C panic=abort)
clang=(clang --target=wasm32-wasi -O2 -Wall -Wextra -Werror)
reactor=("${clang[@]}" -mexec-model=reactor -Wl,--strip-debug)
gcc=(gcc -O2 -Wall -Wextra -Werror)

# Core modules that are also wrapped as components of wasi:cli.
components=(hello exit files env-args cat sleep trap overflow random fault)

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

only=("$@")

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
    if [ ${#only[@]} -gt 0 ] && [[ " ${only[*]} " != *" $target "* ]]; then
        return
    fi
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

# bound WORLD SOURCE COMPILER... OUT: a component in C, with the bindings of its world, of the
# interfaces beside it or of those of WASI 0.2.
bound() {
    local world=$1 source=$2 output=${!#} work=$out/.$1.work wit=$here/wit
    shift 2
    if [ -d "$(dirname "$source")/wit" ]; then
        wit=$(dirname "$source")/wit
    fi
    rm -rf "$work"
    guest_tool bindings "$wit" "$world" "$work" &&
        "${@:1:$#-1}" "$work/core.wasm" -I "$work" \
            "$source" "$work/guest.c" "$work/guest_component_type.o" &&
        guest_tool reactor "$work/core.wasm" "$output" &&
        rm -rf "$work"
}

# Compilers that Debian 12 has not, of tools.sh.
tools=$out/.tools

go_module() {
    local go=go
    if ! GOTOOLCHAIN=local go tool dist list 2>/dev/null | grep -x wasip1/wasm >/dev/null; then
        "$here/tools.sh" "$tools" go || return
        go=$tools/go/go
    fi
    GOTOOLCHAIN=local GOOS=wasip1 GOARCH=wasm "$go" build -trimpath -ldflags '-s -w' -o "$2" "$1"
}

zig_module() {
    local work=$out/.zig.work
    "$here/tools.sh" "$tools" zig &&
        "$tools/zig/zig" build-exe "$1" -target wasm32-wasi -O ReleaseSmall -fstrip \
            --cache-dir "$work" --global-cache-dir "$work" "-femit-bin=$2" &&
        rm -rf "$work"
}

# python WORLD SOURCE OUT: of a copy, as Python leaves compiled code beside what it reads.
python() {
    local work=$out/.python.work wit=$here/wit
    if [ -d "$(dirname "$2")/wit" ]; then
        wit=$(dirname "$2")/wit
    fi
    "$here/tools.sh" "$tools" python &&
        rm -rf "$work" &&
        mkdir "$work" &&
        cp "$2" "$work" &&
        "$tools/python/bin/componentize-py" --quiet -d "$wit" -w "$1" \
            componentize -p "$work" "$(basename "$2" .py)" -o "$3" &&
        rm -rf "$work"
}

# javascript WORLD SOURCE OUT
javascript() {
    "$here/tools.sh" "$tools" node &&
        "$tools/node/jco" componentize "$2" --wit "$here/wit" -n "$1" -o "$3" >/dev/null
}

# What rustc leaves is a module, as Debian has not the linker that makes a component of it.
cargo_component() {
    local work=$out/.cargo.work
    "$here/tools.sh" "$tools" rust &&
        (cd "$1" && RUSTC=$tools/rust/rustc CARGO_TARGET_WASM32_WASIP2_LINKER=$tools/rust/wasm-ld \
            cargo build --quiet --locked --release --target wasm32-wasip2 --target-dir "$work" \
            9>&-) &&
        guest_tool reactor "$work/wasm32-wasip2/release/http_rust.wasm" "$2" &&
        rm -rf "$work"
}

truncate_to_60() {
    head -c 60 "$1" >"$2"
}

shopt -s nullglob
wit=("$here"/wit/*.wit "$here"/wit/deps/*.wit "$here"/wit/deps/*/*.wit)
for source in "$here"/*.rs; do
    name=$(basename "$source" .rs)
    build "$name.wasm" "$source" -- "${rustc[@]}" -C strip=symbols "$source" -o
done
for source in "$here"/*.c; do
    name=$(basename "$source" .c)
    build "$name.wasm" "$source" "$here"/*.h -- "${clang[@]}" "$source" -o
done
for source in "$here"/*.wat; do
    name=$(basename "$source" .wat)
    build "$name.wasm" "$source" -- guest_tool wat "$source"
done
for source in "$here"/debug/*.c; do
    name=$(basename "$source" .c)
    build "$name.wasm" "$source" -- "${clang[@]}" -g "-ffile-prefix-map=$here/=" -fdebug-compilation-dir=. "$source" -o
done
for name in "${components[@]}"; do
    build "$name-component.wasm" "$out/$name.wasm" -- guest_tool component "$out/$name.wasm"
done
for source in "$here"/component/*.c; do
    name=$(basename "$source" .c)
    build "$name.wasm" "$source" "$here"/*.h "$here"/component/*.h "${wit[@]}" -- \
        bound "$name" "$source" "${reactor[@]}" -o
done
for source in "$here"/preview3/*.c; do
    name=$(basename "$source" .c)
    build "$name.wasm" "$source" "$here"/preview3/wit/*.wit "$here"/preview3/wit/deps/*.wit -- \
        bound "$name" "$source" "${reactor[@]}" -o
done
composed=$here/composed
composed_wit=("$composed"/wit/*.wit "$here"/wit/deps/*.wit)
for source in "$composed"/*.c; do
    name=$(basename "$source" .c)
    build "$name.wasm" "$source" "$here"/component/*.h "${composed_wit[@]}" -- \
        bound "$name" "$source" "${reactor[@]}" -I "$here/component" -o
done
for source in "$here"/go/*.go; do
    name=$(basename "$source" .go)
    build "$name.wasm" "$source" -- go_module "$source"
done
for source in "$here"/zig/*.zig; do
    name=$(basename "$source" .zig)
    build "$name.wasm" "$source" "$here/zig/requirements.txt" -- zig_module "$source"
done
rust=$here/rust
build http-rust.wasm "$rust"/Cargo.{toml,lock} "$rust/src/lib.rs" "$here/tools.sh" -- \
    cargo_component "$rust"
python=$here/python
build http-python.wasm "$python"/{http_python.py,requirements.txt} "${wit[@]}" -- \
    python http "$python/http_python.py"
build python-cli.wasm "$python"/{python_cli.py,requirements.txt} "${wit[@]}" -- \
    python command "$python/python_cli.py"
build greeter-python.wasm "$composed/greeter_python.py" "$python/requirements.txt" \
    "${composed_wit[@]}" -- python greeter "$composed/greeter_python.py"
javascript=$here/javascript
build http-js.wasm "$javascript"/{http-js.js,package-lock.json} "${wit[@]}" -- \
    javascript http "$javascript/http-js.js"
build js-cli.wasm "$javascript"/{js-cli.js,package-lock.json} "${wit[@]}" -- \
    javascript command "$javascript/js-cli.js"
build truncated.wasm "$out/hello.wasm" -- truncate_to_60 "$out/hello.wasm"
build not-wasm.wasm "$here/not-wasm.txt" -- cp "$here/not-wasm.txt"

native=$here/native
for name in signals ids; do
    build "$name" "$native/$name.c" "$native/status.h" -- "${gcc[@]}" -static "$native/$name.c" -o
done
build compute "$here/compute.c" "$here"/*.h -- "${gcc[@]}" -static "$here/compute.c" -o
for name in fds overwrite proc-thief with-default-signals; do
    build "$name" "$native/$name.c" -- "${gcc[@]}" -static "$native/$name.c" -o
done
# The linker warns that a static program loads name services at run time: that is the point.
build nss-probe "$native/nss-probe.c" -- \
    "${gcc[@]}" -static -Wl,--no-warnings "$native/nss-probe.c" -o
build libnss_evil.so.2 "$native/libnss_evil.c" -- \
    "${gcc[@]}" -shared -fPIC -nostdlib "$native/libnss_evil.c" -o
build nsswitch.conf "$native/nsswitch.conf" -- cp "$native/nsswitch.conf"

rm -rf "$tools"
