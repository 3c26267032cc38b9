#!/usr/bin/env bash
# Compiles into $LIGHTER_CACHE/kubernetes what run.sh needs: etcd and the programs of a cluster,
# from the modules that go.mod names. What is up to date is left alone; the first time takes
# 10 to 20 minutes on 2 cores.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}/kubernetes

command -v go >/dev/null || { echo "build.sh: needs Go, as in go.mod" >&2; exit 1; }
export CGO_ENABLED=0

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

version=$(cd "$here" && go list -m -f "{{.Version}}" k8s.io/kubernetes)
key=$(cat "$here/go.mod" "$here/go.sum" | sha256sum | cut -d ' ' -f 1)" $(cd "$here" && go env GOVERSION)"
mapfile -t packages < <(sed -n '/^tool (/,/^)/s/^\t//p' "$here/go.mod")
for package in "${packages[@]}"; do
    case $package in
    go.etcd.io/etcd/server/*) name=etcd ;;
    *) name=${package##*/} ;;
    esac
    if [ -x "$out/$name" ] && [ "$(cat "$out/.$name.key" 2>/dev/null)" = "$key" ]; then
        continue
    fi
    echo "build.sh: $name"
    # The programs learn their version from the linker; without it they are v0.0.0.
    go build -C "$here" -trimpath -o "$out/.$name.new" \
        -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" "$package"
    mv "$out/.$name.new" "$out/$name"
    echo "$key" >"$out/.$name.key"
done
