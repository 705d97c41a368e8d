//! A fixed rate, whatever the broker does: the clock of open-loop runs.

/// When each message of a constant-rate stream is due.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    start_ns: u64,
    /// Messages in a thousand seconds.
    per_ks: u64,
}

/// A thousand seconds.
const KILOSECOND_NS: u128 = 1_000_000_000_000;

impl Pace {
    /// Message 0 is due at `start_ns`, and `per_second` (at least 1) follow in each second.
    pub fn new(start_ns: u64, per_second: u64) -> Self {
        Pace { start_ns, per_ks: per_second.max(1) * 1000 }
    }

    /// The same for any rate, to three places after the point.
    pub fn fractional(start_ns: u64, per_second: f64) -> Self {
        Pace { start_ns, per_ks: ((per_second * 1000.0) as u64).max(1) }
    }

    /// How many messages are due at `now_ns`.
    pub fn due(&self, now_ns: u64) -> u64 {
        match now_ns.checked_sub(self.start_ns) {
            None => 0,
            Some(passed) => (u128::from(passed) * u128::from(self.per_ks) / KILOSECOND_NS) as u64 + 1,
        }
    }

    /// The instant at which message `n` is to be sent. Latency counts from here, not from the write.
    pub fn intended_ns(&self, n: u64) -> u64 {
        // Rounded up, so that the message is due at its own instant.
        self.start_ns + (u128::from(n) * KILOSECOND_NS).div_ceil(u128::from(self.per_ks)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_and_intended_agree() {
        for rate in [1, 3, 7, 1000, 999_999, 3_000_001] {
            let pace = Pace::new(1_000, rate);
            assert_eq!((pace.due(999), pace.due(1_000)), (0, 1));
            for n in [0, 1, 2, 10, 12_345] {
                let at = pace.intended_ns(n);
                assert_eq!(pace.due(at), n + 1, "message {n} at {rate}/s");
                assert!(n == 0 || pace.due(at - 1) == n);
            }
        }
    }
}
