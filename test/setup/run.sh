#!/usr/bin/env bash
# `make run`: a Wasm container on a private containerd, from nothing to its output.
#
# containerd runs in a folder of its own and is stopped again.
set -euo pipefail

cache=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}
bin=${LIGHTER_BIN:?run it by make run}
guest=$cache/guests/hello.wasm
runtime=io.containerd.wasmtime.v1

fail() {
    echo "make run: $*" >&2
    exit 1
}
[ "$(id -u)" -eq 0 ] || fail "containers need root: sudo make run"
[ -x "$bin/containerd-shim-wasmtime-v1" ] || fail "no shim in $bin: make build"

place=$(mktemp -d /tmp/lighter-run.XXXXXX)
containerd=
stop() {
    if [ -n "$containerd" ]; then
        kill "$containerd" 2>/dev/null || true
        wait "$containerd" 2>/dev/null || true
    fi
    # What a container left, if it was interrupted: only below our own folder.
    awk -v place="$place/" 'index($2, place) == 1 { print $2 }' /proc/mounts | sort -r |
        while read -r mount; do umount -l "$mount" || true; done
    rm -rf "$place"
}
trap stop EXIT

cat >"$place/config.toml" <<EOF
version = 2
root = "$place/root"
state = "$place/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$place/containerd.sock"
EOF
PATH=$bin:$PATH containerd --config "$place/config.toml" >"$place/containerd.log" 2>&1 &
containerd=$!
ctr() {
    command ctr --address "$place/containerd.sock" "$@"
}
for _ in $(seq 100); do
    ctr version >/dev/null 2>&1 && break
    kill -0 "$containerd" 2>/dev/null || fail "containerd ended: $(tail -n 5 "$place/containerd.log")"
    sleep 0.1
done
echo "A private containerd ($(containerd --version | awk '{print $3}')) runs in $place."

# An image is a tar of layers with two JSON files; this one has the module and nothing else.
digest() {
    sha256sum "$1" | cut -d ' ' -f 1
}
store() {
    local name
    name=$(digest "$1")
    cp "$1" "$place/image/blobs/sha256/$name"
    printf '"digest":"sha256:%s","size":%s' "$name" "$(stat -c %s "$1")"
}
mkdir -p "$place/image/blobs/sha256" "$place/files"
cp "$guest" "$place/files/hello.wasm"
tar --owner=0 --group=0 -C "$place/files" -cf "$place/layer.tar" hello.wasm
cat >"$place/config.json" <<EOF
{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/hello.wasm"]},
"rootfs":{"type":"layers","diff_ids":["sha256:$(digest "$place/layer.tar")"]}}
EOF
oci=application/vnd.oci.image
cat >"$place/manifest.json" <<EOF
{"schemaVersion":2,"mediaType":"$oci.manifest.v1+json",
"config":{"mediaType":"$oci.config.v1+json",$(store "$place/config.json")},
"layers":[{"mediaType":"$oci.layer.v1.tar",$(store "$place/layer.tar")}]}
EOF
cat >"$place/image/index.json" <<EOF
{"schemaVersion":2,"manifests":[{"mediaType":"$oci.manifest.v1+json",$(store "$place/manifest.json"),
"annotations":{"io.containerd.image.name":"localhost/hello:latest"}}]}
EOF
echo '{"imageLayoutVersion":"1.0.0"}' >"$place/image/oci-layout"
tar -C "$place/image" -cf "$place/image.tar" .
ctr images import "$place/image.tar" >/dev/null
echo "The image localhost/hello:latest holds /hello.wasm, $(stat -c %s "$guest") bytes."

echo
echo "\$ ctr run --rm --runtime $runtime localhost/hello:latest hello"
for _ in first again; do
    begin=$(date +%s%N)
    ctr run --rm --runtime "$runtime" localhost/hello:latest hello
    echo "  (in $((($(date +%s%N) - begin) / 1000000)) ms)"
done

cat <<EOF

That was WebAssembly, compiled once and run in a container with namespaces and a cgroup.

Try next:
  make install        put the shim where your containerd finds it (/usr/local/bin), then
  ctr run --rm --runtime $runtime IMAGE NAME
  docker run --rm --runtime=$runtime IMAGE
  make test           all tests, on real containerd and dockerd
  make bench          start time and memory beside runc
EOF
