//! Observers that are told only what is newest (`slow=latest`): they hold exactly what is so in the end, and who changes
//! it all the time is not held back by one that does not read.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use common::*;
use staunch::server::{Address, Config, DecisionKind, Listen, Server};

/// A broker that listens twice: where what is newest counts, and where all does. Little lies in the kernel.
fn start_both(latest: &str, debt_max: u64) -> (Server, SocketAddr, SocketAddr) {
    let listen = |slow: &str| {
        let address = Address::Tcp("127.0.0.1:0".parse().unwrap());
        Listen { slow: Some(slow.parse().unwrap()), ..address.into() }
    };
    let listen = vec![listen(latest), listen("throttle")];
    let kernel = Config { send_buffer: 4096, receive_buffer: 65536, ..Config::default() };
    let server = Server::start_dev(&Config { workers: 2, debt_max, listen, ..kernel }).unwrap();
    let addresses = server.tcp_addresses();
    (server, addresses[0], addresses[1])
}

/// Observes `<s key value>` and messages `<m n>`, with little room.
fn observer(address: SocketAddr) -> Client {
    let mut observer = Client::narrow(address).resolved();
    observer.send(&format!(
        "[{} {}]",
        observe(&record_pattern("s", 2), 7, 2),
        observe(&record_pattern("m", 2), 8, 3)
    ));
    observer.sync();
    observer
}

fn filler() -> String {
    "x".repeat(100)
}

/// Replaces each of some keys' values, one after the other, so often. In the end the value is the last number.
fn churn(producer: &mut Client, keys: i64, rounds: i64) {
    for n in 0..keys * rounds {
        let (key, handle) = (n % keys, n + 10);
        let old = if n >= keys { format!("[1 <R {}>]", handle - keys) } else { String::new() };
        producer.send(&format!("[[1 <A <s {key} \"{n} {}\"> {handle}>] {old}]", filler()));
    }
}

/// What an observer holds: by handle.
#[derive(Default)]
struct Held {
    values: BTreeMap<i64, String>,
    events: usize,
    messages: Vec<u64>,
}

impl Held {
    fn take(&mut self, turn: &[Event]) {
        for event in turn {
            self.events += 1;
            match event.kind {
                'A' => assert!(self.values.insert(event.handle, event.body.clone()).is_none(), "told once"),
                'R' => assert!(self.values.remove(&event.handle).is_some(), "never before it was told"),
                _ if event.oid == 8 => {
                    self.messages.push(event.body[1..].split(',').next().unwrap().parse().unwrap());
                }
                _ => {}
            }
        }
    }

    /// In order; of capabilities, whose names differ from session to session, only that they are there.
    fn values(&self) -> Vec<&str> {
        let of = |value: &'_ String| value.find("#:").unwrap_or(value.len());
        let mut values: Vec<_> = self.values.values().map(|value| &value[..of(value)]).collect();
        values.sort_unstable();
        values
    }
}

fn sync(observer: &mut Client, held: &mut Held) {
    observer.sync_at(1).iter().for_each(|turn| held.take(turn));
}

#[test]
fn who_changes_state_all_the_time_is_not_held_back_by_who_does_not_read() {
    const ROUNDS: i64 = 2000;
    let (server, latest, _) = start_both("latest", 100_000);
    let mut observer = observer(latest);
    let mut producer = Client::tcp(latest).resolved();
    churn(&mut producer, 10, ROUNDS);
    assert_eq!(producer.sync(), [], "all has taken effect");
    let waiting: u64 = server.holdings().iter().map(|holding| holding.bytes).sum();
    assert!(waiting < 200_000, "{waiting} bytes wait");
    let counts = server.decision_counts();
    assert!(counts.cancelled_events > 10_000, "{counts:?}");
    assert_eq!((counts.keep_latest, counts.disconnected, counts.dropped_messages), (1, 0, 0));
    assert_eq!(server.decisions()[0].kind, DecisionKind::KeepsLatest);
    let mut held = Held::default();
    sync(&mut observer, &mut held);
    assert_eq!(held.values.len(), 10);
    let last = 10 * ROUNDS - 10;
    let expected: Vec<String> =
        (last..).take(10).map(|n| format!("[{}, \"{n} {}\"]", n % 10, filler())).collect();
    assert_eq!(held.values(), expected);
    assert!(held.events < 10_000, "{} events", held.events);
    until("nothing is owed", || server.total_debt() == 0);
    balanced(&server);
}

/// Less may be owed than what waits is looked through at: it is looked through all the same when somebody is held back.
#[test]
fn who_is_held_back_for_what_has_become_void_goes_on() {
    let (server, latest, _) = start_both("latest", 10_000);
    let mut observer = observer(latest);
    let mut producer = Client::tcp(latest).resolved();
    churn(&mut producer, 3, 300);
    assert_eq!(producer.sync(), []);
    let mut held = Held::default();
    sync(&mut observer, &mut held);
    assert_eq!(held.values.len(), 3);
    until("nothing is owed", || server.total_debt() == 0);
}

fn message(n: u64) -> String {
    format!("[[1 <M <m {n} \"{}\">>]]", filler())
}

/// Messages are sent as ever, so who sends them is held back.
#[test]
fn messages_are_not_void() {
    let (server, latest, _) = start_both("latest", 100_000);
    let mut observer = observer(latest);
    let mut producer = Client::tcp(latest).resolved();
    let mut n = 0;
    until("the producer is held back", || {
        producer.send(&message(n));
        n += 1;
        server.debts().iter().any(|debt| debt.is_waiting)
    });
    let mut held = Held::default();
    while (held.messages.len() as u64) < n {
        held.take(&observer.turn());
    }
    assert_eq!(held.messages, (0..n).collect::<Vec<_>>());
    assert_eq!(server.decision_counts().dropped_messages, 0);
}

/// Where that is asked for they are dropped, and counted; what answers a Sync is not.
#[test]
fn messages_are_dropped_where_that_is_asked_for() {
    const COUNT: u64 = 10_000;
    let (server, latest, _) = start_both("latest:drop", 100_000);
    let mut observer = observer(latest);
    observer.send(r#"[[1 <S #:[0 99]>]]"#);
    let mut producer = Client::tcp(latest).resolved();
    producer.send(&format!("[[1 <A <s 1 {}> 5>]]", 1));
    (0..COUNT).for_each(|n| producer.send(&message(n)));
    producer.send(&format!("[[1 <A <s 2 {}> 6>]]", 2));
    assert_eq!(producer.sync(), []);
    let mut held = Held::default();
    sync(&mut observer, &mut held);
    assert_eq!(held.values(), ["[1, 1]", "[2, 2]"]);
    assert!(held.messages.is_sorted(), "in order");
    let dropped = server.decision_counts().dropped_messages;
    assert_eq!(held.messages.len() as u64 + dropped, COUNT, "each was sent or counted");
    assert!(dropped > COUNT / 2, "{dropped}");
    until("nothing is owed", || server.total_debt() == 0);
    balanced(&server);
}

/// Producers that assert, replace, retract and send at random, and observers that read at random: in the end all hold
/// what one holds that reads all the time.
#[test]
fn whoever_reads_at_random_holds_in_the_end_what_is_so() {
    let mut random = Random::new("whoever_reads_at_random_holds_in_the_end_what_is_so");
    for round in 0..4 {
        let (server, latest, throttle) = start_both("latest", 50_000);
        let mut twin = (observer(throttle), Held::default());
        let mut others: Vec<_> = (0..3).map(|_| (observer(latest), Held::default())).collect();
        let mut producers: Vec<_> =
            (0..3).map(|_| (Client::tcp(throttle).resolved(), BTreeMap::new(), 10)).collect();
        let take = |(client, held): &mut (Client, Held)| {
            while let Came::Turn(turn) = client.next_within(Duration::ZERO) {
                held.take(&turn);
            }
        };
        for _ in 0..1500 {
            let at = random.below(3) as usize;
            let turn = random_turn(at, &mut producers[at], &mut random, round % 2 == 1);
            let mut turn = &bytes(&turn)[..];
            while !turn.is_empty() {
                match producers[at].0.send_some(turn) {
                    // Messages wait for whoever does not read.
                    0 => others.iter_mut().for_each(take),
                    sent => turn = &turn[sent..],
                }
                take(&mut twin);
            }
            if random.below(200) == 0 {
                take(&mut others[random.below(3) as usize]);
            }
        }
        for (producer, ..) in &mut producers {
            producer.send("[[1 <S #:[0 50]>]]");
            loop {
                take(&mut twin);
                others.iter_mut().for_each(take);
                if let Came::Turn(_) = producer.next_within(Duration::from_millis(1)) {
                    break;
                }
            }
        }
        sync(&mut twin.0, &mut twin.1);
        for (client, held) in &mut others {
            sync(client, held);
            assert_eq!(held.values(), twin.1.values());
            assert_eq!(held.messages.len(), twin.1.messages.len());
        }
        until("nothing is owed", || server.total_debt() == 0);
        balanced(&server);
    }
}

type Producer = (Client, BTreeMap<u64, i64>, i64);

fn random_turn(who: usize, producer: &mut Producer, random: &mut Random, has_messages: bool) -> String {
    let (_, live, next) = producer;
    let mut events = String::new();
    for _ in 0..1 + random.below(3) {
        let key = random.below(8);
        match random.below(10) {
            0 if has_messages => events += &format!("[1 <M <m {next} {who}>>]"),
            0..7 => {
                *next += 1;
                let length = if random.below(20) == 0 { 6000 } else { random.below(200) };
                // Some are equal to others', and some hold a capability.
                let value = match random.below(4) {
                    0 => format!("{}", random.below(5)),
                    1 => format!("[#:[0 {}]]", 100 + next.unsigned_abs()),
                    _ => format!("\"{who} {next} {}\"", "y".repeat(length as usize)),
                };
                events += &format!("[1 <A <s {key} {value}> {next}>]");
                if let Some(old) = live.insert(key, *next) {
                    events += &format!("[1 <R {old}>]");
                }
            }
            _ => {
                if let Some(old) = live.remove(&key) {
                    events += &format!("[1 <R {old}>]");
                }
            }
        }
    }
    format!("[{events}]")
}
