//! Sessions of protocols in which each message is one frame with its topic and its payload.

use crate::check::Faults;
use crate::payload::HEAD_BYTES;
use crate::sink::{Intake, OBSERVER_OID, Sink, Subscriptions};
use crate::wire::decode::Malformed;

/// What stands at the beginning of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Not all of a frame.
    Incomplete,
    /// So many bytes that are no message.
    Other(usize),
    /// A message, and its length with all around it.
    Message {
        /// Its topic.
        topic: &'a [u8],
        /// Its payload.
        payload: &'a [u8],
        /// Bytes of all of it.
        len: usize,
    },
    /// The broker complains; the length of that.
    Failed(&'a [u8], usize),
}

/// Finds frames.
pub type Next = fn(&[u8]) -> Result<Frame<'_>, Malformed>;

/// A session with subscriptions.
pub struct Framed {
    next: Next,
    subscriptions: Subscriptions,
    /// The topic last seen, and the checker it belongs to.
    last: Option<(Vec<u8>, u32)>,
}

impl Framed {
    /// A session whose frames `next` finds.
    pub fn new(next: Next, subscriptions: Subscriptions) -> Framed {
        Framed { next, subscriptions, last: None }
    }

    fn message(&mut self, topic: &[u8], payload: &[u8], intake: &mut Intake) {
        let known = self.last.as_ref().filter(|(last, _)| last == topic).map(|(_, checker)| *checker);
        let checker = known.or_else(|| self.subscriptions.find(OBSERVER_OID, Some(topic)));
        match checker {
            Some(checker) if payload.len() >= HEAD_BYTES => {
                if known.is_none() {
                    self.last = Some((topic.to_vec(), checker));
                }
                self.subscriptions.take(checker, payload, intake);
            }
            _ => intake.misdelivered += 1,
        }
    }
}

impl Sink for Framed {
    fn data(&mut self, buf: &[u8], intake: &mut Intake) -> Result<usize, Malformed> {
        let mut at = 0;
        loop {
            match (self.next)(&buf[at..])? {
                Frame::Incomplete => return Ok(at),
                Frame::Other(n) => at += n,
                Frame::Message { topic, payload, len } => {
                    self.message(topic, payload, intake);
                    at += len;
                }
                Frame::Failed(text, n) => {
                    intake.failure = Some(String::from_utf8_lossy(text).trim().to_owned());
                    at += n;
                }
            }
        }
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

/// The offset after the first line break.
pub(super) fn line_end(buf: &[u8]) -> Option<usize> {
    buf.iter().position(|b| *b == b'\n').map(|at| at + 1)
}

/// Checks a protocol's frames, split anywhere: `frame` encodes a delivery of number `seq` on a topic.
#[cfg(test)]
pub(super) fn check(next: Next, preface: &[u8], frame: impl Fn(&str, &[u8]) -> Vec<u8>) {
    use crate::payload::{Stamp, blank};
    use crate::sink::Scrutiny;
    let mut bytes = preface.to_vec();
    for (topic, seq) in [("a0", 0u64), ("a0", 1), ("a1", 0), ("a9", 0), ("a0", 2)] {
        let mut payload = blank(300);
        Stamp { seq, sent_ns: 0 }.write(&mut payload);
        bytes.extend(frame(topic, &payload));
    }
    for cut in 0..=bytes.len() {
        let scrutiny = Scrutiny { time_every: 1, body_every: 1 };
        let mut sink = Framed::new(next, Subscriptions::by_literal(vec![0, 1], 300, scrutiny));
        let mut intake = Intake::default();
        let taken = sink.data(&bytes[..cut], &mut intake).unwrap();
        assert_eq!(sink.data(&bytes[taken..], &mut intake), Ok(bytes.len() - taken), "cut at {cut}");
        assert_eq!((intake.delivered, intake.misdelivered, intake.damaged), (4, 1, 0));
        assert_eq!(sink.faults(&[3, 1]).total(), 0);
    }
}
