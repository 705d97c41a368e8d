//! Cuts a broker's output into events, however the reads split it.
//!
//! Almost all input of a load run is one message shape repeated: the same bytes around a payload of constant
//! length. The first message is taken apart field by field; its surroundings are remembered, and every later
//! event that has the same ones costs two comparisons. Anything else takes the slow path, so the fast one
//! assumes nothing about the broker.
//!
//! Bodies beyond [`LARGE_BYTES`] are passed on in pieces, so that a thousand connections in the middle of a
//! megabyte each need no buffers.

use super::decode::{Event, Malformed, Scan, counted, exactly, need, skip, turn_event, unsigned, varint};
use super::{BYTES, END, FALSE, RECORD, SEQUENCE, STRING, SYMBOL};
use crate::payload::HEAD_BYTES;

/// Payloads longer than this are streamed rather than gathered.
pub const LARGE_BYTES: usize = 32 * 1024;

/// Longest surroundings of a payload that are remembered.
const SHAPE_BYTES_MAX: usize = 128;

/// What takes a session's events.
pub trait Handler {
    /// Who takes payloads sent to `oid`; `name` is the first string field before the payload, if there is one.
    /// `None` counts as a misdelivery (see [`Handler::stray`]). The answer is remembered for equal surroundings.
    fn slot(&mut self, oid: u64, name: Option<&[u8]>) -> Option<u32>;
    /// A message came whole. `payload` is all of it, or its first [`HEAD_BYTES`] if it was streamed.
    fn payload(&mut self, slot: u32, payload: &[u8]);
    /// A piece of a large payload, `offset` bytes from its start.
    fn piece(&mut self, slot: u32, offset: usize, bytes: &[u8]);
    /// A message that nobody expects.
    fn stray(&mut self, oid: u64);
    /// Any event that is not a message with a payload.
    fn event(&mut self, oid: u64, event: Event<'_>) -> Result<(), Malformed>;
    /// The peer sent an Error packet: its text.
    fn failed(&mut self, text: &[u8]);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a packet.
    Outside,
    /// Within a Turn, before an event or its end.
    Turn,
    /// Within a large payload.
    Body { slot: Option<u32>, head: [u8; HEAD_BYTES], offset: usize, len: usize },
    /// After a large payload, `depth` end markers before the end of its event.
    Tail { slot: Option<u32>, head: [u8; HEAD_BYTES], depth: u32 },
}

/// The surroundings of a payload, as last seen.
#[derive(Debug, Default)]
struct Shape {
    prefix: Vec<u8>,
    payload_len: usize,
    suffix: Vec<u8>,
    slot: u32,
}

/// Decoder for one session's input.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    shape: Option<Shape>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { state: State::Outside, shape: None }
    }
}

/// Where an event's payload lies.
struct Place<'a> {
    oid: u64,
    name: Option<&'a [u8]>,
    at: usize,
    len: usize,
}

impl Decoder {
    /// Takes what it can from `buf` and returns how many bytes it took; the caller presents the rest again, with
    /// more behind it. Cost is linear in the bytes taken, plus one attempt at the event that is cut off.
    pub fn feed<H: Handler>(&mut self, buf: &[u8], h: &mut H) -> Result<usize, Malformed> {
        let mut at = 0;
        loop {
            let next = match self.state {
                State::Outside => self.outside(buf, at, h)?,
                State::Turn => match self.fast(buf, at, h) {
                    Some(next) => Some(next),
                    None => self.in_turn(buf, at, h)?,
                },
                State::Body { slot, head, offset, len } => self.body(buf, at, h, slot, head, offset, len),
                State::Tail { slot, head, depth } => self.tail(buf, at, h, slot, head, depth)?,
            };
            match next {
                Some(next) => at = next,
                None => return Ok(at),
            }
        }
    }

    /// Whether the input so far ends between two packets.
    pub fn is_between_packets(&self) -> bool {
        self.state == State::Outside
    }

    fn outside<H: Handler>(&mut self, buf: &[u8], at: usize, h: &mut H) -> Scan<usize> {
        match buf.get(at) {
            None => Ok(None),
            Some(&FALSE) => Ok(Some(at + 1)),
            Some(&SEQUENCE) => {
                self.state = State::Turn;
                Ok(Some(at + 1))
            }
            Some(&RECORD) => {
                let end = need!(skip(buf, at));
                let record = &buf[at..end];
                if super::decode::label(record) == Some(b"error") {
                    let fields = super::decode::elements(record).unwrap_or_default();
                    let text = fields.first().and_then(|f| counted(f, 0, STRING).ok().flatten());
                    h.failed(text.map_or(b"(no text)", |(text, _)| text));
                }
                Ok(Some(end))
            }
            Some(tag) => Err(Malformed::new(at, format!("no packet begins with {tag:#x}"))),
        }
    }

    #[inline]
    fn fast<H: Handler>(&mut self, buf: &[u8], at: usize, h: &mut H) -> Option<usize> {
        let shape = self.shape.as_ref()?;
        let payload_at = at + shape.prefix.len();
        let suffix_at = payload_at + shape.payload_len;
        let end = suffix_at + shape.suffix.len();
        if end > buf.len()
            || buf[at..payload_at] != shape.prefix[..]
            || buf[suffix_at..end] != shape.suffix[..]
        {
            return None;
        }
        h.payload(shape.slot, &buf[payload_at..suffix_at]);
        // Nearly always the event is alone in its packet and another like it follows.
        match buf.get(end..end + 2) {
            Some(&[END, SEQUENCE]) => Some(end + 2),
            _ => Some(end),
        }
    }

    fn in_turn<H: Handler>(&mut self, buf: &[u8], at: usize, h: &mut H) -> Scan<usize> {
        if let Some(&END) = buf.get(at) {
            self.state = State::Outside;
            return Ok(Some(at + 1));
        }
        let Some(place) = need!(find_payload(buf, at)) else {
            let (oid, event, end) = need!(turn_event(buf, at));
            h.event(oid, event)?;
            return Ok(Some(end));
        };
        let payload_end = place.at + place.len;
        if payload_end > buf.len() {
            if place.len <= LARGE_BYTES || buf.len() < place.at + HEAD_BYTES {
                return Ok(None);
            }
            let slot = h.slot(place.oid, place.name);
            let head = buf[place.at..place.at + HEAD_BYTES].try_into().expect("a head's length");
            self.state = State::Body { slot, head, offset: 0, len: place.len };
            if slot.is_none() {
                h.stray(place.oid);
            }
            return Ok(Some(place.at));
        }
        let end = need!(close(buf, payload_end, &mut 3));
        match h.slot(place.oid, place.name) {
            None => h.stray(place.oid),
            Some(slot) => {
                h.payload(slot, &buf[place.at..payload_end]);
                if place.at - at <= SHAPE_BYTES_MAX && end - payload_end <= SHAPE_BYTES_MAX {
                    let shape = self.shape.get_or_insert_default();
                    shape.prefix.clear();
                    shape.prefix.extend_from_slice(&buf[at..place.at]);
                    shape.suffix.clear();
                    shape.suffix.extend_from_slice(&buf[payload_end..end]);
                    (shape.payload_len, shape.slot) = (place.len, slot);
                }
            }
        }
        Ok(Some(end))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one state")]
    fn body<H: Handler>(
        &mut self,
        buf: &[u8],
        at: usize,
        h: &mut H,
        slot: Option<u32>,
        head: [u8; HEAD_BYTES],
        offset: usize,
        len: usize,
    ) -> Option<usize> {
        let n = (len - offset).min(buf.len() - at);
        if n == 0 {
            return None;
        }
        if let Some(slot) = slot {
            h.piece(slot, offset, &buf[at..at + n]);
        }
        self.state = if offset + n == len {
            State::Tail { slot, head, depth: 3 }
        } else {
            State::Body { slot, head, offset: offset + n, len }
        };
        Some(at + n)
    }

    fn tail<H: Handler>(
        &mut self,
        buf: &[u8],
        at: usize,
        h: &mut H,
        slot: Option<u32>,
        head: [u8; HEAD_BYTES],
        mut depth: u32,
    ) -> Scan<usize> {
        let Some(end) = close(buf, at, &mut depth)? else { return Ok(None) };
        if let Some(slot) = slot {
            h.payload(slot, &head);
        }
        self.state = State::Turn;
        Ok(Some(end))
    }
}

/// Skips values and end markers until `depth` compounds are closed.
fn close(buf: &[u8], mut at: usize, depth: &mut u32) -> Scan<usize> {
    while *depth > 0 {
        match buf.get(at) {
            None => return Ok(None),
            Some(&END) => {
                *depth -= 1;
                at += 1;
            }
            Some(_) => at = need!(skip(buf, at)),
        }
    }
    Ok(Some(at))
}

/// Looks into the event at `at`: if it is a message whose body is a compound with a byte string of at least
/// [`HEAD_BYTES`], says where that lies, even if it is not all there yet. `Some(None)` for any other event.
fn find_payload(buf: &[u8], at: usize) -> Scan<Option<Place<'_>>> {
    let at = need!(exactly(buf, at, SEQUENCE));
    let (oid, at) = need!(unsigned(buf, at));
    let at = need!(exactly(buf, at, RECORD));
    let (label, at) = need!(counted(buf, at, SYMBOL));
    if label != b"M" {
        return Ok(Some(None));
    }
    let mut at = match buf.get(at) {
        None => return Ok(None),
        Some(&SEQUENCE) => at + 1,
        Some(&RECORD) => need!(skip(buf, at + 1)),
        Some(_) => return Ok(Some(None)),
    };
    let mut name = None;
    loop {
        match buf.get(at) {
            None => return Ok(None),
            Some(&END) => return Ok(Some(None)),
            Some(&BYTES) => {
                let (len, start) = need!(varint(buf, at + 1));
                let place = Place { oid, name, at: start, len };
                return Ok(Some((len >= HEAD_BYTES).then_some(place)));
            }
            Some(&STRING) if name.is_none() => {
                let (bytes, end) = need!(counted(buf, at, STRING));
                name = Some(bytes);
                at = end;
            }
            Some(_) => at = need!(skip(buf, at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;

    #[derive(Default, Debug, PartialEq)]
    struct Log {
        lines: Vec<String>,
        large: Vec<u8>,
    }

    impl Handler for Log {
        fn slot(&mut self, oid: u64, name: Option<&[u8]>) -> Option<u32> {
            let named = name.map_or(0, |n| u32::from(n[1] - b'0') + 100);
            (oid != 66).then_some(oid as u32 + named)
        }
        fn payload(&mut self, slot: u32, payload: &[u8]) {
            self.lines.push(format!("{slot}:{}", payload[7]));
        }
        fn piece(&mut self, _slot: u32, offset: usize, bytes: &[u8]) {
            assert_eq!(self.large.len(), offset);
            self.large.extend_from_slice(bytes);
        }
        fn stray(&mut self, oid: u64) {
            self.lines.push(format!("stray {oid}"));
        }
        fn event(&mut self, oid: u64, event: Event<'_>) -> Result<(), Malformed> {
            self.lines.push(format!("{oid} {event:?}"));
            Ok(())
        }
        fn failed(&mut self, text: &[u8]) {
            self.lines.push(format!("error {}", String::from_utf8_lossy(text)));
        }
    }

    fn captures(out: &mut Vec<u8>, oid: u64, name: Option<&str>, seq: u8, len: usize) {
        encode::message(out, oid, |out| {
            out.push(SEQUENCE);
            if let Some(name) = name {
                encode::string(out, name);
            }
            let mut payload = vec![0; len];
            payload[7] = seq;
            encode::bytes(out, &payload);
            out.push(END);
        });
    }

    fn sample() -> Vec<u8> {
        let mut out = vec![FALSE];
        for seq in 0..3 {
            encode::turn(&mut out, |out| captures(out, 2, None, seq, 24));
        }
        encode::turn(&mut out, |out| {
            captures(out, 2, None, 3, 24);
            captures(out, 3, Some("p4"), 4, 24);
            encode::assert(out, 5, 77, |out| encode::string(out, "x"));
            captures(out, 66, None, 9, 24);
        });
        encode::record(&mut out, "do", |out| encode::string(out, "x"));
        encode::turn(&mut out, |out| encode::message(out, 9, |out| out.push(super::super::TRUE)));
        encode::turn(&mut out, |out| {
            encode::message(out, 2, |out| {
                encode::record(out, "Says", |out| {
                    encode::string(out, "p0");
                    encode::bytes(out, &[5; 24]);
                    encode::int(out, 1);
                });
            });
        });
        encode::turn(&mut out, |_| {});
        encode::record(&mut out, "error", |out| {
            encode::string(out, "bye");
            out.push(FALSE);
        });
        out
    }

    const EXPECT: [&str; 10] = [
        "2:0",
        "2:1",
        "2:2",
        "2:3",
        "107:4",
        "5 Assert { value: [177, 1, 120], handle: 77 }",
        "stray 66",
        "9 Message { body: [129] }",
        "102:5",
        "error bye",
    ];

    /// Feeds pieces as a reader does: what was not taken comes again with the next piece behind it.
    fn run(pieces: &[&[u8]]) -> Log {
        let (mut log, mut decoder, mut kept) = (Log::default(), Decoder::default(), vec![]);
        for piece in pieces {
            kept.extend_from_slice(piece);
            let taken = decoder.feed(&kept, &mut log).unwrap();
            kept.drain(..taken);
        }
        assert!(kept.is_empty() && decoder.is_between_packets());
        log
    }

    #[test]
    fn a_split_at_any_offset_changes_nothing() {
        let bytes = sample();
        assert_eq!(run(&[&bytes]).lines, EXPECT);
        for cut in 0..=bytes.len() {
            assert_eq!(run(&[&bytes[..cut], &bytes[cut..]]).lines, EXPECT, "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(run(&single).lines, EXPECT);
    }

    #[test]
    fn large_bodies_are_streamed_from_any_split() {
        let mut bytes = vec![];
        encode::turn(&mut bytes, |out| captures(out, 2, Some("p0"), 1, LARGE_BYTES + 1));
        encode::turn(&mut bytes, |out| captures(out, 2, Some("p0"), 2, 24));
        for cut in (0..80).chain(bytes.len() - 60..bytes.len()) {
            let log = run(&[&bytes[..cut], &bytes[cut..]]);
            assert_eq!(log.lines, ["102:1", "102:2"], "cut at {cut}");
        }
        let in_thousands: Vec<&[u8]> = bytes.chunks(1000).collect();
        assert_eq!(run(&in_thousands).large.len(), LARGE_BYTES + 1);
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&b"\x81"[..], b"\xb5\x80", b"\xb5\xb5\xb0\x01\x01\xb4\xb3\x01X\x84\x84", b"hello"] {
            assert!(Decoder::default().feed(bytes, &mut Log::default()).is_err(), "{bytes:x?}");
        }
    }
}
