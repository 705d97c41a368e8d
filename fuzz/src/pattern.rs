//! Patterns and values through an index, and through its naive twin.
#![allow(dead_code, unreachable_pub)]

use staunch_protocols::wire::{Limits, Progress, Scanner, canonicalize};

/// The twin, and what holds an index against it.
#[path = "../../index/tests/common/mod.rs"]
mod common;

use common::driver::{Driver, Source};
use common::tree::{Noise, Tree};
use common::twin;

/// The twin computes everything anew after each step.
const STEPS_MAX: usize = 100;

/// A history of turns, observations among them: what observers are told is what the twin says, what the index keeps is
/// bounded by what is there, and nothing is left at the end. The first byte says how many captures lists an observer is
/// told of at once, when bags are divided, and whether the values are in the bytes that follow, or chosen by them from some that meet often.
pub fn pattern(data: &[u8]) {
    let [choice, bytes @ ..] = data else { return };
    let mut driver =
        Driver::new([512, 2, 0][*choice as usize / 2 % 3], [usize::MAX, 4, 0][*choice as usize / 6 % 3]);
    if choice % 2 == 0 {
        let mut source = Bytes { bytes };
        run(&mut driver, &mut source, |source| source.bytes.is_empty());
    } else {
        let mut source = Noise::new(bytes.to_vec());
        run(&mut driver, &mut source, Noise::is_used_up);
    }
    driver.finish();
}

fn run<S: Source>(driver: &mut Driver, source: &mut S, is_used_up: impl Fn(&S) -> bool) {
    for _ in 0..STEPS_MAX {
        if is_used_up(source) {
            break;
        }
        driver.step(source);
    }
}

/// Decisions and values, one behind the other: a decision is a byte, a value the encoding of any value.
struct Bytes<'a> {
    bytes: &'a [u8],
}

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        *first
    }

    /// The next value that is in the bytes; what is none is skipped.
    fn next_value(&mut self) -> Option<Tree> {
        // As deep, and with integers as long, as the twin's trees can hold.
        let limits = Limits { depth_max: 64, integer_bytes_max: 16, ..Limits::default() };
        while !self.bytes.is_empty() {
            let mut scanner = Scanner::new(limits);
            if let Ok(Progress::Complete(length)) = scanner.scan(self.bytes) {
                let mut canonical = Vec::new();
                let written = canonicalize(scanner.view(self.bytes), &mut canonical);
                self.bytes = &self.bytes[length..];
                if written.is_ok() {
                    return Some(Tree::read(common::scanned(&canonical).view(&canonical)));
                }
            } else {
                self.bytes = &self.bytes[1..];
            }
        }
        None
    }
}

impl Source for Bytes<'_> {
    fn below(&mut self, n: usize) -> usize {
        self.byte() as usize % n
    }

    fn value(&mut self) -> Tree {
        self.next_value().unwrap_or(Tree::Int(0))
    }

    /// For a pattern of its own, so that a find may do without the record around it; or what stands there.
    fn observe(&mut self) -> Tree {
        match self.below(8) {
            0 => self.value(),
            observer => twin::observe_of(self.value(), observer as u64),
        }
    }
}
