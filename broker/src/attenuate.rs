//! Caveats applied to values in stored form.

use std::collections::HashMap;

use staunch_protocols::caveat::{Caveats, Outcome, Scratch};
use staunch_protocols::wire::{Limits, Progress, Scanner};

use crate::cap::{self, Cap, Caps, stored_id};
use crate::dataspace::Observing;

/// What a rewritten value may take; a caveat that yields more drops the value.
pub(crate) const OUTPUT_BYTES_MAX: u32 = 16 << 20;

/// A session whose turn asks something, and what caveats may still make of the answers to that turn: what they make of
/// its own values is known before it takes effect, this only after.
pub(crate) struct Asker {
    session: u64,
    bytes_left: usize,
}

impl Asker {
    /// What all may come to; the last one that fits may go beyond it.
    pub(crate) const BYTES_MAX: usize = 64 << 20;

    pub(crate) fn new(session: u64) -> Asker {
        Asker { session, bytes_left: Asker::BYTES_MAX }
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
        let (answer, caps) = apply(caveats, answer, caps, &mut stored_scanner())?;
        self.bytes_left = self.bytes_left.saturating_sub(answer.len());
        Some((answer, caps))
    }

    /// How an answer to `to` is named.
    pub(crate) fn observing(&self, to: &Cap) -> Observing {
        Observing { observer: to.id(), session: self.session }
    }
}

/// A scanner for values that came in within the peer's limits and may have grown since.
pub(crate) fn stored_scanner() -> Scanner {
    Scanner::new(Limits { packet_bytes_max: u32::MAX, ..Limits::default() })
}

/// What the caveats let pass of a value: itself, another, or nothing.
pub(crate) fn apply(
    caveats: &Caveats,
    value: Vec<u8>,
    mut caps: Caps,
    scanner: &mut Scanner,
) -> Option<(Vec<u8>, Caps)> {
    scanner.reset();
    let Ok(Progress::Complete(_)) = scanner.scan(&value) else { return None };
    let mut scratch = Scratch::new(OUTPUT_BYTES_MAX);
    let mut made: HashMap<u64, Cap> = HashMap::new();
    let outcome = caveats.apply(scanner.view(&value), &mut scratch, &mut |cap, more| {
        let id = stored_id(cap)?;
        let new = cap::find(&caps, id).or_else(|| made.get(&id))?.attenuate(more);
        let mut bytes = Vec::new();
        new.write_stored(&mut bytes);
        made.insert(new.id(), new);
        Some(bytes)
    });
    match outcome {
        Outcome::Dropped => None,
        Outcome::Unchanged => Some((value, caps)),
        Outcome::Rewritten => {
            caps.extend(made.into_values());
            cap::sort(&mut caps);
            Some((scratch.output().to_vec(), caps))
        }
    }
}
