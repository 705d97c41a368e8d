//! Who sleeps, who searches, and when somebody has to be woken.
//!
//! A worker with nothing in its own queue *searches* (the injector, the others' queues); if it finds nothing it
//! *sleeps* in `epoll_wait`. Whoever enqueues a unit must see to it that it does not lie there while a worker sleeps,
//! and must not pay a system call when nobody does. Two rules keep that cheap:
//!
//! - nobody is woken while somebody searches: the searcher will find the unit, or see it as it gives up;
//! - the one woken is counted as a searcher from the moment that it is chosen, so a burst wakes one worker, and the
//!   last searcher to find something wakes the next if there is more.
//!
//! # The race
//!
//! One side writes the queue and reads the counts, the other writes the counts and reads the queue. Neither may read
//! what was before both writes:
//!
//! ```text
//!   who enqueues                          who goes to sleep (or ends its search)
//!   E1  queue.push(unit)                  S1  counts: searching -1, sleeping +1
//!   E2  fence(SeqCst)      claim_wake     S2  fence(SeqCst)       fall_asleep, end_search
//!   E3  read counts                       S3  read queues
//! ```
//!
//! Release and acquire do not order a write before a later read of something else: both could read the old value, the
//! unit would lie and the worker sleep. The two fences are in one total order. If E2 comes first, S3 sees the unit;
//! if S2 comes first, E3 sees the sleeper (or that the search is over). Each half without its fence, and the sleeper
//! without S3, fails in `model.rs`.

use crossbeam::utils::CachePadded;

use super::sync::{AtomicU32, Mutant, Ordering, fence, is_left_out};

const SLEEPING: u32 = 1;
const SEARCHING: u32 = 1 << 16;

/// The counts of sleeping and of searching workers.
#[derive(Debug)]
pub(super) struct Idle {
    /// Low half: how many workers sleep, or are on their way to or from it. High half: how many search, those included
    /// that were chosen to be woken. Written by workers as they change and by whoever wakes; read by whoever enqueues.
    /// Orders nothing by itself: the fences do. Neither half exceeds the number of workers, which [`Idle::new`]
    /// bounds, so no half runs into the other.
    counts: CachePadded<AtomicU32>,
    workers: u32,
}

const fn sleeping(counts: u32) -> u32 {
    counts % SEARCHING
}

const fn searching(counts: u32) -> u32 {
    counts / SEARCHING
}

impl Idle {
    /// All `workers` are at work.
    ///
    /// # Panics
    /// Unless there are 1 to 32,767: a search that outlasts its worker's sleep may count twice.
    pub(super) fn new(workers: usize) -> Idle {
        assert!((1..1 << 15).contains(&workers));
        Idle { counts: CachePadded::new(AtomicU32::new(0)), workers: workers as u32 }
    }

    /// To be called after enqueuing. True when the caller must wake a worker, which is then counted as searching.
    #[inline]
    pub(super) fn claim_wake(&self) -> bool {
        if !is_left_out(Mutant::WakeNoFence) {
            fence(Ordering::SeqCst); // E2: pairs with S2.
        }
        // Relaxed: the fence orders it.
        let mut counts = self.counts.load(Ordering::Relaxed);
        while sleeping(counts) > 0 && searching(counts) == 0 {
            // Relaxed: the counts only; the unit is published by its queue, and the wake by the kernel.
            match self.counts.compare_exchange_weak(
                counts,
                counts + SEARCHING,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(found) => counts = found,
            }
        }
        false
    }

    /// Whether some worker sleeps (or is about to), so that the kernel has somebody to hand events to.
    #[inline]
    pub(super) fn somebody_sleeps(&self) -> bool {
        // Relaxed: advice; who acts on an old value polls once too often, or a tick late.
        sleeping(self.counts.load(Ordering::Relaxed)) > 0
    }

    /// A worker out of work asks whether to search. At most half of the workers do at a time: more would only contend
    /// for the same queues, and the others look once more before they sleep in any case.
    pub(super) fn begin_search(&self) -> bool {
        // Relaxed: a bound that may be missed by one.
        if 2 * searching(self.counts.load(Ordering::Relaxed)) >= self.workers.max(2) {
            return false;
        }
        // Relaxed: a count; what it promises to those who enqueue is kept by S2 and S3 when the search ends.
        self.counts.fetch_add(SEARCHING, Ordering::Relaxed);
        true
    }

    /// A searcher has found something. True when the caller must wake another: it was the last to search and
    /// `has_work` says that there is more.
    pub(super) fn end_search(&self, has_work: impl FnOnce() -> bool) -> bool {
        // S1. Relaxed: the fence orders it.
        let before = self.counts.fetch_sub(SEARCHING, Ordering::Relaxed);
        debug_assert!(searching(before) > 0);
        if searching(before) > 1 || is_left_out(Mutant::SearchNoCheck) {
            return false; // The others go on, and the last of them will look.
        }
        if !is_left_out(Mutant::SearchNoFence) {
            fence(Ordering::SeqCst); // S2: pairs with E2.
        }
        has_work() && self.claim_wake()
    }

    /// A worker that found nothing declares itself asleep, and looks once more. False when `has_work` says that there
    /// is something after all: the worker is then awake and counted as searching. True when it may block in the kernel,
    /// to call [`woken`](Self::woken) when it returns.
    pub(super) fn fall_asleep(&self, was_searching: bool, has_work: impl FnOnce() -> bool) -> bool {
        let searched = if was_searching { SEARCHING } else { 0 };
        // S1. One operation, so that nobody sees the worker in both counts or in neither. Relaxed: the fence orders it.
        self.counts.fetch_add(SLEEPING.wrapping_sub(searched), Ordering::Relaxed);
        if !is_left_out(Mutant::SleepNoFence) {
            fence(Ordering::SeqCst); // S2: pairs with E2.
        }
        if is_left_out(Mutant::SleepNoCheck) || !has_work() {
            return true;
        }
        // Relaxed: counts only. It may meanwhile have been chosen to be woken: the wake then finds another sleeper, or
        // waits for whoever looks next (this worker too: see take_claim), and is counted until then.
        self.counts.fetch_add(SEARCHING.wrapping_sub(SLEEPING), Ordering::Relaxed);
        false
    }

    /// A worker was told of a wake by the kernel: the one that was chosen, or another that happened to look first. It is
    /// now the searcher that the claim counted; if it was counted as one already, one of the two counts must go, or
    /// nobody would ever be woken again.
    pub(super) fn take_claim(&self, was_searching: bool) {
        if was_searching && !is_left_out(Mutant::ClaimCountedTwice) {
            // Relaxed: a count, which stays above zero: this worker's search has yet to end, by S1 to S3.
            let before = self.counts.fetch_sub(SEARCHING, Ordering::Relaxed);
            debug_assert!(searching(before) > 1);
        }
    }

    /// A sleeper is back from the kernel, by whatever event.
    pub(super) fn woken(&self) {
        // Relaxed: a count.
        let before = self.counts.fetch_sub(SLEEPING, Ordering::Relaxed);
        debug_assert!(sleeping(before) > 0);
    }

    /// Whether all workers sleep and no claim is on its way, as must be so in the end when nothing is left to do.
    #[cfg(all(test, not(broker_loom)))]
    pub(super) fn is_at_rest(&self) -> bool {
        // Relaxed: tests ask until it is so.
        self.counts.load(Ordering::Relaxed) == self.workers * SLEEPING
    }
}
