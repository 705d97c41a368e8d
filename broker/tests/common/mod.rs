//! What the tests of whole brokers share: a client that speaks text to its test and bytes to the broker.
#![allow(dead_code, unreachable_pub)]

pub mod bystander;
pub mod ledger;
pub mod text;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use staunch::server::{Address, Config, Server};
use staunch_protocols::packet::{Event as WireEvent, Packet};
use staunch_protocols::text as syntax;
use staunch_protocols::wire::{Limits, Progress, Scanner};

/// How long anything may take that must happen. Far more than it does.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something that will happen has happened.
pub fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "never came to be: {what}");
        std::thread::yield_now();
    }
}

/// Debts are those of what waits, exactly: all workers stand still meanwhile.
pub fn balanced(server: &Server) {
    until("the workers stand still", || match server.pause_and_audit() {
        Ok(audit) => {
            assert_eq!(audit.imbalance, None, "{audit:?}");
            true
        }
        Err(_) => false,
    });
}

/// A broker on a TCP port of its own.
pub fn start(config: Config) -> (Server, SocketAddr) {
    let listen = match config.listen.is_empty() {
        true => vec![Address::Tcp("127.0.0.1:0".parse().unwrap()).into()],
        false => config.listen.clone(),
    };
    let server = Server::start_dev(&Config { listen, ..config }).unwrap();
    let address = server.tcp_addresses()[0];
    (server, address)
}

/// A broker with two workers and the limits of its defaults.
pub fn start_default() -> (Server, SocketAddr) {
    start(Config { workers: 2, ..Config::default() })
}

/// The bytes of packets given as text.
pub fn bytes(packets: &str) -> Vec<u8> {
    let all =
        syntax::parse_all(packets, &Limits::default()).unwrap_or_else(|error| panic!("{packets}: {error}"));
    // It comes as a sequence of packets, in brackets.
    all[1..all.len() - 1].to_vec()
}

/// A stream of random numbers: xorshift64*, good enough to choose what a test does.
pub struct Random(pub u64);

impl Random {
    /// From `STAUNCH_SEED`, or from the clock; prints it, so that a failure can be repeated.
    pub fn new(test: &str) -> Random {
        let seed = match std::env::var("STAUNCH_SEED") {
            Ok(seed) => seed.parse().expect("STAUNCH_SEED is a number"),
            Err(_) => {
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
                since.as_nanos() as u64 | 1
            }
        };
        println!("{test}: STAUNCH_SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }
}

/// What came in a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Our entity.
    pub oid: i64,
    /// `A`, `R`, `M` or `S`.
    pub kind: char,
    /// The value as text; empty for a retraction.
    pub body: String,
    /// Of an assertion or a retraction.
    pub handle: i64,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    Turn(Vec<Event>),
    /// A packet that is none of those, as text.
    Extension(String),
    /// An Error packet, with its message.
    Error(String),
    /// The connection has ended.
    End,
    /// Nothing, for as long as was waited.
    Nothing,
}

enum Conn {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A client.
pub struct Client {
    conn: Conn,
    unread: Vec<u8>,
    pending: VecDeque<Came>,
    has_ended: bool,
    syncs: u64,
}

impl Client {
    pub fn tcp(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Client::new(Conn::Tcp(stream))
    }

    /// Over TCP, from a source address of this machine's: another principal.
    pub fn tcp_from(source: IpAddr, address: SocketAddr) -> Client {
        use rustix::net::{bind, connect};
        let fd = new_socket();
        bind(&fd, &SocketAddr::new(source, 0)).unwrap();
        connect(&fd, &address).unwrap();
        Client::new(Conn::Tcp(fd.into()))
    }

    pub fn unix(path: &Path) -> Client {
        Client::new(Conn::Unix(UnixStream::connect(path).unwrap()))
    }

    /// With a small receive buffer, so that what it does not read stays with the broker.
    pub fn narrow(address: SocketAddr) -> Client {
        use rustix::net::{connect, sockopt};
        let fd = new_socket();
        sockopt::set_socket_recv_buffer_size(&fd, 4096).unwrap();
        connect(&fd, &address).unwrap();
        Client::new(Conn::Tcp(fd.into()))
    }

    /// The bare connection. All that came must have been taken.
    pub fn into_tcp(self) -> TcpStream {
        assert!(self.unread.is_empty() && self.pending.is_empty(), "something was not taken");
        match self.conn {
            Conn::Tcp(stream) => stream,
            Conn::Unix(_) => panic!("not over TCP"),
        }
    }

    pub fn is_unix(&self) -> bool {
        matches!(self.conn, Conn::Unix(_))
    }

    fn new(conn: Conn) -> Client {
        Client { conn, unread: Vec::new(), pending: VecDeque::new(), has_ended: false, syncs: 0 }
    }

    /// Asks for the dataspace, which becomes oid 1.
    pub fn resolved(mut self) -> Client {
        self.send(
            r#"[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[0 0]> 1>]]"#,
        );
        let event = self.event();
        assert_eq!((event.oid, event.kind, event.body.as_str()), (0, 'A', "<ok #:[0, 1]>"));
        self
    }

    /// Sends packets given as text.
    pub fn send(&mut self, packets: &str) {
        self.send_bytes(&bytes(packets));
    }

    /// Sends bytes; waits as long as the broker does not read, up to a point.
    pub fn send_bytes(&mut self, mut bytes: &[u8]) {
        self.set_timeouts(PATIENCE);
        while !bytes.is_empty() {
            bytes = &bytes[self.write(bytes).unwrap_or_else(|e| panic!("{e}: not read"))..];
        }
    }

    /// Sends bytes; whenever they are not taken, does something that helps.
    pub fn send_bytes_while(&mut self, mut bytes: &[u8], mut help: impl FnMut()) {
        while !bytes.is_empty() {
            match self.send_some(bytes) {
                0 => help(),
                sent => bytes = &bytes[sent..],
            }
        }
    }

    /// Sends as much as is taken at once; returns how much.
    pub fn send_some(&mut self, bytes: &[u8]) -> usize {
        self.set_blocking(false);
        let written = self.write(bytes);
        self.set_blocking(true);
        match written {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends bytes without minding whether the broker ends the connection meanwhile.
    pub fn send_anyway(&mut self, mut bytes: &[u8]) {
        self.set_timeouts(PATIENCE);
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(_) => return,
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        uninterrupted(|| match &mut self.conn {
            Conn::Tcp(stream) => stream.write(bytes),
            Conn::Unix(stream) => stream.write(bytes),
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        uninterrupted(|| match &mut self.conn {
            Conn::Tcp(stream) => stream.read(buffer),
            Conn::Unix(stream) => stream.read(buffer),
        })
    }

    fn set_timeouts(&mut self, timeout: Duration) {
        let timeout = Some(timeout);
        match &self.conn {
            Conn::Tcp(s) => s.set_read_timeout(timeout).and_then(|()| s.set_write_timeout(timeout)).unwrap(),
            Conn::Unix(s) => s.set_read_timeout(timeout).and_then(|()| s.set_write_timeout(timeout)).unwrap(),
        }
    }

    fn set_blocking(&mut self, is_blocking: bool) {
        match &self.conn {
            Conn::Tcp(s) => s.set_nonblocking(!is_blocking).unwrap(),
            Conn::Unix(s) => s.set_nonblocking(!is_blocking).unwrap(),
        }
    }

    /// What comes next, waiting up to `patience`, which may be nothing.
    pub fn next_within(&mut self, patience: Duration) -> Came {
        let start = Instant::now();
        let mut chunk = vec![0; 64 << 10];
        let mut has_looked = false;
        loop {
            self.parse();
            if let Some(came) = self.pending.pop_front() {
                return came;
            }
            if self.has_ended {
                return Came::End;
            }
            let left = patience.saturating_sub(start.elapsed());
            if left.is_zero() && has_looked {
                return Came::Nothing;
            }
            has_looked = true;
            let read = if left.is_zero() {
                self.set_blocking(false);
                let read = self.read(&mut chunk);
                self.set_blocking(true);
                read
            } else {
                self.set_timeouts(left.max(Duration::from_millis(1)));
                self.read(&mut chunk)
            };
            match read {
                Ok(0) => self.has_ended = true,
                Ok(read) => self.unread.extend_from_slice(&chunk[..read]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => self.has_ended = true,
            }
        }
    }

    /// What comes next.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Came {
        self.next_within(PATIENCE)
    }

    /// The next turn.
    pub fn turn(&mut self) -> Vec<Event> {
        match self.next() {
            Came::Turn(events) => events,
            other => panic!("expected a turn: {other:?}"),
        }
    }

    /// The next turn, which must hold one event.
    pub fn event(&mut self) -> Event {
        let mut turn = self.turn();
        assert_eq!(turn.len(), 1, "{turn:?}");
        turn.remove(0)
    }

    /// All turns until the broker has handled what was sent to `oid` before.
    pub fn sync_at(&mut self, oid: i64) -> Vec<Vec<Event>> {
        self.syncs += 1;
        let at = 1_000_000 + self.syncs as i64;
        self.send(&format!("[[{oid} <S #:[0 {at}]>]]"));
        let mut turns = Vec::new();
        loop {
            let turn = self.turn();
            if turn.iter().any(|e| e.oid == at) {
                return turns;
            }
            turns.push(turn);
        }
    }

    /// The events until the broker has handled what was sent to the dataspace before.
    pub fn sync(&mut self) -> Vec<Event> {
        self.sync_at(1).concat()
    }

    /// Everything up to the end of the connection: turns' events, and the message of the Error packet.
    pub fn rest(&mut self) -> (Vec<Event>, Option<String>) {
        let (mut events, mut error) = (Vec::new(), None);
        loop {
            match self.next() {
                Came::Turn(turn) => {
                    assert!(error.is_none(), "something follows an Error packet: {turn:?}");
                    events.extend(turn);
                }
                Came::Error(message) => error = Some(message),
                Came::Extension(_) => {}
                Came::End => return (events, error),
                Came::Nothing => panic!("neither goes on nor ends"),
            }
        }
    }

    /// Expects the connection to end with an Error packet, and returns its message.
    pub fn ends_with_error(&mut self) -> String {
        self.rest().1.expect("it ends with an Error packet")
    }

    /// The bytes of what comes until the end, as if they were text: of a peer that spoke text, or that may have.
    pub fn words(&mut self) -> String {
        self.set_timeouts(PATIENCE);
        let mut words = Vec::new();
        let _ = match &mut self.conn {
            Conn::Tcp(stream) => stream.read_to_end(&mut words),
            Conn::Unix(stream) => stream.read_to_end(&mut words),
        };
        String::from_utf8_lossy(&words).into_owned()
    }

    /// Ends the sending direction.
    pub fn finish(&mut self) {
        match &self.conn {
            Conn::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write).unwrap(),
            Conn::Unix(stream) => stream.shutdown(std::net::Shutdown::Write).unwrap(),
        }
    }

    /// Ends the sending direction, unless the connection has ended already.
    pub fn finish_anyway(&mut self) {
        let _ = match &self.conn {
            Conn::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            Conn::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
        };
    }

    /// Goes as a process does that is killed: what it has not read is lost, and over TCP the other side sees a reset.
    pub fn kill(self) {
        if let Conn::Tcp(stream) = &self.conn {
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
        }
    }

    fn parse(&mut self) {
        let mut scanner = Scanner::new(Limits::default());
        let mut done = 0;
        while done < self.unread.len() {
            let rest = &self.unread[done..];
            if rest[0] < 0x80 {
                // Whose packets are cut, or are nonsense, may have changed to text by that.
                let Some(end) = rest.iter().position(|b| *b == b'\n') else { break };
                let line = bytes(std::str::from_utf8(&rest[..end]).expect("the broker sends text"));
                scanner.scan(&line).expect("the broker sends packets");
                self.pending.extend(came(scanner.view(&line)));
                scanner.reset();
                done += end + 1;
                continue;
            }
            match scanner.scan(rest) {
                Ok(Progress::Complete(length)) => {
                    self.pending.extend(came(scanner.view(&rest[..length])));
                    scanner.reset();
                    done += length;
                }
                Ok(Progress::Incomplete(_)) => break,
                Err(error) => panic!("the broker sent nonsense: {error}"),
            }
        }
        self.unread.drain(..done);
        assert!(!self.has_ended || self.unread.is_empty(), "the connection ends within a packet");
    }
}

/// For TCP over IPv4. Processes that are started meanwhile do not get it.
pub fn new_socket() -> OwnedFd {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}

/// Does it again if a signal has interrupted it: over sockets with time-outs that a process is stopped and goes on is
/// enough (signal(7)).
pub fn uninterrupted<R>(mut call: impl FnMut() -> std::io::Result<R>) -> std::io::Result<R> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn came(packet: staunch_protocols::wire::View<'_>) -> Option<Came> {
    match Packet::read(packet).expect("the broker sends packets") {
        Packet::Turn(turn) => {
            Some(Came::Turn(turn.events().map(|e| event(e.expect("well-formed"))).collect()))
        }
        Packet::Error { message, .. } => Some(Came::Error(message.to_owned())),
        Packet::Extension(extension) => Some(Came::Extension(print(extension))),
        Packet::Nop => None,
    }
}

fn print(view: staunch_protocols::wire::View<'_>) -> String {
    let mut out = String::new();
    syntax::write(view, &mut out, usize::MAX);
    out
}

fn event(event: staunch_protocols::packet::TurnEvent<'_>) -> Event {
    // What is longer no test has asked for, but those whose packets are changed anyhow.
    let oid = event.oid.as_i64().unwrap_or(i64::MIN);
    let (kind, body, handle) = match event.event {
        WireEvent::Assert { assertion, handle } => ('A', print(assertion), handle.as_i64().unwrap()),
        WireEvent::Retract { handle } => ('R', String::new(), handle.as_i64().unwrap()),
        WireEvent::Message { body } => ('M', print(body), 0),
        WireEvent::Sync { peer } => ('S', print(peer), 0),
    };
    Event { oid, kind, body, handle }
}

/// A pattern that matches records `<label ...>` and captures the first `fields` of them.
pub fn record_pattern(label: &str, fields: usize) -> String {
    let binds: Vec<String> = (0..fields).map(|n| format!("{n}: <bind <_>>")).collect();
    format!("<group <rec {label}> {{{}}}>", binds.join(" "))
}

/// One client that asserts `<ent ...>` with these entities of its own, and another that observes that, under oid 7, and
/// was told of it.
pub fn introduced(address: SocketAddr, entities: &[i64]) -> (Client, Client, Event) {
    let mut owner = Client::tcp(address).resolved();
    let references: String = entities.iter().map(|oid| format!(" #:[0 {oid}]")).collect();
    owner.send(&format!("[[1 <A <ent{references}> 5>]]"));
    owner.sync();
    let mut asker = Client::tcp(address).resolved();
    asker.send(&format!("[{}]", observe(&record_pattern("ent", entities.len()), 7, 2)));
    let told = asker.event();
    (owner, asker, told)
}

/// `<A <Observe pattern #:[0 observer]> handle>` at the dataspace.
pub fn observe(pattern: &str, observer: i64, handle: i64) -> String {
    format!("[1 <A <Observe {pattern} #:[0 {observer}]> {handle}>]")
}

/// Some bytes with the one at a place replaced by each of others, dropped, and doubled.
pub fn changed_at<'a>(all: &[u8], at: usize, others: impl IntoIterator<Item = &'a u8>) -> Vec<Vec<u8>> {
    let (before, rest) = all.split_at(at);
    let replaced = others.into_iter().map(|byte| [before, &[*byte], &rest[1..]].concat());
    let mut changed: Vec<_> = replaced.collect();
    changed.push([before, &rest[1..]].concat());
    changed.push([before, &rest[..1], rest].concat());
    changed
}
