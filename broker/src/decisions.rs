//! What the broker has decided about slow consumers: counts, and a record of the last ones.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use staunch_flowctl::Account;

/// So many decisions are kept, the last ones.
const KEPT_MAX: usize = 256;

/// A decision about a consumer that is slow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// From 1, in the order in which they were made: who reads them now and then tells by it which are new.
    pub number: u64,
    /// When it was made.
    pub at: SystemTime,
    /// The connection.
    pub connection: String,
    /// Who answers for it.
    pub principal: String,
    /// What was decided.
    pub kind: DecisionKind,
    /// How many bytes had waited for too long: for it to read them, or for it to report them.
    pub bytes: u64,
}

/// What was decided about a slow consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecisionKind {
    /// To end it.
    Disconnected,
    /// To tell it what is newest from now on, whenever much waits; noted once for each connection.
    KeepsLatest,
    /// To wait no longer for its reports of turns (`credit-flow-control`).
    CreditLapsed,
}

/// How many decisions have been made so far, and what they came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DecisionCounts {
    /// Connections ended.
    pub disconnected: u64,
    /// Connections that were told what is newest.
    pub keep_latest: u64,
    /// Connections whose reports are no longer waited for.
    pub credit_lapsed: u64,
    /// Events that were not sent since others had made them void: assertions and their retractions.
    pub cancelled_events: u64,
    /// Messages that were not sent.
    pub dropped_messages: u64,
}

/// See the module's head. Relaxed throughout: counters alone, nothing is published by them.
#[derive(Default)]
pub(crate) struct Decisions {
    disconnected: AtomicU64,
    keep_latest: AtomicU64,
    credit_lapsed: AtomicU64,
    cancelled_events: AtomicU64,
    dropped_messages: AtomicU64,
    last: Mutex<VecDeque<Decision>>,
}

impl Decisions {
    /// Counts and keeps one.
    pub(crate) fn note(&self, account: &Account, kind: DecisionKind, bytes: u64) {
        let counter = match kind {
            DecisionKind::Disconnected => &self.disconnected,
            DecisionKind::KeepsLatest => &self.keep_latest,
            DecisionKind::CreditLapsed => &self.credit_lapsed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let (connection, principal) = (account.name().to_owned(), account.principal().name().to_owned());
        let mut last = self.last.lock();
        if last.len() == KEPT_MAX {
            last.pop_front();
        }
        let number = last.back().map_or(0, |decision| decision.number) + 1;
        last.push_back(Decision { number, at: SystemTime::now(), connection, principal, kind, bytes });
    }

    /// So many events of a consumer's that is told what is newest have not been sent.
    pub(crate) fn count_unsent(&self, cancelled_events: u64, dropped_messages: u64) {
        self.cancelled_events.fetch_add(cancelled_events, Ordering::Relaxed);
        self.dropped_messages.fetch_add(dropped_messages, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> DecisionCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DecisionCounts {
            disconnected: read(&self.disconnected),
            keep_latest: read(&self.keep_latest),
            credit_lapsed: read(&self.credit_lapsed),
            cancelled_events: read(&self.cancelled_events),
            dropped_messages: read(&self.dropped_messages),
        }
    }

    pub(crate) fn last(&self) -> Vec<Decision> {
        self.last.lock().iter().cloned().collect()
    }
}
