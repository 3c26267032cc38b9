#!/usr/bin/env bash
# The inside of run.sh: makes a cluster of the node's namespaces, runs a command, and ends, which
# ends everything.
#
#   cluster.sh COMMAND...
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
daemons=$(compgen -G "$LIGHTER_CACHE/daemons/containerd-[2-9].*/usr/bin" | sort -V | tail -n 1)
export PATH=$daemons:$LIGHTER_BIN:$LIGHTER_CACHE/kubernetes:$PATH
export KUBECONFIG=/etc/kubernetes/config CONTAINERD_NAMESPACE=k8s.io
socket=/run/containerd/containerd.sock
address=10.89.0.1 pods=10.88.0.0/16 services=10.96.0.0/16

say() {
    printf '%4d s  %s\n' "$SECONDS" "$*"
}

fail() {
    echo "test/kubernetes: $*" >&2
    exit 1
}

# daemon NAME ARGUMENT...: starts it; its output goes to its log.
daemon() {
    "$@" >"$LOGS/$1.log" 2>&1 </dev/null &
    pids+=($!)
    names+=("$1")
}

# until_ready NAME COMMAND...: waits until the command succeeds, while all daemons live.
until_ready() {
    local name=$1 i
    shift
    for _ in $(seq 600); do
        if "$@" >/dev/null 2>&1; then
            say "$name is ready"
            return
        fi
        for i in "${!pids[@]}"; do
            kill -0 "${pids[i]}" 2>/dev/null ||
                fail "${names[i]} ended: $(tail -n 5 "$LOGS/${names[i]}.log")"
        done
        sleep 0.1
    done
    fail "$name is not ready after a minute; the last words of the logs in $LOGS: $(tail -n 2 "$LOGS"/*.log)"
}

pids=() names=()
mount --bind "$LOGS" /var/log
mkdir -p /etc/kubernetes /etc/cni/net.d /etc/containerd
echo "127.0.0.1 localhost
$address node" >/etc/hosts
: >/etc/resolv.conf
hostname node
ip link add node0 type bridge
ip address add $address/32 dev node0
ip link set node0 up
# A route for Services' addresses, which are on no interface.
ip route add default dev node0

# What kubelet sets is the whole machine's. It leaves alone what has the right value already.
while read -r variable value; do
    echo "$value" >"$NODE/$variable"
    mount --bind "$NODE/$variable" "/proc/sys/${variable//.//}"
done <<END
vm.overcommit_memory 1
vm.panic_on_oom 0
kernel.panic 10
kernel.panic_on_oops 1
kernel.keys.root_maxkeys 1000000
kernel.keys.root_maxbytes 25000000
END

cat >/etc/cni/net.d/10-bridge.conflist <<END
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {"type": "host-local", "subnet": "$pods", "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
END

cat >/etc/containerd/config.toml <<END
version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
  # Any program that sleeps does.
  sandbox = "localhost/busybox:latest"
[plugins."io.containerd.cri.v1.runtime"]
  # Pods ask for a score below this process's own, which takes CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wasmtime]
  runtime_type = "io.containerd.wasmtime.v1"
END
daemon containerd
until_ready containerd ctr version

"$here/image.sh" busybox

# Who has the token may do everything, on a network where nobody else is.
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
echo "$token,admin,admin,system:masters" >/etc/kubernetes/tokens
openssl genrsa -traditional -out /etc/kubernetes/accounts.key 2048 2>/dev/null
cat >$KUBECONFIG <<END
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$address:6443", certificate-authority: /etc/kubernetes/apiserver.crt}}]
users: [{name: admin, user: {token: "$token"}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
END

daemon etcd --data-dir /var/lib/etcd
daemon kube-apiserver --etcd-servers http://127.0.0.1:2379 --cert-dir /etc/kubernetes \
    --advertise-address $address --service-cluster-ip-range $services \
    --token-auth-file /etc/kubernetes/tokens --authorization-mode RBAC \
    --service-account-issuer https://kubernetes.default.svc \
    --service-account-key-file /etc/kubernetes/accounts.key \
    --service-account-signing-key-file /etc/kubernetes/accounts.key
until_ready "$(kubectl version --client | sed -n 's/^Client Version: /kube-apiserver /p')" \
    kubectl get --raw /readyz

daemon kube-controller-manager --kubeconfig $KUBECONFIG --leader-elect=false \
    --service-account-private-key-file /etc/kubernetes/accounts.key \
    --root-ca-file /etc/kubernetes/apiserver.crt
daemon kube-scheduler --kubeconfig $KUBECONFIG --leader-elect=false

cat >/etc/kubernetes/kubelet <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$socket
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
volumePluginDir: /var/lib/kubelet/plugins
# This machine's disk may be as full as it likes.
evictionHard: {memory.available: 0%, nodefs.available: 0%, imagefs.available: 0%}
imageGCHighThresholdPercent: 100
END
daemon kubelet --config /etc/kubernetes/kubelet --kubeconfig $KUBECONFIG \
    --hostname-override node --node-ip $address

cat >/etc/kubernetes/proxy <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
hostnameOverride: node
clusterCIDR: $pods
clientConnection: {kubeconfig: $KUBECONFIG}
conntrack: {maxPerCore: 0}
END
daemon kube-proxy --config /etc/kubernetes/proxy
until_ready "the node" kubectl wait --for condition=Ready node/node --timeout 1s
until_ready "kube-proxy" curl -sf http://127.0.0.1:10256/healthz

"$@"
