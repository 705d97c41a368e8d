//! Each limit: what exceeds it is told so and ends, nobody else notices, and what was taken is given back.

mod common;
#[path = "common/process.rs"]
mod process;

use std::time::Duration;

use common::*;
use staunch::limits::{Limits, Quota};
use staunch::server::{Config, Server};

fn broker(limits: Limits) -> (Server, std::net::SocketAddr) {
    start(Config { limits, workers: 2, ..Config::default() })
}

const MANY: Quota = Quota { assertions: 1_000_000, observations: 1_000_000, references: 1_000_000 };

/// Quotas with one number of each kind set.
fn quotas(n: u64) -> [(&'static str, Quota); 3] {
    [
        ("assertions", Quota { assertions: n, ..MANY }),
        ("observations", Quota { observations: n, ..MANY }),
        ("references to entities", Quota { references: n, ..MANY }),
    ]
}

/// The `n`th event that counts as one thing of this kind. (Coming in takes one assertion and one reference.)
fn one_of(what: &str, n: i64) -> String {
    match what {
        "assertions" => format!("[[1 <A <x {n}> {}>]]", 100 + n),
        "observations" => format!("[{}]", observe(&record_pattern(&format!("l{}", n % 3), 1), 10, 100 + n)),
        _ => format!("[[1 <A <x {n} #:[0 {}]> {}>]]", 100 + n, 100 + n),
    }
}

/// How many the client may still have of these once it has come in.
fn room(what: &str, max: i64) -> i64 {
    if what == "observations" { max } else { max - 1 }
}

#[test]
fn a_connection_may_have_so_many() {
    for (what, quota) in quotas(100) {
        let key = what.split(' ').next().unwrap();
        let (server, address) = broker(Limits { connection: quota, ..Limits::default() });
        // Twice: what the first took has been given back.
        for _ in 0..2 {
            let mut client = Client::tcp(address).resolved();
            let own = room(what, 100) - i64::from(what != "observations");
            (0..own).for_each(|n| client.send(&one_of(what, n)));
            // A Sync brings a reference for a moment.
            client.sync();
            // One goes and another comes, as often as one likes.
            for n in 0..300 {
                client.send(&format!("[[1 <R {}>]]", 100 + n));
                client.send(&one_of(what, n + own));
            }
            client.sync();
            let packets: String = (1000..1010).map(|n| one_of(what, n)).collect();
            client.send_anyway(&bytes(&packets));
            let why = client.ends_with_error();
            assert_eq!(why, format!("More than 100 {what} of one connection (connection-{key})"));
            drop(client);
            until("all is gone", || server.index_counts() == (0, 0, 0) && server.connections() == 0);
        }
    }
}

#[test]
fn a_principal_may_have_so_many() {
    for (what, quota) in quotas(500) {
        let key = what.split(' ').next().unwrap();
        let (server, address) = broker(Limits { principal: quota, ..Limits::default() });
        let mut other = Client::tcp_from("127.0.0.2".parse().unwrap(), address).resolved();
        let mut clients: Vec<Client> = Vec::new();
        let mut ended = None;
        'all: for _ in 0..20 {
            let mut client = Client::tcp(address).resolved();
            for n in 0..60 {
                client.send_anyway(&bytes(&one_of(what, n)));
            }
            client.send_anyway(&bytes("[[1 <S #:[0 99]>]]"));
            loop {
                match client.next() {
                    Came::Turn(events) if events.iter().any(|e| e.oid == 99) => break clients.push(client),
                    Came::Turn(_) => {}
                    Came::Error(why) => {
                        ended = Some(why);
                        break 'all;
                    }
                    came => panic!("{came:?}"),
                }
            }
        }
        assert_eq!(
            ended.as_deref(),
            Some(format!("More than 500 {what} of one principal (principal-{key})").as_str())
        );
        // Shares are taken ahead, some for each connection.
        assert!((3..=8).contains(&clients.len()), "{}", clients.len());
        (0..50).for_each(|n| other.send(&one_of(what, n)));
        other.sync();
        drop((clients, other));
        until("all is gone", || server.index_counts() == (0, 0, 0) && server.connections() == 0);
        let mut again = Client::tcp(address).resolved();
        (0..100).for_each(|n| again.send(&one_of(what, n)));
        again.sync();
    }
}

#[test]
fn limits_can_be_changed() {
    let (server, address) = broker(Limits::default());
    let mut client = Client::tcp(address).resolved();
    (0..200).for_each(|n| client.send(&one_of("assertions", n)));
    client.sync();
    let (_, quota) = quotas(50)[0];
    server.set_limits(Limits { connection: quota, ..Limits::default() });
    // What is there stays, until it is asked for more than its share.
    let packets: String = (1000..1100).map(|n| one_of("assertions", n)).collect();
    client.send_anyway(&bytes(&packets));
    assert_eq!(client.ends_with_error(), "More than 50 assertions of one connection (connection-assertions)");
    server.set_limits(Limits::default());
    let mut client = Client::tcp(address).resolved();
    (0..200).for_each(|n| client.send(&one_of("assertions", n)));
    client.sync();
}

/// In binary and in text.
#[test]
fn bounds_on_packets_are_named() {
    let (_server, address) = broker(Limits { packet_bytes: 1024, packet_depth: 32, ..Limits::default() });
    let deep = format!("[[1 <M {}1{}>]]", "[".repeat(32), "]".repeat(32));
    let long = format!("[[1 <M \"{}\">]]", "x".repeat(1100));
    for (packet, key) in [(deep, "(packet-depth)"), (long, "(packet-bytes)")] {
        for text in [false, true] {
            let mut client = Client::tcp(address);
            client.send_anyway(&if text { packet.clone().into_bytes() } else { bytes(&packet) });
            let why = client.words();
            assert!(why.contains(key), "{why}");
        }
    }
}

/// The message of the Error packet that a new connection gets.
fn refused(mut client: Client) -> Option<String> {
    match client.next() {
        Came::Error(why) => Some(why),
        Came::End => None,
        came => panic!("{came:?}"),
    }
}

#[test]
fn connections_are_limited() {
    let (server, address) = broker(Limits { connections: 5, principal_connections: 3, ..Limits::default() });
    let open = |source: &str| Client::tcp_from(source.parse().unwrap(), address);
    let mut kept: Vec<Client> = (0..3).map(|_| open("127.0.0.1").resolved()).collect();
    let why = refused(open("127.0.0.1")).unwrap();
    assert_eq!(why, "Too many connections: one principal may have 3 (principal-connections)");
    kept.extend((0..2).map(|_| open("127.0.0.2").resolved()));
    assert_eq!(
        refused(open("127.0.0.3")).unwrap(),
        "Too many connections: all together may be 5 (connections)"
    );
    kept.iter_mut().for_each(|client| _ = client.sync());
    drop(kept);
    until("there is room", || server.connections() == 0);
    (0..3).for_each(|_| _ = open("127.0.0.1").resolved());
    let refused = server.counts().into_iter().find(|(name, _)| *name == "refused");
    assert_eq!(refused, Some(("refused", 2)));
}

/// Descriptors are among what connections take: here the process may have 128, by its hard limit.
#[test]
fn one_principal_leaves_descriptors_for_others() {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 128; exec \"$0\" serve --dev --listen tcp:127.0.0.1:0"]);
    command.arg(env!("CARGO_BIN_EXE_staunch"));
    let running = process::Running::start(command);
    let line = running.logged("open on tcp:");
    let address = line.rsplit_once("tcp:").unwrap().1.trim().parse().unwrap();
    let open = |source: &str| Client::tcp_from(source.parse().unwrap(), address);
    let mut clients: Vec<Client> = (0..72).map(|_| open("127.0.0.1").resolved()).collect();
    let why = "Too many connections: one principal may have 72 (principal-connections)";
    (0..10).for_each(|_| assert_eq!(refused(open("127.0.0.1")).as_deref(), Some(why)));
    clients.extend((0..24).map(|_| open("127.0.0.2").resolved()));
    let why = "Too many connections: all together may be 96 (connections)";
    (0..10).for_each(|_| assert_eq!(refused(open("127.0.0.3")).as_deref(), Some(why)));
    clients.iter_mut().for_each(|client| _ = client.sync());
}

#[test]
fn new_connections_come_at_a_rate() {
    let limits = Limits { principal_connection_rate: 1, principal_connection_burst: 10, ..Limits::default() };
    let (_server, address) = broker(limits);
    let open = |source: &str| Client::tcp_from(source.parse().unwrap(), address);
    // Also if they end at once.
    (0..10).for_each(|_| drop(open("127.0.0.1").resolved()));
    let refusals = (0..10).filter_map(|_| refused_or_none(open("127.0.0.1"))).count();
    assert!(refusals >= 8, "{refusals}");
    drop(open("127.0.0.2").resolved());
}

fn refused_or_none(mut client: Client) -> Option<String> {
    match client.next_within(Duration::from_millis(200)) {
        Came::Error(why) => Some(why),
        _ => None,
    }
}

#[test]
fn packets_are_limited() {
    let (_server, address) = broker(Limits { packet_bytes: 10_000, packet_depth: 20, ..Limits::default() });
    let mut innocent = Client::tcp(address).resolved();
    for packet in [
        format!("[[1 <M <x \"{}\">>]]", "x".repeat(10_000)),
        format!("[[1 <M {}{}>]]", "[".repeat(20), "]".repeat(20)),
    ] {
        let mut client = Client::tcp(address).resolved();
        client.send_anyway(&bytes(&packet));
        let why = client.ends_with_error();
        assert!(why.contains("10000") || why.contains("20"), "{why}");
    }
    innocent.sync();
}

/// Asserts `<s n>` for these, under handles from 1000 on.
fn assert_state(author: &mut Client, numbers: std::ops::Range<i64>) {
    numbers.for_each(|n| author.send(&format!("[[1 <A <s {n}> {}>]]", 1000 + n)));
    author.sync();
}

#[test]
fn what_is_kept_for_observers_is_limited() {
    let (server, address) = broker(Limits { principal_captures: 4000, ..Limits::default() });
    let from = |source: &str| Client::tcp_from(source.parse().unwrap(), address).resolved();
    let all = |number: i64| format!("[{}]", observe(&record_pattern("s", 1), 10 + number, 10 + number));
    let one = format!("[{}]", observe("<group <rec s> {0: <lit 7>}>", 5, 5));
    let why = "More than 4000 captures lists kept for the observations of one principal (principal-captures)";
    let mut author = from("127.0.0.1");
    let mut modest = from("127.0.0.3");
    modest.send(&one);
    modest.sync();
    // Each of equal observations has lists of its own: what is there already is too much for so many of them.
    assert_state(&mut author, 0..1000);
    let mut greedy = from("127.0.0.2");
    let packets: String = (0..20).map(all).collect();
    greedy.send_anyway(&bytes(&packets));
    assert_eq!(greedy.ends_with_error(), why);
    drop(greedy);
    until("it has gone", || server.index_counts().0 == 1 && server.connections() == 2);
    // It may come again, and few of them are not too many, until others assert more.
    let mut greedy = from("127.0.0.2");
    (0..2).for_each(|n| greedy.send(&all(n)));
    greedy.sync();
    let mut beside = from("127.0.0.2");
    beside.sync();
    assert_state(&mut author, 1000..2500);
    assert_eq!(greedy.ends_with_error(), why);
    drop(greedy);
    // Nobody else has noticed.
    [&mut author, &mut modest, &mut beside].into_iter().for_each(|client| _ = client.sync());
    until("it has gone", || server.index_counts().0 == 1);
    beside.send(&all(0));
    beside.sync();
    // What others pay for is theirs.
    let mut elsewhere = from("127.0.0.4");
    elsewhere.send(&all(0));
    elsewhere.sync();
    // Limits can be changed.
    server.set_limits(Limits::default());
    (1..20).for_each(|n| elsewhere.send(&all(n)));
    elsewhere.sync();
    drop((author, modest, beside, elsewhere));
    until("all is gone", || server.index_counts() == (0, 0, 0) && server.connections() == 0);
}

#[test]
fn what_unfinished_packets_take_is_limited() {
    let (server, address) = broker(Limits { principal_unfinished: 1 << 20, ..Limits::default() });
    let why = "Packets that have not come whole, or not taken effect yet, take more than 1048576 bytes of one principal (principal-unfinished)";
    let from = |source: &str| Client::tcp_from(source.parse().unwrap(), address).resolved();
    let whole = bytes(&format!("[[1 <M <m {}>>]]", "1 ".repeat(40_000)));
    let (begin, rest) = whole.split_at(whole.len() - 9);
    // Twice, since what is over has been given back.
    for _ in 0..2 {
        let mut innocent = from("127.0.0.3");
        let mut clients = [from("127.0.0.2"), from("127.0.0.2")];
        [&mut innocent].into_iter().chain(&mut clients).for_each(|client| client.send_bytes(begin));
        // One of these has room, whichever comes first.
        let ended =
            std::iter::repeat(0..2).flatten().find_map(|n| match clients[n].next_within(Duration::ZERO) {
                Came::Nothing => None,
                Came::Error(message) => Some((n, message)),
                other => panic!("{other:?}"),
            });
        let (loser, message) = ended.unwrap();
        assert_eq!(message, why);
        for client in [&mut innocent, &mut clients[1 - loser]] {
            client.send_bytes(rest);
            client.sync();
        }
    }
    let mut text = from("127.0.0.2");
    text.send_anyway(format!("[[1 <M <m \"{}", "x".repeat(2 << 20)).as_bytes());
    assert_eq!(text.ends_with_error(), why);
    drop(text);
    until("all have gone", || server.connections() == 0);
}

#[test]
fn strangers_send_short_packets() {
    let (_server, address) = start_default();
    let long = |n: usize| bytes(&format!("[[1 <M \"{}\">]]", "x".repeat(n)));
    let mut stranger = Client::tcp(address);
    stranger.send_anyway(&long(300 << 10));
    let why = stranger.ends_with_error();
    assert!(why.contains("once a reference has been resolved"), "{why}");
    // Who comes with a reference may send all at once.
    let question =
        r#"[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[0 0]> 1>]]"#;
    let mut known = Client::tcp(address);
    known.send_bytes(&[bytes(question), long(1 << 20), bytes("[[1 <S #:[0 5]>]]")].concat());
    assert_eq!((known.event().oid, known.event().oid), (0, 5));
}

/// It is told back and logged: on one line, and not at any length.
#[test]
fn what_a_peer_says_in_the_end_is_cut_short() {
    let (_server, address) = start_default();
    let mut client = Client::tcp(address);
    client.send_anyway(&bytes(&format!("<error \"a\nb{}\" #f>", "x".repeat(1000))));
    let said = client.ends_with_error();
    assert!(said.starts_with("a bxx") && said.ends_with("x…") && said.chars().count() == 257, "{said}");
}

/// A turn that observes what is there has to wait until that is gathered, with all else that is in it.
#[test]
fn what_waiting_turns_take_is_limited() {
    let (server, address) = broker(Limits { principal_unfinished: 4 << 20, ..Limits::default() });
    let why = "Packets that have not come whole, or not taken effect yet, take more than 4194304 bytes of one principal (principal-unfinished)";
    let from = |source: &str| Client::tcp_from(source.parse().unwrap(), address).resolved();
    let mut author = from("127.0.0.1");
    assert_state(&mut author, 0..6000);
    let turn = |events: i64| {
        let events: String = (0..events).map(|n| format!(" [1 <A #t {}>]", 1000 + n)).collect();
        bytes(&format!("[{}{events}]", observe("<group <rec s> {0: <bind <_>> 5: <_>}>", 5, 5)))
    };
    // Twice, since what is over has been given back.
    for _ in 0..2 {
        let mut greedy = from("127.0.0.2");
        greedy.send_anyway(&turn(25_000));
        assert_eq!(greedy.ends_with_error(), why);
        let mut modest = from("127.0.0.2");
        modest.send_bytes(&turn(5_000));
        modest.sync();
        drop((greedy, modest));
        until("they have gone", || server.connections() == 1 && server.index_counts().1 == 6000);
    }
    author.sync();
}

/// What comes to the gatekeeper from those who have no capability yet.
#[test]
fn what_unanswered_questions_take_is_limited() {
    let (server, address) = broker(Limits { principal_unfinished: 8 << 20, ..Limits::default() });
    // An eighth is for those who have resolved nothing.
    let why = "Packets that have not come whole, or not taken effect yet, take more than 8388608 bytes of one principal (principal-unfinished)";
    let sig = "sig: #[acowDB2/oI+6aSEC3YIxGg==]";
    let bulk = "x".repeat(100_000);
    // Nobody knows this oid: it may be bound later.
    let question = |n: i64| format!("[[0 <A <resolve <ref {{oid: [{n} \"{bulk}\"] {sig}}}> #:[0 0]> {n}>]]");
    let mut client = Client::tcp(address);
    // Of what is no question, or has an answer, nothing is kept.
    for n in 1000..1030 {
        client.send(&format!("[[0 <A <nothing {n} \"{bulk}\"> {n}>]]"));
        client.send(&format!("[[0 <A <resolve <other \"{bulk}\"> #:[0 0]> {}>]]", n + 100));
        client.send(&format!("[[0 <A <resolve <ref [{n} \"{bulk}\"]> #:[0 0]> {}>]]", n + 200));
        assert_eq!(client.event().body, "<error invalid>");
    }
    // One goes and another comes, as often as one likes, in one turn as well.
    for n in 0..30 {
        client.send(&question(n));
        client.send(&format!("[[0 <R {n}>]]"));
        let brief = question(n);
        client.send(&format!("{} [0 <R {n}>]]", &brief[..brief.len() - 1]));
    }
    client.sync_at(0);
    let packets: String = (0..15).map(question).collect();
    client.send_anyway(&bytes(&packets));
    assert_eq!(client.ends_with_error(), why);
    drop(client);
    until("it has gone", || server.connections() == 0);
    let mut client = Client::tcp(address);
    (0..5).for_each(|n| client.send(&question(n)));
    client.sync_at(0);
}

/// Asserts `<e #:[0 oid]>` for these, under handles of the same number.
fn assert_references(author: &mut Client, oids: std::ops::Range<i64>) {
    oids.for_each(|oid| author.send(&format!("[[1 <A <e #:[0 {oid}]> {oid}>]]")));
}

#[test]
fn references_told_are_limited() {
    let (server, address) = broker(Limits { principal_told: 1000, ..Limits::default() });
    let from = |source: &str| Client::tcp_from(source.parse().unwrap(), address).resolved();
    let observing = |source: &str| {
        let mut client = from(source);
        client.send(&format!("[{}]", observe(&record_pattern("e", 1), 7, 7)));
        client
    };
    let why = "More than 1000 references in the assertions of one principal told, over all who are told of them (principal-told)";
    let mut observers: Vec<Client> = (0..3).map(|_| observing("127.0.0.3")).collect();
    observers.iter_mut().for_each(|observer| _ = observer.sync());
    // As they are asserted, or all at once to those who come later; twice, since all is given back.
    for _ in 0..2 {
        let mut author = from("127.0.0.2");
        assert_references(&mut author, 100..400);
        author.sync();
        // What goes makes room for others.
        (100..200).for_each(|handle| author.send(&format!("[[1 <R {handle}>]]")));
        assert_references(&mut author, 400..500);
        author.sync();
        let packets: String = (500..550).map(|oid| format!("[[1 <A <e #:[0 {oid}]> {oid}>]]")).collect();
        author.send_anyway(&bytes(&packets));
        assert_eq!(author.ends_with_error(), why);
        drop(author);
        until("it has gone", || server.connections() == 3 && server.index_counts().1 == 3);

        let mut author = from("127.0.0.2");
        assert_references(&mut author, 100..300);
        author.sync();
        let mut later = observing("127.0.0.4");
        later.sync();
        let mut last = observing("127.0.0.4");
        last.sync();
        assert_eq!(author.ends_with_error(), why);
        drop((author, later, last));
        until("they have gone", || server.connections() == 3 && server.index_counts().1 == 3);
    }
    // Nobody else has noticed.
    observers.iter_mut().for_each(|observer| _ = observer.sync());
}

#[test]
fn who_observes_on_very_many_connections_does_not_end_the_author() {
    let (_server, address) = broker(Limits { principal_told: 1000, ..Limits::default() });
    let from = |source: &str| Client::tcp_from(source.parse().unwrap(), address).resolved();
    let observation = format!("[{}]", observe(&record_pattern("e", 1), 7, 7));
    let mut author = from("127.0.0.2");
    assert_references(&mut author, 100..140);
    author.sync();
    let mut many: Vec<Client> = (0..60).map(|_| from("127.0.0.3")).collect();
    let mut ended = 0;
    for client in &mut many {
        client.send(&observation);
        client.send_anyway(&bytes("[[1 <S #:[0 99]>]]"));
        loop {
            match client.next() {
                Came::Turn(events) if events.iter().any(|event| event.oid == 99) => break,
                Came::Turn(_) => {}
                Came::Error(why) => {
                    let expected = "Too many connections that observe the same references: one principal's may be told 500 times by so many (principal-told)";
                    assert_eq!(why, expected);
                    ended += 1;
                    break;
                }
                came => panic!("{came:?}"),
            }
        }
    }
    assert!((40..=48).contains(&ended), "{ended}");
    let mut few = from("127.0.0.4");
    few.send(&observation);
    assert_eq!(few.sync().len(), 40);
    author.sync();
}

#[test]
fn syncs_that_wait_are_limited() {
    let (server, address) = broker(Limits { principal_syncs: 100, ..Limits::default() });
    let oid = |told: &Event| {
        let digits = told.body.rsplit_once(' ').expect("a reference").1;
        digits.trim_end_matches(']').parse::<i64>().unwrap()
    };
    let syncs =
        |oid: i64, count: usize| bytes(&format!("[{}]", format!("[{oid} <S #:[0 9]>]").repeat(count)));
    let why = "More than 100 Syncs of one principal that wait for an answer (principal-syncs)";
    let (owner, mut asker, told) = introduced(address, &[20]);
    asker.send_bytes(&syncs(oid(&told), 100));
    asker.sync();
    asker.send_anyway(&syncs(oid(&told), 1));
    assert_eq!(asker.ends_with_error(), why);
    drop(asker);
    until("it has gone", || server.connections() == 1);
    // Its questions wait still, so its principal cannot ask more; others can.
    let again = |source: &str| {
        let mut asker = Client::tcp_from(source.parse().unwrap(), address).resolved();
        asker.send(&format!("[{}]", observe(&record_pattern("ent", 1), 7, 2)));
        let told = asker.event();
        (asker, told)
    };
    let (mut asker, told) = again("127.0.0.1");
    asker.send_anyway(&syncs(oid(&told), 1));
    assert_eq!(asker.ends_with_error(), why);
    let (mut other, told) = again("127.0.0.2");
    other.send_bytes(&syncs(oid(&told), 100));
    other.sync();
    // When nobody can answer any more all is given back.
    drop((owner, asker, other));
    until("all is gone", || server.connections() == 0 && server.total_debt() == 0);
    let (_owner, mut asker, told) = introduced(address, &[20]);
    asker.send_bytes(&syncs(oid(&told), 100));
    asker.sync();
}
