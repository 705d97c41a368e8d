#!/bin/sh
# Runs the models of the scheduler's atomics (src/schedule/model.rs): about a minute, and once the build.
#
#   broker/ci/loom.sh [part of a test's name [arguments of the test program]]
#
# A private cfg, so that dependencies which know loom themselves are left alone, and a target folder of its own, since
# the flag changes every crate. Two threads are explored in full where that ends; each model states its bound if it
# has one. A test that must fail does so at the first bad interleaving.
set -eu
cd "$(dirname "$0")/../.."
name="${1:-}"
[ $# -eq 0 ] || shift
export RUSTFLAGS="--cfg broker_loom ${RUSTFLAGS:-}"
export CARGO_TARGET_DIR="${LOOM_TARGET_DIR:-target/loom}"
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
exec cargo test --release -p staunch --lib "schedule::model::$name" -- "$@"
