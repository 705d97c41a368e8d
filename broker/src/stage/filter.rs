//! Caveats of observers: they run in the turns of those who send, under the locks that these hold.
//!
//! What they take is bounded for each value (by `caveat::Scratch`), and, for all observers together, for the time that
//! the locks are held. What an author answers for is not counted there: for each value, that each session reads it a few
//! times and does a little more; and for each event, that it is an event. What sessions take over and above, by costly
//! caveats or by many observations, may come to [`EXCESS_MAX`]; then whoever has taken the most is ended, as
//! in `shed`. The sessions of one principal, each of which takes a little, are bounded together likewise: what they take
//! beside events and readings may come to [`CROWD_WORK`] for each value, and [`EXCESS_MAX`]; then those that have taken most
//! are ended. So an author's turn is held up by others' caveats for a fraction of a millisecond at most, and who observes
//! behind ordinary ones is never ended, however much there is to be told.

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
/// For each value, all sessions of one principal may take so much together beside what events and readings cost.
const CROWD_WORK: u64 = 16 * LIGHT_WORK_MAX;
/// Tables that had more entries are not kept.
const KEPT_MAX: usize = 1024;

/// See the module's head.
#[derive(Default)]
pub(super) struct Filter {
    machine: Machine,
    /// By the session that asked to observe.
    shares: HashMap<u64, Share, RandomState>,
    /// By that session's principal.
    crowds: HashMap<u64, Crowd, RandomState>,
    /// What each observation accounts for, by where it is: of one value, each gets one event.
    allowed: HashMap<usize, Allowed, RandomState>,
    /// The excess of all that have not been ended.
    excess: u64,
}

/// What one observation accounts for.
#[derive(Default)]
struct Allowed {
    events: u64,
    steps: u64,
}

/// What one session's observations have taken.
#[derive(Default)]
struct Share {
    spent: u64,
    allowed: u64,
    /// What of it is neither for events nor for readings.
    own: u64,
    principal: u64,
    is_ended: bool,
}

impl Share {
    fn excess(&self) -> u64 {
        self.spent.saturating_sub(self.allowed)
    }
}

/// The same of all sessions of one principal that have not been ended.
#[derive(Default)]
struct Crowd {
    own: u64,
    /// As many as there have been values.
    values: u64,
}

impl Filter {
    fn has_ended(&self, session: u64) -> bool {
        self.shares.get(&session).is_some_and(|share| share.is_ended)
    }

    /// Counts what one event for an observation took. Returns whom that was too much of.
    fn count(&mut self, to: &Cap, by: Observing, work: Work) -> Vec<u64> {
        let allowed = self.allowed.entry(std::ptr::from_ref(to).addr()).or_default();
        allowed.events += 1;
        allowed.steps += LIGHT_WORK_MAX + READINGS * work.reading;
        let share = self.shares.entry(by.session).or_default();
        let before = share.excess();
        share.principal = by.principal;
        share.allowed = share.allowed.max(allowed.steps);
        let spent = work.steps.saturating_sub(EVENT_WORK);
        share.spent += spent;
        self.excess = self.excess + share.excess() - before;
        let crowd = self.crowds.entry(by.principal).or_default();
        crowd.values = crowd.values.max(allowed.events);
        let own = spent.saturating_sub(READINGS * work.reading);
        share.own += own;
        crowd.own += own;
        let mut ended = Vec::new();
        if crowd.own > crowd.values * CROWD_WORK + EXCESS_MAX {
            let left_max = crowd.values * CROWD_WORK + EXCESS_MAX / 2;
            self.end_some(by.principal, left_max, &mut ended);
        }
        while self.excess > EXCESS_MAX {
            let going_on = self.shares.iter().filter(|(_, share)| !share.is_ended);
            let Some((session, _)) = going_on.max_by_key(|(_, share)| share.excess()) else { break };
            ended.push(*session);
            self.end(*session);
        }
        ended
    }

    /// Ends sessions of one principal, those that have taken most first, until what the others have taken is no more
    /// than this.
    #[cold]
    fn end_some(&mut self, principal: u64, left_max: u64, ended: &mut Vec<u64>) {
        let going_on =
            self.shares.iter().filter(|(_, share)| share.principal == principal && !share.is_ended);
        let mut shares: Vec<(u64, u64)> = going_on.map(|(session, share)| (share.own, *session)).collect();
        shares.sort_unstable_by_key(|(own, _)| std::cmp::Reverse(*own));
        for (_, session) in shares {
            if self.crowds.get(&principal).is_none_or(|crowd| crowd.own <= left_max) {
                break;
            }
            self.end(session);
            ended.push(session);
        }
    }

    /// What a session took is done with.
    fn end(&mut self, session: u64) {
        let Some(share) = self.shares.get_mut(&session) else { return };
        share.is_ended = true;
        self.excess -= share.excess();
        if let Some(crowd) = self.crowds.get_mut(&share.principal) {
            crowd.own -= share.own;
        }
    }

    /// The locks are let go of: what was taken has been taken.
    pub(super) fn settle(&mut self) {
        if self.shares.is_empty() {
            return;
        }
        self.excess = 0;
        self.shares.clear();
        self.crowds.clear();
        self.allowed.clear();
        if self.allowed.capacity() > KEPT_MAX {
            (self.shares, self.crowds, self.allowed) = Default::default();
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
        for session in self.filter.count(to, by, work) {
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
