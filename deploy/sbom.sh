#!/usr/bin/env bash
# Writes a bill of materials (CycloneDX) of each program into OUT: the crates that are linked into it, with
# their licences. cargo-cyclonedx knows the crates of the whole workspace with the features of all
# programs together; which of them a program has, `cargo tree` knows.
#
#   sbom.sh OUT
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$(mkdir -p "${1:?names the folder for the files}" && cd "$1" && pwd)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}
target=x86_64-unknown-linux-gnu
cd "$root"

made() {
    git ls-files --others -- '*_bin.cdx.json'
}
trap 'made | xargs -r rm' EXIT
cargo cyclonedx --quiet --format json --describe binaries --target $target --no-build-deps

for package in lighter-shim lighter-compiler lighter-node; do
    file=$(ls crates/"${package#lighter-}"/*_bin.cdx.json)
    name=$(basename "$file" _bin.cdx.json)
    # As `name@version`, without the package itself.
    linked=$(cargo tree --locked -p $package -e normal,no-proc-macro --target $target --prefix none -f '{p}' |
        sed -E "/^$package /d; s/^([^ ]+) v([^ ]+).*/\1@\2/" | sort -u | jq -R . | jq -s .)
    # References have the folder that this runs in.
    sed "s#path+file://$root/#path+file:///#g" "$file" | jq --argjson linked "$linked" '
        (.metadata.component["bom-ref"]) as $own |
        .components |= map(select("\(.name)@\(.version)" as $crate | $linked | index($crate))) |
        ([.components[]["bom-ref"]] + [$own]) as $kept |
        .dependencies |= [.[] | select(.ref as $ref | $kept | index($ref))
            | if .dependsOn then .dependsOn |= map(select(. as $ref | $kept | index($ref))) else . end] |
        if (.components | map("\(.name)@\(.version)") | sort) == ($linked | sort) then .
        else error("crates without an entry: \($linked - (.components | map("\(.name)@\(.version)")))") end
    ' >"$out/$name.cdx.json"
done
