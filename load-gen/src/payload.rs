//! What every message carries: a sequence number, the time it was (to be) sent, and a known filling.

use rustix::time::{ClockId, clock_gettime};

/// Bytes of sequence number and time at the front of every payload; the least payload there is.
pub const HEAD_BYTES: usize = 16;

/// The head of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Counts a producer's messages, from 0.
    pub seq: u64,
    /// Monotonic clock, in nanoseconds: when the message was written, or was meant to be.
    pub sent_ns: u64,
}

impl Stamp {
    /// Writes the stamp over the first [`HEAD_BYTES`] of `payload`.
    #[inline]
    pub fn write(self, payload: &mut [u8]) {
        payload[..8].copy_from_slice(&self.seq.to_le_bytes());
        payload[8..16].copy_from_slice(&self.sent_ns.to_le_bytes());
    }

    /// Reads the stamp of a payload of at least [`HEAD_BYTES`].
    #[inline]
    pub fn read(payload: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("eight bytes"));
        Stamp { seq: word(0), sent_ns: word(8) }
    }
}

/// After how many bytes the filling repeats: a prime, so that no power-of-two displacement goes unseen.
const PERIOD: usize = 251;

/// The filling, often enough that long payloads are compared in long pieces.
static FILLING: [u8; PERIOD * 32] = {
    let mut bytes = [0; PERIOD * 32];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = (at % PERIOD) as u8;
        at += 1;
    }
    bytes
};

/// Whether `bytes`, found `offset` bytes into a payload, are what was sent. The head is not looked at.
pub fn is_intact(offset: usize, bytes: &[u8]) -> bool {
    let skipped = HEAD_BYTES.saturating_sub(offset).min(bytes.len());
    let (mut at, mut rest) = ((offset + skipped) % PERIOD, &bytes[skipped..]);
    while !rest.is_empty() {
        let n = rest.len().min(FILLING.len() - at);
        if rest[..n] != FILLING[at..at + n] {
            return false;
        }
        (at, rest) = (0, &rest[n..]);
    }
    true
}

/// A payload of `len` bytes with an empty head.
pub fn blank(len: usize) -> Vec<u8> {
    let mut payload: Vec<u8> = (0..len).map(|at| (at % PERIOD) as u8).collect();
    Stamp { seq: 0, sent_ns: 0 }.write(&mut payload);
    payload
}

/// The monotonic clock, in nanoseconds.
#[inline]
pub fn now_ns() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_survive() {
        let mut payload = blank(64);
        let stamp = Stamp { seq: 1 << 40 | 5, sent_ns: now_ns() };
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload), stamp);
        assert_eq!(payload[63], 63);
    }

    #[test]
    fn damage_is_seen_in_any_piece() {
        let payload = blank(30_000);
        for offset in [0, 1, 15, 16, 17, 250, 251, 9_000, 29_999] {
            assert!(is_intact(offset, &payload[offset..]));
            let mut spoilt = payload[offset..].to_vec();
            *spoilt.last_mut().unwrap() ^= 1;
            assert!(!is_intact(offset, &spoilt));
        }
        assert!(is_intact(0, &[9; HEAD_BYTES]) && !is_intact(1, &payload[2..300]));
    }

    #[test]
    fn time_goes_forward() {
        let (a, b) = (now_ns(), now_ns());
        assert!(a <= b && a > 0);
    }
}
