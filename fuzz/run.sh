#!/bin/sh
# Runs one fuzzer, or all of them one after the other, on stable Rust:
#   run.sh [seconds each] [target ...]
# New inputs go to a scratch corpus under target/; what crashes goes to crashes/<target>/, where `cargo test` finds
# it. To keep a better set of seeds, see the last lines.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- wire packet caveat sturdy text pattern session packets
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
failed=0
for target in "$@"; do
    # With a host named, build scripts and macros are built without instrumentation.
    nice -n 19 cargo build --release --target "$host" --bin "$target"
    mkdir -p "target/corpus/$target" "crashes/$target"
    nice -n 19 "target/$host/release/$target" "target/corpus/$target" "corpus/$target" \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="crashes/$target/" || failed=1
done
exit $failed
# Seeds that reach as much with less:
#   target/<host>/release/<target> -merge=1 -max_len=200 <new folder> corpus/<target> target/corpus/<target>
