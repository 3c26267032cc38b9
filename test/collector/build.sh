#!/usr/bin/env bash
# Compiles into $LIGHTER_CACHE/collector an OpenTelemetry Collector from the modules that go.mod
# names, which the tests of tracing send spans to. It is left alone when it is up to date.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}/collector

# Where the guests' own Go is, if the machine has none.
PATH=$PATH:${out%/*}/guests/.tools/go
command -v go >/dev/null || { echo "build.sh: needs Go, as in go.mod" >&2; exit 1; }
# The machine's Go, never a download of another one.
export GOTOOLCHAIN=local CGO_ENABLED=0

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

key=$(cat "$here"/{main.go,go.mod,go.sum} | sha256sum | cut -d ' ' -f 1)" $(go env GOVERSION)"
if [ -x "$out/collector" ] && [ "$(cat "$out/.key" 2>/dev/null)" = "$key" ]; then
    exit
fi
echo "build.sh: collector"
go build -C "$here" -trimpath -ldflags '-s -w' -o "$out/.new" .
mv "$out/.new" "$out/collector"
echo "$key" >"$out/.key"
