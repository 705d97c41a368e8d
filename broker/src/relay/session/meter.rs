//! What a session has done so far, and whether it is held back: for the ledger, and for metrics.
//!
//! Written by whichever worker runs the session, one at a time, once per run; read by anybody. So a store does for an
//! addition, and nothing here costs a locked instruction. Relaxed throughout: nothing is published by it, and two
//! numbers read together need not agree.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// See the module's head.
#[derive(Default)]
pub(crate) struct Meter {
    read_bytes: AtomicU64,
    turns: AtomicU64,
    deliveries: AtomicU64,
    /// For how long it has been held back, not counting since when it is now.
    throttled_ns: AtomicU64,
    /// Since when it is held back, by the scheduler's clock; 0 for not at all.
    throttled_since_ns: AtomicU64,
    /// Why: a [`Cause`].
    cause: AtomicU8,
}

/// Why a session is not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// It owes more than it may.
    Debt,
    /// What waits for somebody else because of it is above the ceiling.
    Room,
    /// What its principal left owing is too much.
    Principal,
}

/// Since when a session is held back, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Throttle {
    /// By the scheduler's clock.
    pub(crate) since_ns: u64,
    pub(crate) cause: Cause,
}

/// What has been done so far.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Done {
    pub(crate) read_bytes: u64,
    pub(crate) turns: u64,
    pub(crate) deliveries: u64,
    pub(crate) throttled_ns: u64,
}

impl Meter {
    /// Adds what a run has come to. Only for whoever runs the session.
    pub(super) fn add(&self, read_bytes: u64, turns: u64, deliveries: u64) {
        add(&self.read_bytes, read_bytes);
        add(&self.turns, turns);
        add(&self.deliveries, deliveries);
    }

    /// It is held back from now on. Only for whoever runs the session.
    pub(super) fn begin_throttle(&self, now_ns: u64, cause: Cause) {
        self.cause.store(cause as u8, Relaxed);
        self.throttled_since_ns.store(now_ns.max(1), Relaxed);
    }

    /// It goes on: returns for how long it was held back. Only for whoever runs the session.
    pub(super) fn end_throttle(&self, now_ns: u64) -> u64 {
        let since_ns = self.throttled_since_ns.load(Relaxed);
        self.throttled_since_ns.store(0, Relaxed);
        let span_ns = if since_ns == 0 { 0 } else { now_ns.saturating_sub(since_ns) };
        add(&self.throttled_ns, span_ns);
        span_ns
    }

    /// Whether it is held back.
    pub(crate) fn throttle(&self) -> Option<Throttle> {
        let since_ns = self.throttled_since_ns.load(Relaxed);
        let cause = match self.cause.load(Relaxed) {
            cause if cause == Cause::Debt as u8 => Cause::Debt,
            cause if cause == Cause::Room as u8 => Cause::Room,
            _ => Cause::Principal,
        };
        (since_ns != 0).then_some(Throttle { since_ns, cause })
    }

    pub(crate) fn done(&self) -> Done {
        Done {
            read_bytes: self.read_bytes.load(Relaxed),
            turns: self.turns.load(Relaxed),
            deliveries: self.deliveries.load(Relaxed),
            throttled_ns: self.throttled_ns.load(Relaxed),
        }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    if n > 0 {
        counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
    }
}
