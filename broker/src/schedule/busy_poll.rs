//! When a worker that has run out of work polls for a while before it sleeps.
//!
//! Waking a sleeping thread takes the kernel longer than a short turn takes the broker, on virtual machines several
//! times as long, so where one message in flight waits for another, sleeping is most of what a round trip takes. A
//! worker therefore keeps looking at the epoll set for up to [`BusyPoll::max_ns`] when all of this is so:
//!
//! - *An answer came.* Its last events were from whoever it had written to last ([`note_answer`]): the sign of requests and
//!   answers. One-way traffic has nobody waiting for it; polling there only takes processor time.
//! - *It was not busy for long* between its last two waits. Under load it is better to sleep and find more at once: fewer
//!   system calls per message, and the time to wake up counts for little.
//! - *Polling is not in vain.* Each time that it finds nothing, twice as many occasions are passed over.
//!
//! At most one worker polls at a time.
//!
//! [`note_answer`]: super::Queue::note_answer

use std::time::Duration;

/// A worker that was at work for longer than this since it last waited sleeps without polling.
const BUSY_NS: u64 = 20_000;
/// So many occasions are passed over at most.
const SKIPS_MAX: u32 = 64;

/// One worker's view of whether polling is worth it.
#[derive(Debug)]
pub(super) struct BusyPoll {
    /// For how long to poll at most; 0 for never.
    max_ns: u64,
    /// When the last wait ended, polling or asleep.
    waited_ns: u64,
    /// How many occasions are passed over after the next polling in vain.
    skips_next: u32,
    /// How many are left to pass over.
    skips: u32,
}

impl BusyPoll {
    pub(super) fn new(max: Duration) -> BusyPoll {
        let max_ns = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        BusyPoll { max_ns, waited_ns: 0, skips_next: 1, skips: 0 }
    }

    /// Until when to poll, now that there is no work; `None` for not at all. `is_answered` says whether an answer came
    /// since the last wait.
    #[inline]
    pub(super) fn deadline(&mut self, is_answered: bool, now_ns: u64) -> Option<u64> {
        let is_quiet = now_ns.saturating_sub(self.waited_ns) < BUSY_NS;
        if self.max_ns == 0 || !is_answered || !is_quiet {
            return None;
        }
        if self.skips > 0 {
            self.skips -= 1;
            return None;
        }
        Some(now_ns.saturating_add(self.max_ns))
    }

    /// Polling has ended.
    pub(super) fn polled(&mut self, has_found: bool, now_ns: u64) {
        self.waited_ns = now_ns;
        if has_found {
            self.skips_next = 1;
        } else {
            self.skips = self.skips_next;
            self.skips_next = (2 * self.skips_next).min(SKIPS_MAX);
        }
    }

    /// The worker has slept.
    pub(super) fn slept(&mut self, now_ns: u64) {
        self.waited_ns = now_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll_50_us() -> BusyPoll {
        BusyPoll::new(Duration::from_micros(50))
    }

    #[test]
    fn polls_where_answers_come_and_only_there() {
        let mut poll = poll_50_us();
        poll.slept(1_000_000);
        assert_eq!(poll.deadline(false, 1_001_000), None);
        assert_eq!(poll.deadline(true, 1_001_000), Some(1_051_000));
        poll.polled(true, 1_040_000);
        assert_eq!(poll.deadline(true, 1_041_000), Some(1_091_000));
    }

    #[test]
    fn polling_in_vain_becomes_rare_until_it_finds_something() {
        let mut poll = poll_50_us();
        let mut polls = |occasions: usize, has_found: bool| {
            let mut polls = 0;
            for _ in 0..occasions {
                poll.slept(0);
                if poll.deadline(true, 0).is_some() {
                    poll.polled(has_found, 50_000);
                    polls += 1;
                }
            }
            polls
        };
        let in_vain = polls(10_000, false);
        assert!((100..200).contains(&in_vain), "{in_vain} of 10,000");
        assert!(polls(1000, true) >= 1000 - SKIPS_MAX as usize);
    }

    #[test]
    fn a_busy_worker_sleeps_at_once() {
        let mut poll = poll_50_us();
        poll.slept(10_000);
        assert_eq!(poll.deadline(true, 10_000 + BUSY_NS), None);
        assert!(poll.deadline(true, 10_000 + BUSY_NS - 1).is_some());
    }

    #[test]
    fn nought_is_never() {
        let mut poll = BusyPoll::new(Duration::ZERO);
        poll.slept(5);
        assert_eq!(poll.deadline(true, 5), None);
    }
}
