#!/usr/bin/env bash
# Fuzzes everything that reads what strangers wrote: `run.sh SECONDS [TARGET]...`. The seconds are
# for all targets together. What is found stays in $CARGO_TARGET_DIR/fuzz/findings.
#
# `cargo fuzz run --fuzz-dir test/fuzz --sanitizer none TARGET` does the same for one target. It is
# not needed: on stable Rust all it does is to set the flags below, which ask LLVM for the coverage
# that libFuzzer goes by. None of them is unstable.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?usage: run.sh SECONDS [TARGET]...}
shift
targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
    for file in fuzz_targets/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi

# What is fuzzed has to be what is built: a crate that is in both lock files is of one version.
versions() {
    awk '$1 == "name" { name = $3 } $1 == "version" && name { print name, $3; name = "" }' "$1" | sort -u
}
own=$(versions Cargo.lock)
ours=$(versions ../../Cargo.lock)
differing=$(comm -23 <(echo "$own") <(echo "$ours") |
    awk 'NR == FNR { known[$1] = 1; next } $1 in known' <(echo "$ours") -)
if [ -n "$differing" ]; then
    echo "run.sh: test/fuzz/Cargo.lock has other versions than Cargo.lock; copy that one over it, and" \
        "\`cargo metadata --manifest-path test/fuzz/Cargo.toml\` adds what is missing:" >&2
    echo "$differing" >&2
    exit 1
fi

# Not Lighter's own target directory: these flags, which take the place of those in .cargo, would have
# everything built anew. libFuzzer cannot be in a static binary.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/../../target}/fuzz
export RUSTFLAGS="-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares"
cargo build --release --locked "${targets[@]/#/--bin=}"

each=$((seconds / ${#targets[@]}))
findings=$CARGO_TARGET_DIR/findings
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()
printf '%-20s %10s %8s %8s\n' target runs coverage inputs
for target in "${targets[@]}"; do
    corpus=$CARGO_TARGET_DIR/corpus/$target
    mkdir -p "$corpus" "$findings"
    # Files that are not there yet are made of the seeds, so that the repository's stay small.
    options=(-timeout=5 -rss_limit_mb=512 -print_final_stats=1 -max_total_time=$((each > 0 ? each : 1))
        -artifact_prefix="$findings/$target-")
    if [ -f "dictionaries/$target" ]; then
        options+=(-dict="dictionaries/$target")
    fi
    status=0
    "$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/release/$target" "${options[@]}" \
        "$corpus" "seeds/$target" >"$log" 2>&1 || status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    printf '%-20s %10s %8s %8s\n' "$target" "${runs:--}" "${coverage:--}" "$(find "$corpus" -type f | wc -l)"
    if [ "$status" -ne 0 ]; then
        failed+=("$target")
        grep -v '^#' "$log" | tail -n 40 >&2
    fi
done
if [ "${#failed[@]}" -gt 0 ]; then
    echo "run.sh: findings in ${failed[*]}; the inputs are $findings/TARGET-*" >&2
    exit 1
fi
