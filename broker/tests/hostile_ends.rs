//! Peers that are killed, that hang up, and that take their time: at any point, and beside innocent clients.

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::bystander::{beside, check_over};
use common::text::RESOLVE;
use common::*;
use staunch::server::{Address, Config, Server};

/// Listens on TCP and at a path.
fn with_path(config: Config) -> (Server, SocketAddr, tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listen =
        vec![Address::Tcp("127.0.0.1:0".parse().unwrap()).into(), Address::Unix(path.clone()).into()];
    let (server, address) = start(Config { listen, workers: 2, ..config });
    (server, address, folder, path)
}

fn connect(address: SocketAddr, path: &Path, is_unix: bool) -> Client {
    if is_unix { Client::unix(path) } else { Client::tcp(address) }
}

/// Observes `<here n>`, and knows which are.
struct Watcher {
    client: Client,
    /// By the broker's handles.
    live: HashMap<i64, String>,
    seen: usize,
}

impl Watcher {
    fn new(address: SocketAddr) -> Watcher {
        let mut client = Client::tcp(address).resolved();
        client.send(&format!("[{}]", observe(&record_pattern("here", 1), 7, 2)));
        client.sync();
        Watcher { client, live: HashMap::new(), seen: 0 }
    }

    fn look(&mut self) {
        for event in self.client.sync() {
            match event.kind {
                'A' => {
                    self.seen += 1;
                    assert!(self.live.insert(event.handle, event.body).is_none());
                }
                'R' => assert!(self.live.remove(&event.handle).is_some(), "retracted twice, or never told"),
                _ => {}
            }
        }
    }

    fn until_nobody_is_here(&mut self) {
        until("all that they asserted is retracted", || {
            self.look();
            self.live.is_empty()
        });
    }
}

/// A session with something of everything: what it asserts, observes and is told of, asks for, and takes back.
fn conversation(n: usize) -> Vec<u8> {
    bytes(&format!(
        "{RESOLVE} [[1 <A <here {n}> 3>]] [{}] [[1 <M <here {n}>>] [1 <S #:[0 4]>]]
        [[1 <A <e #:[0 9] #:[1 1 <reject <lit {n}>>]> 5>] [1 <M <e #:[0 9]>>]] [[1 <R 3>] [1 <A <here [{n} {n}]> 3>]]
        [[0 <R 1>] [1 <M <here {n}>>]]",
        observe(&record_pattern("here", 1), 8, 6)
    ))
}

#[test]
fn killed_at_any_point() {
    let (server, address, _folder, path) = with_path(Config::default());
    beside(address, || {
        let mut watcher = Watcher::new(address);
        let length = conversation(0).len();
        for cut in 0..=length {
            for is_unix in [false, true] {
                for reads in [false, true] {
                    let mut victim = connect(address, &path, is_unix);
                    let all = conversation(cut);
                    victim.send_anyway(&all[..cut.min(all.len())]);
                    if reads {
                        victim.next_within(Duration::from_micros(200));
                    }
                    victim.kill();
                }
            }
            watcher.look();
        }
        watcher.until_nobody_is_here();
        assert!(watcher.seen > length, "many of them got so far: {}", watcher.seen);
    });
    check_over(&server);
}

/// Killed while much waits for it: messages, a large state that it is being told, its last words.
#[test]
fn killed_while_much_waits() {
    let config = Config { send_buffer: 8192, outbox_max: 1 << 20, ..Config::default() };
    let (server, address, _folder, path) = with_path(config);
    beside(address, || {
        let mut watcher = Watcher::new(address);
        let mut author = Client::tcp(address).resolved();
        let state = |n: usize| format!("[1 <A <s {n} \"{}\"> {}>]", "x".repeat(100), 100 + n);
        (0..40).for_each(|k| {
            author.send(&format!("[{}]", (k * 100..k * 100 + 100).map(state).collect::<String>()))
        });
        author.sync();
        let mut random = Random::new("killed_while_much_waits");
        for round in 0..60 {
            let mut victim = connect(address, &path, round % 2 == 0).resolved();
            victim.send(&format!("[[1 <A <here {round}> 3>]]"));
            // What has not been read when a reset comes never was.
            victim.sync();
            match round % 3 {
                // A large state, of which it reads nothing or the beginning.
                0 => victim.send(&format!("[{}]", observe(&record_pattern("s", 2), 8, 2))),
                // Messages, each a body of its own or one that others get too.
                1 => {
                    victim.send(&format!("[{}]", observe(&record_pattern("m", 1), 8, 2)));
                    victim.sync();
                    let body = "y".repeat([100, 5000][round % 2]);
                    (0..100).for_each(|_| author.send(&format!("[[1 <M <m \"{body}\">>]]")));
                    author.sync();
                }
                // Last words behind all that.
                _ => {
                    victim.send(&format!("[{}]", observe(&record_pattern("s", 2), 8, 2)));
                    victim.send_anyway(b"\xff");
                }
            }
            if random.below(2) == 0 {
                victim.next_within(Duration::from_millis(1));
            }
            victim.kill();
            watcher.look();
        }
        watcher.until_nobody_is_here();
        assert_eq!(watcher.seen, 60);
        author.sync();
    });
    check_over(&server);
}

/// What came before the end takes effect, all of it and in order; the end is none of an error; then it is over.
#[test]
fn half_closed_with_and_without_data_behind() {
    let (server, address, _folder, path) = with_path(Config::default());
    beside(address, || {
        let mut watcher = Client::tcp(address).resolved();
        watcher.send(&format!("[{}]", observe(&record_pattern("m", 2), 7, 2)));
        watcher.sync();
        for is_unix in [false, true] {
            // Nothing at all, nothing more, a Nop, and within a packet.
            let message = bytes("[[1 <M <m 0 0>>]]");
            for (is_resolved, more) in [
                (false, &b""[..]),
                (true, b""),
                (true, b"\x80"),
                (false, &message[..1]),
                (true, &message[..9]),
            ] {
                let mut client = connect(address, &path, is_unix);
                if is_resolved {
                    client = client.resolved();
                }
                client.send_bytes(more);
                client.finish();
                assert_eq!(client.rest(), (Vec::new(), None), "{is_unix} {is_resolved} {more:02x?}");
            }
            assert_eq!(watcher.sync(), []);
            for (count, length) in [(1, 10), (10_000, 10), (50, 100_000)] {
                let mut client = connect(address, &path, is_unix).resolved();
                client.send("[[1 <A <m here here> 3>]]");
                let body = "z".repeat(length);
                let all: Vec<u8> =
                    (0..count).flat_map(|n| bytes(&format!("[[1 <M <m {n} \"{body}\">>]]"))).collect();
                let mut taken = Vec::new();
                client.send_bytes_while(&all, || take(&mut watcher, &mut taken));
                client.finish();
                until("it is over", || {
                    take(&mut watcher, &mut taken);
                    taken.last().is_some_and(|event| event.kind == 'R')
                });
                assert_eq!(client.rest(), (Vec::new(), None));
                let numbers = taken.iter().filter(|event| event.kind == 'M').map(number);
                assert!(numbers.eq(0..count), "all of it, in order");
                assert_eq!(taken.len() as u64, count + 2);
            }
        }
    });
    check_over(&server);
}

/// The number in `[n, ...]`.
fn number(event: &Event) -> u64 {
    event.body[1..].split(',').next().unwrap().parse().unwrap()
}

/// Takes what has come.
fn take(client: &mut Client, taken: &mut Vec<Event>) {
    while let Came::Turn(turn) = client.next_within(Duration::ZERO) {
        taken.extend(turn);
    }
}

/// A peer that hangs up while it is held back is read to its end, and over at once for all others.
#[test]
fn half_closed_while_held_back() {
    let config = Config { debt_max: 100_000, send_buffer: 4096, receive_buffer: 65536, ..Config::default() };
    let (server, address, _folder, path) = with_path(config);
    beside(address, || {
        let mut watcher = Watcher::new(address);
        for is_unix in [false, true] {
            let mut consumer = Client::narrow(address).resolved();
            consumer.send(&format!("[{}]", observe(&record_pattern("m", 2), 7, 2)));
            consumer.sync();
            let mut producer = connect(address, &path, is_unix).resolved();
            producer.send("[[1 <A <here 1> 3>]]");
            let mut count = 0;
            until("it is held back", || {
                producer.send(&format!("[[1 <M <m {count} \"{}\">>]]", "x".repeat(100)));
                count += 1;
                server.debts().iter().any(|debt| debt.is_waiting)
            });
            producer.finish();
            watcher.until_nobody_is_here();
            assert_eq!(producer.rest(), (Vec::new(), None));
            let mut taken = Vec::new();
            until("the consumer has all", || {
                take(&mut consumer, &mut taken);
                taken.len() as u64 == count
            });
            assert!(taken.iter().map(number).eq(0..count), "in order");
        }
        assert_eq!(watcher.seen, 2);
    });
    check_over(&server);
}

/// Very many write a byte now and then, in binary and in text, and read as slowly.
#[test]
fn a_byte_at_a_time() {
    const SLOW: usize = 200;
    let (server, address) = start_default();
    beside(address, || {
        let mut watcher = Watcher::new(address);
        let packets =
            |n: usize| format!("{RESOLVE} [[1 <A <here {n}> 3>] [1 <M <here {n}>>] [1 <S #:[0 4]>]]\n");
        let mut slow: Vec<(TcpStream, Vec<u8>)> = (0..SLOW)
            .map(|n| {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_nodelay(true).unwrap();
                (stream, if n % 2 == 0 { bytes(&packets(n)) } else { packets(n).into_bytes() })
            })
            .collect();
        let longest = slow.iter().map(|(_, bytes)| bytes.len()).max().unwrap();
        for at in 0..longest {
            for (stream, bytes) in &mut slow {
                if let Some(byte) = bytes.get(at) {
                    stream.write_all(&[*byte]).unwrap();
                }
            }
        }
        until("all have come", || {
            watcher.look();
            watcher.live.len() == SLOW
        });
        for (n, (mut stream, _)) in slow.into_iter().enumerate() {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let answer = if n % 2 == 0 { bytes("[[4 <M #t>]]") } else { b"[[4, <M #t>]]\n".to_vec() };
            let mut read = Vec::new();
            while !read.ends_with(&answer) {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                read.push(byte[0]);
            }
        }
        watcher.until_nobody_is_here();
    });
    check_over(&server);
}
