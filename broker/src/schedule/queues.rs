//! A worker's queues: one for tasks, one for pieces of work.
//!
//! A wide fan-out makes dozens of pieces at once, and whoever sends a single message must not wait behind those: tasks
//! go first. Both queues are first in, first out, and both are stolen from.
//!
//! (Tasks that are only to write on are not put behind others: they make the room that senders wait for, and 1->10 took 8%
//! more processor time with them there, in another go a third more.)

use std::cell::Cell;

use crossbeam::deque::{Steal, Stealer, Worker};

use super::task::Unit;

/// After so many tasks a piece of work has its turn.
const TASKS_MAX: u32 = 8;

/// A worker's end of its queues.
pub(super) struct Queues<L: 'static> {
    tasks: Worker<Unit<L>>,
    jobs: Worker<Unit<L>>,
    /// How many tasks have been taken since a piece of work was.
    streak: Cell<u32>,
}

/// What others have of them.
pub(super) struct Stealers<L: 'static> {
    tasks: Stealer<Unit<L>>,
    jobs: Stealer<Unit<L>>,
}

impl<L: 'static> Queues<L> {
    pub(super) fn new() -> Queues<L> {
        Queues { tasks: Worker::new_fifo(), jobs: Worker::new_fifo(), streak: Cell::new(0) }
    }

    pub(super) fn stealers(&self) -> Stealers<L> {
        Stealers { tasks: self.tasks.stealer(), jobs: self.jobs.stealer() }
    }

    #[inline]
    pub(super) fn push(&self, unit: Unit<L>) {
        match unit {
            Unit::Task(_) => self.tasks.push(unit),
            Unit::Job(_) => self.jobs.push(unit),
        }
    }

    /// The next unit to run.
    #[inline]
    pub(super) fn pop(&self) -> Option<Unit<L>> {
        let streak = self.streak.get();
        if streak < TASKS_MAX
            && let Some(unit) = self.tasks.pop()
        {
            self.streak.set(streak + 1);
            return Some(unit);
        }
        self.streak.set(0);
        self.jobs.pop().or_else(|| self.tasks.pop())
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len() + self.jobs.len()
    }

    /// Where what other threads have enqueued goes, of either kind.
    pub(super) fn tasks(&self) -> &Worker<Unit<L>> {
        &self.tasks
    }
}

impl<L: 'static> Stealers<L> {
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.jobs.is_empty()
    }

    /// Takes some units for a worker, and one of them to be run: tasks, if there are any.
    pub(super) fn steal_to(&self, queues: &Queues<L>) -> Steal<Unit<L>> {
        match self.tasks.steal_batch_and_pop(&queues.tasks) {
            Steal::Empty => self.jobs.steal_batch_and_pop(&queues.jobs),
            other => other,
        }
    }
}
