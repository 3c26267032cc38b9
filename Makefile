# Lighter: `make help` lists the targets.
#
# Wasmtime is compiled without its compiler for the shim, and with it for the compile worker and
# the tests. Cargo unifies the features of what it builds in one call, so the calls below are
# few and always the same.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The pinned compiler. Without rustup, whatever cargo is there has to be of that version.
ifneq ($(shell command -v rustup),)
export RUSTUP_TOOLCHAIN := 1.95.0
endif
export LIGHTER_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lighter
export CARGO_TARGET_DIR ?= $(CURDIR)/target

BUILT := $(CARGO_TARGET_DIR)/x86_64-unknown-linux-gnu/release
PRODUCTION := $(CARGO_TARGET_DIR)/x86_64-unknown-linux-gnu/production
export LIGHTER_BIN := $(CARGO_TARGET_DIR)/dist
PREFIX ?= /usr/local
SHIM := containerd-shim-wasmtime-v1

.PHONY: help packages build install uninstall release installer-image sbom sample-images run test test-build test-runc test-cri test-k8s test-nn test-vm test-vm-systemd test-vm-both bench bench-http bench-images bench-k8s dashboard fuzz lint fmt deny clean test-docs test-docs-k8s site docs check-docs

help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

packages: ## Install from apt what building and testing need
	@test/setup/packages.sh

build: packages ## Build the shim, its compile worker and the node tool into target/dist
	cargo build --profile production --locked -p lighter-shim -p lighter-node
	@install -D -t $(LIGHTER_BIN) $(PRODUCTION)/$(SHIM) $(PRODUCTION)/lighter
	cargo build --release --locked -p lighter-compiler
	@install -D -t $(LIGHTER_BIN) $(BUILT)/lighter-compiler

# Another runtime's shim may have the same name: REPLACE_FOREIGN=1 sets it aside until `make uninstall`.
install: build ## Install them below PREFIX (/usr/local), where containerd finds them
	@$(LIGHTER_BIN)/lighter programs install --from $(LIGHTER_BIN) --prefix $(DESTDIR)$(PREFIX) \
		$(if $(REPLACE_FOREIGN),--replace-foreign)

# By the program that was built: one that is installed may be of somebody else by now.
uninstall: build ## Remove what `make install` installed
	@$(LIGHTER_BIN)/lighter programs uninstall --prefix $(DESTDIR)$(PREFIX)

release: build sbom ## Make the files of a release in target/package
	@deploy/release.sh $(CARGO_TARGET_DIR)/package

# deploy/ names it; `ctr images import`, `docker load` and skopeo take it.
installer-image: build ## Make target/package/lighter-installer.tar, the image that installs on a cluster
	@deploy/release.sh $(CARGO_TARGET_DIR)/package

sbom: packages ## Make a bill of materials of each program in target/package
	@test/setup/packages.sh jq
	@command -v cargo-cyclonedx >/dev/null || cargo install --quiet --locked --debug cargo-cyclonedx --version $(CARGO_CYCLONEDX) --target-dir $(LIGHTER_CACHE)/cargo-cyclonedx
	@deploy/sbom.sh $(CARGO_TARGET_DIR)/package

CARGO_CYCLONEDX := 0.5.9

# The guests that deploy/samples runs.
SAMPLES := http-hello hello compute files http-rust hello-c hello-go http-python http-js

sample-images: build ## Pack the images of deploy/samples into target/samples
	@test/guests/build.sh
	@mkdir -p $(CARGO_TARGET_DIR)/samples
	@for name in $(SAMPLES); do \
		$(LIGHTER_BIN)/lighter pack $(LIGHTER_CACHE)/guests/$$name.wasm --name localhost/$$name:latest \
			-o $(CARGO_TARGET_DIR)/samples/$$name.tar; \
	done

run: build ## Run a Wasm container on a private containerd, and say what to try next
	@test/guests/build.sh
	@test/setup/run.sh

# The tests bring their own compile worker: it is built together with them.
test-build: packages
	cargo build --profile production --locked -p lighter-shim -p lighter-node
	@install -D -t $(LIGHTER_BIN) $(PRODUCTION)/$(SHIM) $(PRODUCTION)/lighter
	cargo test --release --locked --workspace --no-run
	@install -D -t $(LIGHTER_BIN) $(BUILT)/lighter-compiler
	@test/setup/daemons.sh
	@GUEST_TOOL=$(BUILT)/guest-tool test/guests/build.sh
	@test/cri/build.sh crictl
	@test/collector/build.sh

test: test-build ## Run all tests, on real containerd and dockerd in private folders
	cargo test --release --locked --workspace

test-runc: test-build ## Compare a hundred features of bundles with runc 1.1 and 1.3
	cargo test --release --locked --workspace --test runc -- --test-threads=2

SUITE ?= critest
HANDLER ?= wasmtime

test-cri: test-build ## Run critest on containerd's CRI (SUITE=containerd: its own suite; HANDLER=runc)
	@test/cri/run.sh $(SUITE) $(HANDLER)

# Both compile Kubernetes first, once.
test-k8s: test-build ## Test Wasm pods on a real cluster of one node (K8S_TESTS=... picks)
	cargo test --release --locked --workspace --no-run --test kubernetes
	@test/kubernetes/run.sh suite --test-threads=3 --skip installation:: $(K8S_TESTS)
	@test/kubernetes/run.sh -b suite installation::

test-docs: test-build ## Execute the commands of the README and the tutorials on real daemons
	@GUEST_TOOL=$(BUILT)/guest-tool test/docs/run.sh

test-docs-k8s: test-build ## Execute those for Kubernetes on a cluster of one node
	@test/docs/run.sh --cluster

docs: build ## Write the reference pages that are made from the programs
	@test/docs/cli.py $(LIGHTER_BIN)/lighter

check-docs: ## Compare the documentation with the code, and check its links and its form
	@test/docs/check.py

site: ## Build the documentation as a site, with search, into target/site
	@test/setup/packages.sh python3-venv
	@deploy/site/build.sh $(CARGO_TARGET_DIR)/site

bench-k8s: test-build ## Compare the time from apply to Ready with runc, on the same cluster
	cargo build --release --locked --workspace --bin kubernetes-figures
	@test/kubernetes/run.sh figures

# Its runtime for models compiles for minutes, so that the feature has a target of its own.
test-nn: test-build ## Test the engine with wasi-nn
	cargo test --release --locked --workspace --features lighter-compiler/wasi-nn --test program neural_network

# Ten times slower than this machine, so not all of the suite: what differs between cgroup versions.
VM_TESTS ?= limits:: devices:: task_api:: terminal::a_terminal exec::a_guest exec::an_exec exec::the_end exec::stdin

# What depends on the kernel.
VM_ATTACKS ?= mounts:: descriptors::a_created descriptors::start

test-vm: test-build ## Test on cgroup v2, in a machine that QEMU emulates (VM_TESTS=... picks)
	@test/setup/packages.sh qemu-system-x86 e2fsprogs
	@test/vm/run.sh suite --test-threads=2 --skip docker $(VM_TESTS)
	@test/vm/run.sh attacks --test-threads=2 $(VM_ATTACKS)

test-vm-systemd: test-build ## The same with systemd as init and its cgroup driver
	@test/setup/packages.sh qemu-system-x86 e2fsprogs
	@test/vm/run.sh -s suite --test-threads=2 --skip docker $(VM_TESTS)

test-vm-both: test-vm test-vm-systemd ## Both of them

bench: test-build ## Compare start time and memory with runc, into target/bench
	cargo run --release --locked -p lighter-bench -- runc

# Builds runwasi's kind of shim and `wasmtime` first, which takes half an hour once.
bench-http: test-build ## Compare services and computing guests with others, into target/bench
	@test/bench/peer/build.sh
	cargo run --release --locked -p lighter-bench -- start http compute

bench-images: test-build ## Compare sizes of images and the time from pull to the first line with Linux images
	cargo run --release --locked -p lighter-bench -- images

dashboard: test-build ## Draw the dashboard of a real run, with a real Prometheus, into docs/pictures/dashboard.svg
	@test/setup/packages.sh prometheus wrk
	cargo run --release --locked -p lighter-dashboard -- prometheus deploy/grafana/lighter.json docs/pictures/dashboard.svg

# FUZZ=... picks of the targets, which are the files in test/fuzz/fuzz_targets.
SECONDS ?= 60

fuzz: packages ## Fuzz what parses untrusted bytes, SECONDS=60 in all
	@test/fuzz/run.sh $(SECONDS) $(FUZZ)

lint: packages ## Check formatting, clippy and the rules for dependencies
	cargo fmt --all --check
	cargo fmt --manifest-path test/fuzz/Cargo.toml --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	cargo clippy --release --locked --workspace --test kubernetes -- -D warnings
	$(MAKE) deny check-docs

deny: ## Check licences, sources and who may use which crate
	@command -v cargo-deny >/dev/null || cargo install --quiet --locked --debug cargo-deny --version $(CARGO_DENY) --target-dir $(LIGHTER_CACHE)/cargo-deny
	cargo deny --all-features check bans licenses sources

CARGO_DENY := 0.18.9

fmt: ## Format the code
	cargo fmt --all
	cargo fmt --manifest-path test/fuzz/Cargo.toml

clean: ## Remove what was built; the cache with daemons and guests stays
	cargo clean
