#!/usr/bin/env bash
# A node for tests out of this machine: runs a command as the first process of namespaces of its
# own (processes, mounts, network, cgroups), with a folder of its own.
#
#   node.sh COMMAND...      the command finds the folder in $NODE
#
# There /run, /opt and /var/lib are empty, what is written to /etc is not the machine's, and
# cgroup v1 is as a machine's. All of it ends with the command.
set -euo pipefail

fail() {
    echo "node.sh: $*" >&2
    exit 1
}

# inside COMMAND...: the first process, before it becomes the command.
inside() {
    # Whoever started this may have left descriptors open; tests count those of the shim.
    local descriptor controllers
    for descriptor in /proc/self/fd/*; do
        descriptor=${descriptor##*/}
        # 255 is this script.
        if [ "$descriptor" -gt 2 ] && [ "$descriptor" -ne 255 ]; then
            eval "exec $descriptor>&-"
        fi
    done

    mkdir "$NODE"/{lib,etc,work}
    mount -t tmpfs -o mode=755 run /run
    mount -t tmpfs -o mode=755 opt /opt
    mount --bind "$NODE/lib" /var/lib
    mount -t overlay -o "lowerdir=/etc,upperdir=$NODE/etc,workdir=$NODE/work" etc /etc
    mkdir -p /run/lock /opt/cni
    ln -s /usr/lib/cni /opt/cni/bin

    # The cgroup namespace's view of each hierarchy.
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    while IFS=: read -r _ controllers _; do
        case $controllers in
        '') mkdir /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified ;;
        *)
            mkdir "/sys/fs/cgroup/${controllers#name=}"
            mount -t cgroup -o "${controllers/#name=/none,name=}" cgroup "/sys/fs/cgroup/${controllers#name=}"
            ;;
        esac
    done </proc/self/cgroup

    ip link set lo up
    exec "$@"
}

if [ "${1-}" = --inside ]; then
    shift
    inside "$@"
fi

[ $# -gt 0 ] || fail "no command"
[ "$(id -u)" -eq 0 ] || fail "containers need root"
[ -d /sys/fs/cgroup/memory ] || fail "needs cgroup v1, as all tests do yet"

NODE=$(mktemp -d /tmp/lighter-node.XXXXXX)
export NODE
name=${NODE##*/}

# cgroups: the folders of the node's cgroups, one a hierarchy, below this script's own.
cgroups() {
    local controllers path hierarchy
    while IFS=: read -r _ controllers path; do
        hierarchy=/sys/fs/cgroup/${controllers#name=}
        if [ -z "$controllers" ]; then
            hierarchy=/sys/fs/cgroup/unified
        fi
        if [ -d "$hierarchy" ]; then
            echo "$hierarchy${path%/}/$name"
        fi
    done </proc/self/cgroup
}
mapfile -t cgroups < <(cgroups)

node=
# shellcheck disable=SC2317 # the trap calls it
clean() {
    if [ -n "$node" ]; then
        # unshare hears nothing else. It takes the namespace's init with it, and that all others.
        kill -KILL "$node" 2>/dev/null || true
        wait "$node" 2>/dev/null || true
    fi
    local cgroup
    for cgroup in "${cgroups[@]}"; do
        for _ in $(seq 50); do
            find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [ -d "$cgroup" ] || break
            sleep 0.1
        done
        [ ! -d "$cgroup" ] || echo "node.sh: $cgroup is still in use" >&2
    done
    rm -rf "$NODE"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

for cgroup in "${cgroups[@]}"; do
    mkdir "$cgroup"
    case $cgroup in
    */cgroup/cpuset/*)
        cat "${cgroup%/*}/cpuset.cpus" >"$cgroup/cpuset.cpus"
        cat "${cgroup%/*}/cpuset.mems" >"$cgroup/cpuset.mems"
        ;;
    esac
done

(
    for cgroup in "${cgroups[@]}"; do
        echo "$BASHPID" >"$cgroup/cgroup.procs"
    done
    exec unshare --mount --pid --net --ipc --uts --cgroup --mount-proc --fork --kill-child \
        "${BASH_SOURCE[0]}" --inside "$@"
) <&0 &
node=$!
status=0
wait "$node" || status=$?
node=
exit "$status"
