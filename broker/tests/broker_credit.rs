//! Turns that are counted and reported (`credit=on`), each way.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::*;
use staunch::server::{Address, Config, DecisionKind, Listen, Server};

const DO: &str = "<do <credit-flow-control 202506>>";
const WILL: &str = "<will <credit-flow-control 202506>>";

/// A broker that listens twice: with these options, and without.
fn start_both(options: &str, debt_max: u64) -> (Server, SocketAddr, SocketAddr) {
    let counted: Listen = format!("tcp:127.0.0.1:0{options}").parse().unwrap();
    let plain: Listen = Address::Tcp("127.0.0.1:0".parse().unwrap()).into();
    let listen = vec![counted, plain];
    let server = Server::start_dev(&Config { workers: 2, debt_max, listen, ..Config::default() }).unwrap();
    let addresses = server.tcp_addresses();
    (server, addresses[0], addresses[1])
}

/// A client, with what has come to it.
struct Peer {
    client: Client,
    extensions: Vec<String>,
    /// The turns that were reported to it.
    reported: u64,
    turns: Vec<Vec<Event>>,
    error: Option<String>,
    has_ended: bool,
}

impl Peer {
    fn new(client: Client) -> Peer {
        Peer { client, extensions: vec![], reported: 0, turns: vec![], error: None, has_ended: false }
    }

    /// One that has the dataspace as oid 1, and was asked for reports.
    fn resolved(address: SocketAddr) -> Peer {
        let mut peer = Peer::new(Client::tcp(address));
        peer.client.send(text::RESOLVE);
        peer.until("it has the dataspace and is asked", |peer| peer.turns.len() + peer.extensions.len() == 2);
        assert_eq!(peer.extensions, [DO]);
        peer.turns.clear();
        peer.extensions.clear();
        peer
    }

    fn take(&mut self, patience: Duration) -> bool {
        match self.client.next_within(patience) {
            Came::Turn(turn) => self.turns.push(turn),
            Came::Extension(packet) => match packet.strip_prefix("<C ").and_then(|n| n.strip_suffix('>')) {
                Some(n) => self.reported += n.parse::<u64>().unwrap(),
                None => self.extensions.push(packet),
            },
            Came::Error(error) => self.error = Some(error),
            Came::End => self.has_ended = true,
            Came::Nothing => return false,
        }
        true
    }

    fn until(&mut self, what: &str, mut happened: impl FnMut(&Peer) -> bool) {
        until(what, || {
            self.take(Duration::from_millis(20));
            assert!(!self.has_ended, "has ended: {:?}, {what}", self.error);
            happened(self)
        });
    }

    fn agree(&mut self) {
        self.client.send(WILL);
    }

    /// Sends a Sync, and takes all up to its answer. Returns how many turns that are with it.
    fn sync(&mut self, at: i64) -> usize {
        self.client.send(&format!("[[1 <S #:[0 {at}]>]]"));
        let before = self.turns.len();
        self.until("the answer comes", |peer| {
            peer.turns.last().is_some_and(|turn| turn.iter().any(|event| event.oid == at))
        });
        self.turns.len() - before
    }

    fn observe(&mut self) {
        self.client.send(&format!("[{}]", observe(&record_pattern("m", 2), 7, 2)));
        self.sync(1000);
        self.turns.clear();
    }

    fn numbers(&self) -> Vec<u64> {
        let messages = self.turns.iter().flatten().filter(|event| event.oid == 7);
        messages.map(|event| event.body[1..].split(',').next().unwrap().parse().unwrap()).collect()
    }
}

fn message(n: u64) -> Vec<u8> {
    bytes(&format!("[[1 <M <m {n} \"{}\">>]]", "x".repeat(1000)))
}

/// How long a message is as an observer gets it.
const MESSAGE: u64 = 1000;

#[test]
fn who_asks_is_told_how_many_turns_have_taken_effect() {
    let (_server, address, _) = start_both(",credit=on", 100_000);
    let mut peer = Peer::resolved(address);
    // Those before it asked do not count, nor do packets that are no turns.
    peer.client.send(&format!("[] [[1 <M 1>]] {DO} [] [[1 <M 2>]] #f <other> [[1 <M 3>] [1 <M 4>]]"));
    peer.until("it is answered", |peer| peer.extensions == [WILL]);
    peer.until("3 turns are reported", |peer| peer.reported == 3);
    // The fast ways count as well.
    let turns: String =
        (0..300).map(|n| format!("[[1 <M {n}>]] [[1 <A {n} {}>]] [[1 <R {}>]]", n + 10, n + 10)).collect();
    peer.client.send(&turns);
    peer.sync(5);
    peer.until("all are reported", |peer| peer.reported >= 904);
    assert_eq!((peer.reported, peer.extensions.len()), (904, 1));
}

#[test]
fn nothing_is_counted_where_that_is_not_said() {
    let (_server, _, address) = start_both("", 100_000);
    let mut client = Client::tcp(address).resolved();
    client.send(&format!("{DO} {WILL} <C 5> <C -5> [[1 <M 1>]]"));
    assert_eq!(client.sync(), []);
    assert_eq!(client.next_within(Duration::from_millis(400)), Came::Nothing);
}

/// Reports stay away while it is held back, and come when it is not.
#[test]
fn a_producer_sees_by_reports_that_it_is_held_back() {
    let (server, address, plain) = start_both(",credit=on", 50_000);
    let mut consumer = Client::narrow(plain).resolved();
    consumer.send(&format!("[{}]", observe(&record_pattern("m", 2), 7, 2)));
    consumer.sync();
    let mut producer = Peer::resolved(address);
    producer.client.send(DO);
    let mut sent = 0;
    until("it is held back", || {
        producer.client.send_bytes(&message(sent));
        sent += 1;
        server.debts().iter().any(|debt| debt.is_waiting)
    });
    for _ in 0..20 {
        producer.client.send_bytes(&message(sent));
        sent += 1;
    }
    while producer.take(Duration::from_millis(500)) {}
    assert!(producer.reported < sent, "{} of {sent}", producer.reported);
    let mut got = 0;
    while got < sent {
        got += consumer.turn().len() as u64;
    }
    producer.until("all are reported", |peer| peer.reported == sent);
}

/// What it has not reported holds back those who cause more, before its kernel has too much; and each report lets on.
#[test]
fn a_consumer_that_agrees_is_sent_no_more_than_a_window() {
    const WINDOW: u64 = 16 << 10;
    const COUNT: u64 = 400;
    let (server, address, plain) = start_both(",credit=16KiB:60s", 50_000);
    let mut consumer = Peer::resolved(address);
    consumer.agree();
    consumer.observe();
    // Up to now one turn has come since it agreed, or two.
    consumer.client.send("<C 2>");
    let mut producer = Client::tcp(plain).resolved();
    let all: Vec<u8> = (0..COUNT).flat_map(message).collect();
    let mut left = &all[..];
    let mut is_stuck = 0;
    until("the producer is held back", || {
        let sent = if left.is_empty() { 0 } else { producer.send_some(&left[..left.len().min(4096)]) };
        left = &left[sent..];
        is_stuck = if server.debts().iter().any(|debt| debt.is_waiting) { is_stuck + 1 } else { 0 };
        is_stuck > 3
    });
    while consumer.take(Duration::from_millis(300)) {}
    let got = consumer.turns.len() as u64;
    assert!((4..=WINDOW / MESSAGE).contains(&got), "{got} turns");
    balanced(&server);
    let debt = server.total_debt();
    consumer.client.send("<C 1>");
    consumer.until("it is sent more", |peer| peer.turns.len() as u64 > got);
    assert!(server.total_debt() <= debt);
    // It goes on as it is reported, to the end.
    let mut reported = 1;
    while (consumer.numbers().len() as u64) < COUNT {
        let fresh = consumer.turns.len() as u64 - reported;
        if fresh > 0 {
            consumer.client.send(&format!("<C {fresh}>"));
            reported += fresh;
        }
        if !left.is_empty() {
            let sent = producer.send_some(left);
            left = &left[sent..];
        }
        consumer.take(Duration::from_millis(10));
    }
    assert_eq!(consumer.numbers(), (0..COUNT).collect::<Vec<_>>());
    let fresh = consumer.turns.len() as u64 - reported;
    assert!(fresh == 0 || server.total_debt() > 0, "what is not reported is owed for");
    consumer.client.send(&format!("<C {fresh}>"));
    until("nothing is owed", || server.total_debt() == 0);
    balanced(&server);
    assert_eq!(server.decision_counts(), Default::default());
}

/// Who agrees and then does not report is a consumer like any other after a while.
#[test]
fn reports_that_do_not_come_are_waited_for_no_more() {
    const COUNT: u64 = 400;
    let (server, address, plain) = start_both(",credit=16KiB:0.3s", 50_000);
    let mut consumer = Peer::resolved(address);
    consumer.agree();
    consumer.observe();
    let mut producer = Client::tcp(plain).resolved();
    let all: Vec<u8> = (0..COUNT).flat_map(message).collect();
    producer.send_bytes_while(&all, || {
        consumer.take(Duration::from_millis(5));
    });
    consumer.until("all comes", |peer| peer.numbers().len() as u64 == COUNT);
    assert_eq!(consumer.numbers(), (0..COUNT).collect::<Vec<_>>());
    until("nothing is owed", || server.total_debt() == 0);
    assert_eq!(server.decision_counts().credit_lapsed, 1);
    assert_eq!(server.decisions()[0].kind, DecisionKind::CreditLapsed);
    // Reports that come too late are for nothing, and do no harm.
    consumer.client.send("<C 5>");
    assert_eq!(consumer.sync(1001), 1);
}

/// The same one is ended where such consumers are, if it does not read either.
#[test]
fn who_agrees_and_does_not_read_is_slow_like_any_other() {
    let (server, address, plain) = start_both(",credit=16KiB:0.2s,slow=disconnect:0:1s", 50_000);
    let mut consumer = Peer::resolved(address);
    consumer.agree();
    consumer.observe();
    let mut producer = Client::tcp(plain).resolved();
    let mut n = 0;
    until("it is ended", || {
        let message = message(n);
        n += 1;
        let mut left = &message[..];
        until("it is read", || {
            left = &left[producer.send_some(left)..];
            left.is_empty()
        });
        server.decision_counts().disconnected > 0
    });
    assert_eq!(producer.sync(), []);
    while !consumer.has_ended {
        consumer.take(PATIENCE);
    }
    assert!(
        consumer.error.as_ref().is_some_and(|error| error.starts_with("Too slow")),
        "{:?}",
        consumer.error
    );
    until("nothing is owed", || server.total_debt() == 0);
    balanced(&server);
}

/// What makes no sense is ignored; nothing is answered twice.
#[test]
fn senseless_reports_and_floods_do_no_harm() {
    let (server, address, _) = start_both(",credit=on", 100_000);
    let mut peer = Peer::resolved(address);
    // Nobody has agreed to anything yet.
    peer.client.send(
        "<C 5> <C -5> <C 1180591620717411303424> <C -1180591620717411303424> <C> <C x> <C 1.0> <will 1>",
    );
    assert_eq!(peer.sync(5), 1);
    peer.client.send(&format!("{DO} ").repeat(10_000));
    peer.client.send(&format!("{WILL} <C -5> <C 0> <C 1180591620717411303424> ").repeat(1000));
    assert_eq!(peer.sync(6), 1);
    assert_eq!(peer.extensions, [WILL]);
    peer.client.send("<C -1180591620717411303424> <C 7>");
    assert_eq!(peer.sync(7), 1);
    peer.client.send("<C 9223372036854775807>");
    until("nothing is owed", || server.total_debt() == 0);
    balanced(&server);
}

/// A peer that goes leaves nothing that it has not reported.
#[test]
fn what_is_not_reported_is_settled_when_the_peer_goes() {
    let (server, address, plain) = start_both(",credit=16KiB:60s", 50_000);
    let mut consumer = Peer::resolved(address);
    consumer.agree();
    consumer.observe();
    let mut producer = Client::tcp(plain).resolved();
    producer.send_bytes(&(0..10).flat_map(message).collect::<Vec<_>>());
    producer.sync();
    consumer.until("it has come", |peer| peer.numbers().len() == 10);
    assert!(server.total_debt() > 0, "it has not been reported");
    consumer.client.kill();
    until("nothing is owed", || server.total_debt() == 0);
}

#[test]
fn turns_are_counted_in_text_as_well() {
    use std::io::{Read, Write};
    let (server, address, plain) = start_both(",credit=16KiB:60s", 50_000);
    let mut stream = Client::tcp(address).into_tcp();
    let mut said = String::new();
    let mut say = |packets: &str, answer: &dyn Fn(&str) -> bool| {
        stream.write_all(packets.as_bytes()).unwrap();
        let mut chunk = [0; 4096];
        while !answer(&said) {
            let read = stream.read(&mut chunk).unwrap();
            assert!(read > 0, "{said}");
            said.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        }
    };
    say(text::RESOLVE, &|said| said.contains("<ok ") && said.contains(DO));
    say(DO, &|said| said.contains(WILL));
    let observe = observe(&record_pattern("m", 2), 7, 2);
    say(&format!("{WILL} [{observe}] [[1 <S #:[0 9]>]]"), &|said| {
        said.contains("#t") && said.contains("<C 2>")
    });
    let mut producer = Client::tcp(plain).resolved();
    producer.send_bytes(&(0..5).flat_map(message).collect::<Vec<_>>());
    producer.sync();
    say("", &|said| said.matches("<M [").count() == 5);
    assert!(server.total_debt() > 5 * MESSAGE);
    say("<C 100> [[1 <S #:[0 10]>]]", &|said| said.matches("#t").count() == 2);
    say("<C 100>", &|_| true);
    until("nothing is owed", || server.total_debt() == 0);
}
