//! A worker's queues: one for what is prompt, one for what is patient.
//!
//! Prompt are tasks that somebody's input waits in. Patient are pieces of work and tasks that are only to write on: a
//! wide fan-out makes hundreds of them at once, and whoever sends a single message must not wait behind those. Both are
//! first in, first out, and both are stolen from.

use std::cell::Cell;

use crossbeam::deque::{Steal, Stealer, Worker};

use super::task::Unit;

/// After so many prompt units a patient one has its turn.
const PROMPT_MAX: u32 = 8;

/// Whether a unit gives way to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    Prompt,
    Patient,
}

/// A worker's end of its queues.
pub(super) struct Queues<L: 'static> {
    prompt: Worker<Unit<L>>,
    patient: Worker<Unit<L>>,
    /// How many prompt units have been taken since a patient one was.
    streak: Cell<u32>,
}

/// What others have of them.
pub(super) struct Stealers<L: 'static> {
    prompt: Stealer<Unit<L>>,
    patient: Stealer<Unit<L>>,
}

impl<L: 'static> Queues<L> {
    pub(super) fn new() -> Queues<L> {
        Queues { prompt: Worker::new_fifo(), patient: Worker::new_fifo(), streak: Cell::new(0) }
    }

    pub(super) fn stealers(&self) -> Stealers<L> {
        Stealers { prompt: self.prompt.stealer(), patient: self.patient.stealer() }
    }

    #[inline]
    pub(super) fn push(&self, unit: Unit<L>, patience: Patience) {
        match patience {
            Patience::Prompt => self.prompt.push(unit),
            Patience::Patient => self.patient.push(unit),
        }
    }

    /// The next unit to run.
    #[inline]
    pub(super) fn pop(&self) -> Option<Unit<L>> {
        let streak = self.streak.get();
        if streak < PROMPT_MAX
            && let Some(unit) = self.prompt.pop()
        {
            self.streak.set(streak + 1);
            return Some(unit);
        }
        self.streak.set(0);
        self.patient.pop().or_else(|| self.prompt.pop())
    }

    pub(super) fn len(&self) -> usize {
        self.prompt.len() + self.patient.len()
    }

    /// Where what is taken from elsewhere goes.
    pub(super) fn prompt(&self) -> &Worker<Unit<L>> {
        &self.prompt
    }
}

impl<L: 'static> Stealers<L> {
    pub(super) fn is_empty(&self) -> bool {
        self.prompt.is_empty() && self.patient.is_empty()
    }

    /// Takes some units for a worker, and one of them to be run: prompt ones, if there are any.
    pub(super) fn steal_to(&self, queues: &Queues<L>) -> Steal<Unit<L>> {
        match self.prompt.steal_batch_and_pop(&queues.prompt) {
            Steal::Empty => self.patient.steal_batch_and_pop(&queues.patient),
            other => other,
        }
    }
}
