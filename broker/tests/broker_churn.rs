//! Observers, connections and consumers that come and go while others route; and the books when all is done.

mod common;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use staunch::server::{Address, Config, Server};

/// Checks that nothing is left of anybody once all have gone.
fn check_empty(server: &Server) {
    until("all have gone", || server.connections() == 0);
    until("nothing is owed", || server.total_debt() == 0);
    assert!(server.holdings().is_empty() && server.debts().is_empty(), "{:?}", server.debts());
    assert_eq!(server.index_counts(), (0, 0, 0), "observers, assertions, skeletons");
    balanced(server);
}

/// After the retraction of its Observe has been acknowledged an observer is sent nothing, though producers route all
/// the time; a session gets nothing that was meant for one whose number it has; and nothing is left in the end.
#[test]
fn observers_come_and_go_while_others_route() {
    const ROUNDS: u64 = 300;
    let (server, address) = start(Config { workers: 2, send_buffer: 16 << 10, ..Config::default() });
    let seed = Random::new("observers_come_and_go").next();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for p in 0..2 {
            let is_done = &is_done;
            scope.spawn(move || route_until(is_done, address, p));
        }
        let churners: Vec<_> = (0..4_u64)
            .map(|c| scope.spawn(move || churn(address, Random(seed ^ (c + 1) << 32 | 1), ROUNDS)))
            .collect();
        let results: Vec<_> = churners.into_iter().map(|c| c.join()).collect();
        is_done.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    check_empty(&server);
}

/// Sends messages and changes assertions, in the fast way and the general one, until told to stop.
fn route_until(is_done: &AtomicBool, address: SocketAddr, p: u64) {
    let mut producer = Client::tcp(address).resolved();
    let mut n = 0;
    while !is_done.load(Ordering::Relaxed) {
        let messages: Vec<u8> = (0..20).flat_map(|i| bytes(&format!("[[1 <M <m {p} {i}>>]]"))).collect();
        producer.send_bytes(&messages);
        let (new, old) = (100 + (n + 1) % 2, 100 + n % 2);
        let retract = if n > 0 { format!("[1 <R {old}>]") } else { String::new() };
        producer.send(&format!("[[1 <A <m {p} s{n}> {new}>] {retract}]"));
        // So that it does not run far ahead of those who come and go.
        assert_eq!(producer.sync(), []);
        n += 1;
    }
}

fn churn(address: SocketAddr, mut random: Random, rounds: u64) {
    for round in 0..rounds {
        let mut client = Client::tcp(address).resolved();
        if random.below(4) == 0 {
            // One that never asks for anything, with the number of one that did.
            assert_eq!(client.sync(), []);
            continue;
        }
        let pattern = match random.below(3) {
            0 => record_pattern("m", 2),
            1 => format!("<group <rec m> {{0: <lit {}> 1: <bind <_>>}}>", random.below(2)),
            _ => "<bind <_>>".to_owned(),
        };
        for subscription in 0..random.below(4) {
            let (oid, handle) = (10 + subscription as i64, 20 + subscription as i64);
            client.send(&format!("[{}]", observe(&pattern, oid, handle)));
            for _ in 0..random.below(3) {
                client.turn();
            }
            client.send(&format!("[[1 <R {handle}>]]"));
            let before = client.sync();
            assert!(before.iter().all(|e| e.oid == oid), "{before:?}");
            assert_eq!(client.sync(), [], "after the retraction was acknowledged");
        }
        // Some go while they observe, in the middle of what they are sent, or without a word.
        if random.below(2) == 0 {
            client.send(&format!("[{}]", observe(&pattern, 9, 3)));
            if round % 2 == 0 {
                client.turn();
            }
        }
    }
}

/// Somebody who does what comes to mind.
struct Chaotic {
    client: Client,
    handles: Vec<i64>,
    next: i64,
    is_stalled: bool,
    /// What is left to send of a packet.
    half: Vec<u8>,
    /// The Sync at the end has been answered.
    is_synced: bool,
}

/// Where the Sync at the end is answered.
const SYNCED: i64 = 1 << 40;

impl Chaotic {
    fn new(random: &mut Random, address: SocketAddr, path: &Path) -> Chaotic {
        let client = if random.below(2) == 0 { Client::tcp(address) } else { Client::unix(path) };
        let client = client.resolved();
        Chaotic {
            client,
            handles: Vec::new(),
            next: 100,
            is_stalled: false,
            half: Vec::new(),
            is_synced: false,
        }
    }

    fn handle(&mut self) -> i64 {
        self.next += 1;
        self.handles.push(self.next);
        self.next
    }

    /// One packet, as text.
    fn packet(&mut self, random: &mut Random) -> String {
        let label = ["a", "b", "c"][random.below(3) as usize];
        let body = "x".repeat([3, 200, 5000, 30_000][(random.below(16) as usize / 5).min(3)]);
        match random.below(10) {
            0 => {
                let handle = self.handle();
                format!("[{}]", observe(&record_pattern(label, 2), handle, handle))
            }
            1..=3 => {
                let handle = self.handle();
                format!("[[1 <A <{label} {} \"{body}\"> {handle}>]]", random.below(20))
            }
            4 | 5 if !self.handles.is_empty() => {
                let handle = self.handles.swap_remove(random.below(self.handles.len() as u64) as usize);
                format!("[[1 <R {handle}>] [1 <M <{label} gone {handle}>>]]")
            }
            6 => {
                let handle = self.handle();
                format!("[[1 <A <{label} ent #:[0 {handle}]> {handle}>]]")
            }
            _ => {
                let message = format!("[1 <M <{label} {} \"{body}\">>]", random.below(100));
                format!("[{}]", message.repeat(1 + random.below(4) as usize))
            }
        }
    }

    fn act(&mut self, random: &mut Random) {
        if self.half.is_empty() {
            self.half = bytes(&self.packet(random));
        }
        // Sometimes only a part of it, for now.
        let part =
            if random.below(3) == 0 { 1 + random.below(self.half.len() as u64) as usize } else { usize::MAX };
        let sent = self.client.send_some(&self.half[..part.min(self.half.len())]);
        self.half.drain(..sent);
        if random.below(20) == 0 {
            self.is_stalled = !self.is_stalled;
        }
        if !self.is_stalled {
            self.read();
        }
    }

    /// Reads what there is.
    fn read(&mut self) {
        loop {
            match self.client.next_within(std::time::Duration::ZERO) {
                Came::Turn(turn) => self.is_synced |= turn.iter().any(|e| e.oid == SYNCED),
                Came::Nothing => return,
                other => panic!("it did nothing wrong: {other:?}"),
            }
        }
    }
}

/// Whatever happens, in the end everything has been delivered or has gone, and all debts are exactly zero.
#[test]
fn the_books_balance_after_chaos() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("socket");
    let listen =
        vec![Address::Tcp("127.0.0.1:0".parse().unwrap()).into(), Address::Unix(path.clone()).into()];
    let config = Config {
        workers: 2,
        listen,
        debt_max: 60_000,
        outbox_max: 200_000,
        send_buffer: 8192,
        receive_buffer: 8192,
        ..Config::default()
    };
    let (server, address) = start(config);
    let mut random = Random::new("the_books_balance_after_chaos");
    for _ in 0..3 {
        let mut all: Vec<Chaotic> = (0..8).map(|_| Chaotic::new(&mut random, address, &path)).collect();
        for _ in 0..2500 {
            let who = random.below(all.len() as u64) as usize;
            all[who].act(&mut random);
            if random.below(400) == 0 {
                all[who] = Chaotic::new(&mut random, address, &path);
            }
        }
        settle(&server, &mut all);
        drop(all);
        check_empty(&server);
    }
}

/// All read, and finish what they have begun to send, until each has been answered a Sync behind everything else.
fn settle(server: &Server, all: &mut [Chaotic]) {
    until("everything has been sent", || {
        for chaotic in all.iter_mut() {
            chaotic.read();
            let sent = chaotic.client.send_some(&chaotic.half);
            chaotic.half.drain(..sent);
        }
        all.iter().all(|c| c.half.is_empty())
    });
    let sync = bytes(&format!("[[1 <S #:[0 {SYNCED}]>]]"));
    all.iter_mut().for_each(|c| c.half = sync.clone());
    until("everything has been handled", || {
        for chaotic in all.iter_mut() {
            chaotic.read();
            let sent = chaotic.client.send_some(&chaotic.half);
            chaotic.half.drain(..sent);
        }
        all.iter().all(|c| c.is_synced)
    });
    until("everything has been read", || {
        all.iter_mut().for_each(Chaotic::read);
        server.total_debt() == 0
    });
    assert!(server.holdings().is_empty());
    balanced(server);
}
