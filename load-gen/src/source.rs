//! What producers write: templates encoded once, stamped in place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pace::Pace;
use crate::payload::{Stamp, blank, now_ns};
use crate::wire::encode;

/// Bytes a producer hands to the system in one write.
pub const WRITE_BYTES: usize = 16 * 1024;

/// Gives a port its next bytes.
pub trait Source: Send {
    /// What is to be written next; empty if there is nothing at the moment. The same bytes are given again, less
    /// what [`Source::wrote`] reported, until all are written.
    fn chunk(&mut self) -> &[u8];
    /// The first `n` bytes of the chunk have been written.
    fn wrote(&mut self, n: usize);
    /// Whether everything up to the present limits has been written.
    fn is_done(&self) -> bool;
    /// When there will be more although there is nothing now, on the monotonic clock in nanoseconds.
    fn next_due_ns(&self) -> Option<u64> {
        None
    }
}

/// A producer's count and limits, shared with whoever controls the run.
#[derive(Debug, Default)]
pub struct Control {
    /// Messages (or events) put into chunks so far. Written by the producer's thread, read by all.
    sent: AtomicU64,
    /// The total at which the producer stops. Written between phases.
    limit: AtomicU64,
    /// The instant at which the producer stops. Written between phases.
    deadline_ns: AtomicU64,
    /// The instant at which a paced producer begins, and its count then. Written between phases.
    start_ns: AtomicU64,
    first: AtomicU64,
}

impl Control {
    /// A producer that may not send anything yet.
    pub fn new() -> Arc<Control> {
        Arc::default()
    }

    /// Messages sent so far.
    pub fn sent(&self) -> u64 {
        // Relaxed: a counter; what it counts reaches readers through the broker, not through memory.
        self.sent.load(Ordering::Relaxed)
    }

    /// Allows sending up to a total of `limit` messages, from `start_ns` until `deadline_ns`.
    pub fn allow(&self, limit: u64, start_ns: u64, deadline_ns: u64) {
        // Relaxed, all of them: phases begin by spawning threads or on the same thread.
        self.start_ns.store(start_ns, Ordering::Relaxed);
        self.first.store(self.sent(), Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        self.deadline_ns.store(deadline_ns, Ordering::Relaxed);
    }

    /// The schedule of a producer of `per_second` messages: the number of its first message, and its clock.
    fn schedule(&self, per_second: u64) -> (u64, Pace) {
        // Relaxed: see `allow`.
        let start_ns = self.start_ns.load(Ordering::Relaxed);
        (self.first.load(Ordering::Relaxed), Pace::new(start_ns, per_second))
    }

    pub(crate) fn set_sent(&self, sent: u64) {
        // Relaxed: see `sent`.
        self.sent.store(sent, Ordering::Relaxed);
    }

    /// How many more may be sent at `now_ns`.
    pub(crate) fn room(&self, now_ns: u64) -> u64 {
        // Relaxed: see `allow`.
        if now_ns >= self.deadline_ns.load(Ordering::Relaxed) {
            return 0;
        }
        self.limit.load(Ordering::Relaxed).saturating_sub(self.sent())
    }
}

/// How a producer's messages look.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The first field, also what observers select by.
    pub name: String,
    /// Bytes of payload, at least [`crate::payload::HEAD_BYTES`].
    pub payload_bytes: usize,
    /// Events per Turn packet.
    pub events_per_packet: usize,
    /// Further fields after the payload: that many small integers.
    pub extra_fields: usize,
    /// Bytes per write; at least one packet is written at a time.
    pub write_bytes: usize,
}

/// A buffer full of equal packets and the places of the stamps in it.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    stamps_at: Vec<usize>,
    packet_bytes: usize,
    events_per_packet: usize,
}

impl Template {
    /// Repeats one packet; `stamps_at` are the offsets of the payloads in it.
    pub fn repeat(packet: &[u8], stamps_at: &[usize], write_bytes: usize) -> Template {
        let packets = (write_bytes / packet.len()).max(1);
        let places = (0..packets).flat_map(|p| stamps_at.iter().map(move |s| p * packet.len() + s)).collect();
        Template {
            bytes: packet.repeat(packets),
            stamps_at: places,
            packet_bytes: packet.len(),
            events_per_packet: stamps_at.len(),
        }
    }

    /// Turn packets with messages `<Says name payload ...>` to `dataspace`.
    pub fn says(dataspace: u64, shape: &Shape) -> Template {
        let payload = blank(shape.payload_bytes);
        let (mut packet, mut stamps_at) = (vec![], vec![]);
        encode::turn(&mut packet, |out| {
            for _ in 0..shape.events_per_packet {
                encode::message(out, dataspace, |out| {
                    encode::record(out, "Says", |out| {
                        encode::string(out, &shape.name);
                        encode::bytes(out, &payload);
                        stamps_at.push(out.len() - payload.len());
                        (0..shape.extra_fields).for_each(|i| encode::int(out, i as i64));
                    });
                });
            }
        });
        Template::repeat(&packet, &stamps_at, shape.write_bytes)
    }

    /// Stamps the first `packets` packets with numbers from `first` and gives their bytes.
    #[inline]
    fn fill(&mut self, packets: usize, first: u64, mut time: impl FnMut(u64) -> u64) -> usize {
        for (seq, at) in (first..).zip(&self.stamps_at[..packets * self.events_per_packet]) {
            Stamp { seq, sent_ns: time(seq) }.write(&mut self.bytes[*at..]);
        }
        packets * self.packet_bytes
    }

    fn packets(&self) -> usize {
        self.bytes.len() / self.packet_bytes
    }
}

/// Endless numbered messages, as fast as they are taken or at a fixed rate.
#[derive(Debug)]
pub struct Messages {
    template: Template,
    control: Arc<Control>,
    per_second: Option<u64>,
    at: usize,
    end: usize,
}

impl Messages {
    /// Messages after `template`, within the limits of `control`.
    pub fn new(template: Template, control: Arc<Control>) -> Messages {
        Messages { template, control, per_second: None, at: 0, end: 0 }
    }

    /// The same, but each message only when it is due. Wants one event per packet.
    pub fn paced(template: Template, control: Arc<Control>, per_second: u64) -> Messages {
        assert_eq!(template.events_per_packet, 1, "paced messages travel one by one");
        Messages { per_second: Some(per_second), ..Messages::new(template, control) }
    }

    fn refill(&mut self) {
        let now = now_ns();
        let sent = self.control.sent();
        let mut room = self.control.room(now);
        let schedule = self.per_second.map(|rate| self.control.schedule(rate));
        if let Some((first, pace)) = &schedule {
            room = room.min((first + pace.due(now)).saturating_sub(sent));
        }
        let per_packet = self.template.events_per_packet as u64;
        let packets = room.div_ceil(per_packet).min(self.template.packets() as u64) as usize;
        self.at = 0;
        self.end = match &schedule {
            None => self.template.fill(packets, sent, |_| now),
            Some((first, pace)) => self.template.fill(packets, sent, |seq| pace.intended_ns(seq - first)),
        };
        self.control.set_sent(sent + packets as u64 * per_packet);
    }
}

impl Source for Messages {
    fn chunk(&mut self) -> &[u8] {
        if self.at == self.end {
            self.refill();
        }
        &self.template.bytes[self.at..self.end]
    }

    fn wrote(&mut self, n: usize) {
        self.at += n;
    }

    fn is_done(&self) -> bool {
        self.at == self.end && self.control.room(now_ns()) == 0
    }

    fn next_due_ns(&self) -> Option<u64> {
        let (first, pace) = self.control.schedule(self.per_second?);
        Some(pace.intended_ns(self.control.sent() - first))
    }
}

/// Bytes that were encoded beforehand, once.
#[derive(Debug, Default)]
pub struct Bulk {
    bytes: Vec<u8>,
    at: usize,
}

impl Bulk {
    /// All of `bytes`.
    pub fn new(bytes: Vec<u8>) -> Bulk {
        Bulk { bytes, at: 0 }
    }
}

impl Source for Bulk {
    fn chunk(&mut self) -> &[u8] {
        &self.bytes[self.at..self.bytes.len().min(self.at + WRITE_BYTES)]
    }

    fn wrote(&mut self, n: usize) {
        self.at += n;
    }

    fn is_done(&self) -> bool {
        self.at == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::decode::{Event, elements, turn_event};

    fn shape(events_per_packet: usize) -> Shape {
        Shape {
            name: "p0".into(),
            payload_bytes: 64,
            events_per_packet,
            extra_fields: 2,
            write_bytes: WRITE_BYTES,
        }
    }

    /// Numbers of all messages in a chunk, read by the plain decoder.
    fn numbers(mut bytes: &[u8]) -> Vec<u64> {
        let mut out = vec![];
        while !bytes.is_empty() {
            let mut at = 1;
            while bytes[at] != crate::wire::END {
                let (_, event, next) = turn_event(bytes, at).unwrap().unwrap();
                let Event::Message { body } = event else { panic!("{event:?}") };
                let fields = elements(body).unwrap();
                assert_eq!(fields.len(), 4);
                out.push(Stamp::read(&fields[1][2..]).seq);
                at = next;
            }
            bytes = &bytes[at + 1..];
        }
        out
    }

    #[test]
    fn chunks_hold_whole_numbered_packets() {
        for per_packet in [1, 3, 25] {
            let control = Control::new();
            let mut source = Messages::new(Template::says(1, &shape(per_packet)), control.clone());
            assert!(source.is_done() && source.chunk().is_empty());
            control.allow(401, 0, u64::MAX);
            let mut seen = vec![];
            while !source.is_done() {
                let chunk = source.chunk().to_vec();
                assert!(chunk.len() <= WRITE_BYTES && !chunk.is_empty());
                seen.extend(numbers(&chunk));
                source.wrote(5);
                assert_eq!(source.chunk(), &chunk[5..], "a short write repeats the rest");
                source.wrote(chunk.len() - 5);
            }
            let total = 401u64.next_multiple_of(per_packet as u64);
            assert_eq!(seen, (0..total).collect::<Vec<_>>());
            assert_eq!(control.sent(), total);
        }
    }

    #[test]
    fn a_passed_deadline_stops_the_producer() {
        let control = Control::new();
        let mut source = Messages::new(Template::says(1, &shape(1)), control.clone());
        control.allow(u64::MAX, 0, now_ns());
        assert!(source.chunk().is_empty() && source.is_done());
    }

    #[test]
    fn paced_messages_wait_until_they_are_due() {
        let control = Control::new();
        let start = now_ns() + 3_600_000_000_000;
        control.allow(u64::MAX, start, u64::MAX);
        let mut source = Messages::paced(Template::says(1, &shape(1)), control.clone(), 10);
        assert!(source.chunk().is_empty() && !source.is_done());
        assert_eq!(source.next_due_ns(), Some(start));
    }
}
