//! The atomics of this module: std's, or loom's under `--cfg broker_loom`; and the seam by which its models break it.

#[cfg(not(broker_loom))]
pub(super) use std::sync::atomic::{AtomicU32, Ordering, fence};

#[cfg(broker_loom)]
pub(super) use loom::sync::atomic::{AtomicU32, Ordering, fence};

/// A step that a model leaves out, to show that it would notice. Each names one line of [`state`](super::state) or
/// [`idle`](super::idle).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    /// `TaskState::notify` does not publish.
    NotifyRelaxed,
    /// `TaskState::begin` does not acquire.
    BeginRelaxed,
    /// `TaskState::begin` reads and then overwrites, in two steps.
    BeginInTwoSteps,
    /// `TaskState::finish` does not publish.
    FinishRelaxed,
    /// `TaskState::finish` does not look whether it was notified meanwhile.
    FinishBlindly,
    /// `Idle::claim_wake` has no fence.
    WakeNoFence,
    /// `Idle::fall_asleep` has no fence.
    SleepNoFence,
    /// `Idle::fall_asleep` does not look again.
    SleepNoCheck,
    /// `Idle::take_claim` leaves a searcher counted twice.
    ClaimCountedTwice,
    /// `Idle::end_search` has no fence.
    SearchNoFence,
    /// `Idle::end_search` does not look again.
    SearchNoCheck,
}

/// Whether the running model has asked for this step to be left out; never, in a product build.
#[cfg(not(broker_loom))]
#[inline(always)]
pub(super) const fn is_left_out(_: Mutant) -> bool {
    false
}

#[cfg(broker_loom)]
pub(super) use seam::{is_left_out, leave_out};

#[cfg(broker_loom)]
mod seam {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        // One OS thread runs all of a model's threads, so this is one switch per model and none between tests.
        static LEFT_OUT: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    pub(in super::super) fn is_left_out(step: Mutant) -> bool {
        LEFT_OUT.get() == Some(step)
    }

    /// Leaves `step` out in models that this thread runs from now on.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(in super::super) fn leave_out(step: Option<Mutant>) {
        LEFT_OUT.set(step);
    }
}
