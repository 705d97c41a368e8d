//! What benches of the index share: values, observers, and a sink that does what a worker does.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use staunch_index::pattern::Pattern;
use staunch_index::{Action, Captures, Domain, Endpoint, Index, Replay, Scratch, Sink, Stored};
use staunch_protocols::wire::{Limits, Scanner, encode};

/// What benches plug into the index.
#[derive(Debug)]
pub struct Plug;

impl Domain for Plug {
    type Endpoint = To;
    type Extra = ();
    type Owner = ();
    type Payer = ();
}

/// An observer's number; each is a session of its own.
#[derive(Debug, Clone, Copy)]
pub struct To(pub u64);

impl Endpoint for To {
    fn handle_domain(&self) -> u64 {
        self.0
    }
    fn is_gone(&self) -> bool {
        false
    }
}

/// Copies what observers are sent into a buffer, as a worker stages it; the buffer is emptied, not freed, when it
/// is full.
#[derive(Debug, Default)]
pub struct Stage {
    buffer: Vec<u8>,
    /// How many events came.
    pub events: u64,
}

impl Stage {
    /// Copies a captures list.
    #[inline]
    pub fn copy(&mut self, captures: &Captures<'_>) {
        captures.iter().for_each(|part| self.buffer.extend_from_slice(part));
        self.end_event();
    }

    #[inline]
    fn end_event(&mut self) {
        self.events += 1;
        if self.buffer.len() > 256 << 10 {
            self.buffer.clear();
        }
    }
}

impl Sink<Plug> for Stage {
    fn message(&mut self, _: &To, captures: &Captures<'_>) {
        self.copy(captures);
    }
    fn assert(&mut self, _: &To, _: u64, captures: &Captures<'_>, _: &Stored<Plug>) {
        self.copy(captures);
    }
    fn retract(&mut self, _: &To, handle: u64, _: &Captures<'_>, _: &Stored<Plug>) {
        self.buffer.extend_from_slice(&handle.to_be_bytes());
        self.end_event();
    }
    fn replay(&mut self, _: &To, _: Replay<Plug>) {}
    fn overdrawn(&mut self, _: &()) {}
    fn publish(&mut self) {}
}

/// A part of a pattern.
#[derive(Debug, Clone)]
pub enum Part {
    /// `<bind <_>>`
    Bind,
    /// `<lit n>`
    Lit(i64),
    /// `<group <rec label> {index: part ...}>`
    Rec(String, Vec<(i64, Part)>),
}

impl Part {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Part::Bind => {
                encode::record(out, "bind");
                encode::record(out, "_");
                encode::end(out);
            }
            Part::Lit(n) => {
                encode::record(out, "lit");
                encode::int(out, *n);
            }
            Part::Rec(label, entries) => {
                encode::record(out, "group");
                encode::record(out, "rec");
                encode::symbol(out, label);
                encode::end(out);
                out.push(staunch_protocols::wire::tag::DICTIONARY);
                for (key, part) in entries {
                    encode::int(out, *key);
                    part.write(out);
                }
                encode::end(out);
            }
        }
        encode::end(out);
    }

    /// `<Observe pattern #:number>` in canonical form.
    pub fn observe(&self, number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        encode::record(&mut out, "Observe");
        self.write(&mut out);
        out.push(staunch_protocols::wire::tag::EMBEDDED);
        encode::uint(&mut out, number);
        encode::end(&mut out);
        out
    }
}

/// `<label n "text" #x"00...">`: a record with a number, a name and this many bytes.
pub fn record(label: &str, n: i64, bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode::record(&mut out, label);
    encode::int(&mut out, n);
    encode::string(&mut out, "producer");
    encode::bytes(&mut out, &vec![b'x'; bytes]);
    encode::end(&mut out);
    out
}

/// `<Says "producer" #x"78...">` with this many bytes.
pub fn says(bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode::record(&mut out, "Says");
    encode::string(&mut out, "producer");
    encode::bytes(&mut out, &vec![b'x'; bytes]);
    encode::end(&mut out);
    out
}

/// A scanner that has scanned these bytes.
///
/// # Panics
/// If they are no value.
pub fn scanned(bytes: &[u8]) -> Scanner {
    let mut scanner = Scanner::new(Limits::default());
    assert!(scanner.scan(bytes).is_ok());
    scanner
}

/// An empty index.
pub fn index() -> Index<Plug> {
    Index::new(Arc::new(AtomicU64::new(1)))
}

/// Subscribes an observer; the Observe as stored.
///
/// # Panics
/// If the pattern is not well-formed.
pub fn observe(index: &Index<Plug>, part: &Part, number: u64, scratch: &mut Scratch) -> Stored<Plug> {
    let bytes = part.observe(number);
    let scanner = scanned(&bytes);
    let value = scanner.view(&bytes);
    let (pattern, _) = Pattern::of_observe(value).expect("a pattern");
    let prepared = index.prepare::<()>(&pattern, number, (), |_| Ok(())).expect("admitted");
    while !index.advance(&prepared, 4096, scratch).expect("nobody counts") {}
    let assert = Action::Assert { value, extra: None, observe: Some((prepared, To(number))) };
    let mut placed = Vec::new();
    index.write().commit(None, &mut [assert], &mut placed, scratch, &mut Stage::default());
    placed.pop().expect("stored")
}

/// Asserts one value; its stored form.
///
/// # Panics
/// Never: one assertion stores one value.
pub fn assert(index: &Index<Plug>, bytes: &[u8], scratch: &mut Scratch, stage: &mut Stage) -> Stored<Plug> {
    let scanner = scanned(bytes);
    let assert = Action::Assert { value: scanner.view(bytes), extra: None, observe: None };
    let mut placed = Vec::with_capacity(1);
    index.read().commit(&mut [assert], &mut placed, scratch, stage);
    placed.pop().expect("stored")
}

/// Retracts one value.
pub fn retract(index: &Index<Plug>, stored: Stored<Plug>, scratch: &mut Scratch, stage: &mut Stage) {
    index.read().commit(&mut [Action::Retract(stored)], &mut Vec::new(), scratch, stage);
}
