//! What consumers do with what they read: count it, check it, time it.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::check::{Checker, Faults};
use crate::payload::{HEAD_BYTES, Stamp, is_intact};
use crate::record::Latency;
use crate::wire::decode::{Event, Malformed};
use crate::wire::stream::{Decoder, Handler};

/// The first oid that consumers give to their observers.
pub const OBSERVER_OID: u64 = 1;

/// Results that all consumers of one thread have in common.
#[derive(Debug, Default)]
pub struct Intake {
    /// Messages or events received.
    pub delivered: u64,
    /// Received by somebody who did not ask for it.
    pub misdelivered: u64,
    /// Received with other contents than sent.
    pub damaged: u64,
    /// From the stamp to the read that brought the message.
    pub latency: Latency,
    /// When the bytes at hand were read. Set by the driver, before each call.
    pub now_ns: u64,
    /// Text of an Error packet, if one came.
    pub failure: Option<String>,
    /// Copies of what comes, for a client that sends it on.
    pub tap: Option<Tap>,
}

/// Payloads in the order in which they came.
#[derive(Debug, Default)]
pub struct Tap {
    bytes: Vec<u8>,
    /// The checker of each, and where it ends.
    ends: Vec<(u32, usize)>,
}

impl Tap {
    /// Takes out all, each with the number of its checker.
    pub fn drain(&mut self, mut take: impl FnMut(u32, &[u8])) {
        let mut at = 0;
        for (checker, end) in self.ends.drain(..) {
            take(checker, &self.bytes[at..end]);
            at = end;
        }
        self.bytes.clear();
    }
}

/// Instead of the length of payloads, where they are of different lengths.
pub const ANY_LENGTH: usize = 0;

/// Takes what a port reads.
pub trait Sink: Send {
    /// Takes what it can of `buf` and returns how many bytes; the rest will be presented again with more.
    fn data(&mut self, buf: &[u8], intake: &mut Intake) -> Result<usize, Malformed>;
    /// How many deliveries are due here once the producers have sent `sent[producer]` messages each.
    fn expected(&self, sent: &[u64]) -> u64;
    /// The verdict on what came, likewise. Misdeliveries and damage are counted in the [`Intake`].
    fn faults(&self, sent: &[u64]) -> Faults;
    /// From now on the end of every assertion is expected too.
    fn expect_end(&mut self) {}
    /// What can be said without knowing how much was sent: what is missing before something that came is lost so far.
    fn so_far(&self) -> Faults {
        Faults::default()
    }
    /// How many different messages came of each producer that is followed, in the order of the subscriptions.
    fn received(&self) -> Vec<u64> {
        vec![]
    }
}

/// For sessions that should receive nothing: whatever they do receive is misdelivered.
#[derive(Debug, Default)]
pub struct Nothing;

impl Sink for Nothing {
    fn data(&mut self, buf: &[u8], intake: &mut Intake) -> Result<usize, Malformed> {
        intake.misdelivered += 1;
        Ok(buf.len())
    }
    fn expected(&self, _sent: &[u64]) -> u64 {
        0
    }
    fn faults(&self, _sent: &[u64]) -> Faults {
        Faults::default()
    }
}

/// How thoroughly a consumer looks at each message. Numbers are always checked.
#[derive(Clone, Copy, Debug)]
pub struct Scrutiny {
    /// Every how many messages the time is recorded; a power of two.
    pub time_every: u64,
    /// Every how many messages the whole payload is compared; a power of two.
    pub body_every: u64,
}

/// One session's observers of messages.
pub struct Subscriptions {
    /// The producer that each observer follows; observer `i` has oid [`OBSERVER_OID`] + i. Empty if one observer
    /// takes everything and producers are told apart by name.
    producers: Vec<usize>,
    /// One per producer followed, in the order of `producers`; by producer number if that is empty.
    checkers: Vec<Checker>,
    payload_bytes: usize,
    scrutiny: Scrutiny,
}

impl Subscriptions {
    /// One observer for each of `producers`, by its literal name.
    pub fn by_literal(producers: Vec<usize>, payload_bytes: usize, scrutiny: Scrutiny) -> Subscriptions {
        let checkers = vec![Checker::default(); producers.len()];
        Subscriptions { producers, checkers, payload_bytes, scrutiny }
    }

    /// A single observer of all `producers` that captures the name too.
    pub fn of_all(producers: usize, payload_bytes: usize, scrutiny: Scrutiny) -> Subscriptions {
        let checkers = vec![Checker::default(); producers];
        Subscriptions { producers: vec![], checkers, payload_bytes, scrutiny }
    }

    fn producer(&self, checker: usize) -> usize {
        self.producers.get(checker).copied().unwrap_or(checker)
    }

    /// The checker for messages to `oid`, with the given name if that was captured.
    pub(crate) fn find(&self, oid: u64, name: Option<&[u8]>) -> Option<u32> {
        let observer = oid.checked_sub(OBSERVER_OID)?;
        let index = match (self.producers.is_empty(), name) {
            (true, Some(name)) if observer == 0 => producer_number(name)?,
            (false, None) => observer as usize,
            // A relay passes on the producer's own message, name and all.
            (false, Some(name)) => self.producers.iter().position(|p| Some(*p) == producer_number(name))?,
            _ => return None,
        };
        (index < self.checkers.len()).then_some(index as u32)
    }

    #[inline]
    pub(crate) fn take(&mut self, checker: u32, payload: &[u8], intake: &mut Intake) {
        let stamp = Stamp::read(payload);
        self.checkers[checker as usize].see(stamp.seq);
        intake.delivered += 1;
        if stamp.seq & (self.scrutiny.time_every - 1) == 0 {
            intake.latency.record(intake.now_ns.saturating_sub(stamp.sent_ns));
        }
        if stamp.seq & (self.scrutiny.body_every - 1) == 0 {
            // A streamed payload comes as its head; its pieces have been compared.
            let has_length = payload.len() == self.payload_bytes
                || payload.len() == HEAD_BYTES
                || self.payload_bytes == ANY_LENGTH;
            if !has_length || !is_intact(0, payload) {
                intake.damaged += 1;
            }
        }
        if let Some(tap) = &mut intake.tap {
            tap.bytes.extend_from_slice(payload);
            tap.ends.push((checker, tap.bytes.len()));
        }
    }

    pub(crate) fn so_far(&self) -> Faults {
        let mut sum = Faults::default();
        self.checkers.iter().for_each(|checker| sum.add(&checker.so_far()));
        sum
    }

    pub(crate) fn received(&self) -> Vec<u64> {
        self.checkers.iter().map(Checker::received).collect()
    }

    pub(crate) fn expected(&self, sent: &[u64]) -> u64 {
        (0..self.checkers.len()).map(|c| sent[self.producer(c)]).sum()
    }

    pub(crate) fn faults(&self, sent: &[u64]) -> Faults {
        let mut sum = Faults::default();
        for (i, checker) in self.checkers.iter().enumerate() {
            sum.add(&checker.faults(sent[self.producer(i)]));
        }
        sum
    }
}

/// The names of one run's producers: a letter that other runs of this process do not use (up to the 26th), so that
/// what a broker may have left of an earlier run has nothing to do with this one; then the producer's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names(u8);

impl Names {
    /// Names that were not used before.
    pub fn fresh() -> Names {
        static RUNS: AtomicU8 = AtomicU8::new(0);
        // Relaxed: only uniqueness matters. Wraps: after 26 runs letters come again.
        Names(b'a' + (RUNS.fetch_add(1, Ordering::Relaxed) % 26))
    }

    /// The name of producer number `n`.
    pub fn of(self, n: usize) -> String {
        format!("{}{n}", char::from(self.0))
    }
}

/// The producer's number in a name.
pub fn producer_number(name: &[u8]) -> Option<usize> {
    std::str::from_utf8(name.get(1..)?).ok()?.parse().ok()
}

/// A session of a Syndicate broker with observers of messages.
pub struct Observers {
    decoder: Decoder,
    subscriptions: Subscriptions,
}

impl Observers {
    /// Goes on with `decoder` where the set-up left it.
    pub fn new(decoder: Decoder, subscriptions: Subscriptions) -> Observers {
        Observers { decoder, subscriptions }
    }

    /// Goes on with another decoder.
    pub fn resume(&mut self, decoder: Decoder) {
        self.decoder = decoder;
    }
}

impl Sink for Observers {
    fn data(&mut self, buf: &[u8], intake: &mut Intake) -> Result<usize, Malformed> {
        self.decoder.feed(buf, &mut Taking { subscriptions: &mut self.subscriptions, intake })
    }
    fn expected(&self, sent: &[u64]) -> u64 {
        self.subscriptions.expected(sent)
    }
    fn faults(&self, sent: &[u64]) -> Faults {
        self.subscriptions.faults(sent)
    }
    fn so_far(&self) -> Faults {
        self.subscriptions.so_far()
    }
    fn received(&self) -> Vec<u64> {
        self.subscriptions.received()
    }
}

/// Joins a session's observers with the counters of its thread while bytes are decoded.
struct Taking<'a> {
    subscriptions: &'a mut Subscriptions,
    intake: &'a mut Intake,
}

impl Handler for Taking<'_> {
    fn slot(&mut self, oid: u64, name: Option<&[u8]>) -> Option<u32> {
        self.subscriptions.find(oid, name)
    }
    #[inline]
    fn payload(&mut self, slot: u32, payload: &[u8]) {
        self.subscriptions.take(slot, payload, self.intake);
    }
    fn piece(&mut self, _slot: u32, offset: usize, bytes: &[u8]) {
        if !is_intact(offset, bytes) {
            self.intake.damaged += 1;
        }
    }
    fn stray(&mut self, _oid: u64) {
        self.intake.misdelivered += 1;
    }
    fn event(&mut self, _oid: u64, _event: Event<'_>) -> Result<(), Malformed> {
        self.intake.misdelivered += 1;
        Ok(())
    }
    fn failed(&mut self, text: &[u8]) {
        self.intake.failure = Some(String::from_utf8_lossy(text).into_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::blank;
    use crate::wire::encode;

    const ALL: Scrutiny = Scrutiny { time_every: 1, body_every: 1 };

    fn delivery(oid: u64, name: Option<&str>, seq: u64, spoil: bool) -> Vec<u8> {
        let mut payload = blank(64);
        Stamp { seq, sent_ns: 5 }.write(&mut payload);
        payload[40] ^= u8::from(spoil);
        let mut out = vec![];
        encode::turn(&mut out, |out| {
            encode::message(out, oid, |out| {
                out.push(crate::wire::SEQUENCE);
                if let Some(name) = name {
                    encode::string(out, name);
                }
                encode::bytes(out, &payload);
                out.push(crate::wire::END);
            });
        });
        out
    }

    #[test]
    fn literal_observers_follow_their_producers() {
        let subscriptions = Subscriptions::by_literal(vec![4, 2], 64, ALL);
        let mut sink = Observers::new(Decoder::default(), subscriptions);
        let mut intake = Intake { now_ns: 105, ..Intake::default() };
        let bytes = [
            delivery(OBSERVER_OID, None, 0, false),
            delivery(OBSERVER_OID + 1, None, 0, false),
            delivery(OBSERVER_OID, None, 1, true),
            delivery(OBSERVER_OID + 2, None, 0, false),
        ]
        .concat();
        assert_eq!(sink.data(&bytes, &mut intake), Ok(bytes.len()));
        assert_eq!((intake.delivered, intake.misdelivered, intake.damaged), (3, 1, 1));
        assert_eq!(sink.expected(&[9, 9, 1, 9, 2]), 3);
        assert_eq!(sink.faults(&[0, 0, 1, 0, 2]), Faults::default());
        assert_eq!(sink.faults(&[0, 0, 2, 0, 2]).lost, 1);
    }

    #[test]
    fn a_single_observer_tells_producers_by_name() {
        let mut sink = Observers::new(Decoder::default(), Subscriptions::of_all(2, 64, ALL));
        let mut intake = Intake::default();
        let bytes = [
            delivery(OBSERVER_OID, Some("p1"), 0, false),
            delivery(OBSERVER_OID, Some("p0"), 0, false),
            delivery(OBSERVER_OID, Some("p1"), 1, false),
            delivery(OBSERVER_OID, Some("p7"), 0, false),
        ]
        .concat();
        assert_eq!(sink.data(&bytes, &mut intake), Ok(bytes.len()));
        assert_eq!((intake.delivered, intake.misdelivered), (3, 1));
        assert_eq!(sink.faults(&[1, 2]), Faults::default());
    }
}
