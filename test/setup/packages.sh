#!/usr/bin/env bash
# Installs, from the machine's own apt sources, what building, running and testing need on
# Debian 12 beside rustup's cargo, and the packages that are given as arguments. Says and does
# nothing when everything is there.
#
# Services that a package brings are not started: the tests start daemons of their own.
set -euo pipefail

packages=(
    # Build: a C compiler and linker, libseccomp, which is linked statically, and protoc for
    # containerd's gRPC interfaces.
    build-essential pkg-config libseccomp-dev protobuf-compiler
    # Run: the distribution's containerd and runc, and what dockerd's bridge network needs.
    containerd runc iptables iproute2 ca-certificates
    # Clients and servers of the tests.
    curl openssl nghttp2-server skopeo linux-perf
    # The Linux image of the tests.
    busybox-static
    # Guests. Debian's rustc stays at /usr/bin/rustc; rustup's comes first in PATH.
    rustc libstd-rust-dev-wasm32 clang lld wasi-libc libclang-rt-14-dev-wasm32 python3-venv
    # What one caller needs beyond that.
    "$@"
)

fail() {
    echo "packages.sh: $*" >&2
    exit 1
}

installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 2>/dev/null |
    sed -n 's/^ii  *//p')
missing=()
for package in "${packages[@]}"; do
    grep -qxF "$package" <<<"$installed" || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

[ "$(id -u)" -eq 0 ] || fail "run as root to install: ${missing[*]}"
command -v apt-get >/dev/null ||
    fail "no apt-get: this script knows Debian; install the equivalents of: ${missing[*]}"

echo "packages.sh: installing ${missing[*]}"

# Exit status 101 of policy-rc.d tells package scripts to start nothing. A policy that the
# machine has already is put back afterwards.
policy=/usr/sbin/policy-rc.d
saved=
restore_policy() {
    rm -f "$policy"
    if [ -n "$saved" ]; then
        mv "$saved" "$policy"
    fi
}
backup=$policy.before-lighter
if [ -e "$backup" ]; then
    # An earlier run was killed before it could put the policy back.
    saved=$backup
elif [ -e "$policy" ] || [ -L "$policy" ]; then
    saved=$backup
    mv "$policy" "$saved"
fi
trap restore_policy EXIT
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
log=$(mktemp)
# A third-party source that cannot be reached must not stop the installation from the others.
"${apt[@]}" update >"$log" 2>&1 ||
    echo "packages.sh: apt-get update had failures, carrying on: $(tail -n 1 "$log")" >&2
if ! "${apt[@]}" install --no-install-recommends -y "${missing[@]}" >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    fail "apt-get could not install: ${missing[*]} (its output is above)"
fi
rm -f "$log"
echo "packages.sh: done"
