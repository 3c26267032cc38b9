#!/usr/bin/env bash
# The inside of run.sh: makes a cluster of the node's namespaces, runs a command, and ends, which
# ends everything.
#
#   cluster.sh COMMAND...      with $BARE on a node that does not know the handler
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=$(compgen -G "$LIGHTER_CACHE/daemons/containerd-[2-9].*/usr/bin" | sort -V | tail -n 1)
export PATH=$programs:$LIGHTER_CACHE/kubernetes:$PATH
export KUBECONFIG=/etc/kubernetes/config CONTAINERD_NAMESPACE=k8s.io
socket=/run/containerd/containerd.sock
# Of both families, IPv4 first.
address=10.89.0.1 address6=fd00:89::1
pods=10.88.0.0/16 pods6=fd00:88::/64
services=10.96.0.0/16 services6=fd00:96::/112
names=10.96.0.10

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
    daemons+=("$1")
}

# service NAME ARGUMENT...: the same, and again when it has ended, as a service manager does; not
# while $NODE/hold is there.
service() {
    while true; do
        # The shell would say here how it was ended.
        { "$@" >>"$LOGS/$1.log" 2>&1 </dev/null; } 2>/dev/null || true
        echo "--- $1 ended" >>"$LOGS/$1.log"
        sleep 0.5
        while [ -e "$NODE/hold" ]; do
            sleep 0.1
        done
    done &
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
                fail "${daemons[i]} ended: $(tail -n 5 "$LOGS/${daemons[i]}.log")"
        done
        sleep 0.1
    done
    fail "$name is not ready after a minute; the last words of the logs in $LOGS: $(tail -n 2 "$LOGS"/*.log)"
}

pids=() daemons=()
mount --bind "$LOGS" /var/log
mkdir -p /etc/kubernetes /etc/cni/net.d /etc/containerd
echo "127.0.0.1 localhost
::1 localhost
$address node" >/etc/hosts
: >/etc/resolv.conf
hostname node
ip link add node0 type bridge
ip address add $address/32 dev node0
ip address add $address6/128 dev node0 nodad
ip link set node0 up
# A route for Services' addresses, which are on no interface.
ip route add default dev node0
ip -6 route add default dev node0

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
# The kernel mounts a procfs in a user namespace only for who sees one without anything on it.
mkdir -p /run/visible-proc
mount -t proc proc /run/visible-proc

cat >/etc/cni/net.d/10-bridge.conflist <<END
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "ranges": [[{"subnet": "$pods"}], [{"subnet": "$pods6"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
END

cat >/etc/containerd/config.toml <<END
version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
  # Any program that sleeps does.
  sandbox = "localhost/sandbox:latest"
[plugins."io.containerd.cri.v1.runtime"]
  # Pods ask for a score below this process's own, which takes CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true
END
if [ -n "${BARE-}" ]; then
    # What is installed there is not the machine's.
    mkdir "$NODE/local" "$NODE/local-work"
    mount -t overlay -o "lowerdir=/usr/local,upperdir=$NODE/local,workdir=$NODE/local-work" local /usr/local
else
    PATH=$LIGHTER_BIN:$PATH
    cat >>/etc/containerd/config.toml <<END
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wasmtime]
  runtime_type = "io.containerd.wasmtime.v1"
  pod_annotations = ["lighter.dev/*"]
  container_annotations = ["lighter.dev/*"]
# This containerd asks shims of runc's type alone whether they can have user namespaces.
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wasmtime-users]
  runtime_type = "io.containerd.runc.v2"
  runtime_path = "$LIGHTER_BIN/containerd-shim-wasmtime-v1"
  pod_annotations = ["lighter.dev/*"]
  container_annotations = ["lighter.dev/*"]
END
fi
service containerd
until_ready containerd ctr version

"$here/sandbox.sh"

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

# The apiserver vouches to metrics-server for those whose requests it passes on.
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=front \
    -keyout /etc/kubernetes/front-authority.key -out /etc/kubernetes/front-authority.crt 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj /CN=front -keyout /etc/kubernetes/front.key 2>/dev/null |
    openssl x509 -req -days 2 -CA /etc/kubernetes/front-authority.crt \
        -CAkey /etc/kubernetes/front-authority.key -CAcreateserial -out /etc/kubernetes/front.crt 2>/dev/null

daemon etcd --data-dir /var/lib/etcd
daemon kube-apiserver --allow-privileged --etcd-servers http://127.0.0.1:2379 --cert-dir /etc/kubernetes \
    --advertise-address $address --service-cluster-ip-range $services,$services6 \
    --token-auth-file /etc/kubernetes/tokens --authorization-mode RBAC \
    --service-account-issuer https://kubernetes.default.svc \
    --service-account-key-file /etc/kubernetes/accounts.key \
    --service-account-signing-key-file /etc/kubernetes/accounts.key \
    --requestheader-client-ca-file /etc/kubernetes/front-authority.crt \
    --requestheader-allowed-names front --requestheader-username-headers X-Remote-User \
    --requestheader-group-headers X-Remote-Group \
    --requestheader-extra-headers-prefix X-Remote-Extra- \
    --proxy-client-cert-file /etc/kubernetes/front.crt \
    --proxy-client-key-file /etc/kubernetes/front.key
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
clusterDNS: [$names]
clusterDomain: cluster.local
maxPods: 250
# How soon a changed ConfigMap is in its volumes, and CrashLoopBackOff in a pod's status.
syncFrequency: 10s
volumePluginDir: /var/lib/kubelet/plugins
# This machine's disk may be as full as it likes.
evictionHard: {memory.available: 0%, nodefs.available: 0%, imagefs.available: 0%}
imageGCHighThresholdPercent: 100
END
service kubelet --config /etc/kubernetes/kubelet --kubeconfig $KUBECONFIG \
    --hostname-override node --node-ip $address,$address6

cat >/etc/kubernetes/proxy <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
hostnameOverride: node
clusterCIDR: "$pods,$pods6"
clientConnection: {kubeconfig: $KUBECONFIG}
conntrack: {maxPerCore: 0}
END
daemon kube-proxy --config /etc/kubernetes/proxy
until_ready "the node" kubectl wait --for condition=Ready node/node --timeout 1s
until_ready "kube-proxy" curl -sf http://127.0.0.1:10256/healthz

# Services without pods: what answers for them are processes of the node.
kubectl apply -f - >/dev/null <<END
$(for service in "kube-dns 53 $names" "metrics-server 4443 10.96.0.11"; do
    read -r name port cluster <<<"$service"
    cat <<SERVICE
---
apiVersion: v1
kind: Service
metadata: {name: $name, namespace: kube-system}
spec:
  clusterIP: $cluster
  ports: [{name: tcp, port: $port, protocol: TCP}, {name: udp, port: $port, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: $name, namespace: kube-system, labels: {kubernetes.io/service-name: $name}}
addressType: IPv4
ports: [{name: tcp, port: $port, protocol: TCP}, {name: udp, port: $port, protocol: UDP}]
endpoints: [{addresses: [$address]}]
SERVICE
done)
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: metrics-server, namespace: kube-system, port: 4443}
END
cat >/etc/kubernetes/names <<END
.:53 {
    bind $address
    errors
    ready $address:8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig $KUBECONFIG
    }
    cache 5
}
END
[ -n "${BARE-}" ] || kubectl apply -f - >/dev/null <<END
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: wasmtime}
handler: wasmtime
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: wasmtime-users}
handler: wasmtime-users
END
daemon coredns -conf /etc/kubernetes/names
daemon metrics-server --kubeconfig $KUBECONFIG --authentication-kubeconfig $KUBECONFIG \
    --authorization-kubeconfig $KUBECONFIG --secure-port 4443 --cert-dir /etc/kubernetes/metrics \
    --kubelet-insecure-tls --kubelet-request-timeout 5s --metric-resolution 10s
until_ready "CoreDNS" curl -sf http://$address:8181/ready
until_ready "metrics-server" kubectl top node

"$@"
