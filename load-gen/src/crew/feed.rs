//! What a producer of a scenario writes: a run of packets encoded once, stamped in place, and counted as the kernel
//! takes them.

use crate::cast::Dice;
use crate::driver::Driver;
use crate::pace::Pace;
use crate::payload::{Stamp, blank};
use crate::script::Payloads;

/// Bytes of one write, about.
const WRITE_BYTES: usize = 16 * 1024;

/// Packets of different sizes that are kept ready.
const MIXED: usize = 64;

/// Packets one after the other.
#[derive(Debug)]
struct Run {
    bytes: Vec<u8>,
    /// Where each packet's payload begins, and where the packet ends.
    places: Vec<(usize, usize)>,
}

impl Run {
    fn of(driver: &dyn Driver, target: u64, topic: &str, payloads: &Payloads, seed: u64) -> Run {
        let mut run = Run { bytes: vec![], places: vec![] };
        let mut dice = Dice::new(seed);
        let is_full = |run: &Run| match payloads.only() {
            Some(_) => run.bytes.len() + run.places.first().map_or(0, |p| p.1) > WRITE_BYTES,
            None => run.places.len() == MIXED,
        };
        while run.places.is_empty() || !is_full(&run) {
            let payload = blank(draw(payloads, &mut dice));
            let at = driver.frame(target, topic, &payload, &mut run.bytes);
            run.places.push((at, run.bytes.len()));
        }
        run
    }

    fn start(&self, packet: usize) -> usize {
        if packet == 0 { 0 } else { self.places[packet - 1].1 }
    }
}

fn draw(payloads: &Payloads, dice: &mut Dice) -> usize {
    match payloads {
        Payloads::OneOf(sizes) => sizes[dice.below(sizes.len())],
        Payloads::Range(min, max) => {
            let (low, high) = ((*min as f64).ln(), (*max as f64).ln());
            ((low + dice.unit() * (high - low)).exp().round() as usize).clamp(*min, *max)
        }
    }
}

/// One stream of numbered messages.
///
/// **Invariant:** `at <= end`, both within the run; `accepted` counts the packets that end at or before `at` since
/// the stream began, and `filled` those stamped.
#[derive(Debug)]
pub struct Feed {
    run: Run,
    /// The number of the packet in the run that `at` lies in.
    packet: usize,
    at: usize,
    end: usize,
    filled: u64,
    accepted: u64,
    /// For open loops: the clock, and how many of its messages earlier streams have taken.
    pace: Option<(Pace, u64)>,
    deadline_ns: u64,
}

impl Feed {
    /// A stream that may not send yet.
    pub fn new(driver: &dyn Driver, target: u64, topic: &str, payloads: &Payloads, seed: u64) -> Feed {
        let run = Run::of(driver, target, topic, payloads, seed);
        Feed { run, packet: 0, at: 0, end: 0, filled: 0, accepted: 0, pace: None, deadline_ns: 0 }
    }

    /// Lets it send until `deadline_ns`; `pace` and how many of its messages were sent before, in an open loop.
    pub fn go(&mut self, deadline_ns: u64, pace: Option<(Pace, u64)>) {
        (self.deadline_ns, self.pace) = (deadline_ns, pace);
    }

    /// What is to be written now; empty if there is nothing.
    pub fn chunk(&mut self, now_ns: u64) -> &[u8] {
        if now_ns >= self.deadline_ns {
            self.stop();
        } else if self.at == self.end {
            self.refill(now_ns);
        }
        &self.run.bytes[self.at..self.end]
    }

    /// Whole messages that have been written.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Messages that were to be written by now.
    pub fn offered(&self, now_ns: u64) -> u64 {
        match &self.pace {
            None => self.accepted,
            Some((pace, before)) => pace.due(now_ns.min(self.deadline_ns)).saturating_sub(*before),
        }
    }

    /// Whether the time is up, and no message is half written.
    pub fn is_done(&self, now_ns: u64) -> bool {
        now_ns >= self.deadline_ns && self.at == self.end
    }

    /// When there is more to write, if there is nothing now.
    pub fn next_due_ns(&self) -> u64 {
        let due = self.pace.as_ref().map_or(0, |(pace, before)| pace.intended_ns(before + self.filled));
        due.min(self.deadline_ns)
    }

    /// The first `n` bytes of the chunk have been written.
    pub fn wrote(&mut self, n: usize) {
        self.at += n;
        while self.packet < self.run.places.len() && self.run.places[self.packet].1 <= self.at {
            self.packet += 1;
            self.accepted += 1;
        }
    }

    /// Forgets what is stamped and not begun.
    fn stop(&mut self) {
        let start = if self.packet < self.run.places.len() { self.run.start(self.packet) } else { self.at };
        self.end = if self.at == start { self.at } else { self.run.places[self.packet].1 };
    }

    fn refill(&mut self, now_ns: u64) {
        if self.packet == self.run.places.len() {
            (self.packet, self.at, self.end) = (0, 0, 0);
        }
        let due = match &self.pace {
            None => u64::MAX,
            Some((pace, before)) => pace.due(now_ns).saturating_sub(before + self.filled),
        };
        let room = self.run.places[self.packet..].len().min(due.try_into().unwrap_or(usize::MAX));
        for (at, end) in &self.run.places[self.packet..self.packet + room] {
            if self.end > self.at && end - self.at > WRITE_BYTES {
                break;
            }
            let sent_ns =
                self.pace.as_ref().map_or(now_ns, |(pace, before)| pace.intended_ns(before + self.filled));
            Stamp { seq: self.filled, sent_ns }.write(&mut self.run.bytes[*at..]);
            self.filled += 1;
            self.end = *end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::redis::Redis;

    /// Writes everything in pieces of `step` bytes until nothing comes any more; gives it.
    fn all(feed: &mut Feed, now_ns: u64, step: usize, most: usize) -> Vec<u8> {
        let mut out = vec![];
        while out.len() < most {
            let chunk = feed.chunk(now_ns);
            if chunk.is_empty() {
                break;
            }
            let n = chunk.len().min(step);
            out.extend_from_slice(&chunk[..n]);
            feed.wrote(n);
        }
        out
    }

    #[test]
    fn numbers_go_on_over_short_writes_and_rounds() {
        let payloads = Payloads::Range(16, 4000);
        let mut feed = Feed::new(&Redis, 0, "a0", &payloads, 5);
        assert!(feed.chunk(10).is_empty() && feed.is_done(10), "not before it may");
        feed.go(100, None);
        let mut bytes = all(&mut feed, 50, 777, 2_000_000);
        // Begins a message, or goes on with one, and is then told to end.
        bytes.extend_from_slice(&feed.chunk(50)[..3]);
        feed.wrote(3);
        assert!(!feed.is_done(100), "a message is half written");
        bytes.extend(all(&mut feed, 100, 777, usize::MAX));
        let mut numbers = vec![];
        let mut at = 0;
        while let Some(start) = bytes[at..].windows(2).position(|w| w == b"a0") {
            let header = at + start + 4;
            let payload = header + bytes[header..].iter().position(|b| *b == b'\n').unwrap() + 1;
            if payload + 16 > bytes.len() {
                break;
            }
            numbers.push(Stamp::read(&bytes[payload..]).seq);
            at = payload + 16;
        }
        assert!(numbers.len() > 300 && numbers.iter().copied().eq(0..numbers.len() as u64));
        assert!(feed.is_done(100));
        assert_eq!(feed.accepted(), numbers.len() as u64);
    }

    #[test]
    fn an_open_loop_waits_and_catches_up() {
        let mut feed = Feed::new(&Redis, 0, "a0", &Payloads::OneOf(vec![64]), 0);
        feed.go(10_000_000_000, Some((Pace::new(1_000_000_000, 1000), 0)));
        assert!(feed.chunk(0).is_empty());
        assert_eq!(feed.next_due_ns(), 1_000_000_000);
        all(&mut feed, 2_000_000_000, 64, usize::MAX);
        assert_eq!((feed.accepted(), feed.offered(2_000_000_000)), (1001, 1001));
        assert_eq!(feed.offered(3_000_000_000), 2001);
    }
}
