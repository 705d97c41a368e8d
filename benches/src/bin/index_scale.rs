//! The index in memory: how it scales over threads, what it weighs, and whom a new observer keeps waiting.
//!
//! `index_scale messages N`: route N messages to one observer on one thread; nothing else (for callgrind).
use std::hint::black_box;

use staunch_benches::routing::{self, Part, Stage};
use staunch_index::Scratch;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let count: u64 = args.get(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    messages(count);
}

/// The hot path alone.
fn messages(count: u64) {
    let index = routing::index();
    let mut scratch = Scratch::default();
    let part = Part::Rec("Says".into(), vec![(0, Part::Bind), (1, Part::Bind)]);
    routing::observe(&index, &part, 1, &mut scratch);
    let bytes = routing::says(64);
    let scanner = routing::scanned(&bytes);
    let mut stage = Stage::default();
    let reader = index.read();
    for _ in 0..count {
        let mut length = 0;
        reader.message(black_box(scanner.view(&bytes)), &mut scratch, |_, captures| {
            length += captures.iter().map(|c| c.len()).sum::<usize>();
        });
        stage.events += black_box(length) as u64;
    }
    println!("{}", stage.events);
}
