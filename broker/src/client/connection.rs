//! Bytes from and to a broker, and the packets in them.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use staunch_protocols::packet::Packet;
use staunch_protocols::wire::{Limits, Progress, Scanner};
use staunch_system::net::Stream;
use staunch_system::wait::{Found, Wish, wait};

use super::Error;

/// What a broker may send at most in one packet. More than it takes itself: what it tells may hold captures of a value
/// several times over, and stands one or two levels deeper.
const PACKET_LIMITS: Limits =
    Limits { packet_bytes_max: 128 << 20, depth_max: 1024, tokens_max: 32 << 20, integer_bytes_max: 1 << 20 };
/// How much is read at once at most.
const CHUNK_BYTES: usize = 256 << 10;
/// How much memory is kept for what was read or is to be written, while nothing is.
const KEPT_BYTES: usize = 1 << 20;

/// A connection and the two buffers around it.
pub(super) struct Connection {
    stream: Stream,
    scanner: Scanner,
    /// What has been read and not handed over: up to `filled`. Its first byte starts a packet.
    input: Vec<u8>,
    filled: usize,
    /// What is to be written, from `written` on.
    output: Vec<u8>,
    written: usize,
    has_heard_packets: bool,
}

impl Connection {
    pub(super) fn new(stream: Stream) -> Connection {
        Connection {
            stream,
            scanner: Scanner::new(PACKET_LIMITS),
            input: Vec::new(),
            filled: 0,
            output: Vec::new(),
            written: 0,
            has_heard_packets: false,
        }
    }

    /// Where packets to be sent are appended.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// How many bytes wait to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.output.len() - self.written
    }

    /// Writes what the kernel takes.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(self.last_words(error)),
            }
        }
        self.output.clear();
        self.output.shrink_to(KEPT_BYTES);
        self.written = 0;
        Ok(())
    }

    /// Why nothing can be written any more: what the broker said last, or the error.
    fn last_words(&mut self, error: io::Error) -> Error {
        loop {
            match self.hear(&mut |_| Ok(())) {
                Ok(true) => {}
                // It is being written to no more, so the end is near; what it said may still be under way.
                Ok(false) => match wait(&[(self.stream.as_fd(), Wish::Read)], Some(LAST_WORDS_PATIENCE)) {
                    Ok(found) if found[0].readable => {}
                    _ => return Error::Io(error),
                },
                Err(Error::Closed | Error::Io(_)) => return Error::Closed,
                Err(said) => return said,
            }
        }
    }

    /// Reads what is there, a chunk at most, and hands over the packets that are complete. False if nothing was there.
    pub(super) fn hear(
        &mut self,
        take: &mut dyn FnMut(Packet<'_>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        if self.input.len() < self.filled + CHUNK_BYTES {
            self.input.resize(self.filled + CHUNK_BYTES, 0);
        }
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => return Err(Error::Closed),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(Error::Closed),
            Err(error) => return Err(Error::Io(error)),
        }
        let mut done = 0;
        while done < self.filled {
            let rest = &self.input[done..self.filled];
            let scanned = self.scanner.scan(rest);
            let malformed = |what: &dyn std::fmt::Display| match self.has_heard_packets {
                true => Error::Malformed(what.to_string()),
                false => Error::NotABroker(beginning(rest)),
            };
            let Progress::Complete(length) = scanned.map_err(|error| malformed(&error))? else { break };
            let packet =
                Packet::read(self.scanner.view(&rest[..length])).map_err(|error| malformed(&error))?;
            if let Packet::Error { message, .. } = packet {
                return Err(Error::Peer(message.to_owned()));
            }
            self.has_heard_packets = true;
            take(packet)?;
            self.scanner.reset();
            done += length;
        }
        self.input.copy_within(done..self.filled, 0);
        self.filled -= done;
        if self.filled == 0 {
            self.input.truncate(KEPT_BYTES);
            self.input.shrink_to(KEPT_BYTES);
        }
        Ok(true)
    }

    /// Waits until the broker has sent something or takes more, or for `others`.
    pub(super) fn wait(
        &self,
        others: &[(BorrowedFd<'_>, Wish)],
        patience: Option<Duration>,
    ) -> io::Result<Vec<Found>> {
        let wish = if self.unwritten() > 0 { Wish::ReadWrite } else { Wish::Read };
        let mut watched = others.to_vec();
        watched.push((self.stream.as_fd(), wish));
        let mut found = wait(&watched, patience)?;
        found.truncate(others.len());
        Ok(found)
    }
}

/// For how long a broker that takes nothing any more may take to say why.
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(500);

/// How something begins, for people.
fn beginning(bytes: &[u8]) -> String {
    let line = bytes.split(|b| *b == b'\n' || *b == b'\r').next().unwrap_or_default();
    let shown = &line[..line.len().min(40)];
    format!("\"{}\"", shown.escape_ascii())
}
