//! Assertions: built in bulk, churned, and followed by an observer.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::check::{Checker, Faults, Unordered};
use crate::payload::now_ns;
use crate::sink::{Intake, OBSERVER_OID, Sink};
use crate::source::{Control, Source};
use crate::wire::TRUE;
use crate::wire::decode::{Event, Malformed, elements, unsigned};
use crate::wire::encode;
use crate::wire::stream::{Decoder, Handler};

/// The first number and the first handle of counted assertions: from here on, four thousand million integers are
/// encoded in the same number of bytes, so that they can be patched in place.
pub const FIRST: u64 = 1 << 32;

/// Assertions per packet when they are made in bulk.
const BULK_PER_PACKET: usize = 25;

/// Appends packets that assert `<Held n "...">` at `dataspace` for each of `numbers`, with handles [`FIRST`] + n.
/// Every value takes `value_bytes` when encoded, if that is enough for its other parts (about 20 bytes).
pub fn held(out: &mut Vec<u8>, dataspace: u64, numbers: std::ops::Range<u64>, value_bytes: usize) {
    let mut bare = vec![];
    held_value(&mut bare, numbers.start, "");
    let pad = "x".repeat(value_bytes.saturating_sub(bare.len()));
    let mut next = numbers.start;
    while next < numbers.end {
        let end = numbers.end.min(next + BULK_PER_PACKET as u64);
        encode::turn(out, |out| {
            for n in next..end {
                encode::assert(out, dataspace, FIRST + n, |out| held_value(out, n, &pad));
            }
        });
        next = end;
    }
}

fn held_value(out: &mut Vec<u8>, n: u64, pad: &str) {
    encode::record(out, "Held", |out| {
        encode::int(out, (FIRST + n) as i64);
        encode::string(out, pad);
    });
}

/// Asserts `<Present n>` for n counting up, and retracts each again after `live` more have been asserted.
pub struct Churn {
    control: Arc<Control>,
    /// Packets of the first `live` assertions, not retracted in between.
    prelude: Vec<u8>,
    /// Packets of pairs, each an assertion and a retraction.
    bytes: Vec<u8>,
    /// Offsets in `bytes` of the last four bytes of: number, handle, handle to retract.
    places: Vec<[usize; 3]>,
    pairs_per_packet: usize,
    packet_bytes: usize,
    live: u64,
    at: usize,
    end: usize,
}

impl Churn {
    /// For the dataspace known as `dataspace`. With `events_per_packet` 1 every event is a packet; otherwise
    /// half as many pairs share one.
    pub fn new(
        dataspace: u64,
        live: u64,
        events_per_packet: usize,
        write_bytes: usize,
        control: Arc<Control>,
    ) -> Churn {
        let mut prelude = vec![];
        for n in 0..live {
            encode::turn(&mut prelude, |out| _ = assert_present(out, dataspace, n));
        }
        let pairs_per_packet = (events_per_packet / 2).max(1);
        let (mut packet, mut places) = (vec![], vec![]);
        if events_per_packet == 1 {
            let mut place = [0; 3];
            encode::turn(&mut packet, |out| [place[0], place[1]] = assert_present(out, dataspace, 0));
            encode::turn(&mut packet, |out| place[2] = retract_present(out, dataspace));
            places.push(place);
        } else {
            encode::turn(&mut packet, |out| {
                for _ in 0..pairs_per_packet {
                    let [number, handle] = assert_present(out, dataspace, 0);
                    places.push([number, handle, retract_present(out, dataspace)]);
                }
            });
        }
        let packets = (write_bytes / packet.len()).max(1);
        let shifted = |by: usize| places.iter().map(move |place: &[usize; 3]| place.map(|at| at + by));
        let places = (0..packets).flat_map(|p| shifted(p * packet.len())).collect();
        let bytes = packet.repeat(packets);
        Churn {
            control,
            prelude,
            bytes,
            places,
            pairs_per_packet,
            packet_bytes: packet.len(),
            live,
            at: 0,
            end: 0,
        }
    }

    fn refill(&mut self) {
        let sent = self.control.sent();
        let room = self.control.room(now_ns());
        self.prelude.clear();
        let pairs = (room as usize).next_multiple_of(self.pairs_per_packet).min(self.places.len());
        for (seq, [number, handle, retract]) in (sent..).zip(&self.places[..pairs]) {
            patch(&mut self.bytes, *number, seq);
            patch(&mut self.bytes, *handle, seq);
            patch(&mut self.bytes, *retract, seq - self.live);
        }
        (self.at, self.end) = (0, pairs / self.pairs_per_packet * self.packet_bytes);
        self.control.set_sent(sent + pairs as u64);
    }
}

fn patch(bytes: &mut [u8], at: usize, n: u64) {
    bytes[at..at + 4].copy_from_slice(&(n as u32).to_be_bytes());
}

/// Writes the event; gives the offsets of the last four bytes of number and handle.
fn assert_present(out: &mut Vec<u8>, dataspace: u64, n: u64) -> [usize; 2] {
    let mut number_at = 0;
    encode::assert(out, dataspace, FIRST + n, |out| {
        encode::record(out, "Present", |out| {
            encode::int(out, (FIRST + n) as i64);
            number_at = out.len() - 4;
        });
    });
    // The handle is followed by the ends of the A record and of the turn event.
    [number_at, out.len() - 2 - 4]
}

fn retract_present(out: &mut Vec<u8>, dataspace: u64) -> usize {
    encode::retract(out, dataspace, FIRST);
    out.len() - 2 - 4
}

impl Source for Churn {
    fn chunk(&mut self) -> &[u8] {
        if self.control.sent() < self.live {
            if self.control.room(now_ns()) == 0 {
                return &[];
            }
            self.control.set_sent(self.live);
            (self.at, self.end) = (0, self.prelude.len());
        }
        if self.at == self.end {
            self.refill();
        }
        let bytes = if self.prelude.is_empty() { &self.bytes } else { &self.prelude };
        &bytes[self.at..self.end]
    }

    fn wrote(&mut self, n: usize) {
        self.at += n;
    }

    fn is_done(&self) -> bool {
        self.at == self.end && self.control.room(now_ns()) == 0
    }
}

/// Spreads consecutive handles by one multiplication; they come from the broker, and no worse is expected of it.
#[derive(Default)]
pub struct HandleHasher(u64);

impl Hasher for HandleHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(self.0 ^ u64::from(*b)));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

/// What an observer of counted assertions should see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// Each assertion followed by its retraction, save the last `live`; in order.
    Churned {
        /// How many assertions are alive at a time.
        live: u64,
    },
    /// Numbers 0 to `count`, in any order, and all retracted again once `is_retracted`.
    Held {
        /// How many there are.
        count: u64,
        /// Whether their end is expected too.
        is_retracted: bool,
    },
}

/// An observer of counted assertions: the first capture is [`FIRST`] + n.
pub struct Follower {
    decoder: Decoder,
    state: Following,
}

struct Following {
    live: HashMap<u64, u64, BuildHasherDefault<HandleHasher>>,
    asserted: Numbers,
    retracted: Numbers,
    expectation: Expectation,
    faults: Faults,
}

/// Numbers that must come in order, or need not.
enum Numbers {
    Ordered(Checker),
    Unordered(Unordered),
}

impl Numbers {
    fn new(expectation: Expectation) -> Numbers {
        match expectation {
            Expectation::Churned { .. } => Numbers::Ordered(Checker::default()),
            Expectation::Held { .. } => Numbers::Unordered(Unordered::default()),
        }
    }

    fn see(&mut self, n: u64) {
        match self {
            Numbers::Ordered(checker) => checker.see(n),
            Numbers::Unordered(seen) => seen.see(n),
        }
    }

    fn faults(&self, sent: u64) -> Faults {
        match self {
            Numbers::Ordered(checker) => checker.faults(sent),
            Numbers::Unordered(seen) => seen.faults(sent),
        }
    }
}

impl Follower {
    /// Goes on with `decoder` where the set-up left it.
    pub fn new(decoder: Decoder, expectation: Expectation) -> Follower {
        let state = Following {
            live: HashMap::default(),
            asserted: Numbers::new(expectation),
            retracted: Numbers::new(expectation),
            expectation,
            faults: Faults::default(),
        };
        Follower { decoder, state }
    }
}

impl Sink for Follower {
    fn data(&mut self, buf: &[u8], intake: &mut Intake) -> Result<usize, Malformed> {
        self.decoder.feed(buf, &mut FollowingNow { state: &mut self.state, intake })
    }

    fn expected(&self, sent: &[u64]) -> u64 {
        match self.state.expectation {
            Expectation::Churned { live } => sent[0] + sent[0].saturating_sub(live),
            Expectation::Held { count, is_retracted } => count * (1 + u64::from(is_retracted)),
        }
    }

    fn faults(&self, sent: &[u64]) -> Faults {
        let mut sum = self.state.faults;
        let (asserted, retracted) = match self.state.expectation {
            Expectation::Churned { live } => (sent[0], sent[0].saturating_sub(live)),
            Expectation::Held { count, is_retracted } => (count, if is_retracted { count } else { 0 }),
        };
        sum.add(&self.state.asserted.faults(asserted));
        sum.add(&self.state.retracted.faults(retracted));
        sum
    }

    fn expect_end(&mut self) {
        if let Expectation::Held { is_retracted, .. } = &mut self.state.expectation {
            *is_retracted = true;
        }
    }
}

struct FollowingNow<'a> {
    state: &'a mut Following,
    intake: &'a mut Intake,
}

impl Handler for FollowingNow<'_> {
    fn slot(&mut self, _oid: u64, _name: Option<&[u8]>) -> Option<u32> {
        None
    }
    fn payload(&mut self, _slot: u32, _payload: &[u8]) {}
    fn piece(&mut self, _slot: u32, _offset: usize, _bytes: &[u8]) {}
    fn stray(&mut self, _oid: u64) {
        self.intake.misdelivered += 1;
    }

    fn event(&mut self, oid: u64, event: Event<'_>) -> Result<(), Malformed> {
        match event {
            Event::Assert { value, handle } if oid == OBSERVER_OID => {
                let Some(n) = number(value) else {
                    self.intake.damaged += 1;
                    return Ok(());
                };
                self.state.asserted.see(n);
                self.intake.delivered += 1;
                if self.state.live.insert(handle, n).is_some() {
                    // Two assertions under one handle.
                    self.state.faults.damaged += 1;
                }
            }
            Event::Retract { handle } => match self.state.live.remove(&handle) {
                Some(n) => {
                    self.state.retracted.see(n);
                    self.intake.delivered += 1;
                }
                None => self.intake.misdelivered += 1,
            },
            _ => self.intake.misdelivered += 1,
        }
        Ok(())
    }

    fn failed(&mut self, text: &[u8]) {
        self.intake.failure = Some(String::from_utf8_lossy(text).into_owned());
    }
}

/// The n of captures `[n ...]`.
fn number(captures: &[u8]) -> Option<u64> {
    // The usual case needs no list of the elements.
    let n = match unsigned(captures, 1) {
        Ok(Some((n, _))) if captures[0] == crate::wire::SEQUENCE => n,
        _ => unsigned(elements(captures)?.first()?, 0).ok()??.0,
    };
    n.checked_sub(FIRST)
}

/// Counts answers to Sync; for sessions that get nothing else.
pub struct Answers {
    decoder: Decoder,
    count: u64,
}

impl Answers {
    /// Expects `count` answers.
    pub fn new(decoder: Decoder, count: u64) -> Answers {
        Answers { decoder, count }
    }
}

impl Sink for Answers {
    fn data(&mut self, buf: &[u8], intake: &mut Intake) -> Result<usize, Malformed> {
        self.decoder.feed(buf, &mut AnswersNow { intake })
    }
    fn expected(&self, _sent: &[u64]) -> u64 {
        self.count
    }
    fn faults(&self, _sent: &[u64]) -> Faults {
        Faults::default()
    }
}

struct AnswersNow<'a> {
    intake: &'a mut Intake,
}

impl Handler for AnswersNow<'_> {
    fn slot(&mut self, _oid: u64, _name: Option<&[u8]>) -> Option<u32> {
        None
    }
    fn payload(&mut self, _slot: u32, _payload: &[u8]) {}
    fn piece(&mut self, _slot: u32, _offset: usize, _bytes: &[u8]) {}
    fn stray(&mut self, _oid: u64) {
        self.intake.misdelivered += 1;
    }
    fn event(&mut self, _oid: u64, event: Event<'_>) -> Result<(), Malformed> {
        match event {
            Event::Message { body: [TRUE] } => self.intake.delivered += 1,
            _ => self.intake.misdelivered += 1,
        }
        Ok(())
    }
    fn failed(&mut self, text: &[u8]) {
        self.intake.failure = Some(String::from_utf8_lossy(text).into_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::decode::turn_event;

    /// Plays a naive dataspace with one observer: turns each event sent into the event seen.
    fn echo(mut bytes: &[u8], handle_base: u64) -> Vec<u8> {
        let mut out = vec![];
        while !bytes.is_empty() {
            let mut at = 1;
            while bytes[at] != crate::wire::END {
                let (_, event, next) = turn_event(bytes, at).unwrap().unwrap();
                at = next;
                encode::turn(&mut out, |out| match event {
                    Event::Assert { value, handle } => {
                        encode::assert(out, OBSERVER_OID, handle + handle_base, |out| {
                            out.push(crate::wire::SEQUENCE);
                            elements(value).unwrap().iter().for_each(|f| out.extend_from_slice(f));
                            out.push(crate::wire::END);
                        });
                    }
                    Event::Retract { handle } => encode::retract(out, OBSERVER_OID, handle + handle_base),
                    _ => panic!("{event:?}"),
                });
            }
            bytes = &bytes[at + 1..];
        }
        out
    }

    fn churned(live: u64, per_packet: usize, limit: u64) -> (Vec<u8>, u64) {
        let control = Control::new();
        let mut source = Churn::new(1, live, per_packet, 1000, control.clone());
        assert!(source.chunk().is_empty());
        control.allow(limit, 0, u64::MAX);
        let mut bytes = vec![];
        while !source.is_done() {
            let chunk = source.chunk().to_vec();
            bytes.extend_from_slice(&chunk[..chunk.len().min(77)]);
            source.wrote(chunk.len().min(77));
        }
        (bytes, control.sent())
    }

    #[test]
    fn churn_asserts_and_retracts_each() {
        for (live, per_packet) in [(0, 1), (3, 1), (0, 10), (5, 7)] {
            let (bytes, sent) = churned(live, per_packet, 100);
            assert!((100..110).contains(&sent));
            let seen = echo(&bytes, 1000);
            let mut follower = Follower::new(Decoder::default(), Expectation::Churned { live });
            let mut intake = Intake::default();
            assert_eq!(follower.data(&seen, &mut intake), Ok(seen.len()));
            assert_eq!(follower.faults(&[sent]), Faults::default());
            assert_eq!(intake.delivered, follower.expected(&[sent]));
            assert_eq!(intake.misdelivered + intake.damaged, 0);
        }
    }

    #[test]
    fn a_missing_retraction_is_lost() {
        let (bytes, sent) = churned(0, 1, 10);
        let seen = echo(&bytes, 0);
        let (_, _, end) = turn_event(&seen, 1).unwrap().unwrap();
        let (_, _, second_end) = turn_event(&seen, end + 2).unwrap().unwrap();
        let without_first_retraction = [&seen[..end + 1], &seen[second_end + 1..]].concat();
        let mut follower = Follower::new(Decoder::default(), Expectation::Churned { live: 0 });
        let mut intake = Intake::default();
        follower.data(&without_first_retraction, &mut intake).unwrap();
        assert_eq!(follower.faults(&[sent]).lost, 1);
    }

    #[test]
    fn held_values_have_the_size_asked_for() {
        let mut out = vec![];
        held(&mut out, 1, 0..60, 60);
        let (_, event, _) = turn_event(&out, 1).unwrap().unwrap();
        let Event::Assert { value, handle } = event else { panic!("{event:?}") };
        assert_eq!((value.len(), handle), (60, FIRST));
        let mut follower =
            Follower::new(Decoder::default(), Expectation::Held { count: 60, is_retracted: false });
        let mut intake = Intake::default();
        follower.data(&echo(&out, 7), &mut intake).unwrap();
        assert_eq!((follower.faults(&[]), intake.delivered), (Faults::default(), 60));
        follower.expect_end();
        assert_eq!((follower.faults(&[]).lost, follower.expected(&[])), (60, 120));
    }
}
