#!/usr/bin/env bash
# Runs a command as root in a machine of its own that has cgroup v2, and answers its exit status.
#
# usage: run.sh [-k VERSION] [-s] [-t SECONDS] COMMAND [ARGUMENT]...
#
#   -k   the start of the kernel's version (6.1)
#   -s   with systemd as init, and containers' cgroups made by it
#   -t   how long the machine may run (3600)
#
#   run.sh suite --test-threads=2 --skip docker::       the integration tests
#   run.sh attacks --test-threads=2                     the attacks
#   run.sh sh                                           a shell to look around
#
# The machine is one that QEMU emulates, some ten times slower than this one. It has the built
# shim (LIGHTER_BIN), the test suite, the daemons and guests of the cache, and no network.
# It is thrown away.
set -euo pipefail

cache=${LIGHTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lighter}
vm=$cache/vm
here=$(dirname "$(readlink -f "$0")")
target=${CARGO_TARGET_DIR:-$here/../../target}
bin=${LIGHTER_BIN:-$target/dist}
kernel=6.1
driver=cgroupfs
limit=3600

fail() {
    echo "run.sh: $*" >&2
    exit 125
}
while getopts k:st: option; do
    case $option in
    k) kernel=$OPTARG ;;
    s) driver=systemd ;;
    t) limit=$OPTARG ;;
    *) fail "usage: run.sh [-k VERSION] [-s] [-t SECONDS] COMMAND [ARGUMENT]..." ;;
    esac
done
shift $((OPTIND - 1))
[ "$#" -gt 0 ] || fail "no command"
# newest_test NAME: the test program of that name that was built last.
newest_test() {
    # shellcheck disable=SC2012
    ls -t "$target/x86_64-unknown-linux-gnu/release/deps/$1"-* 2>/dev/null | grep -v '\.d$' | head -n 1
}
suite=$(newest_test suite)
attacks=$(newest_test attacks)
[ -x "$suite" ] && [ -x "$attacks" ] || fail "the tests are not built: make test-build"
for program in qemu-system-x86_64 mke2fs; do
    command -v "$program" >/dev/null || fail "there is no $program: make test-vm installs it"
done

"$here/build.sh" "$kernel"
work=$(mktemp -d "$vm/.run.XXXXXX")
trap 'rm -rf "$work"' EXIT

# At a terminal the command has it; otherwise it reads nothing and no line ends are changed.
interactive=true
[ -t 0 ] && [ -t 1 ] || { interactive=false && exec </dev/null; }

# The disk: the root tree and the kernel's modules, as links to the cache, with what was built.
root=$work/root
cp -al "$vm/root" "$root"
cp -al "$vm/kernel-$kernel/lib/modules" "$root/lib/"
cp -r "$bin" "$root/lighter/bin"
cp "$suite" "$root/lighter/suite"
cp "$attacks" "$root/lighter/attacks"
cp -r "$cache/daemons" "$cache/guests" "$cache/cri" "$here/machine.sh" "$root/lighter/"
{
    echo 'export LIGHTER_BIN=/lighter/bin LIGHTER_CACHE=/lighter HOME=/root'
    echo 'export PATH=/lighter:/usr/sbin:/usr/bin:/sbin:/bin'
    # The form of the paths that the tests' containers ask for.
    echo "export LIGHTER_CGROUP_DRIVER=$driver"
    echo 'cd /root'
    "$interactive" || echo 'stty -opost; exec </dev/null'
    printf '%q ' "$@"
} >"$root/lighter/command"
mke2fs -q -t ext4 -d "$root" "$work/disk" 4G >/dev/null

# The kernel's messages go to the first serial port, the status to the second, and the command's
# output to a virtio console, which is faster. The emulated TSC is steady; without being told so
# the kernel reads the time from a slow device, which costs a quarter of everything. On a busy
# host it misses the timer's first ticks, and would panic for want of a timer that works.
qemu=(
    qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot
    -machine q35,accel=tcg -cpu max -smp 2 -m 4096
    -kernel "$vm/kernel-$kernel/vmlinuz" -initrd "$vm/kernel-$kernel/initramfs"
    -append "console=ttyS0 panic=-1 mitigations=off tsc=reliable clocksource=tsc no_timer_check lighter.init=$driver"
    -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe"
    -serial "file:$work/console" -serial "file:$work/status"
    -chardev stdio,id=terminal,signal=off
    -device virtio-serial-pci -device virtconsole,chardev=terminal
)
timeout --foreground "$limit" "${qemu[@]}" || ended=$?
if [ ! -s "$work/status" ]; then
    tail -n 40 "$work/console" >&2
    [ "${ended:-0}" -ne 124 ] || fail "the machine ran for longer than $limit s"
    fail "the machine ended before the command did (its last messages are above)"
fi
exit "$(tr -d '\r\n' <"$work/status")"
