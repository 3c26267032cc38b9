// Pins containerd's CRI integration suite, which build.sh compiles from the module cache.
// Nothing here imports it: leave `go mod tidy` alone, and change the version by
// `go get github.com/containerd/containerd/v2@VERSION`.
module lighter/test/cri

go 1.24.2

require github.com/containerd/containerd/v2 v2.1.9
