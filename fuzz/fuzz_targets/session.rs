//! See `session::session`.
#![no_main]

#[path = "../src/session/mod.rs"]
mod session;

/// As the broker has it: the one of the C library takes most of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| session::session(data));
