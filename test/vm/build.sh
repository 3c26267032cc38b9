#!/usr/bin/env bash
# Makes the parts of the test machine, once, of packages of this machine's own apt sources:
#
#   $LIGHTER_CACHE/vm/root/          the tree of its root file system: containerd, runc, busybox,
#                                    systemd
#   $LIGHTER_CACHE/vm/kernel-VERSION/  vmlinuz, initramfs and lib/modules of a cloud kernel
#
# usage: build.sh [VERSION]      the start of the kernel's version, 6.12 for instance; 6.1 is
#                                that of Debian 12
#
# Nothing is installed. Says and does nothing when everything is there and was made by these same
# scripts; to get newer versions, remove the folders.
set -euo pipefail

cache=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}
vm=$cache/vm
here=$(dirname "$(readlink -f "$0")")
kernel=${1:-6.1}

packages=(
    # init and the shell.
    busybox-static
    # The distribution's daemon; newer ones come from $LIGHTER_CACHE/daemons.
    containerd runc
    # What dockerd needs: its bridge network, and a library.
    iproute2 iptables libsystemd0
    # script(1), for terminals.
    bsdutils
    # The other init, and the bus that it is asked through.
    systemd dbus
)
# What the machine needs before it has its root file system, where it is no part of the kernel
# itself; the other modules are in that.
first_modules=(drivers/virtio drivers/block/virtio_blk drivers/char/virtio_console)

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

key=$(cat "$here"/{build,initramfs}.sh | sha256sum)
have() {
    [ "$(cat "$vm/$1/.complete" 2>/dev/null)" = "$key" ]
}
if have root && have "kernel-$kernel"; then
    exit 0
fi

mkdir -p "$vm"
# One at a time: two test runs may share the cache.
exec 9>"$vm/.lock"
flock 9
work=$(mktemp -d "$vm/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/cache/archives/partial"
: >"$work/status"

# The machine's own sources and lists, but as if nothing was installed and nothing downloaded.
apt_options=(
    -qq
    -o Dir::State::status="$work/status"
    -o Dir::Cache="$work/cache"
    -o APT::Sandbox::User=root
    -o APT::Install-Recommends=false
)
[ "$(id -u)" -ne 0 ] || apt-get -qq -o DPkg::Lock::Timeout=300 update ||
    echo "build.sh: apt-get update had failures, carrying on with what it got" >&2

# unpack FOLDER PACKAGE...: downloads the packages with all that they depend on, and unpacks them.
unpack() {
    local folder=$1 deb
    shift
    echo "build.sh: getting $*"
    apt-get "${apt_options[@]}" --download-only -y install "$@" >/dev/null
    mkdir -p "$folder"
    for deb in "$work"/cache/archives/*.deb; do
        dpkg-deb -x "$deb" "$folder"
    done
    rm "$work"/cache/archives/*.deb
}

# finish FOLDER: moves it in place.
finish() {
    echo "$key" >"$work/$1/.complete"
    rm -rf "${vm:?}/$1"
    mv "$work/$1" "$vm/$1"
    echo "build.sh: $vm/$1"
}

make_root() {
    local root=$work/root applet
    unpack "$root" "${packages[@]}"
    rm -rf "$root"/usr/share/{doc,man,locale,bash-completion}
    "$root/bin/busybox" --list-full | while read -r applet; do
        # What the packages brought is better.
        if [ ! -e "$root/$applet" ]; then
            mkdir -p "$root/${applet%/*}"
            ln -s /bin/busybox "$root/$applet"
        fi
    done
    local tool
    for tool in iptables ip6tables; do
        ln -s xtables-nft-multi "$root/usr/sbin/$tool"
    done
    mkdir -p "$root"/{dev,proc,sys,run,root,etc,lighter}
    mkdir -p -m 1777 "$root/tmp"
    # As on every Debian: programs look for the bus below it.
    ln -sfn /run "$root/var/run"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    # The CRI gives pods copies of these.
    echo '127.0.0.1 localhost' >"$root/etc/hosts"
    : >"$root/etc/resolv.conf"
    echo 'hvc0::sysinit:/lighter/machine.sh' >"$root/etc/inittab"
    make_units "$root"
    finish root
}

# make_units ROOT: what systemd starts: the bus and the command. What it usually brings up before
# them, devices and a journal, would take half a minute here.
make_units() {
    local units=$1/etc/systemd/system
    echo 'messagebus:x:100:100::/nonexistent:/bin/false' >>"$1/etc/passwd"
    echo 'messagebus:x:100:' >>"$1/etc/group"
    mkdir -p "$units"
    cat >"$units/default.target" <<'UNIT'
[Unit]
DefaultDependencies=no
Wants=lighter.service
UNIT
    cat >"$units/dbus.socket" <<'UNIT'
[Unit]
DefaultDependencies=no
[Socket]
ListenStream=/run/dbus/system_bus_socket
UNIT
    cat >"$units/dbus.service" <<'UNIT'
[Unit]
DefaultDependencies=no
[Service]
Type=notify
ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation
UNIT
    cat >"$units/lighter.service" <<'UNIT'
[Unit]
DefaultDependencies=no
Requires=dbus.socket
After=dbus.socket
[Service]
ExecStart=/lighter/machine.sh
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/hvc0
TasksMax=infinity
LimitNOFILE=infinity
UNIT
}

make_kernel() {
    local folder=$work/kernel-$kernel package version initramfs=$work/initramfs module
    package=$(apt-cache search --names-only "^linux-image-${kernel//./\\.}[.].*-cloud-amd64\$" |
        cut -d ' ' -f 1 | sort -V | tail -n 1)
    [ -n "$package" ] || fail "the machine's apt sources have no cloud kernel $kernel"
    echo "build.sh: getting $package"
    (cd "$work" && apt-get "${apt_options[@]}" download "$package")
    mkdir "$folder"
    dpkg-deb -x "$work/$package"_*.deb "$work/package"
    mv "$work"/package/boot/vmlinuz-* "$folder/vmlinuz"
    mv "$work/package/lib" "$folder/lib"
    version=$(ls "$folder/lib/modules")
    busybox depmod -b "$folder" "$version"

    mkdir -p "$initramfs"/{bin,dev,proc,root}
    cp "$vm/root/bin/busybox" "$initramfs/bin/"
    cp "$here/initramfs.sh" "$initramfs/init"
    for module in "${first_modules[@]}"; do
        (cd "$folder" && { compgen -G "lib/modules/$version/kernel/$module*" || true; } |
            xargs -r cp -r --parents -t "$initramfs")
    done
    busybox depmod -b "$initramfs" "$version"
    (cd "$initramfs" && find . | busybox cpio -o -H newc 2>/dev/null) >"$folder/initramfs"
    finish "kernel-$kernel"
}

have root || make_root
have "kernel-$kernel" || make_kernel
