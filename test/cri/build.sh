#!/usr/bin/env bash
# Compiles into $LIGHTER_CACHE/cri what run.sh needs: critest and containerd's own CRI
# integration suite, and the registry and the programs of its images beside this script; and
# crictl for the integration tests. What is up to date is left alone.
#
#   build.sh critest|containerd|crictl
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}/cri
module=github.com/containerd/containerd/v2
# The newest that Go's proxy has. Its go.mod has another path, so that no go.mod can require it:
# its checksum, as go.sum would have it, is here.
cri_tools=sigs.k8s.io/cri-tools@v1.30.0
cri_tools_sum=h1:3BpgxSTgjfS+5u2OXwuAqUVo0BQM09u2JuArMMth9NE=

# Where the guests' own Go is, if the machine has none.
PATH=$PATH:${out%/*}/guests/.tools/go
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

# cri_tools: the folder of the module, whose tools are built with the dependencies of its own
# go.sum.
cri_tools() {
    local download
    download=$(cd "$here" && go mod download -json "$cri_tools")
    [ "$(field Sum "$download")" = "$cri_tools_sum" ] || {
        echo "build.sh: $cri_tools has not the checksum $cri_tools_sum: $download" >&2
        return 1
    }
    field Dir "$download"
}

# critest is a test of its module too.
critest() {
    (cd "$(cri_tools)" &&
        go test -mod=readonly -trimpath -ldflags '-s -w' -c -o "$1" ./cmd/critest)
}

crictl() {
    (cd "$(cri_tools)" &&
        go build -mod=readonly -trimpath -ldflags '-s -w' -o "$1" ./cmd/crictl)
}

# field NAME JSON: a text of an object that Go has printed, one field a line.
field() {
    sed -n "s/^\t\"$1\": \"\(.*\)\".*/\1/p" <<<"$2"
}

if [ "$1" = crictl ]; then
    build crictl "$here/build.sh" -- crictl
    exit
fi
build pause "$here/pause.c" -- gcc -static -Os -s -Wall -Wextra -Werror "$here/pause.c" -o
build nnp "$here/nnp.c" -- gcc -static -Os -s -Wall -Wextra -Werror "$here/nnp.c" -o
build registry "$here"/registry/*.go -- registry
case $1 in
critest) build critest "$here/build.sh" -- critest ;;
containerd) build cri-integration "$here/go.mod" "$here/go.sum" -- suite ;;
esac
