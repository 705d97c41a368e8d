//! One connection to the broker, and what must be true of what comes by it.

use std::collections::HashMap;
use std::io::ErrorKind;

use staunch_protocols::packet::{Event, Packet, WireRef, write_mine};
use staunch_protocols::text;
use staunch_protocols::wire::{Limits, Progress, Scanner, View, encode, tag};
use staunch_system::net::{Shutdown, Stream};

/// What came, taken together.
#[derive(Default)]
pub(super) struct Told {
    /// What is asserted at our entities: by the encodings of oid and handle.
    pub(super) live: HashMap<(Vec<u8>, Vec<u8>), Vec<u8>>,
    /// The messages that came since somebody looked: oid and body.
    pub(super) messages: Vec<(i64, Vec<u8>)>,
    /// Syncs since somebody looked: the encodings of the oids that wait for the answer.
    pub(super) asked: Vec<Vec<u8>>,
    /// The message of an Error packet, which is the last one.
    pub(super) error: Option<String>,
}

pub(super) struct Peer {
    stream: Stream,
    is_over_tcp: bool,
    pub(super) reads: bool,
    unsent: Vec<u8>,
    /// Once `unsent` is sent.
    ends_after: bool,
    unread: Vec<u8>,
    pub(super) has_ended: bool,
    pub(super) told: Told,
    scanner: Scanner,
}

impl Peer {
    pub(super) fn new(stream: Stream) -> Peer {
        Peer {
            is_over_tcp: stream.is_tcp(),
            stream,
            reads: true,
            unsent: Vec::new(),
            ends_after: false,
            unread: Vec::new(),
            has_ended: false,
            told: Told::default(),
            scanner: Scanner::new(Limits::default()),
        }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        if !self.ends_after {
            self.unsent.extend_from_slice(bytes);
            self.push();
        }
    }

    /// Ends the sending direction, behind what waits to be sent.
    pub(super) fn finish(&mut self) {
        self.ends_after = true;
        self.push();
    }

    /// Goes, whatever waits. A connection over TCP is reset, so that its port does not stay taken.
    pub(super) fn leave(self) {
        if self.is_over_tcp {
            let _ = rustix::net::sockopt::set_socket_linger(&self.stream, Some(std::time::Duration::ZERO));
        }
    }

    /// Sends what the kernel takes.
    pub(super) fn push(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(written) => _ = self.unsent.drain(..written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.unsent.clear(),
            }
        }
        if std::mem::take(&mut self.ends_after) {
            let _ = self.stream.shutdown(Shutdown::Write);
            self.ends_after = true;
        }
    }

    /// Sends, and reads what is there.
    pub(super) fn drain(&mut self, buffer: &mut [u8]) {
        self.push();
        while !self.has_ended {
            match self.stream.read(buffer) {
                Ok(0) => self.has_ended = true,
                Ok(read) => self.unread.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The broker may close with something of ours unread.
                Err(_) => {
                    self.has_ended = true;
                    self.unread.clear();
                }
            }
        }
        self.parse();
    }

    /// Takes the packets that have come whole.
    fn parse(&mut self) {
        let Peer { unread, scanner, told, has_ended, .. } = self;
        let mut done = 0;
        while done < unread.len() {
            let rest = &unread[done..];
            scanner.reset();
            // Each packet begins in the syntax of what was sent last.
            if rest[0] < 0x80 {
                let Some(end) = rest.iter().position(|b| *b == b'\n') else { break };
                let line = std::str::from_utf8(&rest[..end]).expect("the broker sends text");
                let line = text::parse(line, &Limits::default()).expect("the broker sends packets in text");
                assert!(matches!(scanner.scan(&line), Ok(Progress::Complete(_))));
                told.take(scanner.view(&line));
                done += end + 1;
                continue;
            }
            match scanner.scan(rest).expect("the broker sends packets") {
                Progress::Complete(length) => {
                    assert!(scanner.is_canonical());
                    told.take(scanner.view(&rest[..length]));
                    done += length;
                }
                Progress::Incomplete(_) => break,
            }
        }
        unread.drain(..done);
        assert!(!*has_ended || unread.is_empty(), "the connection ends within a packet: {unread:02x?}");
    }
}

impl Told {
    fn take(&mut self, packet: View<'_>) {
        assert!(self.error.is_none(), "something follows an Error packet");
        match Packet::read(packet).expect("the broker sends packets") {
            Packet::Turn(turn) => {
                for event in turn.events() {
                    let event = event.expect("the broker sends events");
                    self.event(event.oid, event.event);
                }
            }
            Packet::Error { message, .. } => self.error = Some(message.to_owned()),
            Packet::Nop | Packet::Extension(_) => {}
        }
    }

    fn event(&mut self, oid: View<'_>, event: Event<'_>) {
        let key = |handle: View<'_>| (oid.span().to_vec(), handle.span().to_vec());
        match event {
            Event::Assert { assertion, handle } => {
                check_references(assertion);
                let before = self.live.insert(key(handle), assertion.span().to_vec());
                assert!(before.is_none(), "asserted twice under one handle: {before:02x?}");
            }
            Event::Retract { handle } => {
                assert!(self.live.remove(&key(handle)).is_some(), "retracted what was not told");
            }
            Event::Message { body } => {
                check_references(body);
                if let Some(oid) = oid.as_i64() {
                    self.messages.push((oid, body.span().to_vec()));
                }
            }
            Event::Sync { peer } => {
                check_references(peer);
                if let Ok(WireRef::Mine(number)) = WireRef::read(peer) {
                    let mut oid = Vec::new();
                    number.write(&mut oid);
                    self.asked.push(oid);
                }
            }
        }
    }
}

/// Each capability that comes is a reference on the wire.
fn check_references(value: View<'_>) {
    for token in value.token()..value.token() + value.tokens() {
        let at = value.at(token);
        assert!(at.tag() != tag::EMBEDDED || WireRef::read(at).is_ok(), "{:02x?}", at.span());
    }
}

/// A turn of one message.
pub(super) fn message(oid: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag::SEQUENCE, tag::SEQUENCE];
    out.extend_from_slice(oid);
    encode::record(&mut out, "M");
    out.extend_from_slice(body);
    out.extend_from_slice(&[tag::END; 3]);
    out
}

/// An event with what varies in it: `[oid <kind value handle>]`; without a handle for a message, or a Sync.
pub(super) fn event(out: &mut Vec<u8>, oid: i64, kind: &str, value: &[u8], handle: Option<i64>) {
    encode::sequence(out);
    encode::int(out, oid);
    encode::record(out, kind);
    out.extend_from_slice(value);
    if let Some(handle) = handle {
        encode::int(out, handle);
    }
    encode::end(out);
    encode::end(out);
}

/// `#:[0 oid]`.
pub(super) fn mine(oid: u64) -> Vec<u8> {
    let mut out = Vec::new();
    write_mine(&mut out, oid);
    out
}

/// The canonical bytes of a value given as text.
pub(super) fn bytes(value: &str) -> Vec<u8> {
    text::parse(value, &Limits::default()).unwrap_or_else(|error| panic!("{value}: {error}"))
}
