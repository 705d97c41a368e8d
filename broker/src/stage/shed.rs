//! The bound on what a worker stages: what is not in any outbox yet, no outbox's ceiling bounds.
//!
//! A turn is staged whole before it is published, and observers may multiply it: many observations of one session by
//! one turn. When more has been staged than one turn may come to (a turn that would come to more though each session got
//! it once has been refused before, see `relay/weigh`), the largest shares are dropped, and their sessions end.

use super::{Slot, Stage};
use crate::outbox::Segment;
use crate::relay::Failure;

/// Memory is looked at again when a fraction of the bound has come to it.
const STEPS: u64 = 16;

impl Stage {
    /// Drops the largest shares, as far as too much is held.
    #[cold]
    pub(super) fn shed(&mut self) {
        let max = self.fan_out_max;
        let mut held = self.fan_outs.bytes() as u64;
        let mut shares: Vec<(u64, usize)> = self.slots.iter().map(Slot::bytes).zip(0..).collect();
        held += shares.iter().map(|(bytes, _)| bytes).sum::<u64>();
        shares.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        for (bytes, at) in shares {
            if held <= max {
                break;
            }
            let slot = &mut self.slots[at];
            self.cost -= slot.shed(max);
            held -= bytes;
        }
        self.shed_at = self.cost + self.shared_cost + max.saturating_sub(held).max(max / STEPS);
    }
}

impl Slot {
    /// What it holds alone, roughly.
    fn bytes(&self) -> u64 {
        let segments = self.segments.iter().map(|segment| match segment {
            Segment::Inline(bytes) => bytes.len(),
            Segment::Shared(body) => body.bytes().len() / std::sync::Arc::strong_count(body),
            Segment::Batch(_) | Segment::Replay(_) => 0,
        });
        let places = self.segments.len() * size_of::<Segment>();
        (self.buffer.len() + segments.sum::<usize>() + places) as u64
    }

    /// Drops all, and has the session end: it shall get nothing that comes after it either. Returns the cost.
    fn shed(&mut self, max: u64) -> u64 {
        self.session.outbox().take_no_more();
        self.session.end_soon(Failure::Multiplied(max));
        self.segments = Vec::new();
        self.buffer = Vec::new();
        self.turn = 0;
        self.is_shed = true;
        std::mem::take(&mut self.cost)
    }
}
