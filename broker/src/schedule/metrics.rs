//! What the workers have done, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// One worker's counters.
        ///
        /// Each is written by its worker alone and read by anybody. Relaxed throughout: counters only, nothing is
        /// published by them, and two of them read together need not agree. None can wrap in practice (64 bits).
        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub(super) $name: Counter,)+ }

        /// What one worker has done since it was started, or several together.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct WorkerMetrics { $($(#[doc = $doc])+ pub $name: u64,)+ }

        impl Counters {
            pub(super) fn read(&self) -> WorkerMetrics {
                WorkerMetrics { $($name: self.$name.get(),)+ }
            }
        }

        impl WorkerMetrics {
            fn add(&mut self, other: &WorkerMetrics) {
                $(self.$name = self.$name.wrapping_add(other.$name);)+
            }
        }
    };
}

counters! {
    /// Calls of `epoll_wait` that did not wait.
    polls,
    /// Calls of `epoll_wait` that may have waited.
    parks,
    /// Events fetched.
    events,
    /// Events for a task that was queued or running already, which only added bits to it.
    events_merged,
    /// Events for a registration that had been closed.
    events_stale,
    /// Runs of tasks.
    tasks_run,
    /// Jobs run.
    jobs_run,
    /// Times that units were taken from another worker's queue.
    steals,
    /// Times that units were taken from the queue that other threads fill.
    injections,
    /// Sleeping workers woken by this one.
    wakes,
    /// Runs and jobs that panicked.
    panics,
}

/// A count written by one thread.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Adds to it; only for the thread that owns it, which is what spares a locked instruction.
    #[inline]
    pub(super) fn add(&self, n: u64) {
        // Relaxed: counter only, nothing is published by it.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        // Relaxed: counter only.
        self.0.load(Ordering::Relaxed)
    }
}

/// What all workers have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// By worker.
    pub workers: Vec<WorkerMetrics>,
    /// Sleeping workers woken by threads that are no workers.
    pub outside_wakes: u64,
}

impl Metrics {
    /// The sum over all workers.
    pub fn total(&self) -> WorkerMetrics {
        let mut total = WorkerMetrics::default();
        for worker in &self.workers {
            total.add(worker);
        }
        total
    }
}
