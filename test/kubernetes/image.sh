#!/usr/bin/env bash
# Brings images to the cluster's containerd, localhost/NAME:latest each: `busybox` is Debian's with
# its applets, sleeping; every other name is a guest's, as /app.wasm.
#
#   image.sh NAME...
set -euo pipefail

work=$(mktemp -d "$NODE/image.XXXXXX")
trap 'rm -rf "$work"' EXIT
layout=$work/layout
oci=application/vnd.oci.image

# store: stores standard input, and answers the members of its descriptor.
store() {
    local digest
    cat >"$work/blob"
    digest=$(sha256sum "$work/blob" | cut -d ' ' -f 1)
    printf '"digest":"sha256:%s","size":%s' "$digest" "$(stat -c %s "$work/blob")"
    mv "$work/blob" "$layout/blobs/sha256/$digest"
}

for name in "$@"; do
    rm -rf "$work/files" "$layout"
    mkdir -p "$work/files/bin" "$layout/blobs/sha256"
    if [ "$name" = busybox ]; then
        entrypoint='["/bin/sleep","1d"]'
        busybox --list | grep -vx busybox | xargs -I APPLET ln -s busybox "$work/files/bin/APPLET"
        cp "$(command -v busybox)" "$work/files/bin/busybox"
    else
        entrypoint='["/app.wasm"]'
        cp "$LIGHTER_CACHE/guests/$name.wasm" "$work/files/app.wasm"
    fi

    layer=$(tar --owner=0 --group=0 -C "$work/files" -c . | store)
    digest=${layer%,*}
    config=$(store <<<"{\"architecture\":\"amd64\",\"os\":\"linux\",
        \"config\":{\"Entrypoint\":$entrypoint,\"Env\":[\"PATH=/bin\"]},
        \"rootfs\":{\"type\":\"layers\",\"diff_ids\":[${digest#*:}]}}")
    manifest=$(store <<<"{\"schemaVersion\":2,\"mediaType\":\"$oci.manifest.v1+json\",
        \"config\":{\"mediaType\":\"$oci.config.v1+json\",$config},
        \"layers\":[{\"mediaType\":\"$oci.layer.v1.tar\",$layer}]}")
    cat >"$layout/index.json" <<<"{\"schemaVersion\":2,\"manifests\":[
        {\"mediaType\":\"$oci.manifest.v1+json\",$manifest,
        \"annotations\":{\"io.containerd.image.name\":\"localhost/$name:latest\"}}]}"
    echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
    tar -C "$layout" -c . | ctr images import - >/dev/null
done
