//! Caveats of observers: they run in the turns of those who send, under the locks that these hold.
//!
//! What they take is bounded for each value (by `caveat::Scratch`), and, for all observers together, for the time that
//! the locks are held. What an author answers for is not counted there: for each value, that each session reads it a few
//! times and does a little more; and for each event, that it is an event. What sessions take over and above, by costly
//! caveats or by many observations, may come to [`EXCESS_MAX`]; then whoever has taken the most is ended, as
//! in `shed`. So an author's turn is held up by others' caveats for a fraction of a millisecond at most, and who
//! observes behind ordinary ones is never ended, however much there is to be told.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::Stage;
use crate::attenuate::{LIGHT_WORK_MAX, Machine, Work};
use crate::cap::{Cap, Caps};
use crate::dataspace::Observing;
use crate::relay::Failure;

/// What all observers' caveats may take while locks are held, beside what their authors answer for, in steps.
const EXCESS_MAX: u64 = 1 << 16;
/// How often each session may read a value.
const READINGS: u64 = 4;
/// What an event costs anyway.
const EVENT_WORK: u64 = 128;
/// Tables that had more entries are not kept.
const KEPT_MAX: usize = 1024;

/// See the module's head.
#[derive(Default)]
pub(super) struct Filter {
    machine: Machine,
    /// By the session that asked to observe.
    shares: HashMap<u64, Share, RandomState>,
    /// What each observation accounts for, by where it is: of one value, each gets one event.
    allowed: HashMap<usize, u64, RandomState>,
    /// The excess of all that have not been ended.
    excess: u64,
}

/// What one session's observations have taken.
#[derive(Default)]
struct Share {
    spent: u64,
    allowed: u64,
    is_ended: bool,
}

impl Share {
    fn excess(&self) -> u64 {
        self.spent.saturating_sub(self.allowed)
    }
}

impl Filter {
    fn has_ended(&self, session: u64) -> bool {
        self.shares.get(&session).is_some_and(|share| share.is_ended)
    }

    /// Counts what one event for an observation took.
    fn count(&mut self, to: &Cap, by: Observing, work: Work) {
        let allowed = self.allowed.entry(std::ptr::from_ref(to).addr()).or_default();
        *allowed += LIGHT_WORK_MAX + READINGS * work.reading;
        let share = self.shares.entry(by.session).or_default();
        let before = share.excess();
        share.allowed = share.allowed.max(*allowed);
        share.spent += work.steps.saturating_sub(EVENT_WORK);
        self.excess = self.excess + share.excess() - before;
    }

    /// The session with the largest excess, if all together have too much. What it took is done with.
    fn end_one(&mut self) -> Option<u64> {
        if self.excess <= EXCESS_MAX {
            return None;
        }
        let going_on = self.shares.iter_mut().filter(|(_, share)| !share.is_ended);
        let (session, share) = going_on.max_by_key(|(_, share)| share.excess())?;
        share.is_ended = true;
        self.excess -= share.excess();
        Some(*session)
    }

    /// The locks are let go of: what was taken has been taken.
    pub(super) fn settle(&mut self) {
        if self.shares.is_empty() {
            return;
        }
        self.excess = 0;
        self.shares.clear();
        self.allowed.clear();
        if self.allowed.capacity() > KEPT_MAX {
            (self.shares, self.allowed) = Default::default();
        }
    }
}

impl Stage {
    /// Passes a value through the caveats of an observer.
    pub(super) fn filter(
        &mut self,
        to: &Cap,
        by: Observing,
        value: Vec<u8>,
        caps: Caps,
    ) -> Option<(Vec<u8>, Caps)> {
        if to.caveats().is_none() {
            return Some((value, caps));
        }
        if self.filter.has_ended(by.session) {
            return None;
        }
        let (passed, work) = self.filter_uncounted(to, value, caps);
        self.filter.count(to, by, work);
        while let Some(session) = self.filter.end_one() {
            self.ends.push((session, Failure::CostlyCaveats));
        }
        passed
    }

    /// Whether the caveats of an observer have let a value pass that is retracted now. What is not looked into has
    /// perhaps: nobody minds a retraction of what is not there, but one that is missing.
    pub(super) fn has_passed(&mut self, to: &Cap, by: Observing, value: Vec<u8>, caps: Caps) -> bool {
        self.filter.has_ended(by.session) || self.filter(to, by, value, caps).is_some()
    }

    /// The same on the time of whoever asked for it, who counts the work.
    pub(super) fn filter_uncounted(
        &mut self,
        to: &Cap,
        value: Vec<u8>,
        caps: Caps,
    ) -> (Option<(Vec<u8>, Caps)>, Work) {
        match to.caveats() {
            None => (Some((value, caps)), Work::default()),
            Some(caveats) => self.filter.machine.apply(caveats, value, caps),
        }
    }
}
