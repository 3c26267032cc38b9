#!/usr/bin/env bash
# The inside of run.sh: starts containerd and dockerd where they usually are, with the programs
# installed as `make install` does it, and runs a command with the network of the machine.
#
#   daemons.sh COMMAND...
set -euo pipefail

newest() {
    compgen -G "$LIGHTER_CACHE/daemons/$1" | sort -V | tail -n 1
}

fail() {
    echo "test/docs: $*" >&2
    exit 1
}

# until_ready NAME COMMAND...
until_ready() {
    local name=$1
    shift
    for _ in $(seq 300); do
        ! "$@" >/dev/null 2>&1 || return 0
        sleep 0.1
    done
    fail "$name is not ready after 30 s: $(tail -n 5 "$LOGS/$name.log")"
}

# What is installed there is not the machine's.
mkdir "$NODE/local" "$NODE/local-work"
mount -t overlay -o "lowerdir=/usr/local,upperdir=$NODE/local,workdir=$NODE/local-work" local /usr/local
"$LIGHTER_BIN/lighter" programs install --from "$LIGHTER_BIN" --prefix /usr/local >/dev/null

docker=$(newest 'docker-*')/usr
PATH=/usr/local/bin:$(newest 'containerd-[2-9].*')/usr/bin:$docker/bin:$docker/sbin:$PATH
containerd >"$LOGS/containerd.log" 2>&1 </dev/null &
until_ready containerd ctr version

cat >"$NODE/daemon.json" <<END
{"features": {"containerd-snapshotter": true}, "exec-opts": ["native.cgroupdriver=cgroupfs"]}
END
dockerd --config-file "$NODE/daemon.json" --containerd /run/containerd/containerd.sock \
    >"$LOGS/dockerd.log" 2>&1 </dev/null &
export DOCKER_CONFIG=$NODE/docker DOCKER_HOST=unix:///run/docker.sock
mkdir -p "$DOCKER_CONFIG/cli-plugins"
ln -s "$(newest 'buildx-*')/usr/libexec/docker/cli-plugins/docker-buildx" "$DOCKER_CONFIG/cli-plugins"
until_ready dockerd docker version

# The tools of a reader, by the names that the pages call them.
bin=$NODE/bin
mkdir "$bin"
ln -s "$GUEST_TOOL" "$bin/guest-tool"
tools=$LIGHTER_CACHE/docs-tools
for tool in "$tools/go/go" "$tools/python/bin/node" "$tools/python/bin/npm"; do
    [ ! -e "$tool" ] || ln -s "$tool" "$bin"
done
# rustup's Rust for wasm32-wasip2: this one comes from Debian, without the linker that makes a
# component of a module.
printf '#!/bin/sh\n' >"$bin/rustup"
cat >"$bin/wasm-component-ld" <<END
#!/usr/bin/env bash
set -euo pipefail
"$tools/rust/wasm-ld" "\$@"
while [ "\$1" != -o ]; do shift; done
"$bin/guest-tool" reactor "\$2" "\$2.component"
mv "\$2.component" "\$2"
END
# A published port is the node's.
cat >"$bin/curl" <<END
#!/bin/sh
exec nsenter --net=$NODE/net /usr/bin/curl "\$@"
END
chmod +x "$bin"/{rustup,wasm-component-ld,curl}
touch "$NODE/net"
mount --bind /proc/self/ns/net "$NODE/net"
export PATH=$bin:$PATH
export RUSTC=$tools/rust/rustc CARGO_TARGET_WASM32_WASIP2_LINKER=$bin/wasm-component-ld
unset CARGO_TARGET_DIR

nsenter --net="$OUTSIDE" "$@"
