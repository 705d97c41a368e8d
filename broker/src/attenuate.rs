//! Caveats applied to values in stored form.

use std::collections::HashMap;

use staunch_protocols::caveat::{self, Caveats, Outcome, Scratch};
use staunch_protocols::wire::{Limits, Progress, Scanner};

use crate::cap::{self, Cap, Caps, stored_id};
use crate::dataspace::Observing;
use crate::relay::Session;

/// What a rewritten value may take; a caveat that yields more drops the value.
pub(crate) const OUTPUT_BYTES_MAX: u32 = 16 << 20;
/// What takes no more steps than this is no work to speak of: some microseconds.
pub(crate) const LIGHT_WORK_MAX: u64 = 1024;
/// What it takes to begin, in steps.
const BEGINNING: u64 = 16;
/// What a step counts as, where bytes are counted: it takes as long as to copy so many.
const BYTES_PER_STEP: usize = 16;
/// What was longer leaves no memory behind.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// A session whose turn asks something, and what caveats may still make of the answers to that turn: what they make of
/// its own values is known before it takes effect, this only after.
pub(crate) struct Asker {
    session: u64,
    principal: u64,
    bytes_left: usize,
    machine: Machine,
}

impl Asker {
    /// What all may come to; the last one that fits may go beyond it.
    pub(crate) const BYTES_MAX: usize = 64 << 20;

    pub(crate) fn new(session: &Session) -> Asker {
        let (session, principal) = (session.id(), session.holdings().number());
        Asker { session, principal, bytes_left: Asker::BYTES_MAX, machine: Machine::default() }
    }

    /// Whose turn it is.
    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// Whether answers may be missing.
    pub(crate) fn has_spent_all(&self) -> bool {
        self.bytes_left == 0
    }

    /// What passes of an answer to `to`.
    pub(crate) fn pass(&mut self, to: &Cap, answer: Vec<u8>, caps: Caps) -> Option<(Vec<u8>, Caps)> {
        let Some(caveats) = to.caveats() else { return Some((answer, caps)) };
        if self.has_spent_all() {
            return None;
        }
        let (passed, work) = self.machine.apply(caveats, answer, caps);
        let bytes = passed.as_ref().map_or(0, |(answer, _)| answer.len());
        self.bytes_left = self.bytes_left.saturating_sub(bytes + BYTES_PER_STEP * work.steps as usize);
        passed
    }

    /// How an answer to `to` is named.
    pub(crate) fn observing(&self, to: &Cap) -> Observing {
        Observing { observer: to.id(), session: self.session, principal: self.principal }
    }
}

/// A scanner for values that came in within the peer's limits and may have grown since.
pub(crate) fn stored_scanner() -> Scanner {
    Scanner::new(Limits { packet_bytes_max: u32::MAX, ..Limits::default() })
}

/// What caveats work in, reusable.
pub(crate) struct Machine {
    scanner: Scanner,
    scratch: Scratch,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine { scanner: stored_scanner(), scratch: Scratch::new(OUTPUT_BYTES_MAX) }
    }
}

/// What passing a value through caveats took, in steps of their machine: see [`caveat::reading`].
#[derive(Clone, Copy, Default)]
pub(crate) struct Work {
    /// To read it once.
    pub(crate) reading: u64,
    /// All.
    pub(crate) steps: u64,
}

impl Machine {
    /// What the caveats let pass of a value: itself, another, or nothing.
    pub(crate) fn apply(
        &mut self,
        caveats: &Caveats,
        value: Vec<u8>,
        mut caps: Caps,
    ) -> (Option<(Vec<u8>, Caps)>, Work) {
        let Machine { scanner, scratch } = self;
        scanner.reset();
        let Ok(Progress::Complete(_)) = scanner.scan(&value) else { return (None, Work::default()) };
        let view = scanner.view(&value);
        let mut made: HashMap<u64, Cap> = HashMap::new();
        let outcome = caveats.apply(view, scratch, &mut |cap, more| {
            let id = stored_id(cap)?;
            let new = cap::find(&caps, id).or_else(|| made.get(&id))?.attenuate(more).ok()?;
            let mut bytes = Vec::new();
            new.write_stored(&mut bytes);
            made.insert(new.id(), new);
            Some(bytes)
        });
        let reading = caveat::reading(view);
        let work = Work { reading, steps: BEGINNING + reading + scratch.work() };
        let bytes = value.len().max(scratch.output().len());
        let passed = match outcome {
            Outcome::Dropped => None,
            Outcome::Unchanged => Some((value, caps)),
            Outcome::Rewritten => {
                caps.extend(made.into_values());
                cap::sort(&mut caps);
                Some((scratch.output().to_vec(), caps))
            }
        };
        if bytes > KEPT_BYTES_MAX {
            scanner.reset();
            scanner.shrink();
            scratch.shrink();
        }
        (passed, work)
    }
}
