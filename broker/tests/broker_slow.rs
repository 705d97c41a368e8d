//! What is done about slow consumers: who is ended, by whose word, and that nobody else is harmed.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use common::*;
use staunch::admission::{Rule, Start, Who};
use staunch::server::{Address, Binding, Config, DecisionKind, Listen, Server, Slow};
use staunch_protocols::sturdy::SturdyRef;
use staunch_protocols::text as syntax;
use staunch_protocols::wire::{Limits, Scanner};

/// Small limits, and little in the kernel, so that little traffic reaches them.
fn tight(slow: &str) -> Config {
    let slow = slow.parse().unwrap();
    Config {
        workers: 2,
        debt_max: 100_000,
        send_buffer: 4096,
        receive_buffer: 65536,
        slow,
        ..Config::default()
    }
}

fn subscribe(consumer: &mut Client) {
    consumer.send(&format!("[{}]", observe(&record_pattern("m", 2), 7, 2)));
    consumer.sync();
}

/// Observes `<m n body>` with little room, and then does not read.
fn stalled(address: SocketAddr) -> Client {
    let mut consumer = Client::narrow(address).resolved();
    subscribe(&mut consumer);
    consumer
}

fn message(n: u64) -> Vec<u8> {
    bytes(&format!("[[1 <M <m {n} \"{}\">>]]", "x".repeat(100)))
}

fn is_held_back(server: &Server) -> bool {
    server.debts().iter().any(|debt| debt.is_waiting)
}

/// Sends until it is held back, and what is left of the last message by the time that it is not.
fn flood(producer: &mut Client, server: &Server) {
    let mut n = 0;
    until("the producer is held back", || {
        producer.send_bytes(&message(n));
        n += 1;
        is_held_back(server) || server.decision_counts().disconnected > 0
    });
}

#[test]
fn who_has_not_read_for_too_long_is_ended_and_its_producers_go_on() {
    let (server, address) = start(tight("disconnect:0:0.5s"));
    let mut consumer = stalled(address);
    let mut other = Client::tcp(address).resolved();
    other.send(&format!("[{}]", observe(&record_pattern("other", 1), 7, 2)));
    other.sync();
    let mut producer = Client::tcp(address).resolved();
    flood(&mut producer, &server);
    assert_eq!(producer.sync(), [], "goes on");
    producer.send("[[1 <M <other 1>>]]");
    assert_eq!(other.event().body, "[1]");
    let (events, error) = consumer.rest();
    let error = error.expect("it is told why");
    assert!(error.starts_with("Too slow: ") && error.ends_with("for more than 0.5 s"), "{error}");
    // What it got is whole, and in order.
    for (n, event) in events.iter().enumerate() {
        assert!(event.body.starts_with(&format!("[{n},")), "{}", event.body);
    }
    consumer.finish_anyway();
    until("it has gone", || server.connections() == 2);
    until("nothing is owed", || server.total_debt() == 0);
    balanced(&server);
    assert_eq!(server.decision_counts().disconnected, 1);
    let decisions = server.decisions();
    let [decision] = decisions.as_slice() else { panic!("{decisions:?}") };
    assert_eq!((decision.number, decision.kind), (1, DecisionKind::Disconnected));
    assert!(decision.principal == "tcp:127.0.0.1" && decision.connection.starts_with("tcp:127.0.0.1:"));
    assert!(decision.bytes > 10_000 && error.contains(&format!("{} bytes", decision.bytes)), "{decision:?}");
}

/// What is said of a smaller thing counts for more: a binding, a rule, a listener, all the broker.
#[test]
fn policies_are_those_of_the_listener_the_rule_or_the_binding() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let unix = |name: &str, slow: Option<&str>| {
        let address = Listen::from(Address::Unix(path(name)));
        Listen { slow: slow.map(|slow| slow.parse().unwrap()), ..address }
    };
    let never = Slow::Disconnect { bytes: 1 << 40, after: Duration::from_millis(10) };
    let soon = Slow::Disconnect { bytes: 0, after: Duration::from_millis(300) };
    let listen = vec![
        Address::Tcp("127.0.0.1:0".parse().unwrap()).into(),
        unix("throttle", Some("throttle")),
        unix("default", None),
        unix("ruled", Some("disconnect:0:0.05s")),
    ];
    let who = Who { socket: Some(path("ruled")), ..Who::default() };
    let rules = vec![Rule { who, start: Start::Gatekeeper, slow: Some(Slow::Throttle) }];
    let guests = Binding { oid: bytes("guests"), key: b"k".to_vec(), slow: Some(soon) };
    let config = Config { listen, rules, bindings: vec![guests], slow: never, ..tight("throttle") };
    let (server, address) = start(config);
    let stall = |path: &Path, client: fn(Client) -> Client| {
        let mut consumer = client(Client::unix(path));
        subscribe(&mut consumer);
        consumer
    };
    let mut patient = [
        stall(&path("throttle"), Client::resolved),
        stall(&path("default"), Client::resolved),
        stall(&path("ruled"), Client::resolved),
    ];
    let mut guest = stall(&path("throttle"), as_guest);
    let mut producer = Client::tcp(address).resolved();
    flood(&mut producer, &server);
    until("the guest is ended", || server.decision_counts().disconnected > 0);
    let error = guest.ends_with_error();
    assert!(error.contains("Too slow"), "{error}");
    assert_eq!(server.decision_counts().disconnected, 1);
    // The others have waited for as long, and get all.
    patient.iter_mut().for_each(|consumer| assert!(!consumer.sync().is_empty()));
    producer.sync();
    assert_eq!(server.decision_counts().disconnected, 1);
}

fn as_guest(mut client: Client) -> Client {
    let mut reference = Vec::new();
    SturdyRef::mint(&bytes("guests"), b"k").write(&mut reference);
    let mut scanner = Scanner::new(Limits::default());
    scanner.scan(&reference).unwrap();
    let mut shown = String::new();
    syntax::write(scanner.view(&reference), &mut shown, usize::MAX);
    client.send(&format!("[[0 <A <resolve {shown} #:[0 0]> 1>]]"));
    assert_eq!(client.event().body, "<ok #:[0, 1]>");
    client
}

/// Two that publish to each other, and neither reads while it cannot write: nothing else would end that.
#[test]
fn a_policy_breaks_a_cycle_of_clients_that_do_not_read() {
    let (server, address) = start(tight("disconnect:0:2s"));
    let mut pair = [("left", "right", 2), ("right", "left", 3)].map(|(own, others, host)| {
        let mut client = Client::tcp_from(Ipv4Addr::new(127, 0, 0, host).into(), address).resolved();
        client.send(&format!("[{}]", observe(&record_pattern(others, 2), 7, 2)));
        client.sync();
        (client, bytes(&format!("[[1 <M <{own} 1 \"{}\">>]]", "x".repeat(1000))), Vec::new())
    });
    let mut bystander = Client::tcp(address).resolved();
    until("both are held back, by each other", || {
        for (client, message, rest) in &mut pair {
            if rest.is_empty() {
                rest.clone_from(message);
            }
            let sent = client.send_some(rest);
            rest.drain(..sent);
        }
        server.debts().iter().filter(|debt| debt.is_waiting).count() == 2
    });
    assert_eq!(bystander.sync(), [], "others go on");
    until("one of them is ended", || server.decision_counts().disconnected > 0);
    let mut pair = pair.map(|(client, _, rest)| (client, rest));
    if server.decisions()[0].principal == "tcp:127.0.0.3" {
        pair.reverse();
    }
    let [(mut ended, rest), (mut other, other_rest)] = pair;
    // Whoever is left can write at last, and then reads, in time or, where this test does not get to run, too late.
    other.send_anyway(&[other_rest, bytes("[[1 <S #:[0 99]>]]")].concat());
    loop {
        match other.next() {
            Came::Turn(turn) if turn.iter().any(|event| event.oid == 99) => break,
            Came::Turn(turn) => assert!(turn.iter().all(|event| event.kind == 'M')),
            Came::Error(error) => break assert!(error.contains("Too slow"), "{error}"),
            unexpected => panic!("{unexpected:?}"),
        }
    }
    ended.send_anyway(&rest);
    let error = ended.ends_with_error();
    assert!(error.contains("Too slow"), "{error}");
}

/// In text it is told in text, behind the packet under way.
#[test]
fn a_slow_peer_that_speaks_text_is_told_in_text() {
    let (server, address) = start(tight("disconnect:0:0.3s"));
    let consumer = Client::narrow(address);
    let mut stream = consumer.into_tcp();
    let resolve =
        r#"[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[0 0]> 1>]]"#;
    stream.write_all(resolve.as_bytes()).unwrap();
    let observe = observe(&record_pattern("m", 2), 7, 2);
    stream.write_all(format!("[{observe} [1 <S #:[0 9]>]]\n").as_bytes()).unwrap();
    let (mut said, mut chunk) = (String::new(), [0; 4096]);
    while !said.contains("#t") {
        let read = stream.read(&mut chunk).unwrap();
        said.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
    }
    let mut producer = Client::tcp(address).resolved();
    flood(&mut producer, &server);
    producer.sync();
    stream.read_to_string(&mut said).unwrap();
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("<error \"Too slow: "), "{last}");
    assert!(said.lines().all(|line| syntax::parse(line, &Limits::default()).is_ok()), "{said}");
}

/// Who reads all along is not ended, however much waits for it all the time.
#[test]
fn who_keeps_reading_is_not_ended_though_much_waits() {
    const COUNT: u64 = 30_000;
    let (server, address) = start(tight("disconnect:0:10s"));
    let mut consumer = stalled(address);
    let mut producer = Client::tcp(address).resolved();
    let all: Vec<u8> = (0..COUNT).flat_map(message).collect();
    let mut got = 0;
    let mut take = |consumer: &mut Client, patience| match consumer.next_within(patience) {
        Came::Turn(turn) => got += turn.len() as u64,
        Came::Nothing => {}
        other => panic!("{other:?}"),
    };
    producer.send_bytes_while(&all, || take(&mut consumer, Duration::ZERO));
    while got < COUNT {
        match consumer.next() {
            Came::Turn(turn) => got += turn.len() as u64,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.decision_counts(), Default::default());
}
