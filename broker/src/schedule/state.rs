//! What a task is to be told, and whether it is queued or running: one word per task.
//!
//! ```text
//!              notify                begin                 finish, nothing new
//!   idle ----------------> QUEUED ------------> RUNNING -----------------------> idle
//!                            ^                   |    ^
//!                            |                   |    | notify: also QUEUED
//!                            +-------------------+----+
//!                              finish, QUEUED: requeue
//! ```
//!
//! - *idle*: no flag, nothing pending. Whoever notifies it must enqueue it.
//! - *QUEUED*: it is in one queue, or in the hands of a worker that is about to run it. A notification adds its bits.
//! - *RUNNING*: one worker is in `run`. A notification adds its bits and QUEUED; the worker requeues it at the end.
//!
//! So of all who notify between two runs exactly one enqueues, and only the worker in `run` ends it: a task is in at
//! most one queue and never runs twice at once.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

use super::sync::{AtomicU32, Mutant, Ordering, is_left_out};

/// Why a task is run: a set of bits. All that came since the last run began are told together.
///
/// Shape: 4 bytes, of which the 30 low bits may be used. It says *that* something happened, not how often or in which
/// order.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Ready(u32);

const QUEUED: u32 = 1 << 31;
const RUNNING: u32 = 1 << 30;
const BITS: u32 = RUNNING - 1;

impl Ready {
    /// Nothing.
    pub const NONE: Ready = Ready(0);
    /// The descriptor has become readable, or its end was reached.
    pub const READABLE: Ready = Ready(1);
    /// The descriptor has become writable. Often set along with [`READABLE`](Self::READABLE): the kernel tells all
    /// that is so when it tells one.
    pub const WRITABLE: Ready = Ready(1 << 1);
    /// The peer has ended its side, or the connection is broken. What it wrote before can still be read.
    pub const HANGUP: Ready = Ready(1 << 2);
    /// A [`Waker`](std::task::Waker) made by [`Scheduler::waker`](super::Scheduler::waker) was woken.
    pub const WAKE: Ready = Ready(1 << 3);
    /// Free for the task's own use; see [`user`](Self::user) for more.
    pub const USER1: Ready = Ready::user(1);
    /// Free for the task's own use.
    pub const USER2: Ready = Ready::user(2);
    /// Free for the task's own use.
    pub const USER3: Ready = Ready::user(3);
    /// Free for the task's own use.
    pub const USER4: Ready = Ready::user(4);

    /// The free bit number `n`.
    ///
    /// # Panics
    /// Unless `n` is 1 to 26.
    pub const fn user(n: u32) -> Ready {
        assert!(n >= 1 && n <= 26);
        Ready(1 << (3 + n))
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Ready) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in this set.
    pub const fn intersects(self, other: Ready) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether nothing is in this set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both sets together.
    pub const fn union(self, other: Ready) -> Ready {
        Ready(self.0 | other.0)
    }

    /// This set without what is in `other`.
    pub const fn without(self, other: Ready) -> Ready {
        Ready(self.0 & !other.0)
    }
}

impl BitOr for Ready {
    type Output = Ready;
    fn bitor(self, other: Ready) -> Ready {
        self.union(other)
    }
}

impl BitOrAssign for Ready {
    fn bitor_assign(&mut self, other: Ready) {
        *self = self.union(other);
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = f.debug_set();
        for (bit, name) in [(0, "READABLE"), (1, "WRITABLE"), (2, "HANGUP"), (3, "WAKE")] {
            if self.0 & 1 << bit != 0 {
                names.entry(&format_args!("{name}"));
            }
        }
        for n in (1..=26).filter(|&n| self.contains(Ready::user(n))) {
            names.entry(&format_args!("USER{n}"));
        }
        names.finish()
    }
}

/// A task's place in the scheduler: what is pending for it, and whether it is queued or running.
///
/// Shape: 4 bytes, embedded in the task, which lends it by [`Task::state`](super::Task::state).
///
/// **Invariant:** pending bits without QUEUED do not exist; RUNNING is set by `begin` and cleared by `finish` alone.
#[derive(Default)]
pub struct TaskState {
    /// Pending [`Ready`] bits, QUEUED and RUNNING. Written by whoever notifies and by the worker that runs the task;
    /// read by the same. Orders: what a notifier did before it notified is seen by the run that is told of it, and
    /// what a run did is seen by the next run. Bits only, so nothing wraps.
    word: AtomicU32,
}

impl TaskState {
    /// Of a task that is idle and has nothing pending.
    pub fn new() -> TaskState {
        TaskState { word: AtomicU32::new(0) }
    }

    /// Adds `ready`; true when the caller must now enqueue the task (exactly once).
    #[inline]
    pub(super) fn notify(&self, ready: Ready) -> bool {
        // Release: pairs with the Acquire in begin(), publishes what the notifier did. It must be a write even when
        // the bits are there already: a run that begins after it has to see what happened before it.
        let ordering = if is_left_out(Mutant::NotifyRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        let before = self.word.fetch_or(ready.0 | QUEUED, ordering);
        before & (QUEUED | RUNNING) == 0
    }

    /// Takes a queued task to running, and what was pending for it.
    ///
    /// # Panics
    /// When it is not queued or runs already: a bug in this module.
    #[inline]
    pub(super) fn begin(&self) -> Ready {
        // Acquire: pairs with the Release in notify() and in finish(). The word read may be the last notifier's, but
        // all changes since the last finish() were read-modify-writes, so it belongs to the release sequence of each.
        let ordering = if is_left_out(Mutant::BeginRelaxed) { Ordering::Relaxed } else { Ordering::Acquire };
        let before = if is_left_out(Mutant::BeginInTwoSteps) {
            let before = self.word.load(ordering);
            self.word.store(RUNNING, Ordering::Relaxed);
            before
        } else {
            self.word.swap(RUNNING, ordering)
        };
        assert_eq!(before & (QUEUED | RUNNING), QUEUED, "a task must be queued, and once, to be run");
        Ready(before & BITS)
    }

    /// Ends a run. `again` asks for another, to be told so; so does any notification since [`begin`](Self::begin).
    /// True when the caller must enqueue the task.
    ///
    /// # Panics
    /// When it is not running: a bug in this module.
    #[inline]
    pub(super) fn finish(&self, again: Option<Ready>) -> bool {
        if is_left_out(Mutant::FinishBlindly) {
            self.word.store(0, Ordering::Release);
            return false;
        }
        // Release: pairs with the Acquire in begin(), publishes what this run did to the next.
        let ordering = if is_left_out(Mutant::FinishRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        // Relaxed: a guess for the exchange below, which checks it.
        let mut before = self.word.load(Ordering::Relaxed);
        loop {
            assert!(before & RUNNING != 0, "a task must be running to finish");
            let after = before & !RUNNING | again.map_or(0, |ready| ready.0 | QUEUED);
            // Relaxed on failure: only the word itself is used.
            match self.word.compare_exchange_weak(before, after, ordering, Ordering::Relaxed) {
                Ok(_) => return after & QUEUED != 0,
                Err(found) => before = found,
            }
        }
    }

    /// Whether nothing is pending and the task neither waits in a queue nor runs. True may be old news by the time it
    /// is looked at.
    pub fn is_idle(&self) -> bool {
        // Relaxed: advice only, nothing is read on its strength.
        self.word.load(Ordering::Relaxed) == 0
    }
}

impl fmt::Debug for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: for people.
        let word = self.word.load(Ordering::Relaxed);
        f.debug_struct("TaskState")
            .field("pending", &Ready(word & BITS))
            .field("is_queued", &(word & QUEUED != 0))
            .field("is_running", &(word & RUNNING != 0))
            .finish()
    }
}

#[cfg(all(test, not(broker_loom)))]
mod tests {
    use super::*;

    #[test]
    fn sets_behave_as_sets() {
        let both = Ready::READABLE | Ready::USER2;
        assert!(both.contains(Ready::USER2) && both.intersects(Ready::READABLE | Ready::WAKE));
        assert!(!both.contains(Ready::READABLE | Ready::WAKE) && !both.intersects(Ready::WAKE));
        assert_eq!(both.without(Ready::USER2), Ready::READABLE);
        assert_eq!(format!("{both:?}"), "{READABLE, USER2}");
        assert!(Ready::user(26).0 & BITS != 0 && Ready::NONE.is_empty());
    }

    #[test]
    fn one_notifier_enqueues_and_all_bits_arrive() {
        let state = TaskState::new();
        assert!(state.is_idle());
        assert!(state.notify(Ready::READABLE));
        assert!(!state.notify(Ready::WAKE));
        assert_eq!(state.begin(), Ready::READABLE | Ready::WAKE);
        assert!(!state.notify(Ready::USER1), "the runner requeues");
        assert!(state.finish(None));
        assert_eq!(state.begin(), Ready::USER1);
        assert!(state.finish(Some(Ready::READABLE)));
        assert_eq!(state.begin(), Ready::READABLE);
        assert!(!state.finish(None));
        assert!(state.is_idle());
    }

    #[test]
    fn a_bare_notification_runs_too() {
        let state = TaskState::new();
        assert!(state.notify(Ready::NONE));
        assert!(state.begin().is_empty());
        assert!(!state.notify(Ready::NONE));
        assert!(state.finish(None));
    }

    #[test]
    #[should_panic(expected = "must be queued")]
    fn an_idle_task_cannot_be_run() {
        TaskState::new().begin();
    }
}
