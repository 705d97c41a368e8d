//! Flow control: who is held back, for how long, and that the books balance.

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use common::*;
use staunch::server::{Address, Config, Server};

/// Small limits, and little in the kernel, so that little traffic reaches them.
fn tight() -> Config {
    Config { workers: 2, debt_max: 100_000, send_buffer: 4096, receive_buffer: 65536, ..Config::default() }
}

/// Subscribes to `<m n body>` with little room, and then does not read.
fn stalled_consumer(address: SocketAddr) -> Client {
    let mut consumer = Client::narrow(address).resolved();
    consumer.send(&format!("[{}]", observe("<group <rec m> {0: <bind <_>>, 1: <bind <_>>}>", 7, 2)));
    consumer.sync();
    consumer
}

fn message(n: u64, body_bytes: usize) -> Vec<u8> {
    bytes(&format!("[[1 <M <m {n} \"{}\">>]]", "x".repeat(body_bytes)))
}

/// The numbers of all messages that `consumer` gets up to its next Sync.
fn numbers(consumer: &mut Client) -> Vec<u64> {
    let events = consumer.sync();
    let messages = events.iter().filter(|e| e.kind == 'M');
    messages.map(|e| e.body[1..].split(',').next().unwrap().parse().unwrap()).collect()
}

/// Sends numbered messages until it is held back and the kernel is full. Returns how many have been sent whole; a
/// further one may have been begun.
fn flood(producer: &mut Client, server: &Server, body_bytes: usize) -> u64 {
    let (mut n, mut rest) = (0, Vec::new());
    let mut is_stuck = false;
    until("the producer is held back", || {
        if rest.is_empty() {
            rest = message(n, body_bytes);
            n += 1;
        }
        let sent = producer.send_some(&rest);
        rest.drain(..sent);
        if sent > 0 {
            is_stuck = false;
            return false;
        }
        // Twice in a row, since the broker may have been about to read.
        let was_stuck = std::mem::replace(&mut is_stuck, server.debts().iter().any(|d| d.is_waiting));
        std::thread::sleep(Duration::from_millis(2));
        was_stuck && is_stuck
    });
    if rest.is_empty() { n } else { n - 1 }
}

/// Sends numbered messages until it is held back, and no more, so that the kernel has room for its end.
fn fill(producer: &mut Client, server: &Server, body_bytes: usize) -> u64 {
    let mut n = 0;
    until("the producer is held back", || {
        producer.send_bytes(&message(n, body_bytes));
        n += 1;
        server.debts().iter().any(|d| d.is_waiting)
    });
    n
}

/// Listens on TCP and at a path.
fn with_path(config: Config) -> (Server, SocketAddr, tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listen =
        vec![Address::Tcp("127.0.0.1:0".parse().unwrap()).into(), Address::Unix(path.clone()).into()];
    let (server, address) = start(Config { listen, ..config });
    (server, address, folder, path)
}

/// Over a Unix socket its end is seen at once, however full the socket.
#[test]
fn a_producer_that_is_killed_while_held_back_leaves_what_it_wrote() {
    let (server, address, _folder, path) = with_path(tight());
    check_killed(&server, address, Client::unix(&path));
}

/// Over TCP its end comes behind what it wrote and there is no room for, until its kernel gives that up (after about
/// 4 minutes) and a keep-alive finds that out.
#[test]
#[ignore = "takes minutes"]
fn a_producer_that_is_killed_while_held_back_leaves_what_arrived() {
    let (server, address) = start(tight());
    check_killed(&server, address, Client::tcp(address));
}

/// What it asserted goes, although the consumer does not move; what it wrote arrives once the consumer does.
fn check_killed(server: &Server, address: SocketAddr, producer: Client) {
    let is_unix = producer.is_unix();
    let mut consumer = stalled_consumer(address);
    let mut watcher = Client::tcp(address).resolved();
    watcher.send(&format!("[{}]", observe(&record_pattern("here", 1), 8, 2)));
    let mut producer = producer.resolved();
    producer.send("[[1 <A <here producer> 3>]]");
    assert_eq!(watcher.event().body, "[producer]");
    let count = flood(&mut producer, server, 100);
    drop(producer);
    match watcher.next_within(10 * PATIENCE) {
        Came::Turn(turn) => assert_eq!(turn[0].kind, 'R', "while the consumer stands still"),
        other => panic!("{other:?}"),
    }
    let debt = server.total_debt();
    assert!(debt > 100_000, "{debt}");
    assert!(server.debts().iter().any(|d| d.is_orphaned && d.debt == debt));
    balanced(server);
    let got = numbers(&mut consumer);
    assert_eq!(got, (0..got.len() as u64).collect::<Vec<_>>());
    // What a kernel gave up never arrived.
    assert!(got.len() as u64 == count || !is_unix && (got.len() as u64) < count, "{} of {count}", got.len());
    until("nothing is owed", || server.total_debt() == 0);
    balanced(server);
}

fn check_reconnecting(
    address: SocketAddr,
    server: &Server,
    guilty: impl Fn() -> Client,
    innocent: impl Fn() -> Client,
) {
    let mut consumer = stalled_consumer(address);
    let mut producer = guilty().resolved();
    let count = fill(&mut producer, server, 100);
    // Somebody of the same principal who was there before goes on.
    let mut earlier = guilty().resolved();
    drop(producer);
    until("its debt is orphaned", || server.debts().iter().any(|d| d.is_orphaned));
    assert_eq!(earlier.sync(), []);
    let mut again = guilty();
    again.send_anyway(&bytes(
        r#"[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[0 0]> 1>]]"#,
    ));
    assert_eq!(again.next_within(Duration::from_millis(200)), Came::Nothing, "still in debt");
    assert_eq!(innocent().resolved().sync(), []);
    assert_eq!(again.next_within(Duration::from_millis(50)), Came::Nothing, "still in debt");
    assert_eq!(numbers(&mut consumer), (0..count).collect::<Vec<_>>());
    assert_eq!(again.event().body, "<ok #:[0, 1]>");
    assert_eq!(again.sync(), []);
    until("nothing is owed", || server.total_debt() == 0);
}

#[test]
fn reconnecting_is_no_way_out_of_debt_by_address() {
    let (server, address) = start(Config { orphaned_max: 50_000, ..tight() });
    let guilty = || Client::tcp_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), address);
    check_reconnecting(address, &server, guilty, || Client::tcp(address));
}

#[test]
fn reconnecting_is_no_way_out_of_debt_by_user() {
    let (server, address, _folder, path) = with_path(Config { orphaned_max: 50_000, ..tight() });
    check_reconnecting(address, &server, || Client::unix(&path), || Client::tcp(address));
}

/// A body that goes to many is charged once, until the last has it.
#[test]
fn a_shared_body_is_owed_for_once() {
    const BODY: usize = 1 << 20;
    const CONSUMERS: usize = 10;
    let (server, address) = start(Config { debt_max: 64 << 20, ..tight() });
    let mut consumers: Vec<Client> = (0..CONSUMERS).map(|_| stalled_consumer(address)).collect();
    let mut producer = Client::tcp(address).resolved();
    producer.send_bytes(&message(0, BODY));
    producer.sync();
    let debt = server.total_debt();
    assert!((BODY as u64..BODY as u64 * 3 / 2).contains(&debt), "{debt}");
    balanced(&server);
    let shared = server.holdings().iter().filter(|h| h.is_shared).count();
    assert_eq!(shared, CONSUMERS, "each of them sits on it");
    let mut last = consumers.pop().unwrap();
    for consumer in &mut consumers {
        assert_eq!(numbers(consumer), [0]);
    }
    let debt = server.total_debt();
    assert!(debt >= BODY as u64, "the last still holds it: {debt}");
    balanced(&server);
    assert_eq!(numbers(&mut last), [0]);
    until("nothing is owed", || server.total_debt() == 0);
}

/// Accounts alone would let much gather for one that does not read; its outbox's ceiling holds their owners back.
#[test]
fn an_outbox_above_its_ceiling_holds_back_who_fills_it() {
    const CEILING: usize = 64 << 10;
    let (server, address) = start(Config { debt_max: 1 << 30, outbox_max: CEILING, ..tight() });
    let mut consumer = stalled_consumer(address);
    let mut counts = Vec::new();
    let mut producers: Vec<Client> = (0..4).map(|_| Client::tcp(address).resolved()).collect();
    let throttled = || server.counts().iter().find(|(name, _)| *name == "throttled").unwrap().1;
    for (i, producer) in producers.iter_mut().enumerate() {
        let (mut n, mut rest, mut stuck) = (0, Vec::new(), 0);
        until("the producer is held back", || {
            if rest.is_empty() {
                rest = message(i as u64 * 1_000_000 + n, 1000);
                n += 1;
            }
            let sent = producer.send_some(&rest);
            rest.drain(..sent);
            stuck = if sent == 0 { stuck + 1 } else { 0 };
            std::thread::sleep(Duration::from_micros(if sent == 0 { 2000 } else { 0 }));
            stuck > 20 && throttled() as usize > i
        });
        counts.push(if rest.is_empty() { n } else { n - 1 });
        let waiting: u64 = server.holdings().iter().map(|h| h.bytes).sum();
        // One chunk may be handled before it is noticed.
        assert!(waiting < (CEILING + (i + 1) * (256 << 10)) as u64, "{waiting} bytes wait");
    }
    // Somebody who does not write to it is not held back.
    assert_eq!(Client::tcp(address).resolved().sync(), []);
    let mut got = Vec::new();
    let total: u64 = counts.iter().sum();
    while (got.len() as u64) < total {
        for event in consumer.turn() {
            got.push(event.body[1..].split(',').next().unwrap().parse::<u64>().unwrap());
        }
    }
    for (i, count) in counts.iter().enumerate() {
        let first = i as u64 * 1_000_000;
        let own: Vec<u64> = got.iter().copied().filter(|n| (first..first + 1_000_000).contains(n)).collect();
        assert_eq!(own, (first..first + count).collect::<Vec<_>>(), "all, once, in order");
    }
    for producer in &mut producers {
        // What is left of a message that was cut off is sent, so that it can be told to be the last.
        drop(std::mem::replace(producer, Client::tcp(address)));
    }
    until("nothing is owed", || server.total_debt() == 0);
}

/// What nobody can be held back for goes to the hard cap, and then the one who does not read ends.
#[test]
fn a_session_far_above_its_ceiling_ends() {
    let (server, address) = start(Config { debt_max: 1 << 30, outbox_max: 64 << 10, ..tight() });
    let mut consumer = stalled_consumer(address);
    let mut innocent = Client::tcp(address).resolved();
    innocent.send(&format!("[{}]", observe(&record_pattern("other", 1), 7, 2)));
    innocent.sync();
    let mut producer = Client::tcp(address).resolved();
    let events: String = (0..2000).map(|n| format!("[1 <M <m {n} \"{}\">>]", "x".repeat(500))).collect();
    producer.send(&format!("[{events} [1 <M <other 1>>]]"));
    assert_eq!(innocent.event().body, "[1]");
    let error = consumer.ends_with_error();
    assert!(error.contains("Too much waits"), "{error}");
    assert_eq!(producer.sync(), []);
    until("it has gone", || server.connections() == 2);
    until("nothing is owed", || server.total_debt() == 0);
}

/// Reading one event after the other over a Unix socket makes no work for the broker.
#[test]
fn a_reader_on_a_unix_socket_makes_no_events_by_reading() {
    const COUNT: u64 = 2000;
    let (server, _, _folder, path) = with_path(Config { workers: 2, ..Config::default() });
    let mut reader = Client::unix(&path).resolved();
    reader.send(&format!("[{}]", observe(&record_pattern("m", 1), 7, 2)));
    reader.sync();
    let mut writer = Client::unix(&path).resolved();
    let before = server.scheduler_metrics().total().events;
    for n in 0..COUNT {
        writer.send(&format!("[[1 <M <m {n}>>]]"));
        assert_eq!(reader.event().body, format!("[{n}]"));
    }
    let events = server.scheduler_metrics().total().events - before;
    assert!(events < COUNT * 3 / 2, "{events} events for {COUNT} messages");
}
