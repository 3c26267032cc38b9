#!/usr/bin/env bash
# Compiles into $LIGHTER_CACHE/kubernetes what run.sh needs: etcd and the programs of a cluster,
# from the modules that go.mod names, and its metrics and names, from those of addons/go.mod. What
# is up to date is left alone; the first time takes 15 to 25 minutes on 2 cores.
set -euo pipefail
shopt -s nullglob

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}/kubernetes

command -v go >/dev/null || { echo "build.sh: needs Go, as in go.mod" >&2; exit 1; }
export CGO_ENABLED=0

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

version=$(cd "$here" && go list -m -f "{{.Version}}" k8s.io/kubernetes)
# Two modules, as metrics-server and CoreDNS ask for other versions of what Kubernetes is made of.
for module in "$here" "$here/addons"; do
    key=$(cd "$module" && cat go.mod go.sum ./*/*.go | sha256sum | cut -d " " -f 1)
    key+=" $(cd "$module" && go env GOVERSION)"
    mapfile -t packages < <(sed -n '/^tool (/,/^)/s/^\t//p' "$module/go.mod")
    for package in "${packages[@]}"; do
        case $package in
        go.etcd.io/etcd/server/*) name=etcd ;;
        *) name=${package##*/} ;;
        esac
        if [ -x "$out/$name" ] && [ "$(cat "$out/.$name.key" 2>/dev/null)" = "$key" ]; then
            continue
        fi
        echo "build.sh: $name"
        # Kubernetes' programs learn their version from the linker; without it they are v0.0.0.
        go build -C "$module" -trimpath -o "$out/.$name.new" \
            -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" "$package"
        mv "$out/.$name.new" "$out/$name"
        echo "$key" >"$out/.$name.key"
    done
done
