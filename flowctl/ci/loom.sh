#!/bin/sh
# Model-checks the lock-free protocol of flowctl, deliberate faults included. Building takes about a minute on
# two cores, checking a few seconds.
#
# The models of up to three threads are exhaustive; that of four is bounded to three preemptions
# (src/model/mod.rs). Arguments are passed to the test harness, so that
# `ci/loom.sh limit_repay` runs one model and its mutants; LOOM_LOG=trace shows an execution.
set -eu
cd "$(dirname "$0")/.."
RUSTFLAGS="--cfg flowctl_loom ${RUSTFLAGS:-}" \
    exec nice cargo test -p staunch-flowctl --release --lib --target-dir ../target/loom -- "$@"
