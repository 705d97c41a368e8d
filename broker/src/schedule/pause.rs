//! Standing still: all workers between two units of work, for as long as somebody looks at what they share.
//!
//! Workers look at one word before each unit anyway, to see whether they are to stop; so standing still costs them
//! nothing while nobody wants it. Those that sleep are woken by a descriptor of its own, that is readable meanwhile.
//! Each that comes by says so, and waits until it is over. None holds a lock then: units do not keep any.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// What workers are to do.
const RUN: u8 = 0;
const REST: u8 = 1;
const STOP: u8 = 2;

/// Why nobody could look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotPaused {
    /// Somebody else looks, or the workers are stopping.
    #[error("the workers are being paused or stopped by somebody else")]
    Busy,
    /// Some worker was at one unit for longer than was to be waited.
    #[error("a worker was busy with one piece of work for too long")]
    Late,
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Pause {
    /// *Meaning*: one of the above. *Written* by who pauses (RUN to REST and back) and by who stops (STOP, for good).
    /// *Read* by each worker before each unit. *Orders*: what was done before stopping.
    word: AtomicU8,
    /// Held by who pauses.
    alone: Mutex<()>,
    state: Mutex<Resting>,
    changed: Condvar,
}

#[derive(Default)]
struct Resting {
    is_wanted: bool,
    /// How many workers wait.
    count: usize,
}

/// What a worker does next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Run,
    Rest,
    Stop,
}

impl Pause {
    #[inline]
    pub(super) fn next(&self) -> Next {
        // Acquire: pairs with the Release in stop().
        match self.word.load(Ordering::Acquire) {
            RUN => Next::Run,
            REST => Next::Rest,
            _ => Next::Stop,
        }
    }

    /// Has all stop, for good.
    pub(super) fn stop(&self) {
        // Release: pairs with the Acquire in next().
        self.word.store(STOP, Ordering::Release);
    }

    /// Waits, on a worker, until it is over.
    pub(super) fn rest(&self) {
        let mut state = self.state.lock();
        state.count += 1;
        self.changed.notify_all();
        while state.is_wanted {
            self.changed.wait(&mut state);
        }
        state.count -= 1;
    }

    /// Looks while so many workers rest, if they come to that within `patience`. `wake` and `calm` begin and end
    /// waking those that sleep.
    pub(super) fn pause<R>(
        &self,
        workers: usize,
        patience: Duration,
        (wake, calm): (impl FnOnce(), impl FnOnce()),
        look: impl FnOnce() -> R,
    ) -> Result<R, NotPaused> {
        let Some(_alone) = self.alone.try_lock() else { return Err(NotPaused::Busy) };
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        state.is_wanted = true;
        // Relaxed: what workers did is ordered by the lock that they say it under; and there is nothing to tell them.
        if self.word.compare_exchange(RUN, REST, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            state.is_wanted = false;
            return Err(NotPaused::Busy);
        }
        drop(state);
        // Also if it panics.
        let _over = Over(self);
        wake();
        let mut state = self.state.lock();
        while state.count < workers {
            if self.changed.wait_until(&mut state, until).timed_out() && state.count < workers {
                drop(state);
                calm();
                return Err(NotPaused::Late);
            }
        }
        drop(state);
        calm();
        Ok(look())
    }
}

/// Ends a pause when it is dropped.
struct Over<'p>(&'p Pause);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        // Relaxed: as above. It may have become STOP, which stays.
        let _ = self.0.word.compare_exchange(REST, RUN, Ordering::Relaxed, Ordering::Relaxed);
        self.0.state.lock().is_wanted = false;
        self.0.changed.notify_all();
    }
}
