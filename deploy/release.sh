#!/usr/bin/env bash
# Makes the files of a release in OUT of the programs in LIGHTER_BIN: archives, the installer's image,
# and SHA256SUMS of all that is in OUT. The same programs give the same bytes; times are
# SOURCE_DATE_EPOCH, else 1970.
#
#   release.sh OUT
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
bin=${LIGHTER_BIN:?names the folder of the programs}
out=${1:?names the folder for the files}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}
shim=containerd-shim-wasmtime-v1
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

# archive NAME FOLDER ENTRY...: a compressed archive of the folder's entries.
archive() {
    local name=$1 folder=$2
    shift 2
    tar -C "$folder" --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 \
        --numeric-owner --mode=u=rwX,go=rX -c "$@" | gzip -n >"$work/archive"
    mv "$work/archive" "$out/$name"
}

# As SpinKube's runtime-class-manager takes it: files without folders, which it puts beside each other.
install -D -t "$work/shim" "$bin/$shim" "$bin/lighter-compiler"
archive containerd-shim-wasmtime-x86_64-linux-musl.tar.gz "$work/shim" $shim lighter-compiler

# All of it, for `tar -xzf` and `bin/lighter install`. tar itself would overwrite another runtime's shim.
install -D -t "$work/all/bin" "$bin/$shim" "$bin/lighter-compiler" "$bin/lighter"
share=$work/all/share
install -D -m 0644 -t "$share/doc/lighter" "$root/LICENSE"
"$bin/lighter" man "$share/man/man1"
mkdir -p "$share"/{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
"$bin/lighter" completions bash >"$share/bash-completion/completions/lighter"
"$bin/lighter" completions zsh >"$share/zsh/site-functions/_lighter"
"$bin/lighter" completions fish >"$share/fish/vendor_completions.d/lighter.fish"
archive lighter-x86_64-linux.tar.gz "$work/all" bin share

"$bin/lighter" pack "$bin/lighter" --form native --name "localhost/lighter-installer:$version" \
    --file "$bin/$shim:/$shim" --file "$bin/lighter-compiler:/lighter-compiler" \
    -o "$out/lighter-installer.tar"

cd "$out"
find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\0' | sort -z | xargs -0 sha256sum >"$work/sums"
mv "$work/sums" SHA256SUMS
chmod 0644 ./*
