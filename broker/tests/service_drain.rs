//! The broker's end: what was read goes out, everybody is told, and nothing hangs.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use staunch::server::{Address, Config, Server};

/// What `drain` may take beside its patience: twice half a second, and what a busy machine adds.
const BESIDE: Duration = Duration::from_secs(10);

fn drain(server: &Arc<Server>, patience: Duration) -> std::thread::JoinHandle<bool> {
    let server = server.clone();
    std::thread::spawn(move || server.drain(patience))
}

#[test]
fn what_was_read_arrives_and_everybody_is_told() {
    let (server, address) = start_default();
    let server = Arc::new(server);
    let mut slow = Client::narrow(address).resolved();
    slow.send(&format!("[{}]", observe(&record_pattern("m", 2), 7, 2)));
    slow.sync();
    let mut sender = Client::tcp(address).resolved();
    let filling = "x".repeat(1000);
    let count = 1500;
    for n in 0..count {
        sender.send(&format!("[[1 <M <m {n} \"{filling}\">>]]"));
    }
    sender.sync();
    assert!(server.total_debt() > 0, "much waits");
    let mut idle = Client::tcp(address).resolved();
    let draining = drain(&server, PATIENCE);
    // It reads only now.
    let (events, error) = slow.rest();
    assert_eq!(error.as_deref(), Some("The broker ends"));
    let numbers: Vec<&str> = events.iter().map(|e| e.body.split([',', '[']).nth(1).unwrap().trim()).collect();
    assert_eq!(numbers, (0..count).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(sender.ends_with_error(), "The broker ends");
    assert_eq!(idle.ends_with_error(), "The broker ends");
    assert!(draining.join().unwrap(), "all has gone out");
    assert_eq!(server.connections(), 0);
}

#[test]
fn nobody_can_hold_it_up() {
    let (server, address) = start_default();
    let server = Arc::new(server);
    // One that never reads, one that never stops sending.
    let mut deaf = Client::narrow(address).resolved();
    deaf.send(&format!("[{}]", observe(&record_pattern("m", 1), 7, 2)));
    deaf.sync();
    let mut sender = Client::tcp(address).resolved();
    let much = bytes(&format!("[[1 <M <m \"{}\">>]]", "x".repeat(100_000)));
    (0..15).for_each(|_| sender.send_bytes(&much));
    sender.sync();
    let mut flooder = Client::tcp(address).resolved();
    let flood = std::thread::spawn(move || {
        let packet = bytes(&"[[1 <M <other>>]]".repeat(1000));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(4) {
            flooder.send_anyway(&packet);
        }
    });
    let start = Instant::now();
    assert!(!drain(&server, Duration::from_millis(300)).join().unwrap(), "something is left");
    assert!(start.elapsed() < BESIDE, "{:?}", start.elapsed());
    flood.join().unwrap();
    drop(deaf);
}

#[test]
fn nobody_new_comes_and_the_socket_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listen = vec![Address::Unix(path.clone()), Address::Tcp("127.0.0.1:0".parse().unwrap())];
    let (server, address) = start_with(listen);
    let mut client = Client::unix(&path).resolved();
    let start = Instant::now();
    assert!(server.drain(PATIENCE));
    assert!(start.elapsed() < BESIDE, "nothing waits: {:?}", start.elapsed());
    assert_eq!(client.ends_with_error(), "The broker ends");
    assert!(!path.exists());
    assert!(std::net::TcpStream::connect(address).is_err());
    // Again is fine.
    server.shutdown();
}

fn start_with(listen: Vec<Address>) -> (Server, std::net::SocketAddr) {
    let listen = listen.into_iter().map(Into::into).collect();
    let server = Server::start_dev(&Config { listen, workers: 2, ..Config::default() }).unwrap();
    let address = server.tcp_addresses()[0];
    (server, address)
}

/// What a peer wrote before it hung up counts, although the broker is about to end.
#[test]
fn a_peer_that_has_gone_is_read_to_its_end() {
    let (server, address) = start_default();
    let server = Arc::new(server);
    let mut observer = Client::tcp(address).resolved();
    observer.send(&format!("[{}]", observe(&record_pattern("m", 1), 7, 2)));
    observer.sync();
    let mut sender = Client::tcp(address).resolved();
    (0..1000).for_each(|n| sender.send(&format!("[[1 <M <m {n}>>]]")));
    sender.finish();
    // Its end has been seen.
    while server.connections() > 1 {
        std::thread::yield_now();
    }
    assert!(server.drain(PATIENCE));
    let (events, error) = observer.rest();
    assert_eq!((events.len(), error.as_deref()), (1000, Some("The broker ends")));
}
