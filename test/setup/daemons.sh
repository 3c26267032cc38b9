#!/usr/bin/env bash
# Unpacks newer container daemons than the distribution's beside the system, never into it:
#
#   $LIGHTER_CACHE/daemons/containerd-2.x.y/     containerd 2.1 or later, ctr, runc's shim
#   $LIGHTER_CACHE/daemons/containerd-1.7.y/     containerd 1.7
#   $LIGHTER_CACHE/daemons/docker-28.x.y/        dockerd 28.5 or later, docker, docker-proxy,
#                                                docker-init
#   $LIGHTER_CACHE/daemons/buildx-0.x.y/         docker's plugin for builds
#   $LIGHTER_CACHE/daemons/registry-2.x.y/       docker-registry, and crane
#   $LIGHTER_CACHE/daemons/runc-1.x.y/           runc 1.3 or later, with the libraries that it needs
#
# They are packages of later suites of the archive that this machine's apt already uses, got
# and verified by apt in a private root; the machine's own sources stay as they are. Those
# daemons need glibc 2.34. Says and does nothing when everything is there; to get newer
# versions, remove the folder.
set -euo pipefail

cache=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}
daemons=$cache/daemons
suites=(sid trixie)

fail() {
    echo "daemons.sh: $*" >&2
    exit 1
}

# have GLOB: whether a complete folder of that name is there.
have() {
    compgen -G "$daemons/$1/.complete" >/dev/null
}

if have 'containerd-[2-9].*' && have 'containerd-1.7.*' && have 'docker-*' &&
    have 'buildx-*' && have 'registry-*' && have 'runc-*'; then
    exit 0
fi

command -v apt-get >/dev/null || fail "no apt-get: this script knows Debian"
# shellcheck source=/dev/null
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$codename" ] || fail "/etc/os-release names no VERSION_CODENAME"

# The address of the archive, as apt itself reads it from the machine's sources.
archive_uri() {
    apt-get indextargets --format '$(REPO_URI)' \
        'Created-By: Packages' "Codename: $codename" 'Component: main' | head -n 1
}
uri=$(archive_uri)
if [ -z "$uri" ]; then
    [ "$(id -u)" -eq 0 ] || fail "apt has no package lists: run apt-get update as root first"
    apt-get -qq -o DPkg::Lock::Timeout=300 update || true
    uri=$(archive_uri)
fi
[ -n "$uri" ] || fail "the machine's apt sources have no main component of $codename"

mkdir -p "$daemons"
# One at a time: two test runs may share the cache.
exec 9>"$daemons/.lock"
flock 9
work=$(mktemp -d "$daemons/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT

mkdir -p "$work"/{sources,preferences,state/lists/partial,cache/archives/partial,debs}
: >"$work/state/status"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
{
    echo "Types: deb"
    echo "URIs: $uri"
    echo "Suites: ${suites[*]}"
    echo "Components: main"
    if [ -e "$keyring" ]; then
        echo "Signed-By: $keyring"
    fi
} >"$work/sources/later.sources"

apt_options=(
    -o Dir::Etc::SourceList=/dev/null
    -o Dir::Etc::SourceParts="$work/sources/"
    -o Dir::Etc::Preferences=/dev/null
    -o Dir::Etc::PreferencesParts="$work/preferences/"
    -o Dir::State="$work/state"
    -o Dir::State::status="$work/state/status"
    -o Dir::Cache="$work/cache"
    -o APT::Sandbox::User=root
    -o Acquire::Languages=none
    -o APT::Default-Release=
)

echo "daemons.sh: reading the package lists of ${suites[*]}"
apt-get -qq "${apt_options[@]}" update ||
    echo "daemons.sh: apt-get update had failures, carrying on with what it got" >&2

# newest PACKAGE PATTERN: its newest version that the extended regular expression matches.
newest() {
    apt-cache "${apt_options[@]}" madison "$1" | awk -F ' *[|] *' '{ print $2 }' |
        { grep -E "$2" || true; } | sort -Vr | head -n 1
}

# unpack FOLDER PACKAGE=VERSION...: downloads and unpacks into one folder.
unpack() {
    local folder=$work/$1
    shift
    echo "daemons.sh: getting $*"
    rm -f "$work"/debs/*
    (cd "$work/debs" && apt-get -qq "${apt_options[@]}" download "$@")
    mkdir -p "$folder"
    local deb
    for deb in "$work"/debs/*.deb; do
        dpkg-deb -x "$deb" "$folder"
    done
}

# finish FOLDER BINARY...: checks that each binary runs here, then moves the folder in place.
finish() {
    local folder=$1 binary output
    shift
    for binary in "$@"; do
        # Some have it as a flag, some as a command.
        output=$("$work/$folder/$binary" --version 2>&1) ||
            output=$("$work/$folder/$binary" version 2>&1) ||
            fail "$binary of $folder does not run on this system: $output"
    done
    touch "$work/$folder/.complete"
    rm -rf "${daemons:?}/$folder"
    mv "$work/$folder" "$daemons/$folder"
    echo "daemons.sh: $daemons/$folder"
}

# upstream VERSION: the part of a package's version that its authors gave.
upstream() {
    sed -E 's/^[0-9]+://; s/[+~-].*//' <<<"$1"
}

containerd_2=$(newest containerd '^(2\.([1-9]|[0-9]{2,})|[3-9])\.')
containerd_1=$(newest containerd '^1\.7\.')
docker=$(newest docker.io '^(28\.[5-9]|28\.[0-9]{2,}|29|[3-9][0-9])\.')
[ -n "$containerd_2" ] || fail "no containerd 2.1 or later in ${suites[*]}, only: $(newest containerd .)"
[ -n "$containerd_1" ] || fail "no containerd 1.7 in ${suites[*]}, only: $(newest containerd .)"
[ -n "$docker" ] || fail "no docker.io 28.5 or later in ${suites[*]}, only: $(newest docker.io .)"

buildx=$(newest docker-buildx '^0\.')
registry=$(newest docker-registry '^2\.')
runc=$(newest runc '^1\.([3-9]|[0-9]{2,})\.')
[ -n "$runc" ] || fail "no runc 1.3 or later in ${suites[*]}, only: $(newest runc .)"
[ -n "$buildx" ] || fail "no docker-buildx in ${suites[*]}"
[ -n "$registry" ] || fail "no docker-registry 2 in ${suites[*]}, only: $(newest docker-registry .)"

for version in "$containerd_2" "$containerd_1"; do
    folder=containerd-$(upstream "$version")
    if ! have "$folder"; then
        unpack "$folder" "containerd=$version"
        finish "$folder" usr/bin/containerd usr/bin/ctr
    fi
done

folder=docker-$(upstream "$docker")
if ! have "$folder"; then
    unpack "$folder" "docker.io=$docker" "docker-cli=$docker" tini-static
    # dockerd looks for its init under this name; the suite's other build of tini needs a
    # newer glibc.
    ln -sf tini-static "$work/$folder/usr/bin/docker-init"
    finish "$folder" usr/sbin/dockerd usr/bin/docker usr/bin/docker-init
fi

folder=buildx-$(upstream "$buildx")
if ! have "$folder"; then
    unpack "$folder" "docker-buildx=$buildx"
    finish "$folder" usr/libexec/docker/cli-plugins/docker-buildx
fi

folder=registry-$(upstream "$registry")
if ! have "$folder"; then
    unpack "$folder" "docker-registry=$registry" crane
    finish "$folder" usr/bin/docker-registry usr/bin/crane
fi

folder=runc-$(upstream "$runc")
if ! have "$folder"; then
    # It needs a newer C library, and executes itself once more, so that no loader can be named: it sees
    # its own libraries in the places of this system's.
    unpack "$folder" "runc=$runc" libc6 libseccomp2
    mv "$work/$folder/usr/sbin/runc" "$work/$folder/usr/sbin/runc.bin"
    cat >"$work/$folder/usr/sbin/runc" <<'EOS'
#!/bin/busybox sh
root=$(busybox realpath "$(busybox dirname "$0")/../..")
export root
exec unshare --mount --propagation slave /bin/busybox sh -c '
    libraries=/usr/lib/x86_64-linux-gnu
    for file in libc.so.6 libseccomp.so.2 ld-linux-x86-64.so.2; do
        /bin/busybox mount --bind "$root$libraries/$file" "$(/bin/busybox realpath "$libraries/$file")"
    done
    exec "$root/usr/sbin/runc.bin" "$@"' runc "$@"
EOS
    chmod 755 "$work/$folder/usr/sbin/runc"
    finish "$folder" usr/sbin/runc
fi
