//! Finds loss, duplication, reordering and damage in a stream of numbered messages.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Most missing numbers remembered one by one; beyond it a late message is counted as duplicated.
const MISSING_MAX: usize = 1 << 20;

/// What went wrong, counted in messages (or, for assertions, in events).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Sent and never received.
    pub lost: u64,
    /// Received more than once.
    pub duplicated: u64,
    /// Received after a later one.
    pub reordered: u64,
    /// Received by somebody who did not ask for it.
    pub misdelivered: u64,
    /// Received with other contents than sent.
    pub damaged: u64,
}

impl Faults {
    /// Sum over all kinds.
    pub fn total(&self) -> u64 {
        self.lost + self.duplicated + self.reordered + self.misdelivered + self.damaged
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Faults) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.misdelivered += other.misdelivered;
        self.damaged += other.damaged;
    }
}

/// Follows one producer's numbers at one consumer.
///
/// **Invariant:** every number below `next` has been received, or is in `missing`, or was forgotten for want of
/// room (then it is in `forgotten`).
#[derive(Clone, Debug, Default)]
pub struct Checker {
    next: u64,
    missing: BTreeSet<u64>,
    forgotten: u64,
    duplicated: u64,
    reordered: u64,
}

impl Checker {
    /// A number came in. Constant time while nothing is missing.
    #[inline]
    pub fn see(&mut self, seq: u64) {
        if seq == self.next {
            self.next += 1;
        } else {
            self.see_unexpected(seq);
        }
    }

    #[cold]
    fn see_unexpected(&mut self, seq: u64) {
        if seq > self.next {
            let room = (MISSING_MAX - self.missing.len()) as u64;
            let known_end = seq.min(self.next.saturating_add(room));
            self.missing.extend(self.next..known_end);
            self.forgotten += seq - known_end;
            self.next = seq + 1;
        } else if self.missing.remove(&seq) {
            self.reordered += 1;
        } else {
            self.duplicated += 1;
        }
    }

    /// How many different numbers were seen.
    pub fn received(&self) -> u64 {
        self.next - self.missing.len() as u64 - self.forgotten
    }

    /// The verdict on what came so far: missing is what should have come before something that did.
    pub fn so_far(&self) -> Faults {
        self.faults(self.next)
    }

    /// The verdict, given how many the producer sent.
    pub fn faults(&self, sent: u64) -> Faults {
        Faults {
            lost: sent.saturating_sub(self.received()),
            duplicated: self.duplicated,
            reordered: self.reordered,
            // Numbers that were never sent.
            damaged: self.next.saturating_sub(sent),
            misdelivered: 0,
        }
    }
}

/// Follows numbers that may come in any order. One bit for each number up to the greatest.
#[derive(Clone, Debug, Default)]
pub struct Unordered {
    seen: Vec<u64>,
    received: u64,
    duplicated: u64,
    wild: u64,
}

/// Numbers beyond this one are not tracked but counted as damaged.
const UNORDERED_MAX: u64 = 1 << 32;

impl Unordered {
    /// A number came in.
    pub fn see(&mut self, n: u64) {
        if n >= UNORDERED_MAX {
            self.wild += 1;
            return;
        }
        let (word, bit) = ((n / 64) as usize, 1 << (n % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit == 0 {
            self.seen[word] |= bit;
            self.received += 1;
        } else {
            self.duplicated += 1;
        }
    }

    /// The verdict, given that numbers 0 to `sent` were sent.
    pub fn faults(&self, sent: u64) -> Faults {
        let full_words = (sent / 64) as usize;
        let mut beyond = 0;
        for (i, word) in self.seen.iter().enumerate().skip(full_words) {
            let allowed = if i == full_words { (1 << (sent % 64)) - 1 } else { 0 };
            beyond += u64::from((word & !allowed).count_ones());
        }
        Faults {
            lost: sent - (self.received - beyond),
            duplicated: self.duplicated,
            damaged: self.wild + beyond,
            ..Faults::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seen: &[u64], sent: u64, lost: u64, duplicated: u64, reordered: u64) {
        let mut c = Checker::default();
        seen.iter().for_each(|s| c.see(*s));
        let expect = Faults { lost, duplicated, reordered, ..Faults::default() };
        assert_eq!(c.faults(sent), expect, "{seen:?} of {sent}");
    }

    #[test]
    fn each_fault_is_told_apart() {
        check(&[0, 1, 2], 3, 0, 0, 0);
        check(&[], 0, 0, 0, 0);
        check(&[0, 1], 3, 1, 0, 0);
        check(&[1, 2], 3, 1, 0, 0);
        check(&[0, 2], 3, 1, 0, 0);
        check(&[0, 0, 1, 2], 3, 0, 1, 0);
        check(&[0, 2, 1], 3, 0, 0, 1);
        check(&[2, 1, 0], 3, 0, 0, 2);
        check(&[0, 3, 1, 1], 5, 2, 1, 1);
    }

    #[test]
    fn unordered_numbers() {
        let mut u = Unordered::default();
        (0..200).rev().for_each(|n| u.see(n));
        assert_eq!(u.faults(200), Faults::default());
        assert_eq!(u.faults(202).lost, 2);
        assert_eq!(u.faults(190), Faults { damaged: 10, ..Faults::default() });
        assert_eq!(u.faults(128).damaged, 72);
        u.see(7);
        u.see(u64::MAX);
        assert_eq!(u.faults(200), Faults { duplicated: 1, damaged: 1, ..Faults::default() });
    }

    #[test]
    fn wild_numbers_do_not_exhaust_memory() {
        let mut c = Checker::default();
        c.see(0);
        c.see(u64::MAX / 2);
        let faults = c.faults(10);
        assert!(faults.lost == 8 && faults.damaged > 0, "{faults:?}");
    }
}
