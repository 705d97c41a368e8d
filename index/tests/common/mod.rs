//! What the tests of this crate share.
#![allow(dead_code, unreachable_pub)]

pub mod driver;
pub mod generate;
/// Values made up from schemas.
#[path = "../../../protocols/tests/common/interpret.rs"]
pub mod interpret;
/// Values as plain trees, the same that the codec is tested against.
#[path = "../../../protocols/tests/common/tree.rs"]
pub mod tree;
pub mod twin;

use std::sync::Arc;

use staunch_index::{Captures, Domain, Endpoint, Replay, Sink, Stored};
use staunch_protocols::wire::{Limits, Progress, Scanner};

/// What the tests plug into the index.
pub struct Plug;

impl Domain for Plug {
    type Endpoint = To;
    type Extra = Arc<()>;
    type Owner = Arc<()>;
}

/// Where an observer's events go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct To {
    pub observer: u64,
    pub domain: u64,
}

impl Endpoint for To {
    fn handle_domain(&self) -> u64 {
        self.domain
    }
    fn is_gone(&self) -> bool {
        false
    }
}

/// What one observer was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Message(Vec<u8>),
    Assert(u64, Vec<u8>),
    Retract(u64, Vec<u8>),
    Replay,
    Publish,
}

/// Notes everything, in order.
#[derive(Default)]
pub struct Recorder {
    pub events: Vec<(u64, Event)>,
    pub replays: Vec<(u64, Replay<Plug>)>,
}

/// A captures list as the sequence that observers get.
pub fn list(captures: &[&[u8]]) -> Vec<u8> {
    [&[0xb5][..], &captures.concat(), &[0x84]].concat()
}

impl Sink<Plug> for Recorder {
    fn message(&mut self, to: &To, captures: &Captures<'_>) {
        self.events.push((to.observer, Event::Message(list(captures))));
    }
    fn assert(&mut self, to: &To, handle: u64, captures: &Captures<'_>, _: &Stored<Plug>) {
        self.events.push((to.observer, Event::Assert(handle, list(captures))));
    }
    fn retract(&mut self, to: &To, handle: u64, captures: &Captures<'_>, _: &Stored<Plug>) {
        self.events.push((to.observer, Event::Retract(handle, list(captures))));
    }
    fn replay(&mut self, to: &To, replay: Replay<Plug>) {
        self.events.push((to.observer, Event::Replay));
        self.replays.push((to.observer, replay));
    }
    fn publish(&mut self) {
        self.events.push((0, Event::Publish));
    }
}

/// A scanner that has scanned all of `bytes`.
pub fn scanned(bytes: &[u8]) -> Scanner {
    let limits = Limits { depth_max: u16::MAX, ..Limits::default() };
    let mut scanner = Scanner::new(limits);
    assert_eq!(scanner.scan(bytes), Ok(Progress::Complete(bytes.len())), "{bytes:02x?}");
    scanner
}
