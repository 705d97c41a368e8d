//! Everything that the fuzzers of bytes and text start from and everything they ever found, run again.

#[path = "../../fuzz/src/protocols.rs"]
mod protocols;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

#[test]
fn bytes_that_were_found_do_no_harm() {
    for (name, target) in protocols::TARGETS {
        replay::run(name, target);
    }
}
