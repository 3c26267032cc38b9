#!/usr/bin/env bash
# Run by run.sh: Wasm pods of a Deployment answer behind a Service's address, to the node and to
# Linux pods, all of them, also when one is replaced.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
requests=40

say() {
    echo "test-service: $*"
}
# What the cluster knew goes to the logs, whatever the end.
end() {
    kubectl get pods,endpointslices,events -o wide >"$LOGS/objects.txt" 2>&1 || true
    kubectl get pods -o yaml >"$LOGS/pods.yaml" 2>&1 || true
}
trap end EXIT
fail() {
    say "$*; see $LOGS" >&2
    exit 1
}

"$here/image.sh" http-hello
kubectl apply -f "$here/service.yaml" >"$LOGS/apply.log"
kubectl rollout status deployment/hello --timeout 60s >/dev/null || fail "the Deployment has no two ready pods: $(kubectl describe pods -l app=hello | tail -n 5)"
kubectl wait pod/client-on-{wasmtime,runc} --for condition=Ready --timeout 60s >/dev/null || fail "no clients"
address=$(kubectl get service hello -o jsonpath='{.spec.clusterIP}')
say "two Wasm pods are ready behind http://$address"

# from CLIENT: the answers to so many requests, one a line; none after one that failed.
from() {
    local each="for i in \$(seq $requests)" url="http://$address/env?POD"
    case $1 in
    node) bash -c "$each; do curl -sSf --max-time 5 '$url' && echo || exit 1; done" ;;
    *) kubectl exec "$1" -- sh -c "$each; do timeout 5 wget -qO- '$url' && echo || exit 1; done" ;;
    esac
}

# replicas: the names of the pods that should answer.
replicas() {
    kubectl get pods -l app=hello -o jsonpath='{range .items[?(@.status.phase=="Running")]}{.metadata.name}{"\n"}{end}' | sort
}

# check CLIENT: each replica answers it, and nobody else.
check() {
    local answers
    answers=$(from "$1") || fail "$1: a request failed; answered before: $answers"
    [ "$(sort -u <<<"$answers")" = "$(replicas)" ] ||
        fail "$1 was answered by: $(sort <<<"$answers" | uniq -c | xargs); expected each of: $(replicas | xargs)"
    say "$1: $requests requests of $requests, by" "$(sort <<<"$answers" | uniq -c | xargs)"
}
# check_all: once kube-proxy knows the replicas, which takes a second or two, no request fails.
check_all() {
    local client
    for _ in $(seq 20); do
        [ "$(from node 2>/dev/null | sort -u)" != "$(replicas)" ] || break
        sleep 0.5
    done
    for client in node client-on-wasmtime client-on-runc; do
        check $client
    done
}
check_all

gone=$(replicas | head -n 1)
kubectl delete pod "$gone" --timeout 60s >/dev/null || fail "$gone does not end"
kubectl rollout status deployment/hello --timeout 60s >/dev/null || fail "no replacement of $gone"
say "$gone is replaced"
check_all

kubectl delete -f "$here/service.yaml" --timeout 60s >>"$LOGS/apply.log" || fail "not all is deleted"
kubectl wait pod -l app=hello --for delete --timeout 60s >/dev/null || fail "the replicas do not end"
! curl -s --max-time 2 "http://$address/" >/dev/null || fail "http://$address answers although the Service is gone"
[ -z "$(ctr tasks list -q)" ] || fail "containers run on: $(ctr tasks list -q | xargs)"
say "all is gone again"
