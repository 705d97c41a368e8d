//! A client of the tour: one TCP session, with blocking reads and writes that give up after a while.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use staunch_protocols::packet::{Event, Packet, WireRef, frame, write_mine};
use staunch_protocols::wire::{Int, Limits, Progress, Scanner, View, encode, tag};
use staunch_system::net::{Buffers, Stream};

use super::Error;

/// The signature of the reference `"syndicate"` under the empty key.
const WELL_KNOWN_SIG: [u8; 16] =
    [0x69, 0xca, 0x30, 0x0c, 0x1d, 0xbf, 0xa0, 0x8f, 0xba, 0x69, 0x21, 0x02, 0xdd, 0x82, 0x31, 0x1a];
/// The gatekeeper, as every broker exports it.
const GATEKEEPER: u64 = 0;
/// Our entity that hears what the gatekeeper answers and when a Sync is done.
const ANSWERS: u64 = 0;
/// Our entity that observes.
const OBSERVER: u64 = 1;
/// How long one call may wait for the socket before the caller looks up.
const CALL_TIMEOUT: Duration = Duration::from_millis(20);
/// How long the broker may take to answer while the tour is being set up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A session with the broker.
pub(super) struct Client {
    stream: TcpStream,
    address: SocketAddr,
    scanner: Scanner,
    /// What has been read; its first byte starts a packet.
    input: Vec<u8>,
    dataspace: Int,
    next_handle: i64,
}

/// Which of the client's entities an event is for, and what it says.
pub(super) enum Heard<'a> {
    /// An answer of the gatekeeper's, or the end of a Sync.
    Answer(Event<'a>),
    /// What a message that matches the pattern has in the places captured.
    Captures(View<'a>),
}

impl Client {
    /// Connects, lets the kernel buffer as little as `buffers` says, and resolves the well-known reference.
    pub(super) fn open(broker: SocketAddr, buffers: Buffers) -> Result<Client, Error> {
        let doing = |what| move |error| Error::Io(what, error);
        let stream = Stream::connect_tcp(broker, buffers).map_err(doing("connecting to the broker"))?;
        // A write to a blocking socket waits until it is connected.
        let stream = TcpStream::from(stream.into_fd());
        let settle = || {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(CALL_TIMEOUT))?;
            stream.set_write_timeout(Some(CALL_TIMEOUT))?;
            stream.local_addr()
        };
        let address = settle().map_err(doing("preparing a socket"))?;
        let mut client = Client {
            stream,
            address,
            scanner: Scanner::new(Limits::default()),
            input: Vec::new(),
            dataspace: Int::Small(0),
            next_handle: 1,
        };
        client.resolve()?;
        Ok(client)
    }

    /// What the broker calls this connection.
    pub(super) fn name(&self) -> String {
        format!("tcp:{}", self.address)
    }

    fn resolve(&mut self) -> Result<(), Error> {
        let mut question = Vec::new();
        encode::record(&mut question, "resolve");
        encode::record(&mut question, "ref");
        question.push(tag::DICTIONARY);
        encode::symbol(&mut question, "oid");
        encode::string(&mut question, "syndicate");
        encode::symbol(&mut question, "sig");
        encode::bytes(&mut question, &WELL_KNOWN_SIG);
        encode::end(&mut question);
        encode::end(&mut question);
        write_mine(&mut question, ANSWERS);
        encode::end(&mut question);
        self.assert(&Int::Small(GATEKEEPER as i64), &question)?;
        let mut dataspace = None;
        self.wait("the gatekeeper's answer", |event| {
            let Event::Assert { assertion, .. } = event else { return false };
            let reference = assertion.index(0).filter(|_| assertion.is_record("ok", 1));
            if let Some(Ok(WireRef::Mine(oid))) = reference.map(WireRef::read) {
                dataspace = Some(oid);
            }
            true
        })?;
        self.dataspace = dataspace.ok_or(Error::Refused)?;
        Ok(())
    }

    /// Observes records `<label A B>`, capturing both fields, and waits until the dataspace has taken notice.
    pub(super) fn observe(&mut self, label: &str) -> Result<(), Error> {
        let mut observe = Vec::new();
        encode::record(&mut observe, "Observe");
        encode::record(&mut observe, "group");
        encode::record(&mut observe, "rec");
        encode::symbol(&mut observe, label);
        encode::end(&mut observe);
        observe.push(tag::DICTIONARY);
        for field in 0..2 {
            encode::int(&mut observe, field);
            encode::record(&mut observe, "bind");
            encode::record(&mut observe, "_");
            encode::end(&mut observe);
            encode::end(&mut observe);
        }
        encode::end(&mut observe);
        encode::end(&mut observe);
        write_mine(&mut observe, OBSERVER);
        encode::end(&mut observe);
        let dataspace = self.dataspace.clone();
        self.assert(&dataspace, &observe)?;
        let mut sync = vec![tag::SEQUENCE];
        frame::open(&mut sync, &dataspace, b'S');
        write_mine(&mut sync, ANSWERS);
        sync.extend_from_slice(&frame::CLOSE);
        sync.push(tag::END);
        self.send(&sync)?;
        self.wait("the end of a Sync", |event| matches!(event, Event::Message { .. }))
    }

    fn assert(&mut self, oid: &Int, value: &[u8]) -> Result<(), Error> {
        let mut packet = vec![tag::SEQUENCE];
        frame::open(&mut packet, oid, b'A');
        packet.extend_from_slice(value);
        encode::int(&mut packet, self.next_handle);
        self.next_handle += 1;
        packet.extend_from_slice(&frame::CLOSE);
        packet.push(tag::END);
        self.send(&packet)
    }

    /// Appends the event that sends `<label number text>` to the dataspace.
    pub(super) fn write_message(&self, out: &mut Vec<u8>, label: &str, number: u64, text: &str) {
        frame::open(out, &self.dataspace, b'M');
        encode::record(out, label);
        encode::uint(out, number);
        encode::string(out, text);
        encode::end(out);
        out.extend_from_slice(&frame::CLOSE);
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        let start = Instant::now();
        while !bytes.is_empty() {
            bytes = &bytes[self.write(bytes)?..];
            if start.elapsed() > ANSWER_TIMEOUT {
                return Err(Error::Late("the broker to read", ANSWER_TIMEOUT));
            }
        }
        Ok(())
    }

    /// Writes what the kernel takes now or soon; zero if it takes nothing.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        match self.stream.write(bytes) {
            Ok(written) => Ok(written),
            Err(error) if is_timeout(&error) => Ok(0),
            Err(error) => Err(Error::Io("writing to the broker", error)),
        }
    }

    /// Hears events until an answer satisfies `is_it`.
    fn wait(&mut self, what: &'static str, mut is_it: impl FnMut(Event<'_>) -> bool) -> Result<(), Error> {
        let start = Instant::now();
        let mut found = false;
        while !found {
            self.hear(|heard| {
                if let Heard::Answer(event) = heard {
                    found |= is_it(event);
                }
                Ok(())
            })?;
            if start.elapsed() > ANSWER_TIMEOUT {
                return Err(Error::Late(what, ANSWER_TIMEOUT));
            }
        }
        Ok(())
    }

    /// Reads what is there or comes soon, and hands over the events in it.
    pub(super) fn hear(&mut self, mut take: impl FnMut(Heard<'_>) -> Result<(), Error>) -> Result<(), Error> {
        let mut chunk = [0; 32 << 10];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Err(Error::Closed),
            Ok(read) => self.input.extend_from_slice(&chunk[..read]),
            Err(error) if is_timeout(&error) => return Ok(()),
            Err(error) => return Err(Error::Io("reading from the broker", error)),
        }
        let malformed = |what: &dyn std::fmt::Display| Error::Malformed(what.to_string());
        let mut done = 0;
        while done < self.input.len() {
            let rest = &self.input[done..];
            let Progress::Complete(length) = self.scanner.scan(rest).map_err(|e| malformed(&e))? else {
                break;
            };
            match Packet::read(self.scanner.view(&rest[..length])).map_err(|e| malformed(&e))? {
                Packet::Turn(turn) => {
                    for event in turn.events() {
                        let event = event.map_err(|e| malformed(&e))?;
                        take(match (event.oid.as_i64(), event.event) {
                            (Some(oid), Event::Message { body }) if oid == OBSERVER as i64 => {
                                Heard::Captures(body)
                            }
                            (_, event) => Heard::Answer(event),
                        })?;
                    }
                }
                Packet::Error { message, .. } => return Err(Error::Peer(message.to_owned())),
                Packet::Nop | Packet::Extension(_) => {}
            }
            self.scanner.reset();
            done += length;
        }
        self.input.drain(..done);
        Ok(())
    }
}

/// Nothing could be read or written within the time for one call.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
