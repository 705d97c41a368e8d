//! How an outbox stands: for whoever sees to it that its peer's policy is followed.

use std::time::Duration;

use super::latest::LOOKED_THROUGH_MIN;
use super::{Outbox, Phase, State};
use crate::slow::Slow;

/// What is done if the peer is slow, where that is anything.
pub(super) struct Plan {
    pub(super) policy: Slow,
    /// The length from which what waits is looked through for what has become void; and what had been appended when that
    /// was done last. See [`super::latest`].
    pub(super) cut_at: u64,
    pub(super) cut_appended: u64,
    /// Something has been found void before.
    pub(super) has_cut: bool,
}

impl Plan {
    pub(super) fn of(policy: Slow) -> Option<Box<Plan>> {
        let cut_at = match policy {
            Slow::Throttle => return None,
            Slow::Disconnect { .. } => u64::MAX,
            Slow::Latest { .. } => LOOKED_THROUGH_MIN,
        };
        Some(Box::new(Plan { policy, cut_at, cut_appended: 0, has_cut: false }))
    }

    /// Whether what waits is so long that it is to be looked through.
    pub(super) fn wants_cut(&self, state: &State) -> bool {
        state.debts.total_bytes() > self.cut_at && (state.is_blocked || state.is_held())
    }
}

/// What waits in an outbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) policy: Slow,
    /// Bytes appended so far (it wraps).
    pub(crate) appended: u64,
    /// Bytes that wait, large bodies in full.
    pub(crate) bytes: u64,
    /// Turns written and reported, if some have not been reported, and how long that may take.
    pub(crate) unreported: Option<(u64, u64, Duration)>,
    /// Bytes appended since it was last looked through for what has become void.
    pub(crate) uncut_bytes: u64,
}

impl Outbox {
    /// What is done from now on if the peer is slow.
    pub(crate) fn set_policy(&self, policy: Slow) {
        self.state.lock().plan = Plan::of(policy);
    }

    pub(crate) fn waiting(&self) -> Waiting {
        self.state.lock().waiting()
    }

    /// As [`Outbox::waiting`], for who watches it. `None`, and it is not watched any more, if nothing waits.
    pub(crate) fn look(&self) -> Option<Waiting> {
        let mut state = self.state.lock();
        // Not only while the kernel takes no more: who takes a little now and then is watched all along.
        let waiting = state.waiting();
        let is_waiting = !state.debts.is_empty() && state.plan.is_some();
        state.is_watched &= state.phase == Phase::Open && (is_waiting || waiting.unreported.is_some());
        state.is_watched.then_some(waiting)
    }
}

impl State {
    /// Whether it is to be watched, and was not yet.
    pub(super) fn begin_watch(&mut self) -> bool {
        self.plan.is_some() && !std::mem::replace(&mut self.is_watched, true)
    }

    pub(super) fn policy(&self) -> Slow {
        self.plan.as_ref().map_or(Slow::Throttle, |plan| plan.policy)
    }

    fn waiting(&self) -> Waiting {
        Waiting {
            policy: self.policy(),
            appended: self.appended,
            bytes: self.debts.total_bytes(),
            unreported: self.window.as_ref().and_then(|window| window.unreported()),
            uncut_bytes: self.appended.wrapping_sub(self.plan.as_ref().map_or(0, |plan| plan.cut_appended)),
        }
    }
}
