//! Everything that the fuzzer of patterns starts from and everything it ever found, run again.

#[path = "../../fuzz/src/pattern.rs"]
mod pattern;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

#[test]
fn patterns_that_were_found_do_no_harm() {
    replay::run("pattern", pattern::pattern);
}
