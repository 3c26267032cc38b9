#!/usr/bin/env bash
# Brings the image of pods' first containers to the cluster's containerd, as
# localhost/sandbox:latest: Debian's busybox, sleeping.
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

mkdir -p "$work/files/bin" "$layout/blobs/sha256"
cp "$(command -v busybox)" "$work/files/bin/sleep"

layer=$(tar --owner=0 --group=0 -C "$work/files" -c . | store)
digest=${layer%,*}
config=$(store <<<"{\"architecture\":\"amd64\",\"os\":\"linux\",
    \"config\":{\"Entrypoint\":[\"/bin/sleep\",\"1d\"]},
    \"rootfs\":{\"type\":\"layers\",\"diff_ids\":[${digest#*:}]}}")
manifest=$(store <<<"{\"schemaVersion\":2,\"mediaType\":\"$oci.manifest.v1+json\",
    \"config\":{\"mediaType\":\"$oci.config.v1+json\",$config},
    \"layers\":[{\"mediaType\":\"$oci.layer.v1.tar\",$layer}]}")
cat >"$layout/index.json" <<<"{\"schemaVersion\":2,\"manifests\":[
    {\"mediaType\":\"$oci.manifest.v1+json\",$manifest,
    \"annotations\":{\"io.containerd.image.name\":\"localhost/sandbox:latest\"}}]}"
echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
tar -C "$layout" -c . | ctr images import - >/dev/null
