//! A session with a broker while it is being set up: blocking, one step after the other.
//!
//! Once its observers are in place a client is turned into a [`crate::drive::Port`], which never blocks.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_timeout};
use rustix::net::{RecvFlags, SendFlags};

use crate::wire::TRUE;
use crate::wire::decode::{Event, Malformed, elements, label, unsigned};
use crate::wire::encode::{self, Pattern};
use crate::wire::stream::{Decoder, Handler};
use crate::wire::{EMBEDDED, SEQUENCE};

/// What is asked for.
const WELL_KNOWN: &str = r##"<ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>"##;

/// The oid under which a client exports what answers to `resolve` and Sync go to.
pub const ANSWER_OID: u64 = 0;

/// Longest wait for one answer during set-up, once the broker has shown that it answers at all: it may be busy
/// with a great deal that it was sent before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Whom to ask, and how long to wait for a sign of life.
#[derive(Clone, Copy, Debug)]
pub struct Contact<'a> {
    /// Where it listens.
    pub address: &'a Address,
    /// Longest wait for a connection, and for the first answer.
    pub patience: Duration,
}

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP socket.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addr) => write!(f, "tcp:{addr}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    /// `tcp:ADDRESS:PORT` or `unix:PATH`, as `staunch serve --listen` takes it.
    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(address) = text.strip_prefix("tcp:") {
            let address = address.parse();
            return address.map(Address::Tcp).map_err(|e| format!("{e}: ADDRESS:PORT is wanted, of numbers"));
        }
        match text.strip_prefix("unix:") {
            Some("") => Err("the path is missing".into()),
            Some(path) => Ok(Address::Unix(path.into())),
            None => Err("neither tcp:ADDRESS:PORT nor unix:PATH".into()),
        }
    }
}

/// How a client makes sure that what it asserted has been taken notice of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// It sends a Sync to the dataspace and waits for the answer.
    Sync,
    /// It waits this long; for peers that do not implement Sync.
    Pause(Duration),
}

/// Why a run could not be carried through. All are operating errors; faults in what was delivered are counted
/// in [`crate::check::Faults`] instead.
#[derive(Debug)]
pub enum Error {
    /// The operating system refused something; what was being done, and why.
    Io(String, io::Error),
    /// The broker sent something that is not the protocol.
    Malformed(Malformed),
    /// The broker sent an Error packet: its text.
    PeerFailed(String),
    /// The broker refused the reference: its answer.
    Refused(String),
    /// The broker closed the session.
    Closed,
    /// The other side said nothing for so long.
    Silent(Duration),
    /// The scenario cannot be run like this, and why.
    Usage(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(doing, e) => write!(f, "{doing}: {e}"),
            Error::Malformed(m) => write!(f, "the broker sent {m}"),
            Error::PeerFailed(text) => write!(f, "the broker reported an error: {text}"),
            Error::Refused(answer) if answer.contains("sturdyref-failed-validation") => write!(
                f,
                "the broker refused the reference: {answer}. Consumers come in by the well-known one, which \
                 `staunch serve --dev` takes; --producer-ref gives producers another"
            ),
            Error::Refused(answer) => write!(f, "the broker refused the reference: {answer}"),
            Error::Closed => write!(f, "the broker closed the session"),
            Error::Silent(time) => write!(f, "the broker did not answer within {} s", time.as_secs_f64()),
            Error::Usage(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Malformed> for Error {
    fn from(m: Malformed) -> Self {
        Error::Malformed(m)
    }
}

/// Turns an error of the system into [`Error::Io`], saying what was being done.
pub(crate) fn doing<E: Into<io::Error>>(what: &str) -> impl FnOnce(E) -> Error + use<E> {
    let what = what.to_owned();
    move |e| Error::Io(what, e.into())
}

/// Turns an error of looking at a process into [`Error::Io`].
pub(crate) fn looking_at(pid: u32) -> impl FnOnce(io::Error) -> Error {
    doing(&format!("looking at process {pid}, which may have ended"))
}

/// Connects a blocking stream socket, without delaying small writes.
pub fn connect(contact: Contact<'_>) -> Result<OwnedFd, Error> {
    let Contact { address, patience } = contact;
    let fd: OwnedFd = match address {
        Address::Tcp(addr) => {
            let stream = TcpStream::connect_timeout(addr, patience);
            let stream = stream.map_err(doing(&format!("connecting to {address}")))?;
            stream.set_nodelay(true).map_err(doing("TCP_NODELAY"))?;
            stream.into()
        }
        Address::Unix(path) => {
            UnixStream::connect(path).map_err(doing(&format!("connecting to {address}")))?.into()
        }
    };
    set_patience(&fd, patience)?;
    set_socket_timeout(&fd, Timeout::Send, Some(ANSWER_TIMEOUT)).map_err(doing("SO_SNDTIMEO"))?;
    Ok(fd)
}

/// How long [`receive`] waits on a blocking socket.
pub fn set_patience(fd: &OwnedFd, patience: Duration) -> Result<(), Error> {
    set_socket_timeout(fd, Timeout::Recv, Some(patience)).map_err(doing("SO_RCVTIMEO"))
}

/// How long [`receive`] waits.
fn patience(fd: &OwnedFd) -> Duration {
    socket_timeout(fd, Timeout::Recv).ok().flatten().unwrap_or_default()
}

/// Writes all of `bytes` to a blocking socket.
pub fn send_all(fd: &OwnedFd, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        match rustix::net::send(fd, bytes, SendFlags::NOSIGNAL) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                return Err(Error::Usage("the broker took nothing that it was sent for a minute".into()));
            }
            Err(e) => return Err(lost("writing to the broker", e)),
        }
    }
    Ok(())
}

/// Reads what is there into `buf`, waiting for at least one byte.
pub fn receive(fd: &OwnedFd, buf: &mut [u8]) -> Result<usize, Error> {
    loop {
        match rustix::net::recv(fd, &mut *buf, RecvFlags::empty()) {
            Ok((_, 0)) => return Err(Error::Closed),
            Ok((_, n)) => return Ok(n),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(Error::Silent(patience(fd))),
            Err(e) => return Err(lost("reading from the broker", e)),
        }
    }
}

/// What an error of a connected socket says: mostly that the broker has gone.
pub(crate) fn lost(what: &str, e: Errno) -> Error {
    match e {
        Errno::PIPE | Errno::CONNRESET => Error::Closed,
        e => doing(what)(e),
    }
}

/// The same, but asks again and again instead of sleeping.
pub fn poll(fd: &OwnedFd, buf: &mut [u8]) -> Result<usize, Error> {
    let (start, patience) = (Instant::now(), patience(fd));
    loop {
        match rustix::net::recv(fd, &mut *buf, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(Error::Closed),
            Ok((_, n)) => return Ok(n),
            Err(Errno::AGAIN) if start.elapsed() < patience => std::hint::spin_loop(),
            Err(Errno::AGAIN) => return Err(Error::Silent(patience)),
            Err(Errno::INTR) => {}
            Err(e) => return Err(lost("reading from the broker", e)),
        }
    }
}

/// A session being set up.
#[derive(Debug)]
pub struct Client {
    fd: OwnedFd,
    decoder: Decoder,
    kept: Vec<u8>,
    dataspace: u64,
    next_handle: u64,
    barrier: Barrier,
}

impl Client {
    /// Connects and says nothing.
    pub fn connect(contact: Contact<'_>, barrier: Barrier) -> Result<Client, Error> {
        let fd = connect(contact)?;
        Ok(Client { fd, decoder: Decoder::default(), kept: vec![], dataspace: 0, next_handle: 1, barrier })
    }

    /// Connects and resolves the well-known reference to its dataspace. One round trip.
    pub fn open(contact: Contact<'_>, barrier: Barrier) -> Result<Client, Error> {
        let mut client = Client::connect(contact, barrier)?;
        client.resolve()?;
        Ok(client)
    }

    /// The same by another reference, in canonical form.
    pub fn open_by(contact: Contact<'_>, barrier: Barrier, reference: &[u8]) -> Result<Client, Error> {
        let mut client = Client::connect(contact, barrier)?;
        client.resolve_by(Some(reference))?;
        Ok(client)
    }

    /// Resolves the well-known reference. One round trip.
    pub fn resolve(&mut self) -> Result<(), Error> {
        self.resolve_by(None)
    }

    fn resolve_by(&mut self, reference: Option<&[u8]>) -> Result<(), Error> {
        let handle = self.handle();
        let mut packet = vec![];
        encode::turn(&mut packet, |out| {
            encode::assert(out, 0, handle, |out| encode::resolve(out, reference, ANSWER_OID));
        });
        self.send(&packet)?;
        let mut answer = None;
        self.wait(|oid, event| {
            if let (ANSWER_OID, Event::Assert { value, .. }) = (oid, event) {
                answer = Some(value.to_vec());
            }
            answer.is_some()
        })
        .map_err(|e| match e {
            Error::Silent(time) => Error::Refused(format!(
                "no answer within {} s: it does not know {WELL_KNOWN}, or does not speak Syndicate",
                time.as_secs_f64()
            )),
            Error::Malformed(what) => Error::Refused(format!("it does not speak Syndicate, and sent {what}")),
            e => e,
        })?;
        set_patience(&self.fd, ANSWER_TIMEOUT.max(patience(&self.fd)))?;
        let answer = answer.expect("wait returns only then");
        self.dataspace = resolved(&answer).ok_or_else(|| Error::Refused(describe(&answer)))?;
        Ok(())
    }

    /// The oid by which this session calls the dataspace.
    pub fn dataspace(&self) -> u64 {
        self.dataspace
    }

    /// A handle not used before in this session.
    pub fn handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle - 1
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        send_all(&self.fd, bytes)
    }

    /// Appends an Observe for `pattern` to `out`, as one event; matches will be sent to `observer`.
    pub fn observe_into(&mut self, out: &mut Vec<u8>, pattern: &Pattern, observer: u64) {
        let handle = self.handle();
        encode::assert(out, self.dataspace, handle, |out| encode::observe(out, pattern, observer));
    }

    /// Asserts one Observe. Does not wait.
    pub fn observe(&mut self, pattern: &Pattern, observer: u64) -> Result<(), Error> {
        let mut packet = vec![];
        encode::turn(&mut packet, |out| self.observe_into(out, pattern, observer));
        self.send(&packet)
    }

    /// Whether this session's barrier is a mere pause.
    pub fn is_pausing(&self) -> bool {
        matches!(self.barrier, Barrier::Pause(_))
    }

    /// Waits until the dataspace has processed all that this session sent.
    pub fn barrier(&mut self) -> Result<(), Error> {
        match self.barrier {
            Barrier::Pause(pause) => std::thread::sleep(pause),
            Barrier::Sync => {
                let mut packet = vec![];
                encode::turn(&mut packet, |out| encode::sync(out, self.dataspace, ANSWER_OID));
                self.send(&packet)?;
                self.wait(|oid, event| oid == ANSWER_OID && event == Event::Message { body: &[TRUE] })?;
            }
        }
        Ok(())
    }

    /// Reads events until one satisfies `is_it`; drops the others.
    pub fn wait(&mut self, is_it: impl FnMut(u64, Event<'_>) -> bool) -> Result<(), Error> {
        let mut waiter = Waiter { is_it, found: false, failed: None };
        let mut buf = vec![0; 16 * 1024];
        loop {
            let n = receive(&self.fd, &mut buf)?;
            self.kept.extend_from_slice(&buf[..n]);
            let taken = self.decoder.feed(&self.kept, &mut waiter)?;
            self.kept.drain(..taken);
            if let Some(text) = waiter.failed {
                return Err(Error::PeerFailed(text));
            }
            if waiter.found {
                return Ok(());
            }
        }
    }

    /// Whether the broker has sent anything that nobody has read.
    pub fn has_unread(&self) -> bool {
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        !self.kept.is_empty() || matches!(rustix::net::recv(&self.fd, &mut byte, flags), Ok((_, n)) if n > 0)
    }

    /// Ends the set-up: the socket, the decoder in whatever state it is, and what was read but not yet decoded.
    pub fn into_parts(self) -> (OwnedFd, Decoder, Vec<u8>) {
        (self.fd, self.decoder, self.kept)
    }
}

/// Calls a closure for each event until it is satisfied.
struct Waiter<F> {
    is_it: F,
    found: bool,
    failed: Option<String>,
}

impl<F: FnMut(u64, Event<'_>) -> bool> Handler for Waiter<F> {
    fn slot(&mut self, _oid: u64, _name: Option<&[u8]>) -> Option<u32> {
        None
    }
    fn payload(&mut self, _slot: u32, _payload: &[u8]) {}
    fn piece(&mut self, _slot: u32, _offset: usize, _bytes: &[u8]) {}
    fn stray(&mut self, _oid: u64) {}
    fn event(&mut self, oid: u64, event: Event<'_>) -> Result<(), Malformed> {
        self.found = self.found || (self.is_it)(oid, event);
        Ok(())
    }
    fn failed(&mut self, text: &[u8]) {
        self.failed = Some(String::from_utf8_lossy(text).into_owned());
    }
}

/// The oid in `<ok #:[0 oid]>` or `<accepted #:[0 oid]>`.
fn resolved(answer: &[u8]) -> Option<u64> {
    if !matches!(label(answer)?, b"ok" | b"accepted") {
        return None;
    }
    let field = *elements(answer)?.first()?;
    let reference = field.strip_prefix(&[EMBEDDED])?;
    (*reference.first()? == SEQUENCE).then_some(())?;
    let parts = elements(reference)?;
    let mine = unsigned(parts.first()?, 0).ok()??.0 == 0;
    mine.then_some(unsigned(parts.get(1)?, 0).ok()??.0)
}

/// A readable rendering of an unexpected value: its words.
fn describe(value: &[u8]) -> String {
    let text: String =
        value.iter().map(|b| if matches!(b, b' '..=b'~') { *b as char } else { '\0' }).collect();
    text.split('\0').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_resolve() {
        let answer = |label: &str, oid| {
            let mut out = vec![];
            encode::record(&mut out, label, |out| encode::own_cap(out, oid));
            resolved(&out)
        };
        assert_eq!(answer("ok", 1), Some(1));
        assert_eq!(answer("accepted", 300), Some(300));
        assert_eq!(answer("rejected", 1), None);
        assert_eq!(resolved(b"\xb4\xb3\x02ok\x81\x84"), None);
        assert_eq!(resolved(b"\x81"), None);
        assert_eq!(describe(b"\xb4\xb3\x08rejected\xb1\x06not me\x84"), "rejected not me");
    }

    #[test]
    fn addresses_are_read_as_they_are_shown() {
        for text in ["tcp:127.0.0.1:9001", "tcp:[::1]:9001", "unix:/run/s", "unix:s"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "tcp:", "tcp:9001", "unix:", "/run/s", "127.0.0.1:9001"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
