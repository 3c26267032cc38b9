#!/usr/bin/env bash
# Compiles into $LIGHTER_CACHE/cri what run.sh needs: critest and containerd's own CRI
# integration suite, and the registry and the programs of its images beside this script. What is
# up to date is left alone.
#
#   build.sh critest|containerd
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}/cri
module=github.com/containerd/containerd/v2
# The newest that Go's proxy has. Its go.mod has another path, so that no go.mod can require it:
# its checksum, as go.sum would have it, is here.
critest=sigs.k8s.io/cri-tools@v1.30.0
critest_sum=h1:3BpgxSTgjfS+5u2OXwuAqUVo0BQM09u2JuArMMth9NE=

command -v go >/dev/null || { echo "build.sh: needs Go, as in go.mod" >&2; exit 1; }
# The machine's Go, never a download of another one.
export GOTOOLCHAIN=local CGO_ENABLED=0

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

# build TARGET SOURCE... -- COMMAND...: runs the command, whose last argument becomes the
# target's file, when the sources' contents or Go are new.
build() {
    local target=$1 key sources=()
    shift
    while [ "$1" != -- ]; do
        sources+=("$1")
        shift
    done
    shift
    key=$(cat "${sources[@]}" | sha256sum | cut -d ' ' -f 1)" $(go env GOVERSION)"
    if [ -x "$out/$target" ] && [ "$(cat "$out/.$target.key" 2>/dev/null)" = "$key" ]; then
        return
    fi
    echo "build.sh: $target"
    "$@" "$out/.$target.new"
    mv "$out/.$target.new" "$out/$target"
    echo "$key" >"$out/.$target.key"
}

registry() {
    go build -C "$here" -trimpath -o "$1" ./registry
}

# The suite is test files only, so it is compiled where Go unpacked the module: there its own
# go.mod and go.sum hold. go.sum here vouches for that folder.
suite() {
    (cd "$here" && go mod download "$module")
    (cd "$(cd "$here" && go list -m -f '{{.Dir}}' "$module")" &&
        go test -mod=readonly -trimpath -ldflags '-s -w' -c -o "$1" ./integration)
}

# critest is a test of its module too, built with the dependencies of its own go.sum.
critest() {
    local download
    download=$(cd "$here" && go mod download -json "$critest")
    [ "$(field Sum "$download")" = "$critest_sum" ] || {
        echo "build.sh: $critest has not the checksum $critest_sum: $download" >&2
        return 1
    }
    (cd "$(field Dir "$download")" &&
        go test -mod=readonly -trimpath -ldflags '-s -w' -c -o "$1" ./cmd/critest)
}

# field NAME JSON: a text of an object that Go has printed, one field a line.
field() {
    sed -n "s/^\t\"$1\": \"\(.*\)\".*/\1/p" <<<"$2"
}

build pause "$here/pause.c" -- gcc -static -Os -s -Wall -Wextra -Werror "$here/pause.c" -o
build nnp "$here/nnp.c" -- gcc -static -Os -s -Wall -Wextra -Werror "$here/nnp.c" -o
build registry "$here"/registry/*.go -- registry
case $1 in
critest) build critest "$here/build.sh" -- critest ;;
containerd) build cri-integration "$here/go.mod" "$here/go.sum" -- suite ;;
esac
