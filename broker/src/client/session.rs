//! One session: our handles and entities, and the dataspace behind a sturdyref.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use staunch_protocols::packet::{Event, Packet, WireRef, frame, write_mine};
use staunch_protocols::sturdy::SturdyRef;
use staunch_protocols::text;
use staunch_protocols::wire::{Int, View, encode, tag};
use staunch_system::wait::{Found, Wish};

use super::connection::Connection;
use super::{BrokerAddress, Error};

/// The gatekeeper, as every broker exports it, or whatever else the peer starts from.
const GATEKEEPER: Int = Int::Small(0);
/// Our entity that hears what the gatekeeper answers.
const ANSWERS: i64 = 0;

/// A session with a broker, in which a sturdyref has been resolved. Ends when it is dropped; what it asserted is
/// retracted then.
pub struct Session {
    connection: Connection,
    dataspace: Int,
    next_handle: u64,
    next_oid: i64,
}

impl Session {
    /// Connects and resolves the sturdyref. Blocks for about `patience` at most.
    ///
    /// # Errors
    /// [`Error`], each as described there. [`Error::Unbound`] only if the broker shows that it lives, and yet does not
    /// answer: by the protocol an answer follows when something is bound to the oid.
    pub fn open(
        address: &BrokerAddress,
        sturdyref: &SturdyRef,
        patience: Duration,
    ) -> Result<Session, Error> {
        Session::begin(address, Some(sturdyref), patience)
    }

    /// Connects to a broker that has the dataspace at hand: whoever it gives its peer to start from, as a rule for Unix
    /// sockets does. Blocks for about `patience` at most.
    ///
    /// # Errors
    /// [`Error`], each as described there.
    pub fn open_direct(address: &BrokerAddress, patience: Duration) -> Result<Session, Error> {
        Session::begin(address, None, patience)
    }

    fn begin(
        address: &BrokerAddress,
        sturdyref: Option<&SturdyRef>,
        patience: Duration,
    ) -> Result<Session, Error> {
        let start = Instant::now();
        let connection = Connection::new(address.connect(patience)?);
        let mut session =
            Session { connection, dataspace: GATEKEEPER, next_handle: 1, next_oid: ANSWERS + 1 };
        if let Some(sturdyref) = sturdyref {
            session.ask(sturdyref);
        }
        // Answered at once, whatever becomes of the question, by a broker that lives.
        let life = session.sync();
        let (mut answer, mut is_alive) = (None, false);
        while answer.is_none() && !(is_alive && sturdyref.is_none()) {
            session.flush()?;
            let has_heard = session.hear(|oid, event| {
                match event {
                    Event::Assert { assertion, .. } if oid == ANSWERS => {
                        answer = Some(read_answer(assertion))
                    }
                    Event::Message { .. } if oid == life => is_alive = true,
                    _ => {}
                }
                Ok(())
            })?;
            if has_heard {
                continue;
            }
            let left = patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(if is_alive { Error::Unbound(patience) } else { Error::Silent(patience) });
            }
            session.wait(&[], Some(left))?;
        }
        if let Some(answer) = answer {
            session.dataspace = answer?;
        }
        Ok(session)
    }

    /// Asks the gatekeeper what a sturdyref stands for.
    fn ask(&mut self, sturdyref: &SturdyRef) {
        let mut question = Vec::new();
        encode::record(&mut question, "resolve");
        sturdyref.write(&mut question);
        write_mine(&mut question, ANSWERS as u64);
        encode::end(&mut question);
        self.assert([&question[..]]);
    }

    /// Asserts canonical values without capabilities, all in one turn.
    pub fn assert<'v>(&mut self, values: impl IntoIterator<Item = &'v [u8]>) {
        let out = self.connection.output();
        out.push(tag::SEQUENCE);
        for value in values {
            frame::open(out, &self.dataspace, b'A');
            out.extend_from_slice(value);
            encode::uint(out, self.next_handle);
            out.extend_from_slice(&frame::CLOSE);
            self.next_handle += 1;
        }
        out.push(tag::END);
    }

    /// Sends a canonical value without capabilities as a message, in a turn of its own.
    pub fn message(&mut self, value: &[u8]) {
        let out = self.connection.output();
        out.push(tag::SEQUENCE);
        frame::open(out, &self.dataspace, b'M');
        out.extend_from_slice(value);
        out.extend_from_slice(&frame::CLOSE);
        out.push(tag::END);
    }

    /// Observes a dataspace pattern, a canonical value without capabilities.
    ///
    /// # Returns
    /// Our entity that will hear captures.
    pub fn observe(&mut self, pattern: &[u8]) -> i64 {
        let oid = self.new_oid();
        let mut observe = Vec::with_capacity(pattern.len() + 32);
        encode::record(&mut observe, "Observe");
        observe.extend_from_slice(pattern);
        write_mine(&mut observe, oid as u64);
        encode::end(&mut observe);
        self.assert([&observe[..]]);
        oid
    }

    /// Asks the dataspace to answer when it has taken what was sent before.
    ///
    /// # Returns
    /// Our entity that will get a message then.
    pub fn sync(&mut self) -> i64 {
        let oid = self.new_oid();
        let out = self.connection.output();
        out.push(tag::SEQUENCE);
        frame::open(out, &self.dataspace, b'S');
        write_mine(out, oid as u64);
        out.extend_from_slice(&frame::CLOSE);
        out.push(tag::END);
        oid
    }

    fn new_oid(&mut self) -> i64 {
        let oid = self.next_oid;
        self.next_oid += 1;
        oid
    }

    /// How many bytes have been gathered and not been written.
    pub fn unwritten(&self) -> usize {
        self.connection.unwritten()
    }

    /// Writes what the kernel takes of what has been gathered.
    ///
    /// # Errors
    /// When the connection is lost: what the broker said last, if it said something.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.connection.flush()
    }

    /// Reads what has come, a few hundred KiB at most, and hands over the events with the entity of ours that they are
    /// for. Syncs are answered, not handed over.
    ///
    /// # Returns
    /// False if nothing had come.
    ///
    /// # Errors
    /// When the connection is lost or ended, or something came that is not the protocol, and what `take` fails with. The
    /// events before are handed over.
    pub fn hear(&mut self, mut take: impl FnMut(i64, Event<'_>) -> Result<(), Error>) -> Result<bool, Error> {
        let mut answers = Vec::new();
        let has_heard = self.connection.hear(&mut |packet| {
            let Packet::Turn(turn) = packet else { return Ok(()) };
            for event in turn.events() {
                let event = event.map_err(|error| Error::Malformed(error.to_string()))?;
                match (event.event, event.oid.as_i64()) {
                    (Event::Sync { peer }, _) => {
                        if let Ok(WireRef::Mine(oid)) = WireRef::read(peer) {
                            write_answer(&mut answers, &oid);
                        }
                    }
                    (event, Some(oid)) => take(oid, event)?,
                    // We never made an entity with so large a number.
                    (_, None) => {}
                }
            }
            Ok(())
        })?;
        self.connection.output().extend_from_slice(&answers);
        Ok(has_heard)
    }

    /// Waits until the broker has sent something, or takes more of what has been gathered; until one of `others` is as
    /// wished, until `patience` is over, or until a signal comes.
    ///
    /// # Returns
    /// How `others` were found.
    ///
    /// # Errors
    /// When the system is out of memory.
    pub fn wait(
        &self,
        others: &[(BorrowedFd<'_>, Wish)],
        patience: Option<Duration>,
    ) -> io::Result<Vec<Found>> {
        self.connection.wait(others, patience)
    }
}

/// What a gatekeeper says: `<ok #:cap>`, or `<accepted #:cap>` of older ones.
fn read_answer(answer: View<'_>) -> Result<Int, Error> {
    let is_granted = answer.is_record("ok", 1) || answer.is_record("accepted", 1);
    if let Some(Ok(WireRef::Mine(oid))) = answer.index(0).filter(|_| is_granted).map(WireRef::read) {
        return Ok(oid);
    }
    let mut reason = String::new();
    text::write(answer.index(0).unwrap_or(answer), &mut reason, 200);
    Err(Error::Refused(reason))
}

/// The turn that says to `oid` that a Sync is done.
fn write_answer(out: &mut Vec<u8>, oid: &Int) {
    out.push(tag::SEQUENCE);
    frame::open(out, oid, b'M');
    out.push(tag::TRUE);
    out.extend_from_slice(&frame::CLOSE);
    out.push(tag::END);
}
