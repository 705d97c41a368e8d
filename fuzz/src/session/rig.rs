//! The broker that scripts run against: one for all of them, so that what one leaves behind is found by the next at the
//! latest. It has one worker, small limits and small buffers, so that few bytes reach all of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use staunch::limits::{Limits, Quota};
use staunch::server::{Address, Answers, Config, Listen, Server};
use staunch_protocols::wire::{encode, tag};
use staunch_system::net::{Buffers, Stream};
use tempfile::TempDir;

use super::peer::{Peer, bytes, event, message, mine};
use super::{PEERS, STEPS_MAX, Step, Way, What};

/// How often is waited for what must happen, up to [`WAIT`] each time: a minute, which is far more than it takes also on a busy
/// machine. Counted, not timed, so that a process that was suspended has not lost its patience.
const WAITS_MAX: u32 = 12_000;
const WAIT: Duration = Duration::from_millis(5);

const DEBT_MAX: u64 = 32 << 10;
const OUTBOX_MAX: usize = 64 << 10;
const FAN_OUT_MAX: u64 = 512 << 10;
const QUOTA: Quota = Quota { assertions: 64, observations: 16, references: 32 };

/// The bystander's round may overtake a session that has just been accepted.
const ROUNDS_TO_RESOLVE: usize = 3;
/// Fuzzers look after so many scripts whether a peer can have all that it may have: it takes longer than most scripts.
const SCRIPTS_TO_TAKE_ALL: u64 = if cfg!(fuzzing) { 16 } else { 1 };

const RESOLVE: &str =
    r#"[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[0 0]> 1>]]"#;

/// The bystander's entities: what is sent to `PROBE` it has sent itself, or somebody who knows how.
const PROBE: i64 = 1;
const ALL: u64 = 2;
const SYNC: i64 = 3;

static RIG: LazyLock<Mutex<Rig>> = LazyLock::new(|| Mutex::new(Rig::start()));

/// Runs a script, and checks that it has done no harm.
///
/// # Panics
/// If it has: the bystander is not served, the broker sends nonsense, holds more than it may, panics, or keeps something
/// when the script's peers have gone.
pub(super) fn run(steps: Vec<Step>) {
    // After a panic nobody goes on but the tests of other targets, and they find what is wrong, if anything is.
    let mut rig = RIG.lock().unwrap_or_else(PoisonError::into_inner);
    rig.run(steps);
}

struct Rig {
    server: Server,
    /// Where Unix sockets are, and the TCP port.
    folder: TempDir,
    tcp: SocketAddr,
    bystander: Peer,
    /// Of the principal of those who come by Unix sockets: what is counted as that one's is forgotten when nobody is left.
    _anchor: Peer,
    /// Which round of its it is.
    round: u64,
    /// How many scripts have run.
    scripts: u64,
    /// What the bystander asserts beside its observations: bits.
    asserts: u8,
    peers: [Option<Peer>; PEERS],
    /// Observers, assertions and skeletons while nobody but the bystander is there.
    idle_counts: (usize, usize, usize),
    /// What the bystander is told while nobody else is there.
    idle_told: usize,
    /// Packets that are sent often.
    resolve: Vec<u8>,
    everything: Vec<u8>,
    buffer: Vec<u8>,
}

impl Rig {
    fn start() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let unix = |name: &str| Address::Unix(folder.path().join(name));
        let older = Listen { answers: Answers::Accepted, ..unix("older").into() };
        let config = Config {
            listen: vec![unix("unix").into(), older, Address::Tcp("127.0.0.1:0".parse().unwrap()).into()],
            workers: 1,
            debt_max: DEBT_MAX,
            outbox_max: OUTBOX_MAX,
            fan_out_max: FAN_OUT_MAX,
            orphaned_max: 1 << 20,
            send_buffer: 8 << 10,
            receive_buffer: 8 << 10,
            limits: Limits {
                packet_bytes: 32 << 10,
                packet_depth: 64,
                principal_connection_rate: 1 << 40,
                principal_connection_burst: 1 << 40,
                connection: QUOTA,
                principal: QUOTA,
                principal_skeletons: QUOTA.observations,
                principal_captures: 4096,
                ..Limits::default()
            },
            ..Config::default()
        };
        let server = Server::start_dev(&config).unwrap();
        let tcp = server.tcp_addresses()[0];
        let bystander = Peer::new(connect_from([127, 0, 0, 2], tcp));
        let (anchor, theirs) = Stream::pair().unwrap();
        server.adopt(theirs, "anchor").unwrap();
        let mut rig = Rig {
            server,
            _anchor: Peer::new(anchor),
            folder,
            tcp,
            bystander,
            round: 0,
            scripts: 0,
            asserts: 0,
            peers: Default::default(),
            idle_counts: Default::default(),
            idle_told: 0,
            resolve: bytes(RESOLVE),
            everything: everything(),
            buffer: vec![0; 64 << 10],
        };
        rig.bystander.send(&bytes(RESOLVE));
        rig.bystander.send(&bytes(&format!(
            "[[1 <A <Observe <group <rec probe> {{0: <bind <_>>}}> #:[0 {PROBE}]> 2>]
              [1 <A <Observe <bind <_>> #:[0 {ALL}]> 3>]]"
        )));
        rig.round();
        rig.idle_counts = rig.server.index_counts();
        rig.idle_told = rig.bystander.told.live.len();
        rig
    }

    fn run(&mut self, steps: Vec<Step>) {
        for (at, what) in steps.into_iter().take(STEPS_MAX) {
            let is_quick = matches!(what, What::Reads(_) | What::HalfClose | What::Open(_));
            self.step(at, what);
            if !is_quick {
                self.round();
                self.check_bounds();
            }
        }
        self.leave();
    }

    fn step(&mut self, at: usize, what: What) {
        match what {
            What::Open(way) => {
                self.close(at);
                self.open(at, way);
            }
            What::Send(bytes) => {
                if self.peers[at].is_none() {
                    self.open(at, Way::Resolved);
                }
                self.peers[at].as_mut().expect("it is open").send(&bytes);
            }
            What::HalfClose => self.peers[at].iter_mut().for_each(Peer::finish),
            What::Leave => self.close(at),
            What::Reads(reads) => self.peers[at].iter_mut().for_each(|peer| peer.reads = reads),
            What::Bystander(which) => self.toggle(which),
        }
    }

    fn open(&mut self, at: usize, way: Way) {
        let unix = |name: &str| -> PathBuf { self.folder.path().join(name) };
        let stream = match way {
            Way::Resolved => Stream::connect_unix(&unix("unix")).unwrap(),
            Way::Older => Stream::connect_unix(&unix("older")).unwrap(),
            Way::Tcp => Stream::connect_tcp(self.tcp, Buffers::default()).unwrap(),
            Way::Adopted => {
                let (ours, theirs) = Stream::pair().unwrap();
                self.server.adopt(theirs, "pair").unwrap();
                ours
            }
        };
        let mut peer = Peer::new(stream);
        if way == Way::Resolved {
            peer.send(&self.resolve);
        }
        self.peers[at] = Some(peer);
        self.round();
        // It is there, and what follows is not read with what it has sent to come so far, unless it may not come in.
        let is_told = |peer: &Peer| !peer.told.live.is_empty() || peer.told.error.is_some() || peer.has_ended;
        for _ in 0..ROUNDS_TO_RESOLVE {
            if way == Way::Resolved && !self.peers[at].as_ref().is_some_and(is_told) {
                self.round();
            }
        }
    }

    fn close(&mut self, at: usize) {
        if let Some(peer) = self.peers[at].take() {
            peer.leave();
        }
    }

    fn toggle(&mut self, which: u8) {
        let mut turn = vec![tag::SEQUENCE];
        let handle = 16 + i64::from(which);
        let is_asserted = self.asserts >> which & 1 == 1;
        if is_asserted {
            let mut number = Vec::new();
            encode::int(&mut number, handle);
            event(&mut turn, 1, "R", &number, None);
        } else {
            event(&mut turn, 1, "A", &bytes(&format!("<a {which} #:[0 {handle}]>")), Some(handle));
        }
        encode::end(&mut turn);
        self.asserts ^= 1 << which;
        self.bystander.send(&turn);
    }

    /// The bystander sends a message, and asks the dataspace for a sign of life: both must come, as long as the others
    /// read. With one worker, which runs who has something to say in turn, what was sent to the broker before has been
    /// looked at when that has come.
    fn round(&mut self) {
        self.round += 1;
        // Nobody else's, but by accident, or who gives the bystander's own back.
        let mut number = Vec::new();
        encode::int(&mut number, (1 << 40) + self.round as i64);
        let probe = [&[tag::RECORD][..], &bytes("probe"), &number, &[tag::END]].concat();
        let mut turn = vec![tag::SEQUENCE];
        event(&mut turn, 1, "M", &probe, None);
        event(&mut turn, 1, "S", &mine(SYNC as u64), None);
        encode::end(&mut turn);
        self.bystander.send(&turn);
        let captured = [&[tag::SEQUENCE][..], &number, &[tag::END]].concat();
        let (mut is_seen, mut is_answered) = (false, false);
        let mut waits = 0;
        while !(is_seen && is_answered) {
            waits += 1;
            assert!(waits < WAITS_MAX, "the bystander is not served: {is_seen} {is_answered}");
            // Who does not read holds the bystander back, too, once it owes enough.
            let is_late = waits > 8;
            let timeout = Timespec { tv_sec: 0, tv_nsec: WAIT.as_nanos() as i64 };
            let _ = poll(&mut [PollFd::new(self.bystander.stream(), PollFlags::IN)], Some(&timeout));
            self.attend(is_late);
            for (oid, body) in std::mem::take(&mut self.bystander.told.messages) {
                is_seen |= oid == PROBE && body == captured;
                is_answered |= oid == SYNC && body == [tag::TRUE];
            }
        }
        self.attend(false);
    }

    /// Reads what has come, and answers what the bystander is asked.
    fn attend(&mut self, all_read: bool) {
        self.bystander.drain(&mut self.buffer);
        assert!(!self.bystander.has_ended, "the bystander's session ends: {:?}", self.bystander.told.error);
        for asker in std::mem::take(&mut self.bystander.told.asked) {
            self.bystander.send(&message(&asker, &[tag::TRUE]));
        }
        for peer in self.peers.iter_mut().flatten() {
            match peer.reads || all_read {
                true => peer.drain(&mut self.buffer),
                false => peer.push(),
            }
            peer.told.messages.clear();
            peer.told.asked.clear();
        }
    }

    /// What waits is owed for, and that is bounded: by what each may owe, what one turn may come to, and what that may
    /// become in another dataspace's turns.
    fn check_bounds(&self) {
        let sessions = 1 + PEERS as u64;
        let debt = self.server.total_debt();
        assert!(debt <= sessions * (DEBT_MAX + 4 * FAN_OUT_MAX), "{debt} is owed, for {:?}", self.waiting());
        let (observers, assertions, skeletons) = self.server.index_counts();
        let principals = 3;
        assert!(observers as u64 <= principals * QUOTA.observations, "{observers} observers");
        assert!(assertions as u64 <= principals * QUOTA.assertions, "{assertions} assertions");
        assert!(skeletons as u64 <= principals * QUOTA.observations, "{skeletons} skeletons");
    }

    /// Who holds how much that whom has caused.
    fn waiting(&self) -> BTreeMap<(String, String), u64> {
        let mut rows = BTreeMap::new();
        for holding in self.server.holdings() {
            *rows.entry((holding.holder, holding.debtor)).or_default() += holding.bytes;
        }
        rows
    }

    /// All but the bystander leave: what they held is given back, what they asserted retracted, what they owed repaid.
    fn leave(&mut self) {
        (0..PEERS).for_each(|at| self.close(at));
        (0..8)
            .filter(|which| self.asserts >> which & 1 == 1)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|w| self.toggle(w));
        self.settle();
        self.scripts += 1;
        if self.scripts.is_multiple_of(SCRIPTS_TO_TAKE_ALL) {
            self.take_everything();
            self.settle();
        }
        let panics = self.server.scheduler_metrics().workers.iter().map(|worker| worker.panics).sum::<u64>();
        assert_eq!(panics, 0, "a worker has panicked");
    }

    fn settle(&mut self) {
        for waits in 0.. {
            self.round();
            let server = &self.server;
            let found = (server.connections(), server.total_debt(), server.index_counts());
            if found == (2, 0, self.idle_counts) && self.bystander.told.live.len() == self.idle_told {
                break;
            }
            assert!(waits < WAITS_MAX, "left behind: {found:?}, {:02x?}", self.bystander.told.live);
            if waits > 16 {
                std::thread::sleep(WAIT);
            }
        }
        self.server.audit().unwrap();
        assert_eq!(self.server.holdings().len(), 0);
    }

    /// A peer takes all that its principal may have: nothing of it has got lost.
    fn take_everything(&mut self) {
        self.open(0, Way::Resolved);
        let peer = self.peers[0].as_mut().expect("it is open");
        peer.send(&self.everything);
        self.round();
        let peer = self.peers[0].as_ref().expect("it is open");
        assert_eq!(peer.told.error, None, "not all that a principal may have is there");
        assert!(!peer.has_ended);
        let (observers, asserted, _) = self.server.index_counts();
        assert_eq!(observers as u64, self.idle_counts.0 as u64 + QUOTA.observations);
        assert_eq!(asserted as u64, self.idle_counts.1 as u64 + QUOTA.assertions - 1);
        self.close(0);
    }
}

/// The turn of a peer that has come and resolved the dataspace, which takes all else that its principal may have.
fn everything() -> Vec<u8> {
    let Quota { assertions, observations, references } = QUOTA;
    let mut turn = vec![tag::SEQUENCE];
    // It has an assertion and a reference since it came.
    let mut oid = 1;
    for n in 0..observations {
        let observe = format!("<Observe <group <rec l{n}> {{{n}: <bind <_>>}}> #:[0 {oid}]>");
        event(&mut turn, 1, "A", &bytes(&observe), Some(100 + n as i64));
        oid += 1;
    }
    for n in observations..assertions - 1 {
        let reference = if oid < references { format!("#:[0 {oid}]") } else { String::new() };
        event(&mut turn, 1, "A", &bytes(&format!("<all {n} {reference}>")), Some(100 + n as i64));
        oid += 1;
    }
    encode::end(&mut turn);
    turn
}

/// Over TCP, from an address of this machine's, which is a principal of its own.
fn connect_from(source: [u8; 4], to: SocketAddr) -> Stream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &SocketAddr::from((source, 0))).unwrap();
    connect(&fd, &to).unwrap();
    let stream = Stream::from_fd(fd).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}
