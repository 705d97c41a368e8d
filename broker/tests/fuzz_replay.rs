//! Everything that the fuzzers of sessions start from and everything they ever found, run again.

#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../fuzz/src/session/mod.rs"]
mod session;

#[test]
fn sessions_that_were_found_do_no_harm() {
    replay::run("session", session::session);
}

#[test]
fn packets_that_were_found_do_no_harm() {
    replay::run("packets", session::packets);
}
